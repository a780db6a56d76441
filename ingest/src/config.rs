//! `feeds.toml`: which feeds run. Every error names the line and the field.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemas::id::{FeedName, Interval, Kind, Symbol, Venue};
use serde::Deserialize;
use toml::Spanned;

use crate::feed::DEFAULT_BARS;

/// The venue of a simulator that is given none.
const SIMULATED: &str = "sim";
/// The most instruments that a simulator makes.
const MAX_INSTRUMENTS: u32 = 200_000;
/// The most ticks per second that a simulator makes.
const MAX_RATE: u32 = 1_000_000;
/// The most symbols of one live feed.
const MAX_SYMBOLS: usize = 1_000;

/// Binance ends connections after 24 hours: the next one is opened an hour before.
const RENEW_AFTER_SECS: u32 = 82_800;

/// Why `feeds.toml` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path}: {problem}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, field and what is wrong.
        problem: String,
    },
}

/// All feeds of one stream.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedsConfig {
    /// The feeds, in the order of the file.
    pub feeds: Vec<FeedConfig>,
}

/// One feed.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedConfig {
    /// Its name.
    pub name: FeedName,
    /// The bars that are built from its trades.
    pub bars: Vec<Interval>,
    /// Silence after which it counts as stale; it is connected anew after twice as long.
    pub stale_after: Duration,
    /// Where its ticks come from.
    pub source: Source,
}

/// Where ticks come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A simulated venue.
    Sim {
        /// Which one.
        venue: Venue,
        /// How many instruments.
        instruments: NonZeroU32,
        /// Ticks per second over all instruments.
        rate: NonZeroU32,
        /// What makes a run repeatable.
        seed: u64,
    },
    /// A recording.
    Replay {
        /// How to read it.
        format: Format,
        /// The venue of its ticks.
        venue: Venue,
        /// The file.
        path: PathBuf,
        /// Times as fast as it was recorded; `None` is as fast as possible.
        speed: Option<f64>,
        /// Whether it starts again at its end.
        repeat: bool,
    },
    /// A venue.
    Live {
        /// Which one.
        format: Format,
        /// Instruments.
        symbols: Vec<Symbol>,
        /// Kinds of ticks.
        kinds: Vec<Kind>,
        /// Its WebSocket address.
        url: String,
        /// Age at which a connection is renewed, where the venue ends old ones.
        renew_after: Option<Duration>,
    },
}

/// The protocols and file formats that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Binance Spot.
    Binance,
    /// Coinbase Exchange.
    Coinbase,
    /// Trades as comma-separated values.
    Csv,
}

impl FeedConfig {
    /// The venue of its ticks.
    pub fn venue(&self) -> Option<Venue> {
        match &self.source {
            Source::Sim { venue, .. } | Source::Replay { venue, .. } => Some(venue.clone()),
            Source::Live {
                format: Format::Coinbase,
                ..
            } => Venue::new("coinbase").ok(),
            Source::Live { .. } => Venue::new("binance").ok(),
        }
    }

    /// The venue that it simulates, if it does.
    pub const fn simulated(&self) -> Option<&Venue> {
        match &self.source {
            Source::Sim { venue, .. } => Some(venue),
            Source::Replay { .. } | Source::Live { .. } => None,
        }
    }

    /// The instruments that it names; empty where the source tells which there are.
    pub fn symbols(&self) -> &[Symbol] {
        match &self.source {
            Source::Live { symbols, .. } => symbols,
            Source::Sim { .. } | Source::Replay { .. } => &[],
        }
    }

    /// Whether its event times are of another day: a recording.
    pub const fn is_recorded(&self) -> bool {
        matches!(self.source, Source::Replay { .. })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    feed: Vec<RawFeed>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFeed {
    name: Spanned<String>,
    source: Spanned<String>,
    instruments: Option<Spanned<u32>>,
    rate: Option<Spanned<u32>>,
    seed: Option<Spanned<u64>>,
    format: Option<Spanned<String>>,
    venue: Option<Spanned<String>>,
    path: Option<Spanned<PathBuf>>,
    speed: Option<Spanned<Speed>>,
    #[serde(rename = "loop")]
    repeat: Option<Spanned<bool>>,
    symbols: Option<Spanned<Vec<String>>>,
    kinds: Option<Spanned<Vec<String>>>,
    bars: Option<Spanned<Vec<String>>>,
    url: Option<Spanned<String>>,
    stale_after_secs: Option<Spanned<u32>>,
    renew_after_secs: Option<Spanned<u32>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "speed must be \"max\" or a number")]
enum Speed {
    Times(f64),
    Whole(i64),
    Word(String),
}

type Problem = (usize, String);

/// Reads and checks a file; paths in it are relative to it.
///
/// # Errors
///
/// [`ConfigError`] names the file, the line and the field.
pub fn load(path: &Path) -> Result<FeedsConfig, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let base = path.parent().unwrap_or(Path::new(""));
    parse(&text, base).map_err(|problem| ConfigError::Syntax {
        path: path.to_owned(),
        problem,
    })
}

