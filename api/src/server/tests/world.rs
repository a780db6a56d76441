//! The HTTP side over a real SQLite, whose reading is counted and can be made to fail or wait.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser as _;
use prometheus_client::registry::Registry;
use schemas::codec;
use schemas::id::Kind;
use schemas::position::{Epoch, StreamSeq};
use schemas::time::UnixNanos;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::*;
use crate::store::guarded::{Call, Guard, Guarded};
use crate::store::sqlite::Sqlite;
use crate::store::{Content, Row, StoreError, content};

/// What no condition should take.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);

/// The hours of a venue that has some.
const CALENDARS: &str = r#"
    [[calendar]]
    venue = "nyse"
    time_zone = "America/New_York"
    session = "0930-1600"
    holidays = [2026-11-26, 2026-12-25]
    early_closes = { 2026-11-27 = "1300", 2026-12-24 = "1300" }
"#;

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

/// Knows how often the store was read.
#[derive(Clone)]
pub(super) struct Counted {
    /// Pages that were asked for.
    pub(super) pages: Arc<AtomicU64>,
    /// Pages that are answered; all others fail.
    pub(super) answered: Arc<AtomicU64>,
    /// A permit for every page that may be read.
    pub(super) gate: Arc<Semaphore>,
}

impl Guard for Counted {
    async fn passes(&self, call: Call) -> Result<(), StoreError> {
        if call != Call::Page {
            return Ok(());
        }
        let number = self.pages.fetch_add(1, Ordering::SeqCst);
        if let Ok(passed) = self.gate.acquire().await {
            passed.forget();
        }
        if number >= self.answered.load(Ordering::SeqCst) {
            return Err(StoreError::Away(Duration::from_secs(2)));
        }
        Ok(())
    }
}

pub(super) struct World {
    pub(super) store: Guarded<Counted>,
    pub(super) address: SocketAddr,
    pub(super) metrics: Metrics,
    pub(super) stop: CancellationToken,
    _dir: TempDir,
    pub(super) tasks: JoinSet<()>,
}

/// An answer as a client reads it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
    /// Whether the body is as long as was said, or ended as it must.
    pub(super) is_whole: bool,
}

impl Answer {
    /// Reads one answer off what came.
    pub(super) fn read(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no head: {}", String::from_utf8_lossy(bytes)));
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let rest = &bytes[end + 4..];
        let mut answer = Self {
            status,
            head,
            body: rest.to_vec(),
            is_whole: true,
        };
        if answer.header("transfer-encoding") == Some("chunked") {
            (answer.body, answer.is_whole) = unchunked(rest);
        } else if let Some(length) = answer.header("content-length") {
            answer.is_whole = length.parse() == Ok(rest.len());
        }
        answer
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let found = lines.find(|(one, _)| one.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value)
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// What a client reads of a refusal: it is problem+json, and its status is the answer's.
    pub(super) fn problem(&self) -> Value {
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{}",
            self.head
        );
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["request"], self.header("x-request-id").unwrap());
        problem
    }
}

