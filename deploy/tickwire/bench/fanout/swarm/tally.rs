//! What a swarm of clients has seen: every tick checked for continuity, every latency counted.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::Result;
use hdrhistogram::Histogram;
use schemas::time::UnixNanos;

use super::scan::{Delivery, Item, ScanError, scan};
use super::{Dialect, OPENING};

/// A topic that a client does not hold.
const NOT_HELD: u64 = u64::MAX;
/// A topic that a client holds, of which it does not know yet where it stands.
const UNKNOWN: u64 = u64::MAX - 1;
/// The longest latency that is told from a longer one: a minute, in microseconds.
const LONGEST: u64 = 60_000_000;
/// How many complaints of servers are kept.
const COMPLAINTS: usize = 3;

/// What was seen since the last time somebody asked.
#[derive(Clone, Debug)]
pub(in crate::bench::fanout) struct Tally {
    /// Ticks scheduled in this time are measured; the others are only checked and counted.
    window: Range<i64>,
    /// Microseconds from the scheduled time to the moment when the client had the bytes.
    pub(in crate::bench::fanout) latency: Histogram<u64>,
    /// Ticks.
    pub(in crate::bench::fanout) deliveries: u64,
    /// Ticks scheduled in the window.
    pub(in crate::bench::fanout) in_window: u64,
    /// Bytes, of whatever kind.
    pub(in crate::bench::fanout) bytes: u64,
    /// Ticks before which something was missing, and not declared.
    pub(in crate::bench::fanout) holes: u64,
    /// Ticks of topics that were not asked for.
    pub(in crate::bench::fanout) strays: u64,
    /// Ticks that had been seen before.
    pub(in crate::bench::fanout) duplicates: u64,
    /// Omissions that the server declared.
    pub(in crate::bench::fanout) declared: u64,
    /// Last values.
    pub(in crate::bench::fanout) snapshots: u64,
    /// Ops that were carried out, openings aside.
    pub(in crate::bench::fanout) answered: u64,
    /// Microseconds from the time at which an op was due in the window, which is its id.
    pub(in crate::bench::fanout) answers: Histogram<u64>,
    /// Connections that ended, by close code; 1006 without one.
    pub(in crate::bench::fanout) closes: BTreeMap<u16, u64>,
    /// What servers refused, the first few.
    pub(in crate::bench::fanout) complaints: Vec<String>,
    /// Ticks scheduled before this time are old news.
    old: i64,
    /// When the last old news arrived.
    pub(in crate::bench::fanout) caught_up: Option<i64>,
}

impl Tally {
    fn new(window: Range<i64>, old: i64) -> Result<Self> {
        Ok(Self {
            window,
            latency: Histogram::new_with_bounds(1, LONGEST, 3)?,
            deliveries: 0,
            in_window: 0,
            bytes: 0,
            holes: 0,
            strays: 0,
            duplicates: 0,
            declared: 0,
            snapshots: 0,
            answered: 0,
            answers: Histogram::new_with_bounds(1, LONGEST, 3)?,
            closes: BTreeMap::new(),
            complaints: Vec::new(),
            old,
            caught_up: None,
        })
    }

    /// How many connections ended.
    pub(in crate::bench::fanout) fn closed(&self) -> u64 {
        self.closes.values().sum()
    }
}

/// What one message did beside what was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// The subscription was accepted.
    pub(super) acknowledged: bool,
    /// The server wants to know whether anybody is there.
    pub(super) pinged: bool,
    /// So many bytes at the end belong to the next message.
    pub(super) left: usize,
}

/// Where every client stands in every topic, and the tally.
pub(super) struct Ledger {
    dialect: Dialect,
    topics: usize,
    /// By client, then by topic.
    positions: Vec<u64>,
    epoch: Option<String>,
    pub(super) tally: Tally,
}

