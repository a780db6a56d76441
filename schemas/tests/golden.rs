//! Golden vectors: what version 1 of the contract looks like, byte for byte, in both encodings.
//!
//! The files are append-only. A vector that no longer passes is a change that breaks every client.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::too_many_lines,
    reason = "a test fails by panicking, and a table is as long as what it lists"
)]

use std::collections::BTreeMap;

use schemas::codec::{from_json, from_msgpack, to_json, to_msgpack, transcode};
use schemas::id::{Interval, Kind, Symbol, Venue};
use schemas::position::{Cursor, Epoch, StreamSeq};
use schemas::tick::{
    Bar, Book, Feed, FeedState, Flag, Flow, Form, Head, Index, Inst, Level, Quote, Side, Stat,
    Status, Tick, Trade, TradingState, VenueGap,
};
use schemas::time::UnixNanos;
use schemas::ws::{
    Accepted, ClientOp, Conflate, Encoding, ErrorCode, FeedHealth, From, GapReason, Limits,
    Refused, ServerMessage, Skipped, StreamInfo, Subscribe, push_data, push_message, push_snapshot,
    read_ops,
};

const TICKS: &str = include_str!("golden/ticks.txt");
const SERVER: &str = include_str!("golden/server.txt");
const CLIENT: &str = include_str!("golden/client.txt");

/// Name, JSON and MessagePack of every vector of a file.
fn vectors(file: &str) -> BTreeMap<String, (String, Vec<u8>)> {
    let mut vectors = BTreeMap::new();
    for block in file.trim().split("\n\n") {
        let lines: Vec<&str> = block
            .lines()
            .filter(|line| !line.starts_with('#'))
            .collect();
        let [name, json, hex] = lines.as_slice() else {
            panic!("a vector is a name, JSON and hex: {block}");
        };
        let bytes = hex.as_bytes().chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair).unwrap();
            u8::from_str_radix(pair, 16).unwrap()
        });
        let value = ((*json).to_owned(), bytes.collect());
        let before = vectors.insert((*name).to_owned(), value);
        assert_eq!(before, None, "{name} is there twice");
    }
    vectors
}

fn text<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

const EVENT: i64 = 1_700_000_000_123_456_789;

fn bare(symbol: &str) -> Head {
    let (venue, symbol) = (Venue::new("x").unwrap(), Symbol::new(symbol).unwrap());
    Head::new(venue, symbol, UnixNanos::new(EVENT + 1_000_000))
}

fn full(symbol: &str) -> Head {
    Head {
        event: Some(UnixNanos::new(EVENT)),
        venue_seq: Some(9_007_199_254_740_991),
        flags: vec![Flag::Late, Flag::Backfill, Flag::Refresh, Flag::Synthetic],
        ..bare(symbol)
    }
}

