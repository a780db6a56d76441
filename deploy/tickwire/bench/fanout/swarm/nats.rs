//! NATS as the measuring client speaks it over WebSocket: lines, which messages cut anywhere.

use memchr::memchr;

use super::OPENING;
use super::scan::{Delivery, Item, ScanError, number, trade};
use crate::bench::fanout::ticks;

/// What ends a line, and a payload.
const END: &[u8] = b"\r\n";

/// What a client says first: who it is, what it holds, and a ping whose answer says that it does.
pub(super) fn opening(held: &[usize]) -> String {
    let mut lines = "CONNECT {\"verbose\":false,\"pedantic\":false}\r\n".to_owned();
    let subscription = |topic: &usize| format!("SUB {} {topic}\r\n", ticks::subject(*topic));
    lines.extend(held.iter().map(subscription));
    lines.push_str("PING\r\n");
    lines
}

/// The answer to a server's ping.
pub(super) const PONG: &[u8] = b"PONG\r\n";

/// Hands over everything that is whole: how many bytes at the end are not.
pub(super) fn scan(bytes: &[u8], take: &mut impl FnMut(Item)) -> Result<usize, ScanError> {
    let mut rest = bytes;
    while let Some(end) = memchr(b'\n', rest) {
        let (line, behind) = rest.split_at_checked(end + 1).unwrap_or((rest, &[]));
        let line = line.strip_suffix(END).ok_or(ScanError::NotLine)?;
        rest = if let Some(heading) = line.strip_prefix(b"MSG ") {
            let (topic, length) = address(heading).ok_or(ScanError::NotLine)?;
            let Some((payload, behind)) = behind.split_at_checked(length) else {
                return Ok(rest.len());
            };
            let Some((end, behind)) = behind.split_at_checked(END.len()) else {
                return Ok(rest.len());
            };
            if end != END {
                return Err(ScanError::NotLine);
            }
            take(Item::Tick(delivery(topic, payload)?));
            behind
        } else {
            take(word(line)?);
            behind
        };
    }
    Ok(rest.len())
}

/// The topic of a message, and how long it is.
fn address(heading: &[u8]) -> Option<(usize, usize)> {
    let (topic, rest) = number(heading.strip_prefix(b"tick.trade.bench.S")?)?;
    let (_subscription, rest) = number(rest.strip_prefix(b" ")?)?;
    let (length, rest) = number(rest.strip_prefix(b" ")?)?;
    let whole = rest.is_empty().then_some(length)?;
    Some((usize::try_from(topic).ok()?, usize::try_from(whole).ok()?))
}

/// NATS numbers no messages. When a tick was due does instead: no two are due at once, so doubles and
/// disorder show. A hole does not, and is counted as lost in the end.
fn delivery(topic: usize, payload: &[u8]) -> Result<Delivery, ScanError> {
    let (scheduled, _) = trade(payload).ok_or(ScanError::Missing("te"))?;
    Ok(Delivery {
        topic,
        s: u64::try_from(scheduled).map_err(|_| ScanError::Missing("te"))?,
        p: 0,
        scheduled,
    })
}

fn word(line: &[u8]) -> Result<Item, ScanError> {
    Ok(match line {
        b"PONG" => Item::Ack(OPENING, Vec::new()),
        b"PING" => Item::Ping,
        b"+OK" => Item::Other,
        _ if line.starts_with(b"INFO ") => Item::Other,
        _ if line.starts_with(b"-ERR") => Item::Refused(String::from_utf8_lossy(line).into_owned()),
        _ => return Err(ScanError::NotLine),
    })
}

#[cfg(test)]
mod tests {
    use schemas::codec;
    use schemas::time::UnixNanos;

    use super::{OPENING, opening, scan};
    use crate::bench::fanout::swarm::Dialect;
    use crate::bench::fanout::swarm::scan::{Delivery, Item, ScanError};
    use crate::bench::fanout::swarm::tally::Ledger;
    use crate::bench::fanout::ticks::Maker;

