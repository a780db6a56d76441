//! Which topics of a stream a session holds, and from where each goes on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use schemas::position::{Cursor, StreamSeq};
use schemas::topic::Selector;
use schemas::ws::{Conflate, From, ServerMessage, Subscribe};

use super::subscribe::Wanted;
use super::subscriber::Subscriber;
use super::track::{Covers, Held, Phase, Track, declare_gap};
use crate::index::Index;
use crate::store::{Known, TopicId, TopicInfo};

/// Gives way to every conflation that was asked for.
const WIDEST: Conflate = Conflate::Millis(u32::MAX);

/// What an op says about where a stream goes on.
#[derive(Clone, Copy)]
pub(super) enum Base<'a> {
    /// Nothing: at its head.
    Head,
    /// Behind these positions.
    From(&'a From),
    /// The positions belong to no history that is known here.
    Void,
}

/// Where a topic begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// At the head.
    Head,
    /// Behind a position.
    Behind(StreamSeq),
    /// With its last value, of whatever kind: positions are void.
    Value,
}

/// What it takes to take up topics of a stream.
pub(super) struct Taking<'a> {
    pub(super) known: &'a Known,
    pub(super) index: &'a mut Index,
    /// Topics of it that the client knows by their positions in other streams.
    pub(super) strays: &'a BTreeSet<&'a str>,
    pub(super) now: Instant,
}

impl Track {
    /// Where a subscription begins unless it names positions.
    pub(super) fn head(&self, op: &Subscribe, known: &Known) -> StreamSeq {
        // Of another history nothing is told yet: the reset, once it comes, voids all of this.
        let is_of = self.is_of(known);
        // From the beginning is from where this replica can tell: the answer says where that is.
        if is_of && begins(op, known) {
            known.origin()
        } else {
            self.applied
        }
    }

