//! Direct Get: many messages in one request, answered by any replica and therefore perhaps stale.
//!
//! The end of an answer says only that this replica had no more. Whoever must have everything
//! knows from elsewhere what the last message is, and asks again until it has it.

use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt;
use schemas::position::StreamSeq;
use schemas::time::UnixNanos;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::api::{self, ApiError};
use crate::stream::{self, Horizon};

/// The most subjects that one request may name, and the most that its patterns may match.
pub const MAX_SUBJECTS: usize = 1_024;
/// The most bytes that one request may send back before the next page is asked for.
const PAGE_BYTES: u64 = 4_194_304;
/// How long a replica may take between two messages of an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Replicas expire messages by their own clocks, which differ by less than this.
const SKEW: Duration = Duration::from_secs(30);
/// The most messages that are read one by one.
const SINGLY: usize = 32;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its subject.
    pub subject: String,
    /// Its sequence.
    pub seq: StreamSeq,
    /// When the broker stored it.
    pub time: UnixNanos,
    /// Its headers, and those that the answer added.
    pub headers: HeaderMap,
    /// Its payload.
    pub payload: Bytes,
}

impl Found {
    /// The last value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }
}

/// Last messages of several subjects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// In stream order for each [`MAX_SUBJECTS`] of the subjects.
    pub found: Vec<Found>,
    /// Nothing of these subjects up to here is newer than what was found; `None` where some had
    /// no message at all, or none were asked for.
    pub up_to: Option<StreamSeq>,
}

/// Reads the last message of each subject; subjects without messages are absent.
///
/// # Errors
///
/// As [`snapshot`].
pub async fn multi_last(
    client: &Client,
    stream: &str,
    subjects: &[String],
) -> Result<Vec<Found>, ApiError> {
    Ok(snapshot(client, stream, subjects).await?.found)
}

/// Reads the last message of each subject or pattern, and up to where that is everything.
///
/// # Errors
///
/// [`ApiError::Refused`] with status 413 if patterns match more than [`MAX_SUBJECTS`] subjects,
/// [`ApiError::NoResponders`] if there is no such stream or it has no leader.
pub async fn snapshot(
    client: &Client,
    stream: &str,
    subjects: &[String],
) -> Result<Snapshot, ApiError> {
    let mut found = Vec::with_capacity(subjects.len());
    let mut bounds = Vec::new();
    for chunk in subjects.chunks(MAX_SUBJECTS) {
        let mut rest = None;
        loop {
            let end = ask(client, stream, &page(chunk, rest), &mut found).await?;
            let up_to = end.as_ref().and_then(|end| end.up_to);
            if rest.is_none() {
                bounds.push(up_to);
            }
            rest = end
                .filter(|end| end.more)
                .map(|end| end.last.next())
                .zip(up_to);
            if rest.is_none() {
                break;
            }
        }
    }
    let up_to = bounds.into_iter().min().flatten();
    Ok(Snapshot { found, up_to })
}

/// Asks for last messages; of a page that is not the first, from where, and up to where.
fn page(subjects: &[String], rest: Option<(StreamSeq, StreamSeq)>) -> Value {
    let Some((from, up_to)) = rest else {
        return json!({ "multi_last": subjects, "max_bytes": PAGE_BYTES });
    };
    json!({
        "multi_last": subjects,
        "max_bytes": PAGE_BYTES,
        "seq": from.get(),
        "up_to_seq": up_to.get(),
    })
}

/// Reads the last message of a subject; `None` if there is none.
///
/// # Errors
///
/// [`ApiError::NoResponders`] if there is no such stream or it has no leader.
pub async fn last_for_subject(
    client: &Client,
    stream: &str,
    subject: &str,
) -> Result<Option<Found>, ApiError> {
    let request = format!("$JS.API.DIRECT.GET.{stream}.{subject}");
    let answer = client
        .request(request.clone(), Bytes::new())
        .await
        .map_err(|error| api::failure(&request, &error))?;
    match answer.status {
        None => read(&request, answer).map(Some),
        Some(StatusCode::NOT_FOUND) => Ok(None),
        Some(status) => Err(refused(request, status, answer.description)),
    }
}

/// Reads at most `limit` messages of a subject or pattern, from `from` on, in stream order.
///
/// # Errors
///
/// [`ApiError::NoResponders`] if there is no such stream or it has no leader.
pub async fn next_by_subject(
    client: &Client,
    stream: &str,
    subject: &str,
    from: StreamSeq,
    limit: usize,
) -> Result<Vec<Found>, ApiError> {
    let request = behind(subject, from, (limit, PAGE_BYTES));
    let mut found = Vec::new();
    ask(client, stream, &request, &mut found).await?;
    Ok(found)
}

fn behind(subject: &str, from: StreamSeq, (limit, bytes): (usize, u64)) -> Value {
    json!({
        "next_by_subj": subject,
        "seq": from.get().max(1),
        "batch": limit,
        "max_bytes": bytes,
    })
}

/// What follows a position on a subject or pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Following {
    /// Up to here retention has removed whatever there was; `None` if it has not reached the
    /// position.
    pub trimmed: Option<StreamSeq>,
    /// Every message behind the position, or behind what was trimmed, without a hole; how many there
    /// are says nothing about how many there should be: the replica that answered may lag.
    pub found: Vec<Found>,
}

