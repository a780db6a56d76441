//! The console in a real browser: prices move, history and live bars join, a cut socket resumes.

use anyhow::Result;
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
    let holes = "tickwire.chart.bars().map((bar) => Number(bar.t0.slice(0, -9))).filter((t, i, all) => i > 0 && t !== all[i - 1] + 1).length";
    assert_eq!(page.evaluate(holes).await?, 0);

    page.evaluate("tickwire.stream.cut()").await?;
    page.until("document.querySelector('#proof-resume').dataset.resumed === 'true'")
        .await?;
    page.evaluate("window.joined = tickwire.chart.bars().length")
        .await?;
    page.until("tickwire.chart.bars().length > window.joined + 3")
        .await?;
    assert_eq!(page.evaluate(holes).await?, 0);
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
