//! RFC 6455 as a server speaks it, without I/O: bytes in, messages out, and frame headers.
//!
//! Extensions are not negotiated here, so every reserved bit is a violation.

use data_encoding::BASE64;
use sha1::{Digest, Sha1};

/// The constant of RFC 6455 §1.3 that proves a server understood the handshake.
const ACCEPT_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// RFC 6455 §5.5: control frames carry at most this many bytes.
const MAX_CONTROL: usize = 125;

/// `Sec-WebSocket-Accept` for a client's `Sec-WebSocket-Key`.
pub(crate) fn accept_key(key: &str) -> String {
    let digest = Sha1::new()
        .chain_update(key)
        .chain_update(ACCEPT_GUID)
        .finalize();
    BASE64.encode(&digest)
}

/// Frame types that a server writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xA,
}

/// One whole message or control frame from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// A text message: valid UTF-8.
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// The close code, if the client gave one, and its reason.
    Close(Option<u16>, String),
}

/// How a client broke the protocol. The connection must be closed with [`Violation::close_code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error("reserved bits are set, but no extension was negotiated")]
    ReservedBits,
    #[error("opcode {0} is reserved")]
    Opcode(u8),
    #[error("client frames must be masked")]
    Unmasked,
    #[error("a control frame must be whole and at most {MAX_CONTROL} bytes long")]
    Control,
    #[error("a payload length must be written in as few bytes as possible")]
    Length,
    #[error("a continuation frame without a message to continue")]
    Continuation,
    #[error("a new message before the last fragment of the one before")]
    Interleaved,
    #[error("close code {0} must not be sent")]
    CloseCode(u16),
    #[error("a close frame must be empty or begin with a two-byte code")]
    CloseLength,
    #[error("text that is not UTF-8")]
    Utf8,
    #[error("a message longer than the limit of {0} bytes")]
    TooLong(usize),
}

impl Violation {
    /// The close code of RFC 6455 §7.4.1 that tells the client.
    pub(crate) const fn close_code(self) -> u16 {
        match self {
            Self::ReservedBits
            | Self::Opcode(_)
            | Self::Unmasked
            | Self::Control
            | Self::Length
            | Self::Continuation
            | Self::Interleaved
            | Self::CloseCode(_)
            | Self::CloseLength => 1002,
            Self::Utf8 => 1007,
            Self::TooLong(_) => 1009,
        }
    }
}

#[derive(Clone, Copy)]
struct Header {
    fin: bool,
    opcode: u8,
    mask: [u8; 4],
    /// Bytes before the payload.
    size: usize,
    payload: usize,
}

/// A message of which more fragments are to come.
struct Partial {
    is_text: bool,
    bytes: Vec<u8>,
    /// Everything before this is known to be UTF-8.
    checked: usize,
}

/// Turns a client's bytes into messages. Holds no memory while there is nothing to assemble.
pub(crate) struct Decoder {
    buffer: Vec<u8>,
    start: usize,
    partial: Option<Partial>,
    limit: usize,
}

impl Decoder {
    /// A decoder that refuses messages of more than `limit` bytes.
    pub(crate) const fn new(limit: usize) -> Self {
        Self {
            buffer: Vec::new(),
            start: 0,
            partial: None,
            limit,
        }
    }

    /// Adds bytes as they came from the socket.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes the next whole message; `None` until more bytes are fed.
    ///
    /// # Errors
    ///
    /// [`Violation`]; nothing after it can be understood.
    pub(crate) fn next(&mut self) -> Result<Option<Incoming>, Violation> {
        while let Some((header, payload)) = self.frame()? {
            let done = match header.opcode {
                0x8 => Some(close(&payload)?),
                0x9 => Some(Incoming::Ping(payload)),
                0xA => Some(Incoming::Pong(payload)),
                _ => self.assemble(header, payload)?,
            };
            if done.is_some() {
                return Ok(done);
            }
        }
        Ok(None)
    }

    fn frame(&mut self) -> Result<Option<(Header, Vec<u8>)>, Violation> {
        let unread = self.buffer.get(self.start..).unwrap_or_default();
        let Some(header) = parse_header(unread)? else {
            self.release();
            return Ok(None);
        };
        self.check(header)?;
        let Some(payload) = unread.get(header.size..header.size + header.payload) else {
            return Ok(None);
        };
        let mut payload = payload.to_vec();
        for (byte, mask) in payload.iter_mut().zip(header.mask.iter().cycle()) {
            *byte ^= mask;
        }
        self.start += header.size + header.payload;
        self.release();
        Ok(Some((header, payload)))
    }

    fn release(&mut self) {
        if self.start == self.buffer.len() {
            self.buffer = Vec::new();
            self.start = 0;
        }
    }

