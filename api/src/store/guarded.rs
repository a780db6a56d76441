//! A store over a real database that asks a guard first, for tests of what uses a store.

use std::future::Future;

use schemas::id::{Kind, Symbol, Venue};
use schemas::position::{Epoch, StreamSeq};
use schemas::time::UnixNanos;

use super::sqlite::Sqlite;
use super::{
    DeadLetter, Found, Listed, Loss, Page, Place, Range, Recorded, Row, Series, StoreError, Swept,
    TickStore,
};

/// What a guard may refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Record,
    Advance,
    Page,
    Recorded,
    Trimmed,
}

/// Lets a call through to the database, makes it wait, or refuses it.
pub(crate) trait Guard: Clone + Send + Sync + 'static {
    fn passes(&self, call: Call) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// A database and its guard.
#[derive(Clone)]
pub(crate) struct Guarded<G> {
    pub(crate) inner: Sqlite,
    pub(crate) guard: G,
}

impl<G: Guard> TickStore for Guarded<G> {
    async fn record(&self, epoch: Epoch, rows: &[Row]) -> Result<(), StoreError> {
        self.guard.passes(Call::Record).await?;
        self.inner.record(epoch, rows).await
    }

    async fn advance(
        &self,
        stream: &str,
        epoch: Epoch,
        floor: StreamSeq,
        at: UnixNanos,
    ) -> Result<(), StoreError> {
        self.guard.passes(Call::Advance).await?;
        self.inner.advance(stream, epoch, floor, at).await
    }

    async fn page(&self, stream: &str, range: &Range) -> Result<Page, StoreError> {
        self.guard.passes(Call::Page).await?;
        self.inner.page(stream, range).await
    }

    async fn by_position(
        &self,
        series: &Series,
        epoch: Epoch,
        span: (StreamSeq, StreamSeq),
        limit: u32,
    ) -> Result<Vec<Found>, StoreError> {
        self.inner.by_position(series, epoch, span, limit).await
    }

    async fn instruments(
        &self,
        venue: Option<&Venue>,
        search: &str,
        after: Option<(&str, &str)>,
        limit: u32,
    ) -> Result<Vec<Found>, StoreError> {
        self.inner.instruments(venue, search, after, limit).await
    }

    async fn stood(
        &self,
        stream: &str,
        now: UnixNanos,
        before: UnixNanos,
    ) -> Result<Vec<(Epoch, StreamSeq)>, StoreError> {
        self.inner.stood(stream, now, before).await
    }

    async fn sweep(
        &self,
        until: &[(Epoch, StreamSeq)],
        behind: Option<Series>,
        limit: u64,
    ) -> Result<Swept, StoreError> {
        self.inner.sweep(until, behind, limit).await
    }

    async fn dead_letters(&self) -> Result<u64, StoreError> {
        self.inner.dead_letters().await
    }

    async fn dead_letters_page(
        &self,
        after: Option<(Epoch, StreamSeq)>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        self.inner.dead_letters_page(after, limit).await
    }

    async fn venues(&self) -> Result<Vec<Listed>, StoreError> {
        self.inner.venues().await
    }

    async fn state(
        &self,
        kind: Kind,
        venue: &Venue,
        symbol: &Symbol,
    ) -> Result<Option<Found>, StoreError> {
        self.inner.state(kind, venue, symbol).await
    }

    async fn feed_gaps(
        &self,
        span: (UnixNanos, UnixNanos),
        after: Option<Place>,
        limit: u32,
    ) -> Result<Vec<Found>, StoreError> {
        self.inner.feed_gaps(span, after, limit).await
    }

    async fn losses_page(
        &self,
        stream: &str,
        span: (UnixNanos, UnixNanos),
        after: Option<Place>,
        limit: u32,
    ) -> Result<Vec<Loss>, StoreError> {
        self.inner.losses_page(stream, span, after, limit).await
    }

    async fn recorded(&self, stream: &str) -> Result<Option<Recorded>, StoreError> {
        self.guard.passes(Call::Recorded).await?;
        self.inner.recorded(stream).await
    }

    async fn trimmed(
        &self,
        stream: &str,
        epoch: Epoch,
        first: StreamSeq,
        now: UnixNanos,
    ) -> Result<Option<Loss>, StoreError> {
        self.guard.passes(Call::Trimmed).await?;
        self.inner.trimmed(stream, epoch, first, now).await
    }
}
