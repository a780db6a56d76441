//! What a client knows of one stream, checked against what the stream really holds.

use std::collections::{BTreeMap, BTreeSet};

use schemas::continuity::Verdict;
use schemas::position::{Cursor, Epoch, StreamSeq};
use schemas::ws::{Accepted, Conflate, From, GapReason, Subscribe};

use super::covers;
use crate::session::tests::truth::{STREAMS, Truth};

/// Strings that are acknowledged, with their conflation.
pub(super) type Held = BTreeMap<String, Conflate>;

fn is_held(held: &Held, topic: &str) -> bool {
    held.keys().any(|held| covers(held, topic))
}

/// What the client knows of one topic.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// Everything up to here was delivered or declared, or lies before the subscription.
    pos: StreamSeq,
    /// The latest value.
    value: StreamSeq,
}

/// What the client knows of one stream.
#[derive(Debug, Default)]
pub(in crate::session::tests) struct Part {
    pub(in crate::session::tests) epoch: Option<Epoch>,
    places: BTreeMap<String, Place>,
    /// Where each string began, as far as is known since.
    starts: BTreeMap<String, StreamSeq>,
    pub(in crate::session::tests) cursor: StreamSeq,
    /// The client itself has asked to go back.
    pub(super) went_back: bool,
    /// It left a string without hearing of it: what only that one had asked for may still come.
    left_unheard: bool,
    /// It asked to go on where nothing can: nothing else may come before a reset.
    lost: bool,
    /// The same, of single topics.
    astray: BTreeSet<String>,
}

impl Part {
    /// The connection is gone; what these strings cover is known still.
    pub(super) fn disconnected(&mut self, kept: &BTreeSet<String>, has_left: bool) {
        self.left_unheard |= has_left;
        self.starts.retain(|text, _| kept.contains(text));
        self.places
            .retain(|topic, _| kept.iter().any(|text| covers(text, topic)));
        (self.cursor, self.lost) = (StreamSeq::ZERO, false);
        self.astray.clear();
    }

    /// Whoever holds nothing goes along with another history without a reset.
    pub(super) fn forget(&mut self) {
        self.places.clear();
        self.starts.clear();
    }

    /// Whether anything may be told of a topic but a reset.
    pub(super) fn may_go_on(&self, topic: &str) -> bool {
        !self.lost && !self.astray.contains(topic)
    }

    /// Whether a subscription goes on where nothing can.
    pub(super) fn expect_reset(&mut self, op: &Subscribe, truth: &Truth) {
        let is_void = match op.from.get(truth.name()) {
            Some(from) => Some(from.e) != self.epoch,
            None => op.from.keys().any(|name| !STREAMS.contains(&name.as_str())),
        };
        // Where the history is another one by now a reset comes, but perhaps not at once.
        self.lost |= is_void && !truth.is_past;
    }

    /// Where a string begins that is acknowledged, and all that it covers.
    pub(super) fn begin(
        &mut self,
        (text, head): (&str, StreamSeq),
        held: &Held,
        op: &Subscribe,
        truth: &Truth,
    ) {
        let named = op.from.get(truth.name());
        let from = named.filter(|from| truth.knows(from));
        let begins = |place: Option<StreamSeq>| {
            let asked = place.max(from?.c.map(Cursor::seq));
            asked.filter(|pos| *pos > StreamSeq::ZERO)
        };
        for topic in truth.every_topic().filter(|topic| covers(text, topic)) {
            let has = |from: &From| from.s.contains_key(topic);
            if !named.is_some_and(has) && op.from.values().any(has) && !truth.is_past {
                self.astray.insert(topic.to_owned());
            }
            if !is_held(held, topic) {
                let own = from.and_then(|from| from.s.get(topic).or(from.s.get(text)));
                self.declare(topic, begins(own.copied()).unwrap_or(head));
            }
        }
        if !held.contains_key(text) {
            let own = from.and_then(|from| from.s.get(text)).copied();
            let start = begins(own).unwrap_or(head);
            // Whoever had it before a connection went goes on where it began.
            self.starts.entry(text.to_owned()).or_insert(start);
        }
    }

