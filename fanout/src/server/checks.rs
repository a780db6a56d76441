//! What a handshake must say, and what it is told otherwise.

use std::net::IpAddr;

use axum::Json;
use axum::extract::Request;
use axum::http::header::{
    CONNECTION, CONTENT_TYPE, HOST, ORIGIN, RETRY_AFTER, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use schemas::http::{NO_PAGE, PROBLEM_JSON, Problem};
use schemas::ws::Encoding;

use super::Door;

/// Characters of a name that is not ours, as it is said back.
const MAX_ECHO: usize = 64;

/// Why a handshake is refused.
pub(super) struct Refusal {
    /// For counting.
    pub(super) why: &'static str,
    status: StatusCode,
    title: &'static str,
    detail: String,
    /// The parameter that is to blame, if one is.
    parameter: Option<String>,
    /// What the client should know besides.
    hint: Option<Box<(HeaderName, HeaderValue)>>,
}

impl Refusal {
    /// There is nothing under this path.
    pub(super) fn nothing(detail: &str) -> Self {
        Self {
            title: "no such resource",
            ..refuse("not_found", StatusCode::NOT_FOUND, detail)
        }
    }

    /// In how many seconds another try makes sense, if it does.
    pub(super) fn retry_after(&self) -> Option<u32> {
        let (name, value) = self.hint.as_deref()?;
        let seconds = value.to_str().ok()?.parse().ok();
        seconds.filter(|_| *name == RETRY_AFTER)
    }

    /// Why, for people.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    pub(super) fn hint(mut self, name: HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.hint = Some(Box::new((name, value.into())));
        self
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Problem {
            page: NO_PAGE.to_owned(),
            title: self.title.to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
            parameter: self.parameter,
            request: None,
        };
        let mut response = (self.status, Json(body)).into_response();
        let kind = HeaderValue::from_static(PROBLEM_JSON);
        response.headers_mut().insert(CONTENT_TYPE, kind);
        if let Some((name, value)) = self.hint.map(|hint| *hint) {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

pub(super) fn refuse(why: &'static str, status: StatusCode, detail: &str) -> Refusal {
    Refusal {
        why,
        status,
        title: "the connection was refused",
        detail: detail.to_owned(),
        parameter: None,
        hint: None,
    }
}

/// A parameter that is missing or wrong.
pub(super) fn wrong(parameter: &str, detail: &str) -> Refusal {
    Refusal {
        title: "a parameter is wrong",
        parameter: Some(parameter.chars().take(MAX_ECHO).collect()),
        ..refuse("parameter", StatusCode::BAD_REQUEST, detail)
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

pub(super) fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let values = headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(wanted))
}

/// RFC 6455 §4.2.1: a GET of HTTP/1.1 that says whom it asks, and each thing once.
pub(super) fn check_request(request: &Request) -> Result<(), Refusal> {
    let bad = |detail| refuse("request", StatusCode::BAD_REQUEST, detail);
    if request.method() != Method::GET {
        return Err(bad("a WebSocket handshake is a GET"));
    }
    if request.version() < Version::HTTP_11 {
        return Err(bad("a WebSocket handshake takes HTTP/1.1"));
    }
    let count = |name| request.headers().get_all(name).iter().count();
    if count(HOST) != 1 {
        return Err(bad("one Host is needed"));
    }
    if count(SEC_WEBSOCKET_KEY) > 1 || count(SEC_WEBSOCKET_VERSION) > 1 {
        return Err(bad(
            "Sec-WebSocket-Key and Sec-WebSocket-Version may each be given once",
        ));
    }
    Ok(())
}

pub(super) fn check_upgrade(headers: &HeaderMap) -> Result<String, Refusal> {
    if !lists(headers, &CONNECTION, "upgrade") || !lists(headers, &UPGRADE, "websocket") {
        return Err(refuse(
            "no_upgrade",
            StatusCode::UPGRADE_REQUIRED,
            "Connection: Upgrade and Upgrade: websocket are needed",
        )
        .hint(UPGRADE, HeaderValue::from_static("websocket")));
    }
    if text(headers, &SEC_WEBSOCKET_VERSION) != "13" {
        return Err(refuse(
            "version",
            StatusCode::UPGRADE_REQUIRED,
            "Sec-WebSocket-Version must be 13",
        )
        .hint(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")));
    }
    let key = text(headers, &SEC_WEBSOCKET_KEY);
    let decoded = data_encoding::BASE64.decode(key.as_bytes());
    if decoded.is_ok_and(|bytes| bytes.len() == 16) {
        return Ok(key.to_owned());
    }
    Err(refuse(
        "key",
        StatusCode::BAD_REQUEST,
        "Sec-WebSocket-Key must be 16 bytes in base64",
    ))
}

/// The encoding, and whether the client asked for it.
pub(super) fn check_subprotocol(headers: &HeaderMap) -> Result<(Encoding, bool), Refusal> {
    if !headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
        return Ok((Encoding::Json, false));
    }
    let offered =
        |encoding: &Encoding| lists(headers, &SEC_WEBSOCKET_PROTOCOL, encoding.subprotocol());
    Encoding::ALL
        .into_iter()
        .find(offered)
        .map(|encoding| (encoding, true))
        .ok_or_else(|| {
            let known = Encoding::ALL.map(Encoding::subprotocol).join(" and ");
            refuse(
                "subprotocol",
                StatusCode::BAD_REQUEST,
                &format!("the subprotocols are {known}"),
            )
        })
}

/// Browsers say where a page comes from; programs say nothing.
pub(super) fn check_origin(allowed: &[String], headers: &HeaderMap) -> Result<(), Refusal> {
    let origin = text(headers, &ORIGIN);
    let host = text(headers, &HOST);
    let same = origin
        .split_once("://")
        .is_some_and(|(_, of)| of.eq_ignore_ascii_case(host) && is_nobodys_name(host));
    let listed = |known: &String| known == "*" || known.eq_ignore_ascii_case(origin);
    if !headers.contains_key(ORIGIN) || same || allowed.iter().any(listed) {
        return Ok(());
    }
    Err(refuse(
        "origin",
        StatusCode::FORBIDDEN,
        "pages of this origin may not connect: see --origins",
    ))
}

/// Browsers do not say where a page comes from that reads events of its own host, which may be a
/// name that somebody has made to point here.
pub(super) fn check_host(door: &Door, headers: &HeaderMap) -> Result<(), Refusal> {
    let host = text(headers, &HOST);
    let is_told = headers.contains_key(ORIGIN);
    let is_listed = |known: &String| {
        let of = known.split_once("://").map_or(known.as_str(), |(_, of)| of);
        of == "*" || of.eq_ignore_ascii_case(host)
    };
    if is_told || !door.is_local || is_nobodys_name(host) || door.origins.iter().any(is_listed) {
        return Ok(());
    }
    Err(refuse(
        "host",
        StatusCode::FORBIDDEN,
        "by this name nobody may connect: see --origins",
    ))
}

/// Whether a host cannot be a name that somebody made to point here: a page of such a name would
/// look like one of ours.
fn is_nobodys_name(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host();
    let literal = name.trim_start_matches('[').trim_end_matches(']');
    literal.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
}

/// A key in a URL ends up in logs.
pub(super) fn check_credentials(request: &Request) -> Result<(), Refusal> {
    let query = request.uri().query().unwrap_or_default();
    let names = query.split('&').filter_map(|pair| pair.split('=').next());
    let secret = ["key", "api_key", "apikey", "token", "jwt", "access_token"];
    if names.into_iter().any(|name| {
        secret
            .iter()
            .any(|secret| name.eq_ignore_ascii_case(secret))
    }) {
        return Err(refuse(
            "secret_in_url",
            StatusCode::BAD_REQUEST,
            "credentials do not belong into a URL",
        ));
    }
    Ok(())
}
