//! That every statement finds what it reads by an index, and that anybody may open the file.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use schemas::id::{Interval, Symbol};
use sqlx::{Row as _, SqliteConnection};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;
use crate::store::{Content, Place};

fn epoch() -> Epoch {
    Epoch::new(UnixNanos::new(1), 0)
}

fn key() -> (Venue, Symbol) {
    (Venue::new("x").unwrap(), Symbol::new("A").unwrap())
}

fn both() -> [Series; 2] {
    let (venue, symbol) = key();
    [
        Series::Events(Kind::Trade, venue.clone(), symbol.clone()),
        Series::Bars(venue, symbol, Interval::Minute1),
    ]
}

/// A trade and a bar at each of these times, in order of sequence.
async fn store_of(times: impl Iterator<Item = i64>) -> (Sqlite, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.db");
    let store = Sqlite::open(&path, None).await.unwrap();
    let (venue, symbol) = key();
    let mut rows = Vec::new();
    for (at, seq) in times.map(UnixNanos::new).zip((1..).step_by(2)) {
        let event = Content::Event {
            kind: Kind::Trade,
            venue: venue.clone(),
            symbol: symbol.clone(),
            at,
        };
        let bar = Content::Bar {
            venue: venue.clone(),
            symbol: symbol.clone(),
            interval: Interval::Minute1,
            at,
        };
        for (seq, content) in [(seq, event), (seq + 1, bar)] {
            rows.push(Row {
                seq: StreamSeq::new(seq),
                content,
                payload: "x".into(),
            });
        }
    }
    store.record(epoch(), &rows).await.unwrap();
    (store, dir)
}

fn range(series: Series, descending: bool, after: Option<Place>) -> Range {
    Range {
        series,
        from: UnixNanos::new(i64::MIN),
        to: UnixNanos::new(i64::MAX),
        descending,
        after,
        limit: 10,
    }
}

/// What the database says that a statement does.
async fn plan(store: &Sqlite, statement: &str) -> String {
    let sql = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
    let steps = sqlx::query(sql).fetch_all(&store.readers).await.unwrap();
    let steps: Vec<String> = steps.iter().map(|step| step.get("detail")).collect();
    steps.join("; ")
}

#[tokio::test]
async fn no_statement_scans_or_sorts() {
    let (store, _dir) = store_of(0..10).await;
    let place = (UnixNanos::new(5), epoch(), StreamSeq::new(1));
    let sweeping = [
        sweep::NEXT_EVENTS,
        sweep::NEXT_BARS,
        sweep::DELETE_EVENTS,
        sweep::DELETE_BARS,
    ];
    let sweeping = sweeping.map(str::to_owned);
    for series in both() {
        let mut statements = vec![position_statement(&series)];
        statements.extend(sweeping.clone());
        for (descending, after) in [
            (false, None),
            (true, None),
            (false, Some(place)),
            (true, Some(place)),
        ] {
            statements.push(page_statement(&range(series.clone(), descending, after)));
        }
        for statement in statements {
            let plan = plan(&store, &statement).await;
            assert!(plan.starts_with("SEARCH "), "{plan}: {statement}");
            for bad in ["SCAN", "TEMP B-TREE"] {
                assert!(!plan.contains(bad), "{plan}: {statement}");
            }
        }
    }
}

/// Counts the steps that the database takes for reading, in hundreds.
async fn count_steps(store: &Sqlite) -> Arc<AtomicU64> {
    let steps = Arc::new(AtomicU64::new(0));
    let mut connections = Vec::new();
    for _ in 0..READERS {
        let mut connection = store.readers.acquire().await.unwrap();
        let counted = Arc::clone(&steps);
        connection
            .lock_handle()
            .await
            .unwrap()
            .set_progress_handler(100, move || {
                counted.fetch_add(1, Ordering::SeqCst);
                true
            });
        connections.push(connection);
    }
    steps
}

#[tokio::test]
async fn a_deep_page_costs_as_much_as_the_first() {
    let rows = 5_000;
    let (store, _dir) = store_of(0..rows).await;
    let steps = count_steps(&store).await;
    for series in both() {
        for descending in [false, true] {
            let deep = if descending { 20 } else { rows - 20 };
            let deep = (UnixNanos::new(deep), epoch(), StreamSeq::ZERO);
            let mut costs = Vec::new();
            for after in [None, Some(deep)] {
                let before = steps.load(Ordering::SeqCst);
                let page = store
                    .page("T", &range(series.clone(), descending, after))
                    .await
                    .unwrap();
                assert_eq!(page.rows.len(), 10);
                costs.push(steps.load(Ordering::SeqCst) - before);
            }
            assert!(
                costs[1] <= costs[0] + 10,
                "{series:?} {descending}: {costs:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_opens_a_new_file_at_the_same_time_finds_its_tables() {
    for _ in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let mut opening = JoinSet::new();
        for _ in 0..6 {
            let path = dir.path().join("history.db");
            opening.spawn(async move { Sqlite::open(&path, None).await });
        }
        let mut stores = Vec::new();
        while let Some(opened) = opening.join_next().await {
            stores.push(opened.unwrap().unwrap());
        }
        for store in stores {
            assert_eq!(store.dead_letters().await.unwrap(), 0);
        }
    }
}

#[tokio::test]
async fn an_older_file_is_brought_up_to_date_and_a_newer_one_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.db");
    let options = SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true);
    let mut older = SqliteConnection::connect_with(&options).await.unwrap();
    MIGRATIONS.run_to(3, &mut older).await.unwrap();
    // A feed's tick as it was stored before there was a ledger: {"k": "feed", "st": "gap"} of times.
    let before = "INSERT INTO events (kind, venue, symbol, at, created, gen, s, payload) VALUES
                  ('feed', 'x', 'tape', 7, 1, 0, 1, x'82a16ba466656564a27374a3676170'),
                  ('feed', 'x', 'tape', 8, 1, 0, 2, x'82a16ba466656564a27374a46c697665')";
    sqlx::raw_sql(before).execute(&mut older).await.unwrap();
    older.close().await.unwrap();
    let store = Sqlite::open(&path, None).await.unwrap();
    let all = (UnixNanos::new(0), UnixNanos::new(100));
    let gaps = store.feed_gaps(all, None, 10).await.unwrap();
    assert_eq!(
        gaps.iter().map(|gap| gap.seq.get()).collect::<Vec<_>>(),
        [1]
    );
    let newer = "ALTER TABLE events ADD COLUMN later TEXT;
                 INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (99, 'later', true, x'', 0)";
    sqlx::raw_sql(newer).execute(&store.writer).await.unwrap();
    let again = Sqlite::open(&path, None).await.unwrap();
    assert_eq!(again.dead_letters().await.unwrap(), 0);
    let other = "ALTER TABLE dead_letters RENAME TO letters";
    sqlx::raw_sql(other).execute(&store.writer).await.unwrap();
    let problem = again.dead_letters().await.unwrap_err();
    assert!(problem.to_string().contains("older or newer"), "{problem}");
    assert!(problem.retry_after().is_some());
}
