//! The end of a connection: close frames both ways, then TCP (RFC 6455 §7).

use std::cell::Cell;
use std::future::pending;
use std::io::ErrorKind;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use schemas::ws::CloseCode;
use socket2::SockRef;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use super::assembly::put_together;
use super::writing::put;
use super::{Connection, Ended, Wire};
use crate::frame::{Decoder, Incoming, push_close};
use crate::shard::Shard;
use crate::sse;

/// How long the last bytes, the close frame and the client's answer to it may take.
const FAREWELL: Duration = Duration::from_secs(3);
/// The same for a client that does not read: most that is left for it will never arrive.
const SLOW_FAREWELL: Duration = Duration::from_secs(1);
/// How long a client may take to end a connection that is closed: if we went first while something
/// of it is unread, the kernel would take back what it has not read yet.
const LINGER: Duration = Duration::from_secs(1);

/// How far a connection that closes has come.
#[derive(Default)]
pub(crate) struct Parted {
    /// Our close frame is out.
    sent: Cell<bool>,
    /// Nothing more is awaited: the client's close frame has come, or it cannot be understood.
    heard: Cell<bool>,
    hearing: Notify,
    /// The client has ended its side.
    gone: Cell<bool>,
}

impl Parted {
    /// Notes that nothing more is awaited of the client.
    pub(super) fn hear(&self) {
        self.heard.set(true);
        self.hearing.notify_one();
    }

    async fn heard(&self) {
        while !self.heard.get() {
            self.hearing.notified().await;
        }
    }

    /// What it means that the client is gone.
    pub(super) const fn ended(&self) -> Ended {
        if self.sent.get() {
            Ended::Closed
        } else {
            Ended::Gone
        }
    }
}

/// Reads on while a connection closes, so that the client's close frame is seen. Nothing else of it
/// counts any more.
pub(super) async fn listen(shard: &Shard, connection: &Connection, mut decoder: Decoder) -> Ended {
    decoder.ignore_messages();
    loop {
        while !connection.parted.heard.get() {
            let next = decoder.next(&mut shard.inflater.borrow_mut());
            match next {
                Ok(None) => break,
                Ok(Some(Incoming::Close(..))) | Err(_) => connection.parted.hear(),
                Ok(Some(_)) => {}
            }
        }
        // A socket that always has something to read would keep the thread to itself.
        yield_now().await;
        let ready = connection.stream.readable().await;
        let mut scratch = shard.scratch.borrow_mut();
        match ready.and_then(|()| connection.stream.try_read(&mut scratch)) {
            Ok(0) => break,
            Ok(count) if !connection.parted.heard.get() => {
                decoder.feed(scratch.get(..count).unwrap_or_default());
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    connection.parted.hear();
    connection.parted.gone.set(true);
    match connection.parted.ended() {
        Ended::Closed => Ended::Closed,
        // Whoever goes on sending nothing may still read: our close frame is on its way.
        Ended::Gone => pending().await,
    }
}

/// Says goodbye behind the last bytes, and waits for the answer.
pub(super) async fn farewell(shard: &Shard, connection: &Connection) -> Ended {
    let mut bytes = connection.outlet.take();
    let (code, reason) = connection.close.get().unwrap_or((1011, "internal error"));
    // Whoever has to leave through no fault of his own gets all that waits for him.
    let is_ours = !connection.parted.heard.get();
    let is_departure = code == CloseCode::Restart.code() || code == CloseCode::GoingAway.code();
    let flushes = is_ours && is_departure;
    let is_slow = code == CloseCode::Slow.code();
    let patience = if is_slow { SLOW_FAREWELL } else { FAREWELL };
    let parting = timeout(patience, async {
        put(connection, &bytes).await?;
        // What was answered before the end was decided is said before it is announced.
        loop {
            let start = put_together(shard, connection, &mut bytes, Instant::now());
            let more = bytes.get(start..).unwrap_or_default();
            put(connection, more).await?;
            // What is too old to be sent stays where it is.
            if more.is_empty() || !flushes || !connection.session.borrow().has_unsent() {
                break;
            }
        }
        bytes.clear();
        match connection.wire {
            Wire::WebSocket => push_close(&mut bytes, code, reason),
            Wire::Events(_) => {
                sse::push_end(&mut bytes, code, reason);
                // There is no answer to that.
                connection.parted.hear();
            }
        }
        put(connection, &bytes).await?;
        connection.parted.sent.set(true);
        connection.parted.heard().await;
        SockRef::from(&connection.stream).shutdown(Shutdown::Write)
    });
    match parting.await {
        Ok(Ok(())) => {
            if !connection.parted.gone.get() {
                sleep(LINGER).await;
            }
            Ended::Closed
        }
        Ok(Err(_)) => connection.parted.ended(),
        Err(_) => Ended::Closed,
    }
}
