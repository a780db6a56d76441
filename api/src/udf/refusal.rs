//! What a UDF client is told when there is no answer: always `{"s":"error","errmsg":"…"}`.
//!
//! TradingView's adapter reads the body whatever the status is, so requests that can never be
//! answered come with 200, as the protocol has it, and only what is worth asking again, because the
//! database or the broker is away, with 503: proxies and monitors see that, the adapter shows the
//! same sentence.

use axum::Json;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bus::api::ApiError;
use serde::Serialize;
use tracing::error;

use crate::bars::ReadError;
use crate::store::StoreError;

/// When to ask again where nobody knows better, in seconds.
const SOON: u64 = 1;

/// Why a UDF request was not answered as asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// A parameter is missing or wrong; the sentence names it and its limit.
    #[error("{0}")]
    Parameter(String),
    /// There is no such instrument.
    #[error("unknown symbol: {0}")]
    Symbol(String),
    /// Something that is needed does not answer now.
    #[error("{what} does not answer: try again")]
    Away {
        /// What.
        what: &'static str,
        /// When to try again, in seconds.
        seconds: u64,
    },
    /// A fault of ours.
    #[error("internal error: the request id leads to the cause in the server's log")]
    Internal,
}

#[derive(Serialize)]
struct Body {
    s: &'static str,
    errmsg: String,
}

impl Refusal {
    const fn status(&self) -> StatusCode {
        match self {
            Self::Parameter(_) | Self::Symbol(_) => StatusCode::OK,
            Self::Away { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(problem: StoreError) -> Self {
        Self::from(&problem)
    }
}

impl From<&StoreError> for Refusal {
    fn from(problem: &StoreError) -> Self {
        error!(%problem, "history cannot be read");
        let Some(wait) = problem.retry_after() else {
            return Self::Internal;
        };
        Self::Away {
            what: "the database",
            seconds: wait.as_secs().max(SOON),
        }
    }
}

impl From<ReadError> for Refusal {
    fn from(problem: ReadError) -> Self {
        match problem {
            ReadError::Store(problem) => problem.into(),
            ReadError::Limit(_) | ReadError::Parts { .. } | ReadError::Volume { .. } => {
                Self::Parameter(problem.to_string())
            }
        }
    }
}

impl From<&ApiError> for Refusal {
    fn from(problem: &ApiError) -> Self {
        error!(%problem, "latest values cannot be read");
        Self::Away {
            what: "the broker",
            seconds: SOON,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Body {
            s: "error",
            errmsg: self.to_string(),
        };
        let mut response = (self.status(), Json(body)).into_response();
        if let Self::Away { seconds, .. } = self {
            let seconds = HeaderValue::from(seconds);
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    async fn read(refusal: Refusal) -> (Response, Value) {
        let (parts, body) = refusal.into_response().into_parts();
        let body = axum::body::to_bytes(body, 4_096).await.unwrap();
        (
            parts.into_response(),
            serde_json::from_slice(&body).unwrap(),
        )
    }

    #[tokio::test]
    async fn what_can_never_be_answered_is_200_and_what_is_away_is_503() {
        let (response, body) = read(Refusal::Parameter("to is missing".to_owned())).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(body, json!({ "s": "error", "errmsg": "to is missing" }));

        let away = StoreError::Away(Duration::from_millis(2_500));
        let (response, body) = read(away.into()).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        assert_eq!(body["s"], "error");
        assert_eq!(body["errmsg"], "the database does not answer: try again");

        let (field, value) = ("gen", "-1".to_owned());
        let (response, body) = read(StoreError::Damaged { field, value }.into()).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!body["errmsg"].as_str().unwrap().contains("gen"), "{body}");
    }
}
