//! A bar of any length, as HTTP gives it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::decimal::{Price, Size};
use crate::id::{Kind, Symbol, Venue};
use crate::position::StreamSeq;
use crate::tick::Flag;
use crate::time::UnixNanos;

/// A bar of any length, stored or made of shorter ones, with the keys of a bar tick.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Candle {
    /// The highest stream sequence of what it was made of.
    #[serde(rename = "s")]
    #[schemars(with = "u64")]
    pub seq: StreamSeq,
    /// `bar`, or `form` while its period is not over.
    #[serde(rename = "k")]
    pub kind: Kind,
    /// Source of the instrument.
    #[serde(rename = "v")]
    #[schemars(with = "String")]
    pub venue: Venue,
    /// The venue's own instrument name.
    #[serde(rename = "y")]
    #[schemars(with = "String")]
    pub symbol: Symbol,
    /// Made by Tickwire, filled in afterwards, corrected: what holds for any part of it.
    #[serde(rename = "fl", skip_serializing_if = "Vec::is_empty", default)]
    pub flags: Vec<Flag>,
    /// Length, such as `1m`, `4h` or `1M`.
    #[serde(rename = "iv")]
    pub length: String,
    /// Start of the period.
    #[serde(rename = "t0")]
    #[schemars(with = "String")]
    pub start: UnixNanos,
    /// First price.
    #[serde(rename = "o")]
    #[schemars(with = "String")]
    pub open: Price,
    /// Highest price.
    #[serde(rename = "h")]
    #[schemars(with = "String")]
    pub high: Price,
    /// Lowest price.
    #[serde(rename = "l")]
    #[schemars(with = "String")]
    pub low: Price,
    /// Last price.
    #[serde(rename = "c")]
    #[schemars(with = "String")]
    pub close: Price,
    /// Traded quantity.
    #[serde(rename = "vo")]
    #[schemars(with = "String")]
    pub volume: Size,
    /// Number of trades.
    #[serde(rename = "n")]
    pub trades: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_as_a_bar_tick_is() {
        let text = concat!(
            r#"{"s":9,"k":"form","v":"x","y":"A","iv":"4h","t0":"14400000000000","#,
            r#""o":"1.50","h":"2","l":"-1","c":"0.0","vo":"7.10","n":3}"#
        );
        let candle: Candle = serde_json::from_str(text).unwrap();
        assert_eq!(candle.start, UnixNanos::new(14_400_000_000_000));
        assert_eq!((candle.kind, &*candle.length), (Kind::Form, "4h"));
        assert_eq!(serde_json::to_string(&candle).unwrap(), text);
        let flagged = Candle {
            flags: vec![Flag::Late],
            ..candle
        };
        let text = serde_json::to_string(&flagged).unwrap();
        assert!(text.contains(r#""fl":["late"],"iv""#), "{text}");
    }
}
