//! A transaction whose connection does not outlive it unless the transaction was brought to an end.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Postgres, raw_sql};
use tokio::time::timeout;
use tracing::debug;

/// How long a connection that did all that it was asked for may take to answer once more.
const RETURNING: Duration = Duration::from_secs(1);

/// A transaction.
///
/// Given up midway, its connection is closed. The driver itself would first wait for what the database
/// still has to say, with no limit and with a place in the pool, which a database that fell silent
/// would take away for good; and it does not find its way out of a COPY.
pub(super) struct Begun {
    connection: PoolConnection<Postgres>,
    is_over: bool,
}

impl Begun {
    /// Begins by this statement.
    ///
    /// # Errors
    ///
    /// There is no connection, or the database refuses.
    pub(super) async fn new(
        pool: &PgPool,
        beginning: AssertSqlSafe<String>,
    ) -> Result<Self, sqlx::Error> {
        let mut begun = Self {
            connection: pool.acquire().await?,
            is_over: false,
        };
        raw_sql(beginning).execute(&mut *begun).await?;
        Ok(begun)
    }

    /// Makes it last.
    ///
    /// # Errors
    ///
    /// The database refuses, or nobody knows whether it did.
    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        raw_sql("COMMIT").execute(&mut *self).await?;
        self.end().await;
        Ok(())
    }

    /// Makes it undone.
    ///
    /// # Errors
    ///
    /// The database does not answer, and undoes it nevertheless.
    pub(super) async fn rollback(mut self) -> Result<(), sqlx::Error> {
        raw_sql("ROLLBACK").execute(&mut *self).await?;
        self.end().await;
        Ok(())
    }

    /// Gives the connection back. The driver asks first whether it still answers; here, not for ever.
    async fn end(mut self) {
        self.is_over = true;
        let returning = self.connection.return_to_pool();
        if timeout(RETURNING, returning).await.is_err() {
            debug!("a connection no longer answered, and was closed");
        }
    }
}

impl Deref for Begun {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Begun {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if !self.is_over {
            self.connection.close_on_drop();
        }
    }
}
