//! Batches: fetched from the broker, stored, and acknowledged or given back.

use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::{AckKind, Message};
use futures_util::StreamExt as _;
use schemas::codec;
use schemas::position::{Epoch, StreamSeq};
use schemas::tick::{Flag, Tick};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::Recorder;
use crate::store::{Content, Row, StoreError, TickStore, content, is_recorded};

/// The most bytes of one fetch: messages are small, unless somebody writes what is none.
const FETCH_BYTES: usize = 16 << 20;
/// The most messages of one transaction. A file pays for each page that a batch touches, whatever the
/// number of its rows.
pub const BATCH: usize = 4_000;
/// How long a batch is gathered.
const GATHER: Duration = Duration::from_millis(250);

/// Messages, and what is stored of them.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) messages: Vec<Message>,
    rows: Vec<Row>,
}

/// Fetches a batch and reads it, while another one is stored; what came before any trouble is good.
pub(super) async fn fetch(consumer: &PullConsumer) -> Result<Batch> {
    let mut arriving: pull::Batch = consumer
        .fetch()
        .max_messages(BATCH)
        .max_bytes(FETCH_BYTES)
        .expires(GATHER)
        .messages()
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))
        .context("fetching")?;
    let mut batch = Batch::default();
    loop {
        let problem = match timeout(GATHER * 8, arriving.next()).await {
            Ok(Some(Ok(message))) => match row(&message) {
                Ok(row) => {
                    batch.rows.extend(row);
                    batch.messages.push(message);
                    continue;
                }
                Err(problem) => problem,
            },
            Ok(None) => return Ok(batch),
            Ok(Some(Err(error))) => anyhow::anyhow!("{error}").context("fetching"),
            Err(_) => anyhow::anyhow!("the broker does not answer a fetch"),
        };
        return if batch.messages.is_empty() {
            Err(problem)
        } else {
            Ok(batch)
        };
    }
}

impl Batch {
    /// Gives messages back to the broker, which delivers them again at once, to whichever replica.
    pub(super) async fn give_back(self) {
        for message in self.messages {
            if let Err(error) = message.ack_with(AckKind::Nak(None)).await {
                debug!(%error, "not given back: it comes again by itself, later");
                break;
            }
        }
    }
}

impl<S: TickStore> Recorder<S> {
    /// Stores a batch and acknowledges it, or gives it back.
    pub(super) async fn take(&mut self, epoch: Epoch, mut batch: Batch) -> Result<()> {
        let rows = std::mem::take(&mut batch.rows);
        let Err(problem) = self.record(epoch, rows, &batch.messages).await else {
            for message in batch.messages {
                message
                    .ack()
                    .await
                    .map_err(|error| anyhow::anyhow!("{error}"))
                    .context("acknowledging")?;
            }
            return Ok(());
        };
        self.metrics.failures.inc();
        let infos = batch
            .messages
            .iter()
            .filter_map(|message| message.info().ok());
        let last = infos.map(|info| StreamSeq::new(info.stream_sequence)).max();
        self.failed = last.map(|last| (epoch, last)).max(self.failed);
        batch.give_back().await;
        Err(problem).context("nothing is lost, the stream keeps it")
    }

    /// Tells what was stored.
    fn stored(&self, rows: &[Row]) {
        let count = u64::try_from(rows.len()).unwrap_or(0);
        self.metrics.rows.inc_by(count);
        self.metrics.transactions.inc();
        for row in rows {
            if let Content::DeadLetter { subject, problem } = &row.content {
                self.metrics.dead_letters.inc();
                warn!(
                    subject,
                    seq = row.seq.get(),
                    problem,
                    "kept as a dead letter"
                );
            }
        }
    }

    /// Stores rows. If the database refuses some for what they are, it would refuse them for ever:
    /// they are looked for by halves, and kept as dead letters, so that they hold up nothing else.
    async fn record(
        &self,
        epoch: Epoch,
        rows: Vec<Row>,
        messages: &[Message],
    ) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut parts = vec![rows];
        while let Some(mut rows) = parts.pop() {
            let Err(problem) = self.config.store.record(epoch, &rows).await else {
                self.stored(&rows);
                continue;
            };
            if !problem.is_about_data() {
                return Err(problem);
            }
            if let [row] = &mut *rows {
                let of_row = |message: &&Message| {
                    let seq = message.info().map(|info| info.stream_sequence);
                    seq.is_ok_and(|seq| seq == row.seq.get())
                };
                let message = messages.iter().find(of_row);
                let is_dead = matches!(row.content, Content::DeadLetter { .. });
                let Some(message) = message.filter(|_| !is_dead) else {
                    return Err(problem);
                };
                row.content = dead_letter(message, problem.to_string());
            } else {
                parts.push(rows.split_off(rows.len() / 2));
            }
            parts.push(rows);
        }
        Ok(())
    }
}

fn dead_letter(message: &Message, problem: String) -> Content {
    Content::DeadLetter {
        subject: message.subject.to_string(),
        problem,
    }
}

/// What is stored of a message; nothing of a kind that is not recorded, or of one that only repeats an
/// older one.
fn row(message: &Message) -> Result<Option<Row>> {
    if !is_recorded(&message.subject) {
        return Ok(None);
    }
    let info = message.info().map_err(|error| anyhow::anyhow!("{error}"))?;
    let seq = StreamSeq::new(info.stream_sequence);
    let refreshed = |tick: &Tick| tick.head().flags.contains(&Flag::Refresh);
    let content = match codec::from_msgpack(&message.payload) {
        Ok(tick) if refreshed(&tick) => return Ok(None),
        Ok(tick) => content(&tick),
        Err(problem) => dead_letter(message, problem.to_string()),
    };
    let payload = message.payload.clone();
    Ok(Some(Row {
        seq,
        content,
        payload,
    }))
}
