//! Opens the consumer of a reader, and finds out what it will deliver.

use std::time::Duration;

use async_nats::{Client, Subscriber};
use bytes::Bytes;
use schemas::position::{Epoch, StreamSeq};
use schemas::time::UnixNanos;
use serde::de::IgnoredAny;
use serde_json::json;

use super::Start;
use super::machine::{Joined, Resume};
use crate::api::{self, ApiError};
use crate::stream::StreamState;
use crate::{epoch, stream};

/// The broker's heartbeat on an idle consumer.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// How long the broker keeps a consumer that nobody listens to.
const ABANDONED: Duration = Duration::from_secs(10);

/// What to open.
pub(super) struct Ask {
    pub(super) stream: String,
    pub(super) filter: String,
    /// The name of the new consumer.
    pub(super) consumer: String,
    /// The consumer that it replaces.
    pub(super) retired: Option<String>,
    pub(super) resume: Resume,
    /// The history that was read, and how far.
    pub(super) known: Option<(Epoch, StreamSeq, UnixNanos)>,
    /// Whether the epoch is agreed on in KV, or this reader's own matter.
    pub(super) shared_epoch: bool,
}

/// What was opened.
pub(super) enum Opened {
    /// A consumer of the known history, or of the first one.
    Joined(Subscriber, Joined),
    /// The history is another one.
    Rewound,
}

/// Creates a consumer and looks at the stream afterwards.
pub(super) async fn open(client: Client, ask: Ask) -> Result<Opened, ApiError> {
    if let Some(retired) = &ask.retired {
        retire(&client, &ask.stream, retired).await;
    }
    let after = match ask.resume {
        Resume::Head(head) => Some(head),
        Resume::Boot(Start::LastPerSubject) => None,
        Resume::Boot(Start::After(seq)) => Some(seq),
        Resume::Boot(Start::AllWithin { bytes }) => {
            let state = stream::state(&client, &ask.stream).await?;
            (state.bytes <= bytes).then(|| state.first_seq.prev())
        }
    };
    let deliveries = create(&client, &ask, after).await?;
    let (state, contiguous) = stream::state_for(&client, &ask.stream, &ask.filter).await?;
    let epoch = current_epoch(&client, &ask, &state).await?;
    if ask.known.is_some_and(|(known, ..)| known != epoch) {
        return Ok(Opened::Rewound);
    }
    let goal = if contiguous {
        state.last_seq
    } else {
        let last = stream::last_of(&client, &ask.stream, &ask.filter).await?;
        last.map_or(StreamSeq::ZERO, |last| last.seq)
    };
    let joined = Joined {
        epoch,
        state,
        after,
        goal,
        contiguous,
    };
    Ok(Opened::Joined(deliveries, joined))
}

async fn current_epoch(client: &Client, ask: &Ask, state: &StreamState) -> Result<Epoch, ApiError> {
    let Some((known, head, time)) = ask.known else {
        if ask.shared_epoch {
            return epoch::current(client, &ask.stream, state.created).await;
        }
        return Ok(Epoch::new(state.created, 0));
    };
    if ask.shared_epoch {
        return epoch::verify(client, &ask.stream, state, known, (head, time)).await;
    }
    let same = known.created() == state.created
        && epoch::holds(client, &ask.stream, state, (head, time)).await?;
    if same {
        return Ok(known);
    }
    let created = state.created.max(known.created());
    Ok(Epoch::new(created, known.generation().saturating_add(1)))
}

/// Asks the broker to forget a consumer; it would anyway, later.
async fn retire(client: &Client, stream: &str, consumer: &str) {
    let subject = format!("$JS.API.CONSUMER.DELETE.{stream}.{consumer}");
    let nobody = client.new_inbox();
    let asked = client
        .publish_with_reply(subject, nobody, Bytes::new())
        .await;
    if let Err(error) = asked {
        tracing::debug!(stream, consumer, %error, "the consumer is left to expire");
    }
}

async fn create(
    client: &Client,
    ask: &Ask,
    after: Option<StreamSeq>,
) -> Result<Subscriber, ApiError> {
    let (stream, name, filter) = (&ask.stream, &ask.consumer, &ask.filter);
    let subject = format!("$JS.API.CONSUMER.CREATE.{stream}.{name}.{filter}");
    let inbox = client.new_inbox();
    let deliveries =
        client
            .subscribe(inbox.clone())
            .await
            .map_err(|error| ApiError::Connection {
                subject: subject.clone(),
                problem: error.to_string(),
            })?;
    let mut config = json!({
        "name": name,
        "deliver_subject": inbox,
        "deliver_policy": "last_per_subject",
        "filter_subject": filter,
        "ack_policy": "none",
        "max_deliver": 1,
        "replay_policy": "instant",
        "flow_control": true,
        "idle_heartbeat": nanos(HEARTBEAT),
        "inactive_threshold": nanos(ABANDONED),
        "mem_storage": true,
        "num_replicas": 1,
    });
    if let (Some(after), Some(fields)) = (after, config.as_object_mut()) {
        fields.insert("deliver_policy".to_owned(), json!("by_start_sequence"));
        fields.insert("opt_start_seq".to_owned(), json!(after.next().get()));
    }
    let body = json!({ "stream_name": stream, "config": config, "action": "create" });
    api::call::<IgnoredAny>(client, &subject, &body).await?;
    Ok(deliveries)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
