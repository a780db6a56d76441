//! `tickwire up`: every role in one process, with a broker of its own, open on loopback only.

mod announce;
mod ground;

use std::net::SocketAddr;
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use api::bars::Calendars;
use api::store::{Database, Location, postgres};
use bus::provision::StreamSpec;
use daemon::nats::NatsArgs;
use daemon::ops::Surface;
use daemon::supervise::Supervisor;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::broker::binary::{Places, Search};
use crate::data::DataDir;
use crate::process::{self, Role};
use crate::provision::StreamArgs;
use crate::roles;
use ground::Way;

/// Arguments of `tickwire up`.
#[derive(Debug, clap::Args)]
pub(crate) struct UpArgs {
    /// The feeds to run
    #[arg(long, env = "TICKWIRE_FEEDS")]
    feeds: PathBuf,

    /// The directory that everything is stored in
    #[arg(long, env = "TICKWIRE_DATA", default_value = "data")]
    data: PathBuf,

    /// Where the console and the HTTP API listen: a loopback address, port 0 for any
    #[arg(long, env = "TICKWIRE_HTTP", default_value = "127.0.0.1:8080", value_parser = loopback)]
    http: SocketAddr,

    /// Where WebSocket clients connect
    #[arg(long, env = "TICKWIRE_WS", default_value = "127.0.0.1:8081", value_parser = loopback)]
    ws: SocketAddr,

    /// Where health and metrics are shown
    #[arg(long, env = "TICKWIRE_OPS", default_value = "127.0.0.1:9100", value_parser = loopback)]
    ops: SocketAddr,

    /// A file that is written, whole, as soon as everything is ready: all addresses, as JSON
    #[arg(long, env = "TICKWIRE_READY_FILE")]
    ready_file: Option<PathBuf>,

    #[command(flatten)]
    nats_server: Search,

    #[command(flatten)]
    ingest: ingest::Args,

    #[command(flatten)]
    fanout: fanout::Args,

    #[command(flatten)]
    recorder: api::recorder::Args,

    #[command(flatten)]
    server: api::server::Args,

    #[command(flatten)]
    size: roles::StoreSize,

    #[command(flatten)]
    calendars: roles::CalendarArgs,

    #[command(flatten)]
    stream: StreamArgs,

    #[command(flatten)]
    nats: NatsArgs,
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| "an address looks like 127.0.0.1:8080".to_owned())?;
    if !address.ip().is_loopback() {
        return Err("`up` knows no keys, so it listens on loopback only, such as 127.0.0.1".into());
    }
    Ok(address)
}

/// Runs the whole system until a signal.
///
/// # Errors
///
/// Something that it needs is not there, or a part failed.
pub(crate) async fn run(args: UpArgs) -> Result<()> {
    process::until_signal(async |stop| system(args, stop).await).await
}

async fn system(args: UpArgs, stop: CancellationToken) -> Result<()> {
    let mut supervisor = Supervisor::new(stop);
    let surface = Surface::new();
    // Held until everything has ended, so that nobody starts on what is still being written.
    let data = DataDir::hold(&args.data)?;
    let up = Up::prepare(&args, data.path(), surface.clone()).await?;
    let outcome = Box::pin(up.live(&mut supervisor)).await;
    surface.health.drain();
    announce::withdraw(args.ready_file.as_deref());
    supervisor.shutdown(outcome).await
}

/// Everything that can be refused before anything is started.
struct Up {
    surface: Surface,
    data: PathBuf,
    feeds: PathBuf,
    roles: Roles,
    ready_file: Option<PathBuf>,
    spec: StreamSpec,
    way: Way,
    ops: TcpListener,
}

/// The database that goes with everything else in `data`.
async fn open_store(data: &Path, size: roles::StoreSize) -> Result<Database> {
    let location = Location::File(data.join("history.sqlite"));
    roles::open_store(&location, size, &postgres::Args::default()).await
}

/// The roles, as they will run.
struct Roles {
    stream: String,
    ingest: ingest::Config,
    fanout: fanout::Config,
    store: Database,
    calendars: Arc<Calendars>,
    recorder: api::recorder::Args,
    server: api::server::Args,
    http: TcpListener,
    ws: TcpListener,
}