    fn check(&self, header: Header) -> Result<(), Violation> {
        match (header.opcode, &self.partial) {
            (0x8..=0xA, _) => {
                if !header.fin || header.payload > MAX_CONTROL {
                    return Err(Violation::Control);
                }
            }
            (0x0, None) => return Err(Violation::Continuation),
            (0x1 | 0x2, Some(_)) => return Err(Violation::Interleaved),
            (0x0..=0x2, partial) => {
                let held = partial.as_ref().map_or(0, |partial| partial.bytes.len());
                if header.payload > self.limit.saturating_sub(held) {
                    return Err(Violation::TooLong(self.limit));
                }
            }
            (reserved, _) => return Err(Violation::Opcode(reserved)),
        }
        Ok(())
    }

    fn assemble(
        &mut self,
        header: Header,
        payload: Vec<u8>,
    ) -> Result<Option<Incoming>, Violation> {
        let mut message = match self.partial.take() {
            None => Partial {
                is_text: header.opcode == 0x1,
                bytes: payload,
                checked: 0,
            },
            Some(mut partial) => {
                partial.bytes.extend_from_slice(&payload);
                partial
            }
        };
        if message.is_text {
            message.check_utf8(header.fin)?;
        }
        if !header.fin {
            self.partial = Some(message);
            return Ok(None);
        }
        Ok(Some(if message.is_text {
            Incoming::Text(message.bytes)
        } else {
            Incoming::Binary(message.bytes)
        }))
    }
}

impl Partial {
    fn check_utf8(&mut self, complete: bool) -> Result<(), Violation> {
        let unchecked = self.bytes.get(self.checked..).unwrap_or_default();
        match std::str::from_utf8(unchecked) {
            Ok(_) => self.checked = self.bytes.len(),
            Err(error) if error.error_len().is_some() || complete => return Err(Violation::Utf8),
            Err(error) => self.checked += error.valid_up_to(),
        }
        Ok(())
    }
}

fn parse_header(bytes: &[u8]) -> Result<Option<Header>, Violation> {
    let &[first, second, ref rest @ ..] = bytes else {
        return Ok(None);
    };
    if first & 0x70 != 0 {
        return Err(Violation::ReservedBits);
    }
    let opcode = first & 0x0F;
    if !matches!(opcode, 0x0..=0x2 | 0x8..=0xA) {
        return Err(Violation::Opcode(opcode));
    }
    if second & 0x80 == 0 {
        return Err(Violation::Unmasked);
    }
    let (extra, payload) = match second & 0x7F {
        126 => {
            let Some(length) = rest.first_chunk::<2>() else {
                return Ok(None);
            };
            (2, u64::from(u16::from_be_bytes(*length)))
        }
        127 => {
            let Some(length) = rest.first_chunk::<8>() else {
                return Ok(None);
            };
            (8, u64::from_be_bytes(*length))
        }
        short => (0, u64::from(short)),
    };
    let shortest = match extra {
        0 => 0,
        2 => 126,
        _ => 1 << 16,
    };
    if payload < shortest || payload >> 63 != 0 {
        return Err(Violation::Length);
    }
    let Some(&mask) = rest.get(extra..).and_then(<[u8]>::first_chunk::<4>) else {
        return Ok(None);
    };
    let payload = usize::try_from(payload).unwrap_or(usize::MAX >> 1);
    Ok(Some(Header {
        fin: first & 0x80 != 0,
        opcode,
        mask,
        size: 6 + extra,
        payload,
    }))
}

fn close(payload: &[u8]) -> Result<Incoming, Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() {
            Ok(Incoming::Close(None, String::new()))
        } else {
            Err(Violation::CloseLength)
        };
    };
    let code = u16::from_be_bytes(*code);
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::CloseCode(code));
    }
    let reason = std::str::from_utf8(reason).map_err(|_| Violation::Utf8)?;
    Ok(Incoming::Close(Some(code), reason.to_owned()))
}

/// Appends the header of a whole, unmasked frame with a payload of `len` bytes.
pub(crate) fn push_header(out: &mut Vec<u8>, opcode: Opcode, len: usize) {
    let (header, size) = header(opcode, len);
    out.extend_from_slice(header.get(..size).unwrap_or_default());
}

/// The header of a whole, unmasked frame with a payload of `len` bytes, and the header's length.
pub(crate) fn header(opcode: Opcode, len: usize) -> ([u8; 10], usize) {
    let mut bytes = [0; 10];
    let [first, second, length @ ..] = &mut bytes;
    *first = 0x80 | opcode as u8;
    if let Ok(short @ 0..=125) = u8::try_from(len) {
        *second = short;
        (bytes, 2)
    } else if let Ok(medium) = u16::try_from(len) {
        *second = 126;
        if let Some(length) = length.first_chunk_mut() {
            *length = medium.to_be_bytes();
        }
        (bytes, 4)
    } else {
        *second = 127;
        *length = (len as u64).to_be_bytes();
        (bytes, 10)
    }
}

/// Appends a close frame; the reason is cut to what a control frame can hold.
pub(crate) fn push_close(out: &mut Vec<u8>, code: u16, reason: &str) {
    let cut = reason.floor_char_boundary(MAX_CONTROL - 2);
    let reason = reason.get(..cut).unwrap_or_default();
    push_header(out, Opcode::Close, 2 + reason.len());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

#[cfg(test)]
mod tests;
