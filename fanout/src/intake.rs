//! What the events of a stream's reader mean here: the store takes messages in, and shards are told.
//! No I/O.

use std::sync::Arc;

use bus::reader::{Entry, Event};
use schemas::codec;
use schemas::id::Kind;
use schemas::position::{Epoch, StreamSeq};
use schemas::tick::{FeedState, Tick};
use schemas::time::UnixNanos;
use tokio::time::Instant;

use crate::store::{FeedReport, Known, Live, Store, StreamNo};

/// What every shard is told of a stream.
#[derive(Clone, Debug)]
pub(crate) enum News {
    /// Messages in the stream's order; everything up to the head is in them or in the store.
    Batch {
        stream: StreamNo,
        messages: Arc<[Arc<Live>]>,
        head: StreamSeq,
        /// When they were read.
        read: Instant,
    },
    /// Feeds changed their state: clients should know at once.
    Heartbeat,
    /// The stream was joined: everything up to the head is in the store. After a rewind, the epoch.
    Joined {
        stream: StreamNo,
        head: StreamSeq,
        rewound: Option<Epoch>,
    },
    /// Retention removed messages before they were read.
    Trimmed {
        stream: StreamNo,
        from: StreamSeq,
        to: StreamSeq,
    },
}

/// What was taken in.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// In this order.
    pub(crate) news: Vec<News>,
    /// Messages whose subject is no topic, or of a venue that another stream has.
    pub(crate) foreign: u64,
}

impl From<News> for Taken {
    fn from(news: News) -> Self {
        Self {
            news: vec![news],
            foreign: 0,
        }
    }
}

/// Takes in what a stream's reader tells.
#[derive(Debug)]
pub(crate) struct Intake {
    pub(crate) store: Arc<Store>,
    stream: StreamNo,
    joined: bool,
    rewound: bool,
}

impl Intake {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        let stream = store.read().number;
        Self {
            store,
            stream,
            joined: false,
            rewound: false,
        }
    }

    /// Whether the store has all that there is of the stream.
    pub(crate) const fn is_joined(&self) -> bool {
        self.joined
    }

    /// Takes in an event that came at that time.
    pub(crate) fn take(&mut self, event: Event, now: Instant) -> Taken {
        let stream = self.stream;
        match event {
            Event::Boot {
                epoch,
                first_seq,
                last_seq,
                after,
            } => {
                self.joined = false;
                let behind = after.unwrap_or(last_seq);
                self.store.write().begin(epoch, first_seq, behind);
                Taken::default()
            }
            Event::Batch {
                entries,
                head,
                head_time,
            } => self.batch(&entries, (head, head_time), now),
            Event::CaughtUp => {
                self.joined = true;
                let known = self.store.read();
                let rewound = known.epoch.filter(|_| std::mem::take(&mut self.rewound));
                let head = known.head;
                News::Joined {
                    stream,
                    head,
                    rewound,
                }
                .into()
            }
            Event::Stale | Event::Live => {
                self.store.write().stale = matches!(event, Event::Stale);
                News::Heartbeat.into()
            }
            Event::Surveyed { last_seq, asked } => {
                self.store.write().surveyed(last_seq, asked.into_std());
                Taken::default()
            }
            Event::Trimmed { from, to } => {
                self.store.write().trimmed(to);
                let told = self.joined.then_some(News::Trimmed { stream, from, to });
                told.map(Taken::from).unwrap_or_default()
            }
            Event::Reset => {
                (self.joined, self.rewound) = (false, true);
                self.store.write().forget();
                Taken::default()
            }
        }
    }

    fn batch(
        &mut self,
        entries: &[Entry],
        (head, head_time): (StreamSeq, UnixNanos),
        read: Instant,
    ) -> Taken {
        let (mut taken, mut changed) = (Taken::default(), false);
        let mut messages = Vec::with_capacity(entries.len());
        let mut known = self.store.write();
        for entry in entries {
            let Some(live) = known.apply(&entry.subject, entry.seq, entry.time, &entry.payload)
            else {
                taken.foreign += 1;
                continue;
            };
            if live.topic.kind == Kind::Feed {
                changed |= note_feed(&mut known, &live);
            }
            messages.push(live);
        }
        known.head = known.head.max(head);
        known.head_time = head_time;
        drop(known);
        if self.joined {
            taken.news.push(News::Batch {
                stream: self.stream,
                messages: messages.into(),
                head,
                read,
            });
            taken.news.extend(changed.then_some(News::Heartbeat));
        }
        taken
    }
}

/// Remembers what a feed says of itself; whether clients should know at once.
fn note_feed(known: &mut Known, live: &Live) -> bool {
    let Ok(Tick::Feed(feed)) = codec::from_msgpack(&live.payload) else {
        return false;
    };
    let state = match feed.state {
        FeedState::Live => "live",
        FeedState::Stale => "stale",
        FeedState::Reconnecting => "reconnecting",
        FeedState::Closed => "closed",
        // A hole is an event; the feed's state is what it was.
        FeedState::Gap => return true,
    };
    let key = (feed.head.venue.to_string(), feed.head.symbol.to_string());
    known.feeds.insert(
        key,
        FeedReport {
            state: state.to_owned(),
            at: feed.head.received,
        },
    );
    true
}
