//! What is deleted when, against a real database.

use schemas::id::{Interval, Kind, Symbol, Venue};

use super::*;
use crate::store::sqlite::Sqlite;
use crate::store::{Content, Range, Row};

const DAY: Duration = Duration::from_hours(24);

fn hour(hours: i64) -> UnixNanos {
    UnixNanos::new(hours * 3_600_000_000_000)
}

fn epoch(created: i64) -> Epoch {
    Epoch::new(UnixNanos::new(created), 0)
}

/// Every series that there is.
fn series() -> Vec<Series> {
    let venue = Venue::new("x").unwrap();
    let mut all = Vec::new();
    for symbol in ["A", "B"].map(|symbol| Symbol::new(symbol).unwrap()) {
        all.push(Series::Events(Kind::Trade, venue.clone(), symbol.clone()));
        all.push(Series::Events(Kind::Quote, venue.clone(), symbol.clone()));
        for interval in [Interval::Second1, Interval::Minute1] {
            all.push(Series::Bars(venue.clone(), symbol.clone(), interval));
        }
    }
    all
}

/// Records one row of each series for each of these sequences.
async fn record(store: &Sqlite, epoch: Epoch, seqs: std::ops::RangeInclusive<u64>) {
    for seq in seqs.clone() {
        // Later ones bear earlier times: those do not count.
        let at = hour(-i64::try_from(seq).unwrap());
        let row = |series| Row {
            seq: StreamSeq::new(seq),
            content: match series {
                Series::Events(kind, venue, symbol) => Content::Event {
                    kind,
                    venue,
                    symbol,
                    at,
                },
                Series::Bars(venue, symbol, interval) => Content::Bar {
                    venue,
                    symbol,
                    interval,
                    at,
                },
            },
            payload: "x".into(),
        };
        let rows: Vec<Row> = series().into_iter().map(row).collect();
        store.record(epoch, &rows).await.unwrap();
    }
    let floor = StreamSeq::new(*seqs.end());
    store
        .advance("T", epoch, floor, UnixNanos::EPOCH)
        .await
        .unwrap();
}

/// The sequences that are left of each series.
async fn left(store: &Sqlite) -> Vec<Vec<u64>> {
    let mut left = Vec::new();
    for series in series() {
        let range = Range {
            series,
            from: UnixNanos::new(i64::MIN),
            to: UnixNanos::new(i64::MAX),
            descending: true,
            after: None,
            limit: 1_000,
        };
        let page = store.page("T", &range).await.unwrap();
        left.push(page.rows.iter().map(|row| row.seq.get()).collect());
    }
    left
}

/// Steps until there is nothing left to do.
async fn sweep(sweeper: &mut Sweeper, store: &Sqlite, now: UnixNanos) {
    sweeper.step(store, "T", now).await;
    while sweeper.way.is_some() {
        sweeper.step(store, "T", now).await;
    }
}

/// What is left when these are left of everything that is short-lived, and these of the rest.
fn expected(short: &[u64], all: &[u64]) -> Vec<Vec<u64>> {
    let of = |series| match series {
        Series::Bars(_, _, Interval::Minute1) => all.to_vec(),
        Series::Events(..) | Series::Bars(..) => short.to_vec(),
    };
    series().into_iter().map(of).collect()
}

#[tokio::test]
async fn what_was_recorded_long_ago_is_deleted_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = Sqlite::open(&dir.path().join("history.db"), None)
        .await
        .unwrap();
    let metrics = Metrics::default();
    let mut sweeper = Sweeper::new(Some(DAY * 30), metrics.clone());
    record(&store, epoch(1), 1..=3).await;
    sweep(&mut sweeper, &store, hour(0)).await;
    record(&store, epoch(1), 4..=5).await;
    sweep(&mut sweeper, &store, hour(24)).await;
    record(&store, epoch(2), 6..=7).await;
    sweep(&mut sweeper, &store, hour(48)).await;
    let all = [1, 2, 3, 4, 5, 6, 7];
    sweep(&mut sweeper, &store, hour(30 * 24)).await;
    assert_eq!(
        left(&store).await,
        expected(&all, &all),
        "thirty days are kept"
    );
    sweep(&mut sweeper, &store, hour(30 * 24 + 1)).await;
    assert_eq!(left(&store).await, expected(&[4, 5, 6, 7], &all));
    sweep(&mut sweeper, &store, hour(31 * 24 + 2)).await;
    assert_eq!(left(&store).await, expected(&[6, 7], &all));
    sweep(&mut sweeper, &store, hour(33 * 24)).await;
    assert_eq!(left(&store).await, expected(&[], &all));
    assert_eq!(metrics.deleted.get(), 7 * 6);
    assert_eq!(metrics.delete_failures.get(), 0);
}

#[tokio::test]
async fn the_end_of_an_epoch_that_was_never_noted_goes_with_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = Sqlite::open(&dir.path().join("history.db"), None)
        .await
        .unwrap();
    let mut sweeper = Sweeper::new(Some(DAY), Metrics::default());
    record(&store, epoch(1), 1..=2).await;
    sweep(&mut sweeper, &store, hour(0)).await;
    record(&store, epoch(1), 3..=4).await;
    record(&store, epoch(2), 5..=5).await;
    sweep(&mut sweeper, &store, hour(1)).await;
    sweep(&mut sweeper, &store, hour(26)).await;
    assert_eq!(left(&store).await, expected(&[], &[1, 2, 3, 4, 5]));
}

#[tokio::test]
async fn without_a_limit_everything_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Sqlite::open(&dir.path().join("history.db"), None)
        .await
        .unwrap();
    let mut sweeper = Sweeper::new(None, Metrics::default());
    record(&store, epoch(1), 1..=3).await;
    for days in 0..100 {
        sweep(&mut sweeper, &store, hour(days * 240)).await;
    }
    assert_eq!(left(&store).await, expected(&[1, 2, 3], &[1, 2, 3]));
}

#[tokio::test]
async fn a_full_database_has_room_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.db");
    let store = Sqlite::open(&path, Some(1_000_000)).await.unwrap();
    let mut sweeper = Sweeper::new(Some(DAY), Metrics::default());
    let large = |seq: u64| Row {
        seq: StreamSeq::new(seq),
        content: Content::Event {
            kind: Kind::Trade,
            venue: Venue::new("x").unwrap(),
            symbol: Symbol::new("A").unwrap(),
            at: UnixNanos::EPOCH,
        },
        payload: vec![0; 10_000].into(),
    };
    let mut seq = 1;
    while store.record(epoch(1), &[large(seq)]).await.is_ok() {
        store
            .advance("T", epoch(1), StreamSeq::new(seq), UnixNanos::EPOCH)
            .await
            .unwrap();
        seq += 1;
        sweeper.begun = None;
        sweep(&mut sweeper, &store, hour(0)).await;
    }
    assert!(seq > 10, "{seq}");
    sweep(&mut sweeper, &store, hour(48)).await;
    store.record(epoch(1), &[large(seq)]).await.unwrap();
}
