//! What an indicator is at one bar.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::Kind;
use crate::time::UnixNanos;

/// The figures of an indicator at a bar.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Figures {
    /// Start of the bar.
    #[serde(rename = "t0")]
    #[schemars(with = "String")]
    pub start: UnixNanos,
    /// `bar`, or `form` while its period is not over.
    #[serde(rename = "k")]
    pub kind: Kind,
    /// By the name of the output. What does not exist yet, because there are not enough bars before, is
    /// absent.
    pub values: BTreeMap<String, f64>,
}
