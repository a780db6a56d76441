//! A stream, replicas that read it at their own pace, and clients that move between them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use schemas::codec::to_msgpack;
use schemas::id::{Symbol, Venue};
use schemas::position::{Cursor, Epoch, StreamSeq};
use schemas::subject;
use schemas::tick::{Head, Quote, Side, Tick, Trade};
use schemas::time::UnixNanos;
use schemas::ws::{Conflate, Encoding, From, ServerMessage, StreamInfo};

use super::client::Client;
use super::{Trace, note};
use crate::index::{ConnId, Index};
use crate::metrics::Metrics;
use crate::repair::Page;
use crate::session::{Ask, Limits, Reply, Session};
use crate::store::{Live, Store, TopicInfo};

const SYMBOLS: [&str; 4] = ["A", "B.C", "D", "E"];
const STRINGS: [&str; 9] = [
    "trade.x.A",
    "quote.x.A",
    "trade.x.B%2EC",
    "quote.x.D",
    "trade.x.E",
    "trade.x.*",
    "quote.x.*",
    "*.x.A",
    "*.x.>",
];
pub(super) const LIMITS: Limits = Limits {
    topics: 100,
    patterns: 100,
    message_bytes: 1_000,
    unsent_bytes: 4_000,
    unsent_age: Duration::from_secs(5),
    resume_messages: 200,
};

struct Message {
    seq: StreamSeq,
    subject: String,
    payload: Vec<u8>,
    time: UnixNanos,
}

/// What the stream really holds, and held.
pub(super) struct Truth {
    epoch: Epoch,
    /// Everything of this epoch, trimmed or not.
    messages: Vec<Message>,
    by_topic: BTreeMap<String, BTreeSet<u64>>,
    /// What is no tick.
    garbage: BTreeSet<u64>,
    first: StreamSeq,
}

impl Truth {
    fn new(generation: u32) -> Self {
        let topics = SYMBOLS.iter().flat_map(|symbol| {
            ["trade", "quote"].map(|kind| format!("{kind}.x.{}", symbol.replace('.', "%2E")))
        });
        Self {
            epoch: Epoch::new(UnixNanos::new(5), generation),
            messages: Vec::new(),
            by_topic: topics.map(|topic| (topic, BTreeSet::new())).collect(),
            garbage: BTreeSet::new(),
            first: StreamSeq::new(1),
        }
    }

    pub(super) fn every_topic(&self) -> impl Iterator<Item = &str> {
        self.by_topic.keys().map(String::as_str)
    }

    pub(super) fn is_state(topic: &str) -> bool {
        topic.starts_with("quote.")
    }

    pub(super) fn has(&self, topic: &str, seq: StreamSeq) -> bool {
        self.by_topic[topic].contains(&seq.get())
    }

    /// How many messages of a topic lie between, both ends not counted.
    pub(super) fn between(&self, topic: &str, after: StreamSeq, before: StreamSeq) -> usize {
        if before.get() <= after.get() + 1 {
            return 0;
        }
        self.by_topic[topic]
            .range(after.get() + 1..before.get())
            .count()
    }

    pub(super) fn last(&self, topic: &str) -> StreamSeq {
        StreamSeq::new(self.by_topic[topic].last().copied().unwrap_or(0))
    }

    /// Whether retention has removed this, or it is no tick.
    pub(super) fn is_lost(&self, topic: &str, (from, to): (StreamSeq, StreamSeq)) -> bool {
        // A value that is no tick takes those with it that it stands for.
        let is_garbage = |seq: u64| self.garbage.contains(&seq);
        let mut there = self.by_topic[topic].range(from.get()..=to.get());
        is_garbage(to.get()) || there.all(|seq| *seq < self.first.get() || is_garbage(*seq))
    }

    /// Reads a page as Direct Get does, from a replica that knows everything up to `known`.
    fn page(
        &self,
        topic: &Arc<TopicInfo>,
        after: StreamSeq,
        (known, limit): (StreamSeq, usize),
    ) -> Page {
        let trimmed = (self.first > after.next()).then(|| self.first.prev());
        let behind = after.max(self.first.prev());
        let there = self.messages.iter().filter(|message| {
            message.seq > behind && message.seq <= known && *message.subject == *topic.subject
        });
        let found: Vec<_> = there
            .take(limit)
            .map(|message| (message.seq, message.time, message.payload.clone().into()))
            .collect();
        let is_full = found.len() == limit;
        Page::new(topic, after, trimmed, found, is_full)
    }

