//! Binance Spot market streams, combined or raw.
//!
//! Source: binance/binance-spot-api-docs, web-socket-streams.md. `m` says that the buyer was the
//! maker, so the taker sold.

use std::collections::HashSet;

use schemas::decimal::Price;
use schemas::id::{Kind, Symbol, Venue};
use schemas::tick::{Book, Head, Level, Quote, Side, Tick, Trade};
use schemas::time::UnixNanos;
use serde::Deserialize;
use serde_json::json;

use super::{Digits, event, instrument, malformed, symbol, time};
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
    known: HashSet<Symbol>,
}

#[derive(Deserialize)]
struct Combined<'a> {
    stream: Option<&'a str>,
    #[serde(borrow)]
    data: Option<&'a serde_json::value::RawValue>,
}

#[derive(Deserialize)]
struct Tag<'a> {
    e: Option<&'a str>,
    u: Option<u64>,
    #[serde(rename = "lastUpdateId")]
    last_update_id: Option<u64>,
    code: Option<i64>,
    #[serde(borrow)]
    msg: Option<std::borrow::Cow<'a, str>>,
}

#[derive(Deserialize)]
struct RawTrade<'a> {
    #[serde(borrow)]
    s: std::borrow::Cow<'a, str>,
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
    s: std::borrow::Cow<'a, str>,
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
        Self {
            venue,
            symbols,
            kinds,
            known: HashSet::new(),
        }
    }

    fn head(
        &mut self,
        name: &str,
        received: UnixNanos,
        out: &mut Vec<Tick>,
    ) -> Result<Head, Reject> {
        let symbol = symbol("s", name)?;
        if self.known.insert(symbol.clone()) {
            out.push(instrument(&self.venue, &symbol, received).into());
        }
        Ok(Head::new(self.venue.clone(), symbol, received))
    }

    fn trade(
        &mut self,
        raw: &str,
        received: UnixNanos,
        out: &mut Vec<Tick>,
    ) -> Result<Decoded, Reject> {
        let trade: RawTrade<'_> = serde_json::from_str(raw).map_err(|error| malformed(&error))?;
        let id = trade.t.or(trade.a);
        let id = id.ok_or_else(|| Reject::new(Reason::Malformed, "trade without t or a"))?;
        let (price, size) = (trade.p.price("p")?, trade.q.size("q")?);
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
        let (bid, ask) = (quote.b.price("b")?, quote.a.price("a")?);
        let (bid_size, ask_size) = (quote.bid_size.size("B")?, quote.ask_size.size("A")?);
        uncrossed(bid, ask)?;
        let mut head = self.head(&quote.s, received, out)?;
        head.venue_seq = Some(quote.u);
        let (bid, ask) = (Some(bid), Some(ask));
        let (bid_size, ask_size) = (Some(bid_size), Some(ask_size));
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
                Ok(Level(price.price(field)?, size.size(field)?))
            };
            levels
                .iter()
                .take(LEVELS)
                .map(level)
                .collect::<Result<Vec<_>, Reject>>()
        };
        let (bids, asks) = (side(&book.bids, "bids")?, side(&book.asks, "asks")?);
        if let (Some(bid), Some(ask)) = (bids.first(), asks.first()) {
            uncrossed(bid.0, ask.0)?;
        }
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

