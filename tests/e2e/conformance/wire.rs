//! Frames as bytes: what a client of RFC 6455 and RFC 7692 sends, rightly or wrongly, and receives.

use anyhow::{Context, Result, bail, ensure};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use schemas::ws::Encoding;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// First bytes of frames.
pub(super) const FIN: u8 = 0x80;
pub(super) const RSV1: u8 = 0x40;
pub(super) const CONTINUATION: u8 = 0x0;
pub(super) const TEXT: u8 = 0x1;
pub(super) const BINARY: u8 = 0x2;
pub(super) const CLOSE: u8 = 0x8;
pub(super) const PING: u8 = 0x9;
pub(super) const PONG: u8 = 0xA;

const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

/// A masked frame.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    masked(first, [0x37, 0xFA, 0x21, 0x3D], payload)
}

/// A frame with this mask.
pub(super) fn masked(first: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, payload.len());
    bytes.extend(mask);
    let mask = mask.iter().cycle();
    bytes.extend(payload.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A frame's header up to its mask, with the mask's bit.
pub(super) fn header(first: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![first];
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length @ 0..=125), _) => bytes.push(0x80 | length),
        (_, Ok(length)) => {
            bytes.push(0xFE);
            bytes.extend(length.to_be_bytes());
        }
        _ => {
            bytes.push(0xFF);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes
}

/// A message in fragments.
pub(super) fn fragments(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let last = parts.len() - 1;
    let frames = parts.iter().enumerate().map(|(index, part)| {
        let begin = if index == 0 { first } else { CONTINUATION };
        frame(begin | if index == last { FIN } else { 0 }, part)
    });
    frames.collect::<Vec<_>>().concat()
}

/// What permessage-deflate makes of a message.
pub(super) fn deflate(level: u32, plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(plain.len() * 9 / 8 + 100);
    let mut compress = Compress::new(Compression::new(level), false);
    let done = compress.compress_vec(plain, &mut out, FlushCompress::Sync);
    assert!(done.is_ok(), "{done:?}");
    assert_eq!(out.split_off(out.len() - 4), TAIL);
    out
}

fn inflate(deflated: &[u8]) -> Result<Vec<u8>> {
    let input = [deflated, &TAIL, &[1, 0, 0, 0xFF, 0xFF]].concat();
    let mut out = Vec::with_capacity(1 << 20);
    let status = Decompress::new(false).decompress_vec(&input, &mut out, FlushDecompress::Sync)?;
    ensure!(
        status == Status::StreamEnd,
        "the message is not whole blocks"
    );
    Ok(out)
}

/// Something that the server did which a table speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The answer to the op `ping` with this id.
    Answer(u64),
    /// Another message: its `t`.
    Said(String),
    Pong(Vec<u8>),
    Close(u16),
    /// TCP ended.
    End,
}

/// The reading side of a connection.
pub(super) struct Reader {
    half: OwnedReadHalf,
    buffer: Vec<u8>,
    encoding: Encoding,
    deflate: bool,
    /// Messages that came compressed.
    pub(super) deflated: usize,
    events: std::collections::VecDeque<Event>,
}

/// Connects: the reading and the writing side, and the head of the answer. `early` goes out with the
/// handshake.
pub(super) async fn connect(
    url: &str,
    encoding: Encoding,
    fields: &str,
    early: &[u8],
) -> Result<(Reader, OwnedWriteHalf, String)> {
    let rest = url.strip_prefix("ws://").context("a WebSocket address")?;
    let (host, path) = rest.split_once('/').context("a path")?;
    let stream = TcpStream::connect(host).await?;
    stream.set_nodelay(true)?;
    let (half, mut write) = stream.into_split();
    let request = format!(
        "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: {}\r\n{fields}\r\n",
        encoding.subprotocol()
    );
    write
        .write_all(&[request.as_bytes(), early].concat())
        .await?;
    let mut reader = Reader {
        half,
        buffer: Vec::new(),
        encoding,
        deflate: false,
        deflated: 0,
        events: std::collections::VecDeque::new(),
    };
    let end = loop {
        if let Some(at) = reader.buffer.windows(4).position(|end| end == b"\r\n\r\n") {
            break at + 4;
        }
        ensure!(reader.receive().await? > 0, "the handshake was cut");
    };
    let head: Vec<u8> = reader.buffer.drain(..end).collect();
    let head = String::from_utf8(head)?;
    reader.deflate = head.contains("permessage-deflate");
    Ok((reader, write, head))
}

impl Reader {
    async fn receive(&mut self) -> Result<usize> {
        self.buffer.reserve(16 * 1024);
        Ok(self.half.read_buf(&mut self.buffer).await?)
    }

    /// Waits for the next event.
    pub(super) async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let Some((first, payload)) = self.take_frame()? else {
                if self.receive().await? > 0 {
                    continue;
                }
                ensure!(
                    self.buffer.is_empty(),
                    "the connection ended within a frame"
                );
                return Ok(Event::End);
            };
            match first & 0x0F {
                PING => ensure!(payload.is_empty(), "a ping with a payload"),
                PONG => return Ok(Event::Pong(payload)),
                CLOSE => {
                    let code = payload.first_chunk().context("a close code")?;
                    std::str::from_utf8(&payload[2..])?;
                    return Ok(Event::Close(u16::from_be_bytes(*code)));
                }
                opcode => self.message(opcode, first & RSV1 != 0, payload)?,
            }
        }
    }

    fn take_frame(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        let &[first, second, ..] = self.buffer.as_slice() else {
            return Ok(None);
        };
        let (size, length) = match second {
            0..=125 => (2, usize::from(second)),
            126 => match self.buffer.get(2..4) {
                Some(bytes) => (4, usize::from(u16::from_be_bytes(bytes.try_into()?))),
                None => return Ok(None),
            },
            127 => match self.buffer.get(2..10) {
                Some(bytes) => (10, usize::try_from(u64::from_be_bytes(bytes.try_into()?))?),
                None => return Ok(None),
            },
            _ => bail!("a server's frame is masked"),
        };
        ensure!(
            first & 0xB0 == FIN,
            "a fragment, or a reserved bit: {first:02x}"
        );
        let is_control = first & 0x08 != 0;
        ensure!(
            !is_control || (first & RSV1 == 0 && length <= 125),
            "a bad control frame"
        );
        ensure!(
            size == header(0, length).len(),
            "a length is not as short as possible"
        );
        if self.buffer.len() < size + length {
            return Ok(None);
        }
        let frame: Vec<u8> = self.buffer.drain(..size + length).collect();
        Ok(Some((first, frame[size..].to_vec())))
    }

    fn message(&mut self, opcode: u8, is_deflated: bool, payload: Vec<u8>) -> Result<()> {
        ensure!(
            self.deflate || !is_deflated,
            "compressed, but not negotiated"
        );
        let payload = if is_deflated {
            self.deflated += 1;
            inflate(&payload)?
        } else {
            payload
        };
        let messages: Vec<Value> = match (opcode, self.encoding) {
            (TEXT, Encoding::Json) => serde_json::from_slice(&payload)?,
            (BINARY, Encoding::MessagePack) => rmp_serde::from_slice(&payload)?,
            _ => bail!("opcode {opcode} is not of the subprotocol"),
        };
        for message in messages {
            match message["t"].as_str().context("a type")? {
                "welcome" | "hb" => {}
                "pong" => {
                    let id = message["id"].as_u64().context("an id")?;
                    self.events.push_back(Event::Answer(id));
                }
                other => self.events.push_back(Event::Said(other.to_owned())),
            }
        }
        Ok(())
    }
}
