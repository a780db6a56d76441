//! Says what runs where: to the user on stdout, to programs in the ready file.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;
use tracing::warn;

use crate::broker::Life;
use crate::broker::binary::Binary;

/// What runs where.
pub(super) struct Place {
    pub(super) http: SocketAddr,
    pub(super) ws: SocketAddr,
    pub(super) ops: SocketAddr,
    pub(super) nats: String,
    /// Our own broker's program.
    pub(super) server: Option<Binary>,
    pub(super) data: PathBuf,
    pub(super) feeds: PathBuf,
}

/// Says it.
///
/// # Errors
///
/// The ready file cannot be written.
pub(super) fn publish(place: &Place, life: Option<Life>, file: Option<&Path>) -> Result<()> {
    // The file first: whoever reads the text may go on to read the file.
    if let Some(file) = file {
        replace(file, &place.json(life))
            .with_context(|| format!("--ready-file {} cannot be written", file.display()))?;
    }
    if let Err(problem) = crate::say(&place.text()) {
        warn!(%problem, "nobody reads what runs where");
    }
    Ok(())
}

/// Takes the ready file away: what it says is not true any more.
pub(super) fn withdraw(file: Option<&Path>) {
    if let Some(file) = file
        && let Err(error) = fs::remove_file(file)
        && error.kind() != ErrorKind::NotFound
    {
        warn!(file = %file.display(), %error, "the ready file cannot be removed");
    }
}

/// Readers see the whole file or none.
fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    let mut fresh = file.as_os_str().to_owned();
    fresh.push(".new");
    fs::write(&fresh, text)?;
    fs::rename(&fresh, file)
}

impl Place {
    fn text(&self) -> String {
        let server = self
            .server
            .as_ref()
            .map_or_else(String::new, |Binary { path, version }| {
                format!(
                    " ({} {version}; without login it may be read)",
                    path.display()
                )
            });
        format!(
            "Tickwire {} is up. It knows no keys: every user of this machine may use it, and \
             nobody else.\n\
             \x20 console     http://{}/\n\
             \x20 WebSocket   ws://{}/v1/stream\n\
             \x20 operations  http://{}/health\n\
             \x20 broker      {}{server}\n\
             \x20 data        {}\n\
             \x20 feeds       {}\n\
             Ctrl-C drains and stops it.",
            env!("CARGO_PKG_VERSION"),
            self.http,
            self.ws,
            self.ops,
            self.nats,
            self.data.display(),
            self.feeds.display(),
        )
    }

    fn json(&self, life: Option<Life>) -> String {
        let server = self.server.as_ref();
        json!({
            "pid": std::process::id(),
            "http": format!("http://{}", self.http),
            "ws": format!("ws://{}/v1/stream", self.ws),
            "ops": format!("http://{}", self.ops),
            "data": self.data,
            "feeds": self.feeds,
            "nats": {
                "url": self.nats,
                "pid": life.and_then(|life| life.pid),
                "binary": server.map(|server| &server.path),
                "version": server.map(|server| &server.version),
            },
        })
        .to_string()
    }
}
