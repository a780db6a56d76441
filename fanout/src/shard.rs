//! A shard: one thread that owns its connections and hands each live message to those that want it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use governor::Quota;
use rand::RngExt as _;
use schemas::position::{Epoch, StreamSeq};
use schemas::time::Clock;
use schemas::ws::{CloseCode, Encoding, ServerMessage};
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinSet, LocalSet};
use tracing::debug;

use crate::connection::{self, Connection};
use crate::governor::Guest;
use crate::index::{ConnId, Index};
use crate::metrics::Metrics;
use crate::repair::Repairs;
use crate::session::{Limits, Session};
use crate::store::{Live, Store};

/// Batches between the feeder and a shard: a full channel holds the feeder back.
pub(crate) const INLET: usize = 256;

/// A new connection, its handshake done.
pub(crate) struct Arrival {
    pub(crate) stream: TcpStream,
    /// Bytes that the client sent right behind its handshake.
    pub(crate) early: Vec<u8>,
    pub(crate) encoding: Encoding,
    /// Counts the connection for as long as it lasts.
    pub(crate) guest: Arc<Guest>,
}

/// What a shard is told.
pub(crate) enum Command {
    Accept(Arrival),
    /// Messages in stream order; everything up to the head is in them or in the store.
    Batch {
        messages: Arc<[Arc<Live>]>,
        head: StreamSeq,
    },
    /// Feeds changed their state: clients should know at once.
    Heartbeat,
    /// The stream was joined: everything up to the head is in the store. After a rewind, the epoch.
    Joined {
        head: StreamSeq,
        rewound: Option<Epoch>,
    },
    /// Retention removed messages before they were read.
    Trimmed {
        from: StreamSeq,
        to: StreamSeq,
    },
    /// The replica is leaving: every connection is closed within this time.
    Drain {
        spread: Duration,
    },
}

/// What all shards share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) store: Arc<Store>,
    pub(crate) repairs: Arc<Repairs>,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) limits: Limits,
    /// What one connection may ask for; `None` is unlimited.
    pub(crate) ops: Option<Quota>,
    pub(crate) node: Arc<str>,
}

/// One shard's state; everything of it lives on one thread.
pub(crate) struct Shard {
    pub(crate) shared: Shared,
    pub(crate) index: RefCell<Index>,
    pub(crate) connections: RefCell<HashMap<ConnId, Rc<Connection>>>,
    /// Buffers for writes, lent to whoever writes.
    pub(crate) buffers: RefCell<Vec<Vec<u8>>>,
    /// One buffer for reads, used by whoever has something to read.
    pub(crate) scratch: RefCell<Vec<u8>>,
    applied: Cell<StreamSeq>,
    next: Cell<u64>,
}

/// Runs a shard until it is drained or nobody can command it any more.
pub(crate) fn run(shared: Shared, commands: mpsc::Receiver<Command>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let shard = Rc::new(Shard {
        shared,
        index: RefCell::default(),
        connections: RefCell::default(),
        buffers: RefCell::default(),
        scratch: RefCell::new(vec![0; 16 * 1024]),
        applied: Cell::new(StreamSeq::ZERO),
        next: Cell::new(0),
    });
    LocalSet::new().block_on(&runtime, shard.serve(commands));
    Ok(())
}

impl Shard {
    async fn serve(self: Rc<Self>, mut commands: mpsc::Receiver<Command>) {
        let mut tasks = JoinSet::new();
        let mut draining = false;
        loop {
            if draining && tasks.is_empty() {
                return;
            }
            tokio::select! {
                command = commands.recv() => match command {
                    None => return,
                    Some(Command::Accept(_)) if draining => {}
                    Some(Command::Accept(arrival)) => {
                        if let Err(problem) = self.accept(arrival, &mut tasks) {
                            debug!(%problem, "a connection was lost before it began");
                        }
                    }
                    Some(Command::Drain { spread }) => {
                        draining = true;
                        self.drain(spread, &mut tasks);
                    }
                    Some(command) => self.obey(command),
                },
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            }
        }
    }

