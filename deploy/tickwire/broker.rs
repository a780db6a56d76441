//! The managed nats-server: started, watched, restarted on the same port, and ended with us.

pub(crate) mod binary;
pub(crate) mod child;
pub(crate) mod config;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use daemon::health::Check;
use daemon::nats::Connector;
use rand::RngExt as _;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use binary::Binary;

/// How long the server may take to end once it is told to.
pub(crate) const GRACE: Duration = Duration::from_secs(10);
/// The first and the longest pause before a restart.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Starts in a row that may fail once the server has worked.
const PATIENCE: u32 = 30;
/// How many of the server's last complaints an error repeats.
const LAST_WORDS: usize = 8;
/// Below the range from which outgoing connections take their ports: a client that tries to
/// reconnect could otherwise take the server's port while it is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// What to run.
#[derive(Clone)]
pub(crate) struct Broker {
    /// The server.
    pub(crate) binary: Binary,
    /// Its directory: configuration, lock and data.
    pub(crate) dir: PathBuf,
    /// Connects to it with the right to ask whether JetStream is there.
    pub(crate) connector: Connector,
    /// Ok while JetStream answers.
    pub(crate) check: Check,
    /// Tells of every life.
    pub(crate) life: watch::Sender<Life>,
}

/// The server's process.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Life {
    /// Its process, while JetStream answers there.
    pub(crate) pid: Option<u32>,
    /// How often it was started again.
    pub(crate) restarts: u64,
}

/// A port on loopback that nobody listens on.
///
/// # Errors
///
/// None was found.
pub(crate) fn free_port() -> Result<u16> {
    (0..200)
        .map(|_| rand::rng().random_range(PORTS))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .context("there is no free port for nats-server")
}

impl Broker {
    /// Runs the server until `stop`.
    ///
    /// # Errors
    ///
    /// It cannot be started, or keeps ending.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<()> {
        let (ended, end) = oneshot::channel();
        // The kernel's parent-death signal follows the thread that forked, so that thread lives
        // exactly as long as the server is wanted; the pool's threads do not.
        let leave = stop.child_token();
        let _guard = leave.clone().drop_guard();
        thread::Builder::new()
            .name("broker".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                let outcome = match runtime {
                    Ok(runtime) => runtime.block_on(self.keep(leave)),
                    Err(error) => Err(error.into()),
                };
                // Nobody listens only if the process is being torn down.
                drop(ended.send(outcome));
            })
            .context("there is no thread for nats-server")?;
        end.await.context("the thread of nats-server broke off")?
    }

    async fn keep(self, stop: CancellationToken) -> Result<()> {
        let mut pause = PAUSES.0;
        let mut failures = 0;
        let mut worked = false;
        loop {
            let Some(End { was_ready, why }) = self.live(&stop).await? else {
                return Ok(());
            };
            worked |= was_ready;
            (failures, pause) = if was_ready {
                (0, PAUSES.0)
            } else {
                (failures + 1, pause)
            };
            if !worked || failures > PATIENCE {
                bail!("{why}");
            }
            error!("{why}; starting it again in {pause:?}");
            self.check.down("nats-server ended and is started again");
            self.life.send_modify(|life| {
                life.pid = None;
                life.restarts += 1;
            });
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep(pause) => pause = (pause * 2).min(PAUSES.1),
            }
        }
    }

    /// One life of the server; `None` if we ended it.
    async fn live(&self, stop: &CancellationToken) -> Result<Option<End>> {
        let mut child = self.spawn()?;
        let words = Words::default();
        let mut listening = JoinSet::new();
        if let Some(stderr) = child.stderr.take() {
            listening.spawn(listen(stderr, words.clone()));
        }
        let mut was_ready = false;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status.context("nats-server cannot be watched")?,
                () = stop.cancelled() => {
                    terminate(child).await;
                    return Ok(None);
                }
                () = self.answered(), if !was_ready => {
                    was_ready = true;
                    self.life.send_modify(|life| life.pid = child.id());
                    self.check.ok();
                }
            }
        };
        // Its last words may still be on their way, unless somebody else holds the pipe.
        drop(timeout(Duration::from_secs(1), listening.join_next()).await);
        Ok(Some(End {
            was_ready,
            why: self.epitaph(status, &words),
        }))
    }

    fn spawn(&self) -> Result<Child> {
        // Through /proc, so that a rebuilt or replaced executable does no harm.
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("tickwire")
            .arg("nats-child")
            .args([
                "--parent",
                &std::process::id().to_string(),
                "--lock",
                "lock",
                "--",
            ])
            .arg(&self.binary.path)
            .args(["-c", config::FILE])
            .current_dir(&self.dir)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command.spawn().context("nats-server cannot be started")
    }

    /// Waits until JetStream answers.
    async fn answered(&self) {
        loop {
            if let Ok(client) = (self.connector)().await
                && client.request("$JS.API.INFO", "".into()).await.is_ok()
            {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn epitaph(&self, status: ExitStatus, words: &Words) -> String {
        let Binary { path, version } = &self.binary;
        let last: Vec<_> = words.lock().iter().cloned().collect();
        let last = if last.is_empty() {
            "nothing".to_owned()
        } else {
            last.join(" | ")
        };
        format!(
            "nats-server ({}, {version}) in {} ended with {status}; it said: {last}",
            path.display(),
            self.dir.display(),
        )
    }
}

/// How a life ended.
struct End {
    was_ready: bool,
    why: String,
}

/// The last complaints of a server.
#[derive(Clone, Default)]
struct Words(Arc<Mutex<VecDeque<String>>>);

impl Words {
    fn lock(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, line: &str) {
        let mut lines = self.lock();
        if lines.len() == LAST_WORDS {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }
}

async fn terminate(mut child: Child) {
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw);
    if let Some(pid) = pid
        && let Err(error) = kill_process(pid, Signal::TERM)
    {
        warn!(%error, "nats-server cannot be told to end");
    }
    match timeout(GRACE, child.wait()).await {
        Ok(Ok(status)) => info!(%status, "nats-server ended"),
        Ok(Err(error)) => warn!(%error, "nats-server cannot be watched"),
        Err(_) => {
            warn!("nats-server did not end within {GRACE:?} and is killed");
            if let Err(error) = child.kill().await {
                warn!(%error, "nats-server cannot be killed");
            }
        }
    }
}

async fn listen(stderr: ChildStderr, words: Words) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match stderr.read_until(b'\n', &mut line).await {
            Ok(0) => return,
            Ok(_) => relay(String::from_utf8_lossy(&line).trim_end(), &words),
            Err(error) => {
                warn!(%error, "nats-server cannot be heard");
                return;
            }
        }
    }
}

