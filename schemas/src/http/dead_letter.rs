//! A message of the stream that is no tick, as operators see it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::position::{Epoch, StreamSeq};

/// A message that could not be recorded because it is no tick.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetter {
    /// The stream sequence.
    #[serde(rename = "s")]
    #[schemars(with = "u64")]
    pub seq: StreamSeq,
    /// The epoch that it belongs to.
    #[serde(rename = "e")]
    #[schemars(with = "String")]
    pub epoch: Epoch,
    /// The subject on NATS.
    pub subject: String,
    /// What is wrong with it.
    pub problem: String,
    /// How many bytes it has.
    pub bytes: u64,
    /// The first of them, in base64.
    pub payload: String,
}
