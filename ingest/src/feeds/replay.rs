//! Recordings: captured frames of a venue, or a CSV of trades, at any speed.
//!
//! A capture is one JSON object a line: `ts_ns` (receive time), `dir` (`in`, `out`, `open`), `raw`
//! (the text frame). A CSV has the columns time, symbol, id, price, size and side (the taker's);
//! time is RFC 3339 or integer nanoseconds. The receive time of a replayed tick is the recorded one.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemas::id::{FeedName, Venue};
use schemas::tick::{Head, Side, Tick, Trade};
use schemas::time::UnixNanos;
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};

use super::binance::Binance;
use super::coinbase::Coinbase;
use super::live::Rejects;
use super::{instrument, rfc3339, symbol, time};
use crate::config::Format;
use crate::feed::{Decoded, Decoder, Feed, FeedError, Reason, Reject};

/// The longest line that is read, in bytes.
const MAX_LINE: usize = 16 * 1024 * 1024;
/// Lines per batch when replaying as fast as possible.
const BATCH: usize = 256;

/// Plays a recording.
pub struct Replay {
    path: PathBuf,
    lines: BufReader<File>,
    decoder: Box<dyn Decoder>,
    is_csv: bool,
    speed: Option<f64>,
    repeat: bool,
    rejects: Rejects,
    number: u64,
    pass: u64,
    /// Recorded time of the first line of the pass, and when it was played.
    origin: Option<(UnixNanos, Instant)>,
    latest: UnixNanos,
    /// What is added to times so that a later pass follows the one before.
    shift: i64,
    pending: Option<Line>,
}

struct Line {
    due: UnixNanos,
    raw: String,
}

