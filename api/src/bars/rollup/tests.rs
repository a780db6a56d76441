//! That a bar is what its parts are, against a naive computation over any walk.

use std::collections::BTreeMap;

use proptest::prelude::*;
use schemas::id::Interval;
use schemas::tick::Head;

use super::*;
use crate::bars::calendar::Calendar;
use crate::bars::resolution::Resolution;

const MINUTE: i64 = 60_000_000_000;

fn part(minute: i64, seq: u64, prices: [i64; 4], volume: &str, flags: &[Flag]) -> Part {
    let start = UnixNanos::new(minute * MINUTE);
    let mut head = Head::new("x".parse().unwrap(), "A".parse().unwrap(), start);
    head.flags = flags.to_vec();
    let [open, high, low, close] = prices.map(|price| format!("{price}.50").parse().unwrap());
    let bar = Bar {
        head,
        interval: Interval::Minute1,
        start,
        open,
        high,
        low,
        close,
        volume: volume.parse().unwrap(),
        trades: 3,
    };
    Part::new(bar, Epoch::new(UnixNanos::new(1), 0), StreamSeq::new(seq))
}

fn resolution(text: &str) -> Resolution {
    text.parse().unwrap()
}

/// All wholes, ascending.
fn roll(
    parts: impl IntoIterator<Item = Part>,
    resolution: Resolution,
    reverse: bool,
) -> Result<Vec<Whole>, Overflow> {
    let calendar = Calendar::default();
    let mut roller = Roller::new(Grid::new(&calendar, resolution), reverse);
    let mut wholes = Vec::new();
    for part in parts {
        wholes.extend(roller.push(part)?);
    }
    wholes.extend(roller.finish());
    if reverse {
        wholes.reverse();
    }
    Ok(wholes)
}

#[test]
fn a_bar_has_the_first_and_last_price_the_extremes_and_the_sums() {
    let parts = [
        part(0, 7, [10, 12, 9, 11], "1.50", &[]),
        part(2, 9, [11, 20, 10, 15], "0.25", &[Flag::Late]),
        part(4, 8, [15, 16, -3, 2], "2", &[Flag::Backfill, Flag::Late]),
        part(5, 10, [2, 2, 2, 2], "1", &[]),
    ];
    let wholes = roll(parts, resolution("5m"), false).unwrap();
    let (venue, symbol) = ("x".parse().unwrap(), "A".parse().unwrap());
    let candle = wholes[0].clone().candle(&venue, &symbol, "5m");
    let text = serde_json::to_string(&candle).unwrap();
    assert_eq!(
        text,
        r#"{"s":9,"k":"bar","v":"x","y":"A","fl":["late","backfill"],"iv":"5m","t0":"0","o":"10.50","h":"20.50","l":"-3.50","c":"2.50","vo":"3.75","n":9}"#
    );
    assert_eq!(wholes.len(), 2);
}

#[test]
fn it_is_closed_once_nothing_can_be_missing() {
    let parts = |last: i64| {
        [
            part(0, 1, [1, 1, 1, 1], "1", &[]),
            part(last, 2, [1, 1, 1, 1], "1", &[]),
        ]
    };
    let closed = |last, settled| {
        let wholes = roll(parts(last), resolution("5m"), false).unwrap();
        wholes[0].is_closed(UnixNanos::new(settled * MINUTE))
    };
    assert!(!closed(3, 4), "a minute is missing and may come");
    assert!(closed(4, 0), "its last minute is there");
    assert!(closed(3, 5), "its time is over");
}

#[test]
fn positions_are_compared_by_epoch_first() {
    let mut old = part(0, 900, [1, 1, 1, 1], "1", &[]);
    let new = part(1, 5, [1, 1, 1, 1], "1", &[]);
    old.position.0 = Epoch::new(UnixNanos::new(0), 0);
    for (one, other) in [(old.clone(), new.clone()), (new, old)] {
        let joined = one.join(other).unwrap();
        assert_eq!(joined.position.1, StreamSeq::new(5));
    }
}

