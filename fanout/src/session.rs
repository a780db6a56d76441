//! What one connection subscribes to, and what it is still owed. No I/O; times are arguments.
//!
//! Three things wait for the socket: the outbox (answers and live messages, in order), snapshots
//! (topics whose last value is read when there is room) and catch-ups (positions, read from the
//! ring when there is room; what the ring does not have is asked for, and comes as shared pages).
//! Only the outbox takes memory per message, and it is bounded.

mod catch_up;
mod fill;
mod outbox;
mod subscribe;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use schemas::id::Kind;
use schemas::position::{Cursor, Epoch, StreamSeq};
use schemas::topic::Pattern;
use schemas::ws::{
    CloseCode, Conflate, Encoding, ErrorCode, GapReason, ServerMessage, Skipped, push_message,
};

use crate::index::ConnId;
use crate::metrics::Metrics;
use crate::store::{Known, Live, Message, Store, TopicId};
pub(crate) use catch_up::Ask;
use catch_up::Repair;
use fill::CURSOR_AGE;
use outbox::Outbox;
pub(crate) use subscribe::Reply;

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
    /// Messages that one connection may have replayed.
    pub(crate) resume_messages: usize,
}

/// The longest time without a heartbeat.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(15);

/// What is still owed of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Messages behind the floor go out as they come.
    Live,
    /// The last value goes out when there is room; what comes meanwhile is covered by it.
    Snapshot { from: StreamSeq, covers: Covers },
    /// Everything behind a position goes out when there is room.
    CatchUp { pos: StreamSeq, since: Instant },
}

/// What a snapshot stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Covers {
    /// A first look at the topic.
    Nothing,
    /// Everything between a client's position and the value, left out on purpose.
    Omissions,
    /// The same, because there is more than may be replayed.
    Budget,
    /// What was before: everything since follows.
    Past,
}

#[derive(Debug)]
struct Held {
    phase: Phase,
    conflate: Conflate,
    /// Everything up to here was sent, or declared.
    floor: StreamSeq,
    /// Whether the topic is queued for a pull.
    queued: bool,
}

/// The latest of a conflated topic, until it is due.
#[derive(Debug)]
struct Slot {
    latest: Arc<Live>,
    left_out: u64,
    due: Instant,
}

/// One connection's subscriptions and debts.
#[derive(Debug)]
pub(crate) struct Session {
    id: ConnId,
    encoding: Encoding,
    limits: Limits,
    metrics: Metrics,
    /// Topics that were subscribed by name.
    exact: BTreeMap<Box<str>, Conflate>,
    /// Patterns by their text.
    patterns: BTreeMap<Box<str>, (Pattern, Conflate)>,
    topics: FxHashMap<TopicId, Held>,
    pulls: VecDeque<TopicId>,
    repairs: FxHashMap<TopicId, Repair>,
    /// How many of them hold a page, or have asked for one.
    pages: usize,
    next_ticket: u64,
    slots: FxHashMap<TopicId, Slot>,
    /// Pending quotes by instrument: they leave before its next trade.
    quotes: FxHashMap<u32, TopicId>,
    outbox: Outbox,
    resumed: usize,
    cursor: StreamSeq,
    /// The history that the client was told of, and the last cursor in it.
    epoch: Option<Epoch>,
    promised: Option<Cursor>,
    cursor_at: Instant,
    heartbeat_due: bool,
    /// Something was sent that no cursor covers yet.
    uncovered: bool,
    /// Everything up to here was dispatched by this shard.
    applied: StreamSeq,
    /// The store has another history than this shard was told of: nothing is told from it before
    /// [`Session::reset`].
    rewinding: bool,
    /// What retention removed, to be declared for topics that had no message yet: once nobody waits
    /// for anything older, one word for all topics of a string will do.
    owed: Option<(StreamSeq, StreamSeq)>,
    born: Instant,
    /// When the socket last had room.
    filled_at: Instant,
}

impl Session {
    pub(crate) fn new(
        id: ConnId,
        encoding: Encoding,
        limits: Limits,
        metrics: Metrics,
        applied: StreamSeq,
        now: Instant,
    ) -> Self {
        Self {
            id,
            encoding,
            limits,
            metrics,
            exact: BTreeMap::new(),
            patterns: BTreeMap::new(),
            topics: FxHashMap::default(),
            pulls: VecDeque::new(),
            repairs: FxHashMap::default(),
            pages: 0,
            next_ticket: 0,
            slots: FxHashMap::default(),
            quotes: FxHashMap::default(),
            outbox: Outbox::default(),
            resumed: 0,
            cursor: StreamSeq::ZERO,
            epoch: None,
            promised: None,
            cursor_at: now,
            heartbeat_due: false,
            uncovered: false,
            applied,
            rewinding: false,
            owed: None,
            born: now,
            filled_at: now,
        }
    }

