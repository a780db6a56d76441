//! Lists that are more than a page of what is stored: made bars, days, gaps, searches, dead letters.

use schemas::codec;
use schemas::id::Interval;
use schemas::position::StreamSeq;
use schemas::tick::Tick;
use schemas::time::UnixNanos;
use serde_json::{Value, json};

use super::world::{World, epoch};
use crate::store::{Content, Row, TickStore as _, content};

/// A row of any tick; its place is its own.
fn row(seq: u64, tick: Value) -> Row {
    let tick: Tick = serde_json::from_value(tick).unwrap();
    Row {
        seq: StreamSeq::new(seq),
        content: content(&tick),
        payload: codec::to_msgpack(&tick).unwrap().into(),
    }
}

fn bar(seq: u64, symbol: &str, interval: Interval, start: i64, close: &str) -> Row {
    row(
        seq,
        json!({
            "k": "bar", "v": "x", "y": symbol, "tr": start.to_string(), "iv": interval, "t0": start.to_string(),
            "o": "1", "h": "9", "l": "1", "c": close, "vo": "10", "n": 2,
        }),
    )
}

fn inst(seq: u64, symbol: &str, more: &Value) -> Row {
    let mut tick = json!({ "k": "inst", "v": "x", "y": symbol, "tr": "1", "ty": "equity" });
    let fields = more.as_object().unwrap().clone();
    tick.as_object_mut().unwrap().extend(fields);
    row(seq, tick)
}

/// The values of a field of all items, page by page.
async fn pages(world: &World, path: &str, field: &str) -> Vec<Vec<String>> {
    let (mut pages, mut cursor) = (Vec::new(), String::new());
    loop {
        let answer = world.get(&format!("{path}{cursor}")).await;
        assert_eq!(answer.status, 200, "{path}{cursor}: {}", answer.text());
        let page = answer.json();
        let items = page["items"].as_array().unwrap().iter();
        let text = |item: &Value| {
            let text = item[field].as_str().map(str::to_owned);
            text.unwrap_or_else(|| item[field].to_string())
        };
        pages.push(items.map(text).collect());
        let Some(next) = page["next"].as_str() else {
            return pages;
        };
        cursor = format!("&cursor={}", next.replace(' ', "+"));
    }
}

const MINUTE: i64 = 60_000_000_000;
const DAY: i64 = 1_440 * MINUTE;

#[tokio::test]
async fn bars_that_are_not_stored_are_made_page_by_page() {
    let world = World::start().await;
    let rows: Vec<Row> = (0..12_u8)
        .map(|i| {
            let start = DAY + i64::from(i) * MINUTE;
            bar(
                u64::from(i) + 1,
                "A",
                Interval::Minute1,
                start,
                &format!("{i}.5"),
            )
        })
        .collect();
    world.store.record(epoch(), &rows).await.unwrap();
    world.recorded_up_to(12).await;
    let path = "/v1/bars?venue=x&symbol=A&limit=2&interval=";
    // Four minutes are no interval of ticks; of five none is stored.
    let made = pages(&world, &format!("{path}4m"), "c").await;
    assert_eq!(made, [vec!["3.5", "7.5"], vec!["11.5"]]);
    let made = pages(&world, &format!("{path}5m&order=desc"), "c").await;
    assert_eq!(made, [vec!["11.5", "9.5"], vec!["4.5"]]);
    let whole = world
        .get("/v1/bars?venue=x&symbol=A&interval=4m")
        .await
        .json();
    assert_eq!(whole["items"][0]["k"], "bar");
    assert_eq!(whole["items"][0]["iv"], "4m");
    assert_eq!(whole["items"][0]["vo"], "40");
    assert_eq!(whole["items"][0]["s"], 4);
    assert_eq!(whole["pos"]["T"]["e"], epoch().to_string());
    let closed = "/v1/bars?venue=x&symbol=A&interval=4m&to=86700000000000";
    let closed = world.get(closed).await.json();
    assert_eq!(closed["pos"], Value::Null, "it ends before now");
    // As lines they come page by page, and stored ones whole.
    let lines = world
        .accept(
            "/v1/bars?venue=x&symbol=A&interval=4m",
            "application/x-ndjson",
        )
        .await;
    assert_eq!(lines.text().lines().count(), 3, "{}", lines.text());
    let lines = world
        .accept(
            "/v1/bars?venue=x&symbol=A&interval=1m",
            "application/x-ndjson",
        )
        .await;
    assert_eq!(lines.text().lines().count(), 12, "{}", lines.text());
    // Stored ones are the ticks.
    let stored = pages(&world, &format!("{path}1m"), "tr").await;
    assert_eq!(stored.len(), 6);
    let refused = world.get(&format!("{path}0m")).await;
    assert_eq!(refused.problem()["parameter"], "interval");
    let refused = world.get(&format!("{path}4m&from=9&to=3")).await;
    assert_eq!(refused.problem()["parameter"], "from");
}

