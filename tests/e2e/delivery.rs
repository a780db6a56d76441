//! Many clients, everything, at rate: nobody misses anything, and all receive the same.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use anyhow::{Context, Result};
use schemas::codec;
use schemas::id::Kind;
use schemas::position::StreamSeq;
use schemas::ws::Encoding;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client::{Client, Received};
use crate::world::{PATIENCE, PATIENT, World};

/// A minute of the simulator at [`RATE`]: ticks, forming and closed bars, summaries.
const GOAL: StreamSeq = StreamSeq::new(400_000);
const RATE: u32 = 5_000;
const CLIENTS: usize = 10;

/// What a client received, in short: per topic how many ticks, and their digest in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Content(BTreeMap<String, (u64, u64)>);

impl Content {
    fn add(&mut self, received: &Received) -> Result<()> {
        let mut digest = DefaultHasher::new();
        let (count, before) = self.0.get(&received.topic).copied().unwrap_or_default();
        (
            before,
            received.seq.get(),
            codec::to_msgpack(&received.tick)?,
        )
            .hash(&mut digest);
        self.0
            .insert(received.topic.clone(), (count + 1, digest.finish()));
        Ok(())
    }
}

/// Receives everything up to [`GOAL`]: what it was, and how many ticks the venue itself made of it.
async fn receive(mut client: Client) -> Result<(Content, u64)> {
    let mut content = Content::default();
    let mut ticks = 0;
    while client.cursor < GOAL {
        let received = client.next().await?.into_iter();
        for received in received.filter(|received| received.seq <= GOAL) {
            content.add(&received)?;
            ticks += u64::from(matches!(received.tick.kind(), Kind::Trade | Kind::Quote));
        }
    }
    let counts = client.continuity.counts();
    assert!(client.continuity.is_good());
    assert_eq!(
        (counts.holes, counts.gaps, counts.skips, counts.resets),
        (0, 0, 0, 0)
    );
    Ok((content, ticks))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_clients_receive_everything_and_the_same() -> Result<()> {
    let feeds = format!(
        "[[feed]]\nname = \"sim\"\nsource = \"sim\"\ninstruments = 200\nrate = {RATE}\nseed = 3\n"
    );
    let world = World::start_with(&feeds, PATIENT).await?;
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let mut client = Client::connect(world.ws(), Encoding::ALL[number % 2]).await?;
        client.subscribe_all(&["*.sim.>"], "none").await?;
        clients.spawn(timeout(PATIENCE * 5, receive(client)));
    }
    let mut contents: Vec<(Content, u64)> = Vec::new();
    while let Some(content) = clients.join_next().await {
        contents.push(content?.context("the goal is not reached")??);
    }
    let (first, ticks) = &contents[0];
    eprintln!(
        "{CLIENTS} clients received {GOAL} messages each, {ticks} quotes and trades, {} topics, \
         no hole",
        first.0.len()
    );
    // The rest is what is computed from them, at most once a second for each instrument.
    assert!(*ticks > GOAL.get() / 2, "only {ticks} quotes and trades");
    for (content, _) in &contents {
        assert!(content == first, "clients received different content");
    }
    Ok(())
}
