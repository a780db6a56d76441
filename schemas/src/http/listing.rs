//! A venue, as a list of venues gives it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::Venue;

/// A venue that instruments are known of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Listing {
    /// The venue.
    #[serde(rename = "v")]
    pub venue: Venue,
    /// How many of its instruments are known.
    pub instruments: u64,
    /// Trading hours of its instruments that have none of their own, as TradingView writes them.
    #[serde(rename = "se")]
    pub session: String,
    /// IANA time zone of these hours.
    #[serde(rename = "tz")]
    pub time_zone: String,
}
