//! Every HTTP answer, as the files under `http/` say that it is written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use schemas::codec::to_msgpack;
use schemas::http::{
    Candle, Day, DeadLetter, Figures, Hole, Item, Listing, Lost, Page, PageWriter, Position,
    Problem, Settings, Summary,
};
use schemas::id::Kind;
use schemas::position::StreamSeq;
use schemas::tick::Flag;
use schemas::time::UnixNanos;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ticks::{parsed, tick};
use super::vector::{self, widened_json};

const DIRECTORY: &str = "http";

fn page() -> Page<Item> {
    let item = |s, name| Item {
        s: StreamSeq::new(s),
        tick: tick(Kind::Trade, name),
    };
    let position = Position {
        e: parsed("18867251edfa0000-0"),
        c: parsed("1234571.0000ff1a"),
    };
    Page {
        items: vec![item(1_234_570, "full"), item(1_234_571, "symbol")],
        next: Some("1767225600000000000_18867251edfa0000-0_1234571".to_owned()),
        pos: [("TICKS".to_owned(), position)].into(),
    }
}

fn empty_page() -> Page<Item> {
    Page {
        items: Vec::new(),
        next: None,
        pos: BTreeMap::new(),
    }
}

fn problem(status: u16, title: &str, detail: &str, parameter: Option<&str>) -> Problem {
    Problem {
        page: schemas::http::NO_PAGE.to_owned(),
        title: title.to_owned(),
        status,
        detail: detail.to_owned(),
        parameter: parameter.map(str::to_owned),
        request: None,
    }
}

fn candle() -> Candle {
    Candle {
        seq: StreamSeq::new(1_234_571),
        kind: Kind::Bar,
        venue: parsed("binance"),
        symbol: parsed("BTCUSDT"),
        flags: vec![Flag::Late, Flag::Synthetic],
        length: "4h".to_owned(),
        start: UnixNanos::new(1_767_225_600_000_000_000),
        open: parsed("87500.10"),
        high: parsed("87650"),
        low: parsed("87401.5"),
        close: parsed("87512.00"),
        volume: parsed("12.345"),
        trades: 678,
    }
}

fn small_candle() -> Candle {
    Candle {
        seq: StreamSeq::new(9),
        kind: Kind::Form,
        venue: parsed("psx"),
        symbol: parsed("OGDC"),
        flags: Vec::new(),
        length: "1M".to_owned(),
        start: UnixNanos::new(0),
        open: parsed("1"),
        high: parsed("1"),
        low: parsed("1"),
        close: parsed("1"),
        volume: parsed("0"),
        trades: 1,
    }
}

fn check_bars() {
    check("candle", &candle());
    check("candle-minimal", &small_candle());
    let day = |date: &str, previous: Option<&str>, bar| Day {
        date: date.to_owned(),
        previous_close: previous.map(parsed),
        bar,
    };
    check("day", &day("2026-01-01", Some("87400"), candle()));
    check("day-minimal", &day("1970-01-01", None, small_candle()));
    let summary = |last: Option<&str>, change: Option<&str>| Summary {
        symbol: parsed("OGDC"),
        date: "2026-11-20".to_owned(),
        ldcp: last.map(parsed),
        open: parsed("102"),
        high: parsed("103.25"),
        low: parsed("101"),
        close: parsed("103.00"),
        change: change.map(parsed),
        volume: parsed("12345"),
    };
    check("summary", &summary(Some("101.5"), Some("1.50")));
    check("summary-minimal", &summary(None, None));
    let figures = |start, kind, values: &[(&str, f64)]| Figures {
        start: UnixNanos::new(start),
        kind,
        values: values
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect(),
    };
    let values = [("lower", 1.5), ("upper", 2.25)];
    let full = figures(1_767_225_600_000_000_000, Kind::Bar, &values);
    check("figures", &full);
    check("figures-minimal", &figures(0, Kind::Form, &[]));
}

