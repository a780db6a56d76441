//! Errors as `application/problem+json` (RFC 9457): what is wrong, which parameter, which limit.

use axum::Json;
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bus::api::ApiError;
use schemas::http;
use tracing::error;

use crate::store::StoreError;

/// Why a request was not answered as asked.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    title: &'static str,
    detail: String,
    parameter: Option<String>,
}

impl Problem {
    /// A parameter that is missing or wrong.
    pub(super) fn parameter(name: &str, detail: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            title: "a parameter is wrong",
            detail: detail.into(),
            parameter: Some(name.to_owned()),
        }
    }

    /// Nothing is there.
    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            title: "no such resource",
            detail: detail.into(),
            parameter: None,
        }
    }

    /// Something is there, and only to be read.
    pub(super) fn method() -> Self {
        Self {
            status: StatusCode::METHOD_NOT_ALLOWED,
            title: "no such method",
            detail: "this path takes GET and HEAD".to_owned(),
            parameter: None,
        }
    }

    /// Something that is needed does not answer now.
    pub(super) fn unavailable(detail: &str) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            title: "try again later",
            detail: detail.to_owned(),
            parameter: None,
        }
    }

    /// A fault of ours.
    pub(super) fn internal() -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            title: "internal error",
            detail: "the request id leads to the cause in the server's log".to_owned(),
            parameter: None,
        }
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
        match problem {
            // Asking again does not mend it.
            StoreError::Damaged { .. } | StoreError::Unusable(_) => Self::internal(),
            StoreError::Database(_) | StoreError::Migrate(_) | StoreError::Away(_) => {
                Self::unavailable("the database does not answer")
            }
        }
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
        };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(http::PROBLEM_JSON));
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET,HEAD"));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(problem: Problem) -> (Response, http::Problem) {
        let (parts, body) = problem.into_response().into_parts();
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
        };
        assert_eq!(problem, expected);
        let (response, problem) = read(Problem::unavailable("away")).await;
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        assert_eq!((problem.status, problem.parameter), (503, None));
    }
}
