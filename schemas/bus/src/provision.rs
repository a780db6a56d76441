//! Creates and updates what Tickwire needs on a broker; doing it again changes nothing.

use async_nats::Client;
use schemas::position::Epoch;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::api::{self, ApiError};
use crate::{epoch, stream};

/// The oldest nats-server that has everything this crate relies on.
pub const MINIMUM_SERVER: (u64, u64, u64) = (2, 12, 8);

/// JetStream's error for a stream that does not exist.
const NO_STREAM: u64 = 10059;

/// Why a broker cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// Too old.
    #[error("nats-server {0} is too old: Tickwire needs 2.12.8 or later")]
    TooOld(String),
    /// The broker refused.
    #[error("cannot provision {what}")]
    Api {
        /// The stream, bucket or consumer.
        what: String,
        /// The broker's answer.
        #[source]
        source: ApiError,
    },
}

/// The stream of ticks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSpec {
    /// Name.
    pub name: String,
    /// Limit by age in seconds.
    pub max_age_secs: u64,
    /// Limit by size in bytes.
    pub max_bytes: u64,
    /// Copies.
    pub replicas: u8,
    /// Subjects that the durable consumer `recorder` receives.
    pub recorded: Vec<String>,
}

/// Whether a server's version can be used.
///
/// # Errors
///
/// [`ProvisionError::TooOld`].
pub fn check_version(version: &str) -> Result<(), ProvisionError> {
    let core = version
        .trim_start_matches('v')
        .split(['-', '+'])
        .next()
        .unwrap_or_default();
    let mut numbers = core.split('.').map(|number| number.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    if (next(), next(), next()) < MINIMUM_SERVER {
        return Err(ProvisionError::TooOld(version.to_owned()));
    }
    Ok(())
}

/// Creates or updates the stream, the buckets and the recorder's consumer.
///
/// # Errors
///
/// [`ProvisionError`] names what the broker refused.
pub async fn provision(client: &Client, spec: &StreamSpec) -> Result<Epoch, ProvisionError> {
    check_version(&client.server_info().version)?;
    let named = |what: &str| {
        let what = what.to_owned();
        move |source| ProvisionError::Api { what, source }
    };
    for bucket in ["auth", "epochs", "leases"] {
        let config = bucket_config(bucket, spec.replicas);
        upsert(client, &format!("KV_{bucket}"), config)
            .await
            .map_err(named(bucket))?;
    }
    upsert(client, &spec.name, stream_config(spec))
        .await
        .map_err(named(&spec.name))?;
    consumer(client, spec)
        .await
        .map_err(named("consumer recorder"))?;
    let state = stream::state(client, &spec.name)
        .await
        .map_err(named(&spec.name))?;
    epoch::current(client, &spec.name, state.created)
        .await
        .map_err(named("epochs"))
}

fn stream_config(spec: &StreamSpec) -> Value {
    json!({
        "name": spec.name,
        "subjects": ["tick.>"],
        "retention": "limits",
        "discard": "old",
        "storage": "file",
        "num_replicas": spec.replicas,
        "max_age": spec.max_age_secs.saturating_mul(1_000_000_000),
        "max_bytes": spec.max_bytes,
        "max_msg_size": 262_144,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_consumers": -1,
        "compression": "s2",
        "allow_direct": true,
        "allow_atomic": true,
        "deny_delete": true,
        "deny_purge": true,
        "republish": { "src": "tick.>", "dest": "live.>" },
    })
}

fn bucket_config(bucket: &str, replicas: u8) -> Value {
    json!({
        "name": format!("KV_{bucket}"),
        "subjects": [format!("$KV.{bucket}.>")],
        "retention": "limits",
        "discard": "new",
        "storage": "file",
        "num_replicas": replicas,
        "max_age": 0,
        "max_bytes": 16_777_216,
        "max_msg_size": 65_536,
        "max_msgs": -1,
        "max_msgs_per_subject": 1,
        "max_consumers": -1,
        "allow_direct": true,
        "allow_rollup_hdrs": true,
        "deny_delete": true,
    })
}

/// Updates what is there: a broker counts the reservation of a stream that is asked for twice.
async fn upsert(client: &Client, name: &str, config: Value) -> Result<(), ApiError> {
    let update = format!("$JS.API.STREAM.UPDATE.{name}");
    match api::call::<IgnoredAny>(client, &update, &config).await {
        Err(error) if error.code() == Some(NO_STREAM) => {
            let create = format!("$JS.API.STREAM.CREATE.{name}");
            api::call::<IgnoredAny>(client, &create, &config).await?;
        }
        answer => {
            answer?;
        }
    }
    Ok(())
}

async fn consumer(client: &Client, spec: &StreamSpec) -> Result<(), ApiError> {
    let subject = format!("$JS.API.CONSUMER.CREATE.{}.recorder", spec.name);
    let body = json!({
        "stream_name": spec.name,
        "action": "",
        "config": {
            "durable_name": "recorder",
            "name": "recorder",
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": 30_000_000_000_u64,
            "max_ack_pending": 20_000,
            "max_deliver": -1,
            "replay_policy": "instant",
            "filter_subjects": spec.recorded,
        },
    });
    api::call::<IgnoredAny>(client, &subject, &body).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_version;

    #[test]
    fn old_servers_are_refused() {
        for good in ["2.12.8", "2.15.1", "v2.14.0", "3.0.0-beta.1"] {
            assert!(check_version(good).is_ok(), "{good}");
        }
        for bad in ["2.12.7", "2.9.10", "1.4.0", "", "nonsense"] {
            let error = check_version(bad).unwrap_err().to_string();
            assert!(error.contains("2.12.8"), "{error}");
        }
    }
}
