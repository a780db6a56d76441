//! Whole ranges.

use std::sync::atomic::Ordering;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::world::{Answer, World, epoch, until};

const TRADES: &str = "/v1/trades?venue=x&symbol=A";
const LINES: &str = "application/x-ndjson";

/// The sequences of lines.
fn sequences(answer: &Answer) -> Vec<u64> {
    let lines = answer.text().lines();
    let parsed = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    parsed.map(|item| item["s"].as_u64().unwrap()).collect()
}

/// Whether it is these, in order, without printing thousands of them.
fn is_run(found: &[u64], expected: impl Iterator<Item = u64>) -> bool {
    found.iter().copied().eq(expected)
}

#[tokio::test]
async fn a_range_without_a_limit_comes_whole() {
    let world = World::start().await;
    world.many_trades(12_345).await;
    let page = world.get(TRADES).await.json();
    assert_eq!(page["items"].as_array().unwrap().len(), 1_000);
    let last = world
        .get(&format!("{TRADES}&order=desc&limit=1"))
        .await
        .json();

    let whole = world.accept(TRADES, LINES).await;
    assert!(whole.is_whole);
    assert!(is_run(&sequences(&whole), 1..=12_345));
    let pos: Value = serde_json::from_str(whole.header("tickwire-pos").unwrap()).unwrap();
    assert_eq!(pos, last["pos"], "live goes on from here");
    assert_eq!((whole.header("etag"), whole.header("link")), (None, None));

    let descending = world.accept(&format!("{TRADES}&order=desc"), LINES).await;
    assert!(is_run(&sequences(&descending), (1..=12_345).rev()));
    let part = world
        .accept(&format!("{TRADES}&from=100&to=9000"), LINES)
        .await;
    assert!(is_run(&sequences(&part), 100..9_000));
    assert_eq!(
        part.header("tickwire-pos"),
        None,
        "newer ones were left out"
    );
    let behind = page["next"].as_str().unwrap();
    let behind = world
        .accept(&format!("{TRADES}&cursor={behind}"), LINES)
        .await;
    assert!(is_run(&sequences(&behind), 1_001..=12_345));

    let table = world.accept(TRADES, "text/csv").await;
    assert_eq!(table.text().lines().count(), 12_346);
    let epoch = epoch();
    let ticks = format!("/v1/ticks?topic=trade.x.A&epoch={epoch}&after=17");
    let ticks = world.accept(&ticks, LINES).await;
    assert!(is_run(&sequences(&ticks), 18..=12_345));
}

#[tokio::test]
async fn what_is_written_meanwhile_is_not_run_after() {
    let world = World::start().await;
    world.many_trades(1_000).await;
    let mut socket = TcpStream::connect(world.address).await.unwrap();
    let request =
        format!("GET {TRADES} HTTP/1.1\r\nHost: x\r\nAccept: {LINES}\r\nConnection: close\r\n\r\n");
    let gate = &world.store.guard.gate;
    gate.forget_permits(gate.available_permits());
    let read = &world.store.guard.pages;
    let asked = |pages| move || read.load(Ordering::SeqCst) == pages;
    world.pages();
    socket.write_all(request.as_bytes()).await.unwrap();
    // The first page, and the newest row.
    gate.add_permits(2);
    until("the next page is asked for", asked(3)).await;
    world.trades(&[(5_000, 1_001), (5_001, 1_002)]).await;
    gate.add_permits(100);
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).await.unwrap();
    let answer = Answer::read(&bytes);
    assert!(answer.is_whole && is_run(&sequences(&answer), 1..=1_000));
}

#[tokio::test]
async fn what_breaks_in_the_middle_is_seen_by_the_client() {
    let world = World::start().await;
    world.many_trades(12_000).await;
    world.pages();
    // The first page, the newest row, and one more.
    world.store.guard.answered.store(3, Ordering::SeqCst);
    for encoding in ["identity", "gzip"] {
        world.pages();
        let headers = format!("Host: x\r\nAccept: {LINES}\r\nAccept-Encoding: {encoding}\r\n");
        let broken = world.request("GET", TRADES, &headers).await;
        assert_eq!(broken.status, 200);
        assert!(!broken.is_whole, "{encoding}: it ends as if it were whole");
    }
    world.pages();
    world.store.guard.answered.store(0, Ordering::SeqCst);
    let refused = world.accept(TRADES, LINES).await;
    assert_eq!(refused.status, 503);
    refused.problem();
    assert_eq!(
        refused.header("retry-after"),
        Some("2"),
        "as the store says"
    );
    until("nothing goes on", || world.metrics.exports.get() == 0).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_has_nothing_read_for_it() {
    let world = World::with(&["--exports=1"]).await;
    world.many_trades(60_000).await;
    world.pages();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut socket = socket.connect(world.address).await.unwrap();
    let request = format!("GET {TRADES} HTTP/1.1\r\nHost: x\r\nAccept: {LINES}\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut first = [0; 15];
    socket.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    let full = world.accept(TRADES, LINES).await;
    assert_eq!(full.status, 503);
    full.problem();
    assert_eq!(full.header("retry-after"), Some("5"));
    let page = world.accept(&format!("{TRADES}&limit=5"), LINES).await;
    assert_eq!(page.status, 200, "pages have places of their own");
    let read = world.store.guard.pages.load(Ordering::SeqCst);
    assert!(
        read < 17,
        "{read} pages of 16 were read for a client that took 15 bytes"
    );
    drop(socket);
    until("the place is free", || world.metrics.exports.get() == 0).await;
    assert!(world.accept(TRADES, LINES).await.is_whole);
}

#[tokio::test]
async fn an_export_has_a_deadline() {
    let world = World::with(&["--export-secs=1"]).await;
    world.many_trades(60_000).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut socket = socket.connect(world.address).await.unwrap();
    let request = format!("GET {TRADES} HTTP/1.1\r\nHost: x\r\nAccept: {LINES}\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let mut some = [0; 16_384];
    while let Ok(count @ 1..) = socket.read(&mut some).await {
        bytes.extend_from_slice(&some[..count]);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(!Answer::read(&bytes).is_whole);
}
