//! Direct Get: many last values in one request, answered by any replica and therefore perhaps stale.

use std::time::Duration;

use async_nats::{Client, HeaderMap, Message};
use bytes::Bytes;
use futures_util::StreamExt;
use schemas::position::StreamSeq;
use schemas::time::UnixNanos;
use serde_json::json;
use tokio::time::timeout;

use crate::api::{self, ApiError};

/// The most subjects that one request may name.
pub const MAX_SUBJECTS: usize = 1_024;
/// The most bytes that one request may send back before the next page is asked for.
const PAGE_BYTES: u64 = 4_194_304;
/// How long a replica may take between two messages of an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// One last value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its subject.
    pub subject: String,
    /// Its sequence.
    pub seq: StreamSeq,
    /// When the broker stored it.
    pub time: UnixNanos,
    /// Its payload.
    pub payload: Bytes,
}

/// Reads the last message of each subject; subjects without messages are absent.
///
/// # Errors
///
/// [`ApiError`].
pub async fn multi_last(
    client: &Client,
    stream: &str,
    subjects: &[String],
) -> Result<Vec<Found>, ApiError> {
    let mut found = Vec::with_capacity(subjects.len());
    for page in subjects.chunks(MAX_SUBJECTS) {
        let (mut from, mut up_to) = (None, None);
        loop {
            let body = json!({ "multi_last": page, "max_bytes": PAGE_BYTES, "seq": from, "up_to_seq": up_to });
            let body = without_nulls(body);
            let end = one_page(client, stream, &body, &mut found).await?;
            match end {
                Some((last, bound)) => (from, up_to) = (Some(last + 1), Some(bound)),
                None => break,
            }
        }
    }
    Ok(found)
}

fn without_nulls(mut body: serde_json::Value) -> Bytes {
    if let Some(fields) = body.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    body.to_string().into()
}

/// Reads one answer; `Some((last sequence, bound))` if more follows.
async fn one_page(
    client: &Client,
    stream: &str,
    body: &Bytes,
    found: &mut Vec<Found>,
) -> Result<Option<(u64, u64)>, ApiError> {
    let subject = format!("$JS.API.DIRECT.GET.{stream}");
    let broken = |problem: String| ApiError::Connection {
        subject: subject.clone(),
        problem,
    };
    let inbox = client.new_inbox();
    let mut answers = client
        .subscribe(inbox.clone())
        .await
        .map_err(|e| broken(e.to_string()))?;
    client
        .publish_with_reply(subject.clone(), inbox, body.clone())
        .await
        .map_err(|e| broken(e.to_string()))?;
    loop {
        let message = timeout(PATIENCE, answers.next())
            .await
            .map_err(|_| ApiError::TimedOut {
                subject: subject.clone(),
            })?
            .ok_or_else(|| broken("the subscription ended".to_owned()))?;
        let Some(status) = message.status else {
            found.push(read(&subject, message)?);
            continue;
        };
        let headers = message.headers.unwrap_or_default();
        match status.as_u16() {
            204 => {
                let number = |name| header(&headers, name).and_then(|text| text.parse().ok());
                let pending: u64 = number("Nats-Num-Pending").unwrap_or(0);
                let last = number("Nats-Last-Sequence");
                let bound = number("Nats-UpTo-Sequence");
                return Ok(last.zip(bound).filter(|_| pending > 0));
            }
            404 => return Ok(None),
            503 => return Err(ApiError::NoResponders { subject }),
            code => {
                let description = message.description.unwrap_or_default();
                return Err(ApiError::Refused {
                    subject,
                    code: u64::from(code),
                    description,
                });
            }
        }
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
    })
}
