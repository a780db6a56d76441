//! A writer that is killed behind any message, and what the next one makes of the stream.

use std::collections::BTreeMap;

use prometheus_client::registry::Registry;
use schemas::tick::Side;
use schemas::topic::Topic;

use super::*;
use crate::line::{Line, Plan};
use crate::metrics::Metrics;

const START: i64 = 1_767_000_000_000_000_000;
const SECOND: i64 = 1_000_000_000;

fn venue() -> Venue {
    Venue::new("x").unwrap()
}

fn trade(id: u64, at: i64, price: &str) -> Trade {
    let symbol = Symbol::new("A").unwrap();
    let mut head = Head::new(venue(), symbol, UnixNanos::new(at));
    head.event = Some(UnixNanos::new(at));
    Trade {
        head,
        id: id.to_string(),
        price: price.parse().unwrap(),
        size: "1".parse().unwrap(),
        side: Side::Buy,
        conditions: None,
    }
}

/// What was stored; a message's sequence is its place, from 1.
#[derive(Default)]
struct Stored(Vec<Tick>);

impl Stored {
    fn entries(&self) -> impl Iterator<Item = (StreamSeq, &Tick)> {
        (1..).map(StreamSeq::new).zip(&self.0)
    }

    /// What a new writer makes of it, and how many trades it had to read for that.
    fn recover(&self, intervals: &[Interval]) -> (Recovered, usize) {
        let mut last: BTreeMap<Topic, (StreamSeq, &Tick)> = BTreeMap::new();
        for (seq, tick) in self.entries() {
            last.insert(tick.topic(), (seq, tick));
        }
        let mut past = Past::new(intervals.to_vec());
        for (seq, tick) in last.into_values() {
            past.last_value(seq, tick.head().received, tick.clone());
        }
        let mut read = 0;
        if let Some(after) = past.restore() {
            for (seq, tick) in self.entries().filter(|(seq, _)| *seq > after) {
                if let Tick::Trade(trade) = tick {
                    past.replay(seq, trade);
                    read += 1;
                }
            }
        }
        (past.recovered, read)
    }

    fn line(&self, intervals: &[Interval]) -> Line {
        let plan = Plan {
            bars: intervals.to_vec(),
            recorded: false,
        };
        let (recovered, _) = self.recover(intervals);
        let metrics = Metrics::new(&mut Registry::default());
        let mut line = Line::new(vec![plan], recovered, i64::MAX, metrics);
        line.adopt(|_| Some(0));
        line
    }

    fn bars(&self, interval: Interval) -> BTreeMap<UnixNanos, Bar> {
        let mut bars = BTreeMap::new();
        for tick in &self.0 {
            if let Tick::Bar(bar) = tick
                && bar.interval == interval
            {
                bars.insert(bar.start, bar.clone());
            }
        }
        bars
    }
}

#[test]
fn what_is_dated_far_ahead_is_not_restored() {
    let mut far = trade(1, START, "1");
    far.head.event = Some(UnixNanos::new(4_070_908_800_000_000_000));
    let at = far.head.event.unwrap();
    let figures = |interval| Form {
        head: far.head.clone(),
        interval,
        start: crate::bars::start_of(interval, at),
        open: far.price,
        high: far.price,
        low: far.price,
        close: far.price,
        volume: far.size,
        trades: 1,
    };
    let interval = Interval::Minute1;
    let mut stored = Stored(vec![far.clone().into(), figures(interval).into()]);
    let mut line = stored.line(&[interval]);
    for id in 2..4 {
        let next = trade(id, START + i64::try_from(id).unwrap() * 60 * SECOND, "2");
        let now = next.head.received;
        line.take(0, next.into(), now, &mut stored.0);
    }
    assert_eq!(stored.bars(interval).len(), 1);
    assert_eq!(stored.0.last().unwrap().head().flags, []);
}
