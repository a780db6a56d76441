//! Finds a nats-server that is new enough.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bus::provision::check_version;
use tokio::process::Command;
use tokio::time::timeout;

/// How long a program may take to say its version.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which nats-server is started.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Search {
    /// The nats-server to start
    #[arg(long, env = "TICKWIRE_NATS_SERVER_BIN")]
    nats_server_bin: Option<PathBuf>,

    /// Where the shell looks for programs
    #[arg(long, env = "PATH", default_value = "", hide = true)]
    search_path: OsString,
}

/// Where to look, in this order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    /// The one that the user named; nothing else is tried then.
    pub(crate) named: Option<PathBuf>,
    /// Directories that the shell would look in.
    pub(crate) search_path: Vec<PathBuf>,
    /// Where `make setup` may have put one.
    pub(crate) installed: Vec<PathBuf>,
}

/// A nats-server that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Binary {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
}

impl Places {
    /// The places of this process: `data` is its data directory.
    pub(crate) fn new(search: &Search, data: &Path) -> Self {
        let executable = std::env::current_exe().unwrap_or_default();
        // target/<profile>/tickwire lies in the repository, whose .tools is three levels up.
        let around = [
            Some(Path::new(".")),
            data.parent(),
            executable.ancestors().nth(3),
        ];
        let installed = around
            .into_iter()
            .flatten()
            .map(|dir| dir.join(".tools/nats-server"));
        Self {
            named: search.nats_server_bin.clone(),
            search_path: std::env::split_paths(&search.search_path).collect(),
            installed: installed.collect(),
        }
    }

    /// The first that can be used.
    ///
    /// # Errors
    ///
    /// There is none; the error says what was found and every remedy.
    pub(crate) async fn find(&self) -> Result<Binary> {
        if let Some(named) = &self.named {
            return examine(named).await.with_context(|| {
                format!(
                    "the nats-server that was named, {}, cannot be used",
                    named.display()
                )
            });
        }
        let on_path = self.search_path.iter().map(|dir| dir.join("nats-server"));
        let mut refused = Vec::new();
        for candidate in on_path.chain(self.installed.iter().cloned()) {
            if !candidate.is_file() {
                continue;
            }
            match examine(&candidate).await {
                Ok(binary) => return Ok(binary),
                Err(why) => refused.push(format!("{}: {why:#}", candidate.display())),
            }
        }
        bail!(Missing(refused).to_string())
    }
}

struct Missing(Vec<String>);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no nats-server to start")?;
        for refused in &self.0 {
            write!(f, " ({refused})")?;
        }
        write!(
            f,
            ": run `make setup`, which installs one under .tools; or put nats-server 2.12.8 or \
             later on the PATH; or name one with --nats-server-bin or TICKWIRE_NATS_SERVER_BIN; or \
             start one yourself and give its address with --nats-url or TICKWIRE_NATS_URL"
        )
    }
}

async fn examine(path: &Path) -> Result<Binary> {
    let path = path.canonicalize().context("there is no such file")?;
    let mut command = Command::new(&path);
    command
        .arg("--version")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(PATIENCE, command.output())
        .await
        .with_context(|| format!("it did not say its version within {PATIENCE:?}"))?
        .context("it cannot be run")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = parse_version(&text)
        .with_context(|| format!("it does not say its version but {:?}", text.trim()))?;
    check_version(version)?;
    Ok(Binary {
        path,
        version: version.to_owned(),
    })
}

/// Reads `nats-server: v2.15.1`.
fn parse_version(text: &str) -> Option<&str> {
    let version = text.trim().strip_prefix("nats-server: ")?.trim();
    let version = version.strip_prefix('v').unwrap_or(version);
    version
        .starts_with(|first: char| first.is_ascii_digit())
        .then_some(version)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::{Path, PathBuf, Places, parse_version};

    /// A program in a directory of its own that prints `says`.
    fn fake(dir: &Path, name: &str, says: &str) -> PathBuf {
        let home = dir.join(name);
        fs::create_dir_all(&home).unwrap();
        let path = home.join("nats-server");
        // Written elsewhere and renamed: a file that is open for writing cannot be run.
        let fresh = home.join("fresh");
        fs::write(&fresh, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&fresh, &path).unwrap();
        path
    }

    #[test]
    fn versions_are_read_from_the_programs_own_words() {
        assert_eq!(parse_version("nats-server: v2.15.1\n"), Some("2.15.1"));
        assert_eq!(parse_version("nats-server: 2.16.0-dev"), Some("2.16.0-dev"));
        for text in [
            "",
            "nats-server: ",
            "nats-server: vx",
            "v2.15.1",
            "GNU bash 5",
        ] {
            assert_eq!(parse_version(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn the_order_is_named_then_path_then_installed() {
        let dir = TempDir::new().unwrap();
        let [named, on_path, installed] = [("a", "2.13.0"), ("b", "2.14.0"), ("c", "2.15.1")]
            .map(|(name, version)| fake(dir.path(), name, &format!("nats-server: v{version}")));
        let mut places = Places {
            named: Some(named.clone()),
            search_path: vec![
                dir.path().join("nothing"),
                on_path.parent().unwrap().to_owned(),
            ],
            installed: vec![installed.clone()],
        };
        let found = places.find().await.unwrap();
        assert_eq!(
            (found.path, found.version.as_str()),
            (named.canonicalize().unwrap(), "2.13.0")
        );
        places.named = None;
        assert_eq!(places.find().await.unwrap().version, "2.14.0");
        places.search_path.clear();
        assert_eq!(places.find().await.unwrap().version, "2.15.1");
    }

    #[tokio::test]
    async fn one_that_is_too_old_is_passed_over_and_told_of() {
        let dir = TempDir::new().unwrap();
        let old = fake(dir.path(), "old", "nats-server: v2.9.10");
        let new = fake(dir.path(), "new", "nats-server: v2.12.8");
        let mut places = Places {
            search_path: vec![old.parent().unwrap().to_owned()],
            installed: vec![new],
            ..Places::default()
        };
        assert_eq!(places.find().await.unwrap().version, "2.12.8");
        places.installed.clear();
        let error = places.find().await.unwrap_err().to_string();
        for part in [
            "2.9.10 is too old",
            "make setup",
            "TICKWIRE_NATS_URL",
            "--nats-server-bin",
        ] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
        places.named = Some(old);
        let error = format!("{:#}", places.find().await.unwrap_err());
        assert!(error.contains("2.9.10 is too old"), "{error}");
    }

    #[tokio::test]
    async fn what_is_no_nats_server_is_refused() {
        let dir = TempDir::new().unwrap();
        let other = fake(dir.path(), "other", "something else");
        let named = |path| Places {
            named: Some(path),
            ..Places::default()
        };
        let error = format!("{:#}", named(other).find().await.unwrap_err());
        assert!(error.contains("something else"), "{error}");
        let absent = dir.path().join("absent");
        let error = format!("{:#}", named(absent).find().await.unwrap_err());
        assert!(error.contains("no such file"), "{error}");
        let plain = dir.path().join("plain");
        fs::write(&plain, "not a program").unwrap();
        let error = format!("{:#}", named(plain).find().await.unwrap_err());
        assert!(error.contains("cannot be run"), "{error}");
    }
}
