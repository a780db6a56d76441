//! Process plumbing shared by every role: it knows no tick.
//!
//! | module | holds |
//! |---|---|
//! | [`telemetry`] | log filter and format |
//! | [`signals`] | SIGTERM and SIGINT as a stop token |
//! | [`supervise`] | named parts: any early exit ends all, in order, in bounded time |
//! | [`health`] | checks that decide readiness |
//! | [`ops`] | `/livez` `/readyz` `/health` `/metrics` `/stats` |
//! | [`nats`] | connections to the broker |

#![deny(missing_docs)]

pub mod health;
pub mod nats;
pub mod ops;
pub mod signals;
pub mod supervise;
pub mod telemetry;

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::registry::Registry;

/// What every role is given: its connection to the broker, and where it shows how it is doing.
#[derive(Clone)]
pub struct Context {
    /// The role's connection.
    pub client: async_nats::Client,
    /// Makes further connections with the role's rights, for writers that need a fresh one.
    pub connector: nats::Connector,
    /// Where metrics are declared.
    pub registry: Arc<Mutex<Registry>>,
    /// Where checks are declared.
    pub health: health::Health,
    /// What `/stats` shows.
    pub stats: ops::Stats,
}

impl Context {
    /// A context over an existing client, with everything else of its own.
    pub fn new(client: async_nats::Client, connector: nats::Connector) -> Self {
        Self::shared(client, connector, &ops::Surface::new())
    }

    /// A context of a process that shows several roles on one surface.
    pub fn shared(
        client: async_nats::Client,
        connector: nats::Connector,
        surface: &ops::Surface,
    ) -> Self {
        let ops::Surface {
            registry,
            health,
            stats,
            ..
        } = surface.clone();
        Self {
            client,
            connector,
            registry,
            health,
            stats,
        }
    }

    /// Declares metrics.
    pub fn register<T>(&self, declare: impl FnOnce(&mut Registry) -> T) -> T {
        declare(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
