//! RFC 6455 as a server speaks it, without I/O: bytes in, messages out, and frame headers.
//!
//! With permessage-deflate (RFC 7692) the first reserved bit says that a message is compressed; every
//! other reserved bit is a violation, and so is that one where it was not negotiated.

use data_encoding::BASE64;
use sha1::{Digest, Sha1};

use crate::deflate::{Inflater, most_deflated};

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
    #[error("a reserved bit is set that no negotiated extension gives a meaning here")]
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
    #[error("compressed data that cannot be inflated")]
    Deflate,
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
            Self::Utf8 | Self::Deflate => 1007,
            Self::TooLong(_) => 1009,
        }
    }
}

#[derive(Clone, Copy)]
struct Header {
    fin: bool,
    /// The first reserved bit, which says that a message is compressed.
    deflated: bool,
    opcode: u8,
    mask: [u8; 4],
    /// Bytes before the payload.
    size: usize,
    payload: usize,
}

impl Header {
    const fn is_control(self) -> bool {
        self.opcode >= 0x8
    }
}

/// A message of which more is to come.
struct Partial {
    is_text: bool,
    is_deflated: bool,
    bytes: Vec<u8>,
    /// Everything before this is known to be UTF-8.
    checked: usize,
}

/// A data frame of which more is to come.
struct Open {
    fin: bool,
    /// The mask, beginning with the byte for what comes next.
    mask: [u8; 4],
    left: usize,
}

/// Turns a client's bytes into messages. Holds no memory while there is nothing to assemble.
pub(crate) struct Decoder {
    buffer: Vec<u8>,
    start: usize,
    partial: Option<Partial>,
    open: Option<Open>,
    limit: usize,
    /// Whether permessage-deflate was negotiated.
    deflate: bool,
    /// Only control frames count any more.
    ignores_messages: bool,
}

impl Decoder {
    /// A decoder that refuses messages of more than `limit` bytes.
    pub(crate) const fn new(limit: usize, deflate: bool) -> Self {
        Self {
            buffer: Vec::new(),
            start: 0,
            partial: None,
            open: None,
            limit,
            deflate,
            ignores_messages: false,
        }
    }

    /// From here on, the content of messages is of no interest.
    pub(crate) const fn ignore_messages(&mut self) {
        self.ignores_messages = true;
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
    pub(crate) fn next(&mut self, inflater: &mut Inflater) -> Result<Option<Incoming>, Violation> {
        loop {
            if self.open.is_some() {
                match self.collect()? {
                    Collected::Everything(message) => return self.finish(message, inflater),
                    Collected::Fragment => {}
                    Collected::Pending => return Ok(None),
                }
            }
            let unread = self.buffer.get(self.start..).unwrap_or_default();
            let Some(header) = parse_header(unread, self.deflate)? else {
                self.release();
                return Ok(None);
            };
            self.check(header)?;
            if header.is_control() {
                return self.control(header);
            }
            self.start += header.size;
            self.partial.get_or_insert(Partial {
                is_text: header.opcode == 0x1,
                is_deflated: header.deflated,
                bytes: Vec::new(),
                checked: 0,
            });
            self.open = Some(Open {
                fin: header.fin,
                mask: header.mask,
                left: header.payload,
            });
        }
    }

    /// Takes what has arrived of the open frame.
    fn collect(&mut self) -> Result<Collected, Violation> {
        let unread = self.buffer.get(self.start..).unwrap_or_default();
        let (Some(open), Some(message)) = (&mut self.open, &mut self.partial) else {
            return Ok(Collected::Pending);
        };
        let taken = unread.len().min(open.left);
        let payload = unread.get(..taken).unwrap_or_default();
        let mask = open.mask.iter().cycle();
        let plain = payload.iter().zip(mask).map(|(byte, mask)| byte ^ mask);
        message.bytes.extend(plain);
        open.mask.rotate_left(taken % 4);
        open.left -= taken;
        self.start += taken;
        let is_whole = open.left == 0;
        let fin = is_whole && open.fin;
        if message.is_text && !message.is_deflated {
            // As early as possible: what is no UTF-8 by now does not become it.
            message.check_utf8(fin)?;
        }
        self.release();
        if !is_whole {
            return Ok(Collected::Pending);
        }
        self.open = None;
        Ok(match self.partial.take_if(|_| fin) {
            Some(message) => Collected::Everything(message),
            None => Collected::Fragment,
        })
    }

    fn finish(
        &self,
        mut message: Partial,
        inflater: &mut Inflater,
    ) -> Result<Option<Incoming>, Violation> {
        if message.is_deflated && !self.ignores_messages {
            message.bytes = inflater.inflate(message.bytes, self.limit)?;
            if message.is_text {
                message.check_utf8(true)?;
            }
        }
        Ok(Some(if message.is_text {
            Incoming::Text(message.bytes)
        } else {
            Incoming::Binary(message.bytes)
        }))
    }

    fn control(&mut self, header: Header) -> Result<Option<Incoming>, Violation> {
        let unread = self.buffer.get(self.start..).unwrap_or_default();
        let Some(payload) = unread.get(header.size..header.size + header.payload) else {
            return Ok(None);
        };
        let mask = header.mask.iter().cycle();
        let payload: Vec<u8> = payload.iter().zip(mask).map(|(b, m)| b ^ m).collect();
        self.start += header.size + header.payload;
        self.release();
        Ok(Some(match header.opcode {
            0x8 => close(&payload)?,
            0x9 => Incoming::Ping(payload),
            _ => Incoming::Pong(payload),
        }))
    }

    fn release(&mut self) {
        if self.start == self.buffer.len() {
            self.buffer = Vec::new();
            self.start = 0;
        }
    }

    fn check(&self, header: Header) -> Result<(), Violation> {
        if header.is_control() {
            if header.deflated {
                return Err(Violation::ReservedBits);
            }
            if !header.fin || header.payload > MAX_CONTROL {
                return Err(Violation::Control);
            }
            return Ok(());
        }
        let (held, is_deflated) = match (header.opcode, &self.partial) {
            (0x0, None) => return Err(Violation::Continuation),
            (0x0, Some(_)) if header.deflated => return Err(Violation::ReservedBits),
            (0x0, Some(partial)) => (partial.bytes.len(), partial.is_deflated),
            (_, Some(_)) => return Err(Violation::Interleaved),
            (_, None) => (0, header.deflated),
        };
        let limit = if is_deflated {
            most_deflated(self.limit)
        } else {
            self.limit
        };
        if header.payload > limit.saturating_sub(held) {
            return Err(Violation::TooLong(self.limit));
        }
        Ok(())
    }
}

/// What became of the bytes of a data frame.
enum Collected {
    /// The frame has not arrived whole.
    Pending,
    /// The message has further frames.
    Fragment,
    Everything(Partial),
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

fn parse_header(bytes: &[u8], deflate: bool) -> Result<Option<Header>, Violation> {
    let &[first, second, ref rest @ ..] = bytes else {
        return Ok(None);
    };
    let deflated = first & 0x40 != 0;
    if first & 0x30 != 0 || (deflated && !deflate) {
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
        deflated,
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
    let (header, size) = header(opcode, false, len);
    out.extend_from_slice(header.get(..size).unwrap_or_default());
}

/// The header of a whole, unmasked frame with a payload of `len` bytes, compressed or not, and the
/// header's length.
pub(crate) fn header(opcode: Opcode, deflated: bool, len: usize) -> ([u8; 10], usize) {
    let mut bytes = [0; 10];
    let [first, second, length @ ..] = &mut bytes;
    *first = 0x80 | u8::from(deflated) << 6 | opcode as u8;
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
