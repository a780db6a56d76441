//! Keeps every feed running, each on its own: backoff, staleness, state ticks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use schemas::id::{Symbol, Venue};
use schemas::tick::{Feed as FeedTick, FeedState, Head, Tick};
use schemas::time::Clock;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::{FeedConfig, FeedsConfig, Format, Source};
use crate::feed::{Batch, Decoder, Feed, FeedError, Past};
use crate::feeds::binance::Binance;
use crate::feeds::coinbase::Coinbase;
use crate::feeds::live::{Address, Live, Rejects};
use crate::feeds::replay::Replay;
use crate::feeds::sim::Sim;
use crate::metrics::FeedMetrics;
use crate::standing::Standings;

/// The longest pause between two sessions.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A session that lasted so long was a good one: the next pause is short again.
const GOOD_SESSION: Duration = Duration::from_mins(1);

/// What feeds need from outside.
#[derive(Clone)]
pub struct FeedsContext {
    /// Tells receive times.
    pub clock: Arc<dyn Clock>,
    /// Counts.
    pub metrics: FeedMetrics,
    /// Knows the state of every feed.
    pub standings: Arc<Standings>,
    /// What the stream holds of simulated venues.
    pub past: Arc<HashMap<Venue, Past>>,
}

/// Starts every feed; each ends when `stop` is cancelled.
pub fn start(
    config: &FeedsConfig,
    outlet: &mpsc::Sender<Batch>,
    cx: &FeedsContext,
    stop: &CancellationToken,
) -> JoinSet<()> {
    let mut feeds = JoinSet::new();
    for (index, config) in config.feeds.iter().enumerate() {
        let tender = Tender {
            index,
            config: config.clone(),
            outlet: outlet.clone(),
            cx: cx.clone(),
        };
        feeds.spawn(tender.tend(stop.clone()));
    }
    feeds
}

/// Looks after one feed.
#[derive(Clone)]
struct Tender {
    index: usize,
    config: FeedConfig,
    outlet: mpsc::Sender<Batch>,
    cx: FeedsContext,
}

enum Outcome {
    Ended,
    Stopped,
}

