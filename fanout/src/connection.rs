//! One socket: what it reads becomes ops, what its session owes becomes frames.

mod asking;
mod assembly;
mod parting;
mod writing;

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::governor::clock::DefaultClock;
use schemas::ws::{
    ClientOp, CloseCode, Encoding, ErrorCode, ServerMessage, StreamInfo, Subscribe, read_ops,
};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::sleep_until;

use crate::frame::{Decoder, Incoming, Opcode, Violation, push_header};
use crate::governor::{Allowance, Guest, Verdict, id_of, millis_up};
use crate::index::ConnId;
use crate::session::{HEARTBEAT, Reply, Session, refusal};
use crate::shard::Shard;
use crate::sse::{self, Events};
use asking::ask_all;
pub(crate) use assembly::ROOM;
pub(crate) use parting::Parted;
use parting::listen;
use writing::write_all;
pub(crate) use writing::{Outlet, flush, has_more};

/// How often a client is asked whether it is there.
const PING: Duration = Duration::from_secs(20);
/// Unanswered pings after which the connection is given up.
const MISSES: u32 = 2;
/// Control frames that wait for the socket, in bytes: a client that only pings is cut off.
const MAX_CONTROL: usize = 16 * 1024;

/// What is spoken on a socket.
#[derive(Debug)]
pub(crate) enum Wire {
    WebSocket,
    /// Server-sent events: nothing is read.
    Events(Events),
}

/// A connection as its shard sees it.
///
/// Here and in its parts, what every message needs comes first and next to each other: most of what a
/// delivery costs outside the kernel is to wait for memory that was last touched many connections ago.
#[repr(C)]
pub(crate) struct Connection {
    pub(crate) id: ConnId,
    pub(crate) close: Cell<Option<(u16, &'static str)>>,
    pub(crate) outlet: Outlet,
    pub(crate) session: RefCell<Session>,
    pub(crate) stream: TcpStream,
    /// Control frames or the head of an answer, whole, that go out before anything else.
    pub(crate) control: RefCell<Vec<u8>>,
    pub(crate) wire: Wire,
    /// Whether messages are compressed.
    pub(crate) deflate: bool,
    /// There is something to write.
    pub(crate) wake: Notify,
    /// There is something to ask the broker for.
    pub(crate) hungry: Notify,
    pub(crate) parted: Parted,
}

impl Connection {
    /// Whether nobody has asked for it to be closed.
    pub(crate) const fn is_open(&self) -> bool {
        self.close.get().is_none()
    }

    /// Sees to it that something is written at that time.
    pub(crate) fn look_at(&self, time: Instant) {
        if time < self.outlet.alarm() {
            self.wake.notify_one();
        }
    }

    /// Asks for the connection to be closed; the first reason counts.
    pub(crate) fn end(&self, code: CloseCode) {
        self.end_with(code.code(), code.reason());
    }

