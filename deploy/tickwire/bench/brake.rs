//! A server that has only a part of its processor's time: whoever loads it from the other processors
//! is sure to have enough of theirs.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How long the server runs, and how long it then stands still.
const STEP: Duration = Duration::from_millis(5);

/// Half of the time a server stands still, until this is dropped.
pub(in crate::bench) struct Brake {
    release: Option<Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Brake {
    /// Puts it on a process.
    ///
    /// # Errors
    ///
    /// The process has ended, or there is no thread to be had.
    pub(in crate::bench) fn on(pid: u32) -> Result<Self> {
        let pid = Pid::from_raw(i32::try_from(pid)?).context("a process")?;
        let process = pidfd_open(pid, PidfdFlags::empty()).context("the server has ended")?;
        let (release, released) = channel();
        let thread = thread::Builder::new().name("brake".to_owned());
        let thread = thread.spawn(move || {
            let mut turn = Instant::now();
            for signal in [Signal::STOP, Signal::CONT].into_iter().cycle() {
                turn += STEP;
                let wait = turn.saturating_duration_since(Instant::now());
                let is_over = released.recv_timeout(wait) != Err(RecvTimeoutError::Timeout);
                if is_over || !tell(&process, signal) {
                    break;
                }
            }
            // Whether it stood still at the end or not, and whether it is still there or not.
            let _ended = tell(&process, Signal::CONT);
        })?;
        Ok(Self {
            release: Some(release),
            thread: Some(thread),
        })
    }
}

impl Drop for Brake {
    fn drop(&mut self) {
        drop(self.release.take());
        if let Some(thread) = self.thread.take() {
            // It cannot panic, and there is nobody to tell.
            let _ended = thread.join();
        }
    }
}

/// Whether the process is still there to be told.
fn tell(process: &OwnedFd, signal: Signal) -> bool {
    pidfd_send_signal(process, signal).is_ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::Brake;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Waits until the kernel says this of a process.
    fn becomes(pid: u32, expected: char) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if stat
                .rsplit_once(") ")
                .is_some_and(|(_, state)| state.starts_with(expected))
            {
                return true;
            }
            std::thread::yield_now();
        }
        false
    }

    #[test]
    fn a_process_stands_still_and_goes_on_in_turns_and_goes_on_at_the_end() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let brake = Brake::on(child.id()).unwrap();
        let turns = ['T', 'S', 'T', 'S'].map(|expected| becomes(child.id(), expected));
        drop(brake);
        let goes_on = becomes(child.id(), 'S');
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((turns, goes_on), ([true; 4], true));
        assert!(Brake::on(child.id()).is_err());
    }
}
