//! The parameters of UDF requests: times in seconds, how many bars back, names of instruments.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use schemas::time::UnixNanos;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

const SECOND: i64 = 1_000_000_000;
/// The last second that a browser's `Date` reaches, in seconds since 1970; the first lies as far
/// before. Ours reach less far, to 2262: charts ask for all there is by ends that lie beyond.
const LAST_SECOND: i64 = 8_640_000_000_000;
const OUR_LAST_SECOND: i64 = i64::MAX / SECOND;
/// The most bars that may be asked back for.
const MAX_COUNTBACK: u32 = 1_000_000;
/// The longest name, in characters: a venue, a colon and a symbol fit.
const MAX_NAME: usize = 96;

/// A point in time: whole seconds since 1970 up to `LAST`; the last or the first that we have, if it
/// lies beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seconds<const LAST: i64 = LAST_SECOND>(pub(super) UnixNanos);

/// Where a range begins: not beyond our last second. Whoever asks for that has sent milliseconds, and
/// would else be told that there are no bars.
pub(super) type Since = Seconds<OUR_LAST_SECOND>;

impl<'de, const LAST: i64> Deserialize<'de> for Seconds<LAST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let seconds = text.parse::<i64>().ok();
        let seconds = seconds.filter(|at| (-LAST_SECOND..=LAST).contains(at));
        let nanos = seconds.map(|at| Self(UnixNanos::new(at.saturating_mul(SECOND))));
        nanos.ok_or_else(|| {
            D::Error::custom(format!(
                "must be whole seconds since 1970, from -{LAST_SECOND} to {LAST}"
            ))
        })
    }
}

impl<const LAST: i64> JsonSchema for Seconds<LAST> {
    fn schema_name() -> Cow<'static, str> {
        "Seconds".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Whole seconds since 1970",
            "type": "integer", "minimum": -LAST_SECOND, "maximum": LAST,
        })
    }
}

/// How many bars before `to`; 0, which TradingView's adapter sends once it has all, is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Countback(Option<u32>);

impl Countback {
    /// The number, if one is asked for.
    pub(super) const fn get(self) -> Option<u32> {
        self.0
    }
}

impl<'de> Deserialize<'de> for Countback {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let count = text.parse::<u32>().ok();
        let count = count.filter(|count| *count <= MAX_COUNTBACK);
        let wrong = || format!("must be a whole number from 0 to {MAX_COUNTBACK}");
        let count = count.ok_or_else(|| D::Error::custom(wrong()))?;
        Ok(Self(Some(count).filter(|count| *count > 0)))
    }
}

impl JsonSchema for Countback {
    fn schema_name() -> Cow<'static, str> {
        "Countback".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 0, "maximum": MAX_COUNTBACK })
    }
}

/// The name of an instrument, or a part of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Name(pub(super) String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.chars().any(char::is_control) {
            return Err(D::Error::custom("has a control character"));
        }
        let count = text.chars().count();
        if count > MAX_NAME {
            let wrong = format!("has {count} characters, the limit is {MAX_NAME}");
            return Err(D::Error::custom(wrong));
        }
        Ok(Self(text))
    }
}

impl JsonSchema for Name {
    fn schema_name() -> Cow<'static, str> {
        "Name".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let pattern = format!("^[^\\u0000-\\u001f\\u007f-\\u009f]{{0,{MAX_NAME}}}$");
        json_schema!({ "type": "string", "pattern": pattern })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::query::read;

    #[derive(Debug, Deserialize)]
    struct Some {
        from: Option<Since>,
        to: Seconds,
        #[serde(default)]
        countback: Countback,
        #[serde(default)]
        symbol: Name,
    }

    fn asked(query: &str) -> Result<Some, String> {
        read(&format!("/x?{query}").parse().unwrap()).map_err(|wrong| wrong.detail)
    }

    #[test]
    fn values_are_what_the_adapter_sends() {
        let some = asked("to=-5&countback=300&symbol=sim%3AAAA").unwrap();
        assert_eq!(some.to.0, UnixNanos::new(-5_000_000_000));
        assert_eq!(
            (some.countback.get(), &*some.symbol.0),
            (Some(300), "sim:AAA")
        );
        assert_eq!(
            asked("to=-8640000000000").unwrap().to.0,
            UnixNanos::new(i64::MIN)
        );
        let some = asked("from=9223372036&to=8640000000000").unwrap();
        assert_eq!(
            some.from,
            Option::Some(Seconds(UnixNanos::new(9_223_372_036 * SECOND)))
        );
        assert_eq!(some.to.0, UnixNanos::new(i64::MAX));
        for none in ["to=9999999999", "to=1&countback=", "to=1&countback=0"] {
            assert_eq!(asked(none).unwrap().countback.get(), None, "{none}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_limit() {
        let long = format!("to=1&symbol={}", "x".repeat(97));
        for (query, said) in [
            ("", "to is missing"),
            (
                "to=1.5",
                "to: must be whole seconds since 1970, from -8640000000000 to 8640000000000",
            ),
            (
                "from=9223372037&to=1",
                "from: must be whole seconds since 1970, from -8640000000000 to 9223372036",
            ),
            // Milliseconds, by mistake.
            (
                "from=1772409600000&to=1772413200000",
                "from: must be whole seconds",
            ),
            ("to=8640000000001", "to: must be whole seconds"),
            ("to=-8640000000001", "to: must be whole seconds"),
            ("to=1e9", "to: must be whole seconds"),
            (
                "to=1&countback=-1",
                "countback: must be a whole number from 0 to 1000000",
            ),
            (
                "to=1&countback=1000001",
                "countback: must be a whole number from 0 to 1000000",
            ),
            ("to=1&countback=99999999999999999999", "countback: must be"),
            (&long, "symbol: has 97 characters, the limit is 96"),
        ] {
            let wrong = asked(query).unwrap_err();
            assert!(wrong.starts_with(said), "{query}: {wrong}");
        }
    }
}
