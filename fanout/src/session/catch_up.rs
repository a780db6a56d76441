//! What follows a position: from the ring while it reaches back, and before that from pages that the
//! broker is asked for. Whoever owns the session does the asking.

use std::sync::Arc;
use std::time::Instant;

use schemas::position::StreamSeq;
use schemas::ws::GapReason;

use super::Session;
use super::fill::Sink;
use super::said;
use super::subscriber::Subscriber;
use super::track::{Covers, Phase, Track};
use crate::repair::Page;
use crate::store::{Known, Message, Next, TopicId};

/// Pages that one connection may hold or have asked for: more are asked for as they are written.
const MAX_PAGES: usize = 8;

/// How far the reading of older messages is.
#[derive(Debug)]
pub(super) struct Repair {
    /// The client's position then: the topic has nothing between it and where the page begins.
    since: StreamSeq,
    state: State,
    /// The topic left the queue, and is put back when there is an answer.
    parked: bool,
}

impl Repair {
    /// Whether it takes, or will take, a page of memory.
    const fn counts(&self) -> bool {
        !matches!(self.state, State::Wanted(_))
    }
}

#[derive(Debug)]
enum State {
    /// What follows this position must be asked for.
    Wanted(StreamSeq),
    /// It was asked for.
    Asked(u64),
    /// It is here.
    Here(Arc<Page>),
}

/// What a session wants to read of a topic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    /// Tells this request from others about the same topic.
    ticket: u64,
    pub(crate) topic: TopicId,
    /// The position behind which it must begin.
    pub(crate) after: StreamSeq,
}

/// What comes next of a topic that is older than the ring.
enum Older {
    Message(Arc<Message>),
    /// Retention has removed everything up to here.
    Trimmed(StreamSeq),
    /// It must be asked for.
    Unknown,
    /// No more may be replayed.
    Budget,
}

impl Session {
    /// Whether older messages must be asked for.
    pub(crate) fn wants(&self) -> bool {
        let pages: usize = self.tracks.iter().map(|track| track.pages).sum();
        pages < MAX_PAGES && self.tracks.iter().any(Track::wants)
    }

    /// The next thing to ask for; [`Session::answered`] takes the answer.
    pub(crate) fn ask(&mut self) -> Option<Ask> {
        if !self.wants() {
            return None;
        }
        let (later, first) = self.tracks.split_at_mut_checked(self.turn)?;
        first.iter_mut().chain(later).find_map(Track::ask)
    }

    /// Whether the answer is still waited for.
    pub(crate) fn awaits(&self, ask: &Ask) -> bool {
        let track = self.tracks.get(ask.topic.stream().index());
        track.is_some_and(|track| track.awaits(ask))
    }

    /// Takes what was read; an answer that nobody waits for any more is dropped.
    pub(crate) fn answered(&mut self, ask: &Ask, page: Arc<Page>) {
        if let Some(track) = self.tracks.get_mut(ask.topic.stream().index()) {
            track.answered(ask, page);
        }
    }
}

impl Track {
    fn wants(&self) -> bool {
        self.pages < self.repairs.len()
    }

    fn ask(&mut self) -> Option<Ask> {
        if !self.wants() {
            return None;
        }
        let ticket = self.next_ticket;
        let wanted = self
            .repairs
            .iter_mut()
            .find_map(|(topic, repair)| match repair.state {
                State::Wanted(after) => Some((*topic, after, repair)),
                State::Asked(_) | State::Here(_) => None,
            });
        let (topic, after, repair) = wanted?;
        repair.state = State::Asked(ticket);
        self.pages += 1;
        self.next_ticket += 1;
        Some(Ask {
            ticket,
            topic,
            after,
        })
    }

    fn awaits(&self, ask: &Ask) -> bool {
        let repair = self.repairs.get(&ask.topic);
        repair.is_some_and(
            |repair| matches!(repair.state, State::Asked(ticket) if ticket == ask.ticket),
        )
    }

    fn answered(&mut self, ask: &Ask, page: Arc<Page>) {
        if self.awaits(ask)
            && let Some(repair) = self.repairs.get_mut(&ask.topic)
        {
            repair.state = State::Here(page);
            if std::mem::take(&mut repair.parked) {
                self.pulls.push_back(ask.topic);
            }
        }
    }

    /// Drops what was read of a topic, or what was to be.
    pub(super) fn forget_repair(&mut self, topic: TopicId) {
        if let Some(repair) = self.repairs.remove(&topic) {
            self.pages -= usize::from(repair.counts());
            if repair.parked {
                self.pulls.push_back(topic);
            }
        }
    }

    /// Takes a topic that waits for the broker out of the queue until there is an answer; whether
    /// it does.
    pub(super) fn park(&mut self, topic: TopicId) -> bool {
        match self.repairs.get_mut(&topic) {
            Some(repair) if !matches!(repair.state, State::Here(_)) => {
                repair.parked = true;
                true
            }
            _ => false,
        }
    }

