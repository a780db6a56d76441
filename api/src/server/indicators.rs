//! `/v1/indicators`: which there are, and what they are over history and the forming bar.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::Path;
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use schemars::JsonSchema;
use schemas::http::{Figures, JSON, Page, Position};
use schemas::id::{Interval, Symbol, Venue};
use schemas::time::UnixNanos;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Api;
use super::answer::{Answer, Format, tagged};
use super::bars::Behind;
use super::history::PageLimit;
use super::newest::newest;
use super::problem::Problem;
use super::query::{At, More, Order, Wrong};
use super::resource::{About, Call, Resources};
use crate::bars::{Ask, Newest, Resolution};
use crate::indicators::over::{Over, OverError, Point, Question, over};
use crate::indicators::{self, Description, IndicatorError, Limits, Parameter};
use crate::store::{Progress, TickStore};

/// Adds the resources.
pub(super) fn resources<S: TickStore + Clone + 'static>(to: Resources<S>) -> Resources<S> {
    let about = About {
        id: "indicators",
        chapter: "indicators",
        summary: "Indicators with their parameters, limits and outputs",
        formats: &[Format::Json],
    };
    let all = to.plain::<Nothing, Known, _, _>(
        "/v1/indicators",
        about,
        async |_, asked: Result<Nothing, Wrong>, headers: HeaderMap| match asked {
            Ok(Nothing {}) => known(&headers),
            Err(wrong) => Problem::from(wrong).into_response(),
        },
    );
    indicators::describe().fold(all, one)
}

/// What `/v1/indicators` takes.
#[derive(Debug, Deserialize, JsonSchema)]
struct Nothing {}

/// Every indicator.
#[derive(Serialize, JsonSchema)]
struct Known {
    items: Vec<&'static Description>,
}

fn known(headers: &HeaderMap) -> Response {
    let items = indicators::describe().collect();
    match serde_json::to_vec(&Known { items }) {
        Ok(body) => tagged(body, JSON, headers),
        Err(_) => Problem::internal().into_response(),
    }
}

/// Says that there is no such indicator.
pub(super) async fn unknown(Path(name): Path<String>) -> Response {
    let problem = indicators::parse(&name, &BTreeMap::new()).err();
    let problem = problem.unwrap_or(IndicatorError::Unknown(name));
    Problem::not_found(problem.to_string()).into_response()
}

fn one<S: TickStore + Clone + 'static>(
    to: Resources<S>,
    description: &'static Description,
) -> Resources<S> {
    let about = About {
        id: description.name,
        chapter: "indicators",
        summary: description.title,
        formats: Format::LISTS,
    };
    let path = format!("/v1/indicators/{}", description.name);
    let more = description.parameters.iter().map(described).collect();
    to.open::<Asked, Page<Figures>, _, _>(
        (&path, about),
        more,
        move |api: Arc<Api<S>>, call: Call<Asked>, given| async move {
            value(&api, description.name, call.query, &given).await
        },
    )
}

/// A parameter as the description of the API has it.
fn described(parameter: &Parameter) -> More {
    let schema = match parameter.limits {
        Limits::Integer { default, min, max } => {
            json!({ "type": "integer", "minimum": min, "maximum": max, "default": default })
        }
        Limits::Number { default, min, max } => {
            json!({ "type": "number", "minimum": min, "maximum": max, "default": default })
        }
        Limits::Choice { default, of } => json!({ "enum": of, "default": default }),
        Limits::Zone { default } => {
            json!({ "type": "string", "description": "a time zone of the IANA database", "default": default })
        }
    };
    More {
        name: parameter.name,
        schema,
    }
}

