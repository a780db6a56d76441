//! One connection of the measuring client: what it is waiting for, and what it says.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, Result, bail};
use memchr::memmem;
use schemas::time::UnixNanos;
use schemas::ws::Encoding;
use serde_json::{Value, json};

use super::frames::{self, Frame, masked};
use super::tally::Ledger;
use super::{Dialect, OPENING, nats};
use crate::bench::fanout::ticks;
use crate::bench::ground::STREAM;

/// Ended without a close frame.
const ABNORMAL: u16 = 1006;
/// Room that a read must have at least.
const LEAST_ROOM: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Closed,
    /// The connection is being made.
    Dialing,
    /// The server is asked to speak WebSocket.
    Upgrading,
    /// The subscription is sent.
    Asking,
    Live,
}

/// What a read gave.
pub(super) enum Read {
    Nothing,
    /// So many bytes of the buffer are filled, from its beginning.
    Bytes(usize),
    Ended,
}

/// One connection.
#[derive(Default)]
pub(super) struct Client {
    pub(super) stream: Option<TcpStream>,
    pub(super) phase: Phase,
    /// It does not read.
    pub(super) stalled: bool,
    /// Bytes of a frame that is not whole yet.
    partial: Vec<u8>,
    /// What came before of a message that is not whole yet.
    before: Vec<u8>,
    /// The code of the server's close frame.
    code: Option<u16>,
}

impl Client {
    /// Takes a connection that is being made.
    pub(super) fn begin(&mut self, stream: TcpStream) {
        *self = Self {
            stream: Some(stream),
            phase: Phase::Dialing,
            ..Self::default()
        };
    }

    pub(super) fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Drops the connection.
    pub(super) fn cut(&mut self) {
        *self = Self::default();
    }

    /// The connection has ended: its close code.
    pub(super) fn end(&mut self) -> u16 {
        let code = self.code.unwrap_or(ABNORMAL);
        self.cut();
        code
    }

    /// The connection stands, or failed: asks for WebSocket.
    pub(super) fn ask_upgrade(&mut self, address: &SocketAddr, dialect: Dialect) -> Result<()> {
        let stream = self.stream.as_ref().context("a connection")?;
        if let Some(error) = stream.take_error()? {
            return Err(error).context("a client cannot connect");
        }
        // Any key does: it proves that the server is none by accident, and this one is ours.
        let protocol = match dialect {
            Dialect::Tickwire(encoding) => {
                format!("Sec-WebSocket-Protocol: {}\r\n", encoding.subprotocol())
            }
            Dialect::Nats => String::new(),
        };
        let request = format!(
            "GET /v1/stream HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGlja3dpcmUtYmVuY2gtMQ==\r\n{protocol}\r\n"
        );
        self.say(request.as_bytes())?;
        self.phase = Phase::Upgrading;
        Ok(())
    }

    /// What is written here is little and seldom: it fits the socket's buffer, or something is wrong.
    fn say(&self, bytes: &[u8]) -> Result<()> {
        let mut stream = self.stream.as_ref().context("a connection")?;
        stream
            .write_all(bytes)
            .context("a client cannot write to the server")
    }

    fn tell(&self, opcode: u8, payload: &[u8]) -> Result<()> {
        self.say(&masked(opcode, payload))
    }

    /// Sends ops, as JSON.
    pub(super) fn ask(&self, ops: &str) -> Result<()> {
        self.tell(frames::TEXT, ops.as_bytes())
    }

    /// Reads once, behind what was left over.
    pub(super) fn read(&mut self, buffer: &mut Vec<u8>) -> Result<Read> {
        let Some(mut stream) = self.stream.as_ref() else {
            return Ok(Read::Nothing);
        };
        let held = self.partial.len();
        if buffer.len() < held.saturating_add(LEAST_ROOM) {
            buffer.resize(held.saturating_mul(2), 0);
        }
        let (front, room) = buffer.split_at_mut_checked(held).context("a buffer")?;
        match stream.read(room) {
            Ok(0) => Ok(Read::Ended),
            Ok(count) => {
                front.copy_from_slice(&self.partial);
                self.partial.clear();
                Ok(Read::Bytes(held + count))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Read::Nothing),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(Read::Ended),
            Err(error) => Err(error).context("a client cannot read from the server"),
        }
    }

