//! What a connection writes at once: control frames, and one message with everything pending.

use std::time::Instant;

use schemas::ws::Encoding;

use super::{Connection, Wire};
use crate::deflate::Mark;
use crate::frame::{Opcode, header};
use crate::shard::Shard;
use crate::sse;

/// Bytes per write.
pub(crate) const ROOM: usize = 64 * 1024;
/// The longest frame header, and the longest array header of MessagePack.
const HEADROOM: usize = 10;

/// Puts everything pending into a buffer, as the wire wants it; where it starts.
pub(super) fn put_together(
    shard: &Shard,
    connection: &Connection,
    buffer: &mut Vec<u8>,
    now: Instant,
) -> usize {
    match &connection.wire {
        Wire::WebSocket => assemble(shard, connection, buffer, now),
        Wire::Events(events) => {
            sse::assemble(shard, connection, events, buffer, now);
            0
        }
    }
}

/// Puts control frames and one message with everything pending into a buffer; where it starts.
fn assemble(shard: &Shard, connection: &Connection, buffer: &mut Vec<u8>, now: Instant) -> usize {
    buffer.clear();
    let control = std::mem::take(&mut *connection.control.borrow_mut());
    let mut session = connection.session.borrow_mut();
    let json = session.encoding() == Encoding::Json;
    let open = if json { 1 } else { 5 };
    let reserve = control.len() + HEADROOM + open;
    buffer.resize(reserve, 0);
    let clock = shard.shared.clock.now();
    // Whoever is being closed is promised nothing more.
    if connection.is_open() {
        shard.tell_applied(&mut session);
    }
    let mut marks = connection.deflate.then(Vec::new);
    let out = (&mut *buffer, marks.as_mut());
    let count = match session.fill(&shard.shared.stores, ROOM, now, clock, out) {
        Ok(count) => count,
        Err(code) => {
            connection.end(code);
            buffer.truncate(reserve);
            0
        }
    };
    shard.written.messages(count);
    if count == 0 {
        buffer.clear();
        buffer.extend_from_slice(&control);
        return 0;
    }
    let opening = buffer.get_mut(reserve - open..reserve).unwrap_or_default();
    if json {
        opening.fill(b'[');
        buffer.push(b']');
    } else if let Some((tag, length)) = opening.split_first_mut() {
        *tag = 0xDD;
        length.copy_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
    }
    let encoding = session.encoding();
    let deflated =
        marks.is_some_and(|marks| deflate(shard, encoding, (buffer, reserve - open), &marks));
    let payload = buffer.len() - (reserve - open);
    let opcode = if json { Opcode::Text } else { Opcode::Binary };
    let (head, size) = header(opcode, deflated, payload);
    let start = reserve - open - size - control.len();
    let front = control.iter().chain(head.iter().take(size));
    for (place, byte) in buffer.iter_mut().skip(start).zip(front) {
        *place = *byte;
    }
    start
}

/// Puts the compressed form of the message that begins at `start` in its place, if it is shorter.
fn deflate(
    shard: &Shard,
    encoding: Encoding,
    (buffer, start): (&mut Vec<u8>, usize),
    marks: &[Mark],
) -> bool {
    let metrics = &shard.shared.metrics;
    let mut deflater = shard.deflater.borrow_mut();
    let before = deflater.count;
    let deflated = deflater.message(encoding, (buffer, start), marks);
    let plain = buffer.len() - start;
    let pays = deflated.len() < plain;
    if pays {
        let count = |bytes: usize| u64::try_from(bytes).unwrap_or(0);
        metrics.deflate_in_bytes.inc_by(count(plain));
        metrics.deflate_out_bytes.inc_by(count(deflated.len()));
        buffer.truncate(start);
        buffer.extend_from_slice(deflated);
    }
    metrics.compressed.inc_by(deflater.count - before);
    pays
}
