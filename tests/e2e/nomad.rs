//! A client that is cut off and comes back to another replica, again and again, as an application
//! would: with the continuity rule and its positions. It keeps a record of all that it was told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng};
use schemas::continuity::{Continuity, Verdict};
use schemas::position::{Cursor, StreamSeq};
use schemas::ws::{Encoding, From, ServerMessage, StreamInfo};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::digest::Digest;
use crate::record::{Fact, Record, Wish};
use crate::world::PATIENCE;

/// Where clients can go, and what is to become of them.
#[derive(Clone)]
pub(crate) struct Road {
    /// Replicas that clients are sent to.
    pub(crate) replicas: watch::Receiver<Arc<[String]>>,
    /// Once it is known, everybody stays until everything up to here has arrived: of each stream.
    pub(crate) goal: watch::Receiver<Option<Goal>>,
    /// How many milliseconds a client stays with a replica; for ever if empty.
    pub(crate) stay: Range<u64>,
    /// How many milliseconds it is away.
    pub(crate) away: Range<u64>,
}

/// A position in each stream.
pub(crate) type Goal = Arc<[StreamSeq]>;

/// A client.
pub(crate) struct Nomad {
    rng: StdRng,
    encoding: Encoding,
    continuity: Continuity,
    /// By stream.
    cursors: Vec<StreamSeq>,
    started: BTreeSet<String>,
    /// Those of this connection's welcome.
    streams: Option<Vec<StreamInfo>>,
    /// Their names, the same on every connection.
    names: Vec<String>,
    /// Subscriptions of this connection that are not acknowledged yet; `None` before they are made.
    pending: Option<usize>,
    known: HashMap<String, usize>,
    ops: u64,
    record: Record,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How a visit ended.
enum Left {
    /// Everything is there.
    Done,
    /// The client went away.
    Gone,
    /// The server ended it.
    Closed(u16),
}

impl Nomad {
    /// A client that has seen nothing.
    pub(crate) fn new(number: usize, seed: u64, wishes: Vec<Wish>) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ (u64::try_from(number).unwrap_or(0) << 32));
        Self {
            encoding: Encoding::ALL[rng.random_range(0..2)],
            rng,
            continuity: Continuity::new(),
            cursors: Vec::new(),
            started: BTreeSet::new(),
            streams: None,
            names: Vec::new(),
            pending: None,
            known: HashMap::new(),
            ops: 0,
            record: Record {
                number,
                wishes,
                ..Record::default()
            },
        }
    }

    /// Goes from replica to replica until everything up to the goal has arrived.
    pub(crate) async fn wander(mut self, mut road: Road) -> Result<Record> {
        let number = self.record.number;
        while !self.has_arrived(&road) {
            self.visit_one(&mut road)
                .await
                .with_context(|| format!("client {number}"))?;
        }
        Ok(self.record)
    }

    /// Stays with one replica until everything up to `goal` has arrived.
    pub(crate) async fn visit(&mut self, url: &str, goal: &[StreamSeq]) -> Result<()> {
        let (_replicas, replicas) = watch::channel([url.to_owned()].into());
        let (_goal, goal) = watch::channel(Some(goal.into()));
        let mut road = Road {
            replicas,
            goal,
            stay: 0..0,
            away: 0..1,
        };
        let until = Instant::now() + PATIENCE;
        while !self.has_arrived(&road) {
            if Instant::now() > until {
                bail!("the cursors stay at {:?}", self.cursors);
            }
            self.visit_one(&mut road).await?;
        }
        self.leave();
        Ok(())
    }

    /// What it was told so far.
    pub(crate) const fn record(&self) -> &Record {
        &self.record
    }

    fn has_arrived(&self, road: &Road) -> bool {
        let goal = road.goal.borrow();
        goal.as_deref().is_some_and(|goal| {
            let mut parts = goal.iter().zip(&self.cursors);
            goal.len() == self.cursors.len() && parts.all(|(goal, cursor)| cursor >= goal)
        })
    }

    async fn visit_one(&mut self, road: &mut Road) -> Result<()> {
        let replicas = Arc::clone(&road.replicas.borrow());
        if replicas.is_empty() {
            let changed = timeout(PATIENCE, road.replicas.changed()).await;
            return Ok(changed.context("there is no replica")??);
        }
        let url = &replicas[self.rng.random_range(0..replicas.len())];
        let connecting = timeout(PATIENCE, connect(url, self.encoding)).await;
        let Ok(socket) = connecting.context("a handshake takes for ever")? else {
            self.record.refused += 1;
            sleep(Duration::from_millis(self.rng.random_range(20..200))).await;
            return Ok(());
        };
        self.record.visits += 1;
        match self.stay(socket, road).await? {
            Left::Done => return Ok(()),
            Left::Gone => {}
            Left::Closed(code) => *self.record.closed.entry(code).or_default() += 1,
        }
        self.leave();
        if road.goal.borrow().is_none() {
            sleep(Duration::from_millis(
                self.rng.random_range(road.away.clone()),
            ))
            .await;
        }
        Ok(())
    }

    fn leave(&mut self) {
        let wanted = self.record.wishes.iter().flat_map(|wish| &wish.topics);
        self.continuity.reconnecting(&wanted.cloned().collect());
        (self.streams, self.pending) = (None, None);
    }

    /// Takes what comes until it is time to go.
    async fn stay(&mut self, mut socket: Socket, road: &mut Road) -> Result<Left> {
        let stay = (!road.stay.is_empty()).then(|| self.rng.random_range(road.stay.clone()));
        let until = stay.map(|millis| Instant::now() + Duration::from_millis(millis));
        loop {
            let settled = road.goal.borrow_and_update().is_some();
            if settled && self.has_arrived(road) {
                return Ok(Left::Done);
            }
            let leaving = async {
                match until.filter(|_| !settled) {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            let message = tokio::select! {
                message = timeout(PATIENCE, socket.next()) => message,
                () = leaving => {
                    self.go_away(socket).await;
                    return Ok(Left::Gone);
                }
                changed = road.goal.changed() => {
                    changed?;
                    continue;
                }
            };
            let message = message.context("the server is silent")?;
            let Some(messages) = self.read(message)? else {
                return Ok(Left::Closed(1006));
            };
            for message in messages {
                match message {
                    Heard::Closed(code) => return Ok(Left::Closed(code)),
                    Heard::Said(message) => self.take(message)?,
                }
            }
            if self.pending.is_none()
                && let Some(streams) = self.streams.take()
            {
                let ops = self.ask(&streams)?;
                self.pending = Some(ops.len());
                for op in ops {
                    if socket.send(op).await.is_err() {
                        return Ok(Left::Closed(1006));
                    }
                }
            }
        }
    }

    /// Reads a frame; `None` if the connection is broken.
    fn read(
        &self,
        message: Option<Result<Message, tungstenite::Error>>,
    ) -> Result<Option<Vec<Heard>>> {
        let messages: Vec<ServerMessage<Digest>> = match message {
            None | Some(Err(_)) => return Ok(None),
            Some(Ok(Message::Text(text))) if self.encoding == Encoding::Json => {
                serde_json::from_str(&text).with_context(|| format!("{text:.300}"))?
            }
            Some(Ok(Message::Binary(bytes))) if self.encoding == Encoding::MessagePack => {
                rmp_serde::from_slice(&bytes)?
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Vec::new(),
            Some(Ok(Message::Close(frame))) => {
                let code = frame.map_or(1005, |frame| frame.code.into());
                return Ok(Some(vec![Heard::Closed(code)]));
            }
            Some(Ok(other)) => bail!("unexpected {other:?}"),
        };
        Ok(Some(messages.into_iter().map(Heard::Said).collect()))
    }

    /// Breaks off in one of the ways in which connections end.
    async fn go_away(&mut self, mut socket: Socket) {
        match self.rng.random_range(0..4) {
            0 => {
                // The peer may be gone before it has answered.
                let _farewell = timeout(Duration::from_millis(200), socket.close(None)).await;
            }
            // Nobody reads any more, but nobody says so yet.
            1 => sleep(Duration::from_millis(self.rng.random_range(1..500))).await,
            _ => {}
        }
    }

    /// The subscriptions of a new connection, from wherever each of them was.
    fn ask(&mut self, streams: &[StreamInfo]) -> Result<Vec<Message>> {
        let everything = self.continuity.resume(None);
        let mut messages = Vec::new();
        for wish in self.record.wishes.clone() {
            let (old, fresh): (Vec<_>, Vec<_>) = wish
                .topics
                .iter()
                .cloned()
                .partition(|text| self.started.contains(text));
            let beginning = || {
                let from = |stream: &StreamInfo| From {
                    e: stream.e,
                    c: Some(Cursor::BEGINNING),
                    s: BTreeMap::new(),
                };
                let all = streams.iter();
                all.map(|stream| (stream.name.clone(), from(stream)))
                    .collect()
            };
            let single = old.iter().all(|text| !text.contains(['*', '>']));
            let from = if single && self.rng.random() {
                self.continuity.resume(Some(&old.iter().cloned().collect()))
            } else {
                everything.clone()
            };
            let first = wish.begin.then(beginning).unwrap_or_default();
            for (topics, from) in [(old, from), (fresh, first)] {
                if !topics.is_empty() {
                    messages.push(self.subscribe(&topics, wish.conflate, from)?);
                }
            }
        }
        Ok(messages)
    }

    fn subscribe(
        &mut self,
        topics: &[String],
        conflate: &str,
        from: BTreeMap<String, From>,
    ) -> Result<Message> {
        self.ops += 1;
        let op = json!([{
            "op": "subscribe", "id": self.ops, "topics": topics, "conflate": conflate, "from": from,
        }]);
        self.continuity.subscribing(self.ops, from);
        Ok(match self.encoding {
            Encoding::Json => Message::text(op.to_string()),
            Encoding::MessagePack => Message::binary(rmp_serde::to_vec_named(&op)?),
        })
    }

    fn take(&mut self, message: ServerMessage<Digest>) -> Result<()> {
        let verdict = self.continuity.take(&message);
        match message {
            ServerMessage::Welcome { streams, .. } => self.welcome(streams)?,
            ServerMessage::Ack { ok, err, .. } => {
                self.pending = self.pending.map(|count| count.saturating_sub(1));
                if let Some(refused) = err.first() {
                    bail!("{refused:?}");
                }
                for accepted in ok {
                    if !self.started.insert(accepted.c.clone()) {
                        continue;
                    }
                    for (name, pos) in accepted.pos {
                        let text = accepted.c.clone();
                        self.note(self.place(&name)?, Fact::Start { text, pos });
                    }
                }
            }
            ServerMessage::D { c, s, p, d, x } => {
                let (topic, digest) = (self.topic(c), d.0);
                let tick = Fact::Tick {
                    topic,
                    s,
                    p,
                    digest,
                };
                match verdict {
                    Verdict::Deliver => self.note(place(x)?, tick),
                    Verdict::Hole => self.note(place(x)?, Fact::Hole { topic, s, p }),
                    _ => {}
                }
            }
            ServerMessage::Snap { c, s, d, x } if verdict == Verdict::Deliver => {
                let (topic, digest) = (self.topic(c), d.0);
                self.note(place(x)?, Fact::Value { topic, s, digest });
            }
            ServerMessage::Skip { i, x } => {
                for skipped in i {
                    let topic = self.topic(skipped.0);
                    let (to, count) = (skipped.1, skipped.2);
                    self.note(place(x)?, Fact::Skip { topic, to, count });
                }
            }
            ServerMessage::Gap {
                c: text,
                from,
                to,
                why,
                x,
                ..
            } => {
                let gap = Fact::Gap {
                    text,
                    from,
                    to,
                    why,
                };
                self.note(place(x)?, gap);
            }
            ServerMessage::Reset { st, c: of, e, .. } => {
                let stream = st.map_or(Ok(0), |name| self.place(&name))?;
                self.note(stream, Fact::Reset { of, epoch: e });
            }
            // It speaks for what is held by then.
            ServerMessage::Hb { cur, .. } if self.pending == Some(0) => {
                for (name, cursor) in cur {
                    let stream = self.place(&name)?;
                    self.cursors[stream] = cursor.seq();
                    self.note(stream, Fact::Cursor(cursor.seq()));
                }
            }
            ServerMessage::Drain { .. } => self.record.warned += 1,
            ServerMessage::Hb { .. } | ServerMessage::Snap { .. } | ServerMessage::Pong { .. } => {}
            ServerMessage::End { .. } | ServerMessage::Err { .. } => bail!("{message:?}"),
        }
        Ok(())
    }

    /// Every replica carries the same streams, in the same order.
    fn welcome(&mut self, streams: Vec<StreamInfo>) -> Result<()> {
        let names: Vec<String> = streams.iter().map(|stream| stream.name.clone()).collect();
        if self.names.is_empty() {
            self.cursors = vec![StreamSeq::ZERO; names.len()];
            self.names.clone_from(&names);
        }
        ensure!(self.names == names, "other streams: {names:?}");
        self.streams = Some(streams);
        Ok(())
    }

    /// The place of a stream in the welcome.
    fn place(&self, name: &str) -> Result<usize> {
        let place = self.names.iter().position(|known| known == name);
        place.with_context(|| format!("{name} is no stream of the welcome"))
    }

    fn note(&mut self, stream: usize, fact: Fact) {
        self.record.facts.push((stream, fact));
    }

    fn topic(&mut self, text: String) -> usize {
        if let Some(index) = self.known.get(&text) {
            return *index;
        }
        let index = self.record.topics.len();
        self.record.topics.push(text.clone());
        self.known.insert(text, index);
        index
    }
}

fn place(x: u32) -> Result<usize> {
    Ok(usize::try_from(x)?)
}

enum Heard {
    Said(ServerMessage<Digest>),
    Closed(u16),
}

async fn connect(url: &str, encoding: Encoding) -> Result<Socket> {
    let mut request = url.into_client_request()?;
    let fields = request.headers_mut();
    fields.insert("Sec-WebSocket-Protocol", encoding.subprotocol().parse()?);
    Ok(tokio_tungstenite::connect_async(request).await?.0)
}
