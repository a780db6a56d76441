//! What is stored of batches, beside what was recorded from a stream.

use api::store::sqlite::Sqlite;
use schemas::position::StreamSeq;
use schemas::tick::{Head, Quote, Side, Trade};

use super::super::place::{COMMON, of_file};
use super::super::source::Digest;
use super::*;

const START: i64 = 1_767_052_800_000_000_000;
const SECOND: i64 = 1_000_000_000;

fn head(seconds: i64) -> Head {
    let at = UnixNanos::new(START + seconds * SECOND);
    let mut head = Head::new(Venue::new("x").unwrap(), Symbol::new("A").unwrap(), at);
    head.event = Some(at);
    head
}

fn trade(seconds: i64, id: &str) -> Tick {
    let trade = Trade {
        head: head(seconds),
        id: id.to_owned(),
        price: "1".parse().unwrap(),
        size: "1".parse().unwrap(),
        side: Side::Unknown,
        conditions: None,
    };
    trade.into()
}

fn quote(seconds: i64, bid: &str) -> Tick {
    let quote = Quote {
        head: head(seconds),
        bid: Some(bid.parse().unwrap()),
        bid_size: None,
        ask: None,
        ask_size: None,
    };
    quote.into()
}

/// Lines from 1 with these ticks.
fn batch(ticks: &[Tick]) -> Batch {
    Batch {
        ticks: (1..).zip(ticks.iter().cloned()).collect(),
        through: u64::try_from(ticks.len()).unwrap(),
    }
}

async fn open(dir: &tempfile::TempDir) -> Sqlite {
    let path = dir.path().join("history.sqlite");
    Sqlite::open(&path, None).await.unwrap()
}

async fn rows(store: &Sqlite, kind: Kind) -> Vec<(Epoch, u64)> {
    let series = Series::Events(kind, Venue::new("x").unwrap(), Symbol::new("A").unwrap());
    let range = Range {
        series,
        from: UnixNanos::EPOCH,
        to: UnixNanos::new(i64::MAX),
        descending: false,
        after: None,
        limit: 100,
    };
    let page = store.page("", &range).await.unwrap();
    let place = |found: &api::store::Found| (found.epoch, found.seq.get());
    page.rows.iter().map(place).collect()
}

/// Rows of a stream.
async fn record(store: &Sqlite, ticks: &[Tick]) -> Epoch {
    let live = Epoch::new(UnixNanos::new(START), 0);
    let rows = (900..).zip(ticks).map(|(seq, tick)| {
        let (_, row) = row(tick, live, 1).unwrap();
        Row {
            seq: StreamSeq::new(seq),
            ..row
        }
    });
    let rows: Vec<Row> = rows.collect();
    store.record(live, &rows).await.unwrap();
    live
}

#[tokio::test]
async fn the_same_tick_is_stored_once_whichever_file_it_is_from() {
    let dir = tempfile::tempdir().unwrap();
    let database = open(&dir).await;
    let (one, other) = (of_file(&Digest([1; 32])), of_file(&Digest([2; 32])));
    let first = [
        trade(0, "7"),
        trade(0, "a"),
        trade(0, "b"),
        quote(0, "1"),
        // The same again, and the same id at another time: the venue counts anew.
        trade(0, "a"),
        trade(500, "7"),
    ];
    let stored = store(&database, &batch(&first), one).await.unwrap();
    assert_eq!(stored, Stored { new: 5, known: 1 });
    let there = rows(&database, Kind::Trade).await;
    assert_eq!(there, [(COMMON, 7), (one, 2), (one, 3), (COMMON, 7)]);
    // Another file has the last of them on other lines, and one more.
    let second = [trade(0, "c"), trade(0, "b"), trade(0, "7"), quote(0, "1")];
    let stored = store(&database, &batch(&second), other).await.unwrap();
    assert_eq!(stored, Stored { new: 1, known: 3 });
    let there = rows(&database, Kind::Trade).await;
    let mut expected = [(COMMON, 7), (one, 2), (one, 3), (other, 1)];
    expected.sort_unstable();
    assert_eq!(there[..4], expected);
    assert_eq!(there[4..], [(COMMON, 7)]);
    for (file, ticks) in [(one, &first[..]), (other, &second[..])] {
        let stored = store(&database, &batch(ticks), file).await.unwrap();
        assert_eq!(stored.new, 0);
    }
    assert_eq!(rows(&database, Kind::Trade).await.len(), 5);
    assert_eq!(rows(&database, Kind::Quote).await.len(), 1);
}

#[tokio::test]
async fn what_was_recorded_from_a_stream_is_not_doubled() {
    let dir = tempfile::tempdir().unwrap();
    let database = open(&dir).await;
    let recorded = [trade(10, "1"), trade(20, "x"), quote(20, "3")];
    let live = record(&database, &recorded).await;
    let ticks = [
        trade(10, "1"),
        trade(10, "2"),
        trade(20, "x"),
        quote(20, "3"),
        quote(20, "4"),
        trade(9_000, "3"),
    ];
    let file = of_file(&Digest([1; 32]));
    let stored = store(&database, &batch(&ticks), file).await.unwrap();
    assert_eq!(stored, Stored { new: 3, known: 3 });
    let there = rows(&database, Kind::Trade).await;
    assert_eq!(there, [(COMMON, 2), (live, 900), (live, 901), (COMMON, 3)]);
    let there = rows(&database, Kind::Quote).await;
    assert_eq!(there, [(file, 5), (live, 902)]);
}

#[tokio::test]
async fn whatever_is_there_is_found_on_whichever_page() {
    let dir = tempfile::tempdir().unwrap();
    let database = open(&dir).await;
    let count = i64::from(PAGE) + 7;
    let ticks: Vec<Tick> = (0..count)
        .map(|n| trade(n / 5_000, &(n + 1).to_string()))
        .collect();
    let live = record(&database, &ticks).await;
    assert!(live > COMMON);
    let file = of_file(&Digest([1; 32]));
    let stored = store(&database, &batch(&ticks), file).await.unwrap();
    assert_eq!(
        stored,
        Stored {
            new: 0,
            known: u64::try_from(count).unwrap()
        }
    );
}

#[test]
fn spans_leave_out_what_lies_between() {
    let times = [0, 1, 3_600, 7_201, 20_000].map(|seconds| UnixNanos::new(seconds * SECOND));
    let seconds = |from: i64, to: i64| {
        (
            UnixNanos::new(from * SECOND),
            UnixNanos::new(to * SECOND + 1),
        )
    };
    assert_eq!(
        spans(&times),
        [
            seconds(0, 3_600),
            seconds(7_201, 7_201),
            seconds(20_000, 20_000)
        ]
    );
    assert_eq!(spans(&[]), []);
}
