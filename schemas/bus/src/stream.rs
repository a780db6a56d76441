//! What a stream's leader knows: its state, and single messages. Never stale, unlike Direct Get.

use async_nats::Client;
use bytes::Bytes;
use data_encoding::BASE64;
use schemas::id::Venue;
use schemas::position::StreamSeq;
use schemas::subject;
use schemas::time::UnixNanos;
use serde::Deserialize;
use serde_json::json;

use crate::api::{self, ApiError};

/// JetStream's error for a message that is not stored.
const NO_MESSAGE: u64 = 10037;

/// The state of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamState {
    /// When the stream was created.
    pub created: UnixNanos,
    /// The first retained sequence; one more than the last where nothing is retained.
    pub first_seq: StreamSeq,
    /// The last assigned sequence.
    pub last_seq: StreamSeq,
    /// Number of retained messages.
    pub messages: u64,
    /// Bytes that they take.
    pub bytes: u64,
}

/// Where a stream begins, and what will go next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Horizon {
    pub(crate) first_seq: StreamSeq,
    /// When the first retained message was stored.
    pub(crate) first_time: UnixNanos,
    /// Messages stored before this expire; `None` if they do not expire by age.
    pub(crate) expires_at: Option<UnixNanos>,
    pub(crate) replicas: u32,
}

/// A stored message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its subject.
    pub subject: String,
    /// Its sequence.
    pub seq: StreamSeq,
    /// When the broker stored it.
    pub time: UnixNanos,
    /// Its header block, as on the wire; empty if it has none.
    pub headers: String,
    /// Its payload.
    pub payload: Bytes,
}

impl Stored {
    /// The last value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.headers.split("\r\n");
        let pairs = lines.filter_map(|line| line.split_once(':'));
        pairs
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .last()
    }
}

#[derive(Deserialize)]
struct Info {
    created: String,
    /// The leader's own time.
    #[serde(default)]
    ts: Option<String>,
    state: State,
    config: Config,
}

#[derive(Deserialize)]
struct Described {
    config: serde_json::Value,
}

#[derive(Deserialize)]
struct State {
    first_seq: u64,
    first_ts: String,
    last_seq: u64,
    messages: u64,
    bytes: u64,
}

#[derive(Deserialize)]
struct Config {
    /// Nanoseconds; 0 is for ever.
    #[serde(default)]
    max_age: i64,
    #[serde(default)]
    num_replicas: u32,
    #[serde(default)]
    subjects: Vec<String>,
    #[serde(default)]
    max_msgs_per_subject: i64,
    #[serde(default)]
    deny_delete: bool,
    #[serde(default)]
    deny_purge: bool,
    #[serde(default)]
    allow_msg_ttl: bool,
}

impl Config {
    /// Whether whoever receives `filter` must see every sequence until retention removes it.
    fn is_contiguous_for(&self, filter: &str) -> bool {
        let append_only = self.deny_delete
            && self.deny_purge
            && !self.allow_msg_ttl
            && self.max_msgs_per_subject <= 0;
        append_only && self.subjects.iter().all(|taken| covers(filter, taken))
    }
}

