//! Named parts of a process: any early exit ends all of them, in order and in bounded time.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// Owns the parts. They are stopped in the reverse of the order in which they were started.
pub struct Supervisor {
    stop: CancellationToken,
    tasks: JoinSet<Result<()>>,
    parts: Vec<Part>,
    ended: HashMap<Id, Result<()>>,
}

struct Part {
    name: &'static str,
    id: Id,
    stop: CancellationToken,
    grace: Duration,
}

type Joined = Result<(Id, Result<()>), JoinError>;

impl Supervisor {
    /// No parts yet; `stop` is what asks the process to end.
    pub fn new(stop: CancellationToken) -> Self {
        Self {
            stop,
            tasks: JoinSet::new(),
            parts: Vec::new(),
            ended: HashMap::new(),
        }
    }

    /// Starts a part. It must run until the token that it is given is cancelled, and has `grace`
    /// from then on.
    pub fn start<F, Run>(&mut self, name: &'static str, grace: Duration, run: Run)
    where
        Run: FnOnce(CancellationToken) -> F,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let id = self.tasks.spawn(run(stop.clone())).id();
        self.parts.push(Part {
            name,
            id,
            stop,
            grace,
        });
    }

    /// Runs a step of the start-up beside the parts; `None` if the process was asked to end first.
    ///
    /// # Errors
    ///
    /// The step failed, or a part ended.
    pub async fn during<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<Option<T>> {
        let stop = self.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(None),
            joined = self.next_end() => Err(self.premature(joined)),
            outcome = work => outcome.map(Some),
        }
    }

    /// Waits until the process is asked to end.
    ///
    /// # Errors
    ///
    /// A part ended.
    pub async fn watch(&mut self) -> Result<()> {
        self.during(std::future::pending::<Result<()>>())
            .await
            .map(drop)
    }

    /// Stops every part in order; the first failure, of `outcome` or of a part, is returned.
    ///
    /// # Errors
    ///
    /// `outcome`, or a part failed or did not end in time.
    pub async fn shutdown(mut self, mut outcome: Result<()>) -> Result<()> {
        for part in std::mem::take(&mut self.parts).into_iter().rev() {
            info!(part = part.name, "stopping");
            part.stop.cancel();
            let ended = self.end_of(&part).await;
            if let Err(failure) = ended.with_context(|| format!("{} failed", part.name)) {
                if outcome.is_ok() {
                    outcome = Err(failure);
                } else {
                    error!(
                        part = part.name,
                        error = format!("{failure:#}"),
                        "failed as well"
                    );
                }
            }
        }
        self.tasks.shutdown().await;
        outcome
    }

    /// The next end of a part; waits for ever while there is none to come.
    async fn next_end(&mut self) -> Joined {
        match self.tasks.join_next_with_id().await {
            Some(joined) => joined,
            None => std::future::pending().await,
        }
    }

    async fn end_of(&mut self, part: &Part) -> Result<()> {
        let deadline = Instant::now() + part.grace;
        loop {
            if let Some(outcome) = self.ended.remove(&part.id) {
                return outcome;
            }
            let Ok(joined) = timeout_at(deadline, self.next_end()).await else {
                return Err(anyhow!("still draining after {:?}", part.grace));
            };
            let (id, outcome) = unfold(joined);
            self.ended.insert(id, outcome);
        }
    }

    fn premature(&mut self, joined: Joined) -> anyhow::Error {
        let (id, outcome) = unfold(joined);
        let part = self.parts.iter().position(|part| part.id == id);
        let name = part.map_or("a part", |index| self.parts.remove(index).name);
        match outcome {
            Ok(()) => anyhow!("{name} ended though nobody asked it to"),
            Err(failure) => failure.context(format!("{name} failed")),
        }
    }
}

