//! What only a server does: partitions, decimals, replicas that start together, and being away.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use postgres_server::{Server, connect};
use schemas::codec;
use schemas::id::{Interval, Kind, Symbol};
use schemas::tick::{Bar, Head, Quote, Side, Tick, Trade};
use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::instrument::WithSubscriber as _;
use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::store::statements::{page_statement, position_statement};
use crate::store::{Place, content};

const DAY: i64 = 86_400_000_000_000;
/// 2026-11-21.
const TODAY: i64 = 20_778 * DAY;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(1);

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
async fn events_lie_in_the_partition_of_their_day() {
    let mut world = World::new().await;
    let rows = [
        event(TODAY - 1, 1),
        event(TODAY, 2),
        event(TODAY + DAY - 1, 3),
        event(TODAY + DAY, 4),
        event(0, 5),
        event(i64::MAX - 1, 6),
    ];
    world.store.record(epoch(), &rows).await.unwrap();
    let place = |name: &str, seq| (name.to_owned(), seq);
    assert_eq!(
        world.places().await,
        [
            place("events_20261120", 1),
            place("events_20261121", 2),
            place("events_20261121", 3),
            place("events_20261122", 4),
            place("events_default", 5),
            place("events_default", 6),
        ]
    );
    assert_eq!(
        world.partitions().await,
        [
            "events_20261120",
            "events_20261121",
            "events_20261122",
            "events_20261123",
            "events_default"
        ],
        "the next days are made ahead"
    );
}

#[tokio::test]
async fn what_came_before_its_day_is_moved_when_the_day_is_made() {
    let mut world = World::new().await;
    let early = [event(TODAY + 5 * DAY, 1), event(TODAY + 6 * DAY, 2)];
    world.store.record(epoch(), &early).await.unwrap();
    let default = "events_default".to_owned();
    assert_eq!(
        world.places().await,
        [(default.clone(), 1), (default.clone(), 2)]
    );
    world.clock.0.store(TODAY + 3 * DAY, Ordering::SeqCst);
    world
        .store
        .record(epoch(), &[event(TODAY + 3 * DAY, 3)])
        .await
        .unwrap();
    assert_eq!(
        world.places().await,
        [
            ("events_20261126".to_owned(), 1),
            (default, 2),
            ("events_20261124".to_owned(), 3)
        ]
    );
    assert_eq!(seqs(&world.store).await, [3, 1, 2]);
    world.store.record(epoch(), &early).await.unwrap();
    assert_eq!(seqs(&world.store).await, [3, 1, 2], "they are still known");
}

#[tokio::test]
async fn a_day_that_cannot_be_made_stops_nothing() {
    let mut world = World::new().await;
    world.store.ready().await.unwrap();
    // In the way of the partition's name.
    world
        .outside
        .execute("CREATE TABLE events_20261121 (at text)")
        .await
        .unwrap();
    world
        .store
        .record(epoch(), &[event(TODAY, 1)])
        .await
        .unwrap();
    assert_eq!(world.places().await, [("events_default".to_owned(), 1)]);
}

#[tokio::test]
async fn old_days_are_dropped_whole_unless_something_came_late() {
    let mut world = World::new().await;
    let days = [
        event(TODAY - 9 * DAY, 1),
        event(TODAY - 8 * DAY, 2),
        event(TODAY, 3),
    ];
    world.store.record(epoch(), &days).await.unwrap();
    let stream = "T";
    world
        .store
        .advance(stream, epoch(), StreamSeq::new(3), UnixNanos::new(TODAY))
        .await
        .unwrap();
    let now = UnixNanos::new(TODAY + DAY / 2);
    world.store.stood(stream, now, now).await.unwrap();
    // Fetched later for a day that is over.
    world
        .store
        .record(epoch(), &[event(TODAY - 8 * DAY, 4)])
        .await
        .unwrap();
    let later = UnixNanos::new(TODAY + 31 * DAY);
    let until = world
        .store
        .stood(stream, later, now.offset(1))
        .await
        .unwrap();
    assert_eq!(until, [(epoch(), StreamSeq::new(3))]);
    let swept = world.store.sweep(&until, None, 100).await.unwrap();
    assert!(swept.done);
    let left = [("events_20261113".to_owned(), 4)];
    assert_eq!(world.places().await, left);
    assert_eq!(
        world.partitions().await,
        [
            "events_20261113",
            "events_20261121",
            "events_20261122",
            "events_20261123",
            "events_default"
        ],
        "neither a day with something later nor one that was not over then is dropped"
    );
    assert_eq!(seqs(&world.store).await, [4]);
    world
        .store
        .record(epoch(), &[event(TODAY - 9 * DAY, 5)])
        .await
        .unwrap();
    assert_eq!(
        seqs(&world.store).await,
        [5, 4],
        "a day that was dropped can still be written to"
    );
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
    assert_eq!(versions, "1 2");
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
async fn what_is_slow_is_told_without_values() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).finish();
    let args = Args {
        store_slow_ms: 0,
        ..Args::default()
    };
    let slow = async {
        let world = World::with(&args).await;
        world
            .store
            .record(epoch(), &[event(TODAY, 777_123)])
            .await
            .unwrap();
        world
            .store
            .instruments(None, "needle", None, 5)
            .await
            .unwrap();
    };
    slow.with_subscriber(subscriber).await;
    let told = log.0.lock().unwrap().clone();
    let told = String::from_utf8(told).unwrap();
    for what in ["record", "instruments", "took_ms"] {
        assert!(told.contains(what), "{what}: {told}");
    }
    for value in ["777123", "needle"] {
        assert!(!told.contains(value), "{told}");
    }
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn an_older_schema_is_brought_up_to_date_and_a_newer_one_is_left_alone() {
    let mut world = World::new().await;
    let migrations = sqlx::migrate!("migrations/postgres");
    migrations.run_to(1, &mut world.outside).await.unwrap();
    let older = "INSERT INTO events (at, created, gen, s, kind, venue, symbol, payload)
                 VALUES (5, 1, 0, 1, 'trade', 'x', 'A', '1')";
    world.outside.execute(older).await.unwrap();
    world.store.record(epoch(), &[event(6, 2)]).await.unwrap();
    assert_eq!(seqs(&world.store).await, [1, 2]);
    assert_eq!(world.text("SELECT count(*)::text FROM trades").await, "2");
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
    let mut world = World::new().await;
    world
        .store
        .record(epoch(), &[event(TODAY, 1), event(0, 2)])
        .await
        .unwrap();
    let mut look = world.outside.begin().await.unwrap();
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
            let (types, values) = arguments.split_once('|').unwrap();
            let sql = format!(
                "DEALLOCATE ALL; PREPARE asked ({types}) AS {statement}; EXPLAIN EXECUTE asked ({values})"
            );
            let plan = sqlx::raw_sql(AssertSqlSafe(sql))
                .fetch_all(&mut *look)
                .await
                .unwrap();
            let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
            let plan = plan.join("\n");
            assert!(plan.contains("Index Scan"), "{plan}");
            for bad in ["Seq Scan", "Sort  ", "Bitmap"] {
                assert!(!plan.contains(bad), "{statement}: {plan}");
            }
        }
    }
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_given_up() {
    let patience = NonZeroU32::new(300).unwrap();
    let args = Args {
        store_statement_ms: patience,
        ..Args::default()
    };
    let mut world = World::with(&args).await;
    world
        .store
        .record(epoch(), &[event(TODAY, 1)])
        .await
        .unwrap();
    let mut lock = world.outside.begin().await.unwrap();
    lock.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let read = world.store.page("T", &trades()).await.unwrap_err();
    assert!(read.to_string().contains("statement timeout"), "{read}");
    assert!(read.retry_after().is_some());
    let written = world
        .store
        .record(epoch(), &[event(TODAY, 2)])
        .await
        .unwrap_err();
    assert!(written.retry_after().is_some(), "{written}");
    lock.rollback().await.unwrap();
    assert_eq!(
        seqs(&world.store).await,
        [1],
        "nothing of what was given up is there"
    );
}

