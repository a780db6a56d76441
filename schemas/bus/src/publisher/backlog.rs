//! What waits to be sent: bounded in bytes; at the bound, state values collapse to the latest. Pure.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::Outgoing;

/// What a queued message costs beyond its payload: subject, id, bookkeeping.
const OVERHEAD: usize = 128;

#[derive(Debug)]
pub(super) struct Backlog {
    queue: VecDeque<Outgoing>,
    bytes: usize,
    limit: usize,
    collapsed: u64,
    /// Pushes until collapsing is worth another pass over the queue.
    patience: usize,
}

impl Backlog {
    pub(super) const fn new(limit: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            bytes: 0,
            limit,
            collapsed: 0,
            patience: 0,
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
            self.collapse();
            if self.bytes + cost > self.limit {
                return Err(message);
            }
        }
        self.bytes += cost;
        self.queue.push_back(message);
        Ok(())
    }

    pub(super) fn pop(&mut self) -> Option<Outgoing> {
        let message = self.queue.pop_front()?;
        self.bytes = self.bytes.saturating_sub(cost(&message));
        self.patience = 0;
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
        if self.patience > 0 {
            self.patience -= 1;
            return;
        }
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
        self.patience = self.queue.len() / 8;
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
