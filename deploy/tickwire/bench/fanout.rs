//! `tickwire bench fanout`: what one core of our fanout carries, beside a plain axum broadcaster and
//! NATS' own WebSocket gateway.
//!
//! | module | does |
//! |---|---|
//! | `args`, `shape` | the scenarios: clients, topics, rates |
//! | `contender`, `gateway` | the servers, each a process |
//! | `publisher`, `ticks`, `zipf` | ticks at appointed times |
//! | `swarm` | the measuring clients |
//! | `measure` | one load: latency, processor time, continuity |
//! | `ramp`, `slow` | the highest load, slow clients |
//! | `storm`, `churn` | everybody back at once, clients that change their minds |
//! | `catch_up` | a replica that fell behind |
//! | `report`, `compare`, `tables` | figures |
//!
//! Latency is counted from the time at which a tick should have been published. The ticks are trades:
//! lossless and never conflated, so every delivery counts, and the continuity of every topic of
//! every client is checked at every tick. Servers take turns in the same run: quotients hold on any
//! machine, figures only on this one.

mod args;
mod catch_up;
mod churn;
mod compare;
mod contender;
mod gateway;
mod measure;
mod publisher;
mod ramp;
mod report;
mod shape;
mod slow;
mod storm;
mod swarm;
mod tables;
mod ticks;
mod zipf;

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::ValueEnum as _;
use schemas::ws::Encoding;
use tracing::info;

use super::cores::Cores;
use crate::broker::binary::Places;
use args::Part;
use contender::{Contender, Tools};
use measure::{Span, Stand};
use report::{Load, Report, median, quotient};
use shape::Shape;

pub(super) use args::FanoutArgs;

/// How long ticks are sent before it counts.
const WARM: Duration = Duration::from_secs(2);
/// How often slow clients, or churn, are compared with none.
const PAIRS: usize = 3;

/// Measures and prints.
///
/// # Errors
///
/// Something does not start, or our server left something out without saying so.
pub(crate) async fn run(args: FanoutArgs) -> Result<()> {
    let tools = tools(&args).await?;
    let machine = super::machine();
    tools.cores.settle()?;
    let mut bench = Bench {
        report: Report {
            machine,
            pinned: tools.cores.is_divided(),
            ..Report::default()
        },
        tools,
        args,
    };
    let wanted = bench.args.only.clone();
    for part in Part::value_variants() {
        if wanted.is_empty() || wanted.contains(part) {
            Box::pin(bench.part(*part)).await?;
        }
    }
    bench.conclude()
}

/// Everything that can be refused before anything is started.
async fn tools(args: &FanoutArgs) -> Result<Tools> {
    let places = Places::new(&args.nats_server, Path::new("data"));
    let beside = || {
        let program = std::env::current_exe().ok()?;
        Some(program.parent()?.join("examples/axum-ws"))
    };
    let wanted = args.compares_with(Contender::Axum);
    let axum = args.peer.clone().or_else(beside).filter(|_| wanted);
    if let Some(axum) = &axum
        && !axum.is_file()
    {
        bail!(
            "there is no broadcaster to compare with at {}: build it with `cargo build --release \
             --example axum-ws`, name one with --peer, or measure without with --alone",
            axum.display()
        );
    }
    Ok(Tools {
        cores: Cores::divide()?,
        nats_server: places.find().await?,
        hold_back_ms: args.hold_back_ms,
        axum,
    })
}

struct Bench {
    args: FanoutArgs,
    tools: Tools,
    report: Report,
}

impl Bench {
    async fn part(&mut self, part: Part) -> Result<()> {
        let shape = |shape: Shape| shape.with_clients(self.args.clients);
        match part {
            Part::A => self.loads(shape(Shape::A), true).await,
            Part::B => self.loads(shape(Shape::B), false).await,
            Part::C => self.loads(shape(Shape::C), false).await,
            Part::RampA => self.ramp(shape(Shape::A)).await,
            Part::RampB => self.ramp(shape(Shape::B)).await,
            Part::HalfB => self.ramp(shape(Shape::HALF_B)).await,
            Part::Slow => self.slow(shape(Shape::SLOW)).await,
            Part::Storm => {
                let storm = storm::raise(&self.tools, shape(Shape::B)).await?;
                self.report.storm = Some(storm);
                Ok(())
            }
            Part::Churn => self.churn(shape(Shape::CHURN)).await,
            Part::CatchUp => {
                for _ in 0..self.args.rounds {
                    let catch_up = catch_up::watch(&self.tools, self.args.behind).await?;
                    self.report.catch_ups.push(catch_up);
                }
                Ok(())
            }
        }
    }

    fn contenders(&self) -> impl Iterator<Item = Contender> + use<> {
        let wanted = Contender::PEERS.map(|peer| self.args.compares_with(peer).then_some(peer));
        [Contender::Tickwire]
            .into_iter()
            .chain(wanted.into_iter().flatten())
    }

    fn span(&self) -> Span {
        let counted = Duration::from_secs(self.args.seconds);
        Span {
            warm: WARM.min(counted),
            counted,
        }
    }

