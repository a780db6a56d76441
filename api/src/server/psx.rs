//! `/api/eod` and `/api/latest`: trading days in the words that users of the Pakistan Stock Exchange
//! know, of any venue.
//!
//! Whoever has a key sends it as `X-API-KEY`, never in the address; until there are keys it is not
//! looked at.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use schemars::JsonSchema;
use schemas::codec::from_msgpack;
use schemas::decimal::{Price, Value};
use schemas::http::{Day, Page, Summary};
use schemas::id::{Kind, Symbol, Venue};
use schemas::subject;
use schemas::tick::{Stat, Tick};
use schemas::topic::Topic;
use serde::Deserialize;

use super::Api;
use super::answer::{Answer, Format};
use super::eod::{self, DayLimit, Days};
use super::history::cut;
use super::problem::Problem;
use super::query::{OnDay, Order};
use super::resource::{About, Call, Resources};
use crate::store::TickStore;

/// Whose days they are where no venue is asked.
const VENUE: &str = "psx";
/// Instruments whose day is read at the same time.
const AT_ONCE: usize = 4;

/// Adds the resources.
pub(super) fn resources<S: TickStore + Clone + 'static>(to: Resources<S>) -> Resources<S> {
    let about = |id, summary| About {
        id,
        chapter: "psx",
        summary,
        formats: Format::LISTS,
    };
    to.get::<_, Page<Summary>, _, _>(
        "/api/eod",
        about(
            "psx_eod",
            "Trading days of a symbol, or the same day of every symbol, in the words of the PSX",
        ),
        days::<S>,
    )
    .get::<_, Page<Summary>, _, _>(
        "/api/latest",
        about(
            "psx_latest",
            "The trading day of every symbol so far, or of one, in the words of the PSX",
        ),
        latest::<S>,
    )
}

/// What `/api/eod` takes.
#[derive(Debug, Deserialize, JsonSchema)]
struct Eod {
    /// The symbol; every symbol of the venue where none is asked.
    symbol: Option<Symbol>,
    /// This trading day only; without a symbol and a day, the last day of each symbol.
    date: Option<OnDay>,
    /// Of a symbol: from this day on, inclusive.
    from: Option<OnDay>,
    /// To this day, exclusive.
    to: Option<OnDay>,
    /// The venue; `psx` where none is asked.
    venue: Option<Venue>,
    /// `next` of an earlier answer.
    cursor: Option<String>,
    /// The most days.
    #[serde(default)]
    limit: DayLimit,
    /// Of a symbol: which come first.
    #[serde(default)]
    order: Order,
}

/// What `/api/latest` takes.
#[derive(Debug, Deserialize, JsonSchema)]
struct Latest {
    /// The symbol; every symbol of the venue where none is asked.
    symbol: Option<Symbol>,
    /// The venue; `psx` where none is asked.
    venue: Option<Venue>,
    /// `next` of an earlier answer.
    cursor: Option<Symbol>,
    /// The most symbols.
    #[serde(default)]
    limit: DayLimit,
}

fn venue(asked: Option<Venue>) -> Result<Venue, Problem> {
    asked.map_or_else(|| Venue::new(VENUE).map_err(|_| Problem::internal()), Ok)
}

async fn days<S: TickStore>(
    api: Arc<Api<S>>,
    Call { query }: Call<Eod>,
) -> Result<Answer, Problem> {
    let days = Days {
        venue: venue(query.venue)?,
        symbol: query.symbol,
        date: query.date,
        from: query.from,
        to: query.to,
        cursor: query.cursor,
        limit: query.limit,
        order: query.order,
    };
    let (days, next) = eod::read(&api, &days).await?;
    Answer::list(days.into_iter().map(summary).collect(), next)
}

