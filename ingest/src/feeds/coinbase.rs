//! Coinbase Exchange: matches, ticker, level2.
//!
//! Source: the Exchange WebSocket feed's channel reference. `side` of a match is the maker's, so
//! the taker's is the other one. `last_match` is not a trade of this session: it tells only which
//! trade id comes next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use schemas::decimal::{Price, Size};
use schemas::id::{FeedName, Kind, Symbol, Venue};
use schemas::tick::{
    Book, Feed as FeedTick, FeedState, Head, Level, Quote, Side, Tick, Trade, VenueGap,
};
use schemas::time::UnixNanos;
use serde::Deserialize;
use serde_json::json;

use super::{Digits, event, instrument, malformed, rfc3339, symbol};
use crate::feed::{Decoded, Decoder, Reason, Reject};

/// Book levels that are published.
const LEVELS: usize = 10;
/// The most price levels that are kept per side of a book.
const MAX_LEVELS: usize = 100_000;

/// Decodes Coinbase frames.
#[derive(Debug)]
pub struct Coinbase {
    venue: Venue,
    feed: FeedName,
    symbols: Vec<Symbol>,
    kinds: Vec<Kind>,
    known: HashSet<Symbol>,
    last_trade: HashMap<Symbol, u64>,
    books: HashMap<Symbol, Levels>,
}

#[derive(Debug, Default)]
struct Levels {
    bids: BTreeMap<Reverse<Price>, Size>,
    asks: BTreeMap<Price, Size>,
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    product_id: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    message: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    reason: Option<std::borrow::Cow<'a, str>>,
    trade_id: Option<u64>,
    last_trade_id: Option<u64>,
    sequence: Option<u64>,
    side: Option<&'a str>,
    #[serde(borrow)]
    price: Option<Digits<'a>>,
    #[serde(borrow)]
    size: Option<Digits<'a>>,
    time: Option<&'a str>,
    #[serde(borrow)]
    best_bid: Option<Digits<'a>>,
    #[serde(borrow)]
    best_bid_size: Option<Digits<'a>>,
    #[serde(borrow)]
    best_ask: Option<Digits<'a>>,
    #[serde(borrow)]
    best_ask_size: Option<Digits<'a>>,
    #[serde(borrow)]
    bids: Option<Vec<(Digits<'a>, Digits<'a>)>>,
    #[serde(borrow)]
    asks: Option<Vec<(Digits<'a>, Digits<'a>)>>,
    #[serde(borrow)]
    changes: Option<Vec<(&'a str, Digits<'a>, Digits<'a>)>>,
}

impl<'a> Frame<'a> {
    fn need<'b, T>(field: Option<&'b T>, name: &str) -> Result<&'b T, Reject> {
        field.ok_or_else(|| Reject::new(Reason::Malformed, format!("{name} is missing")))
    }

    fn event(&self, received: UnixNanos) -> Result<Option<UnixNanos>, Reject> {
        self.time
            .map(|text: &'a str| event("time", rfc3339("time", text)?, received))
            .transpose()
    }
}

impl Coinbase {
    /// A decoder for these instruments and kinds; gaps are reported for `feed`.
    pub fn new(venue: Venue, feed: FeedName, symbols: Vec<Symbol>, kinds: Vec<Kind>) -> Self {
        Self {
            venue,
            feed,
            symbols,
            kinds,
            known: HashSet::new(),
            last_trade: HashMap::new(),
            books: HashMap::new(),
        }
    }

    fn head(
        &mut self,
        frame: &Frame<'_>,
        received: UnixNanos,
        out: &mut Vec<Tick>,
    ) -> Result<Head, Reject> {
        let symbol = symbol(
            "product_id",
            Frame::need(frame.product_id.as_ref(), "product_id")?,
        )?;
        let event = frame.event(received)?;
        if self.known.insert(symbol.clone()) {
            out.push(instrument(&self.venue, &symbol, received).into());
        }
        let mut head = Head::new(self.venue.clone(), symbol, received);
        head.event = event;
        head.venue_seq = frame.sequence;
        Ok(head)
    }

