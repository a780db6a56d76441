//! What a stream really holds, and held: the broker of the model.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::HeaderMap;
use bus::get::Found;
use bus::stream::StreamState;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use schemas::codec::to_msgpack;
use schemas::id::{Symbol, Venue};
use schemas::position::{Epoch, StreamSeq};
use schemas::subject;
use schemas::tick::{Head, Quote, Side, Tick, Trade};
use schemas::time::UnixNanos;
use schemas::ws::From;

use super::client::covers;
use crate::repair::Page;

/// The streams, and whose venue is in each.
pub(super) const STREAMS: [&str; 2] = ["T", "U"];
pub(super) const VENUES: [&str; STREAMS.len()] = ["x", "y"];
const SYMBOLS: [&str; 4] = ["A", "B.C", "D", "E"];

#[derive(Clone)]
pub(super) struct Message {
    pub(super) seq: StreamSeq,
    pub(super) subject: String,
    pub(super) payload: Vec<u8>,
    pub(super) time: UnixNanos,
}

/// What the stream really holds, and held.
pub(super) struct Truth {
    /// Its place among the streams.
    stream: usize,
    pub(super) epoch: Epoch,
    /// Told apart by the times of its messages.
    number: i64,
    /// Everything of this epoch, trimmed or not.
    messages: Vec<Message>,
    by_topic: BTreeMap<String, BTreeSet<u64>>,
    /// What is no tick.
    garbage: BTreeSet<u64>,
    pub(super) first: StreamSeq,
    /// Another history took its place: nothing of it can be had any more.
    pub(super) is_past: bool,
}

impl Truth {
    pub(super) fn new(stream: usize, created: i64) -> Self {
        let venue = VENUES[stream];
        let topics = SYMBOLS.iter().flat_map(|symbol| {
            let symbol = symbol.replace('.', "%2E");
            ["trade", "quote"].map(|kind| format!("{kind}.{venue}.{symbol}"))
        });
        Self {
            stream,
            epoch: Epoch::new(UnixNanos::new(created), 0),
            number: created,
            messages: Vec::new(),
            by_topic: topics.map(|topic| (topic, BTreeSet::new())).collect(),
            garbage: BTreeSet::new(),
            first: StreamSeq::new(1),
            is_past: false,
        }
    }

