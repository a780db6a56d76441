//! The one writer of a stream: strictly in order, exactly once, fenced.
//!
//! Messages go out pipelined, each with the sequence that it expects the stream to end in; sparse
//! acknowledgements cover all before them. After any doubt the writer takes a new connection, reads
//! from the stream's leader how much is stored, and sends the rest again under the same numbers. At
//! every takeover one atomic batch of fillers, one more than the window, moves the stream past
//! everything that a former writer may have sent or may still send.

mod backlog;
mod chain;
mod patience;
mod session;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use schemas::position::StreamSeq;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use backlog::Backlog;
use chain::{Broken, Chain, Link};
use patience::Patience;
use session::{Session, Tail, Trouble};

/// How a publisher works.
#[derive(Clone, Debug)]
pub struct PublisherConfig {
    /// The stream.
    pub stream: String,
    /// The fencing token of the lease.
    pub token: u64,
    /// How many messages may be unacknowledged: at most 999.
    pub window: usize,
    /// The most bytes that wait to be sent.
    pub max_buffer_bytes: usize,
    /// The largest payload in bytes.
    pub max_payload: usize,
    /// How long queued messages may take to be stored once the publisher is told to stop.
    pub drain: Duration,
}

/// A message to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Its subject.
    pub subject: Arc<str>,
    /// `Tw-Id`: venue, symbol, kind and source id.
    pub id: String,
    /// `Tw-Schema`: kind and major version.
    pub schema: &'static str,
    /// Its payload.
    pub payload: Bytes,
    /// Whether a later message of the subject makes this one superfluous.
    pub collapsible: bool,
    /// When it was queued, if it is one of those whose way is timed. Not sent.
    pub queued: Option<Instant>,
}

/// Is told what happens to messages; called from the publisher's own task.
pub trait Observer: Send {
    /// These messages are stored; the last of them at `last`, the others directly before it.
    fn stored(&mut self, messages: &[Outgoing], last: StreamSeq);

    /// The connection was given up and a new one is taken.
    fn disturbed(&mut self, why: &str);

    /// After a disturbance: the new connection stands, and the stream ends as it should.
    fn recovered(&mut self);

    /// Bytes waiting, and messages sent but not acknowledged.
    fn load(&mut self, waiting_bytes: usize, in_flight: usize);
}

/// Why a publisher ended.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// A later writer has taken over.
    #[error("a later writer has taken over the stream: writer {theirs} against {ours}")]
    Fenced {
        /// The epoch found on the stream.
        theirs: u64,
        /// The epoch of this publisher.
        ours: u64,
    },
    /// Not everything could be stored in time after the stop.
    #[error("{left} messages could not be stored within {drain:?} of the stop")]
    Undrained {
        /// How many were left.
        left: usize,
        /// The time that they had.
        drain: Duration,
    },
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Larger than the limit.
    #[error("a message of {size} bytes for {subject} is larger than the limit of {limit}")]
    TooLarge {
        /// Its subject.
        subject: Arc<str>,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The publisher has ended.
    #[error("the publisher has ended")]
    Closed,
}

/// Makes a new connection.
pub type Connector = Arc<
    dyn Fn() -> Pin<Box<dyn Future<Output = Result<Client, async_nats::ConnectError>> + Send>>
        + Send
        + Sync,
>;

struct Shared {
    backlog: Mutex<Backlog>,
    /// Something was queued.
    filled: Notify,
    /// Something was taken out.
    drained: Notify,
    closed: CancellationToken,
    max_payload: usize,
}

impl Shared {
    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Queues messages; the order of calls is the order on the stream. One producer.
pub struct Sender {
    shared: Arc<Shared>,
}

impl Sender {
    /// Queues a message, waiting while the buffer is full of what must not be lost.
    ///
    /// # Errors
    ///
    /// [`SendError`]; the message is then not queued.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a message whose call was cancelled is not queued.
    pub async fn send(&self, message: Outgoing) -> Result<(), SendError> {
        let (size, limit) = (message.payload.len(), self.shared.max_payload);
        if size > limit {
            return Err(SendError::TooLarge {
                subject: message.subject,
                size,
                limit,
            });
        }
        let mut message = message;
        loop {
            let drained = self.shared.drained.notified();
            if self.shared.closed.is_cancelled() {
                return Err(SendError::Closed);
            }
            let pushed = self.shared.backlog().push(message);
            match pushed {
                Ok(()) => {
                    self.shared.filled.notify_one();
                    return Ok(());
                }
                Err(returned) => message = returned,
            }
            tokio::select! {
                () = drained => {}
                () = self.shared.closed.cancelled() => {}
            }
        }
    }

