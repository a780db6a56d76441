//! Positions in a stream: sequences, the epoch that gives them meaning, and resume cursors.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::time::UnixNanos;

/// A sequence of a JetStream stream; 0 is the position before the first message.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct StreamSeq(u64);

impl StreamSeq {
    /// The position before the first message.
    pub const ZERO: Self = Self(0);

    /// Wraps a sequence number.
    pub const fn new(seq: u64) -> Self {
        Self(seq)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The following sequence.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The preceding sequence; 0 stays 0.
    #[must_use]
    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for StreamSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One incarnation of a stream's history. Sequences of different epochs cannot be compared.
///
/// Ordered: by the stream's creation time, then by generation. Spelled `created-gen`, both in
/// lower-case hex; clients treat it as opaque.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Epoch {
    created: UnixNanos,
    generation: u32,
}

impl Epoch {
    /// The epoch of a stream created at `created`, after `generation` detected rewinds.
    pub const fn new(created: UnixNanos, generation: u32) -> Self {
        Self {
            created,
            generation,
        }
    }

    /// When the stream was created.
    pub const fn created(self) -> UnixNanos {
        self.created
    }

    /// How many rewinds of this stream were detected.
    pub const fn generation(self) -> u32 {
        self.generation
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.created.get(), self.generation)
    }
}

impl From<Epoch> for String {
    fn from(epoch: Epoch) -> Self {
        epoch.to_string()
    }
}

/// Why a position is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PositionError {
    /// Not of the form `created-gen`.
    #[error("epoch {0:?} is not two lower-case hex numbers joined by a hyphen")]
    Epoch(String),
    /// Not of the form `seq.tag`, nor `0`.
    #[error("cursor {0:?} is neither 0 nor a sequence and 8 hex digits joined by a dot")]
    Cursor(String),
}

impl schemars::JsonSchema for Epoch {
    fn schema_name() -> Cow<'static, str> {
        "Epoch".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^(0|[1-9a-f][0-9a-f]{0,14})-(0|[1-9a-f][0-9a-f]{0,6})$",
        })
    }
}

impl FromStr for Epoch {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (created, generation) = text.split_once('-')?;
            let epoch = Self {
                created: UnixNanos::new(i64::from_str_radix(created, 16).ok()?),
                generation: u32::from_str_radix(generation, 16).ok()?,
            };
            (epoch.to_string() == text).then_some(epoch)
        };
        parse().ok_or_else(|| PositionError::Epoch(text.chars().take(64).collect()))
    }
}

impl TryFrom<String> for Epoch {
    type Error = PositionError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// A promise about a stream: for all topics of a subscription, everything up to `seq` was sent.
///
/// Spelled `seq.tag`; the tag is the low 32 bits of the broker's time of that message in
/// microseconds, so that a server can tell a position of another history. `0` is the beginning
/// of what is retained. Clients treat it as opaque.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cursor {
    seq: StreamSeq,
    tag: u32,
}

impl Cursor {
    /// The beginning of what is retained.
    pub const BEGINNING: Self = Self {
        seq: StreamSeq::ZERO,
        tag: 0,
    };

    /// The cursor at `seq`, a message that the broker stored at `time`.
    pub fn new(seq: StreamSeq, time: UnixNanos) -> Self {
        if seq == StreamSeq::ZERO {
            return Self::BEGINNING;
        }
        let micros = time.get().div_euclid(1_000).rem_euclid(1 << 32);
        Self {
            seq,
            tag: u32::try_from(micros).unwrap_or_default(),
        }
    }

    /// The position.
    pub const fn seq(self) -> StreamSeq {
        self.seq
    }

    /// Whether the message at this position was stored at `time`.
    pub fn matches(self, time: UnixNanos) -> bool {
        self == Self::new(self.seq, time)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.seq == StreamSeq::ZERO {
            return f.write_str("0");
        }
        write!(f, "{}.{:08x}", self.seq, self.tag)
    }
}

impl From<Cursor> for String {
    fn from(cursor: Cursor) -> Self {
        cursor.to_string()
    }
}

impl FromStr for Cursor {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "0" {
            return Ok(Self::BEGINNING);
        }
        let parse = || {
            let (seq, tag) = text.split_once('.')?;
            let cursor = Self {
                seq: StreamSeq::new(seq.parse().ok()?),
                tag: u32::from_str_radix(tag, 16).ok()?,
            };
            (cursor.to_string() == text).then_some(cursor)
        };
        parse().ok_or_else(|| PositionError::Cursor(text.chars().take(64).collect()))
    }
}

impl TryFrom<String> for Cursor {
    type Error = PositionError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_and_cursors_have_one_spelling() {
        let epoch = Epoch::new(UnixNanos::new(1_767_000_000_123_456_789), 2);
        assert_eq!(epoch.to_string().parse(), Ok(epoch));
        for bad in ["", "-", "1", "1-", "01-0", "1-0x", "G-1", "1-2-3", "+1-0"] {
            assert!(bad.parse::<Epoch>().is_err(), "{bad}");
        }
        let cursor = Cursor::new(StreamSeq::new(7), UnixNanos::new(1_767_000_000_123_456_789));
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        assert_eq!("0".parse(), Ok(Cursor::BEGINNING));
        for bad in [
            "",
            "7",
            "7.",
            "-7.00000000",
            "07.00000000",
            "7.0",
            "7.0000000G",
            "0.00000000",
        ] {
            assert!(bad.parse::<Cursor>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cursor_knows_its_history() {
        let time = UnixNanos::new(1_767_000_000_123_456_789);
        let cursor = Cursor::new(StreamSeq::new(7), time);
        assert!(cursor.matches(time));
        assert!(!cursor.matches(time.offset(1_000_000)));
    }

    #[test]
    fn epochs_are_ordered_by_creation_then_generation() {
        let at = |nanos, generation| Epoch::new(UnixNanos::new(nanos), generation);
        assert!(at(1, 9) < at(2, 0));
        assert!(at(2, 0) < at(2, 1));
    }
}
