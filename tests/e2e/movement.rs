//! Continuity under movement: clients wander between replicas while replicas and the broker are
//! killed, and the full record of each is compared with the stream.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::Client;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::checker::{Findings, History, judge};
use crate::fleet::{Fleet, Plan, STREAM, Stream};
use crate::nomad::{Nomad, Road};
use crate::record::{Record, Wish};
use crate::world::{PATIENCE, eventually, say};

/// Arguments of replicas that close nobody as slow and replay everything: machines are busy.
pub(crate) const PATIENT: [&str; 8] = [
    "--max-unsent-bytes",
    "67108864",
    "--max-unsent-secs",
    "60",
    "--resume-messages",
    "100000000",
    "--ops-per-sec",
    "0",
];

/// How much is done: little for every change, all of it with `make soak`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub(crate) clients: usize,
    pub(crate) instruments: usize,
    /// Ticks per second.
    pub(crate) rate: u32,
    pub(crate) length: Duration,
}

impl Scale {
    fn here() -> Self {
        if is_soak() {
            return Self {
                clients: 200,
                instruments: 500,
                rate: 2_000,
                length: Duration::from_mins(1),
            };
        }
        Self {
            clients: 60,
            instruments: 100,
            rate: 600,
            length: Duration::from_secs(15),
        }
    }

    fn feeds(self, seed: u64) -> String {
        let (instruments, rate) = (self.instruments, self.rate);
        format!(
            "[[feed]]\nname = \"sim\"\nsource = \"sim\"\ninstruments = {instruments}\n\
             rate = {rate}\nseed = {seed}\nbars = [\"1s\", \"1m\"]\n"
        )
    }
}

/// Whether everything is to be done at full length.
pub(crate) fn is_soak() -> bool {
    setting("TICKWIRE_SOAK").is_some_and(|text| text != "0")
}

/// The seed of this run: of its own, or the one to be run again.
pub(crate) fn seed(test: &str) -> Result<u64> {
    let seed = match setting("TICKWIRE_SEED") {
        Some(text) => text.parse().context("TICKWIRE_SEED is a number")?,
        None => rand::rng().random::<u32>().into(),
    };
    say(&format!("{test}: TICKWIRE_SEED={seed}"));
    Ok(seed)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test has no command line of its own"
)]
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The simulator's symbols, once all of them are listed.
pub(crate) async fn symbols(client: &Client, count: usize) -> Result<Vec<String>> {
    listed(client, (STREAM, "sim"), count).await
}

/// The symbols of a simulated venue that a stream has, once all of them are listed.
pub(crate) async fn listed(
    client: &Client,
    (stream, venue): (&str, &str),
    count: usize,
) -> Result<Vec<String>> {
    let listed = [format!("tick.inst.{venue}.*")];
    let found = eventually("not every instrument is listed", async || {
        let found = bus::get::multi_last(client, stream, &listed).await;
        Ok(found.ok().filter(|found| found.len() >= count))
    });
    let name = |subject: &str| subject.rsplit('.').next().map(str::to_owned);
    Ok(found
        .await?
        .iter()
        .filter_map(|inst| name(&inst.subject))
        .collect())
}

/// What a client wants: some want everything, most want a few instruments, in several ways.
fn wishes(number: usize, symbols: &[String], rng: &mut StdRng) -> Vec<Wish> {
    let wish = |topics: Vec<String>, conflate, begin| Wish {
        topics,
        conflate,
        begin,
    };
    let patterns = |kinds: &[&str]| {
        let all = kinds.iter().map(|kind| format!("{kind}.sim.>"));
        all.collect::<Vec<String>>()
    };
    match number {
        0 => return vec![wish(vec!["*.sim.>".to_owned()], "none", true)],
        1 => {
            return vec![
                wish(patterns(&["trade", "bar", "inst", "feed"]), "none", true),
                wish(patterns(&["quote", "stat", "form"]), "auto", false),
            ];
        }
        _ => {}
    }
    let count = rng.random_range(3..9);
    let chosen: Vec<&String> = symbols.sample(rng, count).collect();
    let topics = |kinds: &[&str]| {
        let all = chosen
            .iter()
            .flat_map(|symbol| kinds.iter().map(move |kind| topic(kind, symbol)));
        all.collect::<Vec<String>>()
    };
    let begin = rng.random();
    match number % 4 {
        // Everything, one by one.
        0 => vec![wish(
            topics(&["trade", "quote", "bar", "stat"]),
            "none",
            begin,
        )],
        // Prices as they are when there is time, trades all of them.
        1 => vec![
            wish(topics(&["quote", "stat"]), "auto", false),
            wish(topics(&["trade"]), "none", begin),
        ],
        // Whatever there is of an instrument, also what is born later.
        2 => {
            let all = chosen.iter().map(|symbol| format!("*.sim.{symbol}.>"));
            let all = all.chain(chosen.iter().map(|symbol| format!("*.sim.{symbol}")));
            vec![wish(all.take(16).collect(), "none", begin)]
        }
        _ => vec![wish(topics(&["quote", "stat", "trade"]), "auto", false)],
    }
}

fn topic(kind: &str, symbol: &str) -> String {
    match kind {
        "bar" => format!("bar.sim.{symbol}.1s"),
        kind => format!("{kind}.sim.{symbol}"),
    }
}

