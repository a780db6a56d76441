//! The contract: everything that crosses a process boundary, and nothing else.
//!
//! | module | holds |
//! |---|---|
//! | [`id`] | venues, symbols, kinds, bar intervals |
//! | [`decimal`] | exact prices, sizes and values |
//! | [`time`] | nanosecond times and the clock seam |
//! | [`position`] | stream sequences, epochs, cursors |
//! | [`topic`] | topics and patterns as clients spell them |
//! | [`subject`] | the NATS spelling of topics |
//! | [`tick`] | every kind of tick |
//! | [`codec`] | MessagePack and JSON, and the transcoder between them |
//! | [`ws`] | the WebSocket protocol |
//! | [`http`] | the HTTP answers |
//! | [`continuity`] | the client's rule: nothing was missed |
//!
//! No I/O and no async: CI builds and tests this crate alone.

#![deny(missing_docs)]

pub mod codec;
pub mod continuity;
pub mod decimal;
pub mod describe;
pub mod http;
pub mod id;
pub mod position;
pub mod subject;
pub mod tick;
pub mod time;
pub mod topic;
pub mod ws;