fn uncrossed(bid: Price, ask: Price) -> Result<(), Reject> {
    if bid >= ask {
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
        let data = outer.data.map_or(raw, serde_json::value::RawValue::get);
        let tag: Tag<'_> = serde_json::from_str(data).map_err(|error| malformed(&error))?;
        match tag.e {
            Some("trade" | "aggTrade") => self.trade(data, received, out),
            Some("serverShutdown") => Ok(Decoded::Reconnect),
            None if tag.last_update_id.is_some() => self.book((outer.stream, data), received, out),
            None if tag.u.is_some() => self.quote(data, received, out),
            None if tag.code.is_some() => {
                let words = tag.msg.unwrap_or_default();
                Err(Reject::new(
                    Reason::Malformed,
                    format!("the venue refused a request: {words}"),
                ))
            }
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
mod tests {
    use super::*;

    fn decode(raw: &str) -> Result<Vec<Tick>, Reject> {
        let mut decoder = Binance::new(Venue::new("binance").unwrap(), Vec::new(), Vec::new());
        let mut out = Vec::new();
        decoder.decode(raw, UnixNanos::new(1_767_000_000_200_000_000), &mut out)?;
        out.retain(|tick| tick.kind() != Kind::Inst);
        Ok(out)
    }

    #[test]
    fn the_maker_bought_so_the_taker_sold() {
        let raw = r#"{"e":"trade","E":1767000000123,"s":"ABCUSDT","t":900001,"p":"12.34000000","q":"0.50000000","T":1767000000120,"m":true,"M":true}"#;
        let [Tick::Trade(trade)] = &decode(raw).unwrap()[..] else {
            panic!()
        };
        assert_eq!((trade.side, trade.id.as_str()), (Side::Sell, "900001"));
        assert_eq!(
            (
                trade.price.to_string().as_str(),
                trade.size.to_string().as_str()
            ),
            ("12.34000000", "0.50000000")
        );
        assert_eq!(
            trade.head.event,
            Some(UnixNanos::new(1_767_000_000_120_000_000))
        );
    }

    #[test]
    fn quotes_and_books_are_read() {
        let quote = r#"{"stream":"abc@bookTicker","data":{"u":400,"s":"ABC","b":"25.35","B":31.21,"a":"25.36","A":"40.66"}}"#;
        let [Tick::Quote(quote)] = &decode(quote).unwrap()[..] else {
            panic!()
        };
        assert_eq!(
            quote.bid_size.map(|size| size.to_string()).as_deref(),
            Some("31.21")
        );
        let book = r#"{"stream":"abc@depth10","data":{"lastUpdateId":7,"bids":[["1.2","3"],["1.1","0.5"]],"asks":[["1.3","2"]]}}"#;
        let [Tick::Book(book)] = &decode(book).unwrap()[..] else {
            panic!()
        };
        assert_eq!(
            (book.head.symbol.as_str(), book.bids.len(), book.asks.len()),
            ("ABC", 2, 1)
        );
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let trade = |price: &str, size: &str, at: &str, symbol: &str| {
            format!(
                r#"{{"e":"trade","s":"{symbol}","t":1,"p":{price},"q":{size},"T":{at},"m":true}}"#
            )
        };
        let cases = [
            (
                trade("\"-1\"", "\"1\"", "1767000000120", "A"),
                "p: price -1 is not above 0",
            ),
            (
                trade("\"1\"", "\"-1\"", "1767000000120", "A"),
                "q: size -1 is negative",
            ),
            (
                trade("\"1e400\"", "\"1\"", "1767000000120", "A"),
                "p: \"1e400\" is not a decimal",
            ),
            (
                trade("\"9999999999999999999\"", "\"1\"", "1767000000120", "A"),
                "p: 9999999999999999999 is beyond",
            ),
            (trade("\"1\"", "\"1\"", "99", "A"), "T: time is not between"),
            (
                trade("\"1\"", "\"1\"", "4070908800000", "A"),
                "T: time lies more than 1 minute after its receipt",
            ),
            (
                trade("\"1\"", "\"1\"", "1767000000120", ""),
                "s: symbol \"\" is not 1 to 64 bytes",
            ),
            (
                r#"{"u":1,"s":"A","b":"2","B":"1","a":"1","A":"1"}"#.to_owned(),
                "bid 2 is not below ask 1",
            ),
            ("{\"e\":\"trade\"".to_owned(), "EOF while parsing"),
            ("[]".to_owned(), "invalid"),
        ];
        for (raw, expected) in cases {
            let said = decode(&raw).unwrap_err().message;
            assert!(
                said.starts_with(expected),
                "{said:?} instead of {expected:?}"
            );
        }
        for ignored in [r#"{"result":null,"id":1}"#, r#"{"e":"depthUpdate"}"#, "{}"] {
            assert_eq!(decode(ignored), Ok(Vec::new()));
        }
    }
}
