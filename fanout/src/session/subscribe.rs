//! Subscribing, unsubscribing, resuming: which topics a session holds, and from where.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use schemas::position::{Cursor, StreamSeq};
use schemas::topic::Selector;
use schemas::ws::{
    Accepted, ClientOp, Conflate, ErrorCode, From, GapReason, Refused, ServerMessage, Subscribe,
};

use super::{Covers, Held, Phase, Session, refusal};
use crate::index::Index;
use crate::store::{Known, Store, TopicId, TopicInfo};

/// Gives way to every conflation that was asked for.
const WIDEST: Conflate = Conflate::Millis(u32::MAX);

/// The positions that a client names belong to no history that is known here.
struct Void;

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

/// The shared state that ops need besides the session.
pub(crate) struct Reply<'a> {
    pub(crate) store: &'a Store,
    pub(crate) index: &'a mut Index,
    pub(crate) now: Instant,
}

impl Session {
    /// Carries out one op.
    pub(crate) fn carry_out(&mut self, op: ClientOp, cx: &mut Reply<'_>) {
        match op {
            ClientOp::Subscribe(op) => self.subscribe(&op, cx),
            ClientOp::Unsubscribe { id, topics } => self.unsubscribe(id, topics, cx),
            ClientOp::List { id } => {
                let strings = self.held_strings().map(str::to_owned);
                let mut ok: Vec<Accepted> = strings
                    .map(|c| Accepted {
                        c,
                        pos: BTreeMap::new(),
                    })
                    .collect();
                ok.sort_by(|a, b| a.c.cmp(&b.c));
                self.say(&ServerMessage::Ack {
                    id,
                    ok,
                    err: Vec::new(),
                });
            }
            ClientOp::Ping { id } => self.say(&ServerMessage::Pong { id }),
            ClientOp::Auth { id } => {
                let message = "this server is open: it asks for no credentials";
                self.say(&refusal(id, ErrorCode::BadRequest, message));
            }
        }
    }

    fn subscribe(&mut self, op: &Subscribe, cx: &mut Reply<'_>) {
        let (mut ok, mut err, mut accepted) = (Vec::new(), Vec::new(), Vec::new());
        let known = cx.store.read();
        // Of another history nothing is told yet: the reset, once it comes, voids all of this.
        let is_of = self.is_of(&known);
        // From the beginning is from where this replica can tell: the answer says where that is.
        let begin = if is_of && begins(op, cx.store) {
            known.origin()
        } else {
            self.applied
        };
        let pos: BTreeMap<String, StreamSeq> = [(cx.store.stream.clone(), begin)].into();
        let mut fresh: HashSet<&str> = HashSet::new();
        let (mut topics, mut patterns) = (self.exact.len(), self.patterns.len());
        for text in &op.topics {
            if fresh.contains(text.as_str()) {
                continue;
            }
            let counts = (&mut topics, &mut patterns);
            let is_new = !self.holds(text);
            match self.accept(text, is_new, counts) {
                Ok(selector) => {
                    fresh.insert(text);
                    ok.push(Accepted {
                        c: text.clone(),
                        pos: pos.clone(),
                    });
                    accepted.push((text.clone(), selector));
                }
                Err((code, message)) => err.push(Refused {
                    c: text.clone(),
                    code,
                    message,
                }),
            }
        }
        self.say(&ServerMessage::Ack { id: op.id, ok, err });
        let selectors = accepted.iter().map(|(_, selector)| selector);
        self.take_births(&known, selectors, cx.index);
        let from = if is_of {
            self.position(op, &known, cx.store)
        } else {
            Err(Void)
        };
        let voided = from.is_err();
        let from = from.ok().flatten();
        for (text, selector) in accepted {
            let fresh = match &selector {
                Selector::Topic(_) => self
                    .exact
                    .insert(text.as_str().into(), op.conflate)
                    .is_none(),
                Selector::Pattern(pattern) => {
                    let held = (pattern.clone(), op.conflate);
                    self.patterns.insert(text.as_str().into(), held).is_none()
                }
            };
            if let Some(from) = from {
                self.declare_trimmed(&known, cx.store, from, (&text, &selector));
            }
            let asked = |topic: &TopicInfo| match from {
                _ if voided => Start::Value,
                Some(from) => position_of(from, topic, &text).map_or(Start::Head, Start::Behind),
                None => Start::Head,
            };
            match selector {
                Selector::Topic(_) => match known.topic(&text) {
                    Some(topic) => self.hold(&known, topic, op, asked(topic), cx),
                    None if fresh => cx.index.await_birth(&text, self.id),
                    None => {}
                },
                Selector::Pattern(pattern) => {
                    for topic in known.topics().filter(|topic| pattern.matches(&topic.text)) {
                        self.hold(&known, topic, op, asked(topic), cx);
                    }
                    if fresh {
                        cx.index.watch(pattern, self.id);
                    }
                }
            }
        }
    }

