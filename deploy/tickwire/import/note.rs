//! How far an import is, noted in the database under a name made of its file and arguments.
//!
//! Progress never goes back within an epoch, so the epoch says which attempt it is, and its generation
//! what is being done: rows, then bars, then nothing more.

use std::time::Duration;

use anyhow::{Context as _, Result};
use api::store::{Page, Range, Series, StoreError, TickStore};
use schemas::id::{Kind, Symbol, Venue};
use schemas::position::{Epoch, StreamSeq};
use schemas::time::{Clock as _, SystemClock, UnixNanos};
use tokio::time::sleep;
use tracing::warn;

/// How often a database that is away or busy is asked again, a second later each time.
const TRIES: u32 = 10;

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Storing rows; the floor is a line.
    Rows,
    /// Building bars; the floor is a number of spans.
    Bars,
    /// Nothing more.
    Done,
}

/// How far an import is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    attempt: i64,
    /// What is being done.
    pub(super) stage: Stage,
    /// How much of it is done.
    pub(super) floor: u64,
}

/// The note of one import.
pub(super) struct Note<'s, S> {
    store: &'s S,
    name: String,
    standing: Standing,
}

impl Standing {
    /// At the beginning of an attempt.
    const fn at_first(attempt: i64) -> Self {
        Self {
            attempt,
            stage: Stage::Rows,
            floor: 0,
        }
    }

    const fn epoch(self) -> Epoch {
        let generation = match self.stage {
            Stage::Rows => 0,
            Stage::Bars => 1,
            Stage::Done => 2,
        };
        Epoch::new(UnixNanos::new(self.attempt), generation)
    }

    fn read(epoch: Epoch, floor: StreamSeq) -> Self {
        let stage = match epoch.generation() {
            0 => Stage::Rows,
            1 => Stage::Bars,
            _ => Stage::Done,
        };
        Self {
            attempt: epoch.created().get(),
            stage,
            floor: floor.get(),
        }
    }
}

impl<'s, S: TickStore> Note<'s, S> {
    /// Reads the note of this name; `again` begins another attempt.
    ///
    /// # Errors
    ///
    /// The database does not answer.
    pub(super) async fn read(store: &'s S, name: String, again: bool) -> Result<Self> {
        // Progress comes with rows: of none.
        let range = Range {
            series: Series::Events(Kind::Trade, Venue::new("-")?, Symbol::new("-")?),
            from: UnixNanos::EPOCH,
            to: UnixNanos::EPOCH,
            descending: false,
            after: None,
            limit: 1,
        };
        let Page { progress, .. } = patiently(async || store.page(&name, &range).await).await?;
        let noted = progress.map(|noted| Standing::read(noted.epoch, noted.floor.seq()));
        let standing = match noted {
            None => Standing::at_first(0),
            Some(noted) if again => Standing::at_first(noted.attempt.saturating_add(1)),
            Some(noted) => noted,
        };
        let mut note = Self {
            store,
            name,
            standing,
        };
        if again {
            note.write(Stage::Rows, 0).await?;
        }
        Ok(note)
    }

    /// How far it is.
    pub(super) const fn standing(&self) -> Standing {
        self.standing
    }

    /// Notes that so much is done.
    ///
    /// # Errors
    ///
    /// The database does not take it.
    pub(super) async fn write(&mut self, stage: Stage, floor: u64) -> Result<()> {
        let attempt = self.standing.attempt;
        let standing = Standing {
            attempt,
            stage,
            floor,
        };
        let (store, name, now) = (self.store, &self.name, SystemClock.now());
        let (epoch, floor) = (standing.epoch(), StreamSeq::new(floor));
        patiently(async || store.advance(name, epoch, floor, now).await).await?;
        self.standing = standing;
        Ok(())
    }
}

/// Asks a database, and again if it is away or busy; it may well be restarted meanwhile.
///
/// # Errors
///
/// It was asked often enough, or asking again mends nothing.
pub(super) async fn patiently<T>(mut ask: impl AsyncFnMut() -> Result<T, StoreError>) -> Result<T> {
    for number in 1..=TRIES {
        let problem = match Box::pin(ask()).await {
            Ok(answer) => return Ok(answer),
            Err(problem) => problem,
        };
        let wait = problem.retry_after().filter(|_| number < TRIES);
        let Some(wait) = wait else {
            return Err(problem)
                .context("run once more, and without --again, the import goes on from here");
        };
        warn!(%problem, "the import waits for the database");
        sleep(wait.max(Duration::from_secs(u64::from(number)))).await;
    }
    anyhow::bail!("the database was not asked")
}

#[cfg(test)]
mod tests {
    use api::store::sqlite::Sqlite;

    use super::*;

    #[tokio::test]
    async fn an_import_goes_on_from_its_note_and_begins_anew_when_told_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.sqlite");
        let store = Sqlite::open(&path, None).await.unwrap();
        let read = async |again| {
            Note::read(&store, "import:x".to_owned(), again)
                .await
                .unwrap()
        };
        let mut note = read(false).await;
        assert_eq!(note.standing(), Standing::at_first(0));
        for (stage, floor) in [
            (Stage::Rows, 9_000),
            (Stage::Rows, 9_500),
            (Stage::Bars, 0),
            (Stage::Bars, 3),
            (Stage::Done, 0),
        ] {
            note.write(stage, floor).await.unwrap();
            let standing = read(false).await.standing();
            assert_eq!((standing.stage, standing.floor), (stage, floor));
        }
        // An old process that is still about changes nothing.
        note.write(Stage::Rows, 10_000).await.unwrap();
        assert_eq!(read(false).await.standing().stage, Stage::Done);
        let anew = read(true).await.standing();
        assert_eq!(anew, Standing::at_first(1));
        assert_eq!(read(false).await.standing(), anew);
        let other = Note::read(&store, "import:y".to_owned(), false)
            .await
            .unwrap();
        assert_eq!(other.standing(), Standing::at_first(0));
    }

    #[tokio::test]
    async fn what_asking_again_does_not_mend_is_asked_once() {
        let mut asked = 0;
        let outcome: Result<()> = patiently(async || {
            asked += 1;
            Err(StoreError::Unusable("a wrong URL".to_owned()))
        })
        .await;
        let said = format!("{:#}", outcome.unwrap_err());
        assert!(
            said.contains("a wrong URL") && said.contains("goes on"),
            "{said}"
        );
        assert_eq!(asked, 1);
    }
}
