//! The operations server over a socket, as an orchestrator and a scraper use it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use daemon::ops::{Surface, serve};
use prometheus_client::metrics::counter::Counter;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// The status, and the body; with its head where the media type matters.
async fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut socket = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await?;
    let code = answer.split(' ').nth(1).context("a status")?.parse()?;
    let (head, body) = answer.split_once("\r\n\r\n").context("a body")?;
    let with_head = format!("{head}\n{body}");
    Ok((
        code,
        if path == "/metrics" {
            with_head
        } else {
            body.to_owned()
        },
    ))
}

#[tokio::test]
async fn it_shows_liveness_readiness_metrics_and_statistics() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (surface, stop) = (Surface::new(), CancellationToken::new());
    let mut serving = JoinSet::new();
    serving.spawn(serve(listener, surface.clone(), stop.clone()));

    let reader = surface.health.check("fanout.reader");
    assert_eq!(get(address, "/livez").await?.0, 200);
    assert_eq!(
        get(address, "/readyz").await?,
        (503, "fanout.reader: starting\n".to_owned())
    );
    reader.ok();
    assert_eq!(get(address, "/readyz").await?.0, 200);
    reader.down("catching up");
    let (code, health) = get(address, "/health").await?;
    let health: Value = serde_json::from_str(&health)?;
    assert_eq!(code, 200);
    assert_eq!(health["ready"], false);
    assert_eq!(health["checks"]["fanout.reader"]["reason"], "catching up");

    let ticks = Counter::<u64>::default();
    surface
        .registry
        .lock()
        .unwrap()
        .register("tickwire_test_ticks", "Ticks", ticks.clone());
    ticks.inc_by(3);
    let (code, metrics) = get(address, "/metrics").await?;
    assert_eq!(code, 200);
    assert!(
        metrics.contains("application/openmetrics-text; version=1.0.0"),
        "{metrics}"
    );
    assert!(
        metrics.contains("tickwire_test_ticks_total 3\n"),
        "{metrics}"
    );
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");

    surface.stats.add("fanout", || json!({ "clients": 2 }));
    assert_eq!(
        get(address, "/stats").await?.1,
        r#"{"fanout":{"clients":2}}"#
    );
    surface
        .stats
        .add_asked("fanout", |asked| json!(asked.get("topic")));
    assert_eq!(
        get(address, "/stats?topic=a%20b&x=1").await?.1,
        r#"{"fanout":"a b"}"#
    );
    assert_eq!(get(address, "/stats").await?.1, r#"{"fanout":null}"#);
    assert_eq!(get(address, "/nothing").await?.0, 404);

    surface.health.drain();
    assert_eq!(get(address, "/readyz").await?.0, 503);
    // A client that says nothing does not hold up the end.
    let _silent = TcpStream::connect(address).await?;
    stop.cancel();
    timeout(Duration::from_secs(30), serving.join_next())
        .await?
        .unwrap()??;
    Ok(())
}
