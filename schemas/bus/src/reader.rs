//! The ordered, gap-free live reader of one stream.
//!
//! An ephemeral push consumer whose every delivery is counted: a missing, repeated or late one, a
//! silent broker and a lost connection all end in a new consumer behind the last sequence that was
//! applied. Loss is detected by sequence only. Fillers of the publisher's fence are passed over.
//!
//! | module | holds |
//! |---|---|
//! | `machine` | all decisions, without I/O |
//! | `delivery` | positions and counts of deliveries |
//! | `feed` | does what the machine decides |
//! | `open` | creates a consumer and looks at what it will deliver |
//! | `range` | reads of a closed range |

mod delivery;
pub(crate) mod feed;
pub mod machine;
mod open;
mod range;

use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use schemas::position::{Epoch, StreamSeq};
use schemas::time::UnixNanos;
use tokio::time::Instant;

use crate::epoch::Watch;
use feed::Feed;
pub use range::read_range;

/// One message of the stream.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its subject.
    pub subject: async_nats::Subject,
    /// Its sequence.
    pub seq: StreamSeq,
    /// When the broker stored it.
    pub time: UnixNanos,
    /// Its headers; `None` if it has none.
    pub headers: Option<HeaderMap>,
    /// Its payload: a slice of the connection's read buffer, to be copied by whoever keeps it long.
    pub payload: Bytes,
}

impl Entry {
    /// The last value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        Some(self.headers.as_ref()?.get_last(name)?.as_str())
    }
}

/// What happened on the stream.
#[derive(Debug)]
pub enum Event {
    /// The first consumer is there: the join of what is stored and what comes.
    ///
    /// Told again if the consumer was lost before it had delivered the last message of each
    /// subject: they are then all delivered once more.
    Boot {
        /// The epoch of all sequences from here.
        epoch: Epoch,
        /// The first retained sequence, read after the consumer was created.
        first_seq: StreamSeq,
        /// The last sequence; [`Event::CaughtUp`] follows once it is reached.
        last_seq: StreamSeq,
        /// Behind which sequence everything comes; `None` if the last message of each subject
        /// comes first, and everything behind `last_seq`.
        after: Option<StreamSeq>,
    },
    /// Messages in stream order. Empty where only fillers moved the head.
    Batch {
        /// The messages.
        entries: Vec<Entry>,
        /// Everything up to here was seen.
        head: StreamSeq,
        /// When the broker stored the message at the head; 1970 if it expired unseen.
        head_time: UnixNanos,
    },
    /// The head has reached the last sequence read at the boot.
    CaughtUp,
    /// Nothing is heard from the broker.
    Stale,
    /// The broker is heard again.
    Live,
    /// Retention removed messages before they were read. Before [`Event::CaughtUp`], some of these
    /// may have been read.
    Trimmed {
        /// The first missing sequence.
        from: StreamSeq,
        /// The last missing sequence.
        to: StreamSeq,
    },
    /// The stream's leader was asked: it has no message behind this one.
    Surveyed {
        /// The last sequence.
        last_seq: StreamSeq,
        /// When it was asked.
        asked: Instant,
    },
    /// The history was rewound: all earlier sequences are void. A new [`Event::Boot`] follows.
    Reset,
}

/// Where a reader starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The last message of each subject, then all that follows, without a gap.
    LastPerSubject,
    /// Everything behind this sequence.
    After(StreamSeq),
    /// Everything that is retained if it takes at most so many bytes, else the last of each subject.
    AllWithin {
        /// The bound in bytes.
        bytes: u64,
    },
}

/// What a reader reads.
#[derive(Clone, Debug)]
pub struct ReaderConfig {
    /// The stream.
    pub stream: String,
    /// The beginning of the consumers' names, for operators.
    pub name: String,
    /// Subjects to receive; the head moves with these alone.
    pub filter: String,
    /// Where to start.
    pub start: Start,
}

/// Reads a stream; owns its consumer.
///
/// Of a stream that only grows (no deletes, purges or bounds by subject) and a filter that is all
/// of its subjects, every sequence is accounted for. With a narrower filter, messages that
/// retention removes while the reader lags behind it are noticed only by the next consumer.
pub struct Reader {
    feed: Feed,
    /// Epochs of KV buckets concern nobody but their readers.
    epochs: Option<Watch>,
}

impl Reader {
    /// A reader that begins when [`Reader::next`] is first called.
    pub fn new(client: Client, config: ReaderConfig) -> Self {
        let shared = !config.stream.starts_with("KV_");
        Self {
            epochs: shared.then(|| Watch::new(client.clone(), &config.stream, &config.name)),
            feed: Feed::new(client, config, shared),
        }
    }

    /// Everything up to here was seen.
    pub const fn head(&self) -> StreamSeq {
        self.feed.machine().head().0
    }

    /// The history that is read; `None` before the first [`Event::Boot`].
    pub const fn epoch(&self) -> Option<Epoch> {
        self.feed.machine().epoch()
    }

    /// How many sequences the stream was ahead when its leader was last asked, each 5 seconds.
    pub const fn lag(&self) -> u64 {
        self.feed.machine().lag()
    }

    /// Waits for the next event. It never ends: trouble is repaired, and told as events.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the future loses no event.
    pub async fn next(&mut self) -> Event {
        let Some(epochs) = &mut self.epochs else {
            return self.feed.next().await;
        };
        loop {
            let caught_up = self.feed.machine().is_caught_up();
            tokio::select! {
                biased;
                event = self.feed.next() => return event,
                // Until then each consumer has asked for the epoch itself.
                epoch = epochs.next(), if caught_up => {
                    if self.feed.machine().epoch().is_some_and(|known| epoch > known) {
                        self.feed.recheck("the epoch has changed");
                    }
                }
            }
        }
    }
}
