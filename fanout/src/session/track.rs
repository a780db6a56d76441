//! What a connection holds of one stream, and is still owed of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use schemas::id::Kind;
use schemas::position::{Cursor, Epoch, StreamSeq};
use schemas::ws::{CloseCode, Conflate, GapReason, ServerMessage};

use super::catch_up::{Repair, Together};
use super::said;
use super::subscriber::Subscriber;
use crate::store::{Known, Live, TopicId};

/// What is still owed of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Messages behind the floor go out as they come.
    Live,
    /// The last value goes out when there is room; what comes meanwhile is covered by it.
    Snapshot { from: StreamSeq, covers: Covers },
    /// Everything behind a position goes out when there is room.
    CatchUp { pos: StreamSeq, since: Instant },
}

/// What a snapshot stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Covers {
    /// A first look at the topic.
    Nothing,
    /// Everything between a client's position and the value, left out on purpose.
    Omissions,
    /// The same, because there is more than may be replayed.
    Budget,
    /// What was before: everything since follows.
    Past,
}

#[derive(Debug)]
pub(super) struct Held {
    pub(super) phase: Phase,
    pub(super) conflate: Conflate,
    /// Everything up to here was sent, or declared.
    pub(super) floor: StreamSeq,
    /// Whether the topic is queued for a pull, or will be when the broker has answered.
    pub(super) queued: bool,
    /// It was born since it was subscribed: the client has heard of no position of it.
    pub(super) unheard: bool,
}

/// The latest of a conflated topic, until it is due.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) latest: Arc<Live>,
    pub(super) left_out: u64,
    pub(super) due: Instant,
}

/// One stream's part of a session.
///
/// First what every message needs: see [`Connection`](crate::connection::Connection).
#[derive(Debug)]
#[repr(C)]
pub(super) struct Track {
    pub(super) topics: FxHashMap<TopicId, Held>,
    pub(super) slots: FxHashMap<TopicId, Slot>,
    /// Pending quotes by instrument: they leave before its next trade.
    quotes: FxHashMap<u32, TopicId>,
    /// None of the slots is due before this.
    pub(super) slots_due: Option<Instant>,
    /// Everything up to here was dispatched by this shard.
    pub(super) applied: StreamSeq,
    /// Topics that something can be written of.
    pub(super) pulls: VecDeque<TopicId>,
    /// What retention removed, to be declared for topics that had no message yet: once nobody waits
    /// for anything older, one word for all topics of a string will do.
    pub(super) owed: Option<(StreamSeq, StreamSeq)>,
    /// The store has another history than this shard was told of: nothing is told from it before
    /// [`Track::reset`].
    pub(super) rewinding: bool,
    /// The last page that was read together had next to nothing for those who waited: they ask one by
    /// one.
    pub(super) is_thin: bool,
    /// There is nothing to ask for as things are, with room for pages or without.
    pub(super) vain: Option<bool>,
    pub(super) repairs: FxHashMap<TopicId, Repair>,
    /// How many of them hold a page of their own, or have asked for one.
    pub(super) pages: usize,
    /// The page that others read together.
    pub(super) together: Together,
    pub(super) next_ticket: u64,
    pub(super) cursor: StreamSeq,
    /// The history that the client was told of, and the last cursor in it.
    pub(super) epoch: Option<Epoch>,
    pub(super) promised: Option<Cursor>,
}

impl Track {
    pub(super) fn new(applied: StreamSeq) -> Self {
        Self {
            topics: FxHashMap::default(),
            pulls: VecDeque::new(),
            repairs: FxHashMap::default(),
            pages: 0,
            together: Together::Idle,
            is_thin: false,
            vain: None,
            next_ticket: 0,
            slots: FxHashMap::default(),
            slots_due: None,
            quotes: FxHashMap::default(),
            cursor: StreamSeq::ZERO,
            epoch: None,
            promised: None,
            applied,
            rewinding: false,
            owed: None,
        }
    }

    /// Whether the store has the history that this session is in.
    pub(super) fn is_of(&self, known: &Known) -> bool {
        self.epoch.is_none() || known.epoch == self.epoch
    }

    /// Where what is known begins: whatever is still under way to this shard, expired or not, comes
    /// after it.
    pub(super) fn origin(&self, known: &Known) -> StreamSeq {
        known.origin().min(self.applied)
    }

