//! Counts the deliveries of one consumer, so that no loss goes unseen. Pure.

use schemas::position::StreamSeq;
use schemas::time::UnixNanos;

/// Where a delivery stands, as its reply subject tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The message's sequence.
    pub stream_seq: StreamSeq,
    /// The how manieth delivery of its consumer it is, from 1.
    pub consumer_seq: u64,
    /// When the broker stored it.
    pub time: UnixNanos,
}

impl Stamp {
    /// Reads `$JS.ACK.…`: 9 tokens, or at least 11 with domain and account.
    pub(super) fn parse(reply: &str) -> Option<Self> {
        let rest = reply.strip_prefix("$JS.ACK.")?;
        let skipped = if rest.split('.').count() >= 9 { 5 } else { 3 };
        let mut tokens = rest.split('.').skip(skipped);
        let mut next = || tokens.next()?.parse::<u64>().ok();
        let stream_seq = StreamSeq::new(next()?);
        let consumer_seq = next()?;
        let time = UnixNanos::new(i64::try_from(next()?).ok()?);
        let _pending = next()?;
        Some(Self {
            stream_seq,
            consumer_seq,
            time,
        })
    }
}

/// How many deliveries a consumer has made.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    seen: u64,
}

impl Delivery {
    /// Counts a delivery; `false` if it is not the one that was due.
    pub(super) const fn advance(&mut self, consumer_seq: u64) -> bool {
        if consumer_seq != self.seen + 1 {
            return false;
        }
        self.seen = consumer_seq;
        true
    }

    /// Whether the broker has made as many.
    pub(super) const fn matches(&self, count: u64) -> bool {
        self.seen == count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_reply_are_read() {
        let expected = Stamp {
            stream_seq: StreamSeq::new(42),
            consumer_seq: 7,
            time: UnixNanos::new(1_767_000_000_000_000_001),
        };
        for reply in [
            "$JS.ACK.TICKS.fo-1.1.42.7.1767000000000000001.3",
            "$JS.ACK.hub.ACCHASH.TICKS.fo-1.1.42.7.1767000000000000001.3",
            "$JS.ACK.hub.ACCHASH.TICKS.fo-1.1.42.7.1767000000000000001.3.random",
        ] {
            assert_eq!(Stamp::parse(reply), Some(expected), "{reply}");
        }
        for reply in [
            "",
            "$JS.ACK.",
            "$JS.ACK.TICKS.fo.1.x.7.1.3",
            "$JS.FC.TICKS.fo.x",
            "_INBOX.a",
        ] {
            assert_eq!(Stamp::parse(reply), None, "{reply}");
        }
    }

    #[test]
    fn every_miscount_is_seen() {
        let mut delivery = Delivery::default();
        assert!(delivery.advance(1) && delivery.advance(2));
        assert!(delivery.matches(2));
        assert!(!delivery.matches(3));
        assert!(!delivery.advance(2));
        assert!(!delivery.advance(4));
    }
}
