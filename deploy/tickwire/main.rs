//! The one binary: every role, and `up`, which is all of them on one machine.

mod bench;
mod broker;
mod data;
mod export;
mod gauge;
mod import;
mod process;
mod provision;
mod roles;
mod up;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use daemon::telemetry::{self, LogArgs};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::debug;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Market data from any feed to any number of screens and services.
#[derive(Debug, Parser)]
#[command(name = "tickwire", version, about, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    log: LogArgs,

    #[command(subcommand)]
    entry: Entry,
}

#[derive(Debug, Subcommand)]
enum Entry {
    #[command(flatten)]
    Command(Command),
    /// Become the broker of `up`
    #[command(hide = true)]
    NatsChild(broker::child::ChildArgs),
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole system in one process, with a broker of its own
    Up(Box<up::UpArgs>),
    /// Run feeds and write their ticks to the broker
    Ingest(Box<roles::IngestArgs>),
    /// Serve WebSocket clients
    Fanout(Box<roles::FanoutArgs>),
    /// Write ticks to the database
    Recorder(Box<roles::RecorderArgs>),
    /// Answer over HTTP, and show the console
    Api(Box<roles::ApiArgs>),
    /// Put files of trades or captured frames into the database
    Import(Box<import::ImportArgs>),
    /// Write a range of the database to a file: CSV, JSON lines or Parquet
    Export(Box<export::ExportArgs>),
    /// Create or update the stream, the buckets and the recorder's consumer on a broker
    Provision(provision::ProvisionArgs),
    /// Measure latency, rate and load on this machine
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Print the JSON Schema of ticks and WebSocket messages
    Schema,
    /// Print the version
    Version,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.entry {
        Entry::Command(command) => telemetry::init(&cli.log).and_then(|()| start(command)),
        // Becomes another program, so no thread may have been started.
        Entry::NatsChild(args) => broker::child::become_server(&args).map(|never| match never {}),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => complain(&failure),
    }
}

/// Says why the process ends, in one sentence for whoever looks at the terminal.
fn complain(failure: &anyhow::Error) -> ExitCode {
    // With stderr gone there is nobody left to tell.
    drop(writeln!(io::stderr(), "tickwire: {failure:#}"));
    ExitCode::FAILURE
}

fn start(command: Command) -> Result<()> {
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        debug!("another provider of cryptography was installed before");
    }
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    runtime.block_on(run(command))
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Up(args) => Box::pin(up::run(*args)).await,
        Command::Ingest(args) => Box::pin(roles::ingest(*args)).await,
        Command::Fanout(args) => Box::pin(roles::fanout(*args)).await,
        Command::Recorder(args) => Box::pin(roles::recorder(*args)).await,
        Command::Api(args) => Box::pin(roles::api(*args)).await,
        Command::Import(args) => Box::pin(import::run(*args)).await,
        Command::Export(args) => Box::pin(export::run(*args)).await,
        Command::Provision(args) => provision::run(args).await,
        Command::Bench(args) => Box::pin(bench::run(args)).await,
        Command::Schema => say(&serde_json::to_string_pretty(
            &schemas::describe::describe(),
        )?),
        Command::Version => say(concat!("tickwire ", env!("CARGO_PKG_VERSION"))),
    }
}

/// Writes to stdout, in one piece so that logs do not come between.
fn say(text: &str) -> Result<()> {
    let whole = format!("{text}\n");
    io::stdout()
        .write_all(whole.as_bytes())
        .context("stdout is closed")
}

/// Every client is a file descriptor: takes as many as the system lets us.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(problem) = setrlimit(Resource::Nofile, all) {
        debug!(%problem, ?limit, "the limit of open files stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::{Cli, Command, Entry, run};

    #[test]
    fn no_two_arguments_are_in_each_others_way() {
        Cli::command().debug_assert();
    }

    #[test]
    fn up_refuses_to_listen_where_others_can_reach_it() {
        for flag in ["--http", "--ws", "--ops"] {
            let parse = |address| {
                Cli::try_parse_from(["tickwire", "up", "--feeds", "f.toml", flag, address])
            };
            for good in ["127.0.0.1:0", "127.8.8.8:80", "[::1]:8080"] {
                assert!(parse(good).is_ok(), "{flag} {good}");
            }
            for bad in ["0.0.0.0:80", "192.168.1.7:80", "[::]:80", "10.0.0.1:80"] {
                let refusal = parse(bad).unwrap_err().to_string();
                assert!(
                    refusal.contains(flag) && refusal.contains("no keys"),
                    "{refusal}"
                );
            }
            for bad in ["", "8080", "localhost", "127.0.0.1", "127.0.0.1:99999"] {
                assert!(parse(bad).is_err(), "{flag} {bad}");
            }
        }
    }

    #[tokio::test]
    async fn no_role_serves_strangers_unasked() {
        for (role, flag) in [("fanout", "--ws"), ("api", "--http")] {
            let cli = Cli::try_parse_from(["tickwire", role, flag, "0.0.0.0:0"]).unwrap();
            let Entry::Command(command @ (Command::Fanout(_) | Command::Api(_))) = cli.entry else {
                panic!("{role} is another command");
            };
            let refusal = run(command).await.unwrap_err().to_string();
            assert!(
                refusal.contains(flag) && refusal.contains("--open"),
                "{refusal}"
            );
        }
    }

    #[tokio::test]
    async fn a_login_in_an_address_is_refused_and_not_repeated() {
        let url = "nats://me:s3cret@127.0.0.1:4222";
        let dir = tempfile::tempdir().unwrap();
        let feeds = dir.path().join("feeds.toml");
        std::fs::write(&feeds, "[[feed]]\nname = \"a\"\nsource = \"sim\"\n").unwrap();
        let (feeds, data) = (feeds.to_str().unwrap(), dir.path().to_str().unwrap());
        let up = [
            "tickwire",
            "up",
            "--feeds",
            feeds,
            "--data",
            data,
            "--http",
            "127.0.0.1:0",
            "--ws",
            "127.0.0.1:0",
            "--ops",
            "127.0.0.1:0",
            "--nats-url",
            url,
        ];
        let provision = ["tickwire", "provision", "--nats-url", url];
        for arguments in [&up[..], &provision[..]] {
            let Entry::Command(command) = Cli::try_parse_from(arguments).unwrap().entry else {
                panic!("another command");
            };
            let refusal = format!("{:#}", Box::pin(run(command)).await.unwrap_err());
            assert!(
                refusal.contains("--nats-user") && refusal.contains("--nats-password-file"),
                "{refusal}"
            );
            assert!(!refusal.contains("s3cret"), "{refusal}");
        }
    }
}
