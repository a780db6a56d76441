//! What comes out: one line of JSON, and tables for people.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::contender::Contender;

/// The latency that a load may not exceed at the 99th percentile, in milliseconds.
const BOUND_MS: f64 = 100.0;

/// One load, and how it was carried.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Load {
    pub(super) scenario: &'static str,
    pub(super) server: Contender,
    pub(super) encoding: &'static str,
    pub(super) clients: usize,
    pub(super) ticks_per_second: u32,
    /// How long was counted.
    pub(super) seconds: f64,
    /// Deliveries of ticks scheduled in that time.
    pub(super) deliveries: u64,
    pub(super) deliveries_per_second: f64,
    /// Thousand deliveries per second of the server's processor time.
    pub(super) kilo_per_cpu_second: f64,
    /// Processors used, of one.
    pub(super) server_cpu: f64,
    pub(super) broker_cpu: f64,
    /// The clients' and the publisher's.
    pub(super) client_cpu: f64,
    /// By whoever else is on this machine, or on its host: near 0, or nothing here means much.
    pub(super) foreign_cpu: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
    /// Bytes of a tick as it was published: MessagePack for a server that reads the stream, JSON for
    /// one that hands on what it gets.
    pub(super) bytes_published: f64,
    /// Bytes on the socket.
    pub(super) bytes_per_delivery: f64,
    /// Resident memory that each connection took before anything was sent.
    pub(super) idle_kib: f64,
    /// How late the latest tick was published: large values mean that the load was the limit.
    pub(super) publisher_behind_ms: f64,
    /// Missed, and not declared.
    pub(super) holes: u64,
    /// Published and not received by the end.
    pub(super) lost: u64,
    pub(super) duplicates: u64,
    /// Left out, and declared.
    pub(super) declared: u64,
    /// Connections that the server closed.
    pub(super) closed: u64,
    /// The same by close code; 1006 without one.
    pub(super) closes: BTreeMap<u16, u64>,
}

impl Load {
    /// Nothing was measured.
    #[cfg(test)]
    pub(super) const fn none() -> Self {
        Self {
            scenario: "",
            server: Contender::Tickwire,
            encoding: "json",
            clients: 0,
            ticks_per_second: 0,
            seconds: 0.0,
            deliveries: 0,
            deliveries_per_second: 0.0,
            kilo_per_cpu_second: 0.0,
            server_cpu: 0.0,
            broker_cpu: 0.0,
            client_cpu: 0.0,
            foreign_cpu: 0.0,
            p50_ms: 0.0,
            p99_ms: 0.0,
            max_ms: 0.0,
            bytes_published: 0.0,
            bytes_per_delivery: 0.0,
            idle_kib: 0.0,
            publisher_behind_ms: 0.0,
            holes: 0,
            lost: 0,
            duplicates: 0,
            declared: 0,
            closed: 0,
            closes: BTreeMap::new(),
        }
    }

    /// Whether all was delivered to everybody in time.
    pub(super) fn passes(&self) -> bool {
        self.is_whole() && self.p99_ms < BOUND_MS
    }

    /// Whether all was delivered to everybody.
    pub(super) const fn is_whole(&self) -> bool {
        self.holes == 0 && self.lost == 0 && self.declared == 0 && self.closed == 0
    }
}

/// The highest load that passed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Ceiling {
    /// It; absent if not even the first one passed.
    pub(super) highest: Option<Load>,
    /// The lowest that did not; absent if the ramp ended before.
    pub(super) failed: Option<Load>,
    /// Half of the highest.
    pub(super) half: Option<Load>,
}

/// Slow clients among others.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Slow {
    /// The others' load without and with slow clients.
    pub(super) without: Load,
    pub(super) with: Load,
    pub(super) stalled: usize,
    /// How many the server closed as slow, by its own count.
    pub(super) closed_4008: u64,
    /// How many of them got a close frame that says so, once they read again.
    pub(super) told_4008: u64,
    /// Seconds after which the last one was closed; absent if one was not.
    pub(super) closed_after_s: Option<f64>,
    /// How much the server's memory grew at most, in KiB.
    pub(super) growth_kib: f64,
}

/// Everybody cut at once, and back.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Storm {
    pub(super) clients: usize,
    pub(super) away_s: f64,
    /// Ticks that were published for those who were away.
    pub(super) missed: u64,
    /// Until the last subscription was accepted again.
    pub(super) back_ms: f64,
    /// Until the last tick from before the return had arrived.
    pub(super) caught_up_ms: f64,
    pub(super) deliveries: u64,
    pub(super) p99_ms: f64,
    pub(super) holes: u64,
    pub(super) lost: u64,
    pub(super) duplicates: u64,
    pub(super) declared: u64,
    pub(super) closed: u64,
}

