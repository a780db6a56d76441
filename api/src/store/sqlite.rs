//! `SQLite`: one writer, many readers, write-ahead log.
//!
//! `synchronous = FULL`: a transaction is on the disk when it is committed, so that the broker is not
//! told that something is stored which a power cut takes away. A batch waits for the disk once.

mod ledger;
mod sweep;
mod write;

use std::path::Path;
use std::time::Duration;

use schemas::id::{Kind, Symbol, Venue};
use schemas::position::{Epoch, StreamSeq};
use schemas::time::UnixNanos;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection as _, SqlitePool};
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::statements::{
    KEEP_MARK, PROGRESS, STATE, VENUES, found, int, key_of, listed, page_statement,
    position_statement, recorded, span_of,
};
use super::{
    DeadLetter, Found, Listed, Loss, Page, Place, Range, Recorded, Row, Series, StoreError, Swept,
    TickStore,
};

/// How long a statement waits for a lock.
const BUSY: Duration = Duration::from_secs(5);
/// How long to wait before opening again what somebody else is opening.
const PAUSE: Duration = Duration::from_millis(20);
/// What the writer keeps of the file in memory: 64 MiB. Batches touch a page of each instrument.
const CACHE_KIB: &str = "-65536";
/// After how many pages the log is carried into the file, 64 MiB: a page that many batches changed is
/// then written there once.
const LOG_PAGES: &str = "16384";
/// Connections that read.
const READERS: u32 = 4;
static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// A history in one file.
#[derive(Clone, Debug)]
pub struct Sqlite {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl Sqlite {
    /// Opens the file, creating it and its tables if need be. `max_bytes` bounds its size.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn open(path: &Path, max_bytes: Option<u64>) -> Result<Self, StoreError> {
        let mut options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY);
        if let Some(bytes) = max_bytes {
            options = options.pragma("max_page_count", (bytes / 4_096).to_string());
        }
        let writer = options
            .clone()
            .pragma("cache_size", CACHE_KIB)
            .pragma("wal_autocheckpoint", LOG_PAGES);
        let writer = prepared(&writer).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(BUSY)
            .connect_with(options.read_only(true))
            .await?;
        Ok(Self { writer, readers })
    }
}

