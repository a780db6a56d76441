//! The last value of every topic: whether a value is news, and when it must be sent again so that
//! the stream never loses it. Pure.

use std::collections::HashMap;

use schemas::tick::{Flag, Tick};
use schemas::time::UnixNanos;
use schemas::topic::Topic;

/// So many flushes look at all values once.
const SHARES: usize = 500;
/// The most values that one flush sends again: more would hold up the ticks behind them.
const BURST: usize = 100;

struct State {
    tick: Tick,
    published: UnixNanos,
}

/// Last values, in the order in which they were first heard of.
pub(crate) struct States {
    index: HashMap<Topic, usize>,
    values: Vec<State>,
    refresh_after: i64,
    /// When the first message was stored that the stream still holds.
    retained: Option<UnixNanos>,
    /// The value that the next flush looks at first.
    next: usize,
}

impl States {
    /// Values and when they were stored; what is older than `refresh_after` nanoseconds is sent
    /// again.
    pub(crate) fn new(stored: Vec<(Tick, UnixNanos)>, refresh_after: i64) -> Self {
        let mut states = Self {
            index: HashMap::with_capacity(stored.len()),
            values: Vec::with_capacity(stored.len()),
            refresh_after,
            retained: None,
            next: 0,
        };
        for (tick, published) in stored {
            states.put(tick, published);
        }
        states
    }

    /// The stream holds nothing from before `first`.
    pub(super) const fn retained_since(&mut self, first: UnixNanos) {
        self.retained = Some(first);
    }

    /// Takes in a value that is published at `now`; `false` if it equals the last one but for times,
    /// sequence and flags, and need not be.
    pub(crate) fn is_news(&mut self, tick: &mut Tick, now: UnixNanos) -> bool {
        let known = self.index.get(&tick.topic()).copied();
        if let Some(state) = known.and_then(|index| self.values.get(index)) {
            let head = std::mem::replace(tick.head_mut(), state.tick.head().clone());
            let same = *tick == state.tick;
            *tick.head_mut() = head;
            if same {
                return false;
            }
        }
        self.put(tick.clone(), now);
        true
    }

    /// Takes in a value that is published at `published`.
    pub(super) fn put(&mut self, tick: Tick, published: UnixNanos) {
        let next = self.values.len();
        let index = *self.index.entry(tick.topic()).or_insert(next);
        let state = State { tick, published };
        match self.values.get_mut(index) {
            Some(known) => *known = state,
            None => self.values.push(state),
        }
    }

    /// Sends some of the values again that are older than half of what the stream may or does
    /// hold: it is bounded by bytes as well as by age, and what is trimmed is no last value. Those
    /// that are `outdated` are passed over: they will be sent anew.
    pub(super) fn refresh(
        &mut self,
        now: UnixNanos,
        outdated: impl Fn(&Tick) -> bool,
        out: &mut Vec<Tick>,
    ) {
        let mut oldest = now.offset(self.refresh_after.saturating_neg());
        if let Some(first) = self.retained.filter(|first| *first < now) {
            let half = now.get().saturating_sub(first.get()) / 2;
            oldest = oldest.max(first.offset(half));
        }
        let mut sent = 0;
        for _ in 0..self.values.len().div_ceil(SHARES) {
            if self.next >= self.values.len() {
                self.next = 0;
            }
            let Some(state) = self.values.get_mut(self.next) else {
                return;
            };
            // A clock that was set back would have it young for as long again.
            state.published = state.published.min(now);
            if state.published < oldest && !outdated(&state.tick) {
                if sent == BURST {
                    return;
                }
                sent += 1;
                state.published = now;
                let mut tick = state.tick.clone();
                tick.head_mut().flags.push(Flag::Refresh);
                out.push(tick);
            }
            self.next += 1;
        }
    }
}
