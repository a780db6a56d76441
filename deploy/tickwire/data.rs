//! The data directory: made if absent, and held by one process at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

/// A held data directory. Dropping it, or the end of the process, frees it.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes and holds the directory.
    ///
    /// # Errors
    ///
    /// Another process holds it, or it cannot be written.
    pub(crate) fn hold(path: &Path) -> Result<Self> {
        fs::create_dir_all(path)
            .with_context(|| format!("the data directory {} cannot be made", path.display()))?;
        let path = path
            .canonicalize()
            .with_context(|| format!("the data directory {} cannot be used", path.display()))?;
        let file = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&file)
            .with_context(|| format!("{} cannot be written", file.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(in_use(&path, &mut lock)),
            Err(TryLockError::Error(error)) => {
                return Err(anyhow!(error).context(format!("{} cannot be locked", file.display())));
            }
        }
        lock.set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .with_context(|| format!("{} cannot be written", file.display()))?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is, as an absolute path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn in_use(path: &Path, lock: &mut File) -> String {
    let mut holder = String::new();
    let holder = match lock.read_to_string(&mut holder) {
        Ok(_) if !holder.trim().is_empty() => format!("process {}", holder.trim()),
        _ => "another process".to_owned(),
    };
    format!(
        "the data directory {} is in use by {holder}: stop that one, or choose another with --data",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::DataDir;

    #[test]
    fn a_held_directory_is_refused_by_name_and_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/data");
        let held = DataDir::hold(&path).unwrap();
        let refusal = DataDir::hold(&path).unwrap_err().to_string();
        assert!(
            refusal.contains(&held.path().display().to_string()),
            "{refusal}"
        );
        assert!(
            refusal.contains(&format!("process {}", std::process::id())),
            "{refusal}"
        );
        drop(held);
        // A process that another test starts at this moment holds a copy of the lock until it runs.
        let deadline = Instant::now() + Duration::from_secs(30);
        while DataDir::hold(&path).is_err() {
            assert!(Instant::now() < deadline, "the directory stays held");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_file_is_no_data_directory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let refusal = format!("{:#}", DataDir::hold(file.path()).unwrap_err());
        assert!(refusal.contains("cannot be made"), "{refusal}");
    }
}
