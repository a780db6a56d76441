//! A client that checks every message against what the stream really holds.

use std::collections::{BTreeMap, BTreeSet};

use schemas::continuity::{Continuity, Verdict};
use schemas::position::{Cursor, Epoch, StreamSeq};
use schemas::tick::Tick;
use schemas::topic::Pattern;
use schemas::ws::{ClientOp, Conflate, Encoding, From, GapReason, ServerMessage, Subscribe};

use super::truth::Truth;

/// What the client knows of one topic.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// Everything up to here was delivered or declared, or lies before the subscription.
    pos: StreamSeq,
    /// The latest value.
    value: StreamSeq,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) encoding: Encoding,
    pub(super) continuity: Continuity,
    pub(super) epoch: Option<Epoch>,
    /// Strings that are acknowledged, with their conflation.
    pub(super) held: BTreeMap<String, Conflate>,
    /// Strings that the client wants, acknowledged or not.
    pub(super) wanted: BTreeMap<String, Conflate>,
    asked: BTreeMap<u64, Subscribe>,
    leaving: BTreeSet<u64>,
    /// Strings that were held, now or before the connection was lost.
    acknowledged: BTreeSet<String>,
    places: BTreeMap<String, Place>,
    /// Where each string began, as far as is known since.
    starts: BTreeMap<String, StreamSeq>,
    /// Topics to be subscribed again, because the rule found a hole. There must be none.
    pub(super) cursor: StreamSeq,
    /// The client itself has asked to go back.
    went_back: bool,
    next_id: u64,
}

pub(super) fn covers(held: &str, topic: &str) -> bool {
    held == topic
        || held.contains(['*', '>'])
            && held
                .parse::<Pattern>()
                .is_ok_and(|pattern| pattern.matches(topic))
}

impl Client {
    pub(super) fn new(encoding: Encoding) -> Self {
        Self {
            encoding,
            continuity: Continuity::new(),
            epoch: None,
            held: BTreeMap::new(),
            wanted: BTreeMap::new(),
            asked: BTreeMap::new(),
            leaving: BTreeSet::new(),
            acknowledged: BTreeSet::new(),
            places: BTreeMap::new(),
            starts: BTreeMap::new(),
            cursor: StreamSeq::ZERO,
            went_back: false,
            next_id: 0,
        }
    }

    /// A connection is gone: answers that were on their way never come.
    pub(super) fn disconnected(&mut self) {
        self.asked.clear();
        self.leaving.clear();
        // What only a string held that is not wanted any more was left, acknowledged or not.
        let wanted = &self.wanted;
        self.acknowledged.retain(|text| wanted.contains_key(text));
        self.held.clear();
        let kept = &self.acknowledged;
        self.places
            .retain(|topic, _| kept.iter().any(|text| covers(text, topic)));
        self.cursor = StreamSeq::ZERO;
    }

    /// Whoever holds nothing goes along with another history without a reset.
    pub(super) fn forget(&mut self) {
        self.places.clear();
        self.starts.clear();
    }

    /// An op that subscribes; empty `from` starts at the head.
    pub(super) fn subscribe(
        &mut self,
        topics: Vec<String>,
        conflate: Conflate,
        snapshot: Option<bool>,
        from: BTreeMap<String, From>,
    ) -> ClientOp {
        self.next_id += 1;
        for topic in &topics {
            self.wanted.insert(topic.clone(), conflate);
        }
        let op = Subscribe {
            id: Some(self.next_id),
            topics,
            snapshot,
            conflate,
            from: from.clone(),
        };
        self.went_back |= !from.is_empty();
        self.continuity.subscribing(self.next_id, from);
        self.asked.insert(self.next_id, op.clone());
        ClientOp::Subscribe(op)
    }

    pub(super) fn unsubscribe(&mut self, topics: Vec<String>) -> ClientOp {
        self.next_id += 1;
        for topic in &topics {
            self.wanted.remove(topic);
        }
        self.continuity.unsubscribing(self.next_id);
        self.leaving.insert(self.next_id);
        ClientOp::Unsubscribe {
            id: Some(self.next_id),
            topics,
        }
    }

    fn is_held(&self, topic: &str) -> bool {
        self.held.keys().any(|held| covers(held, topic))
    }

