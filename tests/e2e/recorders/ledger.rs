//! What history must hold, by the stream alone, and whether it does.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use async_nats::Client;
use rust_decimal::Decimal;
use schemas::codec;
use schemas::decimal::Price;
use schemas::id::{Interval, Kind, Symbol};
use schemas::position::StreamSeq;
use schemas::subject;
use schemas::tick::{Bar, Flag, Tick, Trade};
use sqlx::{PgConnection, Row as _};
use tokio::time::Instant;

use crate::world::PATIENCE;

/// How many messages are read at once.
const PAGE: usize = 1_000;
/// A bar may still be open when the feed ends.
const OPEN: i64 = 2_000_000_000;

/// A message: its sequence and its payload.
type Message = (u64, Vec<u8>);

/// What a stream says that was to be recorded.
#[derive(Default)]
pub(super) struct Ledger {
    events: BTreeMap<u64, Vec<u8>>,
    bars: BTreeMap<(String, String, i64), Message>,
    states: BTreeMap<(String, String), Message>,
    candles: BTreeMap<(Interval, Symbol, i64), Candle>,
    last_trade: i64,
    end: StreamSeq,
}

/// A bar as its trades make it.
struct Candle {
    first: (i64, Decimal),
    last: (i64, Decimal),
    high: Decimal,
    low: Decimal,
    volume: Decimal,
    trades: u64,
}

impl Candle {
    fn add(candle: Option<Self>, at: i64, trade: &Trade) -> Self {
        let (price, size) = (trade.price.get(), trade.size.get());
        let Some(mut candle) = candle else {
            return Self {
                first: (at, price),
                last: (at, price),
                high: price,
                low: price,
                volume: size,
                trades: 1,
            };
        };
        if at < candle.first.0 {
            candle.first = (at, price);
        }
        if at >= candle.last.0 {
            candle.last = (at, price);
        }
        candle.high = candle.high.max(price);
        candle.low = candle.low.min(price);
        candle.volume += size;
        candle.trades += 1;
        candle
    }

    fn is(&self, bar: &Bar) -> bool {
        let prices = [bar.open, bar.high, bar.low, bar.close].map(Price::get);
        prices == [self.first.1, self.high, self.low, self.last.1]
            && bar.volume.get() == self.volume
            && bar.trades == self.trades
    }
}

const fn length(interval: Interval) -> i64 {
    match interval {
        Interval::Second1 => 1_000_000_000,
        _ => 60_000_000_000,
    }
}

impl Ledger {
    /// Reads a stream whole; nobody may be writing to it.
    pub(super) async fn read(client: &Client, stream: &str) -> Result<Self> {
        let state = bus::stream::state(client, stream).await?;
        let mut ledger = Self {
            end: state.last_seq,
            ..Self::default()
        };
        ensure!(state.first_seq.get() == 1, "the stream was trimmed");
        let mut next = state.first_seq;
        let until = Instant::now() + PATIENCE * 2;
        while next <= state.last_seq {
            ensure!(Instant::now() < until, "the stream cannot be read");
            for found in bus::get::next_by_subject(client, stream, "tick.>", next, PAGE).await? {
                ensure!(found.seq == next, "{next} is missing in the stream");
                next = next.next();
                if !subject::is_fence(&found.subject) {
                    ledger.add(found.seq.get(), &found.payload)?;
                }
            }
        }
        Ok(ledger)
    }

    /// The last sequence of the stream.
    pub(super) const fn end(&self) -> StreamSeq {
        self.end
    }

    fn add(&mut self, seq: u64, payload: &[u8]) -> Result<()> {
        let tick = codec::from_msgpack(payload)?;
        let head = tick.head();
        if head.flags.contains(&Flag::Refresh) {
            return Ok(());
        }
        let message = (seq, payload.to_vec());
        let symbol = head.symbol.to_string();
        match &tick {
            Tick::Trade(trade) => {
                let at = head.event.context("a trade has a time")?.get();
                self.last_trade = self.last_trade.max(at);
                for interval in [Interval::Second1, Interval::Minute1] {
                    let start = at - at.rem_euclid(length(interval));
                    let key = (interval, head.symbol.clone(), start);
                    let candle = self.candles.remove(&key);
                    self.candles.insert(key, Candle::add(candle, at, trade));
                }
                self.events.insert(seq, message.1);
            }
            Tick::Bar(bar) => {
                let key = (symbol, bar.interval.to_string(), bar.start.get());
                self.bars.insert(key, message);
            }
            Tick::Stat(_) | Tick::Inst(_) => {
                self.states
                    .insert((tick.kind().to_string(), symbol), message);
            }
            other if matches!(other.kind(), Kind::Form | Kind::Book) => {}
            _ => {
                self.events.insert(seq, message.1);
            }
        }
        Ok(())
    }

