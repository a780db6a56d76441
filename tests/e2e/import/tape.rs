//! A tape of trades, what a database holds, and what it should hold: recomputed here from the trades
//! alone.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range as Span;

use anyhow::{Context, Result, bail, ensure};
use api::store::{Database, Found, Range, Series, TickStore};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rust_decimal::Decimal;
use schemas::codec;
use schemas::id::{Interval, Kind, Symbol, Venue};
use schemas::position::Epoch;
use schemas::tick::{Head, Side, Tick, Trade};
use schemas::time::UnixNanos;

/// When the tape begins: 2026-01-01.
pub(super) const START: i64 = 1_767_225_600_000_000_000;
/// Some are hard on whoever splits at commas; the last has ids that are no numbers.
pub(super) const SYMBOLS: [&str; 5] = ["AAA", "B,B", "C\"C", "D.D/USD", "text"];

/// Symbol, interval, start.
pub(super) type BarKey = (String, Interval, i64);

/// A trade as the file has it.
#[derive(Clone, Debug)]
pub(super) struct Row {
    symbol: usize,
    pub(super) at: i64,
    id: String,
    /// Which of two at the same time was first.
    order: usize,
    price: Decimal,
    size: Decimal,
}

/// Trades in the order of a file.
pub(super) struct Tape {
    pub(super) trades: Vec<Row>,
}

/// What a database holds: of each trade its figures, of each bar too.
#[derive(Default)]
pub(super) struct Contents {
    /// By symbol, time, id.
    pub(super) trades: BTreeMap<(String, i64, String), String>,
    pub(super) bars: BTreeMap<BarKey, String>,
}

pub(super) fn venue() -> Venue {
    Venue::new("x").unwrap()
}

impl Row {
    pub(super) fn symbol(&self) -> Symbol {
        Symbol::new(SYMBOLS[self.symbol]).unwrap()
    }

    /// Whether its id is a number.
    pub(super) fn is_numbered(&self) -> bool {
        self.symbol + 1 < SYMBOLS.len()
    }

    /// As a stream has it.
    pub(super) fn tick(&self) -> Trade {
        let mut head = Head::new(venue(), self.symbol(), UnixNanos::new(self.at + 1_000));
        head.event = Some(UnixNanos::new(self.at));
        Trade {
            head,
            id: self.id.clone(),
            price: self.price.to_string().parse().unwrap(),
            size: self.size.to_string().parse().unwrap(),
            side: Side::Buy,
            conditions: None,
        }
    }
}

impl Tape {
    /// Trades of all symbols, interleaved, over four days of which one is empty; many have the same
    /// time, and blocks of them have gone astray.
    pub(super) fn new(seed: u64, count: usize) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut trades = Vec::with_capacity(count);
        let step = 3 * 86_400_000 / i64::try_from(count).unwrap();
        let (mut millis, mut price) = (0, 10_000_i64);
        for number in 0..count {
            millis += random.random_range(0..=2 * step) * i64::from(random.random_bool(0.9));
            let day = millis / 86_400_000;
            let hole = if day > 0 { 86_400_000 } else { 0 };
            price = (price + random.random_range(-30..=30)).max(1);
            let symbol = random.random_range(0..SYMBOLS.len());
            let id = if symbol == SYMBOLS.len() - 1 {
                // Sorted by text they are in no order.
                format!("{:x}-{number}", random.random::<u32>())
            } else {
                (number + 1).to_string()
            };
            trades.push(Row {
                symbol,
                at: START + (millis + hole) * 1_000_000,
                id,
                order: number,
                price: Decimal::new(price, 2),
                size: Decimal::new(random.random_range(1..1_000_000), 5),
            });
        }
        let text = SYMBOLS.len() - 1;
        let (mut texts, mut numbered): (Vec<Row>, Vec<Row>) =
            trades.into_iter().partition(|row| row.symbol == text);
        // Where ids are numbers, they tell which of two at the same time was first, wherever they are.
        let mut blocks: Vec<&[Row]> = numbered.chunks(997).collect();
        for _ in 0..blocks.len() / 3 {
            let (a, b) = (
                random.random_range(0..blocks.len()),
                random.random_range(0..blocks.len()),
            );
            blocks.swap(a, b);
        }
        numbered = blocks.concat();
        let mut trades = Vec::with_capacity(count);
        let share = numbered.len() / texts.len().max(1);
        let mut texts = texts.drain(..);
        for chunk in numbered.chunks(share.max(1)) {
            trades.extend_from_slice(chunk);
            trades.extend(texts.next());
        }
        trades.extend(texts);
        Self { trades }
    }

    pub(super) fn part(&self, span: Span<usize>) -> Self {
        let trades = self.trades[span].to_vec();
        Self { trades }
    }

    pub(super) fn csv(&self) -> String {
        let mut text = "time,symbol,id,price,size,side\n".to_owned();
        for row in &self.trades {
            let symbol = SYMBOLS[row.symbol].replace('"', "\"\"");
            let Row {
                at,
                id,
                price,
                size,
                ..
            } = row;
            writeln!(text, "{at},\"{symbol}\",{id},{price},{size},buy").unwrap();
        }
        text
    }

    /// What they come to.
    pub(super) fn contents(&self) -> Contents {
        let mut contents = Contents::default();
        let mut sorted: Vec<&Row> = self.trades.iter().collect();
        sorted.sort_by_key(|row| (row.symbol, row.at, row.order));
        let mut bars: BTreeMap<BarKey, (Vec<Decimal>, Decimal)> = BTreeMap::new();
        for row in sorted {
            let symbol = SYMBOLS[row.symbol].to_owned();
            let key = (symbol.clone(), row.at, row.id.clone());
            let figures = format!("{} {}", row.price, row.size);
            assert!(contents.trades.insert(key, figures).is_none());
            for interval in Interval::ALL {
                let start = row.at - row.at.rem_euclid(interval.nanos());
                let bar = bars.entry((symbol.clone(), *interval, start)).or_default();
                bar.0.push(row.price);
                bar.1 += row.size;
            }
        }
        let bars = bars.into_iter().map(|(key, (prices, volume))| {
            let (high, low) = (prices.iter().max().unwrap(), prices.iter().min().unwrap());
            let (open, close) = (prices.first().unwrap(), prices.last().unwrap());
            let count = prices.len();
            (key, format!("{open} {high} {low} {close} {volume} {count}"))
        });
        contents.bars = bars.collect();
        contents
    }
}

