//! Live feeds against a local server that behaves as badly as a venue can.

#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, and looks at few of many cases"
)]

#[path = "live/renewal.rs"]
mod renewal;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use daemon::health::Health;
use futures_util::{SinkExt, StreamExt};
use ingest::config::{FeedsConfig, parse};
use ingest::feed::Batch;
use ingest::metrics::Metrics;
use ingest::standing::Standings;
use ingest::supervisor::{FeedsContext, start};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use schemas::tick::{FeedState, Tick};
use schemas::time::SystemClock;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::{WebSocketStream, accept_async};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

type Venue = WebSocketStream<TcpStream>;

/// Waits for the next session, and for what it asks for.
async fn session(listener: &TcpListener) -> (Venue, String) {
    let (stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let mut socket = accept_async(stream).await.unwrap();
    let request = timeout(PATIENCE, socket.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    (socket, request.into_text().unwrap().to_string())
}

fn trade(id: u64) -> String {
    format!(
        r#"{{"stream":"abcusdt@trade","data":{{"e":"trade","E":1767000000123,"s":"ABCUSDT","t":{id},"p":"12.50","q":"1","T":1767000000120,"m":false}}}}"#
    )
}

struct Feeds {
    batches: mpsc::Receiver<Batch>,
    seen: Vec<Tick>,
    registry: Registry,
    health: Health,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Feeds {
    fn start(config: &FeedsConfig) -> Self {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry).feeds;
        let (outlet, batches) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let health = Health::default();
        let cx = FeedsContext {
            clock: Arc::new(SystemClock),
            metrics,
            standings: Arc::new(Standings::new(config, health.check("ingest.feeds"))),
            past: Arc::default(),
        };
        let tasks = start(config, &outlet, &cx, &stop);
        Self {
            batches,
            seen: Vec::new(),
            registry,
            health,
            stop,
            tasks,
        }
    }

    fn of(address: SocketAddr, source: &str, extra: &str) -> Self {
        let text = format!(
            "[[feed]]\nname = \"f\"\nsource = \"{source}\"\nsymbols = [\"ABCUSDT\"]\nurl = \"ws://{address}\"\n{extra}"
        );
        Self::start(&parse(&text, Path::new("")).unwrap())
    }

    async fn until(&mut self, done: impl Fn(&[Tick]) -> bool) {
        while !done(&self.seen) {
            let batch = timeout(PATIENCE, self.batches.recv())
                .await
                .unwrap()
                .unwrap();
            self.seen.extend(batch.ticks);
        }
    }

    fn trades(&self) -> Vec<&str> {
        let trades = self.seen.iter().filter_map(|tick| match tick {
            Tick::Trade(trade) => Some(trade.id.as_str()),
            _ => None,
        });
        trades.collect()
    }

    fn states(&self) -> Vec<FeedState> {
        let states = self.seen.iter().filter_map(|tick| match tick {
            Tick::Feed(feed) => Some(feed.state),
            _ => None,
        });
        states.collect()
    }

    /// Stops all feeds; the last word of each is that it is closed.
    async fn end(mut self) -> String {
        self.stop.cancel();
        timeout(PATIENCE, async {
            while let Some(batch) = self.batches.recv().await {
                self.seen.extend(batch.ticks);
            }
            while self.tasks.join_next().await.is_some() {}
        })
        .await
        .unwrap();
        let mut last = HashMap::new();
        for tick in &self.seen {
            if let Tick::Feed(feed) = tick {
                last.insert(feed.head.symbol.clone(), feed.state);
            }
        }
        assert!(!last.is_empty());
        assert!(
            last.values().all(|state| *state == FeedState::Closed),
            "{last:?}"
        );
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        text
    }
}

fn count(ticks: &[Tick], state: FeedState) -> usize {
    ticks
        .iter()
        .filter(|tick| matches!(tick, Tick::Feed(feed) if feed.state == state))
        .count()
}

fn has_trade(ticks: &[Tick], id: &str) -> bool {
    ticks
        .iter()
        .any(|tick| matches!(tick, Tick::Trade(trade) if trade.id == id))
}

#[tokio::test]
async fn garbage_is_counted_and_a_lost_connection_is_taken_up_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut feeds = Feeds::of(listener.local_addr().unwrap(), "binance", "");
    let (mut venue, request) = session(&listener).await;
    assert!(
        request.contains("SUBSCRIBE")
            && request.contains("abcusdt@trade")
            && request.contains("abcusdt@bookTicker")
    );

    venue.send(Message::text(trade(1))).await.unwrap();
    for bad in [
        "{",
        "[]",
        r#"{"e":"trade","s":"A","t":9,"p":"-1","q":"1","T":1767000000120,"m":true}"#,
        r#"{"e":"trade","s":"ABCUSDT","t":9,"p":"1","q":"1","T":4070908800000,"m":true}"#,
        r#"{"e":"trade","s":"OTHER","t":9,"p":"1","q":"1","T":1767000000120,"m":true}"#,
        r#"{"e":"never heard of"}"#,
    ] {
        venue.send(Message::text(bad)).await.unwrap();
    }
    venue.send(Message::binary(vec![1, 2, 3])).await.unwrap();
    // One message in three pieces, a ping between them.
    let text = trade(2);
    let (first, rest) = text.split_at(20);
    let (second, third) = rest.split_at(1);
    let piece = |text: &str, code, last| {
        Message::Frame(Frame::message(text.to_owned(), OpCode::Data(code), last))
    };
    venue.send(piece(first, Data::Text, false)).await.unwrap();
    venue.send(Message::Ping(vec![7].into())).await.unwrap();
    venue
        .send(piece(second, Data::Continue, false))
        .await
        .unwrap();
    venue
        .send(piece(third, Data::Continue, true))
        .await
        .unwrap();
    feeds
        .until(|seen| {
            seen.iter()
                .filter(|tick| matches!(tick, Tick::Trade(_)))
                .count()
                == 2
        })
        .await;
    drop(venue);

    feeds
        .until(|seen| count(seen, FeedState::Reconnecting) == 1)
        .await;
    let (mut venue, _) = session(&listener).await;
    venue.send(Message::text(trade(3))).await.unwrap();
    feeds.until(|seen| count(seen, FeedState::Live) == 2).await;
    feeds.until(|seen| has_trade(seen, "3")).await;
    venue
        .send(Message::text(
            r#"{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1}}"#,
        ))
        .await
        .unwrap();
    let (mut next, _) = session(&listener).await;
    drop(venue);
    // Text that is not UTF-8 ends the session, and nothing else.
    let bytes = Frame::message(vec![0xFF, 0xFE], OpCode::Data(Data::Text), true);
    next.send(Message::Frame(bytes)).await.unwrap();
    let (mut venue, _) = session(&listener).await;
    // So does a frame beyond all measure; the client may be gone before it has all of it.
    let _ended = venue
        .send(Message::text("x".repeat(40 * 1024 * 1024)))
        .await;
    let (mut venue, _) = session(&listener).await;
    venue.send(Message::text(trade(4))).await.unwrap();
    feeds.until(|seen| has_trade(seen, "4")).await;

    assert_eq!(feeds.trades(), ["1", "2", "3", "4"]);
    assert_eq!(feeds.states().first(), Some(&FeedState::Live));
    let metrics = feeds.end().await;
    let rejected = |reason: &str, number: u32| {
        format!("rejected_total{{feed=\"f\",reason=\"{reason}\"}} {number}")
    };
    assert!(metrics.contains(&rejected("malformed", 4)), "{metrics}");
    assert!(metrics.contains(&rejected("range", 2)), "{metrics}");
    assert!(metrics.contains(&rejected("contradiction", 1)), "{metrics}");
    assert!(metrics.contains(&rejected("size", 1)), "{metrics}");
}

#[tokio::test]
async fn a_quiet_venue_that_shows_life_is_not_left() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut feeds = Feeds::of(address, "binance", "stale_after_secs = 1\n");
    let (mut venue, _) = session(&listener).await;
    // Three times as long as silence is borne.
    let mut beats = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..30 {
        beats.tick().await;
        venue.send(Message::Ping("".into())).await.unwrap();
    }
    let trade = r#"{"e":"trade","s":"ABCUSDT","t":7,"p":"1","q":"1","T":1767000000120,"m":true}"#;
    venue.send(Message::text(trade)).await.unwrap();
    feeds.until(|seen| has_trade(seen, "7")).await;
    feeds.until(|seen| count(seen, FeedState::Stale) == 0).await;
    feeds.end().await;
}