    /// Takes what the session wrote.
    pub(super) fn take(&mut self, message: &ServerMessage<Tick>, truth: &Truth) {
        let verdict = self.continuity.take(message);
        assert_ne!(verdict, Verdict::Hole, "{message:?}");
        match message {
            ServerMessage::Welcome { streams, .. } => {
                self.epoch = streams.first().map(|stream| stream.e);
            }
            ServerMessage::Ack { id, ok, err } => {
                assert!(err.is_empty(), "{err:?}");
                let id = id.unwrap();
                if self.leaving.remove(&id) {
                    for left in ok {
                        self.held.remove(&left.c);
                        self.acknowledged.remove(&left.c);
                    }
                    self.left(truth);
                } else {
                    let op = self.asked.remove(&id).unwrap();
                    for accepted in ok {
                        self.acknowledged(&accepted.c, accepted.pos["T"], &op, truth);
                    }
                }
            }
            ServerMessage::Snap { c, s, .. } => self.snapshot(c, *s, verdict, truth),
            ServerMessage::D { c, s, p, .. } => self.tick(c, (*p, *s), verdict, truth),
            ServerMessage::Skip { i, .. } => {
                for skipped in i {
                    assert!(Truth::is_state(&skipped.0), "{skipped:?} is lossless");
                    self.declare(&skipped.0, skipped.1);
                }
            }
            ServerMessage::Gap {
                c, from, to, why, ..
            } => {
                if *why == GapReason::Retention {
                    for topic in truth.every_topic().filter(|topic| covers(c, topic)) {
                        let is_lost = truth.is_lost(topic, (*from, *to));
                        assert!(is_lost, "{message:?}: {topic} could be had");
                    }
                }
                if let Some(start) = self.starts.get_mut(c) {
                    *start = (*start).max(*to);
                }
                for topic in truth.every_topic().filter(|topic| covers(c, topic)) {
                    let pos = self.place(topic).pos;
                    let lost = truth.between(topic, pos, *from);
                    assert!(
                        lost == 0 || *to <= pos,
                        "{message:?} behind {pos}: {topic} is {}",
                        truth.describe(topic)
                    );
                    self.declare(topic, *to);
                }
            }
            ServerMessage::Reset { st, c, e, s } => {
                if st.is_some() {
                    self.epoch = Some(*e);
                    for place in self.places.values_mut() {
                        *place = Place {
                            pos: *s,
                            value: StreamSeq::ZERO,
                        };
                    }
                    for start in self.starts.values_mut() {
                        *start = *s;
                    }
                    self.cursor = StreamSeq::ZERO;
                    self.went_back = true;
                }
                if let Some(c) = c {
                    let place = self.place(c);
                    (place.pos, place.value) = (*s, StreamSeq::ZERO);
                }
            }
            ServerMessage::Hb { cur, .. } => {
                if let Some(cursor) = cur.get("T") {
                    self.advance(cursor.seq(), truth);
                }
            }
            ServerMessage::End { .. }
            | ServerMessage::Drain { .. }
            | ServerMessage::Pong { .. }
            | ServerMessage::Err { .. } => panic!("{message:?}"),
        }
    }

    /// What remains held of a topic that sent nothing yet began where its earliest string did.
    fn left(&mut self, truth: &Truth) {
        // The server may still send what only the string that left had asked for.
        self.went_back = true;
        let held = &self.held;
        self.places
            .retain(|topic, _| held.keys().any(|held| covers(held, topic)));
        for topic in truth.every_topic() {
            if !self.is_held(topic) {
                continue;
            }
            let covering = self.held.keys().filter(|held| covers(held, topic));
            let start = covering.filter_map(|held| self.starts.get(held)).min();
            let start = start.copied().unwrap_or_default();
            if self.continuity.position(topic).is_none() {
                self.declare(topic, start);
            }
        }
    }

    fn place(&mut self, topic: &str) -> &mut Place {
        assert!(self.is_held(topic), "{topic} is not held");
        self.places.entry(topic.to_owned()).or_default()
    }

