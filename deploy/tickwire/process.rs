//! A process of one or more roles: signals, the operations server, listeners, connections.

use std::future::Future;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use daemon::Context;
use daemon::nats::{self, NatsArgs, Settings};
use daemon::ops::{self, Surface};
use daemon::signals::Signals;
use daemon::supervise::Supervisor;
use futures_util::poll;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// How long the operations server may take to end.
const OPS_GRACE: Duration = Duration::from_secs(3);

/// A part of the system that runs alone or beside the others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Role {
    /// Its name, on the broker too.
    pub(crate) name: &'static str,
    /// The port of its operations server.
    pub(crate) ops: u16,
    /// How long it may take to drain.
    pub(crate) grace: Duration,
}

/// What a process of one role needs beside the role.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ProcessArgs {
    /// Where health and metrics are shown: 127.0.0.1 and a port of the role's own by default
    #[arg(long, env = "TICKWIRE_OPS")]
    ops: Option<SocketAddr>,

    #[command(flatten)]
    nats: NatsArgs,
}

/// Who is served.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Reach {
    /// Serve whoever can reach the address: there are no keys yet, so without this flag it has to
    /// be a loopback address
    #[arg(long, env = "TICKWIRE_OPEN")]
    open: bool,
}

/// Runs one role until a signal.
///
/// # Errors
///
/// It cannot be started, or failed.
pub(crate) async fn alone<F, Run>(role: Role, process: ProcessArgs, run: Run) -> Result<()>
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
        start(&mut supervisor, role, settings, &surface, run);
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
    role: Role,
    settings: Settings,
    surface: &Surface,
    run: Run,
) where
    Run: FnOnce(Context, CancellationToken) -> F + Send + 'static,
    F: Future<Output = Result<()>> + Send,
{
    let surface = surface.clone();
    let started = surface.health.check(&format!("start.{}", role.name));
    supervisor.start(role.name, role.grace, move |stop| async move {
        let cx = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            cx = nats::connect(&settings, &surface) => cx?,
        };
        let mut running = pin!(run(cx, stop));
        // Once it waits for the first time, the checks that tell more are declared.
        if let Poll::Ready(outcome) = poll!(&mut running) {
            return outcome;
        }
        started.ok();
        running.await
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

/// Listens for clients; where others than this machine's users can come, only if that is wanted.
///
/// # Errors
///
/// As [`bind`], and if strangers would be served unasked.
pub(crate) async fn bind_for_clients(
    flag: &str,
    address: SocketAddr,
    reach: Reach,
) -> Result<TcpListener> {
    if !address.ip().is_loopback() {
        ensure!(
            reach.open,
            "{flag} {address} can be reached from other machines, and there are no keys yet: add \
             --open (TICKWIRE_OPEN=true) to serve whoever comes, or choose a loopback address"
        );
        warn!(%address, "without keys, whoever can reach the address is served");
    }
    bind(flag, address).await
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::{Reach, bind_for_clients};

    #[tokio::test]
    async fn strangers_are_served_only_where_that_is_wanted() {
        let (shut, open) = (Reach { open: false }, Reach { open: true });
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.7:80"] {
            let address: SocketAddr = address.parse().unwrap();
            let refusal = bind_for_clients("--ws", address, shut).await.unwrap_err();
            let refusal = refusal.to_string();
            for part in ["--ws", "--open", "TICKWIRE_OPEN=true"] {
                assert!(refusal.contains(part), "{refusal}");
            }
        }
        let local: SocketAddr = "127.0.0.1:0".parse().unwrap();
        assert!(bind_for_clients("--ws", local, shut).await.is_ok());
        assert!(bind_for_clients("--ws", local, open).await.is_ok());
    }
}
