//! Every replica leaves in its turn, full of clients: nobody misses anything, nobody is turned away,
//! and never do more come back in a second than was set.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use schemas::ws::CloseCode;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::checker::{Findings, History, judge};
use crate::client::Client;
use crate::fleet::{Fleet, Plan, Replica, STREAM, Stream};
use crate::movement::{PATIENT, is_soak, seed, symbols};
use crate::nomad::{Nomad, Road};
use crate::record::{Record, Wish};
use crate::world::{PATIENCE, say, until};
use schemas::ws::Encoding;

const INSTRUMENTS: usize = 100;
const FEEDS: &str = "[[feed]]\nname = \"sim\"\nsource = \"sim\"\ninstruments = 100\nrate = 500\n\
                     bars = [\"1s\"]\n";
/// How many clients connect at once at the beginning.
const CROWD: usize = 50;
/// How long the load balancer goes on sending clients to a replica that is leaving.
const UNAWARE: Duration = Duration::from_secs(1);
/// How often the rates are read while they are held against their limit.
const SAMPLE: Duration = Duration::from_millis(20);
/// Within this everybody must have been back.
const BACK: Duration = Duration::from_mins(1);
/// By how much the time between a close and the next connection may differ on a busy machine.
const JITTER: Duration = Duration::from_secs(1);

/// Clients, the most closed in a second, and that as an argument.
fn scale() -> (usize, u32, &'static str) {
    if is_soak() {
        (3_000, 200, "200")
    } else {
        (300, 50, "50")
    }
}

/// How a counter rises, seen from outside: asked when, heard when, how much.
#[derive(Default)]
struct Rise(Vec<(Instant, Instant, f64)>);

impl Rise {
    async fn look(&mut self, replicas: &[&Replica], metric: (&str, &str)) -> Result<()> {
        let asked = Instant::now();
        let mut sum = 0.0;
        for replica in replicas {
            sum += replica.metric(metric.0, metric.1).await?;
        }
        self.0.push((asked, Instant::now(), sum));
        Ok(())
    }

    /// The two looks between which more happened than a rate allows, if any are: how much, and how
    /// long that took at most.
    fn excess(&self, per_second: u32, jitter: Duration) -> Option<(f64, Duration)> {
        let all = self.0.iter().enumerate();
        let pairs = all.flat_map(|(at, first)| self.0[at..].iter().map(move |last| (first, last)));
        pairs
            .map(|(first, last)| (last.2 - first.2, last.1.duration_since(first.0)))
            .find(|(count, took)| {
                let seconds = (*took + jitter).as_secs_f64().ceil();
                *count > seconds * f64::from(per_second)
            })
    }

    fn total(&self) -> f64 {
        let count = |look: Option<&(Instant, Instant, f64)>| look.map_or(0.0, |look| look.2);
        count(self.0.last()) - count(self.0.first())
    }
}

async fn connected(fleet: &Fleet) -> Result<f64> {
    let mut sum = 0.0;
    for fanout in &fleet.fanouts {
        sum += fanout.metric("tickwire_fanout_connections ", "").await?;
    }
    Ok(sum)
}

async fn all_connected(fleet: &Fleet, count: usize) -> Result<()> {
    let count = f64::from(u32::try_from(count)?);
    let back = until("not all clients are back", async || {
        Ok(connected(fleet).await? >= count)
    });
    timeout(BACK, back)
        .await
        .context("not all clients are back")?
}

/// Restarts one replica as a rollout does; how many clients it closed.
async fn roll(
    fleet: &mut Fleet,
    number: usize,
    balancer: &watch::Sender<Arc<[String]>>,
    rate: u32,
) -> Result<f64> {
    let url = fleet.fanouts[number].ws.clone();
    fleet.fanouts[number].process.signal(Signal::TERM)?;
    let begun = Instant::now();
    until("a replica that leaves stays ready", async || {
        Ok(!fleet.fanouts[number].is_ready().await)
    })
    .await?;
    // Not ready, and yet nobody is turned away.
    let late = Client::connect(&url, Encoding::Json).await?;
    drop(late);
    sleep(UNAWARE.saturating_sub(begun.elapsed())).await;
    let others: Vec<&Replica> = fleet
        .fanouts
        .iter()
        .filter(|other| other.ws != url)
        .collect();
    balancer.send_replace(others.iter().map(|other| other.ws.clone()).collect());
    let closed = ("tickwire_fanout_closed_total", "\"1012\"");
    let (mut closes, mut returns) = (Rise::default(), Rise::default());
    // The operations server goes last: when it is gone, everybody is closed.
    while closes.look(&[&fleet.fanouts[number]], closed).await.is_ok() {
        let accepted = ("tickwire_fanout_accepted_total", "");
        returns.look(&others, accepted).await?;
        sleep(SAMPLE).await;
    }
    let excess = closes.excess(rate, Duration::ZERO);
    ensure!(excess.is_none(), "{excess:?} closed at a rate of {rate}");
    let excess = returns.excess(rate, JITTER);
    ensure!(excess.is_none(), "{excess:?} came back at a rate of {rate}");
    let gone = closes.total();
    let replica = &mut fleet.fanouts[number];
    let code = replica.process.ended().await?;
    ensure!(
        code == Some(0),
        "a drain ends with {code:?}: {}",
        replica.process.said()?
    );
    replica.process.start()?;
    replica.ready().await?;
    balancer.send_replace(
        fleet
            .fanouts
            .iter()
            .map(|fanout| fanout.ws.clone())
            .collect(),
    );
    Ok(gone)
}

