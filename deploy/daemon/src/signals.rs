//! SIGTERM and SIGINT: the first asks for a drain, the second ends the process now.

use std::convert::Infallible;
use std::process;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Signals that ask a process to end, caught from here on.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes over the signals.
    ///
    /// # Errors
    ///
    /// The operating system refuses.
    pub fn catch() -> Result<Self> {
        let catch = |kind| signal(kind).context("signals cannot be caught");
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal: its name and the exit code that tells of it.
    async fn next(&mut self) -> (&'static str, i32) {
        tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", 143),
            _ = self.interrupt.recv() => ("SIGINT", 130),
        }
    }

    /// Cancels `stop` on the first signal and ends the process on the second.
    pub async fn relay(mut self, stop: CancellationToken) -> Infallible {
        let (name, _) = self.next().await;
        info!(
            signal = name,
            "stopping; a second signal ends the process at once"
        );
        stop.cancel();
        let (name, code) = self.next().await;
        warn!(signal = name, "ending at once");
        process::exit(code);
    }
}
