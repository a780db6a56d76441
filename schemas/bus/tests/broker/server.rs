//! A nats-server of the test's own, on loopback, that can be killed and come back.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_nats::Client;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// A broker whose data outlive its process.
pub(crate) struct Server {
    binary: PathBuf,
    dir: TempDir,
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

impl Server {
    /// Starts a broker with JetStream and waits until it answers.
    pub(crate) async fn start() -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut server = Self {
            binary: binary()?,
            dir: TempDir::new()?,
            port,
            child: None,
        };
        server.restart().await?;
        Ok(server)
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Starts the process again on the same data.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        self.child = Some(
            Command::new(&self.binary)
                .args([
                    "-a",
                    "127.0.0.1",
                    "-p",
                    &self.port.to_string(),
                    "-js",
                    "-sd",
                ])
                .arg(self.dir.path())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .context("nats-server does not start")?,
        );
        let context = async_nats::jetstream::new(self.client().await?);
        while context.query_account().await.is_err() {
            tokio::task::yield_now().await;
        }
        Ok(())
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
            None => TcpListener::bind("127.0.0.1:0")?.local_addr()?.port(),
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
