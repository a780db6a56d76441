//! The machine against simulated brokers that lose, repeat, reorder, trim and restart.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const FIRST_EPOCH: Epoch = Epoch::new(UnixNanos::new(1), 0);

fn seq(number: u64) -> StreamSeq {
    StreamSeq::new(number)
}

fn state(first: u64, last: u64) -> StreamState {
    StreamState {
        created: UnixNanos::new(1),
        first_seq: seq(first),
        last_seq: seq(last),
        messages: last + 1 - first,
        bytes: 0,
    }
}

fn joined(after: Option<u64>, state: StreamState) -> Joined {
    Joined {
        epoch: FIRST_EPOCH,
        goal: state.last_seq,
        state,
        after: after.map(seq),
        contiguous: true,
    }
}

fn entry(number: u64) -> Entry {
    Entry {
        subject: "tick.trade.x.A".into(),
        seq: seq(number),
        time: time(number),
        headers: None,
        payload: Bytes::new(),
    }
}

fn time(number: u64) -> UnixNanos {
    UnixNanos::new(i64::try_from(number).unwrap() + 1_000)
}

fn stamp(consumer_seq: u64, stream_seq: u64) -> Stamp {
    Stamp {
        stream_seq: seq(stream_seq),
        consumer_seq,
        time: time(stream_seq),
    }
}

fn deliver(machine: &mut Machine, consumer_seq: u64, stream_seq: u64, now: Instant) -> Flow {
    let stamp = stamp(consumer_seq, stream_seq);
    machine.delivered(&stamp, Some(entry(stream_seq)), now)
}

/// What a machine told, in short.
fn told(machine: &mut Machine) -> Vec<String> {
    machine.flush();
    let mut told = Vec::new();
    while let Some(event) = machine.next_event() {
        told.push(match event {
            Event::Boot { last_seq, .. } => format!("boot {last_seq}"),
            Event::Batch { entries, head, .. } => {
                let seqs: Vec<String> = entries.iter().map(|e| e.seq.to_string()).collect();
                format!("{} @{head}", seqs.join(" "))
            }
            Event::CaughtUp => "caught up".to_owned(),
            Event::Stale => "stale".to_owned(),
            Event::Live => "live".to_owned(),
            Event::Trimmed { from, to } => format!("trimmed {from}-{to}"),
            Event::Reset => "reset".to_owned(),
            Event::Surveyed { .. } => continue,
        });
    }
    told
}

#[test]
fn an_empty_stream_is_caught_up_at_once() {
    let mut machine = Machine::new(Start::LastPerSubject);
    machine.opened(&joined(None, state(1, 0)), Instant::now());
    assert_eq!(told(&mut machine), ["boot 0", "caught up"]);
    let mut machine = Machine::new(Start::LastPerSubject);
    machine.opened(&joined(None, state(8, 7)), Instant::now());
    assert_eq!(told(&mut machine), ["boot 7", " @7", "caught up"]);
}

#[test]
fn what_expires_during_a_snapshot_is_declared() {
    let now = Instant::now();
    let mut machine = Machine::new(Start::LastPerSubject);
    machine.opened(&joined(None, state(1, 9)), now);
    deliver(&mut machine, 1, 4, now);
    let flow = machine.surveyed(&state(12, 11), seq(4), now);
    assert_eq!(flow, Flow::Go);
    assert_eq!(
        told(&mut machine),
        ["boot 9", "4 @4", "trimmed 5-11", " @11", "caught up"]
    );
}

#[test]
fn what_expires_behind_a_snapshot_is_declared() {
    let now = Instant::now();
    let mut machine = Machine::new(Start::LastPerSubject);
    machine.opened(&joined(None, state(1, 9)), now);
    deliver(&mut machine, 1, 4, now);
    deliver(&mut machine, 2, 14, now);
    assert_eq!(
        told(&mut machine),
        ["boot 9", "4 @4", "trimmed 5-13", "14 @14", "caught up"]
    );
}

