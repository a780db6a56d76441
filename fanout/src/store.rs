//! What a replica knows of each stream: every topic's last message, and a ring of recent ones.
//!
//! Written by the stream's feeder alone, read by every shard. Nothing is kept encoded.

mod names;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Deref;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use bytes::Bytes;
use schemas::codec::transcode;
use schemas::id::Kind;
use schemas::position::{Cursor, Epoch, StreamSeq};
use schemas::subject;
use schemas::time::UnixNanos;
use schemas::topic::Selector;
use schemas::ws::{Encoding, push_data, push_snapshot};

use crate::deflate::{Deflater, Place};
use crate::metrics::Metrics;

pub(crate) use names::{StreamNo, TopicId, Venues};

/// What a ring entry costs beyond its payload.
const OVERHEAD: usize = 96;

/// What never changes of a topic.
#[derive(Debug)]
pub(crate) struct TopicInfo {
    pub(crate) id: TopicId,
    /// As clients spell it.
    pub(crate) text: Box<str>,
    /// As the broker stores it.
    pub(crate) subject: Box<str>,
    pub(crate) kind: Kind,
    /// Shared by all topics of one instrument.
    pub(crate) instrument: u32,
}

/// One message, as it is kept: nothing is encoded.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) topic: Arc<TopicInfo>,
    pub(crate) seq: StreamSeq,
    /// The topic has no message between this and `seq`.
    pub(crate) prev: StreamSeq,
    pub(crate) time: UnixNanos,
    pub(crate) payload: Bytes,
}

impl Message {
    /// Appends the `d` message for whoever has everything up to `pos`, and nothing follows there
    /// before this; nothing if the payload cannot be encoded.
    pub(crate) fn data_into(&self, encoding: Encoding, pos: StreamSeq, out: &mut Vec<u8>) {
        if let Some(tick) = tick(encoding, &self.payload) {
            let positions = (self.seq, self.prev.min(pos));
            let x = self.topic.id.stream().x();
            push_data(encoding, out, &self.topic.text, positions, &tick, x);
        }
    }

    /// Appends the `snap` message.
    pub(crate) fn snapshot(&self, encoding: Encoding, out: &mut Vec<u8>) {
        if let Some(tick) = tick(encoding, &self.payload) {
            let x = self.topic.id.stream().x();
            push_snapshot(encoding, out, &self.topic.text, self.seq, &tick, x);
        }
    }

    fn cost(&self) -> usize {
        self.payload.len() + OVERHEAD
    }
}

/// A message on its way to live subscribers, encoded once for all of them.
#[derive(Debug)]
pub(crate) struct Live {
    message: Arc<Message>,
    json: Form,
    msgpack: Form,
}

/// A message in one encoding, as far as somebody wanted it.
#[derive(Debug, Default)]
struct Form {
    plain: OnceLock<Bytes>,
    /// Per place in a message, only while somebody here takes it compressed.
    pieces: OnceLock<Box<[OnceLock<Bytes>; 3]>>,
}

impl Deref for Live {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

impl Live {
    const fn form(&self, encoding: Encoding) -> &Form {
        match encoding {
            Encoding::Json => &self.json,
            Encoding::MessagePack => &self.msgpack,
        }
    }

    /// The `d` message. `None` if the payload cannot be encoded.
    pub(crate) fn data(&self, encoding: Encoding, metrics: &Metrics) -> Option<&Bytes> {
        let bytes = self.form(encoding).plain.get_or_init(|| {
            let mut out = Vec::with_capacity(self.payload.len() * 2 + 96);
            self.data_into(encoding, self.prev, &mut out);
            metrics.encoded(encoding);
            out.into()
        });
        (!bytes.is_empty()).then_some(bytes)
    }

    /// The `d` message, if it was encoded before.
    pub(crate) fn encoded(&self, encoding: Encoding) -> &[u8] {
        self.form(encoding).plain.get().map_or(&[], Bytes::as_ref)
    }

