//! Which processors the server under test has to itself, and which all the others share.

use std::fs;

use anyhow::{Context as _, Result};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The processors that we may use, divided.
pub(in crate::bench) struct Cores {
    /// The first one, for the server, and the rest; absent where there is only one.
    divided: Option<(CpuSet, CpuSet)>,
}

impl Cores {
    /// Divides what this process may use.
    ///
    /// # Errors
    ///
    /// The system does not say what that is.
    pub(in crate::bench) fn divide() -> Result<Self> {
        let all = sched_getaffinity(None).context("the processors cannot be counted")?;
        let mut usable = (0..CpuSet::MAX_CPU).filter(|number| all.is_set(*number));
        let mut server = CpuSet::new();
        let mut others = all;
        if let Some(first) = usable.next() {
            server.set(first);
            others.unset(first);
        }
        let divided = (others.count() > 0).then_some((server, others));
        Ok(Self { divided })
    }

    /// Whether the server has a processor to itself.
    pub(in crate::bench) const fn is_divided(&self) -> bool {
        self.divided.is_some()
    }

    /// Moves every thread of this process off the server's processor; what they start follows.
    ///
    /// # Errors
    ///
    /// The system refuses.
    pub(in crate::bench) fn settle(&self) -> Result<()> {
        let Some((_, others)) = &self.divided else {
            return Ok(());
        };
        for entry in fs::read_dir("/proc/self/task")? {
            let name = entry?.file_name();
            let thread = name.to_str().and_then(|name| name.parse().ok());
            // A thread that has ended meanwhile needs no place.
            if let Some(thread) = thread.and_then(Pid::from_raw) {
                let _ended = sched_setaffinity(Some(thread), others);
            }
        }
        sched_setaffinity(None, others).context("this process cannot leave the server's processor")
    }

    /// Starts something that inherits the server's processor, alone.
    ///
    /// # Errors
    ///
    /// The system refuses, or `start` does.
    pub(in crate::bench) fn on_server<T>(
        &self,
        start: impl FnOnce() -> std::io::Result<T>,
    ) -> Result<T> {
        let Some((server, others)) = &self.divided else {
            return Ok(start()?);
        };
        // A process inherits the place of the thread that starts it.
        sched_setaffinity(None, server).context("the server cannot be given a processor")?;
        let started = start();
        sched_setaffinity(None, others)
            .context("this thread cannot leave the server's processor")?;
        Ok(started?)
    }
}
