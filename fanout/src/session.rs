//! What one connection subscribes to, and what it is still owed. No I/O; times are arguments.
//!
//! Three things wait for the socket: the outbox (answers and live messages, in order), snapshots
//! (topics whose last value is read when there is room) and catch-ups (positions, read from the
//! ring when there is room; what the ring does not have is asked for, and comes as shared pages).
//! Only the outbox takes memory per message, and it is bounded.
//!
//! Each stream has a track of its own: topics, positions, the cursor. Their order among each other
//! means nothing, but all of them share one outbox, because what a client is told of a
//! subscription comes before what follows from it.

mod catch_up;
mod fill;
mod hold;
mod outbox;
mod said;
mod subscribe;
mod subscriber;
mod track;

use std::sync::Arc;
use std::time::{Duration, Instant};

use schemas::position::{Cursor, Epoch, StreamSeq};
use schemas::ws::{CloseCode, Encoding, ServerMessage};

use crate::index::{ConnId, Index};
use crate::metrics::Metrics;
use crate::store::{Known, Live, StreamNo, TopicInfo};
pub(crate) use catch_up::{Ask, Crowd};
use fill::CURSOR_ALONE;
pub(crate) use said::refusal;
pub(crate) use subscribe::Reply;
use subscriber::Subscriber;
use track::Track;

/// Bounds of one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) topics: usize,
    pub(crate) patterns: usize,
    pub(crate) message_bytes: usize,
    /// Unsent live bytes.
    pub(crate) unsent_bytes: usize,
    /// Age of the oldest unsent live message.
    pub(crate) unsent_age: Duration,
    /// Messages that one connection may have replayed at once.
    pub(crate) resume_messages: usize,
    pub(crate) crowd: Crowd,
}

/// The longest time without a heartbeat.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(15);

/// One connection's subscriptions and debts.
///
/// First what every message needs: see [`Connection`](crate::connection::Connection).
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Session {
    /// One for each stream, in the order of the welcome.
    tracks: Box<[Track]>,
    /// The track whose debts are paid first, next time.
    turn: usize,
    cursor_at: Instant,
    heartbeat_due: bool,
    /// Something was sent that no cursor covers yet.
    uncovered: bool,
    who: Subscriber,
}

impl Session {
    /// A session without subscriptions; `applied` is up to where each stream was dispatched.
    pub(crate) fn new(
        (id, encoding): (ConnId, Encoding),
        limits: Arc<Limits>,
        metrics: Metrics,
        applied: impl IntoIterator<Item = StreamSeq>,
        now: Instant,
    ) -> Self {
        Self {
            who: Subscriber::new(id, encoding, limits, metrics, now),
            tracks: applied.into_iter().map(Track::new).collect(),
            turn: 0,
            cursor_at: now,
            heartbeat_due: false,
            uncovered: false,
        }
    }

    pub(crate) const fn encoding(&self) -> Encoding {
        self.who.encoding
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.who.limits
    }

    /// Gives up everything that is held; indexes are by stream.
    pub(crate) fn leave(&self, indexes: &mut [Index]) {
        for (track, index) in self.tracks.iter().zip(indexes) {
            for topic in track.topics.keys() {
                index.remove(*topic, self.who.id);
            }
            for text in self.who.held_strings() {
                index.leave(text, self.who.id);
            }
        }
    }

    /// Queues a message that carries no tick.
    pub(crate) fn say(&mut self, message: &ServerMessage<()>) {
        self.who.say(message);
    }

    /// Bytes that wait for the socket, and whether that is more than half of what may.
    pub(crate) fn backlog(&self, now: Instant) -> (usize, bool) {
        let (outbox, limits) = (&self.who.outbox, &self.who.limits);
        let is_slow = self.who.is_behind() || outbox.age(now) > limits.unsent_age / 2;
        (outbox.live_bytes() + outbox.control_bytes(), is_slow)
    }

