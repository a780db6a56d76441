//! `tickwire bench system`: runs a whole system against its own simulator, and says how fast ticks arrive.
//!
//! Latency is counted from ingest's receive time, which the tick carries, to the moment when the
//! client has the frame. Server, broker and clients share this machine. Every client checks the
//! continuity of every topic; a hole fails the run.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures_util::{SinkExt, StreamExt};
use schemas::time::{Clock, SystemClock};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::INSTRUMENTS;

/// How many instruments each client of the latency run follows.
const FOLLOWED: u32 = 10;
/// Rates of the ramp, in ticks per second.
const RAMP: [u32; 7] = [10_000, 20_000, 30_000, 40_000, 60_000, 80_000, 100_000];
const PATIENCE: Duration = Duration::from_mins(1);

/// Arguments of `tickwire bench system`.
#[derive(Debug, clap::Args)]
pub(crate) struct SystemArgs {
    /// Ticks per second of the latency run
    #[arg(long, default_value = "5000")]
    rate: u32,

    /// Clients of the latency run; each follows 10 of 200 instruments
    #[arg(long, default_value = "100")]
    clients: u32,

    /// How long each run lasts
    #[arg(long, default_value = "60")]
    seconds: u64,

    /// Also find the highest rate that one client receives whole
    #[arg(long)]
    ramp: bool,
}

/// What one client saw.
#[derive(Default)]
struct Seen {
    ticks: u64,
    holes: u64,
    /// Microseconds from receive to here.
    latencies: Vec<u32>,
    positions: HashMap<String, u64>,
    start: u64,
}

/// Measures and prints.
///
/// # Errors
///
/// The system does not start, or a client loses its connection.
pub(crate) async fn run(args: SystemArgs) -> Result<()> {
    crate::say(&format!(
        "machine: {}; server, broker and clients together",
        super::machine()
    ))?;
    let seen = measure(args.rate, args.clients, args.seconds, FOLLOWED).await?;
    let mut latencies: Vec<u32> = seen
        .iter()
        .flat_map(|seen| seen.latencies.iter().copied())
        .collect();
    latencies.sort_unstable();
    let at = |share: usize| {
        let index = latencies.len().saturating_sub(1) * share / 1_000;
        f64::from(latencies.get(index).copied().unwrap_or_default()) / 1_000.0
    };
    let (ticks, holes) = totals(&seen);
    crate::say(&format!(
        "latency, {} ticks/s, {} clients on {FOLLOWED} of {INSTRUMENTS} instruments, {} s: \
         p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, {ticks} deliveries, {holes} holes",
        args.rate,
        args.clients,
        args.seconds,
        at(500),
        at(990),
        at(999)
    ))?;
    if args.ramp {
        ramp(args.seconds).await?;
    }
    if holes > 0 {
        bail!("{holes} holes: something was missed without being declared");
    }
    Ok(())
}

async fn ramp(seconds: u64) -> Result<()> {
    let mut best = 0;
    for rate in RAMP {
        let seen = measure(rate, 1, seconds, INSTRUMENTS).await?;
        let (ticks, holes) = totals(&seen);
        let wanted = u64::from(rate).saturating_mul(seconds);
        let good = holes == 0 && super::is_reached(ticks, rate, seconds);
        let verdict = if good { "whole" } else { "not reached" };
        crate::say(&format!(
            "rate {rate} ticks/s for {seconds} s: {ticks} of {wanted} quotes and trades, {holes} holes: {verdict}"
        ))?;
        if !good {
            break;
        }
        best = rate;
    }
    crate::say(&format!("highest rate received whole: {best} ticks/s"))
}

fn totals(seen: &[Seen]) -> (u64, u64) {
    seen.iter().fold((0, 0), |(ticks, holes), seen| {
        (ticks + seen.ticks, holes + seen.holes)
    })
}

async fn measure(rate: u32, clients: u32, seconds: u64, followed: u32) -> Result<Vec<Seen>> {
    let dir = TempDir::new()?;
    let (mut process, ready) = start(dir.path(), rate).await?;
    let ws = ready
        .get("ws")
        .and_then(Value::as_str)
        .context("a WebSocket address")?
        .to_owned();
    let names = instruments(&ready).await?;
    let mut running = JoinSet::new();
    let until = Instant::now() + Duration::from_secs(seconds);
    for number in 0..clients {
        let place = usize::try_from(number)?.saturating_mul(7);
        let topics = if followed >= INSTRUMENTS {
            vec!["trade.sim.*".to_owned(), "quote.sim.*".to_owned()]
        } else {
            let mine = names
                .iter()
                .cycle()
                .skip(place)
                .take(usize::try_from(followed)?);
            mine.flat_map(|name| [format!("trade.sim.{name}"), format!("quote.sim.{name}")])
                .collect()
        };
        let (ws, sample) = (ws.clone(), clients > 1);
        running.spawn(async move { follow(&ws, topics, until, sample).await });
    }
    let mut seen = Vec::new();
    while let Some(ended) = running.join_next().await {
        seen.push(ended.context("a client panicked")??);
    }
    process.kill().await?;
    Ok(seen)
}