    /// How many state values gave way to later ones since this was last asked.
    pub fn take_collapsed(&self) -> u64 {
        self.shared.backlog().take_collapsed()
    }
}

/// Sends what is queued. Owned by one task.
pub struct Publisher {
    config: PublisherConfig,
    connect: Connector,
    observer: Box<dyn Observer>,
    shared: Arc<Shared>,
    chain: Chain,
    session: Option<Session>,
    takeovers: u64,
    patience: Patience,
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.shared.closed.cancel();
    }
}

impl Publisher {
    /// A publisher that has not written yet, and where to queue messages for it.
    pub fn new(
        config: PublisherConfig,
        connect: Connector,
        observer: Box<dyn Observer>,
    ) -> (Sender, Self) {
        let shared = Arc::new(Shared {
            backlog: Mutex::new(Backlog::new(config.max_buffer_bytes)),
            filled: Notify::new(),
            drained: Notify::new(),
            closed: CancellationToken::new(),
            max_payload: config.max_payload,
        });
        let sender = Sender {
            shared: Arc::clone(&shared),
        };
        let chain = Chain::new(0, StreamSeq::ZERO, config.window);
        let publisher = Self {
            config,
            connect,
            observer,
            shared,
            chain,
            session: None,
            takeovers: 0,
            patience: Patience::new(Instant::now()),
        };
        (sender, publisher)
    }

    /// Takes the stream over: after this, no former writer can store anything.
    ///
    /// Waits for the broker as long as it takes; the sequence of the last filler.
    ///
    /// # Errors
    ///
    /// [`PublishError::Fenced`] if a later writer already has it.
    pub async fn take_over(&mut self) -> Result<StreamSeq, PublishError> {
        let mut failures = 0;
        loop {
            let session = self.connected(&mut failures).await;
            self.takeovers += 1;
            let epoch = self
                .config
                .token
                .saturating_mul(1 << 20)
                .saturating_add(self.takeovers);
            match session.fence(&self.config, epoch).await {
                Ok(last) => {
                    let unsent = self.chain.dissolve();
                    self.shared.backlog().return_all(unsent.into_iter());
                    self.chain = Chain::new(epoch, last, self.config.window);
                    self.session = Some(session);
                    info!(
                        stream = self.config.stream,
                        epoch,
                        last = last.get(),
                        "stream taken over"
                    );
                    return Ok(last);
                }
                Err(Trouble::Fenced { theirs }) => {
                    return Err(PublishError::Fenced {
                        theirs,
                        ours: epoch,
                    });
                }
                Err(Trouble::Broker(why)) => self.disturbed(&why),
            }
        }
    }

