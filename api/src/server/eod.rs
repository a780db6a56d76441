//! `/v1/eod`: trading days of an instrument, or one day of every instrument of a venue.

use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::civil::Date;
use schemars::JsonSchema;
use schemas::codec::from_msgpack;
use schemas::decimal::Price;
use schemas::http::{Candle, Day, Page};
use schemas::id::{Symbol, Venue};
use schemas::time::UnixNanos;
use serde::Deserialize;

use super::Api;
use super::answer::{Answer, Format};
use super::history::cut;
use super::problem::Problem;
use super::query::{Limit, OnDay, Order};
use super::resource::{About, Call, Resources};
use crate::bars::{Ask, Resolution};
use crate::store::TickStore;

/// The most days of an answer.
pub(super) type DayLimit = Limit<1_000, 100>;
/// Instruments whose day is read at the same time.
const AT_ONCE: usize = 4;

/// Adds the resource.
pub(super) fn resources<S: TickStore + Clone + 'static>(to: Resources<S>) -> Resources<S> {
    to.get::<_, Page<Day>, _, _>(
        "/v1/eod",
        About {
            id: "eod",
            chapter: "history",
            summary: "Trading days of an instrument, or the same day of every instrument of a venue",
            formats: Format::LISTS,
        },
        eod::<S>,
    )
}

/// What `/v1/eod` takes.
#[derive(Debug, Deserialize, JsonSchema)]
struct Eod {
    /// The venue.
    venue: Venue,
    /// The symbol; every instrument of the venue where none is asked.
    symbol: Option<Symbol>,
    /// This trading day only; without a symbol and a day, the last day of each instrument.
    date: Option<OnDay>,
    /// Of a symbol: from this day on, inclusive.
    from: Option<OnDay>,
    /// To this day, exclusive.
    to: Option<OnDay>,
    /// `next` of an earlier answer.
    cursor: Option<String>,
    /// The most days.
    #[serde(default)]
    limit: DayLimit,
    /// Of a symbol: which come first.
    #[serde(default)]
    order: Order,
}

/// Which days are asked for.
#[derive(Debug)]
pub(super) struct Days {
    pub(super) venue: Venue,
    pub(super) symbol: Option<Symbol>,
    pub(super) date: Option<OnDay>,
    pub(super) from: Option<OnDay>,
    pub(super) to: Option<OnDay>,
    pub(super) cursor: Option<String>,
    pub(super) limit: DayLimit,
    pub(super) order: Order,
}

async fn eod<S: TickStore>(api: Arc<Api<S>>, Call { query }: Call<Eod>) -> Result<Answer, Problem> {
    let days = Days {
        venue: query.venue,
        symbol: query.symbol,
        date: query.date,
        from: query.from,
        to: query.to,
        cursor: query.cursor,
        limit: query.limit,
        order: query.order,
    };
    let (days, next) = read(&api, &days).await?;
    Answer::list(days, next)
}

/// Reads days, and where the next page begins.
///
/// # Errors
///
/// [`Problem`].
pub(super) async fn read<S: TickStore>(
    api: &Api<S>,
    days: &Days,
) -> Result<(Vec<Day>, Option<String>), Problem> {
    if days.date.is_some() && (days.from.is_some() || days.to.is_some()) {
        let detail = "date must not lie beside from or to: it is one day";
        return Err(Problem::parameter("date", detail));
    }
    match &days.symbol {
        Some(symbol) => of_symbol(api, days, symbol).await,
        None if days.from.is_some() || days.to.is_some() => {
            let detail = "from and to must not lie beside a missing symbol: give symbol, or date";
            Err(Problem::parameter("from", detail))
        }
        None => of_venue(api, days).await,
    }
}

