//! The golden vectors: bytes of version 1 that every later build must read and write unchanged.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::panic, reason = "a test fails by panicking")]

mod golden {
    mod http;
    mod ticks;
    mod vector;
    mod ws;
}