impl Up {
    async fn prepare(args: &UpArgs, data: &Path, surface: Surface) -> Result<Self> {
        announce::withdraw(args.ready_file.as_deref());
        let feeds = args
            .feeds
            .canonicalize()
            .with_context(|| format!("--feeds {} cannot be read", args.feeds.display()))?;
        let http = process::bind("--http", args.http).await?;
        let ws = process::bind("--ws", args.ws).await?;
        let ops = process::bind("--ops", args.ops).await?;
        let node = format!("{}:{}", roles::hostname(), data.display());
        let ingest = roles::ingest_config(&feeds, &args.stream.written, node, args.ingest.clone())?;
        let places = Places::new(&args.nats_server, data);
        let way = Way::choose(&args.nats, &places).await?;
        let spec = args.stream.spec(NonZeroU8::MIN);
        let stream = spec.name.clone();
        let fanout = fanout_config(args.fanout.clone(), &stream, &http)?;
        let store = open_store(data, args.size).await?;
        let roles = Roles {
            stream,
            ingest,
            fanout,
            store,
            calendars: args.calendars.load()?,
            recorder: args.recorder,
            server: args.server.clone(),
            http,
            ws,
        };
        let (data, ready_file) = (data.to_owned(), args.ready_file.clone());
        Ok(Self {
            surface,
            data,
            feeds,
            roles,
            ready_file,
            spec,
            way,
            ops,
        })
    }

    /// Starts everything in order and watches it.
    async fn live(self, supervisor: &mut Supervisor) -> Result<()> {
        let place = announce::Place {
            http: address(&self.roles.http)?,
            ws: address(&self.roles.ws)?,
            ops: address(&self.ops)?,
            data: self.data.clone(),
            feeds: self.feeds.clone(),
            nats: self.way.settings("provision")?.url,
            server: self.way.server().cloned(),
        };
        let surface = &self.surface;
        process::serve_ops(supervisor, self.ops, surface);
        let laid = ground::lay(supervisor, surface, &self.way, &self.spec, &self.data);
        let Some(ground) = laid.await? else {
            return Ok(());
        };
        self.roles.start(supervisor, surface, &self.way)?;
        let ready = async {
            self.surface.health.ready().await;
            Ok(())
        };
        if supervisor.during(ready).await?.is_none() {
            return Ok(());
        }
        announce::publish(
            &place,
            ground.life.map(|life| *life.borrow()),
            self.ready_file.as_deref(),
        )?;
        supervisor.watch().await
    }
}

impl Roles {
    /// Starts every role. They stop in the opposite order: nothing is lost on the way.
    fn start(self, supervisor: &mut Supervisor, surface: &Surface, way: &Way) -> Result<()> {
        let settings = |role: Role| way.settings(role.name);
        let config = api::server::Config {
            stream: self.stream.clone(),
            store: self.store.clone(),
            calendars: self.calendars,
            ws: format!("ws://{}", address(&self.ws)?),
            args: self.server,
        };
        let role = roles::API;
        process::start(supervisor, role, settings(role)?, surface, |cx, stop| {
            api::server::run(config, self.http, cx, stop)
        });
        let config = api::recorder::Config {
            stream: self.stream,
            store: self.store,
            args: self.recorder,
        };
        let role = roles::RECORDER;
        process::start(supervisor, role, settings(role)?, surface, |cx, stop| {
            api::recorder::run(config, cx, stop)
        });
        let role = roles::fanout_role(&self.fanout.args);
        process::start(supervisor, role, settings(role)?, surface, |cx, stop| {
            fanout::run(self.fanout, self.ws, cx, stop)
        });
        let role = roles::INGEST;
        process::start(supervisor, role, settings(role)?, surface, |cx, stop| {
            ingest::run(self.ingest, cx, stop)
        });
        Ok(())
    }
}

fn fanout_config(
    mut args: fanout::Args,
    stream: &str,
    console: &TcpListener,
) -> Result<fanout::Config> {
    // The console's page comes from another port than its WebSocket.
    let console = address(console)?;
    let names = [console.to_string(), format!("localhost:{}", console.port())];
    args.origins
        .extend(names.map(|name| format!("http://{name}")));
    // There is no load balancer that would have to notice.
    args.drain_accept_secs.get_or_insert(0);
    Ok(fanout::Config {
        streams: vec![stream.to_owned()],
        node: roles::hostname(),
        args,
    })
}

fn address(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().context("a listener has no address")
}