    /// What remains held of a topic that sent nothing yet, as far as the rule knows, began where its
    /// earliest string did.
    pub(super) fn left(
        &mut self,
        texts: &[Accepted],
        (held, truth): (&Held, &Truth),
        is_known: impl Fn(&str) -> bool,
    ) {
        for left in texts {
            self.starts.remove(&left.c);
        }
        // The server may still send what only the string that left had asked for.
        self.went_back = true;
        self.places.retain(|topic, _| is_held(held, topic));
        self.astray.retain(|topic| is_held(held, topic));
        for topic in truth.every_topic().filter(|topic| is_held(held, topic)) {
            let covering = held.keys().filter(|held| covers(held, topic));
            let start = covering.filter_map(|held| self.starts.get(held)).min();
            let start = start.copied().unwrap_or_default();
            if !is_known(topic) {
                self.declare(topic, start);
            }
        }
    }

    /// All that was known is void.
    pub(super) fn void(&mut self, epoch: Epoch, origin: StreamSeq) {
        self.epoch = Some(epoch);
        for place in self.places.values_mut() {
            *place = Place {
                pos: origin,
                value: StreamSeq::ZERO,
            };
        }
        for start in self.starts.values_mut() {
            *start = origin;
        }
        self.cursor = StreamSeq::ZERO;
        (self.went_back, self.lost) = (true, false);
        self.astray.clear();
    }

    /// One topic begins anew.
    pub(super) fn restart(&mut self, topic: &str, pos: StreamSeq) {
        self.astray.remove(topic);
        let value = StreamSeq::ZERO;
        self.places.insert(topic.to_owned(), Place { pos, value });
    }

    fn place(&mut self, topic: &str) -> &mut Place {
        self.places.entry(topic.to_owned()).or_default()
    }

    fn pos(&self, topic: &str) -> StreamSeq {
        let place = self.places.get(topic);
        place.map_or(StreamSeq::ZERO, |place| place.pos)
    }

    pub(super) fn declare(&mut self, topic: &str, to: StreamSeq) {
        let place = self.place(topic);
        place.pos = place.pos.max(to);
    }

    pub(super) fn gap(
        &mut self,
        text: &str,
        (from, to): (StreamSeq, StreamSeq),
        why: GapReason,
        truth: &Truth,
    ) {
        if let Some(start) = self.starts.get_mut(text) {
            *start = to.max(*start);
        }
        for topic in truth.every_topic().filter(|topic| covers(text, topic)) {
            let is_lost = why != GapReason::Retention || truth.is_lost(topic, (from, to));
            assert!(is_lost, "{text} {from} to {to}: {topic} could be had");
            let pos = self.pos(topic);
            let lost = truth.between(topic, pos, from);
            assert!(
                lost == 0 || to <= pos,
                "{text} {from} to {to} behind {pos}: {topic} is {}",
                truth.describe(topic)
            );
            self.declare(topic, to);
        }
    }

    pub(super) fn snapshot(&mut self, topic: &str, s: StreamSeq, verdict: Verdict, truth: &Truth) {
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

    pub(super) fn tick(
        &mut self,
        topic: &str,
        (p, s): (StreamSeq, StreamSeq),
        (verdict, rule): (Verdict, Option<StreamSeq>),
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
        let (again, left_unheard) = (self.went_back, self.left_unheard);
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
        if left_unheard && verdict == Verdict::Drop && rule >= Some(s) {
            // By the rule the topic begins where the strings that are left do.
            self.declare(topic, s);
            return;
        }
        assert_eq!(
            verdict,
            Verdict::Deliver,
            "{topic} {s} behind {}",
            place.pos
        );
        *place = Place { pos: s, value: s };
    }

    /// A cursor promises: all that it covers was delivered or declared.
    pub(super) fn advance(&mut self, cursor: StreamSeq, held: &Held, truth: &Truth) {
        let before = std::mem::replace(&mut self.cursor, cursor);
        assert!(cursor >= before, "the cursor went back to {cursor}");
        assert!(!self.lost && self.astray.is_empty(), "{self:?}");
        for start in self.starts.values_mut() {
            *start = (*start).max(cursor);
        }
        for topic in truth.every_topic().filter(|topic| is_held(held, topic)) {
            let pos = self.pos(topic);
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

    /// What is still owed; `None` if every held topic is at its end.
    pub(super) fn owed(&self, held: &Held, truth: &Truth) -> Option<String> {
        if self.epoch != Some(truth.epoch) || self.lost || !self.astray.is_empty() {
            return Some(format!("{} is the history of {self:?}", truth.epoch));
        }
        let mut held = truth.every_topic().filter(|topic| is_held(held, topic));
        held.find_map(|topic| {
            let (end, pos) = (truth.last(topic), self.pos(topic));
            (pos < end).then(|| format!("{topic} ends at {end}, the client is at {pos}"))
        })
    }
}
