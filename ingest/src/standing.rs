//! The state every feed is in, as one place knows it, and whether that is healthy.

use std::sync::{Mutex, MutexGuard, PoisonError};

use daemon::health::Check;
use schemas::id::FeedName;
use schemas::tick::FeedState;

use crate::config::FeedsConfig;

/// The state of all feeds. It outlives their sessions, whatever ends these.
pub struct Standings {
    feeds: Mutex<Vec<Standing>>,
    check: Check,
}

struct Standing {
    name: FeedName,
    /// `None` until its first session has brought something, or failed.
    state: Option<FeedState>,
    why: Option<String>,
}

impl Standings {
    /// Of feeds that have not begun: nothing is wrong with them yet.
    pub fn new(config: &FeedsConfig, check: Check) -> Self {
        let feeds = config.feeds.iter().map(|feed| Standing {
            name: feed.name.clone(),
            state: None,
            why: None,
        });
        check.ok();
        Self {
            feeds: Mutex::new(feeds.collect()),
            check,
        }
    }

    /// The state of a feed; `None` while it has told none.
    pub fn of(&self, feed: usize) -> Option<FeedState> {
        self.feeds().get(feed)?.state
    }

    /// Notes the state of a feed and judges all of them; whether it is another one than before.
    pub(crate) fn note(&self, feed: usize, state: FeedState, why: Option<&str>) -> bool {
        let mut feeds = self.feeds();
        let Some(standing) = feeds.get_mut(feed) else {
            return false;
        };
        if standing.state == Some(state) {
            return false;
        }
        standing.state = Some(state);
        standing.why = why.map(str::to_owned);
        match verdict(&feeds) {
            None => self.check.ok(),
            Some(reason) => self.check.down(reason),
        }
        true
    }

    fn feeds(&self) -> MutexGuard<'_, Vec<Standing>> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why no feed delivers that should. One that has ended for good is not expected to.
fn verdict(feeds: &[Standing]) -> Option<String> {
    let mut silent = Vec::new();
    for feed in feeds {
        let word = match feed.state {
            Some(FeedState::Closed) => continue,
            Some(FeedState::Stale) => "stale",
            Some(FeedState::Reconnecting) => "reconnecting",
            None | Some(FeedState::Live | FeedState::Gap) => return None,
        };
        let why = feed.why.as_deref().unwrap_or("no reason");
        silent.push(format!("{} is {word} ({why})", feed.name));
    }
    (!silent.is_empty()).then(|| format!("no feed delivers: {}", silent.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use daemon::health::Health;

    use super::*;
    use crate::config::parse;

    #[test]
    fn feeds_are_well_while_one_delivers_that_should() {
        let text = ["a", "b", "c"].map(|name| {
            format!(
                "[[feed]]\nname = \"{name}\"\nsource = \"coinbase\"\nsymbols = [\"{name}-USD\"]\n"
            )
        });
        let config = parse(&text.concat(), Path::new("")).unwrap();
        let health = Health::default();
        let standings = Standings::new(&config, health.check("ingest.feeds"));
        let steps = [
            (0, FeedState::Reconnecting, true),
            (1, FeedState::Live, true),
            (2, FeedState::Closed, true),
            (1, FeedState::Stale, false),
            (0, FeedState::Live, true),
            (0, FeedState::Closed, false),
            (1, FeedState::Live, true),
            (1, FeedState::Closed, true),
        ];
        for (place, (feed, state, well)) in steps.into_iter().enumerate() {
            assert!(standings.note(feed, state, Some("silent")), "step {place}");
            assert!(
                !standings.note(feed, state, None),
                "step {place} is no news"
            );
            assert_eq!(health.report().ready, well, "step {place}");
            if !well {
                let reason = health.report().checks["ingest.feeds"].reason.clone();
                assert!(reason.unwrap().contains("b is stale (silent)"));
            }
        }
    }
}
