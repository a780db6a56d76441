//! `/udf/config`, `/udf/search` and `/udf/symbols`: what there is, and what must be known to draw it.

use std::sync::Arc;

use axum::http::HeaderMap;
use jiff::civil::Date;
use schemars::JsonSchema;
use schemas::codec;
use schemas::decimal::Price;
use schemas::id::{Kind, Venue};
use schemas::tick::{Inst, Tick};
use schemas::time::{Clock as _, SystemClock};
use schemas::topic::Topic;
use serde::{Deserialize, Serialize};
use tracing::error;

use super::super::Api;
use super::super::answer::Format;
use super::super::directory::{self, Wanted};
use super::super::query::{Limit, Wrong};
use super::super::resource::{About, Resources};
use super::parameters::Name;
use super::{Answered, Nothing, Or, respond, written};
use crate::bars::Resolution;
use crate::store::{Found, TickStore};
use crate::udf::quotes::Last;
use crate::udf::refusal::Refusal;
use crate::udf::symbol::{Hours, SymbolInfo, class, describe, description, ticker_of};
use crate::udf::ticker::Ticker;

/// What is offered to choose from.
const RESOLUTIONS: [&str; 16] = [
    "1S", "5S", "15S", "30S", "1", "3", "5", "15", "30", "60", "120", "240", "720", "1D", "1W",
    "1M",
];
/// The types of instruments that can be asked for: TradingView's word, ours, and people's.
const TYPES: [(&str, &str, &str); 6] = [
    ("", "", "All types"),
    ("spot", "spot", "Spot"),
    ("stock", "equity", "Stocks"),
    ("index", "index", "Indices"),
    ("futures", "future", "Futures"),
    ("option", "option", "Options"),
];

/// Adds the resources.
pub(super) fn resources<S: TickStore + Clone + 'static>(to: Resources<S>) -> Resources<S> {
    let about = |id, summary| About {
        id,
        chapter: "udf",
        summary,
        formats: &[Format::Json],
    };
    to.plain::<Nothing, Or<Config>, _, _>(
        "/udf/config",
        about("udf_config", "What the feed offers"),
        async |api: Arc<Api<S>>, asked: Result<Nothing, Wrong>, headers: HeaderMap| {
            let answered = async {
                let Nothing {} = asked?;
                config(&api).await
            };
            respond(answered.await, &headers)
        },
    )
    .plain::<Search, Or<Vec<Match>>, _, _>(
        "/udf/search",
        about("udf_search", "Instruments whose names contain a text"),
        async |api: Arc<Api<S>>, asked: Result<Search, Wrong>, headers: HeaderMap| {
            let answered = async { search(&api, asked?).await };
            respond(answered.await, &headers)
        },
    )
    .plain::<Resolve, Or<SymbolInfo>, _, _>(
        "/udf/symbols",
        about(
            "udf_symbols",
            "What must be known of an instrument to draw it",
        ),
        async |api: Arc<Api<S>>, asked: Result<Resolve, Wrong>, headers: HeaderMap| {
            let answered = async { symbols(&api, asked?).await };
            respond(answered.await, &headers)
        },
    )
}

