//! The recorder between a real broker and a real database that can be made to refuse.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bus::provision::{StreamSpec, provision};
use daemon::nats::{Login, Settings};
use daemon::ops::Surface;
use schemas::id::{Kind, Symbol, Venue};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use super::*;
use crate::store::sqlite::Sqlite;
use crate::store::{
    DeadLetter, Found, Listed, Loss, Page, Place, Range, Recorded, Series, StoreError, Swept,
    recorded_subjects,
};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A database that refuses on demand.
#[derive(Clone)]
struct Moody {
    inner: Sqlite,
    refuses: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
}

impl TickStore for Moody {
    async fn record(&self, epoch: Epoch, rows: &[Row]) -> Result<(), StoreError> {
        if self.refuses.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            let (field, value) = ("mood", "bad".to_owned());
            return Err(StoreError::Damaged { field, value });
        }
        self.inner.record(epoch, rows).await
    }

    async fn advance(
        &self,
        stream: &str,
        epoch: Epoch,
        floor: StreamSeq,
        at: UnixNanos,
    ) -> Result<(), StoreError> {
        self.inner.advance(stream, epoch, floor, at).await
    }

    async fn page(&self, stream: &str, range: &Range) -> Result<Page, StoreError> {
        self.inner.page(stream, range).await
    }

    async fn by_position(
        &self,
        series: &Series,
        epoch: Epoch,
        span: (StreamSeq, StreamSeq),
        limit: u32,
    ) -> Result<Vec<Found>, StoreError> {
        self.inner.by_position(series, epoch, span, limit).await
    }

    async fn instruments(
        &self,
        venue: Option<&Venue>,
        search: &str,
        after: Option<(&str, &str)>,
        limit: u32,
    ) -> Result<Vec<Found>, StoreError> {
        self.inner.instruments(venue, search, after, limit).await
    }

    async fn stood(
        &self,
        stream: &str,
        now: UnixNanos,
        before: UnixNanos,
    ) -> Result<Vec<(Epoch, StreamSeq)>, StoreError> {
        self.inner.stood(stream, now, before).await
    }

    async fn sweep(
        &self,
        until: &[(Epoch, StreamSeq)],
        behind: Option<Series>,
        limit: u64,
    ) -> Result<Swept, StoreError> {
        self.inner.sweep(until, behind, limit).await
    }

    async fn dead_letters(&self) -> Result<u64, StoreError> {
        self.inner.dead_letters().await
    }

    async fn dead_letters_page(
        &self,
        after: Option<(Epoch, StreamSeq)>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        self.inner.dead_letters_page(after, limit).await
    }

    async fn venues(&self) -> Result<Vec<Listed>, StoreError> {
        self.inner.venues().await
    }

    async fn state(
        &self,
        kind: Kind,
        venue: &Venue,
        symbol: &Symbol,
    ) -> Result<Option<Found>, StoreError> {
        self.inner.state(kind, venue, symbol).await
    }

    async fn feed_gaps(
        &self,
        span: (UnixNanos, UnixNanos),
        after: Option<Place>,
        limit: u32,
    ) -> Result<Vec<Found>, StoreError> {
        self.inner.feed_gaps(span, after, limit).await
    }

    async fn losses_page(
        &self,
        stream: &str,
        span: (UnixNanos, UnixNanos),
        after: Option<Place>,
        limit: u32,
    ) -> Result<Vec<Loss>, StoreError> {
        self.inner.losses_page(stream, span, after, limit).await
    }

    async fn recorded(&self, stream: &str) -> Result<Option<Recorded>, StoreError> {
        self.inner.recorded(stream).await
    }

    async fn trimmed(
        &self,
        stream: &str,
        epoch: Epoch,
        first: StreamSeq,
        now: UnixNanos,
    ) -> Result<Option<Loss>, StoreError> {
        self.inner.trimmed(stream, epoch, first, now).await
    }
}

struct World {
    cx: daemon::Context,
    store: Moody,
    epoch: Epoch,
    _tasks: JoinSet<Result<()>>,
    _server: Child,
    _dir: TempDir,
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
            max_bytes: 1 << 24,
            replicas: 1,
            recorded: recorded_subjects(),
        };
        let epoch = provision(&cx.client, &spec).await.unwrap();
        let inner = Sqlite::open(&dir.path().join("history.db"), None).await;
        let store = Moody {
            inner: inner.unwrap(),
            refuses: Arc::default(),
            refused: Arc::default(),
        };
        let config = Config {
            stream: "T".to_owned(),
            store: store.clone(),
            args: Args { history_days: 30 },
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(run(config, cx.clone(), CancellationToken::new()));
        Self {
            cx,
            store,
            epoch,
            _tasks: tasks,
            _server: server,
            _dir: dir,
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
    world.store.refuses.store(true, Ordering::SeqCst);
    world.publish("1").await;
    until(async || world.store.refused.load(Ordering::SeqCst) > 0).await;
    until(async || !world.ready()).await;
    tokio::select! {
        () = world.cx.health.ready() => panic!("ready while a batch is not stored"),
        () = until(async || world.store.refused.load(Ordering::SeqCst) >= 3) => {}
    }
    // Somebody else holds what failed: fetching nothing, or other messages, does not make it well.
    let context = jetstream::new(world.cx.client.clone());
    let consumer: PullConsumer = context
        .get_consumer_from_stream(CONSUMER, "T")
        .await
        .unwrap();
    let mut held = Vec::new();
    until(async || {
        held.extend(fetch(&consumer).await.unwrap());
        !held.is_empty()
    })
    .await;
    world.store.refuses.store(false, Ordering::SeqCst);
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
