//! The epoch of a stream: which history its sequences belong to.
//!
//! KV `epochs.<stream>` holds when the stream was created and how many rewinds were detected since.
//! Whoever finds that a position it holds is no longer true advances the generation, once.

use std::time::Duration;

use async_nats::{Client, HeaderMap};
use schemas::position::{Epoch, StreamSeq};
use schemas::subject::kv_token;
use schemas::time::UnixNanos;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tracing::warn;

use crate::api::{self, ApiError};
use crate::reader::feed::Feed;
use crate::reader::{Event, ReaderConfig, Start};
use crate::stream::{self, StreamState};

const BUCKET: &str = "KV_epochs";
/// JetStream's error for a write that expected another last sequence.
pub(crate) const WRONG_LAST_SEQUENCE: u64 = 10071;
/// A leader that was just elected may not have applied everything: doubts are confirmed this often,
const CONFIRMATIONS: u32 = 3;
/// and this far apart.
const CONFIRMATION: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Entry {
    created: i64,
    generation: u32,
    /// When the stream of this epoch was created, where that is not `created`: restored from a
    /// backup, or made after the broker's clock was set back. Epochs never decrease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stream_created: Option<i64>,
}

impl Entry {
    fn is_of(&self, created: UnixNanos) -> bool {
        self.stream_created.unwrap_or(self.created) == created.get()
    }

    /// The entry of a stream that replaced this one's.
    fn replaced_by(self, created: UnixNanos) -> Self {
        if created.get() > self.created {
            return Self::first(created);
        }
        Self {
            created: self.created,
            generation: self.generation.saturating_add(1),
            stream_created: Some(created.get()),
        }
    }

    const fn first(created: UnixNanos) -> Self {
        Self {
            created: created.get(),
            generation: 0,
            stream_created: None,
        }
    }

    const fn epoch(&self) -> Epoch {
        Epoch::new(UnixNanos::new(self.created), self.generation)
    }
}

#[derive(Deserialize)]
struct Ack {
    #[expect(dead_code, reason = "its presence tells that the write was stored")]
    seq: u64,
}

fn key(stream: &str) -> String {
    format!("$KV.epochs.{}", kv_token(stream))
}

async fn read(client: &Client, stream: &str) -> Result<(Option<Entry>, StreamSeq), ApiError> {
    let key = key(stream);
    Ok(match stream::last_of(client, BUCKET, &key).await? {
        None => (None, StreamSeq::ZERO),
        Some(stored) if stored.payload.is_empty() => (None, stored.seq),
        Some(stored) => {
            let entry = serde_json::from_slice(&stored.payload);
            let entry = entry.map_err(|error| ApiError::Malformed {
                subject: key,
                problem: error.to_string(),
            })?;
            (Some(entry), stored.seq)
        }
    })
}

/// Writes unless somebody else did; `false` then.
async fn swap(
    client: &Client,
    stream: &str,
    entry: Entry,
    expected: StreamSeq,
) -> Result<bool, ApiError> {
    let mut headers = HeaderMap::new();
    headers.insert(
        "Nats-Expected-Last-Subject-Sequence",
        expected.to_string().as_str(),
    );
    let payload = serde_json::json!(entry).to_string().into();
    match api::exchange::<Ack>(client, &key(stream), Some(headers), payload).await {
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
        if let Some(entry) = entry.filter(|entry| entry.is_of(created)) {
            return Ok(entry.epoch());
        }
        let next = entry.map_or(Entry::first(created), |entry| entry.replaced_by(created));
        if swap(client, stream, next, revision).await? {
            warn!(stream, epoch = %next.epoch(), "the stream begins a history");
            return Ok(next.epoch());
        }
    }
}

/// Whether the position (`seq`, stored at `time`) is still part of the stream's history.
///
/// A position that retention has trimmed is: that is a gap, not another history. Where the time is
/// not known (1970), only the sequence counts.
///
/// # Errors
///
/// [`ApiError`].
pub async fn holds(
    client: &Client,
    stream: &str,
    state: &StreamState,
    position: (StreamSeq, UnixNanos),
) -> Result<bool, ApiError> {
    let mut state = *state;
    for attempt in 0..CONFIRMATIONS {
        if attempt > 0 {
            sleep(CONFIRMATION).await;
            state = stream::state(client, stream).await?;
        }
        if let Some(holds) = look(client, stream, &state, position).await? {
            return Ok(holds);
        }
    }
    Ok(false)
}

/// As [`holds`]; `None` where something is missing that a late leader would still be missing.
async fn look(
    client: &Client,
    stream: &str,
    state: &StreamState,
    (seq, time): (StreamSeq, UnixNanos),
) -> Result<Option<bool>, ApiError> {
    if state.last_seq < seq {
        return Ok(None);
    }
    if seq < state.first_seq || time == UnixNanos::EPOCH {
        return Ok(Some(true));
    }
    if let Some(stored) = stream::message_at(client, stream, seq).await? {
        return Ok(Some(stored.time == time));
    }
    let first_seq = stream::state(client, stream).await?.first_seq;
    Ok((seq < first_seq).then_some(true))
}

/// The epoch of a stream for somebody who has read `known` up to `position`.
///
/// Any other epoch than `known` says that the position is void. A rewind that nobody else has
/// noticed yet is recorded.
///
/// # Errors
///
/// [`ApiError`].
pub async fn verify(
    client: &Client,
    stream: &str,
    state: &StreamState,
    known: Epoch,
    position: (StreamSeq, UnixNanos),
) -> Result<Epoch, ApiError> {
    let recorded = current(client, stream, state.created).await?;
    if recorded != known || holds(client, stream, state, position).await? {
        return Ok(recorded);
    }
    advance(client, stream, known).await
}

/// Records a rewind that was noticed in `seen`, unless somebody already did; the epoch that counts.
///
/// # Errors
///
/// [`ApiError`].
pub async fn advance(client: &Client, stream: &str, seen: Epoch) -> Result<Epoch, ApiError> {
    loop {
        let (entry, revision) = read(client, stream).await?;
        if let Some(held) = entry.map(|entry| entry.epoch()).filter(|held| *held > seen) {
            return Ok(held);
        }
        let next = Entry {
            created: seen.created().get(),
            generation: seen.generation().saturating_add(1),
            stream_created: entry.and_then(|entry| entry.stream_created),
        };
        if swap(client, stream, next, revision).await? {
            warn!(stream, epoch = %next.epoch(), "the stream was rewound");
            return Ok(next.epoch());
        }
    }
}

/// Tells epochs of a stream as they are recorded, the recorded one first.
pub struct Watch {
    feed: Feed,
}

impl Watch {
    /// A watch that begins when [`Watch::next`] is first called; `name` is for operators.
    pub fn new(client: Client, stream: &str, name: &str) -> Self {
        let config = ReaderConfig {
            stream: BUCKET.to_owned(),
            name: format!("{name}-epochs"),
            filter: key(stream),
            start: Start::LastPerSubject,
        };
        Self {
            feed: Feed::new(client, config, false),
        }
    }

    /// The next recorded epoch.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the future loses no epoch but those that a later one replaced.
    pub async fn next(&mut self) -> Epoch {
        loop {
            if let Event::Batch { entries, .. } = self.feed.next().await {
                let last = entries.last().map(|entry| &entry.payload);
                let entry = last.and_then(|payload| serde_json::from_slice::<Entry>(payload).ok());
                if let Some(entry) = entry {
                    return entry.epoch();
                }
            }
        }
    }
}
