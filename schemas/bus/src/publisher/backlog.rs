//! What waits to be sent: bounded in bytes; at the bound, state values collapse to the latest. Pure.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::Outgoing;

/// What a queued message costs beyond its payload: subject, id, bookkeeping.
const OVERHEAD: usize = 128;
/// A pass over the queue may free what came since the last one: so small a share of the limit is not
/// worth it. Every byte that is queued thus pays for a bounded part of a pass.
const WORTH: usize = 8;

#[derive(Debug)]
pub(super) struct Backlog {
    queue: VecDeque<Outgoing>,
    bytes: usize,
    limit: usize,
    collapsed: u64,
    /// Bytes of state values that were queued since the last pass over the queue.
    fresh: usize,
}

impl Backlog {
    pub(super) const fn new(limit: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            bytes: 0,
            limit,
            collapsed: 0,
            fresh: 0,
        }
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// How many state values gave way to a later one, since this was last asked.
    pub(super) const fn take_collapsed(&mut self) -> u64 {
        std::mem::replace(&mut self.collapsed, 0)
    }

    /// Queues a message, or gives it back if there is no room for it.
    pub(super) fn push(&mut self, message: Outgoing) -> Result<(), Outgoing> {
        let cost = cost(&message);
        if self.bytes + cost > self.limit && !self.queue.is_empty() {
            if self.fresh > self.limit / WORTH {
                self.collapse();
            }
            if self.bytes + cost > self.limit {
                return Err(message);
            }
        }
        self.bytes += cost;
        if message.collapsible {
            self.fresh = self.fresh.saturating_add(cost);
        }
        self.queue.push_back(message);
        Ok(())
    }

    pub(super) fn pop(&mut self) -> Option<Outgoing> {
        let message = self.queue.pop_front()?;
        self.bytes = self.bytes.saturating_sub(cost(&message));
        Some(message)
    }

    /// Puts messages back in front, in their order, whatever the limit.
    pub(super) fn return_all(&mut self, messages: impl DoubleEndedIterator<Item = Outgoing>) {
        for message in messages.rev() {
            self.bytes += cost(&message);
            self.queue.push_front(message);
        }
    }

    fn collapse(&mut self) {
        let mut later: HashSet<Arc<str>> = HashSet::new();
        let mut kept = VecDeque::with_capacity(self.queue.len());
        while let Some(message) = self.queue.pop_back() {
            if message.collapsible && !later.insert(Arc::clone(&message.subject)) {
                self.bytes = self.bytes.saturating_sub(cost(&message));
                self.collapsed += 1;
            } else {
                kept.push_front(message);
            }
        }
        self.queue = kept;
        self.fresh = 0;
    }
}

fn cost(message: &Outgoing) -> usize {
    message.payload.len() + message.id.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(subject: &str, id: u32, collapsible: bool) -> Outgoing {
        Outgoing {
            subject: subject.into(),
            id: id.to_string(),
            schema: "quote/1",
            payload: vec![0; 100].into(),
            collapsible,
            queued: None,
        }
    }

    #[test]
    fn at_the_bound_only_state_gives_way_and_order_stays() {
        let mut backlog = Backlog::new(6 * 240);
        for id in 0..6 {
            let (subject, state) = if id % 3 == 0 {
                ("trade", false)
            } else {
                ("quote", true)
            };
            backlog.push(message(subject, id, state)).unwrap();
        }
        backlog.push(message("quote", 6, true)).unwrap();
        assert_eq!(backlog.take_collapsed(), 3);
        let mut left = Vec::new();
        while let Some(message) = backlog.pop() {
            left.push(message.id);
        }
        assert_eq!(left, ["0", "3", "5", "6"]);
        assert_eq!(backlog.bytes(), 0);
    }

    #[test]
    fn an_outage_ends_in_waiting_only_when_what_must_not_be_lost_fills_the_queue() {
        let limit = 1_000 * 240;
        let mut backlog = Backlog::new(limit);
        let mut trades = Vec::new();
        let mut last_quotes = [None; 10];
        for id in 0.. {
            let (state, subject) = (id % 10 != 0, format!("quote.{}", id % 10));
            let subject = if state { &subject } else { "trade" };
            if backlog.push(message(subject, id, state)).is_err() {
                break;
            }
            assert!(backlog.bytes() <= limit);
            if state {
                last_quotes[id as usize % 10] = Some(id);
            } else {
                trades.push(id);
            }
        }
        assert!(trades.len() > 800, "only {} trades fit", trades.len());
        let mut left = Vec::new();
        while let Some(message) = backlog.pop() {
            left.push(message);
        }
        let kept: Vec<u32> = left
            .iter()
            .filter(|message| !message.collapsible)
            .map(|message| message.id.parse().unwrap())
            .collect();
        assert!(kept == trades, "a trade is missing or out of order");
        for id in last_quotes.into_iter().flatten() {
            assert!(left.iter().any(|message| message.id == id.to_string()));
        }
        assert!(left.is_sorted_by_key(|message| message.id.parse::<u32>().unwrap()));
        assert_eq!(backlog.bytes(), 0);
    }

    #[test]
    fn few_large_state_values_give_way_again_and_again() {
        let large = |id| Outgoing {
            payload: vec![0; 10_000].into(),
            ..message("book", id, true)
        };
        let mut backlog = Backlog::new(200_000);
        for id in 0..400 {
            backlog.push(message("trade", id, false)).unwrap();
        }
        for id in 400..1_000 {
            backlog.push(large(id)).unwrap();
        }
        assert!(backlog.take_collapsed() > 580);
    }

    #[test]
    fn a_full_queue_of_lossless_messages_takes_no_more() {
        let mut backlog = Backlog::new(500);
        backlog.push(message("trade", 0, false)).unwrap();
        backlog.push(message("trade", 1, false)).unwrap();
        assert!(backlog.push(message("trade", 2, false)).is_err());
        assert_eq!((backlog.len(), backlog.take_collapsed()), (2, 0));
        backlog.pop();
        assert!(backlog.push(message("trade", 2, false)).is_ok());
    }
}