    pub(crate) const fn encoding(&self) -> Encoding {
        self.encoding
    }

    pub(crate) const fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn held_topics(&self) -> impl Iterator<Item = TopicId> {
        self.topics.keys().copied()
    }

    pub(crate) fn held_strings(&self) -> impl Iterator<Item = &str> {
        let exact = self.exact.keys().map(AsRef::as_ref);
        exact.chain(self.patterns.keys().map(AsRef::as_ref))
    }

    /// Queues a message that carries no tick.
    pub(crate) fn say(&mut self, message: &ServerMessage<()>) {
        let mut bytes = Vec::new();
        if push_message(self.encoding, &mut bytes, message).is_ok() {
            self.outbox.push_control(bytes.into());
        }
    }

    /// Bytes that wait for the socket, and whether that is more than half of what may.
    pub(crate) fn backlog(&self, now: Instant) -> (usize, bool) {
        let live = self.outbox.live_bytes();
        let is_slow = live > self.limits.unsent_bytes / 2
            || self.outbox.age(now) > self.limits.unsent_age / 2;
        (live + self.outbox.control_bytes(), is_slow)
    }

    /// How long the oldest live message has waited for the socket.
    pub(crate) fn waited(&self, now: Instant) -> Option<Duration> {
        (self.outbox.live_bytes() > 0).then(|| self.outbox.age(now))
    }

    /// Whether answers have piled up: whoever asks must also read.
    pub(crate) const fn is_drowning(&self) -> bool {
        self.outbox.control_bytes() > self.limits.unsent_bytes
    }

    /// Whether so much waits that the socket should have it before anything is added.
    pub(crate) const fn is_pressed(&self) -> bool {
        self.outbox.live_bytes() > self.limits.unsent_bytes / 4
    }

    /// Whether answers or live messages wait for the socket.
    pub(crate) fn has_unsent(&self) -> bool {
        self.outbox.len() > 0
    }

    /// Whether the store has the history that this session is in.
    fn is_of(&self, known: &Known) -> bool {
        self.epoch.is_none() || known.epoch == self.epoch
    }

    /// Notes that this shard has dispatched everything up to `head`.
    pub(crate) const fn applied(&mut self, head: StreamSeq) {
        self.applied = head;
    }

    /// Notes the history that the client is told of.
    pub(crate) const fn begin(&mut self, epoch: Option<Epoch>) {
        self.epoch = epoch;
    }

    /// Where a client that holds nothing but this may go on; `None` while it lacks a first look at
    /// a topic, which no cursor would bring.
    pub(crate) fn promise(&self) -> Option<(Epoch, Cursor)> {
        let promise = self.epoch.zip(self.promised)?;
        let is_first_look = |topic: &TopicId| {
            let phase = self.topics.get(topic).map(|held| held.phase);
            let first = matches!(
                phase,
                Some(Phase::Snapshot {
                    covers: Covers::Nothing | Covers::Past,
                    ..
                })
            );
            first
        };
        (!self.pulls.iter().any(is_first_look)).then_some(promise)
    }

    pub(crate) const fn heartbeat(&mut self) {
        self.heartbeat_due = true;
    }

    /// Takes a live message of a topic that is held; when there will be something to write, if not
    /// now. An error closes the connection.
    pub(crate) fn deliver(
        &mut self,
        live: &Arc<Live>,
        now: Instant,
    ) -> Result<Option<Instant>, CloseCode> {
        let topic = live.topic.id;
        let Some(held) = self.topics.get_mut(&topic) else {
            return Ok(None);
        };
        if held.phase != Phase::Live || live.seq <= held.floor {
            return Ok(None);
        }
        let state = live.topic.kind.is_state();
        let pressed = self.outbox.live_bytes() > self.limits.unsent_bytes / 2;
        let pause = match held.conflate {
            Conflate::Millis(millis) if state => Some(Duration::from_millis(u64::from(millis))),
            Conflate::Auto if state && (pressed || self.slots.contains_key(&topic)) => {
                Some(Duration::ZERO)
            }
            Conflate::Auto | Conflate::None | Conflate::Millis(_) => None,
        };
        held.floor = live.seq;
        if let Some(pause) = pause {
            let due = next_beat(self.born, now, pause);
            self.conflate(live, due);
            return Ok((!pause.is_zero()).then_some(due));
        }
        // What was pending before the conflation was lifted goes first.
        self.release(topic, now)?;
        let is_live = |held: &Held| held.phase == Phase::Live;
        if !self.topics.get(&topic).is_some_and(is_live) {
            // It could not be encoded: what follows is pulled behind what is said of that.
            return Ok(None);
        }
        if live.topic.kind == Kind::Trade
            && let Some(quote) = self.quotes.get(&live.topic.instrument).copied()
        {
            self.release(quote, now)?;
        }
        self.emit(live, now)?;
        Ok(None)
    }

