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
