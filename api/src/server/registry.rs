//! What there is: venues and instruments.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use schemas::http::{Item, Listing, Page};
use schemas::id::{Kind, Symbol, Venue};
use schemas::position::StreamSeq;
use serde::Deserialize;

use super::Api;
use super::answer::{Answer, Format};
use super::directory::Wanted;
use super::history::{PageLimit, cut};
use super::problem::Problem;
use super::query::Words;
use super::resource::{About, Call, Resources};
use crate::store::TickStore;

/// Adds the resources.
pub(super) fn resources<S: TickStore + Clone + 'static>(to: Resources<S>) -> Resources<S> {
    let about = |id, summary| About {
        id,
        chapter: "registry",
        summary,
        formats: Format::LISTS,
    };
    to.get::<_, Page<Listing>, _, _>(
        "/v1/venues",
        about("venues", "Venues that instruments are known of"),
        venues::<S>,
    )
    .get::<_, Page<Item>, _, _>(
        "/v1/instruments",
        about(
            "instruments",
            "Instruments by venue and symbol, or the best matches of a search first",
        ),
        instruments::<S>,
    )
}

/// What `/v1/venues` takes.
#[derive(Debug, Deserialize, JsonSchema)]
struct Venues {}

async fn venues<S: TickStore>(
    api: Arc<Api<S>>,
    Call { query: Venues {} }: Call<Venues>,
) -> Result<Answer, Problem> {
    let listed = api.config.store.venues().await?;
    let listing = |listed: crate::store::Listed| {
        let calendar = api.config.calendars.of_venue(&listed.venue);
        Listing {
            session: calendar.session(),
            time_zone: calendar.zone().to_owned(),
            venue: listed.venue,
            instruments: listed.instruments,
        }
    };
    Answer::list(listed.into_iter().map(listing).collect(), None)
}

/// What `/v1/instruments` takes.
#[derive(Debug, Deserialize, JsonSchema)]
struct Instruments {
    /// Of this venue only.
    venue: Option<Venue>,
    /// Of this class only, such as `equity` or `spot`.
    #[serde(rename = "type", default)]
    class: Words,
    /// A part of the symbol, of another name, or a currency, in capitals or not. The very symbol comes
    /// first, then those that begin with it.
    #[serde(default)]
    q: Words,
    /// `next` of an earlier answer.
    cursor: Option<String>,
    /// The most instruments.
    #[serde(default)]
    limit: PageLimit,
}

async fn instruments<S: TickStore>(
    api: Arc<Api<S>>,
    Call { query }: Call<Instruments>,
) -> Result<Answer, Problem> {
    if !query.q.0.is_empty() || !query.class.0.is_empty() {
        return search(&api, &query).await;
    }
    let after = match &query.cursor {
        None => None,
        Some(text) => {
            let (venue, symbol) = text.split_once(' ').ok_or_else(foreign)?;
            if Venue::new(venue).is_err() || Symbol::new(symbol).is_err() {
                return Err(foreign());
            }
            Some((venue, symbol))
        }
    };
    let store = &api.config.store;
    let limit = query.limit.get();
    let mut rows = store
        .instruments(query.venue.as_ref(), "", after, limit + 1)
        .await?;
    let last =
        cut(&mut rows, limit).and_then(|row| schemas::codec::from_msgpack(&row.payload).ok());
    let next = last.map(|tick| format!("{} {}", tick.head().venue, tick.head().symbol));
    let items = rows.iter().map(|row| (row.seq, &*row.payload));
    Ok(Answer::ticks(items, next, BTreeMap::new())?.of([Kind::Inst]))
}

/// Where a search goes on is how many were shown: what changes in between may be shown twice, or not.
async fn search<S: TickStore>(api: &Api<S>, query: &Instruments) -> Result<Answer, Problem> {
    let shown: usize = match &query.cursor {
        None => 0,
        Some(text) => text.parse().map_err(|_| foreign())?,
    };
    let class = Some(query.class.0.as_str()).filter(|class| !class.is_empty());
    let wanted = Wanted {
        venue: query.venue.as_ref(),
        class,
        text: &query.q.0,
    };
    let limit = usize::try_from(query.limit.get()).unwrap_or(usize::MAX);
    let end = shown.saturating_add(limit);
    let store = &api.config.store;
    let page = api.directory.search(store, &wanted, shown..end).await;
    let page = page.map_err(|error| Problem::from(&*error))?;
    let next = page.more.then(|| end.to_string());
    let items = page.found.iter();
    let items = items.map(|found| -> (StreamSeq, &[u8]) { (found.seq, &found.payload) });
    Ok(Answer::ticks(items, next, BTreeMap::new())?.of([Kind::Inst]))
}

fn foreign() -> Problem {
    Problem::parameter("cursor", "cursor: must be `next` of an earlier answer")
}
