//! One fanout process of the model: a feeder that reads at its own pace, and shards that lag behind it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use rand::rngs::StdRng;
use schemas::position::StreamSeq;

use super::reading::Reading;
use super::truth::Truth;
use super::world::LIMITS;
use crate::index::{ConnId, Index};
use crate::intake::{Intake, News};
use crate::session::Session;
use crate::store::{Live, Store, StreamNo};

const STREAM: StreamNo = StreamNo::FIRST;

#[derive(Default)]
pub(super) struct Shard {
    pub(super) indexes: [Index; 1],
    /// What it was told, and has not done yet.
    pending: VecDeque<News>,
    pub(super) applied: StreamSeq,
    /// And the clients that they are of.
    pub(super) sessions: BTreeMap<ConnId, (Session, usize)>,
}

pub(super) struct Replica {
    pub(super) stores: [Arc<Store>; 1],
    intake: Intake,
    reading: Reading,
    pub(super) shards: Vec<Shard>,
}

impl Replica {
    pub(super) fn new(ring: usize, whole: bool, shards: usize) -> Self {
        let store = Arc::new(Store::new("T", STREAM, ring));
        Self {
            intake: Intake::new(Arc::clone(&store)),
            stores: [store],
            reading: Reading::new(whole),
            shards: (0..shards).map(|_| Shard::default()).collect(),
        }
    }

    pub(super) const fn is_joined(&self) -> bool {
        self.intake.is_joined()
    }

    pub(super) fn store(&self) -> &Store {
        &self.stores[0]
    }

    pub(super) fn read(
        &mut self,
        truth: &mut Truth,
        (count, trouble): (usize, bool),
        now: Instant,
        rng: &mut StdRng,
    ) {
        let now = now.into();
        self.reading.read(truth, (count, trouble), now, rng);
        while let Some(event) = self.reading.next_event() {
            let taken = self.intake.take(event, now);
            for news in taken.news {
                self.tell(&news);
            }
        }
    }

    fn tell(&mut self, news: &News) {
        for shard in &mut self.shards {
            shard.pending.push_back(news.clone());
        }
    }

    /// Does at most `count` of what a shard was told; those that must be closed as slow.
    pub(super) fn dispatch(&mut self, shard: usize, count: usize, now: Instant) -> Vec<ConnId> {
        let mut slow = Vec::new();
        let shard = &mut self.shards[shard];
        for _ in 0..count {
            match shard.pending.pop_front() {
                None => break,
                Some(News::Batch { messages, head, .. }) => {
                    shard.hand_out(&messages, &mut slow, now);
                    shard.reach(head);
                }
                Some(News::Heartbeat) => {
                    for (session, _) in shard.sessions.values_mut() {
                        session.heartbeat();
                    }
                }
                Some(News::Joined { head, rewound, .. }) => {
                    let known = self.stores[0].read();
                    for topic in known.topics().skip(shard.indexes[0].seen()) {
                        shard.take_birth(topic, head);
                    }
                    if let Some(epoch) = rewound {
                        for (session, _) in shard.sessions.values_mut() {
                            session.reset(&known, epoch);
                        }
                    }
                    shard.reach(head);
                }
                Some(News::Trimmed { from, to, .. }) => {
                    let known = self.stores[0].read();
                    shard.applied = shard.applied.max(to);
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

    fn reach(&mut self, head: StreamSeq) {
        self.applied = head;
        for (session, _) in self.sessions.values_mut() {
            session.applied(STREAM, head);
        }
    }

    fn take_birth(&mut self, topic: &Arc<crate::store::TopicInfo>, first: StreamSeq) {
        if self.indexes[0].is_born(topic.id.index()) {
            for id in self.indexes[0].claim(topic) {
                if let Some((session, _)) = self.sessions.get_mut(&id) {
                    session.born(topic, first, &mut self.indexes[0]);
                }
            }
        }
    }

    fn hand_out(&mut self, messages: &[Arc<Live>], slow: &mut Vec<ConnId>, now: Instant) {
        for live in messages {
            self.take_birth(&live.topic, live.seq);
            let mut reached = BTreeSet::new();
            for id in self.indexes[0].subscribers(live.topic.id) {
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