    /// Sends what follows a position; whether the topic is live now.
    pub(super) fn pull_messages(
        &mut self,
        (who, known): (&mut Subscriber, &Known),
        topic: TopicId,
        mut pos: StreamSeq,
        sink: &mut Sink<'_>,
    ) -> bool {
        while sink.has_room() {
            let message = match known.next(topic, pos) {
                Next::Message(message) => message,
                // What the shard has not dispatched yet will come as live.
                Next::Missing(_) if pos >= self.applied => {
                    return self.settle(topic, pos, who.filled_at);
                }
                Next::End => {
                    let pos = self.expired((who, known), topic, pos, sink);
                    return self.settle(topic, pos, who.filled_at);
                }
                Next::Missing(to) => match self.older(who, topic, pos) {
                    Older::Message(message) if message.seq > self.applied => {
                        // It will come as live, and then follows what expired unread here.
                        let pos = self.expired((who, known), topic, pos, sink);
                        return self.settle(topic, pos, who.filled_at);
                    }
                    Older::Budget => {
                        self.give_up(topic, pos);
                        return false;
                    }
                    Older::Message(message) => {
                        who.metrics.repaired.inc();
                        message
                    }
                    Older::Trimmed(end) => {
                        let end = end.min(to).min(self.applied);
                        lost((who, known), topic, (pos, end), sink);
                        pos = end;
                        continue;
                    }
                    Older::Unknown => {
                        self.pause(topic, pos, who.filled_at);
                        return false;
                    }
                },
            };
            if message.seq > self.applied {
                return self.settle(topic, pos, who.filled_at);
            }
            if !sink.data(&message, pos) {
                sink.unencodable((who, known), &message);
            }
            pos = message.seq;
        }
        self.pause(topic, pos, who.filled_at);
        false
    }

    fn older(&mut self, who: &mut Subscriber, topic: TopicId, pos: StreamSeq) -> Older {
        let mut from = pos;
        if let Some(repair) = self.repairs.get(&topic) {
            match &repair.state {
                State::Wanted(_) | State::Asked(_) => return Older::Unknown,
                State::Here(page) if repair.since <= pos && pos < page.end => {
                    if let Some(trimmed) = page.trimmed.filter(|trimmed| pos < *trimmed) {
                        return Older::Trimmed(trimmed);
                    }
                    if let Some(message) = page.next(pos) {
                        if message.seq <= self.applied && !who.may_replay(1, who.filled_at) {
                            return Older::Budget;
                        }
                        return Older::Message(Arc::clone(message));
                    }
                    from = page.end;
                }
                State::Here(_) => {}
            }
        }
        // Asking costs as much as a message.
        if !who.may_replay(1, who.filled_at) {
            return Older::Budget;
        }
        let repair = Repair {
            since: pos,
            state: State::Wanted(from),
            parked: false,
        };
        match self.repairs.insert(topic, repair) {
            Some(before) => self.pages -= usize::from(before.counts()),
            None => who.metrics.resumed("broker"),
        }
        Older::Unknown
    }

    /// Declares what retention removed behind a position before it was read, where nothing of the
    /// topic came since; where the topic goes on.
    pub(super) fn expired(
        &self,
        (who, known): (&Subscriber, &Known),
        topic: TopicId,
        pos: StreamSeq,
        sink: &mut Sink<'_>,
    ) -> StreamSeq {
        let end = known.origin().min(self.applied);
        if pos >= end {
            return pos;
        }
        who.metrics.gap(GapReason::Retention);
        let gap = known
            .info(topic)
            .map(|info| said::gap(known, &info.text, (pos, end), GapReason::Retention));
        if let Some(gap) = gap {
            sink.message(&gap);
        }
        end
    }

    /// More is asked for than may be replayed: the last value takes its place.
    fn give_up(&mut self, topic: TopicId, pos: StreamSeq) {
        self.forget_repair(topic);
        if let Some(held) = self.topics.get_mut(&topic) {
            held.floor = held.floor.max(pos);
            held.phase = Phase::Snapshot {
                from: pos,
                covers: Covers::Budget,
            };
        }
    }

    /// Everything up to what was dispatched is sent: the topic is live, unless its position is one
    /// that this replica has not reached.
    fn settle(&mut self, topic: TopicId, pos: StreamSeq, now: Instant) -> bool {
        if pos > self.applied {
            self.pause(topic, pos, now);
            return false;
        }
        self.forget_repair(topic);
        if let Some(held) = self.topics.get_mut(&topic) {
            held.floor = held.floor.max(pos);
            held.phase = Phase::Live;
        }
        true
    }

    /// The topic goes on behind a position when there is room, or when more is known.
    fn pause(&mut self, topic: TopicId, pos: StreamSeq, now: Instant) {
        if let Some(held) = self.topics.get_mut(&topic) {
            held.floor = held.floor.max(pos);
            let since = match held.phase {
                Phase::CatchUp { since, .. } => since,
                Phase::Live | Phase::Snapshot { .. } => now,
            };
            held.phase = Phase::CatchUp { pos, since };
        }
    }
}

/// Declares what retention has removed of a topic; its value follows if nothing else does.
fn lost(
    (who, known): (&Subscriber, &Known),
    topic: TopicId,
    (pos, end): (StreamSeq, StreamSeq),
    sink: &mut Sink<'_>,
) {
    let Some(info) = known.info(topic) else {
        return;
    };
    who.metrics.gap(GapReason::Retention);
    sink.message(&said::gap(
        known,
        &info.text,
        (pos, end),
        GapReason::Retention,
    ));
    let last = known.last(topic);
    if let Some(last) = last.filter(|last| last.seq <= end && info.kind.is_state()) {
        sink.snapshot(last);
    }
}
