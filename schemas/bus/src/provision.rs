//! Creates and updates what Tickwire needs on a broker; doing it again changes nothing.

use async_nats::Client;
use schemas::id::Venue;
use schemas::position::Epoch;
use schemas::subject;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::api::{self, ApiError};
use crate::{epoch, stream};

/// The oldest nats-server that has everything this crate relies on.
pub const MINIMUM_SERVER: (u64, u64, u64) = (2, 12, 8);

/// JetStream's error for a stream that takes subjects of another.
const OVERLAP: u64 = 10065;

/// Why a broker cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// Too old.
    #[error("nats-server {0} is too old: Tickwire needs 2.12.8 or later")]
    TooOld(String),
    /// Something of that name is there, and is something else.
    #[error(
        "{what} exists with {field} {found} where {wanted} is needed, which cannot be changed: \
         use another name, or delete it and what it stores"
    )]
    Incompatible {
        /// The stream or bucket.
        what: String,
        /// The setting, as the broker names it.
        field: &'static str,
        /// Its value.
        found: Value,
        /// The value that is needed.
        wanted: Value,
    },
    /// Another stream takes some of the ticks.
    #[error(
        "stream {stream} cannot take {subjects}: another stream takes some of that already; give each \
         stream venues of its own with --venues, first the one that has too many"
    )]
    Overlap {
        /// The stream.
        stream: String,
        /// What it was to take.
        subjects: String,
    },
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
    /// The venues whose ticks it takes; none means all.
    pub venues: Vec<Venue>,
    /// Limit by age in seconds.
    pub max_age_secs: u64,
    /// Limit by size in bytes.
    pub max_bytes: u64,
    /// Copies.
    pub replicas: u8,
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
    let Some(server) = client.try_server_info() else {
        return Err(ProvisionError::Api {
            what: "the broker".to_owned(),
            source: ApiError::Connection {
                subject: "INFO".to_owned(),
                problem: "not connected yet".to_owned(),
            },
        });
    };
    check_version(&server.version)?;
    let named = |what: &str| {
        let what = what.to_owned();
        move |source| ProvisionError::Api { what, source }
    };
    for bucket in ["auth", "epochs", "leases"] {
        let name = format!("KV_{bucket}");
        ensure(client, &name, bucket_config(bucket, spec.replicas)).await?;
    }
    let ensured = ensure(client, &spec.name, stream_config(spec)).await;
    ensured.map_err(|error| overlapping(spec, error))?;
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
        "subjects": subjects(spec),
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
        // The broker would compress each block that is full, and what it is to store would wait.
        "compression": "none",
        "duplicate_window": duplicate_window(spec),
        "allow_direct": true,
        "allow_atomic": true,
        "deny_delete": true,
        "deny_purge": true,
        "republish": { "src": "tick.>", "dest": "live.>" },
    })
}

fn subjects(spec: &StreamSpec) -> Vec<String> {
    if spec.venues.is_empty() {
        return vec!["tick.>".to_owned()];
    }
    let of_venues = spec.venues.iter().map(subject::of_venue);
    of_venues.chain([subject::fence(&spec.name)]).collect()
}