#[test]
fn what_expires_before_its_subject_is_delivered_is_declared() {
    let now = Instant::now();
    let mut machine = Machine::new(Start::LastPerSubject);
    machine.opened(&joined(None, state(1, 9)), now);
    deliver(&mut machine, 1, 4, now);
    // Asked before everything had come: it may be true no longer.
    assert_eq!(machine.surveyed(&state(3, 11), seq(4), now), Flow::Go);
    deliver(&mut machine, 2, 9, now);
    assert!(machine.is_asking());
    assert_eq!(machine.surveyed(&state(3, 11), seq(4), now), Flow::Go);
    assert!(machine.is_asking());
    assert_eq!(told(&mut machine), ["boot 9", "4 @4", "9 @9"]);
    assert_eq!(machine.surveyed(&state(7, 11), seq(9), now), Flow::Go);
    assert!(!machine.is_asking());
    deliver(&mut machine, 3, 10, now);
    assert_eq!(told(&mut machine), ["trimmed 1-6", "caught up", "10 @10"]);
}

#[test]
fn everything_that_expires_while_the_leader_is_asked_is_declared() {
    let now = Instant::now();
    let mut machine = Machine::new(Start::LastPerSubject);
    machine.opened(&joined(None, state(1, 9)), now);
    deliver(&mut machine, 1, 9, now);
    assert_eq!(machine.surveyed(&state(10, 9), seq(9), now), Flow::Go);
    assert_eq!(
        told(&mut machine),
        ["boot 9", "9 @9", "trimmed 1-9", "caught up"]
    );
}

#[test]
fn fillers_at_the_tail_are_caught_up_with() {
    let now = Instant::now();
    let mut machine = Machine::new(Start::LastPerSubject);
    machine.opened(&joined(None, state(1, 9)), now);
    assert_eq!(deliver(&mut machine, 1, 4, now), Flow::Go);
    assert_eq!(machine.delivered(&stamp(2, 9), None, now), Flow::Go);
    assert_eq!(machine.surveyed(&state(1, 9), seq(9), now), Flow::Go);
    assert_eq!(told(&mut machine), ["boot 9", "4 @9", "caught up"]);
    assert_eq!(machine.delivered(&stamp(3, 10), None, now), Flow::Go);
    assert_eq!(told(&mut machine), [" @10"]);
}

#[test]
fn a_snapshot_that_was_cut_is_taken_again() {
    let now = Instant::now();
    let mut machine = Machine::new(Start::LastPerSubject);
    machine.opened(&joined(None, state(1, 9)), now);
    deliver(&mut machine, 1, 4, now);
    assert_eq!(
        deliver(&mut machine, 3, 9, now),
        Flow::Reopen("a delivery is missing")
    );
    machine.gave_up(now, 0.0);
    assert_eq!(machine.resume(), Resume::Boot(Start::LastPerSubject));
    machine.opened(&joined(None, state(1, 12)), now);
    for (count, number) in [(1, 4), (2, 9), (3, 12)] {
        assert_eq!(deliver(&mut machine, count, number, now), Flow::Go);
    }
    assert_eq!(machine.surveyed(&state(1, 12), seq(12), now), Flow::Go);
    assert_eq!(machine.resume(), Resume::Head(seq(12)));
    assert_eq!(
        told(&mut machine),
        ["boot 9", "4 @4", "boot 12", "4 9 12 @12", "caught up"]
    );
}

#[test]
fn what_retention_took_is_declared() {
    let now = Instant::now();
    let mut machine = Machine::new(Start::After(seq(3)));
    machine.opened(&joined(Some(3), state(6, 7)), now);
    deliver(&mut machine, 1, 6, now);
    // The consumer lags, and what it is about to send is trimmed.
    deliver(&mut machine, 2, 9, now);
    assert_eq!(
        told(&mut machine),
        [
            "boot 7",
            "trimmed 4-5",
            "6 @6",
            "trimmed 7-8",
            "9 @9",
            "caught up"
        ]
    );
    // Away for longer than the retention, and nothing new.
    machine.gave_up(now, 0.0);
    machine.opened(&joined(Some(9), state(15, 14)), now);
    // The consumer was created before that, and still has what was declared.
    deliver(&mut machine, 1, 12, now);
    deliver(&mut machine, 2, 15, now);
    assert_eq!(told(&mut machine), ["trimmed 10-14", "15 @15"]);
}

