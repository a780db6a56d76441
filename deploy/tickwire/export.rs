//! `tickwire export`: a range of history to a file of comma-separated values, JSON lines or Parquet.
//!
//! A file is written under another name and gets its own when it is whole.

mod columns;
#[cfg(feature = "parquet")]
mod parquet;
mod sink;

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use api::store::{Range, Series, TickStore};
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use daemon::signals::Signals;
use schemas::codec;
use schemas::id::{Interval, Kind, Symbol, Venue};
use schemas::time::UnixNanos;
use tempfile::NamedTempFile;
use tokio_util::sync::CancellationToken;

use crate::gauge::{Gauge, tell};
use crate::roles::StoreArgs;
use sink::Sink;

/// Rows that are read at a time.
const PAGE: u32 = 5_000;
/// The kinds of which there is history in time.
const KINDS: [&str; 7] = ["trade", "quote", "bar", "index", "flow", "status", "feed"];

/// Arguments of `tickwire export`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// What to export
    #[arg(long, value_parser = PossibleValuesParser::new(KINDS).try_map(|kind| kind.parse::<Kind>()))]
    kind: Kind,

    /// The venue
    #[arg(long)]
    venue: Venue,

    /// The instrument; may be given several times
    #[arg(long, required = true)]
    symbol: Vec<Symbol>,

    /// The length of bars
    #[arg(long, required_if_eq("kind", "bar"))]
    interval: Option<Interval>,

    /// From when, inclusive: RFC 3339, or nanoseconds since 1970; from the beginning by default
    #[arg(long, value_parser = time)]
    from: Option<UnixNanos>,

    /// To when, exclusive: to the end by default
    #[arg(long, value_parser = time)]
    to: Option<UnixNanos>,

    /// How to write it
    #[arg(long)]
    format: Format,

    /// Where to; `-` is stdout
    #[arg(long)]
    out: PathBuf,

    #[command(flatten)]
    store: StoreArgs,
}

/// How a range is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Comma-separated values; trades can be imported again
    Csv,
    /// One tick a line, as JSON
    Ndjson,
    /// A Parquet table; prices and sizes are texts, so that every digit stays
    #[cfg(feature = "parquet")]
    Parquet,
}

fn time(text: &str) -> Result<UnixNanos, String> {
    let nanos = text.parse::<i64>().ok().or_else(|| {
        let time: jiff::Timestamp = text.parse().ok()?;
        i64::try_from(time.as_nanosecond()).ok()
    });
    let nanos = nanos.filter(|nanos| *nanos >= 0).map(UnixNanos::new);
    nanos.ok_or_else(|| "neither RFC 3339 nor nanoseconds since 1970".to_owned())
}

/// Where it goes: under another name until it is whole.
enum Target {
    Stdout,
    File(NamedTempFile),
}

impl Target {
    fn open(path: &Path) -> Result<(Self, Box<dyn Write + Send>)> {
        if path.as_os_str() == "-" {
            return Ok((Self::Stdout, Box::new(io::stdout())));
        }
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let file = tempfile::Builder::new()
            .prefix(".tickwire-export-")
            .permissions(std::fs::Permissions::from_mode(0o666))
            .tempfile_in(folder)
            .with_context(|| format!("nothing can be written in {}", folder.display()))?;
        let out = Box::new(file.as_file().try_clone()?);
        Ok((Self::File(file), out))
    }

    fn finish(self, path: &Path) -> Result<()> {
        let Self::File(file) = self else {
            return Ok(());
        };
        let cannot = || format!("{} cannot be written", path.display());
        file.as_file().sync_all().with_context(cannot)?;
        file.persist(path).with_context(cannot)?;
        Ok(())
    }
}

/// Exports a range.
///
/// # Errors
///
/// The range is none, the database does not answer, or the file cannot be written.
pub(crate) async fn run(args: ExportArgs) -> Result<()> {
    let (from, to) = (
        args.from.unwrap_or(UnixNanos::EPOCH),
        args.to.unwrap_or(UnixNanos::new(i64::MAX)),
    );
    ensure!(from < to, "--from is not before --to");
    args.store.ensure_there()?;
    let store = args.store.open().await?;
    if args.out.as_os_str() == "-" {
        return Box::pin(export(&store, &args, (from, to))).await;
    }
    // What was begun is removed; nobody reads it who might hold it up.
    let stop = CancellationToken::new();
    let signals = Signals::catch()?;
    tokio::select! {
        never = signals.relay(stop.clone()) => match never {},
        () = stop.cancelled() => bail!("stopped: nothing was written"),
        outcome = Box::pin(export(&store, &args, (from, to))) => outcome,
    }
}

async fn export<S: TickStore>(
    store: &S,
    args: &ExportArgs,
    span: (UnixNanos, UnixNanos),
) -> Result<()> {
    let (target, out) = Target::open(&args.out)?;
    let mut sink = Sink::new(args.format, args.kind, out)?;
    let name = args.out.display().to_string();
    let mut gauge = Gauge::new(format!("{name}: exporting"), "rows", (0, None));
    let mut count = 0;
    for symbol in &args.symbol {
        let series = series(args, symbol);
        let mut range = Range {
            series,
            from: span.0,
            to: span.1,
            descending: false,
            after: None,
            limit: PAGE,
        };
        loop {
            let rows = Box::pin(store.page("", &range)).await?.rows;
            for found in &rows {
                let tick = codec::from_msgpack(&found.payload);
                let tick = tick.with_context(|| format!("a stored {} of {symbol}", args.kind))?;
                sink.write(&tick)
                    .with_context(|| format!("{name} cannot be written"))?;
                count += 1;
            }
            gauge.set(count);
            let last = rows.last();
            range.after = last.map(|last| (last.at, last.epoch, last.seq));
            if rows.len() < usize::try_from(PAGE)? {
                break;
            }
        }
    }
    sink.finish()
        .with_context(|| format!("{name} cannot be written"))?;
    target.finish(&args.out)?;
    gauge.finish();
    tell(&format!("{name}: {count} rows"));
    Ok(())
}

fn series(args: &ExportArgs, symbol: &Symbol) -> Series {
    match args.interval.filter(|_| args.kind == Kind::Bar) {
        Some(interval) => Series::Bars(args.venue.clone(), symbol.clone(), interval),
        None => Series::Events(args.kind, args.venue.clone(), symbol.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_or_nanoseconds() {
        let at = UnixNanos::new(1_767_225_600_000_000_000);
        for good in [
            "1767225600000000000",
            "2026-01-01T00:00:00Z",
            "2026-01-01T07:00:00+07:00",
        ] {
            assert_eq!(time(good), Ok(at), "{good}");
        }
        for bad in [
            "",
            "noon",
            "-1",
            "2026-01-01",
            "1e9",
            "9999-12-31T00:00:00Z",
        ] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_has_its_name_only_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trades.csv");
        std::fs::write(&path, "before").unwrap();
        let (target, mut out) = Target::open(&path).unwrap();
        out.write_all(b"half").unwrap();
        drop((target, out));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "before");
        let (target, mut out) = Target::open(&path).unwrap();
        out.write_all(b"whole").unwrap();
        target.finish(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