async fn roll_all(fleet: &mut Fleet, seed: u64) -> Result<()> {
    let (count, rate, _) = scale();
    fleet.ingests[0].start()?;
    let broker = fleet.client().await?;
    let symbols = symbols(&broker, INSTRUMENTS).await?;
    let (balancer, replicas) = watch::channel(
        fleet
            .fanouts
            .iter()
            .map(|fanout| fanout.ws.clone())
            .collect(),
    );
    let (goal, goals) = watch::channel(None);
    let road = Road {
        replicas,
        goal: goals,
        stay: 0..0,
        away: 0..1,
    };
    let mut clients: JoinSet<Result<Record>> = JoinSet::new();
    for number in 0..count {
        let symbol = &symbols[number % symbols.len()];
        let wish = Wish {
            topics: vec![format!("trade.sim.{symbol}"), format!("quote.sim.{symbol}")],
            conflate: if number % 3 == 0 { "auto" } else { "none" },
            begin: false,
        };
        clients.spawn(Nomad::new(number, seed, vec![wish]).wander(road.clone()));
        if number % CROWD == CROWD - 1 {
            all_connected(fleet, number + 1).await?;
        }
    }
    all_connected(fleet, count).await?;
    let mut gone = Vec::new();
    for number in 0..fleet.fanouts.len() {
        gone.push(roll(fleet, number, &balancer, rate).await?);
        all_connected(fleet, count).await?;
    }
    fleet.ingests[0].leave().await?;
    let history = [History::read(&broker, STREAM).await?];
    goal.send_replace(Some([history[0].last()].into()));
    let mut findings = Findings::default();
    let (mut warned, mut refused) = (0, 0);
    while let Some(record) = timeout(PATIENCE, clients.join_next()).await? {
        let record = record??;
        judge(&history, &record, &mut findings)?;
        warned += record.warned;
        refused += record.refused;
    }
    say(&format!(
        "{count} clients, {gone:?} closed by three replicas at a rate of {rate}, {warned} warnings; \
         found {findings}"
    ));
    ensure!(findings.is_clean(), "{findings}");
    let closed = &findings.closed;
    let codes: Vec<u16> = closed.keys().copied().collect();
    ensure!(
        codes == [CloseCode::Restart.code()],
        "closed with {closed:?}"
    );
    ensure!(refused == 0, "{refused} connections were turned away");
    ensure!(
        warned == closed.values().sum::<u32>(),
        "{warned} warnings for {closed:?}"
    );
    Ok(())
}

fn plan(fanouts: usize, extra: &[&'static str]) -> Plan {
    Plan {
        brokers: 1,
        fanouts,
        streams: vec![Stream::only(FEEDS.to_owned())],
        provision: Vec::new(),
        fanout: PATIENT.iter().chain(extra).copied().collect(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_nothing_and_keeps_to_its_rate() -> Result<()> {
    let seed = seed("rolling")?;
    let (_, _, rate) = scale();
    let plan = plan(3, &["--drain-rate", rate, "--drain-accept-secs", "3"]);
    let mut fleet = Fleet::start(&plan).await?;
    let outcome = roll_all(&mut fleet, seed).await;
    outcome.with_context(|| format!("seed {seed}, {}", fleet.last_words()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_a_drain_at_once() -> Result<()> {
    let plan = plan(1, &["--drain-rate", "1", "--drain-accept-secs", "100000"]);
    let mut fleet = Fleet::start(&plan).await?;
    let replica = &mut fleet.fanouts[0];
    let mut client = Client::connect(&replica.ws, Encoding::Json).await?;
    client
        .subscribe(&["trade.sim.>"], "none", BTreeMap::new())
        .await?;
    // It says beforehand how long leaving takes.
    let (_, stats) = replica.ops("/stats").await?;
    let drain = &stats["fanout"]["drain"];
    ensure!(
        drain["rate"] == 1 && drain["accept_secs"] == 100_000,
        "{drain}"
    );
    ensure!(drain["grace_secs"].as_f64() >= Some(100_001.0), "{drain}");
    replica.process.signal(Signal::TERM)?;
    until("a replica that leaves stays ready", async || {
        Ok(!replica.is_ready().await)
    })
    .await?;
    replica.process.signal(Signal::TERM)?;
    ensure!(replica.process.ended().await? == Some(143));
    Ok(())
}