    /// Of the stream.
    pub(super) fn name(&self) -> &'static str {
        STREAMS[self.stream]
    }

    pub(super) fn every_topic(&self) -> impl Iterator<Item = &str> {
        self.by_topic.keys().map(String::as_str)
    }

    /// Whether a topic is of this stream, or some topic of a pattern.
    pub(super) fn may_have(&self, text: &str) -> bool {
        self.every_topic().any(|topic| covers(text, topic))
    }

    pub(super) fn is_state(topic: &str) -> bool {
        topic.starts_with("quote.")
    }

    pub(super) fn has(&self, topic: &str, seq: StreamSeq) -> bool {
        self.by_topic[topic].contains(&seq.get())
    }

    /// The messages of a topic, and whether each is a tick.
    pub(super) fn describe(&self, topic: &str) -> String {
        let seqs = self.by_topic[topic].iter();
        let all: Vec<_> = seqs.map(|seq| (seq, !self.garbage.contains(seq))).collect();
        format!("{all:?}")
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
        self.is_past
            || is_garbage(to.get())
            || there.all(|seq| *seq < self.first.get() || is_garbage(*seq))
    }

    /// Reads a page of a subject, or of all, as Direct Get does, from a replica that knows everything up
    /// to `known`.
    pub(super) fn page(
        &self,
        subject: Option<&str>,
        after: StreamSeq,
        (known, limit): (StreamSeq, usize),
    ) -> Page {
        let trimmed = (self.first > after.next()).then(|| self.first.prev());
        let behind = after.max(self.first.prev());
        let there = self.messages.iter().filter(|message| {
            let is_asked = subject.is_none_or(|subject| message.subject == subject);
            message.seq > behind && message.seq <= known && is_asked
        });
        let found: Vec<_> = there
            .take(limit)
            .map(|message| Found {
                subject: message.subject.clone(),
                seq: message.seq,
                time: message.time,
                headers: HeaderMap::new(),
                payload: message.payload.clone().into(),
            })
            .collect();
        let is_full = found.len() == limit;
        Page::new(after, trimmed, found, is_full)
    }

    pub(super) fn knows(&self, from: &From) -> bool {
        from.e == self.epoch
    }

    pub(super) fn head(&self) -> StreamSeq {
        self.messages
            .last()
            .map_or(StreamSeq::ZERO, |message| message.seq)
    }

    /// What a message of this history was, trimmed or not.
    pub(super) fn sent(&self, seq: StreamSeq) -> Option<&Message> {
        let at = usize::try_from(seq.get()).unwrap().checked_sub(1)?;
        self.messages.get(at)
    }

    /// What a message of this history is; `None` if retention has removed it.
    pub(super) fn stored(&self, seq: StreamSeq) -> Option<&Message> {
        self.sent(seq).filter(|_| seq >= self.first)
    }

    /// What the leader says of the stream.
    pub(super) fn state(&self) -> StreamState {
        let messages = (self.head().get() + 1).saturating_sub(self.first.get());
        StreamState {
            created: self.epoch.created(),
            first_seq: self.first,
            last_seq: self.head(),
            messages,
            bytes: 0,
        }
    }

    /// The last retained message of each subject, in order.
    pub(super) fn lasts(&self) -> BTreeSet<StreamSeq> {
        let mut lasts: BTreeMap<&str, StreamSeq> = BTreeMap::new();
        for message in self
            .messages
            .iter()
            .filter(|message| message.seq >= self.first)
        {
            lasts.insert(&message.subject, message.seq);
        }
        lasts.into_values().collect()
    }

    /// Retention removes messages from the front, now and then all of them.
    pub(super) fn trim(&mut self, rng: &mut StdRng) {
        let (first, end) = (self.first.get(), self.head().next().get());
        if first < end {
            let kept = rng.random_bool(0.9);
            let end = if kept { end - 1 } else { end };
            self.first = StreamSeq::new(rng.random_range(first..=end));
        }
    }

    /// What follows this history: a new stream, or the same one without its tail.
    pub(super) fn rewound(&self, rng: &mut StdRng) -> Self {
        let mut next = Self::new(self.stream, self.number + 1);
        if rng.random_bool(0.5) {
            let end = rng.random_range(0..=self.head().get());
            let generation = self.epoch.generation() + 1;
            next.epoch = Epoch::new(self.epoch.created(), generation);
            next.first = self.first.min(StreamSeq::new(end + 1));
            let kept = self
                .messages
                .iter()
                .filter(|message| message.seq.get() <= end);
            next.messages = kept.cloned().collect();
            for (topic, seqs) in &self.by_topic {
                let kept = seqs.range(..=end).copied().collect();
                next.by_topic.insert(topic.clone(), kept);
            }
            next.garbage = self.garbage.range(..=end).copied().collect();
        }
        let most = *[0, 10, self.head().get() + 20].choose(rng).unwrap();
        for _ in 0..rng.random_range(0..=most) {
            next.publish(rng);
        }
        next
    }

    pub(super) fn publish(&mut self, rng: &mut StdRng) {
        let seq = self.head().next();
        let symbol = SYMBOLS.choose(rng).unwrap();
        let time = UnixNanos::new(i64::try_from(seq.get()).unwrap() * 1_000 + self.number);
        if rng.random_bool(0.03) {
            // What a new publisher fences its predecessor off with.
            self.messages.push(Message {
                seq,
                subject: subject::fence(self.name()),
                payload: Vec::new(),
                time,
            });
            return;
        }
        let venue = Venue::new(VENUES[self.stream]).unwrap();
        let head = Head::new(venue, Symbol::new(symbol).unwrap(), time);
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
