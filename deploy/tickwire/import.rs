//! `tickwire import`: files of trades or captured frames into the database, past the stream.
//!
//! A file is read three times: for its digest, by which it is known when the command is run again; to
//! find bad lines and the days that it has trades of, before anything is stored; and to store what
//! is not there. Then the bars of those days are built from all trades that are stored of them.
//! Each step can be cut off anywhere and done again: see [`place`] and [`note`].

mod bars;
mod note;
mod place;
mod rows;
mod source;
mod survey;

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use api::store::TickStore;
use daemon::signals::Signals;
use ingest::backfill::Plan;
use ingest::config::Format;
use schemas::id::{Interval, Symbol, Venue};
use schemas::time::{Clock as _, SystemClock};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::gauge::{Gauge, tell};
use crate::roles::StoreArgs;
use crate::say;
use bars::{Builder, Built};
use note::{Note, Stage};
use rows::{Span, Stored};
use source::{Digest, Source};
use survey::Survey;

/// Batches that are read ahead.
const AHEAD: usize = 2;
/// How often it is noted how many bars are built.
const NOTED: Duration = Duration::from_secs(1);

/// Arguments of `tickwire import`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// What to import, gzip or not; `-` is stdin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// The venue of what they hold
    #[arg(long)]
    venue: Venue,

    /// What they are
    #[arg(long)]
    format: FormatArg,

    /// Import this instrument and no other; may be given several times
    #[arg(long)]
    symbol: Vec<Symbol>,

    /// The bars to build from trades
    #[arg(long, value_delimiter = ',', default_value = "1s,1m,5m,15m,1h,1d")]
    bars: Vec<Interval>,

    /// Import nothing of a file that has more bad lines than this
    #[arg(long, default_value = "0")]
    max_errors: u64,

    /// How many bad lines to show
    #[arg(long, default_value = "20")]
    show_errors: usize,

    /// Go through files once more that were imported, or begun
    #[arg(long)]
    again: bool,

    /// How many ticks to store at a time
    #[arg(long, default_value = "10000")]
    batch_rows: NonZeroUsize,

    #[command(flatten)]
    store: StoreArgs,
}

/// What files may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FormatArg {
    /// Trades: columns time, symbol, id, price, size, side
    Csv,
    /// Frames of Binance Spot, one JSON object a line
    Binance,
    /// Frames of Coinbase Exchange, one JSON object a line
    Coinbase,
}

/// What became of a file.
enum Outcome {
    /// It is in the database.
    Imported(Box<Report>),
    /// It was before.
    Already,
    /// It was stopped.
    Stopped,
}

#[derive(Default)]
struct Report {
    lines: u64,
    bad: u64,
    stored: Stored,
    built: Built,
}

impl FormatArg {
    const fn format(self) -> (Format, &'static str) {
        match self {
            Self::Csv => (Format::Csv, "csv"),
            Self::Binance => (Format::Binance, "binance"),
            Self::Coinbase => (Format::Coinbase, "coinbase"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            lines,
            bad,
            stored: Stored { new, known },
            built,
        } = self;
        write!(
            f,
            "{lines} lines, {bad} of them bad; {new} events are new, {known} were there; {} bars are new or fuller",
            built.new
        )?;
        if built.live > 0 {
            write!(
                f,
                "; {} bars were recorded live and stay, {} of them without all of the trades that are stored now",
                built.live, built.other
            )?;
        }
        if built.overflows > 0 {
            let times = built.overflows;
            write!(
                f,
                "; a volume beyond its limit left out a trade {times} times"
            )?;
        }
        Ok(())
    }
}

/// Imports files one after the other.
///
/// # Errors
///
/// A file cannot be read or has too many bad lines, the database does not take it, or it was stopped.
pub(crate) async fn run(args: ImportArgs) -> Result<()> {
    let signals = Signals::catch()?;
    let store = args.store.open_primary().await?;
    let stop = CancellationToken::new();
    tokio::select! {
        never = signals.relay(stop.clone()) => match never {},
        outcome = Box::pin(all(&store, &args, &stop)) => outcome,
    }
}

async fn all<S: TickStore>(store: &S, args: &ImportArgs, stop: &CancellationToken) -> Result<()> {
    for path in &args.files {
        let path = path.clone();
        let source = aside(move || Source::open(&path)).await?;
        let source = Arc::new(source);
        let import = Import {
            store,
            args,
            source: Arc::clone(&source),
            stop,
        };
        let name = &source.name;
        match Box::pin(import.run()).await.with_context(|| name.clone())? {
            Outcome::Imported(report) => say(&format!("{name}: {report}"))?,
            Outcome::Already => say(&format!(
                "{name} was imported before; --again goes through it once more"
            ))?,
            Outcome::Stopped if args.again => {
                bail!("stopped in {name}; the same command without --again goes on from there")
            }
            Outcome::Stopped => bail!("stopped in {name}; the same command goes on from there"),
        }
    }
    Ok(())
}

/// Does what blocks aside, and waits for it.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let mut aside = JoinSet::new();
    aside.spawn_blocking(work);
    let done = aside.join_next().await.context("nothing runs")?;
    done.context("a part panicked")?
}

/// One file on its way into the database.
struct Import<'a, S> {
    store: &'a S,
    args: &'a ImportArgs,
    source: Arc<Source>,
    stop: &'a CancellationToken,
}

