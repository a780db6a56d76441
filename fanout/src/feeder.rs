//! From a stream to its store and the shards: one reader per replica and stream.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use bus::reader::{Event, Reader};
use daemon::health::Check;
use schemas::codec;
use schemas::time::Clock;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::intake::{Intake, News};
use crate::metrics::{Metrics, StreamGauges};
use crate::shard::Command;
use crate::store::{Live, Store, StreamNo, Venues};

/// How long the broker may be silent before this replica is not ready: clients are told at once, but
/// replicas that all leave together help nobody.
const SILENCE: Duration = Duration::from_secs(10);

/// How often a tick is looked into for when ingest received it.
const SAMPLE: Duration = Duration::from_millis(100);

/// How long to wait before the broker is asked again what a stream takes.
const PAUSE: Duration = Duration::from_millis(500);

/// The streams that are not joined: until there is none, no client can be served.
pub(crate) type Missing = watch::Sender<BTreeSet<StreamNo>>;

/// Reads a stream for all shards.
pub(crate) struct Feeder {
    pub(crate) client: Client,
    pub(crate) reader: Reader,
    pub(crate) number: StreamNo,
    pub(crate) intake: Intake,
    pub(crate) shards: Vec<mpsc::Sender<Command>>,
    pub(crate) metrics: Metrics,
    pub(crate) gauges: StreamGauges,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) check: Check,
    pub(crate) missing: Arc<Missing>,
}

impl Feeder {
    /// Runs until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        self.check.down("joining the stream");
        let surveyed = survey(&self.client, &self.intake.store, &self.check);
        if stop.run_until_cancelled(surveyed).await.is_none() {
            return;
        }
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
            let now = Instant::now();
            if matches!(event, Event::Stale) {
                unready_at = Some(now + SILENCE);
            } else if matches!(event, Event::Live) {
                unready_at = None;
            }
            let is_joined = matches!(event, Event::CaughtUp);
            self.note(&event);
            let taken = self.intake.take(event, now);
            self.metrics.foreign_subjects.inc_by(taken.foreign);
            for news in taken.news {
                if let News::Batch { messages, .. } = &news {
                    self.show_load();
                    if sampled_at.is_none_or(|at| now.duration_since(at) >= SAMPLE) {
                        sampled_at = Some(now);
                        self.time_storing(messages);
                    }
                }
                self.tell(&news).await;
            }
            // Not before shards know all that was there: clients come from now on. Whoever hears that
            // this replica is ready must be taken, so that is said last.
            if is_joined {
                self.missing.send_modify(|missing| {
                    missing.remove(&self.number);
                });
                self.check.ok();
            }
        }
    }

    /// Says what an event means to whoever watches this replica.
    fn note(&self, event: &Event) {
        let stream = Arc::clone(&self.intake.store.read().stream);
        match event {
            Event::Boot {
                epoch,
                last_seq,
                after,
                ..
            } => {
                info!(%stream, %epoch, last = last_seq.get(), whole = after.is_some(), "joining");
            }
            Event::Batch { entries, head, .. } => {
                let count = u64::try_from(entries.len()).unwrap_or(0);
                self.metrics.received.inc_by(count);
                self.gauges.head.set(signed(head.get()));
                if let Some(last) = entries.last() {
                    let lag = self.clock.now().since(last.time).as_secs_f64();
                    self.metrics.hops.read.observe(lag);
                    self.gauges.lag_seconds.set(lag);
                }
            }
            Event::CaughtUp => {
                let head = self.intake.store.read().head.get();
                self.show_load();
                info!(%stream, head, "caught up");
            }
            Event::Stale => {
                self.gauges.stale.set(1);
            }
            Event::Live => {
                self.gauges.stale.set(0);
                if self.intake.is_joined() {
                    self.check.ok();
                }
            }
            Event::Surveyed { .. } => {}
            Event::Trimmed { from, to } => {
                let (from, to) = (from.get(), to.get());
                warn!(%stream, from, to, "trimmed before it was read");
            }
            Event::Reset => {
                warn!(%stream, "the history was rewound");
                self.check.down("the history was rewound, joining anew");
                self.missing.send_modify(|missing| {
                    missing.insert(self.number);
                });
            }
        }
    }

    fn show_load(&self) {
        let known = self.intake.store.read();
        let signed = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        self.gauges.topics.set(signed(known.topic_count()));
        self.gauges.ring_bytes.set(signed(known.ring_load().1));
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

    async fn tell(&mut self, news: &News) {
        let mut ended = Vec::new();
        for (number, shard) in self.shards.iter().enumerate() {
            if shard.send(Command::News(news.clone())).await.is_err() {
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

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Asks which venues a stream has. It is asked once: who moves a venue to another stream starts the
/// replicas anew.
async fn survey(client: &Client, store: &Store, check: &Check) {
    let stream = Arc::clone(&store.read().stream);
    loop {
        match bus::stream::subjects(client, &stream).await {
            Ok(subjects) => {
                let venues = Venues::of(subjects.iter().map(String::as_str));
                store.write().venues = venues;
                return;
            }
            Err(error) if error.is_missing_stream() => check.down(format!(
                "there is no stream {stream}: `tickwire provision --stream {stream}` makes it"
            )),
            Err(error) => debug!(%stream, %error, "what the stream takes is not known yet"),
        }
        sleep(PAUSE).await;
    }
}
