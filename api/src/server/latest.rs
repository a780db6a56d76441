//! Last values straight from the stream, behind a short cache that asks once for all who wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use bus::api::ApiError;
use bus::get::{Found, multi_last};
use moka::future::Cache;
use schemars::JsonSchema;
use schemas::http::{Item, Page};
use schemas::subject;
use schemas::topic::Topic;
use serde::Deserialize;
use tokio::time::timeout;
use tracing::debug;

use super::Api;
use super::answer::{Answer, Format};
use super::problem::Problem;
use super::query::List;
use super::resource::{About, Call, Resources};
use crate::store::TickStore;

/// How old an answer may be.
const AGE: Duration = Duration::from_millis(100);
/// How long an answer waits for last values that it can do without.
const PATIENCE: Duration = Duration::from_millis(500);
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

    /// Reads the last values of subjects.
    ///
    /// # Errors
    ///
    /// The broker does not answer, or refuses.
    pub(super) async fn read(
        &self,
        subjects: Vec<String>,
    ) -> Result<Arc<Vec<Found>>, Arc<ApiError>> {
        let (client, stream, asked) = (&self.client, &self.stream, subjects.clone());
        let ask = async move { multi_last(client, stream, &asked).await.map(Arc::new) };
        self.cache.try_get_with(subjects, ask).await
    }

    /// The last values of topics, for what can be answered without them as well; `None` while the broker
    /// is away.
    pub(super) async fn soon(
        &self,
        topics: impl Iterator<Item = Topic>,
    ) -> Option<Arc<Vec<Found>>> {
        let subjects = topics.map(|topic| subject::stored(&topic)).collect();
        match timeout(PATIENCE, self.read(subjects)).await {
            Ok(Ok(found)) => Some(found),
            Ok(Err(problem)) => {
                debug!(%problem, "no last values");
                None
            }
            Err(_) => {
                debug!("no last values in time");
                None
            }
        }
    }
}

/// Adds the resource.
pub(super) fn resources<S: TickStore + Clone + 'static>(to: Resources<S>) -> Resources<S> {
    to.get::<_, Page<Item>, _, _>(
        "/v1/latest",
        About {
            id: "latest",
            chapter: "latest",
            summary: "The last value of each topic",
            formats: Format::LISTS,
        },
        latest::<S>,
    )
}

/// What `/v1/latest` takes.
#[derive(Debug, Deserialize, JsonSchema)]
struct Asked {
    /// The topics, with commas between.
    topics: List<Topic, MAX_TOPICS>,
}

async fn latest<S: TickStore>(
    api: Arc<Api<S>>,
    Call { query }: Call<Asked>,
) -> Result<Answer, Problem> {
    let topics = query.topics.0.iter();
    let mut subjects: Vec<String> = topics.map(subject::stored).collect();
    subjects.sort_unstable();
    subjects.dedup();
    let found = api
        .latest
        .read(subjects)
        .await
        .map_err(|error| Problem::from(&*error))?;
    let items = found.iter().map(|value| (value.seq, &*value.payload));
    let answer = Answer::ticks(items, None, BTreeMap::new())?;
    Ok(answer.of(query.topics.0.iter().map(Topic::kind)))
}
