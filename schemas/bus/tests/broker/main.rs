//! The bus against a real broker that dies, comes back, and is shared with impostors.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod getting;
mod leasing;
mod provisioning;
mod publishing;
mod reading;
mod repairing;
mod server;

use bus::provision::{StreamSpec, provision};
use schemas::position::Epoch;

/// The stream that all tests use, each on its own broker.
pub(crate) const STREAM: &str = "TICKS";

/// Provisions the stream of ticks.
pub(crate) async fn provisioned(client: &async_nats::Client) -> anyhow::Result<Epoch> {
    let spec = StreamSpec {
        venues: Vec::new(),
        name: STREAM.to_owned(),
        max_age_secs: 3_600,
        max_bytes: 1 << 30,
        replicas: 1,
    };
    Ok(provision(client, &spec).await?)
}