/// Connections that come and go among very many instruments.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Churn {
    pub(super) instruments: usize,
    /// Those that churn.
    pub(super) connections: usize,
    /// How many ops they ask for, all together.
    pub(super) ops_per_second: u32,
    /// Of a replica that has read every instrument's last value, before anybody connects.
    pub(super) resident_kib: f64,
    /// How much more that is for each than a replica of an empty stream has; the tick is part of it.
    pub(super) bytes_per_topic: f64,
    /// Until a subscriber to all instruments by one pattern has every last value; absent if one
    /// never came.
    pub(super) pattern_ms: Option<f64>,
    pub(super) pairs: Vec<ChurnPair>,
}

/// A run without churn, and one with.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ChurnPair {
    /// The load of those who stay.
    pub(super) without: Load,
    pub(super) with: Load,
    pub(super) answered_per_second: f64,
    /// From the time at which an op was due.
    pub(super) ack_p50_ms: f64,
    pub(super) ack_p99_ms: f64,
    /// What the server's processor time grew by, in microseconds per op.
    pub(super) cpu_us_per_op: f64,
    /// Ops that were refused, or never answered.
    pub(super) unanswered: u64,
    /// Subscriptions that were not followed by a last value before they ended again.
    pub(super) without_value: u64,
    /// Ticks that nobody asked for.
    pub(super) strays: u64,
    /// Connections that the server closed, of those that churn.
    pub(super) closed: u64,
}

impl ChurnPair {
    /// Whether something went wrong. A last value that comes too late is none: whoever has left the
    /// topic again does not want it.
    pub(super) const fn is_broken(&self) -> bool {
        self.unanswered > 0 || self.strays > 0 || self.closed > 0
    }

    /// Whether every op was carried out, with all that follows from it.
    pub(super) const fn is_whole(&self) -> bool {
        !self.is_broken() && self.without_value == 0
    }
}

/// A replica that fell behind, and read what it had missed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct CatchUp {
    /// So many.
    pub(super) messages: u64,
    /// How long it was stopped.
    pub(super) stopped_s: f64,
    /// Until it had read something, and everything, from when it went on.
    pub(super) first_ms: f64,
    pub(super) whole_ms: f64,
    /// Thousand messages a second between the two.
    pub(super) kilo_per_second: f64,
    /// Processor time per message: its own and the broker's.
    pub(super) cpu_us_per_message: f64,
    pub(super) broker_us_per_message: f64,
}

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) machine: String,
    /// Whether the server had a core to itself.
    pub(super) pinned: bool,
    pub(super) loads: Vec<Load>,
    /// By scenario and server.
    pub(super) ceilings: BTreeMap<String, Ceiling>,
    pub(super) slow: Vec<Slow>,
    pub(super) storm: Option<Storm>,
    pub(super) churn: Option<Churn>,
    pub(super) catch_ups: Vec<CatchUp>,
    /// Ours to the peer's, in this run; and other quotients that budgets name.
    pub(super) ratios: BTreeMap<String, f64>,
}

/// A count as a number with a fraction.
pub(super) fn float(count: u64) -> f64 {
    let low = u32::try_from(count & u64::from(u32::MAX)).unwrap_or_default();
    let high = u32::try_from(count >> 32).unwrap_or_default();
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}

/// Bytes in KiB.
pub(super) fn kib(bytes: u64) -> f64 {
    float(bytes) / 1_024.0
}

/// One count by another; 0 of nothing.
pub(super) fn ratio(count: u64, of: u64) -> f64 {
    quotient(float(count), float(of))
}

/// Thousands per second; 0 in no time.
pub(super) fn thousands_per_second(count: u64, time: Duration) -> f64 {
    quotient(float(count) / 1_000.0, time.as_secs_f64())
}

/// One number by another; 0 of nothing.
pub(super) fn quotient(number: f64, of: f64) -> f64 {
    if of > 0.0 { number / of } else { 0.0 }
}

/// The middle one.
pub(super) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    let above = numbers.get(middle).copied().unwrap_or_default();
    if numbers.len().is_multiple_of(2) {
        let below = middle
            .checked_sub(1)
            .and_then(|at| numbers.get(at).copied());
        return f64::midpoint(below.unwrap_or(above), above);
    }
    above
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{float, median, ratio, thousands_per_second};

    #[test]
    fn counts_become_numbers() {
        assert!((float(5_000_000_000) - 5e9).abs() < 1.0);
        assert!((ratio(1, 4) - 0.25).abs() < 1e-9);
        assert!(ratio(1, 0).abs() < 1e-9);
        let rate = thousands_per_second(250_000, Duration::from_secs(2));
        assert!((rate - 125.0).abs() < 1e-9);
    }

    #[test]
    fn the_median_is_the_middle() {
        for (numbers, middle) in [
            (vec![3.0, 1.0, 2.0], 2.0),
            (vec![4.0, 1.0], 2.5),
            (vec![], 0.0),
        ] {
            assert!((median(numbers) - middle).abs() < 1e-9);
        }
    }
}
