//! A server that is slow, read-only, elsewhere or gone.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::{Instant, sleep, timeout};
use tracing::instrument::WithSubscriber as _;
use tracing_subscriber::fmt::MakeWriter;

use super::*;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// Records an event of today as soon as the server answers again.
async fn record_as_soon_as_may_be(store: &Postgres, seq: u64) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(problem) = store.record(epoch(), &[event(TODAY, seq)]).await {
        let wait = problem.retry_after().unwrap();
        assert!(Instant::now() < deadline, "{problem}");
        sleep(wait).await;
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
async fn who_may_only_read_reads() {
    let mut world = World::new().await;
    world
        .store
        .record(epoch(), &[event(TODAY, 1)])
        .await
        .unwrap();
    let database = world.text("SELECT current_database()::text").await;
    let sql = format!("ALTER DATABASE {database} SET default_transaction_read_only = on");
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut world.outside)
        .await
        .unwrap();
    let store = Postgres::open(&world.url, &Args::default()).unwrap();
    assert_eq!(seqs(&store).await, [1]);
    let problem = store.record(epoch(), &[event(TODAY, 2)]).await.unwrap_err();
    assert!(problem.to_string().contains("read-only"), "{problem}");
    assert!(
        problem.retry_after().is_some(),
        "another server may be the primary by then"
    );
    assert_eq!(seqs(&store).await, [1]);
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
    record_as_soon_as_may_be(&store, 2).await;
    assert_eq!(seqs(&store).await, [1, 2]);
    for seq in 3..10 {
        store.record(epoch(), &[event(TODAY, seq)]).await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_falls_silent_is_waited_for_no_longer_than_its_statements_may_take() {
    let args = Args {
        store_acquire_ms: NonZeroU32::new(300).unwrap(),
        store_statement_ms: NonZeroU32::new(300).unwrap(),
        ..Args::default()
    };
    let mut silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let url = Secret::from(format!("postgres://tick@127.0.0.1:{port}/history"));
    let store = Postgres::open(&url, &args).unwrap();
    let problem = store.page("T", &trades()).await.unwrap_err();
    assert!(problem.retry_after().is_some(), "{problem}");
    drop(silent.accept().await.unwrap());
    // One that answered before, and then no more.
    silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gate = Gate::new("primary", Duration::from_secs(1), Duration::from_millis(50));
    let answer = gate.limited(async { Ok(silent.accept().await.unwrap().1) });
    let problem = answer.await.unwrap_err();
    assert!(problem.is_away(), "{problem}");
    assert!(
        problem.to_string().contains("nothing was heard"),
        "{problem}"
    );
}

/// A way to a server that can fall silent: what it says is then lost, on connections that know this for
/// ever, and nobody hangs up.
struct Way {
    url: Secret,
    is_silent: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

async fn connected(to: &PgConnectOptions) -> Box<dyn Wire> {
    let port = to.get_port();
    if let Some(folder) = to.get_socket() {
        let socket = folder.join(format!(".s.PGSQL.{port}"));
        return Box::new(UnixStream::connect(socket).await.unwrap());
    }
    Box::new(TcpStream::connect((to.get_host(), port)).await.unwrap())
}

async fn way(to: &Secret) -> Way {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = listener.local_addr().unwrap();
    // Wherever the server is: an address of this machine, a container's, a socket in a folder.
    let (user, rest) = to.reveal().split_once('@').unwrap();
    let (_, database) = rest.split_once('/').unwrap();
    let database = database.split('?').next().unwrap();
    let url = Secret::from(format!("{user}@{here}/{database}"));
    let to = PgConnectOptions::from_str(to.reveal()).unwrap();
    let is_silent = Arc::new(AtomicBool::new(false));
    let silent = Arc::clone(&is_silent);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            let (mut hears, mut tells) = client.into_split();
            let (mut from_server, mut to_server) = tokio::io::split(connected(&to).await);
            connections.spawn(async move {
                let _ended = tokio::io::copy(&mut hears, &mut to_server).await;
            });
            let silent = Arc::clone(&silent);
            connections.spawn(async move {
                let mut buffer = vec![0; 4_096];
                let mut is_lost = false;
                while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
                    is_lost |= silent.load(Ordering::SeqCst);
                    if !is_lost && tells.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
                if is_lost {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    Way {
        url,
        is_silent,
        tasks,
    }
}

#[tokio::test]
async fn a_server_that_fell_silent_takes_no_places_with_it() {
    let short = NonZeroU32::new(300).unwrap();
    let args = Args {
        store_connections: NonZeroU32::MIN,
        store_acquire_ms: short,
        store_statement_ms: short,
        ..Args::default()
    };
    let mut world = World::new().await;
    let mut way = way(&world.url).await;
    let store = Postgres::open(&way.url, &args).unwrap();
    store.record(epoch(), &[event(TODAY, 1)]).await.unwrap();
    assert_eq!(seqs(&store).await, [1]);
    // It falls silent in the middle of an answer.
    let mut lock = world.outside.begin().await.unwrap();
    let locking = "LOCK TABLE events IN ACCESS EXCLUSIVE MODE";
    lock.execute(locking).await.unwrap();
    let range = trades();
    let mut asked = Box::pin(store.page("T", &range));
    let waited = timeout(Duration::from_millis(100), &mut asked).await;
    assert!(waited.is_err());
    way.is_silent.store(true, Ordering::SeqCst);
    drop(asked);
    lock.rollback().await.unwrap();
    for number in 2..=4 {
        // Some wait to the end, some are given up by those who asked.
        let given_up = timeout(Duration::from_millis(50), store.page("T", &trades())).await;
        assert!(given_up.is_err() || number > 2, "{number}");
        let problem = store.record(epoch(), &[event(TODAY, number)]).await;
        assert!(problem.unwrap_err().retry_after().is_some());
    }
    way.is_silent.store(false, Ordering::SeqCst);
    record_as_soon_as_may_be(&store, 9).await;
    let seqs = seqs(&store).await;
    assert!(seqs.starts_with(&[1]) && seqs.ends_with(&[9]), "{seqs:?}");
    way.tasks.shutdown().await;
}

#[test]
fn a_password_in_the_url_is_the_one_that_counts() {
    for (url, has) in [
        ("postgres://tick:secret@host/history", true),
        ("postgres://tick@host/history?password=secret", true),
        ("postgres://tick:@host/history", false),
        ("postgres://tick@host:5432/a:b@c", false),
        ("postgres://host/history?user=tick", false),
    ] {
        assert_eq!(has_password(url), has, "{url}");
    }
}

#[tokio::test]
async fn what_is_given_up_midway_is_stored_whole_or_not_at_all() {
    const ROWS: u64 = 3_000;
    let args = Args {
        store_connections: NonZeroU32::MIN,
        ..Args::default()
    };
    let mut world = World::with(&args).await;
    world
        .store
        .record(epoch(), &[event(TODAY, 1)])
        .await
        .unwrap();
    let (mut given_up, mut next) = (0, 2);
    for patience_us in (0..40_000).step_by(1_000) {
        let rows: Vec<Row> = (next..next + ROWS).map(|seq| event(TODAY, seq)).collect();
        let patience = Duration::from_micros(patience_us);
        let recording = tokio::time::timeout(patience, world.store.record(epoch(), &rows)).await;
        given_up += u32::from(recording.is_err());
        // The one connection goes on with whatever comes next.
        let after = next + ROWS;
        world
            .store
            .record(epoch(), &[event(TODAY, after)])
            .await
            .unwrap();
        let sql = format!(
            "SELECT concat_ws(' ', count(*) FILTER (WHERE s < {after}) % {ROWS},
                                   count(*) FILTER (WHERE s = {after}))
             FROM events WHERE s >= {next}"
        );
        let stored = world
            .outside
            .fetch_one(sqlx::raw_sql(AssertSqlSafe(sql)))
            .await
            .unwrap();
        let stored: String = stored.get(0);
        assert_eq!(stored, "0 1", "after {patience:?}");
        next = after + 1;
    }
    assert!(given_up > 0);
}

#[tokio::test]
async fn a_question_that_is_given_up_spoils_none_of_the_next() {
    let args = Args {
        store_connections: NonZeroU32::MIN,
        ..Args::default()
    };
    let world = World::with(&args).await;
    let rows: Vec<Row> = (1..=9).map(|seq| event(TODAY, seq)).collect();
    world.store.record(epoch(), &rows).await.unwrap();
    let expected: Vec<u64> = (1..=9).collect();
    let mut given_up = 0;
    for patience_us in (0..5_000).step_by(50) {
        let patience = Duration::from_micros(patience_us);
        let question = tokio::time::timeout(patience, seqs(&world.store)).await;
        given_up += u32::from(question.is_err());
        assert_eq!(seqs(&world.store).await, expected, "after {patience:?}");
        let advance = world
            .store
            .advance("T", epoch(), StreamSeq::new(1), UnixNanos::new(1));
        given_up += u32::from(tokio::time::timeout(patience, advance).await.is_err());
    }
    assert!(given_up > 0);
    assert_eq!(seqs(&world.store).await, expected);
}

#[tokio::test]
async fn what_is_slow_is_told_without_values() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).finish();
    // Beside one alone, whatever another test's thread is the first to say counts as of interest to nobody.
    let _other = tracing::Dispatch::new(tracing_subscriber::registry());
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
        io::Write::write(&mut *self.0.lock().unwrap(), bytes)
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
