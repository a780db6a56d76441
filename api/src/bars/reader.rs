//! Reads bars of any length from a store, with bounded memory and a bounded number of rows.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use schemas::codec::from_msgpack;
use schemas::http::Candle;
use schemas::id::{Kind, Symbol, Venue};
use schemas::tick::{Inst, Tick};
use schemas::time::{Clock, SystemClock, UnixNanos};
use tracing::warn;

use super::calendar::{Calendar, Grid};
use super::calendars::Calendars;
use super::resolution::Resolution;
use super::rollup::{Overflow, Part, Roller, Whole};
use crate::store::{Found, Progress, StoreError, TickStore};

use plan::Walk;

/// The most bars of one answer.
pub const MAX_BARS: u32 = 50_000;
/// The most stored bars that are read for one answer: a year of minutes, and some.
pub const MAX_PARTS: u32 = 600_000;
/// After the end of a bar, in nanoseconds, the last of its parts may still be on its way.
const SETTLING: i64 = 60_000_000_000;
/// How long a calendar is not looked up again, and how many are known.
const FRESH: Duration = Duration::from_mins(1);
const KNOWN: u64 = 10_000;

/// Which bars are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Venue.
    pub venue: Venue,
    /// Symbol.
    pub symbol: Symbol,
    /// How long they are.
    pub resolution: Resolution,
    /// Those that begin here or later.
    pub from: UnixNanos,
    /// Those that begin before.
    pub to: UnixNanos,
    /// At most so many: 1 to [`MAX_BARS`].
    pub limit: u32,
    /// The last ones of the range, not the first.
    pub last: bool,
}

/// Bars, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candles {
    /// The bars. The newest is a [`Kind::Form`] while its period is not over; it is what was stored
    /// so far.
    pub bars: Vec<Candle>,
    /// How far the stream was recorded at least when they were read.
    pub progress: Option<Progress>,
    /// The range has more: behind the last bar, or before the first if the last ones were asked for.
    pub more: bool,
    /// How many stored bars were read for them.
    pub parts: u32,
}

/// Why bars cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store cannot.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Too many, or none.
    #[error("limit must be a whole number from 1 to {MAX_BARS}, not {0}")]
    Limit(u32),
    /// One bar is made of too many.
    #[error(
        "resolution {resolution} is too long for what is stored: a bar may be made of at most {limit} stored bars"
    )]
    Parts {
        /// What was asked for.
        resolution: Resolution,
        /// [`MAX_PARTS`].
        limit: u32,
    },
    /// A sum beyond the limits of quantities.
    #[error("resolution {resolution} is too long: the volume of the bar at {start} is beyond {limit}", limit = schemas::decimal::LIMIT)]
    Volume {
        /// What was asked for.
        resolution: Resolution,
        /// Start of the bar in nanoseconds since 1970.
        start: UnixNanos,
    },
}

impl ReadError {
    /// The field of [`Ask`] at fault, if one is.
    pub const fn parameter(&self) -> Option<&'static str> {
        match self {
            Self::Store(_) => None,
            Self::Limit(_) => Some("limit"),
            Self::Parts { .. } | Self::Volume { .. } => Some("resolution"),
        }
    }
}

/// Reads bars of one stream.
#[derive(Clone)]
pub struct Reader<S> {
    store: S,
    stream: String,
    calendars: Arc<Calendars>,
    clock: Arc<dyn Clock>,
    known: Cache<(Venue, Symbol), Arc<Calendar>>,
    max_parts: u32,
}

impl<S: TickStore> Reader<S> {
    /// Reads what is recorded of `stream`.
    pub fn new(store: S, stream: String, calendars: Arc<Calendars>) -> Self {
        Self {
            store,
            stream,
            calendars,
            clock: Arc::new(SystemClock),
            known: Cache::builder()
                .max_capacity(KNOWN)
                .time_to_live(FRESH)
                .build(),
            max_parts: MAX_PARTS,
        }
    }

    /// The same by another clock, which tells whether the newest bar is over.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// Reads bars. There may be fewer than `limit` and [`Candles::more`], where they are made of very
    /// many.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub async fn read(&self, ask: &Ask) -> Result<Candles, ReadError> {
        if !(1..=MAX_BARS).contains(&ask.limit) {
            return Err(ReadError::Limit(ask.limit));
        }
        let calendar = self.calendar(&ask.venue, &ask.symbol).await?;
        let mut walk = Walk::new(self, ask, &calendar);
        let segments = walk.plan().await?;
        let roller = Roller::new(Grid::new(&calendar, ask.resolution), ask.last);
        let limit = usize::try_from(ask.limit).unwrap_or(usize::MAX);
        let (mut wholes, more) = walk.roll(segments, roller, limit).await?;
        if ask.last {
            wholes.make_contiguous().reverse();
        }
        let settled = self.clock.now().offset(-SETTLING);
        let open = wholes.back().is_some_and(|whole| !whole.is_closed(settled));
        let newest = ask.last || !more;
        let length = ask.resolution.to_string();
        let candle = |whole: Whole| whole.candle(&ask.venue, &ask.symbol, &length);
        let mut bars: Vec<Candle> = wholes.into_iter().map(candle).collect();
        if let Some(last) = bars.last_mut().filter(|_| open && newest) {
            last.kind = Kind::Form;
        }
        Ok(Candles {
            bars,
            progress: walk.progress(),
            more,
            parts: walk.parts(),
        })
    }

    /// The start of the latest bar that begins before a time.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn latest_before(
        &self,
        venue: &Venue,
        symbol: &Symbol,
        resolution: Resolution,
        before: UnixNanos,
    ) -> Result<Option<UnixNanos>, StoreError> {
        let calendar = self.calendar(venue, symbol).await?;
        let ask = Ask {
            venue: venue.clone(),
            symbol: symbol.clone(),
            resolution,
            from: UnixNanos::new(i64::MIN),
            to: before,
            limit: 1,
            last: true,
        };
        let latest = Walk::new(self, &ask, &calendar).latest(before).await?;
        Ok(latest.map(|at| calendar.period(resolution, at).start))
    }

    /// The calendar of an instrument.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn calendar(
        &self,
        venue: &Venue,
        symbol: &Symbol,
    ) -> Result<Arc<Calendar>, StoreError> {
        let key = (venue.clone(), symbol.clone());
        if let Some(calendar) = self.known.get(&key).await {
            return Ok(calendar);
        }
        let found = self.store.instrument(venue, symbol).await?;
        let inst = found.as_ref().and_then(inst);
        let own = self.calendars.of(venue, inst.as_ref());
        let calendar = own.unwrap_or_else(|problem| {
            warn!(tick.venue = %venue, tick.symbol = %symbol, %problem, "no hours of its own");
            self.calendars.of_venue(venue)
        });
        self.known.insert(key, Arc::clone(&calendar)).await;
        Ok(calendar)
    }
}

fn inst(row: &Found) -> Option<Inst> {
    match from_msgpack(&row.payload) {
        Ok(Tick::Inst(inst)) => Some(inst),
        Ok(_) | Err(_) => None,
    }
}

/// The bar of a stored row.
fn part(row: &Found) -> Result<Part, StoreError> {
    let damaged = |value: String| StoreError::Damaged {
        field: "bar",
        value,
    };
    match from_msgpack(&row.payload) {
        Ok(Tick::Bar(bar)) => Ok(Part::new(bar, row.epoch, row.seq)),
        Ok(other) => Err(damaged(other.kind().to_string())),
        Err(error) => Err(damaged(error.to_string())),
    }
}

#[cfg(test)]
mod tests;
