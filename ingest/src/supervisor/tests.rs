//! What the supervisor says of feeds whose sessions end in any way.

use std::path::Path;

use daemon::health::Health;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use schemas::time::SystemClock;

use super::*;
use crate::config::parse;
use crate::metrics::Metrics;

struct Bench {
    config: FeedsConfig,
    registry: Registry,
    cx: FeedsContext,
    outlet: mpsc::Sender<Batch>,
    batches: mpsc::Receiver<Batch>,
}

impl Bench {
    fn new() -> Self {
        let config = parse("[[feed]]\nname = \"f\"\nsource = \"sim\"\n", Path::new("")).unwrap();
        let mut registry = Registry::default();
        let cx = FeedsContext {
            past: Arc::default(),
            clock: Arc::new(SystemClock),
            metrics: Metrics::new(&mut registry).feeds,
            standings: Arc::new(Standings::new(&config, Health::default().check("feeds"))),
        };
        let (outlet, batches) = mpsc::channel(16);
        Self {
            config,
            registry,
            cx,
            outlet,
            batches,
        }
    }

    fn tender(&self) -> Tender {
        Tender {
            index: 0,
            config: self.config.feeds[0].clone(),
            outlet: self.outlet.clone(),
            cx: self.cx.clone(),
        }
    }

    fn told(&mut self) -> Vec<FeedState> {
        let mut states = Vec::new();
        while let Ok(batch) = self.batches.try_recv() {
            for tick in batch.ticks {
                if let Tick::Feed(feed) = tick {
                    states.push(feed.state);
                }
            }
        }
        states
    }
}

#[tokio::test]
async fn a_session_that_panics_leaves_its_state_to_whoever_looks_after_it() {
    let mut bench = Bench::new();
    let tender = bench.tender();
    tender.tell(FeedState::Reconnecting, None).await;
    let session = tender.clone();
    let panicked = JoinSet::from_iter([async move {
        session.tell(FeedState::Live, None).await;
        panic!("the feed");
    }])
    .join_next()
    .await;
    assert!(panicked.unwrap().is_err());
    tender.tell(FeedState::Reconnecting, None).await;
    let (again, live) = (FeedState::Reconnecting, FeedState::Live);
    assert_eq!(bench.told(), [again, live, again]);
    let mut text = String::new();
    encode(&mut text, &bench.registry).unwrap();
    assert!(text.contains("feed_live{feed=\"f\"} 0\n"), "{text}");
}

#[tokio::test]
async fn a_report_of_collapsed_values_says_what_state_the_feed_is_in() {
    let bench = Bench::new();
    let report = |collapsed| {
        let Tick::Feed(feed) = collapse_report(&bench.config, collapsed, &bench.cx)? else {
            panic!("not of a feed");
        };
        Some((feed.state, feed.collapsed))
    };
    assert_eq!(report(0), None);
    assert_eq!(report(3), Some((FeedState::Reconnecting, Some(3))));
    let tender = bench.tender();
    for state in [FeedState::Live, FeedState::Stale, FeedState::Closed] {
        tender.tell(state, None).await;
        assert_eq!(report(3), Some((state, Some(3))));
    }
}
