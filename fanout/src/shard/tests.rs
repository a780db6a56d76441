//! A shard with real sockets, told what to do by hand.

use std::num::NonZeroU32;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use prometheus_client::registry::Registry;
use schemas::position::Cursor;
use schemas::time::{SystemClock, UnixNanos};
use schemas::ws::Encoding;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;
use crate::governor::Guest;
use crate::metrics::Metrics;
use crate::reading::Hurry;
use crate::repair::Repairs;
use crate::session::Limits;
use crate::stats::Board;
use crate::store::Store;

type Socket = WebSocketStream<tokio::net::TcpStream>;

const DEADLINE: Duration = Duration::from_secs(30);
const CLIENTS: u32 = 100;
const STREAM: StreamNo = StreamNo::FIRST;

/// A shard that has seen one trade.
struct Bench {
    store: Arc<Store>,
    commands: mpsc::Sender<Command>,
    listener: tokio::net::TcpListener,
}

impl Bench {
    async fn start() -> Self {
        let store = Arc::new(Store::new("T", STREAM, 1 << 20));
        let epoch = Epoch::new(UnixNanos::new(5), 0);
        let begin = (StreamSeq::new(1), StreamSeq::ZERO);
        store.write().begin(epoch, begin.0, begin.1);
        let (commands, inlet) = mpsc::channel(INLET);
        let metrics = Metrics::new(&mut Registry::default());
        let repairs = Repairs::nowhere("T", metrics.clone()).await;
        let shared = Shared {
            stores: [Arc::clone(&store)].into(),
            repairs: [repairs].into(),
            metrics,
            board: Board::default(),
            hold_back: Duration::from_millis(5),
            hurry: Hurry::of(1),
            clock: Arc::new(SystemClock),
            limits: Arc::new(Limits {
                topics: 10,
                patterns: 10,
                message_bytes: 1_000,
                unsent_bytes: 1 << 20,
                unsent_age: DEADLINE,
                resume_messages: 10,
                crowd: crate::CROWD,
            }),
            ops: None,
            node: "test".into(),
        };
        std::thread::spawn(move || run(shared, inlet));
        let bench = Self {
            store,
            commands,
            listener: tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
        };
        bench.publish(1);
        let head = StreamSeq::new(1);
        bench
            .tell(Command::News(News::Joined {
                stream: STREAM,
                head,
                rewound: None,
            }))
            .await;
        bench
    }

    /// Tells the shard something, unless it has ended.
    async fn tell(&self, command: Command) {
        let _ended = self.commands.send(command).await;
    }

    fn publish(&self, seq: u64) -> Arc<Live> {
        let (seq, time) = (StreamSeq::new(seq), UnixNanos::new(1));
        let mut known = self.store.write();
        (known.head, known.head_time) = (seq, time);
        let payload = b"\x81\xa1k\xa5trade";
        known.apply("tick.trade.x.A", seq, time, payload).unwrap()
    }

    /// A client that is subscribed, and was told so.
    async fn client(&self) -> Socket {
        let address = self.listener.local_addr().unwrap();
        let near = tokio::net::TcpStream::connect(address).await.unwrap();
        let (far, _) = self.listener.accept().await.unwrap();
        self.tell(Command::Accept(Arrival {
            stream: far.into_std().unwrap(),
            early: Vec::new(),
            encoding: Encoding::Json,
            deflate: false,
            wire: Wire::WebSocket,
            head: Vec::new(),
            first: None,
            guest: Arc::new(Guest::default()),
        }))
        .await;
        let mut client = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
        let op = json!([{"op": "subscribe", "topics": ["trade.x.A"], "snapshot": false}]);
        client.send(Message::text(op.to_string())).await.unwrap();
        while !said(&mut client)
            .await
            .is_some_and(|said| said.iter().any(|message| message["t"] == "ack"))
        {}
        client
    }
}

