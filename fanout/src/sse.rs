//! Server-sent events: the same session as over WebSocket, for whoever can only read.
//!
//! An event holds the array that would be one WebSocket message. The id is what a client sends back
//! as `Last-Event-ID`: per stream the epoch and a cursor. It comes as an event of its own without
//! data, behind what it stands for: an event that was cut off leaves the id as it was.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write as _};
use std::sync::Arc;
use std::time::Instant;

use rand::RngExt as _;
use schemas::position::{Cursor, Epoch};
use schemas::ws::{CloseCode, From};

use crate::connection::{Connection, Ended, ROOM};
use crate::shard::Shard;
use crate::store::StreamNo;

/// The media type of events.
pub(crate) const MEDIA_TYPE: &str = "text/event-stream";
/// Milliseconds after which a client connects again: any of these, so that those of a replica that
/// died do not all come at once.
const RETRY: std::ops::RangeInclusive<u32> = 1_000..=3_000;
/// Bytes that a client may send although nobody listens.
const MAX_IGNORED: usize = 16 * 1024;
/// The longest id that is read, and the most streams in it.
const MAX_ID: usize = 2_048;
const MAX_STREAMS: usize = StreamNo::MAX;

/// What a connection of events remembers.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// The id that the client has.
    told: RefCell<Vec<(Epoch, Cursor)>>,
}

/// The head of the answer, and how soon to connect again. The body ends with the connection.
pub(crate) fn head(fields: &str) -> Vec<u8> {
    let retry = rand::rng().random_range(RETRY);
    format!(
        "HTTP/1.1 200 OK\r\n\
         content-type: {MEDIA_TYPE}\r\n\
         cache-control: no-store, no-transform\r\n\
         x-accel-buffering: no\r\n\
         connection: close\r\n\
         {fields}\r\n\
         retry: {retry}\n\n"
    )
    .into_bytes()
}

/// Waits until the client is gone; what it sends is not read.
pub(crate) async fn listen(shard: &Shard, connection: &Connection) -> Ended {
    let mut ignored = 0;
    loop {
        if connection.close.get().is_some() {
            // The writer says goodbye, and ends the connection when that is done.
            return std::future::pending().await;
        }
        let ready = connection.stream.readable().await;
        let mut scratch = shard.scratch.borrow_mut();
        match ready.and_then(|()| connection.stream.try_read(&mut scratch)) {
            Ok(0) => return Ended::Gone,
            Ok(count) => ignored += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return Ended::Gone,
        }
        if ignored > MAX_IGNORED {
            connection.end(CloseCode::TooBig);
        }
    }
}

/// Puts the head, one event with everything pending, and the id if it is safe, into a buffer.
pub(crate) fn assemble(
    shard: &Shard,
    connection: &Connection,
    events: &Events,
    buffer: &mut Vec<u8>,
    now: Instant,
) {
    buffer.clear();
    buffer.append(&mut connection.control.borrow_mut());
    let start = buffer.len();
    buffer.extend_from_slice(b"data: [");
    let clock = shard.shared.clock.now();
    let mut session = connection.session.borrow_mut();
    if connection.is_open() {
        shard.tell_applied(&mut session);
    }
    match session.fill(&shard.shared.stores, ROOM, now, clock, (buffer, None)) {
        Ok(0) => buffer.truncate(start),
        Ok(count) => {
            shard.written.messages(count);
            buffer.extend_from_slice(b"]\n\n");
        }
        Err(code) => {
            connection.end(code);
            buffer.truncate(start);
            return;
        }
    }
    let promise = session.promise();
    if let Some(promise) = promise.filter(|promise| *promise != *events.told.borrow()) {
        let named = shard.shared.stores.iter().zip(&promise);
        let named = named.map(|(store, place)| (Arc::clone(&store.read().stream), *place));
        push_id(buffer, named);
        events.told.replace(promise);
    }
}

/// Says why the connection ends; a client connects again by itself.
pub(crate) fn push_end(out: &mut Vec<u8>, code: u16, reason: &str) {
    let why = serde_json::json!({ "code": code, "reason": reason });
    push(out, format_args!("event: end\ndata: {why}\n\n"));
}

