//! Stops asking a database that does not answer, and finds out with one question at a time whether
//! it does again. Pure: time is passed in.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open it.
const FAILURES: u32 = 3;
/// The first pause; each probe that fails doubles it.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Everything is let through.
    Closed { failures: u32 },
    /// Nothing is, for a while.
    Open { until: Instant, pause: Duration },
    /// One question is on its way.
    Probing { pause: Duration },
}

/// Whether questions are let through.
#[derive(Debug)]
pub(super) struct Breaker(State);

impl Breaker {
    /// One that lets everything through.
    pub(super) const fn new() -> Self {
        Self(State::Closed { failures: 0 })
    }

    /// Lets a question through, or says how long to wait. After `Ok`, one of [`Self::succeeded`],
    /// [`Self::failed`] and [`Self::abandoned`] must follow.
    pub(super) fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        match self.0 {
            State::Closed { .. } => Ok(()),
            State::Open { until, .. } if now < until => Err(until - now),
            State::Open { pause, .. } => {
                self.0 = State::Probing { pause };
                Ok(())
            }
            State::Probing { pause } => Err(pause),
        }
    }

    /// The database answered. Whether it began to; `false` if it was never away.
    pub(super) fn succeeded(&mut self) -> bool {
        let was_closed = matches!(self.0, State::Closed { .. });
        self.0 = State::Closed { failures: 0 };
        !was_closed
    }

    /// The database did not answer. Whether questions are held back from this moment on.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        let pause = match self.0 {
            State::Closed { failures } if failures + 1 < FAILURES => {
                let failures = failures + 1;
                self.0 = State::Closed { failures };
                return false;
            }
            State::Closed { .. } => PAUSE,
            // Asked before it opened.
            State::Open { .. } => return false,
            State::Probing { pause } => (pause * 2).min(LONGEST),
        };
        let until = now + pause;
        let opened = matches!(self.0, State::Closed { .. });
        self.0 = State::Open { until, pause };
        opened
    }

    /// Whoever asked went away before the answer: the next one may ask.
    pub(super) fn abandoned(&mut self, now: Instant) {
        if let State::Probing { pause } = self.0 {
            self.0 = State::Open { until: now, pause };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(now: Instant) -> Breaker {
        let mut breaker = Breaker::new();
        for failure in 1..=FAILURES {
            assert_eq!(breaker.admit(now), Ok(()));
            assert_eq!(breaker.failed(now), failure == FAILURES);
        }
        breaker
    }

    #[test]
    fn it_opens_after_failures_in_a_row_only() {
        let now = Instant::now();
        let mut breaker = Breaker::new();
        for _ in 0..10 {
            assert!(!breaker.failed(now));
            assert!(!breaker.failed(now));
            assert!(!breaker.succeeded());
        }
        assert_eq!(breaker.admit(now), Ok(()));
        assert_eq!(open(now).admit(now), Err(PAUSE));
    }

    #[test]
    fn one_question_at_a_time_closes_it() {
        let now = Instant::now();
        let mut breaker = open(now);
        let later = now + PAUSE;
        assert!(breaker.admit(later - Duration::from_nanos(1)).is_err());
        assert_eq!(breaker.admit(later), Ok(()));
        assert_eq!(breaker.admit(later), Err(PAUSE), "another one waits");
        assert!(breaker.succeeded());
        for _ in 0..10 {
            assert_eq!(breaker.admit(later), Ok(()));
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut now = Instant::now();
        let mut breaker = open(now);
        let mut pause = PAUSE;
        for _ in 0..20 {
            assert_eq!(breaker.admit(now), Err(pause));
            now += pause;
            assert_eq!(breaker.admit(now), Ok(()));
            assert!(!breaker.failed(now), "it was not closed");
            pause = (pause * 2).min(LONGEST);
        }
        assert_eq!(pause, LONGEST);
    }

    #[test]
    fn an_abandoned_probe_lets_the_next_one_ask() {
        let now = Instant::now();
        let mut breaker = open(now);
        let later = now + PAUSE;
        assert_eq!(breaker.admit(later), Ok(()));
        breaker.abandoned(later);
        assert_eq!(breaker.admit(later), Ok(()));
        assert!(breaker.admit(later).is_err());
    }

    #[test]
    fn late_answers_of_questions_asked_before_count() {
        let now = Instant::now();
        let mut breaker = open(now);
        assert!(!breaker.failed(now), "it is open already");
        assert_eq!(breaker.admit(now), Err(PAUSE), "and for no longer");
        assert!(breaker.succeeded(), "an answer is an answer");
        assert_eq!(breaker.admit(now), Ok(()));
    }
}