/// The content of chunks, and whether the last one is there.
fn unchunked(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else {
            return (body, false);
        };
        let size = std::str::from_utf8(&rest[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        rest = &rest[end + 2..];
        if size == 0 {
            return (body, rest == b"\r\n");
        }
        if rest.len() < size + 2 {
            body.extend_from_slice(&rest[..size.min(rest.len())]);
            return (body, false);
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
}

impl World {
    pub(super) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With these arguments.
    pub(super) async fn with(given: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.db");
        let guard = Counted {
            pages: Arc::default(),
            answered: Arc::new(AtomicU64::new(u64::MAX)),
            gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        };
        let inner = Sqlite::open(&path, None).await.unwrap();
        let store = Guarded { inner, guard };
        let client = async_nats::ConnectOptions::new()
            .retry_on_initial_connect()
            .connect("127.0.0.1:1")
            .await
            .unwrap();
        let args = Cli::parse_from(["test"].iter().chain(given)).args;
        let connections = args.connections.clone();
        let config = Config {
            stream: "T".to_owned(),
            store: store.clone(),
            calendars: Arc::new(crate::bars::Calendars::parse(CALENDARS).unwrap()),
            ws: "ws://127.0.0.1:8081".to_owned(),
            args,
        };
        let latest = Latest::new(client, "T".to_owned());
        let metrics = Metrics::new(&mut Registry::default());
        let api = Arc::new(Api::new(config, latest, metrics.clone(), 1));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
        let routes = router(api);
        tasks.spawn(listen::serve(
            listener,
            routes,
            connections,
            metrics.clone(),
            stop.clone(),
        ));
        Self {
            store,
            address,
            metrics,
            stop,
            _dir: dir,
            tasks,
        }
    }

    /// What is answered to these bytes until the connection ends.
    pub(super) async fn send(&self, request: &[u8]) -> Vec<u8> {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        // Whoever is refused early may not be read to the end.
        let _sent = socket.write_all(request).await;
        let mut bytes = Vec::new();
        let reading = socket.read_to_end(&mut bytes);
        // A reset behind an answer does not unsay it.
        let _ended = timeout(PATIENCE, reading).await.unwrap();
        bytes
    }

    pub(super) async fn request(&self, method: &str, path: &str, headers: &str) -> Answer {
        let request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
        Answer::read(&self.send(request.as_bytes()).await)
    }

    pub(super) async fn ask(&self, method: &str, path: &str, host: &str) -> Answer {
        self.request(method, path, &format!("Host: {host}\r\n"))
            .await
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "127.0.0.1").await
    }

    /// In this form.
    pub(super) async fn accept(&self, path: &str, form: &str) -> Answer {
        let headers = format!("Host: x\r\nAccept: {form}\r\n");
        self.request("GET", path, &headers).await
    }

    /// Records trades of `x` `A`: (event time, sequence).
    pub(super) async fn trades(&self, trades: &[(i64, u64)]) {
        let rows: Vec<Row> = trades.iter().map(|(at, seq)| trade(*at, *seq)).collect();
        self.store.record(epoch(), &rows).await.unwrap();
    }

    /// Records so many trades of `x` `A`, a nanosecond after the other.
    pub(super) async fn many_trades(&self, count: u64) {
        let all: Vec<_> = (1..=count)
            .map(|n| (i64::try_from(n).unwrap(), n))
            .collect();
        for some in all.chunks(5_000) {
            self.trades(some).await;
        }
        self.recorded_up_to(count).await;
    }

    pub(super) async fn recorded_up_to(&self, seq: u64) {
        let (seq, at) = (StreamSeq::new(seq), UnixNanos::new(1_000));
        self.store.advance("T", epoch(), seq, at).await.unwrap();
    }

    /// How many pages were read since this was asked the last time.
    pub(super) fn pages(&self) -> u64 {
        self.store.guard.pages.swap(0, Ordering::SeqCst)
    }
}

/// Waits until something is so.
pub(super) async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let waiting = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "{what}");
}

/// The sequences on a page.
pub(super) fn seqs(page: &Value) -> Vec<u64> {
    let items = page["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["s"].as_u64().unwrap())
        .collect()
}

pub(super) fn epoch() -> Epoch {
    Epoch::new(UnixNanos::new(5), 0)
}

fn trade(at: i64, seq: u64) -> Row {
    let tick = serde_json::from_value(json!({
        "k": "trade", "v": "x", "y": "A", "te": at.to_string(), "tr": at.to_string(),
        "i": seq.to_string(), "p": "1.5", "z": "2", "sd": "buy",
    }));
    let tick = tick.unwrap();
    let content = content(&tick);
    assert!(matches!(
        content,
        Content::Event {
            kind: Kind::Trade,
            ..
        }
    ));
    Row {
        seq: StreamSeq::new(seq),
        content,
        payload: codec::to_msgpack(&tick).unwrap().into(),
    }
}

/// Asks without a world at hand.
pub(super) async fn get(address: SocketAddr, path: &str) -> Answer {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let reading = socket.read_to_end(&mut bytes);
    timeout(PATIENCE, reading).await.unwrap().unwrap();
    Answer::read(&bytes)
}
