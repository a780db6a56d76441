//! The door against clients that are wrong, slow or too many, over real sockets.

mod events;

use ::governor::clock::DefaultClock;
use clap::Parser as _;
use futures_util::{SinkExt as _, StreamExt as _};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use schemas::position::{Epoch, StreamSeq};
use schemas::time::{SystemClock, UnixNanos};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::*;
use crate::channels::Channels;
use crate::reading::Hurry;
use crate::shard::Shared;
use crate::stats::Board;
use crate::store::{Store, StreamNo};
use crate::{Args, limits, start_shards};

/// The history of the replica's stream.
const EPOCH: Epoch = Epoch::new(UnixNanos::new(0x18b9), 0);
/// What no condition should take.
const DEADLINE: Duration = Duration::from_secs(30);
const UPGRADE_FIELDS: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

/// A replica that has caught up with an empty stream.
struct Replica {
    address: SocketAddr,
    registry: Registry,
    leaving: CancellationToken,
    parts: JoinSet<anyhow::Result<()>>,
    store: Arc<Store>,
    shards: Vec<mpsc::Sender<Command>>,
    _missing: watch::Sender<BTreeSet<StreamNo>>,
}

impl Replica {
    async fn start(given: &[&str], patience: Duration) -> Self {
        let given = ["test", "--shards=1", "--ring-bytes=65536"]
            .iter()
            .chain(given);
        let args = Cli::try_parse_from(given).unwrap().args;
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let repairs = crate::repair::Repairs::nowhere("TICKS", metrics.clone()).await;
        let ring = args.ring_bytes.get();
        let store = Arc::new(Store::new("TICKS", StreamNo::FIRST, ring));
        store
            .write()
            .begin(EPOCH, StreamSeq::new(1), StreamSeq::ZERO);
        let shared = Shared {
            stores: [Arc::clone(&store)].into(),
            repairs: [repairs].into(),
            metrics: metrics.clone(),
            clock: Arc::new(SystemClock),
            limits: limits(&args).into(),
            ops: args.governor.ops(),
            node: "test".into(),
            board: Board::default(),
            hold_back: Duration::from_millis(5),
            hurry: Hurry::of(1),
        };
        let (shards, mut parts) = start_shards(&args, &shared).unwrap();
        let joined = crate::intake::News::Joined {
            stream: StreamNo::FIRST,
            head: StreamSeq::ZERO,
            rewound: None,
        };
        for shard in &shards {
            let told = shard.send(crate::shard::Command::News(joined.clone()));
            assert!(told.await.is_ok());
        }
        let (is_missing, missing) = watch::channel(BTreeSet::new());
        let leaving = CancellationToken::new();
        let door = Arc::new(Door {
            shards: shards.clone(),
            next: AtomicUsize::new(0),
            origins: args.origins.clone(),
            is_local: true,
            deflate: args.deflate,
            max_connections: 1_000,
            max_handshakes: args.max_handshakes.get(),
            patience,
            governor: Governor::new(&args.governor, DefaultClock::default()),
            offer: Offer {
                channels: Channels::default(),
                limits: limits(&args),
            },
            metrics,
            missing,
            tasks: TaskTracker::new(),
            leaving: leaving.clone(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        parts.spawn(async move {
            serve(listener, door).await;
            Ok(())
        });
        Self {
            address,
            registry,
            leaving,
            parts,
            store,
            shards,
            _missing: is_missing,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn ask(&self, fields: &str) -> String {
        let mut stream = self.connect().await;
        let fields = format!("Host: {}\r\n{UPGRADE_FIELDS}{fields}", self.address);
        ask(&mut stream, &fields).await
    }

    async fn socket(&self) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
        let url = format!("ws://{}/v1/stream", self.address);
        connect_async(url).await.unwrap().0
    }

    /// A counter, by its name and labels.
    fn count(&self, name: &str) -> u64 {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        assert!(!text.contains("127.0.0."), "an address is shown");
        let name = format!("tickwire_fanout_{name} ");
        text.lines()
            .find_map(|line| line.strip_prefix(&name))
            .map_or(0, |count| count.parse().unwrap())
    }

    async fn counted(&self, name: &str, expected: u64) {
        let reached = async {
            while self.count(name) < expected {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, reached).await.expect(name);
        assert_eq!(self.count(name), expected, "{name}");
    }
}

/// Sends a request's fields: the answer, until the server has said all.
async fn ask(stream: &mut TcpStream, fields: &str) -> String {
    let request = format!("GET /v1/stream HTTP/1.1\r\n{fields}\r\n");
    // A server that has already closed says why in its answer.
    let _may_be_closed = stream.write_all(request.as_bytes()).await;
    rest(stream).await
}

/// Reads until the server closes or upgrades.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let reading = async {
        let mut chunk = [0; 4_096];
        while let Ok(count) = stream.read(&mut chunk).await {
            text.push_str(&String::from_utf8_lossy(&chunk[..count]));
            let is_upgraded = text.starts_with("HTTP/1.1 101") && text.contains("\r\n\r\n");
            if count == 0 || is_upgraded {
                return;
            }
        }
    };
    timeout(DEADLINE, reading).await.expect("an end");
    text
}

fn status(answer: &str) -> u16 {
    let code = answer.split(' ').nth(1);
    code.map_or(0, |code| code.parse().unwrap())
}

fn upgrade_to(address: SocketAddr) -> String {
    format!("Host: {address}\r\n{UPGRADE_FIELDS}")
}

#[tokio::test]
async fn an_address_that_connects_too_often_is_told_when_to_come_back() {
    let given = [
        "--limit-loopback",
        "--connections-per-ip=0",
        "--connects-per-ip-per-sec=1",
        "--connects-per-ip-burst=3",
    ];
    let replica = Replica::start(&given, DEADLINE).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(replica.connect().await);
    }
    let mut statuses = Vec::new();
    for stream in &mut streams {
        let answer = ask(stream, &upgrade_to(replica.address)).await;
        statuses.push(status(&answer));
        if status(&answer) == 429 {
            assert!(answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
            assert!(answer.contains("application/problem+json"), "{answer}");
            assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        }
    }
    assert_eq!(statuses[..3], [101, 101, 101]);
    let refused = statuses.iter().filter(|status| **status == 429).count();
    assert!(refused > 0, "{statuses:?}");
    let counted = replica.count("refused_total{why=\"connects_per_ip\"}");
    assert_eq!(counted, u64::try_from(refused).unwrap());
    let elsewhere = TcpSocket::new_v4().unwrap();
    elsewhere.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut stream = elsewhere.connect(replica.address).await.unwrap();
    let answer = ask(&mut stream, &upgrade_to(replica.address)).await;
    assert_eq!(status(&answer), 101);
}

#[tokio::test]
async fn an_address_holds_so_many_connections_and_no_more() {
    let given = [
        "--limit-loopback",
        "--connections-per-ip=2",
        "--connects-per-ip-per-sec=0",
    ];
    let replica = Replica::start(&given, DEADLINE).await;
    let mut held = Vec::new();
    for expected in [101, 101, 429] {
        let mut stream = replica.connect().await;
        let answer = ask(&mut stream, &upgrade_to(replica.address)).await;
        assert_eq!(status(&answer), expected, "{answer}");
        held.push(stream);
    }
    replica
        .counted("refused_total{why=\"connections_per_ip\"}", 1)
        .await;
    // Silent ones count too, and beyond twice the limit nobody is even answered.
    let flooded = async {
        while replica.count("refused_total{why=\"flood_per_ip\"}") == 0 {
            held.push(replica.connect().await);
        }
    };
    timeout(DEADLINE, flooded).await.expect("an end to it");
    assert_eq!(rest(held.last_mut().unwrap()).await, "");
    drop(held);
    let freed = async { while status(&replica.ask("").await) != 101 {} };
    timeout(DEADLINE, freed).await.expect("room again");
}

#[tokio::test]
async fn loopback_is_not_limited_unless_asked() {
    let given = [
        "--connections-per-ip=1",
        "--connects-per-ip-per-sec=1",
        "--connects-per-ip-burst=1",
    ];
    let replica = Replica::start(&given, DEADLINE).await;
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(replica.socket().await);
    }
    replica.counted("accepted_total", 10).await;
}

async fn said(socket: &mut WebSocketStream<MaybeTlsStream<TcpStream>>) -> Vec<Value> {
    let message = timeout(DEADLINE, socket.next()).await.unwrap().unwrap();
    let message = message.unwrap();
    if let Message::Close(frame) = message {
        return vec![json!(u16::from(frame.unwrap().code))];
    }
    serde_json::from_str(message.to_text().unwrap()).unwrap()
}

fn pings(ids: std::ops::Range<u64>) -> Message {
    let ops: Vec<Value> = ids.map(|id| json!({"op": "ping", "id": id})).collect();
    Message::text(json!(ops).to_string())
}

#[tokio::test]
async fn hasty_ops_are_refused_and_a_flood_of_them_is_closed() {
    let given = ["--ops-per-sec=1", "--ops-burst=3"];
    let replica = Replica::start(&given, DEADLINE).await;
    let (mut hasty, mut calm) = (replica.socket().await, replica.socket().await);
    assert_eq!(said(&mut hasty).await[0]["t"], "welcome");
    assert_eq!(said(&mut calm).await[0]["t"], "welcome");
    hasty.send(pings(1..6)).await.unwrap();
    let mut answers = Vec::new();
    while answers.len() < 5 {
        answers.extend(said(&mut hasty).await);
    }
    for (answer, id) in answers.iter().zip(1..) {
        assert_eq!(answer["id"], id);
        if id <= 3 {
            assert_eq!(answer["t"], "pong");
        } else {
            assert_eq!(
                (&answer["t"], &answer["code"]),
                (&json!("err"), &json!("rate_limited"))
            );
            assert!((1..=1_000).contains(&answer["retry_after_ms"].as_u64().unwrap()));
        }
    }
    for round in 0..4 {
        // The server may have closed meanwhile.
        let _may_be_closed = hasty.send(pings(round * 50..(round + 1) * 50)).await;
    }
    let closed = async { while said(&mut hasty).await != [json!(4029)] {} };
    timeout(DEADLINE, closed).await.expect("a close frame");
    replica.counted("closed_total{code=\"4029\"}", 1).await;
    assert!(replica.count("hasty_ops_total") > 100);
    calm.send(pings(7..8)).await.unwrap();
    let mut answer = said(&mut calm).await;
    while answer[0]["t"] == "hb" {
        answer = said(&mut calm).await;
    }
    assert_eq!(answer[0], json!({"t": "pong", "id": 7}));
}

#[tokio::test]
async fn wrong_ops_and_empty_messages_are_counted_like_others() {
    let given = ["--ops-per-sec=1", "--ops-burst=1"];
    let replica = Replica::start(&given, DEADLINE).await;
    for (text, closed) in [("[]", 1), ("[{}]", 2), ("[1]", 3)] {
        let mut socket = replica.socket().await;
        for _ in 0..500 {
            // The server closes in between.
            let _may_be_closed = socket.send(Message::text(text)).await;
        }
        replica.counted("closed_total{code=\"4029\"}", closed).await;
    }
}

#[tokio::test]
async fn a_handshake_is_one_get_of_http_1_1() {
    let replica = Replica::start(&[], DEADLINE).await;
    let host = format!("Host: {}\r\n", replica.address);
    let key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    let cases = [
        ("GET", "1.1", host.clone(), 101),
        ("HEAD", "1.1", host.clone(), 400),
        ("POST", "1.1", host.clone(), 405),
        ("GET", "1.0", host.clone(), 400),
        ("GET", "1.1", String::new(), 400),
        ("GET", "1.1", host.repeat(2), 400),
        ("GET", "1.1", format!("{host}{key}"), 400),
        (
            "GET",
            "1.1",
            format!("{host}Sec-WebSocket-Version: 13\r\n"),
            400,
        ),
    ];
    for (method, version, fields, expected) in cases {
        let mut stream = replica.connect().await;
        let request = format!("{method} /v1/stream HTTP/{version}\r\n{fields}{UPGRADE_FIELDS}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = rest(&mut stream).await;
        assert_eq!(status(&answer), expected, "{request}{answer}");
    }
}

#[tokio::test]
async fn the_silent_and_the_slow_are_sent_away() {
    let replica = Replica::start(&[], Duration::from_millis(200)).await;
    let mut silent = replica.connect().await;
    assert_eq!(rest(&mut silent).await, "");
    let mut slow = replica.connect().await;
    slow.write_all(b"GET /v1/stream HTTP/1.1\r\nX: ")
        .await
        .unwrap();
    // Fewer than a head may have, or its length would be what ends it.
    for _ in 0..MAX_HEAD / 2 {
        let _may_be_closed = slow.write_all(b"x").await;
        tokio::task::yield_now().await;
    }
    assert_eq!(rest(&mut slow).await, "");
    let mut endless = replica.connect().await;
    let fields = format!("{}Content-Length: 1000\r\n", upgrade_to(replica.address));
    ask(&mut endless, &fields).await;
    replica
        .counted("refused_total{why=\"handshake_timeout\"}", 2)
        .await;
    assert_eq!(status(&replica.ask("").await), 101);
}

#[tokio::test]
async fn of_too_many_handshakes_the_longest_ends() {
    let replica = Replica::start(&["--max-handshakes=2"], 10 * DEADLINE).await;
    let mut idle = Vec::new();
    for _ in 0..3 {
        idle.push(replica.connect().await);
    }
    assert_eq!(rest(&mut idle[0]).await, "");
    let too_many = "refused_total{why=\"too_many_handshakes\"}";
    replica.counted(too_many, 1).await;
    assert_eq!(status(&replica.ask("").await), 101);
    assert_eq!(rest(&mut idle[1]).await, "");
    replica.counted(too_many, 2).await;
    let answer = ask(&mut idle[2], &upgrade_to(replica.address)).await;
    assert_eq!(status(&answer), 101);
}

#[tokio::test]
async fn what_is_not_http_is_refused() {
    let replica = Replica::start(&[], DEADLINE).await;
    let mut stream = replica.connect().await;
    stream
        .write_all(b"\x16\x03\x01 hello\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(status(&rest(&mut stream).await), 400);
    let huge = format!("X: {}\r\n", "x".repeat(2 * MAX_HEAD));
    let answer = replica.ask(&huge).await;
    assert!(matches!(status(&answer), 0 | 431), "{answer}");
    replica.counted("refused_total{why=\"not_http\"}", 2).await;
}

#[tokio::test]
async fn nobody_comes_in_while_the_replica_leaves() {
    let mut replica = Replica::start(&[], DEADLINE).await;
    let mut early = replica.connect().await;
    early
        .write_all(b"GET /v1/stream HTTP/1.1\r\n")
        .await
        .unwrap();
    // Whoever comes after has been accepted after.
    assert_eq!(status(&replica.ask("").await), 101);
    replica.leaving.cancel();
    early
        .write_all(upgrade_to(replica.address).as_bytes())
        .await
        .unwrap();
    early.write_all(b"\r\n").await.unwrap();
    let answer = rest(&mut early).await;
    assert!(
        status(&answer) == 503 && answer.contains("leaving"),
        "{answer}"
    );
    let served = timeout(DEADLINE, replica.parts.join_next()).await;
    assert!(served.unwrap().unwrap().unwrap().is_ok());
    assert!(TcpStream::connect(replica.address).await.is_err());
}

#[tokio::test]
async fn pages_connect_only_from_where_nobody_can_pretend_to_be() {
    let listed = "--origins=https://ticks.example,http://console.example:8080";
    let replica = Replica::start(&[listed], DEADLINE).await;
    let cases = [
        ("127.0.0.1:7070", Some("http://127.0.0.1:7070"), 101),
        ("[::1]:7070", Some("http://[::1]:7070"), 101),
        ("[::1]", Some("https://[::1]"), 101),
        ("localhost:7070", Some("http://localhost:7070"), 101),
        ("LOCALHOST:7070", Some("http://localhost:7070"), 101),
        ("ticks.example", Some("https://ticks.example"), 101),
        ("10.0.0.7:7070", Some("http://console.example:8080"), 101),
        ("rebound.example:7070", None, 101),
        (
            "rebound.example:7070",
            Some("http://rebound.example:7070"),
            403,
        ),
        (
            "127.0.0.1.nip.example:7070",
            Some("http://127.0.0.1.nip.example:7070"),
            403,
        ),
        (
            "localhost.example:7070",
            Some("http://localhost.example:7070"),
            403,
        ),
        ("127.0.0.1:7070", Some("http://127.0.0.1:9999"), 403),
        ("127.0.0.1:7070", Some("http://rebound.example:7070"), 403),
        ("ticks.example", Some("http://ticks.example"), 403),
        ("127.0.0.1:7070", Some("null"), 403),
        ("127.0.0.1:7070", Some(""), 403),
        ("", Some("http://"), 403),
        ("127.0.0.1 7070", Some("http://127.0.0.1 7070"), 403),
    ];
    let mut refused = 0;
    for (host, origin, expected) in cases {
        let origin = origin.map_or_else(String::new, |of| format!("Origin: {of}\r\n"));
        let fields = format!("Host: {host}\r\n{UPGRADE_FIELDS}{origin}");
        let answer = ask(&mut replica.connect().await, &fields).await;
        assert_eq!(status(&answer), expected, "{host} {origin}");
        refused += u64::from(expected == 403);
    }
    replica
        .counted("refused_total{why=\"origin\"}", refused)
        .await;
}
