//! What goes out when the socket has room: the outbox, pending values, snapshots and catch-ups, and
//! at last the heartbeat that promises all of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use schemas::position::{Cursor, StreamSeq};
use schemas::time::UnixNanos;
use schemas::ws::{CloseCode, Encoding, FeedHealth, GapReason, ServerMessage, push_message};

use super::outbox::Item;
use super::{Covers, HEARTBEAT, Phase, Session, gap_message, skip_message};
use crate::deflate::Mark;
use crate::store::{Known, Live, Message, Store, TopicId};

/// How long a position beyond the head may wait for this replica to get there.
const FUTURE: Duration = Duration::from_secs(5);
/// Cursors are sent along with messages at this age.
pub(super) const CURSOR_AGE: Duration = Duration::from_secs(1);

/// Where messages are put, and how many there are.
pub(super) struct Sink<'a> {
    pub(super) encoding: Encoding,
    pub(super) out: &'a mut Vec<u8>,
    /// Where shared messages lie in `out`, if somebody wants to know.
    pub(super) marks: Option<&'a mut Vec<Mark>>,
    pub(super) count: usize,
    /// The length at which there is no more room.
    pub(super) limit: usize,
}

impl Sink<'_> {
    pub(super) fn has_room(&self) -> bool {
        self.out.len() < self.limit
    }

    /// Appends a message that is encoded already; an empty one could not be, and is left out.
    fn bytes(&mut self, bytes: &[u8]) {
        self.with(|out| out.extend_from_slice(bytes));
    }

    /// Appends a live message that is encoded already.
    fn live(&mut self, live: &Arc<Live>) {
        let (before, bytes) = (self.count, live.encoded(self.encoding));
        self.bytes(bytes);
        if self.count > before
            && let Some(marks) = &mut self.marks
        {
            let to = self.out.len();
            marks.push(Mark {
                from: to - bytes.len(),
                to,
                live: Arc::clone(live),
            });
        }
    }

    pub(super) fn message(&mut self, message: &ServerMessage<()>) {
        let encoding = self.encoding;
        self.with(|out| {
            let start = out.len();
            if push_message(encoding, out, message).is_err() {
                out.truncate(start);
            }
        });
    }

    /// The `d` message of a tick that follows a position; `false` if it cannot be encoded.
    pub(super) fn data(&mut self, message: &Message, pos: StreamSeq) -> bool {
        let (encoding, before) = (self.encoding, self.count);
        self.with(|out| message.data_into(encoding, pos, out));
        self.count > before
    }

    /// The `snap` message of a tick; `false` if it cannot be encoded.
    pub(super) fn snapshot(&mut self, message: &Message) -> bool {
        let (encoding, before) = (self.encoding, self.count);
        self.with(|out| message.snapshot(encoding, out));
        self.count > before
    }

    fn with(&mut self, push: impl FnOnce(&mut Vec<u8>)) {
        let start = self.out.len();
        if self.count > 0 && self.encoding == Encoding::Json {
            self.out.push(b',');
        }
        let before = self.out.len();
        push(self.out);
        if self.out.len() == before {
            self.out.truncate(start);
        } else {
            self.count += 1;
        }
    }
}