/// The answer to `/udf/config`.
#[derive(Serialize, JsonSchema)]
#[expect(clippy::struct_excessive_bools, reason = "the protocol's flags")]
struct Config {
    supports_search: bool,
    supports_group_request: bool,
    supports_marks: bool,
    supports_timescale_marks: bool,
    supports_time: bool,
    exchanges: Vec<Exchange>,
    symbols_types: Vec<SymbolType>,
    supported_resolutions: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
struct Exchange {
    value: String,
    name: String,
    desc: String,
}

#[derive(Serialize, JsonSchema)]
struct SymbolType {
    name: &'static str,
    value: &'static str,
}

/// What `/udf/search` takes.
#[derive(Debug, Deserialize, JsonSchema)]
struct Search {
    /// What the name contains, in capitals or not, with or without `venue:` in front.
    #[serde(default)]
    query: Name,
    /// Only of this type.
    #[serde(rename = "type", default)]
    class: Name,
    /// Only of this venue.
    #[serde(default)]
    exchange: Name,
    /// The most instruments.
    #[serde(default)]
    limit: Limit<1_000, 30>,
}

/// An instrument that was found.
#[derive(Serialize, JsonSchema)]
struct Match {
    symbol: String,
    full_name: String,
    description: String,
    exchange: String,
    ticker: String,
    #[serde(rename = "type")]
    class: String,
}

/// What `/udf/symbols` takes.
#[derive(Debug, Deserialize, JsonSchema)]
struct Resolve {
    /// A ticker, `venue:SYMBOL`, or a symbol that only one venue has.
    symbol: Name,
    /// The adapter's own; prices are never converted.
    #[serde(rename = "currencyCode")]
    _currency: Option<Name>,
    /// The adapter's own; prices are never converted.
    #[serde(rename = "unitId")]
    _unit: Option<Name>,
}

async fn config<S: TickStore>(api: &Api<S>) -> Answered {
    let all = ("", "All venues".to_owned());
    let venues = api.config.store.venues().await?;
    let venues = venues
        .iter()
        .map(|listed| (listed.venue.as_str(), listed.venue.to_string()));
    let exchanges = std::iter::once(all).chain(venues);
    let exchange = |(value, name): (&str, String)| Exchange {
        value: value.to_owned(),
        desc: name.clone(),
        name,
    };
    written(&Config {
        supports_search: true,
        supports_group_request: false,
        supports_marks: true,
        supports_timescale_marks: true,
        supports_time: true,
        exchanges: exchanges.map(exchange).collect(),
        symbols_types: TYPES
            .map(|(value, _, name)| SymbolType { name, value })
            .into(),
        supported_resolutions: resolutions(),
    })
}

async fn search<S: TickStore>(api: &Api<S>, asked: Search) -> Answered {
    let text = asked.query.0.as_str();
    let (venue, text) = match text.split_once(':') {
        Some((venue, rest)) => (venue, rest),
        None => (asked.exchange.0.as_str(), text),
    };
    let venue = venue.to_ascii_lowercase();
    // What no venue can be called, none is called.
    let venue = match venue.as_str() {
        "" => None,
        name => match Venue::new(name) {
            Ok(venue) => Some(venue),
            Err(_) => return written(&[(); 0]),
        },
    };
    let class = match asked.class.0.as_str() {
        "" => None,
        word => Some(
            TYPES
                .iter()
                .find(|(name, ..)| *name == word)
                .map_or(word, |(_, class, _)| class),
        ),
    };
    let wanted = Wanted {
        venue: venue.as_ref(),
        class,
        text,
    };
    let limit = usize::try_from(asked.limit.get()).unwrap_or(usize::MAX);
    let store = &api.config.store;
    let page = api.directory.search(store, &wanted, 0..limit).await;
    let page = page.map_err(|problem| Refusal::from(&*problem))?;
    let found: Vec<Match> = read(&page.found).map(|inst| matched(&inst)).collect();
    written(&found)
}

fn matched(inst: &Inst) -> Match {
    let ticker = ticker_of(inst);
    Match {
        symbol: ticker.symbol.to_string(),
        full_name: ticker.to_string(),
        description: description(inst),
        exchange: ticker.venue.to_string(),
        ticker: ticker.to_string(),
        class: class(inst).to_owned(),
    }
}

async fn symbols<S: TickStore>(api: &Api<S>, asked: Resolve) -> Answered {
    let inst = resolve(api, &asked.symbol.0).await?;
    let price = match inst.tick_size {
        Some(_) => None,
        None => seen(api, &ticker_of(&inst)).await,
    };
    let head = &inst.head;
    let calendar = api.bars.calendar(&head.venue, &head.symbol).await?;
    let day = |date: Date| date.strftime("%Y%m%d").to_string();
    let early = calendar.early_closes();
    let corrections = early.map(|(date, hours)| format!("{hours}:{}", day(date)));
    let hours = Hours {
        session: calendar.session(),
        zone: calendar.zone().to_owned(),
        holidays: calendar.holidays().map(day).collect(),
        corrections: corrections.collect(),
    };
    let info = describe(&inst, hours, price, resolutions(), SystemClock.now());
    written(&info)
}

/// The instrument that people mean by a name.
async fn resolve<S: TickStore>(api: &Api<S>, name: &str) -> Result<Inst, Refusal> {
    let ticker = name.parse::<Ticker>().ok();
    if let Some(ticker) = &ticker
        && let Some(inst) = instrument(api, ticker).await?
    {
        return Ok(inst);
    }
    // In other capitals, or without the venue.
    let unknown = || Refusal::Symbol(format!("{name:?}"));
    let (venue, symbol) = match &ticker {
        Some(ticker) => (Some(&ticker.venue), ticker.symbol.as_str()),
        None => (None, name),
    };
    let found = api.directory.called(&api.config.store, venue, symbol).await;
    let found = found.map_err(|problem| Refusal::from(&*problem))?;
    let mut found: Vec<Inst> = read(&found).collect();
    let exact = |inst: &Inst| inst.head.symbol.as_str() == symbol;
    if found.iter().any(exact) {
        found.retain(exact);
    }
    if found.len() > 1 {
        let all = found.iter().take(8).map(|inst| ticker_of(inst).to_string());
        let all: Vec<String> = all.collect();
        let sentence = format!("symbol: {name:?} may be any of {}", all.join(", "));
        return Err(Refusal::Parameter(sentence));
    }
    found.pop().ok_or_else(unknown)
}

/// The instruments of what was found.
fn read(found: &[directory::Match]) -> impl Iterator<Item = Inst> {
    let ticks = found
        .iter()
        .map(|found| codec::from_msgpack(&found.payload));
    ticks.filter_map(|tick| match tick {
        Ok(Tick::Inst(inst)) => Some(inst),
        Ok(_) | Err(_) => None,
    })
}

async fn instrument<S: TickStore>(api: &Api<S>, ticker: &Ticker) -> Result<Option<Inst>, Refusal> {
    let store = &api.config.store;
    let row = store.instrument(&ticker.venue, &ticker.symbol).await?;
    Ok(row.as_ref().and_then(instrument_of))
}

/// Makes sure that there is such an instrument.
pub(super) async fn known<S: TickStore>(api: &Api<S>, ticker: &Ticker) -> Result<(), Refusal> {
    let known = instrument(api, ticker).await?.is_some();
    let unknown = || Refusal::Symbol(format!("{:?}", ticker.to_string()));
    known.then_some(()).ok_or_else(unknown)
}

fn instrument_of(row: &Found) -> Option<Inst> {
    match codec::from_msgpack(&row.payload) {
        Ok(Tick::Inst(inst)) => Some(inst),
        Ok(_) => None,
        Err(problem) => {
            error!(%problem, seq = row.seq.get(), "a stored instrument is damaged");
            None
        }
    }
}

/// A price of an instrument, if one is at hand.
async fn seen<S: TickStore>(api: &Api<S>, ticker: &Ticker) -> Option<Price> {
    let topic = |kind| Topic::new(kind, ticker.venue.clone(), ticker.symbol.clone());
    let topics = [Kind::Quote, Kind::Stat, Kind::Trade].map(topic);
    let mut known = Last::default();
    let found = api
        .latest
        .soon(topics.into_iter())
        .await
        .unwrap_or_default();
    for value in found.iter() {
        match codec::from_msgpack(&value.payload) {
            Ok(tick) => known.take(tick),
            Err(problem) => error!(%problem, seq = value.seq.get(), "a last value is damaged"),
        }
    }
    known.price()
}

/// The resolutions that are offered, in TradingView's words; others can be asked for as well.
fn resolutions() -> Vec<String> {
    RESOLUTIONS.map(str::to_owned).into()
}

/// Reads a resolution in TradingView's words.
pub(super) fn resolution(text: &str) -> Result<Resolution, Refusal> {
    Resolution::from_udf(text).map_err(|error| Refusal::Parameter(error.to_string()))
}
