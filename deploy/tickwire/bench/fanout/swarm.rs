//! The measuring client: thousands of sockets on one thread, one buffer, and no parser on the way.

mod client;
mod frames;
mod nats;
mod scan;
mod tally;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
use schemas::time::{Clock, SystemClock};
use schemas::ws::Encoding;

use client::{Client, Phase, Read};
use tally::Ledger;

pub(super) use tally::Tally;

/// How long a turn waits for something to happen.
const TURN: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};
/// Sockets that are looked after in one turn.
const EVENTS: usize = 1_024;
/// The buffer that everybody reads into.
const BUFFER: usize = 256 * 1024;
/// Connections from one address: fewer than it has ports.
const PER_ADDRESS: usize = 20_000;
/// The id of what a client says first; that of any other op is the time at which it was due.
const OPENING: u64 = 1;
/// How long all connections together may take to be opened.
const PATIENCE: Duration = Duration::from_mins(1);

/// What clients and server speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Ours, which the broadcaster knows enough of.
    Tickwire(Encoding),
    /// NATS, in WebSocket messages.
    Nats,
}

/// Where clients connect, and what they hold.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) address: SocketAddr,
    pub(super) dialect: Dialect,
    /// How many topics there are.
    pub(super) topics: usize,
    /// The numbers of the topics that each client holds.
    pub(super) held: Vec<Vec<usize>>,
}

/// Clients on one thread. They read only while somebody calls.
pub(super) struct Swarm {
    plan: Plan,
    epoll: OwnedFd,
    buffer: Vec<u8>,
    clients: Vec<Client>,
    /// How many have an accepted subscription.
    live: usize,
    ledger: Ledger,
}

impl Swarm {
    /// Clients that are not connected yet.
    ///
    /// # Errors
    ///
    /// The system has no more file descriptors.
    pub(super) fn new(plan: Plan) -> Result<Self> {
        let ledger = Ledger::new(plan.dialect, plan.topics, &plan.held)?;
        let clients = plan.held.iter().map(|_| Client::default()).collect();
        Ok(Self {
            plan,
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            buffer: vec![0; BUFFER],
            clients,
            live: 0,
            ledger,
        })
    }

