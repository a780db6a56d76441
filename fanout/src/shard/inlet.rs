//! What a shard is started with, and what it is told.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use governor::Quota;
use schemas::time::Clock;
use schemas::ws::{Encoding, Subscribe};

use crate::connection::Wire;
use crate::departure::Departure;
use crate::governor::Guest;
use crate::intake::News;
use crate::metrics::Metrics;
use crate::reading::Hurry;
use crate::repair::Repairs;
use crate::session::Limits;
use crate::stats::Board;
use crate::store::Store;

/// Batches between the feeder and a shard: a full channel holds the feeder back.
pub(crate) const INLET: usize = 256;

/// A new connection, its handshake done.
pub(crate) struct Arrival {
    pub(crate) stream: TcpStream,
    /// Bytes that the client sent right behind its handshake.
    pub(crate) early: Vec<u8>,
    pub(crate) encoding: Encoding,
    pub(crate) wire: Wire,
    /// Goes out before anything else.
    pub(crate) head: Vec<u8>,
    /// What is subscribed on connect.
    pub(crate) first: Option<Subscribe>,
    /// Whether permessage-deflate was negotiated.
    pub(crate) deflate: bool,
    /// Counts the connection for as long as it lasts.
    pub(crate) guest: Arc<Guest>,
}

/// What a shard is told.
pub(crate) enum Command {
    Accept(Arrival),
    News(News),
    /// The replica is leaving: every connection is closed when its time has come.
    Drain(Arc<Departure>),
}

/// What all shards share.
#[derive(Clone)]
pub(crate) struct Shared {
    /// By stream.
    pub(crate) stores: Arc<[Arc<Store>]>,
    /// By stream.
    pub(crate) repairs: Arc<[Repairs]>,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) limits: Arc<Limits>,
    /// What one connection may ask for; `None` is unlimited.
    pub(crate) ops: Option<Quota>,
    pub(crate) node: Arc<str>,
    /// Where shards say how they are doing.
    pub(crate) board: Board,
    /// The longest that a busy shard holds back a live message.
    pub(crate) hold_back: Duration,
    pub(crate) hurry: Hurry,
}
