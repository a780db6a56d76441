//! Requests over real connections to a real database; only the broker is missing.

mod bad_input;
mod connections;
mod exports;
mod forms;
mod lists;
mod repeats;
mod world;

use axum::http::HeaderValue;
use schemas::codec;
use schemas::position::{Cursor, StreamSeq};
use schemas::time::UnixNanos;
use serde_json::{Value, json};

use super::*;
use crate::store::{Row, StoreError, content};
use world::{World, epoch, seqs};

#[tokio::test]
async fn live_goes_on_from_what_the_first_page_covered() {
    let world = World::start().await;
    world.trades(&[(10, 1), (20, 2), (30, 3)]).await;
    world.recorded_up_to(3).await;
    let path = "/v1/trades?venue=x&symbol=A&limit=2";
    let first = world.get(path).await.json();
    assert_eq!(first["pos"], Value::Null, "more is to come");
    // Late: its time is on the page that was read already.
    world.trades(&[(15, 4)]).await;
    world.recorded_up_to(4).await;
    let next = first["next"].as_str().unwrap();
    let last = world.get(&format!("{path}&cursor={next}")).await.json();
    assert_eq!((seqs(&first), seqs(&last)), (vec![1, 2], vec![3]));
    let covered = Cursor::new(StreamSeq::new(3), UnixNanos::new(1_000));
    assert_eq!(
        last["pos"]["T"],
        json!({ "e": epoch(), "c": covered }),
        "no page showed 4"
    );
    let refused = world.get(&format!("{path}&cursor=1_2")).await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.problem()["parameter"], "cursor");
}

#[tokio::test]
async fn what_is_not_answered_is_a_problem_with_the_right_status() {
    let world = World::start().await;
    for (method, path, status) in [
        ("POST", "/", 405),
        ("DELETE", "/console.css", 405),
        ("POST", "/nowhere", 404),
        ("GET", "/nowhere", 404),
        ("GET", "/v1/nowhere", 404),
        ("POST", "/v1/trades", 405),
        ("PUT", "/console.json", 405),
        ("GET", "/v1/trades?venue=x&symbol=A&limit=0", 400),
        ("GET", "/v1/trades?venue=x&symbol=A&a=%FF", 400),
    ] {
        let answer = world.ask(method, path, "127.0.0.1").await;
        assert_eq!(answer.status, status, "{method} {path}");
        answer.problem();
        let allowed = answer.head.contains("allow: GET,HEAD");
        assert_eq!(allowed, status == 405, "{method} {path}: {}", answer.head);
    }
    assert_eq!(world.ask("HEAD", "/", "127.0.0.1").await.status, 200);
}

#[test]
fn what_is_damaged_is_not_asked_for_again() {
    let (field, value) = ("gen", "-1".to_owned());
    let damaged = Problem::from(StoreError::Damaged { field, value }).into_response();
    assert_eq!(damaged.status(), 500);
    let closed = Problem::from(StoreError::Database(sqlx::Error::PoolClosed)).into_response();
    assert_eq!(closed.status(), 503);
}

#[tokio::test]
async fn a_page_keeps_the_name_that_it_was_loaded_under() {
    let world = World::start().await;
    for (host, ws) in [
        ("localhost:8080", "ws://localhost:8081"),
        ("[::1]:8080", "ws://[::1]:8081"),
        ("127.0.0.1", "ws://127.0.0.1:8081"),
        ("trading.example", "ws://trading.example:8081"),
        ("a;script-src", "ws://127.0.0.1:8081"),
    ] {
        let settings = world.ask("GET", "/console.json", host).await;
        assert_eq!(settings.json()["ws"], ws, "{host}");
        let page = world.ask("GET", "/", host).await;
        let policy = format!("connect-src 'self' {ws};");
        assert!(page.head.contains(&policy), "{host}: {}", page.head);
    }
    let mut headers = HeaderMap::new();
    headers.insert("host", HeaderValue::from_static("localhost"));
    for (ws, expected) in [
        ("wss://ticks.example", "wss://ticks.example"),
        ("ws://0.0.0.0:1", "ws://localhost:1"),
        ("ws://LocalHost:1/x", "ws://localhost:1/x"),
        ("nonsense", "nonsense"),
    ] {
        assert_eq!(console::websocket(ws, &headers), expected);
    }
}

