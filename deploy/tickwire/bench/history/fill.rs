//! What history is measured on: the trades of one instrument, and its one-second bars.

use std::time::Instant;

use anyhow::{Context as _, Result};
use api::store::{Content, Row, TickStore};
use schemas::codec;
use schemas::id::{Interval, Kind, Symbol, Venue};
use schemas::position::{Epoch, StreamSeq};
use schemas::tick::Tick;
use schemas::time::UnixNanos;
use serde_json::{Value, json};

use super::{SECOND, START, SYMBOL, VENUE};

/// Rows of a transaction.
const BATCH: u64 = 2_000;
/// Nanoseconds between two trades.
const STEP: i64 = 1_000_000;

/// Stores so many trades and bars; how many of either a second.
///
/// # Errors
///
/// The database does not take them.
pub(super) async fn fill(store: &impl TickStore, trades: u64, bars: u64) -> Result<(f64, f64)> {
    let trade_rate = rows(store, 0, trades, trade).await?;
    let bar_rate = rows(store, trades, bars, bar).await?;
    let last = StreamSeq::new(trades + bars);
    store
        .advance("TICKS", epoch(), last, UnixNanos::new(START))
        .await?;
    Ok((trade_rate, bar_rate))
}

fn epoch() -> Epoch {
    Epoch::new(UnixNanos::new(START), 0)
}

async fn rows(
    store: &impl TickStore,
    before: u64,
    count: u64,
    make: fn(u64) -> Result<(Value, Content)>,
) -> Result<f64> {
    let started = Instant::now();
    let mut next = 0;
    while next < count {
        let end = count.min(next + BATCH);
        let batch = (next..end).map(|number| {
            let (tick, content) = make(number)?;
            let tick: Tick = serde_json::from_value(tick).context("a tick")?;
            anyhow::Ok(Row {
                seq: StreamSeq::new(before + number + 1),
                content,
                payload: codec::to_msgpack(&tick)?.into(),
            })
        });
        store
            .record(epoch(), &batch.collect::<Result<Vec<_>>>()?)
            .await?;
        next = end;
    }
    let count = u32::try_from(count).map_or(f64::MAX, f64::from);
    Ok(count / started.elapsed().as_secs_f64())
}

/// A price that moves.
fn price(number: u64) -> String {
    format!("{}.{:02}", 100 + number / 7 % 50, number % 100)
}

fn trade(number: u64) -> Result<(Value, Content)> {
    let at = START + i64::try_from(number)? * STEP;
    let tick = json!({
        "k": "trade", "v": VENUE, "y": SYMBOL, "te": at.to_string(), "tr": at.to_string(),
        "i": number.to_string(), "p": price(number), "z": "0.25", "sd": "buy",
    });
    let content = Content::Event {
        kind: Kind::Trade,
        venue: Venue::new(VENUE)?,
        symbol: Symbol::new(SYMBOL)?,
        at: UnixNanos::new(at),
    };
    Ok((tick, content))
}

fn bar(number: u64) -> Result<(Value, Content)> {
    let at = START + i64::try_from(number)? * SECOND;
    let tick = json!({
        "k": "bar", "v": VENUE, "y": SYMBOL, "tr": at.to_string(), "iv": "1s", "t0": at.to_string(),
        "o": price(number), "h": price(number), "l": price(number), "c": price(number), "vo": "3", "n": 2,
    });
    let content = Content::Bar {
        venue: Venue::new(VENUE)?,
        symbol: Symbol::new(SYMBOL)?,
        interval: Interval::Second1,
        at: UnixNanos::new(at),
    };
    Ok((tick, content))
}
