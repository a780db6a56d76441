//! When a connection writes. Its shard writes live messages for all its connections, one after the
//! other; the connection's own task writes everything else, and whatever a full socket holds back.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use tokio::io::Interest;
use tokio::time::sleep_until;

use super::assembly::put_together;
use super::parting::farewell;
use super::{Connection, Ended};
use crate::session::HEARTBEAT;
use crate::shard::Shard;

/// How soon to look again where nothing had to be said.
const LOOK: Duration = Duration::from_millis(2);

/// A full socket does not hold up the shard, nor does a closed one end the process.
const FLAGS: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// How far a connection's writing is.
///
/// First what every message needs: see [`Connection`].
#[repr(C)]
pub(crate) struct Outlet {
    pub(crate) written_at: Cell<Instant>,
    /// When the connection's task looks again by itself.
    alarm: Cell<Instant>,
    /// The shard will write.
    pub(crate) is_due: Cell<bool>,
    /// What is held back goes first: nothing may overtake it.
    is_blocked: Cell<bool>,
    is_broken: Cell<bool>,
    /// Bytes that the socket had no room for, if there are any: most connections never have.
    held_back: RefCell<Vec<u8>>,
}

impl Outlet {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            is_due: Cell::new(false),
            written_at: Cell::new(now),
            held_back: RefCell::default(),
            is_blocked: Cell::new(false),
            alarm: Cell::new(now),
            is_broken: Cell::new(false),
        }
    }

    pub(crate) const fn is_blocked(&self) -> bool {
        self.is_blocked.get()
    }

    pub(super) const fn alarm(&self) -> Instant {
        self.alarm.get()
    }

    /// What must go out before anything else.
    pub(super) fn take(&self) -> Vec<u8> {
        self.held_back.take()
    }

    fn hold_back(&self, bytes: &[u8]) {
        self.held_back.replace(bytes.to_vec());
        self.is_blocked.set(true);
    }
}

/// Writes everything pending, as far as the socket takes it; whether there was anything.
pub(crate) fn flush(shard: &Shard, connection: &Connection, now: Instant) -> bool {
    let outlet = &connection.outlet;
    if outlet.is_blocked.get() || !connection.is_open() {
        return false;
    }
    let mut buffer = shard.buffer.borrow_mut();
    let is_sampled = shard.written.is_sampled();
    let waited = is_sampled.then(|| connection.session.borrow().waited(now));
    let start = put_together(shard, connection, &mut buffer, now);
    let bytes = buffer.get(start..).unwrap_or_default();
    if !connection.is_open() {
        outlet.hold_back(bytes);
        return true;
    }
    let due = {
        let session = connection.session.borrow();
        if session.wants() {
            connection.hungry.notify_one();
        }
        session.due()
    };
    if let Some(due) = due {
        connection.look_at(due);
    }
    if bytes.is_empty() {
        return false;
    }
    let taken = match send(&connection.stream, bytes, FLAGS) {
        Ok(count) => count,
        Err(Errno::AGAIN) => 0,
        Err(_) => {
            outlet.is_broken.set(true);
            connection.wake.notify_one();
            return true;
        }
    };
    outlet.written_at.set(now);
    shard.wrote(taken);
    if taken < bytes.len() {
        // Nobody else has seen that it is full.
        let full = || -> io::Result<()> { Err(ErrorKind::WouldBlock.into()) };
        let _noted = connection.stream.try_io(Interest::WRITABLE, full);
        outlet.hold_back(bytes.get(taken..).unwrap_or_default());
        connection.wake.notify_one();
    } else if let Some(waited) = waited.flatten() {
        let took = waited + now.elapsed();
        let written = &shard.shared.metrics.hops.written;
        written.observe(took.as_secs_f64());
    }
    // A burst leaves nothing behind.
    buffer.shrink_to(super::ROOM * 4);
    true
}

/// Writes what is not written by the shard, until the connection is over.
pub(super) async fn write_all(shard: &Shard, connection: &Connection) -> Ended {
    let outlet = &connection.outlet;
    loop {
        if outlet.is_broken.get() {
            return Ended::Gone;
        }
        if !connection.is_open() {
            return farewell(shard, connection).await;
        }
        if outlet.is_blocked.get() {
            if let Err(ended) = unblock(shard, connection).await {
                return ended;
            }
            continue;
        }
        let now = Instant::now();
        if has_work(connection, now) {
            if flush(shard, connection, now) {
                // Whoever catches up shares the shard with everybody else.
                tokio::task::yield_now().await;
            } else {
                // Positions moved and nothing had to be said.
                sleep_until((now + LOOK).into()).await;
            }
            continue;
        }
        let beat = now + HEARTBEAT;
        let due = connection.session.borrow().due();
        let due = due.map_or(beat, |due| due.min(beat));
        outlet.alarm.set(due);
        tokio::select! {
            () = connection.wake.notified() => {}
            () = sleep_until(due.into()) => {
                if due == beat {
                    connection.session.borrow_mut().heartbeat();
                }
            }
        }
    }
}

/// Whether a socket that took everything so far may take more.
pub(crate) fn has_more(connection: &Connection, now: Instant) -> bool {
    let is_free = !connection.outlet.is_blocked.get() && connection.is_open();
    is_free && connection.session.borrow().has_work(now)
}

fn has_work(connection: &Connection, now: Instant) -> bool {
    !connection.control.borrow().is_empty() || connection.session.borrow().has_work(now)
}

/// Writes what was held back, unless the connection is closed meanwhile.
async fn unblock(shard: &Shard, connection: &Connection) -> Result<(), Ended> {
    let outlet = &connection.outlet;
    let bytes = outlet.take();
    let mut left = bytes.as_slice();
    while !left.is_empty() {
        if !connection.is_open() {
            outlet.hold_back(left);
            return Ok(());
        }
        tokio::select! {
            ready = connection.stream.writable() => {
                match ready.and_then(|()| connection.stream.try_write(left)) {
                    Ok(0) => return Err(Ended::Gone),
                    Ok(count) => {
                        shard.wrote(count);
                        left = left.get(count..).unwrap_or_default();
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => return Err(Ended::Gone),
                }
            }
            () = connection.wake.notified() => {}
        }
    }
    outlet.is_blocked.set(false);
    // The wake-ups that were taken here are made good.
    connection.wake.notify_one();
    Ok(())
}

/// Writes bytes, however long the socket takes.
pub(super) async fn put(connection: &Connection, bytes: &[u8]) -> io::Result<()> {
    let mut left = bytes;
    while !left.is_empty() {
        connection.stream.writable().await?;
        match connection.stream.try_write(left) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => left = left.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