    /// Compares history with it: what was found, in words.
    pub(super) async fn compare(&self, database: &mut PgConnection) -> Result<String> {
        let events = self.compare_events(database).await?;
        let bars = self.compare_bars(database).await?;
        let states = self.compare_states(database).await?;
        for table in [
            "SELECT count(*) FROM dead_letters",
            "SELECT count(*) FROM losses",
        ] {
            let count: i64 = sqlx::query_scalar(table).fetch_one(&mut *database).await?;
            ensure!(count == 0, "{table}: {count}");
        }
        Ok(format!(
            "{} messages in the stream, {events} events, {bars} bars that their trades make, \
             {states} states, each once",
            self.end
        ))
    }

    async fn compare_events(&self, database: &mut PgConnection) -> Result<usize> {
        let rows = sqlx::query("SELECT s, payload FROM events ORDER BY s")
            .fetch_all(database)
            .await?;
        let mut stored: Vec<(u64, &[u8])> = Vec::with_capacity(rows.len());
        for row in &rows {
            let seq: i64 = row.try_get("s")?;
            stored.push((u64::try_from(seq)?, row.try_get("payload")?));
        }
        let doubles = stored.windows(2).filter(|pair| pair[0].0 == pair[1].0);
        let doubles = doubles.count();
        ensure!(doubles == 0, "{doubles} events are stored twice");
        let expected = self.events.iter();
        let missing = expected.filter(|(seq, payload)| {
            let found = stored.binary_search_by_key(*seq, |(seq, _)| *seq);
            found.is_err() || found.is_ok_and(|place| stored[place].1 != &payload[..])
        });
        let missing: Vec<&u64> = missing.map(|(seq, _)| seq).collect();
        let few = &missing[..missing.len().min(10)];
        ensure!(
            missing.is_empty(),
            "{} are not as sent, such as {few:?}",
            missing.len()
        );
        let (found, sent) = (stored.len(), self.events.len());
        ensure!(found == sent, "{found} events of {sent}");
        Ok(found)
    }

    async fn compare_bars(&self, database: &mut PgConnection) -> Result<usize> {
        let rows = sqlx::query("SELECT symbol, iv, at, s, payload FROM bars")
            .fetch_all(database)
            .await?;
        ensure!(rows.len() == self.bars.len(), "{} bars", rows.len());
        let mut closed = 0;
        for row in &rows {
            let key: (String, String, i64) = (
                row.try_get("symbol")?,
                row.try_get("iv")?,
                row.try_get("at")?,
            );
            let (seq, payload): (i64, Vec<u8>) = (row.try_get("s")?, row.try_get("payload")?);
            let found = (u64::try_from(seq)?, payload);
            ensure!(
                self.bars.get(&key) == Some(&found),
                "bar {key:?} is not the last"
            );
            let Tick::Bar(bar) = codec::from_msgpack(&found.1)? else {
                anyhow::bail!("{key:?} is no bar");
            };
            let made = (bar.interval, bar.head.symbol.clone(), bar.start.get());
            let made = self.candles.get(&made).context("a bar without trades")?;
            ensure!(made.is(&bar), "bar {key:?} is not what its trades make");
            closed += 1;
        }
        for (interval, symbol, start) in self.candles.keys() {
            let key = (symbol.to_string(), interval.to_string(), *start);
            let ended = start + length(*interval) + OPEN < self.last_trade;
            ensure!(
                !ended || self.bars.contains_key(&key),
                "bar {key:?} is missing"
            );
        }
        Ok(closed)
    }

    async fn compare_states(&self, database: &mut PgConnection) -> Result<usize> {
        let rows = sqlx::query("SELECT kind, symbol, s, payload FROM states")
            .fetch_all(database)
            .await?;
        ensure!(rows.len() == self.states.len(), "{} states", rows.len());
        for row in &rows {
            let key: (String, String) = (row.try_get("kind")?, row.try_get("symbol")?);
            let (seq, payload): (i64, Vec<u8>) = (row.try_get("s")?, row.try_get("payload")?);
            let found = (u64::try_from(seq)?, payload);
            ensure!(
                self.states.get(&key) == Some(&found),
                "state {key:?} is not the last"
            );
        }
        Ok(rows.len())
    }
}
