//! Answers in the form that is asked for: made once, however many ask for it.

mod accept;
mod csv;
mod described;
mod tag;

use std::collections::BTreeMap;

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, LINK, VARY};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use schemas::http::{PackWriter, Page, PageWriter, Position, Table, write_line};
use schemas::id::Kind;
use schemas::position::StreamSeq;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::error;

use super::problem::Problem;

pub(super) use accept::{Form, Format};
pub(super) use described::{content, headers};
pub(super) use tag::tagged;

/// The header with the `pos` of a list whose form has no place for it.
pub(super) const POS: HeaderName = HeaderName::from_static(schemas::http::POS);
/// What an answer's form depends on.
const VARIES: HeaderValue = HeaderValue::from_static("Accept, Accept-Encoding");
/// How a client may keep what does not change any more but for what comes late.
const CLOSED: HeaderValue = HeaderValue::from_static("private, max-age=5");
/// How a client may keep what may be different the next moment.
const OPEN: HeaderValue = HeaderValue::from_static("no-cache");

/// What is answered, whatever form it is asked for in.
pub(super) struct Answer {
    items: Items,
    next: Option<String>,
    pos: BTreeMap<String, Position>,
    is_closed: bool,
}

enum Items {
    /// Ticks as they are stored, and their kinds where they are known beforehand.
    Ticks(Ticks, Vec<Kind>),
    /// Anything else.
    List(Box<dyn List + Send>),
}

/// Payloads one behind the other.
#[derive(Default)]
struct Ticks {
    bytes: Vec<u8>,
    /// Of each its sequence and its end.
    ends: Vec<(StreamSeq, usize)>,
}

impl Ticks {
    fn iter(&self) -> impl Iterator<Item = (StreamSeq, &[u8])> {
        let mut start = 0;
        self.ends.iter().map(move |(seq, end)| {
            let payload = self.bytes.get(start..*end).unwrap_or_default();
            start = *end;
            (*seq, payload)
        })
    }
}

impl Answer {
    /// A list of ticks as they are stored; one that cannot be written is left out, and logged.
    ///
    /// # Errors
    ///
    /// A fault of ours.
    #[expect(clippy::unnecessary_wraps, reason = "handlers end with it")]
    pub(super) fn ticks<'a>(
        items: impl Iterator<Item = (StreamSeq, &'a [u8])>,
        next: Option<String>,
        pos: BTreeMap<String, Position>,
    ) -> Result<Self, Problem> {
        let mut ticks = Ticks::default();
        for (seq, payload) in items {
            ticks.bytes.extend_from_slice(payload);
            ticks.ends.push((seq, ticks.bytes.len()));
        }
        Ok(Self {
            items: Items::Ticks(ticks, Vec::new()),
            next,
            pos,
            is_closed: false,
        })
    }

    /// The same, with a column of a table for every key of these kinds; otherwise only for those that
    /// every tick may have.
    pub(super) fn of(mut self, kinds: impl IntoIterator<Item = Kind>) -> Self {
        if let Items::Ticks(_, known) = &mut self.items {
            known.extend(kinds);
            known.sort_unstable();
            known.dedup();
        }
        self
    }

    /// A list of anything; a table has a column for each of its fields.
    ///
    /// # Errors
    ///
    /// A fault of ours.
    pub(super) fn list<T>(items: Vec<T>, next: Option<String>) -> Result<Self, Problem>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
    {
        let pos = BTreeMap::new();
        Self::page(Page { items, next, pos })
    }

    /// A list of anything that live may continue.
    ///
    /// # Errors
    ///
    /// A fault of ours.
    #[expect(clippy::unnecessary_wraps, reason = "handlers end with it")]
    pub(super) fn page<T>(page: Page<T>) -> Result<Self, Problem>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
    {
        Ok(Self {
            items: Items::List(Box::new(page.items)),
            next: page.next,
            pos: page.pos,
            is_closed: false,
        })
    }

    /// The same, and whether it only changes any more by what comes late.
    pub(super) fn closed(self, is_closed: bool) -> Self {
        Self { is_closed, ..self }
    }

    /// Writes it in a form.
    ///
    /// # Errors
    ///
    /// A fault of ours.
    pub(super) fn write(self, format: Format) -> Result<Written, Problem> {
        let Self {
            items,
            next,
            pos,
            is_closed,
        } = self;
        let body = match &items {
            Items::Ticks(ticks, kinds) => written(ticks, kinds, format, (&next, &pos)),
            Items::List(list) => list.write(format, (&next, &pos)),
        };
        let body = body.map_err(|problem| {
            error!(%problem, "an answer cannot be written");
            Problem::internal()
        })?;
        let outside = !format.has_frame();
        let pos = outside.then(|| position_header(&pos)).flatten();
        let tag = tag::of(&body);
        Ok(Written {
            body: body.into(),
            tag,
            next: next.filter(|_| outside),
            pos,
            is_closed,
        })
    }
}

/// The header that says how far an answer reaches, if it says so.
pub(super) fn position_header(pos: &BTreeMap<String, Position>) -> Option<HeaderValue> {
    let json = serde_json::to_vec(pos).ok()?;
    let value = HeaderValue::from_bytes(&json).ok()?;
    (!pos.is_empty()).then_some(value)
}

