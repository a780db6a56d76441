//! What waits for one socket, in order: answers, and live messages shared with other connections.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

#[derive(Debug)]
struct Item {
    bytes: Bytes,
    /// When a live message was queued; answers do not count against the bound.
    live: Option<Instant>,
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
        self.items.push_back(Item { bytes, live: None });
    }

    pub(super) fn push_live(&mut self, bytes: Bytes, now: Instant) {
        self.live_bytes += bytes.len();
        self.items.push_back(Item {
            bytes,
            live: Some(now),
        });
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let item = self.items.pop_front()?;
        if item.live.is_some() {
            self.live_bytes = self.live_bytes.saturating_sub(item.bytes.len());
        } else {
            self.control_bytes = self.control_bytes.saturating_sub(item.bytes.len());
        }
        if self.items.is_empty() {
            // An idle connection holds no memory.
            self.items = VecDeque::new();
        }
        Some(item.bytes)
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
        let oldest = self.items.iter().find_map(|item| item.live);
        oldest.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}