/// Reads and checks the text of a file whose paths are relative to `base`.
///
/// # Errors
///
/// What is wrong, beginning with the line.
pub fn parse(text: &str, base: &Path) -> Result<FeedsConfig, String> {
    let located = |(at, problem): Problem| {
        let line = text.get(..at).unwrap_or_default().matches('\n').count() + 1;
        format!("line {line}: {problem}")
    };
    let file: File = toml::from_str(text).map_err(|error| {
        located((
            error.span().map_or(0, |span| span.start),
            error.message().to_owned(),
        ))
    })?;
    if file.feed.is_empty() {
        return Err("line 1: there is no [[feed]]".to_owned());
    }
    let mut names = HashSet::new();
    let mut feeds: Vec<FeedConfig> = Vec::with_capacity(file.feed.len());
    for raw in file.feed {
        let (at, source_at) = (raw.name.span().start, raw.source.span().start);
        let feed = raw.check(base).map_err(located)?;
        if !names.insert(feed.name.clone()) {
            return Err(located((
                at,
                format!("there is another feed named {:?}", feed.name.as_str()),
            )));
        }
        if let Some(venue) = feed.simulated()
            && feeds.iter().any(|other| other.simulated() == Some(venue))
        {
            // Its instruments and trade ids would be those of the first.
            let problem = format!(
                "venue {:?} is simulated already: give its feed more instruments, or this one \
                 another venue",
                venue.as_str()
            );
            return Err(located((source_at, problem)));
        }
        feeds.push(feed);
    }
    Ok(FeedsConfig { feeds })
}

/// One simulated venue.
///
/// # Errors
///
/// What is wrong with the numbers.
pub fn simulated(instruments: u32, rate: u32) -> Result<FeedsConfig, String> {
    parse(
        &format!(
            "[[feed]]\nname = \"sim\"\nsource = \"sim\"\ninstruments = {instruments}\nrate = {rate}\n"
        ),
        Path::new(""),
    )
}

fn value<T>(field: Option<Spanned<T>>) -> Option<T> {
    field.map(Spanned::into_inner)
}

fn named(venue: &Spanned<String>) -> Result<Venue, Problem> {
    Venue::new(venue.get_ref()).map_err(|error| (venue.span().start, error.to_string()))
}

fn bounded(
    field: Option<Spanned<u32>>,
    name: &str,
    default: u32,
    max: u32,
) -> Result<NonZeroU32, Problem> {
    let at = field.as_ref().map_or(0, |field| field.span().start);
    let number = value(field).unwrap_or(default);
    NonZeroU32::new(number)
        .filter(|number| number.get() <= max)
        .ok_or_else(|| (at, format!("{name} is {number}, it must be 1 to {max}")))
}

impl RawFeed {
    fn check(mut self, base: &Path) -> Result<FeedConfig, Problem> {
        let name_at = self.name.span().start;
        let name =
            FeedName::new(self.name.get_ref()).map_err(|error| (name_at, error.to_string()))?;
        let bars = self.bars()?;
        let stale = bounded(self.stale_after_secs.take(), "stale_after_secs", 30, 86_400)?;
        let source_at = self.source.span().start;
        let source = match self.source.get_ref().as_str() {
            "sim" => self.sim()?,
            "replay" => self.replay(base)?,
            "binance" => self.live(Format::Binance, "wss://stream.binance.com:9443")?,
            "coinbase" => self.live(Format::Coinbase, "wss://ws-feed.exchange.coinbase.com")?,
            other => {
                let problem = format!("source {other:?} is none of sim, replay, binance, coinbase");
                return Err((source_at, problem));
            }
        };
        self.nothing_left()?;
        let stale_after = Duration::from_secs(u64::from(stale.get()));
        Ok(FeedConfig {
            name,
            bars,
            stale_after,
            source,
        })
    }

    fn bars(&mut self) -> Result<Vec<Interval>, Problem> {
        let Some(field) = self.bars.take() else {
            return Ok(DEFAULT_BARS.to_vec());
        };
        let at = field.span().start;
        let mut bars: Vec<Interval> = Vec::new();
        for text in field.into_inner() {
            let interval = text.parse();
            let interval = interval.map_err(|error| (at, format!("bars: {error}")))?;
            if bars.contains(&interval) {
                return Err((at, format!("bars: {text:?} is listed twice")));
            }
            bars.push(interval);
        }
        Ok(bars)
    }

    fn sim(&mut self) -> Result<Source, Problem> {
        let venue = match self.venue.take() {
            Some(venue) => named(&venue)?,
            None => Venue::new(SIMULATED)
                .map_err(|error| (self.source.span().start, error.to_string()))?,
        };
        Ok(Source::Sim {
            venue,
            instruments: bounded(self.instruments.take(), "instruments", 200, MAX_INSTRUMENTS)?,
            rate: bounded(self.rate.take(), "rate", 500, MAX_RATE)?,
            seed: value(self.seed.take()).unwrap_or(1),
        })
    }

