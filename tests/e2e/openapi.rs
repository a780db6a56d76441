//! The descriptions of the HTTP API and the WebSocket: the page over the one in a real browser, and
//! whether both are as described.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use futures_util::{SinkExt, StreamExt};
use schemas::ws::Encoding;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::chromium::{Page, installed};
use crate::client::Client;
use crate::interop::client;
use crate::movement::{is_soak, seed};
use crate::world::{PATIENCE, World, eventually, say, until};

const FEEDS: &str =
    "[[feed]]\nname = \"sim\"\nsource = \"sim\"\ninstruments = 20\nrate = 1000\nseed = 7\n";

/// What `tests/interop/setup.py` installs.
const SCHEMATHESIS: &str = "schemathesis-4.32.5/bin/python";
/// What every answer is held against.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
    response_schema_conformance,negative_data_rejection,positive_data_acceptance";

/// Indicators that take no sort of parameter that one of the others does not: they have their turn
/// when there is time.
const MORE_OF_THE_SAME: &str = "^/v1/indicators/(?!(sma|macd|bbands|psar|vwap)$)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_developer_reads_of_every_path_and_tries_it() -> Result<()> {
    let Some(browser) = installed() else {
        return Ok(());
    };
    let world = World::start(FEEDS).await?;
    until("no trade is recorded", async || {
        let (_, page) = world.get("/v1/trades?venue=sim&symbol=AAA").await?;
        Ok(page["items"][0].is_object())
    })
    .await?;
    let (_, description) = world.get("/openapi.json").await?;
    let paths = description["paths"].as_object().context("paths")?;
    let url = format!("{}/docs", world.http());
    let mut page = Page::open(&browser, &url).await?;
    page.until("document.querySelector('#resources').ariaBusy === 'false'")
        .await?;
    let shown = "[...document.querySelectorAll('article')].map((one) => one.dataset.path)";
    let shown: BTreeSet<String> = serde_json::from_value(page.evaluate(shown).await?)?;
    assert_eq!(shown, paths.keys().cloned().collect());

    let body = ask(
        &mut page,
        "trades",
        &[("venue", "sim"), ("symbol", "AAA"), ("limit", "3")],
    )
    .await?;
    assert!(body.starts_with("200 "), "{body}");
    assert!(body.contains("\"k\": \"trade\""), "{body}");
    assert_eq!(page.errors(), &[] as &[String]);
    let refused = ask(&mut page, "trades", &[("venue", "SIM"), ("symbol", "AAA")]).await?;
    assert!(refused.starts_with("400 "), "{refused}");
    assert!(refused.contains("\"parameter\": \"venue\""), "{refused}");
    page.evaluate("location.hash = ''; document.querySelector('#filter').value = 'instruments'")
        .await?;
    page.evaluate("document.querySelector('#filter').dispatchEvent(new Event('input'))")
        .await?;
    let left = page.evaluate("[...document.querySelectorAll('nav a')].filter((one) => !one.hidden).map((one) => one.textContent)").await?;
    assert_eq!(left, json!(["/v1/instruments"]));
    Ok(())
}

