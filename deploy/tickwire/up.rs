//! `tickwire up`: every role in one process, with a broker of its own, open on loopback only.

mod announce;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use async_nats::Client;
use bus::provision::{ProvisionError, StreamSpec};
use daemon::nats::{self, NatsArgs, Settings};
use daemon::ops::Surface;
use daemon::supervise::Supervisor;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::broker::binary::{Binary, Places};
use crate::broker::config::{self, Logins};
use crate::broker::{self, Broker, Life};
use crate::data::DataDir;
use crate::provision::StreamArgs;
use crate::roles;

/// How often provisioning is tried while a broker is still finding its feet.
const PROVISION_TRIES: u32 = 10;
/// JetStream's error for a stream that does not exist.
const NO_STREAM: u64 = 10059;

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

    /// The nats-server to start
    #[arg(long, env = "TICKWIRE_NATS_SERVER_BIN")]
    nats_server_bin: Option<PathBuf>,

    /// Where the shell looks for programs
    #[arg(long, env = "PATH", default_value = "", hide = true)]
    search_path: OsString,

    #[command(flatten)]
    ingest: ingest::Args,

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
    roles::until_signal(async |stop| system(args, stop).await).await
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
    ingest: ingest::Config,
    ready_file: Option<PathBuf>,
    spec: StreamSpec,
    way: Way,
    http: TcpListener,
    ws: TcpListener,
    ops: TcpListener,
}

/// The way to the broker.
enum Way {
    /// Somebody else's.
    Given(NatsArgs),
    /// Our own.
    Managed { binary: Binary, logins: Logins },
}

impl Way {
    fn settings(&self, role: &'static str) -> Result<Settings> {
        match self {
            Self::Given(args) => args.settings(role),
            Self::Managed { logins, .. } => Ok(logins.settings(role)),
        }
    }
}

impl Up {
    async fn prepare(args: &UpArgs, data: &Path, surface: Surface) -> Result<Self> {
        announce::withdraw(args.ready_file.as_deref());
        let feeds = args
            .feeds
            .canonicalize()
            .with_context(|| format!("--feeds {} cannot be read", args.feeds.display()))?;
        let node = format!("{}:{}", roles::hostname(), data.display());
        let ingest = roles::ingest_config(&feeds, &args.stream, node, args.ingest.clone())?;
        let http = roles::bind("--http", args.http).await?;
        let ws = roles::bind("--ws", args.ws).await?;
        let ops = roles::bind("--ops", args.ops).await?;
        let way = if args.nats.nats_url.is_some() {
            Way::Given(args.nats.clone())
        } else if cfg!(not(target_os = "linux")) {
            bail!(
                "only Linux can tie a nats-server to the life of another process: start one \
                 yourself and give its address with --nats-url or TICKWIRE_NATS_URL"
            );
        } else {
            let places = Places::new(args.nats_server_bin.clone(), &args.search_path, data);
            let binary = places.find().await?;
            Way::Managed {
                binary,
                logins: Logins::random(broker::free_port()?),
            }
        };
        let spec = args.stream.spec(NonZeroU8::MIN);
        let (data, ready_file) = (data.to_owned(), args.ready_file.clone());
        Ok(Self {
            surface,
            data,
            feeds,
            ingest,
            ready_file,
            spec,
            way,
            http,
            ws,
            ops,
        })
    }

