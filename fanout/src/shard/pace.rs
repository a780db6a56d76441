//! How long a shard gathers before it writes: not at all while it has little to do, for the longer the
//! more it has to do. Most of the cost of a write is its own, so whoever gathers works less; but only
//! where several messages for one client come together.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::reading::{self, Hurry};

/// How often the load is measured.
const PERIOD: Duration = Duration::from_millis(20);
/// Load of so long ago counts for a third, in seconds.
const MEMORY: f64 = 0.25;
/// Below this share of a core nothing is held back, and above the other everything for as long as is
/// allowed.
const EASE: (f64, f64) = (0.12, 0.22);
/// Above this share of a core, ever more time lies between two writes to one socket.
const BUSY: f64 = 0.5;
/// The least and the longest time between two writes to one socket, in milliseconds.
const WINDOW: (f64, f64) = (2.0, 10.0);
/// How long a shard that holds back lets messages gather before it looks at them.
const REST: Duration = Duration::from_millis(1);
/// Above this share of a core there is no time to rest.
const FULL: f64 = 0.8;
/// Messages after which it is judged whether holding back pays.
const SAMPLE: u32 = 1_000;
/// It pays if one of so many messages met another one.
const WORTH: u32 = 12;
/// How long nothing is held back where it did not pay.
const RETRY: Duration = Duration::from_secs(10);

/// How long the fastest message is remembered, at least.
const SPAN: Duration = Duration::from_secs(5);

/// How fast messages of a stream come at best. Broker and replica may have different clocks, so a
/// message is late by as much as it took longer than the fastest.
#[derive(Debug, Default)]
pub(crate) struct Fastest {
    since: Cell<Option<Instant>>,
    /// Nanoseconds, in this span and in the one before.
    took: Cell<[Option<i64>; 2]>,
}

impl Fastest {
    /// How late a message is that took so many nanoseconds by the clocks.
    pub(crate) fn late(&self, took: i64, now: Instant) -> Duration {
        let [mut this, mut before] = self.took.get();
        let since = self.since.get().unwrap_or(now);
        let is_over = now.saturating_duration_since(since) >= SPAN;
        if is_over {
            (this, before) = (None, this);
        }
        self.since.set(Some(if is_over { now } else { since }));
        let this = this.map_or(took, |fastest| fastest.min(took));
        self.took.set([Some(this), before]);
        let fastest = before.map_or(this, |before| before.min(this));
        Duration::from_nanos(u64::try_from(took.saturating_sub(fastest)).unwrap_or(0))
    }
}

/// A shard's rest. As long as it may rest, one that has begun ends when it was to end, whatever else
/// happens meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Rest(Option<Instant>);

impl Rest {
    /// How much is left of it. One of that length begins if there is none; without a length, it is broken
    /// off.
    pub(crate) fn left(&mut self, length: Option<Duration>, now: Instant) -> Option<Duration> {
        self.0 = length.map(|length| self.0.unwrap_or(now + length));
        self.0.map(|until| until.saturating_duration_since(now))
    }

    /// Ends it; whether there was one.
    pub(crate) const fn end(&mut self) -> bool {
        self.0.take().is_some()
    }
}

/// What is known of a shard's load.
#[derive(Debug)]
pub(crate) struct Pace {
    /// The longest that a message is held back.
    longest: Duration,
    since: Cell<Instant>,
    /// Processor time of this thread until then.
    spent: Cell<Duration>,
    load: Cell<f64>,
    /// Messages while something was held back: those that met another one, and all.
    met: Cell<(u32, u32)>,
    vain_until: Cell<Option<Instant>>,
    /// Where it is known whether this shard is in a hurry, and what was said last.
    hurry: Hurry,
    is_hurried: Cell<bool>,
}

impl Pace {
    pub(crate) fn new(longest: Duration, hurry: Hurry, (now, spent): (Instant, Duration)) -> Self {
        Self {
            longest,
            since: Cell::new(now),
            spent: Cell::new(spent),
            load: Cell::new(0.0),
            met: Cell::new((0, 0)),
            vain_until: Cell::new(None),
            hurry,
            is_hurried: Cell::new(true),
        }
    }

    /// Looks at the time; `spent` says how much processor time this thread has had.
    pub(crate) fn look(&self, now: Instant, spent: impl FnOnce() -> Duration) {
        let period = now.saturating_duration_since(self.since.get());
        if period < PERIOD {
            return;
        }
        let spent = spent();
        let share = spent
            .saturating_sub(self.spent.get())
            .div_duration_f64(period);
        let fresh = 1.0 - (-period.as_secs_f64() / MEMORY).exp();
        self.load
            .set(self.load.get() + (share.min(1.0) - self.load.get()) * fresh);
        self.since.set(now);
        self.spent.set(spent);
        self.judge(now);
        let is_hurried = self.rest().is_none() || self.hold() <= reading::REST + REST;
        match (self.is_hurried.replace(is_hurried), is_hurried) {
            (true, false) => self.hurry.leave(),
            (false, true) => self.hurry.enter(),
            _ => {}
        }
    }

    /// Notes messages for somebody: those for whom others waited already, and all.
    pub(crate) fn gather(&self, more: (u32, u32)) {
        if self.hold() * 2 < self.longest {
            // Too short to tell.
            return;
        }
        let (met, all) = self.met.get();
        self.met
            .set((met.saturating_add(more.0), all.saturating_add(more.1)));
    }

