//! The recorder between a real broker and a real database that can be made to refuse.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::pull;
use bus::provision::{StreamSpec, provision};
use daemon::nats::{Login, Settings};
use daemon::ops::Surface;
use schemas::codec;
use schemas::id::{Kind, Symbol, Venue};
use schemas::time::UnixNanos;
use serde_json::json;
use sqlx::Connection as _;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use super::intake::fetch;
use super::*;
use crate::store::guarded::{Call, Guard, Guarded};
use crate::store::sqlite::Sqlite;
use crate::store::{Page, Place, Range, Series, StoreError};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// A database that refuses on demand, or does not answer whoever writes.
#[derive(Clone)]
struct Moody {
    away: Arc<AtomicBool>,
    refuses: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
}

impl Moody {
    fn answers(&self) -> Result<(), StoreError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(StoreError::Away(Duration::from_millis(10)));
        }
        Ok(())
    }
}

impl Guard for Moody {
    async fn passes(&self, call: Call) -> Result<(), StoreError> {
        if call != Call::Page {
            self.answers()?;
        }
        if call == Call::Record && self.refuses.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            let (field, value) = ("mood", "bad".to_owned());
            return Err(StoreError::Damaged { field, value });
        }
        Ok(())
    }
}

struct World {
    cx: daemon::Context,
    store: Guarded<Moody>,
    spec: StreamSpec,
    epoch: Epoch,
    stop: CancellationToken,
    tasks: JoinSet<Result<()>>,
    surface: Surface,
    _server: Child,
    dir: TempDir,
}

/// Starts a broker in `dir`; where it listens.
async fn broker(dir: &Path) -> (Child, String) {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test finds its broker as the binary does"
    )]
    let named = std::env::var("TICKWIRE_NATS_SERVER_BIN");
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/nats-server");
    let binary = named.map_or(installed, Into::into);
    assert!(
        binary.exists(),
        "there is no nats-server: run `make setup`, or set TICKWIRE_NATS_SERVER_BIN"
    );
    let reserved = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = reserved.local_addr().unwrap().port().to_string();
    drop(reserved);
    let child = Command::new(binary)
        .args(["-a", "127.0.0.1", "-p", &port, "-js", "-sd"])
        .arg(dir.join("jetstream"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    (child, format!("nats://127.0.0.1:{port}"))
}

impl World {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (server, url) = broker(dir.path()).await;
        let settings = Settings {
            url,
            login: Login::Anonymous,
            role: "recorder",
        };
        let surface = Surface::new();
        let connected = daemon::nats::connect(&settings, &surface);
        let cx = timeout(PATIENCE, connected).await.unwrap().unwrap();
        let context = jetstream::new(cx.client.clone());
        until(async || context.query_account().await.is_ok()).await;
        let spec = StreamSpec {
            venues: Vec::new(),
            name: "T".to_owned(),
            max_age_secs: 3_600,
            max_bytes: 1 << 26,
            replicas: 1,
        };
        let epoch = provision(&cx.client, &spec).await.unwrap();
        let inner = Sqlite::open(&dir.path().join("history.db"), None).await;
        let guard = Moody {
            away: Arc::default(),
            refuses: Arc::default(),
            refused: Arc::default(),
        };
        let inner = inner.unwrap();
        let store = Guarded { inner, guard };
        let config = Config {
            stream: "T".to_owned(),
            store: store.clone(),
            args: Args { history_days: 30 },
        };
        let mut tasks = JoinSet::new();
        let stop = CancellationToken::new();
        tasks.spawn(run(config, cx.clone(), stop.clone()));
        Self {
            cx,
            store,
            spec,
            epoch,
            stop,
            tasks,
            surface,
            _server: server,
            dir,
        }
    }

    async fn publish(&self, id: &str) {
        let tick = serde_json::from_value(json!({
            "k": "trade", "v": "x", "y": "A", "te": "7", "tr": "8",
            "i": id, "p": "1.5", "z": "2", "sd": "buy",
        }));
        let payload = codec::to_msgpack(&tick.unwrap()).unwrap();
        let context = jetstream::new(self.cx.client.clone());
        let sent = context.publish("tick.trade.x.A", payload.into()).await;
        sent.unwrap().await.unwrap();
    }

    async fn page(&self) -> Page {
        let range = Range {
            series: Series::Events(
                Kind::Trade,
                Venue::new("x").unwrap(),
                Symbol::new("A").unwrap(),
            ),
            from: UnixNanos::EPOCH,
            to: UnixNanos::new(i64::MAX),
            descending: false,
            after: None::<Place>,
            limit: 100,
        };
        self.store.page("T", &range).await.unwrap()
    }

    /// Waits until so many trades are stored.
    async fn stored(&self, count: usize) {
        until(async || self.page().await.rows.len() == count).await;
    }

    /// A metric of the recorder.
    fn metric(&self, name: &str) -> f64 {
        let mut text = String::new();
        let registry = self.surface.registry.lock().unwrap();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let lines = text.lines();
        let values =
            lines.filter_map(|line| line.strip_prefix(&format!("tickwire_recorder_{name} ")));
        values.map(|value| value.parse::<f64>().unwrap()).sum()
    }

    /// The sequences of the trades that are stored.
    async fn seqs(&self) -> Vec<u64> {
        let mut seqs: Vec<u64> = self
            .page()
            .await
            .rows
            .iter()
            .map(|row| row.seq.get())
            .collect();
        seqs.sort_unstable();
        seqs
    }

    fn ready(&self) -> bool {
        self.cx.health.report().ready
    }
}