    fn trade(
        &mut self,
        frame: &Frame<'_>,
        received: UnixNanos,
        out: &mut Vec<Tick>,
    ) -> Result<(), Reject> {
        let id = *Frame::need(frame.trade_id.as_ref(), "trade_id")?;
        let price = Frame::need(frame.price.as_ref(), "price")?.price("price")?;
        let size = Frame::need(frame.size.as_ref(), "size")?.size("size")?;
        let side = match *Frame::need(frame.side.as_ref(), "side")? {
            "sell" => Side::Buy,
            "buy" => Side::Sell,
            _ => {
                return Err(Reject::new(
                    Reason::Malformed,
                    "side is neither buy nor sell",
                ));
            }
        };
        let head = self.head(frame, received, out)?;
        self.follow(&head.symbol, id, id.saturating_sub(1), received, out);
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
        Ok(())
    }

    /// Notes that `id` was the last trade, and reports trades between the one before and `through`.
    fn follow(
        &mut self,
        symbol: &Symbol,
        id: u64,
        through: u64,
        received: UnixNanos,
        out: &mut Vec<Tick>,
    ) {
        let before = self.last_trade.get(symbol).copied();
        if let Some(before) = before.filter(|before| *before < through) {
            out.push(self.gap(symbol, before, through + 1, received));
        }
        if before.is_none_or(|before| before < id) {
            self.last_trade.insert(symbol.clone(), id);
        }
    }

    fn gap(&self, symbol: &Symbol, after: u64, until: u64, received: UnixNanos) -> Tick {
        let name = Symbol::new(self.feed.as_str()).unwrap_or_else(|_| symbol.clone());
        let gap = VenueGap {
            symbol: Some(symbol.clone()),
            after_id: Some(after.to_string()),
            until_id: Some(until.to_string()),
            from: None,
            to: Some(received),
            filled: false,
        };
        FeedTick {
            head: Head::new(self.venue.clone(), name, received),
            state: FeedState::Gap,
            detail: Some(format!(
                "{} trades of {symbol} did not arrive",
                until - after - 1
            )),
            gap: Some(gap),
            collapsed: None,
        }
        .into()
    }

    fn quote(
        &mut self,
        frame: &Frame<'_>,
        received: UnixNanos,
        out: &mut Vec<Tick>,
    ) -> Result<(), Reject> {
        let price = |field: &Option<Digits<'_>>, name: &str| {
            field.as_ref().map(|p| p.price(name)).transpose()
        };
        let size = |field: &Option<Digits<'_>>, name: &str| {
            field.as_ref().map(|s| s.size(name)).transpose()
        };
        let (bid, ask) = (
            price(&frame.best_bid, "best_bid")?,
            price(&frame.best_ask, "best_ask")?,
        );
        if let (Some(bid), Some(ask)) = (bid, ask)
            && bid > ask
        {
            let message = format!("best_bid {bid} is above best_ask {ask}");
            return Err(Reject::new(Reason::Contradiction, message));
        }
        let bid_size = size(&frame.best_bid_size, "best_bid_size")?;
        let ask_size = size(&frame.best_ask_size, "best_ask_size")?;
        let head = self.head(frame, received, out)?;
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
        Ok(())
    }

    fn snapshot(
        &mut self,
        frame: &Frame<'_>,
        received: UnixNanos,
        out: &mut Vec<Tick>,
    ) -> Result<(), Reject> {
        let (bids, asks) = (
            Frame::need(frame.bids.as_ref(), "bids")?,
            Frame::need(frame.asks.as_ref(), "asks")?,
        );
        let mut levels = Levels::default();
        for (price, size) in bids {
            levels.set(Side::Buy, price.price("bids")?, size.size("bids")?)?;
        }
        for (price, size) in asks {
            levels.set(Side::Sell, price.price("asks")?, size.size("asks")?)?;
        }
        levels.check()?;
        let head = self.head(frame, received, out)?;
        out.push(levels.top(head.clone()));
        self.books.insert(head.symbol, levels);
        Ok(())
    }

    fn update(
        &mut self,
        frame: &Frame<'_>,
        received: UnixNanos,
        out: &mut Vec<Tick>,
    ) -> Result<Decoded, Reject> {
        let changes = Frame::need(frame.changes.as_ref(), "changes")?;
        let head = self.head(frame, received, out)?;
        let Some(levels) = self.books.get_mut(&head.symbol) else {
            return Ok(Decoded::Ignored);
        };
        let mut apply = || {
            for (side, price, size) in changes {
                let side = match *side {
                    "buy" => Side::Buy,
                    "sell" => Side::Sell,
                    _ => {
                        return Err(Reject::new(
                            Reason::Malformed,
                            "changes: side is neither buy nor sell",
                        ));
                    }
                };
                levels.set(side, price.price("changes")?, size.size("changes")?)?;
            }
            levels.check()
        };
        if let Err(reject) = apply() {
            // Half a change is worse than none: the book starts again from the next snapshot.
            self.books.remove(&head.symbol);
            return Err(reject);
        }
        out.push(levels.top(head));
        Ok(Decoded::Ticks)
    }
}

