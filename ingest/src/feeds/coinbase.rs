//! Coinbase Exchange: matches, ticker, level2.
//!
//! Source: the Exchange WebSocket feed's channel reference. `side` of a match is the maker's, so
//! the taker's is the other one. `last_match` is not a trade of this session: it tells only which
//! trade id comes next.

mod frame;
mod levels;

use std::collections::{BTreeSet, HashMap};

use schemas::id::{FeedName, Kind, Symbol, Venue};
use schemas::tick::{Feed as FeedTick, FeedState, Head, Quote, Side, Tick, Trade, VenueGap};
use schemas::time::UnixNanos;
use serde_json::json;

use super::{Instruments, best, malformed};
use crate::feed::{Decoded, Decoder, Reason, Reject, is_far_below};
use frame::{Frame, Stub};
use levels::Levels;

/// The channel of book changes that needs no login; `level2` does.
const BOOKS: &str = "level2_batch";

/// Decodes Coinbase frames.
#[derive(Debug)]
pub struct Coinbase {
    venue: Venue,
    feed: FeedName,
    symbols: Vec<Symbol>,
    kinds: Vec<Kind>,
    instruments: Instruments,
    last_trade: HashMap<Symbol, u64>,
    books: HashMap<Symbol, Levels>,
    /// Books of which something was lost: the venue is asked for them again.
    broken: BTreeSet<Symbol>,
}

impl Coinbase {
    /// A decoder for these instruments and kinds; gaps are reported for `feed`.
    pub fn new(venue: Venue, feed: FeedName, symbols: Vec<Symbol>, kinds: Vec<Kind>) -> Self {
        let instruments = Instruments::of(&symbols);
        Self {
            venue,
            feed,
            symbols,
            kinds,
            instruments,
            broken: BTreeSet::new(),
            last_trade: HashMap::new(),
            books: HashMap::new(),
        }
    }

    fn symbol(&self, frame: &Frame<'_>) -> Result<Symbol, Reject> {
        let name = Frame::need(frame.product_id.as_ref(), "product_id")?;
        self.instruments.admit("product_id", name)
    }

