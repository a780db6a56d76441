//! Churn: clients that come and go among very many instruments, and others who must not notice.
//!
//! Every instrument has a last value. Those who churn hold a few of them, drawn at random, and each
//! of their ops, a message of its own, takes another one or leaves the oldest. What is measured
//! beside them is one hot topic, which none of them holds, with and without them.

mod fickle;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use schemas::time::{Clock, SystemClock, UnixNanos};
use schemas::ws::Encoding;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::contender::{Contender, Tools};
use super::measure::{self, Pace, Span, Stand, nanos};
use super::publisher::Schedule;
use super::report::{Churn, ChurnPair, Load, float, kib, median, quotient, thousands_per_second};
use super::shape::Shape;
use super::swarm::{Dialect, Plan, Swarm, Tally};
use super::{tell, ticks};
use crate::bench::ground::Ground;
use fickle::Fickle;

/// Ops per second of one connection: a fanout allows ten.
const OPS_EACH: u32 = 8;
/// Connections that are opened at once.
const AT_ONCE: usize = 64;
/// Ops that are due within this leave together.
const PAUSE: Duration = Duration::from_micros(500);

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) instruments: usize,
    /// Of all connections together.
    pub(super) ops_per_second: u32,
}

/// Measures pairs without and with churn, one after the other, on the same server.
///
/// # Errors
///
/// Something does not start, or broke.
pub(super) async fn raise(
    tools: &Tools,
    shape: Shape,
    extent: Extent,
    (pairs, span): (usize, Span),
) -> Result<Churn> {
    let turn = (Contender::Tickwire, Encoding::Json);
    let ground = Ground::lay(&tools.nats_server).await?;
    let empty = turn.0.start(&ground, tools).await?;
    let before = empty.server.probe().usage()?.resident;
    empty.server.end().await?;
    // The first one is what everybody else watches.
    empty.outlet.fill(1..=extent.instruments).await?;
    let mut stand = Stand::on(ground, tools, turn, shape).await?;
    let taken = stand.resident.saturating_sub(before);
    let connections = usize::try_from(extent.ops_per_second.div_ceil(OPS_EACH))?;
    let mut churn = Churn {
        instruments: extent.instruments,
        connections,
        ops_per_second: extent.ops_per_second,
        resident_kib: kib(stand.resident),
        bytes_per_topic: quotient(float(taken), float(u64::try_from(extent.instruments)?)),
        pattern_ms: everything(stand.running.address, extent.instruments).await?,
        pairs: Vec::new(),
    };
    let mut churners = Churners::gather(stand.running.address, connections, extent).await?;
    for _ in 0..pairs {
        let (quiet, without) = stand.run(shape.rate, span).await?;
        tell(&without);
        let start = measure::soon();
        let churning = spawn_blocking(move || churners.churn(start, span));
        let (ran, churned) = tokio::join!(quiet.run_at(start, shape.rate, span), churning);
        let (ended, with) = ran?;
        let (again, answers) = churned??;
        (stand, churners) = (ended, again);
        tell(&with);
        churn.pairs.push(pair(without, with, &answers, span));
    }
    drop(churners);
    stand.clear().await?;
    Ok(churn)
}

/// Milliseconds until somebody who subscribes to a pattern over all instruments has every last
/// value; nothing if one never comes.
async fn everything(address: SocketAddr, instruments: usize) -> Result<Option<f64>> {
    let mut swarm = swarm(address, 1)?;
    let wanted = u64::try_from(instruments)?;
    let took = spawn_blocking(move || {
        swarm.open(1)?;
        let began = Instant::now();
        let pattern = ticks::EVERY_TOPIC;
        let op = format!(
            "[{{\"op\":\"subscribe\",\"id\":2,\"topics\":[\"{pattern}\"],\"snapshot\":true}}]"
        );
        swarm.say(0, &op)?;
        let pace = Pace::of(wanted);
        let mut patience = pace.patience();
        swarm.watch(|tally| patience.is_over(tally.snapshots))?;
        let took = began.elapsed();
        let seen = swarm.begin(0..0, i64::MIN)?;
        anyhow::Ok((seen.snapshots >= wanted).then_some(took))
    });
    let took = took.await??.map(millis);
    info!(instruments, took, "a pattern over everything");
    Ok(took)
}

/// Connections that hold nothing yet.
fn swarm(address: SocketAddr, connections: usize) -> Result<Swarm> {
    Swarm::new(Plan {
        address,
        dialect: Dialect::Tickwire(Encoding::Json),
        topics: 0,
        held: vec![Vec::new(); connections],
    })
}

/// Those who churn.
struct Churners {
    swarm: Swarm,
    fickle: Fickle,
    ops_per_second: u32,
}

/// What became of their ops.
struct Answers {
    asked: u64,
    /// How many of them want a last value.
    subscribed: u64,
    tally: Tally,
}

impl Churners {
    async fn gather(address: SocketAddr, connections: usize, extent: Extent) -> Result<Self> {
        let mut swarm = swarm(address, connections)?;
        let swarm = spawn_blocking(move || {
            swarm.open(AT_ONCE)?;
            anyhow::Ok(swarm)
        });
        Ok(Self {
            swarm: swarm.await??,
            fickle: Fickle::new(connections, 1..extent.instruments + 1),
            ops_per_second: extent.ops_per_second,
        })
    }

