//! A session with a venue over WebSocket.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use schemas::tick::Tick;
use schemas::time::Clock;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};
use tracing::warn;

use crate::feed::{Decoded, Decoder, Feed, FeedError, Reason, Reject};
use crate::metrics::FeedMetrics;

/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(10);
/// The largest frame that is accepted, in bytes: a full book snapshot takes a few.
const MAX_FRAME: usize = 32 * 1024 * 1024;
/// Pause between requests; venues count them.
const BETWEEN_REQUESTS: Duration = Duration::from_millis(250);
/// Venues end sessions after a day: ours end themselves before.
const RENEW_AFTER: Duration = Duration::from_hours(23);

/// Counts what is refused, and logs it at a bearable rate.
#[derive(Clone)]
pub struct Rejects {
    feed: String,
    metrics: FeedMetrics,
    logged: Option<Instant>,
    silent: u64,
}

impl Rejects {
    /// Of the feed with this name.
    pub fn new(feed: &str, metrics: FeedMetrics) -> Self {
        Self {
            feed: feed.to_owned(),
            metrics,
            logged: None,
            silent: 0,
        }
    }

    /// Counts one, and logs it unless another one was logged within the last second.
    pub fn note(&mut self, reject: &Reject) {
        self.metrics.rejected(&self.feed, reject.reason);
        if self
            .logged
            .is_some_and(|at| at.elapsed() < Duration::from_secs(1))
        {
            self.silent += 1;
            return;
        }
        let unlogged = std::mem::take(&mut self.silent);
        warn!(
            feed = self.feed,
            reason = reject.reason.as_str(),
            unlogged,
            "rejected: {reject}"
        );
        self.logged = Some(Instant::now());
    }
}

/// A session: connected, subscribed, decoding.
pub struct Live<'a> {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    decoder: &'a mut dyn Decoder,
    rejects: &'a mut Rejects,
    clock: Arc<dyn Clock>,
    until: Instant,
}

impl<'a> Live<'a> {
    /// Connects and subscribes.
    ///
    /// # Errors
    ///
    /// [`FeedError::Connection`].
    pub async fn open(
        url: &str,
        decoder: &'a mut dyn Decoder,
        rejects: &'a mut Rejects,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, FeedError> {
        let broken = |error: WsError| FeedError::Connection(error.to_string());
        let config = WebSocketConfig::default()
            .read_buffer_size(8 * 1024)
            .max_message_size(Some(MAX_FRAME))
            .max_frame_size(Some(MAX_FRAME));
        let connecting = connect_async_with_config(url, Some(config), true);
        let (mut socket, _) = timeout(CONNECT, connecting)
            .await
            .map_err(|_| FeedError::Connection(format!("not connected within {CONNECT:?}")))?
            .map_err(broken)?;
        decoder.reset();
        for (index, request) in decoder.requests().into_iter().enumerate() {
            if index > 0 {
                sleep(BETWEEN_REQUESTS).await;
            }
            socket.send(Message::text(request)).await.map_err(broken)?;
        }
        Ok(Self {
            socket,
            decoder,
            rejects,
            clock,
            until: Instant::now() + RENEW_AFTER,
        })
    }

    /// Decodes one message; `false` if the session should be renewed.
    fn take(&mut self, message: &Message, ticks: &mut Vec<Tick>) -> Result<bool, FeedError> {
        let text = match message {
            Message::Text(text) => text.as_str(),
            Message::Binary(bytes) => {
                let message = format!("a binary frame of {} bytes where text is due", bytes.len());
                self.rejects.note(&Reject::new(Reason::Malformed, message));
                return Ok(true);
            }
            Message::Close(frame) => {
                let words = frame
                    .as_ref()
                    .map_or("no reason", |frame| frame.reason.as_str());
                return Err(FeedError::Connection(format!(
                    "closed by the venue: {words}"
                )));
            }
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => return Ok(true),
        };
        match self.decoder.decode(text, self.clock.now(), ticks) {
            Ok(Decoded::Ticks | Decoded::Ignored) => Ok(true),
            Ok(Decoded::Reconnect) => Ok(false),
            Err(reject) => {
                self.rejects.note(&reject);
                Ok(true)
            }
        }
    }
}

impl Feed for Live<'_> {
    async fn next(&mut self) -> Result<Option<Vec<Tick>>, FeedError> {
        loop {
            if Instant::now() > self.until {
                return Err(FeedError::Connection(
                    "the session is renewed after 23 hours".to_owned(),
                ));
            }
            let message = match self.socket.next().await {
                None => return Err(FeedError::Connection("the connection ended".to_owned())),
                Some(Err(WsError::Utf8(_))) => {
                    let reject = Reject::new(Reason::Malformed, "a text frame that is not UTF-8");
                    self.rejects.note(&reject);
                    return Err(FeedError::Connection(reject.message));
                }
                Some(Err(WsError::Capacity(problem))) => {
                    let reject =
                        Reject::new(Reason::Size, format!("a frame is too large: {problem}"));
                    self.rejects.note(&reject);
                    return Err(FeedError::Connection(reject.message));
                }
                Some(Err(error)) => return Err(FeedError::Connection(error.to_string())),
                Some(Ok(message)) => message,
            };
            let mut ticks = Vec::new();
            if !self.take(&message, &mut ticks)? {
                return Err(FeedError::Connection(
                    "the venue announced its shutdown".to_owned(),
                ));
            }
            if !ticks.is_empty() {
                return Ok(Some(ticks));
            }
        }
    }
}
