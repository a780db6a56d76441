//! Decides what a reader does, from what it is told. Pure: no I/O, and time is an argument.
//!
//! Nobody drives it but [`super::Reader`], and simulations of whatever is built on a reader.

use std::collections::VecDeque;
use std::time::Duration;

use schemas::position::{Epoch, StreamSeq};
use schemas::time::UnixNanos;
use tokio::time::Instant;

use super::delivery::Delivery;
pub use super::delivery::Stamp;
use super::{Entry, Event, Start};
use crate::stream::StreamState;

/// Silence after which a consumer is taken for dead; the broker's heartbeat comes thrice as often.
const SILENCE: Duration = Duration::from_millis(1_500);
/// How long a stream may be ahead of its consumer with nothing delivered.
const STUCK: Duration = Duration::from_secs(3);
/// The pause before the first repeated attempt, doubled for every further one up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Whether the consumer is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It is.
    Go,
    /// Another one is needed, and why.
    Reopen(&'static str),
}

/// Where the next consumer starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// As configured: nothing was read, or the snapshot was not complete.
    Boot(Start),
    /// Behind the head.
    Head(StreamSeq),
}

/// What a new consumer was found to be.
#[derive(Clone, Copy, Debug)]
pub struct Joined {
    pub epoch: Epoch,
    /// The stream, read from its leader after the consumer was created.
    pub state: StreamState,
    /// Behind which sequence it starts; `None` for the last message of each subject.
    pub after: Option<StreamSeq>,
    /// The last matching message.
    pub goal: StreamSeq,
    /// Whether every sequence of the stream must be delivered.
    pub contiguous: bool,
}

/// What is known of the present consumer, or the last one.
#[derive(Debug, Default)]
struct Consumer {
    delivery: Delivery,
    /// Every sequence of the stream must be delivered.
    contiguous: bool,
    /// Something was delivered.
    progress: bool,
    /// The broker said that nothing was waiting, and nothing came since.
    idle: bool,
    /// The stream was found ahead of the head at this time, and nothing came since.
    behind: Option<Instant>,
}

/// The reader's mind.
#[derive(Debug)]
pub struct Machine {
    start: Start,
    events: VecDeque<Event>,
    batch: Vec<Entry>,
    moved: bool,
    epoch: Option<Epoch>,
    created: UnixNanos,
    head: StreamSeq,
    head_time: UnixNanos,
    /// Where the stream began at the boot, as it was told.
    begun: StreamSeq,
    /// The sequence at which [`Event::CaughtUp`] is due.
    goal: Option<StreamSeq>,
    /// The consumer began with the last message of each subject, and has not delivered them all.
    snapshot: bool,
    consumer: Consumer,
    heard: Option<Instant>,
    lag: u64,
    stale: bool,
    failures: u32,
    retry_at: Option<Instant>,
}

impl Machine {
    pub fn new(start: Start) -> Self {
        Self {
            start,
            events: VecDeque::new(),
            batch: Vec::new(),
            moved: false,
            epoch: None,
            created: UnixNanos::EPOCH,
            head: StreamSeq::ZERO,
            head_time: UnixNanos::EPOCH,
            begun: StreamSeq::ZERO,
            goal: None,
            snapshot: false,
            consumer: Consumer::default(),
            heard: None,
            lag: 0,
            stale: false,
            failures: 0,
            retry_at: None,
        }
    }

    /// Tells something that is no matter of what was delivered.
    pub(super) fn tell(&mut self, event: Event) {
        self.events.push_back(event);
    }

    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub const fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    pub const fn head(&self) -> (StreamSeq, UnixNanos) {
        (self.head, self.head_time)
    }

    pub const fn is_caught_up(&self) -> bool {
        self.epoch.is_some() && self.goal.is_none()
    }

    pub const fn lag(&self) -> u64 {
        self.lag
    }

    /// Whether the last message of each subject has come, as far as it still was there, and the
    /// leader must be asked what was not. No delivery may be taken before [`Self::surveyed`].
    pub fn is_asking(&self) -> bool {
        self.snapshot && self.goal.is_some_and(|goal| self.head >= goal)
    }

