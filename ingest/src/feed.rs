//! The seam between venues and the rest of ingest: what a feed hands over, and how it can fail.

use std::collections::HashMap;
use std::future::Future;

use schemas::decimal::Price;
use schemas::id::{Interval, Symbol};
use schemas::tick::Tick;
use schemas::time::UnixNanos;

/// The longest text of a rejection, in characters.
const MAX_MESSAGE: usize = 300;
/// Venues send again at most so many of their last trades.
const SENT_AGAIN: u64 = 1_000;

/// Ticks of one feed, in order of arrival.
#[derive(Debug)]
pub struct Batch {
    /// Index of the feed in its configuration.
    pub feed: usize,
    /// The ticks.
    pub ticks: Vec<Tick>,
}

/// Yields normalized ticks from one session with a venue.
pub trait Feed: Send {
    /// Waits for ticks; none of them is a sign of life. `None` once the feed has ended for good.
    ///
    /// # Errors
    ///
    /// [`FeedError`] if the session is over; another one may be tried.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the future loses no tick.
    fn next(&mut self) -> impl Future<Output = Result<Option<Vec<Tick>>, FeedError>> + Send;
}

/// What the stream holds of a venue: a source that makes up its own ticks goes on from there.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// Last bid and ask.
    pub quotes: HashMap<Symbol, (Price, Price)>,
    /// The highest trade id; 0 if there is none.
    pub last_id: u64,
    /// The latest event time.
    pub latest: UnixNanos,
}

/// Why a session with a venue ended.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The connection failed or ended.
    #[error("connection: {0}")]
    Connection(String),
    /// The venue refused what was asked.
    #[error("the venue answered: {0}")]
    Venue(String),
    /// Nothing came for too long.
    #[error("silent for {0:?}")]
    Silent(std::time::Duration),
    /// A file could not be read.
    #[error("file {path}: {problem}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Why one message of a venue was refused; everything else goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Reject {
    /// The kind of fault, for counting.
    pub reason: Reason,
    /// The field and the limit that it breaks.
    pub message: String,
}

impl Reject {
    /// A rejection. What a venue says may be in the message: it is cut, and control characters are
    /// taken out.
    pub fn new(reason: Reason, message: impl AsRef<str>) -> Self {
        let legal = |c: char| if c.is_control() { ' ' } else { c };
        let message = message.as_ref().chars().take(MAX_MESSAGE).map(legal);
        Self {
            reason,
            message: message.collect(),
        }
    }
}

/// Kinds of faults in what venues send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Not what the format promises.
    Malformed,
    /// A value outside of its limits.
    Range,
    /// Values that contradict each other.
    Contradiction,
    /// Larger than the limit.
    Size,
}

impl Reason {
    /// The reason as a metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Range => "range",
            Self::Contradiction => "contradiction",
            Self::Size => "size",
        }
    }
}

/// What became of one message of a venue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Its ticks, if any, were appended.
    Ticks,
    /// It is of a type that is not carried.
    Ignored,
    /// The venue will end the session: take a new one.
    Reconnect,
}

/// Turns a venue's text frames into ticks. Pure.
pub trait Decoder: Send {
    /// Appends the ticks of a frame that was received at `received`.
    ///
    /// # Errors
    ///
    /// [`Reject`] if the frame, or a part of it, cannot be used; `out` keeps the good part.
    fn decode(
        &mut self,
        raw: &str,
        received: UnixNanos,
        out: &mut Vec<Tick>,
    ) -> Result<Decoded, Reject>;

    /// The requests that open a session.
    fn requests(&self) -> Vec<String>;

    /// The requests that mend what was lost within a session; each is asked for once.
    fn repairs(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// Forgets what belongs to the session that ended.
    fn reset(&mut self);
}

/// Whether a trade id is lower than a venue would repeat after `highest`: it counts anew.
pub(crate) fn is_far_below(number: u64, highest: u64) -> bool {
    number < highest.saturating_sub(SENT_AGAIN).max(highest / 2)
}

/// The bars that are built where nothing else is configured.
pub const DEFAULT_BARS: &[Interval] = Interval::ALL;
