//! A server of this machine, on a socket in a directory of its own.

use std::io;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// Where Debian keeps the programs of each version.
const DEBIAN: &str = "/usr/lib/postgresql";
const REMEDY: &str =
    "no Postgres is installed: install it (Debian: apt-get install postgresql), or start Docker";
/// It refuses to run as root.
const USER: &str = "postgres";
const PATIENCE: Duration = Duration::from_mins(1);
const URL_PORT: u16 = 5432;

/// A server that ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Local {
    programs: PathBuf,
    version: String,
    child: Option<Child>,
    dir: TempDir,
}

impl Local {
    pub(crate) async fn start() -> Result<Self> {
        let programs = programs().context(REMEDY)?;
        let version = output(Command::new(programs.join("postgres")).arg("--version")).await?;
        let dir = tempfile::Builder::new().prefix("tw-pg-").tempdir()?;
        if geteuid().is_root() {
            let user = output(Command::new("id").args(["-u", USER]))
                .await
                .context(REMEDY)?;
            chown(dir.path(), Some(user.parse()?), None)?;
        }
        let mut local = Self {
            programs,
            version,
            child: None,
            dir,
        };
        let mut initdb = local.program("initdb");
        initdb.args([
            "--no-sync",
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
        ]);
        // Not what the suite would be happy with by chance.
        initdb
            .args(["--locale=C.UTF-8", "--pgdata"])
            .arg(local.data());
        output(&mut initdb).await?;
        local.run()?;
        crate::answers(&local.url("postgres")).await?;
        Ok(local)
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    pub(crate) fn url(&self, database: &str) -> String {
        let dir = self.dir.path().display();
        format!("postgres://postgres@localhost:{URL_PORT}/{database}?host={dir}")
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn program(&self, name: &str) -> Command {
        let program = self.programs.join(name);
        if !geteuid().is_root() {
            return Command::new(program);
        }
        let mut command = Command::new("setpriv");
        let (user, group) = (format!("--reuid={USER}"), format!("--regid={USER}"));
        command
            .args([&user, &group, "--init-groups", "--"])
            .arg(program);
        command
    }

    /// Starts it on what is there.
    pub(crate) fn run(&mut self) -> Result<()> {
        let log = std::fs::File::create(self.dir.path().join("log"))?;
        let mut postgres = self.program("postgres");
        postgres
            .arg("-D")
            .arg(self.data())
            .arg("-k")
            .arg(self.dir.path());
        postgres.args(["-c", "listen_addresses=", "-c", "max_connections=200"]);
        postgres
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        postgres.current_dir(self.dir.path());
        let mut child = postgres.spawn()?;
        if let Some(status) = child.try_wait()? {
            bail!("postgres ended at once: {status}");
        }
        self.child = Some(child);
        Ok(())
    }

    /// Ends it without a checkpoint; it recovers when it starts again.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        end(&child)?;
        let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
        ended.context("the server does not end")??;
        Ok(())
    }
}

/// Immediate shutdown: it ends its own processes too, which a kill would not.
fn end(child: &Child) -> io::Result<()> {
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    pid.map_or(Ok(()), |pid| Ok(kill_process(pid, Signal::QUIT)?))
}

impl Drop for Local {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        // Its directory goes away behind it; nobody hears of trouble here.
        let _ = end(&child);
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while matches!(child.try_wait(), Ok(None)) && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Where the programs are: the newest that Debian has, or wherever PATH leads to.
#[expect(clippy::disallowed_methods, reason = "a test has no arguments")]
fn programs() -> Option<PathBuf> {
    let version = |dir: &PathBuf| -> Option<u32> { dir.file_name()?.to_str()?.parse().ok() };
    let debian = std::fs::read_dir(DEBIAN).into_iter().flatten().flatten();
    let mut dirs: Vec<PathBuf> = debian.map(|entry| entry.path()).collect();
    dirs.sort_by_key(|dir| std::cmp::Reverse(version(dir)));
    let debian = dirs.into_iter().map(|dir| dir.join("bin"));
    let path = std::env::var("PATH").unwrap_or_default();
    let path: Vec<PathBuf> = std::env::split_paths(&path).collect();
    debian
        .chain(path)
        .find(|dir| has(dir, "initdb") && has(dir, "postgres"))
}

fn has(dir: &Path, name: &str) -> bool {
    dir.join(name).is_file()
}

/// What a program prints, if it succeeds.
async fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().await;
    let output = output.with_context(|| format!("{command:?} does not start"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} failed: {}", why.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
