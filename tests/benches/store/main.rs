//! How many rows a second a whole recorder takes out of a broker, and how many its store takes alone:
//! Postgres and SQLite, beside a plain COPY of the same rows into the same tables on the same server.
//!
//! `make bench-store`; the last line is JSON.

mod whole;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use api::recorder::BATCH;
use api::store::postgres::{Args as PostgresArgs, Postgres};
use api::store::sqlite::Sqlite;
use api::store::{Content, Row, TickStore};
use clap::Parser;
use daemon::nats::Secret;
use futures_util::TryStreamExt as _;
use postgres_server::{Server, connect};
use schemas::codec;
use schemas::id::{Interval, Symbol, Venue};
use schemas::position::{Epoch, StreamSeq};
use schemas::tick::{Bar, Head, Quote, Side, Tick, Trade};
use schemas::time::{Clock as _, SystemClock, UnixNanos};
use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::time::Instant;
use whole::Broker;

const COLUMNS: &str = "at, created, gen, s, kind, venue, symbol, payload, \
                       price, size, bid, bid_size, ask, ask_size";

/// Measure how many rows a second can be stored.
#[derive(Debug, Parser)]
struct Args {
    /// Rows of each round
    #[arg(long, default_value = "200000")]
    rows: u64,

    /// Rows of each transaction of COPY and of a store alone; a whole recorder fetches as many as by default
    #[arg(long, default_value_t = BATCH)]
    batch: usize,

    /// Instruments
    #[arg(long, default_value = "500")]
    symbols: u64,

    /// Rounds, each in databases of its own; the median counts
    #[arg(long, default_value = "3")]
    rounds: usize,

    /// The nats-server to run; the one that `make setup` installed by default
    #[arg(long, env = "TICKWIRE_NATS_SERVER_BIN")]
    nats_server_bin: Option<PathBuf>,
}

/// What was measured; each is the time for all rows.
#[derive(Debug, Default)]
struct Times {
    copy: Vec<Duration>,
    postgres: Vec<Duration>,
    again: Vec<Duration>,
    sqlite: Vec<Duration>,
    postgres_bars: Vec<Duration>,
    sqlite_bars: Vec<Duration>,
    whole_postgres: Vec<Duration>,
    whole_sqlite: Vec<Duration>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let server = Server::start().await?;
    let rows = rows(&args)?;
    let bars = bars(&args)?;
    let mut times = Times::default();
    for _ in 0..args.rounds {
        round(&server, &args, (&rows, &bars), &mut times).await?;
    }
    report(&args, times)
}

fn epoch() -> Epoch {
    Epoch::new(UnixNanos::new(1), 0)
}

/// Trades and quotes of many instruments, one a millisecond up to now.
fn rows(args: &Args) -> Result<Vec<Row>> {
    let venue = Venue::new("bench")?;
    let span = i64::try_from(args.rows)? * 1_000_000;
    let begin = SystemClock.now().offset(-span);
    (0..args.rows)
        .map(|number| {
            let symbol = Symbol::new(&format!("S{:04}USDT", number * 7 % args.symbols))?;
            let at = begin.offset(i64::try_from(number)? * 1_000_000);
            let mut head = Head::new(venue.clone(), symbol.clone(), at.offset(40_000));
            head.event = Some(at);
            let price = |cents: u64| format!("{}.{:02}", 100 + cents / 100, cents % 100);
            let tick: Tick = if number % 10 < 7 {
                Quote {
                    head,
                    bid: Some(price(number % 9_000).parse()?),
                    bid_size: Some("0.51500000".parse()?),
                    ask: Some(price(number % 9_000 + 1).parse()?),
                    ask_size: Some("12.00040000".parse()?),
                }
                .into()
            } else {
                Trade {
                    head,
                    id: number.to_string(),
                    price: price(number % 9_000).parse()?,
                    size: "0.01250000".parse()?,
                    side: Side::Buy,
                    conditions: None,
                }
                .into()
            };
            let kind = tick.kind();
            let venue = venue.clone();
            Ok(Row {
                seq: StreamSeq::new(number + 1),
                content: Content::Event {
                    kind,
                    venue,
                    symbol,
                    at,
                },
                payload: codec::to_msgpack(&tick)?.into(),
            })
        })
        .collect()
}

