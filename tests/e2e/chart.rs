//! The chart page in a real browser: a million stored bars pass through it without a hole, live bars
//! join by position, the last bar moves, and a cut connection resumes.

use anyhow::{Context, Result};
use rustix::process::Signal;
use schemas::id::Interval;
use schemas::time::{Clock as _, SystemClock};
use serde_json::Value;
use tokio::time::timeout;

use crate::chromium::{Page, installed};
use crate::stored::{bars, store};
use crate::world::{PATIENCE, World, eventually, say, until};

const FEEDS: &str =
    "[[feed]]\nname = \"sim\"\nsource = \"sim\"\ninstruments = 4\nrate = 400\nseed = 3\n";
/// Stored bars of one second.
const MILLION: i64 = 1_000_000;

/// Scrolls back page by page for a while, or until the beginning, and looks at every bar on the way:
/// each page must join the one before it without a hole, and none may be drawn twice.
const SCROLL: &str = "(async () => {
  const state = window.scrolled ??= { seen: tickwire.bars().length, most: 0, holes: [], oldest: tickwire.bars()[0].time };
  const started = performance.now();
  const check = (bars) => {
    const joint = bars.findIndex((bar) => bar.time === state.oldest);
    if (joint < 0) state.holes.push(state.oldest);
    for (let at = 1; at <= joint; at += 1) if (bars[at].time !== bars[at - 1].time + 1) state.holes.push(bars[at].time);
    for (let at = 1; at < bars.length; at += 1) if (bars[at].time <= bars[at - 1].time) state.holes.push(bars[at].time);
    state.seen += joint;
    state.oldest = bars[0].time;
  };
  while (performance.now() - started < 5000) {
    const { busy, begins } = tickwire.proof();
    const bars = tickwire.bars();
    state.most = Math.max(state.most, bars.length);
    if (bars[0].time !== state.oldest) check(bars);
    if (!busy && begins) return state;
    if (!busy) tickwire.scroll(-5000);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  return null;
})()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_bars_pass_and_live_ones_join() -> Result<()> {
    let Some(browser) = installed() else {
        return Ok(());
    };
    let mut world = World::start(FEEDS).await?;
    let symbol = eventually("no instrument is recorded", async || {
        let (_, found) = world.get("/udf/search?limit=1").await?;
        Ok(found[0]["symbol"].as_str().map(str::to_owned))
    })
    .await?;
    world.signal(Signal::TERM)?;
    world.ended().await?;
    let until = SystemClock.now().seconds() - 3_600;
    let first = until - MILLION;
    store(&world, bars(&symbol, Interval::Second1, first..until)?).await?;
    world.restart_with(&[]).await?;

    let address = format!("{}/chart?symbol=sim:{symbol}&resolution=1S", world.http());
    let mut page = Page::open(&browser, &address).await?;
    page.until("tickwire.proof().joined && tickwire.proof().live > 2")
        .await?;
    let begun = starts(&mut page).await?;

    // The last bar moves: every second brings one.
    page.evaluate("window.before = tickwire.bars().at(-1).time")
        .await?;
    page.until("tickwire.bars().at(-1).time > window.before + 2")
        .await?;
    compare(&mut page, &world, &symbol, begun[0]).await?;

    let scrolling = async {
        loop {
            let scrolled = page.evaluate(SCROLL).await?;
            if !scrolled.is_null() {
                return anyhow::Ok(scrolled);
            }
        }
    };
    let scrolled = timeout(PATIENCE * 5, scrolling).await;
    let scrolled = scrolled.context("the beginning is never reached")??;
    say(&format!("scrolled back: {scrolled}"));
    assert_eq!(scrolled["holes"], Value::Array(Vec::new()), "holes");
    assert_eq!(scrolled["oldest"], first);
    assert!(scrolled["seen"].as_i64() > Some(MILLION), "{scrolled}");
    assert!(scrolled["most"].as_i64() <= Some(20_500), "{scrolled}");
    let proof = page.evaluate("tickwire.proof()").await?;
    assert_eq!(proof["newest"], false);

    // Some pages forward as one scrolls, and then at once: live bars join again.
    page.evaluate("window.oldest = tickwire.bars()[0].time")
        .await?;
    page.until("(tickwire.scroll(5000), tickwire.bars()[0].time > window.oldest + 20_000)")
        .await?;
    let held = starts(&mut page).await?;
    assert!(held.windows(2).all(|pair| pair[1] == pair[0] + 1), "a hole");
    page.evaluate("document.querySelector('#present').click()")
        .await?;
    page.until("tickwire.proof().newest && tickwire.proof().live > 2")
        .await?;

    page.evaluate(CUT).await?;
    page.evaluate("window.before = tickwire.bars().at(-1).time")
        .await?;
    page.until("tickwire.bars().at(-1).time > window.before + 3")
        .await?;
    let begun = starts(&mut page).await?;
    compare(&mut page, &world, &symbol, begun[0]).await?;
    let proof = page.evaluate("tickwire.proof()").await?;
    assert_eq!((&proof["holes"], &proof["good"]), (&0.into(), &true.into()));
    page.until("document.querySelector('#proof-verdict').textContent === 'nothing missed'")
        .await?;
    assert!(page.picture().await?.len() > 10_000);
    assert_eq!(page.errors(), &[] as &[String]);
    world.signal(Signal::TERM)
}

/// Cuts the stream, and waits until the page says so: it may be live again soon after.
const CUT: &str = "new Promise((resolve) => {
  const link = document.querySelector('#link');
  const look = (_, watch) => {
    if (link.dataset.state === 'live') return;
    watch.disconnect();
    resolve(true);
  };
  new MutationObserver(look).observe(link, { attributes: true });
  tickwire.stream.cut();
})";

