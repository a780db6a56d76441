//! `JetStream` mechanics: knows subjects and sequences, never ticks.
//!
//! | module | holds |
//! |---|---|
//! | [`provision`] | the stream, the KV buckets and the recorder's consumer, created or updated |
//! | [`epoch`] | incarnations of a stream's history, and how a rewind is noticed |
//! | [`reader`] | the gap-free ordered reader of a stream, and reads of a closed range |
//! | [`get`] | Direct Get: many last values at once, perhaps stale |
//! | [`stream`] | what the stream's leader knows: state and single messages |
//! | [`lease`] | who may write a stream |
//! | [`publisher`] | the one fenced writer of a stream |
//! | [`api`] | requests to the `JetStream` API and their errors |
//!
//! Loss is detected by sequence alone: notifications of the client library are lossy.

pub mod api;
pub mod epoch;
pub mod get;
pub mod lease;
pub mod provision;
pub mod publisher;
pub mod reader;
pub mod stream;
