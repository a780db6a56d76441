//! A server under test, and how it is looked at.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::time::{sleep, timeout};

use super::publisher::Outlet;
use crate::bench::usage::{self, Usage};

/// How long anything may take to start or to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait between two looks at something that can only be asked for.
const LOOK: Duration = Duration::from_millis(20);
/// How many of a server's last lines are repeated.
const LAST_WORDS: usize = 5;

/// A server under test; it ends with this.
pub(super) struct Server {
    pub(super) child: Child,
    pub(super) pid: u32,
    pub(super) address: SocketAddr,
    /// Where ticks go, if not to the broker that it reads from.
    pub(super) outlet: Option<Outlet>,
    pub(super) ops: Option<SocketAddr>,
    /// What it says on stderr.
    pub(super) log: PathBuf,
}

impl Server {
    /// Waits until clients may connect.
    ///
    /// # Errors
    ///
    /// It ends, or takes too long.
    pub(super) async fn ready(&mut self) -> Result<()> {
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
