//! What a tick says in short, so that many can be kept and compared.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// The content of a tick in short, the same in every encoding: numbers count as their digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest(pub(crate) u64);

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut hasher = DefaultHasher::new();
        Content(&mut hasher).deserialize(deserializer)?;
        Ok(Self(hasher.finish()))
    }
}

struct Content<'a>(&'a mut DefaultHasher);

impl<'de> DeserializeSeed<'de> for Content<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Content<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a tick")
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        value.to_string().hash(self.0);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        value.to_string().hash(self.0);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        value.to_string().hash(self.0);
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        value.hash(self.0);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        "null".hash(self.0);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        "[".hash(self.0);
        while items.next_element_seed(Content(self.0))?.is_some() {}
        "]".hash(self.0);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        "{".hash(self.0);
        while fields.next_key_seed(Content(self.0))?.is_some() {
            fields.next_value_seed(Content(self.0))?;
        }
        "}".hash(self.0);
        Ok(())
    }
}
