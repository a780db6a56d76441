//! The description of the HTTP API: the page over it in a real browser, and whether the API is as described.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::chromium::{Page, installed};
use crate::world::{World, until};

const FEEDS: &str =
    "[[feed]]\nname = \"sim\"\nsource = \"sim\"\ninstruments = 20\nrate = 1000\nseed = 7\n";

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
    assert_eq!(left, serde_json::json!(["/v1/instruments"]));
    Ok(())
}

/// Fills in the form of a resource and sends it: what the page shows of the answer.
async fn ask(page: &mut Page, id: &str, fields: &[(&str, &str)]) -> Result<String> {
    let fields: Vec<Value> = fields
        .iter()
        .map(|(name, value)| serde_json::json!([name, value]))
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
