//! What `tickwire bench fanout` is asked for.

use std::path::PathBuf;

use super::contender::Contender;
use crate::broker::binary::Search;

/// Arguments of `tickwire bench fanout`.
#[derive(Debug, clap::Args)]
pub(crate) struct FanoutArgs {
    /// Measure only these
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(super) only: Vec<Part>,

    /// How long each load is counted
    #[arg(long, default_value = "10", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(super) seconds: u64,

    /// How often each load is repeated; servers take turns
    #[arg(long, default_value = "2", value_parser = clap::value_parser!(u32).range(1..=20))]
    pub(super) rounds: u32,

    /// How many instruments `churn` knows
    #[arg(long, default_value = "100000", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) instruments: u32,

    /// How many ops per second `churn` asks for
    #[arg(long, default_value = "10000", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) ops: u32,

    /// How many ticks `catch-up` is behind
    #[arg(long, default_value = "1000000", value_parser = clap::value_parser!(u64).range(1..=5_000_000))]
    pub(super) behind: u64,

    /// Another number of clients than the scenarios say
    #[arg(long)]
    pub(super) clients: Option<usize>,

    /// For how many milliseconds the fanout may hold messages back, if not as by default
    #[arg(long)]
    pub(super) hold_back_ms: Option<u64>,

    /// Compare only with these
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(super) beside: Vec<Contender>,

    /// The axum broadcaster to compare with; examples/axum-ws beside this program by default
    #[arg(long)]
    pub(super) peer: Option<PathBuf>,

    /// Compare with nobody
    #[arg(long, conflicts_with_all = ["beside", "peer"])]
    pub(super) alone: bool,

    #[command(flatten)]
    pub(super) nats_server: Search,
}

impl FanoutArgs {
    /// Whether somebody is to be compared with.
    pub(super) fn compares_with(&self, peer: Contender) -> bool {
        !self.alone && (self.beside.is_empty() || self.beside.contains(&peer))
    }
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Part {
    /// 1,000 clients on one hot topic, 100 ticks/s; ours in both encodings
    A,
    /// 1,000 clients, each on 10 of 500 topics, 2,000 ticks/s by Zipf's law
    B,
    /// 10,000 clients on one topic, 1 tick/s; memory per idle connection
    C,
    /// The highest rate of A, and latency at half of it
    RampA,
    /// The highest rate of B, and latency at half of it
    RampB,
    /// The highest rate of B for servers that stand still half of the time
    HalfB,
    /// 200 clients at 100 KB/s each, of which 20 stop reading
    Slow,
    /// The clients of B cut at once, and back with their positions
    Storm,
    /// 100,000 instruments, and 10,000 subscriptions and unsubscriptions a second beside a load like A's
    Churn,
    /// A replica that was stopped while 1,000,000 ticks were stored reads them
    CatchUp,
}
