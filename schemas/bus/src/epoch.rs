//! The epoch of a stream: which history its sequences belong to.
//!
//! KV `epochs.<stream>` holds when the stream was created and how many rewinds were detected since.
//! Whoever finds that a position it holds is no longer true advances the generation, once.

use async_nats::{Client, HeaderMap};
use schemas::position::{Epoch, StreamSeq};
use schemas::subject::kv_token;
use schemas::time::UnixNanos;
use serde::{Deserialize, Serialize};

use crate::api::{self, ApiError};
use crate::stream::{self, StreamState};

const BUCKET: &str = "KV_epochs";
/// JetStream's error for a write that expected another last sequence.
pub(crate) const WRONG_LAST_SEQUENCE: u64 = 10071;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Entry {
    created: i64,
    generation: u32,
}

#[derive(Deserialize)]
struct Ack {
    #[expect(dead_code, reason = "its presence tells that the write was stored")]
    seq: u64,
}

async fn read(client: &Client, stream: &str) -> Result<(Option<Entry>, StreamSeq), ApiError> {
    let key = format!("$KV.epochs.{}", kv_token(stream));
    Ok(match stream::last_of(client, BUCKET, &key).await? {
        None => (None, StreamSeq::ZERO),
        Some(stored) => (serde_json::from_slice(&stored.payload).ok(), stored.seq),
    })
}

/// Writes unless somebody else did; `false` then.
async fn swap(
    client: &Client,
    stream: &str,
    entry: Entry,
    expected: StreamSeq,
) -> Result<bool, ApiError> {
    let key = format!("$KV.epochs.{}", kv_token(stream));
    let mut headers = HeaderMap::new();
    headers.insert(
        "Nats-Expected-Last-Subject-Sequence",
        expected.to_string().as_str(),
    );
    let payload = serde_json::json!(entry).to_string().into();
    match api::exchange::<Ack>(client, &key, Some(headers), payload).await {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some(WRONG_LAST_SEQUENCE) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The epoch of a stream that was created at `created`; the first caller records it.
///
/// # Errors
///
/// [`ApiError`].
pub async fn current(client: &Client, stream: &str, created: UnixNanos) -> Result<Epoch, ApiError> {
    loop {
        let (entry, revision) = read(client, stream).await?;
        if let Some(entry) = entry.filter(|entry| entry.created == created.get()) {
            return Ok(Epoch::new(created, entry.generation));
        }
        let first = Entry {
            created: created.get(),
            generation: 0,
        };
        if swap(client, stream, first, revision).await? {
            return Ok(Epoch::new(created, 0));
        }
    }
}

/// Whether the position (`seq`, stored at `time`) is still part of the stream's history.
///
/// A position that retention has trimmed is: that is a gap, not another history.
///
/// # Errors
///
/// [`ApiError`].
pub async fn holds(
    client: &Client,
    stream: &str,
    state: &StreamState,
    (seq, time): (StreamSeq, UnixNanos),
) -> Result<bool, ApiError> {
    if seq == StreamSeq::ZERO || seq < state.first_seq {
        return Ok(state.last_seq >= seq);
    }
    if state.last_seq < seq {
        return Ok(false);
    }
    let stored = stream::message_at(client, stream, seq).await?;
    Ok(stored.is_some_and(|stored| stored.time == time))
}

/// Records a rewind that was noticed in `seen`, unless somebody already did; the epoch that counts.
///
/// # Errors
///
/// [`ApiError`].
pub async fn advance(client: &Client, stream: &str, seen: Epoch) -> Result<Epoch, ApiError> {
    loop {
        let (entry, revision) = read(client, stream).await?;
        let held = entry.map(|entry| Epoch::new(UnixNanos::new(entry.created), entry.generation));
        if let Some(held) = held.filter(|held| *held > seen) {
            return Ok(held);
        }
        let next = Entry {
            created: seen.created().get(),
            generation: seen.generation().saturating_add(1),
        };
        if swap(client, stream, next, revision).await? {
            return Ok(Epoch::new(seen.created(), next.generation));
        }
    }
}
