//! The whole role against a real broker: the lease is kept from the start, the last word is true.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and finds its broker as the binary does"
)]

use std::net::TcpListener;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bus::provision::{StreamSpec, provision};
use bus::stream::{self, Stored};
use ingest::config::parse;
use ingest::{Args, Config};
use schemas::codec;
use schemas::tick::{FeedState, Tick};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_mins(1);
const STREAM: &str = "TICKS";

/// A broker, and ingest with a simulator on it.
struct Bench {
    _dir: TempDir,
    _broker: Child,
    client: async_nats::Client,
    cx: daemon::Context,
    stop: CancellationToken,
    role: JoinSet<anyhow::Result<()>>,
}

fn binary() -> PathBuf {
    if let Ok(path) = std::env::var("TICKWIRE_NATS_SERVER_BIN") {
        return path.into();
    }
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/nats-server");
    assert!(
        installed.exists(),
        "there is no nats-server: run `make setup`, or set TICKWIRE_NATS_SERVER_BIN"
    );
    installed
}

impl Bench {
    /// Starts both. The publisher's connections come up once `gate` is open.
    async fn start(gate: CancellationToken) -> Self {
        let dir = TempDir::new().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
        let port = port.unwrap().port().to_string();
        let broker = Command::new(binary())
            .args(["-a", "127.0.0.1", "-p", &port, "-js", "-sd"])
            .arg(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let url = format!("nats://127.0.0.1:{port}");
        let options = async_nats::ConnectOptions::new().retry_on_initial_connect();
        let client = options.connect(&url).await.unwrap();
        let spec = StreamSpec {
            venues: Vec::new(),
            name: STREAM.to_owned(),
            max_age_secs: 3_600,
            max_bytes: 1 << 28,
            replicas: 1,
        };
        timeout(PATIENCE, async {
            while provision(&client, &spec).await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        let connector: daemon::nats::Connector = Arc::new(move || {
            let (gate, url) = (gate.clone(), url.clone());
            Box::pin(async move {
                gate.cancelled().await;
                async_nats::connect(url).await
            })
        });
        let cx = daemon::Context::new(client.clone(), connector);
        let feeds = "[[feed]]\nname = \"f\"\nsource = \"sim\"\n";
        let config = Config {
            feeds: parse(feeds, Path::new("")).unwrap(),
            stream: STREAM.to_owned(),
            retention: Duration::from_hours(1),
            node: "n".to_owned(),
            args: Args {
                buffer_bytes: NonZeroU64::new(1 << 24).unwrap(),
                ack_log: None,
            },
        };
        let stop = CancellationToken::new();
        let role = JoinSet::from_iter([ingest::run(config, cx.clone(), stop.clone())]);
        Self {
            _dir: dir,
            _broker: broker,
            client,
            cx,
            stop,
            role,
        }
    }

    async fn last(&self, bucket: &str, subject: &str) -> Option<Stored> {
        stream::last_of(&self.client, bucket, subject)
            .await
            .unwrap()
    }

    /// Waits until the lease is renewed after revision `after`; the new revision.
    async fn leased(&self, after: u64) -> u64 {
        let renewed = async {
            loop {
                let stored = self.last("KV_leases", "$KV.leases.TICKS").await;
                if let Some(seq) = stored.map(|stored| stored.seq.get())
                    && seq > after
                {
                    return seq;
                }
            }
        };
        timeout(PATIENCE, renewed).await.unwrap()
    }

    async fn end(&mut self) {
        self.stop.cancel();
        let ended = timeout(PATIENCE, self.role.join_next()).await.unwrap();
        ended.unwrap().unwrap().unwrap();
        let lease = self.last("KV_leases", "$KV.leases.TICKS").await.unwrap();
        let lease: serde_json::Value = serde_json::from_slice(&lease.payload).unwrap();
        assert_eq!(lease.get("released"), Some(&true.into()));
    }
}

#[tokio::test]
async fn the_lease_is_kept_while_the_stream_is_still_read() {
    let mut bench = Bench::start(CancellationToken::new()).await;
    let acquired = bench.leased(0).await;
    let renewed = bench.leased(acquired).await;
    assert!(renewed > acquired);
    assert!(!bench.cx.health.report().checks["ingest.publisher"].ok);
    bench.end().await;
}

#[tokio::test]
async fn a_feed_that_is_stopped_is_closed_on_the_stream() {
    let gate = CancellationToken::new();
    gate.cancel();
    let mut bench = Bench::start(gate).await;
    bench.leased(0).await;
    let subject = "tick.feed.sim.f";
    let live = async { while bench.last(STREAM, subject).await.is_none() {} };
    timeout(PATIENCE, live).await.unwrap();
    assert!(bench.cx.health.report().ready);
    bench.end().await;
    let last = bench.last(STREAM, subject).await.unwrap();
    let Ok(Tick::Feed(last)) = codec::from_msgpack(&last.payload) else {
        panic!("not of a feed");
    };
    assert_eq!(last.state, FeedState::Closed);
}
