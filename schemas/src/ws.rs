//! The WebSocket protocol, version 1: what clients ask and what servers answer.
//!
//! Every message, either way, is an array of objects. Unknown fields are ignored.

mod read;
mod write;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use read::{MAX_OPS, OpError, ReadError, read_ops};
pub use write::{push_data, push_message, push_snapshot};

use crate::position::{Cursor, Epoch, StreamSeq};

/// How messages are written, chosen by subprotocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Text frames.
    #[default]
    Json,
    /// Binary frames, either way.
    MessagePack,
}

impl Encoding {
    /// Every encoding, the default first.
    pub const ALL: [Self; 2] = [Self::Json, Self::MessagePack];

    /// The name for `Sec-WebSocket-Protocol`.
    pub const fn subprotocol(self) -> &'static str {
        match self {
            Self::Json => "tickwire.v1.json",
            Self::MessagePack => "tickwire.v1.msgpack",
        }
    }
}

/// How often state kinds are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conflate {
    /// Every value, but only the latest while the client cannot keep up.
    #[default]
    Auto,
    /// Every value, always; a client that cannot keep up is closed.
    None,
    /// The latest value, at most once per so many milliseconds.
    Millis(u32),
}

impl Conflate {
    /// The range of intervals in milliseconds.
    pub const MILLIS: std::ops::RangeInclusive<u32> = 10..=60_000;
}

/// Where a client continues in one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct From {
    /// The epoch that the positions belong to.
    #[schemars(with = "String")]
    pub e: Epoch,
    /// Everything up to here was received, for all topics.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schemars(with = "Option<String>")]
    pub c: Option<Cursor>,
    /// Positions of single topics, where they are higher; of a pattern, for those of its topics that
    /// have none of their own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    #[schemars(with = "BTreeMap<String, u64>")]
    pub s: BTreeMap<String, StreamSeq>,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientOp {
    /// Adds topics and patterns to what the connection receives.
    Subscribe(Subscribe),
    /// Removes exactly these strings.
    Unsubscribe {
        /// Echoed in the answer.
        id: Option<u64>,
        /// Topics and patterns as they were subscribed.
        topics: Vec<String>,
    },
    /// Asks what is subscribed.
    List {
        /// Echoed in the answer.
        id: Option<u64>,
    },
    /// Asks for a `pong`.
    Ping {
        /// Echoed in the answer.
        id: Option<u64>,
    },
    /// Presents a key or token.
    Auth {
        /// Echoed in the answer.
        id: Option<u64>,
    },
}

/// Adds topics and patterns to what a connection receives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscribe {
    /// Echoed in the answer.
    pub id: Option<u64>,
    /// Topics and patterns.
    pub topics: Vec<String>,
    /// Whether last values come first; by default they do for state kinds.
    pub snapshot: Option<bool>,
    /// How often state kinds are sent.
    pub conflate: Conflate,
    /// Where to continue, by stream name.
    pub from: BTreeMap<String, From>,
}

/// What went wrong, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request is malformed; the message names the field.
    BadRequest,
    /// Credentials are missing or wrong.
    Unauthenticated,
    /// The credentials do not cover this topic.
    NotEntitled,
    /// No such kind or venue can exist.
    UnknownTopic,
    /// More topics or patterns than a connection may hold.
    TopicLimit,
    /// More connections than allowed.
    ConnectionLimit,
    /// The request is larger than the limit.
    TooLarge,
    /// Too many requests; `retry_after_ms` says when to try again.
    RateLimited,
    /// The position belongs to no history that this server knows.
    PositionLost,
    /// A fault of the server.
    Internal,
    /// The server cannot do this now.
    Unavailable,
}

/// Why the server closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// The server is going away.
    GoingAway,
    /// RFC 6455 was violated.
    Protocol,
    /// A message is not what the subprotocol carries.
    Unsupported,
    /// A message is longer than the limit.
    TooBig,
    /// The replica is draining; connect again.
    Restart,
    /// The replica has too many connections; try again later.
    Overloaded,
    /// The token expired; connect with a new one.
    TokenExpired,
    /// Pings were not answered.
    HeartbeatTimeout,
    /// The client did not read fast enough; it may resume.
    Slow,
    /// Too many requests.
    RateLimited,
    /// Credentials were refused.
    AuthFailed,
    /// Messages were not of this protocol.
    BadProtocol,
    /// No credentials came in time.
    AuthTimeout,
    /// The key was revoked.
    Revoked,
    /// The key does not cover this.
    NotEntitled,
    /// Too many connections for this key.
    ConnectionLimit,
}

