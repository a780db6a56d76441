//! One measurement: a schedule of ticks, everybody who watches them arrive, and what it cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use schemas::time::{Clock, SystemClock, UnixNanos};
use schemas::ws::Encoding;
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;
use tracing::warn;

use super::contender::{Contender, Running, Tools};
use super::publisher::{Published, Schedule, publish};
use super::report::{Load, kib, ratio, thousands_per_second};
use super::shape::Shape;
use super::swarm::{Dialect, Plan, Swarm, Tally};
use crate::bench::brake::Brake;
use crate::bench::ground::Ground;
use crate::bench::usage;

/// Between the decision to publish and the first tick.
const LEAD: Duration = Duration::from_millis(300);
/// After so long without a tick, once all are published, no more are expected.
const SILENCE: Duration = Duration::from_secs(5);
/// Connections that are opened at once.
const AT_ONCE: usize = 64;
/// Processors that strangers may use while figures mean something.
const QUIET: f64 = 0.1;
/// The number that no count reaches: it is not known yet.
const NOT_YET: u64 = u64::MAX;

/// Everything that is set up for one server and one scenario.
pub(super) struct Stand {
    pub(super) contender: Contender,
    pub(super) encoding: Encoding,
    pub(super) shape: Shape,
    pub(super) ground: Ground,
    /// It goes before the server does.
    pub(super) brake: Option<Brake>,
    pub(super) running: Running,
    pub(super) swarm: Swarm,
    /// The server's memory before anybody connected.
    pub(super) resident: u64,
    /// What each connection took of the server's memory, before anything was sent.
    pub(super) idle: u64,
}

/// How long ticks are sent before and while it counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) warm: Duration,
    pub(super) counted: Duration,
}

impl Stand {
    /// Starts a broker and a server, and connects the clients.
    ///
    /// # Errors
    ///
    /// Something does not start.
    pub(super) async fn build(
        tools: &Tools,
        (contender, encoding): (Contender, Encoding),
        shape: Shape,
    ) -> Result<Self> {
        let ground = Ground::lay(&tools.nats_server).await?;
        Self::on(ground, tools, (contender, encoding), shape).await
    }

    /// Starts a server that reads from a broker, and connects the clients.
    ///
    /// # Errors
    ///
    /// Something does not start.
    pub(super) async fn on(
        ground: Ground,
        tools: &Tools,
        (contender, encoding): (Contender, Encoding),
        shape: Shape,
    ) -> Result<Self> {
        let running = contender.start(&ground, tools).await?;
        let server = running.server.pid;
        let mut swarm = Swarm::new(Plan {
            address: running.address,
            dialect: match contender {
                Contender::Tickwire | Contender::Axum => Dialect::Tickwire(encoding),
                Contender::NatsWs => Dialect::Nats,
            },
            topics: shape.topics,
            held: shape.hold(),
        })?;
        let before = usage::of(server)?;
        let swarm = spawn_blocking(move || {
            swarm.open(AT_ONCE)?;
            anyhow::Ok(swarm)
        })
        .await??;
        let after = usage::of(server)?;
        let brake = shape.braked.then(|| Brake::on(server)).transpose()?;
        let taken = after.resident.saturating_sub(before.resident);
        let clients = u64::try_from(swarm.size().max(1))?;
        Ok(Self {
            contender,
            encoding,
            shape,
            ground,
            brake,
            running,
            swarm,
            resident: before.resident,
            idle: taken / clients,
        })
    }

    /// Ends everything.
    ///
    /// # Errors
    ///
    /// Something had failed before.
    pub(super) async fn clear(self) -> Result<()> {
        drop((self.swarm, self.brake));
        self.running.server.end().await?;
        self.ground.clear().await
    }

    /// Sends ticks at a rate and says how they arrived.
    ///
    /// # Errors
    ///
    /// Something broke.
    pub(super) async fn run(self, rate: u32, span: Span) -> Result<(Self, Load)> {
        self.run_at(soon(), rate, span).await
    }

    /// The same, at an appointed time.
    ///
    /// # Errors
    ///
    /// Something broke.
    pub(super) async fn run_at(
        self,
        start: UnixNanos,
        rate: u32,
        span: Span,
    ) -> Result<(Self, Load)> {
        let (from, to) = (
            start.offset(nanos(span.warm)),
            start.offset(nanos(span.warm + span.counted)),
        );
        let pace = Arc::new(Pace::new());
        let schedule = Schedule::new(start, rate, span.warm + span.counted);
        let publishing = self.publish(schedule, Arc::clone(&pace));
        let mut swarm = self.swarm;
        let watching = spawn_blocking(move || {
            swarm.begin(from.get()..to.get(), i64::MIN)?;
            let mut patience = pace.patience();
            swarm.watch(|tally| patience.is_over(tally.deliveries))?;
            let tally = swarm.begin(0..0, i64::MIN)?;
            anyhow::Ok((swarm, tally))
        });
        let broker = self.ground.broker()?;
        let pids = [self.running.server.pid, broker, std::process::id()];
        until(from).await;
        let before = Sample::take(pids)?;
        until(to).await;
        let after = Sample::take(pids)?;
        let (published, expected) = publishing.await??;
        let (swarm, tally) = watching.await??;
        let mut stand = Self { swarm, ..self };
        stand.ground.broker()?;
        stand.running.server.check()?;
        let outcome = Outcome {
            published,
            expected,
            tally,
            before,
            after,
        };
        let load = outcome.load(&stand, rate, span);
        if load.foreign_cpu > QUIET {
            warn!(
                foreign_cpu = load.foreign_cpu,
                "the machine has other things to do"
            );
        }
        if !load.is_whole() {
            warn!(closes = ?load.closes, said = stand.running.server.said(), "not everything arrived");
        }
        Ok((stand, load))
    }