impl Tender {
    async fn tend(self, stop: CancellationToken) {
        let name = self.config.name.clone();
        let mut failures: u32 = 0;
        let mut decoder = self.decoder();
        loop {
            let began = Instant::now();
            self.cx.metrics.session(name.as_str());
            // A task of its own: a panic in one feed ends that session and nothing else.
            let mut session = JoinSet::new();
            session.spawn(self.clone().session(decoder.take(), stop.clone()));
            let problem = match session.join_next().await {
                Some(Ok((Ok(Outcome::Stopped), _))) | None => break,
                Some(Ok((Ok(Outcome::Ended), _))) => {
                    info!(feed = name.as_str(), "the feed has ended");
                    break;
                }
                Some(Ok((Err(error), kept))) => {
                    decoder = kept;
                    error.to_string()
                }
                Some(Err(panic)) => {
                    error!(feed = name.as_str(), %panic, "the feed panicked");
                    decoder = self.decoder();
                    "internal error".to_owned()
                }
            };
            if began.elapsed() > GOOD_SESSION {
                failures = 0;
            }
            let pause = backoff(failures);
            failures = failures.saturating_add(1);
            warn!(
                feed = name.as_str(),
                problem,
                pause_ms = pause.as_millis(),
                "session over, trying again"
            );
            self.tell(FeedState::Reconnecting, Some(problem)).await;
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(pause) => {}
            }
        }
        // Whoever reads the stream learns that nothing more comes from here.
        self.tell(FeedState::Closed, None).await;
    }

    fn decoder(&self) -> Option<Box<dyn Decoder>> {
        let Source::Live {
            format,
            symbols,
            kinds,
            ..
        } = &self.config.source
        else {
            return None;
        };
        let (venue, symbols, kinds) = (self.config.venue()?, symbols.clone(), kinds.clone());
        Some(match format {
            Format::Coinbase => Box::new(Coinbase::new(
                venue,
                self.config.name.clone(),
                symbols,
                kinds,
            )),
            Format::Binance | Format::Csv => Box::new(Binance::new(venue, symbols, kinds)),
        })
    }

    /// One session; gives back what the next one goes on with.
    async fn session(
        self,
        mut decoder: Option<Box<dyn Decoder>>,
        stop: CancellationToken,
    ) -> (Result<Outcome, FeedError>, Option<Box<dyn Decoder>>) {
        let outcome = tokio::select! {
            () = stop.cancelled() => Ok(Outcome::Stopped),
            outcome = self.run(&mut decoder) => outcome,
        };
        (outcome, decoder)
    }

    async fn run(&self, decoder: &mut Option<Box<dyn Decoder>>) -> Result<Outcome, FeedError> {
        let clock = Arc::clone(&self.cx.clock);
        let mut rejects = Rejects::new(self.config.name.as_str(), self.cx.metrics.clone());
        match self.config.source.clone() {
            Source::Sim {
                venue,
                instruments,
                rate,
                seed,
            } => {
                let before = Past::default();
                let past = self.cx.past.get(&venue).unwrap_or(&before);
                let sim = Sim::new(venue, (instruments, rate), seed, past, clock);
                self.pump(sim, None).await
            }
            Source::Replay {
                format,
                venue,
                path,
                speed,
                repeat,
            } => {
                let of = (format, venue, self.config.name.clone());
                self.pump(Replay::open(of, &path, speed, repeat, rejects)?, None)
                    .await
            }
            Source::Live {
                format,
                url,
                renew_after,
                ..
            } => {
                let Some(decoder) = decoder else {
                    return Err(FeedError::Connection("no decoder".to_owned()));
                };
                let url = if format == Format::Binance {
                    format!("{url}/stream")
                } else {
                    url
                };
                let address = Address { url, renew_after };
                let live = Live::open(address, decoder.as_mut(), &mut rejects, clock).await?;
                self.pump(live, Some(self.config.stale_after)).await
            }
        }
    }

    /// Passes ticks on until the session is over.
    async fn pump(
        &self,
        mut feed: impl Feed,
        patience: Option<Duration>,
    ) -> Result<Outcome, FeedError> {
        let patience = patience.unwrap_or(Duration::MAX);
        loop {
            let Ok(next) = timeout(patience, feed.next()).await else {
                if self.cx.standings.of(self.index) == Some(FeedState::Stale) {
                    return Err(FeedError::Silent(patience * 2));
                }
                self.tell(FeedState::Stale, Some(format!("silent for {patience:?}")))
                    .await;
                continue;
            };
            let Some(ticks) = next? else {
                return Ok(Outcome::Ended);
            };
            self.tell(FeedState::Live, None).await;
            if ticks.is_empty() {
                // A sign of life, or only refused lines as far as was read: others get their turn.
                yield_now().await;
                continue;
            }
            self.cx
                .metrics
                .received(self.config.name.as_str(), ticks.len());
            if self
                .outlet
                .send(Batch {
                    feed: self.index,
                    ticks,
                })
                .await
                .is_err()
            {
                return Ok(Outcome::Stopped);
            }
        }
    }

    /// Publishes a change of state, once.
    async fn tell(&self, state: FeedState, detail: Option<String>) {
        let standings = &self.cx.standings;
        if !standings.note(self.index, state, detail.as_deref()) {
            return;
        }
        self.cx
            .metrics
            .live(self.config.name.as_str(), state == FeedState::Live);
        if let Some(tick) = state_tick(&self.config, state, &*self.cx.clock) {
            let tick = FeedTick { detail, ..tick }.into();
            // The line is gone only when everything stops.
            let _stopping = self
                .outlet
                .send(Batch {
                    feed: self.index,
                    ticks: vec![tick],
                })
                .await;
        }
    }
}

/// Says on the stream how many state values gave way because the broker was away, if any.
pub fn collapse_report(config: &FeedsConfig, collapsed: u64, cx: &FeedsContext) -> Option<Tick> {
    if collapsed == 0 {
        return None;
    }
    let state = cx.standings.of(0).unwrap_or(FeedState::Reconnecting);
    let tick = state_tick(config.feeds.first()?, state, &*cx.clock)?;
    let detail = "the broker was away: state values gave way to later ones".to_owned();
    Some(
        FeedTick {
            detail: Some(detail),
            collapsed: Some(collapsed),
            ..tick
        }
        .into(),
    )
}

fn state_tick(config: &FeedConfig, state: FeedState, clock: &dyn Clock) -> Option<FeedTick> {
    let symbol = Symbol::new(config.name.as_str()).ok()?;
    Some(FeedTick {
        head: Head::new(config.venue()?, symbol, clock.now()),
        state,
        detail: None,
        gap: None,
        collapsed: None,
    })
}

/// Full jitter: anything up to a ceiling that doubles with every failure.
fn backoff(failures: u32) -> Duration {
    let ceiling = Duration::from_millis(200 << failures.min(10)).min(LONGEST_PAUSE);
    ceiling.mul_f64(rand::rng().random_range(0.1..=1.0))
}

#[cfg(test)]
mod tests;
