//! TradingView's Universal Data Feed, driven as its adapter drives it: every endpoint of a running
//! system, and what it tells compared with what is stored.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use rustix::process::Signal;
use schemas::id::Interval;
use schemas::tick::Tick;
use schemas::time::{Clock as _, SystemClock};
use serde_json::{Value, json};

use crate::stored::{bars, store};
use crate::world::{World, eventually, get, until};

const FEEDS: &str =
    "[[feed]]\nname = \"sim\"\nsource = \"sim\"\ninstruments = 6\nrate = 600\nseed = 11\n";

/// 2024-03-04, a Monday, 00:00 UTC, in seconds.
const MONDAY: i64 = 1_709_510_400;
const DAY: i64 = 86_400;

/// As much of TradingView's adapter as the server can tell: it reads every body, whatever the status.
struct Adapter {
    base: String,
}

impl Adapter {
    async fn ask(&self, path: &str) -> Result<Value> {
        let (status, body) = get(&self.base, path).await?;
        assert_eq!(status, 200, "{path}: {body}");
        Ok(body)
    }

    /// What the adapter shows of an error.
    async fn refused(&self, path: &str) -> Result<String> {
        let body = self.ask(path).await?;
        assert_eq!(body["s"], "error", "{path}: {body}");
        Ok(body["errmsg"].as_str().context("a sentence")?.to_owned())
    }

    async fn history(&self, ticker: &str, resolution: &str, rest: &str) -> Result<Value> {
        let query = format!("symbol={ticker}&resolution={resolution}&{rest}");
        self.ask(&format!("/udf/history?{query}")).await
    }
}

/// Starts, which the adapter wants ascending and once.
fn starts(history: &Value) -> Result<Vec<i64>> {
    let starts = history["t"].as_array().context("starts")?.iter();
    let starts: Vec<i64> = starts.filter_map(Value::as_i64).collect();
    let in_order = starts.windows(2).all(|pair| pair[0] < pair[1]);
    assert!(in_order, "out of order: {starts:?}");
    for column in ["o", "h", "l", "c", "v"] {
        let length = history[column].as_array().map(Vec::len);
        assert_eq!(length, Some(starts.len()), "{column}");
    }
    Ok(starts)
}

/// One row of the columns: open, high, low, close, volume.
fn row(history: &Value, at: usize) -> [f64; 5] {
    ["o", "h", "l", "c", "v"].map(|column| history[column][at].as_f64().unwrap_or(f64::NAN))
}

/// The same of stored bars, read from `/v1/bars`: by start, in seconds.
async fn recorded(world: &World, symbol: &str, interval: &str) -> Result<BTreeMap<i64, [f64; 5]>> {
    let path = format!("/v1/bars?venue=sim&symbol={symbol}&interval={interval}&limit=10000");
    let (status, page) = world.get(&path).await?;
    assert_eq!(status, 200, "{page}");
    let number = |text: &Value| text.as_str().unwrap_or_default().parse::<f64>();
    let mut recorded = BTreeMap::new();
    for bar in page["items"].as_array().context("bars")? {
        let start: i64 = bar["t0"].as_str().context("a start")?.parse()?;
        let [open, high, low, close, volume] =
            ["o", "h", "l", "c", "vo"].map(|field| number(&bar[field]));
        recorded.insert(start / 1_000_000_000, [open?, high?, low?, close?, volume?]);
    }
    Ok(recorded)
}