    /// The `d` message compressed, as it stands at a place of a connection's message.
    pub(crate) fn piece(
        &self,
        encoding: Encoding,
        place: Place,
        deflater: &mut Deflater,
    ) -> &Bytes {
        let [alone, first, later] = &**self.form(encoding).pieces.get_or_init(Box::default);
        let piece = match place {
            Place::Alone => alone,
            Place::First => first,
            Place::Later => later,
        };
        piece.get_or_init(|| deflater.piece(encoding, place, self.encoded(encoding)))
    }
}

fn tick(encoding: Encoding, payload: &Bytes) -> Option<Bytes> {
    // In either encoding: a payload that is no MessagePack would spoil the whole message around it.
    let mut json = Vec::with_capacity(payload.len() * 2);
    transcode(payload, &mut json).ok()?;
    Some(match encoding {
        Encoding::MessagePack => payload.clone(),
        Encoding::Json => json.into(),
    })
}

#[derive(Debug)]
struct Slot {
    info: Arc<TopicInfo>,
    last: Option<Arc<Message>>,
    /// Sequences of this topic in the ring.
    ring: VecDeque<StreamSeq>,
}

/// The state of a venue's feed, as it was last told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FeedReport {
    pub(crate) state: String,
    pub(crate) at: UnixNanos,
}

/// What is known of a stream.
#[derive(Debug)]
pub(crate) struct Known {
    /// The stream's name.
    pub(crate) stream: Arc<str>,
    pub(crate) number: StreamNo,
    pub(crate) venues: Venues,
    pub(crate) epoch: Option<Epoch>,
    pub(crate) head: StreamSeq,
    pub(crate) head_time: UnixNanos,
    /// Messages up to here are unknown: trimmed before they were read. Nothing is told of them.
    origin: StreamSeq,
    /// Messages up to here were last values when the reader joined, not all that there was.
    joined: StreamSeq,
    /// Every message behind this is in the ring.
    floor: StreamSeq,
    slots: Vec<Slot>,
    by_text: HashMap<Box<str>, TopicId>,
    by_subject: HashMap<Box<str>, TopicId>,
    /// Topics by kind and venue, as `kind.venue`: patterns look no further than they must.
    groups: BTreeMap<Box<str>, Vec<TopicId>>,
    instruments: HashMap<Box<str>, u32>,
    ring: VecDeque<Arc<Message>>,
    ring_bytes: usize,
    ring_limit: usize,
    /// Per venue and feed.
    pub(crate) feeds: BTreeMap<(String, String), FeedReport>,
    pub(crate) stale: bool,
    /// The last sequence that the stream's leader had, and when it was asked.
    leader: Option<(StreamSeq, Instant)>,
}

/// What a catch-up gets of a topic.
#[derive(Debug)]
pub(crate) enum Next {
    /// The following message.
    Message(Arc<Message>),
    /// Nothing follows.
    End,
    /// Messages up to here, inclusive, are not in the ring.
    Missing(StreamSeq),
}

impl Known {
    fn new(stream: &str, number: StreamNo, ring_limit: usize) -> Self {
        Self {
            stream: stream.into(),
            number,
            venues: Venues::All,
            epoch: None,
            head: StreamSeq::ZERO,
            head_time: UnixNanos::EPOCH,
            origin: StreamSeq::ZERO,
            joined: StreamSeq::ZERO,
            floor: StreamSeq::ZERO,
            slots: Vec::new(),
            by_text: HashMap::new(),
            by_subject: HashMap::new(),
            groups: BTreeMap::new(),
            instruments: HashMap::new(),
            ring: VecDeque::new(),
            ring_bytes: 0,
            ring_limit,
            feeds: BTreeMap::new(),
            stale: false,
            leader: None,
        }
    }

    /// Begins a history: everything up to `joined` comes as last values only.
    pub(crate) fn begin(&mut self, epoch: Epoch, first_seq: StreamSeq, joined: StreamSeq) {
        self.epoch = Some(epoch);
        self.origin = first_seq.prev();
        self.joined = joined;
        self.floor = self.floor.max(joined).max(self.origin);
        self.head = self.head.max(self.origin);
    }

    /// Forgets a history that was rewound; topics keep their ids.
    pub(crate) fn forget(&mut self) {
        self.epoch = None;
        (self.head, self.head_time) = (StreamSeq::ZERO, UnixNanos::EPOCH);
        (self.joined, self.floor) = (StreamSeq::ZERO, StreamSeq::ZERO);
        self.leader = None;
        self.ring.clear();
        self.ring_bytes = 0;
        self.feeds.clear();
        for slot in &mut self.slots {
            slot.last = None;
            slot.ring.clear();
        }
    }