/// What the vectors `<kind> full` and `<kind> least` mean.
fn meaning(kind: Kind) -> Option<[Tick; 2]> {
    let levels = || {
        vec![
            Level(text("100.50"), text("3")),
            Level(text("100"), text("0.7")),
        ]
    };
    let start = UnixNanos::new(1_700_000_000_000_000_000);
    Some(match kind {
        Kind::Trade => [
            Trade {
                head: full("BRK.B"),
                id: "41".to_owned(),
                price: text("67123.4500"),
                size: text("0.00012000"),
                side: Side::Sell,
                conditions: Some("@ F".to_owned()),
            }
            .into(),
            Trade {
                head: bare("A"),
                id: "a-1".to_owned(),
                price: text("-37.63"),
                size: text("1"),
                side: Side::Unknown,
                conditions: None,
            }
            .into(),
        ],
        Kind::Quote => [
            Quote {
                head: full("BTC/USD"),
                bid: Some(text("1.10")),
                bid_size: Some(text("20")),
                ask: Some(text("1.2")),
                ask_size: Some(text("0")),
            }
            .into(),
            Quote {
                head: bare("A"),
                bid: None,
                bid_size: None,
                ask: None,
                ask_size: None,
            }
            .into(),
        ],
        Kind::Book => [
            Book {
                head: full("A"),
                bids: levels(),
                asks: levels(),
            }
            .into(),
            Book {
                head: bare("A"),
                bids: Vec::new(),
                asks: Vec::new(),
            }
            .into(),
        ],
        Kind::Stat => [
            Stat {
                head: full("A"),
                open: Some(text("1.0")),
                high: Some(text("4.0")),
                low: Some(text("0.5")),
                last: Some(text("2.0")),
                previous_close: Some(text("3.0")),
                volume: Some(text("12")),
                turnover: Some(text("24.5")),
                vwap: Some(text("2.04166667")),
                open_interest: Some(text("7")),
                change: Some(text("-1.0")),
                change_percent: Some(text("-33.33333333")),
            }
            .into(),
            Stat {
                head: bare("A"),
                open: None,
                high: None,
                low: None,
                last: None,
                previous_close: None,
                volume: None,
                turnover: None,
                vwap: None,
                open_interest: None,
                change: None,
                change_percent: None,
            }
            .into(),
        ],
        Kind::Bar => [
            Bar {
                head: full("A"),
                interval: Interval::Minute1,
                start,
                open: text("1"),
                high: text("4"),
                low: text("0.5"),
                close: text("2"),
                volume: text("12.5"),
                trades: 3,
            }
            .into(),
            Bar {
                head: bare("A"),
                interval: Interval::Day1,
                start,
                open: text("1"),
                high: text("1"),
                low: text("1"),
                close: text("1"),
                volume: text("0"),
                trades: 1,
            }
            .into(),
        ],
        Kind::Form => [
            Form {
                head: full("A"),
                interval: Interval::Hour1,
                start,
                open: text("1"),
                high: text("4"),
                low: text("0.5"),
                close: text("2"),
                volume: text("12.5"),
                trades: 3,
            }
            .into(),
            Form {
                head: bare("A"),
                interval: Interval::Minute15,
                start,
                open: text("1"),
                high: text("1"),
                low: text("1"),
                close: text("1"),
                volume: text("0"),
                trades: 1,
            }
            .into(),
        ],
        Kind::Index => [
            Index {
                head: full("VN30"),
                value: text("1234.56"),
                change: Some(text("-3.2")),
                change_percent: Some(text("-0.26")),
                advances: Some(10),
                unchanged: Some(5),
                declines: Some(15),
                volume: Some(text("1000000")),
                turnover: Some(text("25000000000")),
            }
            .into(),
            Index {
                head: bare("VN30"),
                value: text("0"),
                change: None,
                change_percent: None,
                advances: None,
                unchanged: None,
                declines: None,
                volume: None,
                turnover: None,
            }
            .into(),
        ],
        Kind::Flow => [
            Flow {
                head: full("A"),
                bought: Some(text("100")),
                sold: Some(text("50")),
                bought_value: Some(text("1000.5")),
                sold_value: Some(text("500.25")),
                room: Some(text("9000")),
            }
            .into(),
            Flow {
                head: bare("A"),
                bought: None,
                sold: None,
                bought_value: None,
                sold_value: None,
                room: None,
            }
            .into(),
        ],
        Kind::Status => [
            Status {
                head: full("A"),
                state: TradingState::PreOpen,
                reason: Some("news".to_owned()),
            }
            .into(),
            Status {
                head: bare("A"),
                state: TradingState::Halt,
                reason: None,
            }
            .into(),
        ],
        Kind::Feed => [
            Feed {
                head: full("tape"),
                state: FeedState::Gap,
                detail: Some("the venue skipped trades".to_owned()),
                gap: Some(VenueGap {
                    symbol: Some(Symbol::new("A").unwrap()),
                    after_id: Some("7".to_owned()),
                    until_id: Some("9".to_owned()),
                    from: Some(UnixNanos::new(EVENT)),
                    to: Some(UnixNanos::new(EVENT + 1)),
                    filled: false,
                }),
                collapsed: Some(2),
            }
            .into(),
            Feed {
                head: bare("tape"),
                state: FeedState::Live,
                detail: None,
                gap: None,
                collapsed: None,
            }
            .into(),
        ],
        Kind::Inst => [
            Inst {
                head: full("ESZ6"),
                class: "option".to_owned(),
                name: Some("Größe \"A\"".to_owned()),
                base: Some("ES".to_owned()),
                quote: Some("USD".to_owned()),
                tick_size: Some(text("0.25")),
                lot: Some(text("1")),
                session: Some("0930-1600".to_owned()),
                time_zone: Some("America/New_York".to_owned()),
                underlying: Some("SPX".to_owned()),
                expiry: Some(start),
                strike: Some(text("5000")),
                aliases: Some(vec!["ES1!".to_owned()]),
            }
            .into(),
            Inst {
                head: bare("A"),
                class: "spot".to_owned(),
                name: None,
                base: None,
                quote: None,
                tick_size: None,
                lot: None,
                session: None,
                time_zone: None,
                underlying: None,
                expiry: None,
                strike: None,
                aliases: None,
            }
            .into(),
        ],
        Kind::Ind | Kind::Alert => return None,
    })
}

