//! Against the indicator run over all bars from the first one.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemas::codec::to_msgpack;
use schemas::id::{Interval, Kind};
use schemas::position::{Epoch, StreamSeq};
use schemas::tick::{Bar, Form, Head, Tick};
use schemas::time::Clock;
use tempfile::TempDir;

use super::*;
use crate::bars::MAX_BARS;
use crate::indicators::{Limits, Values};
use crate::store::sqlite::Sqlite;
use crate::store::{Row, content};

const MINUTE: i64 = 60_000_000_000;
/// In seconds.
const DAY: i64 = 86_400;
/// Two days and two hours, less every eleventh minute.
const MINUTES: i64 = 3_000;

/// So many seconds after 1970.
#[derive(Debug)]
struct At(i64);

impl Clock for At {
    fn now(&self) -> UnixNanos {
        UnixNanos::new(self.0 * 1_000_000_000)
    }
}

fn bars() -> Vec<Bar> {
    let minutes = (0..MINUTES).filter(|minute| minute % 11 != 5);
    minutes.map(|at| bar(Interval::Minute1, at)).collect()
}

fn bar(interval: Interval, at: i64) -> Bar {
    let start = UnixNanos::new(at * interval.nanos());
    let close = 1_000 + at * 7_919 % 97;
    let price = |price: i64| price.to_string().parse().unwrap();
    Bar {
        head: Head::new("x".parse().unwrap(), "A".parse().unwrap(), start),
        interval,
        start,
        open: price(close - 1),
        high: price(close + 3),
        low: price(close - 4),
        close: price(close),
        volume: (1 + at % 13).to_string().parse().unwrap(),
        trades: 1,
    }
}

async fn reader() -> (Reader<Sqlite>, TempDir) {
    reader_of(bars()).await
}

async fn reader_of(bars: Vec<Bar>) -> (Reader<Sqlite>, TempDir) {
    let row = |(seq, bar)| {
        let tick = Tick::Bar(bar);
        Row {
            seq: StreamSeq::new(seq),
            content: content(&tick),
            payload: to_msgpack(&tick).unwrap().into(),
        }
    };
    let rows: Vec<Row> = (1..).zip(bars).map(row).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.db");
    let store = Sqlite::open(&path, None).await.unwrap();
    let epoch = Epoch::new(UnixNanos::new(1), 0);
    for some in rows.chunks(10_000) {
        store.record(epoch, some).await.unwrap();
    }
    let reader = Reader::new(store, "TICKS".to_owned(), Arc::default());
    (reader.with_clock(Arc::new(At(100 * DAY))), dir)
}

fn question(resolution: &str, from: i64, to: i64) -> Question {
    let from = UnixNanos::new(from.saturating_mul(MINUTE));
    let ask = Ask {
        venue: "x".parse().unwrap(),
        symbol: "A".parse().unwrap(),
        resolution: resolution.parse().unwrap(),
        from,
        to: UnixNanos::new(to * MINUTE),
        limit: 10_000,
        last: false,
    };
    Question {
        ask,
        since: from,
        newest: Newest::default(),
    }
}

fn indicator(name: &str, parameters: &[(&str, &str)]) -> Indicator {
    let parameters = parameters.iter();
    let parameters = parameters.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    super::super::parse(name, &parameters.collect::<BTreeMap<_, _>>()).unwrap()
}

/// Every indicator, and those that are others by a parameter.
fn known() -> Vec<Indicator> {
    let all = super::super::describe().map(|known| indicator(known.name, &[]));
    let more = [
        ("sma", [("period", "20")].as_slice()),
        ("ema", &[("period", "20")]),
        ("vwap", &[("anchor", "none")]),
        ("vwap", &[("anchor", "week")]),
        ("vwap", &[("anchor", "month")]),
        ("vwap", &[("zone", "Asia/Karachi")]),
    ];
    let more = more.map(|(name, parameters)| indicator(name, parameters));
    all.chain(more).collect()
}

/// The same over all minutes, of those that start in `from..to`; totals begin there, and know the bar
/// before.
fn naive(mut indicator: Indicator, from: i64, to: i64) -> Vec<(i64, Vec<Option<f64>>)> {
    let mut all = bars();
    if indicator.is_total() {
        let first = all.partition_point(|bar| bar.start.get() < from.saturating_mul(MINUTE));
        all.drain(..first.saturating_sub(indicator.history()));
    }
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
    for known in known() {
        for (from, to) in [(0, 60), (1_445, 1_500), (2_900, 2_990)] {
            let question = question("1m", from, to);
            let read = over(&reader, &question, known.clone()).await;
            let name = known.to_string();
            assert_same(
                &read.unwrap().points,
                &naive(known.clone(), from, to),
                &name,
            );
        }
    }
}

