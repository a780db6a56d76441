//! Which trades of an instrument were already published. Pure.
//!
//! Numeric ids are remembered as runs without a gap, so that the ids of a venue that counts its
//! trades take no room, however many there are; other ids are remembered one by one. An id that is
//! remembered is a duplicate. One that is not is new, wherever it lies: a late trade may have a
//! lower id, a jump up only begins another run, and a venue may begin to count anew. Only where ids
//! were forgotten, because there were too many runs or because a new writer did not read them, the
//! event time decides: an id that is not above those forgotten is a duplicate unless its trade is
//! later than theirs.

use std::collections::{HashSet, VecDeque};

use schemas::time::UnixNanos;

/// Runs that are remembered of an instrument: a venue that counts over all instruments makes one of
/// every trade.
const RUNS: usize = 128;
/// Ids that are not numbers are remembered for so many trades.
const REMEMBERED: usize = 1_024;

/// What an id says of its trade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It was published before.
    Duplicate,
    /// It was not.
    New,
    /// It was not, and the venue has begun to count anew: it is later than all, and its id is lower.
    Restart,
}

/// The trade ids of one instrument.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ids {
    /// Those that grew last come last.
    runs: Vec<Run>,
    /// Ids up to this one may have been published and forgotten, with event times up to this one.
    forgotten: Option<(u64, UnixNanos)>,
    /// The latest event time.
    newest: UnixNanos,
    recent: VecDeque<String>,
    known: HashSet<String>,
}

/// Ids without a gap, and the latest event time among them.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: u64,
    last: u64,
    newest: UnixNanos,
}

impl Ids {
    /// Takes in the id of a trade that the stream holds.
    pub(crate) fn restore(&mut self, id: &str, at: UnixNanos) {
        // Only that it is known from now on matters.
        let _verdict = self.judge(id, at);
    }

    /// The highest id that is a number, and the latest event time; 0 and 1970 if there is none.
    pub(crate) fn highest(&self) -> (u64, UnixNanos) {
        let last = self.runs.iter().map(|run| run.last).max();
        (last.unwrap_or(0), self.newest)
    }

    /// The stream holds other trades, too, up to this event time and below the ids taken in so far.
    pub(crate) fn forget_others(&mut self, until: UnixNanos) {
        self.newest = self.newest.max(until);
        let lowest = self.runs.iter().map(|run| run.first).min();
        if let Some(below) = lowest.and_then(|lowest| lowest.checked_sub(1)) {
            self.forget(below, self.newest);
        }
    }

    /// What the id says of a trade at `at`; it is known from now on.
    pub(crate) fn judge(&mut self, id: &str, at: UnixNanos) -> Verdict {
        let Ok(number) = id.parse::<u64>() else {
            return self.judge_text(id);
        };
        let is_in = |run: &Run| (run.first..=run.last).contains(&number);
        // Nearly always it follows on the last run.
        if self.runs.iter().rev().any(is_in) {
            return Verdict::Duplicate;
        }
        let was_forgotten = |(below, until): (u64, UnixNanos)| number <= below && at <= until;
        if self.forgotten.is_some_and(was_forgotten) {
            return Verdict::Duplicate;
        }
        let is_lowest = self.runs.iter().all(|run| number < run.first);
        let restart = is_lowest && !self.runs.is_empty() && at > self.newest;
        self.insert(number, at);
        self.newest = self.newest.max(at);
        if restart {
            Verdict::Restart
        } else {
            Verdict::New
        }
    }

    fn insert(&mut self, number: u64, at: UnixNanos) {
        let mut grown = Run {
            first: number,
            last: number,
            newest: at,
        };
        self.runs.retain(|run| {
            let joins =
                run.last.checked_add(1) == Some(number) || number.checked_add(1) == Some(run.first);
            if joins {
                grown.first = grown.first.min(run.first);
                grown.last = grown.last.max(run.last);
                grown.newest = grown.newest.max(run.newest);
            }
            !joins
        });
        self.runs.push(grown);
        if self.runs.len() > RUNS {
            let dropped = self.runs.remove(0);
            self.forget(dropped.last, dropped.newest);
        }
    }

    fn forget(&mut self, below: u64, until: UnixNanos) {
        let (old_below, old_until) = self.forgotten.unwrap_or((below, until));
        self.forgotten = Some((below.max(old_below), until.max(old_until)));
    }

