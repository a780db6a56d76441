//! A connection is renewed beside the old one: no trade and no quote is lost, doubled or out of
//! order, whichever of the two is behind.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use schemas::tick::Quote;

use super::*;

/// What the venue sees of its clients.
#[derive(Default)]
struct Seen {
    sessions: AtomicUsize,
    open: AtomicUsize,
    most_at_once: AtomicUsize,
}

/// A connection that lags behind by some messages.
struct Connection {
    socket: Venue,
    queue: VecDeque<String>,
    lag: usize,
}

impl Connection {
    async fn send(&mut self, messages: [String; 2]) -> bool {
        self.queue.extend(messages);
        while self.queue.len() > self.lag {
            let Some(message) = self.queue.pop_front() else {
                break;
            };
            if self.socket.send(Message::text(message)).await.is_err() {
                return false;
            }
        }
        true
    }
}

fn quote(update: u64) -> String {
    format!(
        r#"{{"stream":"abcusdt@bookTicker","data":{{"u":{update},"s":"ABCUSDT","b":"12.4","B":"{update}","a":"12.6","A":"1"}}}}"#
    )
}

/// Trades all the time, and sends every connection what happens while it is there.
async fn trade_on(listener: TcpListener, seen: Arc<Seen>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(2));
    let mut connections: Vec<Connection> = Vec::new();
    let mut number = 0;
    loop {
        tokio::select! {
            stream = listener.accept() => {
                let mut socket = accept_async(stream.unwrap().0).await.unwrap();
                socket.next().await.unwrap().unwrap();
                let place = seen.sessions.fetch_add(1, Ordering::Relaxed);
                let lag = if place.is_multiple_of(2) { 60 } else { 0 };
                connections.push(Connection { socket, queue: VecDeque::new(), lag });
                seen.most_at_once.fetch_max(connections.len(), Ordering::Relaxed);
            }
            _ = ticks.tick() => {
                number += 1;
                let mut open = Vec::new();
                for mut connection in connections.drain(..) {
                    if connection.send([trade(number), quote(number)]).await {
                        open.push(connection);
                    }
                }
                connections = open;
                seen.open.store(connections.len(), Ordering::Relaxed);
            }
        }
    }
}

/// Where ids do not follow each other.
fn first_hole(ids: &[u64]) -> Option<(u64, u64)> {
    let mut pairs = ids.iter().copied().zip(ids.iter().copied().skip(1));
    pairs.find(|(one, next)| one + 1 != *next)
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_over_renewals() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Seen::default());
    let mut venue = JoinSet::new();
    venue.spawn(trade_on(listener, Arc::clone(&seen)));
    let mut feeds = Feeds::of(address, "binance", "renew_after_secs = 1\n");
    // Four connections were taken over from, and closed.
    let closed = || {
        let sessions = seen.sessions.load(Ordering::Relaxed);
        sessions.saturating_sub(seen.open.load(Ordering::Relaxed)) >= 4
    };
    feeds.until(|_| closed()).await;
    let so_far = feeds.seen.len();
    feeds.until(|ticks| ticks.len() > so_far + 500).await;

    let trades: Vec<u64> = feeds
        .trades()
        .iter()
        .map(|id| id.parse().unwrap())
        .collect();
    let quotes: Vec<u64> = feeds
        .seen
        .iter()
        .filter_map(|tick| match tick {
            Tick::Quote(Quote { head, .. }) => head.venue_seq,
            _ => None,
        })
        .collect();
    assert!(
        trades.len() > 1_000 && first_hole(&trades).is_none(),
        "{:?}",
        first_hole(&trades)
    );
    assert!(
        quotes.len() > 1_000 && first_hole(&quotes).is_none(),
        "{:?}",
        first_hole(&quotes)
    );
    assert_eq!(feeds.states(), [FeedState::Live]);
    assert!(seen.most_at_once.load(Ordering::Relaxed) >= 2);
    feeds.end().await;
}

#[tokio::test]
async fn the_old_connection_goes_on_while_the_next_one_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut feeds = Feeds::of(address, "binance", "renew_after_secs = 1\n");
    let (mut old, _) = session(&listener).await;
    old.send(Message::text(trade(1))).await.unwrap();
    let (refused, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    drop(refused);
    old.send(Message::text(trade(2))).await.unwrap();
    let (mut new, _) = session(&listener).await;
    // The old one ends while the new one is ahead of it.
    old.send(Message::text(trade(3))).await.unwrap();
    new.send(Message::text(trade(3))).await.unwrap();
    new.send(Message::text(trade(4))).await.unwrap();
    feeds.until(|seen| has_trade(seen, "3")).await;
    drop(old);
    feeds.until(|seen| has_trade(seen, "4")).await;
    new.send(Message::text(trade(5))).await.unwrap();
    feeds.until(|seen| has_trade(seen, "5")).await;
    assert_eq!(feeds.trades(), ["1", "2", "3", "4", "5"]);
    assert_eq!(feeds.states(), [FeedState::Live]);
    feeds.end().await;
}

#[tokio::test]
async fn an_old_connection_that_fell_silent_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut feeds = Feeds::of(address, "binance", "renew_after_secs = 1\n");
    let (mut old, _) = session(&listener).await;
    old.send(Message::text(trade(1))).await.unwrap();
    let (mut new, _) = session(&listener).await;
    for id in 2..5 {
        new.send(Message::text(trade(id))).await.unwrap();
    }
    feeds.until(|seen| has_trade(seen, "4")).await;
    assert_eq!(feeds.trades(), ["1", "2", "3", "4"]);
    assert_eq!(feeds.states(), [FeedState::Live]);
    drop(old);
    feeds.end().await;
}
