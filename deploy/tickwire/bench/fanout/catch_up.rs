//! Catching up: a replica that was stopped for a while reads what came meanwhile.
//!
//! The kernel stops the process, so neither it nor its connection to the broker knows: it finds out by
//! itself that it is behind. Nobody is connected to it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::time::sleep;

use super::contender::{Contender, Tools};
use super::report::{CatchUp, float, quotient, thousands_per_second};
use crate::bench::ground::{Ground, STREAM};
use crate::bench::server::{PATIENCE, Probe};

/// Among so many topics the ticks are distributed.
const TOPICS: usize = 500;
/// How often the replica is asked how far it is.
const LOOK: Duration = Duration::from_millis(10);

/// Lets a replica fall behind by so many ticks, and watches it catch up.
///
/// # Errors
///
/// Something does not start, or the replica does not get there.
pub(super) async fn watch(tools: &Tools, behind: u64) -> Result<CatchUp> {
    let ground = Ground::lay(&tools.nats_server).await?;
    let mut replica = Contender::Tickwire.start(&ground, tools).await?;
    let probe = replica.server.probe();
    replica.outlet.fill(0..TOPICS).await?;
    let known = u64::try_from(TOPICS)?;
    climb(probe, 0, known).await?;

    let stopped = Instant::now();
    replica.server.stop()?;
    let topics = (0..TOPICS).cycle().take(usize::try_from(behind)?);
    replica.outlet.fill(topics).await?;
    let stopped = stopped.elapsed();
    let before = (probe.usage()?, ground.usage()?);
    replica.server.go_on()?;
    let climb = climb(probe, known, known + behind).await?;
    let after = (probe.usage()?, ground.usage()?);

    replica.server.check()?;
    replica.server.end().await?;
    ground.clear().await?;
    let each = |before: Duration, after: Duration| {
        let micros = after.saturating_sub(before).as_secs_f64() * 1_000_000.0;
        quotient(micros, float(behind))
    };
    Ok(CatchUp {
        messages: behind,
        stopped_s: stopped.as_secs_f64(),
        first_ms: climb.first.as_secs_f64() * 1_000.0,
        whole_ms: climb.whole.as_secs_f64() * 1_000.0,
        kilo_per_second: thousands_per_second(climb.read, climb.whole.saturating_sub(climb.first)),
        cpu_us_per_message: each(before.0.cpu, after.0.cpu),
        broker_us_per_message: each(before.1.cpu, after.1.cpu),
    })
}

/// How a replica came to the end of the stream.
#[derive(Clone, Copy, Debug)]
struct Climb {
    /// Until it was seen to have read something.
    first: Duration,
    /// Until it had read all.
    whole: Duration,
    /// How many messages it read between the two.
    read: u64,
}

/// Waits until a replica that has read one sequence has read another.
async fn climb(probe: Probe, from: u64, to: u64) -> Result<Climb> {
    let head = format!("tickwire_fanout_head{{stream=\"{STREAM}\"}}");
    let began = Instant::now();
    let mut first = None;
    let (mut last, mut moved) = (from, began);
    loop {
        let read = probe.metrics().await?.value(&head);
        let now = Instant::now();
        if read > last {
            (last, moved) = (read, now);
        }
        if read > from && first.is_none() {
            first = Some((read, now - began));
        }
        if let Some((start, first)) = first
            && read >= to
        {
            return Ok(Climb {
                first,
                whole: now - began,
                read: read - start,
            });
        }
        if now - moved > PATIENCE {
            bail!("the replica has read up to {last} of {to}, and goes on no more");
        }
        sleep(LOOK).await;
    }
}

/// The head of the table of those who catch up.
pub(super) const HEAD: [&str; 8] = [
    "catch-up",
    "",
    "stopped s",
    "first ms",
    "whole ms",
    "k/s",
    "cpu us/msg",
    "broker us/msg",
];

/// A row of it.
pub(super) fn row(catch_up: &CatchUp) -> Vec<String> {
    vec![
        format!("{} messages", catch_up.messages),
        String::new(),
        format!("{:.1}", catch_up.stopped_s),
        format!("{:.0}", catch_up.first_ms),
        format!("{:.0}", catch_up.whole_ms),
        format!("{:.0}", catch_up.kilo_per_second),
        format!("{:.2}", catch_up.cpu_us_per_message),
        format!("{:.2}", catch_up.broker_us_per_message),
    ]
}