/// A connection that writes to tables that are up to date. Others may be opening the same file at
/// this very moment: what they lock, they soon let go.
async fn prepared(options: &SqliteConnectOptions) -> Result<SqlitePool, StoreError> {
    let deadline = Instant::now() + BUSY;
    loop {
        let attempt = async {
            let writer = SqlitePoolOptions::new()
                .max_connections(1)
                .connect_with(options.clone())
                .await?;
            migrate(&writer).await?;
            Ok(writer)
        };
        match attempt.await {
            Err::<_, StoreError>(problem) if problem.is_busy() && Instant::now() < deadline => {
                debug!(%problem, "somebody else opens the database");
                sleep(PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

/// Brings the tables up to date, all or nothing, and once: whoever else wants to waits. Newer tables
/// than this version knows are left alone.
async fn migrate(writer: &SqlitePool) -> Result<(), StoreError> {
    let mut connection = writer.acquire().await?;
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let mut migrations = Migrator::with_migrations(MIGRATIONS.iter().cloned().collect());
    migrations.set_locking(false).set_ignore_missing(true);
    migrations
        .run_direct(None, &mut *transaction, false)
        .await?;
    transaction.commit().await?;
    Ok(())
}

impl TickStore for Sqlite {
    async fn record(&self, epoch: Epoch, rows: &[Row]) -> Result<(), StoreError> {
        let mut connection = self.writer.acquire().await?;
        let stored = async {
            let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
            write::record(&mut transaction, epoch, rows).await?;
            transaction.commit().await
        };
        if let Err(problem) = stored.await {
            // A full disk ends the transaction behind the driver's back: nothing that it believes
            // about this connection holds any more.
            connection.close().await?;
            return Err(problem.into());
        }
        Ok(())
    }

    async fn advance(
        &self,
        stream: &str,
        epoch: Epoch,
        floor: StreamSeq,
        at: UnixNanos,
    ) -> Result<(), StoreError> {
        sqlx::query(KEEP_MARK)
            .bind(stream)
            .bind(epoch.created().get())
            .bind(i64::from(epoch.generation()))
            .bind(at.get())
            .execute(&self.writer)
            .await?;
        sqlx::query(
            "INSERT INTO progress (stream, created, gen, floor, at) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO UPDATE SET created = ?2, gen = ?3, floor = ?4, at = ?5
             WHERE (excluded.created, excluded.gen, excluded.floor) > (progress.created, progress.gen, progress.floor)",
        )
        .bind(stream)
        .bind(epoch.created().get())
        .bind(i64::from(epoch.generation()))
        .bind(int(floor))
        .bind(at.get())
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    async fn page(&self, stream: &str, range: &Range) -> Result<Page, StoreError> {
        let (_, _, values) = key_of(&range.series);
        let (from, to) = span_of(range);
        let mut snapshot = self.readers.begin().await?;
        let progress = sqlx::query(PROGRESS)
            .bind(stream)
            .fetch_optional(&mut *snapshot)
            .await?;
        let mut query = sqlx::query(AssertSqlSafe(page_statement(range)));
        for value in values {
            query = query.bind(value);
        }
        query = query.bind(from).bind(to).bind(i64::from(range.limit));
        if let Some((at, epoch, seq)) = range.after {
            query = query
                .bind(at.get())
                .bind(epoch.created().get())
                .bind(i64::from(epoch.generation()))
                .bind(int(seq));
        }
        let rows = query.fetch_all(&mut *snapshot).await?;
        let progress = progress.as_ref().map(recorded).transpose()?;
        Ok(Page {
            rows: rows.iter().map(found).collect::<Result<_, _>>()?,
            progress: progress.map(Into::into),
        })
    }

    async fn by_position(
        &self,
        series: &Series,
        epoch: Epoch,
        (after, until): (StreamSeq, StreamSeq),
        limit: u32,
    ) -> Result<Vec<Found>, StoreError> {
        let (_, _, values) = key_of(series);
        let mut query = sqlx::query(AssertSqlSafe(position_statement(series)));
        for value in values {
            query = query.bind(value);
        }
        let rows = query
            .bind(epoch.created().get())
            .bind(i64::from(epoch.generation()))
            .bind(int(after))
            .bind(int(until))
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(found).collect()
    }

    async fn instruments(
        &self,
        venue: Option<&Venue>,
        search: &str,
        after: Option<(&str, &str)>,
        limit: u32,
    ) -> Result<Vec<Found>, StoreError> {
        let rows = sqlx::query(
            "SELECT 0 AS at, created, gen, s, payload FROM states
             WHERE kind = ?1 AND (?2 IS NULL OR venue = ?2) AND instr(lower(symbol), lower(?3)) > 0
               AND (?4 IS NULL OR (venue, symbol) > (?4, ?5))
             ORDER BY venue, symbol LIMIT ?6",
        )
        .bind(Kind::Inst.as_str())
        .bind(venue.map(Venue::as_str))
        .bind(search)
        .bind(after.map(|(venue, _)| venue))
        .bind(after.map(|(_, symbol)| symbol))
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(found).collect()
    }

    async fn stood(
        &self,
        stream: &str,
        now: UnixNanos,
        before: UnixNanos,
    ) -> Result<Vec<(Epoch, StreamSeq)>, StoreError> {
        sweep::stood(self, stream, (now, before)).await
    }

    async fn sweep(
        &self,
        until: &[(Epoch, StreamSeq)],
        behind: Option<Series>,
        limit: u64,
    ) -> Result<Swept, StoreError> {
        sweep::sweep(self, until, behind, limit).await
    }

    async fn dead_letters(&self) -> Result<u64, StoreError> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM dead_letters")
            .fetch_one(&self.readers)
            .await?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    async fn dead_letters_page(
        &self,
        after: Option<(Epoch, StreamSeq)>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        ledger::dead_letters(self, after, limit).await
    }

    async fn venues(&self) -> Result<Vec<Listed>, StoreError> {
        let rows = sqlx::query(VENUES)
            .bind(Kind::Inst.as_str())
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(listed).collect()
    }

    async fn state(
        &self,
        kind: Kind,
        venue: &Venue,
        symbol: &Symbol,
    ) -> Result<Option<Found>, StoreError> {
        let row = sqlx::query(STATE)
            .bind(kind.as_str())
            .bind(venue.as_str())
            .bind(symbol.as_str())
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(found).transpose()
    }

    async fn feed_gaps(
        &self,
        span: (UnixNanos, UnixNanos),
        after: Option<Place>,
        limit: u32,
    ) -> Result<Vec<Found>, StoreError> {
        ledger::gaps(self, span, after, limit).await
    }

    async fn losses_page(
        &self,
        stream: &str,
        span: (UnixNanos, UnixNanos),
        after: Option<Place>,
        limit: u32,
    ) -> Result<Vec<Loss>, StoreError> {
        ledger::losses(self, (stream, span), after, limit).await
    }

    async fn recorded(&self, stream: &str) -> Result<Option<Recorded>, StoreError> {
        let row = sqlx::query(PROGRESS)
            .bind(stream)
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(recorded).transpose()
    }

    async fn trimmed(
        &self,
        stream: &str,
        epoch: Epoch,
        first: StreamSeq,
        now: UnixNanos,
    ) -> Result<Option<Loss>, StoreError> {
        ledger::trimmed(self, stream, (epoch, first), now).await
    }
}

#[cfg(test)]
mod tests;
