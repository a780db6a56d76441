//! The NATS spelling of topics: `tick.<topic>` is stored, `live.<topic>` is republished.
//!
//! Every byte of a symbol outside `A-Z a-z 0-9 _ -` is written `%HH` in subjects and `=HH` in KV
//! keys, so a symbol is always exactly one token.

use crate::id::{IdError, Venue};
use crate::topic::{self, MAX_BYTES, Topic, TopicError};

/// The prefix of everything that a stream of ticks stores.
pub const STORED: &str = "tick.";
/// The prefix of the republished copy that other services subscribe to.
pub const LIVE: &str = "live.";

fn escape(text: &str, marker: char) -> String {
    let mut token = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            token.push(char::from(byte));
        } else {
            token.push(marker);
            token.push(topic::hex_digit(byte >> 4));
            token.push(topic::hex_digit(byte & 15));
        }
    }
    token
}

fn unescape(token: &str) -> Option<String> {
    let text = topic::decode_hex(token, b'%')?;
    (escape(&text, '%') == token).then_some(text)
}

fn spell(prefix: &str, topic: &Topic) -> String {
    let symbol = escape(topic.symbol().as_str(), '%');
    let mut subject = format!("{prefix}{}.{}.{symbol}", topic.kind(), topic.venue());
    if let Some(interval) = topic.interval() {
        subject.push('.');
        subject.push_str(interval.as_str());
    }
    if let Some(variant) = topic.variant() {
        subject.push('.');
        subject.push_str(variant.as_str());
    }
    subject
}

/// The subject under which ticks of this topic are stored.
pub fn stored(topic: &Topic) -> String {
    spell(STORED, topic)
}

/// The subject under which ticks of this topic are republished.
pub fn live(topic: &Topic) -> String {
    spell(LIVE, topic)
}

/// Every subject under which ticks of this venue are stored.
pub fn of_venue(venue: &Venue) -> String {
    format!("{STORED}*.{venue}.>")
}

/// The venue of which a stream that takes this takes every tick; `None` if it is not of one venue.
pub fn venue_of(subject: &str) -> Option<Venue> {
    let venue = subject.strip_prefix(STORED)?.strip_prefix("*.")?;
    Venue::new(venue.strip_suffix(".>")?).ok()
}

/// The subject of the publisher's own filler messages; no topic, never shown to clients.
pub fn fence(stream: &str) -> String {
    format!("{STORED}fence.{}", escape(stream, '%'))
}

/// Whether a subject is the publisher's own.
pub fn is_fence(subject: &str) -> bool {
    subject
        .strip_prefix(STORED)
        .is_some_and(|rest| rest.starts_with("fence."))
}

/// Reads the topic of a stored or republished subject.
///
/// # Errors
///
/// [`TopicError`] if the subject is not one that [`stored`] or [`live`] writes.
pub fn parse(subject: &str) -> Result<Topic, TopicError> {
    if subject.len() > MAX_BYTES {
        return Err(TopicError::TooLong(subject.len()));
    }
    let rest = subject
        .strip_prefix(STORED)
        .or_else(|| subject.strip_prefix(LIVE))
        .ok_or_else(|| TopicError::Token {
            text: subject.to_owned(),
            source: IdError::Kind(subject.split('.').next().unwrap_or_default().to_owned()),
        })?;
    Topic::assemble(rest, rest.split('.'), unescape)
}

/// Writes a text as one token of a KV key.
pub fn kv_token(text: &str) -> String {
    escape(text, '=')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Kind, Symbol};

    #[test]
    fn the_longest_topic_fits_a_subject() {
        let topic = Topic::indicator(
            Venue::new("a123456789012345").unwrap(),
            Symbol::new(&".".repeat(64)).unwrap(),
            crate::id::Interval::Minute15,
            crate::id::Variant::new(&"x".repeat(32)).unwrap(),
        );
        assert_eq!(stored(&topic).len(), MAX_BYTES);
        assert_eq!(parse(&stored(&topic)), Ok(topic.clone()));
        assert_eq!(topic.to_string().parse(), Ok(topic));
    }

    #[test]
    fn the_venue_of_a_streams_subject_is_read_back() {
        let venue = Venue::new("binance").unwrap();
        assert_eq!(venue_of(&of_venue(&venue)), Some(venue));
        for text in [
            "tick.>",
            "tick.*.*.>",
            "tick.*.a.b.>",
            "tick.trade.a.>",
            "live.*.a.>",
        ] {
            assert_eq!(venue_of(text), None, "{text}");
        }
    }

    #[test]
    fn symbols_stay_one_token() {
        let topic = |s| {
            Topic::new(
                Kind::Trade,
                Venue::new("x").unwrap(),
                Symbol::new(s).unwrap(),
            )
        };
        assert_eq!(stored(&topic("BRK.B")), "tick.trade.x.BRK%2EB");
        assert_eq!(live(&topic("BTC/USD")), "live.trade.x.BTC%2FUSD");
        assert_eq!(topic("BTC/USD").to_string(), "trade.x.BTC/USD");
        assert_eq!(topic("a.* >").to_string(), "trade.x.a%2E%2A%20%3E");
        assert_eq!(kv_token("BRK.B"), "BRK=2EB");
        for bad in [
            "tick.trade.x",
            "tick.trade.x.A.B",
            "tick.trade.x.A%2e",
            "tick.trade.x.A%41",
            "x.trade.x.A",
            "tick.fence.TICKS",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
