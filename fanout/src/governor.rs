//! The governor: what one address and one connection may ask for, and when they may try again.
//!
//! Keys are addresses, never in a label or a log. An IPv6 host owns its whole /64, so that is one
//! address here.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ::governor::clock::{Clock, DefaultClock, FakeRelativeClock};
use ::governor::middleware::NoOpMiddleware;
use ::governor::nanos::Nanos;
use ::governor::state::keyed::HashMapStateStore;
use ::governor::state::{InMemoryState, NotKeyed};
use ::governor::{Quota, RateLimiter};
use schemas::ws::ClientOp;

/// Ops refused beyond those carried out, after which a connection is closed.
const STRIKES: u32 = 100;
/// When an address that holds too many connections may try again: nobody knows when it lets go.
const HOLDS_TOO_MANY: Duration = Duration::from_secs(5);

/// Limits of the fanout role; 0 is unlimited.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)]
pub struct GovernorArgs {
    /// Open connections per address (IPv4, or /64 of IPv6); 0 is unlimited, as behind a proxy
    #[arg(long, env = "TICKWIRE_CONNECTIONS_PER_IP", default_value = "50")]
    #[arg(value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub connections_per_ip: u32,

    /// New connections per second and address; 0 is unlimited, as behind a proxy
    #[arg(long, env = "TICKWIRE_CONNECTS_PER_IP_PER_SEC", default_value = "5")]
    #[arg(value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub connects_per_ip_per_sec: u32,

    /// New connections of an address at once
    #[arg(long, env = "TICKWIRE_CONNECTS_PER_IP_BURST", default_value = "20")]
    pub connects_per_ip_burst: NonZeroU32,

    /// Apply the limits per address to loopback addresses too
    #[arg(long, env = "TICKWIRE_LIMIT_LOOPBACK")]
    pub limit_loopback: bool,

    /// Ops per second and connection; 0 is unlimited
    #[arg(long, env = "TICKWIRE_OPS_PER_SEC", default_value = "10")]
    #[arg(value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub ops_per_sec: u32,

    /// Ops of a connection at once
    #[arg(long, env = "TICKWIRE_OPS_BURST", default_value = "50")]
    pub ops_burst: NonZeroU32,
}

impl GovernorArgs {
    /// What one connection may ask for; `None` is unlimited.
    pub(crate) fn ops(&self) -> Option<Quota> {
        quota(self.ops_per_sec, self.ops_burst)
    }
}

fn quota(per_second: u32, burst: NonZeroU32) -> Option<Quota> {
    NonZeroU32::new(per_second).map(|rate| Quota::per_second(rate).allow_burst(burst))
}

/// Why an address has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Excess {
    /// For counting.
    pub(crate) why: &'static str,
    /// For people.
    pub(crate) detail: &'static str,
    pub(crate) retry_after: Duration,
}

type Connects<C> =
    RateLimiter<IpAddr, HashMapStateStore<IpAddr>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// Counts addresses. Holds nothing about those that are neither connected nor were a moment ago.
pub(crate) struct Governor<C: Clock = DefaultClock> {
    clock: C,
    connects: Option<Connects<C>>,
    /// Most connections of an address.
    most: Option<NonZeroU32>,
    open: Arc<Open>,
    limit_loopback: bool,
}

/// How many connections each address holds.
#[derive(Debug, Default)]
struct Open(Mutex<HashMap<IpAddr, u32>>);

impl Open {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is counted for as long as this lives.
#[derive(Debug, Default)]
pub(crate) struct Guest {
    excess: Option<Excess>,
    counted: Option<(Arc<Open>, IpAddr)>,
}

impl Guest {
    /// Why the connection must be refused, if it must.
    pub(crate) const fn excess(&self) -> Option<Excess> {
        self.excess
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let Some((open, address)) = self.counted.take() else {
            return;
        };
        let mut open = open.lock();
        if let Some(count) = open.get_mut(&address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&address);
            }
        }
    }
}

impl<C: Clock + Clone> Governor<C> {
    pub(crate) fn new(args: &GovernorArgs, clock: C) -> Self {
        let connects = quota(args.connects_per_ip_per_sec, args.connects_per_ip_burst);
        Self {
            connects: connects
                .map(|quota| RateLimiter::new(quota, HashMapStateStore::default(), clock.clone())),
            clock,
            most: NonZeroU32::new(args.connections_per_ip),
            open: Arc::default(),
            limit_loopback: args.limit_loopback,
        }
    }

    /// Counts a connection in. `None` if its address has so many that it is not even told so.
    pub(crate) fn enter(&self, address: IpAddr) -> Option<Guest> {
        let address = address.to_canonical();
        if address.is_loopback() && !self.limit_loopback {
            return Some(Guest::default());
        }
        let address = network(address);
        let mut guest = Guest::default();
        if let Some(most) = self.most {
            let mut open = self.open.lock();
            let count = open.entry(address).or_default();
            // Those above the limit are answered, so they too must be bounded.
            if *count >= most.get().saturating_mul(2) {
                return None;
            }
            *count += 1;
            if *count > most.get() {
                guest.excess = Some(Excess {
                    why: "connections_per_ip",
                    detail: "this address has as many connections as it may",
                    retry_after: HOLDS_TOO_MANY,
                });
            }
            guest.counted = Some((Arc::clone(&self.open), address));
        }
        if let Some(connects) = &self.connects
            && let Err(until) = connects.check_key(&address)
        {
            guest.excess = guest.excess.or(Some(Excess {
                why: "connects_per_ip",
                detail: "this address connects too often",
                retry_after: until.wait_time_from(self.clock.now()),
            }));
        }
        Some(guest)
    }

