//! A simulated venue: seeded random walks with quotes and trades that agree with each other.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng};
use rust_decimal::Decimal;
use schemas::decimal::{Price, Size};
use schemas::id::{Symbol, Venue};
use schemas::tick::{Head, Inst, Quote, Side, Tick, Trade};
use schemas::time::{Clock, UnixNanos};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::instrument;
use crate::feed::{Feed, FeedError, Past};

/// How often due ticks are made.
const STEP: Duration = Duration::from_millis(2);
/// The most ticks that are made up for after a pause, in steps.
const CATCH_UP: u64 = 500;
/// Of ten ticks so many are trades.
const TRADES_OF_TEN: u32 = 3;

/// Where the walk of a mid price ends below, in ticks of 0.01.
const LOWEST: i64 = 100;
/// Where it ends above.
const HIGHEST: i64 = 10_000_000;
/// The widest distance between mid and best price, in the same.
const WIDEST: i64 = 7;

/// Makes ticks at a steady rate.
pub struct Sim {
    market: Market,
    clock: Arc<dyn Clock>,
    steps: tokio::time::Interval,
    started: Instant,
    made: u64,
    rate: u64,
    listed: bool,
}

impl Sim {
    /// A venue of `instruments` that makes `rate` ticks per second and goes on from its past.
    pub fn new(
        venue: Venue,
        (instruments, rate): (NonZeroU32, NonZeroU32),
        seed: u64,
        past: &Past,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let mut steps = interval(STEP);
        steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let market = Market::new(venue, instruments.get(), seed, past, clock.now());
        let rate = u64::from(rate.get());
        Self {
            market,
            clock,
            steps,
            started: Instant::now(),
            made: 0,
            rate,
            listed: false,
        }
    }

    fn due(&mut self) -> u64 {
        let elapsed = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let target = elapsed.saturating_mul(self.rate) / 1_000_000;
        let most = (self.rate.saturating_mul(2) / 1_000 + 1).saturating_mul(CATCH_UP);
        let due = target.saturating_sub(self.made);
        // After a long pause the lost time is not made up for all at once.
        self.made = target;
        due.min(most)
    }
}

impl Feed for Sim {
    async fn next(&mut self) -> Result<Option<Vec<Tick>>, FeedError> {
        loop {
            self.steps.tick().await;
            let now = self.clock.now();
            let due = self.due();
            if !self.listed {
                self.listed = true;
                return Ok(Some(self.market.listing(now)));
            }
            if due > 0 {
                return Ok(Some((0..due).map(|_| self.market.tick(now)).collect()));
            }
        }
    }
}

/// The simulated instruments. Pure: the same seed and times give the same ticks.
struct Market {
    instruments: Vec<Walk>,
    /// Cumulated weights: few instruments make most of the ticks.
    weights: Vec<f64>,
    venue: Venue,
    rng: StdRng,
    next_id: u64,
}

struct Walk {
    symbol: Option<Symbol>,
    /// Mid price in ticks of 0.01.
    mid: i64,
    spread: i64,
    volatility: f64,
}