    const START: i64 = 1_763_712_345_678_901_234;

    /// What a server sends for the first trades of a maker, one for each of these topics, due from
    /// this time on.
    fn messages(topics: &[usize], start: i64) -> (Vec<u8>, Vec<Item>) {
        let (mut maker, mut bytes, mut items) = (Maker::new(), Vec::new(), Vec::new());
        for (topic, scheduled) in topics.iter().zip(start..) {
            let msgpack = maker.tick(*topic, UnixNanos::new(scheduled)).unwrap();
            let mut json = Vec::new();
            codec::transcode(&msgpack, &mut json).unwrap();
            let heading = format!(
                "MSG tick.trade.bench.S{topic:04} {topic} {}\r\n",
                json.len()
            );
            bytes.extend([heading.as_bytes(), &json, b"\r\n"].concat());
            items.push(Item::Tick(Delivery {
                topic: *topic,
                s: scheduled.unsigned_abs(),
                p: 0,
                scheduled,
            }));
        }
        (bytes, items)
    }

    fn items(bytes: &[u8]) -> Result<(Vec<Item>, usize), ScanError> {
        let mut items = Vec::new();
        let left = scan(bytes, &mut |item| items.push(item))?;
        Ok((items, left))
    }

    #[test]
    fn wherever_the_stream_is_cut_nothing_is_lost_or_told_twice() {
        let (bytes, expected) = messages(&[3, 499, 0], START);
        let (mut before, mut seen) = (0, Vec::new());
        for cut in 0..=bytes.len() {
            let (found, left) = items(&bytes[..cut]).unwrap();
            let told = cut - left;
            assert!(told >= before && expected.starts_with(&found), "{cut}");
            let (rest, left) = items(&bytes[told..]).unwrap();
            assert_eq!(left, 0, "{cut}");
            (before, seen) = (told, [found, rest].concat());
            assert!(seen == expected, "{cut}");
        }
        assert_eq!((before, seen.len()), (bytes.len(), 3));
    }

    #[test]
    fn what_is_published_later_is_new_and_what_comes_again_is_not() {
        let mut ledger = Ledger::new(Dialect::Nats, 1, &[vec![0]]).unwrap();
        for start in [START, START + 2, START] {
            let (bytes, _) = messages(&[0, 0], start);
            ledger.take(0, &bytes, UnixNanos::new(START)).unwrap();
        }
        let tally = &ledger.tally;
        assert_eq!((tally.deliveries, tally.duplicates), (4, 2));
        assert_eq!((tally.holes, tally.strays), (0, 0));
    }

    #[test]
    fn everything_else_that_a_server_says_is_a_line() {
        let text = b"INFO {\"headers\":true} \r\nPONG\r\nPING\r\n+OK\r\n-ERR 'Slow Consumer'\r\nPI";
        let expected = [
            Item::Other,
            Item::Ack(OPENING, Vec::new()),
            Item::Ping,
            Item::Other,
            Item::Refused("-ERR 'Slow Consumer'".to_owned()),
        ];
        assert_eq!(items(text).unwrap(), (expected.to_vec(), 2));
        for nonsense in [
            "PONG\n",
            "HELLO\r\n",
            "MSG\r\n",
            "MSG tick.trade.sim.AAA 1 1\r\nx\r\n",
            "MSG tick.trade.bench.S0001 1\r\n",
            "MSG tick.trade.bench.S0001 1 2\r\n{}\r\n",
        ] {
            assert!(items(nonsense.as_bytes()).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn topics_are_held_by_their_subjects() {
        let expected = "CONNECT {\"verbose\":false,\"pedantic\":false}\r\n\
                        SUB tick.trade.bench.S0007 7\r\nSUB tick.trade.bench.S0042 42\r\nPING\r\n";
        assert_eq!(opening(&[7, 42]), expected);
    }
}