fn check_ledgers() {
    let letter = DeadLetter {
        seq: StreamSeq::new(77),
        epoch: parsed("18867251edfa0000-0"),
        subject: "tick.trade.x.A".to_owned(),
        problem: "payload is not a map with fields".to_owned(),
        bytes: 3,
        payload: "wQAB".to_owned(),
    };
    check("dead_letter", &letter);
    let at = |nanos| Some(UnixNanos::new(nanos));
    let hole = Hole {
        lost: Lost::Feed,
        at: UnixNanos::new(1_767_225_600_000_000_000),
        venue: Some(parsed("coinbase")),
        feed: Some(parsed("coinbase")),
        symbol: Some(parsed("BTC-USD")),
        after_id: Some("5".to_owned()),
        until_id: Some("9".to_owned()),
        from: at(1_767_225_590_000_000_000),
        to: at(1_767_225_600_000_000_000),
        filled: true,
        stream: Some("TICKS".to_owned()),
        epoch: Some(parsed("18867251edfa0000-0")),
        first: Some(StreamSeq::new(5)),
        last: Some(StreamSeq::new(8)),
        why: Some("the connection was away".to_owned()),
    };
    check("hole", &hole);
    let bare = Hole {
        lost: Lost::Recorder,
        at: UnixNanos::new(7),
        venue: None,
        feed: None,
        symbol: None,
        after_id: None,
        until_id: None,
        from: None,
        to: None,
        filled: false,
        stream: None,
        epoch: None,
        first: None,
        last: None,
        why: None,
    };
    check("hole-minimal", &bare);
    let listing = Listing {
        venue: parsed("psx"),
        instruments: 512,
        session: "0930-1530:23456".to_owned(),
        time_zone: "Asia/Karachi".to_owned(),
    };
    check("listing", &listing);
}

fn check<T: Serialize + DeserializeOwned + Debug + PartialEq>(name: &str, expected: &T) {
    let body = vector::body(DIRECTORY, name);
    assert_eq!(serde_json::to_string(expected).unwrap(), body, "{name}");
    for body in [widened_json(&body), body] {
        let read: T = serde_json::from_str(&body).unwrap();
        assert_eq!(&read, expected, "{name}");
    }
}

#[test]
fn every_answer_is_written_and_read_as_its_vector() {
    check("page", &page());
    check("page-minimal", &empty_page());
    let wrong = "limit must be a whole number from 1 to 10000";
    check(
        "problem",
        &problem(400, "a parameter is wrong", wrong, Some("limit")),
    );
    let away = "the database does not answer";
    check(
        "problem-minimal",
        &problem(503, "try again later", away, None),
    );
    let settings = Settings {
        ws: "ws://127.0.0.1:8081".to_owned(),
        stream: "TICKS".to_owned(),
        version: "0.1.0".to_owned(),
    };
    check("settings", &settings);
    check_bars();
    check_ledgers();
    let checked = [
        "candle",
        "candle-minimal",
        "day",
        "day-minimal",
        "dead_letter",
        "figures",
        "figures-minimal",
        "hole",
        "hole-minimal",
        "listing",
        "page",
        "page-minimal",
        "problem",
        "problem-minimal",
        "settings",
        "summary",
        "summary-minimal",
    ];
    let found = vector::subjects(DIRECTORY, "json");
    assert_eq!(found, checked.map(str::to_owned).into());
    let described = schemas::describe::describe();
    let described: BTreeSet<String> = described["http"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    let full = found.into_iter().filter(|name| !name.ends_with("-minimal"));
    assert_eq!(full.collect::<BTreeSet<_>>(), described);
}

#[test]
fn stored_ticks_become_the_same_page() {
    let Page { items, next, pos } = page();
    let mut writer = PageWriter::new();
    for Item { s, tick } in items {
        writer.push(s, &to_msgpack(&tick).unwrap()).unwrap();
    }
    let body = String::from_utf8(writer.finish(next, pos).unwrap()).unwrap();
    assert_eq!(body, vector::body(DIRECTORY, "page"));
    let empty = PageWriter::new().finish(None, BTreeMap::new()).unwrap();
    assert_eq!(
        String::from_utf8(empty).unwrap(),
        vector::body(DIRECTORY, "page-minimal")
    );
}