    /// Messages up to `to` were trimmed before they were read: nothing before is complete.
    pub(crate) fn trimmed(&mut self, to: StreamSeq) {
        self.origin = self.origin.max(to);
        self.floor = self.floor.max(to);
        if self.head < to {
            (self.head, self.head_time) = (to, UnixNanos::EPOCH);
        }
    }

    /// Takes a message in; `None` if its subject is no topic, or of another stream's venue.
    pub(crate) fn apply(
        &mut self,
        subject: &str,
        seq: StreamSeq,
        time: UnixNanos,
        payload: &[u8],
    ) -> Option<Arc<Live>> {
        let id = match self.by_subject.get(subject) {
            Some(id) => *id,
            None => self.intern(subject)?,
        };
        let (origin, joined) = (self.origin, self.joined);
        let slot = self.slots.get_mut(id.index())?;
        let prev = match &slot.last {
            _ if seq <= joined => seq.prev(),
            Some(last) => last.seq.max(origin),
            None => origin,
        };
        let payload = Bytes::copy_from_slice(payload);
        let message = Arc::new(Message {
            topic: Arc::clone(&slot.info),
            seq,
            prev,
            time,
            payload,
        });
        slot.last = Some(Arc::clone(&message));
        if seq > self.floor {
            slot.ring.push_back(seq);
            self.ring_bytes += message.cost();
            self.ring.push_back(Arc::clone(&message));
            self.evict();
        }
        Some(Arc::new(Live {
            message,
            json: Form::default(),
            msgpack: Form::default(),
        }))
    }

    fn evict(&mut self) {
        while self.ring_bytes > self.ring_limit {
            let Some(oldest) = self.ring.pop_front() else {
                return;
            };
            self.ring_bytes = self.ring_bytes.saturating_sub(oldest.cost());
            self.floor = self.floor.max(oldest.seq);
            if let Some(slot) = self.slots.get_mut(oldest.topic.id.index()) {
                slot.ring.pop_front();
            }
        }
    }

    fn intern(&mut self, subject: &str) -> Option<TopicId> {
        let topic = subject::parse(subject).ok()?;
        let text: Box<str> = topic.to_string().into();
        // What is left of a venue that another stream has now, would be told beside what that one has.
        if !self.venues.may_have(&text) {
            return None;
        }
        let id = TopicId::new(self.number, self.slots.len())?;
        let instrument: Box<str> = format!("{}.{}", topic.venue(), topic.symbol()).into();
        let next = u32::try_from(self.instruments.len()).ok()?;
        let instrument = *self.instruments.entry(instrument).or_insert(next);
        let info = TopicInfo {
            id,
            text: text.clone(),
            subject: subject.into(),
            kind: topic.kind(),
            instrument,
        };
        self.slots.push(Slot {
            info: Arc::new(info),
            last: None,
            ring: VecDeque::new(),
        });
        let group = format!("{}.{}", topic.kind(), topic.venue());
        self.groups.entry(group.into()).or_default().push(id);
        self.by_text.insert(text, id);
        self.by_subject.insert(subject.into(), id);
        Some(id)
    }

    /// The topic with this text, if it ever had a message.
    pub(crate) fn topic(&self, text: &str) -> Option<&Arc<TopicInfo>> {
        let id = self.by_text.get(text)?;
        self.slots.get(id.index()).map(|slot| &slot.info)
    }

    /// What never changes of a topic.
    pub(crate) fn info(&self, topic: TopicId) -> Option<&Arc<TopicInfo>> {
        self.slots.get(topic.index()).map(|slot| &slot.info)
    }

