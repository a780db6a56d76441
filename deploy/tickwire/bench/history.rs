//! `tickwire bench history`: fills a database, runs one `tickwire api` on it, and says how fast ranges
//! are answered and what a large export costs in memory.
//!
//! Client, server and database share this machine. Requests go over one connection, each for another
//! range, so that no answer was kept from an earlier one. Memory is the server's resident set, looked at
//! throughout the export.

mod client;
mod fill;
mod server;

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use api::store::{Database, Location, postgres};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use tempfile::TempDir;

use crate::broker::binary::{Places, Search};
use client::Client;
use server::Server;

/// The most bars that one request may ask for.
const PAGE: u64 = 10_000;
const VENUE: &str = "bench";
const SYMBOL: &str = "AAA";
/// Nanoseconds since 1970 of the first trade and the first bar: 2023-11-14T22:13:20Z.
const START: i64 = 1_700_000_000_000_000_000;
const SECOND: i64 = 1_000_000_000;

/// Arguments of `tickwire bench history`.
#[derive(Debug, clap::Args)]
pub(crate) struct HistoryArgs {
    /// Trades that are exported
    #[arg(long, default_value = "1000000", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    trades: u64,

    /// One-second bars that ranges are read of
    #[arg(long, default_value = "1000000", value_parser = clap::value_parser!(u64).range(20_000..=100_000_000))]
    bars: u64,

    /// Requests for each figure
    #[arg(long, default_value = "200", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    requests: u32,

    #[command(flatten)]
    nats_server: Search,

    /// An empty Postgres: `postgres://user:password@host/database`; a SQLite file that goes away again
    /// where nothing is said
    #[arg(long, env = "TICKWIRE_STORE", hide_env_values = true)]
    store: Option<OsString>,

    #[command(flatten)]
    postgres: postgres::Args,
}

/// How long requests took.
struct Times(Vec<Duration>);

impl Times {
    /// Milliseconds, below which so many of a hundred lie.
    fn percentile(&mut self, percent: usize) -> f64 {
        self.0.sort_unstable();
        let at = self.0.len().saturating_sub(1) * percent / 100;
        millis(self.0.get(at).copied().unwrap_or_default())
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// Measures and prints; the last line is JSON.
///
/// # Errors
///
/// Something that is needed does not start, or an answer is not what was asked for.
pub(crate) async fn run(args: HistoryArgs) -> Result<()> {
    let places = Places::new(&args.nats_server, Path::new("data"));
    let nats_server = places.find().await?;
    let dir = TempDir::new().context("there is no room for a database")?;
    let store = args.store.clone();
    let store = store.unwrap_or_else(|| dir.path().join("history.sqlite").into());
    let location = Location::from(store.clone());
    let kind = match &location {
        Location::File(_) => "SQLite",
        Location::Postgres(_) => "Postgres",
    };
    crate::say(&format!(
        "machine: {}; client, server and {kind} together",
        super::machine()
    ))?;
    let database = Database::open(&location, None, &args.postgres).await?;
    let (trades, bars) = fill::fill(&database, args.trades, args.bars).await?;
    crate::say(&format!(
        "filled: {trades:.0} trades/s, {bars:.0} bars/s, 2,000 to a transaction"
    ))?;
    drop(database);
    let server = Server::start(dir.path(), &nats_server.path, &store).await?;
    let measured = measure(&args, &server).await;
    let ended = server.end().await;
    let mut figures = measured?;
    ended?;
    if let Some(figures) = figures.as_object_mut() {
        figures.insert("store".to_owned(), kind.into());
    }
    crate::say(&figures.to_string())
}

async fn measure(args: &HistoryArgs, server: &Server) -> Result<serde_json::Value> {
    // First, on a fresh server: memory that other answers have left would hide what this one takes.
    let export = export(args, server).await?;
    let stored = ranges(args, server, "1s", PAGE).await?;
    let rolled = ranges(args, server, "1m", PAGE / 60).await?;
    Ok(json!({ "bars_1s": stored, "bars_1m_of_1s": rolled, "export": export }))
}

/// Reads `count` bars at random places.
async fn ranges(
    args: &HistoryArgs,
    server: &Server,
    interval: &str,
    count: u64,
) -> Result<serde_json::Value> {
    let mut client = Client::connect(server.address).await?;
    let mut rng = StdRng::seed_from_u64(7);
    let mut times = Times(Vec::new());
    for _ in 0..args.requests {
        let first = rng.random_range(0..=args.bars - PAGE);
        let from = START + i64::try_from(first)? * SECOND;
        let to = from + i64::try_from(PAGE)? * SECOND;
        let path = format!(
            "/v1/bars?venue={VENUE}&symbol={SYMBOL}&interval={interval}&from={from}&to={to}&limit={PAGE}"
        );
        let body = client.get(&path, "application/json").await?;
        let found = body.count(b"\"t0\":");
        ensure!(
            found >= count && found <= count + 1,
            "{found} of {count} bars of {interval} were answered"
        );
        times.0.push(body.took);
    }
    let (p50, p99) = (times.percentile(50), times.percentile(99));
    let whence = if interval == "1s" {
        ""
    } else {
        " made of 10,000 of 1s"
    };
    crate::say(&format!(
        "{count} bars of {interval}{whence}: p50 {p50:.1} ms, p99 {p99:.1} ms, {} requests",
        args.requests
    ))?;
    Ok(json!({ "count": count, "p50_ms": p50, "p99_ms": p99 }))
}

/// Exports all trades in one answer.
async fn export(args: &HistoryArgs, server: &Server) -> Result<serde_json::Value> {
    let mut client = Client::connect(server.address).await?;
    let before = server.resident()?;
    let path = format!("/v1/trades?venue={VENUE}&symbol={SYMBOL}");
    let mut highest = before;
    let watched = client.read(&path, "application/x-ndjson", || {
        highest = highest.max(server.resident()?);
        Ok(())
    });
    let body = watched.await?;
    let lines = body.lines;
    ensure!(
        lines == args.trades,
        "{lines} of {} trades were exported",
        args.trades
    );
    let growth = highest.saturating_sub(before);
    let (first, all) = (millis(body.first), body.took.as_secs_f64());
    let mib = |bytes: u64| bytes / (1 << 20);
    crate::say(&format!(
        "export of {lines} trades as NDJSON: first byte after {first:.1} ms, {} MiB in {all:.1} s, \
         the server's memory grows by {} MiB from {} MiB",
        mib(body.bytes),
        mib(growth),
        mib(before)
    ))?;
    Ok(json!({
        "trades": lines,
        "first_byte_ms": first,
        "seconds": all,
        "bytes": body.bytes,
        "resident_bytes": before,
        "growth_bytes": growth,
    }))
}