impl Ledger {
    /// Clients that hold these topics, of so many.
    pub(super) fn new(dialect: Dialect, topics: usize, held: &[Vec<usize>]) -> Result<Self> {
        let mut positions = vec![NOT_HELD; topics.saturating_mul(held.len())];
        for (row, held) in positions.chunks_mut(topics.max(1)).zip(held) {
            for topic in held {
                if let Some(position) = row.get_mut(*topic) {
                    *position = UNKNOWN;
                }
            }
        }
        Ok(Self {
            dialect,
            topics,
            positions,
            epoch: None,
            tally: Tally::new(0..0, i64::MIN)?,
        })
    }

    pub(super) const fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The epoch that positions belong to, once a server has named it.
    pub(super) fn epoch(&self) -> Option<&str> {
        self.epoch.as_deref()
    }

    /// Where a client stands in a topic that it holds, if it knows.
    pub(super) fn position(&self, client: usize, topic: usize) -> Option<u64> {
        let at = client.checked_mul(self.topics)?.checked_add(topic)?;
        self.positions.get(at).copied().filter(|at| *at < UNKNOWN)
    }

    /// Starts a new tally; the old one. Latencies are of ticks scheduled in the window.
    pub(super) fn begin(&mut self, window: Range<i64>, old: i64) -> Result<Tally> {
        let fresh = Tally::new(window, old)?;
        Ok(std::mem::replace(&mut self.tally, fresh))
    }

    /// Takes a whole message that a client has received by `now`.
    pub(super) fn take(
        &mut self,
        client: usize,
        payload: &[u8],
        now: UnixNanos,
    ) -> Result<Effect, ScanError> {
        let Self {
            topics,
            positions,
            tally,
            epoch,
            ..
        } = self;
        let start = client.saturating_mul(*topics);
        let row = positions
            .get_mut(start..start.saturating_add(*topics))
            .unwrap_or_default();
        let mut effect = Effect::default();
        effect.left = scan(self.dialect, payload, |item| match item {
            Item::Tick(delivery) => tally.deliver(row, delivery, now),
            Item::Ack(id, accepted) => {
                effect.acknowledged = true;
                tally.answer(id, now);
                for (topic, head) in accepted {
                    if let (Some(position), Some(head)) = (row.get_mut(topic), head)
                        && *position == UNKNOWN
                    {
                        *position = head;
                    }
                }
            }
            Item::Welcome(named) => *epoch = named,
            Item::Snapshot => tally.snapshots += 1,
            Item::Declared => tally.declared += 1,
            Item::Refused(text) => {
                if tally.complaints.len() < COMPLAINTS {
                    tally.complaints.push(text);
                }
            }
            Item::Ping => effect.pinged = true,
            Item::Other => {}
        })?;
        Ok(effect)
    }
}

impl Tally {
    fn answer(&mut self, id: u64, now: UnixNanos) {
        if id == OPENING {
            return;
        }
        self.answered += 1;
        let due = i64::try_from(id).unwrap_or(i64::MAX);
        if self.window.contains(&due) {
            self.answers.saturating_record(micros(due, now));
        }
    }

    fn deliver(&mut self, positions: &mut [u64], delivery: Delivery, now: UnixNanos) {
        let Delivery {
            topic,
            s,
            p,
            scheduled,
        } = delivery;
        match positions.get_mut(topic) {
            None | Some(&mut NOT_HELD) => {
                self.strays += 1;
                return;
            }
            // A server that does not say where a topic starts begins with what it sends first.
            Some(position) if *position == UNKNOWN => *position = s,
            Some(position) if s <= *position => {
                self.duplicates += 1;
                return;
            }
            Some(position) => {
                self.holes += u64::from(p > *position);
                *position = s;
            }
        }
        self.deliveries += 1;
        if self.window.contains(&scheduled) {
            self.in_window += 1;
            self.latency.saturating_record(micros(scheduled, now));
        }
        if scheduled < self.old {
            self.caught_up = Some(now.get());
        }
    }
}

fn micros(since: i64, now: UnixNanos) -> u64 {
    let micros = now.get().saturating_sub(since).max(0) / 1_000;
    u64::try_from(micros).unwrap_or(LONGEST)
}

#[cfg(test)]
mod tests {
    use schemas::time::UnixNanos;
    use schemas::ws::Encoding;