    /// Sends until `stop`, then until everything queued is stored.
    ///
    /// # Errors
    ///
    /// [`PublishError`]; messages that were not stored are then still unacknowledged.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), PublishError> {
        let drain = self.config.drain;
        let expired = async {
            stop.cancelled().await;
            sleep(drain).await;
        };
        let shared = Arc::clone(&self.shared);
        let outcome = tokio::select! {
            outcome = self.work(&stop) => Some(outcome),
            () = expired => None,
        };
        let left = shared.backlog().len() + self.chain.in_flight();
        match outcome {
            Some(outcome) => outcome,
            None if left == 0 => Ok(()),
            None => Err(PublishError::Undrained { left, drain }),
        }
    }

    async fn work(&mut self, stop: &CancellationToken) -> Result<(), PublishError> {
        loop {
            let Some(session) = self.session.take() else {
                let (shared, in_flight) = (Arc::clone(&self.shared), self.chain.in_flight());
                let stopped = async {
                    stop.cancelled().await;
                    if in_flight > 0 || shared.backlog().len() > 0 {
                        std::future::pending::<()>().await;
                    }
                };
                tokio::select! {
                    recovered = self.recover() => recovered?,
                    () = stopped => return Ok(()),
                }
                self.observer.recovered();
                continue;
            };
            match self.converse(session, stop).await {
                Ok(()) => return Ok(()),
                Err(why) => self.disturbed(&why),
            }
        }
    }

    /// Sends and takes acknowledgements over one connection, until something is wrong with it.
    async fn converse(
        &mut self,
        mut session: Session,
        stop: &CancellationToken,
    ) -> Result<(), String> {
        let shared = Arc::clone(&self.shared);
        loop {
            let filled = shared.filled.notified();
            self.fill(&session).await?;
            if stop.is_cancelled() && self.chain.in_flight() == 0 && shared.backlog().len() == 0 {
                return Ok(());
            }
            let waiting = self.chain.in_flight() > 0;
            let has_room = self.chain.room() > 0;
            tokio::select! {
                ack = session.ack() => {
                    let (count, seq) = ack?;
                    self.settle(count, seq).map_err(|broken| broken.to_string())?;
                }
                () = filled, if has_room => {}
                () = stop.cancelled(), if !stop.is_cancelled() => {}
                () = sleep_until(self.patience.deadline()), if waiting => {
                    let silence = self.patience.length();
                    self.patience.ran_out();
                    return Err(format!("no acknowledgement for {silence:.1?}"));
                }
            }
        }
    }

    /// Sends as much as the window takes.
    async fn fill(&mut self, session: &Session) -> Result<(), String> {
        loop {
            let mut burst = Vec::new();
            {
                let mut backlog = self.shared.backlog();
                while burst.len() < self.chain.room() {
                    let Some(message) = backlog.pop() else { break };
                    burst.push(message);
                }
                self.observer
                    .load(backlog.bytes(), self.chain.in_flight() + burst.len());
            }
            if burst.is_empty() {
                return Ok(());
            }
            self.shared.drained.notify_waiters();
            if self.chain.in_flight() == 0 {
                self.patience.begin(Instant::now());
            }
            let last = burst.len() - 1;
            // All of them are on the chain before the first is sent: a failure loses none.
            let links: Vec<Link> = burst
                .iter()
                .map(|message| self.chain.push(message.clone()))
                .collect();
            for (index, (link, message)) in links.into_iter().zip(&burst).enumerate() {
                session
                    .send(self.chain.epoch, link, message, index == last)
                    .await?;
            }
        }
    }

    fn settle(&mut self, count: u64, seq: StreamSeq) -> Result<(), Broken> {
        let stored = self.chain.ack(count, seq)?;
        if !stored.is_empty() {
            self.patience.answered(Instant::now());
        }
        self.report(&stored, seq);
        Ok(())
    }

    fn report(&mut self, stored: &[Outgoing], last: StreamSeq) {
        if !stored.is_empty() {
            self.observer.stored(stored, last);
        }
    }

    fn disturbed(&mut self, why: &str) {
        warn!(
            stream = self.config.stream,
            why, "taking a new connection to the broker"
        );
        self.observer.disturbed(why);
    }

    /// Takes a new connection and goes on where the stream ends.
    async fn recover(&mut self) -> Result<(), PublishError> {
        let mut failures = 0;
        loop {
            let session = self.connected(&mut failures).await;
            let tail = session.tail(&self.config, &self.chain).await;
            match tail {
                Ok(Tail::Ours { stored, unbroken }) => {
                    if !self.reconcile(stored) || !unbroken {
                        self.take_over().await?;
                        return Ok(());
                    }
                    if self.resend(&session).await.is_ok() {
                        self.session = Some(session);
                        return Ok(());
                    }
                }
                Ok(Tail::Foreign) => {
                    if self.chain.acked() > 0 {
                        error!(
                            stream = self.config.stream,
                            acked = self.chain.acked(),
                            "the stream no longer ends in what it had acknowledged"
                        );
                    }
                    self.take_over().await?;
                    return Ok(());
                }
                Err(Trouble::Fenced { theirs }) => {
                    return Err(PublishError::Fenced {
                        theirs,
                        ours: self.chain.epoch,
                    });
                }
                Err(Trouble::Broker(why)) => self.disturbed(&why),
            }
        }
    }

    fn reconcile(&mut self, stored: u64) -> bool {
        match self.chain.reconcile(stored) {
            Ok(settled) => {
                let last = self.chain.seq_of(stored);
                self.report(&settled, last);
                true
            }
            Err(broken) => {
                error!(stream = self.config.stream, %broken, "the broker lost acknowledged messages");
                false
            }
        }
    }

    async fn resend(&mut self, session: &Session) -> Result<(), String> {
        let last = self.chain.in_flight().saturating_sub(1);
        for (index, (link, message)) in self.chain.unacked().enumerate() {
            session
                .send(self.chain.epoch, link, message, index == last)
                .await?;
        }
        self.patience.begin(Instant::now());
        Ok(())
    }

    /// A new connection, however long that takes.
    async fn connected(&mut self, failures: &mut u32) -> Session {
        loop {
            if *failures > 0 {
                sleep(Duration::from_millis(10 << (*failures).min(5))).await;
            }
            *failures = failures.saturating_add(1);
            match Session::open(&self.connect).await {
                Ok(session) => return session,
                Err(why) => self.disturbed(&why),
            }
        }
    }
}