impl Levels {
    fn set(&mut self, side: Side, price: Price, size: Size) -> Result<(), Reject> {
        let count = match (side, size.is_zero()) {
            (Side::Buy, true) => {
                self.bids.remove(&Reverse(price));
                0
            }
            (Side::Buy, false) => {
                self.bids.insert(Reverse(price), size);
                self.bids.len()
            }
            (_, true) => {
                self.asks.remove(&price);
                0
            }
            (_, false) => {
                self.asks.insert(price, size);
                self.asks.len()
            }
        };
        if count > MAX_LEVELS {
            return Err(Reject::new(
                Reason::Size,
                format!("a book has more than {MAX_LEVELS} levels"),
            ));
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Reject> {
        match (self.bids.first_key_value(), self.asks.first_key_value()) {
            (Some((Reverse(bid), _)), Some((ask, _))) if bid >= ask => {
                let message = format!("bid {bid} is not below ask {ask}");
                Err(Reject::new(Reason::Contradiction, message))
            }
            _ => Ok(()),
        }
    }

    fn top(&self, head: Head) -> Tick {
        let bids = self
            .bids
            .iter()
            .take(LEVELS)
            .map(|(price, size)| Level(price.0, *size));
        let asks = self
            .asks
            .iter()
            .take(LEVELS)
            .map(|(price, size)| Level(*price, *size));
        Book {
            head,
            bids: bids.collect(),
            asks: asks.collect(),
        }
        .into()
    }
}

impl Decoder for Coinbase {
    fn decode(
        &mut self,
        raw: &str,
        received: UnixNanos,
        out: &mut Vec<Tick>,
    ) -> Result<Decoded, Reject> {
        let frame: Frame<'_> = serde_json::from_str(raw).map_err(|error| malformed(&error))?;
        match frame.kind {
            "match" => self.trade(&frame, received, out)?,
            "ticker" => self.quote(&frame, received, out)?,
            "snapshot" => self.snapshot(&frame, received, out)?,
            "l2update" => return self.update(&frame, received, out),
            "last_match" => {
                let id = *Frame::need(frame.trade_id.as_ref(), "trade_id")?;
                let symbol = symbol(
                    "product_id",
                    Frame::need(frame.product_id.as_ref(), "product_id")?,
                )?;
                self.follow(&symbol, id, id, received, out);
            }
            "heartbeat" => {
                let symbol = symbol(
                    "product_id",
                    Frame::need(frame.product_id.as_ref(), "product_id")?,
                )?;
                // Trade ids start at 1: 0 says that there was none yet.
                if let Some(id) = frame.last_trade_id.filter(|id| *id > 0) {
                    self.follow(&symbol, id, id, received, out);
                }
            }
            "error" => {
                let words = frame.message.unwrap_or_default();
                let reason = frame.reason.unwrap_or_default();
                let message = format!("the venue refused a request: {words} {reason}");
                return Err(Reject::new(Reason::Malformed, message.trim_end()));
            }
            _ => return Ok(Decoded::Ignored),
        }
        Ok(Decoded::Ticks)
    }

    fn requests(&self) -> Vec<String> {
        let mut channels = vec!["heartbeat"];
        channels.extend(self.kinds.iter().map(|kind| {
            if *kind == Kind::Quote {
                "ticker"
            } else if *kind == Kind::Book {
                "level2"
            } else {
                "matches"
            }
        }));
        let products: Vec<&str> = self.symbols.iter().map(Symbol::as_str).collect();
        vec![
            json!({ "type": "subscribe", "product_ids": products, "channels": channels })
                .to_string(),
        ]
    }

    fn reset(&mut self) {
        self.books.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoder() -> Coinbase {
        let venue = Venue::new("coinbase").unwrap();
        Coinbase::new(venue, FeedName::new("cb").unwrap(), Vec::new(), Vec::new())
    }

    fn decode(decoder: &mut Coinbase, raw: &str) -> Result<Vec<Tick>, Reject> {
        let mut out = Vec::new();
        decoder.decode(raw, UnixNanos::new(1_767_323_045_700_000_000), &mut out)?;
        out.retain(|tick| tick.kind() != Kind::Inst);
        Ok(out)
    }

    fn matched(kind: &str, id: u64) -> String {
        format!(
            r#"{{"type":"{kind}","trade_id":{id},"sequence":50,"time":"2026-01-02T03:04:05.678901Z","product_id":"ABC-USD","size":"5.20","price":"400.2300","side":"sell"}}"#
        )
    }

    #[test]
    fn the_side_of_a_match_is_the_makers() {
        let ticks = decode(&mut decoder(), &matched("match", 10)).unwrap();
        let [Tick::Trade(trade)] = &ticks[..] else {
            panic!("{ticks:?}")
        };
        assert_eq!(trade.side, Side::Buy);
        assert_eq!(trade.price.to_string(), "400.2300");
        assert_eq!(
            trade.head.event,
            Some(UnixNanos::new(1_767_323_045_678_901_000))
        );
    }

    #[test]
    fn last_match_is_no_trade_but_tells_what_is_missing() {
        let mut decoder = decoder();
        assert_eq!(
            decode(&mut decoder, &matched("last_match", 10)).unwrap(),
            []
        );
        assert_eq!(
            decode(&mut decoder, &matched("match", 11)).unwrap().len(),
            1
        );
        let ticks = decode(&mut decoder, &matched("match", 14)).unwrap();
        let [Tick::Feed(feed), Tick::Trade(_)] = &ticks[..] else {
            panic!("{ticks:?}")
        };
        let gap = feed.gap.as_ref().unwrap();
        assert_eq!(
            (gap.after_id.as_deref(), gap.until_id.as_deref()),
            (Some("11"), Some("14"))
        );
        let beat = r#"{"type":"heartbeat","sequence":90,"last_trade_id":16,"product_id":"ABC-USD","time":"2026-01-02T03:04:05Z"}"#;
        let ticks = decode(&mut decoder, beat).unwrap();
        let [Tick::Feed(feed)] = &ticks[..] else {
            panic!("{ticks:?}")
        };
        assert_eq!(feed.gap.as_ref().unwrap().until_id.as_deref(), Some("17"));
        assert_eq!(decode(&mut decoder, beat).unwrap(), []);
    }

    #[test]
    fn books_are_kept_and_cut_and_resynchronized() {
        let mut decoder = decoder();
        let snapshot = r#"{"type":"snapshot","product_id":"A-B","bids":[["9","1"],["8","1"]],"asks":[["10","2"]]}"#;
        let Tick::Book(book) = &decode(&mut decoder, snapshot).unwrap()[0] else {
            panic!()
        };
        assert_eq!((book.bids.len(), book.asks.len()), (2, 1));
        let update = |changes: &str| {
            format!(r#"{{"type":"l2update","product_id":"A-B","changes":[{changes}]}}"#)
        };
        let ticks = decode(
            &mut decoder,
            &update(r#"["buy","9","0"],["buy","8.5","3"]"#),
        )
        .unwrap();
        let Tick::Book(book) = &ticks[0] else {
            panic!()
        };
        assert_eq!(book.bids[0].0.to_string(), "8.5");
        let crossed = decode(&mut decoder, &update(r#"["buy","11","1"]"#)).unwrap_err();
        assert_eq!(crossed.message, "bid 11 is not below ask 10");
        assert_eq!(
            decode(&mut decoder, &update(r#"["buy","7","1"]"#)).unwrap(),
            []
        );
    }

    #[test]
    fn refusals_carry_the_venues_words() {
        let raw = r#"{"type":"error","message":"Failed to subscribe","reason":"X is not a valid product"}"#;
        let said = decode(&mut decoder(), raw).unwrap_err().message;
        assert_eq!(
            said,
            "the venue refused a request: Failed to subscribe X is not a valid product"
        );
        for ignored in [
            r#"{"type":"subscriptions","channels":[]}"#,
            r#"{"type":"new thing"}"#,
        ] {
            assert_eq!(decode(&mut decoder(), ignored), Ok(Vec::new()));
        }
        let far = matched("match", 1).replace("2026", "2099");
        let said = decode(&mut decoder(), &far).unwrap_err().message;
        assert_eq!(said, "time: time lies more than 1 minute after its receipt");
        for bad in ["{}", "[1]", r#"{"type":"match"}"#, "\u{1F980}"] {
            assert!(decode(&mut decoder(), bad).is_err(), "{bad}");
        }
    }
}
