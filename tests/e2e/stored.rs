//! History that a test puts into the database of a world that is stopped.

use anyhow::Result;
use api::store::sqlite::Sqlite;
use api::store::{Content, Row, TickStore as _};
use rust_decimal::Decimal;
use schemas::codec;
use schemas::decimal::{Price, Size};
use schemas::id::{Interval, Symbol, Venue};
use schemas::position::{Epoch, StreamSeq};
use schemas::tick::{Bar, Head, Tick};
use schemas::time::UnixNanos;

use crate::world::World;

/// Rows of one transaction.
const BATCH: usize = 10_000;

/// Stores ticks as if they had been recorded from a stream that is long gone.
pub(crate) async fn store(world: &World, ticks: impl Iterator<Item = Result<Tick>>) -> Result<()> {
    let path = world.dir().join("data/history.sqlite");
    let store = Sqlite::open(&path, None).await?;
    let epoch = Epoch::new(UnixNanos::new(1), 0);
    let mut batch = Vec::with_capacity(BATCH);
    for (seq, tick) in (1..).zip(ticks) {
        let tick = tick?;
        batch.push(Row {
            seq: StreamSeq::new(seq),
            content: content(&tick),
            payload: codec::to_msgpack(&tick)?.into(),
        });
        if batch.len() == BATCH {
            store.record(epoch, &batch).await?;
            batch.clear();
        }
    }
    Ok(store.record(epoch, &batch).await?)
}

/// Bars of these starts, in seconds; prices and volumes follow from the start.
pub(crate) fn bars(
    symbol: &str,
    interval: Interval,
    starts: impl Iterator<Item = i64>,
) -> Result<impl Iterator<Item = Result<Tick>>> {
    let (venue, symbol) = (Venue::new("sim")?, Symbol::new(symbol)?);
    Ok(starts.map(move |start| {
        let cents = |cents: i64| {
            let cents = 10_000 + start.rem_euclid(997) + cents;
            Price::new(Decimal::new(cents, 2))
        };
        let at = UnixNanos::new(start * 1_000_000_000);
        Ok(Tick::Bar(Bar {
            head: Head::new(venue.clone(), symbol.clone(), at),
            interval,
            start: at,
            open: cents(0)?,
            high: cents(7)?,
            low: cents(-7)?,
            close: cents(start.rem_euclid(15) - 7)?,
            volume: Size::new(Decimal::new(1 + start.rem_euclid(89), 1))?,
            trades: 3,
        }))
    }))
}

fn content(tick: &Tick) -> Content {
    let head = tick.head();
    let (venue, symbol) = (head.venue.clone(), head.symbol.clone());
    match tick {
        Tick::Bar(bar) => Content::Bar {
            venue,
            symbol,
            interval: bar.interval,
            at: bar.start,
        },
        Tick::Inst(_) | Tick::Stat(_) => Content::State {
            kind: tick.kind(),
            venue,
            symbol,
        },
        _ => Content::Event {
            kind: tick.kind(),
            venue,
            symbol,
            at: head.event.unwrap_or(head.received),
        },
    }
}