    /// Forgets addresses that have been quiet long enough to be like new ones.
    pub(crate) fn forget_idle(&self) {
        if let Some(connects) = &self.connects {
            connects.retain_recent();
            connects.shrink_to_fit();
        }
        self.open.lock().shrink_to_fit();
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(host) => IpAddr::V6(Ipv6Addr::from_bits(host.to_bits() >> 64 << 64)),
    }
}

/// What became of an op that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Granted,
    /// Too early.
    Wait(Duration),
    /// Too early, once too often.
    Enough,
}

/// What one connection may still ask for.
pub(crate) struct Allowance<C: Clock = DefaultClock> {
    clock: C,
    limiter: Option<RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>>,
    strikes: u32,
}

impl<C: Clock + Clone> Allowance<C> {
    pub(crate) fn new(quota: Option<Quota>, clock: C) -> Self {
        let limiter = quota.map(|quota| RateLimiter::direct_with_clock(quota, clock.clone()));
        Self {
            clock,
            limiter,
            strikes: 0,
        }
    }

    /// Takes one op. An op that is granted makes up for one that was refused: a client a little
    /// too fast goes on for ever, a flood does not.
    pub(crate) fn take(&mut self) -> Verdict {
        let Some(limiter) = &self.limiter else {
            return Verdict::Granted;
        };
        match limiter.check() {
            Ok(()) => {
                self.strikes = self.strikes.saturating_sub(1);
                Verdict::Granted
            }
            Err(until) => {
                self.strikes += 1;
                if self.strikes > STRIKES {
                    return Verdict::Enough;
                }
                Verdict::Wait(until.wait_time_from(self.clock.now()))
            }
        }
    }
}

/// In how long a connection that used up what it may have replayed may have as much again.
const REFILL: Duration = Duration::from_mins(1);

/// What one connection may still have replayed. Times are arguments, so it owns a clock.
#[derive(Debug)]
pub(crate) struct Replays {
    most: NonZeroU32,
    since: Instant,
    /// None as long as nothing was replayed: most connections never need one.
    bucket: Option<Box<Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    clock: FakeRelativeClock,
    limiter: RateLimiter<NotKeyed, InMemoryState, FakeRelativeClock, NoOpMiddleware<Nanos>>,
}

impl Replays {
    /// Up to `most` messages at once.
    pub(crate) fn new(most: usize, now: Instant) -> Self {
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        Self {
            most: NonZeroU32::new(most).unwrap_or(NonZeroU32::MIN),
            since: now,
            bucket: None,
        }
    }

    /// Takes so many messages, or none if there are not so many.
    pub(crate) fn take(&mut self, count: usize, now: Instant) -> bool {
        let Ok(count) = u32::try_from(count) else {
            return false;
        };
        let Some(count) = NonZeroU32::new(count) else {
            return true;
        };
        let most = self.most;
        let bucket = self.bucket.get_or_insert_with(|| {
            let clock = FakeRelativeClock::default();
            let quota = Quota::with_period(REFILL / most.get())
                .map_or_else(|| Quota::per_second(most), |quota| quota.allow_burst(most));
            Box::new(Bucket {
                limiter: RateLimiter::direct_with_clock(quota, clock.clone()),
                clock,
            })
        });
        bucket
            .clock
            .advance(now.saturating_duration_since(self.since));
        self.since = self.since.max(now);
        matches!(bucket.limiter.check_n(count), Ok(Ok(())))
    }
}

/// What a client calls an op of its own.
pub(crate) const fn id_of(op: &ClientOp) -> Option<u64> {
    match op {
        ClientOp::Subscribe(subscribe) => subscribe.id,
        ClientOp::Unsubscribe { id, .. }
        | ClientOp::List { id }
        | ClientOp::Ping { id }
        | ClientOp::Auth { id } => *id,
    }
}