    /// Starts everything in order and watches it.
    async fn live(self, supervisor: &mut Supervisor) -> Result<()> {
        let address = |listener: &TcpListener| listener.local_addr().context("a lost listener");
        let place = announce::Place {
            http: address(&self.http)?,
            ws: address(&self.ws)?,
            ops: address(&self.ops)?,
            data: self.data.clone(),
            feeds: self.feeds.clone(),
            nats: self.way.settings("provision")?.url,
            server: match &self.way {
                Way::Given(_) => None,
                Way::Managed { binary, .. } => Some(binary.clone()),
            },
        };
        roles::serve_ops(supervisor, self.ops, &self.surface);
        let life = match &self.way {
            Way::Given(_) => None,
            Way::Managed { binary, logins } => {
                let dir = self.data.join("nats");
                config::write(&dir, &self.spec, logins)?;
                let Some(life) =
                    start_broker(supervisor, &self.surface, binary.clone(), logins, dir).await?
                else {
                    return Ok(());
                };
                Some(life)
            }
        };
        let provisioned = provision(&self.way, &self.surface, &self.spec, &self.data);
        if supervisor.during(provisioned).await?.is_none() {
            return Ok(());
        }
        let settings = self.way.settings(roles::INGEST.name)?;
        roles::start(
            supervisor,
            &roles::INGEST,
            settings,
            &self.surface,
            |cx, stop| ingest::run(self.ingest, cx, stop),
        );
        let ready = async {
            self.surface.health.ready().await;
            Ok(())
        };
        if supervisor.during(ready).await?.is_none() {
            return Ok(());
        }
        announce::publish(
            &place,
            life.map(|life| *life.borrow()),
            self.ready_file.as_deref(),
        )?;
        supervisor.watch().await
    }
}

/// Starts our own broker and waits until JetStream answers; `None` if we are asked to end first.
async fn start_broker(
    supervisor: &mut Supervisor,
    surface: &Surface,
    binary: Binary,
    logins: &Logins,
    dir: PathBuf,
) -> Result<Option<watch::Receiver<Life>>> {
    let (life, mut lives) = watch::channel(Life::default());
    let seen = lives.clone();
    surface
        .stats
        .add("broker", move || serde_json::json!(*seen.borrow()));
    let connector = nats::connector(logins.settings("provision"), surface);
    let check = surface.health.check("broker");
    let broker = Broker {
        binary,
        dir,
        connector,
        check,
        life,
    };
    supervisor.start("broker", broker::GRACE + Duration::from_secs(2), |stop| {
        broker.run(stop)
    });
    let answered = async {
        // The channel closes only where the part ends, and how it ends says more.
        if lives.wait_for(|life| life.pid.is_some()).await.is_err() {
            std::future::pending::<()>().await;
        }
        Ok(())
    };
    Ok(supervisor.during(answered).await?.map(|()| lives))
}

async fn provision(way: &Way, surface: &Surface, spec: &StreamSpec, data: &Path) -> Result<()> {
    let settings = way.settings("provision")?;
    let url = settings.url.clone();
    let client = nats::connector(settings, surface)()
        .await
        .with_context(|| format!("the broker at {url} cannot be reached"))?;
    if matches!(way, Way::Managed { .. }) {
        refuse_damage(&client, spec, data).await?;
    }
    let mut tries = 0;
    loop {
        tries += 1;
        match bus::provision::provision(&client, spec).await {
            Ok(epoch) => {
                info!(stream = spec.name, %epoch, "provisioned");
                return Ok(());
            }
            // No answer may come later; a refusal stays one.
            Err(ProvisionError::Api { what, source })
                if source.code().is_none() && tries < PROVISION_TRIES =>
            {
                warn!(what, error = %source, tries, "cannot provision yet");
            }
            Err(error) => return Err(error.into()),
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// A broker that cannot read a stream's files leaves the stream out; a new one in its place would
/// hide that everything stored is lost.
async fn refuse_damage(client: &Client, spec: &StreamSpec, data: &Path) -> Result<()> {
    let files = data.join("nats/jetstream/$G/streams").join(&spec.name);
    if !files.exists() {
        return Ok(());
    }
    match bus::stream::state(client, &spec.name).await {
        Err(error) if error.code() == Some(NO_STREAM) => bail!(
            "nats-server cannot read the stream in {}: restore it from a backup, or move {} away \
             to start with an empty one",
            files.display(),
            data.join("nats").display()
        ),
        _ => Ok(()),
    }
}
