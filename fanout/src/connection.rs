//! One socket: what it reads becomes ops, what its session owes becomes frames.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::governor::clock::DefaultClock;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use schemas::ws::{CloseCode, Encoding, ErrorCode, ServerMessage, StreamInfo, read_ops};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;
use tokio::time::{sleep, sleep_until, timeout};
use tracing::debug;

use crate::frame::{Decoder, Incoming, Opcode, header, push_close, push_header};
use crate::governor::{Allowance, Verdict, id_of, millis_up};
use crate::index::ConnId;
use crate::repair::Page;
use crate::session::{Ask, HEARTBEAT, Reply, Session, refusal};
use crate::shard::Shard;

/// How often a client is asked whether it is there.
const PING: Duration = Duration::from_secs(20);
/// Unanswered pings after which the connection is given up.
const MISSES: u32 = 2;
/// Bytes per write.
const ROOM: usize = 64 * 1024;
/// The shortest time between two writes to a socket under load: messages are gathered meanwhile.
const GATHER: Duration = Duration::from_millis(2);
/// How long the last bytes and the close frame may take.
const FAREWELL: Duration = Duration::from_secs(3);
/// Control frames that wait for the socket, in bytes: a client that only pings is cut off.
const MAX_CONTROL: usize = 16 * 1024;
/// The longest frame header, and the longest array header of MessagePack.
const HEADROOM: usize = 10;

/// Requests to the broker that one connection may have under way.
const MAX_ASKED: usize = 8;
/// How long to wait before the broker is asked again, at first.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Whoever waited so long, and the broker is there, is sent to another replica.
const LAST_PAUSE: Duration = Duration::from_secs(3);

