//! The feeds: one module per source, and what their decoders share.

pub mod binance;
pub mod coinbase;
pub mod live;
pub mod replay;
pub mod sim;

use std::collections::HashSet;

use rust_decimal::Decimal;
use schemas::decimal::{Price, Size};
use schemas::id::{Symbol, Venue};
use schemas::tick::{Head, Inst, Tick};
use schemas::time::UnixNanos;
use serde::Deserialize;

use crate::bars::MAX_AHEAD;
use crate::feed::{Reason, Reject};

/// Venue times outside of 2000 to 2100 are refused.
const TIMES: std::ops::Range<i64> = 946_684_800_000_000_000..4_102_444_800_000_000_000;

/// The most instruments that one feed may carry.
const MAX_INSTRUMENTS: usize = 200_000;

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

    /// A size above zero: a trade of nothing is none.
    pub(crate) fn amount(&self, field: &str) -> Result<Size, Reject> {
        let size = self.size(field)?;
        if size.is_zero() {
            return Err(Reject::new(
                Reason::Range,
                format!("{field}: size {size} is not above 0"),
            ));
        }
        Ok(size)
    }

    fn is_zero(&self) -> bool {
        self.size("").is_ok_and(Size::is_zero)
    }
}

/// One side of a quote: best price and its size.
pub(crate) type Best = (Option<Price>, Option<Size>);

