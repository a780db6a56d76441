//! What only a server does: decimals, replicas that start together, and what outlives nothing.

mod away;
mod days;

use std::sync::atomic::{AtomicI64, Ordering};

use postgres_server::{Server, connect};
use schemas::codec;
use schemas::id::{Interval, Kind, Symbol, Venue};
use schemas::position::StreamSeq;
use schemas::tick::{Bar, Head, Quote, Side, Tick, Trade};
use schemas::time::UnixNanos;
use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};
use tokio::task::JoinSet;

use super::*;
use crate::store::statements::{
    DEAD_LETTERS, GAPS, LOSSES, PROGRESS, STATE, page_statement, position_statement,
};
use crate::store::{Place, Range, Series, TickStore as _, content};

const DAY: i64 = 86_400_000_000_000;
/// 2026-11-21.
const TODAY: i64 = 20_778 * DAY;

#[derive(Clone)]
struct Hand(Arc<AtomicI64>);

impl Clock for Hand {
    fn now(&self) -> UnixNanos {
        UnixNanos::new(self.0.load(Ordering::SeqCst))
    }
}

/// A store in a new database, a look at it from outside, and its clock.
struct World {
    store: Postgres,
    outside: PgConnection,
    url: Secret,
    clock: Hand,
    _server: Arc<Server>,
}

impl World {
    async fn new() -> Self {
        Self::with(&Args::default()).await
    }

    async fn with(args: &Args) -> Self {
        let server = Server::shared().await.unwrap();
        let url = Secret::from(server.database().await.unwrap());
        let clock = Hand(Arc::new(AtomicI64::new(TODAY)));
        Self {
            store: Postgres::open_by(&url, args, Box::new(clock.clone())).unwrap(),
            outside: connect(url.reveal()).await.unwrap(),
            url,
            clock,
            _server: server,
        }
    }

