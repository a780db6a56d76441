//! Who may write a stream: a lease in KV, renewed while its holder lives.
//!
//! A lease only chooses the writer; what keeps a former holder from doing harm is the publisher's
//! fence. Its token is the revision at which it was acquired: it grows with every holder. Nobody's
//! wall clock matters: a contender takes over a revision that it saw unchanged for a whole term.

use std::time::Duration;

use async_nats::{Client, HeaderMap};
use rand::RngExt as _;
use schemas::position::StreamSeq;
use schemas::subject::kv_token;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::{self, ApiError};
use crate::epoch::WRONG_LAST_SEQUENCE;
use crate::stream;

const BUCKET: &str = "KV_leases";

/// Which lease, and for whom.
#[derive(Clone, Debug)]
pub struct LeaseConfig {
    /// The name of the lease: one per stream.
    pub name: String,
    /// Who asks. A process that is asked for again under the same name (the next one on the same
    /// data directory) takes over at once: the fence makes that safe.
    pub node: String,
    /// How long a holder may stay silent.
    pub term: Duration,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    node: String,
    nonce: u64,
    released: bool,
}

#[derive(Deserialize)]
struct Ack {
    seq: u64,
}

/// A held lease. It lapses unless [`Lease::keep`] runs.
#[derive(Debug)]
pub struct Lease {
    config: LeaseConfig,
    nonce: u64,
    token: u64,
    revision: StreamSeq,
    deadline: Instant,
}

/// The lease is somebody else's now.
#[derive(Debug, thiserror::Error)]
#[error("the lease {name} was lost: {why}")]
pub struct LeaseLost {
    name: String,
    why: &'static str,
}

impl Lease {
    /// Waits until the lease can be had, and takes it.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: at worst an acquired lease lapses after its term.
    pub async fn acquire(client: &Client, config: LeaseConfig) -> Self {
        let nonce: u64 = rand::rng().random();
        let mut watched: Option<(StreamSeq, Instant)> = None;
        loop {
            match Self::attempt(client, &config, nonce, &mut watched).await {
                Ok(Some(lease)) => return lease,
                Ok(None) => {}
                Err(error) => warn!(lease = config.name, %error, "cannot ask for the lease yet"),
            }
            sleep(config.term / 10).await;
        }
    }

    async fn attempt(
        client: &Client,
        config: &LeaseConfig,
        nonce: u64,
        watched: &mut Option<(StreamSeq, Instant)>,
    ) -> Result<Option<Self>, ApiError> {
        let held = stream::last_of(client, BUCKET, &key(&config.name)).await?;
        let revision = held.as_ref().map_or(StreamSeq::ZERO, |stored| stored.seq);
        let entry = held.and_then(|stored| serde_json::from_slice::<Entry>(&stored.payload).ok());
        let free = entry.is_none_or(|entry| entry.released || entry.node == config.node);
        let lapsed = match *watched {
            Some((seen, since)) if seen == revision => since.elapsed() > config.term,
            _ => {
                *watched = Some((revision, Instant::now()));
                false
            }
        };
        if !free && !lapsed {
            return Ok(None);
        }
        let asked = Instant::now();
        let Some(revision) = write(client, config, nonce, false, revision).await? else {
            return Ok(None);
        };
        info!(
            lease = config.name,
            token = revision.get(),
            "lease acquired"
        );
        let (config, token) = (config.clone(), revision.get());
        let deadline = asked + config.term * 4 / 5;
        Ok(Some(Self {
            config,
            nonce,
            token,
            revision,
            deadline,
        }))
    }

    /// The fencing token: higher than that of every earlier holder.
    pub const fn token(&self) -> u64 {
        self.token
    }

    /// Renews the lease until `stop`, then gives it up.
    ///
    /// # Errors
    ///
    /// [`LeaseLost`] if somebody else has it, or it could not be renewed in time.
    pub async fn keep(mut self, client: &Client, stop: CancellationToken) -> Result<(), LeaseLost> {
        let pause = self.config.term * 3 / 10;
        loop {
            let renewed = async {
                sleep(pause).await;
                self.renew(client).await
            };
            tokio::select! {
                () = stop.cancelled() => {
                    self.release(client).await;
                    return Ok(());
                }
                renewed = renewed => renewed?,
            }
        }
    }

    /// Gives the lease up, if the broker is there to be told.
    async fn release(&mut self, client: &Client) {
        let released = match self.write_released(client).await {
            // A renewal that was broken off may have been stored.
            Ok(None) => match self.reread(client).await {
                Ok(true) => self.write_released(client).await,
                Ok(false) => return,
                Err(error) => Err(error),
            },
            released => released,
        };
        if let Err(error) = released {
            info!(lease = self.config.name, %error, "lease not given up, it will lapse");
        }
    }

    async fn write_released(&self, client: &Client) -> Result<Option<StreamSeq>, ApiError> {
        write(client, &self.config, self.nonce, true, self.revision).await
    }

    async fn renew(&mut self, client: &Client) -> Result<(), LeaseLost> {
        let name = self.config.name.clone();
        loop {
            let asked = Instant::now();
            match write(client, &self.config, self.nonce, false, self.revision).await {
                Ok(Some(revision)) => {
                    self.revision = revision;
                    self.deadline = asked + self.config.term * 4 / 5;
                    return Ok(());
                }
                // A renewal whose answer was lost looks like somebody else's write.
                Ok(None) => match self.reread(client).await {
                    Ok(true) => {}
                    Ok(false) => {
                        return Err(LeaseLost {
                            name,
                            why: "somebody else took it",
                        });
                    }
                    Err(error) => warn!(lease = self.config.name, %error, "cannot read the lease"),
                },
                Err(error) => warn!(lease = self.config.name, %error, "cannot renew the lease yet"),
            }
            if Instant::now() > self.deadline {
                // Whether to go on is the fence's matter; a broker that is away stops everybody.
                self.deadline = Instant::now() + self.config.term;
                warn!(
                    lease = self.config.name,
                    "the lease has lapsed, trying to keep it"
                );
            }
            sleep(self.config.term / 20).await;
        }
    }

    async fn reread(&mut self, client: &Client) -> Result<bool, ApiError> {
        let held = stream::last_of(client, BUCKET, &key(&self.config.name)).await?;
        let Some(stored) = held else {
            self.revision = StreamSeq::ZERO;
            return Ok(true);
        };
        let mine = serde_json::from_slice::<Entry>(&stored.payload)
            .is_ok_and(|entry| entry.nonce == self.nonce && !entry.released);
        if mine {
            self.revision = stored.seq;
        }
        Ok(mine)
    }
}

fn key(name: &str) -> String {
    format!("$KV.leases.{}", kv_token(name))
}

/// Writes unless somebody else did; the new revision.
async fn write(
    client: &Client,
    config: &LeaseConfig,
    nonce: u64,
    released: bool,
    expected: StreamSeq,
) -> Result<Option<StreamSeq>, ApiError> {
    let entry = Entry {
        node: config.node.clone(),
        nonce,
        released,
    };
    let mut headers = HeaderMap::new();
    headers.insert(
        "Nats-Expected-Last-Subject-Sequence",
        expected.to_string().as_str(),
    );
    let payload = serde_json::json!(entry).to_string().into();
    match api::exchange::<Ack>(client, &key(&config.name), Some(headers), payload).await {
        Ok(ack) => Ok(Some(StreamSeq::new(ack.seq))),
        Err(error) if error.code() == Some(WRONG_LAST_SEQUENCE) => Ok(None),
        Err(error) => Err(error),
    }
}
