//! What a client asks for, and the answer. A topic belongs to one stream, a pattern to all that can
//! have topics of it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Instant;

use schemas::topic::Selector;
use schemas::ws::{Accepted, ClientOp, ErrorCode, Refused, ServerMessage, Subscribe};

use super::hold::Taking;
use super::{Session, refusal};
use crate::index::Index;
use crate::store::{Known, Store};

/// The shared state that ops need besides the session; stores and indexes are by stream.
pub(crate) struct Reply<'a> {
    pub(crate) stores: &'a [Arc<Store>],
    pub(crate) indexes: &'a mut [Index],
    pub(crate) now: Instant,
}

/// A string that may be subscribed.
pub(super) struct Wanted {
    pub(super) text: String,
    pub(super) selector: Selector,
    /// It was not subscribed before.
    pub(super) is_new: bool,
    /// Of each stream whether it has, or can have, topics of it.
    streams: Vec<bool>,
}

impl Wanted {
    pub(super) fn is_of(&self, known: &Known) -> bool {
        self.streams
            .get(known.number.index())
            .copied()
            .unwrap_or(false)
    }
}

impl Session {
    /// Carries out one op.
    pub(crate) fn carry_out(&mut self, op: ClientOp, cx: &mut Reply<'_>) {
        match op {
            ClientOp::Subscribe(op) => self.subscribe(&op, cx),
            ClientOp::Unsubscribe { id, topics } => self.unsubscribe(id, topics, cx),
            ClientOp::List { id } => {
                let held = self.who.held_strings().map(str::to_owned);
                let mut ok: Vec<Accepted> = held.map(|c| accepted(c, BTreeMap::new())).collect();
                ok.sort_by(|a, b| a.c.cmp(&b.c));
                let err = Vec::new();
                self.say(&ServerMessage::Ack { id, ok, err });
            }
            ClientOp::Ping { id } => self.say(&ServerMessage::Pong { id }),
            ClientOp::Auth { id } => {
                let message = "this server is open: it asks for no credentials";
                self.say(&refusal(id, ErrorCode::BadRequest, message));
            }
        }
    }

    fn subscribe(&mut self, op: &Subscribe, cx: &mut Reply<'_>) {
        let known: Vec<_> = cx.stores.iter().map(|store| store.read()).collect();
        let known: Vec<&Known> = known.iter().map(|known| &**known).collect();
        let mut wanted = self.answer(op, &known);
        let Self { who, tracks, .. } = self;
        for ((track, known), index) in tracks.iter_mut().zip(&known).zip(&mut *cx.indexes) {
            let of_it = wanted.iter().filter(|wanted| wanted.is_of(known));
            track.take_births(who, known, of_it.map(|wanted| &wanted.selector), index);
        }
        for Wanted {
            text,
            selector,
            is_new,
            ..
        } in &mut wanted
        {
            *is_new = who.note(text, selector, op.conflate);
        }
        let names: Vec<&str> = known.iter().map(|known| &*known.stream).collect();
        let all = &known;
        for ((track, known), index) in tracks.iter_mut().zip(all).zip(&mut *cx.indexes) {
            let strays = strays(op, known, all);
            // Positions in other streams only, of which one is not here, or which must be for what this
            // one carries: what was theirs, is this one's now.
            let is_gone = op.from.keys().any(|name| !names.contains(&&**name));
            let mut of_it = wanted.iter().filter(|wanted| wanted.is_of(known));
            let is_meant = of_it.any(|wanted| !strays.contains(&*wanted.text));
            let is_renamed = is_gone || !op.from.is_empty() && is_meant;
            let base = track.base(who, (op, is_renamed), known);
            let mut cx = Taking {
                known,
                index,
                strays: &strays,
                now: cx.now,
            };
            for wanted in wanted.iter().filter(|wanted| wanted.is_of(known)) {
                track.take_up(who, (op, base), wanted, &mut cx);
            }
        }
    }

    /// Says which strings are subscribed, and where each stream is then; those that are.
    fn answer(&mut self, op: &Subscribe, known: &[&Known]) -> Vec<Wanted> {
        let parts = self.tracks.iter().zip(known);
        let heads: Vec<_> = parts
            .map(|(track, known)| (known.stream.to_string(), track.head(op, known)))
            .collect();
        let (mut ok, mut err, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
        let mut seen: HashSet<&str> = HashSet::new();
        let mut counts = (self.who.exact.len(), self.who.patterns.len());
        for text in op.topics.iter().filter(|text| seen.insert(text)) {
            match self.who.accept(text, &mut counts, known) {
                Ok((selector, streams)) => {
                    let of_it = heads.iter().zip(&streams).filter(|(_, is_of)| **is_of);
                    let pos = of_it.map(|(head, _)| head.clone()).collect();
                    ok.push(accepted(text.clone(), pos));
                    wanted.push(Wanted {
                        text: text.clone(),
                        selector,
                        is_new: false,
                        streams,
                    });
                }
                Err((code, message)) => err.push(Refused {
                    c: text.clone(),
                    code,
                    message,
                }),
            }
        }
        self.say(&ServerMessage::Ack { id: op.id, ok, err });
        wanted
    }

    fn unsubscribe(&mut self, id: Option<u64>, topics: Vec<String>, cx: &mut Reply<'_>) {
        let (mut ok, mut err, mut left) = (Vec::new(), Vec::new(), Vec::new());
        for text in topics {
            if !self.who.forget(&text) {
                let message = "this was not subscribed".to_owned();
                err.push(Refused {
                    c: text,
                    code: ErrorCode::BadRequest,
                    message,
                });
                continue;
            }
            for index in &mut *cx.indexes {
                index.leave(&text, self.who.id);
            }
            left.push(text.clone());
            ok.push(accepted(text, BTreeMap::new()));
        }
        if !left.is_empty() {
            let Self { who, tracks, .. } = self;
            let parts = tracks.iter_mut().zip(cx.stores).zip(&mut *cx.indexes);
            for ((track, store), index) in parts {
                track.let_go(who, &store.read(), &left, index);
            }
        }
        self.say(&ServerMessage::Ack { id, ok, err });
    }
}

/// The topics of a stream that the client knows by their positions in others, which do not have them.
fn strays<'a>(op: &'a Subscribe, known: &Known, all: &[&Known]) -> BTreeSet<&'a str> {
    let own = op.from.get(&*known.stream);
    let others = op.from.iter().map(|(name, from)| {
        let other = all.iter().find(|other| *other.stream == **name);
        (other, &from.s)
    });
    let named = others.flat_map(|(other, s)| {
        let is_there = move |text: &str| other.is_some_and(|of| of.venues.may_have(text));
        s.keys().filter(move |text| !is_there(text))
    });
    named
        .filter(|text| !text.contains(['*', '>']) && known.venues.may_have(text))
        .filter(|text| !own.is_some_and(|own| own.s.contains_key(*text)))
        .map(String::as_str)
        .collect()
}

const fn accepted(c: String, pos: BTreeMap<String, schemas::position::StreamSeq>) -> Accepted {
    Accepted { c, pos }
}
