//! Which stored bars an answer is made of, and the walk over them.

use std::collections::VecDeque;

use schemas::id::Interval;
use schemas::time::UnixNanos;

use super::{Ask, Overflow, Part, ReadError, Reader, Roller, Whole, part};
use crate::bars::calendar::Calendar;
use crate::bars::resolution::Length;
use crate::store::{Page, Place, Progress, Range, Series, StoreError, TickStore};

/// The most rows that are held at a time, and the fewest that are worth asking for.
const PAGE: u32 = 4_096;
const FEW: u32 = 64;

/// Stored bars of one interval in a range of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) interval: Interval,
    pub(super) from: UnixNanos,
    pub(super) to: UnixNanos,
}

/// The reading of one answer.
pub(super) struct Walk<'a, S> {
    reader: &'a Reader<S>,
    ask: &'a Ask,
    calendar: &'a Calendar,
    /// Of the first question: later ones can only know more.
    progress: Option<Progress>,
    asked: bool,
    /// Rows that may still be read.
    left: u32,
}

impl<'a, S: TickStore> Walk<'a, S> {
    pub(super) const fn new(reader: &'a Reader<S>, ask: &'a Ask, calendar: &'a Calendar) -> Self {
        Self {
            reader,
            ask,
            calendar,
            progress: None,
            asked: false,
            left: reader.max_parts,
        }
    }

    /// How far the stream was recorded when the first question was asked.
    pub(super) const fn progress(&self) -> Option<Progress> {
        self.progress
    }

    /// How many rows were read to be rolled up.
    pub(super) const fn parts(&self) -> u32 {
        self.reader.max_parts.saturating_sub(self.left)
    }

    /// Where to read what, ascending: the longest interval that serves wherever it has bars, what
    /// lies before and behind from shorter ones.
    pub(super) async fn plan(&mut self) -> Result<Vec<Segment>, StoreError> {
        let (from, to) = self.whole_periods();
        let intervals = self.intervals();
        let mut segments = Vec::new();
        // The first that has anything, and then what shorter ones have before it.
        let (mut until, mut shorter, mut since) = (to, intervals.as_slice(), None);
        for (at, &interval) in (1..).zip(&intervals) {
            let Some(first) = self.end(interval, (from, until), false).await? else {
                continue;
            };
            let last = self.end(interval, (first, until), true).await?;
            let end = last.unwrap_or(first).offset(interval.nanos()).min(until);
            if since.is_none() {
                since = Some(end);
                shorter = intervals.get(at..).unwrap_or_default();
            }
            segments.push(Segment {
                interval,
                from: first,
                to: end,
            });
            until = first;
        }
        segments.reverse();
        // What shorter ones have behind it: as a rule, of the period that is not over.
        let mut since = since.unwrap_or(to);
        for &interval in shorter {
            if let Some(last) = self.end(interval, (since, to), true).await? {
                let end = last.offset(interval.nanos()).min(to);
                segments.push(Segment {
                    interval,
                    from: since,
                    to: end,
                });
                since = end;
            }
        }
        Ok(segments)
    }

    /// The start of the latest stored bar before a time.
    pub(super) async fn latest(
        &mut self,
        before: UnixNanos,
    ) -> Result<Option<UnixNanos>, StoreError> {
        let all = (UnixNanos::new(i64::MIN), before);
        let mut latest = None;
        for interval in self.intervals() {
            latest = latest.max(self.end(interval, all, true).await?);
        }
        Ok(latest)
    }

