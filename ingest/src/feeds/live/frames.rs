//! From what a connection delivered to ticks.

use std::sync::Arc;

use schemas::tick::Tick;
use schemas::time::{Clock, UnixNanos};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::Rejects;
use super::connection::{Received, broken};
use crate::feed::{Decoded, Decoder, FeedError, Reason, Reject};

/// Events further ahead of this machine's clock are refused, in nanoseconds.
const FUTURE: i64 = 86_400_000_000_000;

/// What a message says of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// The venue is there, with or without ticks.
    Life,
    /// Nothing: it was refused.
    Refused,
    /// The venue will end the connection.
    Ending,
}

/// Decodes frames, and counts those that cannot be.
pub(super) struct Frames<'a> {
    pub(super) decoder: &'a mut dyn Decoder,
    pub(super) rejects: &'a mut Rejects,
    pub(super) clock: Arc<dyn Clock>,
}

impl Frames<'_> {
    /// Reads what a connection delivered.
    pub(super) fn take(
        &mut self,
        received: Received,
        ticks: &mut Vec<Tick>,
    ) -> Result<Sign, FeedError> {
        let message = match received {
            None => return Err(FeedError::Connection("the connection ended".to_owned())),
            Some(Err(WsError::Utf8(_))) => {
                let reject = Reject::new(Reason::Malformed, "a text frame that is not UTF-8");
                self.rejects.note(&reject);
                return Err(FeedError::Connection(reject.message));
            }
            Some(Err(WsError::Capacity(problem))) => {
                let reject = Reject::new(Reason::Size, format!("a frame is too large: {problem}"));
                self.rejects.note(&reject);
                return Err(FeedError::Connection(reject.message));
            }
            Some(Err(error)) => return Err(broken(&error)),
            Some(Ok(message)) => message,
        };
        let text = match &message {
            Message::Text(text) => text.as_str(),
            Message::Binary(bytes) => {
                let message = format!("a binary frame of {} bytes where text is due", bytes.len());
                self.rejects.note(&Reject::new(Reason::Malformed, message));
                return Ok(Sign::Refused);
            }
            Message::Close(frame) => {
                let words = frame
                    .as_ref()
                    .map_or("no reason", |frame| frame.reason.as_str());
                return Err(FeedError::Connection(format!(
                    "closed by the venue: {words}"
                )));
            }
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => return Ok(Sign::Life),
        };
        let received = self.clock.now();
        let decoded = self.decoder.decode(text, received, ticks);
        self.strike_out_the_future(received, ticks);
        match decoded {
            Ok(Decoded::Ticks | Decoded::Ignored) => Ok(Sign::Life),
            Ok(Decoded::Reconnect) => Ok(Sign::Ending),
            Err(reject) => {
                self.rejects.note(&reject);
                Ok(Sign::Refused)
            }
        }
    }

    /// Takes out what would hold up bars and summaries for longer than any clock is wrong.
    fn strike_out_the_future(&mut self, received: UnixNanos, ticks: &mut Vec<Tick>) {
        let horizon = received.offset(FUTURE);
        ticks.retain(|tick| {
            let is_future = tick.head().event.is_some_and(|event| event > horizon);
            if is_future {
                let message = "a time more than a day ahead of this machine's clock";
                self.rejects.note(&Reject::new(Reason::Range, message));
            }
            !is_future
        });
    }
}
