//! Postgres: any number of writers and readers, events in a partition per day.
//!
//! Works behind a pooler that gives a connection away after each transaction: everything is in one,
//! no statement is prepared for later, and no setting or lock outlives it.

mod begun;
mod breaker;
mod copy;
mod days;
mod gate;
mod ledger;
mod read;
mod schema;
mod seam;
mod sweep;
mod write;

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use daemon::nats::Secret;
use schemas::position::Epoch;
use schemas::time::{Clock, SystemClock};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgPool};
use tokio::sync::OnceCell;

use self::begun::Begun;
use self::days::Days;
use self::gate::{Gate, within};
use super::{Content, Row, StoreError};

/// Settings of a Postgres.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// A copy of the database that history is read from: `postgres://…`
    #[arg(long, env = "TICKWIRE_STORE_REPLICA", hide_env_values = true)]
    pub store_replica: Option<Secret>,

    /// A file with the password for Postgres, if its URL has none
    #[arg(long, env = "TICKWIRE_STORE_PASSWORD_FILE")]
    pub store_password_file: Option<PathBuf>,

    /// The most connections to Postgres, and as many to the copy
    #[arg(long, env = "TICKWIRE_STORE_CONNECTIONS", default_value = "8")]
    pub store_connections: NonZeroU32,

    /// How long to wait for a connection to Postgres, in milliseconds
    #[arg(long, env = "TICKWIRE_STORE_ACQUIRE_MS", default_value = "3000")]
    pub store_acquire_ms: NonZeroU32,

    /// How long Postgres may take for a statement, in milliseconds
    #[arg(long, env = "TICKWIRE_STORE_STATEMENT_MS", default_value = "10000")]
    pub store_statement_ms: NonZeroU32,

    /// What takes Postgres longer than so many milliseconds is logged
    #[arg(long, env = "TICKWIRE_STORE_SLOW_MS", default_value = "1000")]
    pub store_slow_ms: u32,
}

impl Default for Args {
    fn default() -> Self {
        const fn at_least_one(number: u32) -> NonZeroU32 {
            match NonZeroU32::new(number) {
                Some(number) => number,
                None => NonZeroU32::MIN,
            }
        }
        Self {
            store_replica: None,
            store_password_file: None,
            store_connections: at_least_one(8),
            store_acquire_ms: at_least_one(3_000),
            store_statement_ms: at_least_one(10_000),
            store_slow_ms: 1_000,
        }
    }
}

/// A history on a server.
#[derive(Clone)]
pub struct Postgres(Arc<Shared>);

struct Shared {
    primary: Way,
    replica: Option<Way>,
    statement: Duration,
    days: Days,
    migrated: OnceCell<()>,
    readable: OnceCell<()>,
    clock: Box<dyn Clock>,
}

/// A server, and what is known of how it does.
struct Way {
    pool: PgPool,
    gate: Gate,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Postgres").finish_non_exhaustive()
    }
}

/// Whether a URL bears a password.
fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (authority, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = authority.split('/').next().unwrap_or_default();
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    let password = user.split_once(':').map_or("", |(_, password)| password);
    let mut parameters = query.split('&');
    !password.is_empty() || parameters.any(|one| one.starts_with("password="))
}

/// A URL for people: without password and parameters.
pub(super) fn redacted(url: &Secret) -> String {
    PgConnectOptions::from_str(url.reveal()).map_or_else(
        |_| "a Postgres".to_owned(),
        |options| {
            let (user, host, port) = (
                options.get_username(),
                options.get_host(),
                options.get_port(),
            );
            let database = options.get_database().unwrap_or(user);
            format!("postgres://{user}@{host}:{port}/{database}")
        },
    )
}

impl Way {
    fn new(name: &'static str, url: &Secret, args: &Args) -> Result<Self, StoreError> {
        let mut options = PgConnectOptions::from_str(url.reveal())
            .map_err(|problem| StoreError::Unusable(format!("the URL of Postgres: {problem}")))?;
        if let Some(file) = &args.store_password_file {
            let unreadable = |problem| {
                StoreError::Unusable(format!("the password file {}: {problem}", file.display()))
            };
            let password = std::fs::read_to_string(file).map_err(unreadable)?;
            if !has_password(url.reveal()) {
                options = options.password(password.trim_end_matches(['\r', '\n']));
            }
        }
        // What a pooler would refuse, or give to somebody else.
        options = options
            .statement_cache_capacity(0)
            .extra_float_digits(None)
            .application_name("tickwire")
            .disable_statement_logging();
        let pool = PgPoolOptions::new()
            .max_connections(args.store_connections.get())
            .acquire_timeout(millis(args.store_acquire_ms.get()))
            .connect_lazy_with(options);
        let limit = millis(args.store_acquire_ms.get())
            + millis(args.store_statement_ms.get()) * STATEMENTS;
        let gate = Gate::new(name, millis(args.store_slow_ms), limit);
        Ok(Self { pool, gate })
    }
}

fn millis(number: u32) -> Duration {
    Duration::from_millis(u64::from(number))
}

