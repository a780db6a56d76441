//! `/udf/quotes`: the last prices of several instruments, straight from the stream.

use std::collections::HashMap;
use std::sync::Arc;

use axum::http::HeaderMap;
use schemars::JsonSchema;
use schemas::codec;
use schemas::id::Kind;
use schemas::subject;
use schemas::topic::Topic;
use serde::{Deserialize, Deserializer, Serialize};
use tracing::error;

use super::super::Api;
use super::super::answer::Format;
use super::super::query::Wrong;
use super::super::resource::{About, Resources};
use super::instruments::known;
use super::{Answered, Or, respond, written};
use crate::store::TickStore;
use crate::udf::quotes::{Entry, Last, entry, unknown};
use crate::udf::refusal::Refusal;
use crate::udf::ticker::Ticker;

/// The most instruments of one request: their last values are read from the stream at once.
const MAX_SYMBOLS: usize = bus::get::MAX_SUBJECTS / KINDS.len();
/// What a quote is made of.
const KINDS: [Kind; 4] = [Kind::Inst, Kind::Quote, Kind::Stat, Kind::Trade];

/// Adds the resource.
pub(super) fn resources<S: TickStore + Clone + 'static>(to: Resources<S>) -> Resources<S> {
    to.plain::<Asked, Or<Quotes>, _, _>(
        "/udf/quotes",
        About {
            id: "udf_quotes",
            chapter: "udf",
            summary: "The last prices of several instruments",
            formats: &[Format::Json],
        },
        async |api: Arc<Api<S>>, asked: Result<Asked, Wrong>, headers: HeaderMap| {
            let answered = async { quotes(&api, asked?).await };
            respond(answered.await, &headers)
        },
    )
}

/// What `/udf/quotes` takes.
#[derive(Debug, Deserialize, JsonSchema)]
struct Asked {
    /// Tickers, with commas between.
    symbols: Symbols,
}

/// Texts with commas between: each is answered for itself, be it a ticker or not.
#[derive(Debug, JsonSchema)]
struct Symbols(#[schemars(length(min = 1, max = 256))] Vec<String>);

impl<'de> Deserialize<'de> for Symbols {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;

        let text = String::deserialize(deserializer)?;
        let symbols: Vec<String> = text.split(',').map(str::to_owned).collect();
        if symbols.len() > MAX_SYMBOLS {
            let count = symbols.len();
            let wrong = format!("{count} symbols are given, the limit is {MAX_SYMBOLS}");
            return Err(D::Error::custom(wrong));
        }
        Ok(Self(symbols))
    }
}

/// The answer to `/udf/quotes`.
#[derive(Serialize, JsonSchema)]
struct Quotes {
    /// `ok`.
    s: &'static str,
    /// One entry for each that was asked for.
    d: Vec<Entry>,
}

async fn quotes<S: TickStore>(api: &Api<S>, asked: Asked) -> Answered {
    let asked = asked.symbols.0.into_iter();
    let asked: Vec<(String, Option<Ticker>)> = asked
        .map(|text| {
            let ticker = text.parse().ok();
            (text, ticker)
        })
        .collect();
    let last = last(api, asked.iter().filter_map(|(_, ticker)| ticker.as_ref())).await?;
    let mut entries = Vec::with_capacity(asked.len());
    for (text, ticker) in asked {
        let Some(ticker) = ticker else {
            entries.push(unknown(text));
            continue;
        };
        let values = last.get(&ticker.to_string()).cloned().unwrap_or_default();
        // The stream forgets, the database does not.
        let found = if values.is_empty() {
            known(api, &ticker).await
        } else {
            Ok(())
        };
        entries.push(match found {
            Ok(()) => entry(text, &ticker, values),
            Err(Refusal::Symbol(_)) => unknown(text),
            Err(other) => return Err(other),
        });
    }
    written(&Quotes {
        s: "ok",
        d: entries,
    })
}

/// The last values of instruments, by ticker.
async fn last<S: TickStore>(
    api: &Api<S>,
    tickers: impl Iterator<Item = &Ticker>,
) -> Result<HashMap<String, Last>, Refusal> {
    let topic = |ticker: &Ticker, kind| {
        let (venue, symbol) = (ticker.venue.clone(), ticker.symbol.clone());
        subject::stored(&Topic::new(kind, venue, symbol))
    };
    let mut subjects: Vec<String> = tickers
        .flat_map(|ticker| KINDS.map(|kind| topic(ticker, kind)))
        .collect();
    subjects.sort_unstable();
    subjects.dedup();
    let mut last: HashMap<String, Last> = HashMap::new();
    if subjects.is_empty() {
        return Ok(last);
    }
    let found = api.latest.read(subjects).await;
    for value in found.map_err(|problem| Refusal::from(&*problem))?.iter() {
        match codec::from_msgpack(&value.payload) {
            Ok(tick) => {
                let head = tick.head();
                let ticker = format!("{}:{}", head.venue, head.symbol);
                last.entry(ticker).or_default().take(tick);
            }
            Err(problem) => error!(%problem, seq = value.seq.get(), "a last value is damaged"),
        }
    }
    Ok(last)
}
