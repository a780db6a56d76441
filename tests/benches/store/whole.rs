//! A whole recorder: a broker that holds the messages, its durable consumer, and a database.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use api::recorder::{self, Args, Config};
use api::store::{Content, Row, Series, TickStore};
use async_nats::Client;
use async_nats::jetstream;
use bus::provision::{StreamSpec, provision};
use daemon::nats::{Login, Settings, connect};
use daemon::ops::Surface;
use futures_util::future::try_join_all;
use schemas::position::{Epoch, StreamSeq};
use schemas::subject;
use schemas::topic::Topic;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

const STREAM: &str = "TICKS";
/// How long the broker may take to start.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long recording may take.
const LONGEST: Duration = Duration::from_mins(10);
/// How often something that is awaited is asked for.
const ASK: Duration = Duration::from_millis(10);
/// Messages that are published before their acknowledgements are awaited.
const WINDOW: usize = 1_000;

/// A broker whose stream holds messages that nobody has recorded.
pub(crate) struct Broker {
    _process: Child,
    _dir: TempDir,
    settings: Settings,
    client: Client,
    spec: StreamSpec,
    epoch: Epoch,
}

impl Broker {
    /// Starts one and publishes the rows, the first as the stream's first message.
    pub(crate) async fn filled(binary: Option<&Path>, rows: &[Row]) -> Result<Self> {
        let dir = TempDir::new()?;
        let (process, url) = start(binary, dir.path()).await?;
        let settings = Settings {
            url,
            login: Login::Anonymous,
            role: "bench",
        };
        let cx = timeout(PATIENCE, connect(&settings, &Surface::new())).await;
        let client = cx.context("the broker does not answer")??.client;
        let spec = StreamSpec {
            name: STREAM.to_owned(),
            venues: Vec::new(),
            max_age_secs: 86_400,
            max_bytes: 1 << 34,
            replicas: 1,
        };
        let ready = async {
            while jetstream::new(client.clone())
                .query_account()
                .await
                .is_err()
            {
                sleep(ASK).await;
            }
        };
        let ready = timeout(PATIENCE, ready).await;
        ready.context("the broker's JetStream does not answer")?;
        let epoch = provision(&client, &spec).await?;
        let context = jetstream::new(client.clone());
        for part in rows.chunks(WINDOW) {
            let mut sent = Vec::with_capacity(part.len());
            for row in part {
                let payload = row.payload.clone();
                sent.push(context.publish(subject(row)?, payload).await?.into_future());
            }
            let acknowledged = try_join_all(sent).await?;
            ensure!(
                acknowledged
                    .iter()
                    .map(|ack| ack.sequence)
                    .eq(part.iter().map(|row| row.seq.get())),
                "the stream has messages of others"
            );
        }
        Ok(Self {
            _process: process,
            _dir: dir,
            settings,
            client,
            spec,
            epoch,
        })
    }

    /// Runs a recorder that begins with the first message; how long it takes until all are stored and
    /// acknowledged.
    pub(crate) async fn record<S: TickStore + Clone>(
        &self,
        store: S,
        rows: &[Row],
    ) -> Result<Duration> {
        let context = jetstream::new(self.client.clone());
        context
            .delete_consumer_from_stream("recorder", STREAM)
            .await?;
        provision(&self.client, &self.spec).await?;
        let cx = connect(&self.settings, &Surface::new()).await?;
        let config = Config {
            stream: STREAM.to_owned(),
            store: store.clone(),
            args: Args { history_days: 0 },
        };
        let last = rows.last().context("there are no rows")?.seq;
        let stop = CancellationToken::new();
        let begun = Instant::now();
        let watched = async {
            let done = timeout(LONGEST, self.acknowledged()).await;
            let took = begun.elapsed();
            stop.cancel();
            done.context("recording takes too long")??;
            anyhow::Ok(took)
        };
        let (ended, took) = tokio::join!(recorder::run(config, cx, stop.clone()), watched);
        ended?;
        let took = took?;
        let noted = store.recorded(STREAM).await?;
        ensure!(
            noted.is_some_and(|noted| noted.floor == last),
            "it was noted otherwise: {noted:?}"
        );
        self.check(&store, rows).await?;
        Ok(took)
    }

    async fn acknowledged(&self) -> Result<()> {
        let stream = jetstream::new(self.client.clone())
            .get_stream(STREAM)
            .await?;
        loop {
            let info = stream.consumer_info("recorder").await?;
            if info.num_pending == 0 && info.num_ack_pending == 0 {
                return Ok(());
            }
            sleep(ASK).await;
        }
    }

    /// Fails unless everything of the first row's topic is stored.
    async fn check(&self, store: &impl TickStore, rows: &[Row]) -> Result<()> {
        let series = series(rows.first().context("there are no rows")?)?;
        let of_series = |row: &&Row| series_is(row, &series);
        let wanted: Vec<StreamSeq> = rows.iter().filter(of_series).map(|row| row.seq).collect();
        let span = (
            StreamSeq::ZERO,
            rows.last().context("there are no rows")?.seq,
        );
        let limit = u32::try_from(wanted.len())? + 1;
        let found = store.by_position(&series, self.epoch, span, limit).await?;
        let found: Vec<StreamSeq> = found.iter().map(|found| found.seq).collect();
        ensure!(found == wanted, "not everything is stored");
        Ok(())
    }
}

fn series_is(row: &Row, wanted: &Series) -> bool {
    series(row).is_ok_and(|series| series == *wanted)
}

fn series(row: &Row) -> Result<Series> {
    let Content::Event {
        kind,
        venue,
        symbol,
        ..
    } = &row.content
    else {
        anyhow::bail!("{:?} is no event", row.content);
    };
    Ok(Series::Events(*kind, venue.clone(), symbol.clone()))
}

fn subject(row: &Row) -> Result<String> {
    let Series::Events(kind, venue, symbol) = series(row)? else {
        anyhow::bail!("a bar is no event");
    };
    Ok(subject::stored(&Topic::new(kind, venue, symbol)))
}

/// Starts a broker on a port that it chooses; where it listens.
async fn start(binary: Option<&Path>, dir: &Path) -> Result<(Child, String)> {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/nats-server");
    let binary: PathBuf = binary.map_or(installed, Into::into);
    let mut process = Command::new(&binary)
        .args(["-a", "127.0.0.1", "-p", "-1", "--ports_file_dir"])
        .arg(dir)
        .args(["-js", "-sd"])
        .arg(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{} does not start: run `make setup`", binary.display()))?;
    let id = process.id().context("the broker ended")?;
    let file = dir.join(format!("nats-server_{id}.ports"));
    let told = timeout(PATIENCE, async {
        loop {
            if let Ok(text) = tokio::fs::read(&file).await
                && let Ok(ports) = serde_json::from_slice::<Value>(&text)
            {
                return Ok(ports);
            }
            if let Some(status) = process.try_wait()? {
                anyhow::bail!("the broker ended: {status}");
            }
            sleep(ASK).await;
        }
    });
    let ports = told.await.context("the broker does not say its port")??;
    let url = ports.pointer("/nats/0").and_then(Value::as_str);
    let url = url.context("the broker says no port")?.to_owned();
    Ok((process, url))
}