    fn acknowledged(&mut self, text: &str, head: StreamSeq, op: &Subscribe, truth: &Truth) {
        let from = op.from.get("T").filter(|from| truth.knows(from));
        for topic in truth.every_topic() {
            if covers(text, topic) && !self.is_held(topic) {
                let asked = from.and_then(|from| {
                    let (own, shared) = (from.s.get(topic), from.s.get(text));
                    let place = own.or(shared).copied();
                    place.max(from.c.map(Cursor::seq))
                });
                let asked = asked.filter(|pos| *pos > StreamSeq::ZERO);
                let place = self.places.entry(topic.to_owned()).or_default();
                place.pos = place.pos.max(asked.unwrap_or(head));
            }
        }
        let asked = from.and_then(|from| {
            let own = from.s.get(text).copied();
            own.max(from.c.map(Cursor::seq))
        });
        let start = asked.filter(|pos| *pos > StreamSeq::ZERO).unwrap_or(head);
        self.acknowledged.insert(text.to_owned());
        if self.held.insert(text.to_owned(), op.conflate).is_none() {
            self.starts.insert(text.to_owned(), start);
        }
    }

    fn snapshot(&mut self, topic: &str, s: StreamSeq, verdict: Verdict, truth: &Truth) {
        let place = self.place(topic);
        if verdict == Verdict::Deliver {
            assert!(s >= place.value, "{topic} {s} is older than what was seen");
            place.value = s;
            place.pos = place.pos.max(s);
        } else {
            assert!(s <= place.value, "{topic} {s} would be news");
        }
        assert!(truth.has(topic, s), "{topic} {s} was never published");
    }

    fn tick(
        &mut self,
        topic: &str,
        (p, s): (StreamSeq, StreamSeq),
        verdict: Verdict,
        truth: &Truth,
    ) {
        assert!(truth.has(topic, s), "{topic} {s} was never published");
        assert!(p < s);
        assert_eq!(
            truth.between(topic, p, s),
            0,
            "{topic}: p {p} s {s} is a lie: {}",
            truth.describe(topic)
        );
        let again = self.went_back;
        let place = self.place(topic);
        if s <= place.pos {
            assert!(again, "{topic} {s} came twice");
            if verdict == Verdict::Deliver {
                place.value = place.value.max(s);
            }
            return;
        }
        let lost = truth.between(topic, place.pos, s);
        assert_eq!(lost, 0, "{topic} lost {lost} between {} and {s}", place.pos);
        assert_eq!(
            verdict,
            Verdict::Deliver,
            "{topic} {s} behind {}",
            place.pos
        );
        *place = Place { pos: s, value: s };
    }

    fn declare(&mut self, topic: &str, to: StreamSeq) {
        let place = self.place(topic);
        place.pos = place.pos.max(to);
    }

    /// A cursor promises: all that it covers was delivered or declared.
    fn advance(&mut self, cursor: StreamSeq, truth: &Truth) {
        assert!(cursor >= self.cursor, "the cursor went back to {cursor}");
        self.cursor = cursor;
        for start in self.starts.values_mut() {
            *start = (*start).max(cursor);
        }
        for topic in truth.every_topic() {
            if self.is_held(topic) {
                let pos = self.place(topic).pos;
                let missing = truth.between(topic, pos, cursor.next());
                assert_eq!(
                    missing,
                    0,
                    "{topic}: {pos} is behind the cursor {cursor}: {}",
                    truth.describe(topic)
                );
                self.declare(topic, cursor);
            }
        }
    }

    /// What is still owed; `None` if every held topic is at its end.
    pub(super) fn owed(&mut self, truth: &Truth) -> Option<String> {
        if self.epoch != Some(truth.epoch) {
            return Some(format!(
                "{} is the history, not {:?}",
                truth.epoch, self.epoch
            ));
        }
        if !self.continuity.is_good() || !self.held.keys().eq(self.wanted.keys()) {
            return Some(format!(
                "{:?} is wanted, {:?} is held",
                self.wanted, self.held
            ));
        }
        truth.every_topic().find_map(|topic| {
            let (end, held) = (truth.last(topic), self.is_held(topic));
            let pos = self
                .places
                .get(topic)
                .map_or(StreamSeq::ZERO, |place| place.pos);
            (held && pos < end).then(|| format!("{topic} ends at {end}, the client is at {pos}"))
        })
    }
}
