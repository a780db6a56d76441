//! A whole Tickwire of the test's own: `tickwire up` on random ports with data in a fresh folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// How long anything may take before a test gives up on it.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// How long to wait between two looks at something that can only be asked for.
const LOOK: Duration = Duration::from_millis(20);

/// Arguments under which no client is closed as slow, and all of a resume is replayed: for tests of
/// what arrives, on machines that are busy with other tests.
pub(crate) const PATIENT: &[&str] = &[
    "--max-unsent-bytes",
    "1073741824",
    "--max-unsent-secs",
    "600",
    "--resume-messages",
    "100000000",
];

/// Asks again and again until there is an answer; an error that says `what` if there is none in time.
/// For what can only be asked for: whatever tells by itself is awaited.
pub(crate) async fn eventually<T>(
    what: &str,
    mut ask: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let answered = async {
        loop {
            if let Some(answer) = ask().await? {
                return Ok(answer);
            }
            sleep(LOOK).await;
        }
    };
    timeout(PATIENCE * 2, answered)
        .await
        .with_context(|| what.to_owned())?
}

/// The same for what either holds or does not.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    eventually(what, async || Ok(holds().await?.then_some(()))).await
}

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_tickwire");

/// A running system.
pub(crate) struct World {
    dir: TempDir,
    process: Child,
    ready: Value,
}

/// `up` with all ports random; the caller adds feeds and data.
pub(crate) fn up(dir: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args([
            "up",
            "--http",
            "127.0.0.1:0",
            "--ws",
            "127.0.0.1:0",
            "--ops",
            "127.0.0.1:0",
        ])
        .arg("--feeds")
        .arg(dir.join("feeds.toml"))
        .arg("--data")
        .arg(dir.join("data"))
        .arg("--ready-file")
        .arg(dir.join("ready.json"))
        .arg("--ack-log")
        .arg(dir.join("acked.tsv"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

impl World {
    /// Starts with these feeds, and waits until everything is ready.
    pub(crate) async fn start(feeds: &str) -> Result<Self> {
        Self::start_with(feeds, &[]).await
    }

    /// Starts with these feeds and further arguments.
    pub(crate) async fn start_with(feeds: &str, arguments: &[&str]) -> Result<Self> {
        let dir = TempDir::new()?;
        std::fs::write(dir.path().join("feeds.toml"), feeds)?;
        let (process, ready) = launch(dir.path(), arguments).await?;
        Ok(Self {
            dir,
            process,
            ready,
        })
    }

    /// Starts again on the same data, after the process has ended.
    pub(crate) async fn restart_with(&mut self, arguments: &[&str]) -> Result<()> {
        self.process.wait().await?;
        (self.process, self.ready) = launch(self.dir.path(), arguments).await?;
        Ok(())
    }

    /// The folder with feeds, data and the acknowledgement log.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where WebSocket clients connect.
    pub(crate) fn ws(&self) -> &str {
        self.ready["ws"].as_str().unwrap_or_default()
    }

    /// Where the console is.
    pub(crate) fn http(&self) -> &str {
        self.ready["http"].as_str().unwrap_or_default()
    }

    /// Gets a path of the HTTP API: status and body.
    pub(crate) async fn get(&self, path: &str) -> Result<(u16, Value)> {
        get(self.http(), path).await
    }

    /// Gets a path of the operations server.
    pub(crate) async fn ops(&self, path: &str) -> Result<(u16, Value)> {
        get(self.ready["ops"].as_str().unwrap_or_default(), path).await
    }

    /// The process id of the broker as it is now.
    pub(crate) async fn broker(&self) -> Result<i32> {
        eventually("there is no broker", async || {
            let (_, stats) = self.ops("/stats").await?;
            let pid = stats["broker"]["pid"].as_i64();
            Ok(pid.map(i32::try_from).transpose()?)
        })
        .await
    }

    /// Ends the broker without warning, and waits until another one runs.
    pub(crate) async fn kill_broker(&self) -> Result<()> {
        let before = self.broker().await?;
        signal(before, Signal::KILL)?;
        until("no other broker runs", async || {
            Ok(self.broker().await? != before)
        })
        .await
    }

    /// Sends a signal to the process.
    pub(crate) fn signal(&self, which: Signal) -> Result<()> {
        signal(
            i32::try_from(self.process.id().context("the process has ended")?)?,
            which,
        )
    }

    /// Waits for the process to end: its exit code.
    pub(crate) async fn ended(&mut self) -> Result<Option<i32>> {
        Ok(timeout(PATIENCE, self.process.wait()).await??.code())
    }

    /// What the process has logged so far.
    pub(crate) fn said(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.dir.path().join("log"))?)
    }

    /// Every acknowledged message: sequence, and topic with source id.
    pub(crate) fn acknowledged(&self) -> Result<BTreeMap<u64, (String, String)>> {
        let text = std::fs::read_to_string(self.dir.path().join("acked.tsv"))?;
        let mut acknowledged = BTreeMap::new();
        for line in text.lines() {
            let mut fields = line.split('\t');
            let seq = fields.next().context("a sequence")?.parse()?;
            let subject = fields.next().context("a subject")?.to_owned();
            let id = fields.next().context("an id")?.to_owned();
            if let Some(before) = acknowledged.insert(seq, (subject, id)) {
                bail!("sequence {seq} was acknowledged twice, first for {before:?}");
            }
        }
        Ok(acknowledged)
    }
}

async fn launch(dir: &Path, arguments: &[&str]) -> Result<(Child, Value)> {
    let mut process = up(dir)
        .args(arguments)
        .spawn()
        .context("tickwire does not start")?;
    let mut stderr = process.stderr.take().context("stderr is piped")?;
    let mut log = tokio::fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .await?;
    let logging = async move { tokio::io::copy(&mut stderr, &mut log).await };
    #[expect(
        clippy::disallowed_methods,
        reason = "it ends with the process whose output it keeps"
    )]
    tokio::spawn(logging);
    let mut lines = BufReader::new(process.stdout.take().context("stdout is piped")?).lines();
    timeout(PATIENCE, async {
        while let Some(line) = lines.next_line().await? {
            if line.starts_with("Ctrl-C") {
                return Ok(());
            }
        }
        bail!(
            "tickwire ended before it was ready: {}",
            std::fs::read_to_string(dir.join("log"))?
        )
    })
    .await??;
    let ready = serde_json::from_slice(&std::fs::read(dir.join("ready.json"))?)?;
    Ok((process, ready))
}

