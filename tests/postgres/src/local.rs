//! A server of this machine, on a socket in a directory of its own.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, bail};
use rustix::process::geteuid;
use tokio::process::Command;

/// Where Debian keeps the programs of each version.
const DEBIAN: &str = "/usr/lib/postgresql";
const REMEDY: &str =
    "no Postgres is installed: install it (Debian: apt-get install postgresql), or start Docker";
/// It refuses to run as root.
const USER: &str = "postgres";
const URL_PORT: u16 = 5432;
/// Ends the server when whoever started it is gone, however that went, and removes its directory
/// unless it was told to keep it.
const MINDER: &str = r#"
trap '' INT TERM HUP
dir=$1; shift
"$@" >/dev/null 2>>"$dir/log" & server=$!
read -r word
kill -QUIT $server; wait $server
[ "$word" = keep ] || rm -rf "$dir"
"#;
const KEEP: &[u8] = b"keep\n";

/// A server that ends with this process, or when this is dropped.
#[derive(Debug)]
pub(crate) struct Local {
    programs: PathBuf,
    version: String,
    minder: Option<Child>,
    dir: PathBuf,
}

impl Local {
    pub(crate) async fn start() -> Result<Self> {
        let programs = programs().context(REMEDY)?;
        let version = output(Command::new(programs.join("postgres")).arg("--version")).await?;
        let dir = tempfile::Builder::new().prefix("tw-pg-").tempdir()?;
        if geteuid().is_root() {
            let user = output(Command::new("id").args(["-u", USER])).await;
            chown(dir.path(), Some(user.context(REMEDY)?.parse()?), None)?;
        }
        let mut local = Self {
            programs,
            version,
            minder: None,
            dir: dir.path().to_owned(),
        };
        let (program, args) = local.program("initdb");
        let mut initdb = Command::new(program);
        initdb.args(args).arg("--pgdata").arg(local.data());
        initdb.args([
            "--no-sync",
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
        ]);
        output(initdb.arg("--locale=C.UTF-8")).await?;
        local.run()?;
        // From here on it is the minder's.
        let _ = dir.keep();
        crate::answers(&local.url("postgres")).await?;
        Ok(local)
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    pub(crate) fn url(&self, database: &str) -> String {
        let dir = self.dir.display();
        format!("postgres://postgres@localhost:{URL_PORT}/{database}?host={dir}")
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// A program of the server and how it is started as a user whom it accepts.
    fn program(&self, name: &str) -> (OsString, Vec<OsString>) {
        let program = self.programs.join(name).into_os_string();
        if !geteuid().is_root() {
            return (program, Vec::new());
        }
        let (user, group) = (format!("--reuid={USER}"), format!("--regid={USER}"));
        let args = [&user, &group, "--init-groups", "--"].map(OsString::from);
        (
            "setpriv".into(),
            args.into_iter().chain([program]).collect(),
        )
    }

    /// Starts it on what is there.
    pub(crate) fn run(&mut self) -> Result<()> {
        let (program, args) = self.program("postgres");
        let mut minder = std::process::Command::new("sh");
        minder
            .args(["-c", MINDER, "sh"])
            .arg(&self.dir)
            .arg(program)
            .args(args);
        minder.arg("-D").arg(self.data()).arg("-k").arg(&self.dir);
        minder.args(["-c", "listen_addresses=", "-c", "max_connections=200"]);
        minder.current_dir(&self.dir).stdin(Stdio::piped());
        self.minder = Some(minder.spawn()?);
        Ok(())
    }

    /// Ends it without a checkpoint; it recovers when it starts again.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        let Some(mut minder) = self.minder.take() else {
            return Ok(());
        };
        let ended = tokio::task::spawn_blocking(move || {
            if let Some(mut words) = minder.stdin.take() {
                words.write_all(KEEP)?;
            }
            minder.wait()
        });
        ended.await??;
        Ok(())
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
