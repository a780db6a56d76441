//! What the line lets through, what it adds, and that a restart is not seen from outside.

use std::collections::HashSet;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use schemas::id::Kind;
use schemas::tick::{Quote, Side};

use super::plan::Plan;
use super::*;

const START: i64 = 1_767_000_000_000_000_000;

fn line(bars: &[Interval], recorded: bool) -> Line {
    line_of(bars, recorded, &mut Registry::default())
}

fn line_of(bars: &[Interval], recorded: bool, registry: &mut Registry) -> Line {
    let plan = Plan {
        venue: Venue::new("x").ok(),
        symbols: HashSet::new(),
        bars: bars.to_vec(),
        recorded,
    };
    let metrics = Metrics::new(registry);
    Line::new(
        Plans::new(vec![plan]),
        Recovered::default(),
        1_000_000_000_000,
        metrics,
    )
}

fn head(at: i64) -> Head {
    let mut head = Head::new(
        Venue::new("x").unwrap(),
        Symbol::new("A").unwrap(),
        UnixNanos::new(at),
    );
    head.event = Some(UnixNanos::new(at));
    head
}

fn trade(id: u64, at: i64) -> Tick {
    Trade {
        head: head(at),
        id: id.to_string(),
        price: "1.50".parse().unwrap(),
        size: "2".parse().unwrap(),
        side: Side::Buy,
        conditions: None,
    }
    .into()
}

fn quote(bid: &str, at: i64) -> Tick {
    let (bid, ask) = (Some(bid.parse().unwrap()), Some("9".parse().unwrap()));
    Quote {
        head: head(at),
        bid,
        bid_size: None,
        ask,
        ask_size: None,
    }
    .into()
}

fn take(line: &mut Line, tick: Tick) -> Vec<Kind> {
    let mut out = Vec::new();
    let now = tick.head().received;
    line.take(0, tick, now, &mut out);
    out.iter().map(Tick::kind).collect()
}

fn flush(line: &mut Line, at: i64) -> Vec<Kind> {
    let mut out = Vec::new();
    line.flush(UnixNanos::new(at), &mut out);
    out.iter().map(Tick::kind).collect()
}

#[test]
fn state_goes_out_on_change_only_and_trades_once() {
    let mut line = line(&[], false);
    assert_eq!(take(&mut line, quote("1.0", START)), [Kind::Quote]);
    assert_eq!(take(&mut line, quote("1.0", START + 1)), []);
    assert_eq!(
        take(&mut line, quote("1.00", START + 2)),
        [Kind::Quote].map(|_| Kind::Quote)[..0]
    );
    assert_eq!(take(&mut line, quote("1.1", START + 3)), [Kind::Quote]);
    assert_eq!(take(&mut line, trade(5, START)), [Kind::Trade]);
    assert_eq!(take(&mut line, trade(5, START)), []);
}

#[test]
fn forming_bars_go_out_once_a_second_and_bars_when_they_are_over() {
    let mut line = line(&[Interval::Second1, Interval::Minute1], false);
    assert_eq!(take(&mut line, trade(1, START)), [Kind::Trade]);
    assert_eq!(flush(&mut line, START + 1), [Kind::Form, Kind::Stat]);
    assert_eq!(flush(&mut line, START + 2), []);
    assert_eq!(
        flush(&mut line, START + 1_000_000_000),
        [],
        "the grace is not over"
    );
    assert_eq!(flush(&mut line, START + 1_500_000_000), [Kind::Bar]);
    let next = take(&mut line, trade(2, START + 60_000_000_000));
    assert_eq!(
        next,
        [Kind::Bar, Kind::Trade],
        "a bar stands before the trade that closes it"
    );
}

#[test]
fn forming_bars_of_many_instruments_are_spread_and_none_is_forgotten() {
    let mut line = line(&[], false);
    for number in 0..100 {
        let Tick::Trade(mut trade) = trade(1, START) else {
            panic!()
        };
        trade.head.symbol = Symbol::new(&format!("S{number}")).unwrap();
        take(&mut line, trade.into());
    }
    let sizes: Vec<usize> = (0..40)
        .map(|pulse| flush(&mut line, START + pulse).len())
        .collect();
    assert_eq!(sizes[0], 3);
    assert_eq!(sizes.iter().sum::<usize>(), 100);
}

#[test]
fn a_clock_that_goes_back_does_not_hold_up_forming_bars() {
    let mut line = line(&[], false);
    take(&mut line, trade(1, START));
    assert_eq!(flush(&mut line, START), [Kind::Stat]);
    take(&mut line, trade(2, START));
    assert_eq!(flush(&mut line, START + 1), [], "it is not due yet");
    assert_eq!(flush(&mut line, START - 3_600_000_000_000), [Kind::Stat]);
}

#[test]
fn a_recording_is_closed_by_its_own_clock() {
    let mut line = line(&[Interval::Second1], true);
    take(&mut line, trade(1, START));
    assert_eq!(flush(&mut line, START + 3_600_000_000_000), [Kind::Stat]);
    let mut other = head(START + 2_000_000_000);
    other.symbol = Symbol::new("B").unwrap();
    let Tick::Trade(mut trade) = trade(1, START + 2_000_000_000) else {
        panic!()
    };
    trade.head = other;
    take(&mut line, trade.into());
    assert_eq!(flush(&mut line, START), [Kind::Bar, Kind::Stat]);
}

