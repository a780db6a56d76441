//! Messages that are no ticks, for operators.
//!
//! Until there are keys they are shown to whoever may reach the server, like everything: on loopback,
//! or where the operator opened it. Keys go here first.

use std::sync::Arc;

use data_encoding::BASE64;
use schemars::JsonSchema;
use schemas::http::{self, Page};
use schemas::time::UnixNanos;
use serde::Deserialize;

use super::Api;
use super::answer::{Answer, Format};
use super::problem::Problem;
use super::query::{Limit, Mark};
use super::resource::{About, Call, Resources};
use crate::store::{DeadLetter, TickStore};

/// As much of a payload is shown.
const SHOWN: usize = 4_096;

/// Adds the resource.
pub(super) fn resources<S: TickStore + Clone + 'static>(to: Resources<S>) -> Resources<S> {
    to.get::<_, Page<http::DeadLetter>, _, _>(
        "/v1/dead-letters",
        About {
            id: "dead_letters",
            chapter: "operators",
            summary: "Messages that could not be recorded because they are no ticks",
            formats: Format::LISTS,
        },
        dead_letters::<S>,
    )
}

/// What `/v1/dead-letters` takes.
#[derive(Debug, Deserialize, JsonSchema)]
struct Asked {
    /// `next` of an earlier answer.
    cursor: Option<Mark>,
    /// The most messages.
    #[serde(default)]
    limit: Limit<1_000, 100>,
}

async fn dead_letters<S: TickStore>(
    api: Arc<Api<S>>,
    Call { query }: Call<Asked>,
) -> Result<Answer, Problem> {
    let limit = query.limit.get();
    let after = query.cursor.map(|Mark { place, .. }| (place.1, place.2));
    let store = &api.config.store;
    let mut letters = store.dead_letters_page(after, limit + 1).await?;
    let kept = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = letters.len() > kept;
    letters.truncate(kept);
    let next = letters.last().filter(|_| more).map(|letter| {
        let place = (UnixNanos::new(0), letter.epoch, letter.seq);
        let covered = None;
        Mark { place, covered }.write()
    });
    Answer::list(letters.into_iter().map(shown).collect(), next)
}

fn shown(letter: DeadLetter) -> http::DeadLetter {
    let payload = &letter.payload;
    http::DeadLetter {
        seq: letter.seq,
        epoch: letter.epoch,
        subject: letter.subject,
        problem: letter.problem,
        bytes: u64::try_from(payload.len()).unwrap_or(u64::MAX),
        payload: BASE64.encode(payload.get(..SHOWN).unwrap_or(payload)),
    }
}