    /// Acts on everything that is whole, and keeps the rest.
    pub(super) fn absorb(
        &mut self,
        (number, held): (usize, &[usize]),
        bytes: &[u8],
        ledger: &mut Ledger,
        now: UnixNanos,
    ) -> Result<()> {
        let mut rest = bytes;
        if self.phase == Phase::Upgrading {
            let Some(end) = memmem::find(rest, b"\r\n\r\n") else {
                self.partial.extend_from_slice(rest);
                return Ok(());
            };
            let (head, behind) = rest.split_at_checked(end + 4).unwrap_or((rest, &[]));
            if !head.starts_with(b"HTTP/1.1 101") {
                let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
                bail!("the server answers {:?}", String::from_utf8_lossy(line));
            }
            rest = behind;
            self.subscribe((number, held), ledger)?;
        }
        ledger.tally.bytes += u64::try_from(rest.len())?;
        while let Some((frame, behind)) = frames::take(rest)? {
            self.take(number, frame, ledger, now)?;
            rest = behind;
        }
        self.partial.extend_from_slice(rest);
        Ok(())
    }

    fn subscribe(&mut self, (number, held): (usize, &[usize]), ledger: &Ledger) -> Result<()> {
        let ops = || json!([subscription(number, held, ledger)]);
        match ledger.dialect() {
            Dialect::Nats => self.tell(frames::BINARY, nats::opening(held).as_bytes()),
            Dialect::Tickwire(Encoding::Json) => self.ask(&ops().to_string()),
            Dialect::Tickwire(Encoding::MessagePack) => {
                self.tell(frames::BINARY, &rmp_serde::to_vec_named(&ops())?)
            }
        }?;
        self.phase = Phase::Asking;
        Ok(())
    }

    fn take(
        &mut self,
        number: usize,
        frame: Frame<'_>,
        ledger: &mut Ledger,
        now: UnixNanos,
    ) -> Result<()> {
        match frame.opcode {
            frames::TEXT | frames::BINARY | frames::CONTINUATION => {
                return self.hear(number, frame, ledger, now);
            }
            frames::PING => {
                // A server that closes meanwhile does not wait for it, and the next read says so.
                let _unheard = self.tell(frames::PONG, frame.payload);
            }
            frames::CLOSE => {
                let code = frame.payload.first_chunk().copied();
                self.code = Some(code.map_or(1005, u16::from_be_bytes));
            }
            frames::PONG => {}
            other => bail!("the server sends a frame of the reserved type {other}"),
        }
        Ok(())
    }

    /// Takes a part of a message.
    fn hear(
        &mut self,
        number: usize,
        frame: Frame<'_>,
        ledger: &mut Ledger,
        now: UnixNanos,
    ) -> Result<()> {
        let alone = frame.last && self.before.is_empty();
        let mut gathered = Vec::new();
        if !alone {
            self.before.extend_from_slice(frame.payload);
            if !frame.last {
                return Ok(());
            }
            gathered = std::mem::take(&mut self.before);
        }
        let whole = if alone { frame.payload } else { &gathered };
        let effect = ledger.take(number, whole, now)?;
        let told = whole.len().saturating_sub(effect.left);
        let left = whole.get(told..).unwrap_or_default();
        self.before.extend_from_slice(left);
        if effect.acknowledged && self.phase == Phase::Asking {
            self.phase = Phase::Live;
        }
        if effect.pinged {
            // As above: whoever is gone shows at the next read.
            let _unheard = self.tell(frames::BINARY, nats::PONG);
        }
        Ok(())
    }
}

/// The subscription to every topic held; where a client stands already, it goes on. Who holds none
/// asks what it holds: that is answered too.
fn subscription(number: usize, held: &[usize], ledger: &Ledger) -> Value {
    if held.is_empty() {
        return json!({ "op": "list", "id": OPENING });
    }
    let topics: Vec<String> = held.iter().map(|topic| ticks::topic(*topic)).collect();
    let mut op = json!({
        "op": "subscribe", "id": OPENING, "topics": topics, "conflate": "none", "snapshot": false,
    });
    let positions: BTreeMap<String, u64> = held
        .iter()
        .filter_map(|topic| Some((ticks::topic(*topic), ledger.position(number, *topic)?)))
        .collect();
    if let Some(epoch) = ledger.epoch()
        && !positions.is_empty()
        && let Some(fields) = op.as_object_mut()
    {
        let from = json!({ STREAM: { "e": epoch, "s": positions } });
        fields.insert("from".to_owned(), from);
    }
    op
}
