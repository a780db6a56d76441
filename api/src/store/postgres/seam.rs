//! What a store does, on this database.

use schemas::id::{Kind, Symbol, Venue};
use schemas::position::{Epoch, StreamSeq};
use schemas::time::UnixNanos;

use super::{Postgres, ledger, read, sweep, write};
use crate::store::{
    DeadLetter, Found, Listed, Loss, Page, Place, Range, Recorded, Row, Series, StoreError, Swept,
    TickStore,
};

impl TickStore for Postgres {
    async fn record(&self, epoch: Epoch, rows: &[Row]) -> Result<(), StoreError> {
        let gate = &self.0.primary.gate;
        let record = async {
            self.prepare(rows).await?;
            gate.limited(self.try_record(epoch, rows)).await
        };
        gate.ask("record", Box::pin(record)).await
    }

    async fn advance(
        &self,
        stream: &str,
        epoch: Epoch,
        floor: StreamSeq,
        at: UnixNanos,
    ) -> Result<(), StoreError> {
        let recorded = Recorded { epoch, floor, at };
        let advance = async { write::advance(self.writing().await?, stream, recorded).await };
        self.primary("advance", advance).await
    }

    async fn page(&self, stream: &str, range: &Range) -> Result<Page, StoreError> {
        let ask = async { read::page(self.reading().await?, stream, range).await };
        self.read("page", ask).await
    }

    async fn by_position(
        &self,
        series: &Series,
        epoch: Epoch,
        span: (StreamSeq, StreamSeq),
        limit: u32,
    ) -> Result<Vec<Found>, StoreError> {
        let ask =
            async { read::by_position(self.reading().await?, series, (epoch, span), limit).await };
        self.read("by_position", ask).await
    }

    async fn instruments(
        &self,
        venue: Option<&Venue>,
        search: &str,
        after: Option<(&str, &str)>,
        limit: u32,
    ) -> Result<Vec<Found>, StoreError> {
        let ask =
            async { read::instruments(self.reading().await?, (venue, search), after, limit).await };
        self.read("instruments", ask).await
    }

    async fn stood(
        &self,
        stream: &str,
        now: UnixNanos,
        before: UnixNanos,
    ) -> Result<Vec<(Epoch, StreamSeq)>, StoreError> {
        self.primary("stood", sweep::stood(self, stream, (now, before)))
            .await
    }

    async fn sweep(
        &self,
        until: &[(Epoch, StreamSeq)],
        behind: Option<Series>,
        limit: u64,
    ) -> Result<Swept, StoreError> {
        self.primary("sweep", sweep::sweep(self, until, behind, limit))
            .await
    }

    async fn dead_letters(&self) -> Result<u64, StoreError> {
        let ask = async { read::dead_letters(self.reading().await?).await };
        self.read("dead_letters", ask).await
    }

    async fn dead_letters_page(
        &self,
        after: Option<(Epoch, StreamSeq)>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let ask = async { ledger::dead_letters(self.reading().await?, after, limit).await };
        self.read("dead_letters_page", ask).await
    }

    async fn venues(&self) -> Result<Vec<Listed>, StoreError> {
        let ask = async { read::venues(self.reading().await?).await };
        self.read("venues", ask).await
    }

    async fn state(
        &self,
        kind: Kind,
        venue: &Venue,
        symbol: &Symbol,
    ) -> Result<Option<Found>, StoreError> {
        let ask = async { read::state(self.reading().await?, kind, venue, symbol).await };
        self.read("state", ask).await
    }

    async fn feed_gaps(
        &self,
        span: (UnixNanos, UnixNanos),
        after: Option<Place>,
        limit: u32,
    ) -> Result<Vec<Found>, StoreError> {
        let ask = async { ledger::gaps(self.reading().await?, span, after, limit).await };
        self.read("feed_gaps", ask).await
    }

    async fn losses_page(
        &self,
        stream: &str,
        span: (UnixNanos, UnixNanos),
        after: Option<Place>,
        limit: u32,
    ) -> Result<Vec<Loss>, StoreError> {
        let ask =
            async { ledger::losses(self.reading().await?, (stream, span), after, limit).await };
        self.read("losses_page", ask).await
    }

    async fn recorded(&self, stream: &str) -> Result<Option<Recorded>, StoreError> {
        let recorded = async {
            let mut transaction = self.writing().await?;
            let recorded = read::recorded(&mut transaction, stream).await?;
            transaction.commit().await?;
            Ok(recorded)
        };
        self.primary("recorded", recorded).await
    }

    async fn trimmed(
        &self,
        stream: &str,
        epoch: Epoch,
        first: StreamSeq,
        now: UnixNanos,
    ) -> Result<Option<Loss>, StoreError> {
        let loss =
            async { ledger::trimmed(self.writing().await?, stream, (epoch, first), now).await };
        self.primary("trimmed", loss).await
    }
}
