//! A WebSocket client as an application would write it: the continuity rule decides what counts.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use schemas::continuity::{Continuity, Verdict};
use schemas::position::{Cursor, Epoch, StreamSeq};
use schemas::tick::Tick;
use schemas::ws::{Encoding, From, ServerMessage};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::world::PATIENCE;

/// A tick that counts.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) topic: String,
    pub(crate) seq: StreamSeq,
    pub(crate) tick: Tick,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// One connection, and what it knows.
pub(crate) struct Client {
    socket: Socket,
    encoding: Encoding,
    pub(crate) continuity: Continuity,
    pub(crate) epoch: Option<Epoch>,
    /// Everything up to here has arrived.
    pub(crate) cursor: StreamSeq,
    /// Answers and errors, as they came.
    pub(crate) said: Vec<ServerMessage<Tick>>,
    ops: u64,
}

impl Client {
    /// Connects, and reads the welcome.
    pub(crate) async fn connect(url: &str, encoding: Encoding) -> Result<Self> {
        let socket = open(url, encoding).await?;
        let mut client = Self {
            socket,
            encoding,
            continuity: Continuity::new(),
            epoch: None,
            cursor: StreamSeq::ZERO,
            said: Vec::new(),
            ops: 0,
        };
        client.welcomed().await?;
        Ok(client)
    }

    /// Connects again, elsewhere: what it knows of these topics and patterns it brings along.
    pub(crate) async fn move_to(&mut self, url: &str, wanted: &[&str]) -> Result<()> {
        self.socket = open(url, self.encoding).await?;
        let wanted = wanted.iter().map(|&text| text.to_owned()).collect();
        self.continuity.reconnecting(&wanted);
        self.epoch = None;
        self.said.clear();
        self.welcomed().await
    }

    async fn welcomed(&mut self) -> Result<()> {
        timeout(PATIENCE, async {
            while self.epoch.is_none() {
                self.next().await?;
            }
            Ok(())
        })
        .await
        .context("nobody says welcome")?
    }

    /// Sends one op.
    pub(crate) async fn send(&mut self, op: Value) -> Result<()> {
        let message = match self.encoding {
            Encoding::Json => Message::text(json!([op]).to_string()),
            Encoding::MessagePack => Message::binary(rmp_serde::to_vec_named(&[op])?),
        };
        Ok(self.socket.send(message).await?)
    }

    /// Subscribes from the beginning of what is retained.
    pub(crate) async fn subscribe_all(&mut self, topics: &[&str], conflate: &str) -> Result<()> {
        let from = From {
            e: self.epoch.context("welcome")?,
            c: Some(Cursor::BEGINNING),
            s: BTreeMap::new(),
        };
        self.subscribe(topics, conflate, [("TICKS".to_owned(), from)].into())
            .await
    }

    /// Subscribes from a position; empty is the head.
    pub(crate) async fn subscribe(
        &mut self,
        topics: &[&str],
        conflate: &str,
        from: BTreeMap<String, From>,
    ) -> Result<()> {
        self.ops += 1;
        let id = self.ops;
        let op = json!({ "op": "subscribe", "id": id, "topics": topics, "conflate": conflate, "from": from });
        self.continuity.subscribing(id, from);
        self.send(op).await
    }

    /// Waits for messages: the ticks among them that count. A hole is an error.
    pub(crate) async fn next(&mut self) -> Result<Vec<Received>> {
        let message = timeout(PATIENCE, self.socket.next())
            .await
            .context("the server is silent")?;
        let messages: Vec<ServerMessage<Tick>> = match message.context("the connection ended")?? {
            Message::Text(text) if self.encoding == Encoding::Json => serde_json::from_str(&text)?,
            Message::Binary(bytes) if self.encoding == Encoding::MessagePack => {
                rmp_serde::from_slice(&bytes)?
            }
            Message::Ping(_) | Message::Pong(_) => Vec::new(),
            other => bail!("unexpected {other:?}"),
        };
        let mut received = Vec::new();
        for message in messages {
            let verdict = self.continuity.take(&message);
            match message {
                ServerMessage::D { c, s, d, .. } | ServerMessage::Snap { c, s, d, .. } => {
                    match verdict {
                        Verdict::Deliver => received.push(Received {
                            topic: c,
                            seq: s,
                            tick: d,
                        }),
                        Verdict::Hole => bail!("a hole before {s} on {c}"),
                        _ => {}
                    }
                }
                ServerMessage::Welcome { ref streams, .. } => {
                    self.epoch = streams.first().map(|stream| stream.e);
                    self.said.push(message);
                }
                ServerMessage::Hb { cur, .. } => {
                    let reached = cur.values().map(|cursor| cursor.seq()).max();
                    self.cursor = self.cursor.max(reached.unwrap_or_default());
                }
                other => self.said.push(other),
            }
        }
        Ok(received)
    }

    /// Takes everything until the cursor has reached `target`.
    pub(crate) async fn read_to(&mut self, target: StreamSeq) -> Result<Vec<Received>> {
        let mut received = Vec::new();
        timeout(PATIENCE, async {
            while self.cursor < target {
                received.extend(self.next().await?);
            }
            anyhow::Ok(())
        })
        .await
        .context("the cursor does not move")??;
        Ok(received)
    }
}

async fn open(url: &str, encoding: Encoding) -> Result<Socket> {
    let mut request = url.into_client_request()?;
    let fields = request.headers_mut();
    fields.insert("Sec-WebSocket-Protocol", encoding.subprotocol().parse()?);
    let (socket, response) = tokio_tungstenite::connect_async(request).await?;
    let chosen = response.headers().get("Sec-WebSocket-Protocol");
    assert_eq!(chosen.context("a subprotocol")?, encoding.subprotocol());
    Ok(socket)
}
