//! The ordered, gap-free live reader of one stream.
//!
//! An ephemeral push consumer whose every delivery is counted: a missing, repeated or late one, a
//! silent broker and a lost connection all end in a new consumer behind the last sequence that was
//! applied. Loss is detected by sequence only. Fillers of the publisher's fence are passed over.

mod delivery;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Message, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use rand::RngExt as _;
use schemas::position::{Epoch, StreamSeq};
use schemas::subject;
use schemas::time::UnixNanos;
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, warn};

use crate::api::{self, ApiError};
use crate::{epoch, stream};
use delivery::{Delivery, Stamp};

/// The broker's heartbeat on an idle consumer.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Silence after which the consumer is taken for dead.
const SILENCE: Duration = Duration::from_millis(1_500);
/// The most entries of one batch.
const BATCH: usize = 1_024;

/// One message of the stream.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its subject.
    pub subject: async_nats::Subject,
    /// Its sequence.
    pub seq: StreamSeq,
    /// When the broker stored it.
    pub time: UnixNanos,
    /// Its payload.
    pub payload: Bytes,
}

/// What happened on the stream.
#[derive(Debug)]
pub enum Event {
    /// The first consumer is there: the join of what is stored and what comes.
    Boot {
        /// The epoch of all sequences from here.
        epoch: Epoch,
        /// The first retained sequence.
        first_seq: StreamSeq,
        /// The last sequence; [`Event::CaughtUp`] follows once it is reached.
        last_seq: StreamSeq,
    },
    /// Messages in stream order. Empty where only fillers moved the head.
    Batch {
        /// The messages.
        entries: Vec<Entry>,
        /// Everything up to here was seen.
        head: StreamSeq,
        /// When the broker stored the message at the head.
        head_time: UnixNanos,
    },
    /// The head has reached the last sequence read at the boot.
    CaughtUp,
    /// Nothing is heard from the broker.
    Stale,
    /// The broker is heard again.
    Live,
    /// Retention removed messages before they were read.
    Trimmed {
        /// The first missing sequence.
        from: StreamSeq,
        /// The last missing sequence.
        to: StreamSeq,
    },
    /// The history was rewound: all earlier sequences are void. A new [`Event::Boot`] follows.
    Reset,
}

/// Where a reader starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The last message of each subject, then all that follows, without a gap.
    LastPerSubject,
    /// Everything behind this sequence.
    After(StreamSeq),
    /// Everything that is retained if it takes at most so many bytes, else the last of each subject.
    AllWithin {
        /// The bound in bytes.
        bytes: u64,
    },
}

/// What a reader reads.
#[derive(Clone, Debug)]
pub struct ReaderConfig {
    /// The stream.
    pub stream: String,
    /// The beginning of the consumers' names, for operators.
    pub name: String,
    /// Subjects to receive; the head moves with these alone.
    pub filter: String,
    /// Where to start.
    pub start: Start,
}

/// Reads a stream; owns its consumer.
pub struct Reader {
    client: Client,
    config: ReaderConfig,
    consumer: Option<Consumer>,
    events: VecDeque<Event>,
    epoch: Option<Epoch>,
    head: StreamSeq,
    head_time: UnixNanos,
    /// The sequence at which [`Event::CaughtUp`] is due.
    goal: Option<StreamSeq>,
    stale: bool,
    failures: u32,
    nonce: u32,
    consumers: u64,
}

struct Consumer {
    deliveries: Subscriber,
    delivery: Delivery,
    heard: Instant,
}

impl Reader {
    /// A reader that begins when [`Reader::next`] is first called.
    pub fn new(client: Client, config: ReaderConfig) -> Self {
        Self {
            client,
            config,
            consumer: None,
            events: VecDeque::new(),
            epoch: None,
            head: StreamSeq::ZERO,
            head_time: UnixNanos::EPOCH,
            goal: None,
            stale: false,
            failures: 0,
            nonce: rand::rng().random(),
            consumers: 0,
        }
    }

    /// Everything up to here was seen.
    pub const fn head(&self) -> StreamSeq {
        self.head
    }

