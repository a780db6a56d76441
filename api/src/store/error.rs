//! What a store says when it cannot do what was asked, and whether to ask again.

use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::migrate::MigrateError;
use sqlx::postgres::PgDatabaseError;
use sqlx::sqlite::SqliteError;

/// When to ask again if nobody says better.
const SOON: Duration = Duration::from_secs(1);

/// Why the store could not do what was asked; it may be able to later.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused or failed.
    #[error("{}", told(.0))]
    Database(sqlx::Error),
    /// The database's tables could not be brought up to date.
    #[error("the database's tables cannot be brought up to date: {0}")]
    Migrate(MigrateError),
    /// The database did not answer of late and is not asked now.
    #[error("the database does not answer and is asked again in {} ms", .0.as_millis())]
    Away(Duration),
    /// The database cannot be looked for as told.
    #[error("{0}")]
    Unusable(String),
    /// A stored value is not what was written.
    #[error("stored {field} {value:?} is damaged")]
    Damaged {
        /// Which.
        field: &'static str,
        /// What it holds.
        value: String,
    },
}

// No sources: what the driver says tells them already, and a chain would tell them twice.
impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl From<MigrateError> for StoreError {
    fn from(error: MigrateError) -> Self {
        Self::Migrate(error)
    }
}

/// What kind of trouble a database has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// It does not answer, or has no room, connection or time for anybody.
    Away,
    /// It answers, and this one question may go better later.
    Busy,
    /// Asking again mends nothing.
    Fault,
}

/// What the driver said, and what it means where it would not be understood.
fn told(error: &sqlx::Error) -> String {
    if is_about_tables(error) {
        return format!(
            "the database's tables are older or newer than this version needs, {error}: a recorder of \
             this version brings older ones up to date"
        );
    }
    format!("database: {error}")
}

/// Whether a table or a column is not there.
fn is_about_tables(error: &sqlx::Error) -> bool {
    let Some(refusal) = error.as_database_error() else {
        return false;
    };
    let code = refusal.code().unwrap_or_default();
    if refusal.try_downcast_ref::<SqliteError>().is_some() {
        let text = refusal.message();
        return text.starts_with("no such table")
            || text.contains("no such column")
            || text.contains("has no column");
    }
    matches!(&*code, "42P01" | "42703")
}

impl StoreError {
    /// When to ask again if the database is away, overloaded or not ready; `None` if asking again
    /// mends nothing.
    pub fn retry_after(&self) -> Option<Duration> {
        if let Self::Away(wait) = self {
            return Some(*wait);
        }
        (self.trouble() != Trouble::Fault).then_some(SOON)
    }

    /// Whether the database does not answer, whatever it is asked.
    pub(super) fn is_away(&self) -> bool {
        self.trouble() == Trouble::Away
    }

    /// Whether the database lets whoever asked read, but not write: no right to, or a copy.
    pub(super) fn is_read_only(&self) -> bool {
        let code = self.driver().and_then(sqlx::Error::as_database_error);
        let code = code.and_then(DatabaseError::code).unwrap_or_default();
        matches!(&*code, "42501" | "25006")
    }

    /// Whether the database answers, but is locked by somebody who will let go.
    pub(super) fn is_busy(&self) -> bool {
        self.trouble() == Trouble::Busy
    }

    /// Whether the database refuses what it was given to store, and would again.
    pub(crate) fn is_about_data(&self) -> bool {
        let refusal = self.driver().and_then(sqlx::Error::as_database_error);
        let Some(refusal) = refusal else { return false };
        let code = refusal.code().unwrap_or_default();
        if refusal.try_downcast_ref::<SqliteError>().is_some() {
            // Too large, constraint, mismatch.
            return matches!(code.parse().unwrap_or(0) & 0xff, 18..=20);
        }
        // Data, integrity, limits of the program.
        matches!(code.get(..2), Some("22" | "23" | "54"))
    }

