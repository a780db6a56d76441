//! Last values straight from the stream, behind a short cache that asks once for all who wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use axum::extract::{Query, State};
use axum::response::Response;
use bus::api::ApiError;
use bus::get::{Found, multi_last};
use moka::future::Cache;
use schemas::subject;
use schemas::topic::Topic;

use super::Api;
use super::history::respond;
use super::problem::Problem;
use super::query::Parameters;
use crate::store::TickStore;

/// How old an answer may be.
const AGE: Duration = Duration::from_millis(150);
/// The most topics of one request.
const MAX_TOPICS: usize = 1_024;
/// Answers that are kept.
const ANSWERS: u64 = 1_024;

/// Reads last values.
pub(super) struct Latest {
    client: Client,
    stream: String,
    cache: Cache<Vec<String>, Arc<Vec<Found>>>,
}

impl Latest {
    pub(super) fn new(client: Client, stream: String) -> Self {
        let cache = Cache::builder()
            .max_capacity(ANSWERS)
            .time_to_live(AGE)
            .build();
        Self {
            client,
            stream,
            cache,
        }
    }

    async fn read(&self, subjects: Vec<String>) -> Result<Arc<Vec<Found>>, Arc<ApiError>> {
        let (client, stream, asked) = (&self.client, &self.stream, subjects.clone());
        let ask = async move { multi_last(client, stream, &asked).await.map(Arc::new) };
        self.cache.try_get_with(subjects, ask).await
    }
}

pub(super) async fn latest<S: TickStore>(
    State(api): State<Arc<Api<S>>>,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Response, Problem> {
    let mut parameters = Parameters::new(pairs)?;
    let list: String = parameters.required("topics")?;
    parameters.finish()?;
    let mut subjects = Vec::new();
    for text in list.split(',') {
        let topic: Topic = text
            .parse()
            .map_err(|error| Problem::parameter("topics", format!("{error}")))?;
        subjects.push(subject::stored(&topic));
    }
    subjects.sort_unstable();
    subjects.dedup();
    if subjects.len() > MAX_TOPICS {
        let detail = format!(
            "topics names {} topics, the limit is {MAX_TOPICS}",
            subjects.len()
        );
        return Err(Problem::parameter("topics", detail));
    }
    let found = api
        .latest
        .read(subjects)
        .await
        .map_err(|error| Problem::from(&*error))?;
    let items = found.iter().map(|value| (value.seq, &*value.payload));
    Ok(respond(items, None, BTreeMap::new()))
}
