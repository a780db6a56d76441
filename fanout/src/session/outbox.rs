//! What waits for one socket, in order: answers, and live messages shared with other connections.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::store::Live;

/// Places that an empty outbox keeps: as many as most writes need.
const KEPT: usize = 4;

#[derive(Debug)]
pub(super) enum Item {
    /// An answer; it does not count against the bound.
    Own(Bytes),
    /// A live message, with its encoded length and when it was queued.
    Live(Arc<Live>, usize, Instant),
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    items: VecDeque<Item>,
    live_bytes: usize,
    control_bytes: usize,
}

impl Outbox {
    pub(super) fn push_control(&mut self, bytes: Bytes) {
        self.control_bytes += bytes.len();
        self.items.push_back(Item::Own(bytes));
    }

    pub(super) fn push_live(&mut self, live: Arc<Live>, size: usize, now: Instant) {
        self.live_bytes += size;
        self.items.push_back(Item::Live(live, size, now));
    }

    pub(super) fn pop(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        match &item {
            Item::Live(_, size, _) => self.live_bytes = self.live_bytes.saturating_sub(*size),
            Item::Own(bytes) => {
                self.control_bytes = self.control_bytes.saturating_sub(bytes.len());
            }
        }
        if self.items.is_empty() && self.items.capacity() > KEPT {
            // An idle connection holds next to no memory.
            self.items = VecDeque::new();
        }
        Some(item)
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) const fn live_bytes(&self) -> usize {
        self.live_bytes
    }

    /// Bytes of answers.
    pub(super) const fn control_bytes(&self) -> usize {
        self.control_bytes
    }

    /// How long the oldest live message has waited.
    pub(super) fn age(&self, now: Instant) -> Duration {
        if self.live_bytes == 0 {
            return Duration::ZERO;
        }
        let oldest = self.items.iter().find_map(|item| match item {
            Item::Live(_, _, since) => Some(*since),
            Item::Own(_) => None,
        });
        oldest.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}