/// Reads at most `limit` messages of a subject or pattern behind a position, and whether retention has
/// taken any of them.
///
/// It ends before `limit` where it would have more than `bytes`.
///
/// A replica answers that may lag, and that expires messages when its own clock says so. So the
/// leader is asked afterwards where the stream begins; what is about to expire is read from it alone.
///
/// # Errors
///
/// [`ApiError::NoResponders`] if there is no such stream or it has no leader.
pub async fn following(
    client: &Client,
    stream: &str,
    subject: &str,
    after: StreamSeq,
    (limit, bytes): (usize, u64),
) -> Result<Following, ApiError> {
    let mut found = Vec::new();
    let request = behind(subject, after.next(), (limit, bytes));
    ask(client, stream, &request, &mut found).await?;
    let mut horizon = stream::horizon(client, stream).await?;
    let from = after.next().max(horizon.first_seq);
    if may_expire_elsewhere(client, stream, (&horizon, from)).await? {
        found = singly(client, stream, subject, from, limit.min(SINGLY)).await?;
        horizon = stream::horizon(client, stream).await?;
    }
    let trimmed = (horizon.first_seq > after.next()).then(|| horizon.first_seq.prev());
    found.retain(|found| found.seq >= horizon.first_seq);
    Ok(Following { trimmed, found })
}

/// Whether a replica may have expired a message that the leader still has.
async fn may_expire_elsewhere(
    client: &Client,
    stream: &str,
    (horizon, seq): (&Horizon, StreamSeq),
) -> Result<bool, ApiError> {
    let Some(edge) = horizon.expires_at.filter(|_| horizon.replicas > 1) else {
        return Ok(false);
    };
    if horizon.first_time.since(edge) > SKEW {
        return Ok(false);
    }
    let message = stream::message_at(client, stream, seq).await?;
    // What the leader has not any more has just expired.
    Ok(message.is_none_or(|message| message.time.since(edge) <= SKEW))
}

/// Reads messages of a subject from the leader, one by one.
async fn singly(
    client: &Client,
    stream: &str,
    subject: &str,
    mut from: StreamSeq,
    limit: usize,
) -> Result<Vec<Found>, ApiError> {
    let mut found = Vec::new();
    while found.len() < limit {
        let Some(message) = stream::next_of(client, stream, subject, from).await? else {
            break;
        };
        from = message.seq.next();
        found.push(Found {
            subject: message.subject,
            seq: message.seq,
            time: message.time,
            headers: HeaderMap::new(),
            payload: message.payload,
        });
    }
    Ok(found)
}

/// The end of an answer.
struct End {
    /// The last sequence that was sent.
    last: StreamSeq,
    /// Up to which sequence the replica looked for last messages.
    up_to: Option<StreamSeq>,
    /// The replica has more.
    more: bool,
}

/// Reads one answer, to its end; `None` if there was nothing to answer.
async fn ask(
    client: &Client,
    stream: &str,
    request: &Value,
    found: &mut Vec<Found>,
) -> Result<Option<End>, ApiError> {
    let subject = format!("$JS.API.DIRECT.GET.{stream}");
    let broken = |problem: String| ApiError::Connection {
        subject: subject.clone(),
        problem,
    };
    let inbox = client.new_inbox();
    let mut answers = client
        .subscribe(inbox.clone())
        .await
        .map_err(|error| broken(error.to_string()))?;
    client
        .publish_with_reply(subject.clone(), inbox, request.to_string().into())
        .await
        .map_err(|error| broken(error.to_string()))?;
    let mut last = StreamSeq::ZERO;
    loop {
        let message = timeout(PATIENCE, answers.next())
            .await
            .map_err(|_| ApiError::TimedOut {
                subject: subject.clone(),
            })?
            .ok_or_else(|| broken("the subscription ended".to_owned()))?;
        let number = |name| {
            let text = header(message.headers.as_ref()?, name)?;
            text.parse().ok().map(StreamSeq::new)
        };
        // Messages of an answer name their predecessor: the client library may drop some.
        let before = number("Nats-Last-Sequence");
        let (up_to, pending) = (number("Nats-UpTo-Sequence"), number("Nats-Num-Pending"));
        let end = message.status.map(|status| (status.as_u16(), status));
        match end {
            None | Some((204, _)) if before != Some(last) => {
                return Err(broken("a part of the answer was lost".to_owned()));
            }
            None => {
                let message = read(&subject, message)?;
                last = message.seq;
                found.push(message);
            }
            Some((204, _)) => {
                let more = pending.is_some_and(|pending| pending > StreamSeq::ZERO);
                return Ok(Some(End { last, up_to, more }));
            }
            Some((404, _)) => return Ok(None),
            Some((_, status)) => return Err(refused(subject, status, message.description)),
        }
    }
}

fn refused(subject: String, status: StatusCode, description: Option<String>) -> ApiError {
    if status == StatusCode::NO_RESPONDERS {
        return ApiError::NoResponders { subject };
    }
    ApiError::Refused {
        subject,
        code: u64::from(status.as_u16()),
        status: status.as_u16(),
        description: description.unwrap_or_default(),
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get_last(name).map(async_nats::HeaderValue::as_str)
}

fn read(subject: &str, message: Message) -> Result<Found, ApiError> {
    let headers = message.headers.unwrap_or_default();
    let field = |name: &str| {
        header(&headers, name).ok_or_else(|| ApiError::Malformed {
            subject: subject.to_owned(),
            problem: format!("a message without {name}"),
        })
    };
    let seq = field("Nats-Sequence")?;
    Ok(Found {
        subject: field("Nats-Subject")?.to_owned(),
        seq: StreamSeq::new(seq.parse().map_err(|_| ApiError::Malformed {
            subject: subject.to_owned(),
            problem: format!("{seq:?} is not a sequence"),
        })?),
        time: api::time(subject, field("Nats-Time-Stamp")?)?,
        payload: message.payload,
        headers,
    })
}
