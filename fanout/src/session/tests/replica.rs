//! One fanout process of the model: a feeder that reads at its own pace, and shards that lag behind it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use rand::rngs::StdRng;
use schemas::position::StreamSeq;

use super::reading::Reading;
use super::truth::{STREAMS, Truth, VENUES};
use super::world::LIMITS;
use crate::index::{ConnId, Index};
use crate::intake::{Intake, News};
use crate::session::Session;
use crate::store::{Live, Store, StreamNo, TopicInfo, Venues};

#[derive(Default)]
pub(super) struct Shard {
    /// By stream.
    pub(super) indexes: [Index; STREAMS.len()],
    /// What it was told, and has not done yet.
    pending: VecDeque<News>,
    /// By stream.
    pub(super) applied: [StreamSeq; STREAMS.len()],
    /// And the clients that they are of.
    pub(super) sessions: BTreeMap<ConnId, (Session, usize)>,
}

/// How a replica reads a stream.
struct Feed {
    intake: Intake,
    reading: Reading,
}

pub(super) struct Replica {
    /// By stream.
    pub(super) stores: [Arc<Store>; STREAMS.len()],
    feeds: [Feed; STREAMS.len()],
    pub(super) shards: Vec<Shard>,
}

/// Every stream's number.
pub(super) fn numbers() -> impl Iterator<Item = StreamNo> {
    StreamNo::all(STREAMS.len())
}

impl Replica {
    pub(super) fn new(ring: usize, whole: bool, shards: usize) -> Self {
        let mut numbers = numbers();
        let stores = STREAMS.map(|name| {
            let number = numbers.next().unwrap();
            let store = Store::new(name, number, ring);
            let subject = format!("tick.*.{}.>", VENUES[number.index()]);
            store.write().venues = Venues::of([subject.as_str()]);
            Arc::new(store)
        });
        let feeds = stores.each_ref().map(|store| Feed {
            intake: Intake::new(Arc::clone(store)),
            reading: Reading::new(whole),
        });
        Self {
            stores,
            feeds,
            shards: (0..shards).map(|_| Shard::default()).collect(),
        }
    }

    /// Whether it has all there was of every stream.
    pub(super) fn is_joined(&self) -> bool {
        self.feeds.iter().all(|feed| feed.intake.is_joined())
    }

    /// Whether it has all that there is of a stream.
    pub(super) fn is_up_to(&self, stream: usize, truth: &Truth) -> bool {
        let known = self.stores[stream].read();
        self.feeds[stream].intake.is_joined()
            && (known.epoch, known.head) == (Some(truth.epoch), truth.head())
    }

    pub(super) fn read(
        &mut self,
        (stream, truth): (usize, &mut Truth),
        (count, trouble): (usize, bool),
        now: Instant,
        rng: &mut StdRng,
    ) {
        let now = now.into();
        let Feed { intake, reading } = &mut self.feeds[stream];
        reading.read(truth, (count, trouble), now, rng);
        while let Some(event) = reading.next_event() {
            for news in intake.take(event, now).news {
                for shard in &mut self.shards {
                    shard.pending.push_back(news.clone());
                }
            }
        }
    }

    /// Does at most `count` of what a shard was told; those that must be closed as slow.
    pub(super) fn dispatch(&mut self, shard: usize, count: usize, now: Instant) -> Vec<ConnId> {
        let mut slow = Vec::new();
        let shard = &mut self.shards[shard];
        for _ in 0..count {
            match shard.pending.pop_front() {
                None => break,
                Some(News::Batch {
                    stream,
                    messages,
                    head,
                    ..
                }) => {
                    shard.hand_out(&messages, &mut slow, now);
                    shard.reach(stream, head);
                }
                Some(News::Heartbeat) => {
                    for (session, _) in shard.sessions.values_mut() {
                        session.heartbeat();
                    }
                }
                Some(News::Joined {
                    stream,
                    head,
                    rewound,
                }) => {
                    let known = self.stores[stream.index()].read();
                    for topic in known.topics().skip(shard.indexes[stream.index()].seen()) {
                        shard.take_birth(topic, head);
                    }
                    if let Some(epoch) = rewound {
                        for (session, _) in shard.sessions.values_mut() {
                            session.reset(&known, epoch, head);
                        }
                    }
                    shard.reach(stream, head);
                }
                Some(News::Trimmed { stream, from, to }) => {
                    let known = self.stores[stream.index()].read();
                    let applied = &mut shard.applied[stream.index()];
                    *applied = to.max(*applied);
                    for (id, (session, _)) in &mut shard.sessions {
                        let told = session.trimmed(&known, (from, to), now);
                        if told.is_err() && !slow.contains(id) {
                            slow.push(*id);
                        }
                    }
                }
            }
        }
        slow
    }
}

impl Shard {
    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    fn reach(&mut self, stream: StreamNo, head: StreamSeq) {
        self.applied[stream.index()] = head;
        for (session, _) in self.sessions.values_mut() {
            session.applied(stream, head);
        }
    }

    fn take_birth(&mut self, topic: &Arc<TopicInfo>, first: StreamSeq) {
        let index = &mut self.indexes[topic.id.stream().index()];
        if index.is_born(topic.id.index()) {
            for id in index.claim(topic) {
                if let Some((session, _)) = self.sessions.get_mut(&id) {
                    session.born(topic, first, index);
                }
            }
        }
    }

    fn hand_out(&mut self, messages: &[Arc<Live>], slow: &mut Vec<ConnId>, now: Instant) {
        for live in messages {
            self.take_birth(&live.topic, live.seq);
            let mut reached = BTreeSet::new();
            let index = &self.indexes[live.topic.id.stream().index()];
            for id in index.subscribers(live.topic.id) {
                assert!(reached.insert(*id), "a message goes to a connection once");
                let Some((session, _)) = self.sessions.get_mut(id) else {
                    continue;
                };
                if !slow.contains(id) && session.deliver(live, now).is_err() {
                    slow.push(*id);
                }
                assert!(
                    slow.contains(id) || session.who.outbox.live_bytes() <= LIMITS.unsent_bytes
                );
            }
        }
    }

    pub(super) fn part(&mut self, id: ConnId) {
        let Some((session, _)) = self.sessions.remove(&id) else {
            return;
        };
        session.leave(&mut self.indexes);
    }
}