    pub(super) fn knows(&self, from: &From) -> bool {
        from.e == self.epoch
    }

    fn head(&self) -> StreamSeq {
        self.messages
            .last()
            .map_or(StreamSeq::ZERO, |message| message.seq)
    }

    fn publish(&mut self, rng: &mut StdRng) {
        let seq = self.head().next();
        let symbol = SYMBOLS.choose(rng).unwrap();
        let time = UnixNanos::new(i64::try_from(seq.get()).unwrap() * 1_000);
        let head = Head::new(Venue::new("x").unwrap(), Symbol::new(symbol).unwrap(), time);
        let tick: Tick = if rng.random_bool(0.4) {
            Trade {
                head,
                id: seq.to_string(),
                price: "1.50".parse().unwrap(),
                size: "2".parse().unwrap(),
                side: Side::Buy,
                conditions: None,
            }
            .into()
        } else {
            Quote {
                head,
                bid: Some("1.49".parse().unwrap()),
                bid_size: None,
                ask: None,
                ask_size: None,
            }
            .into()
        };
        let topic = tick.topic();
        self.by_topic
            .get_mut(&topic.to_string())
            .unwrap()
            .insert(seq.get());
        // Now and then something that is no tick: it is declared, and nothing stops.
        let payload = if rng.random_bool(0.02) {
            self.garbage.insert(seq.get());
            vec![0xC1]
        } else {
            to_msgpack(&tick).unwrap()
        };
        self.messages.push(Message {
            seq,
            subject: subject::stored(&topic),
            payload,
            time,
        });
    }
}

/// One fanout process, with one shard.
struct Replica {
    store: Store,
    index: Index,
    /// Read, but not handed to sessions yet.
    pending: Vec<Arc<Live>>,
    read: usize,
    applied: StreamSeq,
    sessions: BTreeMap<ConnId, (Session, usize)>,
}

impl Replica {
    /// Joins the stream: whole, or with last values up to where it ends now.
    fn join(truth: &Truth, ring: usize, whole: bool) -> Self {
        let store = Store::new("T", ring);
        let head = truth.head();
        let joined = if whole { truth.first.prev() } else { head };
        let mut replica = Self {
            store,
            index: Index::default(),
            pending: Vec::new(),
            read: 0,
            applied: StreamSeq::ZERO,
            sessions: BTreeMap::new(),
        };
        replica
            .store
            .write()
            .begin(truth.epoch, truth.first, joined);
        replica.read_all(truth, joined);
        replica.joined(truth);
        replica
    }

    fn read_all(&mut self, truth: &Truth, joined: StreamSeq) {
        let mut lasts: BTreeMap<&str, u64> = BTreeMap::new();
        for message in &truth.messages {
            lasts.insert(&message.subject, message.seq.get());
        }
        let mut known = self.store.write();
        for message in &truth.messages {
            let is_last = lasts.get(message.subject.as_str()) == Some(&message.seq.get());
            if message.seq >= truth.first && (message.seq > joined || is_last) {
                known.apply(
                    &message.subject,
                    message.seq,
                    message.time,
                    &message.payload,
                );
            }
            known.head = known.head.max(message.seq);
            known.head_time = message.time;
        }
        self.read = truth.messages.len();
    }

    fn joined(&mut self, truth: &Truth) {
        self.pending.clear();
        let known = self.store.read();
        for topic in known.topics().skip(self.index.seen()) {
            if self.index.is_born(topic.id.index()) {
                for id in self.index.claim(topic) {
                    if let Some((session, _)) = self.sessions.get_mut(&id) {
                        session.born(topic, truth.head(), &mut self.index);
                    }
                }
            }
        }
        self.applied = known.head;
    }