    /// Topics that are held already, and were born without this shard having heard of it: whatever
    /// is asked of them now, the client knows them from their beginning.
    fn take_births<'a>(
        &mut self,
        known: &Known,
        selectors: impl Iterator<Item = &'a Selector>,
        index: &mut Index,
    ) {
        if self.exact.is_empty() && self.patterns.is_empty() {
            return;
        }
        for selector in selectors {
            let exact = match selector {
                Selector::Topic(topic) => known.topic(&topic.to_string()),
                Selector::Pattern(_) => None,
            };
            let matching = known.topics().filter(|topic| match selector {
                Selector::Topic(_) => false,
                Selector::Pattern(pattern) => pattern.matches(&topic.text),
            });
            for topic in exact.into_iter().chain(matching) {
                if !self.topics.contains_key(&topic.id) && self.is_covered(&topic.text) {
                    // Whatever is still under way to this shard, expired or not, comes after it.
                    let start = known.origin().min(self.applied);
                    self.born(topic, start.next(), index);
                }
            }
        }
    }

    fn is_covered(&self, topic: &str) -> bool {
        self.exact.contains_key(topic) || self.covering(topic).next().is_some()
    }

    /// Positions before all that this replica knows: what may be missing is declared once for all
    /// topics of a subscription, whether they are known here or not.
    fn declare_trimmed(
        &mut self,
        known: &Known,
        store: &Store,
        from: &From,
        (text, selector): (&str, &Selector),
    ) {
        let origin = known.origin();
        let (own, cursor) = (from.s.get(text).copied(), from.c.map(Cursor::seq));
        // From the beginning: the answer said where that is.
        let told = own.is_none() && from.c == Some(Cursor::BEGINNING);
        let single: Vec<(&String, StreamSeq)> = match selector {
            Selector::Topic(_) => Vec::new(),
            Selector::Pattern(pattern) => {
                // A pattern among them is declared where it is subscribed.
                let named = from
                    .s
                    .iter()
                    .filter(|(topic, _)| !topic.contains(['*', '>']) && pattern.matches(topic));
                let behind =
                    named.map(|(topic, pos)| (topic, (*pos).max(cursor.unwrap_or_default())));
                behind.filter(|(_, pos)| *pos < origin).collect()
            }
        };
        if let Some(pos) = own.max(cursor).filter(|pos| *pos < origin && !told) {
            let lowest = single.iter().map(|(_, pos)| *pos).min();
            let pos = lowest.map_or(pos, |lowest| lowest.min(pos));
            self.declare_gap(known, store, text, (pos, origin), GapReason::Retention);
        } else {
            for (topic, pos) in single {
                self.declare_gap(known, store, topic, (pos, origin), GapReason::Retention);
            }
        }
    }

    fn holds(&self, text: &str) -> bool {
        self.exact.contains_key(text) || self.patterns.contains_key(text)
    }

    fn accept(
        &self,
        text: &str,
        is_new: bool,
        (topics, patterns): (&mut usize, &mut usize),
    ) -> Result<Selector, (ErrorCode, String)> {
        let selector: Selector = text.parse().map_err(|error: schemas::topic::TopicError| {
            let code = if error.is_impossible() {
                ErrorCode::UnknownTopic
            } else {
                ErrorCode::BadRequest
            };
            (code, describe(&error))
        })?;
        let (count, limit, what) = match selector {
            Selector::Topic(_) => (topics, self.limits.topics, "topics"),
            Selector::Pattern(_) => (patterns, self.limits.patterns, "patterns"),
        };
        if is_new {
            if *count >= limit {
                let message = format!("a connection may hold {limit} {what}");
                return Err((ErrorCode::TopicLimit, message));
            }
            *count += 1;
        }
        Ok(selector)
    }

    /// Where a subscription continues, if anywhere; an error if its positions are void.
    fn position<'a>(
        &mut self,
        op: &'a Subscribe,
        known: &Known,
        store: &Store,
    ) -> Result<Option<&'a From>, Void> {
        let (Some(from), Some(epoch)) = (op.from.get(&store.stream), known.epoch) else {
            return Ok(None);
        };
        if from.e != epoch || from.c.is_some_and(|cursor| !known.recognizes(cursor)) {
            self.void_all(known, store, epoch);
            return Err(Void);
        }
        Ok(Some(from))
    }

    /// Takes up a topic, or changes how it is held.
    fn hold(
        &mut self,
        known: &Known,
        topic: &Arc<TopicInfo>,
        op: &Subscribe,
        asked: Start,
        cx: &mut Reply<'_>,
    ) {
        let conflate = self.weakest(&topic.text, op.conflate);
        let state = topic.kind.is_state();
        let wants_snapshot = op.snapshot.unwrap_or(state);
        let start = if let Some(held) = self.topics.get_mut(&topic.id) {
            held.conflate = conflate;
            let now = (held.phase, held.floor);
            let Some(start) = self.adds(now, op, asked) else {
                return;
            };
            start
        } else {
            cx.index.add(topic.id, self.id);
            asked
        };
        if start == Start::Head {
            // A cursor may be written before the snapshot: nothing older may still be pending then.
            // Whoever is beyond his bound by this is closed at the next message.
            let _later = self.release(topic.id, cx.now);
        }
        let (phase, floor) = match start {
            Start::Behind(pos) => self.go_on(known, topic, op, pos, cx),
            Start::Value => (
                Phase::Snapshot {
                    from: known.origin(),
                    covers: Covers::Nothing,
                },
                StreamSeq::ZERO,
            ),
            Start::Head if wants_snapshot => {
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
        };
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
            },
        );
    }

    /// What a subscription adds to a topic that is held: what is owed already stays owed.
    fn adds(
        &self,
        (phase, floor): (Phase, StreamSeq),
        op: &Subscribe,
        asked: Start,
    ) -> Option<Start> {
        match (phase, asked) {
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
        known: &Known,
        topic: &Arc<TopicInfo>,
        op: &Subscribe,
        pos: StreamSeq,
        cx: &Reply<'_>,
    ) -> (Phase, StreamSeq) {
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
            self.declare_gap(
                known,
                cx.store,
                &topic.text,
                (pos, origin),
                GapReason::Retention,
            );
        }
        let pos = pos.max(origin);
        let last = last.unwrap_or(StreamSeq::ZERO);
        if pos <= self.applied && last <= pos {
            return (Phase::Live, pos);
        }
        if self.exceeds_budget(known, topic.id, pos) {
            let phase = Phase::Snapshot {
                from: pos,
                covers: Covers::Budget,
            };
            return (phase, StreamSeq::ZERO);
        }
        (Phase::CatchUp { pos, since: cx.now }, pos)
    }

    fn exceeds_budget(&mut self, known: &Known, topic: TopicId, pos: StreamSeq) -> bool {
        let count = known.count_after(topic, pos);
        if self.resumed + count > self.limits.resume_messages {
            return true;
        }
        self.resumed += count;
        self.metrics.resumed("ring");
        false
    }

    /// The weakest conflation of all subscriptions that a topic belongs to.
    fn weakest(&self, topic: &str, first: Conflate) -> Conflate {
        let strength = |conflate: &Conflate| match conflate {
            Conflate::None => 0,
            Conflate::Auto => 1,
            Conflate::Millis(millis) => millis.saturating_add(1),
        };
        let exact = self.exact.get(topic).copied();
        self.covering(topic)
            .chain(exact)
            .chain([first])
            .min_by_key(strength)
            .unwrap_or(first)
    }

    /// The conflations of the patterns that a topic belongs to.
    fn covering<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = Conflate> + 'a {
        let patterns = self.patterns.values();
        let matching = patterns.filter(|(pattern, _)| pattern.matches(topic));
        matching.map(|(_, conflate)| *conflate)
    }

    fn unsubscribe(&mut self, id: Option<u64>, topics: Vec<String>, cx: &mut Reply<'_>) {
        let (mut ok, mut err) = (Vec::new(), Vec::new());
        for text in topics {
            let held = self.exact.remove(text.as_str()).is_some()
                || self.patterns.remove(text.as_str()).is_some();
            if !held {
                let message = "this was not subscribed".to_owned();
                err.push(Refused {
                    c: text,
                    code: ErrorCode::BadRequest,
                    message,
                });
                continue;
            }
            if text.contains(['*', '>']) {
                cx.index.unwatch(&text, self.id);
            } else {
                cx.index.give_up(&text, self.id);
            }
            ok.push(Accepted {
                c: text,
                pos: BTreeMap::new(),
            });
        }
        if !ok.is_empty() {
            self.let_go(cx);
        }
        self.say(&ServerMessage::Ack { id, ok, err });
    }

    /// Drops every topic that no subscription covers any more.
    fn let_go(&mut self, cx: &mut Reply<'_>) {
        let known = cx.store.read();
        let text = |id: TopicId| known.info(id).map(|topic| topic.text.clone());
        let gone: Vec<TopicId> = self
            .topics
            .keys()
            .copied()
            .filter(|id| {
                let text = text(*id).unwrap_or_default();
                !self.is_covered(&text)
            })
            .collect();
        for id in gone {
            self.topics.remove(&id);
            self.forget_repair(id);
            self.take_slot(id);
            cx.index.remove(id, self.id);
        }
        let held = &self.topics;
        self.pulls.retain(|topic| held.contains_key(topic));
        let kept: Vec<(TopicId, Box<str>)> = self
            .topics
            .keys()
            .map(|id| (*id, text(*id).unwrap_or_default()))
            .collect();
        for (id, text) in kept {
            let conflate = self.weakest(&text, WIDEST);
            if let Some(held) = self.topics.get_mut(&id) {
                held.conflate = conflate;
            }
        }
    }

    /// A topic was born that this session waits for: everything of it is to come.
    pub(crate) fn born(&mut self, topic: &Arc<TopicInfo>, first: StreamSeq, index: &mut Index) {
        if self.topics.contains_key(&topic.id) {
            return;
        }
        index.add(topic.id, self.id);
        let conflate = self.weakest(&topic.text, WIDEST);
        // What retention took of it is declared on the way.
        let phase = self.owed.map_or(Phase::Live, |(pos, _)| Phase::CatchUp {
            pos,
            since: self.filled_at,
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

/// Whether a subscription asks for everything that is retained.
fn begins(op: &Subscribe, store: &Store) -> bool {
    let from = op.from.get(&store.stream);
    from.is_some_and(|from| from.c == Some(Cursor::BEGINNING))
}

fn describe(error: &schemas::topic::TopicError) -> String {
    use std::error::Error as _;
    error
        .source()
        .map_or_else(|| error.to_string(), ToString::to_string)
}
