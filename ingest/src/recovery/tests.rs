//! A writer that is killed behind any message, and what the next one makes of the stream.

use std::collections::BTreeMap;

use prometheus_client::registry::Registry;
use schemas::tick::Side;
use schemas::topic::Topic;

use super::*;
use crate::line::Line;
use crate::line::plan::Plan;
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

fn plan(symbols: &[&str], bars: &[Interval]) -> Plan {
    Plan {
        venue: Some(venue()),
        symbols: symbols.iter().flat_map(|name| Symbol::new(name)).collect(),
        bars: bars.to_vec(),
        recorded: false,
    }
}

fn plans(bars: &[Interval]) -> Plans {
    Plans::new(vec![plan(&[], bars)])
}

/// What was stored; a message's sequence is its place, from 1.
#[derive(Default)]
struct Stored(Vec<Tick>);

impl Stored {
    fn entries(&self) -> impl Iterator<Item = (StreamSeq, &Tick)> {
        (1..).map(StreamSeq::new).zip(&self.0)
    }

    /// What a new writer makes of it, and how many trades it had to read for that.
    fn recover(&self, plans: &Plans) -> (Recovered, usize) {
        let mut last: BTreeMap<Topic, (StreamSeq, &Tick)> = BTreeMap::new();
        for (seq, tick) in self.entries() {
            last.insert(tick.topic(), (seq, tick));
        }
        let mut past = Past::new(plans);
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

    fn line(&self, plans: &Plans) -> Line {
        let (recovered, _) = self.recover(plans);
        let metrics = Metrics::new(&mut Registry::default());
        Line::new(plans.clone(), recovered, i64::MAX, metrics)
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
    let mut line = stored.line(&plans(&[interval]));
    for id in 2..4 {
        let next = trade(id, START + i64::try_from(id).unwrap() * 60 * SECOND, "2");
        let now = next.head.received;
        line.take(0, next.into(), now, &mut stored.0);
    }
    assert_eq!(stored.bars(interval).len(), 1);
    assert_eq!(stored.0.last().unwrap().head().flags, []);
}

/// Trades one a second, through a new line.
fn history(plans: &Plans, trades: u64) -> Stored {
    let mut stored = Stored::default();
    let mut line = stored.line(plans);
    for id in 1..=trades {
        let trade = trade(id, START + i64::try_from(id).unwrap() * SECOND, "1");
        let now = trade.head.received;
        line.take(0, trade.into(), now, &mut stored.0);
        line.flush(now, &mut stored.0);
    }
    stored
}

#[test]
fn an_interval_that_is_new_starts_with_the_others() {
    let (second, minute, day) = (Interval::Second1, Interval::Minute1, Interval::Day1);
    let stored = history(&plans(&[minute]), 200);
    for bars in [&[minute][..], &[minute, day], &[minute, second], &[]] {
        let (recovered, read) = stored.recover(&plans(bars));
        assert_eq!(read, 0, "{bars:?}");
        assert_eq!(recovered.unpublished, []);
    }
}

#[test]
fn instruments_have_the_bars_of_their_own_feed() {
    let (second, minute) = (Interval::Second1, Interval::Minute1);
    let two = Plans::new(vec![plan(&["B"], &[second]), plan(&["A"], &[minute])]);
    let stored = history(&two, 200);
    assert_eq!(stored.bars(second).len(), 0, "A belongs to the second feed");
    let (recovered, read) = stored.recover(&two);
    assert_eq!((read, recovered.unpublished.len()), (0, 0));
    let mut line = stored.line(&two);
    let mut out = Vec::new();
    line.flush(UnixNanos::new(START + 300 * SECOND), &mut out);
    let bars: Vec<Interval> = out.iter().filter_map(interval_of).collect();
    assert_eq!(bars, [minute], "the open bar is closed, and no other");
}

#[test]
fn the_first_trade_tells_which_of_two_simulators_an_instrument_is_of() {
    let (second, minute) = (Interval::Second1, Interval::Minute1);
    let two = Plans::new(vec![plan(&[], &[second]), plan(&[], &[minute])]);
    let mut stored = Stored::default();
    let mut line = stored.line(&two);
    for id in 1..=2 {
        let trade = trade(id, START + i64::try_from(id).unwrap() * SECOND, "1");
        let now = trade.head.received;
        line.take(1, trade.into(), now, &mut stored.0);
        line.flush(now, &mut stored.0);
    }
    stored.0.push(trade(9, START + 2 * SECOND, "1").into());
    let (recovered, read) = stored.recover(&two);
    assert_eq!((read, recovered.unpublished), (1, vec![]));
    let mut line = stored.line(&two);
    let mut out = Vec::new();
    let next = trade(10, START + 3 * SECOND, "1");
    let now = next.head.received;
    line.take(1, next.into(), now, &mut out);
    out.clear();
    line.flush(UnixNanos::new(START + 300 * SECOND), &mut out);
    let Some(Tick::Bar(bar)) = out.first() else {
        panic!("{out:?}")
    };
    assert_eq!((bar.interval, bar.trades), (minute, 4));
    assert_eq!(out.iter().filter_map(interval_of).count(), 1);
}

fn interval_of(tick: &Tick) -> Option<Interval> {
    if let Tick::Bar(bar) = tick {
        return Some(bar.interval);
    }
    None
}
