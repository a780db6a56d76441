//! What is missing from history, or was missing until it was filled.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::{Symbol, Venue};
use crate::position::{Epoch, StreamSeq};
use crate::time::UnixNanos;

/// Where something was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Lost {
    /// Between a venue and its feed: the venue's own numbers jump, or the connection was away.
    Feed,
    /// Between the stream and the database: the stream did not keep it until it was recorded.
    Recorder,
}

/// An entry of the ledger of gaps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hole {
    /// Where it was lost.
    pub lost: Lost,
    /// When that was noticed.
    #[schemars(with = "String")]
    pub at: UnixNanos,
    /// The venue, where a feed lost it.
    #[serde(rename = "v", skip_serializing_if = "Option::is_none", default)]
    pub venue: Option<Venue>,
    /// The name of the feed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub feed: Option<Symbol>,
    /// The instrument, where it is only one.
    #[serde(rename = "y", skip_serializing_if = "Option::is_none", default)]
    pub symbol: Option<Symbol>,
    /// The last venue id before the hole.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub after_id: Option<String>,
    /// The first venue id behind it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub until_id: Option<String>,
    /// When the hole began, as far as that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schemars(with = "Option<String>")]
    pub from: Option<UnixNanos>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schemars(with = "Option<String>")]
    pub to: Option<UnixNanos>,
    /// Whether all that was missing was fetched and recorded since.
    pub filled: bool,
    /// The stream, where the recorder lost it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stream: Option<String>,
    /// The epoch of the positions.
    #[serde(rename = "e", skip_serializing_if = "Option::is_none", default)]
    #[schemars(with = "Option<String>")]
    pub epoch: Option<Epoch>,
    /// The first position that may be missing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schemars(with = "Option<u64>")]
    pub first: Option<StreamSeq>,
    /// The last one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schemars(with = "Option<u64>")]
    pub last: Option<StreamSeq>,
    /// What happened, for people.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
}