    /// Publishes a schedule, and tells the pace when it is done: what was published, and how many
    /// deliveries that makes.
    pub(super) fn publish(
        &self,
        schedule: Schedule,
        pace: Arc<Pace>,
    ) -> JoinHandle<Result<(Published, u64)>> {
        let (outlet, runtime) = (self.running.outlet.clone(), Handle::current());
        let (topics, holders) = (self.shape.topics, self.swarm.holders());
        spawn_blocking(move || {
            let published = publish(&outlet, &runtime, topics, schedule);
            // Whoever watches must not wait for ticks that never come.
            let counts = published.as_ref().map_or(&[][..], |all| &all.by_topic[..]);
            let deliveries = counts.iter().zip(&holders);
            let expected = deliveries.map(|(ticks, holders)| ticks * holders).sum();
            pace.expected.store(expected, Ordering::Relaxed);
            Ok((published?, expected))
        })
    }
}

/// Tells those who watch how much is to arrive, once everything has been published.
pub(super) struct Pace {
    expected: AtomicU64,
}

impl Pace {
    pub(super) const fn new() -> Self {
        Self::of(NOT_YET)
    }

    /// So much is known to arrive.
    pub(super) const fn of(expected: u64) -> Self {
        Self {
            expected: AtomicU64::new(expected),
        }
    }

    /// Starts to wait for all of it.
    pub(super) fn patience(&self) -> Patience<'_> {
        Patience {
            pace: self,
            deliveries: 0,
            since: Instant::now(),
        }
    }
}

/// Waits for everything, as long as something still arrives.
pub(super) struct Patience<'a> {
    pace: &'a Pace,
    deliveries: u64,
    since: Instant,
}

impl Patience<'_> {
    /// Whether everything has arrived, or will not any more.
    pub(super) fn is_over(&mut self, deliveries: u64) -> bool {
        let expected = self.pace.expected.load(Ordering::Relaxed);
        if expected == NOT_YET || deliveries > self.deliveries {
            self.deliveries = deliveries;
            self.since = Instant::now();
        }
        deliveries >= expected || self.since.elapsed() > SILENCE
    }
}

/// When what is decided now may start.
pub(super) fn soon() -> UnixNanos {
    SystemClock.now().offset(nanos(LEAD))
}

/// Waits for a point in time.
pub(super) async fn until(time: UnixNanos) {
    sleep(time.since(SystemClock.now())).await;
}

/// A duration in nanoseconds, as far as they go.
pub(super) fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// What everybody has used: the server, the broker, ourselves, and the whole machine.
struct Sample([Duration; 4]);

impl Sample {
    fn take([server, broker, client]: [u32; 3]) -> Result<Self> {
        Ok(Self([
            usage::of(server).context("the server is gone")?.cpu,
            usage::of(broker).context("the broker is gone")?.cpu,
            usage::of(client)?.cpu,
            usage::of_all()?,
        ]))
    }

    fn since(&self, before: &Self) -> [Duration; 4] {
        let mut used = self.0;
        for (used, before) in used.iter_mut().zip(before.0) {
            *used = used.saturating_sub(before);
        }
        used
    }
}

struct Outcome {
    published: Published,
    expected: u64,
    tally: Tally,
    before: Sample,
    after: Sample,
}

impl Outcome {
    fn load(self, stand: &Stand, rate: u32, span: Span) -> Load {
        let tally = self.tally;
        let [server, broker, client, all] = self.after.since(&self.before);
        let foreign = all.saturating_sub(server + broker + client);
        let share = |cpu: Duration| cpu.as_secs_f64() / span.counted.as_secs_f64();
        let at = |share: f64| {
            let micros = tally.latency.value_at_quantile(share);
            Duration::from_micros(micros).as_secs_f64() * 1_000.0
        };
        Load {
            scenario: stand.shape.name,
            server: stand.contender,
            encoding: match stand.encoding {
                Encoding::Json => "json",
                Encoding::MessagePack => "msgpack",
            },
            clients: stand.swarm.size(),
            ticks_per_second: rate,
            seconds: span.counted.as_secs_f64(),
            deliveries: tally.in_window,
            deliveries_per_second: thousands_per_second(tally.in_window, span.counted) * 1_000.0,
            kilo_per_cpu_second: thousands_per_second(tally.in_window, server),
            server_cpu: share(server),
            broker_cpu: share(broker),
            client_cpu: share(client),
            foreign_cpu: share(foreign),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: at(1.0),
            bytes_published: ratio(self.published.bytes, self.published.by_topic.iter().sum()),
            bytes_per_delivery: ratio(tally.bytes, tally.deliveries),
            idle_kib: kib(stand.idle),
            publisher_behind_ms: self.published.behind.as_secs_f64() * 1_000.0,
            holes: tally.holes + tally.strays,
            lost: self.expected.saturating_sub(tally.deliveries),
            duplicates: tally.duplicates,
            declared: tally.declared + tally.snapshots,
            closed: tally.closed(),
            closes: tally.closes,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::Pace;

    #[test]
    fn nobody_stops_watching_before_all_is_published_and_there() {
        let pace = Pace::new();
        let mut patience = pace.patience();
        assert!(!patience.is_over(0) && !patience.is_over(1_000));
        pace.expected.store(1_002, Ordering::Relaxed);
        assert!(!patience.is_over(1_000) && !patience.is_over(1_001));
        assert!(patience.is_over(1_002));
    }
}
