//! What is read of a real store, against bars made in the test.

use daemon::nats::Secret;
use postgres_server::Server;
use schemas::codec::{from_json, to_msgpack};
use schemas::id::Interval;
use schemas::position::{Epoch, StreamSeq};
use schemas::tick::{Bar, Flag, Head};
use tempfile::TempDir;

use super::*;
use crate::store::postgres::{Args, Postgres};
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

fn bars(interval: Interval, starts: impl IntoIterator<Item = i64>) -> Vec<Row> {
    let numbered = (100..).zip(starts);
    numbered
        .map(|(seq, start)| bar(interval, start, seq))
        .collect()
}

fn minutes(of: std::ops::Range<i64>) -> Vec<Row> {
    bars(Interval::Minute1, of.map(|minute| minute * MINUTE))
}

fn all_figures(candles: &Candles) -> Vec<String> {
    candles.bars.iter().map(figures).collect()
}

async fn stored_bars_are_read_as_they_are<S: TickStore>(store: S) {
    store.record(epoch(), &minutes(0..10)).await.unwrap();
    let reader = reader(store, DAY);
    let all = reader.read(&ask("1m", 0, DAY, 100)).await.unwrap();
    assert_eq!(starts(&all), (0..10).collect::<Vec<_>>());
    assert!(!all.more && all.progress.is_none());
    let plain = |bar: &Candle| bar.kind == Kind::Bar && bar.length == "1m";
    assert!(all.bars.iter().all(plain));
    assert_eq!(figures(&all.bars[3]), "3 103 113 93 104 1.5 2 103");
    let first = reader.read(&ask("1m", 2 * MINUTE, DAY, 3)).await.unwrap();
    assert_eq!((starts(&first), first.more), (vec![2, 3, 4], true));
    let newest = last(ask("1m", 0, 8 * MINUTE, 3));
    let newest = reader.read(&newest).await.unwrap();
    assert_eq!((starts(&newest), newest.more), (vec![5, 6, 7], true));
    let exact = last(ask("1m", 5 * MINUTE, 8 * MINUTE, 3));
    let exact = reader.read(&exact).await.unwrap();
    assert_eq!((starts(&exact), exact.more), (vec![5, 6, 7], false));
}

async fn others_are_made_of_whole_ones<S: TickStore>(store: S) {
    store.record(epoch(), &minutes(0..10)).await.unwrap();
    let floor = StreamSeq::new(109);
    store
        .advance("TICKS", epoch(), floor, UnixNanos::new(5))
        .await
        .unwrap();
    let reader = reader(store, DAY);
    // Of what begins in the range all is read, though it ends behind it.
    let all = reader
        .read(&ask("3m", MINUTE, 7 * MINUTE, 100))
        .await
        .unwrap();
    assert_eq!(
        all_figures(&all),
        ["3 103 115 93 106 4.5 6 105", "6 106 118 96 109 4.5 6 108"]
    );
    assert_eq!(all.progress.unwrap().floor.seq(), floor);
    let newest = reader.read(&last(ask("3m", 0, DAY, 2))).await.unwrap();
    assert_eq!(
        all_figures(&newest),
        ["6 106 118 96 109 4.5 6 108", "9 109 119 99 110 1.5 2 109"]
    );
    assert!(newest.more);
}

async fn many_pages_are_one_answer<S: TickStore>(store: S) {
    let count = 4_301;
    store.record(epoch(), &minutes(0..count)).await.unwrap();
    let reader = reader(store, 1_000 * DAY);
    for resolution in ["1m", "7m", "1d"] {
        let mut wholes = Vec::new();
        let mut from = 0;
        loop {
            let page = reader
                .read(&ask(resolution, from, 1_000 * DAY, 700))
                .await
                .unwrap();
            wholes.extend(page.bars);
            if !page.more {
                break;
            }
            from = wholes.last().unwrap().start.get() + 1;
        }
        let at_once = reader
            .read(&ask(resolution, 0, 1_000 * DAY, 50_000))
            .await
            .unwrap();
        assert!(at_once.bars == wholes && !at_once.more, "{resolution}");
        let backwards = last(ask(resolution, i64::MIN, i64::MAX, 50_000));
        let backwards = reader.read(&backwards).await.unwrap();
        assert!(backwards.bars == wholes && !backwards.more, "{resolution}");
        let trades: u64 = wholes.iter().map(|bar| bar.trades).sum();
        assert_eq!(i64::try_from(trades).unwrap(), 2 * count, "{resolution}");
    }
}

/// Runs each case on every database.
macro_rules! on_each {
    ($($case:ident)*) => {
        mod on_sqlite {
            $(#[tokio::test]
            async fn $case() {
                let (store, _dir) = super::store(&[]).await;
                super::$case(store).await;
            })*
        }

        mod on_postgres {
            use super::*;

            $(#[tokio::test]
            async fn $case() {
                let server = Server::shared().await.unwrap();
                let url = Secret::from(server.database().await.unwrap());
                super::$case(Postgres::open(&url, &Args::default()).unwrap()).await;
            })*
        }
    };
}

