//! One instrument: what its trades make of bars, forming bars and summary. Pure.
//!
//! Recovery tells from sequences which trades the bars of the stream lack. So a closed bar stands
//! behind every trade that it holds and before every other one; a forming bar stands behind every
//! trade that the bars of its interval hold. A correction says nothing of later bars, and it hides
//! the bar before it: a forming bar that is later stands before it.

use schemas::id::{Interval, Symbol, Venue};
use schemas::tick::{Head, Tick, Trade};
use schemas::time::UnixNanos;

use super::dedupe::Ids;
use crate::bars::{Applied, Candle, Series};
use crate::metrics::Metrics;
use crate::recovery::Restored;
use crate::stats::{Session, Taken};

pub(super) struct Instrument {
    venue: Venue,
    symbol: Symbol,
    /// The feed whose bars it has and whose clock closes them.
    pub(super) feed: usize,
    /// Whether that is known, and not only likely.
    pub(super) settled: bool,
    pub(super) ids: Ids,
    charts: Vec<Chart>,
    session: Session,
    /// Something changed since forming bars and summaries were last sent.
    pub(super) dirty: bool,
    /// When they may be sent again.
    pub(super) due: UnixNanos,
}

struct Chart {
    series: Series,
    /// Start of the last bar that was sent while forming.
    formed: Option<UnixNanos>,
    /// A trade changed no open bar: nothing that closes later says that it is taken in.
    owed: bool,
}

/// What a trade leads to.
#[derive(Default)]
pub(super) struct Built {
    /// Bars that it closes, to be sent before it.
    pub(super) closed: Vec<Tick>,
    /// Forming bars, to be sent before it.
    pub(super) forms: Vec<Tick>,
    /// Bars that it corrects, to be sent behind it.
    pub(super) corrected: Vec<Tick>,
    /// It is late for some interval.
    pub(super) late: bool,
    /// Ends of the bars that it opens.
    pub(super) ends: Vec<(UnixNanos, Interval)>,
}

impl Instrument {
    /// Goes on behind what the stream knows.
    pub(super) fn new(
        (venue, symbol): (Venue, Symbol),
        feed: usize,
        bars: &[Interval],
        mut restored: Restored,
    ) -> Self {
        let charts = bars.iter().map(|interval| {
            let series = restored.series.remove(interval);
            Chart {
                series: series.unwrap_or_else(|| Series::new(*interval)),
                formed: None,
                owed: restored.replayed,
            }
        });
        Self {
            venue,
            symbol,
            feed,
            settled: true,
            charts: charts.collect(),
            ids: restored.ids,
            session: restored.session,
            dirty: restored.replayed,
            due: UnixNanos::EPOCH,
        }
    }

    fn head(&self, received: UnixNanos) -> Head {
        Head::new(self.venue.clone(), self.symbol.clone(), received)
    }

    /// Takes in a trade at `now`.
    pub(super) fn apply(&mut self, trade: &Trade, now: UnixNanos, metrics: &Metrics) -> Built {
        let mut built = Built::default();
        let (at_trade, at_now) = (self.head(trade.head.received), self.head(now));
        for chart in &mut self.charts {
            let interval = chart.series.interval();
            let (applied, form) = chart.apply(trade);
            count(metrics, &applied);
            built.late |= applied.late;
            if applied.opened {
                built.ends.extend(chart.end());
            }
            built
                .forms
                .extend(form.map(|bar| Tick::from(bar.form(at_now.clone(), interval))));
            for (bar, corrected) in applied.bars {
                let bar = bar.bar(at_trade.clone(), interval, corrected).into();
                if corrected {
                    built.corrected.push(bar);
                } else {
                    built.closed.push(bar);
                }
            }
        }
        built
    }

    /// Takes a trade into the summary.
    pub(super) fn sum_up(&mut self, trade: &Trade) -> Taken {
        self.session.apply(trade)
    }

    /// Ends of the open bars.
    pub(super) fn ends(&self) -> impl Iterator<Item = (UnixNanos, Interval)> {
        self.charts.iter().filter_map(Chart::end)
    }

    /// Goes over to other intervals.
    pub(super) fn rearrange(&mut self, bars: &[Interval]) {
        self.charts
            .retain(|chart| bars.contains(&chart.series.interval()));
        for interval in bars {
            let mut charts = self.charts.iter();
            if charts.all(|chart| chart.series.interval() != *interval) {
                self.charts.push(Chart {
                    series: Series::new(*interval),
                    formed: None,
                    owed: false,
                });
            }
        }
    }

    /// Closes the bar of an interval if its end is not behind `clock`.
    pub(super) fn close(
        &mut self,
        interval: Interval,
        clock: UnixNanos,
        now: UnixNanos,
    ) -> Option<Tick> {
        let head = self.head(now);
        let mut charts = self.charts.iter_mut();
        let chart = charts.find(|chart| chart.series.interval() == interval)?;
        let closed = chart.series.close_by(clock)?;
        Some(closed.bar(head, interval, false).into())
    }

    /// Forming bars and summary, after trades.
    pub(super) fn forming(&mut self, now: UnixNanos) -> Vec<Tick> {
        let head = self.head(now);
        let mut ticks = Vec::with_capacity(self.charts.len() + 1);
        for chart in &mut self.charts {
            let interval = chart.series.interval();
            let bar = chart.forming();
            ticks.extend(bar.map(|bar| Tick::from(bar.form(head.clone(), interval))));
        }
        ticks.extend(self.session.stat(head).map(Tick::from));
        ticks
    }
}

impl Chart {
    /// Takes in a trade; gives what must be sent as forming before it.
    fn apply(&mut self, trade: &Trade) -> (Applied, Option<Candle>) {
        let applied = self.series.apply(trade);
        self.owed |= applied.late || applied.ahead;
        let corrected = applied.bars.iter().filter(|(_, corrected)| *corrected);
        let oldest = corrected.map(|(bar, _)| bar.start).min();
        let hidden = self.series.newest().filter(|newest| {
            oldest.is_some_and(|oldest| oldest < newest.start) && self.formed != Some(newest.start)
        });
        let hidden = hidden.cloned();
        if let Some(bar) = &hidden {
            self.formed = Some(bar.start);
        }
        (applied, hidden)
    }

    fn end(&self) -> Option<(UnixNanos, Interval)> {
        let interval = self.series.interval();
        let bar = self.series.forming()?;
        Some((bar.start.offset(interval.nanos()), interval))
    }

    /// The bar to be sent as forming: one second is over before anybody would look.
    fn forming(&mut self) -> Option<Candle> {
        let owed = std::mem::take(&mut self.owed);
        let bar = match self.series.forming() {
            Some(_) if self.series.interval() == Interval::Second1 => None,
            None if owed => self.series.newest(),
            open => open,
        };
        if let Some(bar) = bar {
            self.formed = Some(bar.start);
        }
        bar.cloned()
    }
}

fn count(metrics: &Metrics, applied: &Applied) {
    if applied.too_late {
        metrics.too_late.inc();
    }
    if applied.overflow {
        metrics.overflows.inc();
    }
}