/// Logs a line of the server, such as `[42] [INF] Server is ready`, at its own level.
fn relay(line: &str, words: &Words) {
    let (level, text) = split_level(line);
    match level {
        Level::Detail => debug!(target: "nats_server", "{text}"),
        Level::Warning => warn!(target: "nats_server", "{text}"),
        Level::Error => error!(target: "nats_server", "{text}"),
    }
    if level != Level::Detail {
        words.add(text);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Detail,
    Warning,
    Error,
}

fn split_level(line: &str) -> (Level, &str) {
    let marks = [
        ("[INF]", Level::Detail),
        ("[DBG]", Level::Detail),
        ("[TRC]", Level::Detail),
        // Its configuration can be read by its user alone.
        ("[WRN] Plaintext passwords", Level::Detail),
        ("[WRN]", Level::Warning),
        ("[ERR]", Level::Error),
        ("[FTL]", Level::Error),
    ];
    let found = marks.iter().find_map(|(mark, level)| {
        let (_, text) = line.split_once(mark)?;
        Some((*level, text.trim()))
    });
    found.unwrap_or((Level::Error, line))
}

#[cfg(test)]
mod tests {
    use super::{Level, split_level};

    #[test]
    fn lines_keep_the_level_that_the_server_gave_them() {
        let cases = [
            (
                "[7] [INF] Server is ready",
                Level::Detail,
                "Server is ready",
            ),
            ("[7] [INF]", Level::Detail, ""),
            (
                "[7] [WRN] Filestore: late",
                Level::Warning,
                "Filestore: late",
            ),
            ("[7] [FTL] no", Level::Error, "no"),
            (
                "tickwire: the parent is gone",
                Level::Error,
                "tickwire: the parent is gone",
            ),
            ("panic: runtime error", Level::Error, "panic: runtime error"),
        ];
        for (line, level, text) in cases {
            assert_eq!(split_level(line), (level, text));
        }
    }
}