impl CloseCode {
    /// Every code.
    pub const ALL: [Self; 16] = [
        Self::GoingAway,
        Self::Protocol,
        Self::Unsupported,
        Self::TooBig,
        Self::Restart,
        Self::Overloaded,
        Self::TokenExpired,
        Self::HeartbeatTimeout,
        Self::Slow,
        Self::RateLimited,
        Self::AuthFailed,
        Self::BadProtocol,
        Self::AuthTimeout,
        Self::Revoked,
        Self::NotEntitled,
        Self::ConnectionLimit,
    ];

    /// The number in the close frame.
    pub const fn code(self) -> u16 {
        match self {
            Self::GoingAway => 1001,
            Self::Protocol => 1002,
            Self::Unsupported => 1003,
            Self::TooBig => 1009,
            Self::Restart => 1012,
            Self::Overloaded => 1013,
            Self::TokenExpired => 4001,
            Self::HeartbeatTimeout => 4003,
            Self::Slow => 4008,
            Self::RateLimited => 4029,
            Self::AuthFailed => 4500,
            Self::BadProtocol => 4501,
            Self::AuthTimeout => 4502,
            Self::Revoked => 4503,
            Self::NotEntitled => 4505,
            Self::ConnectionLimit => 4506,
        }
    }

    /// The reason in the close frame.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::GoingAway => "going away",
            Self::Protocol => "websocket protocol violated",
            Self::Unsupported => "frame type does not fit the subprotocol",
            Self::TooBig => "message too big",
            Self::Restart => "replica is restarting, connect again",
            Self::Overloaded => "overloaded, try again later",
            Self::TokenExpired => "token expired",
            Self::HeartbeatTimeout => "pings were not answered",
            Self::Slow => "client fell behind, resume",
            Self::RateLimited => "rate limited",
            Self::AuthFailed => "authentication failed",
            Self::BadProtocol => "message is not of this protocol",
            Self::AuthTimeout => "no credentials in time",
            Self::Revoked => "key revoked",
            Self::NotEntitled => "not entitled",
            Self::ConnectionLimit => "connection limit reached",
        }
    }
}

/// A stream and its epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StreamInfo {
    /// Name.
    pub name: String,
    /// Epoch; positions of another epoch are void.
    #[schemars(with = "String")]
    pub e: Epoch,
}

/// What a connection may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Limits {
    /// Topics.
    pub topics: u32,
    /// Patterns.
    pub patterns: u32,
    /// Bytes per client message.
    pub message_bytes: u32,
}

/// A string of a subscription that was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Accepted {
    /// The topic or pattern, as sent.
    pub c: String,
    /// The head of each stream when it was accepted.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    #[schemars(with = "BTreeMap<String, u64>")]
    pub pos: BTreeMap<String, StreamSeq>,
}

/// A string of a subscription that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refused {
    /// The topic or pattern, as sent.
    pub c: String,
    /// Why, for programs.
    pub code: ErrorCode,
    /// Why, for people.
    pub message: String,
}

/// Why messages are missing for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GapReason {
    /// They are no longer held where this server can read them.
    Retention,
    /// There are more than a connection may have replayed.
    Budget,
}

/// The state of a venue's feeds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FeedHealth {
    /// The worst state of the venue's feeds.
    pub state: String,
    /// Milliseconds since ingest last said so.
    pub age_ms: u64,
}

/// One declared omission: topic, last sequence left out, how many if known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("minItems" = 2))]
pub struct Skipped(
    /// Topic.
    pub String,
    /// Last sequence that was left out.
    #[schemars(with = "u64")]
    pub StreamSeq,
    /// How many messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub Option<u64>,
);

