//! The roles: what each is configured with, and how it runs alone.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use api::bars::Calendars;
use api::store::{Database, Location, postgres};
use clap::builder::{OsStringValueParser, TypedValueParser as _};

use crate::process::{ProcessArgs, Reach, Role, alone, bind_for_clients};
use crate::provision::{StreamName, StreamNames, WrittenStream};

/// How long everything but the drain of clients may take.
const GRACE: Duration = Duration::from_secs(30);

/// The role that writes ticks.
pub(crate) const INGEST: Role = Role {
    name: "ingest",
    ops: 9101,
    grace: GRACE,
};

/// The role that serves WebSocket clients; its drain is spread over all that it may have.
pub(crate) fn fanout_role(args: &fanout::Args) -> Role {
    let most = u32::try_from(args.max_connections.get()).unwrap_or(u32::MAX);
    Role {
        name: "fanout",
        ops: 9102,
        grace: args.grace(most).saturating_add(GRACE),
    }
}

/// The role that writes the database.
pub(crate) const RECORDER: Role = Role {
    name: "recorder",
    ops: 9103,
    grace: GRACE,
};

/// The role that answers over HTTP.
pub(crate) const API: Role = Role {
    name: "api",
    ops: 9104,
    grace: GRACE,
};

/// Who a process is.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct NodeArgs {
    /// Who this is: a process that is started under the same name continues it at once
    #[arg(long, env = "TICKWIRE_NODE")]
    node: Option<String>,
}

impl NodeArgs {
    fn name(&self) -> String {
        let process = || format!("{}-{}", hostname(), std::process::id());
        self.node.clone().unwrap_or_else(process)
    }
}

/// Arguments of `tickwire ingest`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct IngestArgs {
    /// The feeds to run
    #[arg(long, env = "TICKWIRE_FEEDS")]
    feeds: PathBuf,

    #[command(flatten)]
    node: NodeArgs,

    #[command(flatten)]
    ingest: ingest::Args,

    #[command(flatten)]
    stream: WrittenStream,

    #[command(flatten)]
    process: ProcessArgs,
}

/// Arguments of `tickwire fanout`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct FanoutArgs {
    /// Where WebSocket clients connect
    #[arg(long, env = "TICKWIRE_WS", default_value = "127.0.0.1:8081")]
    ws: SocketAddr,

    #[command(flatten)]
    reach: Reach,

    #[command(flatten)]
    node: NodeArgs,

    #[command(flatten)]
    fanout: fanout::Args,

    #[command(flatten)]
    streams: StreamNames,

    #[command(flatten)]
    process: ProcessArgs,
}

/// The database.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StoreArgs {
    /// Where history is stored: a file, or a Postgres: `postgres://user:password@host/database`
    #[arg(
        long,
        env = "TICKWIRE_STORE",
        hide_env_values = true,
        default_value = "data/history.sqlite",
        value_parser = OsStringValueParser::new().map(|text: OsString| Location::from(text))
    )]
    store: Location,

    #[command(flatten)]
    size: StoreSize,

    #[command(flatten)]
    postgres: postgres::Args,
}

/// How large the database may become.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct StoreSize {
    /// The most bytes of history: recording waits when they are used up; as many as the disk has by
    /// default
    #[arg(long, env = "TICKWIRE_STORE_BYTES", value_parser = clap::value_parser!(u64).range(1_048_576..))]
    store_bytes: Option<u64>,
}

/// Arguments of `tickwire recorder`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RecorderArgs {
    #[command(flatten)]
    store: StoreArgs,

    #[command(flatten)]
    recorder: api::recorder::Args,

    #[command(flatten)]
    stream: StreamName,

    #[command(flatten)]
    process: ProcessArgs,
}

/// When venues trade.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CalendarArgs {
    /// File with trading hours, time zones and holidays of venues; without it all trade 24x7 in UTC,
    /// but for instruments that say otherwise
    #[arg(long, env = "TICKWIRE_CALENDARS")]
    calendars: Option<PathBuf>,
}

impl CalendarArgs {
    /// Reads the file, if there is one.
    ///
    /// # Errors
    ///
    /// It cannot be used; the error names it, and the field.
    pub(crate) fn load(&self) -> Result<Arc<Calendars>> {
        let read = self.calendars.as_deref().map(Calendars::load).transpose()?;
        Ok(Arc::new(read.unwrap_or_default()))
    }
}

