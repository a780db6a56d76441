//! A partition for each day of events: made ahead, or when the first of its events comes.
//!
//! Events of days that have none go to the DEFAULT partition, and are moved when their day comes.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use schemas::time::UnixNanos;
use sqlx::{AssertSqlSafe, PgPool, Row as _};
use tokio::time::Instant;
use tracing::{info, warn};

use super::begun::Begun;
use super::gate::within;
use super::schema::alone;
use super::{StoreError, begin};

/// A day.
pub(super) const NANOS: i64 = 86_400_000_000_000;
/// Days made ahead of their first event.
const AHEAD: i64 = 2;
/// Days ago that are still worth a partition.
const BACK: i64 = 366;
/// How long making a partition may wait for whoever reads or writes, and hold up others.
const LOCK_MS: u32 = 2_000;
/// How long it may take, moving events included.
const LONGEST: Duration = Duration::from_mins(1);
/// After trouble, events go to the DEFAULT partition for so long; the longer, the more often there was
/// trouble: what is tried holds up whoever reads.
const PAUSE: (Duration, Duration) = (Duration::from_mins(1), Duration::from_hours(1));

/// The days that are known to have a partition.
#[derive(Debug, Default)]
pub(super) struct Days(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    days: BTreeSet<i64>,
    not_before: Option<Instant>,
    /// How long the last pause was.
    pause: Duration,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) name: String,
    day: i64,
}

impl Partition {
    /// The end of its day, exclusive.
    pub(super) const fn end(&self) -> UnixNanos {
        UnixNanos::new((self.day + 1) * NANOS)
    }
}

/// The name of a day's partition.
fn name(day: i64) -> Option<String> {
    let at = jiff::Timestamp::from_second(day * 86_400).ok()?;
    let date = at.strftime("%Y%m%d");
    Some(format!("events_{date}"))
}

impl Days {
    /// Makes the partitions that these times need, and those of the next days. If the database
    /// refuses, it is no error: there is the DEFAULT partition.
    ///
    /// # Errors
    ///
    /// The database does not answer.
    pub(super) async fn prepare(
        &self,
        pool: &PgPool,
        now: UnixNanos,
        times: impl Iterator<Item = UnixNanos>,
    ) -> Result<(), StoreError> {
        let missing = self.missing(now, times);
        if missing.is_empty() {
            return Ok(());
        }
        for day in missing {
            if self.known().days.contains(&day) {
                continue;
            }
            // Each by itself: what is made stays made, and nobody waits for more than one.
            let made = within(LONGEST * 2, make(pool, day)).await;
            let mut known = self.known();
            match made {
                Ok(days) => {
                    known.days.extend(days);
                    known.pause = Duration::ZERO;
                }
                Err(problem @ StoreError::Database(sqlx::Error::Database(_))) => {
                    known.pause = (known.pause * 2).clamp(PAUSE.0, PAUSE.1);
                    known.not_before = Some(Instant::now() + known.pause);
                    warn!(%problem, "no partition is made now: events go to the default one");
                    return Ok(());
                }
                Err(problem) => return Err(problem),
            }
        }
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn missing(&self, now: UnixNanos, times: impl Iterator<Item = UnixNanos>) -> BTreeSet<i64> {
        let today = now.get().div_euclid(NANOS);
        let worth: RangeInclusive<i64> = today - BACK..=today + AHEAD;
        let mut days: BTreeSet<i64> = (today..=today + AHEAD).collect();
        let mut last = None;
        for time in times {
            let day = time.get().div_euclid(NANOS);
            if last != Some(day) && worth.contains(&day) {
                days.insert(day);
            }
            last = Some(day);
        }
        let known = self.known();
        if known.not_before.is_some_and(|then| Instant::now() < then) {
            return BTreeSet::new();
        }
        days.retain(|day| !known.days.contains(day));
        days
    }
}

/// All partitions but the DEFAULT one, the oldest first.
pub(super) async fn list(transaction: &mut Begun) -> Result<Vec<Partition>, StoreError> {
    let rows = sqlx::query(
        "SELECT relname::text AS name FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
         WHERE inhparent = 'events'::regclass ORDER BY relname",
    )
    .persistent(false)
    .fetch_all(&mut **transaction)
    .await?;
    let mut partitions = Vec::new();
    for row in rows {
        let name: String = row.try_get("name")?;
        if let Some(day) = day_of(&name) {
            partitions.push(Partition { name, day });
        }
    }
    Ok(partitions)
}

/// The day of a partition, if it is one of ours.
fn day_of(name: &str) -> Option<i64> {
    let date = name.strip_prefix("events_")?;
    let date = jiff::civil::Date::strptime("%Y%m%d", date).ok()?;
    let begin = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(begin.timestamp().as_second().div_euclid(86_400))
}

/// Makes the partition of a day if it is not there; all that are there then.
async fn make(pool: &PgPool, day: i64) -> Result<Vec<i64>, StoreError> {
    let mut transaction = begin(pool, "BEGIN", LONGEST).await?;
    let patience = format!("SET LOCAL lock_timeout = {LOCK_MS}");
    sqlx::raw_sql(AssertSqlSafe(patience))
        .execute(&mut *transaction)
        .await?;
    alone(&mut transaction).await?;
    let mut there: Vec<i64> = list(&mut transaction)
        .await?
        .iter()
        .map(|p| p.day)
        .collect();
    if let Some(name) = name(day).filter(|_| !there.contains(&day)) {
        attach(&mut transaction, &name, day).await?;
        there.push(day);
    }
    transaction.commit().await?;
    Ok(there)
}

/// Makes a partition that holds what lay in the DEFAULT one. While it is locked nothing is added
/// there that would contradict.
async fn attach(transaction: &mut Begun, name: &str, day: i64) -> Result<(), StoreError> {
    let (from, to) = (day * NANOS, (day + 1) * NANOS);
    let sql = format!(
        "CREATE TABLE {name} (LIKE events INCLUDING ALL);
         LOCK TABLE ONLY events IN SHARE UPDATE EXCLUSIVE MODE;
         LOCK TABLE events_default IN ACCESS EXCLUSIVE MODE;
         WITH moved AS (DELETE FROM events_default WHERE at >= {from} AND at < {to} RETURNING *)
         INSERT INTO {name} SELECT * FROM moved;
         ALTER TABLE events ATTACH PARTITION {name} FOR VALUES FROM ({from}) TO ({to})"
    );
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut **transaction)
        .await?;
    info!(partition = name, "made a partition");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_named_by_its_day() {
        for day in [-700, 0, 59, 20_778, 100_000] {
            let name = name(day).unwrap();
            assert_eq!(day_of(&name), Some(day), "{name}");
        }
        assert_eq!(name(20_778).unwrap(), "events_20261121");
        for other in ["events_default", "events_2026", "bars", "events_20261301"] {
            assert_eq!(day_of(other), None, "{other}");
        }
    }

    #[test]
    fn only_days_near_now_are_worth_a_partition() {
        let days = Days::default();
        let now = UnixNanos::new(20_000 * NANOS + 5);
        let times = [
            i64::MIN,
            0,
            19_000 * NANOS,
            19_990 * NANOS,
            20_100 * NANOS,
            i64::MAX,
        ];
        let missing = days.missing(now, times.map(UnixNanos::new).into_iter());
        assert_eq!(Vec::from_iter(missing), [19_990, 20_000, 20_001, 20_002]);
    }
}
