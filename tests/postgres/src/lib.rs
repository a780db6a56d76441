//! A Postgres of its own for tests and benchmarks: in a container where Docker is there, otherwise
//! a server of this machine in a directory that goes away with it.
//!
//! `TICKWIRE_TEST_POSTGRES_URL` names one that runs already and is shared instead, a pooler before it
//! for example; its user may create databases.

mod container;
mod local;

use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use anyhow::{Context as _, Result};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};
use tokio::sync::Mutex;

use container::Container;
use local::Local;

const RUNNING: &str = "TICKWIRE_TEST_POSTGRES_URL";
/// The server that is shared by whoever needs one at the same time.
static SHARED: Mutex<Shared> = Mutex::const_new(Shared {
    server: Weak::new(),
    kept: None,
});
static COUNT: AtomicU32 = AtomicU32::new(0);

#[derive(Debug)]
enum Kind {
    Running(String),
    Container(Box<Container>),
    Local(Box<Local>),
}

/// A server that runs until this is dropped, or the process ends.
#[derive(Debug)]
pub struct Server(Kind);

struct Shared {
    server: Weak<Server>,
    /// Kept for the next one; but a container is removed by being dropped alone.
    kept: Option<Arc<Server>>,
}

impl Server {
    /// Starts a server, and says which kind.
    ///
    /// # Errors
    ///
    /// There is neither Docker nor Postgres; the sentence names the remedy.
    pub async fn start() -> Result<Self> {
        let (kind, which) = Self::choose().await?;
        tell(&which)?;
        Ok(Self(kind))
    }

    #[expect(clippy::disallowed_methods, reason = "a test has no arguments")]
    fn running() -> Result<Option<Self>> {
        let Ok(url) = std::env::var(RUNNING) else {
            return Ok(None);
        };
        tell(&format!("the one that {RUNNING} names"))?;
        Ok(Some(Self(Kind::Running(url))))
    }

    async fn choose() -> Result<(Kind, String)> {
        let missing = match Container::start().await {
            Ok(container) => {
                let which = format!("a container of {}", container.image);
                return Ok((Kind::Container(Box::new(container)), which));
            }
            Err(problem) => problem,
        };
        let local = Local::start().await.with_context(|| {
            format!("neither Docker ({missing:#}) nor a server of this machine can be used")
        })?;
        let which = format!("a server of this machine, {}", local.version());
        Ok((Kind::Local(Box::new(local)), which))
    }

    /// The server that others use at the same time, or a new one.
    ///
    /// # Errors
    ///
    /// See [`Self::start`].
    pub async fn shared() -> Result<Arc<Self>> {
        let mut shared = SHARED.lock().await;
        if let Some(server) = shared.server.upgrade() {
            return Ok(server);
        }
        let server = match Self::running()? {
            Some(running) => running,
            None => Self::start().await?,
        };
        let server = Arc::new(server);
        shared.server = Arc::downgrade(&server);
        shared.kept = (!matches!(server.0, Kind::Container(_))).then(|| Arc::clone(&server));
        Ok(server)
    }

    /// Makes an empty database; its URL.
    ///
    /// # Errors
    ///
    /// The server does not do it.
    pub async fn database(&self) -> Result<String> {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tickwire_{}_{number}", std::process::id());
        let mut admin = connect(&self.url("postgres")).await?;
        let sql = format!("DROP DATABASE IF EXISTS {name}");
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut admin)
            .await?;
        let sql = format!("CREATE DATABASE {name}");
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut admin)
            .await?;
        admin.close().await?;
        Ok(self.url(&name))
    }

    fn url(&self, database: &str) -> String {
        match &self.0 {
            Kind::Running(url) => match url.rsplit_once('/') {
                Some((server, _)) => format!("{server}/{database}"),
                None => url.clone(),
            },
            Kind::Container(container) => container.url(database),
            Kind::Local(local) => local.url(database),
        }
    }

    /// Stops the server at once, as if its machine had lost power; what was committed stays.
    ///
    /// # Errors
    ///
    /// It does not stop, or is none that may be stopped.
    pub async fn stop(&mut self) -> Result<()> {
        match &mut self.0 {
            Kind::Running(_) => anyhow::bail!("{RUNNING} names a server that is not ours to stop"),
            Kind::Container(container) => container.stop().await,
            Kind::Local(local) => local.stop().await,
        }
    }

    /// Starts the server again that was stopped, at the same URL.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub async fn resume(&mut self) -> Result<()> {
        match &mut self.0 {
            Kind::Running(_) => {}
            Kind::Container(container) => container.resume().await?,
            Kind::Local(local) => local.run()?,
        }
        answers(&self.url("postgres")).await
    }
}

/// Says which server is used, past the test runner, which keeps what a test prints to itself.
fn tell(which: &str) -> Result<()> {
    Ok(writeln!(std::io::stderr(), "postgres: {which}")?)
}

/// Connects for a look from outside, past everything that is tested.
///
/// # Errors
///
/// The server does not let it.
pub async fn connect(url: &str) -> Result<PgConnection> {
    let options: PgConnectOptions = url.parse()?;
    // Works behind a pooler too.
    let options = options.statement_cache_capacity(0).extra_float_digits(None);
    Ok(options.connect().await?)
}

/// Waits until a server lets somebody in.
async fn answers(url: &str) -> Result<()> {
    const PATIENCE: std::time::Duration = std::time::Duration::from_mins(1);
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
    let connected = tokio::time::timeout(PATIENCE, async {
        while connect(url).await.is_err() {
            tokio::time::sleep(PAUSE).await;
        }
    });
    connected
        .await
        .context("the server does not let anybody in")
}