/// What every indicator takes.
#[derive(Debug, Deserialize, JsonSchema)]
struct Asked {
    /// The venue.
    venue: Venue,
    /// The symbol.
    symbol: Symbol,
    /// How long a bar is, as `1m`, `4h` or `1d`; a minute where nothing is asked. Bars are those of the
    /// instrument's session, as in `/udf/history`: `1d` is a trading day, as in `/v1/eod`, also where
    /// `/v1/bars` has UTC days that are stored.
    interval: Option<Resolution>,
    /// From here, inclusive; what is needed of the bars before is read besides. Running totals, which are
    /// `obv`, `adl` and `vwap` with `anchor=none`, begin here, on every page; without it, at the first
    /// stored bar.
    from: Option<At>,
    /// To here, exclusive.
    to: Option<At>,
    /// `next` of an earlier answer.
    cursor: Option<Behind>,
    /// The most bars.
    #[serde(default)]
    limit: PageLimit,
    /// Which come first.
    #[serde(default)]
    order: Order,
}

async fn value<S: TickStore>(
    api: &Api<S>,
    name: &str,
    asked: Asked,
    given: &BTreeMap<String, String>,
) -> Result<Answer, Problem> {
    let indicator = indicators::parse(name, given)?;
    let outputs = indicator.outputs();
    let descending = asked.order.is_descending();
    let open = asked.to.is_none();
    let first = asked.cursor.is_none();
    let since = asked.begin();
    let ask = asked.ask()?;
    let newest = newest_of(api, &ask).await?;
    let question = Question { ask, since, newest };
    let found = over(&api.bars, &question, indicator).await?;
    let Over {
        mut points,
        progress,
        more,
    } = found;
    if descending {
        points.reverse();
    }
    let next = points
        .last()
        .filter(|_| more)
        .map(|point| Behind(point.start).to_string());
    let newest = open && first && (descending || !more);
    let position = |Progress { epoch: e, floor: c }| (api.config.stream.clone(), Position { e, c });
    let pos = progress.filter(|_| newest).map(position);
    let figures = |point: Point| Figures {
        start: point.start,
        kind: point.kind,
        values: point
            .figures
            .iter()
            .zip(outputs)
            .filter_map(|(figure, output)| Some((output.name.to_owned(), (*figure)?)))
            .collect(),
    };
    Answer::page(Page {
        items: points.into_iter().map(figures).collect(),
        next,
        pos: pos.into_iter().collect(),
    })
}

impl Asked {
    /// The beginning of the range, on whichever page of it.
    fn begin(&self) -> UnixNanos {
        self.from.map_or(UnixNanos::new(i64::MIN), |at| at.0)
    }

    fn ask(self) -> Result<Ask, Problem> {
        let mut from = self.begin();
        let mut to = self.to.map_or(UnixNanos::new(i64::MAX), |at| at.0);
        if from >= to {
            return Err(Problem::parameter("from", "from must lie before to"));
        }
        let last = self.order.is_descending();
        match self.cursor {
            Some(Behind(start)) if last => to = to.min(start),
            Some(Behind(start)) => from = from.max(start.offset(1)),
            None => {}
        }
        Ok(Ask {
            venue: self.venue,
            symbol: self.symbol,
            resolution: self.interval.unwrap_or_else(|| Interval::Minute1.into()),
            from,
            to,
            limit: self.limit.get(),
            last,
        })
    }
}

/// What the stream says last, where its bars are those that are asked for.
async fn newest_of<S: TickStore>(api: &Api<S>, ask: &Ask) -> Result<Newest, Problem> {
    let calendar = api.bars.calendar(&ask.venue, &ask.symbol).await?;
    let published = ask.resolution.interval();
    let published = published.filter(|interval| calendar.serves(*interval, ask.resolution));
    Ok(newest(api, (&ask.venue, &ask.symbol), published).await)
}

impl From<IndicatorError> for Problem {
    fn from(problem: IndicatorError) -> Self {
        let parameter = problem.parameter().unwrap_or_default().to_owned();
        Self::parameter(&parameter, problem.to_string())
    }
}

impl From<OverError> for Problem {
    fn from(problem: OverError) -> Self {
        match problem {
            OverError::Read(error) => error.into(),
            OverError::Count { .. } | OverError::Anchor { .. } => {
                Self::parameter("interval", problem.to_string())
            }
            OverError::Total { .. } => Self::parameter("from", problem.to_string()),
        }
    }
}