/// Says something that is seen even if the test passes.
pub(crate) fn say(text: &str) {
    use std::io::Write as _;
    // Nobody listens only if the output was closed.
    let _unheard = writeln!(std::io::stderr(), "{text}");
}

/// Sends a signal to a process that this test started.
pub(crate) fn signal(pid: i32, which: Signal) -> Result<()> {
    let pid = Pid::from_raw(pid).context("not a process id")?;
    Ok(kill_process(pid, which)?)
}

/// Whether a process is still there and no zombie.
pub(crate) fn is_alive(pid: i32) -> bool {
    let state = std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}/stat")));
    state.is_ok_and(|text| {
        !text
            .rsplit(") ")
            .next()
            .unwrap_or_default()
            .starts_with('Z')
    })
}

pub(crate) async fn get(base: &str, path: &str) -> Result<(u16, Value)> {
    let host = base.strip_prefix("http://").context("an HTTP address")?;
    let mut stream = TcpStream::connect(host).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await??;
    let text = String::from_utf8(answer)?;
    let (head, body) = text.split_once("\r\n\r\n").context("an HTTP answer")?;
    let status = head.split(' ').nth(1).context("a status")?.parse()?;
    let body = if head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked")
    {
        unchunk(body)
    } else {
        body.to_owned()
    };
    Ok((
        status,
        serde_json::from_str(&body).unwrap_or(Value::String(body)),
    ))
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        whole.push_str(&rest[..size]);
        body = rest.get(size + 2..).unwrap_or_default();
    }
    whole
}
