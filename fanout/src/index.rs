//! Who of one shard wants which topic.

use std::collections::HashMap;

use schemas::topic::Pattern;

use crate::store::{TopicId, TopicInfo};

/// Identifies a connection within its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ConnId(pub(crate) u64);

/// Subscribers by topic; exact topics that have no message yet; patterns for topics to come.
#[derive(Debug, Default)]
pub(crate) struct Index {
    by_topic: Vec<Vec<ConnId>>,
    unborn: HashMap<Box<str>, Vec<ConnId>>,
    patterns: Vec<(Pattern, ConnId)>,
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

    pub(crate) fn give_up(&mut self, text: &str, conn: ConnId) {
        if let Some(waiting) = self.unborn.get_mut(text) {
            forget(waiting, conn);
            if waiting.is_empty() {
                self.unborn.remove(text);
            }
        }
    }

    pub(crate) fn watch(&mut self, pattern: Pattern, conn: ConnId) {
        self.patterns.push((pattern, conn));
    }

    pub(crate) fn unwatch(&mut self, pattern: &str, conn: ConnId) {
        let at = self
            .patterns
            .iter()
            .position(|(held, of)| *of == conn && held.as_str() == pattern);
        if let Some(at) = at {
            self.patterns.swap_remove(at);
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
        let matching = self
            .patterns
            .iter()
            .filter(|(pattern, _)| pattern.matches(&topic.text));
        claimants.extend(matching.map(|(_, conn)| *conn));
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