    /// Asks when it is due, whatever happened to what was asked before. The due time of an op is its
    /// id, so its answer says how late it is.
    fn churn(mut self, start: UnixNanos, span: Span) -> Result<(Self, Answers)> {
        let whole = span.warm + span.counted;
        let schedule = Schedule::new(start, self.ops_per_second, whole);
        let (from, to) = (start.offset(nanos(span.warm)), start.offset(nanos(whole)));
        self.swarm.begin(from.get()..to.get(), i64::MIN)?;
        let (mut asked, mut subscribed, mut client) = (0, 0, 0);
        while asked < schedule.count {
            let due = schedule.due(asked);
            if due > SystemClock.now() {
                self.swarm.watch_for(PAUSE)?;
                continue;
            }
            let change = self.fickle.next(client).context("a connection")?;
            // Who was closed cannot ask: that shows as not answered.
            let _unheard = self.swarm.say(client, &change.op(due));
            subscribed += u64::from(change.is_taken);
            asked += 1;
            client = (client + 1) % self.swarm.size();
        }
        let pace = Pace::of(asked + subscribed);
        let mut patience = pace.patience();
        self.swarm
            .watch(|tally| patience.is_over(tally.answered + tally.snapshots))?;
        let answers = Answers {
            asked,
            subscribed,
            tally: self.swarm.begin(0..0, i64::MIN)?,
        };
        Ok((self, answers))
    }
}

fn pair(without: Load, with: Load, answers: &Answers, span: Span) -> ChurnPair {
    let tally = &answers.tally;
    if let Some(complaint) = tally.complaints.first() {
        warn!(complaint, closes = ?tally.closes, "not every op was carried out");
    }
    let at = |share| {
        millis(Duration::from_micros(
            tally.answers.value_at_quantile(share),
        ))
    };
    let more = (with.server_cpu - without.server_cpu) * span.counted.as_secs_f64();
    ChurnPair {
        answered_per_second: thousands_per_second(tally.answers.len(), span.counted) * 1_000.0,
        ack_p50_ms: at(0.5),
        ack_p99_ms: at(0.99),
        cpu_us_per_op: quotient(more * 1_000_000.0, float(tally.answers.len())),
        unanswered: answers.asked.saturating_sub(tally.answered),
        without_value: answers.subscribed.saturating_sub(tally.snapshots),
        strays: tally.strays + tally.holes,
        closed: tally.closed(),
        without,
        with,
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// The head of the table of churn.
pub(super) const HEAD: [&str; 11] = [
    "churn",
    "",
    "ops/s",
    "ack p50 ms",
    "ack p99 ms",
    "cpu us/op",
    "p50 ms",
    "quiet",
    "p99 ms",
    "quiet",
    "whole",
];

/// Its rows, one for each pair, and their medians.
pub(super) fn rows(churn: &Churn) -> Vec<Vec<String>> {
    let line = |name: &str, figures: [f64; 8], whole: String| {
        let figures = figures.map(|figure| format!("{figure:.2}"));
        let (name, gap) = (name.to_owned(), String::new());
        let cells = [name, gap].into_iter().chain(figures);
        cells.chain([whole]).collect::<Vec<String>>()
    };
    let (mut rows, mut columns) = (Vec::new(), <[Vec<f64>; 8]>::default());
    for pair in &churn.pairs {
        let figures = figures(pair);
        for (column, figure) in columns.iter_mut().zip(figures) {
            column.push(figure);
        }
        let clients = format!("{} clients", churn.connections);
        rows.push(line(&clients, figures, missed(pair)));
    }
    rows.push(line("median", columns.map(median), String::new()));
    rows
}

fn figures(pair: &ChurnPair) -> [f64; 8] {
    let ChurnPair { with, without, .. } = pair;
    [
        pair.answered_per_second,
        pair.ack_p50_ms,
        pair.ack_p99_ms,
        pair.cpu_us_per_op,
        with.p50_ms,
        without.p50_ms,
        with.p99_ms,
        without.p99_ms,
    ]
}

fn missed(pair: &ChurnPair) -> String {
    if pair.is_whole() {
        return "yes".to_owned();
    }
    format!(
        "{} not carried out, {} without value, {} closed",
        pair.unanswered, pair.without_value, pair.closed
    )
}

/// The head of the table of what is known.
pub(super) const KNOWN_HEAD: [&str; 5] = [
    "instruments",
    "",
    "MiB",
    "B/topic",
    "pattern to last value ms",
];

/// Its row.
pub(super) fn known(churn: &Churn) -> Vec<String> {
    vec![
        churn.instruments.to_string(),
        String::new(),
        format!("{:.1}", churn.resident_kib / 1_024.0),
        format!("{:.0}", churn.bytes_per_topic),
        churn
            .pattern_ms
            .map_or_else(|| "not all".to_owned(), |took| format!("{took:.0}")),
    ]
}