async fn start() -> Result<(World, Adapter)> {
    let world = World::start(FEEDS).await?;
    until("no instrument is recorded", async || {
        let (_, found) = world.get("/udf/search?limit=30").await?;
        Ok(found.as_array().is_some_and(|found| found.len() == 6))
    })
    .await?;
    let base = world.http().to_owned();
    Ok((world, Adapter { base }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_adapter_finds_and_resolves_instruments() -> Result<()> {
    let (world, adapter) = start().await?;
    let config = adapter.ask("/udf/config").await?;
    // The adapter refuses a feed that supports neither.
    assert_ne!(config["supports_search"], config["supports_group_request"]);
    for flag in [
        "supports_marks",
        "supports_timescale_marks",
        "supports_time",
    ] {
        assert_eq!(config[flag], true, "{flag}");
    }
    assert_eq!(config["exchanges"][1]["value"], "sim");
    let resolutions = config["supported_resolutions"]
        .as_array()
        .context("resolutions")?;
    for resolution in ["1S", "1", "5", "15", "60", "1D", "1W", "1M"] {
        assert!(resolutions.contains(&json!(resolution)), "{resolution}");
    }

    // The adapter shouts.
    let found = adapter
        .ask("/udf/search?limit=30&query=A&type=&exchange=")
        .await?;
    let first = found[0].clone();
    let ticker = first["ticker"].as_str().context("a ticker")?;
    let symbol = first["symbol"].as_str().context("a symbol")?;
    assert_eq!(ticker, format!("sim:{symbol}"));
    for (query, count) in [
        ("query=&limit=2", 2),
        ("query=SIM:&limit=30", 6),
        ("query=&type=stock&limit=30", 6),
        ("query=&type=index&limit=30", 0),
        ("query=&exchange=sim&limit=30", 6),
        ("query=&exchange=elsewhere&limit=30", 0),
        ("query=%27%3B+DROP+TABLE+states%3B--", 0),
        ("query=%25", 0),
    ] {
        let found = adapter.ask(&format!("/udf/search?{query}")).await?;
        assert_eq!(
            found.as_array().map(Vec::len),
            Some(count),
            "{query}: {found}"
        );
    }

    let info = adapter
        .ask(&format!("/udf/symbols?symbol={ticker}"))
        .await?;
    assert_eq!(
        info.get("s"),
        None,
        "the adapter would take it for an error"
    );
    let (_, inst) = world.get(&format!("/v1/instruments?q={symbol}")).await?;
    let tick_size = inst["items"][0]["ts"].as_str().context("a tick size")?;
    let step = info["minmov"].as_f64().zip(info["pricescale"].as_f64());
    let (steps, scale) = step.context("a price step")?;
    assert_eq!(
        (steps / scale).to_string(),
        tick_size.parse::<f64>()?.to_string()
    );
    for (name, value) in [
        ("name", json!(symbol)),
        ("ticker", json!(ticker)),
        ("exchange", json!("sim")),
        ("type", json!("stock")),
        ("currency_code", json!("USD")),
        ("has_seconds", json!(true)),
        (
            "supported_resolutions",
            config["supported_resolutions"].clone(),
        ),
    ] {
        assert_eq!(info[name], value, "{name}");
    }
    for same in [
        symbol.to_owned(),
        symbol.to_lowercase(),
        ticker.to_uppercase(),
    ] {
        let other = adapter.ask(&format!("/udf/symbols?symbol={same}")).await?;
        assert_eq!(other["ticker"], ticker, "{same}");
    }
    let said = adapter.refused("/udf/symbols?symbol=sim:NOPE").await?;
    assert_eq!(said, "unknown symbol: \"sim:NOPE\"");

    let time = adapter
        .ask("/udf/time")
        .await?
        .as_i64()
        .context("seconds")?;
    assert!((time - SystemClock.now().seconds()).abs() < 60, "{time}");
    world.signal(Signal::TERM)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_adapter_pages_back_through_history() -> Result<()> {
    let (mut world, _) = start().await?;
    world.signal(Signal::TERM)?;
    world.ended().await?;
    // Two days of minutes with a weekend between them, and one lonely minute long before.
    let minutes = |from: i64, count: i64| (0..count).map(move |minute| from + 60 * minute);
    let weekend = minutes(MONDAY - 3 * DAY, 500).chain(minutes(MONDAY, 700));
    let all: Vec<i64> = std::iter::once(MONDAY - 90 * DAY).chain(weekend).collect();
    let ticks = bars("OLD", Interval::Minute1, all.iter().copied())?;
    store(&world, ticks.chain([instrument("OLD"), instrument("NEW")])).await?;
    world.restart_with(&[]).await?;
    let adapter = Adapter {
        base: world.http().to_owned(),
    };
    let stored = recorded(&world, "OLD", "1m").await?;
    assert_eq!(stored.keys().copied().collect::<Vec<_>>(), all);

    // As the adapter does: the newest first, then what lies before, until there is nothing.
    let (mut to, mut read) = (MONDAY + 2 * DAY, BTreeMap::new());
    loop {
        // `countback` wins: `from` would leave out almost all of it.
        let from = to - 60;
        let rest = format!("from={from}&to={to}&countback=300");
        let page = adapter.history("sim:OLD", "1", &rest).await?;
        if page["s"] == "no_data" {
            assert_eq!(page.get("nextTime"), None, "nothing lies before");
            break;
        }
        let starts = starts(&page)?;
        assert!(
            starts.len() == 300 || starts[0] == all[0],
            "{} bars",
            starts.len()
        );
        assert!(starts.iter().all(|start| *start < to), "beyond {to}");
        for (at, start) in starts.iter().enumerate() {
            assert_eq!(
                read.insert(*start, row(&page, at)),
                None,
                "{start} came twice"
            );
        }
        to = starts[0];
    }
    assert_eq!(read, stored);

    let within = format!("from={MONDAY}&to={}", MONDAY + 3_600);
    let page = adapter.history("sim:OLD", "1", &within).await?;
    assert_eq!(starts(&page)?, all[501..561]);
    assert_eq!(
        page.get("pos"),
        None,
        "live does not follow the middle of history"
    );
    // Sunday: the adapter goes on at Friday's last bar.
    let sunday = format!("from={}&to={MONDAY}", MONDAY - DAY);
    let page = adapter.history("sim:OLD", "1", &sunday).await?;
    assert_eq!(page, json!({ "s": "no_data", "nextTime": all[500] }));
    let before = format!("from=0&to={}", all[0]);
    let page = adapter.history("sim:OLD", "1", &before).await?;
    assert_eq!(page, json!({ "s": "no_data" }));
    // Known, and nothing ever traded: live follows all the same.
    let ever = format!("from=0&to={}&countback=300", i64::from(u32::MAX));
    let page = adapter.history("sim:NEW", "1", &ever).await?;
    assert_eq!(
        (&page["s"], page.get("nextTime")),
        (&json!("no_data"), None)
    );
    assert!(page["pos"]["TICKS"]["c"].is_string(), "{page}");

    // An hour is made of its minutes.
    let page = adapter.history("sim:OLD", "60", &within).await?;
    let hour: Vec<[f64; 5]> = stored
        .range(MONDAY..MONDAY + 3_600)
        .map(|(_, bar)| *bar)
        .collect();
    let volume: f64 = hour.iter().map(|bar| bar[4]).sum();
    let expected = [
        hour[0][0],
        hour.iter().map(|bar| bar[1]).fold(f64::MIN, f64::max),
        hour.iter().map(|bar| bar[2]).fold(f64::MAX, f64::min),
        hour[hour.len() - 1][3],
    ];
    assert_eq!(starts(&page)?, [MONDAY]);
    assert_eq!(row(&page, 0)[..4].to_vec(), expected.to_vec());
    assert!((row(&page, 0)[4] - volume).abs() < 1e-6, "{page}");
    world.signal(Signal::TERM)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bar_forms_and_closes_without_a_contradiction() -> Result<()> {
    let (world, adapter) = start().await?;
    let (_, found) = world.get("/udf/search?limit=1").await?;
    let ticker = found[0]["ticker"].as_str().context("a ticker")?.to_owned();
    let symbol = found[0]["symbol"].as_str().context("a symbol")?.to_owned();
    let mut seen: BTreeMap<i64, Vec<[f64; 5]>> = BTreeMap::new();
    // As the adapter polls: two bars before now.
    let closed = eventually("no minute formed and closed", async || {
        let now = SystemClock.now().seconds() + 1;
        let rest = format!("from={}&to={now}&countback=2", now - 600);
        let page = adapter.history(&ticker, "1", &rest).await?;
        if page["s"] == "no_data" {
            return Ok(None);
        }
        let starts = starts(&page)?;
        let last = starts.len() - 1;
        let before = starts[..last].iter().find(|start| seen.contains_key(start));
        if page["forming"] == true {
            seen.entry(starts[last]).or_default().push(row(&page, last));
        }
        Ok(before.copied())
    })
    .await?;
    let formed = &seen[&closed];
    let bar = recorded(&world, &symbol, "1m").await?[&closed];
    for (earlier, later) in formed.iter().zip(formed.iter().skip(1)) {
        assert!(earlier[1] <= later[1] && earlier[2] >= later[2] && earlier[4] <= later[4]);
    }
    let last = formed.last().context("it formed")?;
    assert!(
        last[1] <= bar[1] && last[2] >= bar[2] && last[4] <= bar[4],
        "{last:?} {bar:?}"
    );
    world.signal(Signal::TERM)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotes_are_last_values_and_marks_what_happened() -> Result<()> {
    let (mut world, adapter) = start().await?;
    let quoted = eventually("no quote", async || {
        let (_, found) = world.get("/udf/search?limit=1").await?;
        let ticker = found[0]["ticker"].as_str().unwrap_or_default().to_owned();
        let quotes = adapter
            .ask(&format!("/udf/quotes?symbols={ticker},sim:NOPE,x"))
            .await?;
        let values = &quotes["d"][0]["v"];
        Ok((values["lp"].is_number() && values["bid"].is_number()).then_some((ticker, quotes)))
    });
    let (ticker, quotes) = quoted.await?;
    assert_eq!(quotes["s"], "ok");
    assert_eq!(quotes["d"][0]["s"], "ok");
    assert_eq!(quotes["d"][0]["n"], ticker);
    let values = &quotes["d"][0]["v"];
    for name in [
        "ask",
        "spread",
        "open_price",
        "high_price",
        "low_price",
        "volume",
    ] {
        assert!(values[name].is_number(), "{name}: {values}");
    }
    assert!(values["spread"].as_f64() >= Some(0.0), "{values}");
    for (at, name) in [(1, "sim:NOPE"), (2, "x")] {
        let expected = json!({ "s": "error", "n": name, "v": {} });
        assert_eq!(quotes["d"][at], expected);
    }

    world.signal(Signal::TERM)?;
    world.ended().await?;
    let tick = |fields: Value| -> Result<Tick> { Ok(serde_json::from_value(fields)?) };
    let at = |second: i64| ((MONDAY + second) * 1_000_000_000).to_string();
    let symbol = ticker.trim_start_matches("sim:");
    let status = |second: i64, state: &str| {
        tick(json!({ "k": "status", "v": "sim", "y": symbol, "tr": at(second), "st": state }))
    };
    let gap = tick(
        json!({ "k": "feed", "v": "sim", "y": "sim", "tr": at(90), "st": "gap",
        "gp": { "from": at(60), "to": at(90), "filled": false } }),
    )?;
    let ticks = [status(10, "open"), status(20, "halt"), Ok(gap)];
    store(&world, ticks.into_iter()).await?;
    world.restart_with(&[]).await?;
    let adapter = Adapter {
        base: world.http().to_owned(),
    };
    let range = format!(
        "symbol={ticker}&from={MONDAY}&to={}&resolution=1",
        MONDAY + 3_600
    );
    let marks = adapter.ask(&format!("/udf/marks?{range}")).await?;
    assert_eq!(marks["time"], json!([MONDAY + 10, MONDAY + 20]));
    assert_eq!(marks["label"], json!(["O", "H"]));
    assert_eq!(marks["id"].as_array().map(Vec::len), Some(2));
    let marks = adapter
        .ask(&format!("/udf/timescale_marks?{range}"))
        .await?;
    assert_eq!(marks.as_array().map(Vec::len), Some(1), "{marks}");
    assert_eq!(marks[0]["time"], MONDAY + 60);
    assert!(
        marks[0]["tooltip"][0]
            .as_str()
            .is_some_and(|said| said.contains("gap in feed sim"))
    );
    world.signal(Signal::TERM)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_answered_is_refused_in_the_protocols_way() -> Result<()> {
    let (world, adapter) = start().await?;
    let (_, found) = world.get("/udf/search?limit=1").await?;
    let ticker = found[0]["ticker"].as_str().context("a ticker")?;
    for (rest, said) in [
        (
            "resolution=7X&from=0&to=9",
            "resolution \"7X\" is not minutes as a number",
        ),
        ("resolution=1&from=9&to=8", "from lies behind to"),
        (
            "resolution=1&from=9&to=8&countback=5",
            "from lies behind to",
        ),
        ("resolution=1&from=0", "to is missing"),
        ("resolution=1&to=9", "from is missing"),
        ("from=0&to=9", "resolution is missing"),
        (
            "resolution=1&from=0&to=9&countback=-1",
            "countback: must be a whole number from 0",
        ),
        (
            "resolution=1&from=0&to=9&countback=1000001",
            "from 0 to 1000000",
        ),
        (
            "resolution=1&from=0&to=8640000000001",
            "to: must be whole seconds since 1970",
        ),
        (
            "resolution=1&from=1772409600000&to=1772413200000&countback=300",
            "from: must be whole seconds since 1970, from -8640000000000 to 9223372036",
        ),
        (
            "resolution=1&from=x&to=9",
            "from: must be whole seconds since 1970",
        ),
        ("resolution=1&from=0&to=9&to=10", "to is given twice"),
        (
            "resolution=1&from=0&to=9&colour=red",
            "colour is no parameter",
        ),
        (
            "resolution=1%27%20OR%201=1--&from=0&to=9",
            "is not minutes as a number",
        ),
    ] {
        let path = format!("/udf/history?symbol={ticker}&{rest}");
        let refused = adapter.refused(&path).await?;
        assert!(refused.contains(said), "{rest}: {refused}");
    }
    let huge = "x".repeat(200);
    let many = vec!["sim:A"; 300].join(",");
    for (path, said) in [
        (
            "/udf/history?symbol=sim:NOPE&resolution=1&from=0&to=9",
            "unknown symbol",
        ),
        (
            "/udf/history?symbol=NOPE&resolution=1&from=0&to=9",
            "is not of the form venue:SYMBOL",
        ),
        (
            "/udf/history?symbol=&resolution=1&from=0&to=9",
            "symbol is missing",
        ),
        (
            &format!("/udf/symbols?symbol={huge}"),
            "symbol: has 200 characters, the limit is 96",
        ),
        (
            &format!("/udf/quotes?symbols={many}"),
            "300 symbols are given, the limit is 256",
        ),
        ("/udf/quotes", "symbols is missing"),
        (
            "/udf/search?limit=0",
            "limit: must be a whole number from 1 to 1000",
        ),
        (
            "/udf/marks?symbol=sim:NOPE&from=0&to=9&resolution=1",
            "unknown symbol",
        ),
        (
            "/udf/marks?symbol=sim:NOPE&from=9&to=0&resolution=1",
            "from lies behind to",
        ),
        (
            "/udf/marks?symbol=sim:NOPE&from=1772409600000&to=1772413200000",
            "from: must be whole seconds since 1970",
        ),
        (
            "/udf/timescale_marks?symbol=sim:NOPE&from=0&to=9&resolution=1",
            "unknown symbol",
        ),
    ] {
        let refused = adapter.refused(path).await?;
        assert!(refused.contains(said), "{path}: {refused}");
    }
    world.signal(Signal::TERM)
}

fn instrument(symbol: &str) -> Result<Tick> {
    let tick =
        json!({ "k": "inst", "v": "sim", "y": symbol, "tr": "1", "ty": "equity", "ts": "0.01" });
    Ok(serde_json::from_value(tick)?)
}