    /// Waits for the next event. It never ends: trouble is repaired, and told as events.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the future loses no event.
    pub async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            self.step().await;
        }
    }

    async fn step(&mut self) {
        if self.consumer.is_none() {
            self.reconnect().await;
        } else {
            self.receive().await;
        }
    }

    async fn reconnect(&mut self) {
        match self.connect().await {
            Ok(consumer) => {
                self.failures = 0;
                self.consumer = Some(consumer);
                if std::mem::take(&mut self.stale) {
                    self.events.push_back(Event::Live);
                }
                self.check_goal();
            }
            Err(error) => {
                self.go_stale();
                self.failures = self.failures.saturating_add(1);
                debug!(stream = self.config.stream, %error, "cannot read the stream yet");
                let ceiling = 100_u64 << self.failures.min(4);
                let pause = rand::rng().random_range(50..=ceiling.min(1_000));
                sleep(Duration::from_millis(pause)).await;
            }
        }
    }

    fn go_stale(&mut self) {
        if !std::mem::replace(&mut self.stale, true) {
            self.events.push_back(Event::Stale);
        }
    }

    /// Creates a consumer behind the head, or a first one; notices trims and rewinds.
    async fn connect(&mut self) -> Result<Consumer, ApiError> {
        let state = stream::state(&self.client, &self.config.stream).await?;
        let recorded = epoch::current(&self.client, &self.config.stream, state.created).await?;
        if let Some(known) = self.epoch {
            let position = (self.head, self.head_time);
            let same = recorded == known
                && epoch::holds(&self.client, &self.config.stream, &state, position).await?;
            if !same {
                if recorded == known {
                    epoch::advance(&self.client, &self.config.stream, known).await?;
                }
                warn!(
                    stream = self.config.stream,
                    head = self.head.get(),
                    "the history was rewound"
                );
                self.forget();
                return Box::pin(self.connect()).await;
            }
            if state.first_seq > self.head.next() {
                let (from, to) = (self.head.next(), state.first_seq.prev());
                self.events.push_back(Event::Trimmed { from, to });
                self.head = to;
            }
        }
        let start = self.start(&state);
        let consumer = self.create(start).await?;
        if self.epoch.is_none() {
            // Read after the consumer exists, so that a subject without messages before it has
            // none from the first retained sequence on.
            let state = stream::state(&self.client, &self.config.stream).await?;
            self.epoch = Some(recorded);
            self.goal = Some(state.last_seq);
            if let Start::After(seq) = start {
                self.head = self.head.max(seq);
            }
            self.events.push_back(Event::Boot {
                epoch: recorded,
                first_seq: state.first_seq,
                last_seq: state.last_seq,
            });
        }
        Ok(consumer)
    }

    fn forget(&mut self) {
        self.events.push_back(Event::Reset);
        self.epoch = None;
        self.head = StreamSeq::ZERO;
        self.head_time = UnixNanos::EPOCH;
        self.goal = None;
    }

    fn start(&self, state: &stream::StreamState) -> Start {
        if self.epoch.is_some() && self.head > StreamSeq::ZERO {
            return Start::After(self.head);
        }
        match self.config.start {
            Start::AllWithin { bytes } if state.bytes <= bytes => {
                Start::After(state.first_seq.prev())
            }
            Start::AllWithin { .. } | Start::LastPerSubject => Start::LastPerSubject,
            Start::After(seq) => Start::After(seq.max(state.first_seq.prev())),
        }
    }

    async fn create(&mut self, start: Start) -> Result<Consumer, ApiError> {
        self.consumers += 1;
        let name = format!("{}-{:08x}-{}", self.config.name, self.nonce, self.consumers);
        let (stream, filter) = (&self.config.stream, &self.config.filter);
        let subject = format!("$JS.API.CONSUMER.CREATE.{stream}.{name}.{filter}");
        let inbox = self.client.new_inbox();
        let deliveries = self
            .client
            .subscribe(inbox.clone())
            .await
            .map_err(|error| ApiError::Connection {
                subject: subject.clone(),
                problem: error.to_string(),
            })?;
        let mut config = json!({
            "name": name,
            "deliver_subject": inbox,
            "deliver_policy": "last_per_subject",
            "filter_subject": filter,
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "flow_control": true,
            "idle_heartbeat": HEARTBEAT.as_nanos(),
            "inactive_threshold": 10_000_000_000_u64,
            "mem_storage": true,
            "num_replicas": 1,
        });
        if let (Start::After(seq), Some(fields)) = (start, config.as_object_mut()) {
            fields.insert("deliver_policy".to_owned(), json!("by_start_sequence"));
            fields.insert("opt_start_seq".to_owned(), json!(seq.next().get()));
        }
        let body = json!({ "stream_name": stream, "config": config, "action": "create" });
        api::call::<IgnoredAny>(&self.client, &subject, &body).await?;
        Ok(Consumer {
            deliveries,
            delivery: Delivery::default(),
            heard: Instant::now(),
        })
    }

    async fn receive(&mut self) {
        let Some(consumer) = &mut self.consumer else {
            return;
        };
        let deadline = consumer.heard + SILENCE;
        let Ok(Some(first)) = timeout_at(deadline, consumer.deliveries.next()).await else {
            self.repair("silence");
            return;
        };
        let mut messages = vec![first];
        while messages.len() < BATCH {
            match consumer.deliveries.next().now_or_never() {
                Some(Some(message)) => messages.push(message),
                _ => break,
            }
        }
        consumer.heard = Instant::now();
        let mut entries = Vec::with_capacity(messages.len());
        let before = self.head;
        for message in messages {
            if !self.take(message, &mut entries) {
                break;
            }
        }
        if self.head > before {
            let (head, head_time) = (self.head, self.head_time);
            self.events.push_back(Event::Batch {
                entries,
                head,
                head_time,
            });
            self.check_goal();
        }
    }

    /// Applies one delivery; `false` once the consumer cannot be trusted any more.
    fn take(&mut self, message: Message, entries: &mut Vec<Entry>) -> bool {
        let Some(consumer) = &mut self.consumer else {
            return false;
        };
        if message.status.is_some() {
            if !consumer.delivery.heartbeat(message.headers.as_ref()) {
                self.repair("a heartbeat that counts other deliveries");
                return false;
            }
            self.answer(&message);
            return true;
        }
        let Some(stamp) = message.reply.as_ref().and_then(|reply| Stamp::parse(reply)) else {
            self.repair("a delivery without its position");
            return false;
        };
        if !consumer.delivery.advance(stamp.consumer_seq, stamp.pending) {
            self.repair("a missing delivery");
            return false;
        }
        if stamp.stream_seq <= self.head {
            return true;
        }
        self.head = stamp.stream_seq;
        self.head_time = stamp.time;
        if !subject::is_fence(&message.subject) {
            entries.push(Entry {
                subject: message.subject,
                seq: stamp.stream_seq,
                time: stamp.time,
                payload: message.payload,
            });
        }
        true
    }

    /// Answers flow control, whether asked for by the message itself or through a heartbeat.
    fn answer(&self, message: &Message) {
        let stalled = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get_last("Nats-Consumer-Stalled"));
        let reply = message
            .reply
            .as_deref()
            .or_else(|| stalled.map(async_nats::HeaderValue::as_str));
        if let Some(reply) = reply {
            let sent = self.client.publish(reply.to_owned(), Bytes::new());
            if sent.now_or_never().is_none() {
                debug!(
                    stream = self.config.stream,
                    "flow control could not be answered at once"
                );
            }
        }
    }

    fn repair(&mut self, why: &'static str) {
        debug!(
            stream = self.config.stream,
            head = self.head.get(),
            why,
            "creating a new consumer"
        );
        self.consumer = None;
        self.go_stale();
    }

    fn check_goal(&mut self) {
        if self.goal.is_some_and(|goal| self.head >= goal) {
            self.goal = None;
            self.events.push_back(Event::CaughtUp);
        }
    }
}

