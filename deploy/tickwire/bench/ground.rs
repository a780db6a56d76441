//! What a measurement stands on: a broker with an empty stream, and servers that end with it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use async_nats::Client;
use bus::provision::StreamSpec;
use daemon::nats;
use daemon::ops::Surface;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::cores::Cores;
use super::server::{Door, PATIENCE, Server};
use super::usage::{self, Usage};
use crate::broker::binary::Binary;
use crate::broker::config::{self, Logins};
use crate::broker::{self, Broker, Life};

/// The stream of every measurement.
pub(in crate::bench) const STREAM: &str = "TICKS";

/// Somewhere on this machine to listen.
///
/// # Errors
///
/// The system has no port left.
pub(in crate::bench) fn loopback() -> Result<SocketAddr> {
    Ok(SocketAddr::from((
        Ipv4Addr::LOCALHOST,
        broker::free_port()?,
    )))
}

/// A broker that has the stream; it ends with this.
pub(in crate::bench) struct Ground {
    dir: TempDir,
    logins: Logins,
    life: watch::Receiver<Life>,
    running: JoinSet<Result<()>>,
    stop: CancellationToken,
    /// A connection that may publish.
    pub(in crate::bench) publisher: Client,
}

impl Ground {
    /// Starts a broker with an empty stream.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub(in crate::bench) async fn lay(nats_server: &Binary) -> Result<Self> {
        let dir = TempDir::new().context("there is no room for a broker's data")?;
        let logins = Logins::random(broker::free_port()?);
        let spec = StreamSpec {
            venues: Vec::new(),
            name: STREAM.to_owned(),
            max_age_secs: 3_600,
            max_bytes: 2 << 30,
            replicas: 1,
        };
        let nats = dir.path().join("nats");
        config::write(&nats, &spec, &logins)?;
        let surface = Surface::new();
        let (life, mut lives) = watch::channel(Life::default());
        let broker = Broker {
            binary: nats_server.clone(),
            dir: nats,
            connector: nats::connector(logins.settings("provision"), &surface),
            check: surface.health.check("broker"),
            life,
        };
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(broker.run(stop.clone()));
        tokio::select! {
            ended = running.join_next() => bail!("nats-server does not start: {ended:?}"),
            up = timeout(PATIENCE, lives.wait_for(|life| life.pid.is_some())) => {
                up.context("nats-server does not answer")?.context("nats-server ended")?;
            }
        }
        let provisioner = nats::connector(logins.settings("provision"), &surface)().await?;
        bus::provision::provision(&provisioner, &spec).await?;
        let publisher = nats::connector(logins.settings("ingest"), &surface)().await?;
        Ok(Self {
            dir,
            logins,
            life: lives,
            running,
            stop,
            publisher,
        })
    }

    /// The broker's process.
    ///
    /// # Errors
    ///
    /// It has ended, or had ended and was started again: what was measured means nothing.
    pub(in crate::bench) fn broker(&self) -> Result<u32> {
        let life = *self.life.borrow();
        match life.pid {
            Some(pid) if life.restarts == 0 => Ok(pid),
            _ => bail!("nats-server ended in the middle of a measurement"),
        }
    }

    /// What the broker has used.
    ///
    /// # Errors
    ///
    /// As for [`Self::broker`].
    pub(in crate::bench) fn usage(&self) -> Result<Usage> {
        usage::of(self.broker()?)
    }

    /// Where the broker listens.
    pub(in crate::bench) fn url(&self) -> String {
        self.logins.url()
    }

    /// For what is needed as long as the broker is.
    pub(in crate::bench) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// One of this program's roles, to be started, with its login and its operations port.
    ///
    /// # Errors
    ///
    /// There is no room for its password.
    pub(in crate::bench) fn role(&self, role: &'static str, ops: SocketAddr) -> Result<Command> {
        let settings = self.logins.settings(role);
        let password = self.dir.path().join(format!("{role}.password"));
        if let nats::Login::Password { password: text, .. } = &settings.login {
            std::fs::write(&password, text.reveal())?;
        }
        let mut command = self.tied(role)?;
        command
            .arg(std::env::current_exe()?)
            .args([role, "--log", "warn", "--node", "bench"])
            .args(["--nats-url", &settings.url, "--nats-user", role])
            .arg("--nats-password-file")
            .arg(password)
            .args(["--ops", &ops.to_string()]);
        Ok(command)
    }

    /// A command that ends with this process, whatever happens to it; what is to run is still to be
    /// said. Ours runs on the main thread, which lives as long: the kernel watches the thread that
    /// starts a process.
    ///
    /// # Errors
    ///
    /// The system does not say which program this is.
    pub(in crate::bench) fn tied(&self, name: &str) -> Result<Command> {
        let lock = self.dir.path().join(format!("{name}.lock"));
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["nats-child", "--parent", &std::process::id().to_string()])
            .arg("--lock")
            .arg(lock)
            .arg("--");
        Ok(command)
    }

    /// Starts a command, alone on its core, and waits until it may be used.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub(in crate::bench) async fn launch(
        &self,
        cores: &Cores,
        (name, mut command): (&str, Command),
        door: Door,
    ) -> Result<Server> {
        let log = self.dir.path().join(name);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?)
            .env_clear()
            .kill_on_drop(true);
        let child = cores.on_server(|| command.spawn())?;
        Server::of(child, log, door).await
    }

    /// Ends the broker.
    ///
    /// # Errors
    ///
    /// It failed before.
    pub(in crate::bench) async fn clear(mut self) -> Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.running.join_next().await {
            ended.context("the broker's task panicked")??;
        }
        Ok(())
    }
}