    /// Where a client that holds nothing but this may go on; `None` while it lacks a first look at
    /// a topic, which no cursor would bring.
    pub(super) fn promise(&self) -> Option<(Epoch, Cursor)> {
        let promise = self.epoch.zip(self.promised)?;
        let is_first_look = |topic: &TopicId| {
            let phase = self.topics.get(topic).map(|held| held.phase);
            let first = matches!(
                phase,
                Some(Phase::Snapshot {
                    covers: Covers::Nothing | Covers::Past,
                    ..
                })
            );
            first
        };
        (!self.pulls.iter().any(is_first_look)).then_some(promise)
    }

    /// Takes a live message of a topic that is held; when there will be something to write, if not
    /// now. An error closes the connection.
    pub(super) fn deliver(
        &mut self,
        who: &mut Subscriber,
        live: &Arc<Live>,
        now: Instant,
    ) -> Result<Option<Instant>, CloseCode> {
        let topic = live.topic.id;
        let Some(held) = self.topics.get_mut(&topic) else {
            return Ok(None);
        };
        if held.phase != Phase::Live || live.seq <= held.floor {
            return Ok(None);
        }
        let state = live.topic.kind.is_state();
        let pause = match held.conflate {
            Conflate::Millis(millis) if state => Some(Duration::from_millis(u64::from(millis))),
            Conflate::Auto if state && (who.is_behind() || self.slots.contains_key(&topic)) => {
                Some(Duration::ZERO)
            }
            Conflate::Auto | Conflate::None | Conflate::Millis(_) => None,
        };
        held.floor = live.seq;
        if let Some(pause) = pause {
            let due = who.next_beat(now, pause);
            self.conflate(live, due);
            return Ok((!pause.is_zero()).then_some(due));
        }
        if !self.slots.is_empty() {
            // What was pending before the conflation was lifted goes first.
            self.release(who, topic, now)?;
            let is_live = |held: &Held| held.phase == Phase::Live;
            if !self.topics.get(&topic).is_some_and(is_live) {
                // It could not be encoded: what follows is pulled behind what is said of that.
                return Ok(None);
            }
        }
        if live.topic.kind == Kind::Trade
            && let Some(quote) = self.quotes.get(&live.topic.instrument).copied()
        {
            self.release(who, quote, now)?;
        }
        self.emit(who, live, now)?;
        Ok(None)
    }

    fn conflate(&mut self, live: &Arc<Live>, due: Instant) {
        if live.topic.kind == Kind::Quote {
            self.quotes.insert(live.topic.instrument, live.topic.id);
        }
        let slot = self.slots.entry(live.topic.id).or_insert_with(|| Slot {
            latest: Arc::clone(live),
            left_out: 0,
            due,
        });
        self.slots_due = Some(self.slots_due.map_or(slot.due, |first| first.min(slot.due)));
        if slot.latest.seq != live.seq {
            slot.left_out += 1;
            slot.latest = Arc::clone(live);
        }
    }

    pub(super) fn take_slot(&mut self, topic: TopicId) -> Option<Slot> {
        let slot = self.slots.remove(&topic)?;
        if self.quotes.get(&slot.latest.topic.instrument) == Some(&topic) {
            self.quotes.remove(&slot.latest.topic.instrument);
        }
        Some(slot)
    }

    /// Moves a pending value to the outbox, its omissions declared before it.
    pub(super) fn release(
        &mut self,
        who: &mut Subscriber,
        topic: TopicId,
        now: Instant,
    ) -> Result<(), CloseCode> {
        let Some(slot) = self.take_slot(topic) else {
            return Ok(());
        };
        if slot.left_out > 0 {
            who.metrics.skipped.inc_by(slot.left_out);
            who.say(&said::skip(&slot.latest, Some(slot.left_out)));
        }
        self.emit(who, &slot.latest, now)
    }

    fn emit(
        &mut self,
        who: &mut Subscriber,
        live: &Arc<Live>,
        now: Instant,
    ) -> Result<(), CloseCode> {
        let Some(bytes) = live.data(who.encoding, &who.metrics) else {
            // Given as what it is when there is room: a message that no client can have.
            who.metrics.unencodable.inc();
            let topic = live.topic.id;
            if let Some(held) = self.topics.get_mut(&topic) {
                let (pos, since) = (live.prev, now);
                held.phase = Phase::CatchUp { pos, since };
                if !std::mem::replace(&mut held.queued, true) {
                    self.pulls.push_back(topic);
                }
            }
            return Ok(());
        };
        who.outbox.push_live(Arc::clone(live), bytes.len(), now);
        if who.outbox.live_bytes() > who.limits.unsent_bytes
            || who.outbox.age(now) > who.limits.unsent_age
        {
            return Err(CloseCode::Slow);
        }
        Ok(())
    }