    /// Topics that are held already, and were born without this shard having heard of it: whatever
    /// is asked of them now, the client knows them from their beginning.
    pub(super) fn take_births<'a>(
        &mut self,
        who: &Subscriber,
        known: &Known,
        selectors: impl Iterator<Item = &'a Selector>,
        index: &mut Index,
    ) {
        if who.exact.is_empty() && who.patterns.is_empty() {
            return;
        }
        for selector in selectors {
            for topic in known.select(selector) {
                if !self.topics.contains_key(&topic.id) && who.is_covered(&topic.text) {
                    self.born(who, topic, self.origin(known).next(), index);
                }
            }
        }
    }

    /// Where the stream continues; if the positions are void, the client is told so. They are if they
    /// may have been this stream's under another name.
    pub(super) fn base<'a>(
        &mut self,
        who: &mut Subscriber,
        (op, is_renamed): (&'a Subscribe, bool),
        known: &Known,
    ) -> Base<'a> {
        if !self.is_of(known) {
            return Base::Void;
        }
        let Some(epoch) = known.epoch else {
            return Base::Head;
        };
        let is_void = match op.from.get(&*known.stream) {
            Some(from) => from.e != epoch || from.c.is_some_and(|cursor| !known.recognizes(cursor)),
            None => is_renamed,
        };
        if is_void {
            self.void_all(who, known, epoch);
            return Base::Void;
        }
        op.from.get(&*known.stream).map_or(Base::Head, Base::From)
    }

    /// Takes up what a string names.
    pub(super) fn take_up(
        &mut self,
        who: &mut Subscriber,
        (op, base): (&Subscribe, Base<'_>),
        wanted: &Wanted,
        cx: &mut Taking<'_>,
    ) {
        let (known, text) = (cx.known, wanted.text.as_str());
        if !matches!(base, Base::Void) {
            void_strays(who, wanted, (cx, self.origin(known)));
        }
        if let Base::From(from) = base {
            self.declare_trimmed(who, from, wanted, cx);
        }
        match &wanted.selector {
            Selector::Topic(_) => match known.topic(text) {
                Some(topic) => self.take_one(who, (op, base), (topic, text), cx),
                None if wanted.is_new => cx.index.await_birth(text, who.id),
                None => {}
            },
            Selector::Pattern(pattern) => {
                for topic in known.select(&wanted.selector) {
                    self.take_one(who, (op, base), (topic, text), cx);
                }
                if wanted.is_new {
                    cx.index.watch(pattern.clone(), who.id);
                }
            }
        }
    }

    /// Positions before all that this replica knows: what may be missing is declared once for all
    /// topics of a subscription, whether they are known here or not, from the lowest of their positions.
    /// What begins anew has none.
    fn declare_trimmed(&self, who: &mut Subscriber, from: &From, wanted: &Wanted, cx: &Taking<'_>) {
        let (known, text) = (cx.known, wanted.text.as_str());
        if matches!(wanted.selector, Selector::Topic(_)) && cx.strays.contains(text) {
            return;
        }
        let origin = known.origin();
        let (own, cursor) = (from.s.get(text).copied(), from.c.map(Cursor::seq));
        // From the beginning: the answer said where that is.
        let told = own.is_none() && from.c == Some(Cursor::BEGINNING);
        let single: Vec<(&String, StreamSeq)> = match &wanted.selector {
            Selector::Topic(_) => Vec::new(),
            Selector::Pattern(pattern) => {
                // A pattern among them is declared where it is subscribed, a topic where it is carried.
                let named = from.s.iter().filter(|(topic, _)| {
                    !topic.contains(['*', '>'])
                        && pattern.matches(topic)
                        && known.venues.may_have(topic)
                });
                let behind =
                    named.map(|(topic, pos)| (topic, (*pos).max(cursor.unwrap_or_default())));
                behind.filter(|(_, pos)| *pos < origin).collect()
            }
        };
        if let Some(pos) = own.max(cursor).filter(|pos| *pos < origin && !told) {
            let lowest = single
                .iter()
                .map(|(_, pos)| *pos)
                .chain(self.pending(wanted, cx))
                .min();
            let pos = lowest.map_or(pos, |lowest| lowest.min(pos));
            declare_gap(who, known, text, (pos, origin));
        } else {
            for (topic, pos) in single {
                declare_gap(who, known, topic, (pos, origin));
            }
        }
    }

    /// The lowest position of topics that a pattern covers, and of which something is owed already, or
    /// that begin anew.
    fn pending(&self, wanted: &Wanted, cx: &Taking<'_>) -> Option<StreamSeq> {
        let Selector::Pattern(pattern) = &wanted.selector else {
            return None;
        };
        let owed = self.topics.iter().filter_map(|(topic, held)| {
            let pos = match held.phase {
                Phase::Live => return None,
                Phase::Snapshot { from: pos, .. } | Phase::CatchUp { pos, .. } => pos,
            };
            let text = &cx.known.info(*topic)?.text;
            pattern.matches(text).then_some(pos)
        });
        let mut strays = cx.strays.iter().filter(|topic| pattern.matches(topic));
        let anew = strays.next().map(|_| self.origin(cx.known));
        owed.chain(anew).min()
    }

    fn take_one(
        &mut self,
        who: &mut Subscriber,
        (op, base): (&Subscribe, Base<'_>),
        (topic, subscribed): (&Arc<TopicInfo>, &str),
        cx: &mut Taking<'_>,
    ) {
        let start = match base {
            Base::Void => Start::Value,
            _ if cx.strays.contains(&*topic.text) => Start::Value,
            Base::From(from) => {
                position_of(from, topic, subscribed).map_or(Start::Head, Start::Behind)
            }
            Base::Head => Start::Head,
        };
        self.hold(who, (topic, op), start, cx);
    }

    /// Takes up a topic, or changes how it is held.
    fn hold(
        &mut self,
        who: &mut Subscriber,
        (topic, op): (&Arc<TopicInfo>, &Subscribe),
        asked: Start,
        cx: &mut Taking<'_>,
    ) {
        let conflate = who.weakest(&topic.text, op.conflate);
        let start = if let Some(held) = self.topics.get_mut(&topic.id) {
            held.conflate = conflate;
            let now = (held.phase, held.floor);
            let Some(start) = self.adds(now, op, asked) else {
                return;
            };
            start
        } else {
            cx.index.add(topic.id, who.id);
            asked
        };
        if start == Start::Head {
            // A cursor may be written before the snapshot: nothing older may still be pending then.
            // Whoever is beyond his bound by this is closed at the next message.
            let _later = self.release(who, topic.id, cx.now);
        }
        let (phase, floor) = self.place(who, (topic, op), start, cx);
        self.take_slot(topic.id);
        self.forget_repair(topic.id);
        let pulls = phase != Phase::Live;
        let queued = self.topics.get(&topic.id).is_some_and(|held| held.queued);
        if pulls && !queued {
            self.pulls.push_back(topic.id);
        }
        self.topics.insert(
            topic.id,
            Held {
                phase,
                conflate,
                floor,
                queued: queued || pulls,
                unheard: false,
            },
        );
    }

    /// What is owed of a topic that begins there, and what must not be sent any more.
    fn place(
        &mut self,
        who: &mut Subscriber,
        (topic, op): (&Arc<TopicInfo>, &Subscribe),
        start: Start,
        cx: &Taking<'_>,
    ) -> (Phase, StreamSeq) {
        let state = topic.kind.is_state();
        match start {
            Start::Behind(pos) => self.go_on(who, (topic, op), pos, cx),
            Start::Value => (
                Phase::Snapshot {
                    from: self.origin(cx.known),
                    covers: Covers::Nothing,
                },
                StreamSeq::ZERO,
            ),
            Start::Head if op.snapshot.unwrap_or(state) => {
                let covers = if state { Covers::Nothing } else { Covers::Past };
                // Of a topic that is held, the client knows nothing higher than what it was sent.
                let held = self.topics.get(&topic.id);
                let from = held.map_or(self.applied, |held| match held.phase {
                    Phase::Live => held.floor,
                    Phase::Snapshot { from: pos, .. } | Phase::CatchUp { pos, .. } => pos,
                });
                // What comes meanwhile is in the value, or follows it.
                (Phase::Snapshot { from, covers }, StreamSeq::ZERO)
            }
            Start::Head => (Phase::Live, self.applied),
        }
    }

    /// What a subscription adds to a topic that is held: what is owed already stays owed.
    fn adds(
        &self,
        (phase, floor): (Phase, StreamSeq),
        op: &Subscribe,
        asked: Start,
    ) -> Option<Start> {
        match (phase, asked) {
            // The client knows no position of it any more.
            (_, Start::Value) => Some(asked),
            (Phase::Live, Start::Head) if op.snapshot == Some(true) => Some(Start::Head),
            (Phase::Live, Start::Behind(pos)) if pos < floor => Some(asked),
            (Phase::CatchUp { pos: owed, .. }, Start::Behind(pos)) if pos < owed => Some(asked),
            // The head of a replica that lags is behind what the client has.
            (Phase::CatchUp { pos: owed, .. }, Start::Head) if self.applied < owed => {
                Some(Start::Behind(self.applied))
            }
            (Phase::Snapshot { from, covers }, Start::Behind(pos)) => match covers {
                Covers::Past => (pos < from).then_some(asked),
                Covers::Nothing | Covers::Omissions
                    if op.conflate == Conflate::None || pos < from =>
                {
                    Some(Start::Behind(pos.min(from)))
                }
                Covers::Nothing | Covers::Omissions | Covers::Budget => None,
            },
            _ => None,
        }
    }

    /// How a topic goes on behind a position.
    fn go_on(
        &mut self,
        who: &mut Subscriber,
        (topic, op): (&Arc<TopicInfo>, &Subscribe),
        pos: StreamSeq,
        cx: &Taking<'_>,
    ) -> (Phase, StreamSeq) {
        let known = cx.known;
        let last = known.last(topic.id).map(|last| last.seq);
        let resumes_state = topic.kind.is_state() && op.conflate != Conflate::None;
        let origin = known.origin();
        if resumes_state && pos <= self.applied && last.is_some_and(|last| pos < last) {
            // Behind a gap there is nothing that could be told to have been left out.
            let is_first_look = pos < origin && op.snapshot != Some(false);
            let covers = if is_first_look {
                Covers::Nothing
            } else {
                Covers::Omissions
            };
            return (Phase::Snapshot { from: pos, covers }, StreamSeq::ZERO);
        }
        // A topic that is new was told by its subscription where it begins.
        if pos < origin && self.topics.contains_key(&topic.id) {
            declare_gap(who, known, &topic.text, (pos, origin));
        }
        let pos = pos.max(origin);
        let last = last.unwrap_or(StreamSeq::ZERO);
        if pos <= self.applied && last <= pos {
            return (Phase::Live, pos);
        }
        if !who.may_replay(known.count_after(topic.id, pos), cx.now) {
            let phase = Phase::Snapshot {
                from: pos,
                covers: Covers::Budget,
            };
            return (phase, StreamSeq::ZERO);
        }
        who.metrics.resumed("ring");
        (Phase::CatchUp { pos, since: cx.now }, pos)
    }

    /// Drops every topic that only these strings covered.
    pub(super) fn let_go(
        &mut self,
        who: &Subscriber,
        known: &Known,
        left: &[String],
        index: &mut Index,
    ) {
        let touched: Vec<Arc<TopicInfo>> = left
            .iter()
            .filter_map(|text| text.parse().ok())
            .flat_map(|selector: Selector| known.select(&selector).cloned().collect::<Vec<_>>())
            .filter(|topic| self.topics.contains_key(&topic.id))
            .collect();
        let mut is_queued = false;
        for topic in touched {
            if who.is_covered(&topic.text) {
                let conflate = who.weakest(&topic.text, WIDEST);
                if let Some(held) = self.topics.get_mut(&topic.id) {
                    held.conflate = conflate;
                }
                continue;
            }
            is_queued |= self.drop_topic(topic.id);
            index.remove(topic.id, who.id);
        }
        if is_queued {
            let held = &self.topics;
            self.pulls.retain(|topic| held.contains_key(topic));
        }
    }

    /// Lets go of a topic; whether it may be queued still.
    fn drop_topic(&mut self, topic: TopicId) -> bool {
        let was_queued = self.topics.remove(&topic).is_some_and(|held| held.queued);
        self.forget_repair(topic);
        self.take_slot(topic);
        was_queued
    }

    /// A topic was born that this session waits for: everything of it is to come.
    pub(super) fn born(
        &mut self,
        who: &Subscriber,
        topic: &Arc<TopicInfo>,
        first: StreamSeq,
        index: &mut Index,
    ) {
        if self.topics.contains_key(&topic.id) {
            return;
        }
        index.add(topic.id, who.id);
        let conflate = who.weakest(&topic.text, WIDEST);
        // What retention took of it is declared on the way.
        let phase = self.owed.map_or(Phase::Live, |(pos, _)| Phase::CatchUp {
            pos,
            since: who.filled_at,
        });
        let queued = phase != Phase::Live;
        if queued {
            self.pulls.push_back(topic.id);
        }
        let held = Held {
            phase,
            conflate,
            floor: first.prev(),
            queued,
            unheard: queued,
        };
        self.topics.insert(topic.id, held);
    }
}

/// Where a topic continues: its own position, or else that of the pattern that it is subscribed by;
/// the cursor of its stream, if that is higher.
fn position_of(from: &From, topic: &TopicInfo, subscribed: &str) -> Option<StreamSeq> {
    let own = from.s.get(&*topic.text).copied();
    let shared = from.s.get(subscribed).copied();
    own.or(shared).max(from.c.map(Cursor::seq))
}

/// Another stream carried these then, and what is behind their positions there is nothing to this
/// one: they begin anew, known here or not.
fn void_strays(who: &mut Subscriber, wanted: &Wanted, (cx, s): (&Taking<'_>, StreamSeq)) {
    let Some(e) = cx.known.epoch else { return };
    let named = cx.strays.iter().filter(|topic| match &wanted.selector {
        Selector::Topic(_) => **topic == wanted.text,
        Selector::Pattern(pattern) => pattern.matches(topic),
    });
    for topic in named {
        who.metrics.resets.inc();
        who.say(&ServerMessage::Reset {
            st: None,
            c: Some((*topic).to_owned()),
            e,
            s,
        });
    }
}

/// Whether a subscription asks for everything that is retained.
fn begins(op: &Subscribe, known: &Known) -> bool {
    let from = op.from.get(&*known.stream);
    from.is_some_and(|from| from.c == Some(Cursor::BEGINNING))
}
