//! Whether the stream takes what the feeds bring: what it does not, would land in another stream, or
//! nowhere.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use async_nats::Client;
use schemas::subject;
use tokio::time::sleep;
use tracing::warn;

use crate::config::{FeedConfig, FeedsConfig};

/// How long to wait before the broker is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// A feed with a venue that the stream does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "feed {feed:?} brings ticks of venue {venue:?}, and stream {stream} takes {taken} only: add the \
     venue to --venues of `tickwire provision --stream {stream}`, or write to the stream that has it \
     with another --stream"
)]
pub struct Misplaced {
    feed: String,
    venue: String,
    stream: String,
    taken: String,
}

/// Waits for the broker to tell what the stream takes, and compares that with the feeds.
///
/// # Errors
///
/// [`Misplaced`], or there is no such stream.
pub async fn check(client: &Client, stream: &str, feeds: &FeedsConfig) -> Result<()> {
    loop {
        match bus::stream::subjects(client, stream).await {
            Ok(subjects) => return Ok(compare(stream, &subjects, feeds)?),
            Err(error) if error.is_missing_stream() => {
                bail!("there is no stream {stream}: run `tickwire provision --stream {stream}`")
            }
            Err(error) if error.is_retryable() => {
                warn!(stream, %error, "what the stream takes is not known yet");
                sleep(PAUSE).await;
            }
            Err(error) => return Err(error).context("asking what the stream takes"),
        }
    }
}

fn compare(stream: &str, subjects: &[String], feeds: &FeedsConfig) -> Result<(), Misplaced> {
    let misplaced = |feed: &FeedConfig| {
        let venue = feed.venue()?;
        (!bus::stream::takes(subjects, &venue)).then(|| Misplaced {
            feed: feed.name.to_string(),
            venue: venue.to_string(),
            stream: stream.to_owned(),
            taken: venues(subjects),
        })
    };
    feeds.feeds.iter().find_map(misplaced).map_or(Ok(()), Err)
}

/// What a stream takes, in short: the venues of a split one, or else its subjects.
fn venues(subjects: &[String]) -> String {
    let named = subjects
        .iter()
        .filter_map(|subject| subject::venue_of(subject));
    let named: Vec<String> = named.map(|venue| venue.to_string()).collect();
    if named.is_empty() {
        return subjects.join(", ");
    }
    named.join(", ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse;

    #[test]
    fn a_feed_belongs_to_a_stream_that_takes_its_venue() {
        let feeds = "[[feed]]\nname = \"a\"\nsource = \"sim\"\n\
                     [[feed]]\nname = \"b\"\nsource = \"sim\"\nvenue = \"simb\"\n";
        let feeds = parse(feeds, Path::new("")).unwrap();
        let told = |subjects: &[&str]| {
            let subjects: Vec<String> = subjects.iter().map(|&text| text.to_owned()).collect();
            compare("A", &subjects, &feeds).map_err(|misplaced| misplaced.to_string())
        };
        assert_eq!(told(&["tick.>"]), Ok(()));
        let both = ["tick.*.sim.>", "tick.*.simb.>", "tick.fence.A"];
        assert_eq!(told(&both), Ok(()));
        let said = told(&["tick.*.sim.>", "tick.*.okx.>", "tick.fence.A"]).unwrap_err();
        for part in [
            "feed \"b\"",
            "venue \"simb\"",
            "stream A takes sim, okx only",
            "--venues of `tickwire provision --stream A`",
            "--stream",
        ] {
            assert!(said.contains(part), "{said}");
        }
        let said = told(&["other.>"]).unwrap_err();
        assert!(said.contains("stream A takes other.> only"), "{said}");
    }
}
