//! What goes out when the socket has room: the outbox, pending values, snapshots and catch-ups, and
//! at last the heartbeat that promises all of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use schemas::position::{Cursor, StreamSeq};
use schemas::time::UnixNanos;
use schemas::ws::{CloseCode, Encoding, FeedHealth, GapReason, ServerMessage, push_message};

use super::outbox::Item;
use super::subscriber::Subscriber;
use super::track::{Covers, Phase, Track};
use super::{HEARTBEAT, Session, said};
use crate::deflate::Mark;
use crate::store::{Known, Live, Message, Store, TopicId};

/// How often it is looked whether a position beyond the head exists: often enough, and seldom enough
/// that the stream's leader was asked meanwhile.
const FUTURE: Duration = Duration::from_secs(10);
/// Cursors are sent along with messages at this age.
const CURSOR_AGE: Duration = Duration::from_secs(1);
/// And alone at this one: by then whatever goes on taking messages has had one along with them, and a
/// write of its own for each connection and second would cost as much as the messages.
pub(super) const CURSOR_ALONE: Duration = Duration::from_secs(2);

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

    /// A message that is no tick cannot be given: says so, or its topic would seem to have a hole.
    pub(super) fn unencodable(&mut self, (who, known): (&Subscriber, &Known), message: &Message) {
        who.metrics.unencodable.inc();
        let (span, why) = ((message.prev, message.seq), GapReason::Retention);
        self.message(&said::gap(known, &message.topic.text, span, why));
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
        stores: &[Arc<Store>],
        room: usize,
        now: Instant,
        clock: UnixNanos,
        (out, marks): (&mut Vec<u8>, Option<&mut Vec<Mark>>),
    ) -> Result<usize, CloseCode> {
        let Self { who, tracks, .. } = self;
        if who.outbox.age(now) > who.limits.unsent_age {
            return Err(CloseCode::Slow);
        }
        who.filled_at = now;
        let limit = out.len() + room;
        let mut sink = Sink {
            encoding: who.encoding,
            out,
            marks,
            count: 0,
            limit,
        };
        while sink.has_room() {
            match who.outbox.pop() {
                Some(Item::Live(live, ..)) => sink.live(&live),
                Some(Item::Own(bytes)) => sink.bytes(&bytes),
                None => break,
            }
        }
        if who.outbox.len() == 0 {
            let aged = now.duration_since(self.cursor_at);
            self.uncovered |= sink.count > 0;
            let beat =
                self.heartbeat_due || aged >= HEARTBEAT || (self.uncovered && aged >= CURSOR_AGE);
            // Each stream is the first to have the room, in turn.
            self.turn = (self.turn + 1) % tracks.len().max(1);
            let turns = || (self.turn..stores.len()).chain(0..self.turn);
            // What is due is live: no stream's catch-up goes before it.
            for at in turns() {
                if let (Some(track), Some(store)) = (tracks.get_mut(at), stores.get(at)) {
                    track.flush((who, store), (now, beat), &mut sink);
                }
            }
            for at in turns() {
                if let (Some(track), Some(store)) = (tracks.get_mut(at), stores.get(at)) {
                    track.pull((who, store), now, &mut sink);
                }
            }
            self.uncovered |= sink.count > 0;
            if beat && self.tracks.iter().all(|track| track.slots.is_empty()) {
                self.push_heartbeat(stores, now, clock, &mut sink);
            }
        }
        let count = sink.count;
        self.who
            .metrics
            .delivered
            .inc_by(u64::try_from(count).unwrap_or(0));
        Ok(count)
    }

    fn push_heartbeat(
        &mut self,
        stores: &[Arc<Store>],
        now: Instant,
        clock: UnixNanos,
        sink: &mut Sink<'_>,
    ) {
        self.heartbeat_due = false;
        self.uncovered = false;
        self.cursor_at = now;
        let (mut cur, mut feeds) = (BTreeMap::new(), BTreeMap::new());
        for (track, store) in self.tracks.iter_mut().zip(stores) {
            let known = store.read();
            if let Some(cursor) = track.next_cursor(&known) {
                cur.insert(known.stream.to_string(), cursor);
            }
            add_feeds(&mut feeds, &known, clock);
        }
        sink.message(&ServerMessage::Hb {
            now: clock,
            cur,
            feeds,
        });
    }

    /// Whether there is anything to write.
    pub(crate) fn has_work(&self, now: Instant) -> bool {
        self.who.outbox.len() > 0
            || self.heartbeat_due
            || self.due().is_some_and(|due| due <= now)
            || self.tracks.iter().any(|track| track.has_work(now))
    }
}

