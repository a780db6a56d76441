//! Logs go to stderr: compact on a terminal, JSON otherwise.

use std::io::{self, IsTerminal};

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

/// What is logged, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct LogArgs {
    /// What to log: `info`, or directives such as `info,fanout=debug`
    #[arg(
        long,
        env = "TICKWIRE_LOG",
        default_value = "info,async_nats=warn",
        global = true
    )]
    pub log: String,

    /// How to write logs
    #[arg(
        long,
        env = "TICKWIRE_LOG_FORMAT",
        default_value = "auto",
        global = true
    )]
    pub log_format: Format,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Compact on a terminal, JSON otherwise.
    Auto,
    /// One line of text for each event.
    Compact,
    /// One JSON object for each event.
    Json,
}

/// Starts logging; once in a process.
///
/// # Errors
///
/// The filter cannot be read, or logging was started before.
pub fn init(args: &LogArgs) -> Result<()> {
    let filter = EnvFilter::try_new(&args.log)
        .with_context(|| format!("--log {:?} is not a log filter", args.log))?;
    let terminal = io::stderr().is_terminal();
    let json = match args.log_format {
        Format::Auto => !terminal,
        Format::Compact => false,
        Format::Json => true,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    let started = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.compact().with_ansi(terminal).try_init()
    };
    started.map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))
}
