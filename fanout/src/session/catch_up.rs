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
use crate::repair::{Page, Scope};
use crate::store::{Known, Message, Next, TopicId, TopicInfo};

/// Pages of topics that one connection may hold or have asked for: more are asked for as they are
/// written. Of each stream as a whole it is one more.
const MAX_PAGES: usize = 8;
/// Positions within so many messages are near each other.
const NEAR: u64 = 8_192;
/// A page of the stream is worth its reading if it has something for one in so many of the largest crowd.
const WORTH: usize = 4;

/// How many topics that wait for the broker, near each other, read the stream together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd {
    /// So many do, however far they are behind.
    pub(crate) most: usize,
    /// One does that lacks less than so many messages of the stream, for most of those who come back lack
    /// them too; for each further time that it lacks so many, it takes one more.
    pub(crate) stretch: u64,
}

impl Crowd {
    /// Whoever asks for topics makes the others wait; a page of the stream helps some of them.
    fn needed(self, lacking: u64, waiting: usize) -> usize {
        let more = lacking.checked_div(self.stretch).unwrap_or_default();
        let more = usize::try_from(more).unwrap_or(usize::MAX);
        let needed = more.saturating_add(1).min(self.most);
        (needed / (1 + waiting / MAX_PAGES)).max(1)
    }
}

/// How far the reading of older messages is.
#[derive(Debug)]
pub(super) struct Repair {
    topic: Arc<TopicInfo>,
    /// The client's position then.
    since: StreamSeq,
    /// The topic has nothing between that and this, and what follows is read.
    after: StreamSeq,
    /// The last message that must be asked for, as was known then.
    until: StreamSeq,
    state: State,
    /// The topic left the queue, and is put back when there is an answer.
    parked: bool,
}

#[derive(Debug)]
enum State {
    /// It must be asked for.
    Wanted,
    /// It was asked for.
    Asked(u64),
    /// It is here.
    Here(Arc<Page>),
    /// It is here, in a page of all topics of the stream.
    Among(Arc<Page>),
}

/// How far the reading of all topics together is.
#[derive(Debug, Default)]
pub(super) enum Together {
    /// Nothing is read.
    #[default]
    Idle,
    /// A page was asked for.
    Asked { ticket: u64, after: StreamSeq },
    /// So many topics still hold the page.
    Here { after: StreamSeq, topics: usize },
}

impl Together {
    /// Whether this position is passed, or soon will be.
    fn comes_to(&self, pos: StreamSeq) -> bool {
        match self {
            Self::Idle => false,
            Self::Asked { after, .. } | Self::Here { after, .. } => {
                *after <= pos && is_near(pos, *after)
            }
        }
    }
}

/// Whether a position is at most a little above another.
fn is_near(pos: StreamSeq, low: StreamSeq) -> bool {
    pos.get() <= low.get().saturating_add(NEAR)
}

/// What a session wants to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    /// Tells this request from others about the same.
    ticket: u64,
    pub(crate) of: Scope,
    /// The position behind which it must begin; of a whole stream, it may begin before.
    pub(crate) after: StreamSeq,
}

/// What comes next of a topic that is older than the ring.
enum Older {
    Message(Message),
    /// Retention has removed everything up to here.
    Trimmed(StreamSeq),
    /// It must be asked for.
    Unknown,
    /// No more may be replayed.
    Budget,
}

impl Session {
    /// Whether there may be something to ask for.
    pub(crate) fn wants(&self) -> bool {
        let has_room = self.has_room();
        self.tracks.iter().any(|track| track.wants(has_room))
    }

    fn has_room(&self) -> bool {
        let pages: usize = self.tracks.iter().map(|track| track.pages).sum();
        pages < MAX_PAGES
    }

    /// The next thing to ask for, if so many requests of the replica wait already;
    /// [`Session::answered`] takes the answer.
    pub(crate) fn ask(&mut self, waiting: usize) -> Option<Ask> {
        let (has_room, crowd) = (self.has_room(), self.who.limits.crowd);
        let needed = |lacking| crowd.needed(lacking, waiting);
        let (later, first) = self.tracks.split_at_mut_checked(self.turn)?;
        let mut tracks = first.iter_mut().chain(later);
        tracks.find_map(|track| track.ask(has_room, needed))
    }