/// All of a range, page by page.
async fn joined(
    reader: &Reader<Sqlite>,
    whole: &Question,
    indicator: &Indicator,
    (limit, last): (u32, bool),
) -> Vec<Point> {
    let mut question = whole.clone();
    (question.ask.limit, question.ask.last) = (limit, last);
    let mut points = Vec::new();
    loop {
        let read = over(reader, &question, indicator.clone());
        let Over {
            points: mut page,
            more,
            ..
        } = read.await.unwrap();
        assert!(page.len() <= usize::try_from(limit).unwrap(), "{indicator}");
        if last {
            page.append(&mut points);
            points = page;
            question.ask.to = points[0].start;
        } else {
            points.append(&mut page);
            question.ask.from = points[points.len() - 1].start.offset(1);
        }
        if !more {
            return points;
        }
    }
}

#[tokio::test]
async fn pages_joined_are_the_whole() {
    let (reader, _dir) = reader().await;
    for known in known() {
        for (from, to) in [(1_400, 1_520), (i64::MIN, 90)] {
            let whole = question("1m", from, to);
            let expected = naive(known.clone(), from, to);
            for order in [(50, false), (50, true)] {
                let points = joined(&reader, &whole, &known, order).await;
                assert_same(&points, &expected, &format!("{known} {order:?}"));
            }
        }
    }
}

#[tokio::test]
async fn what_began_long_before_is_read_page_by_page() {
    const SECONDS: i64 = 50_400;
    let all: Vec<Bar> = (0..SECONDS).map(|at| bar(Interval::Second1, at)).collect();
    let (reader, _dir) = reader_of(all.clone()).await;
    for mut known in [indicator("vwap", &[]), indicator("obv", &[])] {
        let mut question = question("1s", 0, SECONDS / 60);
        (question.ask.last, question.ask.limit) = (true, 3);
        let read = over(&reader, &question, known.clone()).await;
        let points = read.unwrap().points;
        let values = all.iter().map(|bar| known.next(&Candle::from(bar)));
        let values: Vec<_> = values.map(|values| values.unwrap()).collect();
        let figures = points.iter().map(|point| point.figures.as_slice());
        let expected = values[values.len() - 3..].iter().map(Values::as_slice);
        assert!(figures.eq(expected), "{known}");
    }
}

#[tokio::test]
async fn too_much_before_a_range_is_refused_with_the_limit() {
    let (reader, _dir) = reader().await;
    let question = question("1m", 3, 1_300);
    for (known, parameter, said) in [
        (
            indicator("vwap", &[]),
            "resolution",
            "too short for vwap(day,UTC)",
        ),
        (indicator("obv", &[]), "from", "obv() adds up every bar"),
    ] {
        let mut question = question.clone();
        (question.ask.last, question.ask.limit) = (true, 5);
        for (most, is_enough) in [(1_000, false), (2_000, true)] {
            let read = over_within(&reader, &question, known.clone(), most).await;
            assert_eq!(read.is_ok(), is_enough, "{known} {most}");
            let Err(error) = read else { continue };
            assert_eq!(error.parameter(), Some(parameter), "{known}");
            let text = error.to_string();
            assert!(text.starts_with(parameter), "{text}");
            assert!(
                text.contains(said) && text.contains("at most 1000"),
                "{text}"
            );
        }
    }
}

#[test]
fn what_lies_before_a_range_can_always_be_asked_for() {
    for known in super::super::describe() {
        let longest = known.parameters.iter().filter_map(|one| match one.limits {
            Limits::Integer { max, .. } => Some((one.name.to_owned(), max.to_string())),
            Limits::Number { .. } | Limits::Choice { .. } | Limits::Zone { .. } => None,
        });
        let mut parameters: BTreeMap<_, _> = longest.collect();
        parameters.extend((known.name == "macd").then(|| ("fast".to_owned(), "999".to_owned())));
        let indicator = super::super::parse(known.name, &parameters).unwrap();
        assert!(
            indicator.history() <= MAX_BARS.try_into().unwrap(),
            "{indicator}"
        );
    }
}

#[tokio::test]
async fn the_last_ones_of_a_range_are_the_same() {
    let (reader, _dir) = reader().await;
    let known = indicator("ema", &[("period", "9")]);
    let mut question = question("1m", 0, 2_000);
    (question.ask.last, question.ask.limit) = (true, 10);
    let read = over(&reader, &question, known.clone()).await.unwrap();
    let expected = naive(known, 0, 2_000);
    assert_same(&read.points, &expected[expected.len() - 10..], "ema");
    assert!(read.more);
}

/// What the stream says last: the bar before is stored if it closed at or before `SEQ`.
fn newest(minute: i64, close: &str, closed: u64) -> Newest {
    let mut forming = bar(Interval::Minute1, minute);
    forming.close = close.parse().unwrap();
    let closed = (StreamSeq::new(closed), bar(Interval::Minute1, minute - 1));
    Newest {
        closed: Some(closed),
        forming: Some(Form::from(forming)),
        is_told: true,
    }
}

/// How far the stream is recorded.
const SEQ: u64 = 5_000;

async fn recorded() -> (Reader<Sqlite>, TempDir) {
    let (reader, dir) = reader().await;
    let store = Sqlite::open(&dir.path().join("history.db"), None).await;
    let epoch = Epoch::new(UnixNanos::new(1), 0);
    let advanced = store.unwrap();
    let (seq, at) = (StreamSeq::new(SEQ), UnixNanos::new(1));
    advanced.advance("TICKS", epoch, seq, at).await.unwrap();
    (reader, dir)
}

