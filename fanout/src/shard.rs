//! A shard: one thread that owns its connections and hands each live message to those that want it.

mod due;
mod inlet;
mod pace;
mod roster;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use schemas::position::{Epoch, StreamSeq};
use schemas::ws::{CloseCode, ServerMessage};
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};
use tracing::debug;

use crate::connection::{self, Connection, Outlet, Parted, Wire};
use crate::deflate::{Deflater, Inflater};
use crate::departure::Departure;
use crate::index::Index;
use crate::intake::News;
use crate::session::Session;
use crate::stats::{EVERY, Load, Reporter, Written};
use crate::store::{Live, StreamNo};
use due::Due;
pub(crate) use inlet::{Arrival, Command, INLET, Shared};
use pace::{Fastest, Pace, Rest};
use roster::Roster;

/// Connections that are written to before anything else is looked at.
const WRITES: usize = 64;

/// How long a shard dispatches and writes before its connections' own tasks have a turn.
const SLICE: Duration = Duration::from_millis(2);

/// One shard's state; everything of it lives on one thread.
pub(crate) struct Shard {
    pub(crate) shared: Shared,
    /// By stream.
    pub(crate) indexes: RefCell<Box<[Index]>>,
    pub(crate) connections: RefCell<Roster>,
    /// Connections that have live messages to write, the longest waiting first.
    due: RefCell<Due>,
    /// Somebody who keeps up has much to be written.
    is_pressed: Cell<bool>,
    pace: Pace,
    /// One buffer for writes, used by whoever writes.
    pub(crate) buffer: RefCell<Vec<u8>>,
    /// One buffer for reads, used by whoever has something to read.
    pub(crate) scratch: RefCell<Vec<u8>>,
    pub(crate) written: Written,
    pub(crate) inflater: RefCell<Inflater>,
    pub(crate) deflater: RefCell<Deflater>,
    /// Up to where each stream was dispatched.
    applied: Box<[Cell<StreamSeq>]>,
    /// How fast messages of each stream come.
    fastest: Box<[Fastest]>,
    /// The history of each stream that was joined last.
    joined: Box<[Cell<Option<Epoch>>]>,
}

/// Runs a shard until it is drained or nobody can command it any more.
pub(crate) fn run(shared: Shared, commands: mpsc::Receiver<Command>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let shard = Rc::new(Shard {
        indexes: RefCell::new(each(&shared)),
        applied: each(&shared),
        fastest: each(&shared),
        joined: each(&shared),
        connections: RefCell::default(),
        due: RefCell::new(Due::new(Instant::now())),
        is_pressed: Cell::new(false),
        pace: Pace::new(
            shared.hold_back,
            shared.hurry.clone(),
            (Instant::now(), spent()),
        ),
        buffer: RefCell::default(),
        scratch: RefCell::new(vec![0; 16 * 1024]),
        written: Written::default(),
        inflater: RefCell::new(Inflater::new()),
        deflater: RefCell::new(Deflater::new()),
        shared,
    });
    LocalSet::new().block_on(&runtime, shard.serve(commands));
    Ok(())
}

