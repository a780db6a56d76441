//! Leases: given up when their holder ends, whatever the broker does.

use std::time::Duration;

use anyhow::Result;
use async_nats::jetstream;
use bus::lease::{Lease, LeaseConfig};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::server::Server;
use crate::{STREAM, provisioned};

const PATIENCE: Duration = Duration::from_secs(20);

fn lease(node: &str, term: Duration) -> LeaseConfig {
    LeaseConfig {
        name: STREAM.to_owned(),
        node: node.to_owned(),
        term,
    }
}

#[tokio::test]
async fn a_lease_that_is_given_up_can_be_had_at_once() -> Result<()> {
    let server = Server::start().await?;
    let client = server.client().await?;
    provisioned(&client).await?;
    // Nobody waits for it to lapse.
    let term = Duration::from_hours(1);
    let first = Lease::acquire(&client, lease("a", term)).await;
    let (token, stop) = (first.token(), CancellationToken::new());
    stop.cancel();
    timeout(PATIENCE, first.keep(&client, stop)).await??;
    let second = timeout(PATIENCE, Lease::acquire(&client, lease("b", term))).await?;
    assert!(second.token() > token);
    Ok(())
}

#[tokio::test]
async fn who_cannot_renew_ends_when_told_to() -> Result<()> {
    let server = Server::start().await?;
    let client = server.client().await?;
    provisioned(&client).await?;
    let held = Lease::acquire(&client, lease("a", Duration::from_secs(1))).await;
    let context = jetstream::new(server.client().await?);
    context.delete_stream("KV_leases").await?;
    let stop = CancellationToken::new();
    let sent = client.statistics();
    let before = sent.out_messages.load(std::sync::atomic::Ordering::Relaxed);
    let ending = async {
        // Two renewals without success: it tries again and again.
        while sent.out_messages.load(std::sync::atomic::Ordering::Relaxed) < before + 2 {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        kept = timeout(PATIENCE, held.keep(&client, stop.clone())) => kept??,
        () = ending => {}
    }
    Ok(())
}