/// All rows of a series.
pub(super) async fn rows(database: &Database, series: Series) -> Result<Vec<Found>> {
    const PAGE: u32 = 10_000;
    let mut range = Range {
        series,
        from: UnixNanos::EPOCH,
        to: UnixNanos::new(i64::MAX),
        descending: false,
        after: None,
        limit: PAGE,
    };
    let mut all = Vec::new();
    loop {
        let page = database.page("", &range).await?.rows;
        let is_last = page.len() < usize::try_from(PAGE)?;
        range.after = page.last().map(|last| (last.at, last.epoch, last.seq));
        all.extend(page);
        if is_last {
            return Ok(all);
        }
    }
}

impl Contents {
    pub(super) async fn read(database: &Database) -> Result<Self> {
        let mut contents = Self::default();
        for name in SYMBOLS {
            let symbol = Symbol::new(name)?;
            let series = Series::Events(Kind::Trade, venue(), symbol.clone());
            for found in rows(database, series).await? {
                let Tick::Trade(trade) = codec::from_msgpack(&found.payload)? else {
                    bail!("not a trade");
                };
                let key = (name.to_owned(), found.at.get(), trade.id.clone());
                let figures = format!("{} {}", trade.price, trade.size);
                ensure!(
                    contents.trades.insert(key, figures).is_none(),
                    "{} is there twice",
                    trade.id
                );
            }
            for interval in Interval::ALL {
                let series = Series::Bars(venue(), symbol.clone(), *interval);
                for found in rows(database, series).await? {
                    let Tick::Bar(bar) = codec::from_msgpack(&found.payload)? else {
                        bail!("not a bar");
                    };
                    let figures = format!(
                        "{} {} {} {} {} {}",
                        bar.open, bar.high, bar.low, bar.close, bar.volume, bar.trades
                    );
                    contents
                        .bars
                        .insert((name.to_owned(), *interval, found.at.get()), figures);
                }
            }
        }
        Ok(contents)
    }

    /// How many trades there are of an epoch.
    pub(super) async fn rows_of(database: &Database, epoch: Epoch) -> Result<usize> {
        let mut count = 0;
        for name in SYMBOLS {
            let series = Series::Events(Kind::Trade, venue(), Symbol::new(name)?);
            let found = rows(database, series).await?;
            count += found.iter().filter(|found| found.epoch == epoch).count();
        }
        Ok(count)
    }

    /// The first difference, if there is one.
    pub(super) fn compare(&self, expected: &Self) -> Result<()> {
        differ(&self.trades, &expected.trades).context("trades")?;
        differ(&self.bars, &expected.bars).context("bars")
    }
}

fn differ<K: Ord + std::fmt::Debug>(
    found: &BTreeMap<K, String>,
    expected: &BTreeMap<K, String>,
) -> Result<()> {
    for (key, figures) in expected {
        let there = found.get(key);
        ensure!(
            there == Some(figures),
            "{key:?} is {there:?} and not {figures}"
        );
    }
    let more = found.keys().find(|key| !expected.contains_key(key));
    ensure!(more.is_none(), "{more:?} should not be there");
    Ok(())
}
