//! What must hold for every symbol, tick and byte: spellings are unique, codecs lose nothing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod properties {
    mod any;
    mod bytes;
    mod codecs;
    mod spelling;
}