    /// How long the oldest live message has waited for the socket.
    pub(crate) fn waited(&self, now: Instant) -> Option<Duration> {
        let outbox = &self.who.outbox;
        (outbox.live_bytes() > 0).then(|| outbox.age(now))
    }

    /// Whether answers have piled up: whoever asks must also read.
    pub(crate) fn is_drowning(&self) -> bool {
        self.who.outbox.control_bytes() > self.who.limits.unsent_bytes
    }

    /// Whether so much waits that the socket should have it before anything is added.
    pub(crate) fn is_pressed(&self) -> bool {
        self.who.outbox.live_bytes() > self.who.limits.unsent_bytes / 4
    }

    /// Whether answers or live messages wait for the socket.
    pub(crate) fn has_unsent(&self) -> bool {
        self.who.outbox.len() > 0
    }

    /// Notes up to where this shard has dispatched a stream.
    pub(crate) fn applied(&mut self, stream: StreamNo, head: StreamSeq) {
        if let Some(track) = self.tracks.get_mut(stream.index()) {
            track.applied = head;
        }
    }

    /// Notes the history of a stream that the client is told of.
    pub(crate) fn begin(&mut self, stream: StreamNo, epoch: Option<Epoch>) {
        if let Some(track) = self.tracks.get_mut(stream.index()) {
            track.epoch = epoch;
        }
    }

    /// Where a client that holds nothing but this may go on, by stream; `None` while it lacks a
    /// first look at a topic, which no cursor would bring.
    pub(crate) fn promise(&self) -> Option<Vec<(Epoch, Cursor)>> {
        self.tracks.iter().map(Track::promise).collect()
    }

    pub(crate) const fn heartbeat(&mut self) {
        self.heartbeat_due = true;
    }

    /// Whether a topic is held.
    pub(crate) fn holds(&self, topic: &TopicInfo) -> bool {
        let track = self.tracks.get(topic.id.stream().index());
        track.is_some_and(|track| track.topics.contains_key(&topic.id))
    }

    /// Takes a live message of a topic that is held; when there will be something to write, if not
    /// now. An error closes the connection.
    pub(crate) fn deliver(
        &mut self,
        live: &Arc<Live>,
        now: Instant,
    ) -> Result<Option<Instant>, CloseCode> {
        let stream = live.topic.id.stream();
        match self.tracks.get_mut(stream.index()) {
            Some(track) => track.deliver(&mut self.who, live, now),
            None => Ok(None),
        }
    }

    /// A topic was born that this session waits for: everything of it is to come.
    pub(crate) fn born(&mut self, topic: &Arc<TopicInfo>, first: StreamSeq, index: &mut Index) {
        let stream = topic.id.stream();
        if let Some(track) = self.tracks.get_mut(stream.index()) {
            track.born(&self.who, topic, first, index);
        }
    }

    /// Retention removed messages before this replica read them: declares it for every topic; an error
    /// closes the connection.
    pub(crate) fn trimmed(
        &mut self,
        known: &Known,
        span: (StreamSeq, StreamSeq),
        now: Instant,
    ) -> Result<(), CloseCode> {
        match self.tracks.get_mut(known.number.index()) {
            Some(track) => track.trimmed(&mut self.who, known, span, now),
            None => Ok(()),
        }
    }

    /// The history was rewound, and dispatched up to there: nothing that was sent counts any more.
    pub(crate) fn reset(&mut self, known: &Known, epoch: Epoch, head: StreamSeq) {
        if let Some(track) = self.tracks.get_mut(known.number.index()) {
            track.applied = head;
            track.reset(&mut self.who, known, epoch);
        }
    }

    /// When something becomes due by time alone.
    pub(crate) fn due(&self) -> Option<Instant> {
        let cursor = self.uncovered.then(|| self.cursor_at + CURSOR_ALONE);
        let slots = self.tracks.iter().filter_map(|track| track.slots_due);
        slots
            .chain(cursor)
            .chain([self.cursor_at + HEARTBEAT])
            .min()
    }
}

#[cfg(test)]
mod tests;
