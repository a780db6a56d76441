//! Everything that a parameter should not be.

use super::world::{Answer, World, epoch};

/// Values that no parameter but a search takes.
const HOSTILE: [&str; 14] = [
    "%00",
    "a%00b",
    "%FF%FE",
    "'%20OR%201=1--",
    "%22;DROP%20TABLE%20events;--",
    "*",
    "%3E",
    "..%2F..%2Fetc%2Fpasswd",
    "%0D%0ASet-Cookie:%20a=b",
    "99999999999999999999999999999999",
    "-99999999999999999999999999999999",
    "1e309",
    "NaN",
    "%F0%9F%92%A5%20%E2%80%AE",
];

/// Asks for it in every form: whatever is wrong is a problem that names the parameter.
async fn refused(world: &World, path: &str, parameter: &str) {
    for form in ["application/json", "application/x-ndjson"] {
        let answer = world.accept(path, form).await;
        let short: String = path.chars().take(100).collect();
        assert_eq!(answer.status, 400, "{short}: {}", answer.text());
        let problem = answer.problem();
        assert_eq!(problem["parameter"], parameter, "{short}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(parameter) && detail.len() < 500, "{detail}");
        assert!(!answer.head.contains("\r\nSet-Cookie"), "{}", answer.head);
    }
}

#[tokio::test]
async fn no_parameter_takes_what_it_should_not() {
    let world = World::start().await;
    world.many_trades(10).await;
    let ticks = format!("/v1/ticks?topic=trade.x.A&epoch={}", epoch());
    for (resource, rest, parameters) in [
        (
            "/v1/trades?",
            "venue=x&symbol=A",
            &["venue", "from", "to", "cursor", "limit", "order"][..],
        ),
        (
            "/v1/quotes?",
            "venue=x&symbol=A",
            &["venue", "from", "to", "cursor", "limit", "order"],
        ),
        (
            "/v1/bars?",
            "venue=x&symbol=A",
            &[
                "venue", "from", "to", "cursor", "limit", "order", "interval",
            ],
        ),
        ("/v1/latest?", "topics=trade.x.A", &["topics"]),
        (
            ticks.split_inclusive('?').next().unwrap(),
            ticks.split('?').nth(1).unwrap(),
            &[
                "topic", "epoch", "after", "until", "cursor", "stream", "limit",
            ],
        ),
    ] {
        for parameter in parameters {
            // There may be a venue of this name.
            let is_name = |value: &str| *parameter == "venue" && value == "1e309";
            for value in HOSTILE.into_iter().filter(|value| !is_name(value)) {
                let others = rest
                    .split('&')
                    .filter(|pair| !pair.starts_with(&format!("{parameter}=")));
                let others: Vec<&str> = others.collect();
                let path = format!("{resource}{}&{parameter}={value}", others.join("&"));
                refused(&world, &path, parameter).await;
            }
            let twice = format!("{resource}{parameter}=1&{parameter}=1");
            let answer = world.get(&twice).await;
            assert_eq!(answer.status, 400);
            answer.problem();
        }
        let unknown = format!("{resource}{rest}&surprise=1");
        refused(&world, &unknown, "surprise").await;
    }
    assert_eq!(world.pages(), 0, "nothing of it reached the database");
}

#[tokio::test]
async fn ranges_end_behind_their_beginning() {
    let world = World::start().await;
    world.many_trades(10).await;
    let trades = "/v1/trades?venue=x&symbol=A";
    for span in [
        "from=5&to=5",
        "from=6&to=5",
        "from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z",
    ] {
        refused(&world, &format!("{trades}&{span}"), "from").await;
    }
    for span in [
        "from=-9223372036854775808&to=9223372036854775807",
        "from=1677-09-22T00:00:00Z&to=2262-04-11T00:00:00Z",
        "from=1970-01-01T05:00:00+05:00&to=1970-01-02T04:00:00%2B05:00",
        "from=0",
    ] {
        let answer = world.get(&format!("{trades}&{span}")).await;
        assert_eq!(
            answer.json()["items"].as_array().unwrap().len(),
            10,
            "{span}"
        );
    }
    let ticks = format!("/v1/ticks?topic=trade.x.A&epoch={}", epoch());
    refused(&world, &format!("{ticks}&after=9&until=8"), "after").await;
    for cursor in [
        "1",
        "1_2_3",
        "_",
        "1_4d-3_9_9",
        "1_4d-3_x",
        "1_4d-3_9_4d-3_8.00000001_1",
    ] {
        refused(&world, &format!("{trades}&cursor={cursor}"), "cursor").await;
    }
    for list in [
        "/v1/instruments?limit=2",
        "/v1/eod?venue=x",
        "/api/eod?venue=x",
    ] {
        for cursor in ["%00", "x%20%00", "x%20A%0A"] {
            refused(&world, &format!("{list}&cursor={cursor}"), "cursor").await;
        }
    }
}

#[tokio::test]
async fn a_search_is_taken_as_it_is() {
    let world = World::start().await;
    for value in HOSTILE {
        let answer = world.get(&format!("/v1/instruments?q={value}")).await;
        let hidden = ["%FF%FE", "%00", "a%00b", "%0D%0ASet-Cookie:%20a=b"];
        let expected = if hidden.contains(&value) { 400 } else { 200 };
        assert_eq!(answer.status, expected, "{value}: {}", answer.text());
    }
    refused(
        &world,
        &format!("/v1/instruments?q={}", "a".repeat(65)),
        "q",
    )
    .await;
    refused(&world, "/v1/instruments?cursor=x", "cursor").await;
    refused(&world, "/v1/instruments?venue=%27", "venue").await;
}

#[tokio::test]
async fn an_address_has_an_end() {
    let world = World::start().await;
    for (length, statuses) in [
        (33_000, &[414][..]),
        (60_000, &[414]),
        (100_000, &[414, 431]),
    ] {
        for name in ["venue", "a"] {
            let path = format!("/v1/trades?{name}={}", "x".repeat(length));
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            let answer = Answer::read(&world.send(request.as_bytes()).await);
            assert!(
                statuses.contains(&answer.status),
                "{length}: {}",
                answer.status
            );
            if length < 65_000 {
                let problem = answer.problem();
                assert!(problem["detail"].as_str().unwrap().contains("32768"));
            }
        }
    }
    let many = "a=1&".repeat(8_000);
    let answer = world.get(&format!("/v1/trades?{many}")).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.problem()["parameter"], "a");
}
