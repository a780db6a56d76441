//! A server under test, and how it is looked at.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::time::{sleep, timeout};

use super::usage::{self, Usage};

/// How long anything may take to start or to answer.
pub(in crate::bench) const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait between two looks at something that can only be asked for.
const LOOK: Duration = Duration::from_millis(20);
/// How many of a server's last lines are repeated.
const LAST_WORDS: usize = 5;

/// A server under test; it ends with this.
pub(in crate::bench) struct Server {
    child: Child,
    pub(in crate::bench) pid: u32,
    ops: Option<SocketAddr>,
    log: PathBuf,
}

/// How it is known that a server may be used.
#[derive(Clone, Copy, Debug)]
pub(in crate::bench) enum Door {
    /// One of ours says so, on its operations port.
    Ready(SocketAddr),
    /// Somebody listens.
    Open(SocketAddr),
}

impl Server {
    /// Takes over what was started, and waits until it may be used. `log` is where its stderr goes.
    ///
    /// # Errors
    ///
    /// It ends, or takes too long.
    pub(in crate::bench) async fn of(child: Child, log: PathBuf, door: Door) -> Result<Self> {
        let pid = child.id().context("the server ended at once")?;
        let ops = match door {
            Door::Ready(ops) => Some(ops),
            Door::Open(_) => None,
        };
        let mut server = Self {
            child,
            pid,
            ops,
            log,
        };
        server.opens(door).await?;
        Ok(server)
    }

    async fn opens(&mut self, door: Door) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.check()?;
            let answers = match door {
                Door::Ready(ops) => get(ops, "/readyz")
                    .await
                    .is_ok_and(|(status, _)| status == 200),
                Door::Open(address) => TcpStream::connect(address).await.is_ok(),
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
    pub(in crate::bench) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the server ended with {status}; it said: {}", self.said()),
        }
    }

    /// Its last words.
    pub(in crate::bench) fn said(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(LAST_WORDS).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    /// To look at it from elsewhere.
    pub(in crate::bench) const fn probe(&self) -> Probe {
        Probe {
            pid: self.pid,
            ops: self.ops,
        }
    }

    /// Stops its processor time, without its knowledge.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub(in crate::bench) fn stop(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Gives it back.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub(in crate::bench) fn go_on(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid)?).context("a process")?;
        kill_process(pid, signal).context("the server has ended")
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// The system refuses.
    pub(in crate::bench) async fn end(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

/// Looks at a server.
#[derive(Clone, Copy, Debug)]
pub(in crate::bench) struct Probe {
    pid: u32,
    ops: Option<SocketAddr>,
}

impl Probe {
    /// What it has used.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub(in crate::bench) fn usage(&self) -> Result<Usage> {
        usage::of(self.pid)
    }

    /// What it counts itself.
    ///
    /// # Errors
    ///
    /// It has ended, or does not count.
    pub(in crate::bench) async fn metrics(&self) -> Result<Metrics> {
        let ops = self.ops.context("only our own servers count")?;
        let answered = get(ops, "/metrics").await;
        let (_, text) = answered.context("the server does not answer on its operations port")?;
        Ok(Metrics(text))
    }
}

/// What a server of ours counts, as text.
#[derive(Clone, Debug)]
pub(in crate::bench) struct Metrics(String);

impl Metrics {
    /// A series by its name and labels, as they are written; 0 of what never happened.
    pub(in crate::bench) fn value(&self, series: &str) -> u64 {
        let mut lines = self.0.lines();
        let value = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    /// A histogram without labels: bounds, and how many lay at or below each.
    pub(in crate::bench) fn buckets(&self, name: &str) -> Vec<(f64, u64)> {
        let lines = self.0.lines().filter_map(|line| {
            let line = line.strip_prefix(name)?.strip_prefix("_bucket{le=\"")?;
            let (bound, count) = line.split_once("\"} ")?;
            Some((bound.parse().ok()?, count.parse().ok()?))
        });
        lines.collect()
    }
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
    use super::Metrics;

    #[test]
    fn series_are_read_by_name_and_labels() {
        let metrics = Metrics(
            "# TYPE closed counter\n\
             closed_total{code=\"1000\"} 3\n\
             closed_total{code=\"4008\"} 20\n\
             closed_totals 7\n\
             seconds_bucket{le=\"0.0001\"} 4\n\
             seconds_bucket{le=\"+Inf\"} 6\n"
                .to_owned(),
        );
        assert_eq!(metrics.value("closed_total{code=\"4008\"}"), 20);
        assert_eq!(metrics.value("closed_total{code=\"1012\"}"), 0);
        assert_eq!(metrics.value("closed_total"), 0);
        let buckets = [(0.000_1, 4), (f64::INFINITY, 6)];
        assert_eq!(metrics.buckets("seconds"), buckets);
    }
}