#[test]
fn every_kind_has_its_bytes() {
    let vectors = vectors(TICKS);
    let mut known = 0;
    for kind in Kind::ALL {
        let Some(ticks) = meaning(*kind) else {
            continue;
        };
        for (tick, name) in ticks.into_iter().zip(["full", "least"]) {
            let name = format!("{kind} {name}");
            let Some((json, bytes)) = vectors.get(&name) else {
                panic!("{name} has no vector");
            };
            assert_eq!(from_json(json.as_bytes()).unwrap(), tick, "{name}");
            assert_eq!(from_msgpack(bytes).unwrap(), tick, "{name}");
            assert_eq!(to_json(&tick).unwrap(), json.as_bytes(), "{name}");
            assert!(to_msgpack(&tick).unwrap() == *bytes, "{name}");
            let mut transcoded = Vec::new();
            transcode(bytes, &mut transcoded).unwrap();
            assert_eq!(transcoded, json.as_bytes(), "{name}");
            let later = json.replacen('{', r#"{"new":{"in":[2]},"#, 1);
            assert_eq!(from_json(later.as_bytes()).unwrap(), tick, "{name}");
            known += 1;
        }
    }
    assert_eq!(known, vectors.len(), "a vector that nothing reads");
}

fn seqs(name: &str, seq: u64) -> BTreeMap<String, StreamSeq> {
    [(name.to_owned(), StreamSeq::new(seq))].into()
}

fn epoch() -> Epoch {
    Epoch::new(UnixNanos::new(EVENT), 2)
}

fn cursor() -> Cursor {
    Cursor::new(StreamSeq::new(41), UnixNanos::new(EVENT))
}

/// What the vectors of server messages mean.
fn server(name: &str) -> ServerMessage<Tick> {
    let [tick, _] = meaning(Kind::Trade).unwrap();
    let (c, message) = (
        "trade.x.BRK%2EB".to_owned(),
        "topics: 1,024 at most".to_owned(),
    );
    match name {
        "welcome" => ServerMessage::Welcome {
            conn: "c1".to_owned(),
            node: "fanout-0".to_owned(),
            streams: vec![StreamInfo {
                name: "TICKS".to_owned(),
                e: epoch(),
            }],
            limits: Limits {
                topics: 1_024,
                patterns: 16,
                message_bytes: 131_072,
            },
            hb: 15,
        },
        "ack" => ServerMessage::Ack {
            id: Some(7),
            ok: vec![Accepted {
                c,
                pos: seqs("TICKS", 40),
            }],
            err: vec![Refused {
                c: "x".to_owned(),
                code: ErrorCode::TopicLimit,
                message,
            }],
        },
        "snap" => ServerMessage::Snap {
            c,
            s: StreamSeq::new(41),
            d: tick,
            x: 0,
        },
        "d" => ServerMessage::D {
            c,
            s: StreamSeq::new(41),
            p: StreamSeq::new(12),
            d: tick,
            x: 0,
        },
        "d of a second stream" => ServerMessage::D {
            c,
            s: StreamSeq::new(4_294_967_296),
            p: StreamSeq::ZERO,
            d: tick,
            x: 1,
        },
        "skip" => ServerMessage::Skip {
            i: vec![
                Skipped("quote.x.A".to_owned(), StreamSeq::new(40), Some(3)),
                Skipped("quote.x.B".to_owned(), StreamSeq::new(41), None),
            ],
            x: 0,
        },
        "gap" => ServerMessage::Gap {
            c,
            from: StreamSeq::new(3),
            to: StreamSeq::new(30),
            why: GapReason::Retention,
            fill: "/v1/ticks?topic=trade.x.BRK%252EB".to_owned(),
            x: 0,
        },
        "reset" => ServerMessage::Reset {
            st: Some("TICKS".to_owned()),
            c: None,
            e: epoch(),
            s: StreamSeq::ZERO,
        },
        "reset of a topic" => ServerMessage::Reset {
            st: None,
            c: Some(c),
            e: epoch(),
            s: StreamSeq::new(7),
        },
        "end" => ServerMessage::End {
            c,
            code: ErrorCode::NotEntitled,
            message,
        },
        "hb" => ServerMessage::Hb {
            now: UnixNanos::new(EVENT),
            cur: [("TICKS".to_owned(), cursor())].into(),
            feeds: [(
                "x".to_owned(),
                FeedHealth {
                    state: "live".to_owned(),
                    age_ms: 12,
                },
            )]
            .into(),
        },
        "drain" => ServerMessage::Drain { close_in_ms: 4_000 },
        "pong" => ServerMessage::Pong { id: Some(9) },
        "err" => ServerMessage::Err {
            id: None,
            code: ErrorCode::RateLimited,
            message,
            retry_after_ms: Some(250),
        },
        other => panic!("{other} has no meaning here"),
    }
}

/// Writes as the server does: ticks are embedded as bytes.
fn write(encoding: Encoding, message: &ServerMessage<Tick>) -> Vec<u8> {
    let mut out = Vec::new();
    let encoded = |tick: &Tick| match encoding {
        Encoding::Json => to_json(tick).unwrap(),
        Encoding::MessagePack => to_msgpack(tick).unwrap(),
    };
    if let ServerMessage::D { c, s, p, d, x } = message {
        push_data(encoding, &mut out, c, (*s, *p), &encoded(d), *x);
    } else if let ServerMessage::Snap { c, s, d, x } = message {
        push_snapshot(encoding, &mut out, c, *s, &encoded(d), *x);
    } else {
        push_message(encoding, &mut out, message).unwrap();
    }
    out
}

#[test]
fn every_server_message_has_its_bytes() {
    let vectors = vectors(SERVER);
    let tags = [
        "welcome", "ack", "snap", "d", "skip", "gap", "reset", "end", "hb", "drain", "pong", "err",
    ];
    for tag in tags {
        assert!(vectors.contains_key(tag), "{tag} has no vector");
    }
    for (name, (json, bytes)) in &vectors {
        let message = server(name);
        let read: ServerMessage<Tick> = serde_json::from_str(json).unwrap();
        assert_eq!(read, message, "{name}");
        let read: ServerMessage<Tick> = rmp_serde::from_slice(bytes).unwrap();
        assert_eq!(read, message, "{name}");
        assert_eq!(write(Encoding::Json, &message), json.as_bytes(), "{name}");
        assert!(write(Encoding::MessagePack, &message) == *bytes, "{name}");
    }
}

/// What the vectors of client operations mean.
fn client(name: &str) -> ClientOp {
    let topics = vec!["trade.x.BRK%2EB".to_owned(), "quote.x.*".to_owned()];
    let subscribe = |conflate, from| Subscribe {
        id: Some(7),
        topics: topics.clone(),
        snapshot: Some(false),
        conflate,
        from,
    };
    let from = From {
        e: epoch(),
        c: Some(cursor()),
        s: seqs("quote.x.A", 40),
    };
    match name {
        "subscribe" => ClientOp::Subscribe(subscribe(
            Conflate::None,
            [("TICKS".to_owned(), from)].into(),
        )),
        "subscribe at an interval" => {
            ClientOp::Subscribe(subscribe(Conflate::Millis(250), BTreeMap::new()))
        }
        "subscribe to little" => ClientOp::Subscribe(Subscribe {
            topics: topics.clone(),
            ..Subscribe::default()
        }),
        "unsubscribe" => ClientOp::Unsubscribe {
            id: Some(8),
            topics,
        },
        "list" => ClientOp::List { id: Some(9) },
        "ping" => ClientOp::Ping { id: None },
        "auth" => ClientOp::Auth { id: Some(1) },
        other => panic!("{other} has no meaning here"),
    }
}

#[test]
fn every_client_operation_is_read_from_its_bytes() {
    let vectors = vectors(CLIENT);
    for op in ["subscribe", "unsubscribe", "list", "ping", "auth"] {
        assert!(vectors.contains_key(op), "{op} has no vector");
    }
    for (name, (json, bytes)) in &vectors {
        let wanted = [Ok(client(name))];
        let read = read_ops(Encoding::Json, json.as_bytes()).unwrap();
        assert_eq!(read, wanted, "{name}");
        let read = read_ops(Encoding::MessagePack, bytes).unwrap();
        assert_eq!(read, wanted, "{name}");
    }
}