#[test]
fn a_lost_tail_is_found_by_the_heartbeat() {
    let now = Instant::now();
    let mut machine = Machine::new(Start::LastPerSubject);
    machine.opened(&joined(None, state(1, 2)), now);
    deliver(&mut machine, 1, 1, now);
    assert_eq!(machine.heartbeat(Some(1), false, now), Flow::Go);
    assert_eq!(
        machine.heartbeat(Some(2), false, now),
        Flow::Reopen("a heartbeat counts other deliveries")
    );
}

#[test]
fn from_the_beginning_means_of_what_is_retained() {
    let now = Instant::now();
    let mut machine = Machine::new(Start::After(StreamSeq::ZERO));
    machine.opened(&joined(Some(0), state(6, 7)), now);
    deliver(&mut machine, 1, 6, now);
    deliver(&mut machine, 2, 7, now);
    assert_eq!(told(&mut machine), ["boot 7", "6 7 @7", "caught up"]);
}

#[test]
fn silence_is_stale_until_a_consumer_is_open() {
    let start = Instant::now();
    let mut machine = Machine::new(Start::LastPerSubject);
    assert_eq!(machine.tick(start), Flow::Go);
    machine.opened(&joined(None, state(1, 0)), start);
    assert_eq!(
        machine.heartbeat(Some(0), false, start + SILENCE / 3),
        Flow::Go
    );
    assert_eq!(machine.tick(start + SILENCE), Flow::Go);
    let late = start + SILENCE * 2;
    assert_ne!(machine.tick(late), Flow::Go);
    assert_ne!(machine.tick(late + SILENCE), Flow::Go);
    assert_eq!(told(&mut machine), ["boot 0", "caught up", "stale"]);
    machine.opened(&joined(Some(0), state(1, 0)), late);
    assert_eq!(machine.tick(late), Flow::Go);
    assert_eq!(told(&mut machine), ["live"]);
}

#[test]
fn attempts_are_paced() {
    let now = Instant::now();
    let mut machine = Machine::new(Start::LastPerSubject);
    assert_eq!(machine.retry_at(), None);
    let mut pauses = Vec::new();
    for _ in 0..6 {
        machine.refused(now, 1.0);
        pauses.push(machine.retry_at().unwrap().duration_since(now).as_millis());
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1_000, 1_000]);
    machine.opened(&joined(None, state(1, 1)), now);
    deliver(&mut machine, 1, 1, now);
    machine.gave_up(now, 0.0);
    assert_eq!(machine.retry_at(), None);
    // Consumers that never deliver are paced as well.
    machine.opened(&joined(Some(1), state(1, 1)), now);
    machine.gave_up(now, 0.0);
    assert!(machine.retry_at().is_some());
}

#[test]
fn another_history_starts_anew() {
    let now = Instant::now();
    let mut machine = Machine::new(Start::LastPerSubject);
    machine.opened(&joined(None, state(1, 1)), now);
    deliver(&mut machine, 1, 1, now);
    assert_eq!(machine.surveyed(&state(1, 1), seq(1), now), Flow::Go);
    machine.rewound();
    assert_eq!((machine.head().0, machine.epoch()), (StreamSeq::ZERO, None));
    machine.opened(&joined(None, state(1, 0)), now);
    assert_eq!(
        told(&mut machine),
        [
            "boot 1",
            "1 @1",
            "caught up",
            "reset",
            "boot 0",
            "caught up"
        ]
    );
}

#[test]
fn surveys_find_what_heartbeats_hide() {
    let now = Instant::now();
    let mut machine = Machine::new(Start::LastPerSubject);
    machine.opened(&joined(None, state(1, 1)), now);
    deliver(&mut machine, 1, 1, now);
    assert_eq!(machine.surveyed(&state(1, 5), seq(1), now), Flow::Go);
    assert_eq!(machine.lag(), 4);
    assert_eq!(machine.heartbeat(Some(1), false, now + STUCK), Flow::Go);
    assert_ne!(machine.tick(now + STUCK), Flow::Go);
    // A survey that was under way while messages came is no proof of anything.
    machine.opened(&joined(Some(1), state(1, 5)), now);
    deliver(&mut machine, 1, 2, now);
    assert_eq!(machine.surveyed(&state(1, 1), seq(1), now), Flow::Go);
    assert_ne!(machine.surveyed(&state(1, 1), seq(2), now), Flow::Go);
    let anew = StreamState {
        created: UnixNanos::new(2),
        ..state(1, 9)
    };
    assert_ne!(machine.surveyed(&anew, seq(2), now), Flow::Go);
}

