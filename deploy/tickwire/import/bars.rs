//! The bars of the days that a file has trades of, from all trades that are stored of them: in order
//! of time, whatever the order of the file, and whichever file or stream each came from.
//!
//! An imported bar's sequence is its number of trades: of two that were made of different ones, the
//! fuller stays. A bar that was recorded from a stream stays as it is.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context as _, Result, bail};
use api::store::{Content, Found, Range, Row, Series, TickStore};
use ingest::backfill::Bars;
use ingest::bars::time_of;
use schemas::codec;
use schemas::id::{Interval, Kind, Symbol, Venue};
use schemas::position::StreamSeq;
use schemas::tick::{Bar, Tick, Trade};
use schemas::time::UnixNanos;

use super::note::patiently;
use super::place::{self, COMMON};

/// Rows that are read, and bars that are stored, at a time.
const PAGE: u32 = 5_000;
/// The most trades of the same time that are brought into order.
const SAME: usize = 10_000;

/// What came of the bars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Built {
    /// Bars that are new or fuller than before.
    pub(super) new: u64,
    /// Bars that were recorded from a stream and stay.
    pub(super) live: u64,
    /// Those of them whose number of trades is another one than that of the stored trades.
    pub(super) other: u64,
    /// How often a trade was left out of a bar because a sum would have gone beyond its limits.
    pub(super) overflows: u64,
}

/// Builds bars.
pub(super) struct Builder<'s, S> {
    /// Where trades are, and where bars go.
    pub(super) store: &'s S,
    /// The venue.
    pub(super) venue: &'s Venue,
    /// The lengths.
    pub(super) intervals: &'s [Interval],
    /// Bars that are not over by then are not built.
    pub(super) now: UnixNanos,
}

impl<S: TickStore> Builder<'_, S> {
    /// Builds the bars of whole days.
    ///
    /// # Errors
    ///
    /// The database does not answer.
    pub(super) async fn build(
        &self,
        symbol: &Symbol,
        span: (UnixNanos, UnixNanos),
        built: &mut Built,
    ) -> Result<()> {
        let series = Series::Events(Kind::Trade, self.venue.clone(), symbol.clone());
        let mut range = range(series, span);
        let mut bars = Bars::new(self.venue.clone(), symbol.clone(), self.intervals);
        let (mut out, mut ordered) = (Vec::new(), Ordered::default());
        loop {
            let rows = self.page(&mut range).await?;
            for found in &rows {
                let tick = codec::from_msgpack(&found.payload);
                let tick = tick.with_context(|| format!("a stored trade of {symbol}"))?;
                let Tick::Trade(trade) = tick else {
                    bail!("a stored trade of {symbol} is a {}", tick.kind());
                };
                ordered.push(trade, |trade| bars.take(trade, &mut out));
            }
            let is_last = rows.len() < usize::try_from(PAGE)?;
            if is_last {
                break;
            }
            self.record(symbol, &mut out, built).await?;
        }
        ordered.flush(|trade| bars.take(trade, &mut out));
        built.overflows += bars.finish(self.now, &mut out);
        self.record(symbol, &mut out, built).await
    }

    /// Stores what is not there, or less full.
    async fn record(&self, symbol: &Symbol, out: &mut Vec<Bar>, built: &mut Built) -> Result<()> {
        let mut by_interval: BTreeMap<Interval, Vec<Bar>> = BTreeMap::new();
        for bar in out.drain(..) {
            if bar.start.offset(bar.interval.nanos()) <= self.now {
                by_interval.entry(bar.interval).or_default().push(bar);
            }
        }
        let mut rows = Vec::new();
        for (interval, bars) in by_interval {
            let there = self.there(symbol, interval, &bars).await?;
            for bar in bars {
                match there.get(&bar.start) {
                    Some(found) if !place::is_imported(found.epoch) => {
                        built.live += 1;
                        let stored = codec::from_msgpack(&found.payload);
                        let same =
                            matches!(stored, Ok(Tick::Bar(stored)) if stored.trades == bar.trades);
                        built.other += u64::from(!same);
                    }
                    Some(found) if found.seq.get() >= bar.trades => {}
                    Some(_) | None => rows.push(row(bar)?),
                }
            }
        }
        for chunk in rows.chunks(usize::try_from(PAGE)?) {
            patiently(async || self.store.record(COMMON, chunk).await).await?;
            built.new += u64::try_from(chunk.len())?;
        }
        Ok(())
    }

    /// The stored bars of the time of these, which are in order.
    async fn there(
        &self,
        symbol: &Symbol,
        interval: Interval,
        bars: &[Bar],
    ) -> Result<HashMap<UnixNanos, Found>> {
        let mut there = HashMap::new();
        let (Some(first), Some(last)) = (bars.first(), bars.last()) else {
            return Ok(there);
        };
        let series = Series::Bars(self.venue.clone(), symbol.clone(), interval);
        let mut range = range(series, (first.start, last.start.offset(1)));
        loop {
            let rows = self.page(&mut range).await?;
            let is_last = rows.len() < usize::try_from(PAGE)?;
            there.extend(rows.into_iter().map(|found| (found.at, found)));
            if is_last {
                return Ok(there);
            }
        }
    }

    /// The next rows; the range begins behind them then.
    async fn page(&self, range: &mut Range) -> Result<Vec<Found>> {
        let page = patiently(async || self.store.page("", range).await).await?;
        let last = page.rows.last();
        range.after = last.map(|last| (last.at, last.epoch, last.seq));
        Ok(page.rows)
    }
}

/// Brings trades of the same time into the order of their ids, where these are numbers: those that
/// came from a stream lie behind those that came from files.
#[derive(Default)]
struct Ordered(Vec<Trade>);

impl Ordered {
    fn push(&mut self, trade: Trade, each: impl FnMut(&Trade)) {
        let same = self.0.first();
        if same.is_some_and(|same| time_of(same) != time_of(&trade)) || self.0.len() >= SAME {
            self.flush(each);
        }
        self.0.push(trade);
    }

    fn flush(&mut self, mut each: impl FnMut(&Trade)) {
        let number = |trade: &Trade| trade.id.parse::<u64>().ok();
        if self.0.len() > 1 && self.0.iter().all(|trade| number(trade).is_some()) {
            self.0.sort_by_key(number);
        }
        for trade in self.0.drain(..) {
            each(&trade);
        }
    }
}

fn range(series: Series, (from, to): (UnixNanos, UnixNanos)) -> Range {
    Range {
        series,
        from,
        to,
        descending: false,
        after: None,
        limit: PAGE,
    }
}

fn row(bar: Bar) -> Result<Row> {
    let content = Content::Bar {
        venue: bar.head.venue.clone(),
        symbol: bar.head.symbol.clone(),
        interval: bar.interval,
        at: bar.start,
    };
    let seq = StreamSeq::new(bar.trades);
    let payload = codec::to_msgpack(&bar.into())?.into();
    Ok(Row {
        seq,
        content,
        payload,
    })
}
