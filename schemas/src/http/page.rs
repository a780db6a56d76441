//! Lists of ticks: the types, and the writer that embeds ticks without building them.

use std::collections::BTreeMap;
use std::io::Write as _;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::codec::{CodecError, TranscodeError, transcode};
use crate::position::{Cursor, Epoch, StreamSeq};
use crate::tick::Tick;
use crate::ws;

/// A list, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Page<T> {
    /// The items, in the order that was asked for.
    pub items: Vec<T>,
    /// The `cursor` of the request for what follows; absent at the end. Opaque.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
    /// Per stream: everything that was asked for and lies up to here is in the answer. Absent
    /// where a client cannot go on live from this page.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub pos: BTreeMap<String, Position>,
}

impl<T> Page<T> {
    /// A page that live messages do not continue.
    pub const fn new(items: Vec<T>, next: Option<String>) -> Self {
        let pos = BTreeMap::new();
        Self { items, next, pos }
    }
}

/// Where live messages continue a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Position {
    /// The epoch that the cursor belongs to.
    #[schemars(with = "String")]
    pub e: Epoch,
    /// Everything up to here is in the page.
    #[schemars(with = "String")]
    pub c: Cursor,
}

impl From<Position> for ws::From {
    fn from(Position { e, c }: Position) -> Self {
        let (c, s) = (Some(c), BTreeMap::new());
        Self { e, c, s }
    }
}

/// A tick of a list: its fields as on the WebSocket, and its stream sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Item {
    /// The stream sequence.
    #[schemars(with = "u64")]
    pub s: StreamSeq,
    /// The tick.
    #[serde(flatten)]
    pub tick: Tick,
}

/// Why a payload cannot be an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    /// JSON cannot carry it.
    #[error(transparent)]
    Transcode(#[from] TranscodeError),
    /// Not a map with fields.
    #[error("payload is not a map with fields")]
    NotTick,
}

/// Writes a [`Page`] of [`Item`]s from ticks as they are stored.
#[derive(Clone, Debug)]
pub struct PageWriter {
    body: Vec<u8>,
}

impl Default for PageWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl PageWriter {
    const START: &[u8] = b"{\"items\":[";

    /// A page without items.
    pub fn new() -> Self {
        let body = Self::START.to_vec();
        Self { body }
    }

    /// Appends a tick that is a MessagePack map.
    ///
    /// # Errors
    ///
    /// [`ItemError`] if JSON cannot carry the payload; the page is then as it was.
    pub fn push(&mut self, s: StreamSeq, tick: &[u8]) -> Result<(), ItemError> {
        let length = self.body.len();
        if length > Self::START.len() {
            self.body.push(b',');
        }
        let pushed = write_item(&mut self.body, s, tick);
        if pushed.is_err() {
            self.body.truncate(length);
        }
        pushed
    }

    /// Ends the page; its fields are those of [`Page`].
    ///
    /// # Errors
    ///
    /// The serializer's; no position that the types allow causes it.
    pub fn finish(
        self,
        next: Option<String>,
        pos: BTreeMap<String, Position>,
    ) -> Result<Vec<u8>, CodecError> {
        let Self { mut body } = self;
        let items: [Item; 0] = [];
        let rest = serde_json::to_vec(&Page {
            items: items.into(),
            next,
            pos,
        })?;
        body.extend_from_slice(rest.strip_prefix(Self::START).unwrap_or_default());
        Ok(body)
    }
}

/// Appends an item as a JSON object; nothing if JSON cannot carry it.
pub(super) fn write_item(json: &mut Vec<u8>, s: StreamSeq, tick: &[u8]) -> Result<(), ItemError> {
    let length = json.len();
    // Writing into a Vec cannot fail.
    let _infallible = write!(json, "{{\"s\":{s}");
    let start = json.len();
    let written = transcode(tick, json).map_err(ItemError::from);
    let written = written.and_then(|()| match json.get_mut(start..) {
        Some([brace @ b'{', first, ..]) if *first != b'}' => {
            *brace = b',';
            Ok(())
        }
        _ => Err(ItemError::NotTick),
    });
    if written.is_err() {
        json.truncate(length);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::PackWriter;

    #[test]
    fn a_payload_that_is_no_tick_leaves_no_trace() {
        let mut writer = PageWriter::new();
        let good = [0x81, 0xA1, b'i', 0x07];
        for bad in [
            &[0x80][..],
            &[0x07],
            &[0x92, 1, 2],
            &[0xC4, 0],
            &[],
            &good[..3],
        ] {
            assert!(writer.push(StreamSeq::new(8), bad).is_err(), "{bad:?}");
        }
        writer.push(StreamSeq::new(9), &good).unwrap();
        assert_eq!(
            writer.push(StreamSeq::new(10), &[0x80]),
            Err(ItemError::NotTick)
        );
        writer.push(StreamSeq::new(11), &good).unwrap();
        let body = writer.finish(None, BTreeMap::new()).unwrap();
        assert_eq!(
            String::from_utf8(body).unwrap(),
            r#"{"items":[{"s":9,"i":7},{"s":11,"i":7}]}"#
        );
    }

    #[test]
    fn messagepack_says_what_json_says() {
        let tick = crate::codec::from_json(
            br#"{"k":"trade","v":"x","y":"A","tr":"7","i":"1","p":"1.50","z":"2","sd":"buy"}"#,
        );
        let payload = crate::codec::to_msgpack(&tick.unwrap()).unwrap();
        let mut writer = PackWriter::new();
        for s in [3, 70_000] {
            writer.push(StreamSeq::new(s), &payload).unwrap();
            assert!(writer.push(StreamSeq::new(s), &[0x80]).is_err());
            assert!(writer.push(StreamSeq::new(s), &payload[1..]).is_err());
        }
        let position = Position {
            e: "5-0".parse().unwrap(),
            c: "9.000000ff".parse().unwrap(),
        };
        let pos = BTreeMap::from([("T".to_owned(), position)]);
        let body = writer.clone().finish(Some("more"), &pos).unwrap();
        let page: serde_json::Value = rmp_serde::from_slice(&body).unwrap();
        let item = |s| {
            serde_json::json!({ "s": s, "k": "trade", "v": "x", "y": "A", "tr": 7,
            "i": "1", "p": "1.50", "z": "2", "sd": "buy" })
        };
        let expected =
            serde_json::json!({ "items": [item(3), item(70_000)], "next": "more", "pos": pos });
        assert_eq!(page, expected);
        let body = PackWriter::new().finish(None, &BTreeMap::new()).unwrap();
        let page: serde_json::Value = rmp_serde::from_slice(&body).unwrap();
        assert_eq!(page, serde_json::json!({ "items": [] }));
    }

    #[test]
    fn a_client_goes_on_from_a_page() {
        let position = Position {
            e: "5-0".parse().unwrap(),
            c: "9.000000ff".parse().unwrap(),
        };
        let from = serde_json::to_value(ws::From::from(position)).unwrap();
        assert_eq!(from, serde_json::to_value(position).unwrap());
    }
}
