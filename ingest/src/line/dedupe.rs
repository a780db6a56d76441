//! Which trades of an instrument were already published. Pure.

use std::collections::{HashSet, VecDeque};

/// Ids that are not numbers are remembered for so many trades.
const REMEMBERED: usize = 1_024;

/// The trade ids of one instrument.
#[derive(Debug, Default)]
pub(super) struct Ids {
    /// The highest numeric id: venues count upwards.
    highest: Option<u64>,
    recent: VecDeque<String>,
    known: HashSet<String>,
}

impl Ids {
    /// Goes on behind the last published id.
    pub(super) fn after(last: Option<String>) -> Self {
        let mut ids = Self::default();
        if let Some(last) = last {
            ids.is_new(&last);
        }
        ids
    }

    /// Whether the id was not seen before; it is from now on.
    pub(super) fn is_new(&mut self, id: &str) -> bool {
        if let Ok(number) = id.parse::<u64>() {
            let new = self.highest.is_none_or(|highest| number > highest);
            if new {
                self.highest = Some(number);
            }
            return new;
        }
        if !self.known.insert(id.to_owned()) {
            return false;
        }
        self.recent.push_back(id.to_owned());
        if self.recent.len() > REMEMBERED
            && let Some(oldest) = self.recent.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::Ids;

    #[test]
    fn numbers_only_grow_and_texts_are_remembered() {
        let mut ids = Ids::after(Some("10".to_owned()));
        let seen = ["9", "10", "11", "11", "x~1", "x~1", "x~2"].map(|id| ids.is_new(id));
        assert_eq!(seen, [false, false, true, false, true, false, true]);
        for n in 0..2_000 {
            assert!(ids.is_new(&format!("y{n}")));
        }
        assert!(ids.known.len() <= super::REMEMBERED);
    }
}
