//! Whom a shard writes to, and when: at once if it has been quiet for a moment; what comes sooner is
//! gathered, for the longer the more the shard has to do, because most of the cost of a write is its
//! own.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::connection::Connection;

/// More than the longest window, in milliseconds.
const SLOTS: usize = 16;
/// How often the load is measured.
const PERIOD: Duration = Duration::from_millis(20);
/// Above this share of time spent, ever more is gathered.
const BUSY: f64 = 0.5;
/// The least and the longest time between two writes to one socket, in milliseconds.
const WINDOW: (f64, f64) = (2.0, 10.0);

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

    /// Adds a connection, unless it is there already.
    pub(crate) fn add(&mut self, connection: &Rc<Connection>, window: Duration) {
        if connection.outlet.is_due.replace(true) {
            return;
        }
        let at = self.millis(connection.outlet.written_at.get() + window);
        let slot = usize::try_from(at).unwrap_or(usize::MAX) % SLOTS;
        match self.gathering.get_mut(slot) {
            Some(slot) if at > self.tick => {
                slot.push(Rc::clone(connection));
                self.count += 1;
            }
            _ => self.ready.push_back(Rc::clone(connection)),
        }
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

/// How busy a shard is.
pub(crate) struct Pace {
    since: Cell<Instant>,
    spent: Cell<Duration>,
    load: Cell<f64>,
}

impl Pace {
    pub(crate) const fn new(now: Instant) -> Self {
        Self {
            since: Cell::new(now),
            spent: Cell::new(Duration::ZERO),
            load: Cell::new(0.0),
        }
    }

    /// Notes time that was spent on work.
    pub(crate) fn spend(&self, from: Instant, to: Instant) {
        self.spent
            .set(self.spent.get() + to.saturating_duration_since(from));
        let period = to.saturating_duration_since(self.since.get());
        if period >= PERIOD {
            let share = self.spent.get().as_secs_f64() / period.as_secs_f64();
            self.load.set(f64::midpoint(self.load.get(), share));
            self.since.set(to);
            self.spent.set(Duration::ZERO);
        }
    }

    /// How much time lies between two writes to one socket.
    pub(crate) fn window(&self) -> Duration {
        let (least, longest) = WINDOW;
        let load = self.load.get();
        let millis = match load {
            _ if load < BUSY => least,
            _ => least + (longest - least) * ((load - BUSY) / (1.0 - BUSY)).min(1.0),
        };
        Duration::from_secs_f64(millis / 1_000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busier_the_longer_is_gathered() {
        let begun = Instant::now();
        let cases = [(0, 2), (9, 2), (15, 6), (20, 10), (40, 10)];
        for (spent, window) in cases {
            let pace = Pace::new(begun);
            let mut now = begun;
            for _ in 0..20 {
                let from = now + PERIOD.saturating_sub(Duration::from_millis(spent));
                now += PERIOD;
                pace.spend(
                    from.min(now),
                    now + Duration::from_millis(spent.saturating_sub(20)),
                );
            }
            let millis = pace.window().as_secs_f64() * 1_000.0;
            assert!(
                (millis - f64::from(window)).abs() < 0.1,
                "{spent}: {millis}"
            );
        }
    }
}
