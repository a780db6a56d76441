//! Streams, replicas that read them at their own pace, and clients that move between them.

mod visits;

use std::iter::zip;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use schemas::position::StreamSeq;
use schemas::ws::Encoding;

use super::Trace;
use super::client::Client;
use super::replica::Replica;
use super::truth::{STREAMS, Truth};
use crate::deflate::{Deflater, Inflater};
use crate::index::ConnId;
use crate::metrics::Metrics;
use crate::repair::{Page, Scope};
use crate::session::{Ask, Crowd, Limits};

pub(super) const LIMITS: Limits = Limits {
    topics: 100,
    patterns: 100,
    message_bytes: 1_000,
    unsent_bytes: 4_000,
    unsent_age: Duration::from_secs(5),
    resume_messages: 200,
    crowd: Crowd {
        most: 3,
        stretch: 16,
    },
};
/// Shards of each replica.
const SHARDS: [usize; 2] = [2, 1];
/// How often everything is given the time to arrive.
const ROUNDS: u32 = 50;

/// Where a connection is: replica, shard and its name there.
type Place = (usize, usize, ConnId);

pub(super) struct World {
    rng: StdRng,
    /// Of each stream, its history, behind those before it.
    histories: [Vec<Truth>; STREAMS.len()],
    replicas: Vec<Replica>,
    clients: Vec<(Client, Option<Place>)>,
    /// What sessions asked the broker for, and what it answered; nothing of it has arrived.
    answers: Vec<(Place, Ask, Arc<Page>)>,
    now: Instant,
    metrics: Metrics,
    deflater: Deflater,
    inflater: Inflater,
    next_conn: u32,
    checked: u64,
    trace: Rc<Trace>,
}

impl World {
    pub(super) fn new(seed: u64, trace: &Rc<Trace>) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let histories = [(0, 1), (1, 501)].map(|(stream, created)| {
            let mut truth = Truth::new(stream, created);
            for _ in 0..rng.random_range(0..40) {
                truth.publish(&mut rng);
            }
            vec![truth]
        });
        let shards = [3_000, 20_000].into_iter().zip(SHARDS);
        let replicas = shards.map(|(ring, shards)| Replica::new(ring, rng.random(), shards));
        let clients = Encoding::ALL.map(|encoding| (Client::new(encoding), None));
        let replicas = replicas.collect();
        let mut world = Self {
            rng,
            histories,
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

    fn read(&mut self, (replica, stream): (usize, usize), count: usize, trouble: bool) {
        let truth = self.histories[stream].last_mut().unwrap();
        let (now, rng) = (self.now, &mut self.rng);
        self.replicas[replica].read((stream, truth), (count, trouble), now, rng);
    }

    /// A replica reads all there is.
    fn catch_up(&mut self, replica: usize) {
        for stream in 0..STREAMS.len() {
            let is_there = (0..200).any(|_| {
                self.read((replica, stream), usize::MAX, false);
                let truth = self.histories[stream].last().unwrap();
                self.replicas[replica].is_up_to(stream, truth)
            });
            assert!(is_there, "replica {replica} never catches up");
        }
    }

    pub(super) fn step(&mut self) {
        let client = self.rng.random_range(0..self.clients.len());
        let replica = self.rng.random_range(0..self.replicas.len());
        let shard = self.rng.random_range(0..SHARDS[replica]);
        let stream = self.rng.random_range(0..STREAMS.len());
        match self.rng.random_range(0..100) {
            0..25 => {
                for _ in 0..self.rng.random_range(1..12) {
                    let truth = self.histories[stream].last_mut().unwrap();
                    truth.publish(&mut self.rng);
                }
            }
            25..30 => self.ask_broker(client),
            30..35 => self.answer(),
            35..45 => {
                let count = self.rng.random_range(1..20);
                self.read((replica, stream), count, true);
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
            _ => self.rare(stream),
        }
    }

    /// The broker answers what a session asked for; the answer is under way.
    fn ask_broker(&mut self, client: usize) {
        let Some(at) = self.clients[client].1 else {
            return;
        };
        let (replica, shard, id) = at;
        let place = &mut self.replicas[replica];
        let (session, _) = place.shards[shard].sessions.get_mut(&id).unwrap();
        for (truths, (store, track)) in zip(&self.histories, zip(&place.stores, &session.tracks)) {
            let known = store.read();
            if known.epoch != Some(truths.last().unwrap().epoch) || !track.is_of(&known) {
                // Not before everybody knows that the history is another one.
                return;
            }
        }
        let waiting = self.rng.random_range(0..20);
        while let Some(ask) = session.ask(waiting) {
            let stream = ask.of.stream().index();
            let truth = self.histories[stream].last().unwrap();
            let known = place.stores[stream].read();
            let (subject, after) = match ask.of {
                Scope::Topic(topic) => (Some(&*known.info(topic).unwrap().subject), ask.after),
                // From where others read too.
                Scope::Stream(_) => {
                    let back = self.rng.random_range(0..4);
                    (None, StreamSeq::new(ask.after.get().saturating_sub(back)))
                }
            };
            let head = truth.head();
            let has = match self.rng.random_range(0..3) {
                0 => StreamSeq::new(self.rng.random_range(0..=head.get())),
                _ => head,
            };
            let limit = self.rng.random_range(1..20);
            let mut page = truth.page(subject, after, (has, limit));
            if page.end <= ask.after {
                // It lags: it is asked again until it has something.
                page = truth.page(subject, ask.after, (head, limit));
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

    fn rare(&mut self, stream: usize) {
        if self.rng.random_bool(0.7) {
            let truth = self.histories[stream].last_mut().unwrap();
            truth.trim(&mut self.rng);
            return;
        }
        let truths = &mut self.histories[stream];
        let truth = truths.last_mut().unwrap();
        let next = truth.rewound(&mut self.rng);
        self.trace.note(|| {
            let (name, e, first, head) = (STREAMS[stream], next.epoch, next.first, next.head());
            format!("{name} rewound to {e}, {first} to {head}")
        });
        truth.is_past = true;
        truths.push(next);
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
            let truths = self.histories.each_ref();
            let truths = truths.map(|truths| truths.last().unwrap());
            let is_last = round + 1 == ROUNDS;
            let states = self.clients.iter().map(|(client, _)| client);
            let owing: Vec<String> = states.filter_map(|state| state.owed(truths)).collect();
            assert!(!is_last || owing.is_empty(), "{owing:?}");
            if owing.is_empty() && round > 1 {
                return;
            }
        }
    }
}
