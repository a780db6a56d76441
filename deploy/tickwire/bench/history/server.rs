//! A broker and one `tickwire api`, which end with the measurement.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::bench::usage;
use crate::broker::free_port;

/// How long anything may take to start.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait between two looks at something that can only be asked for.
const LOOK: Duration = Duration::from_millis(20);

/// What is measured.
pub(super) struct Server {
    /// Where it answers.
    pub(super) address: SocketAddr,
    api: Child,
    pid: u32,
    broker: Child,
}

impl Server {
    /// Starts both on a database.
    ///
    /// # Errors
    ///
    /// One of them does not start.
    pub(super) async fn start(dir: &Path, nats_server: &Path, store: &OsStr) -> Result<Self> {
        let nats = loopback()?;
        let mut broker = Command::new(nats_server)
            .args(["--addr", "127.0.0.1", "--port", &nats.port().to_string()])
            .arg("--jetstream")
            .arg("--store_dir")
            .arg(dir.join("nats"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("nats-server cannot be run")?;
        answers(nats, &mut broker, &[])
            .await
            .context("nats-server")?;
        let url = format!("nats://{nats}");
        let itself = std::env::current_exe()?;
        let provisioned = Command::new(&itself)
            .args(["provision", "--nats-url", &url, "--log", "warn"])
            .stdout(Stdio::null())
            .status()
            .await?;
        if !provisioned.success() {
            bail!("the stream cannot be provided");
        }
        let (address, ops, log) = (loopback()?, loopback()?, dir.join("api.log"));
        let mut api = Command::new(itself)
            .args(["api", "--log", "warn", "--nats-url", &url])
            .args(["--http", &address.to_string(), "--ops", &ops.to_string()])
            // Not among the arguments, which everybody may see: it may hold a password.
            .env("TICKWIRE_STORE", store)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?)
            .kill_on_drop(true)
            .spawn()?;
        let pid = api.id().context("the server ended at once")?;
        answers(address, &mut api, &[log])
            .await
            .context("tickwire api")?;
        Ok(Self {
            address,
            api,
            pid,
            broker,
        })
    }

    /// The server's memory, in bytes.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub(super) fn resident(&self) -> Result<u64> {
        Ok(usage::of(self.pid)?.resident)
    }

    /// Ends both.
    ///
    /// # Errors
    ///
    /// The system refuses.
    pub(super) async fn end(mut self) -> Result<()> {
        self.api.kill().await?;
        Ok(self.broker.kill().await?)
    }
}

fn loopback() -> Result<SocketAddr> {
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)))
}

/// Waits until somebody listens.
async fn answers(address: SocketAddr, child: &mut Child, logs: &[PathBuf]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(address).await.is_err() {
        if let Some(status) = child.try_wait()? {
            let said = logs
                .iter()
                .filter_map(|log| std::fs::read_to_string(log).ok());
            bail!(
                "it ended with {status}; it said: {}",
                said.collect::<String>()
            );
        }
        if Instant::now() > deadline {
            bail!("it does not answer after {PATIENCE:?}");
        }
        sleep(LOOK).await;
    }
    Ok(())
}
