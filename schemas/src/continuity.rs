//! The client's rule: what to take, what to drop, and how to prove that nothing was missed. Pure.
//!
//! Per topic there is one position. A message with `s` at or below it was seen; one whose `p` is at
//! or below it follows without a hole; any other one shows that something is missing, and the
//! topic must be subscribed again from its position. Whatever the server leaves out on purpose it
//! declares, and a declaration moves the position. A snapshot is a value, not a message of the
//! sequence: it is news unless that value was seen, even where it is older than the position.

use std::collections::{BTreeMap, BTreeSet};

use crate::position::{Cursor, Epoch, StreamSeq};
use crate::topic::Pattern;
use crate::ws::{From, ServerMessage, StreamInfo};

/// The most topics of patterns whose own positions are sent with a resumption: a message to a server
/// is bounded, and without them the same comes once more and is dropped.
const MAX_POSITIONS: usize = 1_000;

/// What a message means to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A tick that is new: use it.
    Deliver,
    /// Seen before, or of a topic that is being subscribed again: ignore it.
    Drop,
    /// Something is missing before this tick: ignore it, and subscribe its topic again from
    /// [`Continuity::resume`].
    Hole,
    /// Messages were left out on purpose, and the server says so.
    Declared,
    /// Positions are void: what is known may be of another history. Snapshots follow.
    Void,
    /// Nothing about ticks.
    Other,
}

/// How often each thing happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ticks to use.
    pub delivered: u64,
    /// Ticks seen before.
    pub duplicates: u64,
    /// Holes: each was repaired by a new subscription, or is being repaired.
    pub holes: u64,
    /// Gaps that the server declared.
    pub gaps: u64,
    /// Omissions of state values that the server declared.
    pub skips: u64,
    /// Times that positions became void.
    pub resets: u64,
}

#[derive(Clone, Debug)]
struct Stream {
    name: String,
    epoch: Epoch,
    /// The latest cursor: a position for every topic held when it came.
    cursor: Option<Cursor>,
}

/// A pattern that is held: topics that are not known yet begin at its start.
#[derive(Clone, Debug)]
struct Held {
    pattern: Pattern,
    stream: String,
    start: StreamSeq,
}

#[derive(Clone, Copy, Debug)]
struct Topic {
    stream: usize,
    pos: StreamSeq,
    /// The latest value that was delivered.
    seen: StreamSeq,
    /// Subscribed by name, not only by patterns.
    named: bool,
    /// Subscribed again, and not acknowledged yet: everything until then is ignored.
    repairing: bool,
}

impl Topic {
    const fn at(stream: usize, pos: StreamSeq) -> Self {
        Self {
            stream,
            pos,
            seen: StreamSeq::ZERO,
            named: false,
            repairing: false,
        }
    }
}

/// The state of one client, over any number of connections.
#[derive(Clone, Debug, Default)]
pub struct Continuity {
    streams: Vec<Stream>,
    topics: BTreeMap<String, Topic>,
    patterns: Vec<Held>,
    /// Positions sent with subscriptions that are not acknowledged yet.
    asked: BTreeMap<u64, BTreeMap<String, From>>,
    /// Unsubscriptions that are not acknowledged yet.
    leaving: BTreeSet<u64>,
    /// The streams of the last welcome.
    offered: Vec<StreamInfo>,
    counts: Counts,
}

impl Continuity {
    /// A client that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// How often each thing happened.
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether nothing is missing at the moment.
    pub fn is_good(&self) -> bool {
        self.topics.values().all(|topic| !topic.repairing)
    }

    /// Where a topic stands.
    pub fn position(&self, topic: &str) -> Option<StreamSeq> {
        self.topics.get(topic).map(|topic| topic.pos)
    }

    /// Says that a subscription is sent under this id, going on at these positions: they count
    /// where the acknowledgement would otherwise start topics at the head.
    pub fn subscribing(&mut self, id: u64, from: BTreeMap<String, From>) {
        self.asked.insert(id, from);
    }

