//! The store seam: what the recorder writes and the HTTP side reads. One implementation per database.

mod database;
mod error;
#[cfg(test)]
pub(crate) mod guarded;
pub mod postgres;
mod rows;
pub mod sqlite;
mod statements;

use std::future::Future;

use schemas::id::{Kind, Symbol, Venue};
use schemas::position::{Epoch, StreamSeq};
use schemas::tick::Tick;
use schemas::time::UnixNanos;

pub use database::{Database, Location};
pub use error::StoreError;
pub use rows::{
    Content, DeadLetter, Found, Listed, Loss, Page, Place, Progress, Range, Recorded, Row, Series,
    Swept,
};

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

/// Whether messages of this subject are recorded; the publisher's own are not.
pub(crate) fn is_recorded(subject: &str) -> bool {
    let rest = subject.strip_prefix(schemas::subject::STORED);
    let kind = rest.and_then(|rest| rest.split_once('.'));
    kind.is_some_and(|(kind, _)| RECORDED.iter().any(|recorded| recorded.as_str() == kind))
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

    /// Reads dead letters in order of position, behind `after`.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn dead_letters_page(
        &self,
        after: Option<(Epoch, StreamSeq)>,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<DeadLetter>, StoreError>> + Send;

    /// Lists the venues that instruments are known of.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn venues(&self) -> impl Future<Output = Result<Vec<Listed>, StoreError>> + Send;

    /// Reads the latest of a topic whose kind is kept as a state.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn state(
        &self,
        kind: Kind,
        venue: &Venue,
        symbol: &Symbol,
    ) -> impl Future<Output = Result<Option<Found>, StoreError>> + Send;

    /// Reads what is known of an instrument.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn instrument(
        &self,
        venue: &Venue,
        symbol: &Symbol,
    ) -> impl Future<Output = Result<Option<Found>, StoreError>> + Send {
        self.state(Kind::Inst, venue, symbol)
    }

    /// Reads the feeds' ticks that tell of holes in `[from, to)`, in order of the time at which they
    /// were noticed, behind `after`. They are kept for ever.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn feed_gaps(
        &self,
        span: (UnixNanos, UnixNanos),
        after: Option<Place>,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<Found>, StoreError>> + Send;

    /// Reads what was lost in `[from, to)` before it was recorded, in order of the time at which that
    /// was noticed, behind `after`. It is kept for ever.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn losses_page(
        &self,
        stream: &str,
        span: (UnixNanos, UnixNanos),
        after: Option<Place>,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<Loss>, StoreError>> + Send;

    /// Tells how far a stream is recorded, whatever a copy of the database knows; `None` before
    /// anything was.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn recorded(
        &self,
        stream: &str,
    ) -> impl Future<Output = Result<Option<Recorded>, StoreError>> + Send;

    /// Notes that `stream` begins at `first`: what lies between its progress and there is lost, and
    /// progress goes on behind it. A loss is told once, whoever notices it.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn trimmed(
        &self,
        stream: &str,
        epoch: Epoch,
        first: StreamSeq,
        now: UnixNanos,
    ) -> impl Future<Output = Result<Option<Loss>, StoreError>> + Send;
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
