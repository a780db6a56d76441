//! The ticks that are published: real trades of a made-up venue, about 150 bytes as JSON.

use anyhow::Result;
use bytes::Bytes;
use schemas::codec;
use schemas::decimal::{Price, Size};
use schemas::id::{Symbol, Venue};
use schemas::tick::{Head, Side, Tick, Trade};
use schemas::time::UnixNanos;

/// What every topic begins with. Trades are lossless and never conflated: every delivery counts.
const TOPIC: &str = "trade.bench.S";
/// The pattern that all topics match.
pub(super) const EVERY_TOPIC: &str = "trade.bench.*";

/// The topic of this number.
pub(super) fn topic(number: usize) -> String {
    format!("{TOPIC}{number:04}")
}

/// The subject under which the stream stores that topic; no character of it needs escaping.
pub(super) fn subject(number: usize) -> String {
    format!("{}{}", schemas::subject::STORED, topic(number))
}

/// The number of a topic.
pub(super) fn number(topic: &str) -> Option<usize> {
    topic.strip_prefix(TOPIC)?.parse().ok()
}

/// Makes one trade after the other.
pub(super) struct Maker {
    trades: u64,
}

impl Maker {
    pub(super) const fn new() -> Self {
        Self { trades: 0 }
    }

    /// The next trade of this topic, in MessagePack as ingest writes it.
    ///
    /// # Errors
    ///
    /// None that the fixed values allow.
    pub(super) fn tick(&mut self, number: usize, scheduled: UnixNanos) -> Result<Bytes> {
        self.trades += 1;
        let cents = self.trades % 100;
        let mut head = Head::new(
            Venue::new("bench")?,
            Symbol::new(&format!("S{number:04}"))?,
            scheduled,
        );
        head.event = Some(scheduled);
        let trade = Trade {
            head,
            id: format!("{:010}", self.trades),
            price: format!("64250.{cents:02}").parse::<Price>()?,
            size: "0.0150".parse::<Size>()?,
            side: if cents.is_multiple_of(2) {
                Side::Buy
            } else {
                Side::Sell
            },
            conditions: None,
        };
        Ok(codec::to_msgpack(&Tick::from(trade))?.into())
    }
}

#[cfg(test)]
mod tests {
    use schemas::codec;
    use schemas::subject;
    use schemas::time::UnixNanos;
    use schemas::topic::Pattern;

    use super::{EVERY_TOPIC, Maker, number, topic};

    #[test]
    fn a_tick_is_about_150_bytes_of_json_and_a_quarter_less_of_messagepack() {
        let now = UnixNanos::new(1_763_712_345_678_901_234);
        let msgpack = Maker::new().tick(42, now).unwrap();
        let tick = codec::from_msgpack(&msgpack).unwrap();
        assert_eq!(tick.head().event, Some(now));
        let json = codec::to_json(&tick).unwrap();
        assert!((140..=160).contains(&json.len()), "{}", json.len());
        assert!(msgpack.len() * 4 <= json.len() * 3, "{}", msgpack.len());
    }

    #[test]
    fn topics_have_numbers_and_the_streams_spelling() {
        assert_eq!(number(&topic(417)), Some(417));
        assert_eq!(number("trade.sim.AAA"), None);
        let parsed = topic(417).parse().unwrap();
        assert_eq!(subject::stored(&parsed), super::subject(417));
        let pattern: Pattern = EVERY_TOPIC.parse().unwrap();
        assert!(pattern.matches(&topic(0)) && pattern.matches(&topic(100_000)));
    }
}