    fn judge_text(&mut self, id: &str) -> Verdict {
        if !self.known.insert(id.to_owned()) {
            return Verdict::Duplicate;
        }
        self.recent.push_back(id.to_owned());
        if self.recent.len() > REMEMBERED
            && let Some(oldest) = self.recent.pop_front()
        {
            self.known.remove(&oldest);
        }
        Verdict::New
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict::{Duplicate, New, Restart};
    use super::*;

    fn judge(ids: &mut Ids, trades: &[(u64, i64)]) -> Vec<Verdict> {
        let judge = |(id, at): &(u64, i64)| ids.judge(&id.to_string(), UnixNanos::new(*at));
        trades.iter().map(judge).collect()
    }

    /// As a new writer starts behind these.
    fn restored(trades: &[(u64, i64)]) -> Ids {
        let mut ids = Ids::default();
        for (id, at) in trades {
            ids.restore(&id.to_string(), UnixNanos::new(*at));
        }
        ids.forget_others(UnixNanos::EPOCH);
        ids
    }

    #[test]
    fn two_connections_that_overlap_give_every_trade_once() {
        let mut ids = Ids::default();
        let first: Vec<(u64, i64)> = (100..3_000).map(|n| (n, 50)).collect();
        assert!(
            judge(&mut ids, &first)
                .iter()
                .all(|verdict| *verdict == New)
        );
        assert!(
            judge(&mut ids, &first)
                .iter()
                .all(|verdict| *verdict == Duplicate)
        );
        assert_eq!(
            judge(&mut ids, &[(3_001, 51), (2_999, 50), (3_000, 51)]),
            [New, Duplicate, New]
        );
        assert_eq!(ids.runs.len(), 1);
    }

    #[test]
    fn a_late_trade_with_a_lower_id_is_new() {
        let mut ids = Ids::default();
        let trades = [(10, 5), (12, 7), (11, 6), (9, 4), (9, 4)];
        assert_eq!(judge(&mut ids, &trades), [New, New, New, New, Duplicate]);
        let mut ids = restored(&[(10, 5), (12, 7)]);
        assert_eq!(judge(&mut ids, &[(11, 6), (12, 7)]), [New, Duplicate]);
    }

    #[test]
    fn ids_that_begin_anew_are_counted_once() {
        let before = [(1_000, 5), (1_001, 6)];
        let mut ids = Ids::default();
        judge(&mut ids, &before);
        for mut ids in [ids, restored(&before)] {
            let trades = [(1, 7), (2, 7), (1, 7), (3, 8), (1_001, 6)];
            assert_eq!(
                judge(&mut ids, &trades),
                [Restart, New, Duplicate, New, Duplicate]
            );
        }
    }

    #[test]
    fn one_huge_id_drops_no_trade_after_it() {
        let huge = (u64::MAX, 6);
        let mut ids = Ids::default();
        let trades = [(10, 5), huge, (11, 6), (12, 7), huge, (0, 8), (0, 8)];
        assert_eq!(
            judge(&mut ids, &trades),
            [New, New, New, New, Duplicate, Restart, Duplicate]
        );
        let mut ids = restored(&[huge]);
        let trades = [(11, 7), (12, 7), (13, 8), (9, 5)];
        assert_eq!(judge(&mut ids, &trades), [Restart, New, New, Duplicate]);
    }

    #[test]
    fn what_a_new_writer_did_not_read_is_a_duplicate() {
        let mut ids = restored(&[(500, 9), (501, 10)]);
        let trades = [(499, 9), (7, 1), (501, 10), (502, 10)];
        assert_eq!(
            judge(&mut ids, &trades),
            [Duplicate, Duplicate, Duplicate, New]
        );
    }

    #[test]
    fn gaps_without_end_take_bounded_room_and_nothing_is_doubled() {
        let mut ids = Ids::default();
        let trades: Vec<(u64, i64)> = (1..5_000).map(|n: u64| (n * 3, n.cast_signed())).collect();
        assert!(
            judge(&mut ids, &trades)
                .iter()
                .all(|verdict| *verdict == New)
        );
        assert!(
            judge(&mut ids, &trades)
                .iter()
                .all(|verdict| *verdict == Duplicate)
        );
        assert_eq!(ids.runs.len(), RUNS);
        for n in 0..2_000 {
            assert_eq!(ids.judge(&format!("x~{n}"), UnixNanos::EPOCH), New);
            assert_eq!(ids.judge(&format!("x~{n}"), UnixNanos::EPOCH), Duplicate);
        }
        assert_eq!(ids.known.len(), REMEMBERED);
    }
}