/// Fills in the form of a resource and sends it: what the page shows of the answer.
async fn ask(page: &mut Page, id: &str, fields: &[(&str, &str)]) -> Result<String> {
    let fields: Vec<Value> = fields
        .iter()
        .map(|(name, value)| json!([name, value]))
        .collect();
    let script = format!(
        "(() => {{
           const article = document.getElementById('{id}');
           article.querySelector('output').replaceChildren();
           for (const [name, value] of {}) article.querySelector(`[name=${{name}}]`).value = value;
           article.querySelector('form').requestSubmit();
         }})()",
        Value::from(fields)
    );
    page.evaluate(&script).await?;
    let shown = page
        .until(&format!(
            "document.querySelector('#{id} output').textContent"
        ))
        .await?;
    Ok(shown.as_str().context("a text")?.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_is_as_described() -> Result<()> {
    let Some(python) = client(SCHEMATHESIS) else {
        return Ok(());
    };
    let seed = seed("openapi")?;
    let world = World::start(FEEDS).await?;
    let values = eventually("not all that is asked for is recorded", async || {
        known(&world).await
    })
    .await?;
    let dir = TempDir::new()?;
    let counts = dir.path().join("counts.json");
    std::fs::write(dir.path().join("values.json"), values.to_string())?;
    let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop");
    let examples = if is_soak() { "1000" } else { "25" };
    let mut command = Command::new(python);
    command
        .args(["-m", "schemathesis.cli", "run"])
        .arg(format!("{}/openapi.json", world.http()))
        .args(["--checks", CHECKS, "--phases", "examples,coverage,fuzzing"])
        .args(["--max-examples", examples, "--seed", &seed.to_string()])
        .args([
            "--generation-database",
            "none",
            "--suppress-health-check",
            "all",
        ])
        .args(["--continue-on-failure", "--no-color"])
        .env("SCHEMATHESIS_HOOKS", "openapi")
        .env("PYTHONPATH", hooks)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("TICKWIRE_VALUES", dir.path().join("values.json"))
        .env("TICKWIRE_COUNTS", &counts)
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if !is_soak() {
        command.args(["--exclude-path-regex", MORE_OF_THE_SAME]);
    }
    let patience = if is_soak() {
        PATIENCE * 60
    } else {
        PATIENCE * 10
    };
    let output = timeout(patience, command.output()).await??;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{said}");
    let counts: BTreeMap<String, BTreeMap<String, u64>> =
        serde_json::from_slice(&std::fs::read(&counts)?)?;
    say(&format!("answers of each status: {}", json!(counts)));
    let (_, description) = world.get("/openapi.json").await?;
    for path in description["paths"].as_object().context("paths")?.keys() {
        let good = counts.get(path).and_then(|of| of.get("200"));
        let asked = format!("{path}?venue=sim&symbol=AAA&interval=1s&limit=2");
        let good = match good {
            None if path.starts_with("/v1/indicators/") => world.get(&asked).await?.0 == 200,
            good => good.is_some(),
        };
        ensure!(good, "{path} never answered with 200: {said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_is_as_described() -> Result<()> {
    let Some(python) = client(SCHEMATHESIS) else {
        return Ok(());
    };
    let world = World::start(FEEDS).await?;
    let topics = ["trade.sim.*", "quote.sim.AAA", "nonsense"];
    // Without a last value there is no snapshot.
    let mut before = Client::connect(world.ws(), Encoding::Json).await?;
    before.subscribe(&topics[..2], "none", [].into()).await?;
    let first = timeout(PATIENCE, async {
        while before.next().await?.is_empty() {}
        anyhow::Ok(())
    });
    first.await.context("no tick comes")??;
    let dir = TempDir::new()?;
    let (_, document) = world.get("/asyncapi.json").await?;
    std::fs::write(dir.path().join("document"), document.to_string())?;
    let ops = [
        json!([{ "op": "ping" }, { "op": "list", "id": 1 }]),
        json!([{ "op": "subscribe", "id": 2, "topics": topics, "snapshot": true, "conflate": 500 }]),
        json!([{ "op": "unsubscribe", "id": 3, "topics": ["trade.sim.*"] }]),
    ];
    let (mut socket, _) = connect_async(world.ws()).await?;
    let mut frames = Vec::new();
    let mut seen = BTreeSet::new();
    let wanted = ["ack", "d", "hb", "pong", "skip", "snap", "welcome"];
    for op in &ops[..2] {
        socket.send(Message::text(op.to_string())).await?;
    }
    let hearing = async {
        while !wanted.iter().all(|kind| seen.contains(*kind)) {
            let frame = socket.next().await.context("a frame")??;
            let Message::Text(text) = frame else { continue };
            let messages: Value = serde_json::from_str(&text)?;
            let messages = messages.as_array().context("an array")?.iter();
            seen.extend(messages.filter_map(|one| one["t"].as_str().map(str::to_owned)));
            frames.push(text.to_string());
        }
        anyhow::Ok(())
    };
    let heard = timeout(PATIENCE, hearing).await;
    heard.with_context(|| format!("of {wanted:?} only {seen:?} came"))??;
    // What a server does not say, and a client must not ask.
    let wrong = [
        r#"[{"t":"d","c":"trade.sim.AAA"}]"#,
        r#"[{"op":"subscribe"}]"#,
    ];
    let ops: Vec<String> = ops.iter().map(Value::to_string).collect();
    for (name, frames, good) in [
        ("server", &*frames, true),
        ("client", &*ops, true),
        ("server", &[wrong[0].to_owned()], false),
        ("client", &[wrong[1].to_owned()], false),
    ] {
        std::fs::write(dir.path().join("frames"), frames.join("\n"))?;
        let output = Command::new(&python)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/asyncapi.py"))
            .args(["document", name, "frames"])
            .current_dir(dir.path())
            .kill_on_drop(true)
            .output();
        let output = timeout(PATIENCE, output).await??;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() == good, "{name}: {said}");
        ensure!(good || said.contains("is not valid"), "{name}: {said}");
    }
    Ok(())
}

/// Values of parameters for which there is something, once there is.
async fn known(world: &World) -> Result<Option<Value>> {
    let (_, bars) = world
        .get("/v1/bars?venue=sim&symbol=AAA&interval=1s&limit=2")
        .await?;
    let (_, trades) = world.get("/v1/trades?venue=sim&symbol=AAA&limit=2").await?;
    let (_, newest) = world
        .get("/v1/trades?venue=sim&symbol=AAA&order=desc")
        .await?;
    let (Some(_), Some(cursor)) = (bars["next"].as_str(), trades["next"].as_str()) else {
        return Ok(None);
    };
    let (_, days) = world.get("/v1/eod?venue=sim&symbol=AAA").await?;
    let date = &days["items"][0]["date"];
    let epoch = newest["pos"]["TICKS"]["e"].as_str().context("an epoch")?;
    Ok(Some(json!({
        "venue": ["sim"],
        "symbol": ["AAA", "AAB"],
        "topics": ["quote.sim.AAA", "trade.sim.AAA,trade.sim.AAB,stat.sim.AAA"],
        "topic": ["trade.sim.AAA", "quote.sim.AAB", "bar.sim.AAA.1s"],
        "epoch": [epoch],
        "type": ["equity"],
        "q": ["aa", "usd"],
        "date": [date],
        "/v1/eod cursor": [date],
        "/api/eod cursor": [date],
        "/api/latest cursor": ["AAA"],
        "/v1/instruments cursor": ["1"],
        "/v1/dead-letters cursor": ["0_0-0_0"],
        "stream": ["TICKS"],
        "interval": ["1s", "4m", "1d"],
        "cursor": [cursor],
        "zone": ["UTC", "Asia/Karachi"],
        "/udf/history symbol": ["sim:AAA"],
        "/udf/history resolution": ["1", "1S", "1D"],
        "/udf/symbols symbol": ["sim:AAA"],
        "/udf/quotes symbols": ["sim:AAA", "sim:AAA,sim:AAB"],
        "/udf/search exchange": ["sim"],
        "/udf/marks symbol": ["sim:AAA"],
        "/udf/timescale_marks symbol": ["sim:AAA"],
        "/v1/ticks cursor": ["5"],
        "/udf/symbols symbol": ["sim:AAA", "AAA"],
        "/udf/history symbol": ["sim:AAA", "sim:AAB"],
        "/udf/marks symbol": ["sim:AAA"],
        "/udf/timescale_marks symbol": ["sim:AAA"],
        "symbols": ["sim:AAA,sim:AAB"],
        "resolution": ["1S", "1", "60", "1W"],
    })))
}