/// The most statements of a transaction that take long; more time than they may take is not given.
const STATEMENTS: u32 = 3;
/// How long bringing the tables up to date may take, waiting for others who do so included.
const MIGRATING: Duration = Duration::from_mins(10);
/// How long a transaction may stand still: whoever vanished in the middle of one holds up nobody.
const STANDSTILL_MS: u32 = 60_000;

/// The beginning of a transaction each of whose statements may take so long.
fn beginning(begin: &'static str, statement: Option<Duration>) -> String {
    let limit = statement.map_or(0, |statement| statement.as_millis());
    format!(
        "{begin}; SET LOCAL statement_timeout = {limit};
         SET LOCAL idle_in_transaction_session_timeout = {STANDSTILL_MS}"
    )
}

/// Begins a transaction each of whose statements may take so long.
async fn begin(
    pool: &PgPool,
    begin: &'static str,
    statement: Duration,
) -> Result<Begun, StoreError> {
    let beginning = AssertSqlSafe(beginning(begin, Some(statement)));
    Ok(Begun::new(pool, beginning).await?)
}

impl Postgres {
    /// Gets ready to use the server at `url`. It is connected to when it is needed, and its tables
    /// are brought up to date then.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unusable`]: a URL is wrong, or the password file cannot be read.
    pub fn open(url: &Secret, args: &Args) -> Result<Self, StoreError> {
        Self::open_by(url, args, Box::new(SystemClock))
    }

    fn open_by(url: &Secret, args: &Args, clock: Box<dyn Clock>) -> Result<Self, StoreError> {
        let replica = args.store_replica.as_ref();
        let replica = replica.map(|url| Way::new("replica", url, args));
        Ok(Self(Arc::new(Shared {
            primary: Way::new("primary", url, args)?,
            replica: replica.transpose()?,
            statement: millis(args.store_statement_ms.get()),
            days: Days::default(),
            migrated: OnceCell::new(),
            readable: OnceCell::new(),
            clock,
        })))
    }

    /// Connects and brings the tables up to date.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the next call tries again.
    pub async fn ready(&self) -> Result<(), StoreError> {
        let Way { pool, gate } = &self.0.primary;
        gate.ask("ready", Box::pin(self.migrated(pool))).await
    }

    async fn migrated(&self, pool: &PgPool) -> Result<(), StoreError> {
        let migrated = &self.0.migrated;
        let migrate = || within(MIGRATING, schema::migrate(pool));
        migrated.get_or_try_init(migrate).await?;
        Ok(())
    }

    /// Brings the tables up to date, if that is allowed: who may only read takes them as they are.
    async fn readable(&self, pool: &PgPool) -> Result<(), StoreError> {
        let readable = self.0.readable.get_or_try_init(async || {
            let migrated = self.migrated(pool).await;
            migrated.or_else(|problem| {
                if problem.is_read_only() {
                    Ok(())
                } else {
                    Err(problem)
                }
            })
        });
        readable.await.copied()
    }

    /// Asks the primary, with its tables up to date.
    async fn primary<T>(
        &self,
        what: &'static str,
        question: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let Way { pool, gate } = &self.0.primary;
        let asked = async {
            self.migrated(pool).await?;
            gate.limited(question).await
        };
        gate.ask(what, Box::pin(asked)).await
    }

    /// A transaction that writes.
    async fn writing(&self) -> Result<Begun, StoreError> {
        begin(&self.0.primary.pool, "BEGIN", self.0.statement).await
    }

    /// Where history is read. A copy is as up to date as its primary made it.
    fn reader(&self) -> &Way {
        self.0.replica.as_ref().unwrap_or(&self.0.primary)
    }

    /// Asks where history is read.
    async fn read<T>(
        &self,
        what: &'static str,
        question: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let Way { pool, gate } = self.reader();
        let asked = async {
            if self.0.replica.is_none() {
                self.readable(pool).await?;
            }
            gate.limited(question).await
        };
        gate.ask(what, Box::pin(asked)).await
    }

    /// A transaction that sees one state of everything.
    ///
    /// Everything that is read lies in an index as it is asked for: the planner, which believes few
    /// rows to be sorted faster, is told so.
    async fn reading(&self) -> Result<Begun, StoreError> {
        const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY;
            SET LOCAL enable_sort = off; SET LOCAL enable_bitmapscan = off";
        begin(&self.reader().pool, BEGIN, self.0.statement).await
    }

    async fn try_record(&self, epoch: Epoch, rows: &[Row]) -> Result<(), StoreError> {
        let mut transaction = self.writing().await?;
        write::record(&mut transaction, epoch, rows).await?;
        Ok(transaction.commit().await?)
    }

    /// Makes the partitions that these rows need.
    async fn prepare(&self, rows: &[Row]) -> Result<(), StoreError> {
        let times = rows.iter().filter_map(|row| match row.content {
            Content::Event { at, .. } => Some(at),
            Content::Bar { .. } | Content::State { .. } | Content::DeadLetter { .. } => None,
        });
        let pool = &self.0.primary.pool;
        self.migrated(pool).await?;
        self.0.days.prepare(pool, self.0.clock.now(), times).await
    }
}

#[cfg(test)]
mod tests;
