//! Lists of any type as tables: a column per field.

use std::fmt;

use schemas::http::{write_cell, write_header};
use serde::de::{self, DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, forward_to_deserialize_any};
use serde_json::value::RawValue;

/// Writes items as a table.
///
/// # Errors
///
/// The serializer's; an item that is no struct or map.
pub(super) fn write<T: Serialize + DeserializeOwned>(
    items: &[T],
) -> Result<Vec<u8>, serde_json::Error> {
    let mut columns: Vec<String> = fields_of::<T>().map(Into::into).collect();
    let mut rows = Vec::with_capacity(items.len());
    for item in items {
        let json = serde_json::to_vec(item)?;
        let Fields(fields) = serde_json::from_slice(&json)?;
        for (name, _) in &fields {
            if !columns.contains(name) {
                columns.push(name.clone());
            }
        }
        rows.push(fields);
    }
    let mut lines = Vec::new();
    if columns.is_empty() {
        return Ok(lines);
    }
    write_header(columns.iter(), &mut lines);
    for fields in rows {
        for (index, column) in columns.iter().enumerate() {
            if index > 0 {
                lines.push(b',');
            }
            if let Some((_, value)) = fields.iter().find(|(name, _)| name == column) {
                write_value(value.get(), &mut lines);
            }
        }
        lines.extend_from_slice(b"\r\n");
    }
    Ok(lines)
}

/// Text as it is, nothing for null, all else as JSON.
fn write_value(json: &str, lines: &mut Vec<u8>) {
    match serde_json::from_str::<String>(json) {
        Ok(text) => write_cell(&text, lines),
        Err(_) if json == "null" => {}
        Err(_) => write_cell(json, lines),
    }
}

/// The fields of an object, in their order.
struct Fields(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading;

        impl<'de> Visitor<'de> for Reading {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an item with fields")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Reading)
    }
}

/// The fields of a struct as its deserializer names them; none where it has not a fixed list.
fn fields_of<T: DeserializeOwned>() -> impl Iterator<Item = &'static str> {
    let mut found: &'static [&'static str] = &[];
    let _named = T::deserialize(Asking(&mut found));
    found.iter().copied()
}

/// Has nothing to give, but notes what is asked for.
struct Asking<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Asking<'_> {
    type Error = de::value::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        Err(de::Error::custom("only the names are asked for"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("not a struct"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Some {
        #[serde(rename = "b")]
        second: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        a: Option<u64>,
        list: Vec<u8>,
    }

    #[test]
    fn a_column_is_a_field_in_its_place() {
        let some = |second: &str, a| Some {
            second: second.to_owned(),
            a,
            list: vec![1, 2],
        };
        let table = write(&[some("x", None), some("1,\"2\"", Some(7))]).unwrap();
        let expected = "b,a,list\r\nx,,\"[1,2]\"\r\n\"1,\"\"2\"\"\",7,\"[1,2]\"\r\n";
        assert_eq!(String::from_utf8(table).unwrap(), expected);
        let empty = write::<Some>(&[]).unwrap();
        assert_eq!(String::from_utf8(empty).unwrap(), "b,a,list\r\n");
    }
}
