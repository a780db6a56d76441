//! One connection of a publisher: sending, acknowledgements, the fence, and the stream's tail.

use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use schemas::position::StreamSeq;
use schemas::subject;
use serde::Deserialize;
use tokio::time::timeout;

use super::chain::{Chain, Link, parse_writer};
use super::{Connector, Outgoing, PublisherConfig};
use crate::api::{self, ApiError};
use crate::stream;

/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(5);

pub(super) struct Session {
    client: Client,
    acks: Subscriber,
    inbox: String,
}

/// Why a step did not succeed.
pub(super) enum Trouble {
    /// A later writer has taken over.
    Fenced { theirs: u64 },
    /// Try again.
    Broker(String),
}

impl From<ApiError> for Trouble {
    fn from(error: ApiError) -> Self {
        Self::Broker(error.to_string())
    }
}

/// How the stream ends.
pub(super) enum Tail {
    /// With so many messages of this writer; `unbroken` if nothing foreign follows them.
    Ours { stored: u64, unbroken: bool },
    /// With nothing of this writer.
    Foreign,
}

#[derive(Deserialize)]
struct Ack {
    seq: u64,
}

impl Session {
    pub(super) async fn open(connect: &Connector) -> Result<Self, String> {
        let client = timeout(CONNECT, connect())
            .await
            .map_err(|_| format!("no connection within {CONNECT:?}"))?
            .map_err(|error| error.to_string())?;
        let inbox = client.new_inbox();
        let acks = client
            .subscribe(format!("{inbox}.*"))
            .await
            .map_err(|error| error.to_string())?;
        Ok(Self {
            client,
            acks,
            inbox,
        })
    }

    /// Sends a message; `last` of its burst, it asks for an acknowledgement.
    pub(super) async fn send(
        &self,
        epoch: u64,
        link: Link,
        message: &Outgoing,
        last: bool,
    ) -> Result<(), String> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Sequence", link.expected.to_string());
        headers.insert("Tw-Schema", message.schema);
        headers.insert("Tw-Id", message.id.as_str());
        headers.insert("Tw-Writer", format!("{epoch}.{}", link.count));
        let subject = async_nats::Subject::from(message.subject.as_ref());
        let payload = message.payload.clone();
        let sent = if link.wants_ack || last {
            let reply = format!("{}.{}", self.inbox, link.count);
            self.client
                .publish_with_reply_and_headers(subject, reply, headers, payload)
                .await
        } else {
            self.client
                .publish_with_headers(subject, headers, payload)
                .await
        };
        sent.map_err(|error| error.to_string())
    }

    /// Waits for an acknowledgement: the message's number and sequence.
    pub(super) async fn ack(&mut self) -> Result<(u64, StreamSeq), String> {
        let message = self.acks.next().await.ok_or("the connection ended")?;
        read_ack(&message)
    }

    /// Moves the stream past everything that former writers may still send.
    pub(super) async fn fence(
        &self,
        config: &PublisherConfig,
        epoch: u64,
    ) -> Result<StreamSeq, Trouble> {
        let last = stream::state(&self.client, &config.stream).await?.last_seq;
        if let Some(stored) = stream::message_at(&self.client, &config.stream, last).await? {
            let writer = stored.header("Tw-Writer").and_then(parse_writer);
            if let Some((theirs, _)) = writer.filter(|(theirs, _)| *theirs > epoch) {
                return Err(Trouble::Fenced { theirs });
            }
        }
        let fillers = config.window + 1;
        let subject = subject::fence(&config.stream);
        let batch = self.client.new_inbox();
        for index in 1..=fillers {
            let mut headers = HeaderMap::new();
            headers.insert(
                "Nats-Batch-Id",
                batch.trim_start_matches("_INBOX").replace('.', ""),
            );
            headers.insert("Nats-Batch-Sequence", index.to_string());
            headers.insert("Tw-Writer", format!("{epoch}.0"));
            if index == 1 {
                headers.insert("Nats-Expected-Last-Sequence", last.to_string());
            }
            if index < fillers {
                self.client
                    .publish_with_headers(subject.clone(), headers, Bytes::new())
                    .await
                    .map_err(|error| Trouble::Broker(error.to_string()))?;
            } else {
                headers.insert("Nats-Batch-Commit", "1");
                let ack: Ack =
                    api::exchange(&self.client, &subject, Some(headers), Bytes::new()).await?;
                return Ok(StreamSeq::new(ack.seq));
            }
        }
        Err(Trouble::Broker("a fence of no fillers".to_owned()))
    }

    /// Reads how much of a chain the stream holds.
    pub(super) async fn tail(
        &self,
        config: &PublisherConfig,
        chain: &Chain,
    ) -> Result<Tail, Trouble> {
        let last = stream::state(&self.client, &config.stream).await?.last_seq;
        let floor = chain.seq_of(chain.acked());
        let mut seq = last;
        while seq >= floor && seq > StreamSeq::ZERO {
            let stored = stream::message_at(&self.client, &config.stream, seq).await?;
            let writer =
                stored.and_then(|stored| stored.header("Tw-Writer").and_then(parse_writer));
            match writer {
                Some((theirs, _)) if theirs > chain.epoch => {
                    return Err(Trouble::Fenced { theirs });
                }
                Some((epoch, stored)) if epoch == chain.epoch => {
                    return Ok(Tail::Ours {
                        stored,
                        unbroken: seq == last,
                    });
                }
                _ => seq = seq.prev(),
            }
        }
        // Nothing was stored since the last acknowledgement, and retention took what was before.
        if last == floor {
            return Ok(Tail::Ours {
                stored: chain.acked(),
                unbroken: true,
            });
        }
        Ok(Tail::Foreign)
    }
}

fn read_ack(message: &Message) -> Result<(u64, StreamSeq), String> {
    if let Some(status) = message.status {
        return Err(format!("the broker answered {status}"));
    }
    let count = message
        .subject
        .rsplit('.')
        .next()
        .and_then(|count| count.parse().ok());
    let count = count.ok_or("an acknowledgement without a number")?;
    let ack: Ack =
        api::read(&message.subject, &message.payload).map_err(|error| error.to_string())?;
    Ok((count, StreamSeq::new(ack.seq)))
}