/// Waits until a condition holds.
async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !holds().await {
            sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.expect("it never held");
}

#[tokio::test]
async fn what_could_not_be_stored_comes_again_at_once_and_nothing_is_well_before() {
    let world = World::start().await;
    timeout(PATIENCE, world.cx.health.ready()).await.unwrap();
    world.store.guard.refuses.store(true, Ordering::SeqCst);
    world.publish("1").await;
    until(async || world.store.guard.refused.load(Ordering::SeqCst) > 0).await;
    until(async || !world.ready()).await;
    tokio::select! {
        () = world.cx.health.ready() => panic!("ready while a batch is not stored"),
        () = until(async || world.store.guard.refused.load(Ordering::SeqCst) >= 3) => {}
    }
    // Somebody else holds what failed: fetching nothing, or other messages, does not make it well.
    let context = jetstream::new(world.cx.client.clone());
    let consumer: PullConsumer = context
        .get_consumer_from_stream(CONSUMER, "T")
        .await
        .unwrap();
    let mut held = Vec::new();
    until(async || {
        held.extend(fetch(&consumer).await.unwrap().messages);
        !held.is_empty()
    })
    .await;
    world.store.guard.refuses.store(false, Ordering::SeqCst);
    world.publish("2").await;
    world.stored(1).await;
    world.publish("3").await;
    world.stored(2).await;
    assert!(!world.ready());
    for message in held {
        message.ack_with(AckKind::Nak(None)).await.unwrap();
    }
    world.stored(3).await;
    timeout(PATIENCE, world.cx.health.ready()).await.unwrap();
}

