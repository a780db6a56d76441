//! The feeds: one module per source, and what their decoders share.

pub mod binance;
pub mod coinbase;
pub mod live;
pub mod replay;
pub mod sim;

use rust_decimal::Decimal;
use schemas::decimal::{Price, Size};
use schemas::id::{Symbol, Venue};
use schemas::tick::{Head, Inst};
use schemas::time::UnixNanos;
use serde::Deserialize;

use crate::bars::MAX_AHEAD;
use crate::feed::{Reason, Reject};

/// Venue times outside of 2000 to 2100 are refused.
const TIMES: std::ops::Range<i64> = 946_684_800_000_000_000..4_102_444_800_000_000_000;

/// A decimal that the venue wrote as a string or as a number, digits kept.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct Digits<'a>(#[serde(borrow)] &'a serde_json::value::RawValue);

impl Digits<'_> {
    fn text(&self) -> &str {
        let raw = self.0.get();
        raw.strip_prefix('"')
            .and_then(|raw| raw.strip_suffix('"'))
            .unwrap_or(raw)
    }

    /// A price above zero.
    pub(crate) fn price(&self, field: &str) -> Result<Price, Reject> {
        let price: Price = self.text().parse().map_err(|error| wrong(field, &error))?;
        if price.get() <= Decimal::ZERO {
            return Err(Reject::new(
                Reason::Range,
                format!("{field}: price {price} is not above 0"),
            ));
        }
        Ok(price)
    }

    /// A size of zero or more.
    pub(crate) fn size(&self, field: &str) -> Result<Size, Reject> {
        self.text().parse().map_err(|error| wrong(field, &error))
    }
}

fn wrong(field: &str, error: &schemas::decimal::DecimalError) -> Reject {
    let reason = match error {
        schemas::decimal::DecimalError::Malformed(_) => Reason::Malformed,
        schemas::decimal::DecimalError::TooLarge(_)
        | schemas::decimal::DecimalError::Negative(_) => Reason::Range,
    };
    Reject::new(reason, format!("{field}: {error}"))
}

/// A symbol of the venue.
pub(crate) fn symbol(field: &str, text: &str) -> Result<Symbol, Reject> {
    Symbol::new(text).map_err(|error| Reject::new(Reason::Range, format!("{field}: {error}")))
}

/// A venue time, within reason.
pub(crate) fn time(field: &str, nanos: Option<i64>) -> Result<UnixNanos, Reject> {
    nanos
        .filter(|nanos| TIMES.contains(nanos))
        .map(UnixNanos::new)
        .ok_or_else(|| {
            Reject::new(
                Reason::Range,
                format!("{field}: time is not between the years 2000 and 2100"),
            )
        })
}

/// An event time, which nobody can have learnt of much before it came.
pub(crate) fn event(field: &str, at: UnixNanos, received: UnixNanos) -> Result<UnixNanos, Reject> {
    if at > received.offset(MAX_AHEAD) {
        let message = format!("{field}: time lies more than 1 minute after its receipt");
        return Err(Reject::new(Reason::Range, message));
    }
    Ok(at)
}

/// A time as RFC 3339 writes it.
pub(crate) fn rfc3339(field: &str, text: &str) -> Result<UnixNanos, Reject> {
    let parsed: jiff::Timestamp = text.parse().map_err(|_| {
        let start: String = text.chars().take(40).collect();
        Reject::new(
            Reason::Malformed,
            format!("{field}: {start:?} is not an RFC 3339 time"),
        )
    })?;
    time(field, i64::try_from(parsed.as_nanosecond()).ok())
}

/// A frame that is not the JSON that it should be.
pub(crate) fn malformed(error: &serde_json::Error) -> Reject {
    Reject::new(Reason::Malformed, error.to_string())
}

/// What is known of an instrument whose venue sends no reference data.
pub(crate) fn instrument(venue: &Venue, symbol: &Symbol, received: UnixNanos) -> Inst {
    let parts = symbol.as_str().split_once(['-', '/']);
    Inst {
        head: Head::new(venue.clone(), symbol.clone(), received),
        class: "spot".to_owned(),
        name: None,
        base: parts.map(|(base, _)| base.to_owned()),
        quote: parts.map(|(_, quote)| quote.to_owned()),
        tick_size: None,
        lot: None,
        session: Some("24x7".to_owned()),
        time_zone: Some("UTC".to_owned()),
        underlying: None,
        expiry: None,
        strike: None,
        aliases: None,
    }
}