    /// Says that topics and patterns are unsubscribed under this id: once that is acknowledged, what
    /// nothing else covers is forgotten, and may be subscribed anew from the head.
    pub fn unsubscribing(&mut self, id: u64) {
        self.leaving.insert(id);
    }

    /// Says that these topics, or everything if `None`, are subscribed again from
    /// [`Continuity::resume`]: nothing of them counts until the acknowledgement.
    pub fn resubscribed(&mut self, topics: Option<&[String]>) {
        for (text, topic) in &mut self.topics {
            if topics.is_none_or(|topics| topics.contains(text)) {
                topic.repairing = true;
            }
        }
    }

    /// Says that the connection is gone, and that these topics and patterns are subscribed again on
    /// another one from [`Continuity::resume`]: nothing counts until their acknowledgements, and
    /// what they do not cover is forgotten.
    pub fn reconnecting(&mut self, wanted: &BTreeSet<String>) {
        self.asked.clear();
        self.leaving.clear();
        let held: Vec<String> = self
            .topics
            .keys()
            .cloned()
            .chain(self.patterns.iter().map(|held| held.pattern.to_string()))
            .filter(|text| !wanted.contains(text))
            .collect();
        self.left(held.iter().map(String::as_str));
        // What was kept for what is not wanted any more, is not needed any more.
        let offered = std::mem::take(&mut self.offered);
        self.welcome(&offered);
        self.resubscribed(None);
    }

    /// The `from` of a subscription that goes on here: of these topics, or of all if `None`. Where
    /// patterns cover very many topics, they go on together from where all of them are.
    pub fn resume(&self, topics: Option<&BTreeSet<String>>) -> BTreeMap<String, From> {
        let mut from = BTreeMap::new();
        for (index, stream) in self.streams.iter().enumerate() {
            let of_patterns = self
                .topics
                .values()
                .filter(|topic| topic.stream == index && !topic.named);
            let too_many = of_patterns.count() > MAX_POSITIONS;
            let wanted = |text: &String, topic: &Topic| {
                topics.map_or(topic.named || !too_many, |topics| topics.contains(text))
            };
            let own = self
                .topics
                .iter()
                .filter(|(text, topic)| topic.stream == index && wanted(text, topic));
            let mut s: BTreeMap<String, StreamSeq> =
                own.map(|(text, topic)| (text.clone(), topic.pos)).collect();
            let c = stream.cursor.filter(|_| topics.is_none());
            // Topics of a pattern that have sent nothing yet go on where it began.
            let patterns = self.patterns.iter().filter(|held| {
                topics.is_none()
                    && held.stream == stream.name
                    && c.is_none_or(|cursor| cursor.seq() < held.start)
            });
            s.extend(patterns.map(|held| (held.pattern.to_string(), held.start)));
            if c.is_some() || !s.is_empty() {
                from.insert(
                    stream.name.clone(),
                    From {
                        e: stream.epoch,
                        c,
                        s,
                    },
                );
            }
        }
        from
    }

