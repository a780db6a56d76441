//! Whichever database history is in, chosen by where it is.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use daemon::nats::Secret;
use schemas::id::{Kind, Symbol, Venue};
use schemas::position::{Epoch, StreamSeq};
use schemas::time::UnixNanos;

use super::postgres::{self, Postgres};
use super::sqlite::Sqlite;
use super::{
    DeadLetter, Found, Listed, Loss, Page, Place, Range, Recorded, Row, Series, StoreError, Swept,
    TickStore,
};

/// Where history is.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// In a file.
    File(PathBuf),
    /// On a Postgres, by its URL.
    Postgres(Secret),
}

// A URL that is wrong is told of when it is used: whoever parses arguments would show it whole.
impl From<OsString> for Location {
    fn from(text: OsString) -> Self {
        match text.to_str() {
            Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
                Self::Postgres(url.into())
            }
            Some(_) | None => Self::File(text.into()),
        }
    }
}

/// Without its password.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Postgres(url) => f.write_str(&postgres::redacted(url)),
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A history in a file or on a server.
#[derive(Clone, Debug)]
pub enum Database {
    /// In a file.
    Sqlite(Sqlite),
    /// On a server.
    Postgres(Postgres),
}

impl Database {
    /// Opens the history at `location`. `max_bytes` bounds the size of a file; a server is bounded by
    /// whoever runs it, and need not answer yet.
    ///
    /// # Errors
    ///
    /// The file cannot be used, or the server's URL is wrong.
    pub async fn open(
        location: &Location,
        max_bytes: Option<u64>,
        args: &postgres::Args,
    ) -> Result<Self, StoreError> {
        Ok(match location {
            Location::File(path) => Self::Sqlite(Sqlite::open(path, max_bytes).await?),
            Location::Postgres(url) => Self::Postgres(Postgres::open(url, args)?),
        })
    }
}

/// Does the same on whichever it is.
macro_rules! either {
    ($self:ident, $store:ident => $call:expr) => {
        match $self {
            Self::Sqlite($store) => $call.await,
            Self::Postgres($store) => $call.await,
        }
    };
}

impl TickStore for Database {
    async fn record(&self, epoch: Epoch, rows: &[Row]) -> Result<(), StoreError> {
        either!(self, store => store.record(epoch, rows))
    }

    async fn advance(
        &self,
        stream: &str,
        epoch: Epoch,
        floor: StreamSeq,
        at: UnixNanos,
    ) -> Result<(), StoreError> {
        either!(self, store => store.advance(stream, epoch, floor, at))
    }

    async fn page(&self, stream: &str, range: &Range) -> Result<Page, StoreError> {
        either!(self, store => store.page(stream, range))
    }

    async fn by_position(
        &self,
        series: &Series,
        epoch: Epoch,
        span: (StreamSeq, StreamSeq),
        limit: u32,
    ) -> Result<Vec<Found>, StoreError> {
        either!(self, store => store.by_position(series, epoch, span, limit))
    }

    async fn instruments(
        &self,
        venue: Option<&Venue>,
        search: &str,
        after: Option<(&str, &str)>,
        limit: u32,
    ) -> Result<Vec<Found>, StoreError> {
        either!(self, store => store.instruments(venue, search, after, limit))
    }

    async fn stood(
        &self,
        stream: &str,
        now: UnixNanos,
        before: UnixNanos,
    ) -> Result<Vec<(Epoch, StreamSeq)>, StoreError> {
        either!(self, store => store.stood(stream, now, before))
    }

    async fn sweep(
        &self,
        until: &[(Epoch, StreamSeq)],
        behind: Option<Series>,
        limit: u64,
    ) -> Result<Swept, StoreError> {
        either!(self, store => store.sweep(until, behind, limit))
    }

    async fn dead_letters(&self) -> Result<u64, StoreError> {
        either!(self, store => store.dead_letters())
    }

    async fn dead_letters_page(
        &self,
        after: Option<(Epoch, StreamSeq)>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        either!(self, store => store.dead_letters_page(after, limit))
    }

    async fn venues(&self) -> Result<Vec<Listed>, StoreError> {
        either!(self, store => store.venues())
    }

    async fn state(
        &self,
        kind: Kind,
        venue: &Venue,
        symbol: &Symbol,
    ) -> Result<Option<Found>, StoreError> {
        either!(self, store => store.state(kind, venue, symbol))
    }

    async fn feed_gaps(
        &self,
        span: (UnixNanos, UnixNanos),
        after: Option<Place>,
        limit: u32,
    ) -> Result<Vec<Found>, StoreError> {
        either!(self, store => store.feed_gaps(span, after, limit))
    }

    async fn losses_page(
        &self,
        stream: &str,
        span: (UnixNanos, UnixNanos),
        after: Option<Place>,
        limit: u32,
    ) -> Result<Vec<Loss>, StoreError> {
        either!(self, store => store.losses_page(stream, span, after, limit))
    }

    async fn recorded(&self, stream: &str) -> Result<Option<Recorded>, StoreError> {
        either!(self, store => store.recorded(stream))
    }

    async fn trimmed(
        &self,
        stream: &str,
        epoch: Epoch,
        first: StreamSeq,
        now: UnixNanos,
    ) -> Result<Option<Loss>, StoreError> {
        either!(self, store => store.trimmed(stream, epoch, first, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_told_by_its_beginning_and_shown_without_a_password() {
        let place = |text: &str| Location::from(OsString::from(text));
        assert!(matches!(place("data/history.sqlite"), Location::File(_)));
        assert!(matches!(place("postgres/history"), Location::File(_)));
        for (url, shown) in [
            (
                "postgres://tick:s3cret@db:5433/history",
                "postgres://tick@db:5433/history",
            ),
            (
                "postgresql://tick:s3cret@db/history?sslmode=require",
                "postgres://tick@db:5432/history",
            ),
            ("postgres://tick:s3cret@db:s3cret/history", "a Postgres"),
            (
                "postgres://tick@db/history?password=s3cret",
                "postgres://tick@db:5432/history",
            ),
        ] {
            let place = place(url);
            assert_eq!(place.to_string(), shown);
            assert!(!format!("{place:?}").contains("s3cret"));
        }
    }

    #[tokio::test]
    async fn a_url_that_is_wrong_is_told_without_its_password() {
        let place = Location::from(OsString::from("postgres://tick:s3cret@db:s3cret/history"));
        let args = postgres::Args::default();
        let problem = Database::open(&place, None, &args).await.unwrap_err();
        assert!(
            !format!("{problem:?} {problem}").contains("s3cret"),
            "{problem}"
        );
        assert!(problem.to_string().contains("port"), "{problem}");
    }
}
