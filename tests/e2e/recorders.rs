//! Recorder replicas on one Postgres: each killed again and again, and the database stopped in
//! between. Afterwards history is the stream, message by message.

mod ledger;

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postgres_server::{Server, connect};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng};
use schemas::position::StreamSeq;
use schemas::ws::Encoding;
use sqlx::{Connection as _, PgConnection};
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::fleet::{Fleet, Plan, Replica, STREAM, Stream};
use crate::movement::{is_soak, seed};
use crate::world::{PATIENCE, say, until};
use ledger::Ledger;

/// What is done: little for every change, all of it with `make soak`.
#[derive(Clone, Debug)]
struct Scale {
    /// The stream gets so many messages at least.
    ticks: u64,
    /// Per second.
    rate: u32,
    /// How often each replica is killed.
    kills: u32,
    /// Milliseconds between two of them.
    pause: Range<u64>,
    /// How long the database is away.
    away: Duration,
}

impl Scale {
    fn here() -> Self {
        if is_soak() {
            return Self {
                ticks: 200_000,
                rate: 2_500,
                kills: 5,
                pause: 1_000..8_000,
                away: Duration::from_secs(30),
            };
        }
        Self {
            ticks: 30_000,
            rate: 1_500,
            kills: 2,
            pause: 500..3_000,
            away: Duration::from_secs(5),
        }
    }

    fn plan(&self, seed: u64) -> Plan {
        let rate = self.rate;
        let feeds = format!(
            "[[feed]]\nname = \"sim\"\nsource = \"sim\"\ninstruments = 100\nrate = {rate}\n\
             seed = {seed}\nbars = [\"1s\", \"1m\"]\n"
        );
        Plan {
            brokers: 1,
            fanouts: 1,
            streams: vec![Stream::only(feeds)],
            provision: Vec::new(),
            fanout: Vec::new(),
        }
    }
}

/// Kills a replica at random moments, each time to start it again a little later.
async fn kill(replica: &mut Replica, scale: &Scale, mut rng: StdRng) -> Result<()> {
    for _ in 0..scale.kills {
        sleep(Duration::from_millis(rng.random_range(scale.pause.clone()))).await;
        replica.process.kill().await?;
        sleep(Duration::from_millis(rng.random_range(0..2_000))).await;
        replica.process.start()?;
    }
    Ok(())
}

/// Stops the database for a while: live data does not notice, and recorders say that they wait.
async fn stop(server: &mut Server, fleet: &Fleet, scale: &Scale, begin: Duration) -> Result<()> {
    sleep(begin).await;
    server.stop().await?;
    let back = Instant::now() + scale.away;
    let nats = fleet.client().await?;
    let mut client = Client::connect(&fleet.fanouts[0].ws, Encoding::MessagePack).await?;
    client.subscribe(&["*.sim.>"], "auto", [].into()).await?;
    while Instant::now() < back {
        let last = bus::stream::state(&nats, STREAM).await?.last_seq;
        client.read_to(StreamSeq::new(last.get() + 10)).await?;
    }
    server.resume().await
}