#[test]
fn a_goal_that_expires_is_reached() {
    let now = Instant::now();
    let mut machine = Machine::new(Start::LastPerSubject);
    machine.opened(&joined(None, state(1, 3)), now);
    assert_eq!(machine.heartbeat(Some(0), false, now), Flow::Go);
    assert_eq!(machine.surveyed(&state(4, 3), seq(0), now), Flow::Go);
    assert_eq!(
        told(&mut machine),
        ["boot 3", "trimmed 1-3", " @3", "caught up"]
    );
}

/// What the simulated broker and network do next.
#[derive(Clone, Debug)]
enum Act {
    /// Stores messages of subjects.
    Store(Vec<u8>),
    /// Removes some of the oldest messages.
    Expire(u8),
    /// Delivers so many messages.
    Deliver(u8),
    /// Loses the next delivery.
    Lose,
    /// Repeats the last delivery.
    Repeat,
    /// Swaps the next two deliveries.
    Swap,
    /// Sends a heartbeat.
    Beat,
    /// The consumer is gone.
    Restart,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => prop::collection::vec(0..5_u8, 1..6).prop_map(Act::Store),
        1 => (1..6_u8).prop_map(Act::Expire),
        4 => (1..8_u8).prop_map(Act::Deliver),
        1 => Just(Act::Lose),
        1 => Just(Act::Repeat),
        1 => Just(Act::Swap),
        2 => Just(Act::Beat),
        1 => Just(Act::Restart),
    ];
    prop::collection::vec(act, 0..60)
}

/// A broker with one stream and one consumer.
#[derive(Default)]
struct Broker {
    /// Sequence and subject of retained messages.
    stored: BTreeMap<u64, u8>,
    last: u64,
    /// What the consumer will deliver of the messages that were there when it was created.
    snapshot: Vec<u64>,
    next: u64,
    delivered: u64,
    repeat: Option<(u64, u64)>,
}

impl Broker {
    fn state(&self) -> StreamState {
        let first = self.stored.keys().next().copied().unwrap_or(self.last + 1);
        state(first, self.last)
    }

    fn open(&mut self, resume: Resume) -> Joined {
        (self.delivered, self.repeat) = (0, None);
        self.snapshot.clear();
        let after = match resume {
            Resume::Head(head) => Some(head.get()),
            Resume::Boot(Start::After(after)) => Some(after.get()),
            Resume::Boot(_) => None,
        };
        if let Some(after) = after {
            self.next = after + 1;
        } else {
            let mut last = BTreeMap::new();
            last.extend(self.stored.iter().map(|(seq, subject)| (*subject, *seq)));
            self.snapshot = last.into_values().collect();
            self.snapshot.sort_unstable();
            self.snapshot.reverse();
            self.next = self.last + 1;
        }
        joined(after, self.state())
    }

    fn deliver(&mut self) -> Option<(u64, u64)> {
        while let Some(number) = self.snapshot.pop() {
            if self.stored.contains_key(&number) {
                self.delivered += 1;
                return Some((self.delivered, number));
            }
        }
        let (number, _) = self.stored.range(self.next..).next()?;
        self.next = number + 1;
        self.delivered += 1;
        Some((self.delivered, *number))
    }
}

/// A reader that believes what it is told.
#[derive(Default)]
struct Listener {
    last: u64,
    /// Last values by subject.
    values: BTreeMap<u8, u64>,
    caught_up: bool,
}