#[derive(Deserialize)]
struct Captured {
    ts_ns: i64,
    dir: String,
    raw: Option<String>,
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
        let decoder: Box<dyn Decoder> = match format {
            Format::Binance => Box::new(Binance::new(venue, Vec::new(), Vec::new())),
            Format::Coinbase => Box::new(Coinbase::new(venue, feed, Vec::new(), Vec::new())),
            Format::Csv => Box::new(Csv {
                venue,
                columns: None,
                known: std::collections::HashSet::new(),
            }),
        };
        Ok(Self {
            lines: BufReader::new(open(path)?),
            path: path.to_owned(),
            decoder,
            is_csv: format == Format::Csv,
            speed,
            repeat,
            rejects,
            number: 0,
            pass: 0,
            origin: None,
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
            let mut bytes = Vec::new();
            let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
            let read = std::io::Read::take(&mut self.lines, limit).read_until(b'\n', &mut bytes);
            if read.map_err(|error| self.failure(&error))? == 0 {
                return Ok(None);
            }
            if bytes.len() >= MAX_LINE {
                let problem = format!("line {} is longer than {MAX_LINE} bytes", self.number);
                return Err(self.failure(&problem));
            }
            let line = String::from_utf8(bytes);
            match line
                .map_err(|_| Reject::new(Reason::Malformed, "not UTF-8"))
                .and_then(|line| self.parse(&line))
            {
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

    fn parse(&self, line: &str) -> Result<Option<Line>, Reject> {
        let line = line.trim_end_matches(['\r', '\n']);
        if line.is_empty() {
            return Ok(None);
        }
        if self.is_csv {
            let due = Csv::time_of(line).unwrap_or(self.latest);
            return Ok(Some(Line {
                due,
                raw: line.to_owned(),
            }));
        }
        let captured: Captured =
            serde_json::from_str(line).map_err(|error| super::malformed(&error))?;
        let due = time("ts_ns", Some(captured.ts_ns))?;
        Ok(captured
            .raw
            .filter(|_| captured.dir == "in")
            .map(|raw| Line { due, raw }))
    }

    /// Starts the next pass, behind the one that ended.
    fn rewind(&mut self) -> Result<(), FeedError> {
        let first = self.origin.map_or(self.latest, |(first, _)| first);
        self.shift = self
            .shift
            .saturating_add(self.latest.get() - first.get() + 1_000_000_000);
        self.lines = BufReader::new(open(&self.path)?);
        self.decoder.reset();
        self.pass += 1;
        self.number = 0;
        self.origin = None;
        Ok(())
    }

    fn play(&mut self, line: &Line, ticks: &mut Vec<Tick>) {
        self.latest = self.latest.max(line.due);
        let from = ticks.len();
        if let Err(reject) = self.decoder.decode(&line.raw, line.due, ticks) {
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

    fn due_at(&mut self, line: &Line) -> Option<Instant> {
        let speed = self.speed?;
        let (first, started) = *self.origin.get_or_insert((line.due, Instant::now()));
        let elapsed = line.due.since(first).as_secs_f64() / speed;
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
                if !self.repeat || self.latest == UnixNanos::EPOCH {
                    return Ok(None);
                }
                self.rewind()?;
                continue;
            };
            if self.origin.is_none() {
                self.origin = Some((line.due, Instant::now()));
            }
            if let Some(at) = self.due_at(&line).filter(|at| *at > Instant::now()) {
                self.pending = Some(line);
                if !ticks.is_empty() {
                    return Ok(Some(ticks));
                }
                sleep_until(at).await;
                continue;
            }
            self.play(&line, &mut ticks);
        }
        Ok(Some(ticks))
    }
}

/// Trades as comma-separated values.
struct Csv {
    venue: Venue,
    columns: Option<[usize; 6]>,
    known: std::collections::HashSet<String>,
}

const COLUMNS: [&str; 6] = ["time", "symbol", "id", "price", "size", "side"];

impl Csv {
    /// The time of a line, for pacing; the first column where no header says otherwise.
    fn time_of(line: &str) -> Option<UnixNanos> {
        let first = line.split(',').next()?.trim_matches('"');
        first
            .parse()
            .map(UnixNanos::new)
            .ok()
            .or_else(|| rfc3339("time", first).ok())
    }

    fn fields(line: &str) -> Result<csv::StringRecord, Reject> {
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .from_reader(line.as_bytes());
        let record = reader.records().next().and_then(Result::ok);
        record.ok_or_else(|| Reject::new(Reason::Malformed, "not comma-separated values"))
    }
}

impl Decoder for Csv {
    fn decode(
        &mut self,
        raw: &str,
        received: UnixNanos,
        out: &mut Vec<Tick>,
    ) -> Result<Decoded, Reject> {
        let fields = Self::fields(raw)?;
        let Some(columns) = self.columns else {
            let place = |name: &&str| {
                fields
                    .iter()
                    .position(|field| field.trim().eq_ignore_ascii_case(name))
                    .ok_or_else(|| {
                        Reject::new(
                            Reason::Malformed,
                            format!("the header has no column {name}"),
                        )
                    })
            };
            let mut columns = [0; 6];
            for (column, name) in columns.iter_mut().zip(&COLUMNS) {
                *column = place(name)?;
            }
            self.columns = Some(columns);
            return Ok(Decoded::Ignored);
        };
        let [at, name, id, price, size, side] =
            columns.map(|column| fields.get(column).unwrap_or("").trim());
        let event = at
            .parse()
            .ok()
            .map_or_else(|| rfc3339("time", at), |nanos| time("time", Some(nanos)))?;
        let refuse = |field: &str, error: &dyn std::fmt::Display| {
            Reject::new(Reason::Range, format!("{field}: {error}"))
        };
        let side = match side {
            "buy" => Side::Buy,
            "sell" => Side::Sell,
            "" | "unknown" => Side::Unknown,
            _ => return Err(refuse("side", &"not buy, sell or unknown")),
        };
        if id.is_empty() || id.len() > 64 {
            return Err(refuse("id", &"not 1 to 64 characters"));
        }
        let symbol = symbol("symbol", name)?;
        let price = price.parse().map_err(|error| refuse("price", &error))?;
        let size = size.parse().map_err(|error| refuse("size", &error))?;
        if self.known.insert(name.to_owned()) {
            out.push(instrument(&self.venue, &symbol, received).into());
        }
        // A row has one time, wherever its column stands.
        let mut head = Head::new(self.venue.clone(), symbol, event);
        head.event = Some(event);
        out.push(
            Trade {
                head,
                id: id.to_owned(),
                price,
                size,
                side,
                conditions: None,
            }
            .into(),
        );
        Ok(Decoded::Ticks)
    }

    fn requests(&self) -> Vec<String> {
        Vec::new()
    }

    fn reset(&mut self) {
        self.columns = None;
    }
}
