//! Binance Spot market streams, combined or raw.
//!
//! Source: binance/binance-spot-api-docs, web-socket-streams.md. `m` says that the buyer was the
//! maker, so the taker sold.

use std::borrow::Cow;

use schemas::decimal::Price;
use schemas::id::{Kind, Symbol, Venue};
use schemas::tick::{Book, Head, Level, Quote, Side, Tick, Trade};
use schemas::time::UnixNanos;
use serde::Deserialize;
use serde_json::json;

use super::{Digits, Instruments, best, event, malformed, time};
use crate::feed::{Decoded, Decoder, Reason, Reject};

/// Book levels that are published.
const LEVELS: usize = 10;
/// The most streams named by one SUBSCRIBE.
const STREAMS_PER_REQUEST: usize = 200;

/// Decodes Binance frames.
#[derive(Debug)]
pub struct Binance {
    venue: Venue,
    symbols: Vec<Symbol>,
    kinds: Vec<Kind>,
    instruments: Instruments,
}

#[derive(Deserialize)]
struct Combined<'a> {
    #[serde(borrow)]
    stream: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a serde_json::value::RawValue>,
}

#[derive(Deserialize)]
struct Tag<'a> {
    #[serde(borrow)]
    e: Option<Cow<'a, str>>,
    u: Option<u64>,
    #[serde(rename = "lastUpdateId")]
    last_update_id: Option<u64>,
    code: Option<i64>,
    #[serde(borrow)]
    msg: Option<Cow<'a, str>>,
    #[serde(borrow)]
    error: Option<Refusal<'a>>,
}

#[derive(Deserialize)]
struct Refusal<'a> {
    #[serde(borrow)]
    msg: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct RawTrade<'a> {
    #[serde(borrow)]
    s: Cow<'a, str>,
    t: Option<u64>,
    a: Option<u64>,
    p: Digits<'a>,
    q: Digits<'a>,
    #[serde(rename = "T")]
    at: i64,
    m: bool,
}

#[derive(Deserialize)]
struct RawQuote<'a> {
    u: u64,
    #[serde(borrow)]
    s: Cow<'a, str>,
    b: Digits<'a>,
    #[serde(rename = "B")]
    bid_size: Digits<'a>,
    a: Digits<'a>,
    #[serde(rename = "A")]
    ask_size: Digits<'a>,
}

#[derive(Deserialize)]
struct RawBook<'a> {
    #[serde(rename = "lastUpdateId")]
    last_update_id: u64,
    #[serde(borrow)]
    bids: Vec<(Digits<'a>, Digits<'a>)>,
    #[serde(borrow)]
    asks: Vec<(Digits<'a>, Digits<'a>)>,
}

impl Binance {
    /// A decoder for these instruments and kinds.
    pub fn new(venue: Venue, symbols: Vec<Symbol>, kinds: Vec<Kind>) -> Self {
        let instruments = Instruments::of(&symbols);
        Self {
            venue,
            symbols,
            kinds,
            instruments,
        }
    }

    fn head(
        &mut self,
        name: &str,
        received: UnixNanos,
        out: &mut Vec<Tick>,
    ) -> Result<Head, Reject> {
        let symbol = self.instruments.admit("s", name)?;
        let head = Head::new(self.venue.clone(), symbol, received);
        Ok(self.instruments.head(head, out))
    }

    fn trade(
        &mut self,
        (kind, raw): (&str, &str),
        received: UnixNanos,
        out: &mut Vec<Tick>,
    ) -> Result<Decoded, Reject> {
        let trade: RawTrade<'_> = serde_json::from_str(raw).map_err(|error| malformed(&error))?;
        // In a trade `a` is an order id.
        let id = if kind == "trade" { trade.t } else { trade.a };
        let id =
            id.ok_or_else(|| Reject::new(Reason::Malformed, format!("{kind} without its id")))?;
        let (price, size) = (trade.p.price("p")?, trade.q.amount("q")?);
        let event = event("T", time("T", nanos(trade.at))?, received)?;
        let mut head = self.head(&trade.s, received, out)?;
        head.event = Some(event);
        let side = if trade.m { Side::Sell } else { Side::Buy };
        out.push(
            Trade {
                head,
                id: id.to_string(),
                price,
                size,
                side,
                conditions: None,
            }
            .into(),
        );
        Ok(Decoded::Ticks)
    }

    fn quote(
        &mut self,
        raw: &str,
        received: UnixNanos,
        out: &mut Vec<Tick>,
    ) -> Result<Decoded, Reject> {
        let quote: RawQuote<'_> = serde_json::from_str(raw).map_err(|error| malformed(&error))?;
        let (bid, bid_size) = best((Some(&quote.b), "b"), (Some(&quote.bid_size), "B"))?;
        let (ask, ask_size) = best((Some(&quote.a), "a"), (Some(&quote.ask_size), "A"))?;
        uncrossed(bid, ask)?;
        let mut head = self.head(&quote.s, received, out)?;
        head.venue_seq = Some(quote.u);
        out.push(
            Quote {
                head,
                bid,
                bid_size,
                ask,
                ask_size,
            }
            .into(),
        );
        Ok(Decoded::Ticks)
    }