fn unfold(joined: Joined) -> (Id, Result<()>) {
    match joined {
        Ok(ended) => ended,
        Err(failure) => {
            let id = failure.id();
            let text = failure.try_into_panic().map_or_else(
                |failure| failure.to_string(),
                |panic| {
                    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
                    format!("panicked: {}", text.unwrap_or_default())
                },
            );
            (id, Err(anyhow!(text)))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Future, pending};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use anyhow::{Result, bail};
    use tokio::time::timeout;
    use tokio_util::sync::CancellationToken;

    use super::Supervisor;

    const LONG: Duration = Duration::from_mins(1);

    type Record = Arc<Mutex<Vec<&'static str>>>;

    /// Runs until told to stop, and records that it did.
    fn part(record: &Record, name: &'static str) -> impl FnOnce(CancellationToken) -> Part {
        let record = Arc::clone(record);
        move |stop| {
            Box::pin(async move {
                stop.cancelled().await;
                record.lock().unwrap().push(name);
                Ok(())
            })
        }
    }

    type Part = std::pin::Pin<Box<dyn Future<Output = Result<()>> + Send>>;

    async fn outcome(mut supervisor: Supervisor) -> String {
        let lived = timeout(LONG, supervisor.watch()).await.unwrap();
        let ended = timeout(LONG, supervisor.shutdown(lived)).await.unwrap();
        ended.map_or_else(|failure| format!("{failure:#}"), |()| "ok".to_owned())
    }

    #[tokio::test]
    async fn parts_stop_in_the_reverse_order_of_their_start() {
        let (record, stop) = (Record::default(), CancellationToken::new());
        let mut supervisor = Supervisor::new(stop.clone());
        for name in ["ops", "nats", "fanout", "ingest"] {
            supervisor.start(name, LONG, part(&record, name));
        }
        stop.cancel();
        assert_eq!(outcome(supervisor).await, "ok");
        assert_eq!(*record.lock().unwrap(), ["ingest", "fanout", "nats", "ops"]);
    }

    #[tokio::test]
    async fn an_early_exit_stops_all_and_fails() {
        let record = Record::default();
        let mut supervisor = Supervisor::new(CancellationToken::new());
        supervisor.start("nats", LONG, part(&record, "nats"));
        supervisor.start("fanout", LONG, |_| async { Ok(()) });
        assert_eq!(
            outcome(supervisor).await,
            "fanout ended though nobody asked it to"
        );
        assert_eq!(*record.lock().unwrap(), ["nats"]);
    }

    #[tokio::test]
    async fn a_failure_keeps_its_reason() {
        let mut supervisor = Supervisor::new(CancellationToken::new());
        supervisor.start("recorder", LONG, |_| async { bail!("the disk is full") });
        assert_eq!(
            outcome(supervisor).await,
            "recorder failed: the disk is full"
        );
    }

    #[tokio::test]
    async fn a_panic_is_a_failure_of_its_part() {
        let record = Record::default();
        let mut supervisor = Supervisor::new(CancellationToken::new());
        supervisor.start("nats", LONG, part(&record, "nats"));
        supervisor.start("api", LONG, |_| async { panic!("index {}", 7) });
        assert_eq!(outcome(supervisor).await, "api failed: panicked: index 7");
        assert_eq!(*record.lock().unwrap(), ["nats"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_hangs_is_given_up_and_the_others_still_stop() {
        let (record, stop) = (Record::default(), CancellationToken::new());
        let mut supervisor = Supervisor::new(stop.clone());
        supervisor.start("nats", LONG, part(&record, "nats"));
        supervisor.start("fanout", Duration::from_secs(5), |_| {
            pending::<Result<()>>()
        });
        stop.cancel();
        assert_eq!(
            outcome(supervisor).await,
            "fanout failed: still draining after 5s"
        );
        assert_eq!(*record.lock().unwrap(), ["nats"]);
    }

    #[tokio::test]
    async fn a_part_that_ends_during_the_drain_of_another_is_not_waited_for_twice() {
        let stop = CancellationToken::new();
        let mut supervisor = Supervisor::new(stop.clone());
        let early = stop.clone();
        supervisor.start("nats", LONG, |_| async move {
            early.cancelled().await;
            bail!("killed")
        });
        supervisor.start("fanout", LONG, |stop| async move {
            stop.cancelled().await;
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            Ok(())
        });
        stop.cancel();
        assert_eq!(outcome(supervisor).await, "nats failed: killed");
    }

    #[tokio::test]
    async fn a_step_of_the_start_gives_way_to_a_stop_and_to_a_failure() {
        let stop = CancellationToken::new();
        let mut supervisor = Supervisor::new(stop.clone());
        assert_eq!(supervisor.during(async { Ok(7) }).await.unwrap(), Some(7));
        supervisor.start("nats", LONG, |_| async { bail!("no port") });
        let work = supervisor.during(pending::<Result<()>>());
        assert_eq!(
            format!("{:#}", work.await.unwrap_err()),
            "nats failed: no port"
        );
        stop.cancel();
        assert_eq!(
            supervisor.during(pending::<Result<()>>()).await.unwrap(),
            None
        );
    }
}
