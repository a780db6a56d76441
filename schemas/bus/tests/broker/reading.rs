//! The reader: joined without a hole, repaired after every fault, and honest about lost history.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Result, bail};
use bus::reader::{Entry, Event, Reader, ReaderConfig, Start};
use schemas::position::{Epoch, StreamSeq};
use tokio::time::timeout;

use crate::server::Server;
use crate::{STREAM, provisioned};

pub(crate) fn reader(client: async_nats::Client, start: Start) -> Reader {
    let config = ReaderConfig {
        stream: STREAM.to_owned(),
        name: "test".to_owned(),
        filter: "tick.>".to_owned(),
        start,
    };
    Reader::new(client, config)
}

pub(crate) async fn next(reader: &mut Reader) -> Result<Event> {
    Ok(timeout(Duration::from_secs(30), reader.next()).await?)
}

/// Reads until `done` says so, collecting messages and the epochs of boots.
pub(crate) async fn read_until(
    reader: &mut Reader,
    mut done: impl FnMut(&Event, &[Entry]) -> bool,
) -> Result<(Vec<Entry>, Vec<Epoch>)> {
    let (mut seen, mut epochs) = (Vec::new(), Vec::new());
    loop {
        let mut event = next(reader).await?;
        match &mut event {
            Event::Batch { entries, .. } => seen.append(entries),
            Event::Boot { epoch, .. } => epochs.push(*epoch),
            Event::CaughtUp
            | Event::Stale
            | Event::Live
            | Event::Surveyed { .. }
            | Event::Trimmed { .. }
            | Event::Reset => {}
        }
        if done(&event, &seen) {
            return Ok((seen, epochs));
        }
    }
}

pub(crate) async fn publish(client: &async_nats::Client, count: u64, subjects: u64) -> Result<()> {
    let context = async_nats::jetstream::new(client.clone());
    let numbers: Vec<u64> = (0..count).collect();
    for burst in numbers.chunks(1_000) {
        let mut acks = Vec::with_capacity(burst.len());
        for number in burst {
            let subject = format!("tick.trade.x.S{}", number % subjects);
            acks.push(context.publish(subject, number.to_string().into()).await?);
        }
        for ack in acks {
            ack.await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_join_of_last_values_and_live_has_no_hole() -> Result<()> {
    let server = Server::start().await?;
    let client = server.client().await?;
    provisioned(&client).await?;
    publish(&client, 5_000, 100).await?;
    let mut reader = reader(client.clone(), Start::LastPerSubject);
    let (read, wrote) = tokio::join!(
        read_until(&mut reader, |_, seen| {
            seen.last()
                .is_some_and(|entry| entry.seq == StreamSeq::new(15_000))
        }),
        publish(&client, 10_000, 100),
    );
    wrote?;
    let (entries, _) = read?;
    let mut last: HashMap<String, u64> = HashMap::new();
    for entry in &entries {
        let number: u64 = std::str::from_utf8(&entry.payload)?.parse()?;
        if let Some(before) = last.insert(entry.subject.to_string(), number) {
            assert!(number == before + 100 || (number < 100 && before >= 4_900));
        }
    }
    assert_eq!(last.len(), 100);
    assert!(entries.is_sorted_by(|a, b| a.seq < b.seq));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_broker_costs_nothing_but_time() -> Result<()> {
    let mut server = Server::start().await?;
    let client = server.client().await?;
    provisioned(&client).await?;
    publish(&client, 1_000, 10).await?;
    let mut reader = reader(client.clone(), Start::After(StreamSeq::ZERO));
    let (first, epochs) = read_until(&mut reader, |_, seen| seen.len() == 1_000).await?;
    server.kill().await?;
    read_until(&mut reader, |event, _| matches!(event, Event::Stale)).await?;
    server.restart().await?;
    publish(&server.client().await?, 1_000, 10).await?;
    let (second, again) = read_until(&mut reader, |_, seen| seen.len() == 1_000).await?;
    let seqs: Vec<u64> = first
        .iter()
        .chain(&second)
        .map(|entry| entry.seq.get())
        .collect();
    assert_eq!(seqs, (1..=2_000).collect::<Vec<_>>());
    assert_eq!((epochs.len(), again.len()), (1, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_made_anew_is_another_history() -> Result<()> {
    let server = Server::start().await?;
    let client = server.client().await?;
    let epoch = provisioned(&client).await?;
    publish(&client, 100, 10).await?;
    let mut reader = reader(client.clone(), Start::LastPerSubject);
    let (_, epochs) = read_until(&mut reader, |event, _| matches!(event, Event::CaughtUp)).await?;
    assert_eq!(epochs, [epoch]);
    async_nats::jetstream::new(client.clone())
        .delete_stream(STREAM)
        .await?;
    let renewed = provisioned(&client).await?;
    assert!(renewed > epoch);
    publish(&client, 10, 10).await?;
    let (_, epochs) = read_until(&mut reader, |_, seen| seen.len() == 10).await?;
    assert_eq!(epochs, [renewed]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_consumer_is_replaced() -> Result<()> {
    let server = Server::start().await?;
    let client = server.client().await?;
    provisioned(&client).await?;
    publish(&client, 10, 10).await?;
    let mut reader = reader(client.clone(), Start::LastPerSubject);
    read_until(&mut reader, |event, _| matches!(event, Event::CaughtUp)).await?;
    let context = async_nats::jetstream::new(client.clone());
    let stream = context.get_stream(STREAM).await?;
    let names: Vec<String> =
        futures_util::TryStreamExt::try_collect(stream.consumer_names()).await?;
    let Some(name) = names.iter().find(|name| name.starts_with("test-")) else {
        bail!("no consumer of the reader among {names:?}");
    };
    stream.delete_consumer(name).await?;
    publish(&client, 10, 10).await?;
    let (entries, _) = read_until(&mut reader, |_, seen| seen.len() == 10).await?;
    assert_eq!(entries.last().map(|entry| entry.seq.get()), Some(20));
    Ok(())
}