#[tokio::test]
async fn history_is_read_from_the_copy() {
    let primary = World::new().await;
    let mut copy = World::new().await;
    let args = Args {
        store_replica: Some(copy.url.clone()),
        ..Args::default()
    };
    let store = Postgres::open(&primary.url, &args).unwrap();
    store.record(epoch(), &[event(TODAY, 1)]).await.unwrap();
    let early = store.page("T", &trades()).await.unwrap_err();
    assert!(
        early.retry_after().is_some(),
        "the tables are not there yet: {early}"
    );
    let tables = copy
        .text("SELECT count(*)::text FROM pg_tables WHERE schemaname = 'public'")
        .await;
    assert_eq!(tables, "0", "a copy is not written to");
    copy.store
        .record(epoch(), &[event(TODAY, 2)])
        .await
        .unwrap();
    assert_eq!(seqs(&store).await, [2]);
    assert_eq!(seqs(&primary.store).await, [1]);
}

#[tokio::test]
async fn a_password_may_be_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    let args = Args {
        store_password_file: Some(file.clone()),
        ..Args::default()
    };
    let server = Server::shared().await.unwrap();
    let url = Secret::from(server.database().await.unwrap());
    let missing = Postgres::open(&url, &args).unwrap_err().to_string();
    assert!(missing.contains("password file"), "{missing}");
    std::fs::write(&file, "tickwire\n").unwrap();
    let store = Postgres::open(&url, &args).unwrap();
    store.ready().await.unwrap();
    let options = store.0.primary.pool.connect_options();
    assert!(!format!("{store:?}").contains("tickwire"), "{options:?}");
}

#[tokio::test]
async fn a_server_that_goes_away_is_left_alone_until_it_is_back() {
    let mut server = Server::start().await.unwrap();
    let url = Secret::from(server.database().await.unwrap());
    let args = Args {
        store_acquire_ms: NonZeroU32::new(300).unwrap(),
        ..Args::default()
    };
    let store = Postgres::open(&url, &args).unwrap();
    store.record(epoch(), &[event(TODAY, 1)]).await.unwrap();
    server.stop().await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut asked = 0;
    loop {
        let problem = store.record(epoch(), &[event(TODAY, 2)]).await.unwrap_err();
        assert!(problem.retry_after().is_some(), "{problem}");
        if matches!(problem, StoreError::Away(_)) {
            break;
        }
        asked += 1;
        assert!(asked <= 3, "it is asked again and again: {problem}");
    }
    // Readers learn it from writers: it is the same server.
    let problem = store.page("T", &trades()).await.unwrap_err();
    assert!(matches!(problem, StoreError::Away(_)), "{problem}");
    server.resume().await.unwrap();
    while let Err(problem) = store.record(epoch(), &[event(TODAY, 2)]).await {
        let wait = problem.retry_after().unwrap();
        assert!(Instant::now() < deadline, "{problem}");
        sleep(wait).await;
    }
    assert_eq!(seqs(&store).await, [1, 2]);
    for seq in 3..10 {
        store.record(epoch(), &[event(TODAY, seq)]).await.unwrap();
    }
}
