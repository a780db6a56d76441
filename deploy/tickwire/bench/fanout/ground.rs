//! What is measured against what: a broker, and on a core of its own a server that reads from it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
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
use super::gateway;
use super::publisher::Outlet;
use super::server::{PATIENCE, Server};
use super::ticks;
use crate::broker::binary::Binary;
use crate::broker::config::{self, Logins};
use crate::broker::{self, Broker, Life};

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Contender {
    #[value(skip)]
    Tickwire,
    /// A plain axum broadcaster
    Axum,
    /// NATS' own WebSocket gateway
    NatsWs,
}

impl Contender {
    /// Whom we are compared with.
    pub(super) const PEERS: [Self; 2] = [Self::Axum, Self::NatsWs];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tickwire => "tickwire",
            Self::Axum => "axum",
            Self::NatsWs => "nats-ws",
        }
    }
}

/// What is needed to start anything.
pub(super) struct Tools {
    pub(super) cores: Cores,
    pub(super) nats_server: Binary,
    /// The broadcaster to compare with, if it is wanted.
    pub(super) axum: Option<PathBuf>,
}

/// A broker that has the stream; it ends with this.
pub(super) struct Ground {
    dir: TempDir,
    logins: Logins,
    life: watch::Receiver<Life>,
    running: JoinSet<Result<()>>,
    stop: CancellationToken,
    /// Where ticks go.
    pub(super) outlet: Outlet,
}

impl Ground {
    /// Starts a broker with an empty stream.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub(super) async fn lay(tools: &Tools) -> Result<Self> {
        let dir = TempDir::new().context("there is no room for a broker's data")?;
        let logins = Logins::random(broker::free_port()?);
        let spec = StreamSpec {
            venues: Vec::new(),
            name: ticks::STREAM.to_owned(),
            max_age_secs: 3_600,
            max_bytes: 2 << 30,
            replicas: 1,
        };
        let nats = dir.path().join("nats");
        config::write(&nats, &spec, &logins)?;
        let surface = Surface::new();
        let (life, mut lives) = watch::channel(Life::default());
        let broker = Broker {
            binary: tools.nats_server.clone(),
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
            outlet: Outlet::Stream(publisher),
        })
    }

    /// The broker's process.
    ///
    /// # Errors
    ///
    /// It has ended, or had ended and was started again: what was measured means nothing.
    pub(super) fn broker(&self) -> Result<u32> {
        let life = *self.life.borrow();
        match life.pid {
            Some(pid) if life.restarts == 0 => Ok(pid),
            _ => bail!("nats-server ended in the middle of a measurement"),
        }
    }

    /// Starts a server, alone on its core, and waits until clients may connect.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub(super) async fn start(&self, tools: &Tools, contender: Contender) -> Result<Server> {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let address = loopback(broker::free_port()?);
        let ops = loopback(broker::free_port()?);
        let mut command = self.tied(contender.name())?;
        match contender {
            Contender::Tickwire => self.fanout(&mut command, address, ops)?,
            Contender::Axum => {
                let axum = tools
                    .axum
                    .as_ref()
                    .context("no broadcaster to compare with")?;
                command
                    .arg(axum)
                    .arg(address.to_string())
                    .arg(self.logins.url());
            }
            Contender::NatsWs => {
                let file = gateway::write(self.dir.path(), ops, address)?;
                command.arg(&tools.nats_server.path).arg("-c").arg(file);
            }
        }
        let log = self.dir.path().join(contender.name());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?)
            .env_clear()
            .kill_on_drop(true);
        let child = tools.cores.on_server(|| command.spawn())?;
        let mut server = Server {
            log,
            pid: child.id().context("the server ended at once")?,
            child,
            address,
            outlet: None,
            ops: (contender == Contender::Tickwire).then_some(ops),
        };
        server.ready().await?;
        if contender == Contender::NatsWs {
            server.outlet = Some(gateway::outlet(ops).await?);
        }
        Ok(server)
    }

    /// A command that ends with this process, whatever happens to it. Ours runs on the main thread,
    /// which lives as long: the kernel watches the thread that starts a process.
    fn tied(&self, name: &str) -> Result<Command> {
        let lock = self.dir.path().join(format!("{name}.lock"));
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["nats-child", "--parent", &std::process::id().to_string()])
            .arg("--lock")
            .arg(lock)
            .arg("--");
        Ok(command)
    }

    fn fanout(&self, command: &mut Command, ws: SocketAddr, ops: SocketAddr) -> Result<()> {
        let settings = self.logins.settings("fanout");
        let password = self.dir.path().join("fanout.password");
        if let nats::Login::Password { password: text, .. } = &settings.login {
            std::fs::write(&password, text.reveal())?;
        }
        command
            .arg(std::env::current_exe()?)
            .args(["fanout", "--shards", "1", "--log", "warn"])
            .args(["--node", "bench", "--nats-url", &settings.url])
            .args(["--nats-user", "fanout", "--nats-password-file"])
            .arg(password)
            .args(["--ws", &ws.to_string(), "--ops", &ops.to_string()]);
        Ok(())
    }

    /// Ends the broker.
    ///
    /// # Errors
    ///
    /// It failed before.
    pub(super) async fn clear(mut self) -> Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.running.join_next().await {
            ended.context("the broker's task panicked")??;
        }
        Ok(())
    }
}
