//! What one connection subscribes to, and what it is still owed. No I/O; times are arguments.
//!
//! Three things wait for the socket: the outbox (answers and live messages, in order), snapshots
//! (topics whose last value is read when there is room) and catch-ups (positions, read from the
//! ring when there is room). Only the outbox takes memory per message, and it is bounded.

mod outbox;
mod subscribe;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use schemas::id::Kind;
use schemas::position::{Epoch, StreamSeq};
use schemas::time::UnixNanos;
use schemas::topic::Pattern;
use schemas::ws::{
    CloseCode, Conflate, Encoding, ErrorCode, FeedHealth, GapReason, ServerMessage, Skipped,
    push_message,
};

use crate::index::ConnId;
use crate::metrics::Metrics;
use crate::store::{Known, Live, Next, Store, TopicId};
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

/// How long a position beyond the head may wait for this replica to get there.
const FUTURE: Duration = Duration::from_secs(5);
/// Cursors are sent along with messages at this age.
const CURSOR_AGE: Duration = Duration::from_secs(1);
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

/// One string that was subscribed.
#[derive(Debug)]
struct Subscription {
    conflate: Conflate,
    pattern: Option<Pattern>,
}

/// One connection's subscriptions and debts.
#[derive(Debug)]
pub(crate) struct Session {
    id: ConnId,
    encoding: Encoding,
    limits: Limits,
    metrics: Metrics,
    /// By the string that was subscribed.
    subscriptions: HashMap<Box<str>, Subscription>,
    patterns: usize,
    topics: HashMap<TopicId, Held>,
    pulls: VecDeque<TopicId>,
    slots: HashMap<TopicId, Slot>,
    /// Pending quotes by instrument: they leave before its next trade.
    quotes: HashMap<u32, TopicId>,
    outbox: Outbox,
    resumed: usize,
    cursor: StreamSeq,
    cursor_at: Instant,
    heartbeat_due: bool,
    /// Something was sent that no cursor covers yet.
    uncovered: bool,
    /// Everything up to here was dispatched by this shard.
    applied: StreamSeq,
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
            subscriptions: HashMap::new(),
            patterns: 0,
            topics: HashMap::new(),
            pulls: VecDeque::new(),
            slots: HashMap::new(),
            quotes: HashMap::new(),
            outbox: Outbox::default(),
            resumed: 0,
            cursor: StreamSeq::ZERO,
            cursor_at: now,
            heartbeat_due: false,
            uncovered: false,
            applied,
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
        self.subscriptions.keys().map(AsRef::as_ref)
    }

    /// Queues a message that carries no tick.
    pub(crate) fn say(&mut self, message: &ServerMessage<()>) {
        let mut bytes = Vec::new();
        if push_message(self.encoding, &mut bytes, message).is_ok() {
            self.outbox.push_control(bytes.into());
        }
    }

    /// Notes that this shard has dispatched everything up to `head`.
    pub(crate) const fn applied(&mut self, head: StreamSeq) {
        self.applied = head;
    }

    pub(crate) const fn heartbeat(&mut self) {
        self.heartbeat_due = true;
    }

    /// Takes a live message of a topic that is held; an error closes the connection.
    pub(crate) fn deliver(&mut self, live: &Arc<Live>, now: Instant) -> Result<(), CloseCode> {
        let topic = live.topic.id;
        let Some(held) = self.topics.get_mut(&topic) else {
            return Ok(());
        };
        if held.phase != Phase::Live || live.seq <= held.floor {
            return Ok(());
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
            self.conflate(live, now + pause);
            return Ok(());
        }
        // What was pending before the conflation was lifted goes first.
        self.release(topic, now)?;
        if live.topic.kind == Kind::Trade
            && let Some(quote) = self.quotes.get(&live.topic.instrument).copied()
        {
            self.release(quote, now)?;
        }
        self.emit(live, now)
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

    /// Moves a pending value to the outbox, its omissions declared before it.
    fn release(&mut self, topic: TopicId, now: Instant) -> Result<(), CloseCode> {
        let Some(slot) = self.slots.remove(&topic) else {
            return Ok(());
        };
        if self.quotes.get(&slot.latest.topic.instrument) == Some(&topic) {
            self.quotes.remove(&slot.latest.topic.instrument);
        }
        if slot.left_out > 0 {
            self.skip(&slot.latest, Some(slot.left_out));
        }
        self.emit(&slot.latest, now)
    }

    fn skip(&mut self, latest: &Live, count: Option<u64>) {
        self.metrics.skipped.inc_by(count.unwrap_or(1));
        let item = Skipped(latest.topic.text.to_string(), latest.prev, count);
        self.say(&ServerMessage::Skip {
            i: vec![item],
            x: 0,
        });
    }

    fn emit(&mut self, live: &Arc<Live>, now: Instant) -> Result<(), CloseCode> {
        let Some(bytes) = live.data(self.encoding) else {
            self.metrics.unencodable.inc();
            return Ok(());
        };
        self.outbox.push_live(bytes.clone(), now);
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
        self.slots.values().map(|slot| slot.due).chain(cursor).min()
    }

    /// Appends messages, comma-separated in JSON, until `room` bytes are used; how many.
    ///
    /// # Errors
    ///
    /// The connection must be closed.
    pub(crate) fn fill(
        &mut self,
        store: &Store,
        room: usize,
        now: Instant,
        clock: UnixNanos,
        out: &mut Vec<u8>,
    ) -> Result<usize, CloseCode> {
        let start = out.len();
        let drained = self.outbox.len() == 0;
        let due: Vec<TopicId> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.due <= now && (drained || slot.due + HEARTBEAT > now))
            .map(|(topic, _)| *topic)
            .collect();
        for topic in due {
            // Under pressure a pending value waits until the outbox is empty.
            let pressed = self.outbox.live_bytes() > self.limits.unsent_bytes / 2;
            if !pressed {
                self.release(topic, now)?;
            }
        }
        let mut count = 0;
        while out.len() - start < room {
            let Some(bytes) = self.outbox.pop() else {
                break;
            };
            self.separate(out, count);
            out.extend_from_slice(&bytes);
            count += 1;
        }
        if self.outbox.len() == 0 && !self.pulls.is_empty() {
            self.pull(store, start + room, now, (out, &mut count));
        }
        self.uncovered |= count > 0;
        let aged = now.duration_since(self.cursor_at);
        if self.outbox.len() == 0
            && (self.heartbeat_due || aged >= HEARTBEAT || (self.uncovered && aged >= CURSOR_AGE))
        {
            self.push_heartbeat(store, now, clock, (out, &mut count))?;
        }
        self.metrics
            .delivered
            .inc_by(u64::try_from(count).unwrap_or(0));
        Ok(count)
    }

    fn separate(&self, out: &mut Vec<u8>, count: usize) {
        if count > 0 && self.encoding == Encoding::Json {
            out.push(b',');
        }
    }

    /// Serves snapshots and catch-ups while there is room.
    fn pull(
        &mut self,
        store: &Store,
        limit: usize,
        now: Instant,
        (out, count): (&mut Vec<u8>, &mut usize),
    ) {
        let known = store.read();
        let mut waiting = VecDeque::new();
        while out.len() < limit {
            let Some(topic) = self.pulls.pop_front() else {
                break;
            };
            let Some(held) = self.topics.get(&topic) else {
                continue;
            };
            let done = match held.phase {
                Phase::Live => true,
                Phase::Snapshot { covers, .. } => {
                    self.pull_snapshot(&known, topic, covers, (out, count));
                    true
                }
                Phase::CatchUp { pos, since } => {
                    let reached =
                        self.pull_messages(&known, store, topic, pos, limit, (out, count));
                    if !reached && pos > self.applied && now.duration_since(since) > FUTURE {
                        self.void(&known, topic, (out, count));
                        self.pulls.push_back(topic);
                        continue;
                    }
                    reached
                }
            };
            if done {
                if let Some(held) = self.topics.get_mut(&topic) {
                    held.queued = false;
                }
            } else {
                waiting.push_back(topic);
            }
        }
        self.pulls.append(&mut waiting);
    }

    /// Sends what a message with a tick or without one, made on the spot.
    fn append(&self, bytes: &[u8], (out, count): (&mut Vec<u8>, &mut usize)) {
        if !bytes.is_empty() {
            self.separate(out, *count);
            out.extend_from_slice(bytes);
            *count += 1;
        }
    }

    fn append_message(&self, message: &ServerMessage<()>, sink: (&mut Vec<u8>, &mut usize)) {
        let mut bytes = Vec::new();
        if push_message(self.encoding, &mut bytes, message).is_ok() {
            self.append(&bytes, sink);
        }
    }

    fn pull_snapshot(
        &mut self,
        known: &Known,
        topic: TopicId,
        covers: Covers,
        (out, count): (&mut Vec<u8>, &mut usize),
    ) {
        let Some(held) = self.topics.get_mut(&topic) else {
            return;
        };
        held.phase = Phase::Live;
        let Some(last) = known.last(topic).map(Arc::clone) else {
            return;
        };
        held.floor = held.floor.max(last.seq);
        if covers == Covers::Omissions {
            // A resumed state topic: everything between is declared, the latest follows.
            self.metrics.skipped.inc();
            let item = Skipped(last.topic.text.to_string(), last.prev, None);
            self.append_message(
                &ServerMessage::Skip {
                    i: vec![item],
                    x: 0,
                },
                (out, count),
            );
            if let Some(bytes) = last.data(self.encoding) {
                self.append(&bytes.clone(), (out, count));
            }
        } else {
            let mut bytes = Vec::new();
            last.snapshot(self.encoding, &mut bytes);
            self.append(&bytes, (out, count));
        }
    }

    /// Sends what follows a position; whether the topic is live now.
    fn pull_messages(
        &mut self,
        known: &Known,
        store: &Store,
        topic: TopicId,
        mut pos: StreamSeq,
        limit: usize,
        (out, count): (&mut Vec<u8>, &mut usize),
    ) -> bool {
        while out.len() < limit {
            match known.next(topic, pos) {
                // What this shard has not dispatched yet will come as live.
                Next::Message(live) if live.seq <= self.applied => {
                    if let Some(bytes) = live.data(self.encoding) {
                        self.append(&bytes.clone(), (out, count));
                    }
                    pos = live.seq;
                }
                // What lies beyond the dispatched head comes as live.
                Next::Missing(to) if pos < self.applied => {
                    let to = to.min(self.applied);
                    self.metrics.gap(GapReason::Retention);
                    let gap = known.info(topic).and_then(|info| {
                        gap_message(known, store, &info.text, (pos, to), GapReason::Retention)
                    });
                    if let Some(gap) = gap {
                        self.append_message(&gap, (out, count));
                    }
                    pos = to;
                    let last = known
                        .last(topic)
                        .filter(|last| last.seq == to && last.topic.kind.is_state());
                    if let Some(last) = last {
                        let mut bytes = Vec::new();
                        last.snapshot(self.encoding, &mut bytes);
                        self.append(&bytes, (out, count));
                    }
                }
                Next::End | Next::Message(_) | Next::Missing(_) => {
                    let reached = pos <= self.applied;
                    self.settle(topic, pos, reached);
                    return reached;
                }
            }
        }
        self.settle(topic, pos, false);
        false
    }

    fn settle(&mut self, topic: TopicId, reached_pos: StreamSeq, live: bool) {
        if let Some(held) = self.topics.get_mut(&topic) {
            held.floor = held.floor.max(reached_pos);
            if live {
                held.phase = Phase::Live;
            } else if let Phase::CatchUp { pos, .. } = &mut held.phase {
                *pos = reached_pos;
            }
        }
    }

    /// A position that this replica never reached belongs to no history: start from the last value.
    fn void(&mut self, known: &Known, topic: TopicId, sink: (&mut Vec<u8>, &mut usize)) {
        let Some(epoch) = known.epoch else { return };
        self.metrics.resets.inc();
        if let Some(held) = self.topics.get_mut(&topic) {
            held.phase = Phase::Snapshot {
                from: known.origin(),
                covers: Covers::Nothing,
            };
            held.floor = StreamSeq::ZERO;
        }
        if let Some(info) = known.info(topic) {
            let c = Some(info.text.to_string());
            let reset = ServerMessage::Reset {
                st: None,
                c,
                e: epoch,
                s: known.origin(),
            };
            self.append_message(&reset, sink);
        }
    }

    /// Positions of this stream are void: says so, and starts every topic from its last value.
    fn void_all(&mut self, known: &Known, store: &Store, epoch: Epoch) {
        self.metrics.resets.inc();
        self.cursor = StreamSeq::ZERO;
        self.slots.clear();
        self.quotes.clear();
        self.pulls.clear();
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
        if let Some(gap) = gap_message(known, store, text, (pos, to), why) {
            self.say(&gap);
        }
    }

    /// Everything up to here was written, for all topics held.
    fn safe(&self) -> StreamSeq {
        let pending = self
            .pulls
            .iter()
            .filter_map(|topic| match self.topics.get(topic)?.phase {
                Phase::Live => None,
                Phase::Snapshot { from, .. } => Some(from),
                Phase::CatchUp { pos, .. } => Some(pos),
            });
        pending
            .min()
            .map_or(self.applied, |pos| pos.min(self.applied))
    }

    fn push_heartbeat(
        &mut self,
        store: &Store,
        now: Instant,
        clock: UnixNanos,
        (out, count): (&mut Vec<u8>, &mut usize),
    ) -> Result<(), CloseCode> {
        let pending: Vec<TopicId> = self.slots.keys().copied().collect();
        for topic in pending {
            self.release(topic, now)?;
        }
        while let Some(bytes) = self.outbox.pop() {
            self.append(&bytes, (out, count));
        }
        self.heartbeat_due = false;
        self.uncovered = false;
        self.cursor_at = now;
        let known = store.read();
        // A topic that was subscribed from before the last cursor holds the next one back.
        let cursor = known
            .cursor(self.safe())
            .filter(|cursor| cursor.seq() >= self.cursor);
        self.cursor = cursor.map_or(self.cursor, schemas::position::Cursor::seq);
        let cur = cursor
            .map(|cursor| (store.stream.clone(), cursor))
            .into_iter()
            .collect();
        let beat = ServerMessage::Hb {
            now: clock,
            cur,
            feeds: feeds(&known, clock),
        };
        self.append_message(&beat, (out, count));
        Ok(())
    }

    /// Whether there is anything to write.
    pub(crate) fn has_work(&self, now: Instant) -> bool {
        self.outbox.len() > 0
            || self.heartbeat_due
            || self.due().is_some_and(|due| due <= now)
            || self.pulls.iter().any(|topic| {
                self.topics.get(topic).is_none_or(|held| match held.phase {
                    Phase::CatchUp { pos, since } => {
                        pos <= self.applied || now.duration_since(since) > FUTURE
                    }
                    Phase::Live | Phase::Snapshot { .. } => true,
                })
            })
    }

    /// Retention removed messages before this replica read them: declares it for every topic.
    pub(crate) fn trimmed(
        &mut self,
        known: &Known,
        store: &Store,
        (from, to): (StreamSeq, StreamSeq),
    ) {
        let live: Vec<TopicId> = self
            .topics
            .iter()
            // Whoever still catches up or waits for a value declares it on the way.
            .filter(|(_, held)| held.phase == Phase::Live)
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
    }

    /// The history was rewound: nothing that was sent counts any more.
    pub(crate) fn reset(&mut self, known: &Known, store: &Store, epoch: Epoch) {
        self.applied = StreamSeq::ZERO;
        self.void_all(known, store, epoch);
    }
}