/// Waits until as many messages are in the stream.
async fn filled(fleet: &Fleet, ticks: u64) -> Result<()> {
    let nats = fleet.client().await?;
    // At its rate the feed may take longer than anything else may.
    let until = Instant::now() + PATIENCE * 5;
    while bus::stream::state(&nats, STREAM).await?.last_seq.get() < ticks {
        ensure!(Instant::now() < until, "the stream does not fill up");
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

async fn chaos(
    fleet: &mut Fleet,
    server: &mut Server,
    recorders: &mut [Replica; 2],
    scale: &Scale,
    rng: &mut StdRng,
) -> Result<()> {
    let begin = Duration::from_millis(rng.random_range(scale.pause.clone()));
    let [one, other] = recorders;
    let (first, second) = (StdRng::from_rng(rng), StdRng::from_rng(rng));
    let (one, other, stopped, full) = tokio::join!(
        kill(one, scale, first),
        kill(other, scale, second),
        stop(server, fleet, scale, begin),
        filled(fleet, scale.ticks),
    );
    one.and(other).and(stopped).and(full)?;
    for ingest in &mut fleet.ingests {
        ingest.leave().await?;
    }
    Ok(())
}

/// Waits until history says that it has reached the end of the stream.
async fn reached(database: &mut PgConnection, end: StreamSeq) -> Result<()> {
    until("recording does not reach the end", async || {
        let floor: Option<i64> = sqlx::query_scalar("SELECT floor FROM progress WHERE stream = $1")
            .bind(STREAM)
            .fetch_optional(&mut *database)
            .await?;
        Ok(floor.is_some_and(|floor| u64::try_from(floor) == Ok(end.get())))
    })
    .await
}

/// What everybody has said, of each the last lines.
fn last_words(seed: u64, recorders: &[Replica; 2], fleet: &Fleet) -> String {
    let said = recorders.each_ref().map(|recorder| {
        let said = recorder.process.said().unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    });
    let (said, others) = (said.join("\n---\n"), fleet.last_words());
    format!("seed {seed}: {said}\n{others}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_and_a_database_that_die_record_everything_once() -> Result<()> {
    let (seed, scale) = (seed("recorders")?, Scale::here());
    let mut rng = StdRng::seed_from_u64(seed);
    // It says which kind of server it is.
    let mut server = Server::start().await?;
    let url = server.database().await?;
    let mut fleet = Fleet::start(&scale.plan(seed)).await?;
    let mut recorders = [
        fleet.recorder("recorder-0", &url)?,
        fleet.recorder("recorder-1", &url)?,
    ];
    for recorder in &mut recorders {
        recorder.process.start()?;
    }
    for recorder in &mut recorders {
        recorder.ready().await?;
    }
    for ingest in &mut fleet.ingests {
        ingest.start()?;
    }
    let chaos = chaos(&mut fleet, &mut server, &mut recorders, &scale, &mut rng);
    let done = Box::pin(chaos).await;
    done.with_context(|| last_words(seed, &recorders, &fleet))?;
    let nats = fleet.client().await?;
    let ledger = Ledger::read(&nats, STREAM).await?;
    let mut database = connect(&url).await?;
    let there = reached(&mut database, ledger.end()).await;
    there.with_context(|| last_words(seed, &recorders, &fleet))?;
    for recorder in &mut recorders {
        recorder.ready().await?;
        // It asks every few seconds only.
        until("messages are said to wait", async || {
            let pending = recorder.metric("tickwire_recorder_pending", "").await?;
            Ok(pending.abs() < f64::EPSILON)
        })
        .await?;
    }
    let told = ledger.compare(&mut database).await;
    let told = told.with_context(|| last_words(seed, &recorders, &fleet))?;
    database.close().await?;
    for recorder in &mut recorders {
        recorder.process.leave().await?;
    }
    let (kills, away) = (scale.kills * 2, scale.away.as_secs());
    say(&format!(
        "recorders: {kills} kills, Postgres away for {away} s; {told}"
    ));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_that_start_together_on_a_new_file_make_its_tables_once() -> Result<()> {
    let scale = Scale::here();
    let mut plan = scale.plan(1);
    plan.fanouts = 0;
    let fleet = Fleet::start(&plan).await?;
    for round in 0..3 {
        let file = fleet.dir().join(format!("{round}.sqlite"));
        let file = file.to_string_lossy();
        let mut roles = [
            fleet.recorder(&format!("recorder-{round}"), &file)?,
            fleet.api(&format!("api-{round}-0"), &file)?,
            fleet.api(&format!("api-{round}-1"), &file)?,
        ];
        for role in &mut roles {
            role.process.start()?;
        }
        for role in &mut roles {
            role.ready().await?;
        }
        for role in &mut roles {
            role.process.leave().await?;
        }
    }
    Ok(())
}