/// What stands around the items.
type Frame<'a> = (&'a Option<String>, &'a BTreeMap<String, Position>);

fn written(
    ticks: &Ticks,
    kinds: &[Kind],
    format: Format,
    (next, pos): Frame<'_>,
) -> Result<Vec<u8>, String> {
    let said = |error: schemas::codec::CodecError| error.to_string();
    match format {
        Format::Json => {
            let mut page = PageWriter::new();
            each(ticks, |seq, payload| page.push(seq, payload));
            page.finish(next.clone(), pos.clone()).map_err(said)
        }
        Format::MessagePack => {
            let mut page = PackWriter::new();
            each(ticks, |seq, payload| page.push(seq, payload));
            page.finish(next.as_deref(), pos).map_err(said)
        }
        Format::Ndjson => {
            let mut lines = Vec::with_capacity(ticks.bytes.len() * 2);
            each(ticks, |seq, payload| write_line(&mut lines, seq, payload));
            Ok(lines)
        }
        Format::Csv => {
            let (table, mut lines) = (Table::new(kinds), Vec::new());
            table.write_header(&mut lines);
            each(ticks, |seq, payload| {
                table.write_row(&mut lines, seq, payload)
            });
            Ok(lines)
        }
    }
}

fn each<E: std::fmt::Display>(
    ticks: &Ticks,
    mut write: impl FnMut(StreamSeq, &[u8]) -> Result<(), E>,
) {
    for (seq, payload) in ticks.iter() {
        if let Err(problem) = write(seq, payload) {
            error!(%problem, seq = seq.get(), "a stored tick is damaged");
        }
    }
}

/// Items of any type.
trait List {
    fn write(&self, format: Format, frame: Frame<'_>) -> Result<Vec<u8>, String>;
}

impl<T: Serialize + DeserializeOwned> List for Vec<T> {
    fn write(&self, format: Format, (next, pos): Frame<'_>) -> Result<Vec<u8>, String> {
        let page = || Page {
            items: self.iter().collect(),
            next: next.clone(),
            pos: pos.clone(),
        };
        match format {
            Format::Json => serde_json::to_vec(&page()).map_err(|error| error.to_string()),
            Format::MessagePack => {
                rmp_serde::to_vec_named(&page()).map_err(|error| error.to_string())
            }
            Format::Ndjson => {
                let mut lines = Vec::new();
                for item in self {
                    serde_json::to_writer(&mut lines, item).map_err(|error| error.to_string())?;
                    lines.push(b'\n');
                }
                Ok(lines)
            }
            Format::Csv => csv::write(self).map_err(|error| error.to_string()),
        }
    }
}

/// An answer as it goes out, to as many as ask for it.
#[derive(Clone, Debug)]
pub(super) struct Written {
    body: Bytes,
    tag: HeaderValue,
    /// Where the next page begins, if the body does not say so.
    next: Option<String>,
    /// How far the answer reaches, if the body does not say so.
    pos: Option<HeaderValue>,
    /// Whether it only changes any more by what comes late.
    pub(super) is_closed: bool,
}

impl Written {
    /// How large it is, in bytes.
    pub(super) fn size(&self) -> usize {
        self.body.len()
    }

    /// The answer to a request for `uri` with these headers; whoever has it already is told so.
    pub(super) fn respond(&self, form: Form, uri: &Uri, headers: &HeaderMap) -> Response {
        let mut response = if tag::is_known(headers, &self.tag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            let mut response = self.body.clone().into_response();
            let media_type = HeaderValue::from_static(form.media_type);
            response.headers_mut().insert(CONTENT_TYPE, media_type);
            response
        };
        let fields = response.headers_mut();
        fields.insert(ETAG, self.tag.clone());
        fields.insert(CACHE_CONTROL, if self.is_closed { CLOSED } else { OPEN });
        frame(fields, uri, self.next.as_deref(), self.pos.clone());
        response
    }
}

/// Sets what a list says around its items where its form has no place for it.
pub(super) fn frame(
    fields: &mut HeaderMap,
    uri: &Uri,
    next: Option<&str>,
    pos: Option<HeaderValue>,
) {
    fields.insert(VARY, VARIES);
    if let Some(link) = next.and_then(|next| link(uri, next)) {
        fields.insert(LINK, link);
    }
    if let Some(pos) = pos {
        fields.insert(POS, pos);
    }
}

/// The address of the next page, relative to that of this one: a proxy may have put it elsewhere.
fn link(uri: &Uri, next: &str) -> Option<HeaderValue> {
    let query = uri.query().unwrap_or_default();
    let kept = query
        .split('&')
        .filter(|pair| !pair.is_empty() && pair.split('=').next() != Some("cursor"));
    let cursor = percent_encoding::utf8_percent_encode(next, percent_encoding::NON_ALPHANUMERIC);
    let cursor = format!("cursor={cursor}");
    let pairs: Vec<&str> = kept.chain([cursor.as_str()]).collect();
    HeaderValue::from_str(&format!("<?{}>; rel=\"next\"", pairs.join("&"))).ok()
}

#[cfg(test)]
mod tests;