    fn conflate(&mut self, live: &Arc<Live>, due: Instant) {
        if live.topic.kind == Kind::Quote {
            self.quotes.insert(live.topic.instrument, live.topic.id);
        }
        let slot = self.slots.entry(live.topic.id).or_insert_with(|| Slot {
            latest: Arc::clone(live),
            left_out: 0,
            due,
        });
        if slot.latest.seq != live.seq {
            slot.left_out += 1;
            slot.latest = Arc::clone(live);
        }
    }

    fn take_slot(&mut self, topic: TopicId) -> Option<Slot> {
        let slot = self.slots.remove(&topic)?;
        if self.quotes.get(&slot.latest.topic.instrument) == Some(&topic) {
            self.quotes.remove(&slot.latest.topic.instrument);
        }
        Some(slot)
    }

    /// Moves a pending value to the outbox, its omissions declared before it.
    fn release(&mut self, topic: TopicId, now: Instant) -> Result<(), CloseCode> {
        let Some(slot) = self.take_slot(topic) else {
            return Ok(());
        };
        if slot.left_out > 0 {
            self.metrics.skipped.inc_by(slot.left_out);
            self.say(&skip_message(&slot.latest, Some(slot.left_out)));
        }
        self.emit(&slot.latest, now)
    }

    fn emit(&mut self, live: &Arc<Live>, now: Instant) -> Result<(), CloseCode> {
        let Some(bytes) = live.data(self.encoding, &self.metrics) else {
            // Given as what it is when there is room: a message that no client can have.
            self.metrics.unencodable.inc();
            let topic = live.topic.id;
            if let Some(held) = self.topics.get_mut(&topic) {
                let (pos, since) = (live.prev, now);
                held.phase = Phase::CatchUp { pos, since };
                if !std::mem::replace(&mut held.queued, true) {
                    self.pulls.push_back(topic);
                }
            }
            return Ok(());
        };
        self.outbox.push_live(Arc::clone(live), bytes.len(), now);
        if self.outbox.live_bytes() > self.limits.unsent_bytes
            || self.outbox.age(now) > self.limits.unsent_age
        {
            return Err(CloseCode::Slow);
        }
        Ok(())
    }

    /// When something becomes due by time alone.
    pub(crate) fn due(&self) -> Option<Instant> {
        let cursor = self.uncovered.then(|| self.cursor_at + CURSOR_AGE);
        let slots = self.slots.values().map(|slot| slot.due);
        slots
            .chain(cursor)
            .chain([self.cursor_at + HEARTBEAT])
            .min()
    }

    /// Positions of this stream are void: says so, and starts every topic from its last value.
    fn void_all(&mut self, known: &Known, store: &Store, epoch: Epoch) {
        self.metrics.resets.inc();
        self.cursor = StreamSeq::ZERO;
        (self.epoch, self.promised) = (Some(epoch), None);
        self.slots.clear();
        self.quotes.clear();
        self.pulls.clear();
        self.repairs.clear();
        self.pages = 0;
        self.owed = None;
        self.say(&ServerMessage::Reset {
            st: Some(store.stream.clone()),
            c: None,
            e: epoch,
            s: known.origin(),
        });
        for (topic, held) in &mut self.topics {
            held.phase = Phase::Snapshot {
                from: known.origin(),
                covers: Covers::Nothing,
            };
            held.floor = StreamSeq::ZERO;
            held.queued = true;
            self.pulls.push_back(*topic);
        }
    }

