//! Every HTTP answer, as the files under `http/` say that it is written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use schemas::codec::to_msgpack;
use schemas::http::{Item, Page, PageWriter, Position, Problem, Settings};
use schemas::id::Kind;
use schemas::position::StreamSeq;
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
    let checked = [
        "page",
        "page-minimal",
        "problem",
        "problem-minimal",
        "settings",
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