async fn start(dir: &Path, rate: u32) -> Result<(Child, Value)> {
    std::fs::write(dir.join("feeds.toml"), super::simulator(rate))?;
    let ready = dir.join("ready.json");
    let mut process = Command::new(std::env::current_exe()?)
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
        .arg(&ready)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(process.stdout.take().context("stdout is piped")?).lines();
    let text = timeout(PATIENCE, async {
        while let Some(line) = lines.next_line().await? {
            if ready.exists() && line.starts_with("Ctrl-C") {
                return Ok(std::fs::read(&ready)?);
            }
        }
        bail!("tickwire ended before it was ready: run it by hand to see why")
    });
    let ready = serde_json::from_slice(&text.await??)?;
    Ok((process, ready))
}

/// The simulated instruments, once the first snapshot names them.
async fn instruments(ready: &Value) -> Result<Vec<String>> {
    let ws = ready
        .get("ws")
        .and_then(Value::as_str)
        .context("a WebSocket address")?;
    let mut socket = connect(ws).await?;
    let ask = json!([{ "op": "subscribe", "id": 1, "topics": ["inst.sim.*"], "snapshot": true }]);
    socket.send(Message::text(ask.to_string())).await?;
    let mut names = Vec::new();
    let wanted = usize::try_from(INSTRUMENTS)?;
    timeout(PATIENCE, async {
        while names.len() < wanted {
            let message = socket.next().await.context("the connection ended")??;
            let Message::Text(text) = message else {
                continue;
            };
            let messages: Vec<Value> = serde_json::from_str(&text)?;
            let ticks = messages
                .iter()
                .filter_map(|message| message.pointer("/d/y").and_then(Value::as_str));
            names.extend(ticks.map(str::to_owned));
        }
        Ok(names)
    })
    .await?
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn connect(ws: &str) -> Result<Socket> {
    Ok(tokio_tungstenite::connect_async(ws).await?.0)
}

async fn follow(ws: &str, topics: Vec<String>, until: Instant, sample: bool) -> Result<Seen> {
    let mut socket = connect(ws).await?;
    let ask = json!([{ "op": "subscribe", "id": 1, "topics": topics, "conflate": "none", "snapshot": false }]);
    socket.send(Message::text(ask.to_string())).await?;
    let mut seen = Seen::default();
    while let Ok(message) = timeout_at(until, socket.next()).await {
        let Message::Text(text) = message.context("the server closed the connection")?? else {
            continue;
        };
        let now = SystemClock.now().get() / 1_000;
        if seen.start == 0 {
            seen.start = number(&text, "\"TICKS\":").unwrap_or_default();
        }
        for message in text.split("{\"t\":\"d\",\"c\":\"").skip(1) {
            seen.take(message, sample.then_some(now))?;
        }
    }
    Ok(seen)
}

impl Seen {
    /// Takes one message, cut off behind the opening quote of its topic.
    fn take(&mut self, message: &str, now: Option<i64>) -> Result<()> {
        let (topic, rest) = message.split_once('"').context("a topic")?;
        let (s, p) = (
            number(rest, "\"s\":").context("s")?,
            number(rest, "\"p\":").context("p")?,
        );
        self.ticks += 1;
        let start = self.start;
        if let Some(position) = self.positions.get_mut(topic) {
            self.holes += u64::from(p > *position);
            *position = s;
        } else {
            self.holes += u64::from(p > start);
            self.positions.insert(topic.to_owned(), s);
        }
        if let Some(now) = now {
            let received = number(rest, "\"tr\":\"").context("tr")? / 1_000;
            let latency = now.saturating_sub(i64::try_from(received)?).max(0);
            self.latencies
                .push(u32::try_from(latency).unwrap_or(u32::MAX));
        }
        Ok(())
    }
}

/// The digits behind the first occurrence of a key.
fn number(text: &str, key: &str) -> Option<u64> {
    let (_, rest) = text.split_once(key)?;
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest.get(..end)?.parse().ok()
}
