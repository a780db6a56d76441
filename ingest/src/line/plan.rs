//! Which feed an instrument belongs to, and so which bars it has. Pure.
//!
//! An instrument belongs to the first feed of its venue that lists its symbol. Where none lists it,
//! as with simulators and recordings, every feed of the venue may carry it: until its first trade
//! tells which one does, its bars are the union of theirs.

use std::collections::HashSet;

use schemas::id::{Interval, Symbol, Venue};

use crate::config::FeedConfig;

/// What the line must know of a feed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The venue of its ticks.
    pub venue: Option<Venue>,
    /// The instruments that it names; none where the venue tells.
    pub symbols: HashSet<Symbol>,
    /// The bars that are built from its trades, each once.
    pub bars: Vec<Interval>,
    /// Whether its own event times, not the wall clock, tell when bars are over.
    pub recorded: bool,
}

/// The plans of all feeds, in the order of their configuration.
#[derive(Clone, Debug)]
pub struct Plans(Vec<Plan>);

/// Where an instrument belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// Index of the feed.
    pub feed: usize,
    /// Its bars.
    pub bars: Vec<Interval>,
    /// Whether the feed lists it: no other feed will do.
    pub listed: bool,
    /// Whether feeds with other bars may carry it as well: it need not have all of these.
    pub mixed: bool,
}

impl Plan {
    /// The plan of a configured feed.
    pub fn of(feed: &FeedConfig) -> Self {
        Self {
            venue: feed.venue(),
            symbols: feed.symbols().iter().cloned().collect(),
            bars: feed.bars.clone(),
            recorded: feed.is_recorded(),
        }
    }
}

impl Plans {
    /// All plans, in the order of the configuration.
    pub const fn new(plans: Vec<Plan>) -> Self {
        Self(plans)
    }

    /// The plan of a feed.
    pub fn get(&self, feed: usize) -> Option<&Plan> {
        self.0.get(feed)
    }

    /// The bars of a feed.
    pub fn bars(&self, feed: usize) -> Vec<Interval> {
        self.get(feed)
            .map(|plan| plan.bars.clone())
            .unwrap_or_default()
    }

    /// Number of feeds.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no feed.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where an instrument belongs; `None` if no feed carries its venue.
    pub fn home(&self, venue: &Venue, symbol: &Symbol) -> Option<Home> {
        let of_venue = || {
            let plans = self.0.iter().enumerate();
            plans.filter(|(_, plan)| plan.venue.as_ref() == Some(venue))
        };
        if let Some((feed, plan)) = of_venue().find(|(_, plan)| plan.symbols.contains(symbol)) {
            return Some(Home {
                feed,
                bars: plan.bars.clone(),
                listed: true,
                mixed: false,
            });
        }
        let (feed, first) = of_venue().next()?;
        let all: HashSet<Interval> = of_venue().flat_map(|(_, plan)| plan.bars.clone()).collect();
        let bars = Interval::ALL
            .iter()
            .filter(|interval| all.contains(interval));
        Some(Home {
            feed,
            bars: bars.copied().collect(),
            listed: false,
            mixed: of_venue().any(|(_, plan)| plan.bars != first.bars),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_symbol_has_one_home_and_any_other_the_union_of_its_venue() {
        let plan = |venue: &str, symbols: &[&str], bars: &[Interval]| Plan {
            venue: Venue::new(venue).ok(),
            symbols: symbols.iter().flat_map(|name| Symbol::new(name)).collect(),
            bars: bars.to_vec(),
            recorded: false,
        };
        let (second, minute, day) = (Interval::Second1, Interval::Minute1, Interval::Day1);
        let plans = Plans::new(vec![
            plan("other", &[], &[Interval::Hour1]),
            plan("x", &["A"], &[minute]),
            plan("x", &["B"], &[day, second]),
        ]);
        let home = |venue: &str, symbol: &str| {
            let home = plans.home(&Venue::new(venue).unwrap(), &Symbol::new(symbol).unwrap());
            home.map(|home| (home.feed, home.bars, home.listed, home.mixed))
        };
        assert_eq!(home("x", "B"), Some((2, vec![day, second], true, false)));
        assert_eq!(
            home("x", "C"),
            Some((1, vec![second, minute, day], false, true))
        );
        assert_eq!(home("nowhere", "A"), None);
    }
}
