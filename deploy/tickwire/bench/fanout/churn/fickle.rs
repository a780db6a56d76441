//! Who holds what, and what each connection changes next.

use std::collections::VecDeque;
use std::ops::Range;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use schemas::time::UnixNanos;

use crate::bench::fanout::ticks;

/// How many topics a connection takes before it leaves one.
const HOLDS: usize = 10;

/// Connections that take a topic at random and leave the oldest, in turns; the same every time.
pub(super) struct Fickle {
    /// By connection, the oldest first.
    held: Vec<VecDeque<usize>>,
    topics: Range<usize>,
    rng: StdRng,
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    topic: usize,
    /// Otherwise it is left.
    pub(super) is_taken: bool,
}

impl Fickle {
    /// Connections that hold nothing yet of these topics.
    pub(super) fn new(connections: usize, topics: Range<usize>) -> Self {
        Self {
            held: vec![VecDeque::new(); connections],
            topics,
            rng: StdRng::seed_from_u64(11),
        }
    }

    /// What a connection does next; nothing if there is no such connection, or nothing to hold.
    pub(super) fn next(&mut self, connection: usize) -> Option<Change> {
        let held = self.held.get_mut(connection)?;
        let few = HOLDS.min(self.topics.len());
        if few == 0 {
            return None;
        }
        if held.len() == few {
            let topic = held.pop_front()?;
            return Some(Change {
                topic,
                is_taken: false,
            });
        }
        // There is always one that is not held, and it is drawn soon: they are more than a few.
        let topic = loop {
            let topic = self.rng.random_range(self.topics.clone());
            if !held.contains(&topic) {
                break topic;
            }
        };
        held.push_back(topic);
        Some(Change {
            topic,
            is_taken: true,
        })
    }
}

impl Change {
    /// The message that asks for it; the answer carries the time at which it was due.
    pub(super) fn op(self, due: UnixNanos) -> String {
        let (id, topic) = (due.get(), ticks::topic(self.topic));
        if self.is_taken {
            format!(
                "[{{\"op\":\"subscribe\",\"id\":{id},\"topics\":[\"{topic}\"],\"snapshot\":true}}]"
            )
        } else {
            format!("[{{\"op\":\"unsubscribe\",\"id\":{id},\"topics\":[\"{topic}\"]}}]")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use schemas::time::UnixNanos;
    use schemas::ws::{ClientOp, Encoding, read_ops};

    use super::{Change, Fickle, HOLDS};

    #[test]
    fn a_connection_takes_what_it_does_not_hold_and_leaves_what_it_does() {
        let mut fickle = Fickle::new(2, 1..13);
        let mut held = [HashSet::new(), HashSet::new()];
        for turn in 0..1_000 {
            for (connection, held) in held.iter_mut().enumerate() {
                let change = fickle.next(connection).unwrap();
                assert_eq!(change.is_taken, turn < HOLDS || turn % 2 == 1, "{turn}");
                assert!((1..13).contains(&change.topic));
                let changes = if change.is_taken {
                    held.insert(change.topic)
                } else {
                    held.remove(&change.topic)
                };
                assert!(changes, "{turn} {change:?}");
            }
        }
        assert_ne!(held[0], held[1]);
        assert_eq!((fickle.next(2), Fickle::new(1, 1..1).next(0)), (None, None));
    }

    #[test]
    fn ops_are_of_the_protocol_and_carry_their_time() {
        let change = |is_taken| Change {
            topic: 100_000,
            is_taken,
        };
        let due = UnixNanos::new(1_763_712_345_678_901_234);
        let read = |is_taken| {
            let text = change(is_taken).op(due);
            let mut ops = read_ops(Encoding::Json, text.as_bytes()).unwrap();
            assert_eq!(ops.len(), 1);
            ops.remove(0).unwrap()
        };
        let id = Some(1_763_712_345_678_901_234);
        let topics = vec!["trade.bench.S100000".to_owned()];
        let ClientOp::Subscribe(op) = read(true) else {
            panic!("not a subscription");
        };
        assert_eq!((op.id, &op.topics, op.snapshot), (id, &topics, Some(true)));
        assert_eq!(read(false), ClientOp::Unsubscribe { id, topics });
    }
}
