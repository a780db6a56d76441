//! From the stream to the store and the shards: one reader per replica and stream.

use std::sync::Arc;
use std::time::Duration;

use bus::reader::{Entry, Event, Reader};
use daemon::health::Check;
use schemas::codec;
use schemas::id::Kind;
use schemas::position::StreamSeq;
use schemas::tick::{FeedState, Tick};
use schemas::time::Clock;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::metrics::Metrics;
use crate::shard::Command;
use crate::store::{FeedReport, Known, Live, Store};

/// How long the broker may be silent before this replica is not ready: clients are told at once, but
/// replicas that all leave together help nobody.
const SILENCE: Duration = Duration::from_secs(10);

/// How often a tick is looked into for when ingest received it.
const SAMPLE: Duration = Duration::from_millis(100);

/// Reads the stream for all shards.
pub(crate) struct Feeder {
    pub(crate) reader: Reader,
    pub(crate) store: Arc<Store>,
    pub(crate) shards: Vec<mpsc::Sender<Command>>,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) check: Check,
    /// Whether clients can be served.
    pub(crate) ready: watch::Sender<bool>,
}

impl Feeder {
    /// Runs until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut joined = false;
        let mut rewound = false;
        self.check.down("joining the stream");
        let mut unready_at: Option<Instant> = None;
        let mut sampled_at: Option<Instant> = None;
        loop {
            let given_up = async {
                match unready_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = self.reader.next() => event,
                () = given_up => {
                    unready_at = None;
                    self.check.down("nothing is heard from the broker");
                    continue;
                }
            };
            match event {
                Event::Boot {
                    epoch,
                    first_seq,
                    last_seq,
                    after,
                } => {
                    joined = false;
                    let behind = after.unwrap_or(last_seq);
                    self.store.write().begin(epoch, first_seq, behind);
                    info!(stream = self.store.stream, %epoch, last = last_seq.get(), whole = after.is_some(), "joining");
                }
                Event::Batch {
                    entries,
                    head,
                    head_time,
                } => {
                    let read = Instant::now();
                    let (messages, told) = self.apply(&entries, head, head_time);
                    if joined {
                        if sampled_at.is_none_or(|at| read.duration_since(at) >= SAMPLE) {
                            sampled_at = Some(read);
                            self.time_storing(&messages);
                        }
                        let messages: Arc<[Arc<Live>]> = messages.into();
                        self.tell(|| Command::Batch {
                            messages: Arc::clone(&messages),
                            head,
                            read,
                        })
                        .await;
                        if told {
                            self.tell(|| Command::Heartbeat).await;
                        }
                    }
                }
                Event::CaughtUp => {
                    joined = true;
                    let (head, epoch) = {
                        let known = self.store.read();
                        (known.head, known.epoch)
                    };
                    let rewound = epoch.filter(|_| std::mem::take(&mut rewound));
                    self.tell(|| Command::Joined { head, rewound }).await;
                    self.check.ok();
                    self.ready.send_replace(true);
                    info!(stream = self.store.stream, head = head.get(), "caught up");
                }
                Event::Stale => {
                    unready_at = Some(Instant::now() + SILENCE);
                    self.stale(true).await;
                }
                Event::Live => {
                    unready_at = None;
                    self.stale(false).await;
                }
                Event::Trimmed { from, to } => {
                    warn!(
                        stream = self.store.stream,
                        from = from.get(),
                        to = to.get(),
                        "trimmed before it was read"
                    );
                    self.store.write().trimmed(to);
                    if joined {
                        self.tell(|| Command::Trimmed { from, to }).await;
                    }
                }
                Event::Reset => {
                    warn!(stream = self.store.stream, "the history was rewound");
                    (joined, rewound) = (false, true);
                    self.ready.send_replace(false);
                    self.check.down("the history was rewound, joining anew");
                    self.store.write().forget();
                }
            }
        }
    }

    async fn stale(&mut self, stale: bool) {
        self.store.write().hear(stale, Instant::now().into_std());
        self.metrics.stale.set(i64::from(stale));
        if !stale && *self.ready.borrow() {
            self.check.ok();
        }
        self.tell(|| Command::Heartbeat).await;
    }

    /// Takes messages into the store; whether a feed changed its state.
    fn apply(
        &self,
        entries: &[Entry],
        head: StreamSeq,
        head_time: schemas::time::UnixNanos,
    ) -> (Vec<Arc<Live>>, bool) {
        let mut messages = Vec::with_capacity(entries.len());
        let mut told = false;
        let mut known = self.store.write();
        for entry in entries {
            match known.apply(&entry.subject, entry.seq, entry.time, &entry.payload) {
                Some(live) => {
                    if live.topic.kind == Kind::Feed {
                        told |= note_feed(&mut known, &live);
                    }
                    messages.push(live);
                }
                None => {
                    self.metrics.foreign_subjects.inc();
                }
            }
        }
        known.head = known.head.max(head);
        known.head_time = head_time;
        let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        self.metrics.topics.set(gauge(known.topic_count()));
        self.metrics.ring_bytes.set(gauge(known.ring_load().1));
        drop(known);
        self.metrics
            .received
            .inc_by(u64::try_from(entries.len()).unwrap_or(0));
        self.metrics
            .head
            .set(i64::try_from(head.get()).unwrap_or(i64::MAX));
        if let Some(last) = entries.last() {
            self.metrics.read_after(self.clock.now().since(last.time));
        }
        (messages, told)
    }

    /// Times how long one message took from ingest to the broker; those that were sent again or
    /// fetched afterwards say nothing about that.
    fn time_storing(&self, messages: &[Arc<Live>]) {
        let Some(last) = messages.last() else { return };
        let Ok(tick) = codec::from_msgpack(&last.payload) else {
            return;
        };
        let head = tick.head();
        if head.flags.is_empty() {
            let took = last.time.since(head.received).as_secs_f64();
            self.metrics.hops.stored.observe(took);
        }
    }

    async fn tell(&mut self, command: impl Fn() -> Command) {
        let mut ended = Vec::new();
        for (number, shard) in self.shards.iter().enumerate() {
            if shard.send(command()).await.is_err() {
                ended.push(number);
            }
        }
        // While the replica drains, those that are done end before the others; at any other time
        // whoever owns them sees it.
        for number in ended.into_iter().rev() {
            self.shards.remove(number);
        }
    }
}

/// Remembers what a feed says of itself.
fn note_feed(known: &mut Known, live: &Live) -> bool {
    let Ok(Tick::Feed(feed)) = codec::from_msgpack(&live.payload) else {
        return false;
    };
    let state = match feed.state {
        FeedState::Live => "live",
        FeedState::Stale => "stale",
        FeedState::Reconnecting => "reconnecting",
        FeedState::Closed => "closed",
        // A hole is an event; the feed's state is what it was.
        FeedState::Gap => return true,
    };
    let key = (feed.head.venue.to_string(), feed.head.symbol.to_string());
    known.feeds.insert(
        key,
        FeedReport {
            state: state.to_owned(),
            at: feed.head.received,
        },
    );
    true
}
