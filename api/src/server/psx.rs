//! `/api/eod` and `/api/latest`: trading days in the words that users of the Pakistan Stock Exchange
//! know, of any venue.
//!
//! Whoever has a key sends it as `X-API-KEY`, never in the address; until there are keys it is not
//! looked at.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rust_decimal::Decimal;
use schemars::JsonSchema;
use schemas::codec::from_msgpack;
use schemas::decimal::{Price, Size, Value};
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
use crate::bars::Resolution;
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
    let read = symbols.into_iter().map(|symbol| {
        let stat = stats.get(&symbol);
        current(&api, &venue, symbol, stat)
    });
    let days = stream::iter(read).buffered(AT_ONCE);
    let days: Vec<Option<Summary>> = days.try_collect().await?;
    Answer::list(days.into_iter().flatten().collect(), next)
}

/// The trading day of a symbol so far: by its newest bar, and by what the venue said last of that day
/// or of one that has no bar yet.
async fn current<S: TickStore>(
    api: &Api<S>,
    venue: &Venue,
    symbol: Symbol,
    stat: Option<&Stat>,
) -> Result<Option<Summary>, Problem> {
    let calendar = api.bars.calendar(venue, &symbol).await?;
    let day = eod::newest(api, venue, symbol, None).await?.map(summary);
    let (day, stat) = match (day, stat) {
        (Some(day), Some(stat)) => (day, stat),
        (day, _) => return Ok(day),
    };
    let at = stat.head.event.unwrap_or(stat.head.received);
    let date = calendar.period(Resolution::DAY, at).date.to_string();
    Ok(Some(so_far(day, date, stat)))
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

/// The newest day of which there is a bar, or the one of the venue's own figures if that is newer.
fn so_far(day: Summary, date: String, stat: &Stat) -> Summary {
    match date.cmp(&day.date) {
        // Those of an earlier day tell nothing of this one.
        Ordering::Less => day,
        Ordering::Equal => updated(day, stat),
        Ordering::Greater => begun(&day, date, stat).unwrap_or(day),
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

/// A day of which there is no bar yet, if the venue says what was traded on it.
fn begun(before: &Summary, date: String, stat: &Stat) -> Option<Summary> {
    let (open, close) = (stat.open?, stat.last?);
    let blank = Summary {
        symbol: before.symbol.clone(),
        date,
        ldcp: Some(before.close),
        open,
        high: open.max(close),
        low: open.min(close),
        close,
        change: None,
        volume: stat.volume.or_else(|| Size::new(Decimal::ZERO).ok())?,
    };
    Some(updated(blank, stat))
}

fn change(before: Price, now: Price) -> Option<Value> {
    let change = now.get().checked_sub(before.get())?;
    Value::new(change).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_days_figures_are_its_own() {
        let price = |text: &str| text.parse::<Price>().unwrap();
        let friday = Summary {
            symbol: Symbol::new("A").unwrap(),
            date: "2026-11-20".to_owned(),
            ldcp: Some(price("9")),
            open: price("10"),
            high: price("12"),
            low: price("8"),
            close: price("11"),
            change: Some("2".parse().unwrap()),
            volume: "100".parse().unwrap(),
        };
        let stat = |open: Option<&str>, last: Option<&str>| -> Stat {
            let stat = json!({ "v": "x", "y": "A", "tr": "1", "pc": "11", "o": open, "c": last });
            serde_json::from_value(stat).unwrap()
        };
        let so_far = |date: &str, stat: &Stat| so_far(friday.clone(), date.to_owned(), stat);
        let traded = stat(Some("13"), Some("12.5"));
        assert_eq!(so_far("2026-11-19", &traded), friday);
        // Before a day begins there is nothing of it to tell.
        assert_eq!(so_far("2026-11-23", &stat(None, None)), friday);
        assert_eq!(so_far("2026-11-23", &stat(None, Some("11"))), friday);
        let monday = so_far("2026-11-23", &traded);
        assert_eq!(
            (&*monday.date, monday.ldcp),
            ("2026-11-23", Some(price("11")))
        );
        assert_eq!((monday.high, monday.low), (price("13"), price("12.5")));
        assert_eq!(monday.change, Some("1.5".parse().unwrap()));
        assert!(monday.volume.is_zero());
        let same = so_far("2026-11-20", &traded);
        assert_eq!(
            (same.open, same.high, same.close),
            (price("13"), price("12"), price("12.5"))
        );
    }
}
