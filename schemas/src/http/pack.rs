//! Lists of ticks in MessagePack: the stored bytes themselves, with their sequence put in front.

use std::collections::BTreeMap;

use rmp::encode;

use super::page::{ItemError, Position};
use crate::codec::{CodecError, TranscodeError, entries};
use crate::position::StreamSeq;

/// Writes a [`super::Page`] of [`super::Item`]s in MessagePack from ticks as they are stored.
#[derive(Clone, Debug, Default)]
pub struct PackWriter {
    items: Vec<u8>,
    count: u32,
}

impl PackWriter {
    /// A page without items.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a tick that is a MessagePack map.
    ///
    /// # Errors
    ///
    /// [`ItemError`] if the payload is damaged; the page is then as it was.
    pub fn push(&mut self, s: StreamSeq, tick: &[u8]) -> Result<(), ItemError> {
        let (start, fields) = entries(tick)?;
        let count = u32::try_from(fields.len()).unwrap_or(u32::MAX);
        if count == 0 || count == u32::MAX {
            return Err(ItemError::NotTick);
        }
        let fields = tick.get(start..).ok_or(TranscodeError::Truncated)?;
        let items = &mut self.items;
        // Writing into a Vec cannot fail.
        let _infallible = encode::write_map_len(items, count + 1);
        let _infallible = encode::write_str(items, "s");
        let _infallible = encode::write_uint(items, s.get());
        items.extend_from_slice(fields);
        self.count += 1;
        Ok(())
    }

    /// Ends the page; its fields are those of [`super::Page`].
    ///
    /// # Errors
    ///
    /// The serializer's; no position that the types allow causes it.
    pub fn finish(
        self,
        next: Option<&str>,
        pos: &BTreeMap<String, Position>,
    ) -> Result<Vec<u8>, CodecError> {
        let fields = 1 + u32::from(next.is_some()) + u32::from(!pos.is_empty());
        let mut body = Vec::with_capacity(self.items.len() + 256);
        let _infallible = encode::write_map_len(&mut body, fields);
        let _infallible = encode::write_str(&mut body, "items");
        let _infallible = encode::write_array_len(&mut body, self.count);
        body.extend_from_slice(&self.items);
        if let Some(next) = next {
            let _infallible = encode::write_str(&mut body, "next");
            let _infallible = encode::write_str(&mut body, next);
        }
        if !pos.is_empty() {
            let _infallible = encode::write_str(&mut body, "pos");
            body.extend_from_slice(&rmp_serde::to_vec_named(pos)?);
        }
        Ok(body)
    }
}