    /// Which partition holds which events.
    async fn places(&mut self) -> Vec<(String, i64)> {
        let sql = "SELECT tableoid::regclass::text, s FROM events ORDER BY s";
        let rows = self.outside.fetch_all(sql).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    async fn partitions(&mut self) -> Vec<String> {
        let sql = "SELECT inhrelid::regclass::text FROM pg_inherits
                   WHERE inhparent = 'events'::regclass ORDER BY 1";
        let rows = self.outside.fetch_all(sql).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    async fn text(&mut self, sql: &'static str) -> String {
        self.outside.fetch_one(sql).await.unwrap().get(0)
    }
}

fn epoch() -> Epoch {
    Epoch::new(UnixNanos::new(1), 0)
}

fn key() -> (Venue, Symbol) {
    (Venue::new("x").unwrap(), Symbol::new("A").unwrap())
}

fn event(at: i64, seq: u64) -> Row {
    let (venue, symbol) = key();
    let (kind, at) = (Kind::Trade, UnixNanos::new(at));
    Row {
        seq: StreamSeq::new(seq),
        content: Content::Event {
            kind,
            venue,
            symbol,
            at,
        },
        payload: seq.to_string().into(),
    }
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

fn trades() -> Range {
    let (venue, symbol) = key();
    range(Series::Events(Kind::Trade, venue, symbol), false, None)
}

async fn seqs(store: &Postgres) -> Vec<u64> {
    let page = store.page("T", &trades()).await.unwrap();
    page.rows.iter().map(|row| row.seq.get()).collect()
}

#[tokio::test]
async fn decimals_lie_beside_the_payload() {
    let mut world = World::new().await;
    let (venue, symbol) = key();
    let mut head = Head::new(venue, symbol, UnixNanos::new(TODAY + 1));
    head.event = Some(UnixNanos::new(TODAY + 1_234_567_891));
    let decimal = |text: &str| text.parse().unwrap();
    let ticks: [Tick; 3] = [
        Trade {
            head: head.clone(),
            id: "7".to_owned(),
            price: decimal("-123456789012345.678901234"),
            size: "0.00000001".parse().unwrap(),
            side: Side::Buy,
            conditions: None,
        }
        .into(),
        Quote {
            head: head.clone(),
            bid: Some(decimal("1.50")),
            bid_size: Some("10000".parse().unwrap()),
            ask: None,
            ask_size: None,
        }
        .into(),
        Bar {
            head,
            interval: Interval::Minute1,
            start: UnixNanos::new(TODAY),
            open: decimal("1"),
            high: decimal("4.5"),
            low: decimal("0.25"),
            close: decimal("2"),
            volume: "1000000000000000000".parse().unwrap(),
            trades: 3,
        }
        .into(),
    ];
    let row = |(tick, seq): (&Tick, u64)| Row {
        seq: StreamSeq::new(seq),
        content: content(tick),
        payload: codec::to_msgpack(tick).unwrap().into(),
    };
    let rows: Vec<Row> = ticks.iter().zip(1..).map(row).collect();
    let expected = [
        (
            "SELECT concat_ws(' ', to_char(time AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'), price, size) FROM trades",
            "2026-11-21 00:00:01.234567 -123456789012345.678901234 0.00000001",
        ),
        (
            "SELECT concat_ws(' ', bid, bid_size, ask, ask_size) FROM quotes",
            "1.50 10000",
        ),
        (
            "SELECT concat_ws(' ', open, high, low, close, volume) FROM candles",
            "1 4.5 0.25 2 1000000000000000000",
        ),
    ];
    world.store.record(epoch(), &rows).await.unwrap();
    for (sql, told) in expected {
        assert_eq!(world.text(sql).await, told, "copied");
    }
    // The other way in: some of them are there already.
    world
        .outside
        .execute("DELETE FROM events WHERE kind = 'trade'")
        .await
        .unwrap();
    world.store.record(epoch(), &rows).await.unwrap();
    for (sql, told) in expected {
        assert_eq!(world.text(sql).await, told, "merged");
    }
}

#[tokio::test]
async fn replicas_that_start_together_make_the_tables_once() {
    let mut world = World::new().await;
    let (mut replicas, now) = (JoinSet::new(), SystemClock.now().get());
    for seq in 1..=8 {
        let store = Postgres::open(&world.url, &Args::default()).unwrap();
        let rows = [event(now, seq), event(now, 100)];
        replicas.spawn(async move { store.record(epoch(), &rows).await });
    }
    while let Some(outcome) = replicas.join_next().await {
        outcome.unwrap().unwrap();
    }
    let versions = world
        .text("SELECT string_agg(version::text, ' ') FROM _sqlx_migrations")
        .await;
    assert_eq!(versions, "1 2 3");
    assert_eq!(world.places().await.len(), 9);
}

#[tokio::test]
async fn replicas_that_write_the_same_rows_at_the_same_time_store_them_once() {
    const ROWS: u64 = 600;
    let mut world = World::new().await;
    let (venue, symbol) = key();
    let bar = |seq: u64| Row {
        seq: StreamSeq::new(seq),
        content: Content::Bar {
            venue: venue.clone(),
            symbol: symbol.clone(),
            interval: Interval::Minute1,
            at: UnixNanos::new(i64::try_from(seq % 7).unwrap()),
        },
        payload: "x".into(),
    };
    let rows: Vec<Row> = (1..=ROWS)
        .map(|seq| {
            if seq % 3 == 0 {
                bar(seq)
            } else {
                event(TODAY, seq)
            }
        })
        .collect();
    let mut replicas = JoinSet::new();
    for replica in 0..4 {
        let store = Postgres::open(&world.url, &Args::default()).unwrap();
        let mut rows = rows.clone();
        // Whatever comes in whatever order.
        if replica % 2 == 1 {
            rows.reverse();
        }
        replicas.spawn(async move {
            for batch in rows.chunks(97 + replica) {
                while let Err(problem) = store.record(epoch(), batch).await {
                    assert!(problem.retry_after().is_some(), "{problem}");
                }
            }
        });
    }
    while let Some(outcome) = replicas.join_next().await {
        outcome.unwrap();
    }
    let events = world
        .text("SELECT concat_ws(' ', count(*), count(DISTINCT s)) FROM events")
        .await;
    assert_eq!(events, "400 400");
    let bars = "SELECT concat_ws(' ', count(*), min(s), max(s)) FROM bars";
    assert_eq!(world.text(bars).await, "7 582 600", "the latest of each");
}

#[tokio::test]
async fn an_older_schema_is_brought_up_to_date_and_a_newer_one_is_left_alone() {
    let mut world = World::new().await;
    let migrations = sqlx::migrate!("migrations/postgres");
    migrations.run_to(1, &mut world.outside).await.unwrap();
    let older = "INSERT INTO events (at, created, gen, s, kind, venue, symbol, payload)
                 VALUES (5, 1, 0, 1, 'trade', 'x', 'A', '1'),
                        (7, 1, 0, 8, 'feed', 'x', 'tape', '\\x82a16ba466656564a27374a3676170'),
                        (8, 1, 0, 9, 'feed', 'x', 'tape', '\\x82a16ba466656564a27374a46c697665')";
    world.outside.execute(older).await.unwrap();
    world.store.record(epoch(), &[event(6, 2)]).await.unwrap();
    assert_eq!(seqs(&world.store).await, [1, 2]);
    assert_eq!(world.text("SELECT count(*)::text FROM trades").await, "2");
    let gaps = "SELECT string_agg(s::text, ' ') FROM gaps";
    assert_eq!(
        world.text(gaps).await,
        "8",
        "told before there was a ledger"
    );
    let newer = "ALTER TABLE events ADD COLUMN later text;
                 INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (99, 'later', true, '', 0)";
    sqlx::raw_sql(newer)
        .execute(&mut world.outside)
        .await
        .unwrap();
    let again = Postgres::open(&world.url, &Args::default()).unwrap();
    again
        .record(epoch(), &[event(TODAY, 3), event(6, 2)])
        .await
        .unwrap();
    assert_eq!(seqs(&again).await, [1, 2, 3]);
    let other = "ALTER TABLE dead_letters RENAME TO letters";
    world.outside.execute(other).await.unwrap();
    let problem = again.dead_letters().await.unwrap_err();
    assert!(problem.to_string().contains("older or newer"), "{problem}");
    assert!(problem.retry_after().is_some());
}

#[tokio::test]
async fn nothing_outlives_a_transaction() {
    let one = NonZeroU32::MIN;
    let args = Args {
        store_connections: one,
        ..Args::default()
    };
    let world = World::with(&args).await;
    let rows = [event(TODAY, 1), event(5, 2)];
    world.store.record(epoch(), &rows).await.unwrap();
    world.store.record(epoch(), &rows).await.unwrap();
    seqs(&world.store).await;
    world.store.instruments(None, "", None, 1).await.unwrap();
    world.store.dead_letters().await.unwrap();
    let until = world
        .store
        .stood("T", UnixNanos::new(TODAY), UnixNanos::new(0))
        .await
        .unwrap();
    world.store.sweep(&until, None, 1).await.unwrap();
    let mut session = world.store.0.primary.pool.acquire().await.unwrap();
    for sql in [
        "SELECT count(*) FROM pg_prepared_statements",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
        "SELECT count(*) FROM pg_class WHERE relpersistence = 't'",
        "SELECT count(*) FROM pg_settings WHERE source = 'session' AND name LIKE '%timeout%'",
    ] {
        let query = sqlx::query_scalar(sql).persistent(false);
        let count: i64 = query.fetch_one(&mut *session).await.unwrap();
        assert_eq!(count, 0, "{sql}");
    }
}

#[tokio::test]
async fn no_statement_scans_or_sorts() {
    let world = World::new().await;
    world
        .store
        .record(epoch(), &[event(TODAY, 1), event(0, 2)])
        .await
        .unwrap();
    let mut look = world.store.reading().await.unwrap();
    // Of tables so small, it would read everything.
    look.execute("SET LOCAL enable_seqscan = off; SET LOCAL plan_cache_mode = force_custom_plan")
        .await
        .unwrap();
    let (venue, symbol) = key();
    let place = (UnixNanos::new(5), epoch(), StreamSeq::new(1));
    for (series, values) in [
        (
            Series::Events(Kind::Trade, venue.clone(), symbol.clone()),
            "'trade', 'x', 'A'",
        ),
        (
            Series::Bars(venue, symbol, Interval::Minute1),
            "'x', 'A', '1m'",
        ),
    ] {
        let mut statements = vec![(
            position_statement(&series),
            format!(
                "text, text, text, bigint, bigint, bigint, bigint, bigint|{values}, 1, 0, 0, 9, 5"
            ),
        )];
        for descending in [false, true] {
            for after in [None, Some(place)] {
                let range = range(series.clone(), descending, after);
                let (types, cursor) = match after {
                    None => ("", ""),
                    Some(_) => (", bigint, bigint, bigint, bigint", ", 5, 1, 0, 1"),
                };
                statements.push((
                    page_statement(&range),
                    format!(
                        "text, text, text, bigint, bigint, bigint{types}|{values}, 0, 99, 5{cursor}"
                    ),
                ));
            }
        }
        for (statement, arguments) in statements {
            let plan = explain(&mut look, &statement, &arguments).await;
            assert!(plan.contains("Index Scan"), "{plan}");
        }
    }
    for (statement, arguments) in [
        (PROGRESS, "text|'T'"),
        (STATE, "text, text, text|'inst', 'x', 'A'"),
        (DEAD_LETTERS, "bigint, bigint, bigint, bigint|1, 0, 1, 9"),
        (
            GAPS,
            "bigint, bigint, bigint, bigint, bigint, bigint, bigint|0, 9, 0, 1, 0, 1, 9",
        ),
        (
            LOSSES,
            "text, bigint, bigint, bigint, bigint, bigint, bigint, bigint|'T', 0, 9, 0, 1, 0, 1, 9",
        ),
    ] {
        explain(&mut look, statement, arguments).await;
    }
}

/// What the database says that it does for a statement with arguments of these types: nothing bad.
async fn explain(look: &mut PgConnection, statement: &str, arguments: &str) -> String {
    let (types, values) = arguments.split_once('|').unwrap();
    let sql = format!(
        "DEALLOCATE ALL; PREPARE asked ({types}) AS {statement}; EXPLAIN EXECUTE asked ({values})"
    );
    let plan = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(look).await;
    let plan: Vec<String> = plan.unwrap().iter().map(|row| row.get(0)).collect();
    let plan = plan.join("\n");
    for bad in ["Seq Scan", "Sort  ", "Bitmap"] {
        assert!(!plan.contains(bad), "{statement}: {plan}");
    }
    plan
}

#[tokio::test]
async fn a_range_touches_no_other_day() {
    let world = World::new().await;
    let rows: Vec<Row> = (0..20_u32)
        .map(|day| event(TODAY - i64::from(day) * DAY, u64::from(20 - day)))
        .chain([event(5, 90), event(TODAY + 9 * DAY, 91)])
        .collect();
    world.store.record(epoch(), &rows).await.unwrap();
    let mut look = world.store.reading().await.unwrap();
    let (types, values) = (
        "text, text, text, bigint, bigint, bigint",
        "'trade', 'x', 'A'",
    );
    let (from, to) = (TODAY - 2 * DAY, TODAY);
    let asked = format!("{types}|{values}, {from}, {to}, 9");
    let statement = page_statement(&trades());
    let plan = explain(&mut look, &statement, &asked).await;
    for (day, touched) in [("20261119", true), ("20261120", true), ("20261121", false)] {
        assert_eq!(plan.contains(&format!("events_{day}")), touched, "{plan}");
    }
    assert!(!plan.contains("events_default"), "{plan}");
    // A long one is read in parts, and none of it is missing or out of order.
    let order: Vec<u64> = [90].into_iter().chain(1..=20).chain([91]).collect();
    let mut long = trades();
    long.limit = 100;
    let seqs = async |range: &Range| {
        let page = world.store.page("T", range).await.unwrap();
        page.rows
            .iter()
            .map(|row| row.seq.get())
            .collect::<Vec<_>>()
    };
    assert_eq!(seqs(&long).await, order);
    long.limit = 7;
    assert_eq!(seqs(&long).await, order[..7]);
    long.descending = true;
    let newest: Vec<u64> = order.into_iter().rev().collect();
    assert_eq!(seqs(&long).await, newest[..7]);
    long.after = Some((UnixNanos::new(TODAY - 3 * DAY), epoch(), StreamSeq::new(17)));
    assert_eq!(seqs(&long).await, newest[5..12]);
}
