//! A session with a venue over WebSocket, renewed before the venue would end it.

mod connection;
mod frames;
mod handover;
mod rejects;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use schemas::tick::Tick;
use schemas::time::Clock;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::feed::{Decoder, Feed, FeedError};
use connection::{Outbox, Received, Socket, open, reached, read};
use frames::{Frames, Sign};
use handover::{Delivered, Handover};
pub use rejects::Rejects;

/// Pause between requests for what was lost.
const BETWEEN_REPAIRS: Duration = Duration::from_secs(10);
/// Pause before a connection that should have taken over is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// An old connection that stays silent for so long has nothing more to say.
const SILENT: Duration = Duration::from_secs(5);
/// The longest time that two connections run side by side.
const OVERLAP: Duration = Duration::from_mins(1);

/// Where a venue is, and how old a connection to it may grow.
#[derive(Clone, Debug)]
pub struct Address {
    /// Its WebSocket address.
    pub url: String,
    /// Age at which the next connection is opened beside the old one; `None` for a venue that ends
    /// none, or whose frames make no sense without those before them.
    pub renew_after: Option<Duration>,
}

/// A session: connected, subscribed, decoding.
pub struct Live<'a> {
    address: Address,
    /// `None` once it has ended while the next one was being opened.
    socket: Option<Socket>,
    frames: Frames<'a>,
    /// When the next connection is opened.
    renew_at: Option<Instant>,
    renewal: Option<Renewal>,
    outbox: Outbox,
    /// When the venue may be asked for what was lost.
    repair_at: Instant,
    /// What the connection before delivered, while this one may be behind it.
    delivered: Option<(Delivered, Instant)>,
}

/// The next connection.
struct Renewal {
    next: Next,
    handover: Handover,
    /// When it was open, or is being opened.
    since: Instant,
    /// When the old connection delivered something.
    heard: Instant,
}

impl Renewal {
    /// When the connections no longer wait for each other.
    fn due(&self) -> Instant {
        let longest = self.since + OVERLAP;
        if self.handover.has_begun() {
            longest.min(self.heard + SILENT)
        } else {
            longest
        }
    }
}

enum Next {
    Opening(Pin<Box<dyn Future<Output = Result<Socket, FeedError>> + Send>>),
    Open(Socket),
}

enum Event {
    Old(Received),
    New(Received),
    Opened(Result<Socket, FeedError>),
    Due,
}

impl<'a> Live<'a> {
    /// Connects and subscribes.
    ///
    /// # Errors
    ///
    /// [`FeedError::Connection`].
    pub async fn open(
        address: Address,
        decoder: &'a mut dyn Decoder,
        rejects: &'a mut Rejects,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, FeedError> {
        decoder.reset();
        let socket = open(address.url.clone(), decoder.requests()).await?;
        let renew_at = address.renew_after.map(|age| Instant::now() + age);
        Ok(Self {
            address,
            socket: Some(socket),
            frames: Frames {
                decoder,
                rejects,
                clock,
            },
            renew_at,
            renewal: None,
            outbox: Outbox::default(),
            repair_at: Instant::now(),
            delivered: None,
        })
    }

    /// Waits for either connection. Cancel safe.
    async fn event(&mut self) -> Event {
        let old = read(self.socket.as_mut());
        match &mut self.renewal {
            None => tokio::select! {
                message = old => Event::Old(message),
                () = reached(self.renew_at) => Event::Due,
            },
            Some(renewal) => {
                let due = renewal.due();
                match &mut renewal.next {
                    Next::Opening(opening) => tokio::select! {
                        message = old => Event::Old(message),
                        opened = opening => Event::Opened(opened),
                    },
                    Next::Open(new) => tokio::select! {
                        message = old => Event::Old(message),
                        message = read(Some(new)) => Event::New(message),
                        () = sleep_until(due) => Event::Due,
                    },
                }
            }
        }
    }

    /// Asks for what the decoder lost. Cancel safe.
    async fn repair(&mut self) -> Result<(), FeedError> {
        let now = Instant::now();
        if now >= self.repair_at {
            let requests = self.frames.decoder.repairs();
            if !requests.is_empty() {
                self.repair_at = now + BETWEEN_REPAIRS;
                self.outbox.extend(requests);
            }
        }
        match &mut self.socket {
            Some(socket) => self.outbox.send(socket).await,
            None => Ok(()),
        }
    }