/// Whole milliseconds, rounded up: whoever waits that long is early enough.
pub(crate) fn millis_up(wait: Duration) -> u64 {
    u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use ::governor::clock::FakeRelativeClock;
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        governor: GovernorArgs,
    }

    fn args(given: &[&str]) -> GovernorArgs {
        let given = ["test"].iter().chain(given);
        Cli::try_parse_from(given).unwrap().governor
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn why(guest: Option<&Guest>) -> Option<&'static str> {
        guest.and_then(Guest::excess).map(|excess| excess.why)
    }

    #[test]
    fn connects_of_an_address_are_limited_and_forgotten() {
        let clock = FakeRelativeClock::default();
        let governor = Governor::new(&args(&["--connections-per-ip=0"]), clock.clone());
        let (busy, calm) = (address("192.0.2.1"), address("192.0.2.2"));
        for _ in 0..20 {
            assert_eq!(governor.enter(busy).unwrap().excess(), None);
        }
        let excess = governor.enter(busy).unwrap().excess().unwrap();
        assert_eq!(excess.why, "connects_per_ip");
        assert_eq!(excess.retry_after, Duration::from_millis(200));
        assert_eq!(governor.enter(calm).unwrap().excess(), None);
        clock.advance(excess.retry_after);
        assert_eq!(governor.enter(busy).unwrap().excess(), None);
        assert!(governor.enter(busy).unwrap().excess().is_some());
        let known = |governor: &Governor<_>| governor.connects.as_ref().unwrap().len();
        assert_eq!(known(&governor), 2);
        clock.advance(Duration::from_secs(1));
        governor.forget_idle();
        assert_eq!(known(&governor), 1);
        clock.advance(Duration::from_secs(4));
        governor.forget_idle();
        assert_eq!(known(&governor), 0);
    }

    #[test]
    fn connections_of_an_address_are_limited_until_they_end() {
        let given = ["--connections-per-ip=2", "--connects-per-ip-per-sec=0"];
        let governor = Governor::new(&args(&given), FakeRelativeClock::default());
        let here = address("192.0.2.1");
        let mut guests: Vec<Guest> = (0..4).map(|_| governor.enter(here).unwrap()).collect();
        let refused: Vec<_> = guests.iter().map(|guest| why(Some(guest))).collect();
        let full = Some("connections_per_ip");
        assert_eq!(refused, [None, None, full, full]);
        assert!(governor.enter(here).is_none());
        assert_eq!(why(governor.enter(address("192.0.2.2")).as_ref()), None);
        guests.truncate(1);
        assert_eq!(why(governor.enter(here).as_ref()), None);
        guests.clear();
        assert!(governor.open.lock().is_empty());
    }

    #[test]
    fn an_address_is_what_one_host_owns() {
        let given = ["--connections-per-ip=1", "--connects-per-ip-per-sec=0"];
        let governor = Governor::new(&args(&given), FakeRelativeClock::default());
        let cases = [
            ("2001:db8::1", "2001:db8::ffff:0:0:1", true),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", false),
            ("::ffff:192.0.2.7", "192.0.2.7", true),
            ("192.0.2.8", "192.0.2.9", false),
        ];
        for (one, other, are_same) in cases {
            let _first = governor.enter(address(one)).unwrap();
            let second = governor.enter(address(other)).unwrap();
            assert_eq!(second.excess().is_some(), are_same, "{one} {other}");
        }
    }

    #[test]
    fn loopback_is_limited_only_if_asked() {
        let given = ["--connections-per-ip=1", "--limit-loopback"];
        for (count, expected) in [(1, None), (2, Some("connections_per_ip"))] {
            let governor = Governor::new(&args(&given[..count]), FakeRelativeClock::default());
            for here in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
                let _first = governor.enter(address(here)).unwrap();
                let second = governor.enter(address(here));
                assert_eq!(why(second.as_ref()), expected, "{here}");
            }
        }
    }

    #[test]
    fn a_hasty_client_waits_and_a_flood_ends() {
        let clock = FakeRelativeClock::default();
        let mut allowance = Allowance::new(args(&[]).ops(), clock.clone());
        for _ in 0..50 {
            assert_eq!(allowance.take(), Verdict::Granted);
        }
        let wait = Verdict::Wait(Duration::from_millis(100));
        // Half as fast again as it may: never more than a few refusals ahead.
        for _ in 0..1_000 {
            assert_eq!(allowance.take(), wait);
            clock.advance(Duration::from_millis(200));
            assert_eq!(allowance.take(), Verdict::Granted);
            assert_eq!(allowance.take(), Verdict::Granted);
        }
        for _ in 0..STRIKES {
            assert_eq!(allowance.take(), wait);
        }
        assert_eq!(allowance.take(), Verdict::Enough);
        let mut unlimited = Allowance::new(args(&["--ops-per-sec=0"]).ops(), clock);
        assert!((0..10_000).all(|_| unlimited.take() == Verdict::Granted));
    }

    #[test]
    fn what_was_replayed_may_be_replayed_again_a_minute_later() {
        let begun = Instant::now();
        let mut replays = Replays::new(600, begun);
        assert!(!replays.take(601, begun));
        assert!(replays.take(0, begun) && replays.take(590, begun) && replays.take(10, begun));
        assert!(!replays.take(1, begun));
        let second = begun + Duration::from_secs(1);
        assert!(!replays.take(11, second) && replays.take(10, second));
        // A clock that goes back takes nothing away, and gives nothing.
        assert!(!replays.take(1, begun));
        assert!(replays.take(600, second + REFILL));
        assert!(Replays::new(usize::MAX, begun).take(1 << 30, begun));
    }

    #[test]
    fn waits_are_rounded_up() {
        assert_eq!(millis_up(Duration::from_micros(1)), 1);
        assert_eq!(millis_up(Duration::from_millis(7)), 7);
    }
}
