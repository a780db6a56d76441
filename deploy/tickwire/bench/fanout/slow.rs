//! Slow clients: whoever stops reading is closed, and nobody else notices.

use std::time::{Duration, Instant};

use anyhow::Result;
use schemas::ws::{CloseCode, Encoding};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::contender::{Contender, Tools};
use super::measure::{Span, Stand};
use super::report::{Load, Slow, kib};
use super::shape::Shape;
use super::tell;
use crate::bench::server::Probe;

/// Of so many clients one stops reading.
const ONE_OF: usize = 10;
/// Slow clients have some seconds before they are closed, so a measurement takes longer.
pub(super) const LEAST_SECONDS: u64 = 14;
/// Before anybody is slow.
const WARM: Duration = Duration::from_secs(1);
/// How often the server is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(100);
/// How long those who were slow may take to read what was left for them.
const FAREWELL: Duration = Duration::from_secs(5);

/// A run without slow clients, and one with.
///
/// # Errors
///
/// Something does not start, or broke.
pub(super) async fn pair(tools: &Tools, shape: Shape, counted: Duration) -> Result<Slow> {
    let turn = (Contender::Tickwire, Encoding::Json);
    let span = Span {
        warm: WARM,
        counted,
    };
    let stand = Stand::build(tools, turn, shape).await?;
    let (stand, without) = stand.run(shape.rate, span).await?;
    stand.clear().await?;
    tell(&without);

    let stand = Stand::build(tools, turn, shape).await?;
    let before = Span {
        warm: Duration::ZERO,
        counted: WARM,
    };
    let (mut stand, _) = stand.run(shape.rate, before).await?;
    let stalled = shape.clients.div_ceil(ONE_OF);
    stand.swarm.stall(stalled)?;
    let probe = stand.running.server.probe();
    let span = Span {
        warm: Duration::ZERO,
        counted,
    };
    let watching = watch(probe, u64::try_from(stalled)?, counted);
    let (ran, seen) = tokio::join!(stand.run(shape.rate, span), watching);
    let ((stand, with), seen) = (ran?, seen?);
    tell(&with);
    let told_4008 = told(stand, stalled).await?;
    Ok(Slow {
        without,
        with,
        stalled,
        closed_4008: seen.closed,
        told_4008,
        closed_after_s: seen.after.map(|after| after.as_secs_f64()),
        growth_kib: kib(seen.growth),
    })
}

struct Seen {
    closed: u64,
    after: Option<Duration>,
    growth: u64,
}

/// Looks at the server for as long as the measurement takes.
async fn watch(probe: Probe, stalled: u64, counted: Duration) -> Result<Seen> {
    let began = Instant::now();
    let before = probe.usage()?.resident;
    let slow = format!(
        "tickwire_fanout_closed_total{{code=\"{}\"}}",
        CloseCode::Slow.code()
    );
    let mut seen = Seen {
        closed: 0,
        after: None,
        growth: 0,
    };
    while began.elapsed() < counted {
        seen.closed = probe.metrics().await?.value(&slow);
        seen.growth = seen
            .growth
            .max(probe.usage()?.resident.saturating_sub(before));
        if seen.closed >= stalled && seen.after.is_none() {
            seen.after = Some(began.elapsed());
        }
        sleep(LOOK).await;
    }
    Ok(seen)
}

/// Lets the slow ones read on: how many find a close frame that says why.
async fn told(mut stand: Stand, stalled: usize) -> Result<u64> {
    stand.swarm.read_on()?;
    let all = u64::try_from(stalled)?;
    let mut swarm = stand.swarm;
    let (swarm, tally) = spawn_blocking(move || {
        let deadline = Instant::now() + FAREWELL;
        swarm.watch(|tally| tally.closed() >= all || Instant::now() > deadline)?;
        let tally = swarm.begin(0..0, i64::MIN)?;
        anyhow::Ok((swarm, tally))
    })
    .await??;
    stand.swarm = swarm;
    stand.clear().await?;
    let code = CloseCode::Slow.code();
    Ok(tally.closes.get(&code).copied().unwrap_or_default())
}

/// The head of the table of slow clients.
pub(super) const HEAD: [&str; 7] = [
    "slow clients",
    "",
    "closed 4008",
    "told 4008",
    "last after s",
    "growth MiB",
    "others' p99 ms",
];

/// A row of it.
pub(super) fn row(slow: &Slow) -> Vec<String> {
    let p99 = |load: &Load| format!("{:.2}", load.p99_ms);
    vec![
        slow.stalled.to_string(),
        String::new(),
        slow.closed_4008.to_string(),
        slow.told_4008.to_string(),
        slow.closed_after_s
            .map_or_else(|| "not all".to_owned(), |after| format!("{after:.1}")),
        format!("{:.1}", slow.growth_kib / 1_024.0),
        format!("{} / {}", p99(&slow.with), p99(&slow.without)),
    ]
}
