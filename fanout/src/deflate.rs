//! RFC 7692, permessage-deflate without context takeover, without I/O.
//!
//! A live message is compressed once for everybody: with a fresh window, and up to a byte boundary.
//! Such pieces stand behind one another in any order, so the message of a connection is made of them
//! as it is made of the same ticks uncompressed. What is a connection's own is compressed for it alone.

use std::sync::Arc;

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use schemas::ws::Encoding;

use crate::frame::Violation;
use crate::store::Live;

/// How far back, as a power of two, what we compress refers to. A client may ask for no less.
pub(crate) const WINDOW: u8 = 12;
/// What a flush up to a byte boundary ends in, and what is left out at the end of a message.
const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];
/// A last, empty block: who inflates it has seen the end of the block before.
const LAST: [u8; 5] = [0x01, 0x00, 0x00, 0xFF, 0xFF];
/// How many blocks of one message may claim to be the last one.
const MOST_ENDS: usize = 16;
/// For what is shared: the lowest that makes codes of its own; higher ones save a byte or two more.
const SHARED: u32 = 2;
/// For what is a connection's own: the cheapest.
const OWN: u32 = 1;
/// Shorter than this is not worth compressing.
const SHORT: usize = 32;
/// The first room for what is inflated.
const ROOM: usize = 512;

/// How long the compressed form of a message of `limit` bytes may be: whoever never looks back and
/// never stores needs nine bits for some bytes.
pub(crate) const fn most_deflated(limit: usize) -> usize {
    limit + limit / 8 + 64
}

/// Inflates one message after another.
pub(crate) struct Inflater(Decompress);

impl Inflater {
    pub(crate) fn new() -> Self {
        Self(Decompress::new(false))
    }

    /// The message that was compressed, if it has at most `limit` bytes; never more are made of it.
    ///
    /// # Errors
    ///
    /// It is not whole blocks of DEFLATE, or longer than the limit.
    pub(crate) fn inflate(
        &mut self,
        mut deflated: Vec<u8>,
        limit: usize,
    ) -> Result<Vec<u8>, Violation> {
        deflated.extend_from_slice(&TAIL);
        deflated.extend_from_slice(&LAST);
        self.0.reset(false);
        let mut rest = deflated.as_slice();
        let mut plain = Vec::new();
        let mut ends = 0;
        loop {
            if plain.len() == plain.capacity() {
                let room = (plain.len() * 2).max(ROOM).min(limit + 1);
                plain.reserve_exact(room.saturating_sub(plain.len()));
            }
            let before = (self.0.total_in(), plain.len());
            let status = self
                .0
                .decompress_vec(rest, &mut plain, FlushDecompress::Sync)
                .map_err(|_| Violation::Deflate)?;
            let taken = usize::try_from(self.0.total_in() - before.0).unwrap_or(usize::MAX);
            rest = rest.get(taken..).unwrap_or_default();
            if plain.len() > limit {
                return Err(Violation::TooLong(limit));
            }
            match status {
                Status::StreamEnd if rest.is_empty() => return Ok(plain),
                Status::StreamEnd if ends < MOST_ENDS => {
                    ends += 1;
                    self.0.reset(false);
                }
                Status::Ok | Status::BufError if taken > 0 || plain.len() > before.1 => {}
                Status::Ok | Status::BufError | Status::StreamEnd => {
                    return Err(Violation::Deflate);
                }
            }
        }
    }
}

/// Where a tick stands in its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is the whole message.
    Alone,
    First,
    Later,
}

/// What stands before and behind a tick at its place.
const fn around(encoding: Encoding, place: Place) -> (&'static [u8], &'static [u8]) {
    match (encoding, place) {
        (Encoding::Json, Place::Alone) => (b"[", b"]"),
        (Encoding::Json, Place::First) => (b"[", b""),
        (Encoding::Json, Place::Later) => (b",", b""),
        (Encoding::MessagePack, Place::Alone) => (&[0xDD, 0, 0, 0, 1], b""),
        // How many there are is not known yet.
        (Encoding::MessagePack, Place::First | Place::Later) => (b"", b""),
    }
}

/// Where a shared message lies in the bytes of a connection's message.
#[derive(Debug)]
pub(crate) struct Mark {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) live: Arc<Live>,
}

/// Compresses; one for all connections of a shard.
pub(crate) struct Deflater {
    shared: Squeezer,
    own: Squeezer,
    /// The end of a list in JSON.
    close: Vec<u8>,
    /// The message that was compressed last.
    message: Vec<u8>,
    /// How often something was compressed here for everybody.
    pub(crate) count: u64,
}