/// A connection as its shard sees it.
pub(crate) struct Connection {
    pub(crate) id: ConnId,
    pub(crate) session: RefCell<Session>,
    /// Control frames, whole, that go out before anything else.
    pub(crate) control: RefCell<Vec<u8>>,
    /// There is something to write.
    pub(crate) wake: Notify,
    /// There is something to ask the broker for.
    pub(crate) hungry: Notify,
    pub(crate) close: Cell<Option<(u16, &'static str)>>,
}

impl Connection {
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
enum Ended {
    /// The peer is gone: nothing can be said any more.
    Gone,
    /// A close frame was sent, or tried.
    Closed,
}

/// Serves a connection until it is over.
pub(crate) async fn run(
    shard: Rc<Shard>,
    connection: Rc<Connection>,
    stream: TcpStream,
    early: Vec<u8>,
) {
    let metrics = shard.shared.metrics.clone();
    metrics.connections.inc();
    welcome(&shard, &connection);
    let (read, write) = stream.into_split();
    let reading = read_all(&shard, &connection, &read, early);
    let writing = write_all(&shard, &connection, write);
    let ended = tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
        never = repair_all(&shard, &connection) => match never {},
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
    let known = shard.shared.store.read();
    let mut session = connection.session.borrow_mut();
    let limits = *session.limits();
    session.joins(known.epoch);
    let bounded = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let streams = known.epoch.map(|e| StreamInfo {
        name: shard.shared.store.stream.clone(),
        e,
    });
    session.say(&ServerMessage::Welcome {
        conn: format!("{:x}", connection.id.0),
        node: shard.shared.node.to_string(),
        streams: streams.into_iter().collect(),
        limits: schemas::ws::Limits {
            topics: bounded(limits.topics),
            patterns: bounded(limits.patterns),
            message_bytes: bounded(limits.message_bytes),
        },
        hb: u32::try_from(HEARTBEAT.as_secs()).unwrap_or(u32::MAX),
    });
    connection.wake.notify_one();
}

fn leave(shard: &Shard, connection: &Connection) {
    shard.connections.borrow_mut().remove(&connection.id);
    let session = connection.session.borrow();
    let mut index = shard.index.borrow_mut();
    for topic in session.held_topics() {
        index.remove(topic, connection.id);
    }
    for text in session.held_strings() {
        if text.contains(['*', '>']) {
            index.unwatch(text, connection.id);
        } else {
            index.give_up(text, connection.id);
        }
    }
}

async fn read_all(
    shard: &Shard,
    connection: &Connection,
    read: &OwnedReadHalf,
    early: Vec<u8>,
) -> Ended {
    let mut decoder = Decoder::new(connection.session.borrow().limits().message_bytes);
    decoder.feed(&early);
    drop(early);
    let mut allowance = Allowance::new(shard.shared.ops, DefaultClock::default());
    let mut missed = 0;
    let mut ping_at = Instant::now() + PING;
    loop {
        if let Err((code, reason)) = take_messages(shard, connection, &mut decoder, &mut allowance)
        {
            connection.end_with(code, reason);
        }
        if connection.close.get().is_some() {
            // The writer says goodbye, and ends the connection when that is done.
            return std::future::pending().await;
        }
        tokio::select! {
            ready = read.readable() => {
                let mut scratch = shard.scratch.borrow_mut();
                match ready.and_then(|()| read.try_read(&mut scratch)) {
                    Ok(0) => return Ended::Gone,
                    Ok(count) => {
                        missed = 0;
                        decoder.feed(scratch.get(..count).unwrap_or_default());
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => return Ended::Gone,
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
        match decoder.next() {
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
            Ok(Some(Incoming::Close(code, _))) => return Err((code.unwrap_or(1000), "goodbye")),
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
                return Err((violation.close_code(), reason_of(violation.close_code())));
            }
        }
    }
}

const fn reason_of(code: u16) -> &'static str {
    match code {
        1007 => "text is not UTF-8",
        1009 => CloseCode::TooBig.reason(),
        _ => CloseCode::Protocol.reason(),
    }
}

fn ops(
    shard: &Shard,
    connection: &Connection,
    allowance: &mut Allowance,
    bytes: &[u8],
) -> Result<(), CloseReason> {
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
    let mut index = shard.index.borrow_mut();
    session.applied(shard.applied());
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
                    store: &shard.shared.store,
                    index: &mut index,
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

/// Asks the broker for what the session wants to read.
pub(crate) async fn repair_all(shard: &Shard, connection: &Connection) -> Infallible {
    let mut asked = FuturesUnordered::new();
    loop {
        while asked.len() < MAX_ASKED {
            let Some(ask) = connection.session.borrow_mut().ask() else {
                break;
            };
            asked.push(answer(shard, connection, ask));
        }
        tokio::select! {
            () = connection.hungry.notified() => {}
            Some((ask, page)) = asked.next(), if !asked.is_empty() => {
                connection.session.borrow_mut().answered(&ask, page);
                connection.wake.notify_one();
            }
        }
    }
}

/// Asks until there is an answer; whoever cannot be helped here is sent to another replica.
async fn answer(shard: &Shard, connection: &Connection, ask: Ask) -> (Ask, Arc<Page>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let (topic, stale) = {
            let known = shard.shared.store.read();
            let topic = known.epoch.zip(known.info(ask.topic).cloned());
            (topic, known.stale)
        };
        if let Some((epoch, topic)) = topic {
            match shard.shared.repairs.page(epoch, &topic, ask.after).await {
                Ok(page) => return (ask, page),
                Err(error) => {
                    debug!(%error, "older messages cannot be read");
                    shard.shared.metrics.failed_repairs.inc();
                }
            }
        }
        if pause > LAST_PAUSE && !stale {
            connection.end(CloseCode::Overloaded);
        }
        sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE * 2);
    }
}

async fn write_all(shard: &Shard, connection: &Connection, mut write: OwnedWriteHalf) -> Ended {
    let mut written_at = Instant::now();
    loop {
        let now = Instant::now();
        let closing = connection.close.get();
        let has_work =
            !connection.control.borrow().is_empty() || connection.session.borrow().has_work(now);
        if closing.is_none() && !has_work {
            let beat = now + HEARTBEAT;
            let due = connection
                .session
                .borrow()
                .due()
                .map_or(beat, |due| due.min(beat));
            tokio::select! {
                () = connection.wake.notified() => {}
                () = sleep_until(due.into()) => {
                    if due == beat {
                        connection.session.borrow_mut().heartbeat();
                    }
                }
            }
            // Idle until now: out at once. Busy: gather what comes within a moment.
            if written_at.elapsed() < GATHER && connection.close.get().is_none() {
                sleep_until((written_at + GATHER).into()).await;
            }
            continue;
        }
        let mut buffer = shard.buffers.borrow_mut().pop().unwrap_or_default();
        let start = assemble(shard, connection, &mut buffer, now);
        if connection.session.borrow().wants() {
            connection.hungry.notify_one();
        }
        let last = buffer.get(start..).unwrap_or_default();
        if connection.close.get().is_some() {
            return farewell(write, connection, last).await;
        }
        if last.is_empty() {
            // Positions moved and nothing had to be said.
            give_back(shard, buffer);
            sleep_until((now + GATHER).into()).await;
            continue;
        }
        let outcome = put(&mut write, connection, last).await;
        let size = last.len();
        give_back(shard, buffer);
        match outcome {
            Ok(()) => {
                written_at = Instant::now();
                shard
                    .shared
                    .metrics
                    .written_bytes
                    .inc_by(u64::try_from(size).unwrap_or(0));
                shard
                    .shared
                    .metrics
                    .flush_bytes
                    .observe(f64::from(u32::try_from(size).unwrap_or(u32::MAX)));
            }
            Err(ended) => return ended,
        }
    }
}

/// Writes a buffer whole; a connection that is being closed has only a moment for it.
async fn put(
    write: &mut OwnedWriteHalf,
    connection: &Connection,
    bytes: &[u8],
) -> Result<(), Ended> {
    let mut left = bytes;
    loop {
        let closing = connection.close.get().is_some();
        tokio::select! {
            written = write.write(left) => match written {
                Ok(0) | Err(_) => return Err(Ended::Gone),
                Ok(count) => left = left.get(count..).unwrap_or_default(),
            },
            () = connection.wake.notified(), if !closing => {}
            () = tokio::time::sleep(FAREWELL), if closing => return Err(Ended::Closed),
        }
        if left.is_empty() {
            // The wake-ups that were taken here are made good.
            connection.wake.notify_one();
            return Ok(());
        }
    }
}

async fn farewell(mut write: OwnedWriteHalf, connection: &Connection, last: &[u8]) -> Ended {
    let mut bytes = last.to_vec();
    let (code, reason) = connection.close.get().unwrap_or((1011, "internal error"));
    push_close(&mut bytes, code, reason);
    let sent = timeout(FAREWELL, async {
        write.write_all(&bytes).await?;
        write.shutdown().await
    });
    match sent.await {
        Ok(Ok(())) | Err(_) => Ended::Closed,
        Ok(Err(_)) => Ended::Gone,
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
    session.applied(shard.applied());
    let count = match session.fill(&shard.shared.store, ROOM, now, clock, buffer) {
        Ok(count) => count,
        Err(code) => {
            connection.end(code);
            buffer.truncate(reserve);
            0
        }
    };
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
    let payload = buffer.len() - (reserve - open);
    let opcode = if json { Opcode::Text } else { Opcode::Binary };
    let (head, size) = header(opcode, payload);
    let start = reserve - open - size - control.len();
    let front = control.iter().chain(head.iter().take(size));
    for (place, byte) in buffer.iter_mut().skip(start).zip(front) {
        *place = *byte;
    }
    start
}

fn give_back(shard: &Shard, buffer: Vec<u8>) {
    let mut buffers = shard.buffers.borrow_mut();
    if buffers.len() < 64 && buffer.capacity() <= 4 * ROOM {
        buffers.push(buffer);
    }
}
