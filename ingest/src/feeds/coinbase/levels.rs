//! One book, level by level.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use schemas::decimal::{Price, Size};
use schemas::tick::{Book, Head, Level, Side, Tick};

use crate::feed::{Reason, Reject};

/// Book levels that are published.
const LEVELS: usize = 10;
/// The most price levels that are kept per side of a book.
const MAX_LEVELS: usize = 100_000;

/// All price levels of a book, best first.
#[derive(Debug, Default)]
pub(super) struct Levels {
    bids: BTreeMap<Reverse<Price>, Size>,
    asks: BTreeMap<Price, Size>,
}

impl Levels {
    /// Sets the size at a price; 0 removes it.
    pub(super) fn set(&mut self, side: Side, price: Price, size: Size) -> Result<(), Reject> {
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

    /// Whether bids are below asks.
    pub(super) fn check(&self) -> Result<(), Reject> {
        match (self.bids.first_key_value(), self.asks.first_key_value()) {
            (Some((Reverse(bid), _)), Some((ask, _))) if bid >= ask => {
                let message = format!("bid {bid} is not below ask {ask}");
                Err(Reject::new(Reason::Contradiction, message))
            }
            _ => Ok(()),
        }
    }

    /// The best levels of both sides.
    pub(super) fn top(&self, head: Head) -> Tick {
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
