//! Does what the machine decides: opens consumers, takes deliveries, answers flow control.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, HeaderValue, Message, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use rand::RngExt as _;
use schemas::position::StreamSeq;
use schemas::subject;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use super::delivery::Stamp;
use super::machine::{Flow, Machine};
use super::open::{Ask, Opened, open};
use super::{Entry, Event, ReaderConfig};
use crate::api::ApiError;
use crate::stream::{self, StreamState};

/// The most messages of one batch.
const BATCH: usize = 1_024;
/// How often silence, and the connection, are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often the leader is asked where the stream ends.
const SURVEY: Duration = Duration::from_secs(5);

type Pending<T> = Pin<Box<dyn Future<Output = Result<T, ApiError>> + Send>>;

enum Link {
    /// No consumer.
    Closed,
    /// One is being created.
    Opening(Pending<Opened>),
    /// One delivers.
    Open(Subscriber),
}

/// What a step waited for.
enum Outcome {
    Tick,
    Opened(Result<Opened, ApiError>),
    Message(Option<Message>),
    Surveyed(Result<StreamState, ApiError>),
    Answered,
}

/// The ordered reader without the agreement on epochs.
pub(crate) struct Feed {
    client: Client,
    config: ReaderConfig,
    shared_epoch: bool,
    machine: Machine,
    link: Link,
    /// The consumer that was asked for last.
    consumer: Option<String>,
    nonce: u32,
    consumers: u64,
    /// How often the client had connected when the consumer was asked for.
    connects: u64,
    /// What the head was when the leader was asked, when that was, and the answer.
    survey: Option<(StreamSeq, Instant, Pending<StreamState>)>,
    next_survey: Instant,
    next_tick: Instant,
    /// Flow control to be answered.
    replies: VecDeque<Subject>,
    /// The last batch was full: others of the task's thread get their turn first.
    breathe: bool,
}

impl Feed {
    pub(crate) fn new(client: Client, config: ReaderConfig, shared_epoch: bool) -> Self {
        let now = Instant::now();
        Self {
            client,
            machine: Machine::new(config.start),
            config,
            shared_epoch,
            link: Link::Closed,
            consumer: None,
            nonce: rand::rng().random(),
            consumers: 0,
            connects: 0,
            survey: None,
            next_survey: now,
            next_tick: now,
            replies: VecDeque::new(),
            breathe: false,
        }
    }

