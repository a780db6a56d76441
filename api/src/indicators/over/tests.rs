//! Against the indicator run over all bars from the first one.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemas::codec::to_msgpack;
use schemas::id::Interval;
use schemas::position::{Epoch, StreamSeq};
use schemas::tick::{Bar, Head, Tick};
use schemas::time::Clock;
use tempfile::TempDir;

use super::*;
use crate::store::sqlite::Sqlite;
use crate::store::{Row, content};

const MINUTE: i64 = 60_000_000_000;
const DAY: i64 = 1_440 * MINUTE;
/// Two days and two hours, less every eleventh minute.
const MINUTES: i64 = 3_000;

#[derive(Debug)]
struct Now;

impl Clock for Now {
    fn now(&self) -> UnixNanos {
        UnixNanos::new(100 * DAY)
    }
}

fn bars() -> Vec<Bar> {
    let minutes = (0..MINUTES).filter(|minute| minute % 11 != 5);
    let bar = |minute: i64| {
        let start = UnixNanos::new(minute * MINUTE);
        let close = 1_000 + minute * 7_919 % 97;
        let price = |price: i64| price.to_string().parse().unwrap();
        Bar {
            head: Head::new("x".parse().unwrap(), "A".parse().unwrap(), start),
            interval: Interval::Minute1,
            start,
            open: price(close - 1),
            high: price(close + 3),
            low: price(close - 4),
            close: price(close),
            volume: (1 + minute % 13).to_string().parse().unwrap(),
            trades: 1,
        }
    };
    minutes.map(bar).collect()
}

async fn reader() -> (Reader<Sqlite>, TempDir) {
    let row = |(seq, bar)| {
        let tick = Tick::Bar(bar);
        Row {
            seq: StreamSeq::new(seq),
            content: content(&tick),
            payload: to_msgpack(&tick).unwrap().into(),
        }
    };
    let rows: Vec<Row> = (1..).zip(bars()).map(row).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.db");
    let store = Sqlite::open(&path, None).await.unwrap();
    let epoch = Epoch::new(UnixNanos::new(1), 0);
    store.record(epoch, &rows).await.unwrap();
    let reader = Reader::new(store, "TICKS".to_owned(), Arc::default());
    (reader.with_clock(Arc::new(Now)), dir)
}

fn ask(resolution: &str, from: i64, to: i64) -> Ask {
    Ask {
        venue: "x".parse().unwrap(),
        symbol: "A".parse().unwrap(),
        resolution: resolution.parse().unwrap(),
        from: UnixNanos::new(from * MINUTE),
        to: UnixNanos::new(to * MINUTE),
        limit: 10_000,
        last: false,
    }
}

fn indicator(name: &str, parameters: &[(&str, &str)]) -> Indicator {
    let parameters = parameters.iter();
    let parameters = parameters.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    super::super::parse(name, &parameters.collect::<BTreeMap<_, _>>()).unwrap()
}

/// The same over all minutes, of those that start in `from..to`.
fn naive(mut indicator: Indicator, from: i64, to: i64) -> Vec<(i64, Vec<Option<f64>>)> {
    let all = bars();
    let points = all.iter().map(|bar| {
        let values = indicator.next(&Candle::from(bar));
        let none = || vec![None; indicator.outputs().len()];
        let figures = values.map_or_else(none, |values| values.as_slice().to_vec());
        (bar.start.get() / MINUTE, figures)
    });
    points.filter(|(at, _)| (from..to).contains(at)).collect()
}

fn assert_same(points: &[Point], expected: &[(i64, Vec<Option<f64>>)], name: &str) {
    assert_eq!(points.len(), expected.len(), "{name}");
    for (point, (at, figures)) in points.iter().zip(expected) {
        assert_eq!(point.start.get() / MINUTE, *at, "{name}");
        assert_eq!(point.figures.len(), figures.len(), "{name} at {at}");
        for (one, other) in point.figures.iter().zip(figures) {
            let near = match (one, other) {
                (Some(one), Some(other)) => (one - other).abs() <= 1e-6 * other.abs().max(1.0),
                (one, other) => one == other,
            };
            assert!(near, "{name} at {at}: {one:?}, not {other:?}");
        }
    }
}

