//! How long the broker may be silent before its connection is given up. Pure.
//!
//! A limit that never moves fails where it matters most: a broker that is busy answers late, every
//! message that it has yet to read is sent again behind a new connection, and so it becomes busier. So
//! each silence doubles the limit, as each lost segment does in TCP, and answers that come soon bring it
//! back.

use std::time::Duration;

use tokio::time::Instant;

/// Nothing shorter is a silence.
const LEAST: Duration = Duration::from_millis(500);
/// A dead connection is noticed after this at the latest.
const MOST: Duration = Duration::from_secs(8);
/// Who answered after some time may take so many times as long for the next answer.
const TIMES: u32 = 4;
/// What is more than that goes by this share with every answer.
const EASE: u32 = 16;

#[derive(Debug)]
pub(super) struct Patience {
    length: Duration,
    /// When something was sent or answered last.
    since: Instant,
}

impl Patience {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            length: LEAST,
            since: now,
        }
    }

    /// How long a silence may be.
    pub(super) const fn length(&self) -> Duration {
        self.length
    }

    /// When a silence has become too long.
    pub(super) fn deadline(&self) -> Instant {
        self.since + self.length
    }

    /// From now on an answer is due.
    pub(super) const fn begin(&mut self, now: Instant) {
        self.since = now;
    }

    /// The broker has stored more, and perhaps another answer is due.
    pub(super) fn answered(&mut self, now: Instant) {
        let due = now.saturating_duration_since(self.since) * TIMES;
        let eased = self.length.saturating_sub(self.length / EASE);
        self.length = due.max(eased).clamp(LEAST, MOST);
        self.since = now;
    }

    /// It was silent for too long.
    pub(super) fn ran_out(&mut self) {
        self.length = (self.length * 2).min(MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(patience: &mut Patience, waits: &[u64]) -> Duration {
        for wait in waits {
            patience.answered(patience.since + Duration::from_millis(*wait));
        }
        patience.length()
    }

    #[test]
    fn it_follows_what_answers_take_and_comes_back() {
        let mut patience = Patience::new(Instant::now());
        assert_eq!(after(&mut patience, &[0, 1, 100]), LEAST);
        assert_eq!(after(&mut patience, &[200]), Duration::from_millis(800));
        // Soon again: no sooner than by a share of it each.
        let eased = after(&mut patience, &[1]);
        assert_eq!(eased, Duration::from_millis(750));
        assert_eq!(after(&mut patience, &[1; 20]), LEAST);
        assert_eq!(after(&mut patience, &[60_000]), MOST);
    }

    #[test]
    fn each_silence_doubles_it_up_to_a_bound() {
        let mut patience = Patience::new(Instant::now());
        let mut before = patience.length();
        while before < MOST {
            patience.ran_out();
            assert_eq!(patience.length(), (before * 2).min(MOST));
            before = patience.length();
        }
        patience.ran_out();
        assert_eq!(patience.length(), MOST);
        assert_eq!(patience.deadline(), patience.since + MOST);
    }
}
