//! What there is: instruments.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use schemas::http::{Item, Page};
use schemas::id::{Kind, Venue};
use serde::Deserialize;

use super::Api;
use super::answer::{Answer, Format};
use super::history::{PageLimit, cut};
use super::problem::Problem;
use super::query::Words;
use super::resource::{About, Call, Resources};
use crate::store::TickStore;

/// Adds the resources.
pub(super) fn resources<S: TickStore + Clone + 'static>(to: Resources<S>) -> Resources<S> {
    to.get::<_, Page<Item>, _, _>(
        "/v1/instruments",
        About {
            id: "instruments",
            chapter: "registry",
            summary: "Instruments by venue and symbol",
            formats: Format::LISTS,
        },
        instruments::<S>,
    )
}

/// What `/v1/instruments` takes.
#[derive(Debug, Deserialize, JsonSchema)]
struct Instruments {
    /// Of this venue only.
    venue: Option<Venue>,
    /// Whose symbol contains this, in capitals or not.
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
    let after = match &query.cursor {
        None => None,
        Some(text) => Some(text.split_once(' ').ok_or_else(|| {
            Problem::parameter("cursor", "cursor: must be `next` of an earlier answer")
        })?),
    };
    let store = &api.config.store;
    let limit = query.limit.get();
    let mut rows = store
        .instruments(query.venue.as_ref(), &query.q.0, after, limit + 1)
        .await?;
    let last =
        cut(&mut rows, limit).and_then(|row| schemas::codec::from_msgpack(&row.payload).ok());
    let next = last.map(|tick| format!("{} {}", tick.head().venue, tick.head().symbol));
    let items = rows.iter().map(|row| (row.seq, &*row.payload));
    Ok(Answer::ticks(items, next, BTreeMap::new())?.of([Kind::Inst]))
}
