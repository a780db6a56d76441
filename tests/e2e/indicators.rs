//! Indicators over a running system: the forming bar stands behind no hole, and pages are the whole.

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::world::{World, eventually};

const FEEDS: &str =
    "[[feed]]\nname = \"sim\"\nsource = \"sim\"\ninstruments = 2\nrate = 200\nseed = 7\n";
const OF: &str = "venue=sim&symbol=AAA&interval";
const MINUTE: i64 = 60_000_000_000;

/// Starts in nanoseconds, as they come.
fn starts(items: &[Value]) -> Result<Vec<i64>> {
    let start = |item: &Value| Ok(item["t0"].as_str().context("a start")?.parse()?);
    items.iter().map(start).collect()
}

async fn items(world: &World, path: &str) -> Result<(Vec<Value>, Value)> {
    let (status, mut page) = world.get(path).await?;
    ensure!(status == 200, "{path}: {page}");
    let next = page["next"].take();
    let items = page["items"].as_array().context("items")?;
    Ok((items.clone(), next))
}

/// All of a range, page by page.
async fn joined(world: &World, path: &str) -> Result<Vec<Value>> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let (page, next) = items(world, &format!("{path}{cursor}")).await?;
        all.extend(page);
        let Some(next) = next.as_str() else {
            return Ok(all);
        };
        cursor = format!("&cursor={next}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forming_bar_follows_what_is_recorded_and_totals_go_on() -> Result<()> {
    let world = World::start(FEEDS).await?;
    let newest = format!("/v1/indicators/obv?{OF}=1m&order=desc&limit");
    let forming = eventually("no minute formed behind one that closed", async || {
        let (page, next) = items(&world, &format!("{newest}=1")).await?;
        ensure!(page.len() <= 1, "{page:?}");
        let is_forming = page.iter().any(|item| item["k"] == "form");
        let found = (is_forming && next.is_string()).then(|| starts(&page));
        found.transpose()
    })
    .await?[0];
    let (page, _) = items(&world, &format!("{newest}=2&to={}", forming + 1)).await?;
    ensure!(page[1]["k"] == "bar", "{page:?}");
    ensure!(starts(&page)? == [forming, forming - MINUTE], "{page:?}");
    let path = format!("/v1/indicators/obv?{OF}=1s&limit");
    let to = eventually("no seconds", async || {
        let (page, _) = items(&world, &format!("{path}=10000")).await?;
        // What is so old does not change any more.
        let settled = page.len().checked_sub(5).filter(|count| *count > 15);
        settled.map(|count| Ok(starts(&page)?[count])).transpose()
    })
    .await?;
    let closed = format!("/v1/indicators/obv?{OF}=1s&to={to}&limit=");
    let (whole, _) = items(&world, &format!("{closed}10000")).await?;
    ensure!(whole.len() > 15, "{}", whole.len());
    ensure!(joined(&world, &format!("{closed}7")).await? == whole);
    let mut back = joined(&world, &format!("{closed}7&order=desc")).await?;
    back.reverse();
    ensure!(back == whole);
    world.signal(Signal::TERM)
}