impl Track {
    /// Sends pending values that are due, or all of them, as far as there is room.
    fn flush(
        &mut self,
        (who, store): (&mut Subscriber, &Store),
        (now, all): (Instant, bool),
        sink: &mut Sink<'_>,
    ) {
        if self.slots_due.is_none_or(|first| !all && first > now) {
            return;
        }
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
                who.metrics.skipped.inc_by(slot.left_out);
                sink.message(&said::skip(&slot.latest, Some(slot.left_out)));
            }
            match slot.latest.data(who.encoding, &who.metrics) {
                Some(_) => sink.live(&slot.latest),
                None => sink.unencodable((who, &store.read()), &slot.latest),
            }
        }
        self.slots_due = self.slots.values().map(|slot| slot.due).min();
    }

    /// Serves snapshots and catch-ups while there is room.
    fn pull(&mut self, (who, store): (&mut Subscriber, &Store), now: Instant, sink: &mut Sink<'_>) {
        // What is owed outlives those that were waited for: they may have been let go.
        if self.pulls.is_empty() && self.owed.is_none() {
            return;
        }
        let known = store.read();
        self.rewinding = !self.is_of(&known);
        if self.rewinding {
            return;
        }
        // Each topic at most once: those that are not done go to the end.
        for _ in 0..self.pulls.len() {
            if !sink.has_room() {
                break;
            }
            let Some(topic) = self.pulls.pop_front() else {
                break;
            };
            let done = self.park(topic) || self.pull_one((who, &known), topic, now, sink);
            if !done && !self.park(topic) {
                self.pulls.push_back(topic);
            }
        }
        if self.owes_nothing()
            && let Some(span) = self.owed.take()
        {
            let held = who.held_strings();
            for text in held.filter(|text| known.venues.may_have(text)) {
                who.metrics.gap(GapReason::Retention);
                sink.message(&said::gap(&known, text, span, GapReason::Retention));
            }
        }
    }

    /// Sends what is owed of a topic; whether that is all.
    fn pull_one(
        &mut self,
        (who, known): (&mut Subscriber, &Known),
        topic: TopicId,
        now: Instant,
        sink: &mut Sink<'_>,
    ) -> bool {
        let Some(held) = self.topics.get_mut(&topic) else {
            return true;
        };
        let done = match held.phase {
            Phase::Live => true,
            Phase::Snapshot { from, covers } => {
                self.pull_snapshot((who, known), topic, (from, covers), sink)
            }
            Phase::CatchUp { mut pos, since } => {
                if std::mem::take(&mut held.unheard) {
                    // A page may have been read before retention took this, and names a message before
                    // that the client does not know of.
                    pos = self.expired((who, known), topic, pos, sink);
                }
                let reached = self.pull_messages((who, known), topic, pos, sink);
                if !reached && pos > self.applied && now.duration_since(since) > FUTURE {
                    if known.denies(pos, since) {
                        self.void((who, known), topic, sink);
                    } else if let Some(held) = self.topics.get_mut(&topic) {
                        // Nobody can tell as long as the leader was not asked, or the shard is behind.
                        held.phase = Phase::CatchUp { pos, since: now };
                    }
                }
                reached
            }
        };
        if done && let Some(held) = self.topics.get_mut(&topic) {
            held.queued = false;
        }
        done
    }

    /// Sends a last value; whether the topic is live now.
    fn pull_snapshot(
        &mut self,
        (who, known): (&mut Subscriber, &Known),
        topic: TopicId,
        (from, covers): (StreamSeq, Covers),
        sink: &mut Sink<'_>,
    ) -> bool {
        let Some(held) = self.topics.get_mut(&topic) else {
            return true;
        };
        held.phase = Phase::Live;
        let Some(last) = known.last(topic).map(Arc::clone) else {
            self.pass_expired((who, known), topic, from, sink);
            return true;
        };
        if covers == Covers::Past {
            // Whatever came since follows one by one.
            if last.seq <= from {
                sink.snapshot(&last);
            }
            return self.pull_messages((who, known), topic, from, sink);
        }
        held.floor = held.floor.max(last.seq);
        match covers {
            Covers::Omissions => {
                who.metrics.skipped.inc();
                sink.message(&said::skip(&last, None));
                if !sink.data(&last, last.prev) {
                    sink.unencodable((who, known), &last);
                }
            }
            Covers::Budget => {
                who.metrics.gap(GapReason::Budget);
                let (span, why) = ((from, last.seq), GapReason::Budget);
                sink.message(&said::gap(known, &last.topic.text, span, why));
                sink.snapshot(&last);
            }
            Covers::Nothing | Covers::Past => {
                if !sink.snapshot(&last) && from < last.seq {
                    who.metrics.unencodable.inc();
                    let (span, why) = ((from, last.seq), GapReason::Retention);
                    sink.message(&said::gap(known, &last.topic.text, span, why));
                }
            }
        }
        self.pass_expired((who, known), topic, from.max(last.seq), sink);
        true
    }

    /// What retention removed unread behind a last value is declared with it.
    fn pass_expired(
        &mut self,
        (who, known): (&Subscriber, &Known),
        topic: TopicId,
        pos: StreamSeq,
        sink: &mut Sink<'_>,
    ) {
        let pos = self.expired((who, known), topic, pos, sink);
        if let Some(held) = self.topics.get_mut(&topic) {
            held.floor = held.floor.max(pos);
        }
    }

    /// A position that this replica never reached belongs to no history: start from the last value.
    fn void(&mut self, (who, known): (&Subscriber, &Known), topic: TopicId, sink: &mut Sink<'_>) {
        let Some(epoch) = known.epoch else { return };
        who.metrics.resets.inc();
        self.forget_repair(topic);
        let origin = self.origin(known);
        if let Some(held) = self.topics.get_mut(&topic) {
            held.phase = Phase::Snapshot {
                from: origin,
                covers: Covers::Nothing,
            };
            held.floor = StreamSeq::ZERO;
        }
        if let Some(info) = known.info(topic) {
            sink.message(&ServerMessage::Reset {
                st: None,
                c: Some(info.text.to_string()),
                e: epoch,
                s: origin,
            });
        }
    }

    /// The cursor to be told now, if there is one; it never goes back.
    fn next_cursor(&mut self, known: &Known) -> Option<Cursor> {
        // A topic that was subscribed from before the last cursor holds the next one back.
        let safe = self.is_of(known).then(|| self.safe());
        let cursor = safe
            .and_then(|safe| known.cursor(safe))
            .filter(|cursor| cursor.seq() >= self.cursor);
        self.cursor = cursor.map_or(self.cursor, Cursor::seq);
        if known.epoch == self.epoch {
            // Where there has been nothing yet, or nothing is left of it, all is to come.
            let begins = self.applied <= known.origin();
            let first = begins.then_some(Cursor::BEGINNING);
            self.promised = cursor.or(self.promised).or(first);
        }
        cursor
    }

    fn has_work(&self, now: Instant) -> bool {
        !self.rewinding && (self.can_pull(now) || self.owes_nothing() && self.owed.is_some())
    }

    fn can_pull(&self, now: Instant) -> bool {
        self.pulls.iter().any(|topic| {
            self.topics.get(topic).is_none_or(|held| match held.phase {
                Phase::CatchUp { pos, since } => {
                    pos <= self.applied || now.duration_since(since) > FUTURE
                }
                Phase::Live | Phase::Snapshot { .. } => true,
            })
        })
    }
}

/// Adds the feeds of a stream: of each venue the one that is worst off.
fn add_feeds(feeds: &mut BTreeMap<String, FeedHealth>, known: &Known, clock: UnixNanos) {
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