/// What is missing of a topic or pattern behind `pos`, and where it may be had.
fn gap_message(
    known: &Known,
    store: &Store,
    text: &str,
    (pos, to): (StreamSeq, StreamSeq),
    why: GapReason,
) -> Option<ServerMessage<()>> {
    let epoch = known.epoch?;
    let kind = text.split('.').next().and_then(|kind| kind.parse().ok());
    let is_recorded = !text.contains(['*', '>']) && kind.is_some_and(Kind::has_history);
    let fill = is_recorded.then(|| {
        format!(
            "/v1/ticks?stream={}&topic={}&epoch={epoch}&after={pos}&until={to}",
            store.stream,
            percent(text)
        )
    });
    Some(ServerMessage::Gap {
        c: text.to_owned(),
        from: pos.next(),
        to,
        why,
        fill: fill.unwrap_or_default(),
        x: 0,
    })
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

fn feeds(known: &Known, clock: UnixNanos) -> BTreeMap<String, FeedHealth> {
    let mut feeds: BTreeMap<String, FeedHealth> = BTreeMap::new();
    for ((venue, _), report) in &known.feeds {
        let state = if known.stale {
            "stale".to_owned()
        } else {
            report.state.clone()
        };
        let age_ms = u64::try_from(clock.since(report.at).as_millis()).unwrap_or(u64::MAX);
        let worst = feeds.entry(venue.clone()).or_insert(FeedHealth {
            state: state.clone(),
            age_ms,
        });
        if rank(&state) > rank(&worst.state) {
            *worst = FeedHealth { state, age_ms };
        }
    }
    feeds
}

/// Worse states rank higher.
fn rank(state: &str) -> u8 {
    match state {
        "live" | "gap" => 0,
        "closed" => 1,
        "reconnecting" => 2,
        _ => 3,
    }
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