    fn declare_gap(
        &mut self,
        known: &Known,
        store: &Store,
        text: &str,
        (pos, to): (StreamSeq, StreamSeq),
        why: GapReason,
    ) {
        self.metrics.gap(why);
        self.say(&gap_message(known, store, text, (pos, to), why));
    }

    /// Retention removed messages before this replica read them: declares it for every topic; an error
    /// closes the connection.
    pub(crate) fn trimmed(
        &mut self,
        known: &Known,
        store: &Store,
        (from, to): (StreamSeq, StreamSeq),
        now: Instant,
    ) -> Result<(), CloseCode> {
        // What is pending comes before what is missing.
        for topic in self.slots.keys().copied().collect::<Vec<_>>() {
            self.release(topic, now)?;
        }
        if self.pulls.is_empty() {
            // Nobody waits for anything older: one word for all topics of a string.
            let held: Vec<String> = self.held_strings().map(str::to_owned).collect();
            for text in held {
                let span = (from.prev(), to);
                self.declare_gap(known, store, &text, span, GapReason::Retention);
            }
            for held in self.topics.values_mut() {
                held.floor = held.floor.max(to);
            }
        } else {
            let since = self.owed.map_or(from.prev(), |(since, _)| since);
            self.owed = Some((since, to));
        }
        let live: Vec<TopicId> = self
            .topics
            .iter()
            // Whoever still catches up or waits for a value declares it on the way.
            .filter(|(_, held)| held.phase == Phase::Live && held.floor < to)
            .map(|(topic, _)| *topic)
            .collect();
        for topic in live {
            if let Some(info) = known.info(topic) {
                let span = (from.prev(), to);
                self.declare_gap(known, store, &info.text, span, GapReason::Retention);
            }
            if let Some(held) = self.topics.get_mut(&topic) {
                held.floor = held.floor.max(to);
            }
        }
        self.applied = self.applied.max(to);
        Ok(())
    }

    /// The history was rewound: nothing that was sent counts any more.
    pub(crate) fn reset(&mut self, known: &Known, store: &Store, epoch: Epoch) {
        self.applied = StreamSeq::ZERO;
        (self.epoch, self.rewinding) = (Some(epoch), false);
        self.void_all(known, store, epoch);
    }
}

/// When values that are conflated over a time go out: all at once, so that it takes one write.
fn next_beat(born: Instant, now: Instant, pause: Duration) -> Instant {
    let past = now.saturating_duration_since(born).as_nanos();
    let Some(left) = past.checked_rem(pause.as_nanos()) else {
        return now;
    };
    let left = Duration::from_nanos(u64::try_from(left).unwrap_or(0));
    now + pause.saturating_sub(left)
}

/// What was left out of a topic before its latest message.
fn skip_message(latest: &Message, count: Option<u64>) -> ServerMessage<()> {
    let item = Skipped(latest.topic.text.to_string(), latest.prev, count);
    ServerMessage::Skip {
        i: vec![item],
        x: 0,
    }
}

/// What is missing of a topic or pattern behind `pos`, and where it may be had.
fn gap_message(
    known: &Known,
    store: &Store,
    text: &str,
    (pos, to): (StreamSeq, StreamSeq),
    why: GapReason,
) -> ServerMessage<()> {
    let kind = text.split('.').next().and_then(|kind| kind.parse().ok());
    let is_recorded = !text.contains(['*', '>']) && kind.is_some_and(Kind::has_history);
    let fill = known.epoch.filter(|_| is_recorded).map(|epoch| {
        format!(
            "/v1/ticks?stream={}&topic={}&epoch={epoch}&after={pos}&until={to}",
            store.stream,
            percent(text)
        )
    });
    ServerMessage::Gap {
        c: text.to_owned(),
        from: pos.next(),
        to,
        why,
        fill: fill.unwrap_or_default(),
        x: 0,
    }
}

/// A topic as part of a query string.
fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(
                char::from_digit(u32::from(byte >> 4), 16)
                    .unwrap_or('0')
                    .to_ascii_uppercase(),
            );
            out.push(
                char::from_digit(u32::from(byte & 15), 16)
                    .unwrap_or('0')
                    .to_ascii_uppercase(),
            );
        }
    }
    out
}

/// An op that cannot be carried out.
pub(crate) fn refusal(
    id: Option<u64>,
    code: ErrorCode,
    message: impl Into<String>,
) -> ServerMessage<()> {
    ServerMessage::Err {
        id,
        code,
        message: message.into(),
        retry_after_ms: None,
    }
}

#[cfg(test)]
mod tests;
