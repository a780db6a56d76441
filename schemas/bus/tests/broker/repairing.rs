//! The reader: what it does about lost, trimmed, rewound and foreign history.

use std::time::Duration;

use anyhow::Result;
use async_nats::jetstream;
use bus::epoch;
use bus::reader::{Entry, Event, Reader, ReaderConfig, Start, read_range};
use schemas::position::StreamSeq;
use schemas::subject;
use tokio::time::timeout;

use crate::reading::{next, publish, read_until, reader};
use crate::server::Server;
use crate::{STREAM, provisioned};

fn seqs(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.seq.get()).collect()
}

fn caught_up(event: &Event, _: &[Entry]) -> bool {
    matches!(event, Event::CaughtUp)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fillers_at_the_tail_are_passed_over() -> Result<()> {
    let server = Server::start().await?;
    let client = server.client().await?;
    provisioned(&client).await?;
    publish(&client, 10, 10).await?;
    let context = jetstream::new(client.clone());
    for _ in 0..5 {
        context
            .publish(subject::fence(STREAM), "".into())
            .await?
            .await?;
    }
    let mut reader = reader(client.clone(), Start::LastPerSubject);
    let (entries, _) = read_until(&mut reader, caught_up).await?;
    assert_eq!(seqs(&entries), (1..=10).collect::<Vec<_>>());
    assert_eq!(reader.head(), StreamSeq::new(15));
    context
        .publish(subject::fence(STREAM), "".into())
        .await?
        .await?;
    let mut event = next(&mut reader).await?;
    while matches!(event, Event::Surveyed { .. }) {
        event = next(&mut reader).await?;
    }
    let Event::Batch {
        entries,
        head,
        head_time,
    } = event
    else {
        anyhow::bail!("{event:?} instead of an empty batch");
    };
    assert_eq!((entries.len(), head), (0, StreamSeq::new(16)));
    let stored = bus::stream::message_at(&client, STREAM, head).await?;
    assert_eq!(stored.map(|stored| stored.time), Some(head_time));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_stream_is_caught_up_with() -> Result<()> {
    let server = Server::start().await?;
    let client = server.client().await?;
    let epoch = provisioned(&client).await?;
    let mut reader = reader(client, Start::LastPerSubject);
    let (entries, epochs) = read_until(&mut reader, caught_up).await?;
    assert_eq!(
        (entries.len(), epochs, reader.epoch()),
        (0, vec![epoch], Some(epoch))
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_slow_reader_drops_is_read_again() -> Result<()> {
    let server = Server::start().await?;
    provisioned(&server.client().await?).await?;
    let options = async_nats::ConnectOptions::new().subscription_capacity(64);
    let narrow = options.connect(server.url()).await?;
    let mut reader = reader(narrow, Start::LastPerSubject);
    read_until(&mut reader, caught_up).await?;
    // Nobody takes what arrives meanwhile.
    publish(&server.client().await?, 500, 10).await?;
    let (entries, epochs) = read_until(&mut reader, |_, seen| {
        seen.last()
            .is_some_and(|entry| entry.seq == StreamSeq::new(500))
    })
    .await?;
    assert_eq!(seqs(&entries), (1..=500).collect::<Vec<_>>());
    assert!(epochs.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_dies_while_it_is_read_loses_nothing() -> Result<()> {
    const COUNT: u64 = 30_000;
    let mut server = Server::start().await?;
    let client = server.client().await?;
    provisioned(&client).await?;
    publish(&client, COUNT, 100).await?;
    let mut reader = reader(client, Start::After(StreamSeq::ZERO));
    let (mut entries, _) = read_until(&mut reader, |_, seen| !seen.is_empty()).await?;
    for part in 1..=3 {
        server.kill().await?;
        server.restart().await?;
        let (more, epochs) = read_until(&mut reader, |event, seen| {
            let read = seen.last().map_or(0, |entry| entry.seq.get());
            read >= COUNT / 3 * part || matches!(event, Event::CaughtUp)
        })
        .await?;
        assert!(epochs.is_empty());
        entries.extend(more);
    }
    assert_eq!(seqs(&entries), (1..=COUNT).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_retention_took_is_declared() -> Result<()> {
    let server = Server::start().await?;
    let client = server.client().await?;
    provisioned(&client).await?;
    let context = jetstream::new(client.clone());
    let mut config = context
        .get_stream(STREAM)
        .await?
        .cached_info()
        .config
        .clone();
    config.max_messages = 20;
    context.update_stream(config).await?;
    let options = async_nats::ConnectOptions::new().subscription_capacity(8);
    let mut reader = reader(options.connect(server.url()).await?, Start::LastPerSubject);
    read_until(&mut reader, caught_up).await?;
    publish(&client, 1_000, 10).await?;
    let (mut seen, mut declared) = (Vec::new(), Vec::new());
    while reader.head() < StreamSeq::new(1_000) {
        match next(&mut reader).await? {
            Event::Batch { entries, .. } => seen.extend(seqs(&entries)),
            Event::Trimmed { from, to } => declared.extend(from.get()..=to.get()),
            Event::Boot { .. } | Event::Reset => panic!("the history is the same"),
            Event::CaughtUp | Event::Stale | Event::Live | Event::Surveyed { .. } => {}
        }
    }
    assert!(!declared.is_empty());
    seen.extend(declared);
    seen.sort_unstable();
    assert_eq!(seen, (1..=1_000).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewound_stream_is_another_history() -> Result<()> {
    let mut server = Server::start().await?;
    let client = server.client().await?;
    let epoch = provisioned(&client).await?;
    publish(&client, 100, 10).await?;
    server.kill().await?;
    let backup = server.backup()?;
    server.restart().await?;
    let mut reader = reader(client, Start::LastPerSubject);
    read_until(&mut reader, caught_up).await?;
    publish(&server.client().await?, 50, 10).await?;
    read_until(&mut reader, |_, seen| seen.len() == 50).await?;
    server.kill().await?;
    server.restore(backup);
    server.restart().await?;
    let (entries, epochs) = read_until(&mut reader, caught_up).await?;
    assert_eq!(seqs(&entries), (91..=100).collect::<Vec<_>>());
    assert_eq!(epochs.len(), 1);
    assert!(epochs[0] > epoch && epochs[0].created() == epoch.created());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewound_stream_that_grew_again_is_another_history() -> Result<()> {
    let mut server = Server::start().await?;
    let client = server.client().await?;
    let epoch = provisioned(&client).await?;
    publish(&client, 100, 10).await?;
    server.kill().await?;
    let backup = server.backup()?;
    server.restart().await?;
    let mut reader = reader(client, Start::After(StreamSeq::ZERO));
    publish(&server.client().await?, 50, 10).await?;
    read_until(&mut reader, |_, seen| seen.len() == 150).await?;
    server.kill().await?;
    server.restore(backup);
    // Where the reader does not find it, other messages take the same sequences.
    let port = server.move_to(None)?;
    server.restart().await?;
    publish(&server.client().await?, 100, 10).await?;
    server.kill().await?;
    server.move_to(Some(port))?;
    server.restart().await?;
    let (entries, epochs) = read_until(&mut reader, |_, seen| seen.len() == 200).await?;
    assert_eq!(seqs(&entries), (1..=200).collect::<Vec<_>>());
    assert_eq!(epochs.len(), 1);
    assert!(epochs[0] > epoch);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewind_that_another_role_noticed_is_one() -> Result<()> {
    let server = Server::start().await?;
    let client = server.client().await?;
    let epoch = provisioned(&client).await?;
    publish(&client, 10, 10).await?;
    let mut reader = reader(client.clone(), Start::LastPerSubject);
    read_until(&mut reader, caught_up).await?;
    let next_epoch = epoch::advance(&client, STREAM, epoch).await?;
    assert_eq!(next_epoch.generation(), epoch.generation() + 1);
    // Who notices the same rewind later does not count it twice.
    assert_eq!(epoch::advance(&client, STREAM, epoch).await?, next_epoch);
    let (entries, epochs) = read_until(&mut reader, caught_up).await?;
    assert_eq!((entries.len(), epochs), (10, vec![next_epoch]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_broker_is_stale_until_it_is_back() -> Result<()> {
    let mut server = Server::start().await?;
    let client = server.client().await?;
    provisioned(&client).await?;
    let mut reader = reader(client, Start::LastPerSubject);
    read_until(&mut reader, caught_up).await?;
    for _ in 0..2 {
        server.kill().await?;
        assert!(matches!(next(&mut reader).await?, Event::Stale));
        server.restart().await?;
        assert!(matches!(next(&mut reader).await?, Event::Live));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_may_come_before_its_stream() -> Result<()> {
    let server = Server::start().await?;
    let client = server.client().await?;
    let mut reader = reader(client.clone(), Start::LastPerSubject);
    assert!(matches!(next(&mut reader).await?, Event::Stale));
    let epoch = provisioned(&client).await?;
    let (_, epochs) = read_until(&mut reader, caught_up).await?;
    assert_eq!(epochs, [epoch]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_wait_loses_nothing() -> Result<()> {
    let mut server = Server::start().await?;
    let client = server.client().await?;
    provisioned(&client).await?;
    let mut reader = reader(client, Start::After(StreamSeq::ZERO));
    let mut seen = Vec::new();
    for part in 1..=2 {
        publish(&server.client().await?, 2_000, 10).await?;
        while seen.len() < part * 2_000 {
            let waited = timeout(Duration::from_micros(200), reader.next()).await;
            if let Ok(Event::Batch { entries, .. }) = waited {
                seen.extend(seqs(&entries));
            }
        }
        server.kill().await?;
        server.restart().await?;
    }
    assert_eq!(seen, (1..=4_000).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_ends_where_it_should() -> Result<()> {
    let server = Server::start().await?;
    let client = server.client().await?;
    provisioned(&client).await?;
    publish(&client, 3_000, 3).await?;
    let range = async |filter: &str, after: u64, until: u64| -> Result<Vec<u64>> {
        let config = ReaderConfig {
            stream: STREAM.to_owned(),
            name: "range".to_owned(),
            filter: filter.to_owned(),
            start: Start::After(StreamSeq::new(after)),
        };
        let mut found = Vec::new();
        let until = StreamSeq::new(until);
        read_range(
            client.clone(),
            config,
            until,
            Duration::from_secs(30),
            |entry| {
                found.push(entry.seq.get());
            },
        )
        .await?;
        Ok(found)
    };
    assert_eq!(
        range("tick.>", 10, 2_500).await?,
        (11..=2_500).collect::<Vec<_>>()
    );
    // The last match is not the last message.
    let thirds: Vec<u64> = (1..=3_000).step_by(3).collect();
    assert_eq!(range("tick.trade.x.S0", 0, 3_000).await?, thirds);
    assert_eq!(range("tick.trade.x.S0", 2_990, 2_992).await?, [2_992]);
    assert_eq!(range("tick.trade.none", 0, 3_000).await?, [0; 0]);
    assert_eq!(range("tick.>", 3_000, 3_000).await?, [0; 0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_is_read_like_a_stream() -> Result<()> {
    let server = Server::start().await?;
    let client = server.client().await?;
    provisioned(&client).await?;
    let store = jetstream::new(client.clone()).get_key_value("auth").await?;
    for number in 0..10_u8 {
        store
            .put(format!("key.{}", number % 3), vec![number].into())
            .await?;
    }
    let config = ReaderConfig {
        stream: "KV_auth".to_owned(),
        name: "test".to_owned(),
        filter: "$KV.auth.>".to_owned(),
        start: Start::LastPerSubject,
    };
    let mut reader = Reader::new(client, config);
    let (entries, _) = read_until(&mut reader, caught_up).await?;
    assert_eq!(seqs(&entries), [8, 9, 10]);
    store.put("key.0", "new".into()).await?;
    store.put("key.0", "newer".into()).await?;
    // The first may be replaced before it is delivered.
    let is_newer = |entry: &Entry| *entry.payload == b"newer"[..];
    read_until(&mut reader, |_, seen| seen.last().is_some_and(is_newer)).await?;
    Ok(())
}
