//! What is read of a real store, against bars made in the test.

use schemas::codec::to_msgpack;
use schemas::id::Interval;
use schemas::position::{Epoch, StreamSeq};
use schemas::tick::Head;
use tempfile::TempDir;

use super::*;
use crate::store::sqlite::Sqlite;
use crate::store::{Row, content};

const SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// The time is what the test says.
#[derive(Debug)]
struct Now(i64);

impl Clock for Now {
    fn now(&self) -> UnixNanos {
        UnixNanos::new(self.0)
    }
}

fn symbol() -> (Venue, Symbol) {
    (Venue::new("x").unwrap(), Symbol::new("A").unwrap())
}

fn epoch() -> Epoch {
    Epoch::new(UnixNanos::new(1), 0)
}

/// A bar whose figures tell its sequence.
fn bar(interval: Interval, start: i64, seq: u64) -> Row {
    let (venue, symbol) = symbol();
    let price = |offset: i64| (i64::try_from(seq).unwrap() + offset).to_string();
    let tick = Tick::Bar(Bar {
        head: Head::new(venue, symbol, UnixNanos::new(start)),
        interval,
        start: UnixNanos::new(start),
        open: price(0).parse().unwrap(),
        high: price(10).parse().unwrap(),
        low: price(-10).parse().unwrap(),
        close: price(1).parse().unwrap(),
        volume: "1.5".parse().unwrap(),
        trades: 2,
    });
    row(seq, &tick)
}

fn row(seq: u64, tick: &Tick) -> Row {
    Row {
        seq: StreamSeq::new(seq),
        content: content(tick),
        payload: to_msgpack(tick).unwrap().into(),
    }
}

async fn store(rows: &[Row]) -> (Sqlite, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.db");
    let store = Sqlite::open(&path, None).await.unwrap();
    store.record(epoch(), rows).await.unwrap();
    (store, dir)
}

/// A reader at a time.
fn reader<S: TickStore>(store: S, now: i64) -> Reader<S> {
    Reader::new(store, "TICKS".to_owned(), Arc::default()).with_clock(Arc::new(Now(now)))
}

fn ask(resolution: &str, from: i64, to: i64, limit: u32) -> Ask {
    let (venue, symbol) = symbol();
    Ask {
        venue,
        symbol,
        resolution: resolution.parse().unwrap(),
        from: UnixNanos::new(from),
        to: UnixNanos::new(to),
        limit,
        last: false,
    }
}

fn last(ask: Ask) -> Ask {
    Ask { last: true, ..ask }
}

fn starts(candles: &Candles) -> Vec<i64> {
    let starts = candles.bars.iter();
    starts.map(|bar| bar.start.get() / MINUTE).collect()
}

/// Start in minutes, open, high, low, close, volume, trades and sequence.
fn figures(bar: &Candle) -> String {
    let Candle {
        open,
        high,
        low,
        close,
        volume,
        trades,
        seq,
        ..
    } = bar;
    let start = bar.start.get() / MINUTE;
    format!("{start} {open} {high} {low} {close} {volume} {trades} {seq}")
}

#[tokio::test]
async fn stored_bars_are_read_as_they_are() {
    let rows: Vec<Row> = (0..10)
        .map(|at| bar(Interval::Minute1, at * MINUTE, 100 + at.unsigned_abs()))
        .collect();
    let (store, _dir) = store(&rows).await;
    let reader = reader(store, DAY);
    let all = reader.read(&ask("1m", 0, DAY, 100)).await.unwrap();
    assert_eq!(starts(&all), (0..10).collect::<Vec<_>>());
    assert!(!all.more);
    assert!(
        all.bars
            .iter()
            .all(|bar| bar.kind == Kind::Bar && bar.length == "1m")
    );
    assert_eq!(figures(&all.bars[3]), "3 103 113 93 104 1.5 2 103");
    let first = reader.read(&ask("1m", 2 * MINUTE, DAY, 3)).await.unwrap();
    assert_eq!((starts(&first), first.more), (vec![2, 3, 4], true));
    let newest = reader
        .read(&last(ask("1m", 0, 8 * MINUTE, 3)))
        .await
        .unwrap();
    assert_eq!((starts(&newest), newest.more), (vec![5, 6, 7], true));
    let exact = reader
        .read(&last(ask("1m", 5 * MINUTE, 8 * MINUTE, 3)))
        .await
        .unwrap();
    assert_eq!((starts(&exact), exact.more), (vec![5, 6, 7], false));
}

#[tokio::test]
async fn others_are_made_of_whole_ones() {
    let rows: Vec<Row> = (0..10)
        .map(|at| bar(Interval::Minute1, at * MINUTE, 100 + at.unsigned_abs()))
        .collect();
    let (store, _dir) = store(&rows).await;
    let reader = reader(store, DAY);
    // Of what begins in the range all is read, though it ends behind it.
    let all = reader
        .read(&ask("3m", MINUTE, 7 * MINUTE, 100))
        .await
        .unwrap();
    let made: Vec<String> = all.bars.iter().map(figures).collect();
    assert_eq!(
        made,
        ["3 103 115 93 106 4.5 6 105", "6 106 118 96 109 4.5 6 108"]
    );
    let newest = reader.read(&last(ask("3m", 0, DAY, 2))).await.unwrap();
    let made: Vec<String> = newest.bars.iter().map(figures).collect();
    assert_eq!(
        made,
        ["6 106 118 96 109 4.5 6 108", "9 109 119 99 110 1.5 2 109"]
    );
    assert!(newest.more);
}
