//! The store seam: what the recorder writes and the HTTP side reads. One implementation per database.

mod database;
mod error;
pub mod postgres;
pub mod sqlite;
mod statements;

use std::future::Future;

use bytes::Bytes;
use schemas::id::{Interval, Kind, Symbol, Venue};
use schemas::position::{Cursor, Epoch, StreamSeq};
use schemas::tick::Tick;
use schemas::time::UnixNanos;

pub use database::{Database, Location};
pub use error::StoreError;

/// The kinds that are recorded; forming bars and books are not.
pub const RECORDED: [Kind; 9] = [
    Kind::Trade,
    Kind::Quote,
    Kind::Status,
    Kind::Flow,
    Kind::Feed,
    Kind::Index,
    Kind::Bar,
    Kind::Stat,
    Kind::Inst,
];

/// The stream's subjects that the recorder's consumer receives.
pub fn recorded_subjects() -> Vec<String> {
    RECORDED
        .map(|kind| format!("{}{kind}.>", schemas::subject::STORED))
        .into()
}

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

/// A database of ticks.
pub trait TickStore: Send + Sync {
    /// Stores messages of one epoch in one transaction; storing them again changes nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; nothing of the batch is then stored.
    fn record(
        &self,
        epoch: Epoch,
        rows: &[Row],
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Notes how far a stream is recorded. It never goes back within an epoch.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn advance(
        &self,
        stream: &str,
        epoch: Epoch,
        floor: StreamSeq,
        at: UnixNanos,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Reads a page of history and the progress of `stream` in one snapshot.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn page(
        &self,
        stream: &str,
        range: &Range,
    ) -> impl Future<Output = Result<Page, StoreError>> + Send;

    /// Reads rows of a topic by position, in `(after, until]`.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn by_position(
        &self,
        series: &Series,
        epoch: Epoch,
        span: (StreamSeq, StreamSeq),
        limit: u32,
    ) -> impl Future<Output = Result<Vec<Found>, StoreError>> + Send;

    /// Reads instruments in order of venue and symbol, behind `after`, whose symbol contains `search`.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn instruments(
        &self,
        venue: Option<&Venue>,
        search: &str,
        after: Option<(&str, &str)>,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<Found>, StoreError>> + Send;

    /// Notes where recording of `stream` stands `now`, and tells where it stood at `before`, or at the
    /// latest time before that was noted: up to there everything was recorded before then.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn stood(
        &self,
        stream: &str,
        now: UnixNanos,
        before: UnixNanos,
    ) -> impl Future<Output = Result<Vec<(Epoch, StreamSeq)>, StoreError>> + Send;

    /// Deletes events and one-second bars up to these positions: at most `limit` of them, beginning
    /// with the series behind `behind`, or the first.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn sweep(
        &self,
        until: &[(Epoch, StreamSeq)],
        behind: Option<Series>,
        limit: u64,
    ) -> impl Future<Output = Result<Swept, StoreError>> + Send;

    /// Counts dead letters.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn dead_letters(&self) -> impl Future<Output = Result<u64, StoreError>> + Send;
}

/// What is stored of a tick.
pub(crate) fn content(tick: &Tick) -> Content {
    let head = tick.head();
    let (venue, symbol): (Venue, Symbol) = (head.venue.clone(), head.symbol.clone());
    match tick {
        Tick::Bar(bar) => Content::Bar {
            venue,
            symbol,
            interval: bar.interval,
            at: bar.start,
        },
        Tick::Stat(_) | Tick::Inst(_) => Content::State {
            kind: tick.kind(),
            venue,
            symbol,
        },
        Tick::Trade(_)
        | Tick::Quote(_)
        | Tick::Book(_)
        | Tick::Form(_)
        | Tick::Index(_)
        | Tick::Flow(_)
        | Tick::Status(_)
        | Tick::Feed(_) => Content::Event {
            kind: tick.kind(),
            venue,
            symbol,
            at: head.event.unwrap_or(head.received),
        },
    }
}

#[cfg(test)]
mod tests;
