//! What the venue writes.

use std::borrow::Cow;

use schemas::time::UnixNanos;
use serde::Deserialize;

use crate::feed::{Reason, Reject};
use crate::feeds::{Digits, event, rfc3339};

/// A frame of any type.
#[derive(Deserialize)]
pub(super) struct Frame<'a> {
    #[serde(rename = "type")]
    #[serde(borrow)]
    pub(super) kind: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) product_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) message: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) reason: Option<Cow<'a, str>>,
    pub(super) trade_id: Option<u64>,
    pub(super) last_trade_id: Option<u64>,
    pub(super) sequence: Option<u64>,
    #[serde(borrow)]
    pub(super) side: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) price: Option<Digits<'a>>,
    #[serde(borrow)]
    pub(super) size: Option<Digits<'a>>,
    #[serde(borrow)]
    pub(super) time: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) best_bid: Option<Digits<'a>>,
    #[serde(borrow)]
    pub(super) best_bid_size: Option<Digits<'a>>,
    #[serde(borrow)]
    pub(super) best_ask: Option<Digits<'a>>,
    #[serde(borrow)]
    pub(super) best_ask_size: Option<Digits<'a>>,
    #[serde(borrow)]
    pub(super) bids: Option<Vec<(Digits<'a>, Digits<'a>)>>,
    #[serde(borrow)]
    pub(super) asks: Option<Vec<(Digits<'a>, Digits<'a>)>>,
    #[serde(borrow)]
    pub(super) changes: Option<Vec<(Cow<'a, str>, Digits<'a>, Digits<'a>)>>,
}

/// What can be read of a frame that is not what it should be.
#[derive(Deserialize)]
pub(super) struct Stub<'a> {
    #[serde(rename = "type", borrow)]
    pub(super) kind: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) product_id: Option<Cow<'a, str>>,
}

impl Frame<'_> {
    /// A field that must be there.
    pub(super) fn need<'b, T>(field: Option<&'b T>, name: &str) -> Result<&'b T, Reject> {
        field.ok_or_else(|| Reject::new(Reason::Malformed, format!("{name} is missing")))
    }

    /// The venue's time, if there is one.
    pub(super) fn event(&self, received: UnixNanos) -> Result<Option<UnixNanos>, Reject> {
        let time = self.time.as_deref();
        time.map(|text| event("time", rfc3339("time", text)?, received))
            .transpose()
    }
}