#[tokio::test]
async fn stored_days_are_as_published_and_all_others_by_the_session() {
    let world = World::start().await;
    let hours = [6, 20, 30].map(|hour| 10 * DAY + hour * 60 * MINUTE);
    let mut rows = vec![inst(1, "A", &json!({ "tz": "Asia/Karachi" }))];
    for (seq, start) in (2..).zip(hours) {
        rows.push(bar(seq, "A", Interval::Hour1, start, "2"));
    }
    let utc = [10, 11].map(|day| day * DAY);
    for (seq, start) in (5..).zip(utc) {
        rows.push(bar(seq, "A", Interval::Day1, start, "2"));
    }
    world.store.record(epoch(), &rows).await.unwrap();
    world.recorded_up_to(6).await;
    let of = "venue=x&symbol=A&interval";
    let texts = |starts: &[i64]| starts.iter().map(i64::to_string).collect::<Vec<_>>();
    let stored = world.get(&format!("/v1/bars?{of}=1d")).await.json();
    assert_eq!(stored["pos"]["T"]["e"], epoch().to_string());
    for limit in [1, 10] {
        let path = format!("/v1/bars?{of}=1d&limit={limit}");
        assert_eq!(pages(&world, &path, "t0").await.concat(), texts(&utc));
        assert_eq!(pages(&world, &path, "s").await.concat(), ["5", "6"]);
    }
    // Five hours ahead: nineteen o'clock is the next day's midnight.
    let days = texts(&[10 * DAY, 11 * DAY].map(|day| day - 5 * 60 * MINUTE));
    let path = format!("/v1/indicators/obv?{of}=1d");
    assert_eq!(pages(&world, &path, "t0").await.concat(), days);
    let path = "/v1/eod?venue=x&symbol=A";
    assert_eq!(pages(&world, path, "t0").await.concat(), days);
    let path = format!("/v1/bars?{of}=2d");
    assert_eq!(pages(&world, &path, "t0").await.concat(), days[..1]);
    // Whoever reads the description knows which is which.
    let document = world.get("/openapi.json").await.json();
    for (path, said) in [
        ("/v1/bars", "`1d` is then a UTC day"),
        ("/v1/indicators/obv", "`1d` is a trading day"),
    ] {
        let parameters = &document["paths"][path]["get"]["parameters"];
        let mut parameters = parameters.as_array().unwrap().iter();
        let interval = parameters.find(|one| one["name"] == "interval").unwrap();
        let text = interval["description"].as_str().unwrap();
        assert!(text.replace('\n', " ").contains(said), "{text}");
    }
}