/// Whether everything with a subject of `taken` has one of `filter`.
fn covers(filter: &str, taken: &str) -> bool {
    let mut tokens = taken.split('.');
    for wanted in filter.split('.') {
        match (wanted, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(token)) if token != ">" => {}
            (exact, Some(token)) if exact == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

/// Whether a stream with these subjects takes every tick of a venue.
pub fn takes(subjects: &[String], venue: &Venue) -> bool {
    let wanted = subject::of_venue(venue);
    subjects.iter().any(|taken| covers(taken, &wanted))
}

/// The configuration of a stream, as the broker spells it; `None` if there is no such stream.
pub(crate) async fn config(
    client: &Client,
    stream: &str,
) -> Result<Option<serde_json::Value>, ApiError> {
    let subject = format!("$JS.API.STREAM.INFO.{stream}");
    let info: Result<Described, ApiError> =
        api::call(client, &subject, &serde_json::Value::Null).await;
    match info {
        Ok(info) => Ok(Some(info.config)),
        Err(error) if error.is_missing_stream() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Asks for the state of a stream.
///
/// # Errors
///
/// [`ApiError`]; [`ApiError::is_missing_stream`] if there is none of that name.
pub async fn state(client: &Client, stream: &str) -> Result<StreamState, ApiError> {
    let (state, _) = info(client, stream).await?;
    Ok(state)
}

/// Asks which subjects a stream takes.
///
/// # Errors
///
/// [`ApiError`]; [`ApiError::is_missing_stream`] if there is none of that name.
pub async fn subjects(client: &Client, stream: &str) -> Result<Vec<String>, ApiError> {
    let (_, config) = info(client, stream).await?;
    Ok(config.subjects)
}

/// The state of a stream, and whether readers of `filter` must see every sequence of it.
pub(crate) async fn state_for(
    client: &Client,
    stream: &str,
    filter: &str,
) -> Result<(StreamState, bool), ApiError> {
    let (state, config) = info(client, stream).await?;
    Ok((state, config.is_contiguous_for(filter)))
}

/// Asks the leader where a stream begins.
pub(crate) async fn horizon(client: &Client, stream: &str) -> Result<Horizon, ApiError> {
    let subject = format!("$JS.API.STREAM.INFO.{stream}");
    let info: Info = api::call(client, &subject, &serde_json::Value::Null).await?;
    // Where nothing is retained, the time is that of year 1.
    let first_time = if info.state.messages == 0 {
        UnixNanos::EPOCH
    } else {
        api::time(&subject, &info.state.first_ts)?
    };
    let now = info.ts.as_ref().map(|ts| api::time(&subject, ts));
    let expires = now.transpose()?.filter(|_| info.config.max_age > 0);
    Ok(Horizon {
        first_seq: first_seq(&info.state),
        first_time,
        expires_at: expires.map(|now| now.offset(-info.config.max_age)),
        replicas: info.config.num_replicas,
    })
}

/// An empty stream reports 0 or last + 1, depending on its past.
const fn first_seq(state: &State) -> StreamSeq {
    if state.messages == 0 {
        return StreamSeq::new(state.last_seq + 1);
    }
    StreamSeq::new(state.first_seq)
}

async fn info(client: &Client, stream: &str) -> Result<(StreamState, Config), ApiError> {
    let subject = format!("$JS.API.STREAM.INFO.{stream}");
    let info: Info = api::call(client, &subject, &serde_json::Value::Null).await?;
    let state = StreamState {
        created: api::time(&subject, &info.created)?,
        first_seq: first_seq(&info.state),
        last_seq: StreamSeq::new(info.state.last_seq),
        messages: info.state.messages,
        bytes: info.state.bytes,
    };
    Ok((state, info.config))
}

#[derive(Deserialize)]
struct Answer {
    message: Raw,
}

#[derive(Deserialize)]
struct Raw {
    subject: String,
    seq: u64,
    time: String,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
}

async fn message(
    client: &Client,
    stream: &str,
    body: serde_json::Value,
) -> Result<Option<Stored>, ApiError> {
    let subject = format!("$JS.API.STREAM.MSG.GET.{stream}");
    let answer: Answer = match api::call(client, &subject, &body).await {
        Err(error) if error.code() == Some(NO_MESSAGE) => return Ok(None),
        answer => answer?,
    };
    let malformed = |problem: String| ApiError::Malformed {
        subject: subject.clone(),
        problem,
    };
    let decode = |text: String| {
        BASE64
            .decode(text.as_bytes())
            .map_err(|e| malformed(e.to_string()))
    };
    let headers = decode(answer.message.hdrs)?;
    Ok(Some(Stored {
        subject: answer.message.subject,
        seq: StreamSeq::new(answer.message.seq),
        time: api::time(&subject, &answer.message.time)?,
        headers: String::from_utf8(headers).map_err(|error| malformed(error.to_string()))?,
        payload: decode(answer.message.data)?.into(),
    }))
}

/// Reads the message at a sequence; `None` if it is not retained.
///
/// # Errors
///
/// [`ApiError`].
pub async fn message_at(
    client: &Client,
    stream: &str,
    seq: StreamSeq,
) -> Result<Option<Stored>, ApiError> {
    if seq == StreamSeq::ZERO {
        return Ok(None);
    }
    message(client, stream, json!({ "seq": seq.get() })).await
}

/// Reads the last message of a subject; `None` if there is none.
///
/// # Errors
///
/// [`ApiError`].
pub async fn last_of(
    client: &Client,
    stream: &str,
    subject: &str,
) -> Result<Option<Stored>, ApiError> {
    message(client, stream, json!({ "last_by_subj": subject })).await
}

/// Reads the next message of a subject at or behind a sequence; `None` if there is none.
pub(crate) async fn next_of(
    client: &Client,
    stream: &str,
    subject: &str,
    from: StreamSeq,
) -> Result<Option<Stored>, ApiError> {
    let body = json!({ "next_by_subj": subject, "seq": from.get().max(1) });
    message(client, stream, body).await
}

#[cfg(test)]
mod tests {
    use schemas::id::Venue;

    use super::{covers, takes};

    #[test]
    fn a_stream_takes_the_venues_of_its_subjects() {
        let taken = |subjects: &[&str]| {
            let subjects: Vec<String> = subjects.iter().map(|&text| text.to_owned()).collect();
            takes(&subjects, &Venue::new("sim").unwrap())
        };
        assert!(taken(&["tick.>"]) && taken(&["tick.*.okx.>", "tick.*.sim.>"]));
        assert!(!taken(&["tick.*.simb.>", "tick.fence.sim"]) && !taken(&["tick.trade.sim.>"]));
    }

    #[test]
    fn a_filter_covers_what_it_cannot_miss() {
        for (filter, taken) in [
            ("tick.>", "tick.>"),
            ("tick.>", "tick.*.binance.>"),
            ("tick.>", "tick.fence.TICKS"),
            ("tick.*.x", "tick.a.x"),
            ("tick.*.x", "tick.*.x"),
            (">", "a"),
        ] {
            assert!(covers(filter, taken), "{filter} {taken}");
        }
        for (filter, taken) in [
            ("tick.>", "tick"),
            ("tick.>", ">"),
            ("tick.trade.>", "tick.>"),
            ("tick.*", "tick.>"),
            ("tick.a", "tick.*"),
            ("tick.*", "tick.a.b"),
        ] {
            assert!(!covers(filter, taken), "{filter} {taken}");
        }
    }
}