#[tokio::test]
async fn a_silent_venue_is_stale_and_then_left() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut feeds = Feeds::of(
        listener.local_addr().unwrap(),
        "coinbase",
        "stale_after_secs = 1\n",
    );
    let (mut venue, request) = session(&listener).await;
    assert!(request.contains("\"matches\"") && request.contains("ABCUSDT"));
    let matched = |id: u64| {
        format!(
            r#"{{"type":"match","trade_id":{id},"time":"2026-01-02T03:04:05Z","product_id":"ABCUSDT","size":"1","price":"2","side":"buy"}}"#
        )
    };
    venue.send(Message::text(matched(1))).await.unwrap();
    feeds.until(|seen| count(seen, FeedState::Stale) == 1).await;
    assert!(!feeds.health.report().ready);
    feeds
        .until(|seen| count(seen, FeedState::Reconnecting) == 1)
        .await;
    let (mut again, _) = session(&listener).await;
    again.send(Message::text(matched(4))).await.unwrap();
    feeds.until(|seen| count(seen, FeedState::Gap) == 1).await;
    feeds.until(|seen| has_trade(seen, "4")).await;
    assert_eq!(feeds.trades(), ["1", "4"]);
    feeds.end().await;
}

#[tokio::test]
async fn a_book_that_lacks_a_change_is_asked_for_again_and_nothing_else_stops() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut feeds = Feeds::of(address, "coinbase", "kinds = [\"trade\", \"book\"]\n");
    let (mut venue, request) = session(&listener).await;
    assert!(!request.contains("level2"));
    let books = timeout(PATIENCE, venue.next()).await.unwrap();
    let books = books.unwrap().unwrap().into_text().unwrap();
    assert!(books.contains("[\"level2_batch\"]"));
    let snapshot =
        r#"{"type":"snapshot","product_id":"ABCUSDT","bids":[["9","1"]],"asks":[["10","2"]]}"#;
    let change = |price: &str| {
        format!(r#"{{"type":"l2update","product_id":"ABCUSDT","changes":[["buy","{price}","1"]]}}"#)
    };
    for text in [snapshot.to_owned(), change("9.5"), change("11")] {
        venue.send(Message::text(text)).await.unwrap();
    }
    for asked in ["unsubscribe", "subscribe"] {
        let request = timeout(PATIENCE, venue.next()).await.unwrap();
        let request: serde_json::Value =
            serde_json::from_str(request.unwrap().unwrap().to_text().unwrap()).unwrap();
        assert_eq!(request["type"], asked);
        assert_eq!(request["channels"], serde_json::json!(["level2_batch"]));
        assert_eq!(request["product_ids"], serde_json::json!(["ABCUSDT"]));
    }
    // A change that was on its way, then the new state.
    for text in [change("9.7"), snapshot.to_owned(), change("9.6")] {
        venue.send(Message::text(text)).await.unwrap();
    }
    let best = |seen: &[Tick]| {
        let books = seen.iter().filter_map(|tick| match tick {
            Tick::Book(book) => book.bids.first().map(|level| level.0.to_string()),
            _ => None,
        });
        books.collect::<Vec<_>>()
    };
    feeds.until(|seen| best(seen).len() == 4).await;
    assert_eq!(best(&feeds.seen), ["9", "9.5", "9", "9.6"]);
    assert_eq!(feeds.states(), [FeedState::Live]);
    let metrics = feeds.end().await;
    assert!(
        metrics.contains("feed_sessions_total{feed=\"f\"} 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_venue_that_is_not_there_stops_no_other_feed() {
    let text = "[[feed]]\nname = \"gone\"\nsource = \"binance\"\nsymbols = [\"A\"]\nurl = \"ws://127.0.0.1:1\"\n\
                [[feed]]\nname = \"sim\"\nsource = \"sim\"\nrate = 1000\n";
    let mut feeds = Feeds::start(&parse(text, Path::new("")).unwrap());
    feeds
        .until(|seen| count(seen, FeedState::Reconnecting) >= 1 && seen.len() > 1_000)
        .await;
    assert!(feeds.health.report().ready);
    feeds.end().await;
}