/// Bars of one second, of each instrument in turn.
fn bars(args: &Args) -> Result<Vec<Row>> {
    let venue = Venue::new("bench")?;
    let step = 1_000_000_000;
    let seconds = i64::try_from(args.rows / args.symbols)?;
    let begin = UnixNanos::new((SystemClock.now().get() / step - seconds) * step);
    (0..args.rows)
        .map(|number| {
            let symbol = Symbol::new(&format!("S{:04}USDT", number % args.symbols))?;
            let second = number / args.symbols;
            let at = begin.offset(i64::try_from(second)? * step);
            let bar = Bar {
                head: Head::new(venue.clone(), symbol.clone(), at.offset(step)),
                interval: Interval::Second1,
                start: at,
                open: "100.25".parse()?,
                high: "101.75".parse()?,
                low: "99.50".parse()?,
                close: "100.75".parse()?,
                volume: "12.51250000".parse()?,
                trades: 42,
            };
            let payload = codec::to_msgpack(&Tick::from(bar))?.into();
            let content = Content::Bar {
                venue: venue.clone(),
                symbol,
                interval: Interval::Second1,
                at,
            };
            Ok(Row {
                seq: StreamSeq::new(args.rows + number + 1),
                content,
                payload,
            })
        })
        .collect()
}

async fn round(
    server: &Server,
    args: &Args,
    (rows, bars): (&[Row], &[Row]),
    times: &mut Times,
) -> Result<()> {
    let url = server.database().await?;
    let store = Postgres::open(&Secret::from(&*url), &PostgresArgs::default())?;
    store.ready().await?;
    times.postgres.push(record(&store, args, rows).await?);
    times.again.push(record(&store, args, rows).await?);
    times.postgres_bars.push(record(&store, args, bars).await?);
    let mut outside = connect(&url).await?;
    let batches = exported(&mut outside, args).await?;

    let other = server.database().await?;
    let store = Postgres::open(&Secret::from(&*other), &PostgresArgs::default())?;
    // The same partitions, and nothing in them.
    store
        .record(epoch(), rows.get(..1).unwrap_or_default())
        .await?;
    store
        .record(epoch(), rows.get(rows.len() - 1..).unwrap_or_default())
        .await?;
    let mut outside = connect(&other).await?;
    outside.execute("TRUNCATE events").await?;
    times.copy.push(copied(&mut outside, &batches).await?);
    let stored: i64 = sqlx::query_scalar("SELECT count(*) FROM events")
        .fetch_one(&mut outside)
        .await?;
    ensure!(
        u64::try_from(stored)? == args.rows,
        "{stored} rows were copied"
    );

    let dir = tempfile::tempdir()?;
    let store = Sqlite::open(&dir.path().join("history.sqlite"), None).await?;
    times.sqlite.push(record(&store, args, rows).await?);
    times.sqlite_bars.push(record(&store, args, bars).await?);

    let broker = Broker::filled(args.nats_server_bin.as_deref(), rows).await?;
    let url = server.database().await?;
    let store = Postgres::open(&Secret::from(&*url), &PostgresArgs::default())?;
    store.ready().await?;
    times.whole_postgres.push(broker.record(store, rows).await?);
    let store = Sqlite::open(&dir.path().join("whole.sqlite"), None).await?;
    times.whole_sqlite.push(broker.record(store, rows).await?);
    Ok(())
}

async fn record(store: &impl TickStore, args: &Args, rows: &[Row]) -> Result<Duration> {
    let begun = Instant::now();
    for batch in rows.chunks(args.batch) {
        store.record(epoch(), batch).await?;
    }
    Ok(begun.elapsed())
}

