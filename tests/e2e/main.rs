//! Tickwire end to end: the binary, a real broker, real sockets, a real browser.

#![expect(
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, and looks at few of many cases"
)]

mod bad_input;
mod bench;
mod captures;
mod chart;
mod checker;
mod chromium;
mod client;
mod cluster;
mod conformance;
mod console;
mod delivery;
mod digest;
mod disk;
mod fleet;
mod import;
mod indicators;
mod interop;
mod kills;
mod movement;
mod nomad;
mod openapi;
mod process;
mod record;
mod recorders;
mod resume;
mod rolling;
mod split;
mod sse;
mod stored;
mod udf;
mod world;