    /// Whether the answer is still waited for.
    pub(crate) fn awaits(&self, ask: &Ask) -> bool {
        let track = self.tracks.get(ask.of.stream().index());
        track.is_some_and(|track| track.awaits(ask))
    }

    /// Takes what was read; an answer that nobody waits for any more is dropped.
    pub(crate) fn answered(&mut self, ask: &Ask, page: Arc<Page>) {
        if let Some(track) = self.tracks.get_mut(ask.of.stream().index())
            && track.awaits(ask)
        {
            match ask.of {
                Scope::Topic(topic) => track.answered(topic, page),
                Scope::Stream(_) => track.share(&page, self.who.limits.crowd.most),
            }
        }
    }
}

impl Track {
    fn wants(&self, has_room: bool) -> bool {
        let (is_idle, among) = match self.together {
            Together::Idle => (true, 0),
            Together::Asked { .. } => (false, 0),
            Together::Here { topics, .. } => (false, topics),
        };
        let is_open = has_room || is_idle;
        is_open && self.vain != Some(has_room) && self.pages + among < self.repairs.len()
    }

    fn ask(&mut self, has_room: bool, needed: impl Fn(u64) -> usize) -> Option<Ask> {
        if !self.wants(has_room) {
            return None;
        }
        let next = self.lowest(has_room, needed);
        self.vain = next.is_none().then_some(has_room);
        let (of, after) = next?;
        let ticket = self.next_ticket;
        match of {
            Scope::Stream(_) => self.together = Together::Asked { ticket, after },
            Scope::Topic(topic) => {
                self.repairs.get_mut(&topic)?.state = State::Asked(ticket);
                self.pages += 1;
            }
        }
        self.next_ticket += 1;
        Some(Ask { ticket, of, after })
    }

    /// What is asked for next: whatever lies lowest, of those that no page comes to anyway.
    fn lowest(&self, has_room: bool, needed: impl Fn(u64) -> usize) -> Option<(Scope, StreamSeq)> {
        let wanted = || {
            let repairs = self.repairs.iter();
            let all = repairs.filter(|(_, repair)| matches!(repair.state, State::Wanted));
            let all = all.map(|(topic, repair)| (repair.after, *topic, repair.until));
            all.filter(|(after, ..)| !self.together.comes_to(*after))
        };
        let (low, topic, until) = wanted().min()?;
        let needed = needed(until.get().saturating_sub(low.get()));
        let is_crowd = || {
            let mut near = wanted().filter(|(after, ..)| is_near(*after, low));
            near.nth(needed.saturating_sub(1)).is_some()
        };
        let is_worth = needed == 1 || (!self.is_thin && is_crowd());
        if matches!(self.together, Together::Idle) && is_worth {
            return Some((Scope::Stream(topic.stream()), low));
        }
        has_room.then_some((Scope::Topic(topic), low))
    }

    fn awaits(&self, ask: &Ask) -> bool {
        match ask.of {
            Scope::Topic(topic) => self.repairs.get(&topic).is_some_and(
                |repair| matches!(repair.state, State::Asked(ticket) if ticket == ask.ticket),
            ),
            Scope::Stream(_) => {
                matches!(self.together, Together::Asked { ticket, .. } if ticket == ask.ticket)
            }
        }
    }

    fn answered(&mut self, topic: TopicId, page: Arc<Page>) {
        self.vain = None;
        if let Some(repair) = self.repairs.get_mut(&topic) {
            repair.state = State::Here(page);
            if std::mem::take(&mut repair.parked) {
                self.pulls.push_back(topic);
            }
        }
    }

