//! Last messages of one instrument: what they hold, and which trades they lack. Pure.

use std::collections::HashMap;
use std::time::Duration;

use schemas::id::Interval;
use schemas::position::StreamSeq;
use schemas::tick::{Bar, Flag, Head, Tick, Trade};
use schemas::time::UnixNanos;

use super::Restored;
use crate::bars::{MAX_AHEAD, Series, credible_time_of, start_of, time_of};
use crate::line::dedupe::Ids;
use crate::stats::Session;

/// An instrument that was first heard of so short a time before its last trade may have bars that
/// were never published.
const YOUNG: Duration = Duration::from_mins(1);

/// Last messages of one instrument, each with its sequence.
#[derive(Default)]
pub(super) struct Last {
    /// When it was first heard of, unless that was long ago.
    born: Option<(StreamSeq, UnixNanos)>,
    trade: Option<(StreamSeq, UnixNanos, Trade)>,
    bars: HashMap<Interval, (StreamSeq, Bar)>,
    forms: HashMap<Interval, (StreamSeq, Bar)>,
    stat: Option<(StreamSeq, Session)>,
    /// The latest event time of any trade, as far as the summary tells.
    pub(super) newest: UnixNanos,
    /// Where intervals begin that have neither bar nor forming bar, and a missing summary.
    fallback: StreamSeq,
}

impl Last {
    /// Takes in the last message of a subject, stored at `time`.
    pub(super) fn take(&mut self, seq: StreamSeq, time: UnixNanos, tick: &Tick) {
        let head = tick.head();
        match tick {
            Tick::Trade(trade) => self.trade = Some((seq, time, trade.clone())),
            // What was dated too far ahead would never end: it is as if it were not there.
            Tick::Bar(bar) if !is_beyond(&bar.head, bar.start) => {
                self.bars.insert(bar.interval, (seq, bar.clone()));
            }
            Tick::Form(form) if !is_beyond(&form.head, form.start) => {
                self.forms.insert(form.interval, (seq, form.clone().into()));
            }
            Tick::Stat(stat) if !is_beyond(head, head.event.unwrap_or(head.received)) => {
                self.newest = self.newest.max(head.event.unwrap_or(head.received));
                self.stat = Some((seq, Session::restored(stat)));
            }
            Tick::Inst(_) if !head.flags.contains(&Flag::Refresh) => self.born = Some((seq, time)),
            Tick::Bar(_)
            | Tick::Form(_)
            | Tick::Stat(_)
            | Tick::Quote(_)
            | Tick::Book(_)
            | Tick::Index(_)
            | Tick::Flow(_)
            | Tick::Status(_)
            | Tick::Feed(_)
            | Tick::Inst(_) => {}
        }
    }

    /// Finds where intervals begin that the stream knows nothing of: with an instrument that is
    /// new, or else, being new themselves, with the other intervals.
    pub(super) fn locate(&mut self, intervals: &[Interval]) {
        let Some((trade, traded, _)) = &self.trade else {
            return;
        };
        let young = self.born.filter(|(_, at)| traded.since(*at) < YOUNG);
        let known = intervals.iter().filter_map(|of| self.known_seq(*of));
        let stat = self.stat.as_ref().map(|(seq, _)| *seq);
        let before = StreamSeq::new(trade.get().saturating_sub(1));
        let all = known.chain(stat).chain(young.map(|(seq, _)| seq));
        self.fallback = all.min().unwrap_or(before);
    }

    pub(super) fn known_seq(&self, interval: Interval) -> Option<StreamSeq> {
        let bar = self.bars.get(&interval).map(|(seq, _)| *seq);
        let form = self.forms.get(&interval).map(|(seq, _)| *seq);
        bar.max(form)
    }

    /// Everything up to here is in the bars of this interval, as far as they do not start behind
    /// its last bar.
    fn bar_seq(&self, interval: Interval) -> StreamSeq {
        self.known_seq(interval).unwrap_or(self.fallback)
    }

    /// Everything up to here that belongs behind the last bar of this interval is in the forming
    /// bar: a corrected bar says nothing of later ones, a forming bar does.
    fn later_seq(&self, interval: Interval) -> StreamSeq {
        match self.bars.get(&interval) {
            Some((_, bar)) if bar.head.flags.contains(&Flag::Late) => self
                .forms
                .get(&interval)
                .map_or(self.fallback, |(seq, _)| *seq),
            _ => self.bar_seq(interval),
        }
    }

    /// Whether the bars of this interval lack a trade.
    fn lacks(&self, interval: Interval, seq: StreamSeq, trade: &Trade) -> bool {
        let last = self.bars.get(&interval);
        let later = last.is_some_and(|(_, bar)| start_of(interval, time_of(trade)) > bar.start);
        seq > if later {
            self.later_seq(interval)
        } else {
            self.bar_seq(interval)
        }
    }

    fn stat_seq(&self) -> StreamSeq {
        self.stat.as_ref().map_or(self.fallback, |(seq, _)| *seq)
    }

    /// The sequence behind which trades are missing in bars or summary; `None` if none are.
    pub(super) fn incomplete_since(&self, intervals: &[Interval]) -> Option<StreamSeq> {
        let (trade, ..) = self.trade.as_ref()?;
        let bars = intervals.iter().map(|interval| self.later_seq(*interval));
        bars.chain([self.stat_seq()])
            .filter(|seq| seq < trade)
            .min()
    }

    pub(super) fn restore(&self, intervals: &[Interval]) -> Restored {
        let series = intervals.iter().map(|interval| {
            let bar = self.bars.get(interval).map(|(_, bar)| bar);
            let form = self.forms.get(interval).map(|(_, form)| form);
            (*interval, Series::restored(*interval, bar, form))
        });
        Restored {
            ids: self.ids(),
            replayed: false,
            series: series.collect(),
            session: self
                .stat
                .as_ref()
                .map(|(_, session)| session.clone())
                .unwrap_or_default(),
        }
    }

    fn ids(&self) -> Ids {
        let mut ids = Ids::default();
        if let Some((.., trade)) = &self.trade {
            ids.restore(&trade.id, credible_time_of(trade));
        }
        ids
    }

    /// Takes in a trade that the stream holds but the last bars or summary do not.
    pub(super) fn replay(
        &self,
        seq: StreamSeq,
        trade: &Trade,
        restored: &mut Restored,
        bars: &mut Vec<Tick>,
    ) {
        restored.ids.restore(&trade.id, credible_time_of(trade));
        for (interval, series) in &mut restored.series {
            if self.lacks(*interval, seq, trade) {
                restored.replayed = true;
                let head = || {
                    let Head {
                        venue,
                        symbol,
                        received,
                        ..
                    } = trade.head.clone();
                    Head::new(venue, symbol, received)
                };
                let applied = series.apply(trade).bars.into_iter();
                bars.extend(
                    applied.map(|(bar, late)| Tick::from(bar.bar(head(), *interval, late))),
                );
            }
        }
        if seq > self.stat_seq() {
            restored.replayed = true;
            restored.session.apply(trade);
        }
    }
}

/// Whether a time lies further ahead of the receipt than any trade may.
fn is_beyond(head: &Head, at: UnixNanos) -> bool {
    at > head.received.offset(MAX_AHEAD)
}
