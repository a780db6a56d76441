//! What clients do: come, subscribe, read and leave.

use std::array;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::zip;

use rand::RngExt as _;
use rand::seq::IndexedRandom as _;
use schemas::position::Cursor;
use schemas::tick::Tick;
use schemas::time::UnixNanos;
use schemas::ws::{ClientOp, Conflate, Encoding, From, ServerMessage, StreamInfo};

use super::{LIMITS, World};
use crate::index::ConnId;
use crate::session::tests::replica::{Replica, numbers};
use crate::session::tests::truth::STREAMS;
use crate::session::{Reply, Session};

const STRINGS: [&str; 14] = [
    "trade.x.A",
    "quote.x.A",
    "trade.x.B%2EC",
    "quote.x.D",
    "trade.y.E",
    "quote.y.A",
    "trade.x.*",
    "quote.x.*",
    "quote.y.*",
    "*.x.A",
    "*.x.>",
    "*.y.>",
    "trade.>",
    "*.*.A",
];
/// A stream that is nowhere.
const NOWHERE: &str = "V";

/// How a list of so many messages begins.
fn opening(encoding: Encoding, count: usize) -> Vec<u8> {
    match encoding {
        Encoding::Json => b"[".to_vec(),
        Encoding::MessagePack => {
            let count = u32::try_from(count).unwrap().to_be_bytes();
            [&[0xDD], count.as_slice()].concat()
        }
    }
}

impl World {
    pub(super) fn hang_up(&mut self, client: usize) {
        if let Some((replica, shard, id)) = self.clients[client].1.take() {
            self.trace
                .note(|| format!("{client}@{replica}.{shard} hangs up"));
            self.replicas[replica].shards[shard].part(id);
            self.clients[client].0.disconnected();
        }
    }

    /// Whoever comes to a replica that is not ready is turned away.
    pub(super) fn connect(&mut self, client: usize, (replica, shard): (usize, usize)) {
        if !self.replicas[replica].is_joined() {
            return;
        }
        // A shard takes a connection after everything that it was told before.
        self.dispatch((replica, shard), usize::MAX);
        self.next_conn += 1;
        let id = ConnId::new(self.next_conn, 0);
        let place = &mut self.replicas[replica];
        let epochs = place.stores.each_ref().map(|store| store.read().epoch);
        let place = &mut place.shards[shard];
        let (state, _) = &self.clients[client];
        let mut session = Session::new(
            (id, state.encoding),
            LIMITS.into(),
            self.metrics.clone(),
            place.applied,
            self.now,
        );
        for (number, epoch) in zip(numbers(), epochs) {
            session.begin(number, epoch);
        }
        let streams = zip(STREAMS, epochs).map(|(name, epoch)| StreamInfo {
            name: name.to_owned(),
            e: epoch.unwrap(),
        });
        session.say(&ServerMessage::Welcome {
            conn: "c".to_owned(),
            node: "n".to_owned(),
            streams: streams.collect(),
            limits: schemas::ws::Limits {
                topics: 1,
                patterns: 1,
                message_bytes: 1,
            },
            hb: 15,
        });
        place.sessions.insert(id, (session, client));
        self.clients[client].1 = Some((replica, shard, id));
        self.drain(client, 10_000);
        let state = &mut self.clients[client].0;
        let wanted = state.wanted.keys().cloned().collect();
        state.continuity.reconnecting(&wanted);
        let mut from = state.continuity.resume(None);
        state.forget_others(&from);
        match self.rng.random_range(0..10) {
            0 => self.go_astray(client, &mut from),
            // As whoever reads events does, who has no positions.
            1..3 if !state.promised.is_empty() => from = state.promised.clone(),
            _ => {}
        }
        let mut groups: Vec<(Conflate, Vec<String>)> = Vec::new();
        let state = &mut self.clients[client].0;
        for (text, conflate) in &state.wanted {
            match groups.iter_mut().find(|(of, _)| of == conflate) {
                Some((_, texts)) => texts.push(text.clone()),
                None => groups.push((*conflate, vec![text.clone()])),
            }
        }
        let ops: Vec<_> = groups
            .into_iter()
            .map(|(conflate, texts)| state.subscribe(texts, conflate, None, from.clone()))
            .collect();
        for op in ops {
            self.ask(client, op);
        }
    }

    /// Positions of a client that comes from where streams have other names, or other venues.
    fn go_astray(&mut self, client: usize, from: &mut BTreeMap<String, From>) {
        let (one, other) = if self.rng.random() { (1, 0) } else { (0, 1) };
        if self.rng.random() {
            let renamed = from.remove(STREAMS[one]);
            from.extend(renamed.map(|from| (NOWHERE.to_owned(), from)));
            return;
        }
        let e = self.clients[client].0.parts[other].epoch;
        let Some((places, e)) = from.get_mut(STREAMS[one]).zip(e) else {
            return;
        };
        let topics = places.s.keys().filter(|text| !text.contains(['*', '>']));
        let topics: Vec<_> = topics.cloned().collect();
        let Some(topic) = topics.choose(&mut self.rng) else {
            return;
        };
        let pos = places.s.remove(topic).unwrap();
        let (c, s) = (None, BTreeMap::new());
        let moved = from.entry(STREAMS[other].to_owned());
        let moved = moved.or_insert(From { e, c, s });
        moved.s.insert(topic.clone(), pos);
    }