on_each! {
    stored_bars_are_read_as_they_are
    others_are_made_of_whole_ones
    many_pages_are_one_answer
}

#[tokio::test]
async fn the_newest_bar_is_forming_and_has_all_that_is_stored() {
    // It is 10:03:02. The hour that runs is known by minutes, the minute by seconds.
    let now = 10 * HOUR + 3 * MINUTE + 2 * SECOND;
    let mut rows = bars(Interval::Hour1, [8 * HOUR, 9 * HOUR]);
    rows.extend(
        (200..)
            .zip(540..603)
            .map(|(seq, at)| bar(Interval::Minute1, at * MINUTE, seq)),
    );
    let seconds = (now - 70 * SECOND..now).step_by(1_000_000_000);
    rows.extend(
        (300..)
            .zip(seconds)
            .map(|(seq, at)| bar(Interval::Second1, at, seq)),
    );
    let (store, _dir) = store(&rows).await;
    let reader = reader(store, now);
    for last in [false, true] {
        let ask = Ask {
            last,
            ..ask("4h", 0, DAY, 10)
        };
        let read = reader.read(&ask).await.unwrap();
        // Two hours, three minutes, two seconds.
        assert_eq!(all_figures(&read), ["480 100 379 90 370 10.5 14 369"]);
        assert_eq!(read.bars[0].kind, Kind::Form);
    }
    let read = reader.read(&ask("1h", 8 * HOUR, DAY, 10)).await.unwrap();
    let kinds: Vec<Kind> = read.bars.iter().map(|bar| bar.kind).collect();
    assert_eq!(kinds, [Kind::Bar, Kind::Bar, Kind::Form]);
    assert_eq!(read.bars[2].trades, 10);
    // What is not the newest of the range is over.
    let read = reader.read(&ask("1h", 0, DAY, 2)).await.unwrap();
    assert!(read.more && read.bars.iter().all(|bar| bar.kind == Kind::Bar));
}

#[tokio::test]
async fn what_shorter_bars_have_before_the_first_long_one_counts() {
    let mut rows = minutes(0..150);
    rows.extend(
        (500..)
            .zip([3, 4])
            .map(|(seq, at)| bar(Interval::Hour1, at * HOUR, seq)),
    );
    rows.extend(
        (600..)
            .zip(290..310)
            .map(|(seq, at)| bar(Interval::Minute1, at * MINUTE, seq)),
    );
    let (store, _dir) = store(&rows).await;
    let reader = reader(store, 10 * DAY);
    for last in [false, true] {
        let ask = Ask {
            last,
            ..ask("1h", 0, DAY, 10)
        };
        let read = reader.read(&ask).await.unwrap();
        let trades: Vec<u64> = read.bars.iter().map(|bar| bar.trades).collect();
        assert_eq!(starts(&read), [0, 60, 120, 180, 240, 300]);
        assert_eq!(trades, [120, 120, 60, 2, 2, 20]);
    }
    let read = reader.read(&ask("1d", 0, DAY, 10)).await.unwrap();
    assert_eq!(read.bars[0].trades, 324, "none twice");
}

#[tokio::test]
async fn a_correction_changes_what_is_made_of_it() {
    let (store, _dir) = store(&minutes(0..6)).await;
    let mut corrected = bar(Interval::Minute1, MINUTE, 999);
    let tick = schemas::codec::from_msgpack(&corrected.payload).unwrap();
    let Tick::Bar(mut tick) = tick else {
        panic!("{tick:?}")
    };
    tick.head.flags.push(Flag::Late);
    tick.volume = "100".parse().unwrap();
    corrected.payload = to_msgpack(&Tick::Bar(tick)).unwrap().into();
    store.record(epoch(), &[corrected]).await.unwrap();
    let read = reader(store, DAY)
        .read(&ask("5m", 0, DAY, 10))
        .await
        .unwrap();
    assert_eq!(figures(&read.bars[0]), "0 100 1009 90 105 106.0 10 999");
    assert_eq!(read.bars[0].flags, [Flag::Late]);
    assert!(read.bars[1].flags.is_empty());
}

#[tokio::test]
async fn an_answer_is_made_of_a_bounded_number() {
    let (store, _dir) = store(&minutes(0..1_000)).await;
    let mut reader = reader(store, 10 * DAY);
    reader.max_parts = 250;
    // As many as there is room for, and there is more.
    let read = reader.read(&ask("1h", 0, DAY, 100)).await.unwrap();
    assert_eq!((starts(&read), read.more), (vec![0, 60, 120, 180], true));
    let read = reader.read(&last(ask("1h", 0, DAY, 100))).await.unwrap();
    assert_eq!((starts(&read), read.more), (vec![780, 840, 900, 960], true));
    let refused = reader.read(&ask("1d", 0, DAY, 100)).await.unwrap_err();
    assert_eq!(refused.parameter(), Some("resolution"));
    assert_eq!(
        refused.to_string(),
        "resolution 1d is too long for what is stored: a bar may be made of at most 250 stored bars"
    );
    for limit in [0, MAX_BARS + 1] {
        let refused = reader.read(&ask("1h", 0, DAY, limit)).await.unwrap_err();
        assert_eq!(refused.parameter(), Some("limit"));
    }
}