    pub fn batch_len(&self) -> usize {
        self.batch.len()
    }

    /// When the next attempt to open a consumer is due; `None` for at once.
    pub const fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    pub const fn resume(&self) -> Resume {
        if self.epoch.is_none() || self.snapshot {
            return Resume::Boot(self.start);
        }
        Resume::Head(self.head)
    }

    /// A consumer was created and looked at.
    pub fn opened(&mut self, joined: &Joined, now: Instant) {
        let boot = matches!(self.resume(), Resume::Boot(_));
        self.consumer = Consumer {
            contiguous: joined.contiguous,
            ..Consumer::default()
        };
        self.created = joined.state.created;
        self.hear(now);
        if boot {
            self.epoch = Some(joined.epoch);
            self.goal = Some(joined.goal);
            self.begun = joined.state.first_seq;
            self.snapshot = joined.after.is_none();
            self.events.push_back(Event::Boot {
                epoch: joined.epoch,
                first_seq: joined.state.first_seq,
                last_seq: joined.state.last_seq,
                after: joined.after,
            });
            self.head = joined.after.unwrap_or(StreamSeq::ZERO);
            self.head_time = UnixNanos::EPOCH;
        }
        let retained = joined.state.first_seq.prev();
        if !self.snapshot && retained > self.head {
            if boot && !matches!(self.start, Start::After(asked) if asked > StreamSeq::ZERO) {
                self.head = retained;
            } else {
                self.trim(retained);
            }
        }
        self.skip_vanished(&joined.state);
        self.check_goal(true);
        if std::mem::take(&mut self.stale) {
            self.events.push_back(Event::Live);
        }
    }

    /// The history is another one than what was read: everything starts anew.
    pub fn rewound(&mut self) {
        self.flush();
        let mut fresh = Self::new(self.start);
        fresh.events = std::mem::take(&mut self.events);
        (fresh.heard, fresh.stale) = (self.heard, self.stale);
        if self.epoch.is_some() {
            fresh.events.push_back(Event::Reset);
        }
        *self = fresh;
    }

