//! What the stream says last of a series of bars, and when that may stand behind what is stored.

use schemas::position::StreamSeq;
use schemas::tick::{Bar, Form};
use schemas::time::UnixNanos;

use crate::store::Progress;

/// The last messages of a `bar` and a `form` topic, read from the stream at once, and before the store:
/// what had closed by then, the store is asked for.
#[derive(Clone, Debug, Default)]
pub struct Newest {
    /// The last closed bar, and its position.
    pub closed: Option<(StreamSeq, Bar)>,
    /// The last value of the forming bar.
    pub forming: Option<Form>,
    /// The stream was asked, if it has anything to tell, and answered.
    pub is_told: bool,
}

impl Newest {
    /// Whether a bar of this start has closed, as far as the stream tells.
    pub fn has_closed(&self, start: UnixNanos) -> bool {
        let closed = self.closed.as_ref();
        closed.is_some_and(|(_, closed)| closed.start >= start)
    }

    /// The bar that is forming, if one is, and if everything that closed before it is recorded up to
    /// `progress`: what stands behind bars that a reader does not have yet would leave a hole.
    ///
    /// It can never contradict a closed bar: a value of a bar that has closed is none of a forming one.
    pub fn forming(&self, progress: Option<Progress>) -> Option<&Form> {
        let form = self.forming.as_ref()?;
        let Some((seq, closed)) = &self.closed else {
            return Some(form);
        };
        let recorded = progress.is_some_and(|progress| progress.floor.seq() >= *seq);
        (recorded && form.start > closed.start).then_some(form)
    }
}

#[cfg(test)]
mod tests {
    use schemas::position::{Cursor, Epoch};
    use serde_json::json;

    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn tick<T: serde::de::DeserializeOwned>(start: i64) -> T {
        let start = start * SECOND;
        serde_json::from_value(json!({
            "v": "x", "y": "A", "tr": "1", "iv": "1m", "t0": start.to_string(),
            "o": "1.0", "h": "3", "l": "0.5", "c": "2", "vo": "10", "n": 4,
        }))
        .unwrap()
    }

    fn newest(closed: Option<(u64, i64)>, forming: Option<i64>) -> Newest {
        let closed = closed.map(|(seq, start)| (StreamSeq::new(seq), tick(start)));
        Newest {
            closed,
            forming: forming.map(tick),
            is_told: true,
        }
    }

    fn recorded(floor: u64) -> Progress {
        let floor = Cursor::new(StreamSeq::new(floor), UnixNanos::new(7));
        let epoch = Epoch::new(UnixNanos::new(5), 0);
        Progress { epoch, floor }
    }

    #[test]
    fn a_forming_bar_never_contradicts_a_closed_one_nor_jumps_over_one() {
        let start = |newest: Newest, progress| {
            let form = newest.forming(progress);
            form.map(|form| form.start.seconds())
        };
        let both = |closed, forming| newest(Some(closed), Some(forming));
        assert_eq!(start(both((40, 60), 120), Some(recorded(40))), Some(120));
        assert_eq!(
            start(both((40, 60), 60), Some(recorded(40))),
            None,
            "closed since"
        );
        assert_eq!(
            start(both((40, 60), 0), Some(recorded(40))),
            None,
            "long closed"
        );
        assert_eq!(
            start(both((40, 60), 120), Some(recorded(39))),
            None,
            "60 is missing"
        );
        assert_eq!(
            start(both((40, 60), 120), None),
            None,
            "nothing is recorded"
        );
        assert_eq!(start(newest(None, Some(120)), None), Some(120), "the first");
        assert_eq!(
            start(newest(Some((40, 60)), None), Some(recorded(40))),
            None
        );
        let closed = newest(Some((40, 60)), None);
        assert!(closed.has_closed(UnixNanos::new(60 * SECOND)));
        assert!(!closed.has_closed(UnixNanos::new(120 * SECOND)));
    }
}