impl Session {
    /// Appends messages, comma-separated in JSON, until `room` bytes are used; how many. Notes where
    /// shared ones lie.
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
        (out, marks): (&mut Vec<u8>, Option<&mut Vec<Mark>>),
    ) -> Result<usize, CloseCode> {
        if self.outbox.age(now) > self.limits.unsent_age {
            return Err(CloseCode::Slow);
        }
        self.filled_at = now;
        let limit = out.len() + room;
        let mut sink = Sink {
            encoding: self.encoding,
            out,
            marks,
            count: 0,
            limit,
        };
        while sink.has_room() {
            match self.outbox.pop() {
                Some(Item::Live(live, ..)) => sink.live(&live),
                Some(Item::Own(bytes)) => sink.bytes(&bytes),
                None => break,
            }
        }
        if self.outbox.len() == 0 {
            let aged = now.duration_since(self.cursor_at);
            self.uncovered |= sink.count > 0;
            let beat =
                self.heartbeat_due || aged >= HEARTBEAT || (self.uncovered && aged >= CURSOR_AGE);
            self.flush(store, (now, beat), &mut sink);
            self.pull(store, now, &mut sink);
            self.uncovered |= sink.count > 0;
            if beat && self.slots.is_empty() {
                self.push_heartbeat(store, now, clock, &mut sink);
            }
        }
        let count = sink.count;
        self.metrics
            .delivered
            .inc_by(u64::try_from(count).unwrap_or(0));
        Ok(count)
    }

    /// Sends pending values that are due, or all of them, as far as there is room.
    fn flush(&mut self, store: &Store, (now, all): (Instant, bool), sink: &mut Sink<'_>) {
        let due = self
            .slots
            .iter()
            .filter(|(_, slot)| all || slot.due <= now)
            .map(|(topic, _)| *topic);
        for topic in due.collect::<Vec<_>>() {
            if !sink.has_room() {
                return;
            }
            let Some(slot) = self.take_slot(topic) else {
                continue;
            };
            if slot.left_out > 0 {
                self.metrics.skipped.inc_by(slot.left_out);
                sink.message(&skip_message(&slot.latest, Some(slot.left_out)));
            }
            match slot.latest.data(self.encoding, &self.metrics) {
                Some(_) => sink.live(&slot.latest),
                None => self.unencodable((&store.read(), store), &slot.latest, sink),
            }
        }
    }

    /// A message that is no tick cannot be given: says so, or its topic would seem to have a hole.
    pub(super) fn unencodable(
        &self,
        (known, store): (&Known, &Store),
        message: &Message,
        sink: &mut Sink<'_>,
    ) {
        self.metrics.unencodable.inc();
        let (span, why) = ((message.prev, message.seq), GapReason::Retention);
        let gap = gap_message(known, store, &message.topic.text, span, why);
        sink.message(&gap);
    }

    /// Serves snapshots and catch-ups while there is room.
    fn pull(&mut self, store: &Store, now: Instant, sink: &mut Sink<'_>) {
        if self.pulls.is_empty() {
            return;
        }
        let known = store.read();
        self.rewinding = !self.is_of(&known);
        if self.rewinding {
            return;
        }
        let mut waiting = VecDeque::new();
        while sink.has_room() {
            let Some(topic) = self.pulls.pop_front() else {
                break;
            };
            let Some(held) = self.topics.get(&topic) else {
                continue;
            };
            if self.is_waiting(topic) {
                waiting.push_back(topic);
                continue;
            }
            let done = match held.phase {
                Phase::Live => true,
                Phase::Snapshot { from, covers } => {
                    self.pull_snapshot((&known, store), topic, (from, covers), sink)
                }
                Phase::CatchUp { pos, since } => {
                    let reached = self.pull_messages((&known, store), topic, pos, sink);
                    if !reached && pos > self.applied && now.duration_since(since) > FUTURE {
                        if known.head < pos && known.heard_for(FUTURE, now) {
                            self.void(&known, topic, sink);
                            self.pulls.push_back(topic);
                            continue;
                        }
                        // Nobody can tell as long as the broker is away, or the shard behind.
                        if let Some(held) = self.topics.get_mut(&topic) {
                            held.phase = Phase::CatchUp { pos, since: now };
                        }
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
        if self.pulls.is_empty()
            && let Some(span) = self.owed.take()
        {
            for text in self.held_strings() {
                self.metrics.gap(GapReason::Retention);
                let gap = gap_message(&known, store, text, span, GapReason::Retention);
                sink.message(&gap);
            }
        }
    }

    /// Sends a last value; whether the topic is live now.
    fn pull_snapshot(
        &mut self,
        (known, store): (&Known, &Store),
        topic: TopicId,
        (from, covers): (StreamSeq, Covers),
        sink: &mut Sink<'_>,
    ) -> bool {
        let Some(held) = self.topics.get_mut(&topic) else {
            return true;
        };
        held.phase = Phase::Live;
        let Some(last) = known.last(topic).map(Arc::clone) else {
            self.pass_expired((known, store), topic, from, sink);
            return true;
        };
        if covers == Covers::Past {
            // Whatever came since follows one by one.
            if last.seq <= from {
                sink.snapshot(&last);
            }
            return self.pull_messages((known, store), topic, from, sink);
        }
        held.floor = held.floor.max(last.seq);
        match covers {
            Covers::Omissions => {
                self.metrics.skipped.inc();
                sink.message(&skip_message(&last, None));
                if !sink.data(&last, last.prev) {
                    self.unencodable((known, store), &last, sink);
                }
            }
            Covers::Budget => {
                self.metrics.gap(GapReason::Budget);
                let span = (from, last.seq);
                let gap = gap_message(known, store, &last.topic.text, span, GapReason::Budget);
                sink.message(&gap);
                sink.snapshot(&last);
            }
            Covers::Nothing | Covers::Past => {
                if !sink.snapshot(&last) && from < last.seq {
                    self.metrics.unencodable.inc();
                    let (span, why) = ((from, last.seq), GapReason::Retention);
                    let gap = gap_message(known, store, &last.topic.text, span, why);
                    sink.message(&gap);
                }
            }
        }
        self.pass_expired((known, store), topic, from.max(last.seq), sink);
        true
    }

    /// What retention removed unread behind a last value is declared with it.
    fn pass_expired(
        &mut self,
        (known, store): (&Known, &Store),
        topic: TopicId,
        pos: StreamSeq,
        sink: &mut Sink<'_>,
    ) {
        let pos = self.expired((known, store), topic, pos, sink);
        if let Some(held) = self.topics.get_mut(&topic) {
            held.floor = held.floor.max(pos);
        }
    }

    /// A position that this replica never reached belongs to no history: start from the last value.
    fn void(&mut self, known: &Known, topic: TopicId, sink: &mut Sink<'_>) {
        let Some(epoch) = known.epoch else { return };
        self.metrics.resets.inc();
        self.forget_repair(topic);
        if let Some(held) = self.topics.get_mut(&topic) {
            held.phase = Phase::Snapshot {
                from: known.origin(),
                covers: Covers::Nothing,
            };
            held.floor = StreamSeq::ZERO;
        }
        if let Some(info) = known.info(topic) {
            sink.message(&ServerMessage::Reset {
                st: None,
                c: Some(info.text.to_string()),
                e: epoch,
                s: known.origin(),
            });
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
            .chain(self.owed.map(|(since, _)| since))
            .min()
            .map_or(self.applied, |pos| pos.min(self.applied))
    }

    fn push_heartbeat(
        &mut self,
        store: &Store,
        now: Instant,
        clock: UnixNanos,
        sink: &mut Sink<'_>,
    ) {
        self.heartbeat_due = false;
        self.uncovered = false;
        self.cursor_at = now;
        let known = store.read();
        // A topic that was subscribed from before the last cursor holds the next one back.
        let safe = self.is_of(&known).then(|| self.safe());
        let cursor = safe
            .and_then(|safe| known.cursor(safe))
            .filter(|cursor| cursor.seq() >= self.cursor);
        self.cursor = cursor.map_or(self.cursor, Cursor::seq);
        if known.epoch == self.epoch {
            self.promised = cursor.or(self.promised);
        }
        let cur = cursor
            .map(|cursor| (store.stream.clone(), cursor))
            .into_iter()
            .collect();
        sink.message(&ServerMessage::Hb {
            now: clock,
            cur,
            feeds: feeds(&known, clock),
        });
    }

    /// Whether there is anything to write.
    pub(crate) fn has_work(&self, now: Instant) -> bool {
        self.outbox.len() > 0
            || self.heartbeat_due
            || self.due().is_some_and(|due| due <= now)
            || !self.rewinding
                && self.pulls.iter().any(|topic| {
                    self.topics.get(topic).is_none_or(|held| match held.phase {
                        Phase::CatchUp { .. } if self.is_waiting(*topic) => false,
                        Phase::CatchUp { pos, since } => {
                            pos <= self.applied || now.duration_since(since) > FUTURE
                        }
                        Phase::Live | Phase::Snapshot { .. } => true,
                    })
                })
    }
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
