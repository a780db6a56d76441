//! A nats-server of the test's own, on loopback, that can be killed and come back.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_nats::Client;
use rand::RngExt as _;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long a broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Below the range from which outgoing connections take their ports: one of another test could
/// otherwise take a broker's port while it is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// How many ports are tried: another test may take one first.
const TRIES: u32 = 5;

/// A broker whose data outlive its process.
pub(crate) struct Server {
    binary: PathBuf,
    dir: TempDir,
    /// Tells it from whoever else may answer on its port.
    name: String,
    port: u16,
    child: Option<Child>,
}

fn binary() -> Result<PathBuf> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test finds its broker as the binary does"
    )]
    if let Ok(path) = std::env::var("TICKWIRE_NATS_SERVER_BIN") {
        return Ok(path.into());
    }
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/nats-server");
    if !installed.exists() {
        bail!("there is no nats-server: run `make setup`, or set TICKWIRE_NATS_SERVER_BIN");
    }
    Ok(installed)
}

fn free_port() -> Result<u16> {
    (0..200)
        .map(|_| rand::rng().random_range(PORTS))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .context("there is no free port")
}

impl Server {
    /// Starts a broker with JetStream and waits until it answers.
    pub(crate) async fn start() -> Result<Self> {
        let mut server = Self {
            binary: binary()?,
            dir: TempDir::new()?,
            name: format!("test-{:016x}", rand::rng().random::<u64>()),
            port: free_port()?,
            child: None,
        };
        for _ in 1..TRIES {
            if server.restart().await.is_ok() {
                return Ok(server);
            }
            server.move_to(None)?;
        }
        server.restart().await?;
        Ok(server)
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Starts the process again on the same data.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        let port = self.port.to_string();
        let mut child = Command::new(&self.binary)
            .args(["-a", "127.0.0.1", "-p", &port, "--name", &self.name])
            .args(["-js", "-sd"])
            .arg(self.dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("nats-server does not start")?;
        tokio::select! {
            status = child.wait() => bail!("nats-server on port {port} ended with {}", status?),
            answered = timeout(PATIENCE, self.answered()) => {
                answered.with_context(|| format!("nats-server on port {port} does not answer"))??;
            }
        }
        self.child = Some(child);
        Ok(())
    }

    async fn answered(&self) -> Result<()> {
        loop {
            let client = self.client().await?;
            let ours = client.server_info().server_name == self.name;
            let context = async_nats::jetstream::new(client);
            if ours && context.query_account().await.is_ok() {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
    }

    /// Copies what a broker that is not running has stored.
    pub(crate) fn backup(&self) -> Result<TempDir> {
        let copy = TempDir::new()?;
        copy_all(self.dir.path(), copy.path())?;
        Ok(copy)
    }

    /// Puts a broker that is not running back to what it had stored.
    pub(crate) fn restore(&mut self, backup: TempDir) {
        self.dir = backup;
    }

    /// Moves to another port, which takes effect at the next restart; the former port.
    pub(crate) fn move_to(&mut self, port: Option<u16>) -> Result<u16> {
        let port = match port {
            Some(port) => port,
            None => free_port()?,
        };
        Ok(std::mem::replace(&mut self.port, port))
    }

    /// Ends the process without warning.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// A new connection, once the broker listens.
    pub(crate) async fn client(&self) -> Result<Client> {
        let options = async_nats::ConnectOptions::new()
            .retry_on_initial_connect()
            .reconnect_delay_callback(|_| Duration::from_millis(20));
        let client = options.connect(self.url()).await?;
        client.flush().await?;
        Ok(client)
    }
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_all(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_port_that_another_broker_has_is_not_taken_for_ones_own() -> Result<()> {
    let mut first = Server::start().await?;
    let taken = first.move_to(None)?;
    let mut second = Server::start().await?;
    second.kill().await?;
    second.move_to(Some(taken))?;
    let refusal = second.restart().await.unwrap_err().to_string();
    assert!(
        refusal.contains(&format!("port {taken} ended")),
        "{refusal}"
    );
    Ok(())
}
