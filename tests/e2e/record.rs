//! The record of all that a client was told, for whoever checks it.

use std::collections::BTreeMap;

use schemas::position::{Epoch, StreamSeq};
use schemas::ws::GapReason;

/// What a client wants, all of it under one conflation.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) topics: Vec<String>,
    /// As on the wire: `none`, `auto`.
    pub(crate) conflate: &'static str,
    /// From the beginning of what is retained, not from the head.
    pub(crate) begin: bool,
}

/// One thing that a client was told, and that counts.
#[derive(Clone, Debug)]
pub(crate) enum Fact {
    /// A topic or pattern begins behind a position.
    Start { text: String, pos: StreamSeq },
    /// A tick, by index into [`Record::topics`].
    Tick {
        topic: usize,
        s: StreamSeq,
        p: StreamSeq,
        digest: u64,
    },
    /// A last value.
    Value {
        topic: usize,
        s: StreamSeq,
        digest: u64,
    },
    /// Values left out on purpose.
    Skip {
        topic: usize,
        to: StreamSeq,
        count: Option<u64>,
    },
    /// Messages that cannot be given.
    Gap {
        text: String,
        from: StreamSeq,
        to: StreamSeq,
        why: GapReason,
    },
    /// Positions are void.
    Reset { of: Option<String>, epoch: Epoch },
    /// Everything up to here was told.
    Cursor(StreamSeq),
    /// A tick that does not follow the one before it.
    Hole {
        topic: usize,
        s: StreamSeq,
        p: StreamSeq,
    },
}

/// Everything that a client was told, and how it fared.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) number: usize,
    pub(crate) wishes: Vec<Wish>,
    pub(crate) topics: Vec<String>,
    /// With the stream that each is of, by its place in the welcome.
    pub(crate) facts: Vec<(usize, Fact)>,
    /// Connections.
    pub(crate) visits: u32,
    /// How connections were ended by the server, by close code; 1006 is without one.
    pub(crate) closed: BTreeMap<u16, u32>,
    /// Times that it was warned of a drain.
    pub(crate) warned: u32,
    /// Connections that could not be made.
    pub(crate) refused: u32,
}