    /// Takes a server message.
    pub fn take<D>(&mut self, message: &ServerMessage<D>) -> Verdict {
        match message {
            ServerMessage::Welcome { streams, .. } => self.welcome(streams),
            ServerMessage::Ack { id, ok, err } => {
                if id.is_some_and(|id| self.leaving.remove(&id)) {
                    self.left(ok.iter().map(|left| left.c.as_str()));
                    return Verdict::Other;
                }
                let asked = id.and_then(|id| self.asked.remove(&id)).unwrap_or_default();
                for accepted in ok {
                    self.acknowledged(&accepted.c, &accepted.pos, &asked);
                }
                // What is refused is not held: nobody waits for it, and no promise is held back.
                self.left(err.iter().map(|refused| refused.c.as_str()));
                Verdict::Other
            }
            ServerMessage::Snap { c, s, x, .. } => self.snapshot(c, *s, index(*x)),
            ServerMessage::D { c, s, p, x, .. } => self.tick(c, *s, *p, index(*x)),
            ServerMessage::Skip { i, x } => {
                for skipped in i {
                    self.counts.skips += 1;
                    self.raise(&skipped.0, skipped.1, index(*x));
                }
                Verdict::Declared
            }
            ServerMessage::Gap { c, to, x, .. } => {
                self.counts.gaps += 1;
                self.raise(c, *to, index(*x));
                Verdict::Declared
            }
            ServerMessage::Reset { st, c, e, s } => {
                self.reset(st.as_deref(), c.as_deref(), *e, *s);
                Verdict::Void
            }
            ServerMessage::Hb { cur, .. } => {
                for (name, cursor) in cur {
                    self.advance(name, *cursor);
                }
                Verdict::Other
            }
            ServerMessage::End { c, .. } => {
                self.topics.remove(c);
                Verdict::Other
            }
            ServerMessage::Drain { .. }
            | ServerMessage::Pong { .. }
            | ServerMessage::Err { .. } => Verdict::Other,
        }
    }

    fn welcome(&mut self, streams: &[StreamInfo]) -> Verdict {
        self.offered = streams.to_vec();
        let mut renumbered = Vec::with_capacity(streams.len());
        for info in streams {
            // The server answers a position of another epoch with a reset; until then the old one is
            // kept, so that the resumption names it.
            let known = self.streams.iter().find(|known| {
                known.name == info.name && (known.epoch == info.e || self.stands_in(&info.name))
            });
            renumbered.push(known.cloned().unwrap_or_else(|| Stream {
                name: info.name.clone(),
                epoch: info.e,
                cursor: None,
            }));
        }
        // So with a stream that is not there any more: what was its, another one may carry.
        let is_gone = |known: &&Stream| {
            let is_known = |info: &StreamInfo| info.name == known.name;
            !streams.iter().any(is_known) && self.stands_in(&known.name)
        };
        renumbered.extend(self.streams.iter().filter(is_gone).cloned());
        let names: Vec<String> = self
            .streams
            .iter()
            .map(|stream| stream.name.clone())
            .collect();
        for topic in self.topics.values_mut() {
            let name = names.get(topic.stream);
            topic.stream = renumbered
                .iter()
                .position(|stream| Some(&stream.name) == name)
                .unwrap_or(usize::MAX);
        }
        self.streams = renumbered;
        Verdict::Other
    }

    /// Whether anything is known of a stream by this name.
    fn stands_in(&self, name: &str) -> bool {
        let index = self.streams.iter().position(|known| known.name == name);
        index.is_some_and(|index| {
            self.patterns.iter().any(|held| held.stream == name)
                || self.topics.values().any(|topic| topic.stream == index)
        })
    }

    fn acknowledged(
        &mut self,
        text: &str,
        heads: &BTreeMap<String, StreamSeq>,
        asked: &BTreeMap<String, From>,
    ) {
        let pattern = text
            .contains(['*', '>'])
            .then(|| text.parse::<Pattern>().ok())
            .flatten();
        let matches = |topic: &str| {
            pattern
                .as_ref()
                .map_or(topic == text, |pattern| pattern.matches(topic))
        };
        for (topic, held) in &mut self.topics {
            if matches(topic) {
                held.repairing = false;
            }
        }
        self.moved(&matches, pattern.as_ref(), heads);
        for (name, head) in heads {
            let Some(index) = self.streams.iter().position(|stream| stream.name == *name) else {
                continue;
            };
            let asked_from = asked.get(name).and_then(|from| {
                let own = from.s.get(text).copied();
                own.max(from.c.map(Cursor::seq))
            });
            // The answer says where the beginning is.
            let start = asked_from
                .filter(|from| *from > StreamSeq::ZERO)
                .unwrap_or(*head);
            // The cursor does not speak for a subscription that begins before it: until the next
            // one, every topic and pattern is resumed from its own position.
            if let Some(stream) = self.streams.get_mut(index)
                && stream.cursor.is_some_and(|held| held.seq() > start)
            {
                stream.cursor = None;
            }
            if let Some(pattern) = &pattern {
                let known = self
                    .patterns
                    .iter()
                    .any(|held| held.pattern == *pattern && held.stream == *name);
                if !known {
                    self.patterns.push(Held {
                        pattern: pattern.clone(),
                        stream: name.clone(),
                        start,
                    });
                }
            } else {
                // Whatever a pattern still owes of it comes before its own start.
                let start = self
                    .covered(text, name)
                    .map_or(start, |held| held.min(start));
                let topic = self.topics.entry(text.to_owned());
                topic.or_insert(Topic::at(index, start)).named = true;
            }
        }
    }