    fn end_with(&self, code: u16, reason: &'static str) {
        if self.close.get().is_none() {
            self.close.set(Some((code, reason)));
        }
        self.wake.notify_one();
    }
}

/// Why a connection is over.
pub(crate) enum Ended {
    /// The peer is gone: nothing can be said any more.
    Gone,
    /// A close frame was sent, or tried.
    Closed,
}

/// Serves a connection until it is over.
pub(crate) async fn run(
    shard: Rc<Shard>,
    connection: Rc<Connection>,
    early: Vec<u8>,
    first: Option<Subscribe>,
    _guest: Arc<Guest>,
) {
    let metrics = shard.shared.metrics.clone();
    metrics.connections.inc();
    welcome(&shard, &connection);
    if let Some(first) = first.filter(|_| connection.is_open()) {
        begin(&shard, &connection, first);
    }
    // Named futures would be kept twice.
    let ended = tokio::select! {
        ended = read_all(&shard, &connection, early) => ended,
        ended = write_all(&shard, &connection) => ended,
        never = ask_all(&shard, &connection) => match never {},
    };
    let code = match (ended, connection.close.get()) {
        (Ended::Closed, Some((code, _))) => code,
        _ => 1006,
    };
    metrics.closed(code);
    metrics.connections.dec();
    leave(&shard, &connection);
}

fn welcome(shard: &Shard, connection: &Connection) {
    let mut session = connection.session.borrow_mut();
    let limits = *session.limits();
    let bounded = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let mut streams = Vec::new();
    for store in &*shard.shared.stores {
        let known = store.read();
        session.begin(known.number, known.epoch);
        let name = known.stream.to_string();
        let joined = shard
            .joined(known.number)
            .filter(|e| known.epoch == Some(*e));
        streams.extend(joined.map(|e| StreamInfo { name, e }));
    }
    if streams.len() < shard.shared.stores.len() {
        // One of them was rewound since the handshake: messages name streams by their place, and
        // positions before it is joined anew would be of the history before.
        return connection.end(CloseCode::Overloaded);
    }
    session.say(&ServerMessage::Welcome {
        conn: connection.id.to_string(),
        node: shard.shared.node.to_string(),
        streams,
        limits: schemas::ws::Limits {
            topics: bounded(limits.topics),
            patterns: bounded(limits.patterns),
            message_bytes: bounded(limits.message_bytes),
        },
        hb: u32::try_from(HEARTBEAT.as_secs()).unwrap_or(u32::MAX),
    });
    connection.wake.notify_one();
}

/// Subscribes to what the client asked for by connecting.
fn begin(shard: &Shard, connection: &Connection, first: Subscribe) {
    let mut session = connection.session.borrow_mut();
    let mut cx = Reply {
        stores: &shard.shared.stores,
        indexes: &mut shard.indexes.borrow_mut(),
        now: Instant::now(),
    };
    shard.tell_applied(&mut session);
    session.carry_out(ClientOp::Subscribe(first), &mut cx);
    // With the first cursor, so that there is never a moment that cannot be gone back to.
    session.heartbeat();
}

fn leave(shard: &Shard, connection: &Connection) {
    shard.connections.borrow_mut().remove(connection.id);
    let session = connection.session.borrow();
    session.leave(&mut shard.indexes.borrow_mut());
}

async fn read_all(shard: &Shard, connection: &Connection, early: Vec<u8>) -> Ended {
    if matches!(connection.wire, Wire::Events(_)) {
        return sse::listen(shard, connection).await;
    }
    let limit = connection.session.borrow().limits().message_bytes;
    let mut decoder = Decoder::new(limit, connection.deflate);
    decoder.feed(&early);
    drop(early);
    let mut allowance = Allowance::new(shard.shared.ops, DefaultClock::default());
    let mut missed = 0;
    let mut ping_at = Instant::now() + PING;
    loop {
        if connection.close.get().is_none()
            && let Err((code, reason)) =
                take_messages(shard, connection, &mut decoder, &mut allowance)
        {
            connection.end_with(code, reason);
        }
        if connection.close.get().is_some() {
            // The writer says goodbye, and ends the connection when that is done.
            return listen(shard, connection, decoder).await;
        }
        // A socket that always has something to read would keep the thread to itself.
        yield_now().await;
        tokio::select! {
            ready = connection.stream.readable() => {
                let mut scratch = shard.scratch.borrow_mut();
                match ready.and_then(|()| connection.stream.try_read(&mut scratch)) {
                    Ok(0) => return connection.parted.ended(),
                    Ok(count) => {
                        missed = 0;
                        decoder.feed(scratch.get(..count).unwrap_or_default());
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => return connection.parted.ended(),
                }
            }
            () = sleep_until(ping_at.into()) => {
                ping_at = Instant::now() + PING;
                missed += 1;
                if missed > MISSES {
                    connection.end(CloseCode::HeartbeatTimeout);
                    continue;
                }
                push_header(&mut connection.control.borrow_mut(), Opcode::Ping, 0);
                connection.wake.notify_one();
            }
        }
    }
}

type CloseReason = (u16, &'static str);

/// Acts on every whole message that has arrived.
fn take_messages(
    shard: &Shard,
    connection: &Connection,
    decoder: &mut Decoder,
    allowance: &mut Allowance,
) -> Result<(), CloseReason> {
    let encoding = connection.session.borrow().encoding();
    loop {
        let next = decoder.next(&mut shard.inflater.borrow_mut());
        match next {
            Ok(None) => return Ok(()),
            Ok(Some(Incoming::Ping(payload))) => {
                let mut control = connection.control.borrow_mut();
                if control.len() > MAX_CONTROL {
                    return Err((CloseCode::Slow.code(), CloseCode::Slow.reason()));
                }
                push_header(&mut control, Opcode::Pong, payload.len());
                control.extend_from_slice(&payload);
                connection.wake.notify_one();
            }
            Ok(Some(Incoming::Pong(_))) => {}
            Ok(Some(Incoming::Close(code, _))) => {
                connection.parted.hear();
                return Err((code.unwrap_or(1000), "goodbye"));
            }
            Ok(Some(Incoming::Text(bytes))) if encoding == Encoding::Json => {
                ops(shard, connection, allowance, &bytes)?;
            }
            Ok(Some(Incoming::Binary(bytes))) if encoding == Encoding::MessagePack => {
                ops(shard, connection, allowance, &bytes)?;
            }
            Ok(Some(Incoming::Text(_) | Incoming::Binary(_))) => {
                shard.shared.metrics.bad_ops.inc();
                return Err((
                    CloseCode::Unsupported.code(),
                    CloseCode::Unsupported.reason(),
                ));
            }
            Err(violation) => {
                shard.shared.metrics.bad_ops.inc();
                connection.parted.hear();
                return Err((violation.close_code(), reason_of(violation)));
            }
        }
    }
}

const fn reason_of(violation: Violation) -> &'static str {
    match violation {
        Violation::Utf8 => "text is not UTF-8",
        Violation::Deflate => "compressed data cannot be inflated",
        Violation::TooLong(_) => CloseCode::TooBig.reason(),
        Violation::ReservedBits
        | Violation::Opcode(_)
        | Violation::Unmasked
        | Violation::Control
        | Violation::Length
        | Violation::Continuation
        | Violation::Interleaved
        | Violation::CloseCode(_)
        | Violation::CloseLength => CloseCode::Protocol.reason(),
    }
}

fn ops(
    shard: &Shard,
    connection: &Connection,
    allowance: &mut Allowance,
    bytes: &[u8],
) -> Result<(), CloseReason> {
    if !connection.is_open() {
        return Ok(());
    }
    let mut session = connection.session.borrow_mut();
    let ops = match read_ops(session.encoding(), bytes) {
        Ok(ops) => ops,
        Err(error) => {
            shard.shared.metrics.bad_ops.inc();
            session.say(&refusal(None, ErrorCode::BadRequest, error.to_string()));
            drop(session);
            return Err((
                CloseCode::BadProtocol.code(),
                CloseCode::BadProtocol.reason(),
            ));
        }
    };
    if ops.is_empty() {
        // It asks for nothing, but it had to be read.
        is_granted(shard, &mut session, allowance, None)?;
    }
    let mut indexes = shard.indexes.borrow_mut();
    shard.tell_applied(&mut session);
    for op in ops {
        if session.is_drowning() {
            return Err((CloseCode::Slow.code(), CloseCode::Slow.reason()));
        }
        let id = op.as_ref().map_or_else(|error| error.id, id_of);
        if !is_granted(shard, &mut session, allowance, id)? {
            continue;
        }
        match op {
            Ok(op) => {
                let mut cx = Reply {
                    stores: &shard.shared.stores,
                    indexes: &mut indexes,
                    now: Instant::now(),
                };
                session.carry_out(op, &mut cx);
            }
            Err(error) => {
                shard.shared.metrics.bad_ops.inc();
                session.say(&refusal(error.id, error.code, error.message));
            }
        }
    }
    connection.wake.notify_one();
    Ok(())
}

/// Whether an op may be carried out; if not, the client is told when it may.
fn is_granted(
    shard: &Shard,
    session: &mut Session,
    allowance: &mut Allowance,
    id: Option<u64>,
) -> Result<bool, CloseReason> {
    let verdict = allowance.take();
    if verdict == Verdict::Granted {
        return Ok(true);
    }
    shard.shared.metrics.hasty_ops.inc();
    let Verdict::Wait(wait) = verdict else {
        return Err((
            CloseCode::RateLimited.code(),
            CloseCode::RateLimited.reason(),
        ));
    };
    session.say(&ServerMessage::Err {
        id,
        code: ErrorCode::RateLimited,
        message: "ops come too fast on this connection".to_owned(),
        retry_after_ms: Some(millis_up(wait)),
    });
    Ok(false)
}