    /// The topics that a string names.
    pub(crate) fn select<'a>(
        &'a self,
        selector: &'a Selector,
    ) -> Box<dyn Iterator<Item = &'a Arc<TopicInfo>> + 'a> {
        match selector {
            Selector::Topic(topic) => Box::new(self.topic(&topic.to_string()).into_iter()),
            Selector::Pattern(pattern) => {
                let groups = self
                    .groups
                    .iter()
                    .filter(|(group, _)| pattern.may_begin(group));
                let topics = groups.flat_map(|(_, topics)| topics);
                let topics = topics.filter_map(|topic| self.info(*topic));
                Box::new(topics.filter(|topic| pattern.matches(&topic.text)))
            }
        }
    }

    /// Every topic, in order of birth.
    pub(crate) fn topics(&self) -> impl Iterator<Item = &Arc<TopicInfo>> {
        self.slots.iter().map(|slot| &slot.info)
    }

    /// A topic's last message.
    pub(crate) fn last(&self, topic: TopicId) -> Option<&Arc<Message>> {
        self.slots.get(topic.index())?.last.as_ref()
    }

    /// What follows `after` on a topic.
    pub(crate) fn next(&self, topic: TopicId, after: StreamSeq) -> Next {
        let Some(slot) = self.slots.get(topic.index()) else {
            return Next::End;
        };
        let Some(last) = slot.last.as_ref().filter(|last| last.seq > after) else {
            return Next::End;
        };
        let at = slot.ring.partition_point(|seq| *seq <= after);
        let Some(seq) = slot.ring.get(at) else {
            return Next::Missing(last.seq);
        };
        let Ok(at) = self.ring.binary_search_by(|live| live.seq.cmp(seq)) else {
            return Next::Missing(last.seq);
        };
        match self.ring.get(at) {
            // The message before this one is older than the position: nothing is missing.
            Some(live) if live.prev <= after => Next::Message(Arc::clone(live)),
            Some(live) => Next::Missing(live.prev),
            None => Next::End,
        }
    }

    /// How many messages of a topic follow `after` in the ring.
    pub(crate) fn count_after(&self, topic: TopicId, after: StreamSeq) -> usize {
        let slot = self.slots.get(topic.index());
        slot.map_or(0, |slot| {
            slot.ring.len() - slot.ring.partition_point(|seq| *seq <= after)
        })
    }

    /// Whether a cursor can belong to this history, as far as is known.
    pub(crate) fn recognizes(&self, cursor: Cursor) -> bool {
        if cursor.seq() == self.head {
            let is_unknown = self.head_time == UnixNanos::EPOCH;
            return is_unknown || cursor.matches(self.head_time);
        }
        match self
            .ring
            .binary_search_by(|live| live.seq.cmp(&cursor.seq()))
        {
            Ok(at) => self
                .ring
                .get(at)
                .is_none_or(|live| cursor.matches(live.time)),
            Err(_) => true,
        }
    }

    /// The cursor at `seq`, if the time of its message is known.
    pub(crate) fn cursor(&self, seq: StreamSeq) -> Option<Cursor> {
        if seq == self.head && self.head_time != UnixNanos::EPOCH {
            return Some(Cursor::new(seq, self.head_time));
        }
        // The nearest message at or before: a lower cursor promises less and is as true.
        let at = self.ring.partition_point(|live| live.seq <= seq);
        let live = self.ring.get(at.checked_sub(1)?)?;
        Some(Cursor::new(live.seq, live.time))
    }

    /// Notes what the stream's leader has, as it was asked at that time.
    pub(crate) const fn surveyed(&mut self, last: StreamSeq, asked: Instant) {
        self.leader = Some((last, asked));
    }

    /// Whether the leader was asked after that time, and has no message at this position.
    pub(crate) fn denies(&self, pos: StreamSeq, since: Instant) -> bool {
        let leader = self.leader.filter(|(_, asked)| *asked >= since);
        self.head < pos && leader.is_some_and(|(last, _)| last < pos)
    }

    /// Nothing is known of messages up to here: the beginning of what can be told.
    pub(crate) const fn origin(&self) -> StreamSeq {
        self.origin
    }

    /// Messages in the ring, and what they cost in bytes.
    pub(crate) fn ring_load(&self) -> (usize, usize) {
        (self.ring.len(), self.ring_bytes)
    }

    /// How many topics there are.
    pub(crate) fn topic_count(&self) -> usize {
        self.slots.len()
    }
}

/// Shares what is known of a stream between its feeder and the shards.
#[derive(Debug)]
pub(crate) struct Store(RwLock<Known>);

impl Store {
    pub(crate) fn new(stream: &str, number: StreamNo, ring_limit: usize) -> Self {
        Self(RwLock::new(Known::new(stream, number, ring_limit)))
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
