//! What indicators give: against published examples, against naive computations, and never NaN.

use std::collections::BTreeMap;

use proptest::prelude::*;
use schemas::id::Interval;
use schemas::tick::Head;

use super::*;

mod examples;
mod naive;
mod parameters;

fn indicator(name: &str, parameters: &[(&str, &str)]) -> Indicator {
    let parameters: BTreeMap<_, _> = parameters
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    parse(name, &parameters).unwrap()
}

/// One output of every bar.
fn output(indicator: &mut Indicator, name: &str, bars: &[Candle]) -> Vec<Option<f64>> {
    let at = indicator
        .outputs()
        .iter()
        .position(|output| output.name == name)
        .unwrap();
    bars.iter()
        .map(|bar| indicator.next(bar).and_then(|values| values.as_slice()[at]))
        .collect()
}

fn bar(start: i64, [open, high, low, close]: [f64; 4], volume: f64) -> Candle {
    let start = UnixNanos::new(start * 60_000_000_000);
    Candle {
        start,
        open,
        high,
        low,
        close,
        volume,
    }
}

/// Bars of minutes whose prices are multiples of a tick and never below it: walks, jumps, standing
/// prices, bars of one price and without volume.
fn walk() -> impl Strategy<Value = Vec<Candle>> {
    let step = prop_oneof![4 => -20_i32..=20, 2 => Just(0), 1 => -2000_i32..=2000];
    let wick = || prop_oneof![2 => 0_i32..=15, 1 => Just(0)];
    let volume = prop_oneof![3 => 0_u32..=5000, 1 => Just(0)];
    let shape = (step, wick(), wick(), volume);
    let tick = prop_oneof![Just(0.01), Just(0.5), Just(1e-8), Just(1e6)];
    (tick, prop::collection::vec(shape, 1..130)).prop_map(|(tick, shapes)| {
        let mut last = 3000;
        let mut bars = Vec::with_capacity(shapes.len());
        for (at, (step, up, down, volume)) in (0..).zip(shapes) {
            let close = (last + step).max(1);
            let figures = [
                last,
                last.max(close) + up,
                (last.min(close) - down).max(1),
                close,
            ];
            let figures = figures.map(|ticks| f64::from(ticks) * tick);
            bars.push(bar(at * 7, figures, f64::from(volume)));
            last = close;
        }
        bars
    })
}

/// Short periods, so that a short walk runs windows around several times.
fn short(description: &Description, period: u16) -> Indicator {
    let mut parameters = BTreeMap::new();
    for (more, parameter) in (0..).zip(description.parameters) {
        if let Limits::Integer { min, .. } = parameter.limits {
            let period = (period + 2 * more).max(min);
            parameters.insert(parameter.name.to_owned(), period.to_string());
        }
    }
    parse(description.name, &parameters).unwrap()
}

#[test]
fn at_least_twenty_are_known_by_unique_names() {
    let mut names: Vec<_> = describe().map(|known| known.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert!(count >= 20 && names.len() == count, "{names:?}");
}

#[test]
fn bars_of_the_stream_are_read_as_they_are() {
    let start = UnixNanos::new(60_000_000_000);
    let stored = Bar {
        head: Head::new("sim".parse().unwrap(), "A".parse().unwrap(), start),
        interval: Interval::Minute1,
        start,
        open: "1.50".parse().unwrap(),
        high: "2.25".parse().unwrap(),
        low: "-0.10".parse().unwrap(),
        close: "99999.98765432".parse().unwrap(),
        volume: "1000000000000000000".parse().unwrap(),
        trades: 3,
    };
    let read = Candle::from(&stored);
    assert_eq!(read, bar(1, [1.5, 2.25, -0.1, 99_999.987_654_32], 1e18));
    assert_eq!(Candle::from(&Form::from(stored)), read);
}

#[test]
fn bars_beyond_the_limits_of_prices_are_passed_over() {
    assert_eq!(
        schemas::decimal::LIMIT.to_string().parse(),
        Ok(MAX_FIGURE),
        "the limit of figures is that of prices"
    );
    for description in describe() {
        let mut indicator = short(description, 2);
        let untouched = format!("{indicator:?}");
        for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.1e18, f64::MAX] {
            for at in 0..4 {
                let mut figures = [1.0; 4];
                figures[at] = odd;
                assert_eq!(indicator.next(&bar(0, figures, 1.0)), None);
            }
            assert_eq!(indicator.next(&bar(0, [1.0; 4], odd)), None);
        }
        assert_eq!(format!("{indicator:?}"), untouched);
    }
}

#[test]
fn every_figure_exists_from_the_bar_that_is_promised() {
    let bars = long_walk(1200);
    for description in describe() {
        for mut indicator in [
            parse(description.name, &BTreeMap::new()).unwrap(),
            short(description, 3),
        ] {
            let complete = |values: Option<Values>| {
                values.is_some_and(|values| values.as_slice().iter().all(Option::is_some))
            };
            let first = bars.iter().position(|bar| complete(indicator.next(bar)));
            assert_eq!(first, Some(indicator.warm_up()), "{indicator}");
            assert!(indicator.history() >= indicator.warm_up());
        }
    }
}