    fn book(
        &mut self,
        (stream, raw): (Option<&str>, &str),
        received: UnixNanos,
        out: &mut Vec<Tick>,
    ) -> Result<Decoded, Reject> {
        let book: RawBook<'_> = serde_json::from_str(raw).map_err(|error| malformed(&error))?;
        // Only the combined stream's name tells whose book it is.
        let name = stream
            .and_then(|stream| stream.split('@').next())
            .map(str::to_uppercase);
        let name =
            name.ok_or_else(|| Reject::new(Reason::Malformed, "a book without its stream"))?;
        let side = |levels: &[(Digits<'_>, Digits<'_>)], field: &str| {
            let level = |(price, size): &(Digits<'_>, Digits<'_>)| {
                Ok(Level(price.price(field)?, size.amount(field)?))
            };
            levels
                .iter()
                .take(LEVELS)
                .map(level)
                .collect::<Result<Vec<_>, Reject>>()
        };
        let (bids, asks) = (side(&book.bids, "bids")?, side(&book.asks, "asks")?);
        let price = |levels: &[Level]| levels.first().map(|level| level.0);
        uncrossed(price(&bids), price(&asks))?;
        let sorted = bids.is_sorted_by(|a, b| a.0 > b.0) && asks.is_sorted_by(|a, b| a.0 < b.0);
        if !sorted {
            return Err(Reject::new(
                Reason::Contradiction,
                "the levels of a book are out of order",
            ));
        }
        let mut head = self.head(&name, received, out)?;
        head.venue_seq = Some(book.last_update_id);
        out.push(Book { head, bids, asks }.into());
        Ok(Decoded::Ticks)
    }
}

fn uncrossed(bid: Option<Price>, ask: Option<Price>) -> Result<(), Reject> {
    if let (Some(bid), Some(ask)) = (bid, ask)
        && bid >= ask
    {
        let message = format!("bid {bid} is not below ask {ask}");
        return Err(Reject::new(Reason::Contradiction, message));
    }
    Ok(())
}

/// Milliseconds, or microseconds where the venue was asked for them.
fn nanos(at: i64) -> Option<i64> {
    if at > 100_000_000_000_000 {
        at.checked_mul(1_000)
    } else {
        at.checked_mul(1_000_000)
    }
}

impl Decoder for Binance {
    fn decode(
        &mut self,
        raw: &str,
        received: UnixNanos,
        out: &mut Vec<Tick>,
    ) -> Result<Decoded, Reject> {
        let outer: Combined<'_> = serde_json::from_str(raw).map_err(|error| malformed(&error))?;
        let data = match (&outer.stream, outer.data) {
            (_, Some(data)) => data.get(),
            (Some(_), None) => {
                return Err(Reject::new(Reason::Malformed, "a stream without data"));
            }
            (None, None) => raw,
        };
        let tag: Tag<'_> = serde_json::from_str(data).map_err(|error| malformed(&error))?;
        match tag.e.as_deref() {
            Some(kind @ ("trade" | "aggTrade")) => self.trade((kind, data), received, out),
            Some("serverShutdown") => Ok(Decoded::Reconnect),
            None if tag.last_update_id.is_some() => {
                self.book((outer.stream.as_deref(), data), received, out)
            }
            None if tag.u.is_some() => self.quote(data, received, out),
            None if tag.code.is_some() || tag.error.is_some() => {
                let words = tag.msg.or(tag.error.and_then(|error| error.msg));
                Err(Reject::new(
                    Reason::Malformed,
                    format!("the venue refused a request: {}", words.unwrap_or_default()),
                ))
            }
            // Answers to requests, and streams that are not carried.
            Some(_) | None => Ok(Decoded::Ignored),
        }
    }

    fn requests(&self) -> Vec<String> {
        let streams: Vec<String> = self
            .symbols
            .iter()
            .flat_map(|symbol| {
                let name = symbol.as_str().to_lowercase();
                self.kinds.iter().map(move |kind| {
                    let stream = if *kind == Kind::Quote {
                        "bookTicker"
                    } else if *kind == Kind::Book {
                        "depth10@100ms"
                    } else {
                        "trade"
                    };
                    format!("{name}@{stream}")
                })
            })
            .collect();
        let request = |(id, params): (usize, &[String])| {
            json!({ "method": "SUBSCRIBE", "params": params, "id": id + 1 }).to_string()
        };
        streams
            .chunks(STREAMS_PER_REQUEST)
            .enumerate()
            .map(request)
            .collect()
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests;
