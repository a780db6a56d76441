//! The lease: its holder can always let go.

use std::time::Duration;

use anyhow::Result;
use bus::lease::{Lease, LeaseConfig};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::server::Server;
use crate::{STREAM, provisioned};

const PATIENCE: Duration = Duration::from_secs(30);

fn config(node: &str) -> LeaseConfig {
    LeaseConfig {
        name: STREAM.to_owned(),
        node: node.to_owned(),
        term: Duration::from_millis(100),
    }
}

#[tokio::test]
async fn a_holder_whose_broker_is_away_ends_when_it_is_told_to() -> Result<()> {
    let mut server = Server::start().await?;
    let client = server.client().await?;
    provisioned(&client).await?;
    let lease = timeout(PATIENCE, Lease::acquire(&client, config("a"))).await?;
    server.kill().await?;
    let stop = CancellationToken::new();
    let mut holder = JoinSet::new();
    let told = stop.clone();
    holder.spawn(async move { lease.keep(&client, told).await });
    // A renewal is under way by then, and cannot succeed.
    let early = timeout(Duration::from_millis(500), holder.join_next()).await;
    assert!(early.is_err(), "nobody else took it");
    stop.cancel();
    timeout(PATIENCE, holder.join_next()).await?.unwrap()??;
    Ok(())
}

#[tokio::test]
async fn who_stops_hands_the_lease_over_at_once() -> Result<()> {
    let server = Server::start().await?;
    let client = server.client().await?;
    provisioned(&client).await?;
    let long = |node| LeaseConfig {
        term: Duration::from_hours(1),
        ..config(node)
    };
    let first = timeout(PATIENCE, Lease::acquire(&client, long("a"))).await?;
    let token = first.token();
    let stop = CancellationToken::new();
    stop.cancel();
    first.keep(&client, stop).await?;
    let second = timeout(PATIENCE, Lease::acquire(&client, long("b"))).await?;
    assert!(second.token() > token);
    Ok(())
}