impl Market {
    fn new(venue: Venue, count: u32, seed: u64, past: &Past, now: UnixNanos) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut total = 0.0;
        let mut weights = Vec::new();
        let mut instruments = Vec::new();
        for index in 0..count {
            total += 1.0 / (f64::from(index) + 3.0);
            weights.push(total);
            let mut walk = Walk {
                symbol: Symbol::new(&name(index)).ok(),
                mid: rng.random_range(500..60_000),
                spread: rng.random_range(1..6),
                volatility: rng.random_range(0.4..2.0),
            };
            walk.go_on(past);
            instruments.push(walk);
        }
        if past.last_id > 0 {
            // The same steps again would be a chart that repeats itself.
            rng = StdRng::seed_from_u64(seed ^ past.last_id);
        }
        // Ids grow over restarts because time does, or because the last one is known.
        let next_id = u64::try_from(now.millis())
            .unwrap_or(0)
            .saturating_mul(100_000)
            .max(past.last_id.saturating_add(1));
        Self {
            instruments,
            weights,
            venue,
            rng,
            next_id,
        }
    }

    fn listing(&self, now: UnixNanos) -> Vec<Tick> {
        let list = |walk: &Walk| {
            let inst = instrument(&self.venue, walk.symbol.as_ref()?, now);
            let tick_size = Price::new(Decimal::new(1, 2)).ok();
            let name = walk
                .symbol
                .as_ref()
                .map(|symbol| format!("Simulated {symbol}"));
            Some(
                Inst {
                    class: "equity".to_owned(),
                    name,
                    quote: Some("USD".to_owned()),
                    tick_size,
                    ..inst
                }
                .into(),
            )
        };
        self.instruments.iter().filter_map(list).collect()
    }

    fn tick(&mut self, now: UnixNanos) -> Tick {
        loop {
            let total = self.weights.last().copied().unwrap_or(1.0);
            let point = self.rng.random_range(0.0..total);
            let index = self.weights.partition_point(|weight| *weight <= point);
            let trades = self.rng.random_range(0..10) < TRADES_OF_TEN;
            let id = self.next_id;
            let Some(walk) = self.instruments.get_mut(index) else {
                continue;
            };
            let Some(symbol) = walk.symbol.clone() else {
                continue;
            };
            let mut head = Head::new(self.venue.clone(), symbol, now);
            head.event = Some(now);
            let made = if trades {
                walk.trade(head, id, &mut self.rng)
            } else {
                walk.quote(head, &mut self.rng)
            };
            if let Some(tick) = made {
                self.next_id += u64::from(trades);
                return tick;
            }
        }
    }
}

impl Walk {
    /// Takes up the last quote that the stream holds.
    fn go_on(&mut self, past: &Past) {
        let quote = self.symbol.as_ref().and_then(|of| past.quotes.get(of));
        let Some((Some(bid), Some(ask))) = quote.map(|(bid, ask)| (cents(*bid), cents(*ask)))
        else {
            return;
        };
        let mid = i64::midpoint(bid, ask);
        if (LOWEST..=HIGHEST).contains(&mid) {
            self.mid = mid;
            self.spread = (ask - mid).clamp(1, WIDEST);
        }
    }

    fn quote(&mut self, head: Head, rng: &mut StdRng) -> Option<Tick> {
        // Two uniform steps make small moves likelier than large ones; calm follows calm.
        let step =
            (rng.random_range(-1.0..1.0) + rng.random_range(-1.0..1.0)) * self.volatility * 2.0;
        self.volatility =
            (self.volatility * 0.98 + rng.random_range(0.0_f64..0.06)).clamp(0.2, 6.0);
        if rng.random_range(0..400) == 0 {
            self.spread = rng.random_range(1..=WIDEST);
        }
        let step = if step > 0.5 {
            1 + i64::from(step > 3.0)
        } else {
            -i64::from(step < -0.5) - i64::from(step < -3.0)
        };
        self.mid = (self.mid + step).clamp(LOWEST, HIGHEST);
        Some(
            Quote {
                head,
                bid: Some(price(self.mid - self.spread)?),
                bid_size: Some(size(rng.random_range(1..500))?),
                ask: Some(price(self.mid + self.spread)?),
                ask_size: Some(size(rng.random_range(1..500))?),
            }
            .into(),
        )
    }

    fn trade(&mut self, head: Head, id: u64, rng: &mut StdRng) -> Option<Tick> {
        let (side, at) = if rng.random() {
            (Side::Buy, self.spread)
        } else {
            (Side::Sell, -self.spread)
        };
        Some(
            Trade {
                head,
                id: id.to_string(),
                price: price(self.mid + at)?,
                size: size(rng.random_range(1..300))?,
                side,
                conditions: None,
            }
            .into(),
        )
    }
}