    pub(super) const fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The next event. Cancel safe: all progress is kept in `self`.
    pub(crate) async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.machine.next_event() {
                return event;
            }
            if std::mem::take(&mut self.breathe) {
                tokio::task::yield_now().await;
            }
            let outcome = self.wait().await;
            self.apply(outcome);
        }
    }

    /// Takes a new consumer, and with it a new look at the epoch.
    pub(super) fn recheck(&mut self, why: &'static str) {
        if matches!(self.link, Link::Open(_)) {
            self.reopen(why);
        }
    }

    async fn wait(&mut self) -> Outcome {
        let survey = async {
            match &mut self.survey {
                Some((.., answer)) => answer.await,
                None => std::future::pending().await,
            }
        };
        let answer = async {
            match self.replies.front() {
                Some(reply) => self.client.publish(reply.clone(), Bytes::new()).await,
                None => std::future::pending().await,
            }
        };
        let connected = self.client.connection_state() == State::Connected;
        let due = match (&self.link, self.machine.retry_at()) {
            (Link::Closed, None) if connected => Instant::now(),
            (Link::Closed, Some(retry)) if connected => retry.min(self.next_tick),
            _ => self.next_tick,
        };
        let takes = !self.machine.is_asking();
        match &mut self.link {
            Link::Closed => {
                sleep_until(due).await;
                Outcome::Tick
            }
            Link::Opening(opening) => tokio::select! {
                biased;
                opened = opening => Outcome::Opened(opened),
                () = sleep_until(due) => Outcome::Tick,
            },
            Link::Open(deliveries) => tokio::select! {
                biased;
                _ = answer => Outcome::Answered,
                message = deliveries.next(), if takes => Outcome::Message(message),
                state = survey => Outcome::Surveyed(state),
                () = sleep_until(due) => Outcome::Tick,
            },
        }
    }

    fn apply(&mut self, outcome: Outcome) {
        let now = Instant::now();
        match outcome {
            Outcome::Tick => self.tick(now),
            Outcome::Answered => {
                self.replies.pop_front();
            }
            Outcome::Message(first) => {
                self.drain(first, now);
                if now >= self.next_tick {
                    self.tick(now);
                }
            }
            Outcome::Opened(Ok(Opened::Joined(deliveries, joined))) => {
                self.machine.opened(&joined, now);
                self.link = Link::Open(deliveries);
                self.next_survey = now + SURVEY;
            }
            Outcome::Opened(Ok(Opened::Rewound)) => {
                warn!(
                    stream = self.config.stream,
                    "the stream has another history"
                );
                self.machine.rewound();
                self.link = Link::Closed;
            }
            Outcome::Opened(Err(error)) => {
                debug!(stream = self.config.stream, %error, "cannot read the stream yet");
                self.link = Link::Closed;
                self.machine.refused(now, rand::rng().random());
            }
            Outcome::Surveyed(state) => {
                let Some((head, asked, _)) = self.survey.take() else {
                    return;
                };
                match state {
                    Ok(state) => {
                        let flow = self.machine.surveyed(&state, head, now);
                        if flow == Flow::Go {
                            let last_seq = state.last_seq;
                            self.machine.tell(Event::Surveyed { last_seq, asked });
                        }
                        self.heed(flow);
                    }
                    Err(error) => debug!(stream = self.config.stream, %error, "no survey"),
                }
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        self.next_tick = now + TICK;
        let flow = self.machine.tick(now);
        let connects = self.client.statistics().connects.load(Ordering::Relaxed);
        match self.link {
            Link::Closed => {
                let due = self.machine.retry_at().is_none_or(|retry| now >= retry);
                if due && self.client.connection_state() == State::Connected {
                    self.connects = connects;
                    self.link = Link::Opening(Box::pin(open(self.client.clone(), self.ask())));
                }
            }
            Link::Opening(_) if connects != self.connects => self.link = Link::Closed,
            Link::Opening(_) => {}
            Link::Open(_) if connects != self.connects => self.reopen("the connection is new"),
            Link::Open(_) => {
                self.heed(flow);
                let due = now >= self.next_survey || self.machine.is_asking();
                if self.survey.is_none() && due {
                    let (client, stream) = (self.client.clone(), self.config.stream.clone());
                    let asking = async move { stream::state(&client, &stream).await };
                    self.survey = Some((self.machine.head().0, now, Box::pin(asking)));
                    self.next_survey = now + SURVEY;
                }
            }
        }
    }

    fn ask(&mut self) -> Ask {
        self.consumers += 1;
        let name = format!("{}-{:08x}-{}", self.config.name, self.nonce, self.consumers);
        let (head, time) = self.machine.head();
        Ask {
            stream: self.config.stream.clone(),
            filter: self.config.filter.clone(),
            retired: self.consumer.replace(name.clone()),
            consumer: name,
            resume: self.machine.resume(),
            known: self.machine.epoch().map(|epoch| (epoch, head, time)),
            shared_epoch: self.shared_epoch,
        }
    }

    fn heed(&mut self, flow: Flow) {
        if let Flow::Reopen(why) = flow {
            self.reopen(why);
        }
    }

    fn reopen(&mut self, why: &'static str) {
        let head = self.machine.head().0.get();
        debug!(
            stream = self.config.stream,
            head, why, "a new consumer is needed"
        );
        self.link = Link::Closed;
        self.survey = None;
        self.replies.clear();
        self.machine.gave_up(Instant::now(), rand::rng().random());
    }

    /// Takes everything that has arrived.
    fn drain(&mut self, first: Option<Message>, now: Instant) {
        let mut next = Some(first);
        let mut flow = Flow::Go;
        while let (Some(message), Flow::Go) = (next.take(), flow) {
            flow = match message {
                Some(message) => self.take(message, now),
                None => Flow::Reopen("the subscription ended"),
            };
            self.breathe = self.machine.batch_len() >= BATCH;
            if self.machine.is_asking() {
                self.next_tick = now;
            } else if let (Link::Open(deliveries), false) = (&mut self.link, self.breathe) {
                // Without the scheduler's budget, which would end the batch early.
                next = tokio::task::unconstrained(deliveries.next()).now_or_never();
            }
        }
        self.machine.flush();
        self.heed(flow);
    }

    fn take(&mut self, message: Message, now: Instant) -> Flow {
        match message.status {
            None => {}
            Some(StatusCode::IDLE_HEARTBEAT) => return self.take_status(message, now),
            Some(_) => return Flow::Reopen("the broker ended the consumer"),
        }
        let Some(stamp) = message.reply.as_deref().and_then(Stamp::parse) else {
            return Flow::Reopen("a delivery has no position");
        };
        let entry = (!subject::is_fence(&message.subject)).then(|| Entry {
            subject: message.subject,
            seq: stamp.stream_seq,
            time: stamp.time,
            headers: message.headers,
            payload: message.payload,
        });
        self.machine.delivered(&stamp, entry, now)
    }

    /// A heartbeat, or a request for flow control.
    fn take_status(&mut self, message: Message, now: Instant) -> Flow {
        if let Some(reply) = message.reply {
            self.replies.push_back(reply);
            self.machine.hear(now);
            return Flow::Go;
        }
        let headers = message.headers.unwrap_or_default();
        let text = |name: &str| headers.get_last(name).map(HeaderValue::as_str);
        let stalled = text("Nats-Consumer-Stalled");
        self.replies.extend(stalled.map(Subject::from));
        let count = text("Nats-Last-Consumer").and_then(|count| count.parse().ok());
        self.machine.heartbeat(count, stalled.is_some(), now)
    }
}
