//! The way to a database: how long one question took, and whether more of them make sense.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::StoreError;
use super::breaker::Breaker;

/// Guards one database.
#[derive(Debug)]
pub(super) struct Gate {
    /// What it is called in the log.
    name: &'static str,
    slow: Duration,
    /// How long an answer may take, of a database that may be unreachable.
    limit: Duration,
    breaker: Mutex<Breaker>,
}

/// A question that was let through. Dropped without an answer, it was given up.
struct Asked<'g> {
    gate: &'g Gate,
    answered: bool,
}

impl Gate {
    pub(super) const fn new(name: &'static str, slow: Duration, limit: Duration) -> Self {
        Self {
            name,
            slow,
            limit,
            breaker: Mutex::new(Breaker::new()),
        }
    }

    /// Asks, unless the database is known to be away. `what` is told in the log if it takes long.
    pub(super) async fn ask<T>(
        &self,
        what: &'static str,
        question: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let begun = Instant::now();
        self.breaker().admit(begun).map_err(StoreError::Away)?;
        let mut asked = Asked {
            gate: self,
            answered: false,
        };
        let answer = question.await;
        asked.answered = true;
        let took = begun.elapsed();
        if took >= self.slow {
            let (database, took_ms) = (self.name, took.as_millis());
            warn!(database, what, took_ms, "the database is slow");
        }
        self.note(answer.as_ref().err());
        answer
    }

    /// An answer, or an error if nothing was heard for so long.
    pub(super) async fn limited<T>(
        &self,
        question: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        within(self.limit, question).await
    }

    fn note(&self, problem: Option<&StoreError>) {
        let database = self.name;
        match problem.filter(|problem| problem.is_away()) {
            Some(problem) if self.breaker().failed(Instant::now()) => {
                warn!(database, %problem, "the database does not answer and is asked less often");
            }
            None if self.breaker().succeeded() => info!(database, "the database answers again"),
            Some(_) | None => {}
        }
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer, or an error if nothing was heard for so long.
pub(super) async fn within<T>(
    limit: Duration,
    question: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let silent = |_| {
        let what = format!("nothing was heard of it for {} ms", limit.as_millis());
        sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, what)).into()
    };
    let answer = timeout(limit, question).await;
    answer.unwrap_or_else(|elapsed| Err(silent(elapsed)))
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.gate.breaker().abandoned(Instant::now());
        }
    }
}