/// All that is said to a client for which there is no room now.
pub(crate) fn sorry(seconds: u32, why: &str) -> Vec<u8> {
    let spread = rand::rng().random_range(RETRY);
    let retry = seconds.saturating_mul(1_000).saturating_add(spread);
    let mut out = format!("retry: {retry}\n\n").into_bytes();
    push_end(&mut out, CloseCode::Overloaded.code(), why);
    out
}

fn push_id(out: &mut Vec<u8>, places: impl Iterator<Item = (Arc<str>, (Epoch, Cursor))>) {
    let parts = places.map(|(stream, (epoch, cursor))| format!("{stream}:{epoch}:{cursor}"));
    let parts: Vec<String> = parts.collect();
    push(out, format_args!("id: {}\n\n", parts.join(",")));
}

fn push(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing into a Vec cannot fail.
    let _infallible = out.write_fmt(text);
}

/// Reads an id that was sent back.
///
/// # Errors
///
/// It is none of ours.
pub(crate) fn parse_id(text: &str) -> Result<BTreeMap<String, From>, String> {
    let wrong = || "last-event-id is not the id of an event of this server".to_owned();
    let mut positions = BTreeMap::new();
    if text.len() > MAX_ID {
        return Err(format!("last-event-id is longer than {MAX_ID} bytes"));
    }
    for part in text.split(',') {
        let mut fields = part.rsplitn(3, ':');
        let cursor = fields.next().and_then(|cursor| cursor.parse().ok());
        let epoch = fields.next().and_then(|epoch| epoch.parse().ok());
        let stream = fields.next().filter(|stream| !stream.is_empty());
        let (Some(cursor), Some(e), Some(stream)) = (cursor, epoch, stream) else {
            return Err(wrong());
        };
        let from = From {
            e,
            c: Some(cursor),
            s: BTreeMap::new(),
        };
        if positions.insert(stream.to_owned(), from).is_some() || positions.len() > MAX_STREAMS {
            return Err(wrong());
        }
    }
    Ok(positions)
}

#[cfg(test)]
mod tests {
    use schemas::position::StreamSeq;
    use schemas::time::UnixNanos;

    use super::*;

    #[test]
    fn an_id_comes_back_as_the_positions_it_was_made_of() {
        let time = UnixNanos::new(1_767_000_000_123_456_789);
        let (epoch, cursor) = (Epoch::new(time, 3), Cursor::new(StreamSeq::new(7), time));
        for stream in ["TICKS", "a:b", "T-1"] {
            let mut out = Vec::new();
            let places = [stream, "OTHER"].map(|stream| (stream.into(), (epoch, cursor)));
            push_id(&mut out, places.into_iter());
            let text = String::from_utf8(out).unwrap();
            let id = text
                .strip_prefix("id: ")
                .and_then(|id| id.strip_suffix("\n\n"));
            let positions = parse_id(id.unwrap()).unwrap();
            assert_eq!(positions.len(), 2);
            let from = &positions[stream];
            assert_eq!((from.e, from.c, from.s.len()), (epoch, Some(cursor), 0));
        }
        let both = format!("A:{epoch}:{cursor},B:{epoch}:0");
        let positions = parse_id(&both).unwrap();
        assert_eq!(positions["B"].c, Some(Cursor::BEGINNING));
        assert_eq!(positions.len(), 2);
    }

    #[test]
    fn what_is_no_id_of_ours_is_refused() {
        let many = vec!["A:1-0:0"; 17].join(",");
        let long = format!("{}:1-0:0", "A".repeat(MAX_ID));
        let cases = [
            "",
            ",",
            "7",
            "A",
            "A:1-0",
            ":1-0:0",
            "A:1-0:",
            "A:1:0",
            "A:1-0:7",
            "A:1-0:-1",
            "A:1-0:7.zz",
            "A:1-0:07.00000000",
            "A:1-0:0,",
            "A:1-0:0,A:1-0:0",
            "A:1-0:0 ",
            "A:1-0:99999999999999999999.00000000",
            "A:fffffffffffffffff-0:0",
            &many,
            &long,
        ];
        for text in cases {
            let refusal = parse_id(text).unwrap_err();
            assert!(
                refusal.starts_with("last-event-id is "),
                "{text}: {refusal}"
            );
        }
    }

    #[test]
    fn the_end_is_an_event_of_its_own() {
        let mut out = Vec::new();
        push_end(&mut out, 4008, "client fell behind, resume");
        let expected =
            "event: end\ndata: {\"code\":4008,\"reason\":\"client fell behind, resume\"}\n\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
