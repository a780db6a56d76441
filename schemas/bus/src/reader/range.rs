//! Reads a closed range of a stream, for whoever recovers from it.

use std::time::Duration;

use async_nats::Client;
use schemas::position::StreamSeq;
use tokio::time::{Instant, timeout_at};

use super::{Entry, Event, Reader, ReaderConfig};
use crate::api::ApiError;

/// Reads everything that matches the configuration's filter from its start up to `until`.
///
/// What retention removes meanwhile is skipped.
///
/// # Errors
///
/// [`ApiError::TimedOut`] if nothing arrives for longer than `patience`, and
/// [`ApiError::Malformed`] if the stream got another history meanwhile.
pub async fn read_range(
    client: Client,
    config: ReaderConfig,
    until: StreamSeq,
    patience: Duration,
    mut apply: impl FnMut(Entry),
) -> Result<(), ApiError> {
    let subject = format!("{} of {}", config.filter, config.stream);
    let mut reader = Reader::new(client, config);
    let mut deadline = Instant::now() + patience;
    loop {
        let Ok(event) = timeout_at(deadline, reader.next()).await else {
            return Err(ApiError::TimedOut { subject });
        };
        let caught_up = matches!(event, Event::CaughtUp);
        match event {
            Event::Batch { entries, .. } => {
                deadline = Instant::now() + patience;
                entries
                    .into_iter()
                    .take_while(|entry| entry.seq <= until)
                    .for_each(&mut apply);
            }
            Event::Reset => {
                let problem = "the stream got another history".to_owned();
                return Err(ApiError::Malformed { subject, problem });
            }
            Event::Boot { .. }
            | Event::CaughtUp
            | Event::Stale
            | Event::Live
            | Event::Surveyed { .. }
            | Event::Trimmed { .. } => {}
        }
        // Where the last match lies before `until`, the head never gets there.
        if caught_up || reader.head() >= until {
            return Ok(());
        }
    }
}