impl Shard {
    async fn serve(self: Rc<Self>, mut commands: mpsc::Receiver<Command>) {
        let mut tasks = JoinSet::new();
        let mut draining = false;
        let mut rest = Rest::default();
        let mut yielded_at = Instant::now();
        let (board, metrics) = (&self.shared.board, self.shared.metrics.clone());
        let mut reporter = board.open(metrics, Instant::now());
        let mut look = interval(EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if draining && tasks.is_empty() {
                return;
            }
            let wait = self.flush_some();
            // Whom a burst has brought near his bound has it before there is more.
            let takes = !self.is_pressed.get() || wait != Some(Duration::ZERO);
            if takes {
                self.is_pressed.set(false);
            }
            let may_rest = takes && wait != Some(Duration::ZERO);
            let length = self.pace.rest().filter(|_| may_rest);
            let resting = rest.left(length, Instant::now());
            let wait = resting.or(wait);
            if yielded_at.elapsed() > SLICE {
                // Those who read and those who accept are on this thread too.
                tokio::task::yield_now().await;
                yielded_at = Instant::now();
            }
            tokio::select! {
                biased;
                _ = look.tick() => self.report(&mut reporter),
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                // What is there is dispatched before more is written: a write takes all of it.
                command = commands.recv(), if takes && resting.is_none() => {
                    let Some(command) = command else {
                        return;
                    };
                    self.take(command, &mut tasks, &mut draining);
                    self.take_some(&mut commands, &mut tasks, &mut draining);
                }
                () = pause(wait.unwrap_or_default()), if wait.is_some() => {
                    if rest.end() {
                        self.take_some(&mut commands, &mut tasks, &mut draining);
                        if commands.is_closed() && commands.is_empty() {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Carries out what is there, for a moment.
    fn take_some(
        self: &Rc<Self>,
        commands: &mut mpsc::Receiver<Command>,
        tasks: &mut JoinSet<()>,
        draining: &mut bool,
    ) {
        let begun = Instant::now();
        while !self.is_pressed.get() && begun.elapsed() < SLICE {
            let Ok(command) = commands.try_recv() else {
                break;
            };
            self.take(command, tasks, draining);
        }
    }

    fn take(self: &Rc<Self>, command: Command, tasks: &mut JoinSet<()>, draining: &mut bool) {
        match command {
            Command::Accept(_) if *draining => {}
            Command::Accept(arrival) => {
                if let Err(problem) = self.accept(arrival, tasks) {
                    debug!(%problem, "a connection was lost before it began");
                }
            }
            Command::Drain(departure) => {
                *draining = true;
                tasks.spawn_local(Rc::clone(self).drain(departure));
            }
            Command::News(news) => self.obey(&news),
        }
    }

    /// Writes to some of those whose turn it is; how long nobody else has one.
    fn flush_some(&self) -> Option<Duration> {
        let begun = Instant::now();
        self.pace.look(begun, spent);
        self.due.borrow_mut().advance(begun);
        for _ in 0..WRITES {
            let next = self.due.borrow_mut().pop();
            let Some(connection) = next else {
                break;
            };
            connection::flush(self, &connection, begun);
            if connection::has_more(&connection, begun) {
                self.due.borrow_mut().again(connection);
            }
        }
        self.due.borrow().wait()
    }

    fn report(&self, reporter: &mut Reporter) {
        let now = Instant::now();
        let mut load = Load::default();
        for connection in self.connections.borrow().all() {
            let (queued, is_slow) = connection.session.borrow().backlog(now);
            load.connections += 1;
            load.sse += usize::from(matches!(connection.wire, Wire::Events(_)));
            load.slow += usize::from(is_slow);
            load.queued_bytes += queued;
        }
        let mut behind = 0;
        for (store, applied) in self.shared.stores.iter().zip(&self.applied) {
            behind += store.read().head.get().saturating_sub(applied.get().get());
        }
        let state = (load, behind, self.pace.hold());
        reporter.report(now, &self.written, state, |counts| {
            let indexes = self.indexes.borrow();
            counts.resize_with(indexes.len(), Vec::new);
            for (counts, index) in counts.iter_mut().zip(&*indexes) {
                index.count(counts);
            }
        });
    }

    fn accept(self: &Rc<Self>, arrival: Arrival, tasks: &mut JoinSet<()>) -> std::io::Result<()> {
        let Arrival {
            stream,
            early,
            encoding,
            wire,
            head,
            first,
            deflate,
            guest,
        } = arrival;
        let now = Instant::now();
        let stream = tokio::net::TcpStream::from_std(stream)?;
        let mut connections = self.connections.borrow_mut();
        let id = connections.next_id();
        let (limits, metrics) = (Arc::clone(&self.shared.limits), self.shared.metrics.clone());
        let applied = self.applied.iter().map(Cell::get);
        let session = Session::new((id, encoding), limits, metrics, applied, now);
        let connection = Rc::new(Connection {
            id,
            wire,
            session: RefCell::new(session),
            control: RefCell::new(head),
            wake: Notify::new(),
            hungry: Notify::new(),
            close: Cell::new(None),
            deflate,
            parted: Parted::default(),
            stream,
            outlet: Outlet::new(now),
        });
        connections.insert(Rc::clone(&connection));
        let shard = Rc::clone(self);
        tasks.spawn_local(connection::run(shard, connection, early, first, guest));
        Ok(())
    }

    fn obey(&self, news: &News) {
        match *news {
            News::Batch {
                stream,
                ref messages,
                head,
                read,
            } => {
                let waited = read.elapsed().as_secs_f64();
                self.shared.metrics.hops.dispatched.observe(waited);
                self.dispatch(stream, messages, (head, read.into_std()));
            }
            News::Heartbeat => self.each(Session::heartbeat),
            News::Joined {
                stream,
                head,
                rewound,
            } => self.join(stream, head, rewound),
            News::Trimmed { stream, from, to } => self.trim(stream, (from, to)),
        }
    }

    fn each(&self, mut act: impl FnMut(&mut Session)) {
        for connection in self.connections.borrow().all() {
            if connection.is_open() {
                act(&mut connection.session.borrow_mut());
                connection.wake.notify_one();
            }
        }
    }

    fn trim(&self, stream: StreamNo, span: (StreamSeq, StreamSeq)) {
        let Some(store) = self.shared.stores.get(stream.index()) else {
            return;
        };
        self.reach(stream, self.applied(stream).max(span.1));
        let (known, now) = (store.read(), Instant::now());
        for connection in self.connections.borrow().all() {
            let told = connection.session.borrow_mut().trimmed(&known, span, now);
            if let Err(code) = told {
                connection.end(code);
            }
            connection.wake.notify_one();
        }
    }

    fn dispatch(
        &self,
        stream: StreamNo,
        messages: &[Arc<Live>],
        (head, read): (StreamSeq, Instant),
    ) {
        let now = Instant::now();
        self.pace.look(now, spent);
        let (window, hold) = (self.pace.window(), self.pace.hold());
        let (mut met, mut all) = (0, 0);
        let read_ago = i64::try_from(now.saturating_duration_since(read).as_nanos());
        let read_at = self.shared.clock.now().get() - read_ago.unwrap_or(0);
        let mut indexes = self.indexes.borrow_mut();
        let Some(index) = indexes.get_mut(stream.index()) else {
            return;
        };
        let fastest = self.fastest.get(stream.index());
        let mut due = self.due.borrow_mut();
        due.advance(now);
        let connections = self.connections.borrow();
        let mut takers: Vec<&Rc<Connection>> = Vec::new();
        for live in messages {
            // Whatever was held up on its way here has waited already.
            let took = read_at.saturating_sub(live.time.get());
            let late = fastest.map_or(Duration::ZERO, |fastest| fastest.late(took, now));
            let held_until = read + hold.saturating_sub(late);
            if index.is_born(live.topic.id.index()) {
                for id in index.claim(&live.topic) {
                    if let Some(connection) = connections.get(id) {
                        connection
                            .session
                            .borrow_mut()
                            .born(&live.topic, live.seq, index);
                    }
                }
            }
            // Each pass waits for memory, but for that of many connections at once; one pass would wait
            // for one after the other.
            let subscribers = index.subscribers(live.topic.id);
            takers.reserve(subscribers.len());
            let here = subscribers.iter().filter_map(|id| connections.get(*id));
            takers.extend(here.filter(|connection| connection.is_open()));
            takers.retain(|connection| connection.session.borrow().holds(&live.topic));
            for connection in takers.drain(..) {
                let mut session = connection.session.borrow_mut();
                let was_pressed = session.is_pressed();
                let delivered = session.deliver(live, now);
                if session.is_pressed() && !connection.outlet.is_blocked() {
                    self.is_pressed.set(true);
                    if !was_pressed {
                        due.hasten(connection);
                    }
                }
                drop(session);
                match delivered {
                    Ok(None) => {
                        let written_at = connection.outlet.written_at.get();
                        let is_met = due.add(connection, held_until.max(written_at + window));
                        met += u32::from(is_met);
                        all += 1;
                    }
                    Ok(Some(later)) => connection.look_at(later),
                    Err(code) => connection.end(code),
                }
            }
        }
        self.pace.gather((met, all));
        self.reach(stream, head);
    }

    fn join(&self, stream: StreamNo, head: StreamSeq, rewound: Option<Epoch>) {
        let mut indexes = self.indexes.borrow_mut();
        let store = self.shared.stores.get(stream.index());
        let Some((store, index)) = store.zip(indexes.get_mut(stream.index())) else {
            return;
        };
        let known = store.read();
        let connections = self.connections.borrow();
        for topic in known.topics().skip(index.seen()) {
            if index.is_born(topic.id.index()) {
                for id in index.claim(topic) {
                    if let Some(connection) = connections.get(id) {
                        connection.session.borrow_mut().born(topic, head, index);
                    }
                }
            }
        }
        self.reach(stream, head);
        if let Some(joined) = self.joined.get(stream.index()) {
            joined.set(rewound.or(known.epoch));
        }
        for connection in connections.all().filter(|connection| connection.is_open()) {
            let mut session = connection.session.borrow_mut();
            if let Some(epoch) = rewound {
                session.reset(&known, epoch, head);
            }
            session.applied(stream, head);
            connection.wake.notify_one();
        }
    }

    /// Tells every connection when it is closed, and closes it then.
    async fn drain(self: Rc<Self>, departure: Arc<Departure>) {
        let now = Instant::now();
        let mut leaving: Vec<(Instant, Rc<Connection>)> = Vec::new();
        for connection in self.connections.borrow().all() {
            let at = departure.place();
            let wait = at.saturating_duration_since(now);
            let close_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            connection
                .session
                .borrow_mut()
                .say(&ServerMessage::Drain { close_in_ms });
            connection.wake.notify_one();
            leaving.push((at, Rc::clone(connection)));
        }
        leaving.sort_unstable_by_key(|(at, _)| *at);
        for (at, connection) in leaving {
            let stays = || {
                let open = self.connections.borrow();
                open.get(connection.id).is_some() && connection.is_open()
            };
            if stays() {
                sleep_until(at.into()).await;
            }
            while stays() {
                match departure.pass(Instant::now()) {
                    Ok(()) => connection.end(CloseCode::Restart),
                    Err(again) => sleep_until(again.into()).await,
                }
            }
        }
    }

    /// Counts what a socket took.
    pub(crate) fn wrote(&self, bytes: usize) {
        self.written.write(bytes);
        let size = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.shared.metrics.written_bytes.inc_by(size.into());
        self.shared.metrics.flush_bytes.observe(size.into());
    }

    /// Notes that everything up to there was dispatched.
    fn reach(&self, stream: StreamNo, head: StreamSeq) {
        if let Some(applied) = self.applied.get(stream.index()) {
            applied.set(head);
        }
    }

    /// Up to where a stream was dispatched.
    fn applied(&self, stream: StreamNo) -> StreamSeq {
        let applied = self.applied.get(stream.index());
        applied.map_or(StreamSeq::ZERO, Cell::get)
    }

    /// The history of a stream, once this shard has joined it.
    pub(crate) fn joined(&self, stream: StreamNo) -> Option<Epoch> {
        self.joined.get(stream.index())?.get()
    }

    /// Tells a session up to where each stream was dispatched.
    pub(crate) fn tell_applied(&self, session: &mut Session) {
        for stream in StreamNo::all(self.applied.len()) {
            session.applied(stream, self.applied(stream));
        }
    }
}

/// How much processor time this thread has had.
fn spent() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// One of something for each stream.
fn each<T: Default>(shared: &Shared) -> Box<[T]> {
    shared.stores.iter().map(|_| T::default()).collect()
}

/// Lets others run for so long, at least once.
async fn pause(wait: Duration) {
    if wait.is_zero() {
        tokio::task::yield_now().await;
    } else {
        sleep(wait).await;
    }
}

#[cfg(test)]
mod tests;
