//! Three brokers: whichever of them leads the stream is killed, again and again.

use std::time::Duration;

use anyhow::Result;
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use crate::fleet::Fleet;
use crate::movement::{journey, seed};
use crate::world::until;

/// Kills the leader, waits for another one, and brings the killed one back.
async fn kill_leaders(fleet: &mut Fleet, rng: &mut StdRng, end: Instant) -> Result<String> {
    let client = fleet.client().await?;
    let (mut leaders, mut fanouts) = (0, 0);
    while Instant::now() < end {
        sleep(Duration::from_millis(rng.random_range(1_000..3_000))).await;
        let leader = fleet.leader(&client).await?;
        fleet.brokers[leader].process.kill().await?;
        leaders += 1;
        until("nobody else leads the stream", async || {
            Ok(fleet.leader(&client).await? != leader)
        })
        .await?;
        if rng.random() {
            // Whoever starts now has to find a broker that is there.
            let number = rng.random_range(0..fleet.fanouts.len());
            fleet.fanouts[number].process.kill().await?;
            fleet.fanouts[number].process.start()?;
            fanouts += 1;
        }
        fleet.brokers[leader].process.start()?;
        fleet.whole(&client).await?;
    }
    for fanout in &mut fleet.fanouts {
        fanout.ready().await?;
    }
    Ok(format!("{leaders} leaders and {fanouts} replicas killed"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wandering_clients_miss_nothing_while_the_streams_leader_is_killed() -> Result<()> {
    let seed = seed("cluster")?;
    let findings = journey(3, seed, &[], kill_leaders).await?;
    assert!(findings.is_clean(), "seed {seed}: {findings}");
    Ok(())
}