/// Arguments of `tickwire api`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ApiArgs {
    /// Where the console and the HTTP API listen
    #[arg(long, env = "TICKWIRE_HTTP", default_value = "127.0.0.1:8080")]
    http: SocketAddr,

    #[command(flatten)]
    reach: Reach,

    /// Where pages find the WebSocket
    #[arg(long, env = "TICKWIRE_WS_URL", default_value = "ws://127.0.0.1:8081")]
    ws_url: String,

    #[command(flatten)]
    calendars: CalendarArgs,

    #[command(flatten)]
    server: api::server::Args,

    #[command(flatten)]
    store: StoreArgs,

    #[command(flatten)]
    stream: StreamName,

    #[command(flatten)]
    process: ProcessArgs,
}

/// Reads the feeds and says how ingest runs.
///
/// # Errors
///
/// The feeds cannot be used; the error names file, line and field.
pub(crate) fn ingest_config(
    feeds: &Path,
    stream: &WrittenStream,
    node: String,
    args: ingest::Args,
) -> Result<ingest::Config> {
    Ok(ingest::Config {
        feeds: ingest::config::load(feeds)?,
        stream: stream.name.stream.clone(),
        retention: Duration::from_secs(stream.retain_secs),
        node,
        args,
    })
}

/// The name of this machine.
pub(crate) fn hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// Runs ingest alone.
///
/// # Errors
///
/// It cannot be started, or failed.
pub(crate) async fn ingest(args: IngestArgs) -> Result<()> {
    let config = ingest_config(&args.feeds, &args.stream, args.node.name(), args.ingest)?;
    alone(INGEST, args.process, |cx, stop| {
        ingest::run(config, cx, stop)
    })
    .await
}

/// Runs fanout alone.
///
/// # Errors
///
/// It cannot be started, or failed.
pub(crate) async fn fanout(args: FanoutArgs) -> Result<()> {
    let listener = bind_for_clients("--ws", args.ws, args.reach).await?;
    let role = fanout_role(&args.fanout);
    let (streams, node) = (args.streams.streams, args.node.name());
    let config = fanout::Config {
        streams,
        node,
        args: args.fanout,
    };
    alone(role, args.process, |cx, stop| {
        fanout::run(config, listener, cx, stop)
    })
    .await
}

impl StoreArgs {
    /// Opens the database.
    ///
    /// # Errors
    ///
    /// The file cannot be used, or the URL is wrong.
    pub(crate) async fn open(&self) -> Result<Database> {
        open_store(&self.store, self.size, &self.postgres).await
    }

    /// Whether there is something to be read: a file that is opened is made.
    ///
    /// # Errors
    ///
    /// There is no such file.
    pub(crate) fn ensure_there(&self) -> Result<()> {
        let store = &self.store;
        if let Location::File(path) = store {
            ensure!(path.exists(), "--store: there is no file {store}");
        }
        Ok(())
    }

    /// Opens the database itself and none of its copies: what was written is read at once.
    ///
    /// # Errors
    ///
    /// The file cannot be used, or the URL is wrong.
    pub(crate) async fn open_primary(&self) -> Result<Database> {
        let args = postgres::Args {
            store_replica: None,
            ..self.postgres.clone()
        };
        open_store(&self.store, self.size, &args).await
    }
}

/// Opens a database.
///
/// # Errors
///
/// The file cannot be used, or the URL is wrong.
pub(crate) async fn open_store(
    location: &Location,
    size: StoreSize,
    args: &postgres::Args,
) -> Result<Database> {
    Database::open(location, size.store_bytes, args)
        .await
        .with_context(|| format!("the database {location} cannot be used"))
}

/// Runs the recorder alone.
///
/// # Errors
///
/// It cannot be started, or failed.
pub(crate) async fn recorder(args: RecorderArgs) -> Result<()> {
    let store = args.store.open().await?;
    let config = api::recorder::Config {
        stream: args.stream.stream,
        store,
        args: args.recorder,
    };
    alone(RECORDER, args.process, |cx, stop| {
        api::recorder::run(config, cx, stop)
    })
    .await
}

/// Runs the HTTP side alone.
///
/// # Errors
///
/// It cannot be started, or failed.
pub(crate) async fn api(args: ApiArgs) -> Result<()> {
    let calendars = args.calendars.load()?;
    let listener = bind_for_clients("--http", args.http, args.reach).await?;
    let store = args.store.open().await?;
    let config = api::server::Config {
        stream: args.stream.stream,
        store,
        calendars,
        ws: args.ws_url,
        args: args.server,
    };
    alone(API, args.process, |cx, stop| {
        api::server::run(config, listener, cx, stop)
    })
    .await
}
