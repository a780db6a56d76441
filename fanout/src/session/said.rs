//! How it is said that something is missing, and where it may be had.

use schemas::id::Kind;
use schemas::position::StreamSeq;
use schemas::ws::{ErrorCode, GapReason, ServerMessage, Skipped};

use crate::store::{Known, Message};

/// What was left out of a topic before its latest message.
pub(super) fn skip(latest: &Message, count: Option<u64>) -> ServerMessage<()> {
    let item = Skipped(latest.topic.text.to_string(), latest.prev, count);
    ServerMessage::Skip {
        i: vec![item],
        x: latest.topic.id.stream().x(),
    }
}

/// What is missing of a topic or pattern behind `pos`, and where it may be had.
pub(super) fn gap(
    known: &Known,
    text: &str,
    (pos, to): (StreamSeq, StreamSeq),
    why: GapReason,
) -> ServerMessage<()> {
    let kind = text.split('.').next().and_then(|kind| kind.parse().ok());
    let is_recorded = !text.contains(['*', '>']) && kind.is_some_and(Kind::has_history);
    let fill = known.epoch.filter(|_| is_recorded).map(|epoch| {
        format!(
            "/v1/ticks?stream={}&topic={}&epoch={epoch}&after={pos}&until={to}",
            known.stream,
            percent(text)
        )
    });
    ServerMessage::Gap {
        c: text.to_owned(),
        from: pos.next(),
        to,
        why,
        fill: fill.unwrap_or_default(),
        x: known.number.x(),
    }
}

/// A topic as part of a query string.
fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(
                char::from_digit(u32::from(byte >> 4), 16)
                    .unwrap_or('0')
                    .to_ascii_uppercase(),
            );
            out.push(
                char::from_digit(u32::from(byte & 15), 16)
                    .unwrap_or('0')
                    .to_ascii_uppercase(),
            );
        }
    }
    out
}

/// An op that cannot be carried out.
pub(crate) fn refusal(
    id: Option<u64>,
    code: ErrorCode,
    message: impl Into<String>,
) -> ServerMessage<()> {
    ServerMessage::Err {
        id,
        code,
        message: message.into(),
        retry_after_ms: None,
    }
}