    fn judge(&self, now: Instant) {
        if self.vain_until.get().is_some_and(|until| now < until) {
            return;
        }
        self.vain_until.set(None);
        let (met, all) = self.met.get();
        if all >= SAMPLE {
            self.met.set((0, 0));
            if met.saturating_mul(WORTH) < all {
                self.vain_until.set(Some(now + RETRY));
            }
        }
    }

    /// How long a message is held back since it was read.
    pub(crate) fn hold(&self) -> Duration {
        if self.vain_until.get().is_some() {
            return Duration::ZERO;
        }
        let (none, all) = EASE;
        let share = ((self.load.get() - none) / (all - none)).clamp(0.0, 1.0);
        self.longest.mul_f64(share)
    }

    /// How much time lies between two writes to one socket.
    pub(crate) fn window(&self) -> Duration {
        let (least, longest) = WINDOW;
        let share = ((self.load.get() - BUSY) / (1.0 - BUSY)).max(0.0);
        Duration::from_secs_f64((least + (longest - least) * share) / 1_000.0)
    }

    /// How long to let messages gather before they are looked at, if at all: whoever holds them back
    /// anyway is not woken by each.
    pub(crate) fn rest(&self) -> Option<Duration> {
        (self.hold() > REST && self.load.get() < FULL).then_some(REST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_millis(5);
    const STEP: Duration = Duration::from_millis(20);

    /// A shard's time, and how much of it its thread has had.
    struct Clock {
        pace: Pace,
        hurry: Hurry,
        now: Instant,
        spent: Duration,
    }

    impl Clock {
        fn start() -> Self {
            let (now, hurry) = (Instant::now(), Hurry::of(1));
            Self {
                pace: Pace::new(LONGEST, hurry.clone(), (now, Duration::ZERO)),
                hurry,
                now,
                spent: Duration::ZERO,
            }
        }

        /// Lets time pass at a load, in percent; of a hundred messages in each step so many meet others.
        fn pass(&mut self, time: Duration, load: u32, met: u32) {
            for _ in 0..time.as_millis() / STEP.as_millis() {
                self.pace.gather((met, 100));
                self.now += STEP;
                self.spent += STEP * load / 100;
                self.pace.look(self.now, || self.spent);
            }
        }
    }

    #[test]
    fn the_busier_the_longer_messages_are_held_back() {
        let cases = [
            (5, 0, 2_000, (false, true)),
            (15, 1_500, 2_000, (true, true)),
            (17, 2_500, 2_000, (true, true)),
            (19, 3_500, 2_000, (true, false)),
            (30, 5_000, 2_000, (true, false)),
            (75, 5_000, 6_000, (true, false)),
            (100, 5_000, 10_000, (false, true)),
        ];
        for (load, hold, window, (rests, hurries)) in cases {
            let mut clock = Clock::start();
            clock.pass(Duration::from_secs(3), load, 50);
            let near = |time: Duration, micros: u64| {
                time.abs_diff(Duration::from_micros(micros)) < Duration::from_micros(10)
            };
            let pace = &clock.pace;
            assert!(near(pace.hold(), hold), "{load}: {:?}", pace.hold());
            assert!(near(pace.window(), window), "{load}: {:?}", pace.window());
            assert_eq!(pace.rest().is_some(), rests, "{load}");
            assert_eq!(clock.hurry.is_over(), !hurries, "{load}");
        }
    }

    #[test]
    fn where_nothing_meets_nothing_is_held_back_and_that_is_tried_again() {
        let mut clock = Clock::start();
        clock.pass(Duration::from_secs(1), 60, 2);
        assert_eq!(clock.pace.hold(), Duration::ZERO);
        assert!(!clock.hurry.is_over());
        clock.pass(RETRY * 9 / 10, 60, 50);
        assert_eq!(clock.pace.hold(), Duration::ZERO);
        clock.pass(Duration::from_secs(2), 60, 50);
        assert_eq!(clock.pace.hold(), LONGEST);
        assert!(clock.hurry.is_over());
    }

    #[test]
    fn a_message_is_late_against_the_fastest_of_late() {
        let (fastest, begun) = (Fastest::default(), Instant::now());
        // Seconds since then, milliseconds that it took by clocks that differ, how late it is.
        let cases = [
            (0, -500, 0),
            (1, -498, 2),
            (2, -501, 0),
            (6, -499, 2),
            (9, -490, 11),
            // Clocks drift: the fastest is forgotten.
            (12, -480, 19),
            (18, -480, 0),
        ];
        for (since, took, late) in cases {
            let now = begun + Duration::from_secs(since);
            let found = fastest.late(took * 1_000_000, now);
            assert_eq!(found, Duration::from_millis(late), "at {since}");
        }
    }

    #[test]
    fn what_happens_during_a_rest_makes_it_no_longer() {
        let (mut rest, begun) = (Rest::default(), Instant::now());
        let micros = Duration::from_micros;
        for (since, left) in [(0, 1_000), (300, 700), (900, 100), (1_200, 0)] {
            let found = rest.left(Some(REST), begun + micros(since));
            assert_eq!(found, Some(micros(left)), "after {since}");
        }
        assert!(rest.end() && !rest.end());
        let again = begun + micros(1_300);
        assert_eq!(rest.left(Some(REST), again), Some(REST));
        assert_eq!(rest.left(None, again), None);
        assert!(!rest.end());
    }

    #[test]
    fn a_moment_of_work_holds_nothing_back() {
        let mut clock = Clock::start();
        clock.pass(Duration::from_secs(1), 1, 0);
        clock.pass(STEP, 100, 0);
        assert_eq!(clock.pace.hold(), Duration::ZERO);
    }
}