    /// Rolls up what the segments have, in the order in which it is asked for; tells whether there is
    /// more.
    pub(super) async fn roll(
        &mut self,
        mut segments: Vec<Segment>,
        mut roller: Roller<'_>,
        limit: usize,
    ) -> Result<(VecDeque<Whole>, bool), ReadError> {
        if self.ask.last {
            segments.reverse();
        }
        let mut wholes = VecDeque::new();
        for segment in segments {
            let mut after = None;
            loop {
                let missing = limit.saturating_sub(wholes.len()).saturating_add(1);
                let size = self.page_size(segment.interval, missing);
                let range = self.range(segment, self.ask.last, after, size);
                let rows = self.page(&range).await?.rows;
                self.left -= u32::try_from(rows.len()).unwrap_or(u32::MAX).min(self.left);
                let full = rows.len() >= usize::try_from(size).unwrap_or(usize::MAX);
                after = rows.last().map(|row| (row.at, row.epoch, row.seq));
                for row in &rows {
                    wholes.extend(self.push(&mut roller, part(row)?)?);
                    if wholes.len() == limit {
                        return Ok((wholes, true));
                    }
                }
                if !full {
                    break;
                }
                if self.left == 0 {
                    if wholes.is_empty() {
                        return Err(self.too_many_parts());
                    }
                    return Ok((wholes, true));
                }
            }
        }
        wholes.extend(roller.finish());
        Ok((wholes, false))
    }

    const fn too_many_parts(&self) -> ReadError {
        ReadError::Parts {
            resolution: self.ask.resolution,
            limit: self.reader.max_parts,
        }
    }

    fn push(&self, roller: &mut Roller<'_>, part: Part) -> Result<Option<Whole>, ReadError> {
        let resolution = self.ask.resolution;
        roller
            .push(part)
            .map_err(|Overflow { start }| ReadError::Volume { resolution, start })
    }

    /// The intervals that serve, longest first.
    fn intervals(&self) -> Vec<Interval> {
        let serves = |interval: &Interval| self.calendar.serves(*interval, self.ask.resolution);
        let longest_first = Interval::ALL.iter().rev().copied();
        longest_first.filter(serves).collect()
    }

    /// The range of the periods that begin in the range that is asked for.
    fn whole_periods(&self) -> (UnixNanos, UnixNanos) {
        let Ask { from, to, .. } = *self.ask;
        let resolution = self.ask.resolution;
        let first = self.calendar.period(resolution, from);
        let from = if first.start < from { first.end } else { from };
        let last = self.calendar.period(resolution, to.offset(-1));
        (from, if from < to { last.end } else { to })
    }

    /// The first or the last stored bar of a range.
    async fn end(
        &mut self,
        interval: Interval,
        (from, to): (UnixNanos, UnixNanos),
        last: bool,
    ) -> Result<Option<UnixNanos>, StoreError> {
        let segment = Segment { interval, from, to };
        // Whoever asks for nothing still wants to know how far the stream is recorded.
        if from >= to && self.asked {
            return Ok(None);
        }
        let range = self.range(segment, last, None, 1);
        let page = self.page(&range).await?;
        Ok(page.rows.first().map(|row| row.at))
    }

    async fn page(&mut self, range: &Range) -> Result<Page, StoreError> {
        let page = self.reader.store.page(&self.reader.stream, range).await?;
        if !std::mem::replace(&mut self.asked, true) {
            self.progress = page.progress;
        }
        Ok(page)
    }

    fn range(&self, segment: Segment, descending: bool, after: Option<Place>, limit: u32) -> Range {
        let (venue, symbol) = (self.ask.venue.clone(), self.ask.symbol.clone());
        Range {
            series: Series::Bars(venue, symbol, segment.interval),
            from: segment.from,
            to: segment.to,
            descending,
            after,
            limit,
        }
    }

    /// So many rows that a page gives the bars that are missing, if it can.
    fn page_size(&self, interval: Interval, missing: usize) -> u32 {
        const SECOND: i64 = 1_000_000_000;
        let seconds = match self.ask.resolution.length() {
            Length::Seconds(seconds) => seconds,
            Length::Days(days) => days.saturating_mul(86_400),
            Length::Weeks(weeks) => weeks.saturating_mul(604_800),
            Length::Months(months) => months.saturating_mul(2_678_400),
        };
        let part = u32::try_from(interval.nanos() / SECOND).unwrap_or(1).max(1);
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        let rows = missing.saturating_mul(seconds.div_ceil(part));
        rows.clamp(FEW, PAGE).min(self.left)
    }
}
