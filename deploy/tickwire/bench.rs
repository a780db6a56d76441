//! `tickwire bench`: how fast the whole system is, what an ingest stores, what a fanout carries beside
//! others, and how fast history is answered.
//!
//! | module | does |
//! |---|---|
//! | `fanout`, `history`, `ingest`, `system` | the measurements |
//! | `ground`, `server` | a broker, and what runs on it, each a process |
//! | `cores`, `usage` | the core of what is measured, and what it has used |
//! | `brake` | half of that core |

#[cfg(target_os = "linux")]
mod brake;
#[cfg(target_os = "linux")]
mod cores;
#[cfg(target_os = "linux")]
mod fanout;
#[cfg(target_os = "linux")]
mod ground;
mod history;
#[cfg(target_os = "linux")]
mod ingest;
#[cfg(target_os = "linux")]
mod server;
mod system;
mod usage;

use anyhow::Result;

/// Instruments of the simulated venue.
const INSTRUMENTS: u32 = 200;
/// A rate counts as reached if so many of a hundred ticks came in the time.
const REACHED: u64 = 97;

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum BenchCommand {
    /// The whole system in one process: latency, and the highest rate that is received whole
    System(system::SystemArgs),
    /// One API on a database that is filled first: ranges of bars, and a large export
    History(history::HistoryArgs),
    /// One ingest on a core of its own: what it stores in order, and how soon that is acknowledged
    #[cfg(target_os = "linux")]
    Ingest(ingest::IngestArgs),
    /// One fanout on a core of its own, beside a plain axum broadcaster and NATS' own WebSocket
    /// gateway: load, ceilings, memory, slow clients, resume storms
    #[cfg(target_os = "linux")]
    Fanout(Box<fanout::FanoutArgs>),
}

/// Measures and prints.
///
/// # Errors
///
/// Something that is needed does not start, or something was missed without being declared.
pub(crate) async fn run(command: BenchCommand) -> Result<()> {
    match command {
        BenchCommand::System(args) => system::run(args).await,
        BenchCommand::History(args) => Box::pin(history::run(args)).await,
        #[cfg(target_os = "linux")]
        BenchCommand::Ingest(args) => Box::pin(ingest::run(args)).await,
        #[cfg(target_os = "linux")]
        BenchCommand::Fanout(args) => Box::pin(fanout::run(*args)).await,
    }
}

/// The feeds of a simulated venue that makes so many ticks per second.
fn simulator(rate: u32) -> String {
    format!(
        "[[feed]]\nname = \"sim\"\nsource = \"sim\"\ninstruments = {INSTRUMENTS}\nrate = {rate}\n"
    )
}

/// Whether a rate counts as reached.
fn is_reached(ticks: u64, rate: u32, seconds: u64) -> bool {
    let wanted = u64::from(rate).saturating_mul(seconds);
    ticks.saturating_mul(100) >= wanted.saturating_mul(REACHED)
}

/// Names the machine: figures mean nothing without it.
fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .and_then(|line| line.split_once(": "))
        .map_or("an unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{cores} cores, {model}")
}