#[tokio::test]
async fn days_have_dates_by_the_session_and_the_close_before() {
    let world = World::start().await;
    // Karachi is five hours ahead: nineteen o'clock is the next day's midnight.
    let zone = json!({ "tz": "Asia/Karachi" });
    let mut rows = vec![
        inst(1, "A", &zone),
        inst(2, "B", &zone),
        inst(3, "C", &zone),
    ];
    let at = |day: i64, hour: i64| day * DAY + hour * 60 * MINUTE;
    for (seq, symbol, start, close) in [
        (4, "A", at(10, 6), "2"),
        (5, "A", at(10, 20), "3"),
        (6, "A", at(12, 6), "4"),
        (7, "B", at(10, 6), "5"),
    ] {
        rows.push(bar(seq, symbol, Interval::Hour1, start, close));
    }
    world.store.record(epoch(), &rows).await.unwrap();
    let all = world.get("/v1/eod?venue=x&symbol=A").await.json();
    let seen = |page: &Value| -> Vec<(String, String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let items = page["items"].as_array().unwrap().iter();
        items
            .map(|item| (text(&item["date"]), text(&item["c"]), text(&item["pc"])))
            .collect()
    };
    let day = |date: &str, close: &str, before: &str| {
        (date.to_owned(), close.to_owned(), before.to_owned())
    };
    let days = [
        day("1970-01-11", "2", "-"),
        day("1970-01-12", "3", "2"),
        day("1970-01-13", "4", "3"),
    ];
    assert_eq!(seen(&all), days);
    let path = "/v1/eod?venue=x&symbol=A&limit=2";
    let dates = pages(&world, path, "date").await;
    assert_eq!(
        dates,
        [vec!["1970-01-11", "1970-01-12"], vec!["1970-01-13"]]
    );
    let dates = pages(&world, &format!("{path}&order=desc"), "date").await;
    assert_eq!(
        dates,
        [vec!["1970-01-13", "1970-01-12"], vec!["1970-01-11"]]
    );
    let from = world
        .get("/v1/eod?venue=x&symbol=A&from=1970-01-12&to=1970-01-13")
        .await;
    assert_eq!(seen(&from.json()), days[1..2]);

    // All of a venue: the last day of each, or one day of those that have it.
    let each = pages(&world, "/v1/eod?venue=x&limit=1", "c").await;
    assert_eq!(each, [vec!["4"], vec!["5"], vec![]]);
    let each = world.get("/v1/eod?venue=x&date=1970-01-12").await.json();
    assert_eq!(seen(&each), days[1..2]);
    let psx = world
        .get("/api/eod?venue=x&symbol=A&date=1970-01-13")
        .await
        .json();
    let expected = json!({
        "symbol": "A", "date": "1970-01-13", "ldcp": "3", "open": "1", "high": "9", "low": "1", "close": "4",
        "change": "1", "volume": "10",
    });
    assert_eq!(psx["items"], json!([expected]));

    for (query, parameter) in [
        ("venue=x&symbol=A&date=1970-01-12&from=1970-01-12", "date"),
        ("venue=x&from=1970-01-12", "from"),
        ("venue=x&symbol=A&from=1970-01-12&to=1970-01-12", "from"),
        ("venue=x&symbol=A&from=12.01.1970", "from"),
        ("venue=x&symbol=A&cursor=x", "cursor"),
        ("venue=x&symbol=A&api_key=secret", "api_key"),
    ] {
        let refused = world.get(&format!("/api/eod?{query}")).await;
        assert_eq!(refused.problem()["parameter"], parameter, "{query}");
    }
}

#[tokio::test]
async fn a_search_has_the_best_match_first() {
    let world = World::start().await;
    let rows = [
        inst(1, "MSOFT", &json!({})),
        inst(2, "OFT", &json!({ "ty": "future" })),
        inst(3, "OFTEN", &json!({})),
        inst(4, "ZZZ", &json!({ "al": ["Softly"], "qc": "USD" })),
    ];
    world.store.record(epoch(), &rows).await.unwrap();
    let found = pages(&world, "/v1/instruments?q=oft&limit=3", "y").await;
    assert_eq!(found, [vec!["OFT", "OFTEN", "MSOFT"], vec!["ZZZ"]]);
    let found = pages(&world, "/v1/instruments?q=usd", "y").await;
    assert_eq!(found, [vec!["ZZZ"]]);
    let found = pages(&world, "/v1/instruments?type=future&venue=x", "y").await;
    assert_eq!(found, [vec!["OFT"]]);
    let found = pages(&world, "/v1/instruments?q=oft&venue=y", "y").await;
    assert_eq!(found, [[""; 0]]);
    let found = pages(&world, "/v1/instruments?limit=3", "y").await;
    assert_eq!(found, [vec!["MSOFT", "OFT", "OFTEN"], vec!["ZZZ"]]);
    let venues = world.get("/v1/venues").await.json();
    let x = json!({ "v": "x", "instruments": 4, "se": "24x7", "tz": "UTC" });
    assert_eq!(venues["items"], json!([x]));
    for query in [
        "q=oft&cursor=x",
        "cursor=x",
        "q=%00",
        &format!("q={}", "x".repeat(65)),
    ] {
        let refused = world.get(&format!("/v1/instruments?{query}")).await;
        assert_eq!(refused.status, 400, "{query}");
        refused.problem();
    }
}

