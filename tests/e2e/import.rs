//! Files of trades come into the database whole, once, and with the right bars, however often the
//! import is cut off; and what is exported can be imported again.

mod tape;

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use api::store::{Content, Database, Location, Row, Series, TickStore, postgres};
use postgres_server::Server;
use rustix::process::Signal;
use schemas::codec;
use schemas::id::{Interval, Kind};
use schemas::position::{Epoch, StreamSeq};
use schemas::tick::{Bar, Head, Tick};
use schemas::time::UnixNanos;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::world::{BINARY, signal, until};
use tape::{Contents, Tape, venue};

/// How long an import may take on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_mins(10);

fn tickwire(command: &str, store: &str, arguments: &[&str]) -> Command {
    let mut process = Command::new(BINARY);
    process
        .args([command, "--store", store])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    process
}

/// The import of a file, in small batches.
fn import(store: &str, file: &Path, arguments: &[&str]) -> Command {
    let mut process = tickwire("import", store, arguments);
    process
        .args(["--venue", "x", "--format", "csv", "--batch-rows", "1000"])
        .arg(file);
    process
}

/// Runs to the end: exit code, stdout, stderr.
async fn run(mut process: Command) -> Result<(Option<i32>, String, String)> {
    let output = timeout(PATIENCE, process.output()).await;
    let Output {
        status,
        stdout,
        stderr,
    } = output.context("it does not end")??;
    Ok((
        status.code(),
        String::from_utf8(stdout)?,
        String::from_utf8(stderr)?,
    ))
}

/// Runs to the end, which is a good one: stdout.
async fn succeed(process: Command) -> Result<String> {
    let (code, out, err) = run(process).await?;
    ensure!(code == Some(0), "ended with {code:?}: {out}{err}");
    Ok(out)
}

async fn open(store: &str) -> Result<Database> {
    let location = Location::from(std::ffi::OsString::from(store));
    Ok(Database::open(&location, None, &postgres::Args::default()).await?)
}

/// Starts it, and ends it without warning as soon as the database holds so many of these.
async fn kill_at(
    mut process: Command,
    database: &Database,
    what: Held,
    least: usize,
) -> Result<()> {
    let mut child: Child = process.spawn()?;
    until("the import does not get there", async || {
        ensure!(child.try_wait()?.is_none(), "the import ended too early");
        Ok(what.count(database).await? >= least)
    })
    .await?;
    Ok(child.kill().await?)
}

/// What a database holds of the tape's venue.
#[derive(Clone, Copy)]
enum Held {
    Trades,
    Bars,
}

impl Held {
    async fn count(self, database: &Database) -> Result<usize> {
        let mut count = 0;
        for name in tape::SYMBOLS {
            let symbol = name.parse()?;
            let series = match self {
                Self::Trades => Series::Events(Kind::Trade, venue(), symbol),
                Self::Bars => Series::Bars(venue(), symbol, Interval::Second1),
            };
            count += tape::rows(database, series).await?.len();
        }
        Ok(count)
    }
}

fn file(dir: &TempDir, name: &str, text: &str) -> Result<PathBuf> {
    let path = dir.path().join(name);
    std::fs::write(&path, text)?;
    Ok(path)
}

fn sqlite(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).to_string_lossy().into_owned()
}