#[test]
fn what_was_before_the_history_does_not_matter() {
    let bars = long_walk(3000);
    for description in describe() {
        let mut all = parse(description.name, &BTreeMap::new()).unwrap();
        let mut late = all.clone();
        let shown = bars.len() - 200;
        let from = all
            .anchor(bars[shown].start)
            .and_then(|from| bars.iter().position(|bar| bar.start >= from))
            .unwrap_or(shown - all.history());
        let mut offset = None;
        for (at, bar) in bars.iter().enumerate() {
            let expected = all.next(bar);
            let found = (at >= from).then(|| late.next(bar)).flatten();
            if at < shown {
                continue;
            }
            let (expected, found) = (expected.unwrap(), found.unwrap());
            for (expected, found) in expected.as_slice().iter().zip(found.as_slice()) {
                let (mut expected, found) = (expected.unwrap(), found.unwrap());
                if all.is_total() {
                    expected -= *offset.get_or_insert(expected - found);
                }
                let distance = (expected - found).abs();
                let allowed = 1e-5 * expected.abs().max(1.0);
                assert!(distance <= allowed, "{all} {at}: {expected} {found}");
            }
        }
    }
}

#[test]
fn a_window_keeps_no_trace_of_what_left_it() {
    let bars = long_walk(400);
    let totals = ["obv", "adl", "vwap", "psar"];
    for description in describe().filter(|known| !totals.contains(&known.name)) {
        let mut fresh = short(description, 7);
        if fresh.history() > fresh.warm_up() {
            continue;
        }
        let mut used = fresh.clone();
        for (at, huge) in [(0, 1e18), (1, -1e18), (2, 1e-18), (3, 1e17)] {
            used.next(&bar(at, [huge; 4], huge.abs()));
        }
        for bar in &bars {
            let (expected, found) = (fresh.next(bar), used.next(bar));
            let Some(expected) = expected else { continue };
            let found = found.unwrap();
            if expected.as_slice().iter().any(Option::is_none) {
                continue;
            }
            for (expected, found) in expected.as_slice().iter().zip(found.as_slice()) {
                let (expected, found) = (expected.unwrap(), found.unwrap());
                let distance = (expected - found).abs();
                assert!(distance <= 1e-12 * expected.abs().max(100.0), "{used}");
            }
        }
    }
}

/// A walk that is the same in every run, with volume and movement in every bar.
fn long_walk(bars: i64) -> Vec<Candle> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        f64::from(u32::try_from(state % below).unwrap())
    };
    let mut last = 1000.0;
    (0..bars)
        .map(|at| {
            let close = last + random(41) - 20.0 + (1000.0 - last) / 50.0;
            let (high, low) = (
                last.max(close) + random(9) + 1.0,
                last.min(close) - random(9),
            );
            let candle = bar(at, [last, high, low - 1.0, close], random(900) + 1.0);
            last = close;
            candle
        })
        .collect()
}

/// Any figures whatever, most of them numbers.
fn anything() -> impl Strategy<Value = Candle> {
    let figure = || {
        prop_oneof![
            4 => -1e3..1e3,
            2 => Just(0.0),
            1 => -1e18..1e18,
            1 => Just(1e18),
            1 => Just(-1e18),
            1 => -1e-300..1e-300,
            1 => any::<f64>(),
        ]
    };
    let figures = (figure(), figure(), figure(), figure(), figure());
    (any::<i64>(), figures).prop_map(|(start, (open, high, low, close, volume))| Candle {
        start: UnixNanos::new(start),
        open,
        high,
        low,
        close,
        volume,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_panics_and_nothing_is_no_number(
        bars in prop::collection::vec(anything(), 1..60),
        period in 1_u16..6,
    ) {
        for description in describe() {
            let mut indicator = short(description, period);
            for bar in &bars {
                if let Some(values) = indicator.next(bar) {
                    prop_assert_eq!(values.as_slice().len(), indicator.outputs().len());
                    prop_assert!(values.as_slice().iter().flatten().all(|figure| figure.is_finite()));
                }
                indicator.anchor(bar.start);
            }
        }
    }

    #[test]
    fn a_forming_bar_is_valued_as_if_it_closed_and_not_taken(
        bars in walk(),
        period in 1_u16..9,
    ) {
        for description in describe() {
            let mut peeked = short(description, period);
            let mut plain = peeked.clone();
            for bar in &bars {
                let mut copy = peeked.clone();
                let forming = Candle { close: bar.low, volume: bar.volume / 2.0, ..*bar };
                prop_assert_eq!(peeked.peek(&forming), copy.next(&forming));
                let value = peeked.peek(bar);
                prop_assert_eq!(value, plain.next(bar));
                prop_assert_eq!(value, peeked.next(bar));
            }
        }
    }

    #[test]
    fn a_copy_goes_on_where_the_original_was(
        bars in walk(),
        period in 1_u16..9,
        split in 0.0..1.0,
    ) {
        let split = (0..bars.len()).filter(|at| {
            f64::from(u32::try_from(*at).unwrap()) < split * f64::from(u32::try_from(bars.len()).unwrap())
        }).count();
        for description in describe() {
            let mut one = short(description, period);
            let through: Vec<_> = bars.iter().map(|bar| one.next(bar)).collect();
            let mut again = short(description, period);
            let mut values: Vec<_> = bars[..split].iter().map(|bar| again.next(bar)).collect();
            let mut copy = again.clone();
            values.extend(bars[split..].iter().map(|bar| copy.next(bar)));
            prop_assert!(through == values, "{one}");
        }
    }

    #[test]
    fn naive_computations_agree(bars in walk(), period in 1_u16..12) {
        for description in describe() {
            let mut indicator = short(description, period);
            let expected = naive::compute(description.name, usize::from(period), &bars);
            for (at, bar) in bars.iter().enumerate() {
                let values = indicator.next(bar).unwrap_or_default();
                for (output, name) in indicator.outputs().iter().enumerate() {
                    let found = values.as_slice().get(output).copied().flatten();
                    let expected = expected[at][output];
                    prop_assert!(
                        naive::agree(found, expected, description.name, &bars),
                        "{} {} at {}: {:?}, naively {:?}",
                        indicator, name.name, at, found, expected,
                    );
                }
            }
        }
    }
}
