//! The publisher: order, no loss, no doubles, whatever happens to the broker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use async_nats::ConnectOptions;
use bus::publisher::{
    Connector, Observer, Outgoing, PublishError, Publisher, PublisherConfig, SendError, Sender,
};
use bus::reader::{ReaderConfig, Start, read_range};
use bus::stream;
use schemas::position::StreamSeq;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::server::Server;
use crate::{STREAM, provisioned};

#[derive(Clone, Default)]
struct Tally {
    stored: Arc<AtomicU64>,
    disturbed: Arc<AtomicU64>,
    recovered: Arc<AtomicU64>,
}

impl Observer for Tally {
    fn stored(&mut self, messages: &[Outgoing], _last: StreamSeq) {
        self.stored
            .fetch_add(messages.len() as u64, Ordering::Relaxed);
    }

    fn disturbed(&mut self, _why: &str) {
        self.disturbed.fetch_add(1, Ordering::Relaxed);
    }

    fn recovered(&mut self) {
        self.recovered.fetch_add(1, Ordering::Relaxed);
    }

    fn load(&mut self, _waiting_bytes: usize, _in_flight: usize) {}
}

/// A publisher whose connections come back by themselves, as the daemon's do.
fn publisher(server: &Server, token: u64, tally: &Tally) -> (Sender, Publisher) {
    publisher_over(ConnectOptions::new(), server, token, tally)
}

/// Connections that end with the first loss of the broker: sending fails in the middle of a burst.
fn brittle() -> ConnectOptions {
    ConnectOptions::new().max_reconnects(1)
}

fn publisher_over(
    options: ConnectOptions,
    server: &Server,
    token: u64,
    tally: &Tally,
) -> (Sender, Publisher) {
    publisher_at(server.url(), options, token, tally)
}

fn publisher_at(
    url: String,
    options: ConnectOptions,
    token: u64,
    tally: &Tally,
) -> (Sender, Publisher) {
    let connect: Connector = Arc::new(move || {
        let url = url.clone();
        let options = options.clone();
        Box::pin(async move { options.connect(url).await })
    });
    let config = PublisherConfig {
        stream: STREAM.to_owned(),
        token,
        window: 512,
        max_buffer_bytes: 1 << 20,
        max_payload: 1 << 16,
        drain: Duration::from_secs(30),
    };
    Publisher::new(config, connect, Box::new(tally.clone()))
}

fn message(number: u64) -> Outgoing {
    Outgoing {
        subject: format!("tick.trade.x.S{}", number % 50).into(),
        id: number.to_string(),
        schema: "trade/1",
        payload: number.to_string().into(),
        collapsible: false,
        queued: None,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test owns the task through its handle"
)]
fn run(publisher: Publisher, stop: &CancellationToken) -> JoinHandle<Result<(), PublishError>> {
    tokio::spawn(publisher.run(stop.clone()))
}

async fn stored(server: &Server) -> Result<Vec<u64>> {
    let client = server.client().await?;
    let until = stream::state(&client, STREAM).await?.last_seq;
    let config = ReaderConfig {
        stream: STREAM.to_owned(),
        name: "check".to_owned(),
        filter: "tick.>".to_owned(),
        start: Start::After(StreamSeq::ZERO),
    };
    let mut numbers = Vec::new();
    read_range(client, config, until, Duration::from_secs(20), |entry| {
        numbers.push(
            std::str::from_utf8(&entry.payload)
                .unwrap()
                .parse()
                .unwrap(),
        );
    })
    .await?;
    Ok(numbers)
}

