//! Which form a client accepts most (RFC 9110 §12.5.1).

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use schemas::http::{CSV, JSON, MESSAGE_PACK, NDJSON};

use crate::server::problem::Problem;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::server) enum Format {
    /// `application/json`.
    Json,
    /// An item in JSON per line.
    Ndjson,
    /// A table (RFC 4180).
    Csv,
    /// The same map as in JSON.
    MessagePack,
}

/// A form under the name that a client calls it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) struct Form {
    /// The form.
    pub(in crate::server) format: Format,
    /// What its content type is.
    pub(in crate::server) media_type: &'static str,
}

impl Format {
    /// What lists are offered in.
    pub(in crate::server) const LISTS: &[Self] =
        &[Self::Json, Self::Ndjson, Self::Csv, Self::MessagePack];

    /// Its media types, ours first.
    const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Json => &[JSON],
            Self::Ndjson => &[NDJSON, "application/ndjson"],
            Self::Csv => &[CSV],
            Self::MessagePack => &[
                MESSAGE_PACK,
                "application/vnd.msgpack",
                "application/x-msgpack",
            ],
        }
    }

    /// The media type.
    pub(in crate::server) const fn media_type(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::Ndjson => NDJSON,
            Self::Csv => CSV,
            Self::MessagePack => MESSAGE_PACK,
        }
    }

    /// Whether a list in this form has a place for more than its items.
    pub(in crate::server) const fn has_frame(self) -> bool {
        matches!(self, Self::Json | Self::MessagePack)
    }

    /// The form that a request prefers, of those that there are: the one of the highest quality, and of
    /// several the one that the client, and then we, name first.
    ///
    /// # Errors
    ///
    /// None of them is accepted.
    pub(in crate::server) fn negotiated(
        headers: &HeaderMap,
        offered: &[Self],
    ) -> Result<Form, Problem> {
        let mut asked = headers.get_all(ACCEPT).iter().peekable();
        let everything = asked.peek().is_none().then_some("*/*");
        let lines = asked.filter_map(|line| line.to_str().ok());
        let ranges: Vec<Range<'_>> = everything
            .into_iter()
            .chain(lines)
            .flat_map(|line| line.split(','))
            .filter_map(Range::read)
            .collect();
        let best = offered
            .iter()
            .flat_map(|format| format.names().iter().map(|name| (*format, *name)))
            .filter_map(|(format, media_type)| {
                let (turn, quality) = quality_of(&ranges, media_type)?;
                Some((quality, turn, Form { format, media_type }))
            })
            // Of equals the first: it is ours.
            .reduce(|best, one| {
                let better = one.0 > best.0 || (one.0 == best.0 && one.1 < best.1);
                if better { one } else { best }
            });
        best.map(|(_, _, form)| form)
            .ok_or_else(|| Problem::not_acceptable(offered.iter().map(|one| one.media_type())))
    }
}

/// A media range of an `Accept`.
struct Range<'a> {
    kind: &'a str,
    subtype: &'a str,
    charset: Option<&'a str>,
    /// In thousandths.
    quality: u16,
}

impl<'a> Range<'a> {
    /// `None` for what is no media range.
    fn read(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (kind, subtype) = parts.next()?.split_once('/')?;
        let mut range = Self {
            kind,
            subtype,
            charset: None,
            quality: 1_000,
        };
        for parameter in parts {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            if name.eq_ignore_ascii_case("q") {
                range.quality = thousandths(value)?;
            } else if name.eq_ignore_ascii_case("charset") {
                range.charset = Some(value.trim_matches('"'));
            }
        }
        Some(range)
    }

    /// How exactly it means a media type, if it does.
    fn means(&self, media_type: &str) -> Option<u8> {
        let (essence, _) = media_type.split_once(';').unwrap_or((media_type, ""));
        let (kind, subtype) = essence.split_once('/')?;
        if self
            .charset
            .is_some_and(|one| !one.eq_ignore_ascii_case("utf-8"))
        {
            return None;
        }
        match (self.kind, self.subtype) {
            ("*", "*") => Some(0),
            (own, "*") if own.eq_ignore_ascii_case(kind) => Some(1),
            (own, sub) if own.eq_ignore_ascii_case(kind) && sub.eq_ignore_ascii_case(subtype) => {
                Some(2)
            }
            _ => None,
        }
    }
}

/// The place and the quality of the range that means a media type most exactly; none at quality 0.
fn quality_of(ranges: &[Range<'_>], media_type: &str) -> Option<(usize, u16)> {
    let meant = ranges.iter().enumerate().filter_map(|(turn, range)| {
        let exactly = range.means(media_type)?;
        Some((exactly, turn, range.quality))
    });
    // Of equally exact ones the first.
    let best = meant.reduce(|best, one| if one.0 > best.0 { one } else { best });
    best.map(|(_, turn, quality)| (turn, quality))
        .filter(|(_, quality)| *quality > 0)
}

/// A `qvalue`: 0 to 1 with at most three digits.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, digits) = text.split_once('.').unwrap_or((text, ""));
    if digits.len() > 3 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part: u16 = format!("{digits:0<3}").parse().ok()?;
    match whole {
        "0" => Some(part),
        "1" if part == 0 => Some(1_000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn asked(accept: &[&'static str]) -> Result<&'static str, Problem> {
        let mut headers = HeaderMap::new();
        for line in accept {
            headers.append(ACCEPT, HeaderValue::from_static(line));
        }
        Format::negotiated(&headers, Format::LISTS).map(|form| form.media_type)
    }

    #[test]
    fn the_client_gets_what_it_prefers() {
        for (accept, expected) in [
            (&[][..], JSON),
            (&["*/*"], JSON),
            (
                &["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"],
                JSON,
            ),
            (&["text/csv"], CSV),
            (&["TEXT/CSV; Charset=UTF-8; header=present"], CSV),
            (&["text/*"], CSV),
            (&["application/json;q=0.5, application/x-ndjson"], NDJSON),
            (&["application/x-ndjson, application/json"], NDJSON),
            (&["application/json, application/x-ndjson"], JSON),
            (&["application/json;q=0.4", "text/csv;q=0.5"], CSV),
            (&["application/vnd.msgpack"], "application/vnd.msgpack"),
            (&["application/x-msgpack;q=0.001"], "application/x-msgpack"),
            (&["application/json;q=0, */*"], NDJSON),
            (&["*/*;q=1, text/csv;q=0.1"], JSON),
            (&["application/*, application/json;q=0.1"], NDJSON),
            (&["nonsense, text/csv;q=0.3"], CSV),
        ] {
            assert_eq!(asked(accept).unwrap(), expected, "{accept:?}");
        }
    }

    #[test]
    fn what_is_not_offered_is_refused() {
        for accept in [
            "text/html",
            "application/json;q=0",
            "text/csv;charset=latin1",
            "*/*;q=0",
            "application/json;q=2",
            "application/json;q=0.1234",
            "application/json;q=-1",
            "json",
            "",
        ] {
            assert!(asked(&[accept]).is_err(), "{accept}");
        }
    }
}
