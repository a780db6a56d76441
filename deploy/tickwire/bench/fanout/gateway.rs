//! NATS' own WebSocket gateway: a nats-server that hands on what is published to it, and no more.
//!
//! No JetStream, no accounts, everything else as it comes: its fastest way from a publisher to a
//! browser. It pays for no stream and no reader of one, and whoever is cut off has missed what came.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::publisher::Outlet;

/// Writes its configuration.
///
/// # Errors
///
/// The directory cannot be written.
pub(super) fn write(dir: &Path, publishers: SocketAddr, clients: SocketAddr) -> Result<PathBuf> {
    let file = dir.join("gateway.conf");
    fs::write(&file, render(publishers, clients))
        .context("there is no room for a configuration")?;
    Ok(file)
}

fn render(publishers: SocketAddr, clients: SocketAddr) -> String {
    format!("listen: \"{publishers}\"\nwebsocket {{ listen: \"{clients}\", no_tls: true }}\n")
}

/// Where ticks for it go.
///
/// # Errors
///
/// It does not answer.
pub(super) async fn outlet(publishers: SocketAddr) -> Result<Outlet> {
    let client = async_nats::connect(format!("nats://{publishers}")).await;
    Ok(Outlet::Plain(
        client.context("nats-server does not answer")?,
    ))
}

#[cfg(test)]
mod tests {
    use super::render;

    #[test]
    fn it_listens_for_both_and_stores_nothing() {
        let text = render(
            "127.0.0.1:4222".parse().unwrap(),
            "127.0.0.1:8080".parse().unwrap(),
        );
        let expected = "listen: \"127.0.0.1:4222\"\n\
                        websocket { listen: \"127.0.0.1:8080\", no_tls: true }\n";
        assert_eq!(text, expected);
    }
}