    /// Other streams than before carry what was subscribed: positions in those mean nothing here.
    fn moved(
        &mut self,
        matches: &impl Fn(&str) -> bool,
        pattern: Option<&Pattern>,
        heads: &BTreeMap<String, StreamSeq>,
    ) {
        if heads.is_empty() {
            return;
        }
        self.patterns
            .retain(|held| Some(&held.pattern) != pattern || heads.contains_key(&held.stream));
        let streams = &self.streams;
        self.topics.retain(|text, topic| {
            let carried = streams
                .get(topic.stream)
                .is_some_and(|stream| heads.contains_key(&stream.name));
            let by_this = matches(text) && (pattern.is_none() || !topic.named);
            carried || !by_this
        });
    }

    /// Where the earliest of the patterns that cover a topic begins.
    fn covered(&self, text: &str, stream: &str) -> Option<StreamSeq> {
        let covering = self
            .patterns
            .iter()
            .filter(|held| held.stream == stream && held.pattern.matches(text));
        covering.map(|held| held.start).min()
    }

    fn left<'a>(&mut self, texts: impl Iterator<Item = &'a str>) {
        for text in texts {
            self.patterns.retain(|held| held.pattern.as_str() != text);
            if let Some(topic) = self.topics.get_mut(text) {
                topic.named = false;
            }
        }
        let patterns = &self.patterns;
        self.topics.retain(|text, topic| {
            topic.named || patterns.iter().any(|held| held.pattern.matches(text))
        });
    }

    fn entry(&mut self, text: &str, stream: usize) -> &mut Topic {
        let name = self
            .streams
            .get(stream)
            .map_or("", |stream| stream.name.as_str());
        let held = self.topics.get(text);
        let start = if held.is_some_and(|held| held.stream == stream) {
            StreamSeq::ZERO
        } else {
            self.covered(text, name).unwrap_or(StreamSeq::ZERO)
        };
        let topic = self.topics.entry(text.to_owned());
        let topic = topic.or_insert(Topic::at(stream, start));
        if topic.stream != stream {
            // Another stream carries it now.
            (topic.stream, topic.pos, topic.seen) = (stream, start, StreamSeq::ZERO);
        }
        topic
    }

    fn snapshot(&mut self, text: &str, s: StreamSeq, stream: usize) -> Verdict {
        let topic = self.entry(text, stream);
        if topic.repairing || s <= topic.seen {
            self.counts.duplicates += 1;
            return Verdict::Drop;
        }
        (topic.pos, topic.seen) = (topic.pos.max(s), s);
        self.counts.delivered += 1;
        Verdict::Deliver
    }

    fn tick(&mut self, text: &str, s: StreamSeq, p: StreamSeq, stream: usize) -> Verdict {
        let topic = self.entry(text, stream);
        if topic.repairing {
            return Verdict::Drop;
        }
        let pos = topic.pos;
        if s <= pos {
            self.counts.duplicates += 1;
            return Verdict::Drop;
        }
        if p > pos {
            topic.repairing = true;
            self.counts.holes += 1;
            return Verdict::Hole;
        }
        (topic.pos, topic.seen) = (s, s);
        self.counts.delivered += 1;
        Verdict::Deliver
    }

    fn raise(&mut self, text: &str, to: StreamSeq, stream: usize) {
        if let Some(pattern) = text
            .contains(['*', '>'])
            .then(|| text.parse::<Pattern>().ok())
            .flatten()
        {
            return self.raise_all(&pattern, to, stream);
        }
        let topic = self.entry(text, stream);
        if !topic.repairing {
            topic.pos = topic.pos.max(to);
        }
    }

    fn raise_all(&mut self, pattern: &Pattern, to: StreamSeq, stream: usize) {
        let Some(name) = self.streams.get(stream).map(|stream| stream.name.clone()) else {
            return;
        };
        for held in &mut self.patterns {
            if held.pattern == *pattern && held.stream == name {
                held.start = held.start.max(to);
            }
        }
        for (text, topic) in &mut self.topics {
            if topic.stream == stream && !topic.repairing && pattern.matches(text) {
                topic.pos = topic.pos.max(to);
            }
        }
    }

    fn advance(&mut self, name: &str, cursor: Cursor) {
        let repairing = self.topics.values().any(|topic| topic.repairing);
        let Some(index) = self.streams.iter().position(|stream| stream.name == name) else {
            return;
        };
        let Some(stream) = self.streams.get_mut(index) else {
            return;
        };
        // While a topic is being repaired the promise does not cover what it ignores.
        if repairing || stream.cursor.is_some_and(|held| held.seq() > cursor.seq()) {
            return;
        }
        stream.cursor = Some(cursor);
        // The promise is for what is held now, and for nothing that is subscribed later.
        for topic in self
            .topics
            .values_mut()
            .filter(|topic| topic.stream == index)
        {
            topic.pos = topic.pos.max(cursor.seq());
        }
        for held in self.patterns.iter_mut().filter(|held| held.stream == name) {
            held.start = held.start.max(cursor.seq());
        }
    }

    /// One topic begins anew, perhaps before the cursor, which does not speak for it then.
    fn void(&mut self, text: &str, epoch: Epoch, start: StreamSeq) {
        let held = self.topics.get(text).map(|topic| topic.stream);
        let is_of = |index: &usize| {
            let stream = self.streams.get(*index);
            stream.is_some_and(|stream| stream.epoch == epoch)
        };
        // Another stream than the one that it was known by may carry it now.
        let index = held.filter(is_of).or_else(|| {
            self.streams.iter().position(|stream| {
                stream.epoch == epoch && self.covered(text, &stream.name).is_some()
            })
        });
        let Some(index) = index.or(held) else { return };
        if let Some(stream) = self.streams.get_mut(index)
            && stream.cursor.is_some_and(|held| held.seq() > start)
        {
            stream.cursor = None;
        }
        let topic = self.topics.entry(text.to_owned());
        let topic = topic.or_insert(Topic::at(index, start));
        (topic.stream, topic.pos, topic.seen) = (index, start, StreamSeq::ZERO);
    }

    fn reset(&mut self, stream: Option<&str>, topic: Option<&str>, epoch: Epoch, start: StreamSeq) {
        self.counts.resets += 1;
        if let Some(topic) = topic {
            self.void(topic, epoch, start);
        }
        let Some(name) = stream else { return };
        let Some(index) = self.streams.iter().position(|known| known.name == name) else {
            return;
        };
        if let Some(stream) = self.streams.get_mut(index) {
            (stream.epoch, stream.cursor) = (epoch, None);
        }
        for held in self.patterns.iter_mut().filter(|held| held.stream == name) {
            held.start = start;
        }
        for topic in self
            .topics
            .values_mut()
            .filter(|topic| topic.stream == index)
        {
            (topic.pos, topic.seen) = (start, StreamSeq::ZERO);
        }
    }
}

fn index(x: u32) -> usize {
    usize::try_from(x).unwrap_or(usize::MAX)
}
