//! Subscribing, unsubscribing, resuming: which topics a session holds, and from where.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use schemas::position::{Cursor, StreamSeq};
use schemas::topic::Selector;
use schemas::ws::{
    Accepted, ClientOp, Conflate, ErrorCode, From, GapReason, Refused, ServerMessage, Subscribe,
};

use super::{Held, Phase, Session, Subscription, gap_message, refusal};
use crate::index::Index;
use crate::store::{Known, Store, TopicId, TopicInfo};

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
                let strings = self.subscriptions.keys().map(ToString::to_string);
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
        let pos: BTreeMap<String, StreamSeq> = [(cx.store.stream.clone(), self.applied)].into();
        for text in &op.topics {
            match self.accept(text, op) {
                Ok(selector) => {
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
        let known = cx.store.read();
        let from = self.position(op, &known, cx.store);
        for (text, selector) in accepted {
            let pattern = match &selector {
                Selector::Topic(_) => None,
                Selector::Pattern(pattern) => Some(pattern.clone()),
            };
            let held = Subscription {
                conflate: op.conflate,
                pattern,
            };
            let fresh = self
                .subscriptions
                .insert(text.as_str().into(), held)
                .is_none();
            match selector {
                Selector::Topic(_) => match known.topic(&text) {
                    Some(topic) => self.hold(&known, topic, op, from, cx),
                    None if fresh => cx.index.await_birth(&text, self.id),
                    None => {}
                },
                Selector::Pattern(pattern) => {
                    for topic in known.topics().filter(|topic| pattern.matches(&topic.text)) {
                        self.hold(&known, topic, op, from, cx);
                    }
                    if fresh {
                        self.patterns += 1;
                        cx.index.watch(pattern, self.id);
                    }
                }
            }
        }
    }

    fn accept(&self, text: &str, op: &Subscribe) -> Result<Selector, (ErrorCode, String)> {
        let selector: Selector = text.parse().map_err(|error: schemas::topic::TopicError| {
            let code = if error.is_impossible() {
                ErrorCode::UnknownTopic
            } else {
                ErrorCode::BadRequest
            };
            (code, describe(&error))
        })?;
        if self.subscriptions.contains_key(text) {
            return Ok(selector);
        }
        let asked = |wanted: fn(&str) -> bool| {
            op.topics
                .iter()
                .take_while(|other| *other != text)
                .filter(|other| wanted(other))
                .count()
        };
        let is_pattern = matches!(selector, Selector::Pattern(_));
        let (held, limit, what) = if is_pattern {
            (
                self.patterns + asked(|text| text.contains(['*', '>'])),
                self.limits.patterns,
                "patterns",
            )
        } else {
            let exact = self.subscriptions.len() - self.patterns;
            (
                exact + asked(|text| !text.contains(['*', '>'])),
                self.limits.topics,
                "topics",
            )
        };
        if held >= limit {
            return Err((
                ErrorCode::TopicLimit,
                format!("a connection may hold {limit} {what}"),
            ));
        }
        Ok(selector)
    }

    /// Where a subscription continues; `None` starts at the head.
    fn position<'a>(
        &mut self,
        op: &'a Subscribe,
        known: &Known,
        store: &Store,
    ) -> Option<&'a From> {
        let from = op.from.get(&store.stream)?;
        let epoch = known.epoch?;
        if from.e != epoch || from.c.is_some_and(|cursor| !known.recognizes(cursor)) {
            self.metrics.resets.inc();
            self.say(&ServerMessage::Reset {
                st: Some(store.stream.clone()),
                c: None,
                e: epoch,
            });
            return None;
        }
        Some(from)
    }

    /// Takes up a topic, or changes how it is held.
    fn hold(
        &mut self,
        known: &Known,
        topic: &Arc<TopicInfo>,
        op: &Subscribe,
        from: Option<&From>,
        cx: &mut Reply<'_>,
    ) {
        let conflate = self.weakest(&topic.text, op.conflate);
        let is_new = !self.topics.contains_key(&topic.id);
        if is_new {
            cx.index.add(topic.id, self.id);
        } else if op.from.is_empty() && op.snapshot != Some(true) {
            if let Some(held) = self.topics.get_mut(&topic.id) {
                held.conflate = conflate;
            }
            return;
        }
        let state = topic.kind.is_state();
        let wants_snapshot = op.snapshot.unwrap_or(state);
        let asked = from.and_then(|from| position_of(from, &topic.text));
        let resumes_state = state && op.conflate != Conflate::None;
        let (phase, floor) = match asked {
            Some(pos) => {
                let pos = pos.max(known.first_seq().prev());
                let last = known
                    .last(topic.id)
                    .map_or(StreamSeq::ZERO, |last| last.seq);
                if pos <= self.applied && last <= pos {
                    (Phase::Live, pos)
                } else if resumes_state && pos <= self.applied {
                    (
                        Phase::Snapshot {
                            from: pos,
                            resumed: true,
                        },
                        StreamSeq::ZERO,
                    )
                } else if self.exceeds_budget(known, topic.id, pos) {
                    self.declare_budget(known, cx.store, topic, (pos, last));
                    (Phase::Live, last)
                } else {
                    (Phase::CatchUp { pos, since: cx.now }, pos)
                }
            }
            None if wants_snapshot && state => (
                Phase::Snapshot {
                    from: self.applied,
                    resumed: false,
                },
                StreamSeq::ZERO,
            ),
            None => {
                if wants_snapshot
                    && let Some(last) = known.last(topic.id).filter(|last| last.seq <= self.applied)
                {
                    let mut bytes = Vec::new();
                    last.snapshot(self.encoding, &mut bytes);
                    if !bytes.is_empty() {
                        self.outbox.push_control(bytes.into());
                    }
                }
                (Phase::Live, self.applied)
            }
        };
        self.slots.remove(&topic.id);
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

    fn exceeds_budget(&mut self, known: &Known, topic: TopicId, pos: StreamSeq) -> bool {
        let count = known.count_after(topic, pos);
        if self.resumed + count > self.limits.resume_messages {
            return true;
        }
        self.resumed += count;
        self.metrics.resumed.inc();
        false
    }

    fn declare_budget(
        &mut self,
        known: &Known,
        store: &Store,
        topic: &TopicInfo,
        (pos, last): (StreamSeq, StreamSeq),
    ) {
        self.metrics.gap(GapReason::Budget);
        if let Some(gap) = gap_message(known, store, topic.id, pos, last, GapReason::Budget) {
            self.say(&gap);
        }
        if let Some(last) = known.last(topic.id) {
            let mut bytes = Vec::new();
            last.snapshot(self.encoding, &mut bytes);
            if !bytes.is_empty() {
                self.outbox.push_control(bytes.into());
            }
        }
    }

    /// The weakest conflation of all subscriptions that a topic belongs to.
    fn weakest(&self, topic: &str, first: Conflate) -> Conflate {
        let strength = |conflate: &Conflate| match conflate {
            Conflate::None => 0,
            Conflate::Auto => 1,
            Conflate::Millis(millis) => millis.saturating_add(1),
        };
        let exact = self.subscriptions.get(topic).map(|held| held.conflate);
        let matching = self.covering(topic).map(|held| held.conflate);
        matching
            .chain(exact)
            .chain([first])
            .min_by_key(strength)
            .unwrap_or(first)
    }

    /// The patterns that a topic belongs to.
    fn covering<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = &'a Subscription> {
        let patterns = self.patterns;
        let held = self.subscriptions.values().filter(move |_| patterns > 0);
        held.filter(move |held| {
            held.pattern
                .as_ref()
                .is_some_and(|pattern| pattern.matches(topic))
        })
    }

    fn unsubscribe(&mut self, id: Option<u64>, topics: Vec<String>, cx: &mut Reply<'_>) {
        let (mut ok, mut err) = (Vec::new(), Vec::new());
        for text in topics {
            if self.subscriptions.remove(text.as_str()).is_none() {
                let message = "this was not subscribed".to_owned();
                err.push(Refused {
                    c: text,
                    code: ErrorCode::BadRequest,
                    message,
                });
                continue;
            }
            if text.contains(['*', '>']) {
                self.patterns = self.patterns.saturating_sub(1);
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
                !self.subscriptions.contains_key(&text) && self.covering(&text).next().is_none()
            })
            .collect();
        for id in gone {
            self.topics.remove(&id);
            self.slots.remove(&id);
            cx.index.remove(id, self.id);
        }
    }

    /// A topic was born that this session waits for: everything of it is to come.
    pub(crate) fn born(&mut self, topic: &Arc<TopicInfo>, first: StreamSeq, index: &mut Index) {
        if self.topics.contains_key(&topic.id) {
            return;
        }
        index.add(topic.id, self.id);
        let widest = Conflate::Millis(u32::MAX);
        let conflate = self.weakest(&topic.text, widest);
        let held = Held {
            phase: Phase::Live,
            conflate,
            floor: first.prev(),
            queued: false,
        };
        self.topics.insert(topic.id, held);
    }
}

/// Where a topic continues: the cursor of its stream or its own position, whichever is higher.
fn position_of(from: &From, topic: &str) -> Option<StreamSeq> {
    let own = from.s.get(topic).copied();
    own.max(from.c.map(Cursor::seq))
}

fn describe(error: &schemas::topic::TopicError) -> String {
    use std::error::Error as _;
    error
        .source()
        .map_or_else(|| error.to_string(), ToString::to_string)
}
