//! The tables, brought up to date once however many replicas start together.

use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use super::{StoreError, beginning};

/// Held while tables are changed; any number will do that nobody else takes.
const LOCK: i64 = 0x7469_636b_7769_7265;
static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// Waits for whoever else changes tables, until the transaction ends.
pub(super) async fn alone(transaction: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .persistent(false)
        .bind(LOCK)
        .execute(transaction)
        .await?;
    Ok(())
}

/// Brings the tables up to date, all or nothing.
///
/// The lock is the transaction's, and no named statement is left behind: a connection pooler may give
/// the server's connection to somebody else afterwards. Newer tables than this version knows are
/// left alone, so that versions can run side by side while replicas are exchanged.
pub(super) async fn migrate(pool: &PgPool) -> Result<(), StoreError> {
    // The driver's own: it brings each step up to date in a transaction inside of this one.
    let beginning = AssertSqlSafe(beginning("BEGIN", None));
    let mut transaction = pool.begin_with(beginning).await?;
    alone(&mut transaction).await?;
    let forget = sqlx::raw_sql("SET LOCAL client_min_messages = warning; DEALLOCATE ALL");
    forget.execute(&mut *transaction).await?;
    let mut migrations = Migrator::with_migrations(MIGRATIONS.iter().cloned().collect());
    migrations.set_locking(false).set_ignore_missing(true);
    migrations
        .run_direct(None, &mut *transaction, false)
        .await?;
    let forget = sqlx::raw_sql("DEALLOCATE ALL");
    forget.execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(())
}
