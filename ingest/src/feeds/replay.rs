//! Recordings: captured frames of a venue, or a CSV of trades, at any speed.
//!
//! A capture is one JSON object a line: `ts_ns` (receive time), `dir` (`in`, `out`, `open`), `raw`
//! (the text frame). A CSV has the columns time, symbol, id, price, size and side (the taker's);
//! time is RFC 3339 or integer nanoseconds. The receive time of a replayed tick is the recorded one.
//! Times are the recording's own: they may be of any day, and holes of more than an hour are not
//! waited for.

pub(crate) mod recording;
mod trades;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemas::id::{FeedName, Venue};
use schemas::tick::Tick;
use schemas::time::UnixNanos;
use tokio::time::{Instant, sleep_until};

use super::TIMES;
use super::live::Rejects;
use crate::config::Format;
use crate::feed::{Feed, FeedError, Reject};
use recording::{Content, Line, next_line};

/// The longest hole between two lines that is waited for, in recorded nanoseconds.
const LONGEST_HOLE: u64 = 3_600_000_000_000;
/// Lines per batch when replaying as fast as possible.
const BATCH: usize = 256;

/// Plays a recording.
pub struct Replay {
    path: PathBuf,
    lines: BufReader<File>,
    format: Content,
    speed: Option<f64>,
    repeat: bool,
    rejects: Rejects,
    number: u64,
    pass: u64,
    /// Recorded time of the first line of the pass.
    first: Option<UnixNanos>,
    /// Recorded time of a line, and when it was played: lines behind it are played by it.
    origin: Option<(UnixNanos, Instant)>,
    /// Recorded time of the last line.
    last: UnixNanos,
    latest: UnixNanos,
    /// What is added to times so that a later pass follows the one before.
    shift: i64,
    pending: Option<Line>,
}

impl Replay {
    /// Opens a recording.
    ///
    /// # Errors
    ///
    /// [`FeedError::File`].
    pub fn open(
        (format, venue, feed): (Format, Venue, FeedName),
        path: &Path,
        speed: Option<f64>,
        repeat: bool,
        rejects: Rejects,
    ) -> Result<Self, FeedError> {
        Ok(Self {
            lines: BufReader::new(open(path)?),
            path: path.to_owned(),
            format: Content::of(format, venue, feed),
            speed,
            repeat,
            rejects,
            number: 0,
            pass: 0,
            first: None,
            origin: None,
            last: UnixNanos::EPOCH,
            latest: UnixNanos::EPOCH,
            shift: 0,
            pending: None,
        })
    }

    fn failure(&self, problem: &impl ToString) -> FeedError {
        FeedError::File {
            path: self.path.display().to_string(),
            problem: problem.to_string(),
        }
    }

    /// Reads the next line to play; `None` at the end of the file.
    fn read(&mut self) -> Result<Option<Line>, FeedError> {
        loop {
            self.number += 1;
            let parsed = match next_line(&mut self.lines) {
                Ok(Some(line)) => line.and_then(|line| self.format.parse(&line)),
                Ok(None) => return Ok(None),
                Err(error) => return Err(self.failure(&error)),
            };
            match parsed {
                Ok(Some(line)) => return Ok(Some(line)),
                Ok(None) => {}
                Err(reject) => self.reject(&reject),
            }
        }
    }

    fn reject(&mut self, reject: &Reject) {
        let message = format!("line {}: {}", self.number, reject.message);
        self.rejects.note(&Reject::new(reject.reason, message));
    }

    /// Starts the next pass, behind the one that ended; `false` if its times would be out of bounds.
    fn rewind(&mut self) -> Result<bool, FeedError> {
        let first = self.first.take().unwrap_or(self.latest);
        let span = self.latest.get().saturating_sub(first.get());
        self.shift = self
            .shift
            .saturating_add(span)
            .saturating_add(1_000_000_000);
        if !TIMES.contains(&self.latest.get().saturating_add(self.shift)) {
            return Ok(false);
        }
        self.lines = BufReader::new(open(&self.path)?);
        self.format.reset();
        self.pass += 1;
        self.number = 0;
        self.origin = None;
        Ok(true)
    }

    fn play(&mut self, line: Line, ticks: &mut Vec<Tick>) {
        self.first.get_or_insert(line.due);
        self.last = line.due;
        self.latest = self.latest.max(line.due);
        let from = ticks.len();
        if let Err(reject) = self.format.decode(line, ticks) {
            self.reject(&reject);
        }
        if self.pass > 0 {
            for tick in ticks.iter_mut().skip(from) {
                let head = tick.head_mut();
                head.received = head.received.offset(self.shift);
                head.event = head.event.map(|event| event.offset(self.shift));
                if let Tick::Trade(trade) = tick {
                    trade.id = format!("{}~{}", trade.id, self.pass);
                }
            }
        }
    }

    /// When a line is to be played; `None` at once.
    fn due_at(&mut self, due: UnixNanos) -> Option<Instant> {
        let speed = self.speed?;
        let hole = due.get().abs_diff(self.last.get());
        let origin = self.origin.filter(|_| hole <= LONGEST_HOLE);
        let (from, started) = *self.origin.insert(origin.unwrap_or((due, Instant::now())));
        let elapsed = due.since(from).as_secs_f64() / speed;
        Some(started + Duration::try_from_secs_f64(elapsed).unwrap_or_default())
    }
}

fn open(path: &Path) -> Result<File, FeedError> {
    File::open(path).map_err(|error| FeedError::File {
        path: path.display().to_string(),
        problem: error.to_string(),
    })
}

impl Feed for Replay {
    async fn next(&mut self) -> Result<Option<Vec<Tick>>, FeedError> {
        let mut ticks = Vec::new();
        for _ in 0..BATCH {
            if self.pending.is_none() {
                self.pending = self.read()?;
            }
            let Some(line) = self.pending.take() else {
                if !ticks.is_empty() {
                    return Ok(Some(ticks));
                }
                if !self.repeat || self.latest == UnixNanos::EPOCH || !self.rewind()? {
                    return Ok(None);
                }
                continue;
            };
            if let Some(at) = self.due_at(line.due).filter(|at| *at > Instant::now()) {
                self.pending = Some(line);
                if !ticks.is_empty() {
                    return Ok(Some(ticks));
                }
                sleep_until(at).await;
                continue;
            }
            self.play(line, &mut ticks);
        }
        Ok(Some(ticks))
    }
}

#[cfg(test)]
mod tests;
