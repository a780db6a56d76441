//! Coming back late: from beyond what a replica holds in memory everything is there, from beyond
//! what the stream retains one honest gap is.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use async_nats::Client;
use schemas::position::StreamSeq;

use crate::checker::{Findings, History, judge};
use crate::fleet::{Fleet, Plan, STREAM, Stream};
use crate::movement::{PATIENT, journey, kill_all, seed, symbols};
use crate::nomad::Nomad;
use crate::record::{Fact, Wish};
use crate::world::{say, until};

const INSTRUMENTS: usize = 20;
/// Replicas that hold next to nothing.
const SMALL_RING: [&str; 2] = ["--ring-bytes", "65536"];
/// How much of the stream a client sees before it is gone: more than that ring holds.
const BEFORE: StreamSeq = StreamSeq::new(2_000);
/// How much it misses while it is gone.
const AWAY: u64 = 10_000;

fn plan(rate: u32, provision: &[&'static str]) -> Plan {
    Plan {
        brokers: 1,
        fanouts: 2,
        streams: vec![Stream::only(format!(
            "[[feed]]\nname = \"sim\"\nsource = \"sim\"\ninstruments = {INSTRUMENTS}\n\
             rate = {rate}\nseed = 5\nbars = [\"1s\"]\n"
        ))],
        provision: provision.to_vec(),
        fanout: PATIENT.iter().chain(&SMALL_RING).copied().collect(),
    }
}

/// Topics one by one, and by pattern; kinds of which all counts, and of which the latest does.
fn clients(seed: u64, symbols: &[String]) -> Vec<Nomad> {
    let each = |kind: &str| {
        let all = symbols.iter().map(|symbol| format!("{kind}.sim.{symbol}"));
        all.collect::<Vec<String>>()
    };
    let wish = |topics, conflate| Wish {
        topics,
        conflate,
        begin: true,
    };
    let wishes = [
        vec![wish(each("trade"), "none"), wish(each("quote"), "none")],
        vec![wish(each("trade"), "auto"), wish(each("quote"), "auto")],
        vec![wish(vec!["*.sim.>".to_owned()], "none")],
    ];
    let wishes = wishes.into_iter().enumerate();
    wishes
        .map(|(number, wishes)| Nomad::new(number, seed, wishes))
        .collect()
}

/// Waits until the stream has got that far.
async fn grown(
    client: &Client,
    is_enough: impl Fn(&bus::stream::StreamState) -> bool,
) -> Result<()> {
    until("the stream does not grow", async || {
        Ok(is_enough(&bus::stream::state(client, STREAM).await?))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_from_beyond_the_ring_gets_all_that_it_missed() -> Result<()> {
    let seed = seed("resume")?;
    let mut fleet = Fleet::start(&plan(2_000, &[])).await?;
    fleet.ingests[0].start()?;
    let broker = fleet.client().await?;
    let mut clients = clients(seed, &symbols(&broker, INSTRUMENTS).await?);
    for client in &mut clients {
        client.visit(&fleet.fanouts[0].ws, &[BEFORE]).await?;
    }
    let last = bus::stream::state(&broker, STREAM).await?.last_seq.get();
    grown(&broker, |state| state.last_seq.get() > last + AWAY).await?;
    // Once while ticks go on coming, and once when all is quiet.
    let goal = StreamSeq::new(last + AWAY + 5_000);
    for client in &mut clients {
        client.visit(&fleet.fanouts[1].ws, &[goal]).await?;
    }
    grown(&broker, |state| state.last_seq.get() > goal.get() + AWAY).await?;
    fleet.ingests[0].leave().await?;
    let history = History::read(&broker, STREAM).await?;
    let (end, history) = ([history.last()], [history]);
    let mut findings = Findings::default();
    for client in &mut clients {
        client.visit(&fleet.fanouts[0].ws, &end).await?;
        judge(&history, client.record(), &mut findings)?;
    }
    say(&format!("from beyond the ring: {findings}"));
    ensure!(findings.is_clean() && findings.gaps == 0, "{findings}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_from_beyond_retention_is_told_so_once_and_gets_the_rest() -> Result<()> {
    let seed = seed("retention")?;
    let mut fleet = Fleet::start(&plan(8_000, &["--retain-bytes", "16777216"])).await?;
    fleet.ingests[0].start()?;
    let broker = fleet.client().await?;
    let mut clients = clients(seed, &symbols(&broker, INSTRUMENTS).await?);
    for client in &mut clients {
        client.visit(&fleet.fanouts[0].ws, &[BEFORE]).await?;
    }
    let last = bus::stream::state(&broker, STREAM).await?.last_seq;
    grown(&broker, |state| state.first_seq > last).await?;
    fleet.ingests[0].leave().await?;
    let history = History::read(&broker, STREAM).await?;
    let (end, history) = ([history.last()], [history]);
    let mut findings = Findings::default();
    for client in &mut clients {
        let before = client.record().facts.len();
        client.visit(&fleet.fanouts[1].ws, &end).await?;
        judge(&history, client.record(), &mut findings)?;
        let told = &client.record().facts[before..];
        let mut gaps: BTreeMap<&str, u32> = BTreeMap::new();
        for (_, fact) in told {
            if let Fact::Gap { text, .. } = fact {
                *gaps.entry(text).or_default() += 1;
            }
        }
        ensure!(!gaps.is_empty(), "nobody says that something is missing");
        let twice: Vec<_> = gaps.iter().filter(|(_, count)| **count > 1).collect();
        ensure!(twice.is_empty(), "gaps told more than once: {twice:?}");
    }
    say(&format!("from beyond retention: {findings}"));
    // Everything that is retained follows a gap; where the latest is enough, it follows a skip.
    ensure!(findings.is_clean() && findings.skipped > 0, "{findings}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_wander_between_small_rings_miss_nothing() -> Result<()> {
    let seed = seed("small rings")?;
    let findings = journey(1, seed, &SMALL_RING, kill_all).await?;
    assert!(findings.is_clean(), "seed {seed}: {findings}");
    Ok(())
}