impl Listener {
    /// Takes what was told; every hole between heads must have been declared.
    fn listen(&mut self, machine: &mut Machine, everything: &BTreeMap<u64, u8>, from_start: bool) {
        while let Some(event) = machine.next_event() {
            match event {
                Event::Batch { entries, head, .. } => {
                    for entry in entries {
                        let number = entry.seq.get();
                        assert!(number > self.last, "order");
                        let due = number == self.last + 1;
                        assert!(
                            due || (!self.caught_up && !from_start),
                            "a hole before {number}"
                        );
                        self.last = number;
                        self.values.insert(everything[&number], number);
                    }
                    assert!(head.get() >= self.last);
                    self.last = head.get();
                }
                Event::Trimmed { from, to } => {
                    let due = from.get() == self.last + 1;
                    assert!(due || (!self.caught_up && !from_start), "declared twice");
                    self.last = self.last.max(to.get());
                }
                Event::CaughtUp => self.caught_up = true,
                Event::Boot { first_seq, .. } => {
                    assert!(!self.caught_up);
                    self.values.clear();
                    self.last = if from_start {
                        first_seq.prev().get()
                    } else {
                        0
                    };
                }
                Event::Stale | Event::Live | Event::Surveyed { .. } => {}
                Event::Reset => panic!("no history was rewound"),
            }
        }
    }
}

fn run(start: Start, script: Vec<Act>) {
    let from_start = matches!(start, Start::After(_));
    let now = Instant::now();
    let mut broker = Broker::default();
    let mut everything = BTreeMap::new();
    let mut machine = Machine::new(start);
    let mut listener = Listener::default();
    let mut open = false;
    let tail = [
        Act::Deliver(255),
        Act::Beat,
        Act::Restart,
        Act::Deliver(255),
        Act::Beat,
    ];
    for act in script.into_iter().chain(tail) {
        // Before there is a consumer, too, messages come and go.
        if !open && !matches!(act, Act::Store(_) | Act::Expire(_)) {
            let joined = broker.open(machine.resume());
            machine.opened(&joined, now);
            open = true;
        }
        let mut wire = Vec::new();
        let mut flow = Flow::Go;
        match act {
            Act::Store(subjects) => {
                for subject in subjects {
                    broker.last += 1;
                    broker.stored.insert(broker.last, subject);
                    everything.insert(broker.last, subject);
                }
            }
            Act::Expire(count) => {
                for _ in 0..count {
                    broker.stored.pop_first();
                }
            }
            Act::Deliver(count) => {
                wire.extend((0..count).map_while(|_| broker.deliver()));
            }
            Act::Lose => {
                broker.deliver();
            }
            Act::Repeat => wire.extend(broker.repeat),
            Act::Swap => {
                wire.extend((0..2).map_while(|_| broker.deliver()));
                wire.reverse();
            }
            Act::Beat => {
                if broker.snapshot.is_empty() && broker.next > broker.last {
                    flow = machine.heartbeat(Some(broker.delivered), false, now);
                }
                if flow == Flow::Go {
                    flow = machine.surveyed(&broker.state(), machine.head().0, now);
                }
            }
            Act::Restart => flow = Flow::Reopen("restart"),
        }
        for delivery in wire {
            broker.repeat = Some(delivery);
            if machine.is_asking() {
                let asked = machine.head().0;
                assert_eq!(machine.surveyed(&broker.state(), asked, now), Flow::Go);
            }
            if flow == Flow::Go {
                flow = deliver(&mut machine, delivery.0, delivery.1, now);
            }
        }
        machine.flush();
        if flow != Flow::Go {
            machine.gave_up(now, 0.5);
            open = false;
        }
        listener.listen(&mut machine, &everything, from_start);
    }
    assert!(listener.caught_up, "never caught up");
    assert_eq!(listener.last, broker.last, "did not reach the end");
    let mut expected = BTreeMap::new();
    expected.extend(broker.stored.iter().map(|(seq, subject)| (*subject, *seq)));
    for (subject, number) in expected {
        assert_eq!(
            listener.values.get(&subject),
            Some(&number),
            "subject {subject}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nothing_is_missed_after_the_join(script in acts()) {
        run(Start::LastPerSubject, script);
    }

    #[test]
    fn nothing_is_missed_from_the_beginning(script in acts()) {
        run(Start::After(StreamSeq::ZERO), script);
    }
}