#[tokio::test]
async fn both_ledgers_of_gaps_are_one_list_in_order() {
    let world = World::start().await;
    let told = |seq, at: i64, symbol: Option<&str>| {
        let mut gap =
            json!({ "from": (at - 5).to_string(), "to": at.to_string(), "filled": false });
        if let Some(symbol) = symbol {
            gap["symbol"] = json!(symbol);
        }
        row(
            seq,
            json!({ "k": "feed", "v": "x", "y": "tape", "tr": at.to_string(), "st": "gap", "gp": gap }),
        )
    };
    let rows = [
        told(1, 100, Some("A")),
        told(2, 200, None),
        told(3, 400, Some("B")),
    ];
    world.store.record(epoch(), &rows).await.unwrap();
    world.recorded_up_to(3).await;
    let first = StreamSeq::new(9);
    let loss = world
        .store
        .trimmed("T", epoch(), first, UnixNanos::new(300))
        .await;
    assert!(loss.unwrap().is_some());
    let listed = pages(&world, "/v1/gaps?limit=3", "at").await;
    assert_eq!(listed, [vec!["100", "200", "300"], vec!["400"]]);
    let listed = pages(&world, "/v1/gaps?venue=x&symbol=A&limit=2", "lost").await;
    assert_eq!(listed, [vec!["feed", "feed"], vec!["recorder"]]);
    let listed = pages(&world, "/v1/gaps?venue=y", "lost").await;
    assert_eq!(listed, [vec!["recorder"]]);
    let listed = pages(&world, "/v1/gaps?from=396&to=500", "y").await;
    assert_eq!(listed, [vec!["B"]]);
    let all = world.get("/v1/gaps").await.json();
    let lost = &all["items"][2];
    assert_eq!((&lost["first"], &lost["last"]), (&json!(4), &json!(8)));
}

#[tokio::test]
async fn dead_letters_are_shown_and_bounded() {
    let world = World::start().await;
    let dead = |seq, bytes: usize| Row {
        seq: StreamSeq::new(seq),
        content: Content::DeadLetter {
            subject: "tick.trade.x.A".to_owned(),
            problem: "no map".to_owned(),
        },
        payload: vec![0xC1; bytes].into(),
    };
    let rows = [dead(1, 3), dead(2, 10_000), dead(3, 0)];
    world.store.record(epoch(), &rows).await.unwrap();
    let sizes = pages(&world, "/v1/dead-letters?limit=2", "bytes").await;
    assert_eq!(sizes, [vec!["3", "10000"], vec!["0"]]);
    let all = world.get("/v1/dead-letters").await.json();
    assert_eq!(all["items"][0]["payload"], "wcHB");
    assert_eq!(all["items"][0]["problem"], "no map");
    let long = all["items"][1]["payload"].as_str().unwrap();
    assert_eq!(long.len(), 4_096_usize.div_ceil(3) * 4);
}