/// Reads one side of a quote. Venues write a side without orders as price 0 and size 0; a price
/// with size 0 is taken as it is, because some venues send the size with fewer digits.
pub(crate) fn best(
    (price, price_field): (Option<&Digits<'_>>, &str),
    (size, size_field): (Option<&Digits<'_>>, &str),
) -> Result<Best, Reject> {
    let Some(price) = price else {
        return Ok((None, None));
    };
    if price.is_zero() && size.is_none_or(Digits::is_zero) {
        return Ok((None, None));
    }
    let size = size.map(|size| size.size(size_field)).transpose()?;
    Ok((Some(price.price(price_field)?), size))
}

/// The instruments of a feed: those that were asked for, and those that were seen.
#[derive(Debug, Default)]
pub(crate) struct Instruments {
    /// In upper case; empty where anything may come.
    asked: HashSet<String>,
    seen: HashSet<Symbol>,
}

impl Instruments {
    /// Only these, whatever their case; any if there are none.
    pub(crate) fn of(asked: &[Symbol]) -> Self {
        let upper = |symbol: &Symbol| symbol.as_str().to_uppercase();
        Self {
            asked: asked.iter().map(upper).collect(),
            seen: HashSet::new(),
        }
    }

    /// Reads the symbol of a frame.
    pub(crate) fn admit(&self, field: &str, text: &str) -> Result<Symbol, Reject> {
        if let Some(symbol) = self.seen.get(text) {
            return Ok(symbol.clone());
        }
        let symbol = Symbol::new(text)
            .map_err(|error| Reject::new(Reason::Range, format!("{field}: {error}")))?;
        if !self.asked.is_empty() && !self.asked.contains(&text.to_uppercase()) {
            let message = format!("{field}: {text:?} was not asked for");
            return Err(Reject::new(Reason::Contradiction, message));
        }
        if self.seen.len() >= MAX_INSTRUMENTS {
            let message =
                format!("{field}: {text:?} is one instrument more than {MAX_INSTRUMENTS}");
            return Err(Reject::new(Reason::Size, message));
        }
        Ok(symbol)
    }

    /// The head of a tick; what is known of an instrument goes out before its first one.
    pub(crate) fn head(&mut self, head: Head, out: &mut Vec<Tick>) -> Head {
        if self.seen.insert(head.symbol.clone()) {
            out.push(instrument(&head.venue, &head.symbol, head.received).into());
        }
        head
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use schemas::id::{FeedName, Kind};

    use super::*;
    use crate::feed::{Decoded, Decoder};

    /// When the frames arrive.
    const NOW: UnixNanos = UnixNanos::new(1_767_400_000_000_000_000);

    /// Symbols that are hard on subjects, topics and patterns.
    pub(super) const HARD: [&str; 8] = [
        "BRK.B",
        "BTC/USD",
        "*",
        ">",
        "A B",
        "tick.>",
        "%2A",
        "\u{E9}\u{20AC}\u{1F980}",
    ];

    #[test]
    fn symbols_are_kept_as_they_are_and_kept_within_bounds() {
        let any = Instruments::default();
        for text in HARD {
            assert_eq!(any.admit("s", text).unwrap().as_str(), text);
        }
        for text in ["", "A\nB", "A\u{0}", "\u{7F}", &"x".repeat(65)] {
            let said = any.admit("s", text).unwrap_err();
            assert_eq!(said.reason, Reason::Range, "{text:?}");
        }
        let some = Instruments::of(&[Symbol::new("btcUSDT").unwrap()]);
        assert!(some.admit("s", "BTCUSDT").is_ok());
        assert_eq!(
            some.admit("s", "ETH").unwrap_err().reason,
            Reason::Contradiction
        );
    }

    #[test]
    fn instruments_are_limited() {
        let mut any = Instruments::default();
        let (venue, mut out) = (Venue::new("x").unwrap(), Vec::new());
        for n in 0..MAX_INSTRUMENTS {
            let symbol = any.admit("s", &n.to_string()).unwrap();
            any.head(Head::new(venue.clone(), symbol, UnixNanos::EPOCH), &mut out);
        }
        assert_eq!(out.len(), MAX_INSTRUMENTS);
        assert_eq!(any.admit("s", "more").unwrap_err().reason, Reason::Size);
        assert!(any.admit("s", "7").is_ok());
    }

    const FRAMES: [&str; 9] = [
        r#"{"stream":"a@trade","data":{"e":"trade","s":"A","t":5,"p":"1.5","q":"2","T":1767000000120,"m":true}}"#,
        r#"{"e":"aggTrade","s":"A","a":6,"p":"1.5","q":"2","T":1767000000120,"m":true}"#,
        r#"{"u":4,"s":"A","b":"25.35","B":"3","a":"25.36","A":"4"}"#,
        r#"{"stream":"a@depth10","data":{"lastUpdateId":7,"bids":[["1.2","3"],["1.1","0.5"]],"asks":[["1.3","2"]]}}"#,
        r#"{"type":"match","trade_id":9,"time":"2026-01-02T03:04:05Z","product_id":"A","size":"1","price":"2","side":"buy"}"#,
        r#"{"type":"ticker","product_id":"A","best_bid":"1","best_bid_size":"1","best_ask":"2","best_ask_size":"1"}"#,
        r#"{"type":"snapshot","product_id":"A","bids":[["9","1"],["8","1"]],"asks":[["10","2"]]}"#,
        r#"{"type":"l2update","product_id":"A","changes":[["buy","9","0"],["sell","9.5","1"]]}"#,
        r#"{"type":"heartbeat","sequence":90,"last_trade_id":16,"product_id":"A","time":"2026-01-02T03:04:05Z"}"#,
    ];

    /// Changes some bytes: what to do, where, and with which byte.
    fn damage(text: &str, changes: &[(u8, usize, u8)]) -> String {
        let mut bytes = text.as_bytes().to_vec();
        for (how, place, byte) in changes {
            let place = place % (bytes.len() + 1);
            match how % 4 {
                0 => bytes.insert(place, *byte),
                1 => bytes.truncate(place),
                2 => bytes.extend_from_slice(&text.as_bytes()[place.min(text.len())..]),
                _ if place < bytes.len() => bytes[place] = *byte,
                _ => {}
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    proptest! {
        #[test]
        fn damaged_frames_end_nothing(
            hits in prop::collection::vec(
                (0..FRAMES.len(), prop::collection::vec((any::<u8>(), 0..200_usize, any::<u8>()), 1..4)),
                1..40,
            ),
        ) {
            let (venue, feed) = (Venue::new("x").unwrap(), FeedName::new("f").unwrap());
            let kinds = vec![Kind::Trade, Kind::Book];
            let mut binance = binance::Binance::new(venue.clone(), Vec::new(), kinds.clone());
            let mut coinbase = coinbase::Coinbase::new(venue, feed, Vec::new(), kinds);
            let decoders: [&mut dyn Decoder; 2] = [&mut binance, &mut coinbase];
            for (decoder, good) in decoders.into_iter().zip([0, 4]) {
                let mut out = Vec::new();
                for (frame, changes) in &hits {
                    let raw = damage(FRAMES[*frame], changes);
                    // Refused or not: what matters is what comes next.
                    let _decoded = decoder.decode(&raw, NOW, &mut out);
                }
                out.clear();
                prop_assert_eq!(decoder.decode(FRAMES[good], NOW, &mut out), Ok(Decoded::Ticks));
                prop_assert!(matches!(out.last(), Some(Tick::Trade(_))));
            }
        }
    }

    #[test]
    fn what_a_venue_says_is_cut_and_cleaned() {
        let said = Reject::new(Reason::Malformed, "a\nb\u{1b}[31m".repeat(10_000)).message;
        assert!(said.len() <= 300 && said.starts_with("a b [31ma"));
    }
}