    /// Connects whoever is not connected, so many at once, until all subscriptions are accepted.
    /// Who was connected before goes on where it was.
    ///
    /// # Errors
    ///
    /// A connection is refused or lost, or it takes too long.
    pub(super) fn open(&mut self, at_once: usize) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let closed = self.ledger.tally.closed();
        let absent = |(_, client): &(usize, &Client)| client.is_closed();
        let mut waiting: VecDeque<usize> = self
            .clients
            .iter()
            .enumerate()
            .filter(absent)
            .map(|(number, _)| number)
            .collect();
        let mut begun = self.clients.len() - waiting.len();
        let mut events = Vec::with_capacity(EVENTS);
        while self.live < self.clients.len() {
            while begun < self.live.saturating_add(at_once)
                && let Some(number) = waiting.pop_front()
            {
                self.dial(number)?;
                begun += 1;
            }
            self.turn(&mut events, TURN)?;
            if let Some(complaint) = self.ledger.tally.complaints.first() {
                bail!("the server refuses a subscription: {complaint}");
            }
            if self.ledger.tally.closed() > closed {
                bail!("the server closes connections while they are being opened");
            }
            if Instant::now() > deadline {
                let (live, all) = (self.live, self.clients.len());
                bail!("only {live} of {all} connections could be opened in {PATIENCE:?}");
            }
        }
        Ok(())
    }

    fn dial(&mut self, number: usize) -> Result<()> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
            .context("there are no more sockets")?;
        let lane = u8::try_from(number / PER_ADDRESS).context("too many clients")?;
        if lane > 0 {
            let source = Ipv4Addr::new(127, 0, 0, 1 + lane);
            bind(&socket, &SocketAddrV4::new(source, 0)).context("there are no more ports")?;
        }
        match connect(&socket, &self.plan.address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error).context("a client cannot connect"),
        }
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        let data = EventData::new_u64(u64::try_from(number)?);
        epoll::add(&self.epoll, &stream, data, EventFlags::IN | EventFlags::OUT)?;
        if let Some(client) = self.clients.get_mut(number) {
            client.begin(stream);
        }
        Ok(())
    }

    /// Reads until it is over. The condition is looked at every few milliseconds at least.
    ///
    /// # Errors
    ///
    /// A server says what is not of the protocol.
    pub(super) fn watch(&mut self, mut is_over: impl FnMut(&Tally) -> bool) -> Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        while !is_over(&self.ledger.tally) {
            self.turn(&mut events, TURN)?;
        }
        Ok(())
    }

    /// Looks after everybody for so long at most, or until something has happened.
    ///
    /// # Errors
    ///
    /// A server says what is not of the protocol.
    pub(super) fn watch_for(&mut self, wait: Duration) -> Result<()> {
        self.turn(&mut Vec::with_capacity(EVENTS), Timespec::try_from(wait)?)
    }

    /// A client sends ops, as JSON.
    ///
    /// # Errors
    ///
    /// It is not connected any more.
    pub(super) fn say(&self, number: usize, ops: &str) -> Result<()> {
        self.clients.get(number).context("a client")?.ask(ops)
    }

    /// Starts a new tally and returns the last one: latencies are of ticks scheduled in the window,
    /// old news are those scheduled before `old`.
    ///
    /// # Errors
    ///
    /// None.
    pub(super) fn begin(&mut self, window: Range<i64>, old: i64) -> Result<Tally> {
        self.ledger.begin(window, old)
    }

    /// Cuts every connection, without a word.
    pub(super) fn cut(&mut self) {
        for client in &mut self.clients {
            client.cut();
        }
        self.live = 0;
    }

    /// The first so many stop reading, and stay connected.
    ///
    /// # Errors
    ///
    /// The system refuses.
    pub(super) fn stall(&mut self, count: usize) -> Result<()> {
        for client in self.clients.iter_mut().take(count) {
            if let Some(stream) = &client.stream {
                epoll::delete(&self.epoll, stream)?;
                client.stalled = true;
            }
        }
        Ok(())
    }

    /// Those that stopped read on.
    ///
    /// # Errors
    ///
    /// The system refuses.
    pub(super) fn read_on(&mut self) -> Result<()> {
        for (number, client) in self.clients.iter_mut().enumerate() {
            if let Some(stream) = &client.stream
                && client.stalled
            {
                let data = EventData::new_u64(u64::try_from(number)?);
                epoll::add(&self.epoll, stream, data, EventFlags::IN)?;
                client.stalled = false;
            }
        }
        Ok(())
    }

    /// How many clients that read hold each topic.
    pub(super) fn holders(&self) -> Vec<u64> {
        let mut holders = vec![0; self.plan.topics];
        for (client, held) in self.clients.iter().zip(&self.plan.held) {
            for topic in held {
                if let Some(count) = holders.get_mut(*topic)
                    && !client.stalled
                {
                    *count += 1;
                }
            }
        }
        holders
    }

    /// How many clients there are.
    pub(super) const fn size(&self) -> usize {
        self.clients.len()
    }

    /// Waits for a moment and looks after everybody to whom something happened.
    fn turn(&mut self, events: &mut Vec<Event>, wait: Timespec) -> Result<()> {
        events.clear();
        match epoll::wait(&self.epoll, spare_capacity(events), Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("sockets cannot be watched"),
        }
        for event in events.drain(..) {
            let (data, flags) = (event.data, event.flags);
            self.handle(usize::try_from(data.u64())?, flags)?;
        }
        Ok(())
    }

    fn handle(&mut self, number: usize, flags: EventFlags) -> Result<()> {
        let Some(client) = self.clients.get_mut(number) else {
            return Ok(());
        };
        if client.phase == Phase::Dialing {
            if !flags.intersects(EventFlags::OUT | EventFlags::ERR | EventFlags::HUP) {
                return Ok(());
            }
            client.ask_upgrade(&self.plan.address, self.plan.dialect)?;
            if let Some(stream) = &client.stream {
                let data = EventData::new_u64(u64::try_from(number)?);
                epoll::modify(&self.epoll, stream, data, EventFlags::IN)?;
            }
            return Ok(());
        }
        let held = self.plan.held.get(number).map_or(&[][..], Vec::as_slice);
        let was_live = client.phase == Phase::Live;
        match client.read(&mut self.buffer)? {
            Read::Nothing => {}
            Read::Ended => {
                *self.ledger.tally.closes.entry(client.end()).or_default() += 1;
                self.live -= usize::from(was_live);
            }
            Read::Bytes(filled) => {
                let now = SystemClock.now();
                let bytes = self.buffer.get(..filled).unwrap_or_default();
                client.absorb((number, held), bytes, &mut self.ledger, now)?;
                self.live += usize::from(!was_live && client.phase == Phase::Live);
            }
        }
        Ok(())
    }
}