/// Makes pieces that stand by themselves.
struct Squeezer(Compress);

impl Squeezer {
    fn new(level: u32) -> Self {
        let level = Compression::new(level);
        Self(Compress::new_with_window_bits(level, false, WINDOW))
    }

    /// Appends `parts` as one piece that ends at a byte boundary, without its [`TAIL`].
    fn squeeze(&mut self, parts: &[&[u8]], out: &mut Vec<u8>) {
        self.0.reset();
        let total: usize = parts.iter().map(|part| part.len()).sum();
        out.reserve(total + SHORT);
        for part in parts {
            self.push(part, FlushCompress::None, out);
        }
        self.push(&[], FlushCompress::Sync, out);
        out.truncate(out.len().saturating_sub(TAIL.len()));
    }

    fn push(&mut self, mut part: &[u8], flush: FlushCompress, out: &mut Vec<u8>) {
        loop {
            let before = self.0.total_in();
            let done = self.0.compress_vec(part, out, flush);
            let taken = usize::try_from(self.0.total_in() - before).unwrap_or(usize::MAX);
            part = part.get(taken..).unwrap_or_default();
            // The only error is a misuse of flushes.
            if done.is_err() || (part.is_empty() && out.len() < out.capacity()) {
                return;
            }
            out.reserve(SHORT);
        }
    }
}

impl Deflater {
    pub(crate) fn new() -> Self {
        let (shared, mut own) = (Squeezer::new(SHARED), Squeezer::new(OWN));
        let mut close = Vec::new();
        own.squeeze(&[b"]"], &mut close);
        Self {
            shared,
            own,
            close,
            message: Vec::new(),
            count: 0,
        }
    }

    /// A tick compressed for everybody, at its place.
    pub(crate) fn piece(&mut self, encoding: Encoding, place: Place, tick: &[u8]) -> Bytes {
        let (before, behind) = around(encoding, place);
        let mut out = Vec::new();
        self.shared.squeeze(&[before, tick, behind], &mut out);
        self.count += 1;
        out.into()
    }

    /// Compresses a message that begins at `start` in `bytes`, both brackets included; `marks` say
    /// what in it is shared, in order.
    pub(crate) fn message(
        &mut self,
        encoding: Encoding,
        (bytes, start): (&[u8], usize),
        marks: &[Mark],
    ) -> &[u8] {
        let mut out = std::mem::take(&mut self.message);
        out.clear();
        self.assemble(encoding, (bytes, start), marks, &mut out);
        self.message = out;
        &self.message
    }

    fn assemble(
        &mut self,
        encoding: Encoding,
        (bytes, start): (&[u8], usize),
        marks: &[Mark],
        out: &mut Vec<u8>,
    ) {
        let opening = around(encoding, Place::Alone).0.len();
        let closing = around(encoding, Place::Alone).1.len();
        if let [mark] = marks
            && mark.from == start + opening
            && mark.to + closing == bytes.len()
        {
            out.extend_from_slice(mark.live.piece(encoding, Place::Alone, self));
            return;
        }
        let mut at = start;
        for mark in marks {
            // The first tick of a list in JSON brings its bracket along; every other its comma.
            let place = if encoding == Encoding::Json && mark.from == start + opening {
                Place::First
            } else {
                Place::Later
            };
            let from = mark.from - around(encoding, place).0.len();
            self.push_own(bytes.get(at..from).unwrap_or_default(), out);
            out.extend_from_slice(mark.live.piece(encoding, place, self));
            out.extend_from_slice(&TAIL);
            at = mark.to;
        }
        match bytes.get(at..).unwrap_or_default() {
            b"]" => out.extend_from_slice(&self.close),
            b"" => out.truncate(out.len().saturating_sub(TAIL.len())),
            rest => self.own.squeeze(&[rest], out),
        }
    }

    /// Appends what is a connection's own as a piece.
    fn push_own(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        match u16::try_from(bytes.len()) {
            Ok(0) => {}
            Ok(length) if bytes.len() < SHORT => {
                out.push(0x00);
                out.extend_from_slice(&length.to_le_bytes());
                out.extend_from_slice(&(!length).to_le_bytes());
                out.extend_from_slice(bytes);
            }
            _ => {
                self.own.squeeze(&[bytes], out);
                out.extend_from_slice(&TAIL);
            }
        }
    }
}

#[cfg(test)]
mod tests;