    /// The history was rewound: as the feeder and the shards do it.
    fn rewind(&mut self, truth: &Truth) {
        {
            let mut known = self.store.write();
            known.forget();
            known.begin(truth.epoch, truth.first, truth.first.prev());
        }
        self.read_all(truth, truth.first.prev());
        self.joined(truth);
        for (session, _) in self.sessions.values_mut() {
            session.reset(&self.store.read(), &self.store, truth.epoch);
            session.applied(self.applied);
        }
    }

    fn read(&mut self, truth: &Truth, count: usize) {
        let mut known = self.store.write();
        for message in truth.messages.iter().skip(self.read).take(count) {
            let live = known.apply(
                &message.subject,
                message.seq,
                message.time,
                &message.payload,
            );
            known.head = message.seq;
            known.head_time = message.time;
            self.pending.extend(live);
            self.read += 1;
        }
    }

    /// Hands messages to sessions; those that must be closed as slow.
    fn dispatch(&mut self, now: Instant) -> Vec<ConnId> {
        let mut slow = Vec::new();
        for live in std::mem::take(&mut self.pending) {
            if self.index.is_born(live.topic.id.index()) {
                for id in self.index.claim(&live.topic) {
                    if let Some((session, _)) = self.sessions.get_mut(&id) {
                        session.born(&live.topic, live.seq, &mut self.index);
                    }
                }
            }
            let mut reached = BTreeSet::new();
            for id in self.index.subscribers(live.topic.id) {
                assert!(reached.insert(*id), "a message goes to a connection once");
                let Some((session, _)) = self.sessions.get_mut(id) else {
                    continue;
                };
                if !slow.contains(id) && session.deliver(&live, now).is_err() {
                    slow.push(*id);
                }
                assert!(slow.contains(id) || session.outbox.live_bytes() <= LIMITS.unsent_bytes);
            }
            self.applied = live.seq;
        }
        for (session, _) in self.sessions.values_mut() {
            session.applied(self.applied);
        }
        slow
    }

    fn part(&mut self, id: ConnId) -> Option<usize> {
        let (session, client) = self.sessions.remove(&id)?;
        for topic in session.held_topics() {
            self.index.remove(topic, id);
        }
        for text in session.held_strings() {
            if text.contains(['*', '>']) {
                self.index.unwatch(text, id);
            } else {
                self.index.give_up(text, id);
            }
        }
        Some(client)
    }
}

pub(super) struct World {
    rng: StdRng,
    truth: Truth,
    replicas: Vec<Replica>,
    clients: Vec<(Client, Option<(usize, ConnId)>)>,
    /// What sessions asked the broker for, and what it answered; nothing of it has arrived.
    answers: Vec<(usize, ConnId, Ask, Arc<Page>)>,
    now: Instant,
    metrics: Metrics,
    next_conn: u64,
    checked: u64,
    trace: Trace,
}

