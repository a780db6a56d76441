//! A trading day of an instrument, in our names and in those of the Pakistan Stock Exchange's users.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Candle;
use crate::decimal::{Price, Size, Value};
use crate::id::Symbol;

/// A trading day: its date by the session calendar, and its bar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Day {
    /// The trading day, as `2026-11-20`.
    pub date: String,
    /// The close of the trading day before that had a bar, where there is one.
    #[serde(rename = "pc", skip_serializing_if = "Option::is_none", default)]
    #[schemars(with = "Option<String>")]
    pub previous_close: Option<Price>,
    /// The bar of the day.
    #[serde(flatten)]
    pub bar: Candle,
}

/// A trading day in the words of the Pakistan Stock Exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// The symbol.
    pub symbol: Symbol,
    /// The trading day, as `2026-11-20`.
    pub date: String,
    /// The last day's closing price, where it is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schemars(with = "Option<String>")]
    pub ldcp: Option<Price>,
    /// First price.
    #[schemars(with = "String")]
    pub open: Price,
    /// Highest price.
    #[schemars(with = "String")]
    pub high: Price,
    /// Lowest price.
    #[schemars(with = "String")]
    pub low: Price,
    /// Last price; while the session lasts, the current one.
    #[schemars(with = "String")]
    pub close: Price,
    /// Change against `ldcp`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schemars(with = "Option<String>")]
    pub change: Option<Value>,
    /// Traded quantity.
    #[schemars(with = "String")]
    pub volume: Size,
}