#[tokio::test]
async fn any_range_can_be_asked_for() {
    let (store, _dir) = store(&minutes(0..100)).await;
    let reader = reader(store, DAY);
    for resolution in ["1s", "1m", "7m", "1d", "1w", "1M", "10y"] {
        for (from, to) in [
            (i64::MIN, i64::MAX),
            (i64::MIN, i64::MIN),
            (i64::MAX, i64::MAX),
            (DAY, 0),
            (5, 5),
        ] {
            for last in [false, true] {
                let ask = Ask {
                    last,
                    ..ask(resolution, from, to, 1_000)
                };
                let read = reader.read(&ask).await.unwrap();
                assert!(!read.more, "{ask:?}");
                assert_eq!(
                    read.bars.is_empty(),
                    from >= to || resolution == "1s",
                    "{ask:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn the_latest_before_a_time_is_found() {
    let (store, _dir) = store(&minutes(100..103)).await;
    let reader = reader(store, DAY);
    let (venue, symbol) = symbol();
    let before = async |resolution: &str, before: i64| {
        let resolution = resolution.parse().unwrap();
        let before = UnixNanos::new(before);
        let latest = reader
            .latest_before(&venue, &symbol, resolution, before)
            .await;
        latest.unwrap().map(|at| at.get() / MINUTE)
    };
    assert_eq!(before("1m", DAY).await, Some(102));
    assert_eq!(before("1m", 102 * MINUTE).await, Some(101));
    assert_eq!(before("1h", DAY).await, Some(60));
    assert_eq!(before("1d", DAY).await, Some(0));
    assert_eq!(before("1m", 100 * MINUTE).await, None);
    assert_eq!(before("1s", DAY).await, None);
}

fn inst(symbol: &str, seq: u64, fields: &str) -> Row {
    let text = format!(r#"{{"k":"inst","v":"x","y":"{symbol}","tr":"1","ty":"equity"{fields}}}"#);
    row(seq, &from_json(text.as_bytes()).unwrap())
}

#[tokio::test]
async fn an_instrument_has_its_calendar_or_its_venues() {
    let rows = [
        inst("A.B", 1, r#","se":"0900-1530","tz":"Asia/Tokyo""#),
        inst("A", 2, ""),
        inst("odd", 3, r#","se":"whenever""#),
    ];
    let (store, _dir) = store(&rows).await;
    let calendars = "[[calendar]]\nvenue = \"x\"\nsession = \"1000-1600\"\n";
    let calendars = Arc::new(Calendars::parse(calendars).unwrap());
    let reader = Reader::new(store, "TICKS".to_owned(), calendars);
    for (venue, symbol, session) in [
        ("x", "A.B", "0900-1530"),
        ("x", "A", "1000-1600"),
        ("x", "none", "1000-1600"),
        ("x", "odd", "1000-1600"),
        ("y", "A.B", "24x7"),
    ] {
        let (venue, symbol) = (Venue::new(venue).unwrap(), Symbol::new(symbol).unwrap());
        let calendar = reader.calendar(&venue, &symbol).await.unwrap();
        assert_eq!(calendar.session(), session, "{venue} {symbol}");
    }
}

#[tokio::test]
async fn days_of_another_zone_are_made_of_hours() {
    // In New York it is five hours less: 19 November 1970 begins at five in UTC.
    let day = 322 * DAY;
    let hours = (0..72).map(|hour| day + hour * HOUR);
    let mut rows = bars(Interval::Hour1, hours.clone());
    rows.extend(
        (400..)
            .zip(0..3)
            .map(|(seq, at)| bar(Interval::Day1, day + at * DAY, seq)),
    );
    rows.push(inst("A", 500, r#","tz":"America/New_York""#));
    let (store, _dir) = store(&rows).await;
    let reader = reader(store, 1_000 * DAY);
    let read = reader
        .read(&ask("1d", day, day + 3 * DAY, 10))
        .await
        .unwrap();
    let starts: Vec<i64> = read
        .bars
        .iter()
        .map(|bar| (bar.start.get() - day) / HOUR)
        .collect();
    assert_eq!(starts, [5, 29, 53]);
    let trades: Vec<u64> = read.bars.iter().map(|bar| bar.trades).collect();
    assert_eq!(trades, [48, 48, 38], "nothing of the stored days");
    assert_eq!(read.bars[0].seq, StreamSeq::new(128));
}

#[tokio::test]
async fn a_damaged_bar_is_told_not_left_out() {
    let mut rows = minutes(0..3);
    rows[1].payload = vec![0xc1].into();
    let (store, _dir) = store(&rows).await;
    let refused = reader(store, DAY).read(&ask("5m", 0, DAY, 10)).await;
    let damaged = matches!(
        refused,
        Err(ReadError::Store(StoreError::Damaged { field: "bar", .. }))
    );
    assert!(damaged, "{refused:?}");
}
