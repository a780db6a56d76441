//! The managed nats-server's configuration: loopback only, one user for each role.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result};
use bus::provision::StreamSpec;
use daemon::nats::{Login, Secret, Settings};
use rand::RngExt as _;

/// What each role may do; operators include the same file.
const ROLES: &str = include_str!("../../nats/roles.conf");
/// The name of the stream in that file.
const STREAM: &str = "TICKS";
/// The account in that file that has the streams.
pub(crate) const ACCOUNT: &str = "TICKWIRE";
/// Where the server keeps what its accounts store, in its directory.
pub(crate) const DATA: &str = "jetstream";
/// Everybody with a user in that file.
const USERS: [&str; 6] = ["provision", "ingest", "fanout", "recorder", "api", "reader"];
/// The name of the configuration file in the broker's directory.
pub(super) const FILE: &str = "server.conf";
/// The stream's own limit is what counts: with one near it here, a stream that is to become smaller
/// would not fit before it is.
const MAX_STORE: u64 = 1 << 50;

/// The roles' passwords, new in every process.
#[derive(Clone, Debug)]
pub(crate) struct Logins {
    port: u16,
    passwords: BTreeMap<&'static str, Secret>,
}

impl Logins {
    /// Fresh passwords for a broker on this port.
    pub(crate) fn random(port: u16) -> Self {
        let password = || Secret::from(format!("{:032x}", rand::rng().random::<u128>()));
        Self {
            port,
            passwords: USERS.map(|user| (user, password())).into(),
        }
    }

    /// Where the broker listens.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// How a role connects.
    pub(crate) fn settings(&self, role: &'static str) -> Settings {
        let login = self
            .passwords
            .get(role)
            .map_or(Login::Anonymous, |password| Login::Password {
                user: role.to_owned(),
                password: password.clone(),
            });
        Settings {
            url: self.url(),
            login,
            role,
        }
    }
}

/// Writes the configuration, readable by this user alone.
///
/// # Errors
///
/// The directory cannot be written.
pub(crate) fn write(dir: &Path, spec: &StreamSpec, logins: &Logins) -> Result<()> {
    let text = render(spec, logins);
    let path = dir.join(FILE);
    let fresh = dir.join("server.conf.new");
    let written = fs::create_dir_all(dir)
        .and_then(|()| fs::set_permissions(dir, Permissions::from_mode(0o700)))
        .and_then(|()| {
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&fresh)
        })
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&fresh, &path));
    written.with_context(|| format!("{} cannot be written", path.display()))
}

/// Paths are relative: the server runs in its directory.
fn render(spec: &StreamSpec, logins: &Logins) -> String {
    let port = logins.port;
    let mut text = format!(
        "listen: \"127.0.0.1:{port}\"\n\
         server_name: tickwire\n\
         logtime: false\n\
         jetstream {{ store_dir: \".\", max_file_store: {MAX_STORE}, sync_interval: \"10s\" }}\n\
         # Loopback is open to every local user: who does not log in may read, in an account of readers.\n\
         no_auth_user: reader\n\n"
    );
    for (user, password) in &logins.passwords {
        let name = user.to_uppercase();
        text.extend([
            "TICKWIRE_",
            &name,
            "_PASSWORD: \"",
            password.reveal(),
            "\"\n",
        ]);
    }
    text.push('\n');
    text.push_str(&ROLES.replace(STREAM, &spec.name));
    text
}

#[cfg(test)]
mod tests;
