//! Answers in the form that is asked for, with a tag by which an unchanged one is recognized.

use std::collections::BTreeMap;

use axum::http::header::{ACCEPT, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use schemas::http::{JSON, Page, PageWriter, Position};
use schemas::position::StreamSeq;
use serde::Serialize;
use tracing::error;

use super::problem::Problem;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// `application/json`.
    Json,
}

impl Format {
    /// What lists are offered in.
    pub(super) const LISTS: &[Self] = &[Self::Json];

    /// The media type.
    pub(super) const fn media_type(self) -> &'static str {
        match self {
            Self::Json => JSON,
        }
    }

    /// The form that a request accepts, of those that there are.
    ///
    /// # Errors
    ///
    /// None of them is accepted.
    pub(super) fn negotiated(headers: &HeaderMap, offered: &[Self]) -> Result<Self, Problem> {
        let _accepted = headers.get(ACCEPT);
        offered.first().copied().ok_or_else(Problem::internal)
    }
}

/// What is answered, whatever form it is asked for in.
pub(super) struct Answer {
    body: Vec<u8>,
}

impl Answer {
    /// A list of ticks as they are stored; one that cannot be written is left out, and logged.
    ///
    /// # Errors
    ///
    /// A fault of ours.
    pub(super) fn ticks<'a>(
        items: impl Iterator<Item = (StreamSeq, &'a [u8])>,
        next: Option<String>,
        pos: BTreeMap<String, Position>,
    ) -> Result<Self, Problem> {
        let mut page = PageWriter::new();
        for (seq, payload) in items {
            if let Err(problem) = page.push(seq, payload) {
                error!(%problem, seq = seq.get(), "a stored tick is damaged");
            }
        }
        let body = page.finish(next, pos).map_err(|problem| {
            error!(%problem, "a page cannot be written");
            Problem::internal()
        })?;
        Ok(Self { body })
    }

    /// A list of anything.
    ///
    /// # Errors
    ///
    /// A fault of ours.
    pub(super) fn list<T: Serialize>(items: Vec<T>, next: Option<String>) -> Result<Self, Problem> {
        let pos = BTreeMap::new();
        Self::page(&Page { items, next, pos })
    }

    /// A list of anything that live may continue.
    ///
    /// # Errors
    ///
    /// A fault of ours.
    pub(super) fn page<T: Serialize>(page: &Page<T>) -> Result<Self, Problem> {
        let body = serde_json::to_vec(page).map_err(|problem| {
            error!(%problem, "a page cannot be written");
            Problem::internal()
        })?;
        Ok(Self { body })
    }

    /// The answer to a request with these headers.
    pub(super) fn into_response(self, format: Format, headers: &HeaderMap) -> Response {
        tagged(self.body, format.media_type(), headers)
    }
}

/// Answers with `body`, or that it is what the client has already.
pub(super) fn tagged(body: Vec<u8>, media_type: &'static str, headers: &HeaderMap) -> Response {
    use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

    let digest = BuildHasherDefault::<DefaultHasher>::default().hash_one(&body);
    let tag = format!("\"{digest:016x}\"");
    let known = headers
        .get(IF_NONE_MATCH)
        .is_some_and(|seen| seen.as_bytes() == tag.as_bytes());
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        body.into_response()
    };
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        fields.insert(ETAG, tag);
    }
    response
}
