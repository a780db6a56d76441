//! Who of one shard wants which topic of a stream.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use schemas::topic::Pattern;

use crate::store::{TopicId, TopicInfo};

/// Identifies a connection within its shard: its place there, and who of those that had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnId {
    place: u32,
    turn: u32,
}

impl ConnId {
    pub(crate) const fn new(place: u32, turn: u32) -> Self {
        Self { place, turn }
    }

    pub(crate) fn place(self) -> usize {
        usize::try_from(self.place).unwrap_or(usize::MAX)
    }
}

/// As clients are told it.
impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.place, self.turn)
    }
}

/// Subscribers by topic; exact topics that have no message yet; patterns for topics to come.
#[derive(Debug, Default)]
pub(crate) struct Index {
    by_topic: Vec<Vec<ConnId>>,
    unborn: HashMap<Box<str>, Vec<ConnId>>,
    patterns: BTreeMap<Box<str>, (Pattern, Vec<ConnId>)>,
    /// Topics with a higher id were not seen by this shard yet.
    seen: usize,
}

impl Index {
    pub(crate) fn subscribers(&self, topic: TopicId) -> &[ConnId] {
        self.by_topic.get(topic.index()).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn add(&mut self, topic: TopicId, conn: ConnId) {
        if self.by_topic.len() <= topic.index() {
            self.by_topic.resize_with(topic.index() + 1, Vec::new);
        }
        if let Some(subscribers) = self.by_topic.get_mut(topic.index()) {
            subscribers.push(conn);
        }
    }

    pub(crate) fn remove(&mut self, topic: TopicId, conn: ConnId) {
        if let Some(subscribers) = self.by_topic.get_mut(topic.index()) {
            forget(subscribers, conn);
        }
    }

    pub(crate) fn await_birth(&mut self, text: &str, conn: ConnId) {
        self.unborn.entry(text.into()).or_default().push(conn);
    }

    fn give_up(&mut self, text: &str, conn: ConnId) {
        if let Some(waiting) = self.unborn.get_mut(text) {
            forget(waiting, conn);
            if waiting.is_empty() {
                self.unborn.remove(text);
            }
        }
    }

    pub(crate) fn watch(&mut self, pattern: Pattern, conn: ConnId) {
        let text = pattern.as_str().into();
        let (_, watching) = self.patterns.entry(text).or_insert((pattern, Vec::new()));
        watching.push(conn);
    }

    fn unwatch(&mut self, pattern: &str, conn: ConnId) {
        if let Some((_, watching)) = self.patterns.get_mut(pattern) {
            forget(watching, conn);
            if watching.is_empty() {
                self.patterns.remove(pattern);
            }
        }
    }

    /// Forgets what a connection waits for under a string: a topic to be born, or those of a pattern.
    pub(crate) fn leave(&mut self, text: &str, conn: ConnId) {
        if text.contains(['*', '>']) {
            self.unwatch(text, conn);
        } else {
            self.give_up(text, conn);
        }
    }

    /// Whether this shard sees a topic for the first time.
    pub(crate) const fn is_born(&mut self, topic: usize) -> bool {
        let born = topic >= self.seen;
        if born {
            self.seen = topic + 1;
        }
        born
    }

    /// Writes down how many subscribers each topic has.
    pub(crate) fn count(&self, out: &mut Vec<u32>) {
        out.clear();
        let counts = self.by_topic.iter().map(Vec::len);
        out.extend(counts.map(|count| u32::try_from(count).unwrap_or(u32::MAX)));
    }

    /// How many topics this shard has seen.
    pub(crate) const fn seen(&self) -> usize {
        self.seen
    }

    /// Who waits for a topic that is born: each connection once.
    pub(crate) fn claim(&mut self, topic: &TopicInfo) -> Vec<ConnId> {
        let mut claimants = self.unborn.remove(&topic.text).unwrap_or_default();
        let patterns = self.patterns.values();
        let matching = patterns.filter(|(pattern, _)| pattern.matches(&topic.text));
        claimants.extend(matching.flat_map(|(_, watching)| watching));
        claimants.sort_unstable();
        claimants.dedup();
        claimants
    }
}

fn forget(conns: &mut Vec<ConnId>, conn: ConnId) {
    if let Some(at) = conns.iter().position(|held| *held == conn) {
        conns.swap_remove(at);
    }
}
