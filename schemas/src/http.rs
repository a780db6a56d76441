//! What the HTTP API answers: pages of history and problems.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::position::{Cursor, Epoch, StreamSeq};

/// How far a stream is covered by an answer: a client that subscribes from here misses nothing and
/// receives nothing twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Position {
    /// The epoch that the cursor belongs to.
    #[schemars(with = "String")]
    pub e: Epoch,
    /// Everything of the asked topics up to here is in the answer, or in an earlier page.
    #[schemars(with = "String")]
    pub c: Cursor,
}

/// A tick of a list, with its position in the stream: the fields of the tick, and `s`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Item<D> {
    /// Its sequence.
    #[schemars(with = "u64")]
    pub s: StreamSeq,
    /// The tick.
    #[serde(flatten)]
    pub tick: D,
}

/// A page of a list. `D` is the form of a tick.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Page<D> {
    /// The items, oldest first unless asked otherwise.
    pub items: Vec<Item<D>>,
    /// What to ask for as `cursor` to get the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
    /// How far each stream is covered.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub pos: BTreeMap<String, Position>,
}

/// Why a request was not answered as asked: `application/problem+json`, RFC 9457.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// The kind of problem; `about:blank` says that the status tells it all.
    #[serde(rename = "type")]
    pub kind: String,
    /// In short.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// For people: the limit that was broken, or what to do.
    pub detail: String,
    /// The query parameter that is wrong, if one is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parameter: Option<String>,
}

impl Problem {
    /// A problem that its status describes.
    pub fn new(status: u16, title: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank".to_owned(),
            title: title.into(),
            status,
            detail: detail.into(),
            parameter: None,
        }
    }
}
