//! The roles: each alone in its process, or beside the others in `up`.

use std::future::Future;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow};
use daemon::Context;
use daemon::nats::{self, NatsArgs, Settings};
use daemon::ops::{self, Surface};
use daemon::signals::Signals;
use daemon::supervise::Supervisor;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::provision::StreamArgs;

/// How long the operations server may take to end.
const OPS_GRACE: Duration = Duration::from_secs(3);

/// A role, as a process of its own.
pub(crate) struct Role {
    /// Its name, on the broker too.
    pub(crate) name: &'static str,
    /// The port of its operations server.
    pub(crate) ops: u16,
    /// How long it may take to drain.
    pub(crate) grace: Duration,
}

pub(crate) const INGEST: Role = Role {
    name: "ingest",
    ops: 9101,
    grace: Duration::from_secs(30),
};

/// What a process of one role needs beside the role.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ProcessArgs {
    /// Where health and metrics are shown: 127.0.0.1 and a port of the role's own by default
    #[arg(long, env = "TICKWIRE_OPS")]
    ops: Option<SocketAddr>,

    #[command(flatten)]
    nats: NatsArgs,
}

/// Arguments of `tickwire ingest`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct IngestArgs {
    /// The feeds to run
    #[arg(long, env = "TICKWIRE_FEEDS")]
    feeds: PathBuf,

    /// Who this is: a process that is started under the same name takes over at once
    #[arg(long, env = "TICKWIRE_NODE")]
    node: Option<String>,

    #[command(flatten)]
    ingest: ingest::Args,

    #[command(flatten)]
    stream: StreamArgs,

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
    stream: &StreamArgs,
    node: String,
    args: ingest::Args,
) -> Result<ingest::Config> {
    Ok(ingest::Config {
        feeds: ingest::config::load(feeds)?,
        stream: stream.stream.clone(),
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
    let node = args
        .node
        .unwrap_or_else(|| format!("{}-{}", hostname(), std::process::id()));
    let config = ingest_config(&args.feeds, &args.stream, node, args.ingest)?;
    alone(INGEST, args.process, |cx, stop| {
        ingest::run(config, cx, stop)
    })
    .await
}

/// Runs one role until a signal.
async fn alone<F, Run>(role: Role, process: ProcessArgs, run: Run) -> Result<()>
where
    Run: FnOnce(Context, CancellationToken) -> F + Send + 'static,
    F: Future<Output = Result<()>> + Send,
{
    let settings = process.nats.settings(role.name)?;
    let ops = process
        .ops
        .unwrap_or_else(|| (Ipv4Addr::LOCALHOST, role.ops).into());
    let ops = bind("--ops", ops).await?;
    until_signal(async |stop| {
        let surface = Surface::new();
        let mut supervisor = Supervisor::new(stop);
        serve_ops(&mut supervisor, ops, &surface);
        start(&mut supervisor, &role, settings, &surface, run);
        let outcome = supervisor.watch().await;
        surface.health.drain();
        supervisor.shutdown(outcome).await
    })
    .await
}

/// Runs a process whose token is cancelled by the first signal; the second ends it at once.
pub(crate) async fn until_signal(
    run: impl AsyncFnOnce(CancellationToken) -> Result<()>,
) -> Result<()> {
    let stop = CancellationToken::new();
    let signals = Signals::catch()?;
    tokio::select! {
        outcome = run(stop.clone()) => outcome,
        never = signals.relay(stop) => match never {},
    }
}

/// Starts the operations server.
pub(crate) fn serve_ops(supervisor: &mut Supervisor, listener: TcpListener, surface: &Surface) {
    let surface = surface.clone();
    supervisor.start("ops", OPS_GRACE, |stop| ops::serve(listener, surface, stop));
}

/// Starts a role as soon as it is connected.
pub(crate) fn start<F, Run>(
    supervisor: &mut Supervisor,
    role: &Role,
    settings: Settings,
    surface: &Surface,
    run: Run,
) where
    Run: FnOnce(Context, CancellationToken) -> F + Send + 'static,
    F: Future<Output = Result<()>> + Send,
{
    let surface = surface.clone();
    supervisor.start(role.name, role.grace, move |stop| async move {
        let cx = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            cx = nats::connect(&settings, &surface) => cx?,
        };
        run(cx, stop).await
    });
}

/// Listens, or says which flag to change.
///
/// # Errors
///
/// The address is in use, or is not ours.
pub(crate) async fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        if error.kind() == ErrorKind::AddrInUse {
            anyhow!(
                "{flag} {address} is in use: end what listens there, or choose another port \
                 (0 is any that is free)"
            )
        } else {
            anyhow!(error).context(format!("{flag} {address} cannot be listened on"))
        }
    })
}