/// The next messages; `None` once the connection is closed.
async fn said(client: &mut Socket) -> Option<Vec<Value>> {
    loop {
        match timeout(DEADLINE, client.next()).await.unwrap() {
            Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).unwrap()),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
            Some(Ok(_)) => {}
        }
    }
}

#[tokio::test]
async fn whoever_is_closed_is_promised_only_what_he_was_given() {
    // What happens at the same moment differs from time to time.
    for _ in 0..5 {
        close_all_under_load().await;
    }
}

async fn close_all_under_load() {
    let bench = Bench::start().await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(bench.client().await);
    }
    // The stream goes on while they are closed, and each is about to be told where it stands.
    let rate = NonZeroU32::new(1_000_000).unwrap();
    let departure = Departure::new(CLIENTS, rate, Instant::now());
    bench.tell(Command::News(News::Heartbeat)).await;
    bench.tell(Command::Drain(Arc::new(departure))).await;
    for seq in 2..1_000 {
        let live = bench.publish(seq);
        bench
            .tell(Command::News(News::Batch {
                stream: STREAM,
                messages: [live].into(),
                read: tokio::time::Instant::now(),
                head: StreamSeq::new(seq),
            }))
            .await;
    }
    for client in &mut clients {
        let mut given = 1;
        while let Some(messages) = said(client).await {
            for message in messages {
                if let Some(seq) = message["s"].as_u64() {
                    assert_eq!(seq, given + 1);
                    given = seq;
                }
                if let Some(cursor) = message["cur"]["T"].as_str() {
                    let cursor: Cursor = cursor.parse::<String>().unwrap().try_into().unwrap();
                    let promised = cursor.seq().get();
                    assert!(promised <= given, "{promised} promised, {given} given");
                }
            }
        }
    }
}

/// The shard has more for him at once than he may fall behind, sooner than the time between two
/// writes. What he has not read by then fits into the sockets: a busy machine closes nobody either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_does_not_close_whoever_keeps_up() {
    const ROUNDS: u32 = 20;
    const BATCHES: u32 = 6;
    const MESSAGES: u32 = 200;
    let bench = Bench::start().await;
    let mut client = bench.client().await.into_inner();
    let (metrics, clock) = (Metrics::new(&mut Registry::default()), UnixNanos::new(1));
    // {"k":"trade","x":"aaa…"}
    let payload = [
        b"\x82\xa1k\xa5trade\xa1x\xda\x03\x84".as_slice(),
        &[b'a'; 900],
    ]
    .concat();
    let (mut seq, mut rounds) = (1, Vec::new());
    for _ in 0..ROUNDS {
        let (mut size, mut batches) = (0, Vec::new());
        for _ in 0..BATCHES {
            let mut messages = Vec::new();
            for _ in 0..MESSAGES {
                seq += 1;
                let seq = StreamSeq::new(seq);
                let mut known = bench.store.write();
                (known.head, known.head_time) = (seq, clock);
                let live = known.apply("tick.trade.x.A", seq, clock, &payload).unwrap();
                // As if another shard had been first.
                size += live.data(Encoding::Json, &metrics).unwrap().len();
                messages.push(live);
            }
            batches.push((messages, StreamSeq::new(seq)));
        }
        rounds.push((size, batches));
    }
    let (mut told, mut got, mut buffer) = (0, 0, vec![0; 1 << 20]);
    for (round, (size, batches)) in rounds.into_iter().enumerate() {
        for (messages, head) in batches {
            let news = News::Batch {
                stream: STREAM,
                messages: messages.into(),
                read: tokio::time::Instant::now(),
                head,
            };
            bench.tell(Command::News(news)).await;
        }
        told += size;
        while got < told {
            let count = timeout(DEADLINE, client.read(&mut buffer)).await.unwrap();
            let count = count.unwrap_or(0);
            assert!(
                count > 0,
                "closed in round {round} after {got} of {told} bytes"
            );
            got += count;
        }
    }
}
