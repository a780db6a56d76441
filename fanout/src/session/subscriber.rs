//! The client at the other end: what it asked for, what it may have, and what waits for its socket.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use schemas::topic::{Pattern, Selector, TopicError};
use schemas::ws::{Conflate, Encoding, ErrorCode, ServerMessage, push_message};

use super::Limits;
use super::outbox::Outbox;
use crate::governor::Replays;
use crate::index::ConnId;
use crate::metrics::Metrics;
use crate::store::Known;

/// What all streams of a connection share.
///
/// First what every message needs: see [`Connection`](crate::connection::Connection).
#[derive(Debug)]
#[repr(C)]
pub(super) struct Subscriber {
    pub(super) outbox: Outbox,
    pub(super) limits: Arc<Limits>,
    pub(super) metrics: Metrics,
    pub(super) encoding: Encoding,
    pub(super) id: ConnId,
    /// When the socket last had room.
    pub(super) filled_at: Instant,
    /// Topics that were subscribed by name.
    pub(super) exact: BTreeMap<Box<str>, Conflate>,
    /// Patterns by their text.
    pub(super) patterns: BTreeMap<Box<str>, (Pattern, Conflate)>,
    /// What may still be replayed.
    replays: Replays,
    pub(super) born: Instant,
}

impl Subscriber {
    pub(super) fn new(
        id: ConnId,
        encoding: Encoding,
        limits: Arc<Limits>,
        metrics: Metrics,
        now: Instant,
    ) -> Self {
        Self {
            id,
            encoding,
            replays: Replays::new(limits.resume_messages, now),
            limits,
            metrics,
            exact: BTreeMap::new(),
            patterns: BTreeMap::new(),
            outbox: Outbox::default(),
            born: now,
            filled_at: now,
        }
    }

    /// Queues a message that carries no tick.
    pub(super) fn say(&mut self, message: &ServerMessage<()>) {
        let mut bytes = Vec::new();
        if push_message(self.encoding, &mut bytes, message).is_ok() {
            self.outbox.push_control(bytes.into());
        }
    }

    /// Whether more live messages wait than a client that keeps up leaves lying.
    pub(super) fn is_behind(&self) -> bool {
        self.outbox.live_bytes() > self.limits.unsent_bytes / 2
    }

    /// Whether so many more messages may be replayed; if so they are counted.
    pub(super) fn may_replay(&mut self, count: usize, now: Instant) -> bool {
        self.replays.take(count, now)
    }

    pub(super) fn held_strings(&self) -> impl Iterator<Item = &str> {
        let exact = self.exact.keys().map(AsRef::as_ref);
        exact.chain(self.patterns.keys().map(AsRef::as_ref))
    }

    pub(super) fn holds(&self, text: &str) -> bool {
        self.exact.contains_key(text) || self.patterns.contains_key(text)
    }

    /// Notes a subscription; whether it is a new one.
    pub(super) fn note(&mut self, text: &str, selector: &Selector, conflate: Conflate) -> bool {
        match selector {
            Selector::Topic(_) => self.exact.insert(text.into(), conflate).is_none(),
            Selector::Pattern(pattern) => {
                let held = (pattern.clone(), conflate);
                self.patterns.insert(text.into(), held).is_none()
            }
        }
    }

    /// Forgets a subscription; whether there was one.
    pub(super) fn forget(&mut self, text: &str) -> bool {
        self.exact.remove(text).is_some() || self.patterns.remove(text).is_some()
    }

    /// Whether a topic belongs to any subscription.
    pub(super) fn is_covered(&self, topic: &str) -> bool {
        self.exact.contains_key(topic) || self.covering(topic).next().is_some()
    }

    /// The weakest conflation of all subscriptions that a topic belongs to.
    pub(super) fn weakest(&self, topic: &str, first: Conflate) -> Conflate {
        let strength = |conflate: &Conflate| match conflate {
            Conflate::None => 0,
            Conflate::Auto => 1,
            Conflate::Millis(millis) => millis.saturating_add(1),
        };
        let exact = self.exact.get(topic).copied();
        self.covering(topic)
            .chain(exact)
            .chain([first])
            .min_by_key(strength)
            .unwrap_or(first)
    }

    /// The conflations of the patterns that a topic belongs to.
    fn covering<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = Conflate> + 'a {
        let patterns = self.patterns.values();
        let matching = patterns.filter(|(pattern, _)| pattern.matches(topic));
        matching.map(|(_, conflate)| *conflate)
    }

    /// Reads what a client wants to subscribe, and which streams it is of; `counts` are the topics
    /// and patterns that it holds with those accepted before.
    ///
    /// # Errors
    ///
    /// Why it cannot.
    pub(super) fn accept(
        &self,
        text: &str,
        counts: &mut (usize, usize),
        known: &[&Known],
    ) -> Result<(Selector, Vec<bool>), (ErrorCode, String)> {
        let selector: Selector = text.parse().map_err(|error: TopicError| {
            let code = if error.is_impossible() {
                ErrorCode::UnknownTopic
            } else {
                ErrorCode::BadRequest
            };
            (code, describe(&error))
        })?;
        let mut streams: Vec<bool> = known.iter().map(|of| of.venues.may_have(text)).collect();
        let Some(first) = streams.iter().position(|is_of| *is_of) else {
            let venue = text.split('.').nth(1).unwrap_or_default();
            let message = format!("no stream of this server has the venue {venue:?}");
            return Err((ErrorCode::UnknownTopic, message));
        };
        if let Selector::Topic(_) = selector {
            // Streams that are not surveyed yet might have anything.
            for (at, is_of) in streams.iter_mut().enumerate() {
                *is_of = at == first;
            }
        }
        let (count, limit, what) = match selector {
            Selector::Topic(_) => (&mut counts.0, self.limits.topics, "topics"),
            Selector::Pattern(_) => (&mut counts.1, self.limits.patterns, "patterns"),
        };
        if !self.holds(text) {
            if *count >= limit {
                let message = format!("a connection may hold {limit} {what}");
                return Err((ErrorCode::TopicLimit, message));
            }
            *count += 1;
        }
        Ok((selector, streams))
    }

    /// When values that are conflated over a time go out: all at once, so that it takes one write.
    pub(super) fn next_beat(&self, now: Instant, pause: Duration) -> Instant {
        let past = now.saturating_duration_since(self.born).as_nanos();
        let Some(left) = past.checked_rem(pause.as_nanos()) else {
            return now;
        };
        let left = Duration::from_nanos(u64::try_from(left).unwrap_or(0));
        now + pause.saturating_sub(left)
    }
}

fn describe(error: &TopicError) -> String {
    use std::error::Error as _;
    error
        .source()
        .map_or_else(|| error.to_string(), ToString::to_string)
}
