//! Which WebSocket extensions a client offers, and which of them it gets (RFC 6455 §9, RFC 7692 §7).

use axum::http::header::SEC_WEBSOCKET_EXTENSIONS;
use axum::http::{HeaderMap, HeaderValue, StatusCode};

use super::checks::{Refusal, refuse};
use crate::deflate::WINDOW;

/// The windows of RFC 7692, as powers of two.
const WINDOWS: std::ops::RangeInclusive<u8> = 8..=15;
const AGREED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// The answer to what a client offers: its first offer that can be met; `None` if there is none.
///
/// # Errors
///
/// The offers are not written as RFC 6455 §9.1 says.
pub(super) fn negotiate(
    headers: &HeaderMap,
    deflate: bool,
) -> Result<Option<HeaderValue>, Refusal> {
    let mut met = None;
    for line in headers.get_all(SEC_WEBSOCKET_EXTENSIONS) {
        let offers = Scanner(line.as_bytes()).offers().ok_or_else(|| {
            refuse(
                "extensions",
                StatusCode::BAD_REQUEST,
                "Sec-WebSocket-Extensions is malformed",
            )
        })?;
        let mut offers = offers.iter();
        met = met.or_else(|| offers.find_map(meet));
    }
    Ok(met.filter(|_| deflate))
}

/// One offer: the extension's name, and its parameters.
struct Offer {
    name: Vec<u8>,
    parameters: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// The answer to one offer, if it can be met: whoever offers what is not known here means it.
fn meet(offer: &Offer) -> Option<HeaderValue> {
    if offer.name != b"permessage-deflate" {
        return None;
    }
    let mut window = None;
    for (index, (name, value)) in offer.parameters.iter().enumerate() {
        let mut before = offer.parameters.iter().take(index);
        if before.any(|(other, _)| other == name) {
            return None;
        }
        match (name.as_slice(), value) {
            (
                b"server_no_context_takeover"
                | b"client_no_context_takeover"
                | b"client_max_window_bits",
                None,
            ) => {}
            // Ours is the largest: whatever the client uses can be inflated.
            (b"client_max_window_bits", Some(bits)) => {
                self::window(bits)?;
            }
            (b"server_max_window_bits", Some(bits)) => {
                window = Some(self::window(bits).filter(|bits| *bits >= WINDOW)?);
            }
            _ => return None,
        }
    }
    let answer = match window {
        None => HeaderValue::from_static(AGREED),
        Some(bits) => {
            HeaderValue::try_from(format!("{AGREED}; server_max_window_bits={bits}")).ok()?
        }
    };
    Some(answer)
}

/// A window as RFC 7692 writes it: no leading zeros.
fn window(value: &[u8]) -> Option<u8> {
    let bits: u8 = std::str::from_utf8(value).ok()?.parse().ok()?;
    (WINDOWS.contains(&bits) && value == bits.to_string().as_bytes()).then_some(bits)
}

/// Reads what is left of a header line.
struct Scanner<'a>(&'a [u8]);

impl Scanner<'_> {
    /// Every offer of the line; `None` if it is malformed.
    fn offers(mut self) -> Option<Vec<Offer>> {
        let mut offers = Vec::new();
        loop {
            // Lists may have empty elements.
            while self.skips(b',') {}
            if self.is_done() {
                return Some(offers);
            }
            let name = self.token()?;
            let mut parameters = Vec::new();
            while self.skips(b';') {
                let name = self.token()?;
                let value = if self.skips(b'=') {
                    Some(self.value()?)
                } else {
                    None
                };
                parameters.push((name, value));
            }
            offers.push(Offer { name, parameters });
            if !self.is_done() && !self.skips(b',') {
                return None;
            }
        }
    }

    /// Takes this byte, and the space before it, if it comes next.
    fn skips(&mut self, wanted: u8) -> bool {
        match self.0.trim_ascii_start() {
            [first, rest @ ..] if *first == wanted => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    const fn is_done(&self) -> bool {
        self.0.trim_ascii_start().is_empty()
    }

    fn token(&mut self) -> Option<Vec<u8>> {
        let text = self.0.trim_ascii_start();
        let length = text.iter().take_while(|byte| is_token(**byte)).count();
        let (token, rest) = text.split_at_checked(length)?;
        self.0 = rest;
        (!token.is_empty()).then(|| token.to_vec())
    }

    /// A token, or one in quotes.
    fn value(&mut self) -> Option<Vec<u8>> {
        if !self.skips(b'"') {
            return self.token();
        }
        let mut value = Vec::new();
        loop {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            match first {
                b'"' => return (!value.is_empty()).then_some(value),
                b'\\' => {
                    let (escaped, rest) = self.0.split_first()?;
                    self.0 = rest;
                    value.push(*escaped);
                }
                byte => value.push(*byte),
            }
            if !value.last().is_some_and(|byte| is_token(*byte)) {
                return None;
            }
        }
    }
}

/// RFC 7230 §3.2.6.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests;
