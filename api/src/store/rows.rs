//! What goes into a store and comes out of it.

use bytes::Bytes;
use schemas::id::{Interval, Kind, Symbol, Venue};
use schemas::position::{Cursor, Epoch, StreamSeq};
use schemas::time::UnixNanos;

/// A message to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its position.
    pub seq: StreamSeq,
    /// What it is.
    pub content: Content,
    /// Its payload.
    pub payload: Bytes,
}

/// What a message is, as far as storing goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// One of many of its topic.
    Event {
        /// Kind.
        kind: Kind,
        /// Venue.
        venue: Venue,
        /// Symbol.
        symbol: Symbol,
        /// Event time, or receive time.
        at: UnixNanos,
    },
    /// A bar: the latest of its start counts.
    Bar {
        /// Venue.
        venue: Venue,
        /// Symbol.
        symbol: Symbol,
        /// Length.
        interval: Interval,
        /// Start.
        at: UnixNanos,
    },
    /// A state: the latest of its topic counts.
    State {
        /// Kind.
        kind: Kind,
        /// Venue.
        venue: Venue,
        /// Symbol.
        symbol: Symbol,
    },
    /// No tick.
    DeadLetter {
        /// Its subject.
        subject: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// A stored message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Place in time.
    pub at: UnixNanos,
    /// Epoch of its position.
    pub epoch: Epoch,
    /// Its position.
    pub seq: StreamSeq,
    /// The tick in MessagePack.
    pub payload: Bytes,
}

/// How far a stream is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The epoch.
    pub epoch: Epoch,
    /// Everything of the recorded kinds up to here is stored.
    pub floor: Cursor,
}

impl From<Recorded> for Progress {
    fn from(recorded: Recorded) -> Self {
        Self {
            epoch: recorded.epoch,
            floor: Cursor::new(recorded.floor, recorded.at),
        }
    }
}

/// How far a stream is recorded, as a position that can be compared with the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The epoch.
    pub epoch: Epoch,
    /// Everything of the recorded kinds up to here is stored, or lost.
    pub floor: StreamSeq,
    /// When the broker stored the message there; 1970 if nobody knows.
    pub at: UnixNanos,
}

/// Which rows are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Series {
    /// Events of one topic.
    Events(Kind, Venue, Symbol),
    /// Bars of one topic.
    Bars(Venue, Symbol, Interval),
}

/// A place between rows: time, epoch, sequence.
pub type Place = (UnixNanos, Epoch, StreamSeq);

/// A page of history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Whose.
    pub series: Series,
    /// From here, inclusive.
    pub from: UnixNanos,
    /// To here, exclusive.
    pub to: UnixNanos,
    /// Newest first.
    pub descending: bool,
    /// Behind this row of the page before.
    pub after: Option<Place>,
    /// At most so many rows.
    pub limit: u32,
}

/// Rows, and how far the stream was recorded when they were read: one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The rows.
    pub rows: Vec<Found>,
    /// How far; `None` before anything was recorded.
    pub progress: Option<Progress>,
}

/// What was deleted, and what is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swept {
    /// How many rows were deleted.
    pub rows: u64,
    /// The last series that is done, if any is.
    pub behind: Option<Series>,
    /// Whether it was the last of all.
    pub done: bool,
}

/// A message that is no tick, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Epoch of its position.
    pub epoch: Epoch,
    /// Its position.
    pub seq: StreamSeq,
    /// Its subject.
    pub subject: String,
    /// What is wrong with it.
    pub problem: String,
    /// Its payload.
    pub payload: Bytes,
}

/// A venue that instruments are known of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The venue.
    pub venue: Venue,
    /// How many of its instruments are known.
    pub instruments: u64,
}

/// A part of a stream that was gone before all of it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The stream.
    pub stream: String,
    /// The epoch of its positions.
    pub epoch: Epoch,
    /// The first position that may be missing,
    pub from: StreamSeq,
    /// and the last one.
    pub to: StreamSeq,
    /// When the broker stored what was recorded before it; 1970 if nobody knows.
    pub began: UnixNanos,
    /// When it was noticed.
    pub noticed: UnixNanos,
    /// What happened, for people.
    pub why: String,
}

impl Loss {
    /// Its place among others.
    pub const fn place(&self) -> Place {
        (self.noticed, self.epoch, self.from)
    }
}