/// Chooses one instrument, whose answer is held back, and another one meanwhile; then one whose first
/// answer fails: what is shown after each, and what was chosen last.
const CHOOSE: &str = "(async () => {
  const [one, other, third] = (await (await fetch('udf/search?limit=3')).json()).map(({ ticker }) => ticker);
  const usual = window.fetch;
  const asks = (path, ticker) => path.includes('symbols') && path.includes(encodeURIComponent(ticker));
  const shown = () => new URLSearchParams(location.search).get('symbol');
  let answer;
  const held = new Promise((resolve) => { answer = resolve; });
  window.fetch = async (path) => {
    const answered = await usual(path);
    if (asks(path, one)) await held;
    return answered;
  };
  const late = tickwire.open(one);
  await tickwire.open(other);
  answer();
  await late;
  const first = [shown(), other];
  let failed = 0;
  window.fetch = async (path) => {
    if (asks(path, third) && (failed += 1) === 1) throw new TypeError('the line is cut');
    return usual(path);
  };
  await tickwire.open(third);
  window.fetch = usual;
  return [first, [shown(), third], failed];
})()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_instrument_that_was_chosen_last_is_shown() -> Result<()> {
    let Some(browser) = installed() else {
        return Ok(());
    };
    let world = World::start(FEEDS).await?;
    until("no instruments are recorded", async || {
        let (_, found) = world.get("/udf/search?limit=4").await?;
        Ok(found.as_array().is_some_and(|found| found.len() == 4))
    })
    .await?;
    let mut page = Page::open(&browser, &format!("{}/chart", world.http())).await?;
    page.until("tickwire.proof().joined").await?;
    let chosen = page.evaluate(CHOOSE).await?;
    for pair in [&chosen[0], &chosen[1]] {
        assert_eq!(pair[0], pair[1], "{chosen}");
    }
    assert_eq!(chosen[2], 2, "it was asked for again");
    page.until("tickwire.proof().joined").await?;
    assert_eq!(page.errors(), &[] as &[String]);
    world.signal(Signal::TERM)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minute_forms_and_other_instruments_are_found() -> Result<()> {
    let Some(browser) = installed() else {
        return Ok(());
    };
    let world = World::start(FEEDS).await?;
    let mut page = Page::open(&browser, &format!("{}/chart", world.http())).await?;
    // Nothing was asked for: the first instrument at one minute, whose bar moves before it closes.
    page.until("tickwire.bars().at(-1)?.forming").await?;
    page.evaluate("window.before = JSON.stringify(tickwire.bars().at(-1))")
        .await?;
    page.until("JSON.stringify(tickwire.bars().at(-1)) !== window.before")
        .await?;
    // One that is not published is read again whenever something moves.
    page.evaluate("document.querySelector('[data-resolution=\"3\"]').click()")
        .await?;
    page.until("tickwire.proof().live > 2").await?;

    page.evaluate("document.querySelector('#search').focus()")
        .await?;
    page.until("document.querySelectorAll('#found button').length === 4")
        .await?;
    page.evaluate("document.querySelectorAll('#found button')[2].click()")
        .await?;
    page.until("document.querySelector('#chart-name').textContent.startsWith(new URLSearchParams(location.search).get('symbol').split(':')[1])")
        .await?;
    page.until("tickwire.proof().joined").await?;
    assert_eq!(page.errors(), &[] as &[String]);
    world.signal(Signal::TERM)
}

/// The starts of the bars that the page holds, in seconds.
async fn starts(page: &mut Page) -> Result<Vec<i64>> {
    let starts = page
        .evaluate("JSON.stringify(tickwire.bars().map((bar) => bar.time))")
        .await?;
    Ok(serde_json::from_str(starts.as_str().context("starts")?)?)
}

/// Compares what the page holds from `first` on with what is stored, up to the page's last bar but
/// one: both grow.
async fn compare(page: &mut Page, world: &World, symbol: &str, first: i64) -> Result<()> {
    let bars = "JSON.stringify(tickwire.bars().map((bar) => [bar.time, bar.open, bar.high, bar.low, bar.close, bar.volume]))";
    let shown = page.evaluate(bars).await?;
    let mut shown: Vec<[f64; 6]> = serde_json::from_str(shown.as_str().context("bars")?)?;
    let last = shown.pop().context("a last bar")?[0];
    let stored = eventually("the last bars are not recorded", async || {
        let nanos = |seconds: f64| format!("{seconds:.0}000000000");
        let first = first.to_string();
        let path = format!(
            "/v1/bars?venue=sim&symbol={symbol}&interval=1s&from={first}000000000&to={}&limit=10000",
            nanos(last + 1.0)
        );
        let (status, page) = world.get(&path).await?;
        assert_eq!(status, 200, "{page}");
        let mut stored = Vec::new();
        for bar in page["items"].as_array().context("items")? {
            let number = |field: &str| bar[field].as_str().unwrap_or_default().parse::<f64>();
            let start = number("t0")? / 1e9;
            let [open, high, low, close, volume] = ["o", "h", "l", "c", "vo"].map(number);
            stored.push([start, open?, high?, low?, close?, volume?]);
        }
        let newest = stored.last().map(|bar: &[f64; 6]| bar[0]);
        Ok((newest == Some(last)).then_some(stored))
    })
    .await?;
    let bits = |bar: &[f64; 6]| bar.map(f64::to_bits);
    let mut pairs = shown.iter().zip(&stored);
    let differs = pairs.find(|(one, other)| bits(one) != bits(other));
    assert_eq!(differs, None);
    assert_eq!(shown.len() + 1, stored.len());
    Ok(())
}
