//! `/udf/history`: bars of a range, or so many before its end; the last one may still be forming.

use std::sync::Arc;

use axum::http::HeaderMap;
use schemars::JsonSchema;
use schemas::http::Position;
use schemas::id::{Interval, Kind};
use schemas::time::{Clock as _, SystemClock, UnixNanos};
use serde::Deserialize;

use super::super::Api;
use super::super::answer::Format;
use super::super::newest::newest;
use super::super::query::Wrong;
use super::super::resource::{About, Resources};
use super::instruments::{known, resolution};
use super::parameters::{Countback, Name, Seconds, Since};
use super::{Answered, Or, respond};
use crate::bars::{Ask, Candles};
use crate::store::TickStore;
use crate::udf::history::{Answer, MAX_BARS};
use crate::udf::refusal::Refusal;
use crate::udf::ticker::Ticker;
use crate::udf::times::Times;

/// Adds the resource.
pub(super) fn resources<S: TickStore + Clone + 'static>(to: Resources<S>) -> Resources<S> {
    to.plain::<Asked, Or<Bars>, _, _>(
        "/udf/history",
        About {
            id: "udf_history",
            chapter: "udf",
            summary: "Bars of an instrument; `countback` wins over `from`",
            formats: &[Format::Json],
        },
        async |api: Arc<Api<S>>, asked: Result<Asked, Wrong>, headers: HeaderMap| {
            let answered = async { history(&api, asked?).await };
            respond(answered.await, &headers)
        },
    )
}

/// What `/udf/history` takes.
#[derive(Debug, Deserialize, JsonSchema)]
struct Asked {
    /// The instrument's ticker.
    symbol: Name,
    /// How long a bar is, in TradingView's words: `1S`, `1`, `60`, `1D`.
    resolution: Name,
    /// From here, inclusive.
    from: Option<Since>,
    /// To here, exclusive.
    to: Seconds,
    /// So many bars before `to`, wherever they begin.
    #[serde(default)]
    countback: Countback,
    /// The adapter's own; bars are never converted.
    #[serde(rename = "firstDataRequest")]
    _first: Option<Name>,
    /// The adapter's own; bars are never converted.
    #[serde(rename = "currencyCode")]
    _currency: Option<Name>,
    /// The adapter's own; bars are never converted.
    #[serde(rename = "unitId")]
    _unit: Option<Name>,
}

impl Asked {
    /// From where, unless so many are asked for, and to where.
    fn range(&self) -> Result<(Option<UnixNanos>, UnixNanos), Refusal> {
        let to = self.to.0;
        match (self.from, self.countback.get()) {
            (Some(Seconds(from)), _) if from > to => {
                let sentence = "from lies behind to: from must not be the later one";
                Err(Refusal::Parameter(sentence.to_owned()))
            }
            (_, Some(_)) => Ok((None, to)),
            (Some(Seconds(from)), None) => Ok((Some(from), to)),
            (None, None) => Err(Refusal::Parameter("from is missing".to_owned())),
        }
    }
}

/// Bars as columns.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it describes the answer")]
struct Bars {
    /// `ok`, or `no_data`.
    s: State,
    /// Starts, in seconds since 1970, ascending; of a day or longer 00:00 UTC of its trading day, of weeks
    /// and months of the first one.
    t: Option<Vec<i64>>,
    /// First prices.
    o: Option<Vec<f64>>,
    /// Highest prices.
    h: Option<Vec<f64>>,
    /// Lowest prices.
    l: Option<Vec<f64>>,
    /// Last prices.
    c: Option<Vec<f64>>,
    /// Traded quantities.
    v: Option<Vec<f64>>,
    /// Where there are none: the time of the latest bar before the range, as in `t`.
    #[serde(rename = "nextTime")]
    next_time: Option<i64>,
    /// Whether the last one is still forming.
    forming: Option<bool>,
    /// With `pos`: the interval of the `bar` and `form` topics that carry these very bars, if there are
    /// such.
    live: Option<Interval>,
    /// From where live messages continue, if the answer reaches the newest bar.
    pos: Option<std::collections::BTreeMap<String, Position>>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
#[expect(dead_code, reason = "it describes the answer")]
enum State {
    Ok,
    NoData,
}

async fn history<S: TickStore>(api: &Api<S>, asked: Asked) -> Answered {
    let symbol = &asked.symbol.0;
    let ticker: Ticker = symbol
        .parse()
        .map_err(|error| Refusal::Symbol(format!("{error}")))?;
    let resolution = resolution(&asked.resolution.0)?;
    let (from, to) = asked.range()?;
    let count = asked.countback.get();
    let limit = count.unwrap_or(MAX_BARS).min(MAX_BARS);
    let calendar = api.bars.calendar(&ticker.venue, &ticker.symbol).await?;
    let times = Times::new(&calendar, resolution);
    let from = from.map_or(UnixNanos::new(i64::MIN), |from| times.start_from(from));
    let to = times.start_to(to);
    // The bars of another calendar begin elsewhere, whatever their length.
    let published = resolution.interval();
    let published = published.filter(|interval| calendar.serves(*interval, resolution));
    // Before the database: what had closed by then, the database is asked for.
    let newest = newest(api, (&ticker.venue, &ticker.symbol), published).await;
    let ask = Ask {
        venue: ticker.venue.clone(),
        symbol: ticker.symbol.clone(),
        resolution,
        from,
        to,
        limit,
        last: true,
    };
    let Candles {
        mut bars, progress, ..
    } = api.bars.read(&ask).await?;
    if !newest.is_told {
        // What was told of it before may have been more than is recorded.
        bars.pop_if(|bar| bar.kind == Kind::Form);
    }
    let open = bars.last().filter(|bar| bar.kind == Kind::Form);
    let mut answer = Answer {
        bars: bars.iter().map(Into::into).collect(),
        forming: open.is_some_and(|bar| !newest.has_closed(bar.start)),
        ..Answer::default()
    };
    if let Some(form) = newest.forming(progress) {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        answer.push(form, (from, to), limit);
    }
    if answer.bars.is_empty() {
        known(api, &ticker).await?;
        if count.is_none() {
            let (venue, symbol) = (&ticker.venue, &ticker.symbol);
            let earlier = api.bars.latest_before(venue, symbol, resolution, from);
            answer.earlier = earlier.await?;
        }
    }
    if to > SystemClock.now()
        && let Some(progress) = progress
        && is_last(api, ask).await?
    {
        let (e, c) = (progress.epoch, progress.floor);
        let stream = api.config.stream.clone();
        answer.pos = [(stream, Position { e, c })].into();
        answer.published = published;
    }
    Ok(answer.write(&times))
}

/// Whether no bar lies at the end of a range or behind: live messages then follow it.
async fn is_last<S: TickStore>(api: &Api<S>, ask: Ask) -> Result<bool, Refusal> {
    let behind = Ask {
        from: ask.to,
        to: UnixNanos::new(i64::MAX),
        limit: 1,
        last: false,
        ..ask
    };
    Ok(api.bars.read(&behind).await?.bars.is_empty())
}
