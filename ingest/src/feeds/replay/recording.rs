//! The lines of a recording, one at a time: what is read of them, and the ticks that they come to.

use std::io::{self, BufRead, Read as _};

use schemas::id::{FeedName, Venue};
use schemas::tick::Tick;
use schemas::time::UnixNanos;
use serde::Deserialize;

use super::trades::Trades;
use crate::config::Format;
use crate::feed::{Decoder, Reason, Reject};
use crate::feeds::binance::Binance;
use crate::feeds::coinbase::Coinbase;
use crate::feeds::{malformed, time};

/// The longest line that is read, in bytes.
pub(super) const MAX_LINE: usize = 16 * 1024 * 1024;

/// What the lines of a recording are.
pub(crate) enum Content {
    Frames(Box<dyn Decoder>),
    Trades(Trades),
}

/// A line, and when it was recorded.
pub(crate) struct Line {
    pub(crate) due: UnixNanos,
    played: Played,
}

enum Played {
    Frame(String),
    Ticks(Vec<Tick>),
}

#[derive(Deserialize)]
struct Captured {
    ts_ns: i64,
    dir: String,
    raw: Option<String>,
}

/// Reads the next line, without its end; `None` behind the last. One that is too long is passed over.
pub(crate) fn next_line(lines: &mut impl BufRead) -> io::Result<Option<Result<String, Reject>>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
    if lines.take(limit).read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    if bytes.len() >= MAX_LINE {
        if !bytes.ends_with(b"\n") {
            lines.skip_until(b'\n')?;
        }
        let message = format!("longer than {MAX_LINE} bytes");
        return Ok(Some(Err(Reject::new(Reason::Size, message))));
    }
    let ends = |byte: &u8| matches!(byte, b'\r' | b'\n');
    while bytes.last().is_some_and(ends) {
        bytes.pop();
    }
    let line = String::from_utf8(bytes).map_err(|_| Reject::new(Reason::Malformed, "not UTF-8"));
    Ok(Some(line))
}

impl Content {
    /// Lines of this format, before the first.
    pub(crate) fn of(format: Format, venue: Venue, feed: FeedName) -> Self {
        match format {
            Format::Binance => Self::Frames(Box::new(Binance::new(venue, Vec::new(), Vec::new()))),
            Format::Coinbase => {
                Self::Frames(Box::new(Coinbase::new(venue, feed, Vec::new(), Vec::new())))
            }
            Format::Csv => Self::Trades(Trades::new(venue)),
        }
    }

    /// Reads a line; nothing comes of empty ones, headers, and what was sent to the venue.
    pub(crate) fn parse(&mut self, line: &str) -> Result<Option<Line>, Reject> {
        if line.is_empty() {
            return Ok(None);
        }
        if let Self::Trades(trades) = self {
            let ticks = trades.read(line)?;
            let due = ticks.last().and_then(|tick| tick.head().event);
            let played = Played::Ticks(ticks);
            return Ok(due.map(|due| Line { due, played }));
        }
        let captured: Captured = serde_json::from_str(line).map_err(|error| malformed(&error))?;
        let due = time("ts_ns", Some(captured.ts_ns))?;
        let raw = match (captured.dir.as_str(), captured.raw) {
            ("in", Some(raw)) => raw,
            ("out" | "open", _) => return Ok(None),
            ("in", None) => return Err(Reject::new(Reason::Malformed, "dir is in without raw")),
            (dir, _) => {
                let message = format!("dir {dir:?} is none of in, out, open");
                return Err(Reject::new(Reason::Malformed, message));
            }
        };
        let played = Played::Frame(raw);
        Ok(Some(Line { due, played }))
    }

    /// Appends the ticks of a line; if it is refused, those of its good part.
    pub(crate) fn decode(&mut self, line: Line, ticks: &mut Vec<Tick>) -> Result<(), Reject> {
        match (line.played, self) {
            (Played::Frame(raw), Self::Frames(decoder)) => {
                decoder.decode(&raw, line.due, ticks)?;
            }
            (Played::Ticks(more), _) => ticks.extend(more),
            (Played::Frame(_), Self::Trades(_)) => {}
        }
        Ok(())
    }

    /// The recording begins anew.
    pub(crate) fn reset(&mut self) {
        match self {
            Self::Frames(decoder) => decoder.reset(),
            Self::Trades(trades) => trades.reset(),
        }
    }
}
