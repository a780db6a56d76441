//! Pages of other origins: which of them may read what is answered to a browser.

use std::time::Duration;

use axum::http::header::{ACCEPT, ETAG, IF_NONE_MATCH, LINK, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, Method, Uri};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::answer::POS;
use super::around::REQUEST_ID;

/// Every origin.
const ANY: &str = "*";
/// How long a browser need not ask again whether it may ask.
const REMEMBERED: Duration = Duration::from_hours(1);
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// An origin as browsers name it, or all of them.
#[derive(Clone, Debug)]
pub struct Origin(HeaderValue);

impl Origin {
    /// Reads `scheme://host`, with a port where it is not the scheme's own; or `*`.
    ///
    /// # Errors
    ///
    /// Says what an origin looks like.
    pub fn new(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no origin: use https://name or https://name:port, or *");
        let is_origin = text == ANY || is_origin(text);
        let value = HeaderValue::from_str(text).ok().filter(|_| is_origin);
        value.map(Self).ok_or_else(wrong)
    }
}

fn is_origin(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else {
        return false;
    };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return false;
    };
    // Nothing behind it, nobody before it, and spelled as browsers do.
    format!("{scheme}://{authority}") == text
        && !authority.as_str().contains(['@', '*'])
        && text.to_ascii_lowercase() == text
}

/// What lets pages of these origins in; `None` if there are none.
pub(super) fn layer(origins: &[Origin]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let allowed = if origins.iter().any(|Origin(one)| one == ANY) {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().map(|Origin(one)| one.clone()))
    };
    Some(
        CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([Method::GET, Method::HEAD])
            .allow_headers([ACCEPT, IF_NONE_MATCH, REQUEST_ID, API_KEY])
            .expose_headers([ETAG, LINK, RETRY_AFTER, REQUEST_ID, POS])
            .max_age(REMEMBERED),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_spelled_as_browsers_do() {
        for good in [
            "*",
            "https://charts.example",
            "http://localhost:3000",
            "http://[::1]:80",
        ] {
            assert!(Origin::new(good).is_ok(), "{good}");
        }
        for wrong in [
            "",
            "charts.example",
            "https://charts.example/",
            "https://charts.example/page",
            "https://user@charts.example",
            "https://Charts.example",
            "https://*.example",
            "https://",
            "null",
            "https://a b",
        ] {
            let sentence = Origin::new(wrong).unwrap_err();
            assert!(sentence.contains("is no origin"), "{wrong}: {sentence}");
        }
    }
}
