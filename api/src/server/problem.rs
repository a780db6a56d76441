//! Errors as `application/problem+json` (RFC 9457): what is wrong, which parameter, which limit.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bus::api::ApiError;
use schemas::http;
use sqlx::error::DatabaseError;
use tracing::error;

use crate::store::StoreError;

/// When to ask again if nobody knows better.
const SOON: Duration = Duration::from_secs(1);

/// Why a request was not answered as asked.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    status: StatusCode,
    title: &'static str,
    detail: String,
    parameter: Option<String>,
    retry_after: Option<Duration>,
}

impl Problem {
    fn new(status: StatusCode, title: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            title,
            detail: detail.into(),
            parameter: None,
            retry_after: None,
        }
    }

    /// A parameter that is missing or wrong.
    pub(super) fn parameter(name: &str, detail: impl Into<String>) -> Self {
        let wrong = "a parameter is wrong";
        Self {
            parameter: Some(name.to_owned()),
            ..Self::new(StatusCode::BAD_REQUEST, wrong, detail)
        }
    }

    /// Nothing is there.
    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "no such resource", detail)
    }

    /// Something is there, and only to be read.
    pub(super) fn method() -> Self {
        let detail = "this path takes GET and HEAD";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "no such method", detail)
    }

    /// A form is accepted that there is not.
    pub(super) fn not_acceptable<'a>(offered: impl Iterator<Item = &'a str>) -> Self {
        let offered: Vec<&str> = offered.collect();
        let detail = format!("Accept: what is offered is {}", offered.join(", "));
        Self::new(StatusCode::NOT_ACCEPTABLE, "no such form", detail)
    }

    /// More is asked than an address can say.
    pub(super) fn too_long(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::URI_TOO_LONG, "the address is too long", detail)
    }

    /// A body comes along that nothing is done with.
    pub(super) fn too_large(detail: impl Into<String>) -> Self {
        let title = "the request is too large";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, title, detail)
    }

    /// Something that is needed does not answer now.
    pub(super) fn unavailable(detail: impl Into<String>) -> Self {
        Self::later(detail, SOON)
    }

    /// The same, and when to ask again.
    pub(super) fn later(detail: impl Into<String>, retry_after: Duration) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "try again later", detail)
        }
    }

    /// A fault of ours.
    pub(super) fn internal() -> Self {
        let detail = "the request id leads to the cause in the server's log";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error", detail)
    }

    /// Writes the request's id into a response that is a problem.
    pub(super) fn with_request(mut response: Response, id: &str) -> Response {
        let Some(mut problem) = response.extensions_mut().remove::<http::Problem>() else {
            return response;
        };
        problem.request = Some(id.to_owned());
        if let Ok(body) = serde_json::to_vec(&problem) {
            response.headers_mut().remove(CONTENT_LENGTH);
            *response.body_mut() = Body::from(body);
        }
        response
    }
}

impl From<StoreError> for Problem {
    fn from(problem: StoreError) -> Self {
        Self::from(&problem)
    }
}

impl From<&StoreError> for Problem {
    fn from(problem: &StoreError) -> Self {
        error!(%problem, "history cannot be read");
        // Asking again mends nothing.
        let Some(wait) = problem.retry_after() else {
            return Self::internal();
        };
        Self::later(why(problem), wait)
    }
}

/// What is the matter with a database, as far as whoever asks may know.
fn why(problem: &StoreError) -> &'static str {
    let StoreError::Database(driver) = problem else {
        return "the database does not answer";
    };
    if matches!(driver, sqlx::Error::PoolTimedOut) {
        return "the database is busy: no connection to it was free in time";
    }
    let code = driver.as_database_error().and_then(DatabaseError::code);
    match code.as_deref() {
        Some("57014") => "the database had no time to answer: a smaller range takes less",
        // Locked, in its two ways; deadlocks and locks.
        Some("5" | "6" | "261" | "262" | "517" | "40001" | "40P01" | "55P03") => {
            "the database is busy"
        }
        Some("13" | "53100") => "the database has no room left",
        Some(_) | None => "the database does not answer",
    }
}

impl From<&ApiError> for Problem {
    fn from(problem: &ApiError) -> Self {
        error!(%problem, "latest values cannot be read");
        Self::unavailable("the broker does not answer")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = http::Problem {
            page: http::NO_PAGE.to_owned(),
            title: self.title.to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
            parameter: self.parameter,
            request: None,
        };
        let mut response = (self.status, Json(&body)).into_response();
        response.extensions_mut().insert(body);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(http::PROBLEM_JSON));
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET,HEAD"));
        }
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_millis().div_ceil(1_000).max(1);
            if let Ok(seconds) = HeaderValue::from_str(&seconds.to_string()) {
                headers.insert(RETRY_AFTER, seconds);
            }
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(problem: Problem) -> (Response, http::Problem) {
        let response = Problem::with_request(problem.into_response(), "r-1");
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, 4_096).await.unwrap();
        let problem = serde_json::from_slice(&body).unwrap();
        (parts.into_response(), problem)
    }

    #[tokio::test]
    async fn a_problem_is_written_as_the_contract_says() {
        let (response, problem) = read(Problem::parameter("limit", "limit is 0")).await;
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        assert!(!response.headers().contains_key(RETRY_AFTER));
        assert_eq!(response.status().as_u16(), problem.status);
        let expected = http::Problem {
            page: "about:blank".to_owned(),
            title: "a parameter is wrong".to_owned(),
            status: 400,
            detail: "limit is 0".to_owned(),
            parameter: Some("limit".to_owned()),
            request: Some("r-1".to_owned()),
        };
        assert_eq!(problem, expected);
        let (response, problem) = read(Problem::unavailable("away")).await;
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        assert_eq!((problem.status, problem.parameter), (503, None));
    }

    #[tokio::test]
    async fn it_says_when_to_ask_a_database_again() {
        let away = StoreError::Away(Duration::from_millis(2_100));
        let (response, problem) = read(away.into()).await;
        assert_eq!(response.headers()[RETRY_AFTER], "3");
        assert_eq!(problem.detail, "the database does not answer");
        let busy = StoreError::Database(sqlx::Error::PoolTimedOut);
        let (response, problem) = read(busy.into()).await;
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        assert!(problem.detail.starts_with("the database is busy"));
        let fault = StoreError::Database(sqlx::Error::RowNotFound);
        let (response, problem) = read(fault.into()).await;
        assert!(!response.headers().contains_key(RETRY_AFTER));
        assert_eq!(problem.status, 500);
    }
}