#[tokio::test]
async fn pages_of_the_origins_that_were_named_may_read() {
    let asks = |origin: &str| format!("Host: x\r\nOrigin: {origin}\r\n");
    let (listed, other) = (
        asks("https://charts.example"),
        asks("https://other.example"),
    );
    let preflight = format!("{listed}Access-Control-Request-Method: GET\r\n");
    let allowed = "access-control-allow-origin";
    let world = World::with(&["--http-origins=https://charts.example,http://localhost:3000"]).await;
    for path in [
        "/udf/config",
        "/v1/trades?venue=x&symbol=A",
        "/v1/trades?venue=X",
    ] {
        let answer = world.request("GET", path, &listed).await;
        assert_eq!(
            answer.header(allowed),
            Some("https://charts.example"),
            "{path}"
        );
        let exposed = answer.header("access-control-expose-headers").unwrap();
        assert!(
            exposed.contains("etag") && exposed.contains("tickwire-pos"),
            "{exposed}"
        );
        assert_eq!(
            world.request("GET", path, &other).await.header(allowed),
            None,
            "{path}"
        );
        let answer = world.request("OPTIONS", path, &preflight).await;
        assert_eq!(
            (answer.status, answer.header("access-control-allow-methods")),
            (200, Some("GET,HEAD"))
        );
    }
    let open = World::with(&["--http-origins=*"]).await;
    assert_eq!(
        open.request("GET", "/udf/time", &other)
            .await
            .header(allowed),
        Some("*")
    );
    let closed = World::start().await;
    assert_eq!(
        closed
            .request("GET", "/udf/time", &listed)
            .await
            .header(allowed),
        None
    );
    assert_eq!(
        closed
            .request("OPTIONS", "/udf/time", &preflight)
            .await
            .status,
        405
    );
}

#[tokio::test]
async fn ticks_by_position_are_paged_like_every_list() {
    let world = World::start().await;
    world.trades(&[(30, 1), (20, 2), (10, 3)]).await;
    let path = format!(
        "/v1/ticks?topic=trade.x.A&epoch={}&after=0&limit=2",
        epoch()
    );
    let first = world.get(&path).await.json();
    let next = first["next"].as_str().unwrap();
    let last = world.get(&format!("{path}&cursor={next}")).await.json();
    assert_eq!((seqs(&first), seqs(&last)), (vec![1, 2], vec![3]));
    assert_eq!(last["next"], Value::Null);
    let wrong = world.get(&format!("{path}&cursor=x")).await;
    assert_eq!(wrong.problem()["parameter"], "cursor");
}

#[tokio::test]
async fn a_kind_without_history_is_not_found() {
    let world = World::start().await;
    for (topic, why) in [
        (
            "form.x.A.1m",
            "there is no history of form ticks: they are not recorded",
        ),
        (
            "book.x.A",
            "there is no history of book ticks: they are not recorded",
        ),
        (
            "stat.x.A",
            "there is no history of stat ticks: only the latest of a topic is kept",
        ),
    ] {
        let path = format!("/v1/ticks?topic={topic}&epoch={}&after=0&until=9", epoch());
        let answer = world.get(&path).await;
        assert_eq!(answer.status, 404, "{topic}");
        assert_eq!(answer.problem()["detail"], why);
    }
}

/// Every reference of a document, in order.
fn references(value: &Value, found: &mut Vec<String>) {
    if let Some(target) = value.get("$ref").and_then(Value::as_str) {
        found.push(target.to_owned());
    }
    let items = value.as_array().into_iter().flatten();
    let fields = value.as_object().into_iter().flat_map(|map| map.values());
    items
        .chain(fields)
        .for_each(|inner| references(inner, found));
}

