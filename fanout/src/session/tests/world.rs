//! A stream, replicas that read it at their own pace, and clients that move between them.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use schemas::position::{Cursor, StreamSeq};
use schemas::tick::Tick;
use schemas::time::UnixNanos;
use schemas::ws::{Conflate, Encoding, From, ServerMessage, StreamInfo};

use super::Trace;
use super::client::Client;
use super::replica::Replica;
use super::truth::Truth;
use crate::deflate::{Deflater, Inflater};
use crate::index::ConnId;
use crate::metrics::Metrics;
use crate::repair::Page;
use crate::session::{Ask, Limits, Reply, Session};
use crate::store::StreamNo;

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
/// Shards of each replica.
const SHARDS: [usize; 2] = [2, 1];
/// How often everything is given the time to arrive.
const ROUNDS: u32 = 50;

/// Where a connection is: replica, shard and its name there.
type Place = (usize, usize, ConnId);

pub(super) struct World {
    rng: StdRng,
    /// The history of the stream, behind those before it.
    histories: Vec<Truth>,
    replicas: Vec<Replica>,
    clients: Vec<(Client, Option<Place>)>,
    /// What sessions asked the broker for, and what it answered; nothing of it has arrived.
    answers: Vec<(Place, Ask, Arc<Page>)>,
    now: Instant,
    metrics: Metrics,
    deflater: Deflater,
    inflater: Inflater,
    next_conn: u64,
    checked: u64,
    trace: Rc<Trace>,
}

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
    pub(super) fn new(seed: u64, trace: &Rc<Trace>) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut truth = Truth::new(1);
        for _ in 0..rng.random_range(0..40) {
            truth.publish(&mut rng);
        }
        let shards = [3_000, 20_000].into_iter().zip(SHARDS);
        let replicas = shards.map(|(ring, shards)| Replica::new(ring, rng.random(), shards));
        let clients = Encoding::ALL.map(|encoding| (Client::new(encoding), None));
        let replicas = replicas.collect();
        let mut world = Self {
            rng,
            histories: vec![truth],
            replicas,
            clients: clients.into(),
            answers: Vec::new(),
            now: Instant::now(),
            metrics: Metrics::new(&mut Registry::default()),
            deflater: Deflater::new(),
            inflater: Inflater::new(),
            next_conn: 0,
            checked: 0,
            trace: Rc::clone(trace),
        };
        for replica in 0..world.replicas.len() {
            world.catch_up(replica);
        }
        world
    }

    /// How many messages clients have checked.
    pub(super) const fn checked(&self) -> u64 {
        self.checked
    }

    fn truth(&mut self) -> &mut Truth {
        self.histories.last_mut().unwrap()
    }

    fn read(&mut self, replica: usize, count: usize, trouble: bool) {
        let truth = self.histories.last_mut().unwrap();
        self.replicas[replica].read(truth, (count, trouble), self.now, &mut self.rng);
    }

    /// A replica reads all there is.
    fn catch_up(&mut self, replica: usize) {
        for _ in 0..200 {
            self.read(replica, usize::MAX, false);
            let head = self.truth().head();
            let place = &self.replicas[replica];
            let known = place.store().read();
            let is_here = known.epoch == self.histories.last().map(|truth| truth.epoch);
            if place.is_joined() && is_here && known.head == head {
                return;
            }
        }
        panic!("replica {replica} never catches up");
    }

    pub(super) fn step(&mut self) {
        let client = self.rng.random_range(0..self.clients.len());
        let replica = self.rng.random_range(0..self.replicas.len());
        let shard = self.rng.random_range(0..SHARDS[replica]);
        match self.rng.random_range(0..100) {
            0..25 => {
                for _ in 0..self.rng.random_range(1..12) {
                    self.histories.last_mut().unwrap().publish(&mut self.rng);
                }
            }
            25..30 => self.ask_broker(client),
            30..35 => self.answer(),
            35..45 => {
                let count = self.rng.random_range(1..20);
                self.read(replica, count, true);
            }
            45..60 => {
                let count = self.rng.random_range(1..4);
                self.dispatch((replica, shard), count);
            }
            60..78 => {
                let room = self.rng.random_range(100..3_000);
                self.drain(client, room);
            }
            78..86 => self.subscribe(client),
            86..90 => self.unsubscribe(client),
            90..94 => {
                self.hang_up(client);
                self.connect(client, (replica, shard));
            }
            94..98 => self.now += Duration::from_millis(self.rng.random_range(1..3_000)),
            98 => self.restart(replica),
            _ => self.rare(),
        }
    }

    /// The broker answers what a session asked for; the answer is under way.
    fn ask_broker(&mut self, client: usize) {
        let Some(at) = self.clients[client].1 else {
            return;
        };
        let (replica, shard, id) = at;
        let truth = self.histories.last().unwrap();
        let place = &mut self.replicas[replica];
        let (session, _) = place.shards[shard].sessions.get_mut(&id).unwrap();
        let known = place.stores[0].read().epoch;
        if known != Some(truth.epoch) || !session.tracks[0].is_of(&place.stores[0].read()) {
            // Not before everybody knows that the history is another one.
            return;
        }
        while let Some(ask) = session.ask() {
            let topic = place.stores[0].read().info(ask.topic).cloned().unwrap();
            let head = truth.head();
            let known = match self.rng.random_range(0..3) {
                0 => StreamSeq::new(self.rng.random_range(0..=head.get())),
                _ => head,
            };
            let limit = self.rng.random_range(1..20);
            let mut page = truth.page(&topic, ask.after, (known, limit));
            if page.end == ask.after {
                // It lags: it is asked again until it has something.
                page = truth.page(&topic, ask.after, (head, limit));
            }
            assert!(page.end > ask.after, "{ask:?} has no answer");
            self.answers.push((at, ask, Arc::new(page)));
        }
    }

    /// One answer arrives.
    fn answer(&mut self) {
        if self.answers.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.answers.len());
        let ((replica, shard, id), ask, page) = self.answers.swap_remove(at);
        let place = &mut self.replicas[replica].shards[shard];
        if let Some((session, client)) = place.sessions.get_mut(&id) {
            self.trace
                .note(|| format!("{client}@{replica}: {ask:?} {page:?}"));
            session.answered(&ask, page);
        }
    }

    fn rare(&mut self) {
        if self.rng.random_bool(0.7) {
            self.histories.last_mut().unwrap().trim(&mut self.rng);
            return;
        }
        let next = self.histories.last().unwrap().rewound(&mut self.rng);
        self.trace.note(|| {
            let (e, first, head) = (next.epoch, next.first, next.head());
            format!("rewound to {e}, {first} to {head}")
        });
        self.truth().is_past = true;
        self.histories.push(next);
    }

    fn restart(&mut self, replica: usize) {
        self.trace.note(|| format!("restart of {replica}"));
        for client in 0..self.clients.len() {
            if self.clients[client].1.is_some_and(|(of, ..)| of == replica) {
                self.hang_up(client);
            }
        }
        let ring = self.rng.random_range(1_000..30_000);
        self.replicas[replica] = Replica::new(ring, self.rng.random(), SHARDS[replica]);
        if self.rng.random_bool(0.8) {
            self.catch_up(replica);
        }
    }

    fn dispatch(&mut self, (replica, shard): (usize, usize), count: usize) {
        let slow = self.replicas[replica].dispatch(shard, count, self.now);
        for id in slow {
            let (_, client) = self.replicas[replica].shards[shard].sessions[&id];
            self.hang_up(client);
        }
    }

    fn hang_up(&mut self, client: usize) {
        if let Some((replica, shard, id)) = self.clients[client].1.take() {
            self.trace
                .note(|| format!("{client}@{replica}.{shard} hangs up"));
            self.replicas[replica].shards[shard].part(id);
            self.clients[client].0.disconnected();
        }
    }

    /// Whoever comes to a replica that is not ready is turned away.
    fn connect(&mut self, client: usize, (replica, shard): (usize, usize)) {
        if !self.replicas[replica].is_joined() {
            return;
        }
        // A shard takes a connection after everything that it was told before.
        self.dispatch((replica, shard), usize::MAX);
        self.next_conn += 1;
        let id = ConnId(self.next_conn);
        let place = &mut self.replicas[replica];
        let epoch = place.store().read().epoch.unwrap();
        let place = &mut place.shards[shard];
        let (state, _) = &self.clients[client];
        let mut session = Session::new(
            (id, state.encoding),
            LIMITS,
            self.metrics.clone(),
            [place.applied],
            self.now,
        );
        session.begin(StreamNo::FIRST, Some(epoch));
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
        self.clients[client].1 = Some((replica, shard, id));
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
        let Some((replica, shard, id)) = self.clients[client].1 else {
            return;
        };
        let Replica { stores, shards, .. } = &mut self.replicas[replica];
        let place = &mut shards[shard];
        self.trace.note(|| {
            let applied = place.applied;
            format!("{client}@{replica}.{shard} at {applied}: {op:?}")
        });
        let (session, _) = place.sessions.get_mut(&id).unwrap();
        let mut cx = Reply {
            stores,
            indexes: &mut place.indexes,
            now: self.now,
        };
        session.applied(StreamNo::FIRST, place.applied);
        session.carry_out(op, &mut cx);
    }

    fn subscribe(&mut self, client: usize) {
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
        let Some((replica, shard, id)) = self.clients[client].1 else {
            return 0;
        };
        let Replica { stores, shards, .. } = &mut self.replicas[replica];
        let place = &mut shards[shard];
        let (session, _) = place.sessions.get_mut(&id).unwrap();
        session.applied(StreamNo::FIRST, place.applied);
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
            // The client lives in the history that it was told of last.
            let mut histories = self.histories.iter().rev();
            let own = histories.find(|truth| Some(truth.epoch) == state.epoch);
            state.take(message, own.unwrap_or(&self.histories[0]));
            self.checked += 1;
        }
        if let Some([(epoch, cursor)]) = promise.as_deref() {
            let state = &self.clients[client].0;
            assert_eq!((Some(*epoch), cursor.seq()), (state.epoch, state.cursor));
        }
        count
    }

    /// Everything arrives; then nothing may be missing.
    pub(super) fn settle(&mut self) {
        for round in 0..ROUNDS {
            for (replica, shards) in SHARDS.into_iter().enumerate() {
                self.catch_up(replica);
                for shard in 0..shards {
                    while !self.replicas[replica].shards[shard].is_idle() {
                        self.dispatch((replica, shard), usize::MAX);
                    }
                }
            }
            for client in 0..self.clients.len() {
                if self.clients[client].1.is_none() {
                    self.connect(client, (1, 0));
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
            let truth = self.histories.last().unwrap();
            let is_last = round + 1 == ROUNDS;
            let states = self.clients.iter_mut().map(|(client, _)| client);
            let owing: Vec<String> = states.filter_map(|state| state.owed(truth)).collect();
            assert!(!is_last || owing.is_empty(), "{owing:?}");
            if owing.is_empty() && round > 1 {
                return;
            }
        }
    }
}
