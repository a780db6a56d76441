//! One fanout process of the model: a feeder that reads at its own pace, and shards that lag behind it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bus::reader::Event;
use rand::rngs::StdRng;
use schemas::position::StreamSeq;

use super::reading::Reading;
use super::truth::Truth;
use super::world::LIMITS;
use crate::index::{ConnId, Index};
use crate::session::Session;
use crate::shard::Command;
use crate::store::{Live, Store};

#[derive(Default)]
pub(super) struct Shard {
    pub(super) index: Index,
    /// What it was told, and has not done yet.
    pending: VecDeque<Command>,
    pub(super) applied: StreamSeq,
    /// And the clients that they are of.
    pub(super) sessions: BTreeMap<ConnId, (Session, usize)>,
}

pub(super) struct Replica {
    pub(super) store: Store,
    reading: Reading,
    pub(super) joined: bool,
    rewound: bool,
    pub(super) shards: Vec<Shard>,
}

impl Replica {
    pub(super) fn new(ring: usize, whole: bool, shards: usize) -> Self {
        Self {
            store: Store::new("T", ring),
            reading: Reading::new(whole),
            joined: false,
            rewound: false,
            shards: (0..shards).map(|_| Shard::default()).collect(),
        }
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
            self.feed(event);
        }
    }

    /// As the feeder does it.
    fn feed(&mut self, event: Event) {
        match event {
            Event::Boot {
                epoch,
                first_seq,
                last_seq,
                after,
            } => {
                self.joined = false;
                let behind = after.unwrap_or(last_seq);
                self.store.write().begin(epoch, first_seq, behind);
            }
            Event::Batch {
                entries,
                head,
                head_time,
            } => {
                let mut known = self.store.write();
                let applied = entries
                    .iter()
                    .filter_map(|of| known.apply(&of.subject, of.seq, of.time, &of.payload));
                let messages: Arc<[Arc<Live>]> = applied.collect();
                known.head = known.head.max(head);
                known.head_time = head_time;
                drop(known);
                if self.joined {
                    self.tell(|| Command::Batch {
                        messages: Arc::clone(&messages),
                        head,
                        read: tokio::time::Instant::now(),
                    });
                }
            }
            Event::CaughtUp => {
                self.joined = true;
                let (head, epoch) = {
                    let known = self.store.read();
                    (known.head, known.epoch)
                };
                let rewound = epoch.filter(|_| std::mem::take(&mut self.rewound));
                self.tell(|| Command::Joined { head, rewound });
            }
            Event::Stale | Event::Live => {
                self.store.write().stale = matches!(event, Event::Stale);
                self.tell(|| Command::Heartbeat);
            }
            Event::Trimmed { from, to } => {
                self.store.write().trimmed(to);
                if self.joined {
                    self.tell(|| Command::Trimmed { from, to });
                }
            }
            Event::Reset => {
                (self.joined, self.rewound) = (false, true);
                self.store.write().forget();
            }
        }
    }

    fn tell(&mut self, command: impl Fn() -> Command) {
        for shard in &mut self.shards {
            shard.pending.push_back(command());
        }
    }

    /// Does at most `count` of what a shard was told; those that must be closed as slow.
    pub(super) fn dispatch(&mut self, shard: usize, count: usize, now: Instant) -> Vec<ConnId> {
        let mut slow = Vec::new();
        let shard = &mut self.shards[shard];
        for _ in 0..count {
            match shard.pending.pop_front() {
                None => break,
                Some(Command::Batch { messages, head, .. }) => {
                    shard.hand_out(&messages, &mut slow, now);
                    shard.reach(head);
                }
                Some(Command::Heartbeat) => {
                    for (session, _) in shard.sessions.values_mut() {
                        session.heartbeat();
                    }
                }
                Some(Command::Joined { head, rewound }) => {
                    let known = self.store.read();
                    for topic in known.topics().skip(shard.index.seen()) {
                        shard.take_birth(topic, head);
                    }
                    if let Some(epoch) = rewound {
                        for (session, _) in shard.sessions.values_mut() {
                            session.reset(&known, &self.store, epoch);
                        }
                    }
                    shard.reach(head);
                }
                Some(Command::Trimmed { from, to }) => {
                    let known = self.store.read();
                    shard.applied = shard.applied.max(to);
                    for (id, (session, _)) in &mut shard.sessions {
                        let told = session.trimmed(&known, &self.store, (from, to), now);
                        if told.is_err() && !slow.contains(id) {
                            slow.push(*id);
                        }
                    }
                }
                Some(Command::Accept(_) | Command::Drain { .. }) => unreachable!(),
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
            session.applied(head);
        }
    }

    fn take_birth(&mut self, topic: &Arc<crate::store::TopicInfo>, first: StreamSeq) {
        if self.index.is_born(topic.id.index()) {
            for id in self.index.claim(topic) {
                if let Some((session, _)) = self.sessions.get_mut(&id) {
                    session.born(topic, first, &mut self.index);
                }
            }
        }
    }

    fn hand_out(&mut self, messages: &[Arc<Live>], slow: &mut Vec<ConnId>, now: Instant) {
        for live in messages {
            self.take_birth(&live.topic, live.seq);
            let mut reached = BTreeSet::new();
            for id in self.index.subscribers(live.topic.id) {
                assert!(reached.insert(*id), "a message goes to a connection once");
                let Some((session, _)) = self.sessions.get_mut(id) else {
                    continue;
                };
                if !slow.contains(id) && session.deliver(live, now).is_err() {
                    slow.push(*id);
                }
                assert!(slow.contains(id) || session.outbox.live_bytes() <= LIMITS.unsent_bytes);
            }
        }
    }

    pub(super) fn part(&mut self, id: ConnId) {
        let Some((session, _)) = self.sessions.remove(&id) else {
            return;
        };
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
    }
}
