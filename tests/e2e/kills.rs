//! Processes die without warning; what was acknowledged is neither lost, doubled nor reordered.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, Result};
use rustix::process::Signal;
use schemas::position::StreamSeq;
use schemas::subject;
use schemas::tick::Tick;
use schemas::ws::Encoding;

use crate::client::{Client, Received};
use crate::world::{PATIENT, World, is_alive, until};

const FEEDS: &str = "[[feed]]\nname = \"sim\"\nsource = \"sim\"\ninstruments = 100\nrate = 5000\nbars = [\"1s\", \"1m\"]\n";

/// Compares what a client received with what ingest logged as acknowledged.
pub(crate) fn check(
    acknowledged: &BTreeMap<u64, (String, String)>,
    received: &[Received],
    goal: StreamSeq,
) -> Result<()> {
    let by_seq: BTreeMap<u64, &Received> = received
        .iter()
        .map(|received| (received.seq.get(), received))
        .collect();
    assert_eq!(
        by_seq.len(),
        received.len(),
        "a sequence was delivered twice"
    );
    let mut last: BTreeMap<&str, StreamSeq> = BTreeMap::new();
    for received in received {
        let before = last.insert(&received.topic, received.seq);
        assert!(
            before.is_none_or(|before| before < received.seq),
            "{} went backwards",
            received.topic
        );
    }
    let mut compared = 0;
    for (seq, (subject, id)) in acknowledged.range(..=goal.get()) {
        let received = by_seq
            .get(seq)
            .with_context(|| format!("acknowledged {seq} ({id}) was not delivered"))?;
        let topic = subject::parse(subject)?.to_string();
        assert_eq!(received.topic, topic);
        if let Tick::Trade(trade) = &received.tick {
            assert_eq!(*id, format!("{topic}/{}", trade.id));
        }
        compared += 1;
    }
    let trades = received.iter().filter_map(|received| match &received.tick {
        Tick::Trade(trade) => Some(format!("{}/{}", received.topic, trade.id)),
        _ => None,
    });
    let mut ids = HashSet::new();
    for id in trades {
        assert!(ids.insert(id.clone()), "{id} was stored twice");
    }
    eprintln!(
        "{compared} acknowledged messages compared, {} trades, none lost or doubled",
        ids.len()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_broker_costs_nothing_but_time() -> Result<()> {
    let world = World::start_with(FEEDS, PATIENT).await?;
    let mut client = Client::connect(world.ws(), Encoding::MessagePack).await?;
    client.subscribe_all(&["*.sim.>"], "none").await?;
    let mut received = Vec::new();
    for _ in 0..3 {
        let goal = StreamSeq::new(client.cursor.get() + 10_000);
        received.extend(client.read_to(goal).await?);
        // The connection stays, and heartbeats go on while the broker is away.
        let killing = world.kill_broker();
        tokio::pin!(killing);
        loop {
            tokio::select! {
                killed = &mut killing => break killed?,
                more = client.next() => received.extend(more?),
            }
        }
    }
    let goal = StreamSeq::new(client.cursor.get() + 10_000);
    received.extend(client.read_to(goal).await?);
    assert_eq!(client.continuity.counts().holes, 0);
    let acknowledged = world.acknowledged()?;
    assert!(acknowledged.len() > 30_000);
    check(&acknowledged, &received, goal)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_leaves_nothing_behind_and_goes_on() -> Result<()> {
    let mut world = World::start_with(FEEDS, PATIENT).await?;
    let mut client = Client::connect(world.ws(), Encoding::Json).await?;
    client.subscribe_all(&["*.sim.>"], "none").await?;
    let mut received = client.read_to(StreamSeq::new(10_000)).await?;
    let epoch = client.epoch;
    let broker = world.broker().await?;
    world.signal(Signal::KILL)?;
    until("the broker outlives its parent", async || {
        Ok(!is_alive(broker))
    })
    .await?;
    world.restart_with(PATIENT).await?;
    // The same history, from where this client left it, on the new process.
    let from = client.continuity.resume(None);
    let mut again = Client::connect(world.ws(), Encoding::Json).await?;
    assert_eq!(again.epoch, epoch);
    std::mem::swap(&mut again.continuity, &mut client.continuity);
    again.continuity.resubscribed(None);
    let left = client.cursor;
    again.subscribe(&["*.sim.>"], "none", from).await?;
    received.extend(again.read_to(StreamSeq::new(left.get() + 20_000)).await?);
    let counts = again.continuity.counts();
    assert_eq!((counts.holes, counts.gaps, counts.resets), (0, 0, 0));
    check(
        &world.acknowledged()?,
        &received,
        again.cursor.min(StreamSeq::new(left.get() + 15_000)),
    )?;
    // Bars go on without a hole: every second bar equals its trades.
    bars_equal_trades(&received)
}

/// Recomputes the closed one-second bars that lie within what was received.
fn bars_equal_trades(received: &[Received]) -> Result<()> {
    let mut volumes: BTreeMap<(String, i64), (rust_decimal::Decimal, u64)> = BTreeMap::new();
    let mut bars = BTreeMap::new();
    for received in received {
        match &received.tick {
            Tick::Trade(trade) => {
                let at = trade.head.event.context("an event time")?.get();
                let key = (trade.head.symbol.to_string(), at.div_euclid(1_000_000_000));
                let sum = volumes.entry(key).or_default();
                sum.0 += trade.size.get();
                sum.1 += 1;
            }
            Tick::Bar(bar) if bar.interval == schemas::id::Interval::Second1 => {
                bars.insert(
                    (bar.head.symbol.to_string(), bar.start.seconds()),
                    (bar.volume.get(), bar.trades),
                );
            }
            _ => {}
        }
    }
    let mut compared = 0;
    for (key, bar) in &bars {
        assert_eq!(
            volumes.get(key),
            Some(bar),
            "the bar of {key:?} differs from its trades"
        );
        compared += 1;
    }
    eprintln!("{compared} bars equal their trades");
    assert!(compared > 100);
    Ok(())
}