    /// Hands a page of the stream to all topics that wait for something in it, and lets those wait for
    /// what comes behind it that have nothing there.
    fn share(&mut self, page: &Arc<Page>, most: usize) {
        self.vain = None;
        let mut topics = 0;
        for (topic, repair) in &mut self.repairs {
            let is_in = page.after <= repair.after && repair.after < page.end;
            if !matches!(repair.state, State::Wanted) || !is_in {
                continue;
            }
            if !page.concerns(&repair.topic, repair.after) {
                repair.after = page.end;
                continue;
            }
            repair.state = State::Among(Arc::clone(page));
            topics += 1;
            if std::mem::take(&mut repair.parked) {
                self.pulls.push_back(*topic);
            }
        }
        // Rare messages of a few are found by their topics sooner than in everything else.
        self.is_thin = topics * WORTH < most;
        let after = page.after;
        self.together = match topics {
            0 => Together::Idle,
            topics => Together::Here { after, topics },
        };
    }

    /// Drops what was read of a topic, or what was to be.
    pub(super) fn forget_repair(&mut self, topic: TopicId) {
        if let Some(repair) = self.repairs.remove(&topic) {
            self.release_page(&repair.state);
            if repair.parked {
                self.pulls.push_back(topic);
            }
        }
        if self.repairs.is_empty() {
            (self.together, self.is_thin) = (Together::Idle, false);
        }
    }

    /// A topic has no use any more for what was read, or is to be.
    fn release_page(&mut self, state: &State) {
        self.vain = None;
        match state {
            State::Wanted => {}
            State::Asked(_) | State::Here(_) => self.pages -= 1,
            State::Among(_) => {
                if let Together::Here { topics, .. } = &mut self.together {
                    *topics -= 1;
                    if *topics == 0 {
                        self.together = Together::Idle;
                    }
                }
            }
        }
    }

    /// Takes a topic that waits for the broker out of the queue until there is an answer; whether
    /// it does.
    pub(super) fn park(&mut self, topic: TopicId) -> bool {
        match self.repairs.get_mut(&topic) {
            Some(repair) if matches!(repair.state, State::Wanted | State::Asked(_)) => {
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
                Next::Message(message) => {
                    // Others may wait until nobody has the page any more.
                    self.forget_repair(topic);
                    message
                }
                // What the shard has not dispatched yet will come as live.
                Next::Missing(_) if pos >= self.applied => {
                    return self.settle(topic, pos, who.filled_at);
                }
                Next::End => {
                    let pos = self.expired((who, known), topic, pos, sink);
                    return self.settle(topic, pos, who.filled_at);
                }
                Next::Missing(to) => match self.older((who, known), topic, (pos, to)) {
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
                        Arc::new(message)
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

    fn older(
        &mut self,
        (who, known): (&mut Subscriber, &Known),
        topic: TopicId,
        (pos, until): (StreamSeq, StreamSeq),
    ) -> Older {
        let Some(info) = known.info(topic) else {
            return Older::Unknown;
        };
        let mut from = pos;
        if let Some(repair) = self.repairs.get(&topic) {
            match &repair.state {
                State::Wanted | State::Asked(_) => return Older::Unknown,
                State::Here(page) | State::Among(page) if repair.since <= pos && pos < page.end => {
                    let after = pos.max(repair.after);
                    if let Some(trimmed) = page.trimmed.filter(|trimmed| after < *trimmed) {
                        return Older::Trimmed(trimmed);
                    }
                    if let Some(message) = page.next(info, after) {
                        if message.seq <= self.applied && !who.may_replay(1, who.filled_at) {
                            return Older::Budget;
                        }
                        return Older::Message(message);
                    }
                    from = page.end;
                }
                State::Here(_) | State::Among(_) => {}
            }
        }
        // Asking costs as much as a message.
        if !who.may_replay(1, who.filled_at) {
            return Older::Budget;
        }
        let repair = Repair {
            topic: Arc::clone(info),
            since: pos,
            after: from,
            until,
            state: State::Wanted,
            parked: false,
        };
        self.vain = None;
        match self.repairs.insert(topic, repair) {
            Some(before) => self.release_page(&before.state),
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
