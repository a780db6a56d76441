//! `tickwire nats-child`: becomes the nats-server, tied to the life of the process that asked for it.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::fd::IntoRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::getppid;

/// How long a former server on the same files may take to end.
const PATIENCE: Duration = Duration::from_secs(15);

/// What to become.
#[derive(Debug, clap::Args)]
pub(crate) struct ChildArgs {
    /// The process whose end ends the server
    #[arg(long)]
    parent: i32,

    /// A file that is locked for as long as the server lives
    #[arg(long)]
    lock: PathBuf,

    /// The server and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Becomes the server.
///
/// # Errors
///
/// The parent is gone, another server uses the files, or the server cannot be run.
pub(crate) fn become_server(args: &ChildArgs) -> Result<Infallible> {
    tie_to_parent()?;
    if getppid().is_none_or(|parent| parent.as_raw_nonzero().get() != args.parent) {
        bail!("the parent process {} is gone", args.parent);
    }
    let lock = hold(&args.lock)?;
    // The server inherits the lock, so nobody else can start on the same files while it lives.
    fcntl_setfd(&lock, FdFlags::empty()).context("the lock cannot be handed on")?;
    let _inherited = lock.into_raw_fd();
    let Some((program, arguments)) = args.command.split_first() else {
        bail!("there is no server to become");
    };
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("{} cannot be run", program.display()))
}

/// Nothing but the kernel is sure to outlive the parent, and nothing is lost by a kill: what was
/// acknowledged lies in the page cache.
#[cfg(target_os = "linux")]
fn tie_to_parent() -> Result<()> {
    use rustix::process::{Signal, set_parent_process_death_signal};

    set_parent_process_death_signal(Some(Signal::KILL))
        .context("the server cannot be tied to the life of its parent")
}

#[cfg(not(target_os = "linux"))]
fn tie_to_parent() -> Result<()> {
    bail!("the server cannot be tied to the life of its parent: that needs Linux")
}

fn hold(path: &Path) -> Result<File> {
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .with_context(|| format!("{} cannot be written", path.display()))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => bail!(
                "another nats-server still works on the files beside {}: end that one first",
                path.canonicalize()
                    .unwrap_or_else(|_| path.to_owned())
                    .display()
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("{} cannot be locked", path.display()));
            }
        }
    }
}