    fn accept(self: &Rc<Self>, arrival: Arrival, tasks: &mut JoinSet<()>) -> std::io::Result<()> {
        let Arrival {
            stream,
            early,
            encoding,
            guest,
        } = arrival;
        let stream = tokio::net::TcpStream::from_std(stream)?;
        let id = ConnId(self.next.get());
        self.next.set(id.0 + 1);
        let (limits, metrics) = (self.shared.limits, self.shared.metrics.clone());
        let session = Session::new(
            id,
            encoding,
            limits,
            metrics,
            self.applied.get(),
            Instant::now(),
        );
        let connection = Rc::new(Connection {
            id,
            session: RefCell::new(session),
            control: RefCell::default(),
            wake: Notify::new(),
            hungry: Notify::new(),
            close: Cell::new(None),
        });
        self.connections
            .borrow_mut()
            .insert(id, Rc::clone(&connection));
        let serving = connection::run(Rc::clone(self), connection, stream, early);
        tasks.spawn_local(async move {
            serving.await;
            drop(guest);
        });
        Ok(())
    }

    fn obey(&self, command: Command) {
        match command {
            Command::Batch { messages, head } => self.dispatch(&messages, head),
            Command::Heartbeat => self.each(Session::heartbeat),
            Command::Joined { head, rewound } => self.join(head, rewound),
            Command::Trimmed { from, to } => {
                self.applied.set(self.applied.get().max(to));
                let known = self.shared.store.read();
                let (store, now) = (&self.shared.store, Instant::now());
                for connection in self.connections.borrow().values() {
                    let mut session = connection.session.borrow_mut();
                    let told = session.trimmed(&known, store, (from, to), now);
                    drop(session);
                    if let Err(code) = told {
                        connection.end(code);
                    }
                    connection.wake.notify_one();
                }
            }
            // Handled where tasks are owned.
            Command::Accept(_) | Command::Drain { .. } => {}
        }
    }

    fn each(&self, mut act: impl FnMut(&mut Session)) {
        for connection in self.connections.borrow().values() {
            act(&mut connection.session.borrow_mut());
            connection.wake.notify_one();
        }
    }

    fn dispatch(&self, messages: &[Arc<Live>], head: StreamSeq) {
        let now = Instant::now();
        let mut index = self.index.borrow_mut();
        let connections = self.connections.borrow();
        let mut touched: Vec<ConnId> = Vec::new();
        for live in messages {
            if index.is_born(live.topic.id.index()) {
                for id in index.claim(&live.topic) {
                    if let Some(connection) = connections.get(&id) {
                        connection
                            .session
                            .borrow_mut()
                            .born(&live.topic, live.seq, &mut index);
                    }
                }
            }
            for id in index.subscribers(live.topic.id) {
                let Some(connection) = connections.get(id) else {
                    continue;
                };
                if connection.close.get().is_some() {
                    continue;
                }
                if let Err(code) = connection.session.borrow_mut().deliver(live, now) {
                    connection.end(code);
                }
                if touched.last() != Some(id) {
                    touched.push(*id);
                }
            }
        }
        self.applied.set(head);
        // A position is a number per connection: cheap enough to set for all, and it lets cursors
        // and catch-ups move where nothing was delivered.
        for connection in connections.values() {
            connection.session.borrow_mut().applied(head);
        }
        touched.sort_unstable();
        touched.dedup();
        for id in touched {
            if let Some(connection) = connections.get(&id) {
                connection.wake.notify_one();
            }
        }
    }

    fn join(&self, head: StreamSeq, rewound: Option<Epoch>) {
        let known = self.shared.store.read();
        let mut index = self.index.borrow_mut();
        let connections = self.connections.borrow();
        for topic in known.topics().skip(index.seen()) {
            if index.is_born(topic.id.index()) {
                for id in index.claim(topic) {
                    if let Some(connection) = connections.get(&id) {
                        connection
                            .session
                            .borrow_mut()
                            .born(topic, head, &mut index);
                    }
                }
            }
        }
        self.applied.set(head);
        for connection in connections.values() {
            let mut session = connection.session.borrow_mut();
            if let Some(epoch) = rewound {
                session.reset(&known, &self.shared.store, epoch);
            }
            session.applied(head);
            connection.wake.notify_one();
        }
    }

    fn drain(&self, spread: Duration, tasks: &mut JoinSet<()>) {
        for connection in self.connections.borrow().values() {
            let wait = spread.mul_f64(rand::rng().random_range(0.0..=1.0));
            let close_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            connection
                .session
                .borrow_mut()
                .say(&ServerMessage::Drain { close_in_ms });
            connection.wake.notify_one();
            let leaving = Rc::clone(connection);
            tasks.spawn_local(async move {
                tokio::time::sleep(wait).await;
                leaving.end(CloseCode::Restart);
            });
        }
    }

    /// Everything up to here was dispatched.
    pub(crate) fn applied(&self) -> StreamSeq {
        self.applied.get()
    }
}
