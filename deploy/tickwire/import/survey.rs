//! The look at a whole file before anything of it is stored: how many lines, which are bad, and which
//! days of which instruments have trades, so that their bars are built when all of them are there.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use ingest::backfill::{Backfill, Plan};
use schemas::id::Symbol;
use schemas::tick::Tick;
use schemas::time::UnixNanos;
use tokio_util::sync::CancellationToken;

use super::source::Source;
use crate::gauge::Gauge;

/// The length of a day (UTC) in nanoseconds: bars of every length lie within one.
const DAY: i64 = 86_400_000_000_000;
/// Days without trades that are looked through rather than remembered as a hole: there is nothing.
const HOLE: i64 = 7;
/// How often the gauge is moved and the stop looked at, in lines.
const LOOK: u64 = 1_024;

/// What a file is.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// How many lines it has.
    pub(super) lines: u64,
    /// How many of them cannot be used.
    pub(super) bad: u64,
    /// What is wrong with the first of those.
    pub(super) shown: Vec<String>,
    /// The days with trades.
    pub(super) days: BTreeMap<Symbol, Days>,
}

/// Days of one instrument, as runs, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Days(Vec<(i64, i64)>);

/// Looks through a file; `None` if it was stopped.
///
/// # Errors
///
/// The file cannot be read.
pub(super) fn survey(
    source: &Source,
    plan: &Plan,
    (show, gauge): (usize, &mut Gauge),
    stop: &CancellationToken,
) -> Result<Option<Survey>> {
    let mut survey = Survey::default();
    let mut backfill = Backfill::new(source.lines()?, plan)?;
    loop {
        let entry = backfill
            .next_entry()
            .with_context(|| format!("{} behind line {}", source.unreadable(), survey.lines))?;
        let Some(entry) = entry else {
            gauge.set(survey.lines);
            return Ok(Some(survey));
        };
        survey.lines = entry.line;
        if let Some(reject) = entry.reject {
            survey.bad += 1;
            if survey.shown.len() < show {
                survey.shown.push(format!("line {}: {reject}", entry.line));
            }
        }
        for tick in entry.ticks {
            if let Tick::Trade(trade) = tick {
                let days = survey.days.entry(trade.head.symbol).or_default();
                days.add(trade.head.event.unwrap_or(trade.head.received));
            }
        }
        if survey.lines.is_multiple_of(LOOK) {
            gauge.set(survey.lines);
            if stop.is_cancelled() {
                return Ok(None);
            }
        }
    }
}

impl Survey {
    /// All instruments with the spans in which they have trades, in one order.
    pub(super) fn spans(&self) -> impl Iterator<Item = (&Symbol, (UnixNanos, UnixNanos))> {
        let spans = |(symbol, days): (_, &Days)| {
            let runs = days.0.clone();
            runs.into_iter().map(move |(first, last)| {
                let start = UnixNanos::new(first.saturating_mul(DAY));
                let end = UnixNanos::new((last + 1).saturating_mul(DAY));
                (symbol, (start, end))
            })
        };
        self.days.iter().flat_map(spans)
    }
}

impl Days {
    /// Adds the day of a time.
    fn add(&mut self, at: UnixNanos) {
        let day = at.get().div_euclid(DAY);
        // The run that begins at this day or before, where it nearly always belongs.
        let next = self.0.partition_point(|(first, _)| *first <= day);
        let before = next.checked_sub(1).and_then(|index| self.0.get_mut(index));
        let mut joined = None;
        if let Some((_, last)) = before.filter(|(_, last)| day - *last <= HOLE) {
            if day <= *last {
                return;
            }
            *last = day;
            joined = next.checked_sub(1);
        }
        let follows = self.0.get(next).copied();
        match (joined, follows.filter(|(first, _)| *first - day <= HOLE)) {
            (Some(index), Some((_, end))) => {
                if let Some((_, last)) = self.0.get_mut(index) {
                    *last = end;
                }
                self.0.remove(next);
            }
            (None, Some(_)) => {
                if let Some((first, _)) = self.0.get_mut(next) {
                    *first = day;
                }
            }
            (Some(_), None) => {}
            (None, None) => self.0.insert(next, (day, day)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn runs_hold_every_day_in_whatever_order_and_no_long_hole() {
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..200 {
            let added: Vec<i64> = (0..40).map(|_| random.random_range(-300..300)).collect();
            let mut days = Days::default();
            for day in &added {
                days.add(UnixNanos::new(day * DAY + random.random_range(0..DAY)));
            }
            let sorted: BTreeSet<i64> = added.into_iter().collect();
            let mut expected: Vec<(i64, i64)> = Vec::new();
            for day in sorted {
                match expected.last_mut() {
                    Some((_, last)) if day - *last <= HOLE => *last = day,
                    _ => expected.push((day, day)),
                }
            }
            assert_eq!(days.0, expected);
        }
    }
}