fn price(cents: i64) -> Option<Price> {
    Price::new(Decimal::new(cents, 2)).ok()
}

/// A price in whole ticks of 0.01; `None` if it is not above 0.
fn cents(price: Price) -> Option<i64> {
    let cents = price.get().checked_mul(Decimal::ONE_HUNDRED)?;
    i64::try_from(cents)
        .ok()
        .filter(|cents| cents.is_positive())
}

fn size(units: i64) -> Option<Size> {
    Size::new(Decimal::new(units, 0)).ok()
}

/// Tickers that look like some: AAA, AAB, …
fn name(index: u32) -> String {
    let letter = |index: u32| char::from_u32(u32::from(b'A') + index % 26).unwrap_or('A');
    let tail: String = [index / 676, index / 26, index]
        .map(letter)
        .iter()
        .collect();
    if index < 17_576 {
        tail
    } else {
        format!("{}{tail}", index / 17_576)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_767_000_000_000_000_000;

    fn venue() -> Venue {
        Venue::new("simb").unwrap()
    }

    #[test]
    fn a_seed_makes_a_run_repeatable_and_quotes_never_cross() {
        let run = || {
            let now = UnixNanos::new(START);
            let mut market = Market::new(venue(), 50, 7, &Past::default(), now);
            (0..5_000)
                .map(|_| market.tick(UnixNanos::EPOCH))
                .collect::<Vec<_>>()
        };
        let ticks = run();
        assert_eq!(ticks, run());
        let mut ids = Vec::new();
        assert!(ticks.iter().all(|tick| tick.head().venue == venue()));
        for tick in &ticks {
            if let Tick::Quote(quote) = tick {
                assert!(quote.bid < quote.ask);
            } else if let Tick::Trade(trade) = tick {
                ids.push(trade.id.parse::<u64>().unwrap());
            }
        }
        assert!(ids.len() > 1_000 && ids.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn a_restart_goes_on_from_the_last_prices_ids_and_times() {
        let first = |market: &mut Market, of: &Symbol| loop {
            let tick = market.tick(UnixNanos::EPOCH);
            if let Tick::Quote(quote) = tick
                && quote.head.symbol == *of
            {
                break cents(quote.bid.unwrap()).unwrap();
            }
        };
        let (known, unknown) = (Symbol::new("AAA").unwrap(), Symbol::new("AAB").unwrap());
        let mut past = Past {
            last_id: 900,
            latest: UnixNanos::new(START + 5),
            ..Past::default()
        };
        let (bid, ask) = ("71234.50", "71234.56");
        let quote = (bid.parse().unwrap(), ask.parse().unwrap());
        past.quotes.insert(known.clone(), quote);
        let (now, before) = (UnixNanos::new(0), Past::default());
        let mut fresh = Market::new(venue(), 2, 7, &before, now);
        let mut market = Market::new(venue(), 2, 7, &past, now);
        assert_eq!(market.next_id, 901);
        assert!((first(&mut market, &known) - 7_123_450).abs() < 20);
        let same = first(&mut market, &unknown) - first(&mut fresh, &unknown);
        assert!(
            same.abs() < 40,
            "an instrument without a past keeps its seed"
        );
        // What this venue cannot have made is not taken up.
        for (bid, ask) in [("0.01", "0.02"), ("-5", "5"), ("900000", "900001")] {
            let quote = (bid.parse().unwrap(), ask.parse().unwrap());
            past.quotes.insert(known.clone(), quote);
            let mid = |past| Market::new(venue(), 1, 7, past, now).instruments[0].mid;
            assert_eq!(mid(&past), mid(&before), "{bid}");
        }
    }

    #[test]
    fn every_instrument_has_a_name_of_its_own() {
        let names: std::collections::HashSet<String> = (0..100_000).map(name).collect();
        assert_eq!(names.len(), 100_000);
    }
}