/// Lets clients wander for as long as `chaos` lasts, and judges what they were told.
pub(crate) async fn journey(
    brokers: usize,
    seed: u64,
    fanout: &[&'static str],
    chaos: impl AsyncFnOnce(&mut Fleet, &mut StdRng, Instant) -> Result<String>,
) -> Result<Findings> {
    let scale = Scale::here();
    let mut fleet = Fleet::start(&Plan {
        brokers,
        fanouts: 3,
        streams: vec![Stream::only(scale.feeds(seed))],
        provision: Vec::new(),
        fanout: PATIENT.iter().chain(fanout).copied().collect(),
    })
    .await?;
    let outcome = travel(&mut fleet, (scale, seed), chaos).await;
    outcome.with_context(|| format!("seed {seed}, {}", fleet.last_words()))
}

async fn travel(
    fleet: &mut Fleet,
    (scale, seed): (Scale, u64),
    chaos: impl AsyncFnOnce(&mut Fleet, &mut StdRng, Instant) -> Result<String>,
) -> Result<Findings> {
    fleet.ingests[0].start()?;
    let client = fleet.client().await?;
    let symbols = symbols(&client, scale.instruments).await?;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut clients = Vec::new();
    for number in 0..scale.clients {
        clients.push(Nomad::new(number, seed, wishes(number, &symbols, &mut rng)));
    }
    let until = Instant::now() + scale.length;
    let chaos = async |fleet: &mut Fleet| chaos(fleet, &mut rng, until).await;
    wander(fleet, (&client, &[STREAM]), clients, chaos).await
}

/// Lets these clients wander between all replicas until `chaos` is over, ends ingest, and judges what
/// they were told.
pub(crate) async fn wander(
    fleet: &mut Fleet,
    (client, streams): (&Client, &[&str]),
    clients: Vec<Nomad>,
    chaos: impl AsyncFnOnce(&mut Fleet) -> Result<String>,
) -> Result<Findings> {
    let count = clients.len();
    let all: Arc<[String]> = fleet
        .fanouts
        .iter()
        .map(|fanout| fanout.ws.clone())
        .collect();
    let (_replicas, replicas) = watch::channel(all);
    let (goal, goals) = watch::channel(None);
    let road = Road {
        replicas,
        goal: goals,
        stay: 200..5_000,
        away: 1..2_000,
    };
    let mut travellers: JoinSet<Result<Record>> = JoinSet::new();
    for client in clients {
        travellers.spawn(client.wander(road.clone()));
    }
    let told = tokio::select! {
        told = chaos(fleet) => told?,
        ended = travellers.join_next() => {
            ended.context("there are clients")???;
            anyhow::bail!("a client ended by itself");
        }
    };
    for ingest in &mut fleet.ingests {
        ingest.leave().await?;
    }
    let (mut histories, mut sizes) = (Vec::new(), Vec::new());
    for stream in streams {
        let history = History::read(client, stream).await?;
        let acked = std::fs::read_to_string(fleet.ack_log(stream))?;
        let acked = history.check_acknowledged(&acked)?;
        let (ticks, topics) = history.size();
        sizes.push(format!(
            "{stream} holds {ticks} ticks of {topics} topics, {acked} of them acknowledged"
        ));
        histories.push(history);
    }
    goal.send_replace(Some(histories.iter().map(History::last).collect()));
    let mut findings = Findings::default();
    let arrived = timeout(PATIENCE * 2, async {
        while let Some(record) = travellers.join_next().await {
            judge(&histories, &record??, &mut findings)?;
        }
        anyhow::Ok(())
    });
    arrived.await.context("clients do not catch up")??;
    say(&format!(
        "{count} clients, {told}; {}; found {findings}",
        sizes.join("; ")
    ));
    Ok(findings)
}

/// Kills replicas and the broker in turn, at random times.
pub(crate) async fn kill_all(
    fleet: &mut Fleet,
    rng: &mut StdRng,
    until: Instant,
) -> Result<String> {
    let (mut fanouts, mut brokers) = (0, 0);
    while Instant::now() < until {
        sleep(Duration::from_millis(rng.random_range(1_000..4_000))).await;
        if rng.random_ratio(1, 3) {
            fleet.brokers[0].process.kill().await?;
            sleep(Duration::from_millis(rng.random_range(0..9_000))).await;
            fleet.brokers[0].process.start()?;
            brokers += 1;
        } else {
            let number = rng.random_range(0..fleet.fanouts.len());
            fleet.fanouts[number].process.kill().await?;
            sleep(Duration::from_millis(rng.random_range(0..2_000))).await;
            fleet.fanouts[number].process.start()?;
            fanouts += 1;
        }
    }
    for fanout in &mut fleet.fanouts {
        fanout.ready().await?;
    }
    Ok(format!(
        "{fanouts} replicas killed, {brokers} times the broker"
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wandering_clients_miss_nothing_while_replicas_and_the_broker_are_killed() -> Result<()> {
    let seed = seed("movement")?;
    let findings = journey(1, seed, &[], kill_all).await?;
    assert!(findings.is_clean(), "seed {seed}: {findings}");
    Ok(())
}
