//! How connections are closed when a replica leaves: in random order, and never faster than the
//! set rate, whatever the shards' threads have to catch up with.

use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::seq::SliceRandom as _;

const SECOND: Duration = Duration::from_secs(1);
/// How late a close may be without holding back the ones behind it: timers are coarse, and threads
/// may have to wait for a core.
const LENIENCE: Duration = Duration::from_millis(100);

/// The plan of a departure, shared by all shards.
#[derive(Debug)]
pub(crate) struct Departure {
    begins: Instant,
    every: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Places that nobody has yet, in random order.
    places: Vec<u32>,
    /// The place behind all of them, for whoever was not counted.
    next: u32,
    /// When the next close is due if none is to make up for lost time.
    due: Instant,
}

impl Departure {
    /// A plan for so many connections, begun now, that closes at most `rate` of them in any second.
    pub(crate) fn new(connections: u32, rate: NonZeroU32, now: Instant) -> Self {
        let mut places: Vec<u32> = (0..connections).collect();
        places.shuffle(&mut rand::rng());
        Self {
            begins: now,
            every: every(rate),
            state: Mutex::new(State {
                places,
                next: connections,
                due: now,
            }),
        }
    }

    /// When one more connection is to be closed.
    pub(crate) fn place(&self) -> Instant {
        let mut state = self.lock();
        let place = state.places.pop().unwrap_or_else(|| {
            state.next = state.next.saturating_add(1);
            state.next - 1
        });
        self.begins + self.every.saturating_mul(place)
    }

    /// Whether a connection may be closed now; if not, when to ask again.
    pub(crate) fn pass(&self, now: Instant) -> Result<(), Instant> {
        let mut state = self.lock();
        let earliest = state.due.checked_sub(LENIENCE).unwrap_or(state.due);
        if now < earliest {
            return Err(state.due);
        }
        state.due = state.due.max(now) + self.every;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time between two closes. The lenience lets a few be closer to each other: with it, too, there
/// are never more than `rate` in a second.
fn every(rate: NonZeroU32) -> Duration {
    (SECOND + LENIENCE) / rate.get()
}

/// How long it takes to close so many connections.
pub(crate) fn spread(connections: u32, rate: NonZeroU32) -> Duration {
    every(rate).saturating_mul(connections)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng};

    use super::*;

    fn rate(rate: u32) -> NonZeroU32 {
        NonZeroU32::new(rate).unwrap()
    }

    #[test]
    fn everybody_has_a_place_of_his_own_and_nobody_is_forgotten() {
        let now = Instant::now();
        let departure = Departure::new(1_000, rate(500), now);
        let places: Vec<Instant> = (0..1_010).map(|_| departure.place()).collect();
        let last = now + spread(1_010, rate(500));
        assert!(places.iter().all(|place| *place < last));
        let distinct: BTreeSet<Instant> = places.iter().copied().collect();
        assert_eq!(distinct.len(), places.len());
        assert!(!places.is_sorted(), "the order is that of arrival");
        assert!(spread(1_000, rate(500)) < Duration::from_millis(2_250));
    }

    /// Threads that sleep too long, all at once or one by one, and then hurry.
    #[test]
    fn no_second_has_more_than_the_rate() {
        let seed = rand::rng().random();
        let mut rng = StdRng::seed_from_u64(seed);
        for per_second in [1, 2, 7, 100, 500, 20_000] {
            let begin = Instant::now();
            let count = per_second * 4;
            let departure = Departure::new(count, rate(per_second), begin);
            let mut times = Vec::new();
            let mut places: Vec<Instant> = (0..count).map(|_| departure.place()).collect();
            places.sort_unstable();
            let mut now = begin;
            for place in places {
                now = now.max(place);
                if rng.random_ratio(1, per_second.max(2)) {
                    now += Duration::from_millis(rng.random_range(0..1_500));
                }
                while let Err(again) = departure.pass(now) {
                    // Timers are late by up to a millisecond.
                    now = again + Duration::from_micros(rng.random_range(0..1_000));
                }
                times.push(now);
            }
            let most = usize::try_from(per_second).unwrap();
            for (index, first) in times.iter().enumerate() {
                let window = times.get(index..).unwrap();
                let within = window.partition_point(|time| *time < *first + SECOND);
                assert!(
                    within <= most,
                    "seed {seed}: {within} at a rate of {per_second}"
                );
            }
            // Coarse timers cost nothing: only the pauses do.
            let pauses = Duration::from_millis(1_500) * 40;
            let taken = now.duration_since(begin);
            assert!(
                taken < spread(count, rate(per_second)) + pauses,
                "{taken:?}"
            );
        }
    }
}