#[tokio::test]
async fn the_forming_bar_is_the_newest_or_left_out() {
    let (reader, _dir) = recorded().await;
    let known = indicator("sma", &[("period", "2")]);
    let last = bars().pop().unwrap();
    let next = last.start.get() / MINUTE + 1;
    let close: f64 = last.close.to_string().parse().unwrap();
    let asked = |from, to, newest: &Newest| Question {
        newest: newest.clone(),
        ..question("1m", from, to)
    };
    let forming = newest(next, "2000", SEQ);
    let to_end = asked(2_900, 10_000, &forming);
    let read = over(&reader, &to_end, known.clone()).await.unwrap();
    let point = read.points.last().unwrap();
    let start = UnixNanos::new(next * MINUTE);
    assert_eq!((point.start, point.kind), (start, Kind::Form));
    assert_eq!(point.figures, [Some(f64::midpoint(close, 2_000.0))]);
    // Nothing is stored yet of a range in which it is: what is before counts all the same.
    let alone = asked(next, 10_000, &forming);
    let alone = over(&reader, &alone, known.clone()).await.unwrap();
    assert_eq!(alone.points, std::slice::from_ref(point));
    // It is closed and stored, lies outside, there is more between, or what closed before is not
    // recorded yet: the bar would stand behind a hole.
    let mut few = to_end.clone();
    few.ask.limit = 3;
    for question in [
        asked(2_900, 10_000, &newest(next - 1, "2000", SEQ)),
        asked(2_900, next, &forming),
        few,
        asked(2_900, 10_000, &newest(next + 7, "2000", SEQ + 1)),
    ] {
        let mut without = question.clone();
        without.newest = Newest::default();
        let with = over(&reader, &question, known.clone()).await.unwrap();
        let without = over(&reader, &without, known.clone()).await.unwrap();
        assert!(with == without);
    }
}

#[tokio::test]
async fn the_forming_bar_is_one_of_as_many_as_are_asked_for() {
    let (reader, _dir) = recorded().await;
    let known = indicator("sma", &[("period", "2")]);
    let next = bars().pop().unwrap().start.get() / MINUTE + 1;
    let mut question = question("1m", next - 4, 10_000);
    question.newest = newest(next, "2000", SEQ);
    let whole = over(&reader, &question, known.clone()).await.unwrap();
    assert!(whole.points.len() == 4 && !whole.more);
    for limit in 1_u32..=4 {
        let kept = usize::try_from(limit).unwrap();
        for last in [false, true] {
            (question.ask.limit, question.ask.last) = (limit, last);
            let read = over(&reader, &question, known.clone()).await.unwrap();
            let expected = if last {
                &whole.points[4 - kept..]
            } else {
                &whole.points[..kept]
            };
            assert_eq!(read.points, expected, "{limit} {last}");
            assert_eq!(read.more, kept < 4, "{limit} {last}");
            let joined = joined(&reader, &question, &known, (limit, last)).await;
            assert!(joined == whole.points, "{limit} {last}");
        }
    }
}

#[tokio::test]
async fn of_a_bar_that_is_not_over_the_later_value_counts() {
    let seconds = (0..90).map(|at| bar(Interval::Second1, at)).collect();
    let (reader, _dir) = reader_of(seconds).await;
    let reader = reader.with_clock(Arc::new(At(91)));
    let known = indicator("sma", &[("period", "1")]);
    let mut question = question("1m", 0, 10);
    let open = |read: Over| {
        let point = read.points.last().unwrap();
        (point.start.seconds(), point.kind, point.figures[0].unwrap())
    };
    let stored = over(&reader, &question, known.clone()).await.unwrap();
    let stored = open(stored);
    assert_eq!((stored.0, stored.1), (60, Kind::Form));
    for (minute, volume, close) in [(1, "1", stored.2), (1, "1000", 2_000.0), (2, "1", stored.2)] {
        question.newest = newest(minute, "2000", SEQ);
        question.newest.closed = None;
        let forming = question.newest.forming.as_mut().unwrap();
        forming.volume = volume.parse().unwrap();
        let read = over(&reader, &question, known.clone()).await.unwrap();
        assert_eq!(open(read), (60, Kind::Form, close), "{minute} {volume}");
    }
}

#[tokio::test]
async fn longer_bars_are_valued_like_shorter_ones() {
    let (reader, _dir) = reader().await;
    let known = indicator("sma", &[("period", "3")]);
    let read = over(&reader, &question("15m", 1_440, 1_500), known)
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
        &question("1m", 9_000, 9_100),
        indicator("rsi", &[]),
    )
    .await
    .unwrap();
    assert!(read.points.is_empty() && !read.more);
    let mut none = question("1m", 0, 10);
    none.ask.limit = 0;
    let refused = over(&reader, &none, indicator("rsi", &[]))
        .await
        .unwrap_err();
    assert_eq!(refused.parameter(), Some("limit"));
}