#[tokio::test]
async fn it_does_not_matter_where_the_range_begins() {
    let (reader, _dir) = reader().await;
    for (name, parameters) in [
        ("sma", [("period", "20")].as_slice()),
        ("ema", &[("period", "20")]),
        ("rsi", &[]),
        ("macd", &[]),
        ("bbands", &[]),
        ("atr", &[]),
        ("stoch", &[]),
        ("adx", &[]),
        ("ichimoku", &[]),
        ("vwap", &[]),
        ("vwap", &[("zone", "Asia/Karachi")]),
        ("mfi", &[]),
    ] {
        for (from, to) in [(0, 60), (1_445, 1_500), (2_900, 2_990)] {
            let known = indicator(name, parameters);
            let read = over(&reader, &ask("1m", from, to), known.clone(), None).await;
            assert_same(&read.unwrap().points, &naive(known, from, to), name);
        }
    }
}

#[tokio::test]
async fn the_last_ones_of_a_range_are_the_same() {
    let (reader, _dir) = reader().await;
    let known = indicator("ema", &[("period", "9")]);
    let mut ask = ask("1m", 0, 2_000);
    (ask.last, ask.limit) = (true, 10);
    let read = over(&reader, &ask, known.clone(), None).await.unwrap();
    let expected = naive(known, 0, 2_000);
    assert_same(&read.points, &expected[expected.len() - 10..], "ema");
    assert!(read.more);
}

fn forming(minute: i64, close: &str) -> http::Candle {
    let mut bar = bars().swap_remove(0);
    bar.close = close.parse().unwrap();
    http::Candle {
        seq: StreamSeq::new(1),
        kind: Kind::Form,
        venue: bar.head.venue,
        symbol: bar.head.symbol,
        flags: Vec::new(),
        length: "1m".to_owned(),
        start: UnixNanos::new(minute * MINUTE),
        open: bar.open,
        high: bar.high,
        low: bar.low,
        close: bar.close,
        volume: bar.volume,
        trades: bar.trades,
    }
}

#[tokio::test]
async fn the_forming_bar_is_the_newest_or_left_out() {
    let (reader, _dir) = reader().await;
    let known = indicator("sma", &[("period", "2")]);
    let last = bars().pop().unwrap();
    let next = last.start.get() / MINUTE + 1;
    let close: f64 = last.close.to_string().parse().unwrap();
    let bar = forming(next, "2000");
    let to_end = ask("1m", 2_900, 10_000);
    let read = over(&reader, &to_end, known.clone(), Some(&bar))
        .await
        .unwrap();
    let point = read.points.last().unwrap();
    assert_eq!((point.start, point.kind), (bar.start, Kind::Form));
    assert_eq!(point.figures, [Some(f64::midpoint(close, 2_000.0))]);
    // Nothing is stored yet of a range in which it is: what is before counts all the same.
    let alone = over(&reader, &ask("1m", next, 10_000), known.clone(), Some(&bar))
        .await
        .unwrap();
    assert_eq!(alone.points, std::slice::from_ref(point));
    // It is closed and stored, lies outside, or there is more between.
    let mut few = to_end.clone();
    few.limit = 3;
    for (ask, bar) in [
        (&to_end, forming(next - 1, "2000")),
        (&ask("1m", 2_900, next), forming(next, "2000")),
        (&few, forming(next, "2000")),
    ] {
        let with = over(&reader, ask, known.clone(), Some(&bar)).await.unwrap();
        let without = over(&reader, ask, known.clone(), None).await.unwrap();
        assert!(with == without);
    }
}

#[tokio::test]
async fn longer_bars_are_valued_like_shorter_ones() {
    let (reader, _dir) = reader().await;
    let known = indicator("sma", &[("period", "3")]);
    let read = over(&reader, &ask("15m", 1_440, 1_500), known, None)
        .await
        .unwrap();
    let all = bars();
    let close = |end: i64| {
        let before = all.iter().rev().find(|bar| bar.start.get() < end * MINUTE);
        before.unwrap().close.to_string().parse::<f64>().unwrap()
    };
    for (point, start) in read.points.iter().zip([1_440, 1_455, 1_470, 1_485]) {
        let mean = (close(start - 15) + close(start) + close(start + 15)) / 3.0;
        let figure = point.figures[0].unwrap();
        assert!(
            (figure - mean).abs() < 1e-9,
            "{start}: {figure}, not {mean}"
        );
    }
    assert_eq!(read.points.len(), 4);
}

#[tokio::test]
async fn a_range_without_bars_has_no_figures() {
    let (reader, _dir) = reader().await;
    let read = over(
        &reader,
        &ask("1m", 9_000, 9_100),
        indicator("rsi", &[]),
        None,
    )
    .await
    .unwrap();
    assert!(read.points.is_empty() && !read.more);
    let mut none = ask("1m", 0, 10);
    none.limit = 0;
    let refused = over(&reader, &none, indicator("rsi", &[]), None)
        .await
        .unwrap_err();
    assert_eq!(refused.parameter(), Some("limit"));
}