async fn latest<S: TickStore>(
    api: Arc<Api<S>>,
    Call { query }: Call<Latest>,
) -> Result<Answer, Problem> {
    let venue = venue(query.venue)?;
    let (symbols, next) = match query.symbol {
        Some(symbol) => (vec![symbol], None),
        None => symbols(&api, &venue, query.cursor.as_ref(), query.limit.get()).await?,
    };
    let stats = stats(&api, &venue, &symbols).await?;
    let read = symbols
        .into_iter()
        .map(|symbol| eod::newest(&*api, &venue, symbol, None));
    let days = stream::iter(read).buffered(AT_ONCE);
    let days: Vec<Option<Day>> = days.try_collect().await?;
    let current = |day: Day| {
        let stat = stats.get(&day.bar.symbol);
        // One of an earlier day tells nothing of this one.
        let stat = stat.filter(|stat| {
            let head = &stat.head;
            head.event.unwrap_or(head.received) >= day.bar.start
        });
        let summary = summary(day);
        match stat {
            Some(stat) => updated(summary, stat),
            None => summary,
        }
    };
    Answer::list(days.into_iter().flatten().map(current).collect(), next)
}

async fn symbols<S: TickStore>(
    api: &Api<S>,
    venue: &Venue,
    cursor: Option<&Symbol>,
    limit: u32,
) -> Result<(Vec<Symbol>, Option<String>), Problem> {
    let after = cursor.map(|symbol| (venue.as_str(), symbol.as_str()));
    let store = &api.config.store;
    let mut rows = store.instruments(Some(venue), "", after, limit + 1).await?;
    let more = cut(&mut rows, limit).is_some();
    let symbol = |tick: Tick| tick.head().symbol.clone();
    let symbols = rows
        .iter()
        .filter_map(|row| from_msgpack(&row.payload).ok());
    let symbols: Vec<Symbol> = symbols.map(symbol).collect();
    let next = symbols.last().filter(|_| more).map(ToString::to_string);
    Ok((symbols, next))
}

/// What the stream has last of each session.
async fn stats<S: TickStore>(
    api: &Api<S>,
    venue: &Venue,
    symbols: &[Symbol],
) -> Result<HashMap<Symbol, Stat>, Problem> {
    let topic = |symbol: &Symbol| Topic::new(Kind::Stat, venue.clone(), symbol.clone());
    let topics = symbols.iter().map(topic);
    let subjects: Vec<String> = topics.map(|topic| subject::stored(&topic)).collect();
    if subjects.is_empty() {
        return Ok(HashMap::new());
    }
    let found = api.latest.read(subjects).await;
    let found = found.map_err(|error| Problem::from(&*error))?;
    let stats = found
        .iter()
        .filter_map(|value| match from_msgpack(&value.payload) {
            Ok(Tick::Stat(stat)) => Some((stat.head.symbol.clone(), stat)),
            Ok(_) | Err(_) => None,
        });
    Ok(stats.collect())
}

fn summary(day: Day) -> Summary {
    let bar = day.bar;
    Summary {
        symbol: bar.symbol,
        date: day.date,
        ldcp: day.previous_close,
        open: bar.open,
        high: bar.high,
        low: bar.low,
        close: bar.close,
        change: day
            .previous_close
            .and_then(|before| change(before, bar.close)),
        volume: bar.volume,
    }
}

/// The venue's own figures, where it sends them.
fn updated(day: Summary, stat: &Stat) -> Summary {
    let close = stat.last.unwrap_or(day.close);
    let ldcp = stat.previous_close.or(day.ldcp);
    Summary {
        open: stat.open.unwrap_or(day.open),
        high: stat.high.unwrap_or(day.high),
        low: stat.low.unwrap_or(day.low),
        volume: stat.volume.unwrap_or(day.volume),
        change: ldcp.and_then(|before| change(before, close)),
        close,
        ldcp,
        ..day
    }
}

fn change(before: Price, now: Price) -> Option<Value> {
    let change = now.get().checked_sub(before.get())?;
    Value::new(change).ok()
}
