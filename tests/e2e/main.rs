//! Tickwire end to end: the binary, a real broker, real sockets, a real browser.

#![expect(
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, and looks at few of many cases"
)]

mod bad_input;
mod captures;
mod chromium;
mod client;
mod conformance;
mod console;
mod delivery;
mod disk;
mod interop;
mod kills;
mod process;
mod world;