    /// A scenario at its own rate.
    async fn loads(&mut self, shape: Shape, in_both_encodings: bool) -> Result<()> {
        let binary = in_both_encodings.then_some((Contender::Tickwire, Encoding::MessagePack));
        let json = self.contenders().map(|who| (who, Encoding::Json));
        let turns: Vec<_> = json.chain(binary).collect();
        for _ in 0..self.args.rounds {
            for turn in &turns {
                let stand = Stand::build(&self.tools, *turn, shape).await?;
                let (stand, load) = stand.run(shape.rate, self.span()).await?;
                stand.clear().await?;
                tell(&load);
                self.report.loads.push(load);
            }
        }
        let ratios = compare::loads(&self.report.loads, shape.name);
        self.report.ratios.extend(ratios);
        Ok(())
    }

    /// The highest rate of a scenario.
    async fn ramp(&mut self, shape: Shape) -> Result<()> {
        let step = Span {
            warm: WARM / 2,
            counted: Duration::from_secs((self.args.seconds * 2).div_ceil(5)),
        };
        for contender in self.contenders() {
            let ceiling = ramp::climb(&self.tools, contender, shape, step).await?;
            let name = compare::name(shape.name, contender);
            self.report.ceilings.insert(name, ceiling);
        }
        let ratios = compare::ceilings(&self.report.ceilings, shape.name);
        self.report.ratios.extend(ratios);
        Ok(())
    }

    async fn slow(&mut self, shape: Shape) -> Result<()> {
        let counted = Duration::from_secs(self.args.seconds.max(slow::LEAST_SECONDS));
        for _ in 0..PAIRS {
            let slow = slow::pair(&self.tools, shape, counted).await?;
            self.report.slow.push(slow);
        }
        let pairs = self.report.slow.iter();
        let p99 = pairs.map(|pair| quotient(pair.with.p99_ms, pair.without.p99_ms));
        let p99 = median(p99.collect());
        self.report
            .ratios
            .insert("slow.p99_to_none_slow".to_owned(), p99);
        Ok(())
    }

    async fn churn(&mut self, shape: Shape) -> Result<()> {
        let extent = churn::Extent {
            instruments: usize::try_from(self.args.instruments)?,
            ops_per_second: self.args.ops,
        };
        let churn = churn::raise(&self.tools, shape, extent, (PAIRS, self.span())).await?;
        self.report.ratios.extend(compare::churn(&churn.pairs));
        self.report.churn = Some(churn);
        Ok(())
    }

    /// Prints everything, the line of JSON last.
    fn conclude(self) -> Result<()> {
        let report = self.report;
        let pinned = if report.pinned {
            "the server alone on one core, broker, publisher and clients on the rest"
        } else {
            "everything on one core: nothing here is comparable"
        };
        crate::say(&format!("machine: {}; {pinned}\n", report.machine))?;
        for table in tables::of(&report) {
            crate::say(&format!("{table}\n"))?;
        }
        crate::say(&serde_json::to_string(&report)?)?;
        let held_back: Vec<&Load> = ours(&report).filter(|load| load.holes > 0).collect();
        if let Some(load) = held_back.first() {
            bail!(
                "{} holes in scenario {} at {} ticks/s: something was missed without being declared",
                load.holes,
                load.scenario,
                load.ticks_per_second
            );
        }
        if report.storm.as_ref().is_some_and(|storm| storm.holes > 0) {
            bail!("holes after a resume storm: something was missed without being declared");
        }
        let mut churns = report.churn.iter().flat_map(|churn| &churn.pairs);
        if let Some(pair) = churns.find(|pair| pair.is_broken()) {
            bail!(
                "of those who churn {} ops were not carried out, {} ticks were not asked for, {} \
                 connections were closed",
                pair.unanswered,
                pair.strays,
                pair.closed
            );
        }
        Ok(())
    }
}

/// Every load of our own server.
fn ours(report: &Report) -> impl Iterator<Item = &Load> {
    let ceilings = report.ceilings.values();
    let ramps = ceilings.flat_map(|ceiling| [&ceiling.highest, &ceiling.failed, &ceiling.half]);
    let pairs = report
        .slow
        .iter()
        .flat_map(|pair| [&pair.without, &pair.with]);
    let churns = report.churn.iter().flat_map(|churn| &churn.pairs);
    let churns = churns.flat_map(|pair| [&pair.without, &pair.with]);
    let all = report
        .loads
        .iter()
        .chain(ramps.flatten())
        .chain(pairs)
        .chain(churns);
    all.filter(|load| load.server == Contender::Tickwire)
}

/// Says how far it is.
fn tell(load: &Load) {
    info!(
        scenario = load.scenario,
        server = load.server.name(),
        encoding = load.encoding,
        ticks_per_second = load.ticks_per_second,
        deliveries_per_second = load.deliveries_per_second.round(),
        kilo_per_cpu_second = load.kilo_per_cpu_second,
        p50_ms = load.p50_ms,
        p99_ms = load.p99_ms,
        passes = load.passes(),
        "measured"
    );
}
