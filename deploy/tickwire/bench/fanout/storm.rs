//! A resume storm: everybody is cut at once, and comes back at once, from where they were.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use schemas::time::{Clock, SystemClock, UnixNanos};
use schemas::ws::Encoding;
use tokio::task::spawn_blocking;

use super::contender::{Contender, Tools};
use super::measure::{Pace, Stand, nanos, soon};
use super::publisher::Schedule;
use super::report::Storm;
use super::shape::Shape;
use super::swarm::{Swarm, Tally};

/// Before the cut, while everybody is away, and behind it.
const BEFORE: Duration = Duration::from_secs(2);
const AWAY: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_secs(4);
/// Fewer than a server lets into the handshake at once.
const AT_ONCE: usize = 1_000;

/// What the clients saw.
struct Seen {
    before: Tally,
    after: Tally,
    returned: UnixNanos,
    back: Duration,
}

/// Raises one.
///
/// # Errors
///
/// Something does not start, or broke, or clients are not let in again.
pub(super) async fn raise(tools: &Tools, shape: Shape) -> Result<Storm> {
    let turn = (Contender::Tickwire, Encoding::Json);
    let stand = Stand::build(tools, turn, shape).await?;
    let start = soon();
    let pace = Arc::new(Pace::new());
    let schedule = Schedule::new(start, shape.rate, BEFORE + AWAY + AFTER);
    let publishing = stand.publish(schedule, Arc::clone(&pace));
    let swarm = stand.swarm;
    let watching = spawn_blocking(move || weather(swarm, start, &pace));
    let (_, expected) = publishing.await??;
    let (swarm, seen) = watching.await??;
    Stand { swarm, ..stand }.clear().await?;
    let Seen {
        before,
        after,
        returned,
        back,
    } = seen;
    let millis = |duration: Duration| duration.as_secs_f64() * 1_000.0;
    let received = before.deliveries + after.deliveries;
    let caught_up = after.caught_up.map(UnixNanos::new);
    let p99 = Duration::from_micros(after.latency.value_at_quantile(0.99));
    Ok(Storm {
        clients: shape.clients,
        away_s: AWAY.as_secs_f64(),
        missed: u64::from(shape.rate) * AWAY.as_secs(),
        back_ms: millis(back),
        caught_up_ms: caught_up.map_or(0.0, |time| millis(time.since(returned))),
        deliveries: received,
        p99_ms: millis(p99),
        holes: before.holes + after.holes + before.strays + after.strays,
        lost: expected.saturating_sub(received),
        duplicates: before.duplicates + after.duplicates,
        declared: before.declared + before.snapshots + after.declared + after.snapshots,
        closed: before.closed() + after.closed(),
    })
}

fn weather(mut swarm: Swarm, start: UnixNanos, pace: &Pace) -> Result<(Swarm, Seen)> {
    let cut_at = start.offset(nanos(BEFORE));
    swarm.begin(0..0, i64::MIN)?;
    swarm.watch(|_| SystemClock.now() >= cut_at)?;
    swarm.cut();
    thread::sleep(AWAY);
    let returned = SystemClock.now();
    let before = swarm.begin(returned.get()..i64::MAX, returned.get())?;
    swarm.open(swarm.size().min(AT_ONCE))?;
    let back = SystemClock.now().since(returned);
    let mut patience = pace.patience();
    swarm.watch(|tally| patience.is_over(before.deliveries + tally.deliveries))?;
    let after = swarm.begin(0..0, i64::MIN)?;
    let seen = Seen {
        before,
        after,
        returned,
        back,
    };
    Ok((swarm, seen))
}

/// The head of the table of storms.
pub(super) const HEAD: [&str; 9] = [
    "storm",
    "",
    "missed",
    "back ms",
    "caught up ms",
    "p99 ms",
    "holes",
    "lost",
    "declared",
];

/// A row of it.
pub(super) fn row(storm: &Storm) -> Vec<String> {
    vec![
        format!("{} clients", storm.clients),
        String::new(),
        storm.missed.to_string(),
        format!("{:.0}", storm.back_ms),
        format!("{:.0}", storm.caught_up_ms),
        format!("{:.2}", storm.p99_ms),
        storm.holes.to_string(),
        storm.lost.to_string(),
        storm.declared.to_string(),
    ]
}