    /// What the old connection delivered.
    fn old(&mut self, received: Received, ticks: &mut Vec<Tick>) -> Result<Sign, FeedError> {
        let taken = self.frames.take(received, ticks);
        if let Some((delivered, until)) = &mut self.delivered {
            delivered.strike_out(ticks);
            if Instant::now() > *until {
                self.delivered = None;
            }
        }
        match taken {
            Ok(sign) => {
                if let Some(renewal) = &mut self.renewal {
                    renewal.heard = Instant::now();
                    renewal.handover.old(ticks);
                } else if sign == Sign::Ending && self.address.renew_after.is_none() {
                    let problem = "the venue announced its shutdown".to_owned();
                    return Err(FeedError::Connection(problem));
                } else if sign == Sign::Ending {
                    self.renew();
                }
                Ok(sign)
            }
            Err(error) => match &self.renewal {
                None => Err(error),
                Some(renewal) => {
                    warn!(feed = self.frames.rejects.feed(), %error, "over before the next one took over");
                    self.socket = None;
                    if matches!(renewal.next, Next::Open(_)) {
                        self.switch(ticks);
                    }
                    Ok(Sign::Refused)
                }
            },
        }
    }

    /// What the new connection delivered.
    fn new_ones(&mut self, received: Received) -> Result<(), FeedError> {
        let mut ticks = Vec::new();
        match self.frames.take(received, &mut ticks) {
            Ok(Sign::Life | Sign::Refused) => {
                if let Some(renewal) = &mut self.renewal {
                    if !renewal.handover.has_begun() {
                        renewal.heard = Instant::now();
                    }
                    renewal.handover.new_ones(ticks);
                }
                Ok(())
            }
            Ok(Sign::Ending) => self.put_off(FeedError::Connection("it will shut down".to_owned())),
            Err(error) => self.put_off(error),
        }
    }

    /// Opens the next connection.
    fn renew(&mut self) {
        let opening = open(self.address.url.clone(), self.frames.decoder.requests());
        self.frames.rejects.connected();
        let now = Instant::now();
        self.renewal = Some(Renewal {
            next: Next::Opening(Box::pin(opening)),
            handover: Handover::default(),
            since: now,
            heard: now,
        });
    }

    /// The next connection failed: the old one goes on.
    fn put_off(&mut self, error: FeedError) -> Result<(), FeedError> {
        self.renewal = None;
        if self.socket.is_none() {
            return Err(error);
        }
        warn!(feed = self.frames.rejects.feed(), %error, "the connection is not renewed yet");
        self.renew_at = Some(Instant::now() + TRY_AGAIN);
        Ok(())
    }

    /// The connections have waited for each other for too long.
    fn give_up(&mut self, ticks: &mut Vec<Tick>) -> Result<(), FeedError> {
        let Some(renewal) = &self.renewal else {
            return Ok(());
        };
        if renewal.handover.is_one_sided() {
            let problem = "the new one delivers nothing, the old one does".to_owned();
            return self.put_off(FeedError::Connection(problem));
        }
        if renewal.handover.has_begun() {
            let feed = self.frames.rejects.feed();
            warn!(
                feed,
                "the old connection did not reach the new one: messages may be missing"
            );
        }
        self.switch(ticks);
        Ok(())
    }

    /// The new connection takes over; dropping the old one closes it.
    fn switch(&mut self, ticks: &mut Vec<Tick>) {
        if let Some(Renewal {
            next: Next::Open(new),
            handover,
            ..
        }) = self.renewal.take()
        {
            let (waiting, delivered) = handover.finish();
            ticks.extend(waiting);
            self.delivered = Some((delivered, Instant::now() + OVERLAP));
            self.socket = Some(new);
            self.renew_at = self.address.renew_after.map(|age| Instant::now() + age);
            info!(
                feed = self.frames.rejects.feed(),
                "the connection was renewed"
            );
        }
    }

    fn opened(
        &mut self,
        opened: Result<Socket, FeedError>,
        ticks: &mut Vec<Tick>,
    ) -> Result<(), FeedError> {
        match (opened, &mut self.renewal) {
            (Ok(socket), Some(renewal)) => {
                renewal.next = Next::Open(socket);
                renewal.since = Instant::now();
                if self.socket.is_none() {
                    self.switch(ticks);
                }
                Ok(())
            }
            (Ok(_), None) => Ok(()),
            (Err(error), _) => self.put_off(error),
        }
    }
}

impl Feed for Live<'_> {
    async fn next(&mut self) -> Result<Option<Vec<Tick>>, FeedError> {
        loop {
            let mut ticks = Vec::new();
            self.repair().await?;
            let mut sign = Sign::Refused;
            match self.event().await {
                Event::Old(received) => sign = self.old(received, &mut ticks)?,
                Event::New(received) => self.new_ones(received)?,
                Event::Opened(opened) => self.opened(opened, &mut ticks)?,
                Event::Due if self.renewal.is_none() => self.renew(),
                Event::Due => self.give_up(&mut ticks)?,
            }
            let done = |renewal: &Renewal| renewal.handover.is_done();
            if self.renewal.as_ref().is_some_and(done) {
                self.switch(&mut ticks);
            }
            // In a quiet market the venue's own signs of life keep the session: a new one would
            // lose what is traded meanwhile.
            if !ticks.is_empty() || sign == Sign::Life {
                return Ok(Some(ticks));
            }
        }
    }
}
