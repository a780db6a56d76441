//! Every kind of tick, as the vectors under `ticks/` say that it is written.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::str::FromStr;

use schemas::codec::{from_json, from_msgpack, to_json, to_msgpack, transcode};
use schemas::id::{Interval, Kind, Symbol, Venue};
use schemas::tick::{
    Bar, Book, Feed, FeedState, Flag, Flow, Form, Head, Index, Inst, Level, Quote, Side, Stat,
    Status, Tick, Trade, TradingState, VenueGap,
};
use schemas::time::UnixNanos;
use serde_json::Value;

use super::vector::{self, Vector, widened_json, widened_msgpack};

type Named = Vec<(&'static str, Tick)>;

pub(super) fn parsed<T: FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn full(venue: &str, symbol: &str, flags: &[Flag]) -> Head {
    Head {
        venue: Venue::new(venue).unwrap(),
        symbol: Symbol::new(symbol).unwrap(),
        event: Some(UnixNanos::new(1_767_225_600_120_000_000)),
        received: UnixNanos::new(1_767_225_600_123_456_789),
        venue_seq: Some(9_007_199_254_740_993),
        flags: flags.to_vec(),
    }
}

fn minimal(symbol: &str) -> Head {
    let received = UnixNanos::new(1_767_225_600_000_000_000);
    Head::new(
        Venue::new("x").unwrap(),
        Symbol::new(symbol).unwrap(),
        received,
    )
}

/// What the vectors of a kind say. A new kind does not compile until it has some.
fn expected(kind: Kind) -> Option<Named> {
    match kind {
        Kind::Trade => Some(trades()),
        Kind::Quote => Some(quotes()),
        Kind::Book => Some(books()),
        Kind::Stat => Some(stats()),
        Kind::Bar => Some(bars()),
        Kind::Form => Some(forms()),
        Kind::Index => Some(indices()),
        Kind::Flow => Some(flows()),
        Kind::Status => Some(statuses()),
        Kind::Feed => Some(feeds()),
        Kind::Inst => Some(instruments()),
        // Not carried on the stream of ticks.
        Kind::Ind | Kind::Alert => None,
    }
}

/// What one vector of a kind says.
pub(super) fn tick(kind: Kind, name: &str) -> Tick {
    let named = expected(kind).unwrap();
    let (_, tick) = named.into_iter().find(|(n, _)| *n == name).unwrap();
    tick
}

fn trades() -> Named {
    let trade = |head, (id, price, size): (&str, &str, &str), side, conditions: Option<&str>| {
        Tick::from(Trade {
            head,
            id: id.to_owned(),
            price: parsed(price),
            size: parsed(size),
            side,
            conditions: conditions.map(str::to_owned),
        })
    };
    let mut extreme = minimal("A");
    extreme.event = Some(UnixNanos::new(i64::MAX));
    extreme.received = UnixNanos::new(i64::MIN);
    extreme.venue_seq = Some(u64::MAX);
    extreme.flags = vec![Flag::Refresh, Flag::Synthetic];
    let head = full("binance", "BTCUSDT", &[Flag::Late, Flag::Backfill]);
    let numbers = ("4567890123", "67123.4500", "0.01200000");
    let digits = (
        "2",
        "-0.1234567890123456789012345678",
        "1000000000000000000.000000000",
    );
    vec![
        ("full", trade(head, numbers, Side::Buy, Some("@ T"))),
        (
            "minimal",
            trade(minimal("A"), ("1", "1", "1"), Side::Unknown, None),
        ),
        (
            "symbol",
            trade(
                minimal("É\"\\ .*>%2E/🦀"),
                ("a\tb", "0.10", "0"),
                Side::Sell,
                None,
            ),
        ),
        ("extremes", trade(extreme, digits, Side::Buy, None)),
    ]
}

fn quotes() -> Named {
    let empty = Quote {
        head: minimal("A"),
        bid: None,
        bid_size: None,
        ask: None,
        ask_size: None,
    };
    let whole = Quote {
        head: full("binance", "BTCUSDT", &[Flag::Late]),
        bid: Some(parsed("67123.40")),
        bid_size: Some(parsed("1.250")),
        ask: Some(parsed("67123.50")),
        ask_size: Some(parsed("0.00100000")),
    };
    let one_side = Quote {
        bid: Some(parsed("-3.10")),
        bid_size: Some(parsed("2")),
        ..empty.clone()
    };
    vec![
        ("full", whole.into()),
        ("minimal", empty.into()),
        ("one side", one_side.into()),
    ]
}

fn books() -> Named {
    let level = |(price, size): (&str, &str)| Level(parsed(price), parsed(size));
    let bids = [
        ("67123.40", "1.250"),
        ("67123.30", "0.5"),
        ("67123.20", "10"),
    ];
    let whole = Book {
        head: full("binance", "BTCUSDT", &[Flag::Late]),
        bids: bids.map(level).into(),
        asks: [("67123.50", "0.00100000"), ("67123.60", "3")]
            .map(level)
            .into(),
    };
    let empty = Book {
        head: minimal("A"),
        bids: Vec::new(),
        asks: Vec::new(),
    };
    vec![("full", whole.into()), ("minimal", empty.into())]
}

fn stats() -> Named {
    let whole = Stat {
        head: full("nyse", "BRK.B", &[Flag::Late]),
        open: Some(parsed("500.10")),
        high: Some(parsed("505.00")),
        low: Some(parsed("499.95")),
        last: Some(parsed("501.20")),
        previous_close: Some(parsed("500.00")),
        volume: Some(parsed("1234567")),
        turnover: Some(parsed("618765432.10")),
        vwap: Some(parsed("501.2043")),
        open_interest: Some(parsed("42")),
        change: Some(parsed("1.20")),
        change_percent: Some(parsed("0.24")),
    };
    let empty = Stat {
        head: minimal("A"),
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
    };
    vec![("full", whole.into()), ("minimal", empty.into())]
}

fn whole_bar() -> Bar {
    Bar {
        head: full("binance", "BTCUSDT", &[Flag::Late]),
        interval: Interval::Minute1,
        start: UnixNanos::new(1_767_225_540_000_000_000),
        open: parsed("67100.00"),
        high: parsed("67150.50"),
        low: parsed("67090.10"),
        close: parsed("67123.45"),
        volume: parsed("12.50000000"),
        trades: 815,
    }
}

fn flat_bar(interval: Interval) -> Bar {
    Bar {
        head: minimal("A"),
        interval,
        start: UnixNanos::new(1_767_225_600_000_000_000),
        open: parsed("1"),
        high: parsed("1"),
        low: parsed("1"),
        close: parsed("1"),
        volume: parsed("0"),
        trades: 0,
    }
}

fn bars() -> Named {
    vec![
        ("full", whole_bar().into()),
        ("minimal", flat_bar(Interval::Day1).into()),
        ("interval 1s", flat_bar(Interval::Second1).into()),
        ("interval 5m", flat_bar(Interval::Minute5).into()),
        ("interval 15m", flat_bar(Interval::Minute15).into()),
        ("interval 1h", flat_bar(Interval::Hour1).into()),
    ]
}

fn forms() -> Named {
    let form = |bar: Bar| Tick::from(Form::from(bar));
    vec![
        ("full", form(whole_bar())),
        ("minimal", form(flat_bar(Interval::Day1))),
    ]
}

fn indices() -> Named {
    let whole = Index {
        head: full("hose", "VN30", &[Flag::Late]),
        value: parsed("1987.65"),
        change: Some(parsed("-12.30")),
        change_percent: Some(parsed("-0.61")),
        advances: Some(9),
        unchanged: Some(1),
        declines: Some(20),
        volume: Some(parsed("345678900")),
        turnover: Some(parsed("12345678900000.00")),
    };
    let bare = Index {
        head: minimal("A"),
        value: parsed("-1.0"),
        change: None,
        change_percent: None,
        advances: None,
        unchanged: None,
        declines: None,
        volume: None,
        turnover: None,
    };
    vec![("full", whole.into()), ("minimal", bare.into())]
}

fn flows() -> Named {
    let whole = Flow {
        head: full("hose", "FPT", &[Flag::Late]),
        bought: Some(parsed("125000")),
        sold: Some(parsed("98000")),
        bought_value: Some(parsed("15625000000")),
        sold_value: Some(parsed("-0.50")),
        room: Some(parsed("0")),
    };
    let empty = Flow {
        head: minimal("A"),
        bought: None,
        sold: None,
        bought_value: None,
        sold_value: None,
        room: None,
    };
    vec![("full", whole.into()), ("minimal", empty.into())]
}

fn statuses() -> Named {
    let status = |head, state, reason: Option<&str>| {
        Tick::from(Status {
            head,
            state,
            reason: reason.map(str::to_owned),
        })
    };
    let halted = full("psx", "HBL", &[Flag::Late]);
    let bare = |state| status(minimal("A"), state, None);
    vec![
        (
            "full",
            status(halted, TradingState::Halt, Some("price limit")),
        ),
        ("minimal", bare(TradingState::Open)),
        ("pre-open", bare(TradingState::PreOpen)),
        ("auction", bare(TradingState::Auction)),
        ("close", bare(TradingState::Close)),
    ]
}

fn feeds() -> Named {
    let gap = VenueGap {
        symbol: Some(Symbol::new("BTCUSDT").unwrap()),
        after_id: Some("4567890123".to_owned()),
        until_id: Some("4567890130".to_owned()),
        from: Some(UnixNanos::new(1_767_225_590_000_000_000)),
        to: Some(UnixNanos::new(1_767_225_600_000_000_000)),
        filled: true,
    };
    let unbounded = VenueGap {
        symbol: None,
        after_id: None,
        until_id: None,
        from: None,
        to: None,
        filled: false,
    };
    let whole = Feed {
        head: full("binance", "binance-spot", &[Flag::Synthetic]),
        state: FeedState::Gap,
        detail: Some("connection lost".to_owned()),
        gap: Some(gap),
        collapsed: Some(17),
    };
    let bare = |state, gap| {
        Tick::from(Feed {
            head: minimal("sim"),
            state,
            detail: None,
            gap,
            collapsed: None,
        })
    };
    vec![
        ("full", whole.into()),
        ("minimal", bare(FeedState::Live, None)),
        ("gap without ends", bare(FeedState::Gap, Some(unbounded))),
        ("stale", bare(FeedState::Stale, None)),
        ("reconnecting", bare(FeedState::Reconnecting, None)),
        ("closed", bare(FeedState::Closed, None)),
    ]
}

fn instruments() -> Named {
    let text = |text: &str| Some(text.to_owned());
    let whole = Inst {
        head: full("deribit", "BTC-USD-261225-100000-C", &[Flag::Refresh]),
        class: "option".to_owned(),
        name: text("Bitcoin call 100000"),
        base: text("BTC"),
        quote: text("USD"),
        tick_size: Some(parsed("0.0005")),
        lot: Some(parsed("0.1")),
        session: text("24x7"),
        time_zone: text("Etc/UTC"),
        underlying: text("BTC-USD"),
        expiry: Some(UnixNanos::new(1_798_185_600_000_000_000)),
        strike: Some(parsed("100000")),
        aliases: Some(vec![
            "BTC-25DEC26-100000-C".to_owned(),
            "btc call".to_owned(),
        ]),
    };
    let bare = Inst {
        head: minimal("A"),
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
    };
    vec![("full", whole.into()), ("minimal", bare.into())]
}

fn check(vector: &Vector, tick: &Tick, context: &str) {
    let Vector { json, msgpack, .. } = vector;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    assert_eq!(&from_json(json.as_bytes()).unwrap(), tick, "{context}");
    assert_eq!(&from_msgpack(msgpack).unwrap(), tick, "{context}");
    assert_eq!(&text(to_json(tick).unwrap()), json, "{context}");
    assert_eq!(&to_msgpack(tick).unwrap(), msgpack, "{context}");
    let mut transcoded = Vec::new();
    transcode(msgpack, &mut transcoded).unwrap();
    assert_eq!(&text(transcoded), json, "{context}");
}

fn check_unknown_fields(vector: &Vector, tick: &Tick, context: &str) {
    let (json, msgpack) = (widened_json(&vector.json), widened_msgpack(&vector.msgpack));
    assert_eq!(&from_json(json.as_bytes()).unwrap(), tick, "{context}");
    assert_eq!(&from_msgpack(&msgpack).unwrap(), tick, "{context}");
    let mut transcoded = Vec::new();
    transcode(&msgpack, &mut transcoded).unwrap();
    assert_eq!(String::from_utf8(transcoded).unwrap(), json, "{context}");
}

#[test]
fn every_kind_has_its_vectors_and_keeps_to_them() {
    let mut told = BTreeSet::new();
    for kind in Kind::ALL {
        let Some(ticks) = expected(*kind) else {
            let refused = Tick::deserialize_as(*kind, Value::Null).unwrap_err();
            assert!(refused.to_string().contains("is not a tick"), "{refused}");
            continue;
        };
        told.insert(kind.as_str().to_owned());
        let vectors = vector::read("ticks", kind.as_str());
        let names: Vec<&str> = vectors.iter().map(|vector| vector.name.as_str()).collect();
        let wanted: Vec<&str> = ticks.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, wanted, "{kind}");
        for (vector, (name, tick)) in vectors.iter().zip(&ticks) {
            let context = format!("{kind}: {name}");
            assert_eq!(tick.kind(), *kind, "{context}");
            check(vector, tick, &context);
            check_unknown_fields(vector, tick, &context);
        }
    }
    assert_eq!(vector::subjects("ticks", "txt"), told);
}

#[test]
fn the_vectors_of_a_kind_show_every_field_and_the_least() {
    let described = schemas::describe::describe();
    for (kind, schema) in described["ticks"].as_object().unwrap() {
        let mut shown = BTreeSet::new();
        for Vector { name, json, .. } in vector::read("ticks", kind) {
            let tick: Value = serde_json::from_str(&json).unwrap();
            let fields: BTreeSet<String> = tick.as_object().unwrap().keys().cloned().collect();
            if name == "minimal" {
                let required = schema["required"].as_array().unwrap().iter();
                let required: BTreeSet<String> = required
                    .map(|key| key.as_str().unwrap().to_owned())
                    .collect();
                assert_eq!(fields, required, "{kind}");
            }
            shown.extend(fields);
        }
        let known = schema["properties"].as_object().unwrap().keys().cloned();
        assert_eq!(shown, known.collect(), "{kind}");
    }
}