    /// A consumer could not be opened. `jitter` is between 0 and 1.
    pub fn refused(&mut self, now: Instant, jitter: f64) {
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.failures.min(8));
        let pause = doubled.min(LONGEST_PAUSE).mul_f64(0.5 + jitter / 2.0);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(now + pause);
    }

    /// The consumer was given up: the next one at once if this one was any good.
    pub fn gave_up(&mut self, now: Instant, jitter: f64) {
        self.flush();
        if self.consumer.progress || self.consumer.idle {
            (self.failures, self.retry_at) = (0, None);
        } else {
            self.refused(now, jitter);
        }
    }

    /// A message was delivered; no entry is a filler of the publisher's fence.
    pub fn delivered(&mut self, stamp: &Stamp, entry: Option<Entry>, now: Instant) -> Flow {
        if !self.consumer.delivery.advance(stamp.consumer_seq) {
            return Flow::Reopen("a delivery is missing");
        }
        self.hear(now);
        let consumer = &mut self.consumer;
        (consumer.progress, consumer.idle, consumer.behind) = (true, false, None);
        (self.failures, self.retry_at) = (0, None);
        if stamp.stream_seq <= self.head {
            return Flow::Go;
        }
        // Nothing removes messages of such a stream but retention, from the front.
        // Among last values there are others between, but the goal itself is one of them.
        let unbroken = match self.goal.filter(|_| self.snapshot) {
            Some(goal) => self.head.next().max(goal),
            None => self.head.next(),
        };
        let crossed = self.consumer.contiguous && stamp.stream_seq > unbroken;
        if crossed {
            self.trim(stamp.stream_seq.prev());
        }
        (self.head, self.head_time) = (stamp.stream_seq, stamp.time);
        self.moved = true;
        self.batch.extend(entry);
        self.check_goal(crossed || !self.snapshot || !self.consumer.contiguous);
        Flow::Go
    }

    /// The broker sends nothing: it has nothing, or it is `stalled` and waits for flow control.
    /// `count` is how many deliveries it says it made.
    pub fn heartbeat(&mut self, count: Option<u64>, stalled: bool, now: Instant) -> Flow {
        if count.is_some_and(|count| !self.consumer.delivery.matches(count)) {
            return Flow::Reopen("a heartbeat counts other deliveries");
        }
        self.consumer.idle = count.is_some() && !stalled;
        self.hear(now);
        Flow::Go
    }

    /// The broker said something that is no heartbeat.
    pub fn hear(&mut self, now: Instant) {
        self.heard = Some(now);
    }

    /// Time passed, and everything that had arrived was taken.
    pub fn tick(&mut self, now: Instant) -> Flow {
        let silence = now.saturating_duration_since(*self.heard.get_or_insert(now));
        if silence >= SILENCE {
            self.flush();
            if !std::mem::replace(&mut self.stale, true) {
                self.events.push_back(Event::Stale);
            }
            return Flow::Reopen("the broker is silent");
        }
        if self
            .consumer
            .behind
            .is_some_and(|since| now.saturating_duration_since(since) >= STUCK)
        {
            return Flow::Reopen("nothing is delivered although the stream has more");
        }
        Flow::Go
    }

    /// The leader was asked about the stream when the head was `asked`.
    pub fn surveyed(&mut self, state: &StreamState, asked: StreamSeq, now: Instant) -> Flow {
        self.lag = state.last_seq.get().saturating_sub(self.head.get());
        if state.created != self.created {
            return Flow::Reopen("the stream was created anew");
        }
        if state.last_seq < asked && self.head_time > UnixNanos::EPOCH {
            return Flow::Reopen("the stream ends before the head");
        }
        self.flush();
        if self.consumer.contiguous
            && !self.snapshot
            && self.consumer.idle
            && state.first_seq > self.head.next()
        {
            self.trim(state.first_seq.prev());
        }
        self.skip_vanished(state);
        if self.is_asking() {
            let (gone, goal) = (state.first_seq.prev(), self.goal.unwrap_or_default());
            if asked >= goal && gone >= self.begun && gone <= self.head {
                self.tell_trimmed(self.begun, gone);
            }
            self.check_goal(asked >= goal || gone >= goal);
        }
        self.check_goal(!self.snapshot);
        if self.consumer.contiguous && state.last_seq > self.head {
            self.consumer.behind = self.consumer.behind.or(Some(now));
        }
        Flow::Go
    }

    /// What had arrived was taken: tells it.
    pub fn flush(&mut self) {
        if std::mem::take(&mut self.moved) {
            self.events.push_back(Event::Batch {
                entries: std::mem::take(&mut self.batch),
                head: self.head,
                head_time: self.head_time,
            });
        }
    }

    fn trim(&mut self, to: StreamSeq) {
        self.tell_trimmed(self.head.next(), to);
        self.head = to;
    }

    fn tell_trimmed(&mut self, from: StreamSeq, to: StreamSeq) {
        self.flush();
        self.events.push_back(Event::Trimmed { from, to });
    }

    /// Where the goal, or all there was, has expired, nothing will be delivered to reach it.
    fn skip_vanished(&mut self, state: &StreamState) {
        let gone = state.first_seq.prev();
        if gone > self.head && self.goal.is_some_and(|goal| gone >= goal) {
            if gone >= self.begun {
                self.trim(gone);
            }
            self.head = gone;
            self.head_time = UnixNanos::EPOCH;
            self.moved = true;
        }
    }

    /// Where the goal is reached and all that expired on the way is `known`, the reader is there.
    fn check_goal(&mut self, known: bool) {
        if known && self.goal.is_some_and(|goal| self.head >= goal) {
            self.flush();
            self.goal = None;
            self.snapshot = false;
            self.events.push_back(Event::CaughtUp);
        }
    }
}

#[cfg(test)]
mod tests;