/// Compares without printing tens of thousands of numbers.
fn assert_same(found: &[u64], expected: impl IntoIterator<Item = u64>) {
    let expected: Vec<u64> = expected.into_iter().collect();
    let differs = found
        .iter()
        .zip(&expected)
        .position(|(found, expected)| found != expected);
    if let Some(at) = differs {
        let (found, expected) = (found.iter().skip(at).take(5), expected.get(at));
        panic!(
            "at {at}: {:?} instead of {expected:?}",
            found.collect::<Vec<_>>()
        );
    }
    assert_eq!(found.len(), expected.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_and_content_survive_a_broker_that_is_killed() -> Result<()> {
    survive_kills(ConnectOptions::new()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_and_content_survive_connections_that_end() -> Result<()> {
    survive_kills(brittle()).await
}

async fn survive_kills(options: ConnectOptions) -> Result<()> {
    const COUNT: u64 = 60_000;
    let mut server = Server::start().await?;
    provisioned(&server.client().await?).await?;
    let (tally, stop) = (Tally::default(), CancellationToken::new());
    let (sender, mut publisher) = publisher_over(options, &server, 1, &tally);
    publisher.take_over().await?;
    let running = run(publisher, &stop);
    for number in 0..COUNT {
        sender.send(message(number)).await?;
        if number % 15_000 == 7_500 {
            server.kill().await?;
            server.restart().await?;
        }
    }
    stop.cancel();
    running.await??;
    assert_eq!(tally.stored.load(Ordering::Relaxed), COUNT);
    assert!(tally.disturbed.load(Ordering::Relaxed) > 0);
    assert_same(&stored(&server).await?, 0..COUNT);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_fences_its_predecessor_out() -> Result<()> {
    let server = Server::start().await?;
    provisioned(&server.client().await?).await?;
    let stop = CancellationToken::new();
    let (old_sender, mut old) = publisher(&server, 1, &Tally::default());
    old.take_over().await?;
    let old = run(old, &stop);
    for number in 0..1_000 {
        old_sender.send(message(number)).await?;
    }
    let (sender, mut new) = publisher(&server, 2, &Tally::default());
    new.take_over().await?;
    let kept = stored(&server).await?;
    let new = run(new, &stop);
    for number in 5_000..6_000 {
        sender.send(message(number)).await?;
    }
    for number in 1_000..2_000 {
        // Refused once the predecessor has noticed.
        if old_sender.send(message(number)).await.is_err() {
            break;
        }
    }
    assert!(matches!(old.await?, Err(PublishError::Fenced { .. })));
    stop.cancel();
    new.await??;
    let all = stored(&server).await?;
    let prefix = all
        .iter()
        .copied()
        .take_while(|number| *number < 5_000)
        .collect::<Vec<_>>();
    assert_same(&prefix, 0..kept.len() as u64);
    assert_same(&all[prefix.len()..], 5_000..6_000);
    assert!(matches!(
        old_sender.send(message(0)).await,
        Err(SendError::Closed)
    ));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_buffer_holds_the_sender_back_and_loses_nothing() -> Result<()> {
    let mut server = Server::start().await?;
    provisioned(&server.client().await?).await?;
    let (tally, stop) = (Tally::default(), CancellationToken::new());
    let (sender, mut publisher) = publisher(&server, 1, &tally);
    publisher.take_over().await?;
    let running = run(publisher, &stop);
    server.kill().await?;
    let mut sent = 0;
    // The limit is in bytes; a send that cannot be taken at once means that it is reached.
    while let Ok(taken) =
        tokio::time::timeout(Duration::from_millis(200), sender.send(message(sent))).await
    {
        taken?;
        sent += 1;
    }
    assert!(sent > 1_000, "only {sent} messages fit");
    let large = Outgoing {
        payload: vec![0; 1 << 17].into(),
        ..message(0)
    };
    assert!(matches!(
        sender.send(large).await,
        Err(SendError::TooLarge { limit: 65_536, .. })
    ));
    server.restart().await?;
    sender.send(message(sent)).await?;
    stop.cancel();
    running.await??;
    assert_same(&stored(&server).await?, 0..=sent);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_back_is_noticed_though_nothing_is_sent() -> Result<()> {
    let mut server = Server::start().await?;
    provisioned(&server.client().await?).await?;
    let (tally, stop) = (Tally::default(), CancellationToken::new());
    let (sender, mut publisher) = publisher_over(brittle(), &server, 1, &tally);
    publisher.take_over().await?;
    let running = run(publisher, &stop);
    sender.send(message(0)).await?;
    reached(&tally.stored, 1).await?;
    server.kill().await?;
    reached(&tally.disturbed, 1).await?;
    assert_eq!(tally.recovered.load(Ordering::Relaxed), 0);
    server.restart().await?;
    reached(&tally.recovered, 1).await?;
    assert_eq!(tally.stored.load(Ordering::Relaxed), 1);
    stop.cancel();
    running.await??;
    assert_same(&stored(&server).await?, 0..=0);
    Ok(())
}

/// What the broker says comes late, as from one that has much to do.
async fn late(server: &Server, by: Duration) -> Result<(String, JoinSet<()>)> {
    const CHUNK: usize = 1 << 16;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let here = format!("nats://{}", listener.local_addr()?);
    let there = server.url().replace("nats://", "");
    let mut lines = JoinSet::new();
    lines.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            let Ok(broker) = TcpStream::connect(&there).await else {
                return;
            };
            let (mut said, mut asked) = client.into_split();
            let (mut answers, mut questions) = broker.into_split();
            open.spawn(async move {
                let _ended = tokio::io::copy(&mut said, &mut questions).await;
            });
            let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(10_000);
            open.spawn(async move {
                let mut bytes = Vec::with_capacity(CHUNK);
                while let Ok(1..) = answers.read_buf(&mut bytes).await {
                    let bytes = std::mem::replace(&mut bytes, Vec::with_capacity(CHUNK));
                    if sender.send((Instant::now() + by, bytes)).await.is_err() {
                        return;
                    }
                }
            });
            open.spawn(async move {
                while let Some((due, bytes)) = receiver.recv().await {
                    sleep_until(due).await;
                    if asked.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok((here, lines))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_answers_late_is_waited_for() -> Result<()> {
    const COUNT: u64 = 5_000;
    let server = Server::start().await?;
    provisioned(&server.client().await?).await?;
    let (url, _lines) = late(&server, Duration::from_millis(700)).await?;
    let (tally, stop) = (Tally::default(), CancellationToken::new());
    let (sender, mut publisher) = publisher_at(url, ConnectOptions::new(), 1, &tally);
    publisher.take_over().await?;
    let running = run(publisher, &stop);
    for number in 0..COUNT {
        sender.send(message(number)).await?;
    }
    stop.cancel();
    running.await??;
    assert_same(&stored(&server).await?, 0..COUNT);
    // Ten windows, and not a connection for each.
    let given_up = tally.disturbed.load(Ordering::Relaxed);
    assert!((1..=4).contains(&given_up), "{given_up} connections");
    Ok(())
}

/// Waits until a count is reached.
async fn reached(count: &AtomicU64, least: u64) -> Result<()> {
    let wait = async {
        while count.load(Ordering::Relaxed) < least {
            tokio::task::yield_now().await;
        }
    };
    Ok(tokio::time::timeout(Duration::from_secs(30), wait).await?)
}

#[tokio::test]
async fn who_has_nothing_to_store_ends_without_a_broker() -> Result<()> {
    let mut server = Server::start().await?;
    server.kill().await?;
    let (tally, stop) = (Tally::default(), CancellationToken::new());
    let (_sender, publisher) = publisher(&server, 1, &tally);
    let running = run(publisher, &stop);
    reached(&tally.disturbed, 1).await?;
    stop.cancel();
    // Sooner than a drain would be given up.
    tokio::time::timeout(Duration::from_secs(15), running).await???;
    Ok(())
}