#[test]
fn old_state_is_refreshed_and_flagged() {
    let mut line = line(&[], false);
    take(&mut line, quote("1", START));
    let mut out = Vec::new();
    line.flush(UnixNanos::new(START + 900_000_000_000), &mut out);
    assert_eq!(out, []);
    line.flush(UnixNanos::new(START + 1_100_000_000_000), &mut out);
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].head().flags, [Flag::Refresh]);
}

#[test]
fn a_trade_of_yesterday_is_counted_as_what_it_is() {
    const DAY: i64 = 86_400_000_000_000;
    let mut registry = Registry::default();
    let mut line = line_of(&[], false, &mut registry);
    take(&mut line, trade(1, START));
    assert_eq!(take(&mut line, trade(2, START - DAY)), [Kind::Trade]);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    assert!(text.contains("past_session_trades_total 1\n"), "{text}");
    assert!(text.contains("overflows_total 0\n"), "{text}");
}

#[test]
fn a_trade_of_another_year_goes_out_and_ruins_nothing() {
    for recorded in [false, true] {
        let mut line = line(&[Interval::Second1, Interval::Day1], recorded);
        assert_eq!(take(&mut line, trade(1, START)), [Kind::Trade]);
        let mut far = trade(2, START);
        far.head_mut().event = Some(UnixNanos::new(4_070_908_800_000_000_000));
        assert_eq!(take(&mut line, far), [Kind::Trade]);
        let mut out = Vec::new();
        line.take(
            0,
            trade(3, START + 2_000_000_000),
            UnixNanos::new(START),
            &mut out,
        );
        let kinds: Vec<Kind> = out.iter().map(Tick::kind).collect();
        assert_eq!(kinds, [Kind::Bar, Kind::Trade]);
        assert_eq!(out[1].head().flags, []);
        out.clear();
        line.flush(UnixNanos::new(START + 2_100_000_000), &mut out);
        let Some(Tick::Stat(stat)) = out.last() else {
            panic!("{out:?}")
        };
        assert_eq!(stat.volume.unwrap().to_string(), "4");
    }
}

fn quotes(line: &mut Line, number: usize, at: i64) {
    for number in 0..number {
        let mut quote = quote("1", at);
        quote.head_mut().symbol = Symbol::new(&format!("S{number}")).unwrap();
        take(line, quote);
    }
}

#[test]
fn what_a_stream_full_of_bytes_will_trim_next_is_refreshed_in_time() {
    let mut line = line(&[], false);
    take(&mut line, quote("1", START));
    let second = 1_000_000_000;
    line.retained_since(UnixNanos::new(START - 60 * second));
    assert_eq!(flush(&mut line, START + 59 * second), []);
    assert_eq!(flush(&mut line, START + 61 * second), [Kind::Quote]);
    assert_eq!(flush(&mut line, START + 62 * second), []);
    line.retained_since(UnixNanos::new(START + 59 * second));
    assert_eq!(flush(&mut line, START + 64 * second), [Kind::Quote]);
    line.retained_since(UnixNanos::new(START + 90 * second));
    assert_eq!(flush(&mut line, START + 65 * second), [], "another clock");
}

#[test]
fn a_clock_that_jumps_ahead_refreshes_everything_little_by_little() {
    let mut line = line(&[], false);
    quotes(&mut line, 5_000, START);
    let day = 86_400_000_000_000;
    let sizes: Vec<usize> = (0..500)
        .map(|pulse| flush(&mut line, START + day + pulse).len())
        .collect();
    assert_eq!(sizes.iter().max(), Some(&10));
    assert_eq!(sizes.iter().sum::<usize>(), 5_000);
}

#[test]
fn a_clock_that_goes_back_does_not_hold_up_refreshes() {
    let mut line = line(&[], false);
    take(&mut line, quote("1", START));
    let back = START - 86_400_000_000_000;
    assert_eq!(flush(&mut line, back), []);
    assert_eq!(flush(&mut line, back + 1_000_000_000_000), []);
    assert_eq!(
        flush(&mut line, back + 1_000_000_000_001),
        [Kind::Quote],
        "it is as old as the clock that went back can tell"
    );
}

#[test]
fn a_late_trade_with_a_lower_id_goes_out_and_says_so() {
    let mut line = line(&[Interval::Second1], false);
    let second = 1_000_000_000;
    take(&mut line, trade(10, START));
    take(&mut line, trade(12, START + second));
    let mut out = Vec::new();
    line.take(
        0,
        trade(9, START + 1),
        UnixNanos::new(START + second),
        &mut out,
    );
    let late = out.iter().find(|tick| tick.kind() == Kind::Trade).unwrap();
    assert_eq!(late.head().flags, [Flag::Late]);
    assert_eq!(take(&mut line, trade(9, START + 1)), []);
}

#[test]
fn no_summary_is_refreshed_that_lacks_a_trade() {
    let mut line = line(&[], false);
    let all = |id: u64, at: i64, line: &mut Line| {
        for number in 0..100 {
            let mut trade = trade(id, at);
            trade.head_mut().symbol = Symbol::new(&format!("S{number}")).unwrap();
            take(line, trade);
        }
    };
    all(1, START, &mut line);
    // The next summary to be looked at is one that will wait for its turn.
    for pulse in 0..50 {
        flush(&mut line, START + pulse);
    }
    let later = START + 1_100_000_000_000;
    all(2, later, &mut line);
    let mut out = Vec::new();
    for pulse in 0..600 {
        line.flush(UnixNanos::new(later + pulse), &mut out);
    }
    assert_eq!(out.len(), 100);
    assert!(out.iter().all(|tick| tick.head().flags.is_empty()));
}
