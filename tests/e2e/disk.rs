//! The database is full: recording waits and says so, live data goes on, and nothing is lost.

use std::collections::BTreeSet;

use anyhow::Result;
use rustix::process::Signal;
use schemas::http::{Item, Page};
use schemas::position::StreamSeq;
use schemas::ws::Encoding;

use crate::client::Client;
use crate::world::{World, eventually, until};

const FEEDS: &str =
    "[[feed]]\nname = \"sim\"\nsource = \"sim\"\ninstruments = 20\nrate = 2000\nbars = [\"1s\"]\n";
const FULL: &[&str] = &["--store-bytes", "2097152"];
const SYMBOL: &str = "AAA";

/// Waits until the recorder's check is ok or not, as asked: its reason.
async fn recorder_is(world: &World, ok: bool) -> Result<String> {
    eventually(&format!("recorder ok = {ok}"), async || {
        let (_, health) = world.ops("/health").await?;
        let found = &health["checks"]["recorder"];
        let reason = found["reason"].as_str().unwrap_or_default();
        Ok((found["ok"] == ok).then(|| reason.to_owned()))
    })
    .await
}

/// The sequences of one symbol's trades in history up to `until`.
async fn recorded(world: &World, until: StreamSeq) -> Result<BTreeSet<u64>> {
    let mut recorded = BTreeSet::new();
    let mut next = String::new();
    loop {
        let path = format!("/v1/trades?venue=sim&symbol={SYMBOL}&from=0&limit=5000{next}");
        let (status, page) = world.get(&path).await?;
        assert_eq!(status, 200, "{page}");
        let page: Page<Item> = serde_json::from_value(page)?;
        recorded.extend(page.items.iter().map(|item| item.s.get()));
        match page.next {
            Some(cursor) => next = format!("&cursor={cursor}"),
            None => break,
        }
    }
    recorded.retain(|seq| *seq <= until.get());
    Ok(recorded)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_recording_and_nothing_else() -> Result<()> {
    let mut world = World::start_with(FEEDS, FULL).await?;
    let trades = format!("trade.sim.{SYMBOL}");
    let mut client = Client::connect(world.ws(), Encoding::MessagePack).await?;
    client.subscribe_all(&[&trades], "none").await?;
    let mut received = Vec::new();
    // The client reads on while the database fills up.
    let reason = {
        let full = recorder_is(&world, false);
        tokio::pin!(full);
        loop {
            tokio::select! {
                reason = &mut full => break reason?,
                more = client.next() => received.extend(more?),
            }
        }
    };
    assert!(reason.contains("full"), "{reason}");
    let (status, text) = world.ops("/readyz").await?;
    assert_eq!(status, 503, "{text}");
    let goal = StreamSeq::new(client.cursor.get() + 4_000);
    received.extend(client.read_to(goal).await?);
    assert_eq!(client.continuity.counts().holes, 0);
    let (status, latest) = world.get(&format!("/v1/latest?topics={trades}")).await?;
    assert_eq!(status, 200, "{latest}");
    let before = recorded(&world, goal).await?;

    world.signal(Signal::TERM)?;
    let code = world.ended().await?;
    assert_eq!(code, Some(0), "{}", world.said()?);
    // With room again, what the stream kept is recorded too.
    world.restart_with(&[]).await?;
    let wanted: BTreeSet<u64> = received
        .iter()
        .map(|received| received.seq.get())
        .filter(|seq| *seq <= goal.get())
        .collect();
    assert!(before.len() < wanted.len(), "the database was never full");
    until("recording does not catch up", async || {
        Ok(recorded(&world, goal).await?.len() >= wanted.len())
    })
    .await?;
    assert!(recorded(&world, goal).await? == wanted, "other trades");
    recorder_is(&world, true).await?;
    Ok(())
}