impl World {
    pub(super) fn new(seed: u64, trace: &Trace) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut truth = Truth::new(0);
        for _ in 0..rng.random_range(0..40) {
            truth.publish(&mut rng);
        }
        let replicas = [3_000, 20_000].map(|ring| Replica::join(&truth, ring, rng.random()));
        let clients = Encoding::ALL.map(|encoding| (Client::new(encoding), None));
        Self {
            rng,
            truth,
            replicas: replicas.into(),
            clients: clients.into(),
            answers: Vec::new(),
            now: Instant::now(),
            metrics: Metrics::new(&mut Registry::default()),
            next_conn: 0,
            checked: 0,
            trace: trace.clone(),
        }
    }

    /// How many messages clients have checked.
    pub(super) const fn checked(&self) -> u64 {
        self.checked
    }

    pub(super) fn step(&mut self) {
        let client = self.rng.random_range(0..self.clients.len());
        let replica = self.rng.random_range(0..self.replicas.len());
        match self.rng.random_range(0..100) {
            0..25 => {
                for _ in 0..self.rng.random_range(1..12) {
                    self.truth.publish(&mut self.rng);
                }
            }
            25..30 => self.ask_broker(client),
            30..35 => self.answer(),
            35..45 => {
                let count = self.rng.random_range(1..20);
                self.replicas[replica].read(&self.truth, count);
            }
            45..60 => self.dispatch(replica),
            60..78 => {
                let room = self.rng.random_range(100..3_000);
                self.drain(client, room);
            }
            78..86 => self.subscribe(client),
            86..90 => self.unsubscribe(client),
            90..94 => {
                self.hang_up(client);
                self.connect(client, replica);
            }
            94..98 => self.now += Duration::from_millis(self.rng.random_range(1..3_000)),
            98 => self.restart(replica),
            _ => self.rare(),
        }
    }

    /// The broker answers what a session asked for; the answer is under way.
    fn ask_broker(&mut self, client: usize) {
        let Some((replica, id)) = self.clients[client].1 else {
            return;
        };
        let place = &mut self.replicas[replica];
        let (session, _) = place.sessions.get_mut(&id).unwrap();
        while let Some(ask) = session.ask() {
            let topic = place.store.read().info(ask.topic).cloned().unwrap();
            let head = self.truth.head();
            let known = match self.rng.random_range(0..3) {
                0 => StreamSeq::new(self.rng.random_range(0..=head.get())),
                _ => head,
            };
            let limit = self.rng.random_range(1..20);
            let mut page = self.truth.page(&topic, ask.after, (known, limit));
            if page.end == ask.after {
                // It lags: it is asked again until it has something.
                page = self.truth.page(&topic, ask.after, (head, limit));
            }
            self.answers.push((replica, id, ask, Arc::new(page)));
        }
    }

    /// One answer arrives.
    fn answer(&mut self) {
        if self.answers.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.answers.len());
        let (replica, id, ask, page) = self.answers.swap_remove(at);
        if let Some((session, client)) = self.replicas[replica].sessions.get_mut(&id) {
            note(&self.trace, || {
                format!("{client}@{replica}: {ask:?} {page:?}")
            });
            session.answered(&ask, page);
        }
    }

    fn rare(&mut self) {
        if self.rng.random_bool(0.7) {
            let head = self.truth.head().get();
            let first = self.truth.first.get();
            if head > first {
                self.truth.first = StreamSeq::new(self.rng.random_range(first..head));
            }
            return;
        }
        let generation = self.truth.epoch.generation() + 1;
        self.truth = Truth::new(generation);
        for _ in 0..self.rng.random_range(0..10) {
            self.truth.publish(&mut self.rng);
        }
        // What was on the wire arrives before the reset: the client reads it against the old truth,
        // so connections are fresh here; sessions that stay are reset.
        for client in 0..self.clients.len() {
            if self.rng.random_bool(0.5) {
                self.hang_up(client);
            } else if let Some((replica, id)) = self.clients[client].1 {
                let (session, _) = self.replicas[replica].sessions.get_mut(&id).unwrap();
                while session.outbox.pop().is_some() {}
                self.hang_up(client);
            }
        }
        for replica in &mut self.replicas {
            replica.rewind(&self.truth);
        }
    }

    fn restart(&mut self, replica: usize) {
        note(&self.trace, || format!("restart of {replica}"));
        for client in 0..self.clients.len() {
            if self.clients[client].1.is_some_and(|(of, _)| of == replica) {
                self.hang_up(client);
            }
        }
        let ring = self.rng.random_range(1_000..30_000);
        self.replicas[replica] = Replica::join(&self.truth, ring, self.rng.random());
    }

    fn dispatch(&mut self, replica: usize) {
        let slow = self.replicas[replica].dispatch(self.now);
        for id in slow {
            let (_, client) = self.replicas[replica].sessions[&id];
            self.hang_up(client);
        }
    }

    fn hang_up(&mut self, client: usize) {
        if let Some((replica, id)) = self.clients[client].1.take() {
            note(&self.trace, || format!("{client}@{replica} hangs up"));
            self.replicas[replica].part(id);
            self.clients[client].0.disconnected();
        }
    }

    fn connect(&mut self, client: usize, replica: usize) {
        self.next_conn += 1;
        let id = ConnId(self.next_conn);
        let place = &mut self.replicas[replica];
        let (state, _) = &self.clients[client];
        let mut session = Session::new(
            id,
            state.encoding,
            LIMITS,
            self.metrics.clone(),
            place.applied,
            self.now,
        );
        let epoch = place.store.read().epoch.unwrap();
        session.say(&ServerMessage::Welcome {
            conn: "c".to_owned(),
            node: "n".to_owned(),
            streams: vec![StreamInfo {
                name: "T".to_owned(),
                e: epoch,
            }],
            limits: schemas::ws::Limits {
                topics: 1,
                patterns: 1,
                message_bytes: 1,
            },
            hb: 15,
        });
        place.sessions.insert(id, (session, client));
        self.clients[client].1 = Some((replica, id));
        self.drain(client, 10_000);
        let state = &mut self.clients[client].0;
        let wanted = state.wanted.keys().cloned().collect();
        state.continuity.reconnecting(&wanted);
        let from = state.continuity.resume(None);
        if from.is_empty() {
            state.forget();
        }
        let mut groups: Vec<(Conflate, Vec<String>)> = Vec::new();
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

    fn ask(&mut self, client: usize, op: schemas::ws::ClientOp) {
        let Some((replica, id)) = self.clients[client].1 else {
            return;
        };
        let place = &mut self.replicas[replica];
        note(&self.trace, || {
            format!("{client}@{replica} at {}: {op:?}", place.applied)
        });
        let (session, _) = place.sessions.get_mut(&id).unwrap();
        let mut cx = Reply {
            store: &place.store,
            index: &mut place.index,
            now: self.now,
        };
        session.applied(place.applied);
        session.carry_out(op, &mut cx);
    }

    fn subscribe(&mut self, client: usize) {
        if self.clients[client].1.is_none() {
            let replica = self.rng.random_range(0..self.replicas.len());
            self.connect(client, replica);
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
        if let Some(e) = state.epoch.filter(|_| self.rng.random_bool(0.3)) {
            let (c, s) = (Some(Cursor::BEGINNING), BTreeMap::new());
            from.insert("T".to_owned(), From { e, c, s });
        }
        let op = self.clients[client]
            .0
            .subscribe(topics, conflate, *snapshot, from);
        self.ask(client, op);
    }

    fn unsubscribe(&mut self, client: usize) {
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
    fn drain(&mut self, client: usize, room: usize) -> usize {
        let Some((replica, id)) = self.clients[client].1 else {
            return 0;
        };
        let place = &mut self.replicas[replica];
        let (session, _) = place.sessions.get_mut(&id).unwrap();
        session.applied(place.applied);
        let mut out = Vec::new();
        let filled = session.fill(&place.store, room, self.now, UnixNanos::new(1), &mut out);
        let Ok(count) = filled else {
            self.hang_up(client);
            return 0;
        };
        let messages: Vec<ServerMessage<Tick>> = match self.clients[client].0.encoding {
            Encoding::Json => {
                let text = String::from_utf8(out).unwrap();
                serde_json::from_str(&format!("[{text}]")).unwrap()
            }
            Encoding::MessagePack => {
                let mut whole = vec![0xDD];
                whole.extend(u32::try_from(count).unwrap().to_be_bytes());
                whole.extend(out);
                rmp_serde::from_slice(&whole).unwrap()
            }
        };
        assert_eq!(messages.len(), count);
        for message in &messages {
            note(&self.trace, || {
                let text = format!("{client}@{replica} <- {message:?}");
                text.chars().take(160).collect()
            });
            self.clients[client].0.take(message, &self.truth);
            self.checked += 1;
        }
        count
    }

    /// Everything arrives; then nothing may be missing.
    pub(super) fn settle(&mut self) {
        for client in 0..self.clients.len() {
            if self.clients[client].1.is_none() {
                self.connect(client, 0);
            }
        }
        for _ in 0..50 {
            for replica in 0..self.replicas.len() {
                self.replicas[replica].read(&self.truth, usize::MAX);
                self.dispatch(replica);
            }
            for client in 0..self.clients.len() {
                if self.clients[client].1.is_none() {
                    self.connect(client, 1);
                }
                loop {
                    let count = self.drain(client, 4_000);
                    self.ask_broker(client);
                    if count == 0 && self.answers.is_empty() {
                        break;
                    }
                    while !self.answers.is_empty() {
                        self.answer();
                    }
                }
            }
            self.now += Duration::from_secs(6);
        }
        for (client, _) in &mut self.clients {
            client.check_complete(&self.truth);
        }
    }
}