#[tokio::test]
async fn a_stream_is_recorded_to_its_end_whatever_nobody_records_of_it() {
    let world = World::start().await;
    world.publish("1").await;
    let context = jetstream::new(world.cx.client.clone());
    let others = [
        "tick.form.x.A.1m",
        "tick.book.x.A",
        "tick.fence.T",
        "tick.unheard.x.A",
        "tick.trade",
    ];
    for subject in others {
        let sent = context.publish(subject, vec![0xc1].into()).await;
        sent.unwrap().await.unwrap();
    }
    let floor = async || world.page().await.progress.map(|progress| progress.floor);
    until(async || floor().await.is_some_and(|floor| floor.seq().get() == 6)).await;
    assert_eq!(world.seqs().await, [1]);
    assert_eq!(world.store.dead_letters().await.unwrap(), 0);
    assert!((world.metric("rows_total") - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_rewound_stream_is_recorded_under_its_new_epoch() {
    let world = World::start().await;
    world.publish("1").await;
    let floor = async || world.page().await.progress;
    until(async || floor().await.is_some()).await;
    let next = epoch::advance(&world.cx.client, "T", world.epoch)
        .await
        .unwrap();
    assert!(next > world.epoch);
    until(async || floor().await.is_some_and(|progress| progress.epoch == next)).await;
    world.publish("2").await;
    world.stored(2).await;
    let epochs: Vec<Epoch> = world
        .page()
        .await
        .rows
        .iter()
        .map(|row| row.epoch)
        .collect();
    assert_eq!(epochs, [world.epoch, next]);
}

#[tokio::test]
async fn what_retention_took_before_it_was_recorded_is_in_the_ledger_once() {
    let world = World::start().await;
    world.publish("1").await;
    until(async || world.page().await.progress.is_some()).await;
    world.store.guard.away.store(true, Ordering::SeqCst);
    for id in 2..=10 {
        world.publish(&id.to_string()).await;
    }
    until(async || !world.ready()).await;
    until(async || world.metric("pending") >= 9.0).await;
    assert!(
        world.metric("lag_seconds") > 0.0,
        "it is told while nothing is stored"
    );
    let context = jetstream::new(world.cx.client.clone());
    let mut config = context
        .get_stream("T")
        .await
        .unwrap()
        .cached_info()
        .config
        .clone();
    config.max_messages = 3;
    context.update_stream(&config).await.unwrap();
    world.store.guard.away.store(false, Ordering::SeqCst);
    until(async || world.seqs().await == [1, 8, 9, 10]).await;
    timeout(PATIENCE, world.cx.health.ready()).await.unwrap();
    let floor = async || {
        world
            .page()
            .await
            .progress
            .map(|progress| progress.floor.seq().get())
    };
    until(async || floor().await == Some(10)).await;
    let all = (UnixNanos::EPOCH, UnixNanos::new(i64::MAX));
    let losses = world.store.losses_page("T", all, None, 10).await.unwrap();
    let told: Vec<_> = losses
        .iter()
        .map(|loss| (loss.epoch, loss.from.get(), loss.to.get()))
        .collect();
    assert_eq!(told, [(world.epoch, 2, 7)]);
    assert!(losses[0].began > UnixNanos::EPOCH);
    assert_eq!(
        (world.metric("losses_total"), world.metric("lost_total")),
        (1.0, 6.0)
    );
    until(async || world.metric("pending") == 0.0).await;
    assert!(world.metric("lag_seconds").abs() < f64::EPSILON);
}

#[tokio::test]
async fn messages_that_are_large_come_in_smaller_batches() {
    const COUNT: u64 = 100;
    let world = World::start().await;
    let context = jetstream::new(world.cx.client.clone());
    for _ in 0..COUNT {
        let nonsense = vec![0xc1; 250_000];
        let sent = context.publish("tick.trade.x.A", nonsense.into()).await;
        sent.unwrap().await.unwrap();
    }
    let stream = context.get_stream("T").await.unwrap();
    let consumer = stream.create_consumer(pull::Config::default()).await;
    let consumer = consumer.unwrap();
    let first = fetch(&consumer).await.unwrap().messages.len();
    assert!((1..100).contains(&first), "{first} at once");
    let mut count = first;
    until(async || {
        count += fetch(&consumer).await.unwrap().messages.len();
        count >= 100
    })
    .await;
    let dead = async || world.store.dead_letters().await.unwrap();
    until(async || dead().await == COUNT).await;
    let told = || {
        (
            world.metric("dead_letters_total"),
            world.metric("failures_total"),
        )
    };
    until(async || told().0 >= 100.0).await;
    assert_eq!(told(), (100.0, 0.0), "each is told of once");
}

#[tokio::test]
async fn a_message_that_the_database_refuses_for_ever_holds_up_nothing() {
    let world = World::start().await;
    timeout(PATIENCE, world.cx.health.ready()).await.unwrap();
    let url = format!("sqlite://{}", world.dir.path().join("history.db").display());
    let mut outside = sqlx::SqliteConnection::connect(&url).await.unwrap();
    let poison = "CREATE TRIGGER poison BEFORE INSERT ON events WHEN new.s IN (3, 4)
                  BEGIN SELECT RAISE(ABORT, 'no such tick'); END";
    sqlx::raw_sql(poison).execute(&mut outside).await.unwrap();
    for id in 1..=9 {
        world.publish(&id.to_string()).await;
    }
    until(async || world.seqs().await == [1, 2, 5, 6, 7, 8, 9]).await;
    let dead = world.store.dead_letters_page(None, 10).await.unwrap();
    let seqs: Vec<u64> = dead.iter().map(|dead| dead.seq.get()).collect();
    assert_eq!(seqs, [3, 4]);
    assert_eq!(dead[0].subject, "tick.trade.x.A");
    assert!(
        dead[0].problem.contains("no such tick"),
        "{}",
        dead[0].problem
    );
    assert!(!dead[0].payload.is_empty());
}

#[tokio::test]
async fn a_consumer_that_is_deleted_is_missed_and_a_new_one_repeats_nothing_in_history() {
    let world = World::start().await;
    world.publish("1").await;
    world.stored(1).await;
    let context = jetstream::new(world.cx.client.clone());
    context
        .delete_consumer_from_stream(CONSUMER, "T")
        .await
        .unwrap();
    until(async || !world.ready()).await;
    world.publish("2").await;
    let reason = async || {
        let report = serde_json::to_value(world.cx.health.report()).unwrap();
        report["checks"]["recorder"]["reason"].to_string()
    };
    until(async || reason().await.contains("tickwire provision")).await;
    provision(&world.cx.client, &world.spec).await.unwrap();
    world.stored(2).await;
    timeout(PATIENCE, world.cx.health.ready()).await.unwrap();
    assert_eq!(world.seqs().await, [1, 2]);
}

#[tokio::test]
async fn whoever_leaves_notes_how_far_it_came() {
    let mut world = World::start().await;
    timeout(PATIENCE, world.cx.health.ready()).await.unwrap();
    for id in 1..=5 {
        world.publish(&id.to_string()).await;
    }
    world.stored(5).await;
    world.stop.cancel();
    world.tasks.join_next().await.unwrap().unwrap().unwrap();
    let progress = world.page().await.progress.unwrap();
    assert_eq!(progress.floor.seq().get(), 5);
    let context = jetstream::new(world.cx.client.clone());
    let consumer: PullConsumer = context
        .get_consumer_from_stream(CONSUMER, "T")
        .await
        .unwrap();
    let left = consumer.cached_info();
    assert_eq!((left.num_pending, left.num_ack_pending), (0, 0));
}