#[tokio::test]
async fn the_description_of_the_socket_knows_every_message() {
    let world = World::start().await;
    let described = world.ask("GET", "/asyncapi.json", "trading.example").await;
    let document = described.json();
    let fanout = json!({ "host": "trading.example:8081", "protocol": "ws", "pathname": "" });
    assert_eq!(document["servers"]["fanout"], fanout);
    let mut found = Vec::new();
    references(&document, &mut found);
    for target in &found {
        let target = target.strip_prefix('#').unwrap();
        assert!(document.pointer(target).is_some(), "{target}");
    }
    let named = |side: &str| -> Vec<&str> {
        let all = document["components"]["schemas"].as_object().unwrap();
        all.keys()
            .filter_map(|name| name.strip_prefix(side))
            .collect()
    };
    let mut known = named("server.");
    known.sort_unstable();
    let said = [
        "ack", "d", "drain", "end", "err", "gap", "hb", "pong", "reset", "skip", "snap", "welcome",
    ];
    assert_eq!(known, said);
    let mut known = named("client.");
    known.sort_unstable();
    assert_eq!(known, ["auth", "list", "ping", "subscribe", "unsubscribe"]);
    assert_eq!(named("tick.").len(), 11);
}

#[tokio::test]
async fn the_description_knows_every_parameter_and_leads_nowhere_else() {
    let world = World::start().await;
    let document = world.get("/openapi.json").await.json();
    let mut found = Vec::new();
    references(&document, &mut found);
    for target in &found {
        let target = target.strip_prefix('#').unwrap();
        assert!(document.pointer(target).is_some(), "{target}");
    }
    assert!(found.contains(&"#/components/schemas/tick.trade".to_owned()));
    for (path, item) in document["paths"].as_object().unwrap() {
        let parameters = item["get"]["parameters"].as_array().unwrap();
        let none = matches!(
            path.as_str(),
            "/console.json" | "/v1/venues" | "/v1/indicators" | "/udf/config" | "/udf/time"
        );
        assert_eq!(parameters.is_empty(), none, "{path}");
    }
    let parameters = &document["paths"]["/v1/bars"]["get"]["parameters"];
    let names: Vec<_> = parameters.as_array().unwrap().iter().collect();
    let named = |name: &str| *names.iter().find(|one| one["name"] == name).unwrap();
    assert_eq!(named("venue")["required"], true);
    assert_eq!(named("from")["required"], false);
    assert_eq!(named("limit")["schema"]["maximum"], 10_000);
    assert_eq!(named("order")["schema"]["oneOf"][1]["const"], "desc");
    let interval = &named("interval")["schema"]["$ref"];
    assert_eq!(interval, "#/components/schemas/Resolution");
}

#[tokio::test]
async fn udf_history_does_without_a_broker_and_udf_quotes_say_so() {
    let world = World::start().await;
    let bar = serde_json::from_value(json!({
        "k": "bar", "v": "x", "y": "A", "tr": "1", "iv": "1m", "t0": "60000000000",
        "o": "1.5", "h": "2", "l": "1", "c": "1.50", "vo": "7", "n": 2,
    }));
    let inst = json!({ "k": "inst", "v": "x", "y": "A", "tr": "1", "ty": "spot" });
    let ticks = [bar.unwrap(), serde_json::from_value(inst).unwrap()];
    let rows: Vec<Row> = (1..)
        .zip(&ticks)
        .map(|(seq, tick)| Row {
            seq: StreamSeq::new(seq),
            content: content(tick),
            payload: codec::to_msgpack(tick).unwrap().into(),
        })
        .collect();
    world.store.record(epoch(), &rows).await.unwrap();
    world.recorded_up_to(2).await;
    let path = "/udf/history?symbol=x:A&resolution=1&countback=5&to=9000000000";
    let page = world.get(path).await.json();
    let covered = Cursor::new(StreamSeq::new(2), UnixNanos::new(1_000));
    let expected = json!({
        "s": "ok", "t": [60], "o": [1.5], "h": [2], "l": [1], "c": [1.5], "v": [7], "live": "1m",
        "pos": { "T": { "e": epoch(), "c": covered } },
    });
    assert_eq!(page, expected);
    let info = world.get("/udf/symbols?symbol=a").await.json();
    assert_eq!(
        (&info["ticker"], &info["session"]),
        (&json!("x:A"), &json!("24x7"))
    );
    let quotes = world.get("/udf/quotes?symbols=x:A").await;
    assert_eq!(quotes.status, 503);
    assert_eq!(
        quotes.json()["errmsg"],
        "the broker does not answer: try again"
    );
}