/// What a server says. `D` is the form of a tick: parsed, or raw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "t", rename_all = "lowercase")]
pub enum ServerMessage<D> {
    /// The first message on a connection.
    Welcome {
        /// Identifies the connection in logs.
        conn: String,
        /// Identifies the replica.
        node: String,
        /// The streams; `x` of other messages counts them from 0.
        streams: Vec<StreamInfo>,
        /// What the connection may hold.
        limits: Limits,
        /// Seconds between heartbeats at most.
        hb: u32,
    },
    /// The answer to `subscribe`, `unsubscribe` and `list`; precedes all that it causes.
    Ack {
        /// The op's.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        id: Option<u64>,
        /// What was accepted.
        ok: Vec<Accepted>,
        /// What was refused.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        err: Vec<Refused>,
    },
    /// The last value of a topic.
    Snap {
        /// Topic.
        c: String,
        /// Its sequence.
        #[schemars(with = "u64")]
        s: StreamSeq,
        /// The tick.
        d: D,
        /// Index into the streams of `welcome`.
        #[serde(skip_serializing_if = "is_first", default)]
        x: u32,
    },
    /// A tick.
    D {
        /// Topic.
        c: String,
        /// Its sequence.
        #[schemars(with = "u64")]
        s: StreamSeq,
        /// The topic has no message between `p` and `s`.
        #[schemars(with = "u64")]
        p: StreamSeq,
        /// The tick.
        d: D,
        /// Index into the streams of `welcome`.
        #[serde(skip_serializing_if = "is_first", default)]
        x: u32,
    },
    /// State values left out on purpose.
    Skip {
        /// Per topic.
        i: Vec<Skipped>,
        /// Index into the streams of `welcome`.
        #[serde(skip_serializing_if = "is_first", default)]
        x: u32,
    },
    /// Messages of a topic, or of all topics of a pattern, that this server cannot give.
    Gap {
        /// Topic or pattern.
        c: String,
        /// First sequence that may be missing.
        #[schemars(with = "u64")]
        from: StreamSeq,
        /// Last sequence that may be missing.
        #[schemars(with = "u64")]
        to: StreamSeq,
        /// Why.
        why: GapReason,
        /// Where they may be had over HTTP, if they are recorded; empty otherwise, and absent.
        #[serde(skip_serializing_if = "String::is_empty", default)]
        fill: String,
        /// Index into the streams of `welcome`.
        #[serde(skip_serializing_if = "is_first", default)]
        x: u32,
    },
    /// Positions of a stream, or of a topic, are void; snapshots follow.
    Reset {
        /// The stream whose positions are void.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        st: Option<String>,
        /// The topic whose position is void.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        c: Option<String>,
        /// The epoch that counts from here.
        #[schemars(with = "String")]
        e: Epoch,
        /// The position that takes their place: nothing is known of what lies before.
        #[serde(skip_serializing_if = "is_zero", default)]
        #[schemars(with = "u64")]
        s: StreamSeq,
    },
    /// The server ended a subscription.
    End {
        /// The topic or pattern.
        c: String,
        /// Why, for programs.
        code: ErrorCode,
        /// Why, for people.
        message: String,
    },
    /// A sign of life, with positions to resume from.
    Hb {
        /// The server's time.
        #[schemars(with = "String")]
        now: crate::time::UnixNanos,
        /// Per stream: everything up to here was sent or declared.
        #[schemars(with = "BTreeMap<String, String>")]
        cur: BTreeMap<String, Cursor>,
        /// Per venue.
        feeds: BTreeMap<String, FeedHealth>,
    },
    /// This replica is leaving.
    Drain {
        /// Milliseconds until it closes the connection.
        close_in_ms: u64,
    },
    /// The answer to `ping`.
    Pong {
        /// The op's.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        id: Option<u64>,
    },
    /// An op that could not be carried out.
    Err {
        /// The op's, where it could be read.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        id: Option<u64>,
        /// Why, for programs.
        code: ErrorCode,
        /// Why, for people.
        message: String,
        /// Milliseconds until another try makes sense.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        retry_after_ms: Option<u64>,
    },
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands over a reference to the field"
)]
const fn is_zero(seq: &StreamSeq) -> bool {
    seq.get() == 0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands over a reference to the field"
)]
const fn is_first(index: &u32) -> bool {
    *index == 0
}

#[cfg(test)]
mod tests;
