//! What the measuring client reads out of a message: topic, sequences, time. No tick is parsed.

use std::collections::BTreeMap;

use memchr::memchr;
use schemas::time::UnixNanos;
use schemas::ws::Encoding;
use serde::Deserialize;

use super::{Dialect, nats};
use crate::bench::fanout::ticks;

/// One tick on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    /// The number of its topic.
    pub(super) topic: usize,
    pub(super) s: u64,
    pub(super) p: u64,
    /// When it should have been published, in nanoseconds since 1970.
    pub(super) scheduled: i64,
}

/// What matters of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Tick(Delivery),
    /// The epoch of the stream.
    Welcome(Option<String>),
    /// The op of this id was carried out: topics, and where they start if the server says so.
    Ack(u64, Vec<(usize, Option<u64>)>),
    /// A last value.
    Snapshot,
    /// Something was left out, and the server says so.
    Declared,
    /// Wants an answer, as a line of its own.
    Ping,
    /// The server refuses something: what it says.
    Refused(String),
    /// Nothing about ticks.
    Other,
}

/// A message that is not what servers say.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScanError {
    #[error("a message is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("a message is not MessagePack: {0}")]
    MessagePack(#[from] rmp_serde::decode::Error),
    #[error("a message is not an array of objects")]
    NotArray,
    #[error("what a server says is not a line of NATS")]
    NotLine,
    #[error("a message about {0:?}, which was not asked for")]
    Topic(String),
    #[error("a message without {0}")]
    Missing(&'static str),
}

/// Any message, with what is read of it.
#[derive(Debug, Deserialize)]
struct Element {
    t: String,
    #[serde(default)]
    id: u64,
    c: Option<String>,
    s: Option<u64>,
    p: Option<u64>,
    d: Option<Stamp>,
    #[serde(default)]
    ok: Vec<Accepted>,
    #[serde(default)]
    err: Vec<Refused>,
    #[serde(default)]
    streams: Vec<Stream>,
    message: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Stamp {
    te: Option<UnixNanos>,
}

#[derive(Debug, Deserialize)]
struct Accepted {
    c: String,
    #[serde(default)]
    pos: BTreeMap<String, u64>,
}

#[derive(Debug, Deserialize)]
struct Refused {
    message: String,
}

#[derive(Debug, Deserialize)]
struct Stream {
    e: String,
}

/// Hands over every item of a message: how many bytes at its end belong to the next one.
pub(super) fn scan(
    dialect: Dialect,
    payload: &[u8],
    mut take: impl FnMut(Item),
) -> Result<usize, ScanError> {
    match dialect {
        Dialect::Nats => return nats::scan(payload, &mut take),
        Dialect::Tickwire(Encoding::Json) => scan_json(payload, &mut take)?,
        Dialect::Tickwire(Encoding::MessagePack) => {
            for element in rmp_serde::from_slice::<Vec<Element>>(payload)? {
                take(element.read()?);
            }
        }
    }
    Ok(0)
}

fn scan_json(payload: &[u8], take: &mut impl FnMut(Item)) -> Result<(), ScanError> {
    let mut rest = payload.strip_prefix(b"[").ok_or(ScanError::NotArray)?;
    loop {
        rest = if let Some((delivery, rest)) = tick(rest) {
            take(Item::Tick(delivery));
            rest
        } else if rest == b"]" {
            return Ok(());
        } else {
            let mut elements = serde_json::Deserializer::from_slice(rest).into_iter::<Element>();
            let element = elements.next().ok_or(ScanError::NotArray)??;
            let end = elements.byte_offset();
            take(element.read()?);
            rest.get(end..).unwrap_or_default()
        };
        rest = match rest.split_first() {
            Some((b',', more)) => more,
            _ if rest == b"]" => return Ok(()),
            _ => return Err(ScanError::NotArray),
        };
    }
}

/// A tick in the form that servers here write it; whatever else is left to the parser.
fn tick(text: &[u8]) -> Option<(Delivery, &[u8])> {
    let (topic, rest) = number(text.strip_prefix(b"{\"t\":\"d\",\"c\":\"trade.bench.S")?)?;
    let (s, rest) = number(rest.strip_prefix(b"\",\"s\":")?)?;
    let (p, rest) = number(rest.strip_prefix(b",\"p\":")?)?;
    let (scheduled, rest) = trade(rest.strip_prefix(b",\"d\":")?)?;
    // Neither keys nor values of a trade hold a brace.
    let rest = rest.get(memchr(b'}', rest)?..)?;
    let rest = rest.strip_prefix(b"}}")?;
    let delivery = Delivery {
        topic: usize::try_from(topic).ok()?,
        s,
        p,
        scheduled,
    };
    Some((delivery, rest))
}

/// When a trade should have been published, and its fields behind that.
pub(super) fn trade(text: &[u8]) -> Option<(i64, &[u8])> {
    let rest = text.strip_prefix(b"{\"k\":\"trade\",\"v\":\"bench\",\"y\":\"S")?;
    let (_, rest) = number(rest)?;
    let (scheduled, rest) = number(rest.strip_prefix(b"\",\"te\":\"")?)?;
    Some((i64::try_from(scheduled).ok()?, rest))
}

/// The number that a text begins with.
pub(super) fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    let mut rest = text;
    while let Some((digit, more)) = rest.split_first()
        && digit.is_ascii_digit()
    {
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
        rest = more;
    }
    (rest.len() < text.len()).then_some((value, rest))
}

impl Element {
    fn read(self) -> Result<Item, ScanError> {
        Ok(match self.t.as_str() {
            "d" => Item::Tick(self.delivery()?),
            "welcome" => Item::Welcome(self.streams.into_iter().next().map(|stream| stream.e)),
            "ack" => match self.err.into_iter().next() {
                Some(refused) => Item::Refused(refused.message),
                None => Item::Ack(self.id, accepted(self.ok)?),
            },
            "snap" => Item::Snapshot,
            "skip" | "gap" | "reset" | "end" => Item::Declared,
            "err" | "drain" => Item::Refused(self.message.unwrap_or(self.t)),
            _ => Item::Other,
        })
    }

    fn delivery(self) -> Result<Delivery, ScanError> {
        let topic = self.c.ok_or(ScanError::Missing("c"))?;
        let stamp = self.d.ok_or(ScanError::Missing("d"))?;
        Ok(Delivery {
            topic: ticks::number(&topic).ok_or(ScanError::Topic(topic))?,
            s: self.s.ok_or(ScanError::Missing("s"))?,
            p: self.p.ok_or(ScanError::Missing("p"))?,
            scheduled: stamp.te.ok_or(ScanError::Missing("te"))?.get(),
        })
    }
}

fn accepted(topics: Vec<Accepted>) -> Result<Vec<(usize, Option<u64>)>, ScanError> {
    let read = |accepted: Accepted| {
        let number = ticks::number(&accepted.c).ok_or(ScanError::Topic(accepted.c))?;
        Ok((number, accepted.pos.values().next().copied()))
    };
    let single = |accepted: &Accepted| accepted.c != ticks::EVERY_TOPIC;
    topics.into_iter().filter(single).map(read).collect()
}

#[cfg(test)]
mod tests {
    use schemas::position::StreamSeq;
    use schemas::time::UnixNanos;
    use schemas::ws::{Encoding, push_data};

    use super::{Delivery, Dialect, Item, ScanError, scan, tick};
    use crate::bench::fanout::ticks::{self, Maker};

    /// A `d` message as fanout writes it, and what is to be read of it.
    fn message(encoding: Encoding, number: usize, s: u64) -> (Vec<u8>, Delivery) {
        let now = 1_763_712_345_678_901_234 + i64::try_from(s).unwrap();
        let msgpack = Maker::new().tick(number, UnixNanos::new(now)).unwrap();
        let mut tick = msgpack.to_vec();
        if encoding == Encoding::Json {
            tick.clear();
            schemas::codec::transcode(&msgpack, &mut tick).unwrap();
        }
        let mut out = Vec::new();
        let seqs = (StreamSeq::new(s), StreamSeq::new(s - 1));
        push_data(encoding, &mut out, &ticks::topic(number), seqs, &tick, 0);
        let delivery = Delivery {
            topic: number,
            s,
            p: s - 1,
            scheduled: now,
        };
        (out, delivery)
    }

    fn items(encoding: Encoding, payload: &[u8]) -> Result<Vec<Item>, ScanError> {
        let mut items = Vec::new();
        let left = scan(Dialect::Tickwire(encoding), payload, |item| {
            items.push(item);
        })?;
        assert_eq!(left, 0);
        Ok(items)
    }

    #[test]
    fn ticks_as_servers_write_them_need_no_parser() {
        let (text, delivery) = message(Encoding::Json, 417, 81_234);
        let found = tick(&text).unwrap();
        assert_eq!(found.0, delivery);
        assert!(found.1.is_empty());
    }

    #[test]
    fn both_encodings_say_the_same() {
        let expected: Vec<Item> = [(0, 5), (499, 1_000_000), (7, u64::from(u32::MAX) * 3)]
            .map(|(number, s)| Item::Tick(message(Encoding::Json, number, s).1))
            .into();
        let parts = |encoding| {
            [(0, 5), (499, 1_000_000), (7, u64::from(u32::MAX) * 3)]
                .map(|(number, s)| message(encoding, number, s).0)
        };
        let mut json = b"[".to_vec();
        json.extend(parts(Encoding::Json).join(&b','));
        json.push(b']');
        assert_eq!(items(Encoding::Json, &json).unwrap(), expected);
        let mut msgpack = vec![0xDD, 0, 0, 0, 3];
        msgpack.extend(parts(Encoding::MessagePack).concat());
        assert_eq!(items(Encoding::MessagePack, &msgpack).unwrap(), expected);
    }

    #[test]
    fn everything_else_is_parsed_wherever_it_stands() {
        let (text, delivery) = message(Encoding::Json, 3, 9);
        let mut payload = br#"[{"t":"welcome","conn":"1","node":"n","streams":[{"name":"TICKS","e":"18b9-0"}],"limits":{},"hb":15},{"t":"ack","id":1,"ok":[{"c":"trade.bench.S0003","pos":{"TICKS":8}},{"c":"trade.bench.S0004"},{"c":"trade.bench.*"}]},"#.to_vec();
        payload.extend_from_slice(&text);
        payload.extend_from_slice(
            br#",{"t":"hb","now":"1","cur":{"TICKS":"9.0000abcd"},"feeds":{}},{"t":"gap","c":"trade.bench.S0003","from":1,"to":2,"why":"budget"},{"t":"snap","c":"trade.bench.S0003","s":9,"d":{"te":"1"}},{"t":"err","id":2,"code":"rate_limited","message":"too fast"}]"#,
        );
        let expected = [
            Item::Welcome(Some("18b9-0".to_owned())),
            Item::Ack(1, vec![(3, Some(8)), (4, None)]),
            Item::Tick(delivery),
            Item::Other,
            Item::Declared,
            Item::Snapshot,
            Item::Refused("too fast".to_owned()),
        ];
        assert_eq!(items(Encoding::Json, &payload).unwrap(), expected);
        // With spaces no tick is recognized at sight; the parser finds the same.
        let spaced = String::from_utf8(text)
            .unwrap()
            .replace(",\"s\"", ", \"s\"");
        let spaced = format!("[{spaced}]");
        assert_eq!(
            items(Encoding::Json, spaced.as_bytes()).unwrap(),
            [Item::Tick(delivery)]
        );
    }

    #[test]
    fn nonsense_is_an_error() {
        for text in [
            "",
            "[",
            "{}",
            "[{\"t\":\"d\"}]",
            "[{\"t\":\"pong\"}",
            "[{\"t\":\"pong\"}{}]",
            "[1]",
            "[{\"t\":\"d\",\"c\":\"trade.sim.AAA\",\"s\":2,\"p\":1,\"d\":{\"te\":\"1\"}}]",
        ] {
            assert!(items(Encoding::Json, text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(items(Encoding::Json, b"[]").unwrap(), []);
        assert!(items(Encoding::MessagePack, &[0x91, 0x80]).is_err());
    }
}
