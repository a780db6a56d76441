//! The query of a request as the type that its resource declares: whatever is unknown, doubled,
//! missing or wrong is refused by name.
//!
//! The same type describes the parameters in `/openapi.json`, so neither can say what the other does
//! not do. Its fields take their values from text; an empty value counts as absent.

mod parameters;

use std::fmt;

use axum::http::Uri;
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer as _, Visitor};
use serde::forward_to_deserialize_any;

use super::problem::Problem;

pub(super) use parameters::{At, Limit, List, Mark, OnDay, Order, Words};

/// The most bytes of a query: no list of ours is longer.
const MAX_BYTES: usize = 32_768;

/// What people call the parameter in which other servers take a key: addresses end up in logs.
const KEYS: [&str; 6] = ["key", "api_key", "apikey", "api-key", "x-api-key", "token"];

/// Which parameter is wrong, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// Its name; empty where the query as a whole cannot be read.
    pub(super) parameter: String,
    /// What is wrong with it.
    pub(super) detail: String,
}

impl Wrong {
    /// Says what is wrong with a parameter.
    pub(super) fn new(parameter: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            parameter: parameter.into(),
            detail: detail.into(),
        }
    }
}

impl From<Wrong> for Problem {
    fn from(Wrong { parameter, detail }: Wrong) -> Self {
        Self::parameter(&parameter, detail)
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Wrong {}

impl de::Error for Wrong {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new("", message.to_string())
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(field, format!("{field} is missing"))
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::new(field, format!("{field} is given twice"))
    }
}

/// Reads the query of an address.
///
/// # Errors
///
/// [`Wrong`] names the parameter.
pub(super) fn read<Q: DeserializeOwned>(uri: &Uri) -> Result<Q, Wrong> {
    let query = uri.query().unwrap_or_default();
    if query.len() > MAX_BYTES {
        let detail = format!("the query is longer than {MAX_BYTES} bytes");
        return Err(Wrong::new("", detail));
    }
    let mut pairs = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decoded(name).ok_or_else(|| Wrong::new("", "a name is not UTF-8"))?;
        let value =
            decoded(value).ok_or_else(|| Wrong::new(&*name, format!("{name} is not UTF-8")))?;
        pairs.push((name, value));
    }
    Q::deserialize(Query(pairs))
}

/// A part of a query as text, with `+` for a space.
fn decoded(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    let bytes = percent_encoding::percent_decode_str(&spaced);
    bytes.decode_utf8().ok().map(Into::into)
}

/// Pairs of names and values as a deserializer of structs.
struct Query(Vec<(String, String)>);

impl<'de> de::Deserializer<'de> for Query {
    type Error = Wrong;

