//! The chain of expectations: which message may stand at which sequence. Pure.
//!
//! Within one writer epoch, message `n` (counted from 0) is stored at `base + n + 1` or nowhere.
//! A message that was sent keeps its number for ever, so late copies of it can do no harm.

use std::collections::VecDeque;

use schemas::position::StreamSeq;

use super::Outgoing;

/// Every so many messages one asks for an acknowledgement, which covers all before it.
const ACK_EVERY: u64 = 64;

#[derive(Debug)]
pub(super) struct Chain {
    pub(super) epoch: u64,
    base: StreamSeq,
    /// How many messages of this epoch are known to be stored.
    acked: u64,
    ring: VecDeque<Outgoing>,
    window: usize,
}

/// What must be said along with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// The number of messages of this epoch, this one included.
    pub(super) count: u64,
    /// The sequence that the stream's last message must have.
    pub(super) expected: StreamSeq,
    /// Whether an acknowledgement is due even if more follows.
    pub(super) wants_ack: bool,
}

/// An acknowledgement that the chain cannot have caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    #[error("message {count} of this writer was stored at {seq} instead of {due}")]
    Elsewhere {
        count: u64,
        seq: StreamSeq,
        due: StreamSeq,
    },
    #[error("the stream holds {stored} messages of this writer, {acked} had been acknowledged")]
    Lost { stored: u64, acked: u64 },
}

impl Chain {
    pub(super) const fn new(epoch: u64, base: StreamSeq, window: usize) -> Self {
        Self {
            epoch,
            base,
            acked: 0,
            ring: VecDeque::new(),
            window,
        }
    }

    pub(super) const fn acked(&self) -> u64 {
        self.acked
    }

    /// The sequence of the message number `count` of this epoch (1 is the first).
    pub(super) const fn seq_of(&self, count: u64) -> StreamSeq {
        StreamSeq::new(self.base.get().saturating_add(count))
    }

    pub(super) fn room(&self) -> usize {
        self.window.saturating_sub(self.ring.len())
    }

    pub(super) fn in_flight(&self) -> usize {
        self.ring.len()
    }

    fn sent(&self) -> u64 {
        self.acked
            .saturating_add(u64::try_from(self.ring.len()).unwrap_or(u64::MAX))
    }

    fn link(&self, count: u64) -> Link {
        let expected = self.seq_of(count.saturating_sub(1));
        Link {
            count,
            expected,
            wants_ack: count.is_multiple_of(ACK_EVERY),
        }
    }

    /// Adds a message behind all others.
    pub(super) fn push(&mut self, message: Outgoing) -> Link {
        self.ring.push_back(message);
        self.link(self.sent())
    }

    /// Everything that was sent and is not known to be stored, with what was said along.
    pub(super) fn unacked(&self) -> impl Iterator<Item = (Link, &Outgoing)> {
        (self.acked + 1..)
            .map(|count| self.link(count))
            .zip(&self.ring)
    }

    /// Takes the acknowledgement of message number `count`, stored at `seq`: it and all before it.
    pub(super) fn ack(&mut self, count: u64, seq: StreamSeq) -> Result<Vec<Outgoing>, Broken> {
        let due = self.seq_of(count);
        if seq != due || count > self.sent() {
            return Err(Broken::Elsewhere { count, seq, due });
        }
        Ok(self.settle(count))
    }

    /// Takes the number of messages of this epoch that the stream holds.
    pub(super) fn reconcile(&mut self, stored: u64) -> Result<Vec<Outgoing>, Broken> {
        if stored < self.acked || stored > self.sent() {
            return Err(Broken::Lost {
                stored,
                acked: self.acked,
            });
        }
        Ok(self.settle(stored))
    }

    fn settle(&mut self, count: u64) -> Vec<Outgoing> {
        let settled = usize::try_from(count.saturating_sub(self.acked)).unwrap_or(usize::MAX);
        let settled = self.ring.drain(..settled.min(self.ring.len())).collect();
        self.acked = self.acked.max(count);
        settled
    }

    /// Gives up this epoch; what is not known to be stored starts anew.
    pub(super) fn dissolve(&mut self) -> VecDeque<Outgoing> {
        std::mem::take(&mut self.ring)
    }
}

/// Reads a `Tw-Writer` header: epoch, and the number of that epoch's messages.
pub(super) fn parse_writer(text: &str) -> Option<(u64, u64)> {
    let (epoch, count) = text.split_once('.')?;
    Some((epoch.parse().ok()?, count.parse().ok()?))
}

#[cfg(test)]
mod tests;
