//! The HTTP answers, version 1: lists of ticks, what went wrong, and what the console starts from.

mod candle;
mod day;
mod dead_letter;
mod hole;
mod listing;
mod page;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use candle::Candle;
pub use day::{Day, Summary};
pub use dead_letter::DeadLetter;
pub use hole::{Hole, Lost};
pub use listing::Listing;
pub use page::{Item, ItemError, Page, PageWriter, Position};

/// The media type of lists and settings.
pub const JSON: &str = "application/json";
/// The media type of [`Problem`].
pub const PROBLEM_JSON: &str = "application/problem+json";
/// The `type` of problems that have no page of their own.
pub const NO_PAGE: &str = "about:blank";

/// Why a request was not answered as asked (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// The address of a page about this type of problem; `about:blank` where the status says it all.
    #[serde(rename = "type")]
    pub page: String,
    /// The type of problem, for people.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong with this request, for people.
    pub detail: String,
    /// The parameter that is to blame, if one is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parameter: Option<String>,
}

/// What the console starts from: `/console.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Settings {
    /// Where the WebSocket is: `ws://host:port`.
    pub ws: String,
    /// The stream that history is about.
    pub stream: String,
    /// The server's version.
    pub version: String,
}