    fn deserialize_struct<V: Visitor<'de>>(
        mut self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        if let Some((name, _)) = self.0.iter().find(|(name, _)| !fields.contains(&&**name)) {
            let name: String = name.chars().take(64).collect();
            let detail = if KEYS.contains(&&*name.to_ascii_lowercase()) {
                format!("{name}: a key must not stand in an address, send it as X-API-KEY")
            } else {
                format!("{name} is no parameter of this resource")
            };
            return Err(Wrong::new(name, detail));
        }
        self.0.retain(|(_, value)| !value.is_empty());
        visitor.visit_map(Map {
            pairs: self.0.into_iter(),
            value: None,
        })
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Wrong> {
        Err(de::Error::custom("a query is a struct"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

struct Map {
    pairs: std::vec::IntoIter<(String, String)>,
    value: Option<(String, String)>,
}

impl<'de> de::MapAccess<'de> for Map {
    type Error = Wrong;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Wrong> {
        let Some((name, value)) = self.pairs.next() else {
            return Ok(None);
        };
        let name = &self.value.insert((name, value)).0;
        let name: StrDeserializer<'_, Wrong> = name.as_str().into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Wrong> {
        let taken = self.value.take();
        let (name, value) = taken.ok_or_else(|| Wrong::new("", "a value without a name"))?;
        seed.deserialize(Value(&value)).map_err(|wrong| {
            let said = wrong.detail.starts_with(&name);
            let detail = if said {
                wrong.detail
            } else {
                format!("{name}: {}", wrong.detail)
            };
            Wrong::new(name, detail)
        })
    }
}

/// The value of a parameter: text, and whatever is made of text.
struct Value<'a>(&'a str);

impl<'de> de::Deserializer<'de> for Value<'_> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_str(self.0)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        if !variants.contains(&self.0) {
            let text: String = self.0.chars().take(64).collect();
            let detail = format!("{text:?} is none of {}", variants.join(", "));
            return Err(de::Error::custom(detail));
        }
        let name: StrDeserializer<'_, Wrong> = self.0.into_deserializer();
        visitor.visit_enum(name)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let largest = u64::MAX >> 1;
        let number = self.0.parse().ok().filter(|number| *number <= largest);
        let wrong = || de::Error::custom(format!("must be a whole number from 0 to {largest}"));
        visitor.visit_u64(number.ok_or_else(wrong)?)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let wrong = |_| de::Error::custom("must be a whole number of 64 bits");
        visitor.visit_i64(self.0.parse().map_err(wrong)?)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let number = self
            .0
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite());
        let wrong = || de::Error::custom("must be a number");
        visitor.visit_f64(number.ok_or_else(wrong)?)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let wrong = |_| de::Error::custom("must be true or false");
        visitor.visit_bool(self.0.parse().map_err(wrong)?)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u16 u32 u128 f32 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use schemas::id::{Symbol, Venue};
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Some {
        venue: Venue,
        symbol: Option<Symbol>,
        #[serde(default)]
        limit: Limit<10, 5>,
        after: Option<u64>,
        #[serde(default)]
        order: Order,
    }

    fn asked(query: &str) -> Result<Some, Wrong> {
        read(&format!("/x?{query}").parse().unwrap())
    }

    #[test]
    fn values_are_what_the_type_says() {
        let some = asked("venue=sim&symbol=BRK%2FB+%C3%A4&limit=7&after=9&order=desc&&").unwrap();
        assert_eq!(some.venue.as_str(), "sim");
        assert_eq!(some.symbol.unwrap().as_str(), "BRK/B ä");
        assert_eq!((some.limit.get(), some.after), (7, Some(9)));
        assert!(some.order.is_descending());
        let some = asked("venue=sim&symbol=&limit=").unwrap();
        assert_eq!((some.symbol, some.limit.get(), some.after), (None, 5, None));
        assert!(!some.order.is_descending());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (query, parameter, detail) in [
            ("", "venue", "venue is missing"),
            ("venue=", "venue", "venue is missing"),
            ("venue=x&venue=y", "venue", "venue is given twice"),
            ("venue=x&limit", "", ""),
            (
                "venue=x&limt=1",
                "limt",
                "limt is no parameter of this resource",
            ),
            (
                "venue=x&api_key=secret",
                "api_key",
                "api_key: a key must not stand in an address, send it as X-API-KEY",
            ),
            (
                "venue=x&limit=11",
                "limit",
                "limit: must be a whole number from 1 to 10",
            ),
            (
                "venue=x&limit=-1",
                "limit",
                "limit: must be a whole number from 1 to 10",
            ),
            (
                "venue=x&after=1e3",
                "after",
                "after: must be a whole number from 0 to 9223372036854775807",
            ),
            (
                "venue=x&after=9223372036854775808",
                "after",
                "after: must be a whole number from 0 to 9223372036854775807",
            ),
            (
                "venue=x&order=up",
                "order",
                "order: \"up\" is none of asc, desc",
            ),
            ("venue=x&symbol=%FF", "symbol", "symbol is not UTF-8"),
            ("venue=x&%FF=1", "", "a name is not UTF-8"),
            (
                "venue=%00",
                "venue",
                "venue \"\\0\" is not 1 to 16 characters of a-z, 0-9, _ and -",
            ),
        ] {
            match asked(query) {
                Ok(_) => assert_eq!(parameter, "", "{query}"),
                Err(wrong) => assert_eq!(wrong, Wrong::new(parameter, detail), "{query}"),
            }
        }
        let long = asked(&format!("venue={}", "x".repeat(MAX_BYTES))).unwrap_err();
        assert_eq!(long.detail, "the query is longer than 32768 bytes");
    }
}
