//! Who is measured against whom: each a process that gets the same ticks, on a core of its own.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::gateway;
use super::publisher::Outlet;
use crate::bench::cores::Cores;
use crate::bench::ground::{Ground, loopback};
use crate::bench::server::{Door, Server};
use crate::broker::binary::Binary;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Contender {
    #[value(skip)]
    Tickwire,
    /// A plain axum broadcaster
    Axum,
    /// NATS' own WebSocket gateway
    NatsWs,
}

impl Contender {
    /// Whom we are compared with.
    pub(super) const PEERS: [Self; 2] = [Self::Axum, Self::NatsWs];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tickwire => "tickwire",
            Self::Axum => "axum",
            Self::NatsWs => "nats-ws",
        }
    }
}

/// What is needed to start anything.
pub(super) struct Tools {
    pub(super) cores: Cores,
    pub(super) nats_server: Binary,
    /// For how long the fanout may hold messages back, in milliseconds, if that is said.
    pub(super) hold_back_ms: Option<u64>,
    /// The broadcaster to compare with, if it is wanted.
    pub(super) axum: Option<PathBuf>,
}

/// One of them, running.
pub(super) struct Running {
    pub(super) server: Server,
    /// Where clients connect.
    pub(super) address: SocketAddr,
    /// Where its ticks are published.
    pub(super) outlet: Outlet,
}

impl Contender {
    /// Starts it, and waits until clients may connect.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub(super) async fn start(self, ground: &Ground, tools: &Tools) -> Result<Running> {
        let (address, inner) = (loopback()?, loopback()?);
        let (command, door) = match self {
            Self::Tickwire => {
                let mut command = ground.role("fanout", inner)?;
                command.args(["--shards", "1", "--ws", &address.to_string()]);
                let hold_back = tools.hold_back_ms.map(|millis| millis.to_string());
                command.args(hold_back.iter().flat_map(|of| ["--hold-back-ms", of]));
                (command, Door::Ready(inner))
            }
            Self::Axum => {
                let axum = tools.axum.as_ref();
                let mut command = ground.tied(self.name())?;
                command
                    .arg(axum.context("no broadcaster to compare with")?)
                    .arg(address.to_string())
                    .arg(ground.url());
                (command, Door::Open(address))
            }
            Self::NatsWs => {
                let file = gateway::write(ground.dir(), inner, address)?;
                let mut command = ground.tied(self.name())?;
                command.arg(&tools.nats_server.path).arg("-c").arg(file);
                (command, Door::Open(address))
            }
        };
        let command = (self.name(), command);
        let server = ground.launch(&tools.cores, command, door).await?;
        let outlet = match self {
            Self::Tickwire | Self::Axum => Outlet::Stream(ground.publisher.clone()),
            Self::NatsWs => gateway::outlet(inner).await?,
        };
        Ok(Running {
            server,
            address,
            outlet,
        })
    }
}
