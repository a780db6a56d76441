//! Readiness: named checks, each ok or down for a reason.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};

/// How often what can only be asked is asked while readiness is awaited.
const ASK: Duration = Duration::from_millis(500);

/// All checks of a process. Clones share them.
#[derive(Clone)]
pub struct Health {
    checks: Arc<Mutex<BTreeMap<String, Declared>>>,
    changed: watch::Sender<bool>,
}

/// A check, and how to find out without being told. Not part of the check: what it asks may itself
/// hold the check.
struct Declared {
    check: Check,
    probe: Option<Probe>,
}

type Probe = Box<dyn Fn() -> Result<(), &'static str> + Send>;

/// One check. It is down until it is first said to be ok.
#[derive(Clone)]
pub struct Check {
    name: Arc<str>,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<bool>,
}

struct State {
    down: Option<String>,
    since: Instant,
}

/// What `/health` shows.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether every check is ok and the process is not draining.
    pub ready: bool,
    /// Whether the process is on its way out.
    pub draining: bool,
    /// Every check, by name.
    pub checks: BTreeMap<String, Finding>,
}

/// One check's state.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// Whether it is ok.
    pub ok: bool,
    /// Why it is down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// For how many seconds it has been in this state.
    pub for_secs: u64,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            checks: Arc::default(),
            changed: watch::Sender::new(false),
        }
    }
}

impl Health {
    /// Declares a check, or finds the one of that name.
    pub fn check(&self, name: &str) -> Check {
        self.declared(name, |declared| declared.check.clone())
    }

    /// Declares a check that is asked as well: what `probe` says when somebody looks counts. It must
    /// not use these checks itself.
    pub fn ask(&self, name: &str, probe: impl Fn() -> Result<(), &'static str> + Send + 'static) {
        self.declared(name, |declared| declared.probe = Some(Box::new(probe)));
    }

    fn declared<T>(&self, name: &str, with: impl FnOnce(&mut Declared) -> T) -> T {
        let fresh = || Declared {
            check: Check {
                name: name.into(),
                state: Arc::new(Mutex::new(State {
                    down: Some("starting".to_owned()),
                    since: Instant::now(),
                })),
                changed: self.changed.clone(),
            },
            probe: None,
        };
        with(
            lock(&self.checks)
                .entry(name.to_owned())
                .or_insert_with(fresh),
        )
    }

    /// Says that the process is on its way out: it is not ready any more, whatever the checks say.
    pub fn drain(&self) {
        self.changed.send_replace(true);
    }

    /// The state of everything.
    pub fn report(&self) -> Report {
        let finding = |Declared { check, probe }: &Declared| {
            if let Some(probe) = probe {
                check.set(probe().err().map(str::to_owned));
            }
            let state = lock(&check.state);
            Finding {
                ok: state.down.is_none(),
                reason: state.down.clone(),
                for_secs: state.since.elapsed().as_secs(),
            }
        };
        let checks = lock(&self.checks);
        let checks = checks
            .iter()
            .map(|(name, declared)| (name.clone(), finding(declared)));
        let checks: BTreeMap<_, _> = checks.collect();
        let draining = *self.changed.borrow();
        Report {
            ready: !draining && checks.values().all(|check| check.ok),
            draining,
            checks,
        }
    }

    /// Waits until the process is ready.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn ready(&self) {
        let mut changes = self.changed.subscribe();
        while !self.report().ready {
            if matches!(timeout(ASK, changes.changed()).await, Ok(Err(_))) {
                return;
            }
        }
    }
}

impl Check {
    /// Says that all is well.
    pub fn ok(&self) {
        self.set(None);
    }

    /// Says that it is not, and why.
    pub fn down(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    fn set(&self, down: Option<String>) {
        let turned = {
            let mut state = lock(&self.state);
            let turned = state.down.is_none() != down.is_none();
            if turned {
                state.since = Instant::now();
            } else if state.down == down {
                return;
            }
            state.down.clone_from(&down);
            turned
        };
        match down {
            None => info!(check = %self.name, "ok"),
            Some(reason) if turned && !*self.changed.borrow() => {
                warn!(check = %self.name, reason, "down");
            }
            Some(reason) => info!(check = %self.name, reason, "down"),
        }
        self.changed.send_modify(|_| {});
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::Health;

    #[test]
    fn ready_is_every_check_and_not_draining() {
        let health = Health::default();
        assert!(
            health.report().ready,
            "nothing is declared, nothing can be down"
        );
        let reader = health.check("fanout.reader");
        let broker = health.check("nats");
        broker.ok();
        assert!(
            !health.report().ready,
            "a check is down until it says otherwise"
        );
        reader.ok();
        assert!(health.report().ready);
        reader.down("catching up");
        let report = health.report();
        assert!(!report.ready);
        assert_eq!(
            report.checks["fanout.reader"].reason.as_deref(),
            Some("catching up")
        );
        assert!(report.checks["nats"].ok);
        reader.ok();
        health.drain();
        let report = health.report();
        assert!(report.draining && !report.ready);
    }

    #[test]
    fn a_check_asked_for_twice_is_one_check() {
        let health = Health::default();
        health.check("nats").ok();
        let again = health.check("nats");
        assert!(health.report().ready);
        again.down("gone");
        assert!(!health.report().ready);
    }

    #[tokio::test]
    async fn what_a_check_is_asked_counts_over_what_it_was_told() {
        let health = Health::default();
        let check = health.check("nats");
        let (state, asked) = tokio::sync::watch::channel(Err("disconnected"));
        health.ask("nats", move || *asked.borrow());
        check.ok();
        let report = health.report();
        let reason = report.checks["nats"].reason.as_deref();
        assert_eq!((report.ready, reason), (false, Some("disconnected")));
        check.down("what was true long ago");
        // Nobody tells that it is ready.
        let turn = async {
            tokio::task::yield_now().await;
            state.send(Ok(())).unwrap();
        };
        let both = async { tokio::join!(health.ready(), turn) };
        timeout(Duration::from_secs(5), both).await.unwrap();
        assert!(health.report().ready);
    }

    #[tokio::test]
    async fn ready_is_awaited_through_changes() {
        let health = Health::default();
        let (first, second) = (health.check("a"), health.check("b"));
        let turn = async {
            first.ok();
            tokio::task::yield_now().await;
            second.ok();
        };
        let both = async { tokio::join!(health.ready(), turn) };
        timeout(Duration::from_secs(5), both).await.unwrap();
        assert!(health.report().ready);
    }
}
