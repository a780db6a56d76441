//! Query parameters: each is checked, and an unknown or doubled one is refused by name.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use schemas::position::{Cursor, Epoch, StreamSeq};
use schemas::time::UnixNanos;

use super::problem::Problem;
use crate::store::{Place, Progress};

/// The most items of one page.
pub(super) const MAX_LIMIT: u32 = 10_000;
/// The items of a page where nothing is asked.
const DEFAULT_LIMIT: u32 = 1_000;

/// The parameters of one request; taken out one by one.
pub(super) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// Reads pairs of names and values.
    pub(super) fn new(pairs: Vec<(String, String)>) -> Result<Self, Problem> {
        let mut parameters = BTreeMap::new();
        for (name, value) in pairs {
            if parameters.insert(name.clone(), value).is_some() {
                return Err(Problem::parameter(&name, format!("{name} is given twice")));
            }
        }
        Ok(Self(parameters))
    }

    /// A text that may be absent.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        self.0.remove(name).filter(|text| !text.is_empty())
    }

    /// A value that may be absent.
    pub(super) fn optional<T: FromStr<Err: Display>>(
        &mut self,
        name: &str,
    ) -> Result<Option<T>, Problem> {
        let parse = |text: String| {
            text.parse()
                .map_err(|error: T::Err| Problem::parameter(name, error.to_string()))
        };
        self.text(name).map(parse).transpose()
    }

    /// A value that must be given.
    pub(super) fn required<T: FromStr<Err: Display>>(&mut self, name: &str) -> Result<T, Problem> {
        let missing = || Problem::parameter(name, format!("{name} is missing"));
        self.optional(name)?.ok_or_else(missing)
    }

    /// A point in time: RFC 3339, or whole nanoseconds since 1970.
    pub(super) fn time(&mut self, name: &str) -> Result<Option<UnixNanos>, Problem> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let nanos = text.parse::<i64>().ok().or_else(|| {
            let time: jiff::Timestamp = text.parse().ok()?;
            i64::try_from(time.as_nanosecond()).ok()
        });
        nanos
            .map(|nanos| Some(UnixNanos::new(nanos)))
            .ok_or_else(|| {
                Problem::parameter(
                    name,
                    format!("{name} must be RFC 3339 or whole nanoseconds since 1970"),
                )
            })
    }

    /// How many items.
    pub(super) fn limit(&mut self) -> Result<u32, Problem> {
        let Some(text) = self.text("limit") else {
            return Ok(DEFAULT_LIMIT);
        };
        text.parse()
            .ok()
            .filter(|limit| (1..=MAX_LIMIT).contains(limit))
            .ok_or_else(|| {
                Problem::parameter(
                    "limit",
                    format!("limit must be a whole number from 1 to {MAX_LIMIT}"),
                )
            })
    }

    /// Whether the newest come first.
    pub(super) fn descending(&mut self) -> Result<bool, Problem> {
        match self.text("order").as_deref() {
            None | Some("asc") => Ok(false),
            Some("desc") => Ok(true),
            Some(_) => Err(Problem::parameter("order", "order must be asc or desc")),
        }
    }

    /// Behind which row a page begins.
    pub(super) fn cursor(&mut self) -> Result<Option<Mark>, Problem> {
        let Some(text) = self.text("cursor") else {
            return Ok(None);
        };
        let wrong = || Problem::parameter("cursor", "cursor must be `next` of an earlier answer");
        Mark::read(&text).map(Some).ok_or_else(wrong)
    }

    /// Refuses whatever was not asked for.
    pub(super) fn finish(self) -> Result<(), Problem> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(name) => Err(Problem::parameter(
                &name,
                format!("{name} is no parameter of this resource"),
            )),
        }
    }
}

/// Where the next page begins, and how far the stream was recorded when the first one was read: what
/// is recorded between two pages may lie on neither, so no later page may promise more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The last row of the page before.
    pub(super) place: Place,
    /// What the first page covered.
    pub(super) covered: Option<Progress>,
}

impl Mark {
    /// Writes it as an opaque cursor.
    pub(super) fn write(self) -> String {
        let (at, epoch, seq) = self.place;
        let covered = self
            .covered
            .map(|Progress { epoch, floor }| format!("_{epoch}_{floor}"));
        format!("{at}_{epoch}_{seq}{}", covered.unwrap_or_default())
    }

    fn read(text: &str) -> Option<Self> {
        let mut parts = text.split('_');
        let at = UnixNanos::new(parts.next()?.parse().ok()?);
        let epoch: Epoch = parts.next()?.parse().ok()?;
        let seq = StreamSeq::new(parts.next()?.parse().ok()?);
        let covered = match parts.next() {
            None => None,
            Some(epoch) => {
                let (epoch, floor): (Epoch, Cursor) =
                    (epoch.parse().ok()?, parts.next()?.parse().ok()?);
                Some(Progress { epoch, floor })
            }
        };
        let place = (at, epoch, seq);
        parts.next().is_none().then_some(Self { place, covered })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_written_and_read() {
        let epoch = Epoch::new(UnixNanos::new(77), 3);
        let place = (UnixNanos::new(-5), epoch, StreamSeq::new(9));
        let floor = Cursor::new(StreamSeq::new(8), UnixNanos::new(1_000));
        for covered in [None, Some(Progress { epoch, floor })] {
            let mark = Mark { place, covered };
            assert_eq!(Mark::read(&mark.write()), Some(mark));
        }
        for bad in [
            "",
            "1",
            "1_2",
            "1_4d-3_x",
            "1_4d-3_9_9",
            "1_4d-3_9_4d-3",
            "1_4d-3_9_4d-3_8",
            "1_4d-3_9_4d-3_8.00000001_1",
        ] {
            assert_eq!(Mark::read(bad), None, "{bad}");
        }
    }
}
