//! The same asked again: by one client later, by many at once.

use std::sync::atomic::Ordering;

use tokio::task::JoinSet;

use super::world::{World, until};

const TRADES: &str = "/v1/trades?venue=x&symbol=A";

#[tokio::test]
async fn a_client_is_told_that_it_has_it_already() {
    let world = World::start().await;
    world.trades(&[(10, 1), (20, 2)]).await;
    world.recorded_up_to(2).await;
    for form in ["application/json", "text/csv"] {
        let path = format!("{TRADES}&limit=5&to=100");
        let first = world.accept(&path, form).await;
        assert_eq!(first.header("cache-control"), Some("private, max-age=5"));
        let tag = first.header("etag").unwrap();
        for (seen, status) in [
            (tag, 304),
            (tag.strip_prefix("W/").unwrap(), 304),
            ("*", 304),
            (&format!("\"other\", {tag}"), 304),
            ("\"other\"", 200),
        ] {
            let headers = format!("Host: x\r\nAccept: {form}\r\nIf-None-Match: {seen}\r\n");
            let again = world.request("GET", &path, &headers).await;
            assert_eq!(again.status, status, "{seen}");
            assert_eq!(again.header("etag"), Some(tag));
            assert_eq!(again.body.is_empty(), status == 304);
        }
    }
    let open = world.get(TRADES).await;
    assert_eq!(open.header("cache-control"), Some("no-cache"));
    let json = world.get(&format!("{TRADES}&to=100")).await;
    assert_ne!(open.header("etag"), None);
    assert_ne!(json.header("etag"), open.header("etag"), "one has a pos");
}

#[tokio::test]
async fn a_stampede_asks_the_database_once() {
    const CLIENTS: u64 = 1_000;
    let world = World::with(&["--http-connections=1024"]).await;
    world.many_trades(100).await;
    world.pages();
    let gate = &world.store.guard.gate;
    gate.forget_permits(gate.available_permits());
    let mut clients = JoinSet::new();
    let address = world.address;
    for client in 0..CLIENTS {
        // Spelled in two ways.
        let path = if client % 2 == 0 {
            format!("{TRADES}&to=1000")
        } else {
            "/v1/trades?to=1000&symbol=%41&venue=x&cursor=".to_owned()
        };
        clients.spawn(async move { super::world::get(address, &path).await });
    }
    let connections = &world.metrics.connections;
    until("all are there", || connections.get() == 1_000).await;
    gate.add_permits(1_000);
    let mut bodies = Vec::new();
    while let Some(answer) = clients.join_next().await {
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200);
        bodies.push(answer.body);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "all were told the same");
    let metrics = &world.metrics;
    assert_eq!(
        metrics.cache_misses.get() + metrics.cache_hits.get(),
        CLIENTS
    );
    // Whoever comes after it has aged has it made anew.
    let asked = world.pages();
    assert_eq!(asked, metrics.cache_misses.get());
    assert!(asked <= 3, "the database was asked {asked} times");
}

#[tokio::test]
async fn a_refusal_is_not_kept() {
    let world = World::start().await;
    world.many_trades(10).await;
    world.pages();
    world.store.guard.answered.store(0, Ordering::SeqCst);
    let path = format!("{TRADES}&to=1000");
    assert_eq!(world.get(&path).await.status, 503);
    world.store.guard.answered.store(u64::MAX, Ordering::SeqCst);
    assert_eq!(world.get(&path).await.status, 200);
    assert_eq!(world.pages(), 2);
    assert_eq!(world.get(&path).await.status, 200);
    assert_eq!(world.pages(), 0, "it is kept for a moment");
    let lines = world
        .accept(&format!("{path}&limit=1000"), "application/x-ndjson")
        .await;
    assert_eq!(
        lines.text().lines().count(),
        10,
        "another form is another answer"
    );
    assert!(world.metrics.cache_bytes.get() >= 0);
}