/// What the store wrote, as the server itself writes it, in the same batches.
async fn exported(connection: &mut PgConnection, args: &Args) -> Result<Vec<Vec<u8>>> {
    let mut batches = Vec::new();
    let step = u64::try_from(args.batch)?;
    for first in (1..=args.rows).step_by(args.batch) {
        let end = first + step;
        let sql = format!(
            "COPY (SELECT {COLUMNS} FROM events WHERE s >= {first} AND s < {end} ORDER BY s)
             TO STDOUT (FORMAT binary)"
        );
        let mut bytes = Vec::new();
        let mut stream = connection.copy_out_raw(&sql).await?;
        while let Some(part) = stream.try_next().await? {
            bytes.extend_from_slice(&part);
        }
        drop(stream);
        batches.push(bytes);
    }
    Ok(batches)
}

/// Each batch is a transaction, as it is for the store.
async fn copied(connection: &mut PgConnection, batches: &[Vec<u8>]) -> Result<Duration> {
    let sql = format!("COPY events ({COLUMNS}) FROM STDIN (FORMAT binary)");
    let begun = Instant::now();
    for batch in batches {
        let mut transaction = connection.begin().await?;
        let mut copying = transaction.copy_in_raw(&sql).await?;
        copying.send(&**batch).await?;
        copying.finish().await?;
        transaction.commit().await?;
    }
    Ok(begun.elapsed())
}

fn report(args: &Args, times: Times) -> Result<()> {
    let rate = |mut times: Vec<Duration>| -> Result<f64> {
        times.sort_unstable();
        let median = times.get(times.len() / 2).context("there was no round")?;
        let rows = u32::try_from(args.rows)?;
        Ok((f64::from(rows) / median.as_secs_f64()).round())
    };
    let (copy, postgres) = (rate(times.copy)?, rate(times.postgres)?);
    let (again, sqlite) = (rate(times.again)?, rate(times.sqlite)?);
    let (postgres_bars, sqlite_bars) = (rate(times.postgres_bars)?, rate(times.sqlite_bars)?);
    let (whole_postgres, whole_sqlite) = (rate(times.whole_postgres)?, rate(times.whole_sqlite)?);
    let mut out = io::stdout().lock();
    let (rows, batch, rounds) = (args.rows, args.batch, args.rounds);
    writeln!(
        out,
        "{rows} trades and quotes, {batch} a transaction, median of {rounds}"
    )?;
    writeln!(out, "{:<44} {:>9} {:>8}", "", "rows/s", "of COPY")?;
    for (name, rate) in [
        ("plain COPY, Postgres", copy),
        ("store, Postgres", postgres),
        ("store, Postgres, everything again", again),
        ("store, Postgres, bars", postgres_bars),
        ("store, SQLite", sqlite),
        ("store, SQLite, bars", sqlite_bars),
        ("whole recorder, Postgres", whole_postgres),
        ("whole recorder, SQLite", whole_sqlite),
    ] {
        writeln!(out, "{name:<44} {rate:>9.0} {:>7.0}%", 100.0 * rate / copy)?;
    }
    let line = json!({
        "bench": "store", "rows": rows, "batch": batch, "rounds": rounds,
        "copy_rows_per_s": copy, "postgres_rows_per_s": postgres,
        "postgres_again_rows_per_s": again, "sqlite_rows_per_s": sqlite,
        "postgres_bars_per_s": postgres_bars, "sqlite_bars_per_s": sqlite_bars,
        "whole_postgres_rows_per_s": whole_postgres, "whole_sqlite_rows_per_s": whole_sqlite,
        "postgres_of_copy": (1_000.0 * postgres / copy).round() / 1_000.0,
        "sqlite_of_copy": (1_000.0 * sqlite / copy).round() / 1_000.0,
    });
    writeln!(out, "{line}")?;
    Ok(())
}
