//! How a replica of the model reads: the reader's machine on a consumer that loses, repeats and
//! reorders what it delivers.

use std::collections::{BTreeSet, VecDeque};

use bus::reader::machine::{Flow, Joined, Machine, Resume, Stamp};
use bus::reader::{Entry, Event, Start};
use rand::RngExt as _;
use rand::rngs::StdRng;
use schemas::position::{Epoch, StreamSeq};
use schemas::subject;
use tokio::time::Instant;

use super::truth::Truth;

/// On its way from the broker.
#[derive(Clone, Copy)]
enum Sent {
    Delivery(u64, StreamSeq),
    Heartbeat(u64),
}

/// A push consumer.
struct Consumer {
    /// Of which history it is; of any other, it is no more.
    epoch: Epoch,
    /// The last message of each subject, to be sent first.
    lasts: BTreeSet<StreamSeq>,
    /// Sent so far of what comes behind.
    behind: StreamSeq,
    count: u64,
    wire: VecDeque<Sent>,
}

impl Consumer {
    fn new(truth: &Truth, after: Option<StreamSeq>) -> Self {
        Self {
            epoch: truth.epoch,
            lasts: after.map_or_else(|| truth.lasts(), |_| BTreeSet::new()),
            behind: after.unwrap_or(truth.head()),
            count: 0,
            wire: VecDeque::new(),
        }
    }

    fn send(&mut self, truth: &Truth, rng: &mut StdRng) {
        let next = match self.lasts.pop_first() {
            Some(seq) => seq,
            None => self.behind.next().max(truth.first),
        };
        if truth.head() < next {
            self.wire.push_back(Sent::Heartbeat(self.count));
            return;
        }
        self.behind = self.behind.max(next);
        if truth.stored(next).is_none() {
            return;
        }
        self.count += 1;
        let sent = Sent::Delivery(self.count, next);
        match rng.random_range(0..200) {
            0 => {}
            1 => self.wire.extend([sent, sent]),
            2 => self.wire.push_front(sent),
            _ => self.wire.push_back(sent),
        }
    }
}

pub(super) struct Reading {
    machine: Machine,
    consumer: Option<Consumer>,
}

impl Reading {
    pub(super) fn new(whole: bool) -> Self {
        let start = if whole {
            Start::After(StreamSeq::ZERO)
        } else {
            Start::LastPerSubject
        };
        Self {
            machine: Machine::new(start),
            consumer: None,
        }
    }

    pub(super) fn next_event(&mut self) -> Option<Event> {
        self.machine.next_event()
    }

    /// Reads at most `count` messages; opens a consumer, or gives it up, as needed.
    pub(super) fn read(
        &mut self,
        truth: &mut Truth,
        (count, trouble): (usize, bool),
        now: Instant,
        rng: &mut StdRng,
    ) {
        let Some(consumer) = &mut self.consumer else {
            if trouble && rng.random_bool(0.2) {
                self.machine.refused(now, rng.random());
            } else {
                self.open(truth, trouble, now, rng);
            }
            return;
        };
        let mut flow = Flow::Go;
        for _ in 0..count {
            if self.machine.is_asking() {
                break;
            }
            if consumer.epoch == truth.epoch {
                consumer.send(truth, rng);
            }
            if trouble && rng.random_bool(0.5) {
                continue;
            }
            flow = match consumer.wire.pop_front() {
                Some(Sent::Delivery(number, seq)) => {
                    // What is on the wire is what was sent, whatever became of it since.
                    let Some(message) = truth.sent(seq).filter(|_| consumer.epoch == truth.epoch)
                    else {
                        break;
                    };
                    let stamp = Stamp {
                        stream_seq: seq,
                        consumer_seq: number,
                        time: message.time,
                    };
                    let entry = (!subject::is_fence(&message.subject)).then(|| Entry {
                        subject: message.subject.as_str().into(),
                        seq,
                        time: message.time,
                        headers: None,
                        payload: message.payload.clone().into(),
                    });
                    self.machine.delivered(&stamp, entry, now)
                }
                Some(Sent::Heartbeat(count)) => {
                    let stalled = rng.random_bool(0.1);
                    flow = self.machine.heartbeat(Some(count), stalled, now);
                    break;
                }
                None => break,
            };
            if flow != Flow::Go {
                break;
            }
        }
        self.machine.flush();
        if flow == Flow::Go {
            flow = self.machine.tick(now);
        }
        let surveys = trouble || count == usize::MAX || self.machine.is_asking();
        if flow == Flow::Go && surveys && rng.random_bool(0.5) {
            let asked = self.machine.head().0;
            flow = self.machine.surveyed(&truth.state(), asked, now);
        }
        let is_dead = self
            .consumer
            .as_ref()
            .is_some_and(|of| of.epoch != truth.epoch);
        let is_cut = trouble && rng.random_bool(0.1) || is_dead && rng.random_bool(0.3);
        if flow != Flow::Go || is_cut {
            self.consumer = None;
            self.machine.gave_up(now, rng.random());
        }
    }

    /// Creates a consumer, and looks at the stream afterwards: it may have moved meanwhile.
    fn open(&mut self, truth: &mut Truth, trouble: bool, now: Instant, rng: &mut StdRng) {
        let after = match self.machine.resume() {
            Resume::Head(seq) | Resume::Boot(Start::After(seq)) => Some(seq),
            Resume::Boot(Start::LastPerSubject | Start::AllWithin { .. }) => None,
        };
        let consumer = Consumer::new(truth, after);
        if trouble {
            for _ in 0..rng.random_range(0..3) {
                truth.publish(rng);
            }
            if rng.random_bool(0.2) {
                truth.trim(rng);
            }
        }
        if self
            .machine
            .epoch()
            .is_some_and(|known| known != truth.epoch)
        {
            self.machine.rewound();
            return;
        }
        let joined = Joined {
            epoch: truth.epoch,
            state: truth.state(),
            after,
            goal: truth.head(),
            contiguous: true,
        };
        self.machine.opened(&joined, now);
        self.consumer = Some(consumer);
    }
}
