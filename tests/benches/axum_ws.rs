//! What `tickwire bench fanout` compares with: axum's own WebSocket, a broadcast channel per topic,
//! a task per connection.
//!
//! It reads the republished ticks with a plain subscription, encodes each once, and speaks enough
//! of the protocol for the same measuring client: a subscription is acknowledged, a tick comes as
//! `d` with the sequences of the broker. Whatever is pending for a connection leaves in one flush.
//! A connection that falls behind loses messages, and nobody tells it: the client sees the hole.

use std::collections::HashMap;
use std::env;
use std::io::Write as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use async_nats::Message as Stored;
use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::any;
use futures_util::stream::{self, SelectAll, Stream, StreamExt};
use futures_util::{FutureExt, SinkExt};
use schemas::codec;
use schemas::position::StreamSeq;
use schemas::subject;
use schemas::ws::{Encoding, push_data};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::broadcast::{self, error::RecvError};

// The same as ours, so that the difference is elsewhere.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Messages that a connection may be behind.
const CAPACITY: usize = 4_096;

type Channels = Mutex<HashMap<String, broadcast::Sender<Utf8Bytes>>>;
type Feed = Pin<Box<dyn Stream<Item = Utf8Bytes> + Send>>;

/// What a client asks for.
#[derive(Deserialize)]
struct Op {
    id: u64,
    topics: Vec<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let (Some(listen), Some(broker)) = (arguments.next(), arguments.next()) else {
        bail!("usage: axum-ws <address to listen on> <address of the broker>");
    };
    let client = async_nats::connect(broker)
        .await
        .context("the broker cannot be reached")?;
    let mut ticks = client.subscribe(format!("{}>", subject::LIVE)).await?;
    client.flush().await?;
    let channels = Arc::new(Channels::default());
    let router = Router::new()
        .route("/v1/stream", any(upgrade))
        .with_state(Arc::clone(&channels));
    let listener = TcpListener::bind(&listen).await?;
    let reading = async {
        while let Some(message) = ticks.next().await {
            publish(&channels, &message)?;
        }
        bail!("the broker has ended the subscription")
    };
    tokio::select! {
        ended = reading => ended,
        served = async { axum::serve(listener, router).await } => Ok(served?),
    }
}

async fn upgrade(State(channels): State<Arc<Channels>>, request: WebSocketUpgrade) -> Response {
    let request = request.protocols([Encoding::Json.subprotocol()]);
    request.on_upgrade(async move |socket| {
        if let Err(problem) = serve(socket, &channels).await {
            // With stderr gone there is nobody left to tell.
            drop(writeln!(std::io::stderr(), "{problem:#}"));
        }
    })
}

/// Encodes a tick once, if anybody here wants it, and hands it to all who do.
fn publish(channels: &Channels, stored: &Stored) -> Result<()> {
    let Some(topic) = stored.subject.strip_prefix(subject::LIVE) else {
        return Ok(());
    };
    let channels = channels.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(channel) = channels.get(topic) else {
        return Ok(());
    };
    let number = |name| {
        let value = stored.headers.as_ref()?.get(name)?;
        value.as_str().parse().ok().map(StreamSeq::new)
    };
    let s = number("Nats-Sequence").context("a tick without its sequence")?;
    let p = number("Nats-Last-Sequence").context("a tick without the one before")?;
    let (mut tick, mut text) = (Vec::with_capacity(192), Vec::with_capacity(256));
    codec::transcode(&stored.payload, &mut tick)?;
    text.push(b'[');
    push_data(Encoding::Json, &mut text, topic, (s, p), &tick, 0);
    text.push(b']');
    // Nobody is there only while the last of them leaves.
    let _listeners = channel.send(String::from_utf8(text)?.into());
    Ok(())
}

async fn serve(mut socket: WebSocket, channels: &Channels) -> Result<()> {
    let mut feeds: SelectAll<Feed> = SelectAll::new();
    loop {
        tokio::select! {
            message = socket.recv() => match message {
                Some(Ok(Message::Text(text))) => {
                    for op in serde_json::from_str::<Vec<Op>>(&text)? {
                        let accepted = subscribe(channels, &mut feeds, op);
                        socket.send(Message::Text(accepted.into())).await?;
                    }
                }
                Some(Ok(_)) => {}
                // The client is gone, in whatever way.
                Some(Err(_)) | None => return Ok(()),
            },
            Some(tick) = feeds.next(), if !feeds.is_empty() => {
                let mut next = Some(tick);
                while let Some(tick) = next {
                    if socket.feed(Message::Text(tick)).await.is_err() {
                        return Ok(());
                    }
                    next = feeds.next().now_or_never().flatten();
                }
                if socket.flush().await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

/// Adds the topics of an op, and says so.
fn subscribe(channels: &Channels, feeds: &mut SelectAll<Feed>, op: Op) -> String {
    let mut channels = channels.lock().unwrap_or_else(PoisonError::into_inner);
    let mut accepted = Vec::new();
    for topic in op.topics {
        let channel = channels
            .entry(topic.clone())
            .or_insert_with(|| broadcast::channel(CAPACITY).0);
        feeds.push(feed(channel.subscribe()));
        accepted.push(json!({ "c": topic }));
    }
    json!([{ "t": "ack", "id": op.id, "ok": accepted }]).to_string()
}

fn feed(receiver: broadcast::Receiver<Utf8Bytes>) -> Feed {
    Box::pin(stream::unfold(receiver, |mut receiver| async move {
        loop {
            match receiver.recv().await {
                Ok(tick) => return Some((tick, receiver)),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }))
}