    fn trouble(&self) -> Trouble {
        if matches!(self, Self::Away(_)) {
            return Trouble::Away;
        }
        self.driver().map_or(Trouble::Fault, of_driver)
    }

    /// What the driver said.
    const fn driver(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Database(error)
            | Self::Migrate(
                MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _),
            ) => Some(error),
            Self::Migrate(_) | Self::Away(_) | Self::Unusable(_) | Self::Damaged { .. } => None,
        }
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the driver adds kinds of errors, and what is not known is a fault"
)]
fn of_driver(error: &sqlx::Error) -> Trouble {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => Trouble::Away,
        sqlx::Error::Database(_) if is_about_tables(error) => Trouble::Busy,
        sqlx::Error::Database(refusal) => of_database(refusal.as_ref()),
        _ => Trouble::Fault,
    }
}

fn of_database(refusal: &dyn DatabaseError) -> Trouble {
    let code = refusal.code().unwrap_or_default();
    if refusal.try_downcast_ref::<PgDatabaseError>().is_some() {
        return of_postgres(&code);
    }
    if refusal.try_downcast_ref::<SqliteError>().is_some() {
        return of_sqlite(code.parse().unwrap_or(0));
    }
    Trouble::Fault
}

/// By SQLSTATE and its class.
fn of_postgres(code: &str) -> Trouble {
    match code {
        // A statement that took too long or needs too many locks, a full disk: others may do better.
        "57014" | "53100" | "53200" => Trouble::Busy,
        // Connected to what is no longer the primary.
        "25006" => Trouble::Away,
        _ => match code.get(..2).unwrap_or_default() {
            // Connection, login, no such database, resources, operator or timeout, system.
            "08" | "28" | "3D" | "53" | "57" | "58" => Trouble::Away,
            // Serialization, deadlock, locks.
            "40" | "55" => Trouble::Busy,
            _ => Trouble::Fault,
        },
    }
}

/// By primary result code: busy, locked, I/O, full, cannot open.
fn of_sqlite(code: i32) -> Trouble {
    match code & 0xff {
        5 | 6 | 13 => Trouble::Busy,
        10 | 14 => Trouble::Away,
        _ => Trouble::Fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_whether_to_ask_again() {
        let away = StoreError::Away(Duration::from_millis(1_500));
        assert_eq!(away.retry_after(), Some(Duration::from_millis(1_500)));
        for error in [sqlx::Error::PoolTimedOut, sqlx::Error::PoolClosed] {
            assert_eq!(StoreError::from(error).retry_after(), Some(SOON));
        }
        let (field, value) = ("gen", "-1".to_owned());
        assert_eq!(StoreError::Damaged { field, value }.retry_after(), None);
        assert_eq!(
            StoreError::from(sqlx::Error::RowNotFound).retry_after(),
            None
        );
        let newer = StoreError::from(MigrateError::VersionMismatch(3));
        assert_eq!(newer.retry_after(), None);
    }

    #[test]
    fn codes_are_sorted_by_what_they_mean() {
        for (code, trouble) in [
            ("57P03", Trouble::Away),
            ("57014", Trouble::Busy),
            ("53100", Trouble::Busy),
            ("53200", Trouble::Busy),
            ("53300", Trouble::Away),
            ("28P01", Trouble::Away),
            ("25006", Trouble::Away),
            ("40P01", Trouble::Busy),
            ("55P03", Trouble::Busy),
            ("42601", Trouble::Fault),
            ("23505", Trouble::Fault),
            ("", Trouble::Fault),
        ] {
            assert_eq!(of_postgres(code), trouble, "{code}");
        }
        assert_eq!(of_sqlite(517), Trouble::Busy, "an extended code");
        assert_eq!(of_sqlite(13), Trouble::Busy);
        assert_eq!(of_sqlite(14), Trouble::Away);
        assert_eq!(of_sqlite(11), Trouble::Fault, "malformed");
    }
}