    /// Positions of this stream are void: says so, and starts every topic from its last value.
    pub(super) fn void_all(&mut self, who: &mut Subscriber, known: &Known, epoch: Epoch) {
        who.metrics.resets.inc();
        self.cursor = StreamSeq::ZERO;
        (self.epoch, self.promised) = (Some(epoch), None);
        self.slots.clear();
        self.slots_due = None;
        self.quotes.clear();
        self.pulls.clear();
        self.repairs.clear();
        (self.pages, self.together) = (0, Together::Idle);
        (self.is_thin, self.vain) = (false, None);
        self.owed = None;
        let origin = self.origin(known);
        who.say(&ServerMessage::Reset {
            st: Some(known.stream.to_string()),
            c: None,
            e: epoch,
            s: origin,
        });
        for (topic, held) in &mut self.topics {
            held.phase = Phase::Snapshot {
                from: origin,
                covers: Covers::Nothing,
            };
            held.floor = StreamSeq::ZERO;
            held.queued = true;
            self.pulls.push_back(*topic);
        }
    }

    /// Retention removed messages before this replica read them: declares it for every topic; an error
    /// closes the connection.
    pub(super) fn trimmed(
        &mut self,
        who: &mut Subscriber,
        known: &Known,
        (from, to): (StreamSeq, StreamSeq),
        now: Instant,
    ) -> Result<(), CloseCode> {
        // What is pending comes before what is missing.
        for topic in self.slots.keys().copied().collect::<Vec<_>>() {
            self.release(who, topic, now)?;
        }
        let span = (from.prev(), to);
        if self.owes_nothing() {
            // Nobody waits for anything older: one word for all topics of a string, and whatever is
            // owed still because the last that waited was let go.
            let since = self.owed.take().map_or(from.prev(), |(since, _)| since);
            let held: Vec<String> = who.held_strings().map(str::to_owned).collect();
            for text in held.iter().filter(|text| known.venues.may_have(text)) {
                self.declare_expired(who, known, text, (since, to));
            }
            for held in self.topics.values_mut() {
                held.floor = held.floor.max(to);
            }
        } else {
            let since = self.owed.map_or(from.prev(), |(since, _)| since);
            self.owed = Some((since, to));
        }
        let live: Vec<TopicId> = self
            .topics
            .iter()
            // Whoever still catches up or waits for a value declares it on the way.
            .filter(|(_, held)| held.phase == Phase::Live && held.floor < to)
            .map(|(topic, _)| *topic)
            .collect();
        for topic in live {
            if let Some(info) = known.info(topic) {
                self.declare_expired(who, known, &info.text, span);
            }
            if let Some(held) = self.topics.get_mut(&topic) {
                held.floor = held.floor.max(to);
            }
        }
        self.applied = self.applied.max(to);
        Ok(())
    }

    /// Declares what expired before it was read. Where the store is in another history already, there
    /// is nowhere to have it from: a reset follows.
    fn declare_expired(
        &self,
        who: &mut Subscriber,
        known: &Known,
        text: &str,
        span: (StreamSeq, StreamSeq),
    ) {
        if self.is_of(known) {
            return declare_gap(who, known, text, span);
        }
        let mut message = said::gap(known, text, span, GapReason::Retention);
        if let ServerMessage::Gap { fill, .. } = &mut message {
            fill.clear();
        }
        who.metrics.gap(GapReason::Retention);
        who.say(&message);
    }

    /// The history was rewound: nothing that was sent counts any more.
    pub(super) fn reset(&mut self, who: &mut Subscriber, known: &Known, epoch: Epoch) {
        (self.epoch, self.rewinding) = (Some(epoch), false);
        self.void_all(who, known, epoch);
    }

    /// Whether nobody waits for anything older.
    pub(super) fn owes_nothing(&self) -> bool {
        self.pulls.is_empty() && self.repairs.is_empty()
    }

    /// Everything up to here was written, for all topics held.
    pub(super) fn safe(&self) -> StreamSeq {
        let pending = self
            .pulls
            .iter()
            .chain(self.repairs.keys())
            .filter_map(|topic| match self.topics.get(topic)?.phase {
                Phase::Live => None,
                Phase::Snapshot { from, .. } => Some(from),
                Phase::CatchUp { pos, .. } => Some(pos),
            });
        pending
            .chain(self.owed.map(|(since, _)| since))
            .min()
            .map_or(self.applied, |pos| pos.min(self.applied))
    }
}

/// Declares what retention has removed.
pub(super) fn declare_gap(
    who: &mut Subscriber,
    known: &Known,
    text: &str,
    span: (StreamSeq, StreamSeq),
) {
    who.metrics.gap(GapReason::Retention);
    who.say(&said::gap(known, text, span, GapReason::Retention));
}