#[test]
fn a_sum_beyond_the_limit_is_told_by_its_bar() {
    let limit = schemas::decimal::LIMIT.to_string();
    let parts = [
        part(10, 1, [1, 1, 1, 1], &limit, &[]),
        part(11, 2, [1, 1, 1, 1], "0.00000001", &[]),
    ];
    let start = UnixNanos::new(10 * MINUTE);
    assert_eq!(
        roll(parts, resolution("5m"), false),
        Err(Overflow { start })
    );
}

/// Minutes with holes, on any of some days.
fn walk() -> impl Strategy<Value = Vec<Part>> {
    let bar = (1_i64..200, -50_i64..50, [0_i64..9, 0..9], 0_u32..100_000);
    prop::collection::vec(bar, 1..200).prop_map(|bars| {
        let (mut minute, mut last) = (29_000_000, 100);
        let mut parts = Vec::new();
        for (seq, (gap, step, [up, down], volume)) in (1..).zip(bars) {
            minute += gap;
            let close = last + step;
            let prices = [last, last.max(close) + up, last.min(close) - down, close];
            let volume = format!("{}.{:04}", volume / 10, volume);
            parts.push(part(minute, seq, prices, &volume, &[]));
            last = close;
        }
        parts
    })
}

fn some_resolution() -> impl Strategy<Value = Resolution> {
    prop::sample::select(vec!["1m", "3m", "15m", "1h", "5h", "1d", "3d", "1w", "1M"])
        .prop_map(resolution)
}

proptest! {
    #[test]
    fn every_part_is_in_exactly_one_whole(parts in walk(), resolution in some_resolution()) {
        let calendar = Calendar::default();
        let mut naive: BTreeMap<UnixNanos, Vec<&Part>> = BTreeMap::new();
        for part in &parts {
            naive.entry(calendar.period(resolution, part.start).start).or_default().push(part);
        }
        let wholes = roll(parts.clone(), resolution, false).unwrap();
        prop_assert_eq!(wholes.len(), naive.len());
        for (whole, (start, parts)) in wholes.iter().zip(naive) {
            let volume: rust_decimal::Decimal = parts.iter().map(|part| part.volume.get()).sum();
            let part = &whole.part;
            prop_assert_eq!(whole.period.start, start);
            prop_assert_eq!(part.open, parts[0].open);
            prop_assert_eq!(part.close, parts[parts.len() - 1].close);
            prop_assert_eq!(Some(part.high), parts.iter().map(|part| part.high).max());
            prop_assert_eq!(Some(part.low), parts.iter().map(|part| part.low).min());
            prop_assert_eq!(part.volume.get(), volume);
            prop_assert_eq!(part.trades, parts.iter().map(|part| part.trades).sum::<u64>());
            prop_assert_eq!(Some(part.position), parts.iter().map(|part| part.position).max());
        }
    }

    #[test]
    fn rolling_up_twice_or_backwards_is_rolling_up_once(
        parts in walk(),
        (short, long) in prop::sample::select(vec![
            ("1m", "3m"), ("3m", "15m"), ("5m", "1h"), ("15m", "1d"), ("1h", "1w"), ("1d", "1M"),
        ]),
    ) {
        let (short, long) = (resolution(short), resolution(long));
        let direct = roll(parts.clone(), long, false).unwrap();
        let twice = roll(parts.clone(), short, false).unwrap().into_iter().map(|whole| Part {
            start: whole.period.start,
            ..whole.part
        });
        let twice = roll(twice, long, false).unwrap();
        let parts_of = |wholes: &[Whole]| -> Vec<_> {
            let figures = |part: &Part| (part.open, part.high, part.low, part.close, part.volume, part.trades, part.position);
            wholes.iter().map(|whole| (whole.period, figures(&whole.part))).collect()
        };
        prop_assert!(parts_of(&twice) == parts_of(&direct));
        let backwards = roll(parts.into_iter().rev(), long, true).unwrap();
        prop_assert!(backwards == direct);
    }
}
