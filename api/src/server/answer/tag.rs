//! Tags by which a client recognizes what it has already (RFC 9110 §8.8.3, §13.1.2).
//!
//! They are weak: the same answer may go out compressed or not.

use axum::http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use sha2::{Digest as _, Sha256};

/// How much of the digest is kept, in bytes.
const KEPT: usize = 12;

/// The tag of a body: the same on every replica, whatever its version.
pub(super) fn of(body: &[u8]) -> HeaderValue {
    let digest = Sha256::digest(body);
    let mut tag = "W/\"".to_owned();
    for byte in digest.iter().take(KEPT) {
        tag.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
        tag.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
    }
    tag.push('"');
    HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Whether a request says that its client has what the tag is of.
pub(super) fn is_known(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let opaque = |text: &str| text.trim().trim_start_matches("W/").to_owned();
    let Ok(tag) = tag.to_str().map(opaque) else {
        return false;
    };
    let seen = headers.get_all(IF_NONE_MATCH).iter();
    let seen = seen.filter_map(|line| line.to_str().ok());
    // No tag of ours has a comma in it.
    seen.flat_map(|line| line.split(','))
        .any(|one| one.trim() == "*" || opaque(one) == tag)
}

/// Answers with `body`, or that it is what the client has already.
pub(in crate::server) fn tagged(
    body: Vec<u8>,
    media_type: &'static str,
    headers: &HeaderMap,
) -> Response {
    let tag = of(&body);
    let mut response = if is_known(headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut response = body.into_response();
        let media_type = HeaderValue::from_static(media_type);
        response.headers_mut().insert(CONTENT_TYPE, media_type);
        response
    };
    response.headers_mut().insert(ETAG, tag);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_known_by_its_text_alone() {
        let tag = of(b"body");
        let text = tag.to_str().unwrap();
        assert_eq!(text.len(), 4 + KEPT * 2);
        assert_eq!(tag, of(b"body"));
        assert_ne!(tag, of(b"other"));
        let strong = text.trim_start_matches("W/");
        for (seen, known) in [
            (text.to_owned(), true),
            (strong.to_owned(), true),
            (format!("\"a\", W/\"b\" , {text}"), true),
            ("*".to_owned(), true),
            (strong.trim_matches('"').to_owned(), false),
            ("\"a\"".to_owned(), false),
            (String::new(), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, HeaderValue::from_str(&seen).unwrap());
            assert_eq!(is_known(&headers, &tag), known, "{seen}");
        }
        assert!(!is_known(&HeaderMap::new(), &tag));
    }
}
