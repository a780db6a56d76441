//! From an old connection to a new one of the same venue: nothing lost, nothing doubled, in order.
//! Pure.
//!
//! The old connection is passed on while what the new one delivers waits. A venue sends over each
//! connection in order, so once the old one has reached the first message of the new one, whatever
//! it still holds comes over the new one too: then the old one can go, and what waits goes out
//! without what the old one has delivered.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use schemas::id::{Kind, Symbol};
use schemas::tick::Tick;

/// The most ticks that wait.
const MOST: usize = 100_000;

type Key = (Kind, Symbol);

/// What both connections have delivered since the new one was asked for.
#[derive(Debug, Default)]
pub(super) struct Handover {
    /// The highest id that the old connection has delivered.
    reached: HashMap<Key, u64>,
    /// The first id that the new connection has delivered.
    first: HashMap<Key, u64>,
    /// How many of the first ids the old connection has not reached.
    behind: usize,
    waiting: Vec<Tick>,
    begun: bool,
}

/// The venue's id of a tick: trade ids and the update ids of quotes and books grow.
fn id_of(tick: &Tick) -> Option<(Key, u64)> {
    let id = match tick {
        Tick::Trade(trade) => trade.id.parse().ok()?,
        Tick::Quote(_)
        | Tick::Book(_)
        | Tick::Stat(_)
        | Tick::Bar(_)
        | Tick::Form(_)
        | Tick::Index(_)
        | Tick::Flow(_)
        | Tick::Status(_)
        | Tick::Feed(_)
        | Tick::Inst(_) => tick.head().venue_seq?,
    };
    Some(((tick.kind(), tick.head().symbol.clone()), id))
}

impl Handover {
    /// Notes what the old connection delivered.
    pub(super) fn old(&mut self, ticks: &[Tick]) {
        for (key, id) in ticks.iter().filter_map(id_of) {
            let first = self.first.get(&key).copied();
            let reached = self.reached.entry(key).or_insert(0);
            if first.is_some_and(|first| *reached < first && first <= id) {
                self.behind = self.behind.saturating_sub(1);
            }
            *reached = id.max(*reached);
        }
    }

    /// Keeps what the new connection delivered.
    pub(super) fn new_ones(&mut self, ticks: Vec<Tick>) {
        self.begun |= !ticks.is_empty();
        for tick in ticks {
            if let Some((key, id)) = id_of(&tick) {
                let reached = self.reached.get(&key).copied();
                if let Entry::Vacant(first) = self.first.entry(key) {
                    first.insert(id);
                    self.behind += usize::from(reached.is_none_or(|reached| reached < id));
                }
            }
            self.waiting.push(tick);
        }
    }

    /// Whether the new connection has delivered anything.
    pub(super) const fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether only the old connection has delivered anything.
    pub(super) fn is_one_sided(&self) -> bool {
        !self.begun && !self.reached.is_empty()
    }

    /// Whether the old connection can go.
    pub(super) fn is_done(&self) -> bool {
        self.begun && self.behind == 0 || self.waiting.len() >= MOST
    }

    /// What the new connection delivered and the old one did not, and what the old one did.
    pub(super) fn finish(self) -> (Vec<Tick>, Delivered) {
        let (mut waiting, mut delivered) = (self.waiting, Delivered(self.reached));
        delivered.strike_out(&mut waiting);
        (waiting, delivered)
    }
}

/// What the old connection delivered: the new one may be behind it.
#[derive(Debug)]
pub(super) struct Delivered(HashMap<Key, u64>);

impl Delivered {
    /// Takes out what came over the old connection.
    pub(super) fn strike_out(&mut self, ticks: &mut Vec<Tick>) {
        let Self(reached) = self;
        if reached.is_empty() {
            return;
        }
        ticks.retain(|tick| {
            let Some((key, id)) = id_of(tick) else {
                return true;
            };
            let is_known = reached.get(&key).is_some_and(|last| id <= *last);
            if !is_known {
                reached.remove(&key);
            }
            !is_known
        });
    }
}

#[cfg(test)]
mod tests {
    use schemas::id::Venue;
    use schemas::tick::{Head, Quote, Side, Trade};
    use schemas::time::UnixNanos;

    use super::*;

    fn head(symbol: &str) -> Head {
        let (venue, symbol) = (Venue::new("x").unwrap(), Symbol::new(symbol).unwrap());
        Head::new(venue, symbol, UnixNanos::EPOCH)
    }

    fn trade(symbol: &str, id: u64) -> Tick {
        Trade {
            head: head(symbol),
            id: id.to_string(),
            price: "1".parse().unwrap(),
            size: "1".parse().unwrap(),
            side: Side::Buy,
            conditions: None,
        }
        .into()
    }

    fn quote(symbol: &str, update: u64) -> Tick {
        let mut head = head(symbol);
        head.venue_seq = Some(update);
        Quote {
            head,
            bid: None,
            bid_size: None,
            ask: None,
            ask_size: None,
        }
        .into()
    }

    #[test]
    fn the_old_one_goes_when_it_has_reached_the_new_one() {
        let mut handover = Handover::default();
        assert!(!handover.is_done(), "nothing came yet");
        handover.old(&[trade("A", 1), quote("A", 1)]);
        handover.new_ones(vec![trade("A", 4), trade("A", 5), quote("A", 7)]);
        handover.old(&[trade("A", 2), trade("A", 3), quote("A", 8)]);
        assert!(!handover.is_done(), "trade 4 did not come over the old one");
        handover.old(&[trade("A", 4)]);
        assert!(handover.is_done());
        handover.new_ones(vec![trade("A", 6), quote("A", 8), quote("A", 9)]);
        assert!(handover.is_done(), "the old one need not keep up for ever");
        handover.new_ones(vec![trade("B", 70)]);
        assert!(!handover.is_done(), "another instrument");
        handover.old(&[trade("B", 70)]);
        let left = [trade("A", 5), trade("A", 6), quote("A", 9)];
        assert_eq!(handover.finish().0, left);
    }

    #[test]
    fn a_new_one_that_is_behind_repeats_nothing() {
        let mut handover = Handover::default();
        handover.old(&[trade("A", 8), trade("A", 9), quote("A", 30)]);
        handover.new_ones(vec![trade("A", 7)]);
        assert!(handover.is_done());
        let (waiting, mut delivered) = handover.finish();
        assert_eq!(waiting, []);
        let mut ticks = vec![trade("A", 8), quote("A", 29), trade("A", 9), trade("A", 10)];
        delivered.strike_out(&mut ticks);
        assert_eq!(ticks, [trade("A", 10)]);
        let mut ticks = vec![trade("A", 1), quote("A", 30), quote("A", 31)];
        delivered.strike_out(&mut ticks);
        assert_eq!(
            ticks,
            [trade("A", 1), quote("A", 31)],
            "ids may begin again"
        );
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut handover = Handover::default();
        handover.new_ones(vec![trade("A", 1); MOST]);
        assert!(handover.is_done());
    }
}