/// A bar and trades as a stream had them, in the database before anything is imported: the trades,
/// the bar's key.
async fn record_live(database: &Database, tape: &Tape) -> Result<(Vec<usize>, tape::BarKey)> {
    let live = Epoch::new(UnixNanos::new(tape::START), 0);
    let is_picked = |index: &usize| tape.trades[*index].is_numbered();
    let picked = (0..tape.trades.len()).step_by(500).filter(is_picked);
    let picked: Vec<usize> = picked.collect();
    let mut rows = Vec::new();
    for (seq, index) in (1..).zip(&picked) {
        let tick: Tick = tape.trades[*index].tick().into();
        let head = tick.head();
        rows.push(Row {
            seq: StreamSeq::new(seq),
            content: Content::Event {
                kind: tick.kind(),
                venue: head.venue.clone(),
                symbol: head.symbol.clone(),
                at: head.event.context("a time")?,
            },
            payload: codec::to_msgpack(&tick)?.into(),
        });
    }
    let first = &tape.trades[0];
    let (symbol, interval) = (first.symbol(), Interval::Hour1);
    let start = UnixNanos::new(first.at.div_euclid(interval.nanos()) * interval.nanos());
    let price = "1".parse()?;
    let bar = Bar {
        head: Head::new(venue(), symbol.clone(), start),
        interval,
        start,
        open: price,
        high: price,
        low: price,
        close: price,
        volume: "1".parse()?,
        trades: 1,
    };
    rows.push(Row {
        seq: StreamSeq::new(1_000_000),
        content: Content::Bar {
            venue: venue(),
            symbol: symbol.clone(),
            interval,
            at: start,
        },
        payload: codec::to_msgpack(&bar.into())?.into(),
    });
    database.record(live, &rows).await?;
    let key = (symbol.as_str().to_owned(), interval, start.get());
    Ok((picked, key))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_is_killed_again_and_again_comes_to_the_same() -> Result<()> {
    let dir = TempDir::new()?;
    let store = sqlite(&dir, "history.sqlite");
    let database = open(&store).await?;
    let tape = Tape::new(7, 50_000);
    let (picked, live_bar) = record_live(&database, &tape).await?;
    let path = file(&dir, "trades.csv", &tape.csv())?;
    for (what, least) in [
        (Held::Trades, 10_000),
        (Held::Trades, 30_000),
        (Held::Bars, 10),
        (Held::Bars, 2_000),
    ] {
        kill_at(import(&store, &path, &[]), &database, what, least).await?;
    }
    let said = succeed(import(&store, &path, &[])).await?;
    ensure!(said.contains("50001 lines, 0 of them bad"), "{said}");

    let mut expected = tape.contents();
    let live = ["1"; 5].join(" ") + " 1";
    let recomputed = expected.bars.insert(live_bar, live);
    ensure!(recomputed.is_some(), "the live bar lies elsewhere");
    Contents::read(&database).await?.compare(&expected)?;
    let live = Epoch::new(UnixNanos::new(tape::START), 0);
    ensure!(
        Contents::rows_of(&database, live).await? == picked.len(),
        "live rows changed"
    );

    // Once more it is known; from the start, nothing is new.
    let said = succeed(import(&store, &path, &[])).await?;
    ensure!(said.contains("was imported before"), "{said}");
    let said = succeed(import(&store, &path, &["--again"])).await?;
    ensure!(
        said.contains("0 events are new, 50000 were there; 0 bars are new"),
        "{said}"
    );
    ensure!(
        said.contains("1 bars were recorded live and stay, 1 of them"),
        "{said}"
    );
    Contents::read(&database).await?.compare(&expected)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_overlaps_adds_what_is_new_and_mends_its_bars() -> Result<()> {
    let dir = TempDir::new()?;
    let store = sqlite(&dir, "history.sqlite");
    let tape = Tape::new(11, 6_000);
    let (first, second) = (tape.part(0..4_000), tape.part(3_000..6_000));
    let one = file(&dir, "one.csv", &first.csv())?;
    // As gzip, for once, and through stdin.
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, second.csv().as_bytes())?;
    let two = dir.path().join("two.csv.gz");
    std::fs::write(&two, packed.finish()?)?;
    let said = succeed(import(&store, &one, &[])).await?;
    ensure!(said.contains("4000 events are new, 0 were there"), "{said}");
    let mut piped = import(&store, Path::new("-"), &[]);
    piped.stdin(std::fs::File::open(&two)?);
    let said = succeed(piped).await?;
    ensure!(
        said.contains("2000 events are new, 1000 were there"),
        "{said}"
    );
    let database = open(&store).await?;
    Contents::read(&database).await?.compare(&tape.contents())?;

    // The other way round it is the same.
    let other = sqlite(&dir, "other.sqlite");
    for path in [&two, &one] {
        succeed(import(&other, path, &[])).await?;
    }
    let other = open(&other).await?;
    Contents::read(&other).await?.compare(&tape.contents())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_lines_are_named_and_nothing_is_imported_unless_allowed() -> Result<()> {
    let dir = TempDir::new()?;
    let store = sqlite(&dir, "history.sqlite");
    let mut text = Tape::new(3, 100).csv();
    text.push_str("1767225600000000000,A,901,1e3,1,buy\n");
    text.push_str("1767225600000000000,A,902,1,-1,buy\n9,A,903,1,1,buy\n");
    text.push_str("2099-01-01T00:00:00Z,A,904,1,1,buy\n");
    let path = file(&dir, "trades.csv", &text)?;
    let (code, _, said) = run(import(&store, &path, &["--show-errors", "3"])).await?;
    ensure!(code == Some(1), "ended with {code:?}");
    for line in [
        "line 102: price: \"1e3\" is not a decimal",
        "line 103: size: size -1 is negative",
        "line 104: time: time is not between the years 2000 and 2100",
        "4 of 105 lines are bad and --max-errors is 0: nothing of it was imported",
    ] {
        ensure!(said.contains(line), "{line} is not in {said}");
    }
    ensure!(!said.contains("line 105"), "{said}");
    let database = open(&store).await?;
    ensure!(Contents::read(&database).await?.trades.is_empty());
    let said = succeed(import(&store, &path, &["--max-errors", "4"])).await?;
    ensure!(
        said.contains("105 lines, 4 of them bad; 100 events are new"),
        "{said}"
    );

    let (code, _, said) = run(import(&store, &dir.path().join("none.csv"), &[])).await?;
    ensure!(
        code == Some(1) && said.contains("none.csv cannot be opened"),
        "{said}"
    );
    let (code, _, said) = run(import(&store, &path, &["--bars", "7m"])).await?;
    ensure!(code == Some(2) && said.contains("--bars"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_ends_behind_a_batch_and_the_same_command_goes_on() -> Result<()> {
    let dir = TempDir::new()?;
    let store = sqlite(&dir, "history.sqlite");
    let database = open(&store).await?;
    let tape = Tape::new(5, 20_000);
    let path = file(&dir, "trades.csv", &tape.csv())?;
    let child = import(&store, &path, &[]).spawn()?;
    until("nothing is stored", async || {
        Ok(Held::Trades.count(&database).await? > 0)
    })
    .await?;
    signal(i32::try_from(child.id().context("it runs")?)?, Signal::INT)?;
    let output = timeout(PATIENCE, child.wait_with_output()).await??;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(1), "{said}");
    ensure!(
        said.contains("the same command goes on from there"),
        "{said}"
    );
    let stored = Held::Trades.count(&database).await?;
    ensure!(stored < tape.trades.len(), "it had ended before");
    succeed(import(&store, &path, &[])).await?;
    Contents::read(&database).await?.compare(&tape.contents())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_exported_can_be_imported_again() -> Result<()> {
    let dir = TempDir::new()?;
    let (store, other) = (sqlite(&dir, "one.sqlite"), sqlite(&dir, "other.sqlite"));
    let tape = Tape::new(13, 7_000);
    let path = file(&dir, "trades.csv", &tape.csv())?;
    succeed(import(&store, &path, &[])).await?;
    let export = |store: &str, kind: &str, more: &[&str]| {
        let mut process = tickwire("export", store, &["--venue", "x", "--kind", kind]);
        for symbol in tape::SYMBOLS {
            process.args(["--symbol", symbol]);
        }
        process.args(more);
        process
    };
    let exported = dir.path().join("exported.csv");
    let to_file = ["--format", "csv", "--out", &exported.to_string_lossy()];
    succeed(export(&store, "trade", &to_file)).await?;
    succeed(import(&other, &exported, &[])).await?;
    let (one, two) = (open(&store).await?, open(&other).await?);
    Contents::read(&two)
        .await?
        .compare(&Contents::read(&one).await?)?;
    for kind in [&["trade"][..], &["bar", "--interval", "1m"]] {
        for format in ["csv", "ndjson"] {
            let arguments = [&kind[1..], &["--format", format, "--out", "-"]].concat();
            let first = succeed(export(&store, kind[0], &arguments)).await?;
            let second = succeed(export(&other, kind[0], &arguments)).await?;
            ensure!(
                first.lines().count() > 1_000,
                "{} lines",
                first.lines().count()
            );
            ensure!(first == second, "{kind:?} as {format} differs");
        }
    }
    // A range, and what cannot be.
    let (from, to) = (
        tape::START + 3_600_000_000_000,
        tape::START + 7_200_000_000_000,
    );
    let bounds = ["--from", &from.to_string(), "--to", &to.to_string()];
    let some = [&bounds[..], &["--format", "ndjson", "--out", "-"]].concat();
    let lines = succeed(export(&store, "trade", &some))
        .await?
        .lines()
        .count();
    let within = tape
        .trades
        .iter()
        .filter(|trade| (from..to).contains(&trade.at))
        .count();
    ensure!(lines == within && within > 0, "{lines} instead of {within}");
    let inverted = ["--from", "2", "--to", "1", "--format", "csv", "--out", "-"];
    let (code, _, said) = run(export(&store, "trade", &inverted)).await?;
    ensure!(
        code == Some(1) && said.contains("--from is not before --to"),
        "{said}"
    );
    let misspelled = sqlite(&dir, "histroy.sqlite");
    let whole = ["--format", "csv", "--out", "-"];
    let (code, out, said) = run(export(&misspelled, "trade", &whole)).await?;
    let is_refused = code == Some(1) && said.contains("--store: there is no file");
    ensure!(is_refused && out.is_empty(), "{said}");
    ensure!(
        !Path::new(&misspelled).exists(),
        "an export makes no history"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_it_is_the_same() -> Result<()> {
    let server = Server::shared().await?;
    let store = server.database().await?;
    let dir = TempDir::new()?;
    let database = open(&store).await?;
    let tape = Tape::new(17, 10_000);
    let path = file(&dir, "trades.csv", &tape.csv())?;
    for (what, least) in [(Held::Trades, 2_000), (Held::Bars, 10)] {
        kill_at(import(&store, &path, &[]), &database, what, least).await?;
    }
    succeed(import(&store, &path, &[])).await?;
    Contents::read(&database).await?.compare(&tape.contents())?;
    let said = succeed(import(&store, &path, &["--again"])).await?;
    ensure!(
        said.contains("0 events are new, 10000 were there; 0 bars are new"),
        "{said}"
    );
    Contents::read(&database).await?.compare(&tape.contents())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_comes_in_with_trades_and_quotes() -> Result<()> {
    let dir = TempDir::new()?;
    let store = sqlite(&dir, "history.sqlite");
    for (format, events) in [("binance", 6), ("coinbase", 5)] {
        let capture = format!("tests/e2e/fixtures/{format}.jsonl");
        let capture = Path::new(env!("CARGO_MANIFEST_DIR")).join(capture);
        let arguments = ["--venue", format, "--format", format, "--max-errors", "9"];
        for again in [&[][..], &["--again"]] {
            let mut process = tickwire("import", &store, &[&arguments, again].concat());
            process.arg(&capture);
            let said = succeed(process).await?;
            let expected = if again.is_empty() {
                format!("{events} events are new, 0 were there")
            } else {
                format!("0 events are new, {events} were there")
            };
            ensure!(said.contains(&expected), "{said}");
        }
    }
    Ok(())
}
