//! Whom a shard writes to, and when.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::connection::Connection;

/// More than the longest window, in milliseconds.
const SLOTS: usize = 16;

/// Connections to be written to, each once.
pub(crate) struct Due {
    begun: Instant,
    ready: VecDeque<Rc<Connection>>,
    /// Those that gather, by the millisecond in which that ends.
    gathering: [Vec<Rc<Connection>>; SLOTS],
    count: usize,
    /// Milliseconds since `begun` that have been looked at.
    tick: u64,
}

impl Due {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            begun: now,
            ready: VecDeque::new(),
            gathering: std::array::from_fn(|_| Vec::new()),
            count: 0,
            tick: 0,
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.begun);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// Adds a connection that is to be written to at that time, unless it is there already; whether
    /// it was.
    pub(crate) fn add(&mut self, connection: &Rc<Connection>, at: Instant) -> bool {
        if connection.outlet.is_due.replace(true) {
            return true;
        }
        let at = self.millis(at);
        let slot = usize::try_from(at).unwrap_or(usize::MAX) % SLOTS;
        match self.gathering.get_mut(slot) {
            Some(slot) if at > self.tick => {
                slot.push(Rc::clone(connection));
                self.count += 1;
            }
            _ => self.ready.push_back(Rc::clone(connection)),
        }
        false
    }

    /// Has a connection written to as soon as those before it are, whatever it gathers. Its place
    /// among those that gather stays: by then there may be more.
    pub(crate) fn hasten(&mut self, connection: &Rc<Connection>) {
        connection.outlet.is_due.set(true);
        self.ready.push_back(Rc::clone(connection));
    }

    /// Notes what time it is: those that have gathered long enough are ready.
    pub(crate) fn advance(&mut self, now: Instant) {
        let tick = self.millis(now);
        let steps = tick
            .saturating_sub(self.tick)
            .min(u64::try_from(SLOTS).unwrap_or(u64::MAX));
        for at in tick - steps + 1..=tick {
            let slot = usize::try_from(at).unwrap_or(usize::MAX) % SLOTS;
            if let Some(slot) = self.gathering.get_mut(slot) {
                self.count -= slot.len();
                self.ready.extend(slot.drain(..));
            }
        }
        self.tick = self.tick.max(tick);
    }

    /// The next one to write to.
    pub(crate) fn pop(&mut self) -> Option<Rc<Connection>> {
        let connection = self.ready.pop_front()?;
        connection.outlet.is_due.set(false);
        Some(connection)
    }

    /// Puts a connection behind the others that are ready.
    pub(crate) fn again(&mut self, connection: Rc<Connection>) {
        if !connection.outlet.is_due.replace(true) {
            self.ready.push_back(connection);
        }
    }

    /// How long nobody will be ready; `None` if nobody waits.
    pub(crate) fn wait(&self) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        (self.count > 0).then_some(Duration::from_millis(1))
    }
}