    fn replay(&mut self, base: &Path) -> Result<Source, Problem> {
        let at = self.source.span().start;
        let missing = |field: &str| (at, format!("source \"replay\" needs {field}"));
        let format = self.format.take().ok_or_else(|| missing("format"))?;
        let (format_at, format) = (format.span().start, format.into_inner());
        let format = match format.as_str() {
            "binance" => Format::Binance,
            "coinbase" => Format::Coinbase,
            "csv" => Format::Csv,
            other => {
                return Err((
                    format_at,
                    format!("format {other:?} is none of binance, coinbase, csv"),
                ));
            }
        };
        let venue = self.venue.take().ok_or_else(|| missing("venue"))?;
        let venue = named(&venue)?;
        let path = self.path.take().ok_or_else(|| missing("path"))?;
        let path_at = path.span().start;
        let path = base.join(path.into_inner());
        if !path.is_file() {
            return Err((path_at, format!("path {} is not a file", path.display())));
        }
        let speed = self.speed()?;
        let repeat = value(self.repeat.take()).unwrap_or(false);
        Ok(Source::Replay {
            format,
            venue,
            path,
            speed,
            repeat,
        })
    }

    fn speed(&mut self) -> Result<Option<f64>, Problem> {
        let Some(field) = self.speed.take() else {
            return Ok(Some(1.0));
        };
        let at = field.span().start;
        let times = match field.into_inner() {
            Speed::Word(word) if word == "max" => return Ok(None),
            Speed::Word(_) => None,
            Speed::Times(times) => Some(times),
            Speed::Whole(times) => i32::try_from(times).ok().map(f64::from),
        };
        let times = times.filter(|times| (0.001..=100_000.0).contains(times));
        times
            .map(Some)
            .ok_or_else(|| (at, "speed must be \"max\" or 0.001 to 100000".to_owned()))
    }

    fn live(&mut self, format: Format, default_url: &str) -> Result<Source, Problem> {
        let at = self.source.span().start;
        let symbols = self
            .symbols
            .take()
            .ok_or((at, "a live feed needs symbols".to_owned()))?;
        let symbols_at = symbols.span().start;
        let symbols = symbols.into_inner();
        if symbols.is_empty() || symbols.len() > MAX_SYMBOLS {
            let problem = format!(
                "symbols has {} entries, it must have 1 to {MAX_SYMBOLS}",
                symbols.len()
            );
            return Err((symbols_at, problem));
        }
        let parse =
            |text: &String| Symbol::new(text).map_err(|e| (symbols_at, format!("symbols: {e}")));
        let symbols = symbols.iter().map(parse).collect::<Result<_, _>>()?;
        let kinds = self.kinds()?;
        let url = self.url.take();
        let url_at = url.as_ref().map_or(at, |url| url.span().start);
        let url = value(url).unwrap_or_else(|| default_url.to_owned());
        if !url.starts_with("ws://") && !url.starts_with("wss://") {
            return Err((url_at, "url must begin with ws:// or wss://".to_owned()));
        }
        if url.contains('@') {
            return Err((url_at, "url must not hold credentials".to_owned()));
        }
        let renew_after = (format == Format::Binance)
            .then(|| {
                let field = self.renew_after_secs.take();
                let seconds = bounded(field, "renew_after_secs", RENEW_AFTER_SECS, 86_400)?;
                Ok(Duration::from_secs(u64::from(seconds.get())))
            })
            .transpose()?;
        Ok(Source::Live {
            format,
            symbols,
            kinds,
            url,
            renew_after,
        })
    }

    fn kinds(&mut self) -> Result<Vec<Kind>, Problem> {
        let Some(field) = self.kinds.take() else {
            return Ok(vec![Kind::Trade, Kind::Quote]);
        };
        let at = field.span().start;
        if field.get_ref().is_empty() {
            return Err((at, "kinds has no entries".to_owned()));
        }
        let parse = |text: String| match text.as_str() {
            "trade" => Ok(Kind::Trade),
            "quote" => Ok(Kind::Quote),
            "book" => Ok(Kind::Book),
            other => Err((
                at,
                format!("kinds: {other:?} is none of trade, quote, book"),
            )),
        };
        field.into_inner().into_iter().map(parse).collect()
    }

    /// Whatever was not taken does not belong to this source.
    fn nothing_left(&self) -> Result<(), Problem> {
        fn spot<T>(
            name: &'static str,
            field: Option<&Spanned<T>>,
        ) -> Option<(usize, &'static str)> {
            field.map(|field| (field.span().start, name))
        }
        let left = [
            spot("instruments", self.instruments.as_ref()),
            spot("rate", self.rate.as_ref()),
            spot("seed", self.seed.as_ref()),
            spot("format", self.format.as_ref()),
            spot("venue", self.venue.as_ref()),
            spot("path", self.path.as_ref()),
            spot("speed", self.speed.as_ref()),
            spot("loop", self.repeat.as_ref()),
            spot("symbols", self.symbols.as_ref()),
            spot("kinds", self.kinds.as_ref()),
            spot("url", self.url.as_ref()),
            spot("renew_after_secs", self.renew_after_secs.as_ref()),
        ];
        match left.into_iter().flatten().next() {
            None => Ok(()),
            Some((at, field)) => Err((
                at,
                format!(
                    "{field} does not belong to source {:?}",
                    self.source.get_ref()
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests;