/// Nothing is deduplicated by the broker, but its window may not exceed the age limit.
fn duplicate_window(spec: &StreamSpec) -> u64 {
    let age = if spec.max_age_secs == 0 {
        u64::MAX
    } else {
        spec.max_age_secs
    };
    age.min(120) * 1_000_000_000
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

/// Settings that no update changes, or that break what readers rely on, where they are not set.
const FIXED: [(&str, Value); 8] = [
    ("storage", Value::Null),
    ("retention", Value::Null),
    ("mirror", Value::Null),
    ("sources", Value::Null),
    ("persist_mode", Value::Null),
    ("sealed", Value::Bool(false)),
    ("no_ack", Value::Bool(false)),
    ("allow_msg_ttl", Value::Bool(false)),
];

/// Creates a stream, or updates it where a setting differs; settings that only the operator made,
/// such as its placement, stay.
async fn ensure(client: &Client, name: &str, wanted: Value) -> Result<(), ProvisionError> {
    let failed = |source| ProvisionError::Api {
        what: name.to_owned(),
        source,
    };
    let (verb, config) = match stream::config(client, name).await.map_err(failed)? {
        None => ("CREATE", wanted),
        Some(found) => {
            refuse_incompatible(name, &found, &wanted)?;
            let merged = merge(&found, &wanted);
            if merged == found {
                return Ok(());
            }
            ("UPDATE", merged)
        }
    };
    let subject = format!("$JS.API.STREAM.{verb}.{name}");
    api::call::<IgnoredAny>(client, &subject, &config)
        .await
        .map_err(failed)?;
    Ok(())
}

/// Says what it means that the subjects of two streams overlap.
fn overlapping(spec: &StreamSpec, error: ProvisionError) -> ProvisionError {
    let is_overlap =
        matches!(&error, ProvisionError::Api { source, .. } if source.code() == Some(OVERLAP));
    if !is_overlap {
        return error;
    }
    ProvisionError::Overlap {
        stream: spec.name.clone(),
        subjects: subjects(spec).join(", "),
    }
}

fn refuse_incompatible(what: &str, found: &Value, wanted: &Value) -> Result<(), ProvisionError> {
    for (field, unset) in FIXED {
        let get = |config: &Value| config.get(field).cloned().unwrap_or(unset.clone());
        let (found, wanted) = (get(found), get(wanted));
        if found != wanted {
            let what = what.to_owned();
            return Err(ProvisionError::Incompatible {
                what,
                field,
                found,
                wanted,
            });
        }
    }
    Ok(())
}

fn merge(found: &Value, wanted: &Value) -> Value {
    let mut merged = found.clone();
    if let (Some(merged), Some(wanted)) = (merged.as_object_mut(), wanted.as_object()) {
        merged.extend(wanted.clone());
    }
    merged
}

async fn consumer(client: &Client, spec: &StreamSpec) -> Result<(), ApiError> {
    let subject = format!("$JS.API.CONSUMER.CREATE.{}.recorder", spec.name);
    // No filter: the broker looks for those who would match a list of subjects in every block of the
    // stream, which costs it more than to deliver what the recorder drops.
    let body = json!({
        "stream_name": spec.name,
        "action": "",
        "config": {
            "durable_name": "recorder",
            "name": "recorder",
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": 30_000_000_000_u64,
            // Some batches of each replica: what dead ones have not acknowledged holds up nobody else.
            "max_ack_pending": 40_000,
            "max_deliver": -1,
            "replay_policy": "instant",
        },
    });
    api::call::<IgnoredAny>(client, &subject, &body).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn what_cannot_be_changed_is_refused_by_name() {
        let spec = StreamSpec {
            name: "TICKS".to_owned(),
            venues: Vec::new(),
            max_age_secs: 60,
            max_bytes: 1 << 20,
            replicas: 1,
        };
        let wanted = stream_config(&spec);
        assert_eq!(wanted["duplicate_window"], 60_000_000_000_u64);
        assert!(refuse_incompatible("TICKS", &wanted, &wanted).is_ok());
        for (field, value) in [
            ("storage", json!("memory")),
            ("retention", json!("workqueue")),
            ("mirror", json!({ "name": "OTHER" })),
            ("allow_msg_ttl", json!(true)),
            ("persist_mode", json!("async")),
        ] {
            let found = merge(&wanted, &json!({ field: value }));
            let error = refuse_incompatible("TICKS", &found, &wanted).unwrap_err();
            let sentence = error.to_string();
            assert!(
                sentence.contains("TICKS") && sentence.contains(field),
                "{sentence}"
            );
        }
    }

    #[test]
    fn what_the_operator_added_stays() {
        let found = json!({ "max_age": 1, "placement": { "tags": ["ssd"] } });
        let merged = merge(&found, &json!({ "max_age": 2 }));
        assert_eq!(
            merged,
            json!({ "max_age": 2, "placement": { "tags": ["ssd"] } })
        );
    }
}
