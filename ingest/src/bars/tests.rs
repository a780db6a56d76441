//! Bars against a recomputation from all trades, whatever their order.

use std::collections::BTreeMap;

use proptest::prelude::*;
use schemas::id::{Symbol, Venue};
use schemas::tick::Side;

use super::*;

fn trade(at: i64, price: i64, size: i64) -> Trade {
    let mut head = Head::new(
        Venue::new("x").unwrap(),
        Symbol::new("A").unwrap(),
        UnixNanos::new(at),
    );
    head.event = Some(UnixNanos::new(at));
    Trade {
        head,
        id: at.to_string(),
        price: Price::new(Decimal::new(price, 2)).unwrap(),
        size: Size::new(Decimal::new(size, 1)).unwrap(),
        side: Side::Buy,
        conditions: None,
    }
}

type Figures = (Price, Price, Price, Price, Size, u64);

fn figures(candle: &Candle) -> Figures {
    (
        candle.open,
        candle.high,
        candle.low,
        candle.close,
        candle.volume,
        candle.trades,
    )
}

/// Every published bar and the forming one, the last of each start counting.
fn built(trades: &[Trade]) -> BTreeMap<UnixNanos, Figures> {
    let mut series = Series::new(Interval::Second1);
    let mut bars = BTreeMap::new();
    for trade in trades {
        let applied = series.apply(trade);
        assert!(!applied.too_late && !applied.overflow);
        bars.extend(
            applied
                .bars
                .iter()
                .map(|(bar, _)| (bar.start, figures(bar))),
        );
    }
    bars.extend(series.forming().map(|bar| (bar.start, figures(bar))));
    bars
}

fn recomputed(trades: &[Trade]) -> BTreeMap<UnixNanos, Figures> {
    let mut groups: BTreeMap<UnixNanos, Vec<&Trade>> = BTreeMap::new();
    for trade in trades {
        groups
            .entry(start_of(Interval::Second1, time_of(trade)))
            .or_default()
            .push(trade);
    }
    let summarize = |group: Vec<&Trade>| {
        let first = group
            .iter()
            .min_by_key(|trade| time_of(trade))
            .unwrap()
            .price;
        let last = group
            .iter()
            .max_by_key(|trade| time_of(trade))
            .unwrap()
            .price;
        let high = group.iter().map(|trade| trade.price).max().unwrap();
        let low = group.iter().map(|trade| trade.price).min().unwrap();
        let volume = Size::new(group.iter().map(|trade| trade.size.get()).sum()).unwrap();
        (first, high, low, last, volume, group.len() as u64)
    };
    groups
        .into_iter()
        .map(|(start, group)| (start, summarize(group)))
        .collect()
}

proptest! {
    #[test]
    fn bars_equal_a_recomputation(
        steps in prop::collection::vec((-1_500_000_000_i64..2_000_000_000, 1_i64..500, 1_i64..50), 1..80),
    ) {
        let mut at = 1_767_000_000_000_000_000_i64;
        let mut trades: Vec<Trade> = Vec::new();
        for (step, price, size) in steps {
            // Late by less than the bars that are kept.
            at += step.max(0);
            trades.push(trade(at + step.min(0), price, size));
        }
        prop_assert_eq!(built(&trades), recomputed(&trades));
    }

    #[test]
    fn a_restart_changes_nothing(
        steps in prop::collection::vec((0_i64..700_000_000, 1_i64..500, 1_i64..50), 2..60),
        cut in 1_usize..59,
    ) {
        let mut at = 1_767_000_000_000_000_000_i64;
        let mut trades: Vec<Trade> = Vec::new();
        for (step, price, size) in steps {
            at += step;
            trades.push(trade(at, price, size));
        }
        let cut = cut.min(trades.len());
        let mut series = Series::new(Interval::Second1);
        let (mut bars, mut last_bar) = (BTreeMap::new(), None);
        for (index, trade) in trades.iter().enumerate() {
            if index == cut {
                let head = trade.head.clone();
                let form = series.forming().map(|open| open.bar(head, Interval::Second1, false));
                series = Series::restored(Interval::Second1, last_bar.as_ref(), form.as_ref());
            }
            for (bar, corrected) in series.apply(trade).bars {
                last_bar = Some(bar.bar(trade.head.clone(), Interval::Second1, corrected));
                bars.insert(bar.start, figures(&bar));
            }
        }
        bars.extend(series.forming().map(|bar| (bar.start, figures(bar))));
        prop_assert_eq!(bars, recomputed(&trades));
    }
}

#[test]
fn clocks_close_and_the_forgotten_is_not_invented() {
    let mut series = Series::new(Interval::Second1);
    let second = 1_000_000_000;
    series.apply(&trade(5 * second, 100, 1));
    assert_eq!(series.close_by(UnixNanos::new(6 * second - 1)), None);
    assert!(series.close_by(UnixNanos::new(6 * second)).is_some());
    let applied = series.apply(&trade(5 * second + 1, 90, 1));
    assert!(applied.late && applied.bars.len() == 1 && applied.bars[0].1);
    for n in 10..30 {
        series.apply(&trade(n * second, 100, 1));
    }
    let applied = series.apply(&trade(5 * second + 2, 90, 1));
    assert!(applied.too_late && applied.bars.is_empty());
}

#[test]
fn absurd_sums_are_left_out() {
    let mut series = Series::new(Interval::Second1);
    let mut huge = trade(1, 1, 1);
    huge.size = "900000000000000000".parse().unwrap();
    series.apply(&huge);
    assert!(series.apply(&huge).overflow);
    assert_eq!(series.forming().unwrap().trades, 1);
}