    fn head(
        &mut self,
        frame: &Frame<'_>,
        received: UnixNanos,
        out: &mut Vec<Tick>,
    ) -> Result<Head, Reject> {
        let symbol = self.symbol(frame)?;
        let event = frame.event(received)?;
        let head = Head::new(self.venue.clone(), symbol, received);
        let mut head = self.instruments.head(head, out);
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
        let size = Frame::need(frame.size.as_ref(), "size")?.amount("size")?;
        // Without it the bars would follow this machine's clock.
        Frame::need(frame.time.as_ref(), "time")?;
        let side = match Frame::need(frame.side.as_ref(), "side")?.as_ref() {
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
        let last = self.last_trade.get(&head.symbol);
        if last.is_some_and(|last| is_far_below(id, *last)) {
            // The venue counts anew.
            self.last_trade.remove(&head.symbol);
        }
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
            out.push(self.gap(symbol, before, through.saturating_add(1), received));
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
                until.saturating_sub(after).saturating_sub(1)
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
        if frame.best_bid.is_none() && frame.best_ask.is_none() {
            let message = "neither best_bid nor best_ask";
            return Err(Reject::new(Reason::Malformed, message));
        }
        let (bid, bid_size) = best(
            (frame.best_bid.as_ref(), "best_bid"),
            (frame.best_bid_size.as_ref(), "best_bid_size"),
        )?;
        let (ask, ask_size) = best(
            (frame.best_ask.as_ref(), "best_ask"),
            (frame.best_ask_size.as_ref(), "best_ask_size"),
        )?;
        if let (Some(bid), Some(ask)) = (bid, ask)
            && bid > ask
        {
            let message = format!("best_bid {bid} is above best_ask {ask}");
            return Err(Reject::new(Reason::Contradiction, message));
        }
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
        self.broken.remove(&head.symbol);
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
            // The snapshot that was asked for has not come.
            if self.kinds.contains(&Kind::Book) {
                self.broken.insert(head.symbol);
            }
            return Ok(Decoded::Ignored);
        };
        for (side, price, size) in changes {
            let side = match side.as_ref() {
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
        levels.check()?;
        out.push(levels.top(head));
        Ok(Decoded::Ticks)
    }

    fn frame(
        &mut self,
        frame: &Frame<'_>,
        received: UnixNanos,
        out: &mut Vec<Tick>,
    ) -> Result<Decoded, Reject> {
        match frame.kind.as_ref() {
            "match" => self.trade(frame, received, out)?,
            "ticker" => self.quote(frame, received, out)?,
            "snapshot" => self.snapshot(frame, received, out)?,
            "l2update" => return self.update(frame, received, out),
            "last_match" => {
                let id = *Frame::need(frame.trade_id.as_ref(), "trade_id")?;
                let symbol = self.symbol(frame)?;
                self.follow(&symbol, id, id, received, out);
            }
            "heartbeat" => {
                let symbol = self.symbol(frame)?;
                // Trade ids start at 1: 0 says that there was none yet.
                if let Some(id) = frame.last_trade_id.filter(|id| *id > 0) {
                    self.follow(&symbol, id, id, received, out);
                }
            }
            "error" => {
                let words = frame.message.as_deref().unwrap_or_default();
                let reason = frame.reason.as_deref().unwrap_or_default();
                let message = format!("the venue refused a request: {words} {reason}");
                return Err(Reject::new(Reason::Malformed, message.trim_end()));
            }
            _ => return Ok(Decoded::Ignored),
        }
        Ok(Decoded::Ticks)
    }

    /// A book that lacks a change is wrong for ever: it is thrown away and asked for again. Where a
    /// frame cannot even be told from a change, that goes for every book.
    fn lost(&mut self, raw: &str) {
        let mut broken: Vec<Symbol> = Vec::new();
        match serde_json::from_str::<Stub<'_>>(raw) {
            Ok(stub) if !matches!(stub.kind.as_ref(), "snapshot" | "l2update") => return,
            Ok(Stub {
                product_id: Some(name),
                ..
            }) => broken.extend(self.instruments.admit("product_id", &name)),
            Ok(_) | Err(_) => broken.extend(self.books.keys().chain(&self.symbols).cloned()),
        }
        for symbol in broken {
            self.books.remove(&symbol);
            if self.kinds.contains(&Kind::Book) {
                self.broken.insert(symbol);
            }
        }
    }
}

impl Decoder for Coinbase {
    fn decode(
        &mut self,
        raw: &str,
        received: UnixNanos,
        out: &mut Vec<Tick>,
    ) -> Result<Decoded, Reject> {
        let frame: Result<Frame<'_>, _> = serde_json::from_str(raw);
        let decoded = frame
            .map_err(|error| malformed(&error))
            .and_then(|frame| self.frame(&frame, received, out));
        if decoded.is_err() {
            self.lost(raw);
        }
        decoded
    }

    fn requests(&self) -> Vec<String> {
        let mut channels = vec!["heartbeat"];
        let ask = |channels: &[&str]| {
            let products: Vec<&str> = self.symbols.iter().map(Symbol::as_str).collect();
            json!({ "type": "subscribe", "product_ids": products, "channels": channels })
                .to_string()
        };
        let kinds = self.kinds.iter().filter(|kind| **kind != Kind::Book);
        channels.extend(kinds.map(|kind| {
            if *kind == Kind::Quote {
                "ticker"
            } else {
                "matches"
            }
        }));
        let mut requests = vec![ask(&channels)];
        if self.kinds.contains(&Kind::Book) {
            // One refused channel refuses its whole request.
            requests.push(ask(&[BOOKS]));
        }
        requests
    }

    fn repairs(&mut self) -> Vec<String> {
        let broken = std::mem::take(&mut self.broken);
        if broken.is_empty() {
            return Vec::new();
        }
        // A snapshot comes with a subscription only.
        let products: Vec<&str> = broken.iter().map(Symbol::as_str).collect();
        let request = |ask: &str| {
            json!({ "type": ask, "product_ids": products, "channels": [BOOKS] }).to_string()
        };
        vec![request("unsubscribe"), request("subscribe")]
    }

    fn reset(&mut self) {
        self.books.clear();
        self.broken.clear();
    }
}

#[cfg(test)]
mod tests;
