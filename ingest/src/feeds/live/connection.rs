//! One connection to a venue.

use std::collections::VecDeque;
use std::future::pending;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use crate::feed::FeedError;

/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(10);
/// The largest frame that is accepted, in bytes: a full book snapshot takes a few.
const MAX_FRAME: usize = 32 * 1024 * 1024;
/// Pause between requests; venues count them.
const BETWEEN_REQUESTS: Duration = Duration::from_millis(250);

/// A connection that has sent its requests.
pub(super) type Socket = Box<WebSocketStream<MaybeTlsStream<TcpStream>>>;
/// What came over it.
pub(super) type Received = Option<Result<Message, WsError>>;

pub(super) fn broken(error: &WsError) -> FeedError {
    FeedError::Connection(error.to_string())
}

/// Connects and sends the requests.
pub(super) async fn open(url: String, requests: Vec<String>) -> Result<Socket, FeedError> {
    let config = WebSocketConfig::default()
        .read_buffer_size(8 * 1024)
        .max_message_size(Some(MAX_FRAME))
        .max_frame_size(Some(MAX_FRAME));
    let connecting = connect_async_with_config(url, Some(config), true);
    let (mut socket, _) = timeout(CONNECT, connecting)
        .await
        .map_err(|_| FeedError::Connection(format!("not connected within {CONNECT:?}")))?
        .map_err(|error| broken(&error))?;
    for (index, request) in requests.into_iter().enumerate() {
        if index > 0 {
            sleep(BETWEEN_REQUESTS).await;
        }
        let sent = socket.send(Message::text(request)).await;
        sent.map_err(|error| broken(&error))?;
    }
    Ok(Box::new(socket))
}

/// The next message; never one from a connection that has ended.
pub(super) async fn read(socket: Option<&mut Socket>) -> Received {
    match socket {
        Some(socket) => socket.next().await,
        None => pending().await,
    }
}

/// Waits for a point in time; for ever if there is none.
pub(super) async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

/// Requests on their way to the venue.
#[derive(Default)]
pub(super) struct Outbox {
    requests: VecDeque<String>,
    /// Something is written and may not be sent.
    unsent: bool,
}

impl Outbox {
    /// Queues requests.
    pub(super) fn extend(&mut self, requests: Vec<String>) {
        self.requests.extend(requests);
    }

    /// Sends what is queued. Cancel safe: what was not sent stays queued.
    pub(super) async fn send(&mut self, socket: &mut Socket) -> Result<(), FeedError> {
        while let Some(request) = self.requests.front() {
            let fed = socket.feed(Message::text(request.clone())).await;
            fed.map_err(|error| broken(&error))?;
            self.requests.pop_front();
            self.unsent = true;
        }
        if self.unsent {
            socket.flush().await.map_err(|error| broken(&error))?;
            self.unsent = false;
        }
        Ok(())
    }
}