impl<S: TickStore> Import<'_, S> {
    async fn run(&self) -> Result<Outcome> {
        let source = Arc::clone(&self.source);
        let digest = aside(move || source.digest()).await?;
        let note = Note::read(self.store, self.name(digest), self.args.again);
        let mut note = note.await?;
        if note.standing().stage == Stage::Done {
            return Ok(Outcome::Already);
        }
        let plan = Plan {
            format: self.args.format.format().0,
            venue: self.args.venue.clone(),
            symbols: self.args.symbol.clone(),
            now: SystemClock.now(),
        };
        let Some(survey) = self.survey(&plan).await? else {
            return Ok(Outcome::Stopped);
        };
        let mut report = Report {
            lines: survey.lines,
            bad: survey.bad,
            ..Report::default()
        };
        let stored = self.rows(&plan, digest, (&survey, &mut note)).await?;
        report.stored = stored;
        if self.stop.is_cancelled() {
            return Ok(Outcome::Stopped);
        }
        report.built = self.bars(&plan, &survey, &mut note).await?;
        if self.stop.is_cancelled() {
            return Ok(Outcome::Stopped);
        }
        note.write(Stage::Done, 0).await?;
        Ok(Outcome::Imported(Box::new(report)))
    }

    /// What the import is known by: whatever else its rows and bars depend on is part of it.
    fn name(&self, digest: Digest) -> String {
        let args = self.args;
        let mut texts = vec![args.format.format().1, args.venue.as_str()];
        let mut bars: Vec<&str> = args.bars.iter().map(|interval| interval.as_str()).collect();
        let mut symbols: Vec<&str> = args.symbol.iter().map(Symbol::as_str).collect();
        for list in [&mut bars, &mut symbols] {
            list.sort_unstable();
            list.dedup();
            texts.push("");
            texts.extend(list.iter());
        }
        format!("import:{}", digest.with(&texts).short())
    }

    fn gauge(&self, what: &str, unit: &'static str, span: (u64, Option<u64>)) -> Gauge {
        Gauge::new(format!("{}: {what}", self.source.name), unit, span)
    }

    /// Looks through the file; `None` if it was stopped.
    async fn survey(&self, plan: &Plan) -> Result<Option<Survey>> {
        let (source, plan) = (Arc::clone(&self.source), plan.clone());
        let (show, stop) = (self.args.show_errors, self.stop.clone());
        let mut gauge = self.gauge("looking through", "lines", (0, None));
        let survey = aside(move || {
            let survey = survey::survey(&source, &plan, (show, &mut gauge), &stop);
            gauge.finish();
            survey
        });
        let Some(survey) = survey.await? else {
            return Ok(None);
        };
        for line in &survey.shown {
            tell(&format!("{}: {line}", self.source.name));
        }
        let max = self.args.max_errors;
        if survey.bad > max {
            bail!(
                "{} of {} lines are bad and --max-errors is {max}: nothing of it was imported",
                survey.bad,
                survey.lines
            );
        }
        Ok(Some(survey))
    }

    /// Stores events, from where the note says.
    async fn rows(
        &self,
        plan: &Plan,
        digest: Digest,
        (survey, note): (&Survey, &mut Note<'_, S>),
    ) -> Result<Stored> {
        let mut stored = Stored::default();
        let standing = note.standing();
        if standing.stage != Stage::Rows || standing.floor >= survey.lines {
            return Ok(stored);
        }
        let span = Span {
            after: standing.floor,
            through: survey.lines,
            batch: self.args.batch_rows.get(),
        };
        let (sender, mut batches) = mpsc::channel(AHEAD);
        let (source, plan) = (Arc::clone(&self.source), plan.clone());
        let mut reader = JoinSet::new();
        reader.spawn_blocking(move || rows::read(&source, &plan, span, &sender));
        let limits = (span.after, Some(span.through));
        let mut gauge = self.gauge("storing", "lines", limits);
        let file = place::of_file(&digest);
        while let Some(batch) = batches.recv().await {
            let Stored { new, known } = rows::store(self.store, &batch, file).await?;
            stored.new += new;
            stored.known += known;
            note.write(Stage::Rows, batch.through).await?;
            gauge.set(batch.through);
            if self.stop.is_cancelled() {
                break;
            }
        }
        gauge.finish();
        // A reader that was not finished ends now.
        drop(batches);
        let read = reader.join_next().await.context("nothing runs")?;
        read.context("the reader panicked")??;
        Ok(stored)
    }

    /// Builds bars, from where the note says.
    async fn bars(&self, plan: &Plan, survey: &Survey, note: &mut Note<'_, S>) -> Result<Built> {
        let builder = Builder {
            store: self.store,
            venue: &self.args.venue,
            intervals: &self.args.bars,
            now: plan.now,
        };
        let standing = note.standing();
        let first = if standing.stage == Stage::Bars {
            standing.floor
        } else {
            0
        };
        let total = u64::try_from(survey.spans().count())?;
        let mut gauge = self.gauge("building bars", "spans of days", (first, Some(total)));
        let (mut built, mut done, mut noted) = (Built::default(), first, Instant::now());
        for (symbol, span) in survey.spans().skip(usize::try_from(first)?) {
            builder.build(symbol, span, &mut built).await?;
            done += 1;
            gauge.set(done);
            let stopped = self.stop.is_cancelled();
            if stopped || noted.elapsed() >= NOTED {
                noted = Instant::now();
                note.write(Stage::Bars, done).await?;
            }
            if stopped {
                break;
            }
        }
        gauge.finish();
        Ok(built)
    }
}