async fn of_symbol<S: TickStore>(
    api: &Api<S>,
    days: &Days,
    symbol: &Symbol,
) -> Result<(Vec<Day>, Option<String>), Problem> {
    let calendar = api.bars.calendar(&days.venue, symbol).await?;
    let start = |day: OnDay| calendar.day_of(day.0).start;
    let end = |day: OnDay| calendar.day_of(day.0).end;
    let (first, last) = (days.from.or(days.date), days.date);
    let mut from = first.map_or(UnixNanos::new(i64::MIN), start);
    let open = UnixNanos::new(i64::MAX);
    let mut to = last.map_or_else(|| days.to.map_or(open, start), end);
    if from >= to {
        return Err(Problem::parameter("from", "from must lie before to"));
    }
    let descending = days.order.is_descending();
    if let Some(text) = &days.cursor {
        let day: OnDay = text.parse().map_err(|_| foreign())?;
        if descending {
            to = to.min(start(day));
        } else {
            from = from.max(end(day));
        }
    }
    let ask = Ask {
        venue: days.venue.clone(),
        symbol: symbol.clone(),
        resolution: Resolution::DAY,
        from,
        to,
        limit: days.limit.get(),
        last: descending,
    };
    let found = api.bars.read(&ask).await?;
    let mut previous = match found.bars.first() {
        Some(first) => close_before(api, &ask, first.start).await?,
        None => None,
    };
    let mut dated: Vec<Day> = Vec::with_capacity(found.bars.len());
    for bar in found.bars {
        let close = bar.close;
        let date = calendar.period(Resolution::DAY, bar.start).date;
        dated.push(day(date, previous, bar));
        previous = Some(close);
    }
    if descending {
        dated.reverse();
    }
    let next = dated.last().filter(|_| found.more);
    let next = next.map(|day| day.date.clone());
    Ok((dated, next))
}

/// The close of the last day that begins before a time.
async fn close_before<S: TickStore>(
    api: &Api<S>,
    ask: &Ask,
    before: UnixNanos,
) -> Result<Option<Price>, Problem> {
    let ask = Ask {
        from: UnixNanos::new(i64::MIN),
        to: before,
        limit: 1,
        last: true,
        ..ask.clone()
    };
    let found = api.bars.read(&ask).await?;
    Ok(found.bars.last().map(|bar| bar.close))
}

/// One day of each instrument; whoever has none is left out, so a page may have less than its limit.
async fn of_venue<S: TickStore>(
    api: &Api<S>,
    days: &Days,
) -> Result<(Vec<Day>, Option<String>), Problem> {
    let limit = days.limit.get();
    let after = days.cursor.as_deref().map(Symbol::new).transpose();
    let after = after.map_err(|_| foreign())?;
    let after = after
        .as_ref()
        .map(|symbol| (days.venue.as_str(), symbol.as_str()));
    let store = &api.config.store;
    let mut rows = store
        .instruments(Some(&days.venue), "", after, limit + 1)
        .await?;
    let more = cut(&mut rows, limit).is_some();
    let symbols = rows.iter().filter_map(|row| {
        let tick = from_msgpack(&row.payload).ok()?;
        Some(tick.head().symbol.clone())
    });
    let symbols: Vec<Symbol> = symbols.collect();
    let next = symbols.last().filter(|_| more).map(ToString::to_string);
    let date = days.date.map(|OnDay(date)| date);
    let read = symbols
        .into_iter()
        .map(|symbol| newest(api, &days.venue, symbol, date));
    let found: Vec<Option<Day>> = stream::iter(read).buffered(AT_ONCE).try_collect().await?;
    Ok((found.into_iter().flatten().collect(), next))
}

/// The day of an instrument that has this date, or the last one that there is.
///
/// # Errors
///
/// [`Problem`].
pub(super) async fn newest<S: TickStore>(
    api: &Api<S>,
    venue: &Venue,
    symbol: Symbol,
    date: Option<Date>,
) -> Result<Option<Day>, Problem> {
    let calendar = api.bars.calendar(venue, &symbol).await?;
    let to = date.map_or(UnixNanos::new(i64::MAX), |date| calendar.day_of(date).end);
    let ask = Ask {
        venue: venue.clone(),
        symbol,
        resolution: Resolution::DAY,
        from: UnixNanos::new(i64::MIN),
        to,
        limit: 2,
        last: true,
    };
    let mut bars = api.bars.read(&ask).await?.bars;
    let Some(bar) = bars.pop() else {
        return Ok(None);
    };
    let on = calendar.period(Resolution::DAY, bar.start).date;
    let previous = bars.last().map(|bar| bar.close);
    let wanted = date.is_none_or(|date| date == on);
    Ok(wanted.then(|| day(on, previous, bar)))
}

fn day(date: Date, previous_close: Option<Price>, bar: Candle) -> Day {
    Day {
        date: date.to_string(),
        previous_close,
        bar,
    }
}

fn foreign() -> Problem {
    Problem::parameter("cursor", "cursor: must be `next` of an earlier answer")
}