/// Reads everything in `(after, until]` that matches a filter, then stops.
///
/// # Errors
///
/// [`ApiError::TimedOut`] if the broker stays silent for longer than `patience`.
pub async fn read_range(
    client: Client,
    config: ReaderConfig,
    until: StreamSeq,
    patience: Duration,
    mut apply: impl FnMut(Entry),
) -> Result<(), ApiError> {
    let stream: Arc<str> = config.stream.as_str().into();
    let mut reader = Reader::new(client, config);
    let mut deadline = Instant::now() + patience;
    loop {
        let Ok(()) = timeout_at(deadline, reader.step()).await else {
            return Err(ApiError::TimedOut {
                subject: format!("reading {stream}"),
            });
        };
        for event in std::mem::take(&mut reader.events) {
            if let Event::Batch { entries, .. } = event {
                deadline = Instant::now() + patience;
                entries
                    .into_iter()
                    .filter(|entry| entry.seq <= until)
                    .for_each(&mut apply);
            }
        }
        // The head moves with matching messages alone: the end is where nothing more is waiting.
        if reader.head() >= until || reader.is_drained() {
            return Ok(());
        }
    }
}

impl Reader {
    /// Whether the broker said that nothing more was waiting when it last delivered.
    fn is_drained(&self) -> bool {
        self.events.is_empty()
            && self
                .consumer
                .as_ref()
                .is_some_and(|consumer| consumer.delivery.is_drained())
    }
}
