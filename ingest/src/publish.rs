//! From ticks to messages: subjects, ids, payloads, and what the publisher reports back.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;
use bus::publisher::{Observer, Outgoing, Sender};
use daemon::health::Check;
use schemas::codec;
use schemas::position::StreamSeq;
use schemas::subject;
use schemas::tick::Tick;
use schemas::topic::Topic;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::ack_log::AckLog;
use crate::metrics::Metrics;

/// Every so many messages one is timed.
const SAMPLE: u64 = 64;

/// Encodes ticks and queues them.
pub struct Outlet {
    sender: Sender,
    subjects: HashMap<Topic, Arc<str>>,
    metrics: Metrics,
    count: u64,
}

/// Counts, times and records what was stored.
pub struct Witness {
    metrics: Metrics,
    log: Option<AckLog>,
    check: Check,
    /// Cancelled if the record cannot be written: nobody may believe that it is complete.
    broken: CancellationToken,
}

impl Witness {
    /// A witness of one publisher.
    pub fn new(
        metrics: Metrics,
        log: Option<AckLog>,
        check: Check,
        broken: CancellationToken,
    ) -> Self {
        Self {
            metrics,
            log,
            check,
            broken,
        }
    }

    /// The outlet whose messages it witnesses.
    pub fn outlet(&self) -> impl FnOnce(Sender) -> Outlet + use<> {
        let metrics = self.metrics.clone();
        |sender| Outlet {
            sender,
            subjects: HashMap::new(),
            metrics,
            count: 0,
        }
    }
}

impl Observer for Witness {
    fn stored(&mut self, messages: &[Outgoing], last: StreamSeq) {
        self.check.ok();
        let count = u64::try_from(messages.len()).unwrap_or(u64::MAX);
        self.metrics.stored.inc_by(count);
        for queued in messages.iter().filter_map(|message| message.queued) {
            self.metrics
                .store_seconds
                .observe(queued.elapsed().as_secs_f64());
        }
        if let Some(log) = &mut self.log
            && let Err(problem) = log.write(messages, last)
        {
            error!(%problem, "the acknowledgement log cannot be written");
            self.broken.cancel();
        }
    }

    fn disturbed(&mut self, why: &str) {
        self.metrics.disturbances.inc();
        self.check.down(why);
    }

    fn recovered(&mut self) {
        self.check.ok();
    }

    fn load(&mut self, waiting_bytes: usize, in_flight: usize) {
        let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        self.metrics.waiting_bytes.set(gauge(waiting_bytes));
        self.metrics.in_flight.set(gauge(in_flight));
    }
}

impl Outlet {
    /// Queues a tick, waiting while the buffer is full.
    ///
    /// # Errors
    ///
    /// The publisher has ended.
    pub async fn send(&mut self, tick: &Tick) -> Result<()> {
        let message = self.message(tick)?;
        match self.sender.send(message).await {
            Ok(()) => {
                self.metrics.published(tick.kind());
                Ok(())
            }
            Err(bus::publisher::SendError::TooLarge {
                subject,
                size,
                limit,
            }) => {
                error!(%subject, size, limit, "a tick is larger than the limit and is left out");
                self.metrics.oversized.inc();
                Ok(())
            }
            Err(closed) => Err(closed.into()),
        }
    }

    fn message(&mut self, tick: &Tick) -> Result<Outgoing> {
        let kind = tick.kind();
        let topic = tick.topic();
        let id = id_of(tick, &topic);
        let subject = if let Some(subject) = self.subjects.get(&topic) {
            Arc::clone(subject)
        } else {
            let subject: Arc<str> = subject::stored(&topic).into();
            self.subjects.insert(topic, Arc::clone(&subject));
            subject
        };
        self.count += 1;
        Ok(Outgoing {
            subject,
            id,
            schema: kind.schema(),
            payload: codec::to_msgpack(tick)?.into(),
            collapsible: kind.is_state(),
            queued: self.count.is_multiple_of(SAMPLE).then(Instant::now),
        })
    }

    /// How many state values gave way to later ones since this was last asked.
    pub fn take_collapsed(&self) -> u64 {
        let collapsed = self.sender.take_collapsed();
        self.metrics.collapsed.inc_by(collapsed);
        collapsed
    }
}

/// Venue, symbol, kind and what the source calls it.
fn id_of(tick: &Tick, topic: &Topic) -> String {
    let head = tick.head();
    match tick {
        Tick::Trade(trade) => format!("{topic}/{}", trade.id),
        Tick::Bar(bar) => format!("{topic}/{}/{}", bar.start, bar.trades),
        Tick::Quote(_)
        | Tick::Book(_)
        | Tick::Stat(_)
        | Tick::Form(_)
        | Tick::Index(_)
        | Tick::Flow(_)
        | Tick::Status(_)
        | Tick::Feed(_)
        | Tick::Inst(_) => {
            let source = head.venue_seq.map(|seq| seq.to_string());
            format!(
                "{topic}/{}",
                source.unwrap_or_else(|| head.received.to_string())
            )
        }
    }
}

#[cfg(test)]
mod tests;