    use super::{Dialect, Ledger};

    const ACK: &str = r#"[{"t":"ack","id":1,"ok":[{"c":"trade.bench.S0001","pos":{"TICKS":10}}]}]"#;

    fn d(topic: usize, s: u64, p: u64, te: i64) -> String {
        format!(
            "[{{\"t\":\"d\",\"c\":\"trade.bench.S{topic:04}\",\"s\":{s},\"p\":{p},\"d\":{{\"te\":\"{te}\"}}}}]"
        )
    }

    fn ledger() -> Ledger {
        Ledger::new(Dialect::Tickwire(Encoding::Json), 3, &[vec![0], vec![1, 2]]).unwrap()
    }

    fn take(ledger: &mut Ledger, client: usize, text: &str) {
        ledger
            .take(client, text.as_bytes(), UnixNanos::new(9_000_000))
            .unwrap();
    }

    #[test]
    fn a_hole_is_noticed_and_what_follows_is_not_one() {
        let mut ledger = ledger();
        take(&mut ledger, 1, ACK);
        for (s, p) in [(12, 10), (15, 13), (16, 15), (16, 15), (14, 12)] {
            take(&mut ledger, 1, &d(1, s, p, 0));
        }
        let tally = &ledger.tally;
        assert_eq!((tally.deliveries, tally.holes, tally.duplicates), (3, 1, 2));
        assert_eq!(ledger.position(1, 1), Some(16));
        assert_eq!((ledger.position(1, 2), ledger.position(1, 0)), (None, None));
    }

    #[test]
    fn the_acknowledged_head_is_where_a_topic_starts() {
        let mut ledger = ledger();
        take(&mut ledger, 1, ACK);
        take(&mut ledger, 1, &d(1, 13, 12, 0));
        // Without a head, the first tick is the start.
        take(&mut ledger, 1, &d(2, 40, 39, 0));
        take(&mut ledger, 1, &d(2, 42, 41, 0));
        assert_eq!((ledger.tally.holes, ledger.tally.deliveries), (2, 3));
    }

    #[test]
    fn an_op_is_answered_as_late_as_its_id_says() {
        let mut ledger = ledger();
        ledger.begin(2_000_000..5_000_000, 0).unwrap();
        take(&mut ledger, 0, ACK);
        for due in [1_000_000, 4_000_000, 5_000_000] {
            take(&mut ledger, 0, &format!("[{{\"t\":\"ack\",\"id\":{due}}}]"));
        }
        let refused = "[{\"t\":\"ack\",\"id\":3000000,\"err\":[{\"message\":\"no\"}]}]";
        take(&mut ledger, 0, refused);
        let tally = &ledger.tally;
        assert_eq!((tally.answered, tally.answers.len()), (3, 1));
        assert_eq!(tally.answers.max() / 10, 500);
        assert_eq!(tally.complaints, ["no"]);
    }

    #[test]
    fn ticks_of_others_are_strays() {
        let mut ledger = ledger();
        take(&mut ledger, 0, &d(1, 5, 4, 0));
        take(&mut ledger, 0, &d(7, 5, 4, 0));
        assert_eq!((ledger.tally.strays, ledger.tally.deliveries), (2, 0));
    }

    #[test]
    fn latency_counts_from_the_schedule_within_the_window() {
        let mut ledger = ledger();
        let before = ledger.begin(2_000_000..5_000_000, 3_000_000).unwrap();
        assert_eq!(before.deliveries, 0);
        for (s, te) in [
            (1, 1_000_000),
            (2, 2_000_000),
            (3, 4_000_000),
            (4, 5_000_000),
        ] {
            take(&mut ledger, 0, &d(0, s, s - 1, te));
        }
        let tally = ledger.begin(0..0, 0).unwrap();
        assert_eq!((tally.deliveries, tally.in_window), (4, 2));
        // Three digits are kept.
        let found = (tally.latency.min() / 10, tally.latency.max() / 10);
        assert_eq!(found, (500, 700));
        assert_eq!(tally.caught_up, Some(9_000_000));
    }
}
