//! The console in a real browser: prices move, history and live bars join, a cut socket resumes.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::chromium::{Page, installed};
use crate::world::World;

const FEEDS: &str =
    "[[feed]]\nname = \"sim\"\nsource = \"sim\"\ninstruments = 30\nrate = 1000\nseed = 5\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trader_sees_prices_bars_and_the_proof() -> Result<()> {
    let Some(browser) = installed() else {
        return Ok(());
    };
    let world = World::start(FEEDS).await?;
    let mut page = Page::open(&browser, world.http()).await?;
    page.until("document.querySelectorAll('#rows tr').length === 30")
        .await?;
    page.until("document.querySelector('#link').dataset.state === 'live'")
        .await?;
    page.until("document.querySelector('#feeds li')?.dataset.state === 'live'")
        .await?;

    let bid = page.until("(window.before = document.querySelector('#rows .bid').textContent) !== '–' && window.before").await?;
    page.until("document.querySelector('#rows .bid').textContent !== window.before")
        .await?;
    eprintln!("the first bid was {bid}, and moved");
    page.until("document.querySelector('td.rise, td.fall')")
        .await?;
    page.until("Number(document.querySelector('#latency').textContent) >= 0")
        .await?;
    page.until("document.querySelectorAll('#prints li').length > 5")
        .await?;

    // History came first, live bars follow: one bar per second without a hole, from both.
    page.until("tickwire.chart.bars().length > 3").await?;
    page.evaluate("window.joined = tickwire.chart.bars().length")
        .await?;
    page.until("tickwire.chart.bars().length > window.joined + 4")
        .await?;
    assert_eq!(missing(&mut page, &world).await?, Vec::<String>::new());

    page.evaluate("tickwire.stream.cut()").await?;
    page.until("document.querySelector('#proof-resume').dataset.resumed === 'true'")
        .await?;
    page.evaluate("window.joined = tickwire.chart.bars().length")
        .await?;
    page.until("tickwire.chart.bars().length > window.joined + 3")
        .await?;
    assert_eq!(missing(&mut page, &world).await?, Vec::<String>::new());
    let proof = page.evaluate("tickwire.stream.proof()").await?;
    eprintln!("delivery proof: {proof}");
    assert_eq!(
        (&proof["gaps"], &proof["holes"], &proof["good"]),
        (&0.into(), &0.into(), &true.into())
    );
    page.until("document.querySelector('#proof-verdict').textContent === 'nothing missed'")
        .await?;

    page.evaluate("document.querySelectorAll('#rows tr')[3].click()")
        .await?;
    page.evaluate("[...document.querySelectorAll('#intervals button')].find((b) => b.textContent === '1m').click()").await?;
    page.until("tickwire.chart.bars().some((bar) => bar.iv === '1m')")
        .await?;
    assert!(page.picture().await?.len() > 10_000);
    assert_eq!(page.errors(), &[] as &[String]);
    world.signal(Signal::TERM)
}

/// Starts of stored bars that the chart lacks between its first bar and its last.
async fn missing(page: &mut Page, world: &World) -> Result<Vec<String>> {
    let chart = "JSON.stringify(tickwire.chart.bars().map((bar) => [bar.y, bar.t0]))";
    let chart = page.evaluate(chart).await?;
    let chart: Vec<(String, String)> =
        serde_json::from_str(chart.as_str().context("a list of bars")?)?;
    let ((symbol, first), (_, last)) = (
        chart.first().context("a first bar")?,
        chart.last().context("a last bar")?,
    );
    let path = format!(
        "/v1/bars?venue=sim&symbol={symbol}&interval=1s&from={first}&to={last}&limit=10000"
    );
    let (status, stored) = world.get(&path).await?;
    assert_eq!(status, 200, "{stored}");
    let shown: BTreeSet<&str> = chart.iter().map(|(_, start)| start.as_str()).collect();
    let stored = stored["items"].as_array().context("items")?.iter();
    let starts = stored.filter_map(|bar| bar["t0"].as_str());
    let missing = starts.filter(|start| !shown.contains(start));
    Ok(missing.map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_golden_traces_pass_in_the_browser_too() -> Result<()> {
    let Some(browser) = installed() else {
        return Ok(());
    };
    let world = World::start(FEEDS).await?;
    let mut page = Page::open(&browser, world.http()).await?;
    page.until("document.readyState === 'complete'").await?;
    let runner =
        include_str!("../../schemas/tests/golden/run.mjs").replace("export function", "function");
    let runner = runner
        .split("if (typeof process")
        .next()
        .unwrap_or_default();
    let traces = include_str!("../../schemas/tests/golden/continuity.json");
    let script = format!(
        "import('./continuity.js').then((module) => {{ {runner}; return runTraces(module.Continuity, {traces}); }})"
    );
    let held = page.evaluate(&script).await?;
    assert!(
        held.as_u64().is_some_and(|held| held > 80),
        "only {held} steps held"
    );
    Ok(())
}