#[tokio::test]
async fn indicators_take_what_they_need_from_before_the_range() {
    let world = World::start().await;
    let rows: Vec<Row> = (0..12_u8)
        .map(|i| {
            let start = DAY + i64::from(i) * MINUTE;
            bar(
                u64::from(i) + 1,
                "A",
                Interval::Minute1,
                start,
                &i.to_string(),
            )
        })
        .collect();
    world.store.record(epoch(), &rows).await.unwrap();
    world.recorded_up_to(12).await;
    let path = "/v1/indicators/sma?venue=x&symbol=A&period=3";
    let all = world.get(path).await.json();
    assert_eq!(
        all["items"][1]["values"],
        json!({}),
        "two bars make no three"
    );
    assert_eq!(all["items"][2]["values"], json!({ "sma": 1.0 }));
    assert_eq!(all["pos"]["T"]["e"], epoch().to_string());
    let from = (DAY + 5 * MINUTE).to_string();
    let later = world.get(&format!("{path}&from={from}")).await.json();
    let first = json!({ "t0": from, "k": "bar", "values": { "sma": 4.0 } });
    assert_eq!(later["items"][0], first);
    let newest = world
        .get(&format!("{path}&order=desc&limit=5"))
        .await
        .json();
    assert_eq!(newest["items"][0]["values"]["sma"], 10.0);
    let paged = pages(&world, &format!("{path}&order=desc&limit=5"), "t0").await;
    assert_eq!(paged.iter().map(Vec::len).collect::<Vec<_>>(), [5, 5, 2]);
    let paged = pages(&world, &format!("{path}&interval=3m&limit=3"), "values").await;
    let last = &paged[1];
    assert_eq!(last, &[r#"{"sma":8.0}"#], "the closes are 2, 5, 8 and 11");

    for (name, query, parameter) in [
        ("sma", "period=0", "period"),
        ("sma", "period=3&period=4", "period"),
        ("sma", "fast=3", "fast"),
        ("macd", "fast=9&slow=3", "fast"),
        ("rsi", "from=3&to=2", "from"),
        ("rsi", "interval=1x", "interval"),
        ("rsi", "cursor=1", "cursor"),
    ] {
        let path = format!("/v1/indicators/{name}?venue=x&symbol=A&{query}");
        let refused = world.get(&path).await;
        assert_eq!(refused.status, 400, "{path}");
        assert_eq!(refused.problem()["parameter"], parameter, "{path}");
    }
    let unknown = world.get("/v1/indicators/smooth").await;
    assert_eq!(unknown.status, 404);
    let detail = unknown.problem()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.contains("\"smooth\"") && detail.contains("macd"),
        "{detail}"
    );
    let known = world.get("/v1/indicators").await.json();
    let items = known["items"].as_array().unwrap();
    assert!(items.len() >= 20, "{}", items.len());
    let document = world.get("/openapi.json").await.json();
    for indicator in items {
        let path = format!("/v1/indicators/{}", indicator["name"].as_str().unwrap());
        let described = document["paths"][&path]["get"]["parameters"]
            .as_array()
            .unwrap();
        for parameter in indicator["parameters"].as_array().unwrap() {
            let name = &parameter["name"];
            assert!(
                described.iter().any(|one| one["name"] == *name),
                "{path} {name}"
            );
        }
    }
}

#[tokio::test]
async fn running_totals_go_on_from_page_to_page() {
    let world = World::start().await;
    let rows: Vec<Row> = (0..12_u8)
        .map(|i| {
            let start = DAY + i64::from(i) * MINUTE;
            let close = (3 + i * 5 % 7).to_string();
            bar(u64::from(i) + 1, "A", Interval::Minute1, start, &close)
        })
        .collect();
    world.store.record(epoch(), &rows).await.unwrap();
    let from = format!("&from={}", DAY + 3 * MINUTE);
    for (name, from, count) in [
        ("obv?", "", 12),
        ("obv?", &*from, 9),
        ("adl?", &from, 9),
        ("vwap?anchor=none&", &from, 9),
    ] {
        let path = format!("/v1/indicators/{name}venue=x&symbol=A{from}");
        let (few, back) = (
            format!("{path}&limit=5"),
            format!("{path}&limit=5&order=desc"),
        );
        let (whole, ascending, descending) = tokio::join!(
            pages(&world, &path, "values"),
            pages(&world, &few, "values"),
            pages(&world, &back, "values"),
        );
        let whole = whole.concat();
        assert_eq!(whole.len(), count, "{path}");
        assert_eq!(ascending.concat(), whole, "{path}");
        let mut descending = descending.concat();
        descending.reverse();
        assert_eq!(descending, whole, "{path}");
    }
    let first = format!("/v1/indicators/obv?venue=x&symbol=A&from={DAY}&limit=4");
    let first = pages(&world, &first, "values").await.concat();
    assert_eq!(
        first[..4],
        [0, 10, 0, -10].map(|obv| format!("{{\"obv\":{obv}.0}}")),
        "closes of 3, 8, 6 and 4"
    );
}
