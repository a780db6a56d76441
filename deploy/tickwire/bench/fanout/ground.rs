//! What is measured against what: a broker, and on a core of its own a server that reads from it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bus::provision::StreamSpec;
use daemon::nats;
use daemon::ops::Surface;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::cores::Cores;
use super::ticks;
use super::usage::{self, Usage};
use crate::broker::binary::Binary;
use crate::broker::config::{self, Logins};
use crate::broker::{self, Broker, Life};

/// How long anything may take to start.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait between two looks at something that can only be asked for.
const LOOK: Duration = Duration::from_millis(20);
/// How many of a server's last lines are repeated.
const LAST_WORDS: usize = 5;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Contender {
    Tickwire,
    Axum,
}

impl Contender {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tickwire => "tickwire",
            Self::Axum => "axum",
        }
    }
}

/// What is needed to start anything.
pub(super) struct Tools {
    pub(super) cores: Cores,
    pub(super) nats_server: Binary,
    /// The broadcaster to compare with, if it is wanted.
    pub(super) peer: Option<PathBuf>,
}

/// A broker that has the stream; it ends with this.
pub(super) struct Ground {
    dir: TempDir,
    logins: Logins,
    life: watch::Receiver<Life>,
    running: JoinSet<Result<()>>,
    stop: CancellationToken,
    /// Publishes ticks.
    pub(super) publisher: async_nats::Client,
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
            recorded: api::store::recorded_subjects(),
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
            publisher,
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
                let peer = tools
                    .peer
                    .as_ref()
                    .context("no broadcaster to compare with")?;
                command
                    .arg(peer)
                    .arg(address.to_string())
                    .arg(self.logins.url());
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
            ops: (contender == Contender::Tickwire).then_some(ops),
        };
        server.ready().await?;
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

/// A server under test; it ends with this.
pub(super) struct Server {
    child: Child,
    pub(super) pid: u32,
    pub(super) address: SocketAddr,
    ops: Option<SocketAddr>,
    /// What it says on stderr.
    log: PathBuf,
}

impl Server {
    async fn ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.check()?;
            let answers = match self.ops {
                Some(ops) => get(ops, "/readyz")
                    .await
                    .is_ok_and(|(status, _)| status == 200),
                None => TcpStream::connect(self.address).await.is_ok(),
            };
            if answers {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the server is not ready after {PATIENCE:?}");
            }
            sleep(LOOK).await;
        }
    }

    /// Whether it still runs.
    ///
    /// # Errors
    ///
    /// It does not; what it said last.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the server ended with {status}; it said: {}", self.said()),
        }
    }

    /// Its last words.
    pub(super) fn said(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(LAST_WORDS).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    /// To look at it from elsewhere.
    pub(super) const fn probe(&self) -> Probe {
        Probe {
            pid: self.pid,
            ops: self.ops,
        }
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// The system refuses.
    pub(super) async fn end(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

/// Looks at a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    pid: u32,
    ops: Option<SocketAddr>,
}

impl Probe {
    /// What it has used.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub(super) fn usage(&self) -> Result<Usage> {
        usage::of(self.pid)
    }

    /// How many connections it closed with this code, as it counts itself.
    ///
    /// # Errors
    ///
    /// It has ended, or does not count.
    pub(super) async fn closed(&self, code: u16) -> Result<u64> {
        let ops = self.ops.context("only our own server counts")?;
        let (_, text) = get(ops, "/metrics").await?;
        Ok(counter(&text, code))
    }
}

fn counter(metrics: &str, code: u16) -> u64 {
    let name = format!("tickwire_fanout_closed_total{{code=\"{code}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

async fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let asked = timeout(PATIENCE, async {
        let mut stream = TcpStream::connect(address).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    });
    let answer = asked.await??;
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.context("an HTTP status")?, answer))
}

#[cfg(test)]
mod tests {
    use super::counter;

    #[test]
    fn closes_are_read_from_metrics_by_code() {
        let text = "# TYPE tickwire_fanout_closed counter\n\
                    tickwire_fanout_closed_total{code=\"1000\"} 3\n\
                    tickwire_fanout_closed_total{code=\"4008\"} 20\n";
        assert_eq!((counter(text, 4008), counter(text, 1000)), (20, 3));
        assert_eq!(counter(text, 1012), 0);
    }
}
