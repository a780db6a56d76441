//! Parameters that several resources take: times, limits, orders, lists, cursors.

use std::borrow::Cow;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use schemas::position::{Cursor, Epoch, StreamSeq};
use schemas::time::UnixNanos;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::store::{Place, Progress};

/// Reads a value from its text.
fn from_text<'de, T, D: Deserializer<'de>>(
    deserializer: D,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    read(&text).map_err(D::Error::custom)
}

/// A point in time: RFC 3339, or whole nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::server) struct At(pub(in crate::server) UnixNanos);

impl<'de> Deserialize<'de> for At {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, |text| {
            let time = |text: &str| {
                let time: jiff::Timestamp = text.parse().ok()?;
                i64::try_from(time.as_nanosecond()).ok()
            };
            let nanos = text.parse::<i64>().ok().or_else(|| time(text)).or_else(|| {
                // A plus sign that was not escaped is a space in an address.
                let (clock, zone) = text.rsplit_once(' ')?;
                time(&format!("{clock}+{zone}"))
            });
            nanos
                .map(|nanos| Self(UnixNanos::new(nanos)))
                .ok_or_else(|| {
                    "must be RFC 3339 between 1677 and 2262, or whole nanoseconds since 1970"
                        .to_owned()
                })
        })
    }
}

impl JsonSchema for At {
    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "RFC 3339, or whole nanoseconds since 1970",
            "anyOf": [
                { "type": "integer", "minimum": i64::MIN, "maximum": i64::MAX },
                { "type": "string", "pattern": "^20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?Z$" },
            ],
            "examples": ["2026-11-20T09:30:00Z"],
        })
    }
}

/// A trading day: `2026-11-20`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::server) struct OnDay(pub(in crate::server) jiff::civil::Date);

impl FromStr for OnDay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = text.len() == 10;
        let date = text.parse().ok().filter(|_| plain).map(Self);
        let years = 1700..=2200;
        date.filter(|OnDay(date)| years.contains(&date.year()))
            .ok_or_else(|| "must be a day between 1700-01-01 and 2200-12-31".to_owned())
    }
}

impl<'de> Deserialize<'de> for OnDay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, str::parse)
    }
}

impl JsonSchema for OnDay {
    fn schema_name() -> Cow<'static, str> {
        "Day".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])$",
            "examples": ["2026-11-20"],
        })
    }
}

/// How many items: 1 to `MAX`, `DEFAULT` where nothing is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) struct Limit<const MAX: u32, const DEFAULT: u32>(u32);

impl<const MAX: u32, const DEFAULT: u32> Limit<MAX, DEFAULT> {
    /// The number.
    pub(in crate::server) const fn get(self) -> u32 {
        self.0
    }
}

impl<const MAX: u32, const DEFAULT: u32> Default for Limit<MAX, DEFAULT> {
    fn default() -> Self {
        Self(DEFAULT)
    }
}

impl<'de, const MAX: u32, const DEFAULT: u32> Deserialize<'de> for Limit<MAX, DEFAULT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, |text| {
            let limit = text.parse().ok().filter(|limit| (1..=MAX).contains(limit));
            limit
                .map(Self)
                .ok_or_else(|| format!("must be a whole number from 1 to {MAX}"))
        })
    }
}

impl<const MAX: u32, const DEFAULT: u32> JsonSchema for Limit<MAX, DEFAULT> {
    fn schema_name() -> Cow<'static, str> {
        format!("Limit{MAX}").into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 1, "maximum": MAX, "default": DEFAULT })
    }
}

/// Which items come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(in crate::server) enum Order {
    /// The oldest.
    #[default]
    Asc,
    /// The newest.
    Desc,
}

impl Order {
    /// Whether the newest come first.
    pub(in crate::server) fn is_descending(self) -> bool {
        self == Self::Desc
    }
}

/// Several values with commas between: 1 to `MAX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::server) struct List<T, const MAX: usize>(pub(in crate::server) Vec<T>);

impl<'de, T: FromStr<Err: std::fmt::Display>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, |text| {
            let count = text.split(',').count();
            if count > MAX {
                return Err(format!("{count} values are given, the limit is {MAX}"));
            }
            let values = text.split(',').map(str::parse);
            let values: Result<Vec<T>, T::Err> = values.collect();
            values.map(Self).map_err(|error| error.to_string())
        })
    }
}

impl<T: JsonSchema, const MAX: usize> JsonSchema for List<T, MAX> {
    fn schema_name() -> Cow<'static, str> {
        format!("{}List", T::schema_name()).into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let items = generator.subschema_for::<T>();
        json_schema!({ "type": "array", "items": items, "minItems": 1, "maxItems": MAX })
    }
}

/// Words to search for: at most 64 characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::server) struct Words(pub(in crate::server) String);

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, |text| {
            if text.chars().any(char::is_control) {
                return Err("has a control character".to_owned());
            }
            match text.chars().count() {
                0..=64 => Ok(Self(text.to_owned())),
                count => Err(format!("has {count} characters, the limit is 64")),
            }
        })
    }
}

impl JsonSchema for Words {
    fn schema_name() -> Cow<'static, str> {
        "Words".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]{0,64}$" })
    }
}

/// Where the next page begins, and how far the stream was recorded when the first one was read: what
/// is recorded between two pages may lie on neither, so no later page may promise more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) struct Mark {
    /// The last row of the page before.
    pub(in crate::server) place: Place,
    /// What the first page covered.
    pub(in crate::server) covered: Option<Progress>,
}

impl Mark {
    /// Writes it as an opaque cursor.
    pub(in crate::server) fn write(self) -> String {
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

impl<'de> Deserialize<'de> for Mark {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, |text| {
            Self::read(text).ok_or_else(|| "must be `next` of an earlier answer".to_owned())
        })
    }
}

/// Parts of a cursor, as patterns.
const NUMBER: &str = "(0|[1-9][0-9]{0,17})";
const TIME: &str = "(0|-?[1-9][0-9]{0,17}|-?[1-8][0-9]{18})";
const EPOCH: &str = "(0|[1-9a-f][0-9a-f]{0,14}|[1-7][0-9a-f]{15})-(0|[1-9a-f][0-9a-f]{0,6})";

impl JsonSchema for Mark {
    fn schema_name() -> Cow<'static, str> {
        "Cursor".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "`next` of an earlier answer; opaque",
            "type": "string",
            "pattern": format!("^{TIME}_{EPOCH}_{NUMBER}(_{EPOCH}_{NUMBER}\\.[0-9a-f]{{8}})?$"),
        })
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
