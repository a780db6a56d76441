//! Many clients, everything, at rate: nobody misses anything, and all receive the same.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use anyhow::Result;
use schemas::codec;
use schemas::position::StreamSeq;
use schemas::ws::Encoding;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{Client, Received};
use crate::world::World;

/// How long the simulator runs at [`RATE`].
const SPAN: Duration = Duration::from_mins(1);
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

/// Receives until `until`, then everything up to where the first client to get there stands.
async fn receive(
    mut client: Client,
    until: Instant,
    goal: tokio::sync::watch::Sender<StreamSeq>,
) -> Result<(Content, u64)> {
    let mut content = Content::default();
    let mut seen = goal.subscribe();
    let mut rest: Vec<Received> = Vec::new();
    while Instant::now() < until {
        for received in client.next().await? {
            content.add(&received)?;
        }
    }
    // Whoever is furthest sets the goal; nobody counts anything behind it.
    goal.send_if_modified(|goal| {
        let further = *goal == StreamSeq::ZERO;
        if further {
            *goal = StreamSeq::new(client.cursor.get() + u64::from(RATE) * 2);
        }
        further
    });
    let goal = *seen.wait_for(|goal| *goal > StreamSeq::ZERO).await?;
    rest.extend(client.read_to(goal).await?);
    for received in rest.iter().filter(|received| received.seq <= goal) {
        content.add(received)?;
    }
    let counts = client.continuity.counts();
    assert!(client.continuity.is_good());
    assert_eq!(
        (counts.holes, counts.gaps, counts.skips, counts.resets),
        (0, 0, 0, 0)
    );
    Ok((content, counts.delivered))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_clients_receive_everything_and_the_same() -> Result<()> {
    let world = World::start(&format!(
        "[[feed]]\nname = \"sim\"\nsource = \"sim\"\ninstruments = 200\nrate = {RATE}\nseed = 3\n"
    ))
    .await?;
    let (goal, _) = tokio::sync::watch::channel(StreamSeq::ZERO);
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let mut client = Client::connect(world.ws(), Encoding::ALL[number % 2]).await?;
        client.subscribe_all(&["*.sim.>"], "none").await?;
        clients.spawn(receive(client, Instant::now() + SPAN, goal.clone()));
    }
    let mut contents: Vec<(Content, u64)> = Vec::new();
    while let Some(content) = clients.join_next().await {
        contents.push(content??);
    }
    let (first, delivered) = &contents[0];
    eprintln!(
        "{CLIENTS} clients received {delivered} ticks each, {} topics, no hole",
        first.0.len()
    );
    let expected = u64::from(RATE) * SPAN.as_secs() * 9 / 10;
    assert!(
        *delivered >= expected,
        "only {delivered} of at least {expected} ticks were made"
    );
    for (content, _) in &contents {
        assert!(content == first, "clients received different content");
    }
    Ok(())
}
