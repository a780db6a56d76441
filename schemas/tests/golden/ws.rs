//! Every WebSocket operation and message, as the vectors under `ws/` say that it is written.

use std::collections::{BTreeMap, BTreeSet};

use schemas::codec::{to_json, to_msgpack, transcode};
use schemas::id::Kind;
use schemas::position::StreamSeq;
use schemas::tick::Tick;
use schemas::ws::{
    Accepted, ClientOp, Conflate, Encoding, ErrorCode, FeedHealth, From, GapReason, Limits,
    Refused, ServerMessage, Skipped, StreamInfo, Subscribe, push_data, push_message, push_snapshot,
    read_ops,
};

use super::ticks::{parsed, tick};
use super::vector::{self, Vector, widened_json, widened_msgpack};

const CLIENT: &str = "ws/client";
const SERVER: &str = "ws/server";

type Message = ServerMessage<Tick>;
type Named<T> = Vec<(&'static str, Vec<T>)>;

fn seq(number: u64) -> StreamSeq {
    StreamSeq::new(number)
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn map<T, const N: usize>(entries: [(&str, T); N]) -> BTreeMap<String, T> {
    entries
        .map(|(key, value)| (key.to_owned(), value))
        .into_iter()
        .collect()
}

fn one<T>(name: &'static str, message: T) -> (&'static str, Vec<T>) {
    (name, vec![message])
}

/// The operation's name and what its vectors say. A new one does not compile until it has some.
fn operations(example: &ClientOp) -> (&'static str, Named<ClientOp>) {
    match example {
        ClientOp::Subscribe(_) => ("subscribe", subscriptions()),
        ClientOp::Unsubscribe { .. } => {
            let gone = |id, topics| ClientOp::Unsubscribe { id, topics };
            let both = texts(&["quote.binance.*", "trade.x.A"]);
            let named = vec![
                one("full", gone(Some(8), both)),
                one("minimal", gone(None, texts(&["trade.x.A"]))),
            ];
            ("unsubscribe", named)
        }
        ClientOp::List { .. } => {
            let list = |id| ClientOp::List { id };
            (
                "list",
                vec![one("full", list(Some(9))), one("minimal", list(None))],
            )
        }
        ClientOp::Ping { .. } => {
            let ping = |id| ClientOp::Ping { id };
            let named = vec![
                one("full", ping(Some(9))),
                one("minimal", ping(None)),
                (
                    "two ops",
                    vec![ping(Some(1)), ClientOp::List { id: Some(2) }],
                ),
            ];
            ("ping", named)
        }
        ClientOp::Auth { .. } => {
            let auth = |id| ClientOp::Auth { id };
            (
                "auth",
                vec![one("key", auth(Some(1))), one("token", auth(None))],
            )
        }
    }
}

fn subscriptions() -> Named<ClientOp> {
    let full = Subscribe {
        id: Some(7),
        topics: texts(&["trade.binance.BTCUSDT", "quote.binance.*", "bar.>"]),
        snapshot: Some(false),
        conflate: Conflate::Millis(250),
        from: map([(
            "TICKS",
            From {
                e: parsed("18867251edfa0000-0"),
                c: Some(parsed("1234567.0000ff1a")),
                s: map([("trade.binance.BTCUSDT", seq(1_234_570))]),
            },
        )]),
    };
    let minimal = Subscribe {
        topics: texts(&["stat.nyse.BRK%2EB"]),
        ..Subscribe::default()
    };
    let auto = Subscribe {
        id: Some(u64::MAX),
        topics: texts(&["quote.x.A"]),
        snapshot: Some(true),
        conflate: Conflate::Auto,
        from: BTreeMap::new(),
    };
    let beginning = From {
        e: parsed("0-1"),
        c: Some(parsed("0")),
        s: BTreeMap::new(),
    };
    let whole = Subscribe {
        topics: texts(&["trade.x.>"]),
        conflate: Conflate::None,
        from: map([("TICKS", beginning)]),
        ..Subscribe::default()
    };
    vec![
        one("full", ClientOp::Subscribe(full)),
        one("minimal", ClientOp::Subscribe(minimal)),
        one("auto", ClientOp::Subscribe(auto)),
        one("from the beginning", ClientOp::Subscribe(whole)),
    ]
}

fn welcomes() -> Named<Message> {
    let stream = |name: &str, epoch| StreamInfo {
        name: name.to_owned(),
        e: parsed(epoch),
    };
    let welcome = ServerMessage::Welcome {
        conn: "c-1".to_owned(),
        node: "n-1".to_owned(),
        streams: vec![
            stream("TICKS", "18867251edfa0000-0"),
            stream("TICKS_PSX", "18867251edfa0000-a"),
        ],
        limits: Limits {
            topics: 1_024,
            patterns: 16,
            message_bytes: 131_072,
        },
        hb: 15,
    };
    vec![one("full", welcome)]
}

fn acks() -> Named<Message> {
    let accepted = |c: &str, pos| Accepted {
        c: c.to_owned(),
        pos,
    };
    let heads = map([("TICKS", seq(1_234_567)), ("TICKS_PSX", seq(89))]);
    let refused = Refused {
        c: "dance.x.A".to_owned(),
        code: ErrorCode::UnknownTopic,
        message: "no such kind".to_owned(),
    };
    let full = ServerMessage::Ack {
        id: Some(7),
        ok: vec![
            accepted("trade.binance.BTCUSDT", heads),
            accepted("quote.binance.*", BTreeMap::new()),
        ],
        err: vec![refused],
    };
    let minimal = ServerMessage::Ack {
        id: None,
        ok: Vec::new(),
        err: Vec::new(),
    };
    vec![one("full", full), one("minimal", minimal)]
}

fn snapshots() -> Named<Message> {
    let snap = |c: &str, s, name, x| ServerMessage::Snap {
        c: c.to_owned(),
        s: seq(s),
        d: tick(Kind::Quote, name),
        x,
    };
    vec![
        one("full", snap("quote.binance.BTCUSDT", 1 << 32, "full", 1)),
        one("minimal", snap("quote.x.A", 1, "minimal", 0)),
    ]
}

fn deliveries() -> Named<Message> {
    let deliver = |d: Tick, s, p, x| ServerMessage::D {
        c: d.topic().to_string(),
        s: seq(s),
        p: seq(p),
        d,
        x,
    };
    let trade = |name| tick(Kind::Trade, name);
    let quote = tick(Kind::Quote, "minimal");
    vec![
        one("full", deliver(trade("full"), 1_234_570, 1_234_567, 1)),
        one("minimal", deliver(trade("minimal"), 1, 0, 0)),
        one("symbol", deliver(trade("symbol"), 3, 2, 0)),
        (
            "two ticks",
            vec![deliver(trade("minimal"), 5, 1, 0), deliver(quote, 6, 2, 0)],
        ),
    ]
}

fn skips() -> Named<Message> {
    let skipped = |c: &str, to, n| Skipped(c.to_owned(), seq(to), n);
    let full = vec![
        skipped("quote.x.A", 12, Some(3)),
        skipped("quote.x.B", 13, None),
    ];
    let minimal = vec![skipped("quote.x.A", 12, None)];
    vec![
        one("full", ServerMessage::Skip { i: full, x: 1 }),
        one("minimal", ServerMessage::Skip { i: minimal, x: 0 }),
    ]
}

fn gaps() -> Named<Message> {
    let gap = |(from, to), why, fill: &str, x| ServerMessage::Gap {
        c: "trade.x.A".to_owned(),
        from: seq(from),
        to: seq(to),
        why,
        fill: fill.to_owned(),
        x,
    };
    let budget = "/v1/ticks?stream=TICKS&topic=trade.x.A&epoch=0-1&after=100&until=70000";
    let retention = "/v1/ticks?stream=TICKS&topic=trade.x.A&epoch=0-0&until=2";
    vec![
        one("full", gap((101, 70_000), GapReason::Budget, budget, 1)),
        one("minimal", gap((1, 2), GapReason::Retention, retention, 0)),
        one(
            "pattern",
            ServerMessage::Gap {
                c: "trade.x.*".to_owned(),
                from: seq(3),
                to: seq(9),
                why: GapReason::Retention,
                fill: String::new(),
                x: 0,
            },
        ),
    ]
}

fn resets() -> Named<Message> {
    let reset = |st: Option<&str>, c: Option<&str>, s: u64| ServerMessage::Reset {
        st: st.map(str::to_owned),
        c: c.map(str::to_owned),
        e: parsed("18867251edfa0000-1"),
        s: StreamSeq::new(s),
    };
    vec![
        one("stream", reset(Some("TICKS"), None, 0)),
        one("topic", reset(None, Some("trade.x.A"), 0)),
        one("beginning", reset(Some("TICKS"), None, 7)),
    ]
}

fn heartbeats() -> Named<Message> {
    let health = |state: &str, age_ms| FeedHealth {
        state: state.to_owned(),
        age_ms,
    };
    let full = ServerMessage::Hb {
        now: schemas::time::UnixNanos::new(1_767_225_600_123_456_789),
        cur: map([
            ("TICKS", parsed("1234570.0000ff1a")),
            ("TICKS_PSX", parsed("0")),
        ]),
        feeds: map([
            ("binance", health("live", 1_200)),
            ("psx", health("reconnecting", 0)),
        ]),
    };
    let minimal = ServerMessage::Hb {
        now: schemas::time::UnixNanos::EPOCH,
        cur: BTreeMap::new(),
        feeds: BTreeMap::new(),
    };
    vec![one("full", full), one("minimal", minimal)]
}

fn errors() -> Named<Message> {
    let error = |id, code, message: &str, retry_after_ms| ServerMessage::Err {
        id,
        code,
        message: message.to_owned(),
        retry_after_ms,
    };
    let codes = [
        (ErrorCode::BadRequest, "bad_request"),
        (ErrorCode::Unauthenticated, "unauthenticated"),
        (ErrorCode::NotEntitled, "not_entitled"),
        (ErrorCode::UnknownTopic, "unknown_topic"),
        (ErrorCode::TopicLimit, "topic_limit"),
        (ErrorCode::ConnectionLimit, "connection_limit"),
        (ErrorCode::TooLarge, "too_large"),
        (ErrorCode::RateLimited, "rate_limited"),
        (ErrorCode::PositionLost, "position_lost"),
        (ErrorCode::Internal, "internal"),
        (ErrorCode::Unavailable, "unavailable"),
    ];
    let every = codes.map(|(code, name)| error(None, code, name, None));
    let limited = error(
        Some(3),
        ErrorCode::RateLimited,
        "more than 10 ops a second",
        Some(400),
    );
    let bare = error(
        None,
        ErrorCode::BadRequest,
        "message must be an array of objects",
        None,
    );
    vec![
        one("full", limited),
        one("minimal", bare),
        ("every code", every.into()),
    ]
}

/// The tag of a message. A new one does not compile until it has one here.
const fn tag(message: &Message) -> &'static str {
    match message {
        ServerMessage::Welcome { .. } => "welcome",
        ServerMessage::Ack { .. } => "ack",
        ServerMessage::Snap { .. } => "snap",
        ServerMessage::D { .. } => "d",
        ServerMessage::Skip { .. } => "skip",
        ServerMessage::Gap { .. } => "gap",
        ServerMessage::Reset { .. } => "reset",
        ServerMessage::End { .. } => "end",
        ServerMessage::Hb { .. } => "hb",
        ServerMessage::Drain { .. } => "drain",
        ServerMessage::Pong { .. } => "pong",
        ServerMessage::Err { .. } => "err",
    }
}

fn messages() -> Vec<Named<Message>> {
    let end = ServerMessage::End {
        c: "trade.x.A".to_owned(),
        code: ErrorCode::NotEntitled,
        message: "the key no longer covers this topic".to_owned(),
    };
    let drain = ServerMessage::Drain { close_in_ms: 2_500 };
    let pong = |id| ServerMessage::Pong { id };
    vec![
        welcomes(),
        acks(),
        snapshots(),
        deliveries(),
        skips(),
        gaps(),
        resets(),
        vec![one("full", end)],
        heartbeats(),
        vec![one("full", drain)],
        vec![one("full", pong(Some(9))), one("minimal", pong(None))],
        errors(),
    ]
}

/// Writes a frame as a server does: ticks are embedded as the bytes that they already are.
fn frame(encoding: Encoding, messages: &[Message]) -> Vec<u8> {
    let encode = |tick| match encoding {
        Encoding::Json => to_json(tick).unwrap(),
        Encoding::MessagePack => to_msgpack(tick).unwrap(),
    };
    let mut items = Vec::new();
    for message in messages {
        if encoding == Encoding::Json && !items.is_empty() {
            items.push(b',');
        }
        if let ServerMessage::D { c, s, p, d, x } = message {
            push_data(encoding, &mut items, c, (*s, *p), &encode(d), *x);
        } else if let ServerMessage::Snap { c, s, d, x } = message {
            push_snapshot(encoding, &mut items, c, *s, &encode(d), *x);
        } else {
            push_message(encoding, &mut items, message).unwrap();
        }
    }
    match encoding {
        Encoding::Json => [b"[", items.as_slice(), b"]"].concat(),
        Encoding::MessagePack => {
            let mut frame = Vec::new();
            let length = u32::try_from(messages.len()).unwrap();
            rmp::encode::write_array_len(&mut frame, length).unwrap();
            [frame, items].concat()
        }
    }
}

fn check_names<T>(file: &str, vectors: &[Vector], named: &Named<T>) {
    let found: Vec<&str> = vectors.iter().map(|vector| vector.name.as_str()).collect();
    let wanted: Vec<&str> = named.iter().map(|(name, _)| *name).collect();
    assert_eq!(found, wanted, "{file}");
}

/// The frame of a single message with fields that version 1 does not know.
fn widened(vector: &Vector) -> (String, Vec<u8>) {
    let object = vector.json.strip_prefix('[').unwrap();
    let object = widened_json(object.strip_suffix(']').unwrap());
    let (head, map) = vector.msgpack.split_first().unwrap();
    let map = widened_msgpack(map);
    (format!("[{object}]"), [&[*head], map.as_slice()].concat())
}

#[test]
fn every_server_message_has_its_vectors_and_keeps_to_them() {
    let mut told = BTreeSet::new();
    for named in messages() {
        let file = named
            .first()
            .and_then(|(_, of)| of.first())
            .map(tag)
            .unwrap();
        told.insert(file.to_owned());
        let vectors = vector::read(SERVER, file);
        check_names(file, &vectors, &named);
        for (vector, (name, messages)) in vectors.iter().zip(&named) {
            let context = format!("{file}: {name}");
            let text = frame(Encoding::Json, messages);
            assert_eq!(String::from_utf8(text).unwrap(), vector.json, "{context}");
            let packed = frame(Encoding::MessagePack, messages);
            assert_eq!(packed, vector.msgpack, "{context}");
            let whole = serde_json::to_string(messages).unwrap();
            assert_eq!(whole, vector.json, "{context}");
            let whole = rmp_serde::to_vec_named(messages).unwrap();
            assert_eq!(whole, vector.msgpack, "{context}");
            let mut read = vec![(vector.json.clone(), vector.msgpack.clone())];
            read.extend((messages.len() == 1).then(|| widened(vector)));
            for (json, msgpack) in read {
                let json: Vec<Message> = serde_json::from_str(&json).unwrap();
                assert_eq!(&json, messages, "{context}");
                let msgpack: Vec<Message> = rmp_serde::from_slice(&msgpack).unwrap();
                assert_eq!(&msgpack, messages, "{context}");
            }
        }
    }
    assert_eq!(vector::subjects(SERVER, "txt"), told);
    let schema = &schemas::describe::describe()["server"]["oneOf"];
    let described = schema.as_array().unwrap().iter();
    let described = described.map(|one| one["properties"]["t"]["const"].as_str().unwrap());
    assert_eq!(described.map(str::to_owned).collect::<BTreeSet<_>>(), told);
}

#[test]
fn every_client_operation_has_its_vectors_and_is_read_from_them() {
    let examples = [
        ClientOp::Subscribe(Subscribe::default()),
        ClientOp::Unsubscribe {
            id: None,
            topics: Vec::new(),
        },
        ClientOp::List { id: None },
        ClientOp::Ping { id: None },
        ClientOp::Auth { id: None },
    ];
    let mut told = BTreeSet::new();
    for (file, named) in examples.iter().map(operations) {
        told.insert(file.to_owned());
        let vectors = vector::read(CLIENT, file);
        check_names(file, &vectors, &named);
        for (vector, (name, ops)) in vectors.iter().zip(&named) {
            let context = format!("{file}: {name}");
            let mut transcoded = Vec::new();
            transcode(&vector.msgpack, &mut transcoded).unwrap();
            assert_eq!(transcoded, vector.json.as_bytes(), "{context}");
            let mut read = vec![(vector.json.clone(), vector.msgpack.clone())];
            read.extend((ops.len() == 1).then(|| widened(vector)));
            let ops: Vec<_> = ops.iter().cloned().map(Ok).collect();
            for (json, msgpack) in read {
                let json = read_ops(Encoding::Json, json.as_bytes()).unwrap();
                assert_eq!(json, ops, "{context}");
                let msgpack = read_ops(Encoding::MessagePack, &msgpack).unwrap();
                assert_eq!(msgpack, ops, "{context}");
            }
        }
    }
    assert_eq!(vector::subjects(CLIENT, "txt"), told);
    let described = schemas::describe::describe();
    let described = described["client"].as_array().unwrap().iter();
    let described = described.map(|op| op["properties"]["op"]["const"].as_str().unwrap());
    assert_eq!(described.map(str::to_owned).collect::<BTreeSet<_>>(), told);
}
