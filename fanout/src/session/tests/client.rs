//! A client that checks every message against what the streams really hold.

mod part;

use std::collections::{BTreeMap, BTreeSet};
use std::iter::zip;

use schemas::continuity::{Continuity, Verdict};
use schemas::position::{Cursor, Epoch};
use schemas::tick::Tick;
use schemas::topic::Pattern;
use schemas::ws::{Accepted, ClientOp, Conflate, Encoding, From, ServerMessage, Subscribe};

use super::truth::{STREAMS, Truth};
use part::{Held, Part};

/// By stream, what it really holds: the history that a client was told of last.
pub(super) type Truths<'a> = [&'a Truth; STREAMS.len()];

#[derive(Debug)]
pub(super) struct Client {
    pub(super) encoding: Encoding,
    pub(super) continuity: Continuity,
    pub(super) held: Held,
    /// Strings that the client wants, acknowledged or not.
    pub(super) wanted: BTreeMap<String, Conflate>,
    asked: BTreeMap<u64, Subscribe>,
    leaving: BTreeSet<u64>,
    /// Strings that were held, now or before the connection was lost.
    acknowledged: BTreeSet<String>,
    pub(super) parts: [Part; STREAMS.len()],
    /// Where all that is held goes on, by the latest promise for all of it; or nothing.
    pub(super) promised: BTreeMap<String, From>,
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
            held: BTreeMap::new(),
            wanted: BTreeMap::new(),
            asked: BTreeMap::new(),
            leaving: BTreeSet::new(),
            acknowledged: BTreeSet::new(),
            parts: Default::default(),
            promised: BTreeMap::new(),
            next_id: 0,
        }
    }

    /// A connection is gone: answers that were on their way never come.
    pub(super) fn disconnected(&mut self) {
        self.asked.clear();
        self.leaving.clear();
        // What only a string held that is not wanted any more was left, acknowledged or not.
        let wanted = &self.wanted;
        let before = self.acknowledged.len();
        self.acknowledged.retain(|text| wanted.contains_key(text));
        let has_left = self.acknowledged.len() < before;
        self.held.clear();
        let kept = &self.acknowledged;
        for part in &mut self.parts {
            part.disconnected(kept, has_left);
        }
    }

    /// Of streams where it goes on nowhere, it holds nothing.
    pub(super) fn forget_others(&mut self, from: &BTreeMap<String, From>) {
        for (name, part) in zip(STREAMS, &mut self.parts) {
            if !from.contains_key(name) {
                part.forget();
            }
        }
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
        for part in &mut self.parts {
            part.went_back |= !from.is_empty();
        }
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

    /// Whether everything it asked for was acknowledged.
    pub(super) fn is_answered(&self) -> bool {
        self.asked.is_empty() && self.leaving.is_empty()
    }

    /// Takes what the session wrote.
    pub(super) fn take(&mut self, message: &ServerMessage<Tick>, truths: Truths<'_>) {
        let verdict = self.continuity.take(message);
        assert_ne!(verdict, Verdict::Hole, "{message:?}");
        match message {
            ServerMessage::Welcome { streams, .. } => {
                for (part, stream) in zip(&mut self.parts, streams) {
                    part.epoch = Some(stream.e);
                }
            }
            ServerMessage::Ack { id, ok, err } => {
                assert!(err.is_empty(), "{err:?}");
                self.acknowledged(id.unwrap(), ok, truths);
            }
            ServerMessage::Snap { c, s, x, .. } => {
                let (part, truth) = self.part((c, *x), truths);
                part.snapshot(c, *s, verdict, truth);
            }
            ServerMessage::D { c, s, p, x, .. } => {
                let rule = self.continuity.position(c);
                let (part, truth) = self.part((c, *x), truths);
                part.tick(c, (*p, *s), (verdict, rule), truth);
            }
            ServerMessage::Skip { i, x } => {
                for skipped in i {
                    assert!(Truth::is_state(&skipped.0), "{skipped:?} is lossless");
                    let (part, _) = self.part((&skipped.0, *x), truths);
                    part.declare(&skipped.0, skipped.1);
                }
            }
            ServerMessage::Gap {
                c,
                from,
                to,
                why,
                x,
                ..
            } => {
                let at = usize::try_from(*x).unwrap();
                assert!(truths[at].may_have(c) && self.is_held(c), "{message:?}");
                self.parts[at].gap(c, (*from, *to), *why, truths[at]);
            }
            ServerMessage::Reset { st, c, e, s } => {
                self.promised.clear();
                if let Some(name) = st {
                    self.parts[place_of(name)].void(*e, *s);
                }
                if let Some(c) = c {
                    assert!(self.is_held(c), "{message:?}");
                    let at = truths.iter().position(|truth| truth.may_have(c));
                    self.parts[at.unwrap()].restart(c, *s);
                }
            }
            ServerMessage::Hb { cur, .. } => {
                for (name, cursor) in cur {
                    let at = place_of(name);
                    self.parts[at].advance(cursor.seq(), &self.held, truths[at]);
                }
            }
            ServerMessage::End { .. }
            | ServerMessage::Drain { .. }
            | ServerMessage::Pong { .. }
            | ServerMessage::Err { .. } => panic!("{message:?}"),
        }
    }

    /// What is known of the stream that something is told of, and what it really holds.
    fn part<'a>(&mut self, (topic, x): (&str, u32), truths: Truths<'a>) -> (&mut Part, &'a Truth) {
        assert!(self.is_held(topic), "{topic} is not held");
        let at = usize::try_from(x).unwrap();
        let (part, truth) = (&mut self.parts[at], truths[at]);
        assert!(truth.may_have(topic), "{topic} is not of {}", truth.name());
        assert!(part.may_go_on(topic), "{topic} goes on without a reset");
        (part, truth)
    }

    fn is_held(&self, text: &str) -> bool {
        self.held.contains_key(text) || self.held.keys().any(|held| covers(held, text))
    }

    fn acknowledged(&mut self, id: u64, ok: &[Accepted], truths: Truths<'_>) {
        let Self { held, parts, .. } = self;
        if self.leaving.remove(&id) {
            for left in ok {
                held.remove(&left.c);
                self.acknowledged.remove(&left.c);
            }
            for (part, truth) in zip(parts, truths) {
                part.left(ok, (held, truth), |topic| {
                    self.continuity.position(topic).is_some()
                });
            }
            return;
        }
        let op = self.asked.remove(&id).unwrap();
        for (part, truth) in zip(&mut *parts, truths) {
            part.expect_reset(&op, truth);
        }
        for accepted in ok {
            let text = &accepted.c;
            for (part, truth) in zip(&mut *parts, truths) {
                let head = accepted.pos.get(truth.name()).copied();
                assert_eq!(head.is_some(), truth.may_have(text), "{accepted:?}");
                if let Some(head) = head {
                    part.begin((text, head), held, &op, truth);
                }
            }
            self.acknowledged.insert(text.clone());
            held.insert(text.clone(), op.conflate);
        }
    }

    /// Takes what the session promises; a new promise is for all that is held now.
    pub(super) fn take_promise(&mut self, promise: Vec<(Epoch, Cursor)>, is_new: bool) {
        for (part, (epoch, cursor)) in zip(&self.parts, &promise) {
            assert_eq!((Some(*epoch), cursor.seq()), (part.epoch, part.cursor));
        }
        if is_new {
            let places = zip(STREAMS, promise).map(|(name, (e, cursor))| {
                let (c, s) = (Some(cursor), BTreeMap::new());
                (name.to_owned(), From { e, c, s })
            });
            self.promised = places.collect();
        }
    }

    /// What is still owed; `None` if every held topic is at its end.
    pub(super) fn owed(&self, truths: Truths<'_>) -> Option<String> {
        if !self.continuity.is_good() || !self.held.keys().eq(self.wanted.keys()) {
            return Some(format!(
                "{:?} is wanted, {:?} is held",
                self.wanted, self.held
            ));
        }
        zip(&self.parts, truths).find_map(|(part, truth)| part.owed(&self.held, truth))
    }
}

fn place_of(name: &str) -> usize {
    STREAMS.iter().position(|of| *of == name).unwrap()
}
