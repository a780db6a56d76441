//! What a process has used, as /proc says by its id.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::bench) struct Usage {
    /// User and system time of all its threads.
    pub(in crate::bench) cpu: Duration,
    /// Resident bytes, now.
    pub(in crate::bench) resident: u64,
}

/// Asks for a process; its threads are counted in.
///
/// # Errors
///
/// It has ended.
pub(in crate::bench) fn of(pid: u32) -> Result<Usage> {
    let read = |what: &str| {
        fs::read_to_string(format!("/proc/{pid}/{what}"))
            .with_context(|| format!("process {pid} has ended"))
    };
    let ticks = cpu_ticks(&read("stat")?).context("/proc/<pid>/stat cannot be read")?;
    let pages = resident_pages(&read("statm")?).context("/proc/<pid>/statm cannot be read")?;
    let page = u64::try_from(rustix::param::page_size())?;
    Ok(Usage {
        cpu: time(ticks),
        resident: pages.saturating_mul(page),
    })
}

/// How long all processors together have worked, or were taken away by the host.
///
/// # Errors
///
/// The system does not say.
pub(in crate::bench) fn of_all() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat").context("/proc/stat cannot be read")?;
    let ticks = busy_ticks(&stat).context("/proc/stat cannot be read")?;
    Ok(time(ticks))
}

fn time(ticks: u64) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_nanos(ticks.saturating_mul(1_000_000_000 / per_second))
}

/// User, nice, system, interrupts of both sorts, stolen; not idle, nor waiting for disks.
fn busy_ticks(stat: &str) -> Option<u64> {
    let all = stat.lines().next()?.strip_prefix("cpu ")?;
    let times = all.split_whitespace().take(8).enumerate();
    let busy = times.filter(|(at, _)| *at != 3 && *at != 4);
    busy.map(|(_, ticks)| ticks.parse::<u64>().ok()).sum()
}

/// User and system time; the name before them may hold anything, so it is skipped from its end.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut times = fields.split(' ').skip(11);
    let mut next = || times.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

fn resident_pages(statm: &str) -> Option<u64> {
    statm.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{busy_ticks, cpu_ticks, of, of_all, resident_pages};

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "42 (a) b) c) S 1 42 42 0 -1 4194560 900 0 0 0 17 25 0 0 20 0 3 0 100 1 2";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(cpu_ticks("42 (a) S 1"), None);
        assert_eq!(resident_pages("500 120 30 1 0 50 0"), Some(120));
    }

    #[test]
    fn idle_time_is_no_work() {
        let stat = "cpu  1 20 300 4000 50000 600000 7000000 80000000 9 9\ncpu0 1 2 3\n";
        assert_eq!(busy_ticks(stat), Some(87_600_321));
        assert_eq!(busy_ticks("intr 1 2"), None);
        assert!(of_all().is_ok());
    }

    #[test]
    fn this_process_has_memory() {
        assert!(of(std::process::id()).unwrap().resident > 0);
        assert!(of(u32::MAX).is_err());
    }
}
