//! Requests to the `JetStream` API and the ways in which they fail.

use std::time::Duration;

use async_nats::client::Request;
use async_nats::{Client, HeaderMap, RequestErrorKind};
use bytes::Bytes;
use schemas::time::UnixNanos;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// `JetStream`'s error for a stream that does not exist.
const NO_STREAM: u64 = 10059;
/// How long an answer is awaited.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why a request to the broker failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No answer in time: no leader, or no permission to ask.
    #[error("{subject} was not answered in time")]
    TimedOut {
        /// The request's subject.
        subject: String,
    },
    /// Nobody listens: `JetStream` is off, or a leader is being elected.
    #[error("nobody answers {subject}")]
    NoResponders {
        /// The request's subject.
        subject: String,
    },
    /// The broker said no.
    #[error("the broker refused {subject}: {description} (code {code})")]
    Refused {
        /// The request's subject.
        subject: String,
        /// The broker's error code; that of Direct Get is the status.
        code: u64,
        /// The kind of error, as in HTTP.
        status: u16,
        /// The broker's words.
        description: String,
    },
    /// The answer is not what the API promises.
    #[error("the answer to {subject} is malformed: {problem}")]
    Malformed {
        /// The request's subject.
        subject: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The request could not be sent.
    #[error("{subject} could not be sent: {problem}")]
    Connection {
        /// The request's subject.
        subject: String,
        /// What the client library said.
        problem: String,
    },
}

impl ApiError {
    /// Whether the same request may succeed later, with nothing else changed.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::TimedOut { .. } | Self::NoResponders { .. } | Self::Connection { .. } => true,
            Self::Refused { status, .. } => matches!(status, 429 | 500..),
            Self::Malformed { .. } => false,
        }
    }

    /// The broker's error code, if the broker answered with one.
    pub const fn code(&self) -> Option<u64> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::TimedOut { .. }
            | Self::NoResponders { .. }
            | Self::Malformed { .. }
            | Self::Connection { .. } => None,
        }
    }

    /// Whether the broker says that there is no such stream.
    pub fn is_missing_stream(&self) -> bool {
        self.code() == Some(NO_STREAM)
    }
}

#[derive(Deserialize)]
struct Outcome {
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// Sends a JSON request and reads the answer; `null` is sent as no body.
pub(crate) async fn call<T: DeserializeOwned>(
    client: &Client,
    subject: &str,
    body: &(impl Serialize + Sync),
) -> Result<T, ApiError> {
    let body = serde_json::to_string(body).map_err(|error| malformed(subject, &error))?;
    let body = if body == "null" { String::new() } else { body };
    exchange(client, subject, None, body.into()).await
}

/// Sends bytes, with headers, and reads the answer.
pub(crate) async fn exchange<T: DeserializeOwned>(
    client: &Client,
    subject: &str,
    headers: Option<HeaderMap>,
    payload: Bytes,
) -> Result<T, ApiError> {
    let mut request = Request::new().payload(payload).timeout(Some(PATIENCE));
    if let Some(headers) = headers {
        request = request.headers(headers);
    }
    let answer = client
        .send_request(subject.to_owned(), request)
        .await
        .map_err(|error| failure(subject, &error))?;
    read(subject, &answer.payload)
}

/// Reads an answer, or the refusal in it.
pub(crate) fn read<T: DeserializeOwned>(subject: &str, payload: &[u8]) -> Result<T, ApiError> {
    let outcome: Outcome =
        serde_json::from_slice(payload).map_err(|error| malformed(subject, &error))?;
    if let Some(refusal) = outcome.error {
        return Err(ApiError::Refused {
            subject: subject.to_owned(),
            code: refusal.err_code,
            status: refusal.code,
            description: refusal.description,
        });
    }
    serde_json::from_slice(payload).map_err(|error| malformed(subject, &error))
}

/// Reads a time as the API writes it.
pub(crate) fn time(subject: &str, text: &str) -> Result<UnixNanos, ApiError> {
    let time: jiff::Timestamp = text.parse().map_err(|error| malformed(subject, &error))?;
    // The API's zero time lies before what 64-bit nanoseconds can hold.
    let nanos = i64::try_from(time.as_nanosecond()).unwrap_or_default();
    Ok(UnixNanos::new(nanos))
}

fn malformed(subject: &str, problem: &impl ToString) -> ApiError {
    ApiError::Malformed {
        subject: subject.to_owned(),
        problem: problem.to_string(),
    }
}

pub(crate) fn failure(subject: &str, error: &async_nats::RequestError) -> ApiError {
    let subject = subject.to_owned();
    match error.kind() {
        RequestErrorKind::TimedOut => ApiError::TimedOut { subject },
        RequestErrorKind::NoResponders => ApiError::NoResponders { subject },
        RequestErrorKind::InvalidSubject
        | RequestErrorKind::MaxPayloadExceeded
        | RequestErrorKind::Other => ApiError::Connection {
            subject,
            problem: error.to_string(),
        },
    }
}