    fn ask(&mut self, client: usize, op: ClientOp) {
        let Some((replica, shard, id)) = self.clients[client].1 else {
            return;
        };
        let Replica { stores, shards, .. } = &mut self.replicas[replica];
        let place = &mut shards[shard];
        self.trace.note(|| {
            let applied = place.applied;
            format!("{client}@{replica}.{shard} at {applied:?}: {op:?}")
        });
        let (session, _) = place.sessions.get_mut(&id).unwrap();
        let mut cx = Reply {
            stores,
            indexes: &mut place.indexes,
            now: self.now,
        };
        for (number, head) in zip(numbers(), place.applied) {
            session.applied(number, head);
        }
        session.carry_out(op, &mut cx);
    }

    pub(super) fn subscribe(&mut self, client: usize) {
        if self.clients[client].1.is_none() {
            let replica = self.rng.random_range(0..self.replicas.len());
            self.connect(client, (replica, 0));
            if self.clients[client].1.is_none() {
                return;
            }
        }
        let count = self.rng.random_range(1..3);
        let topics: BTreeSet<&str> = (0..count)
            .map(|_| *STRINGS.choose(&mut self.rng).unwrap())
            .collect();
        let topics = topics.into_iter().map(str::to_owned).collect();
        let conflate = match self.rng.random_range(0..4) {
            0 => Conflate::None,
            1 => Conflate::Millis(250),
            _ => Conflate::Auto,
        };
        let snapshot = [None, None, Some(true), Some(false)]
            .choose(&mut self.rng)
            .unwrap();
        let mut from = BTreeMap::new();
        let state = &self.clients[client].0;
        for (name, part) in zip(STREAMS, &state.parts) {
            if let Some(e) = part.epoch.filter(|_| self.rng.random_bool(0.2)) {
                let (c, s) = (Some(Cursor::BEGINNING), BTreeMap::new());
                from.insert(name.to_owned(), From { e, c, s });
            }
        }
        // A cursor says nothing of what is being subscribed or left.
        if self.rng.random_bool(0.05) && state.is_answered() {
            from = state.continuity.resume(None);
            self.go_astray(client, &mut from);
        }
        let state = &mut self.clients[client].0;
        // Nothing was promised of what is subscribed only now.
        state.promised.clear();
        let op = state.subscribe(topics, conflate, *snapshot, from);
        self.ask(client, op);
    }

    pub(super) fn unsubscribe(&mut self, client: usize) {
        let state = &mut self.clients[client].0;
        let wanted: Vec<String> = state.wanted.keys().cloned().collect();
        let Some(text) = wanted.choose(&mut self.rng) else {
            return;
        };
        if self.clients[client].1.is_none() {
            return;
        }
        let op = self.clients[client].0.unsubscribe(vec![text.clone()]);
        self.ask(client, op);
    }

    /// Reads at most `room` bytes from a socket.
    pub(super) fn drain(&mut self, client: usize, room: usize) -> usize {
        let Some((replica, shard, id)) = self.clients[client].1 else {
            return 0;
        };
        let Replica { stores, shards, .. } = &mut self.replicas[replica];
        let place = &mut shards[shard];
        let (session, _) = place.sessions.get_mut(&id).unwrap();
        for (number, head) in zip(numbers(), place.applied) {
            session.applied(number, head);
        }
        let encoding = self.clients[client].0.encoding;
        let (mut out, mut marks) = (opening(encoding, 0), Vec::new());
        let out_and_marks = (&mut out, Some(&mut marks));
        let filled = session.fill(stores, room, self.now, UnixNanos::new(1), out_and_marks);
        let Ok(count) = filled else {
            self.hang_up(client);
            return 0;
        };
        let opening = opening(encoding, count);
        out[..opening.len()].copy_from_slice(&opening);
        let messages: Vec<ServerMessage<Tick>> = match encoding {
            Encoding::Json => {
                out.push(b']');
                serde_json::from_slice(&out).unwrap()
            }
            Encoding::MessagePack => rmp_serde::from_slice(&out).unwrap(),
        };
        // Where everything is shared or nothing is, there is less to get wrong.
        if (1..count).contains(&marks.len()) {
            let deflated = self.deflater.message(encoding, (&out, 0), &marks).to_vec();
            assert!(self.inflater.inflate(deflated, 1 << 20) == Ok(out));
        }
        assert_eq!(messages.len(), count);
        let promise = session.promise();
        for message in &messages {
            self.trace.note(|| {
                let text = format!("{client}@{replica}.{shard} <- {message:?}");
                text.chars().take(160).collect()
            });
            let state = &mut self.clients[client].0;
            // The client lives in the histories that it was told of last.
            let truths = array::from_fn(|stream| {
                let (truths, epoch) = (&self.histories[stream], state.parts[stream].epoch);
                let own = truths.iter().rfind(|truth| Some(truth.epoch) == epoch);
                own.unwrap_or(&truths[0])
            });
            state.take(message, truths);
            self.checked += 1;
        }
        if let Some(promise) = promise {
            let is_new = messages.iter().any(|message| {
                matches!(message, ServerMessage::Hb { cur, .. } if cur.len() == STREAMS.len())
            });
            let state = &mut self.clients[client].0;
            state.take_promise(promise, is_new);
        }
        count
    }
}
