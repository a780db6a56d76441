//! What the process promises: a clean end, clear refusals, least surprise.

use anyhow::{Context, Result};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::world::{PATIENCE, World, is_alive, up};

const FEEDS: &str = "[[feed]]\nname = \"sim\"\nsource = \"sim\"\ninstruments = 10\nrate = 100\n";

/// Runs `up` with these feeds and further arguments until it ends: exit code and what it said.
pub(crate) async fn refused(feeds: &str, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let dir = TempDir::new()?;
    std::fs::write(dir.path().join("feeds.toml"), feeds)?;
    let output = timeout(PATIENCE, up(dir.path()).args(arguments).output()).await??;
    Ok((output.status.code(), String::from_utf8(output.stderr)?))
}

#[tokio::test]
async fn a_signal_drains_and_ends_with_zero() -> Result<()> {
    for signal in [Signal::TERM, Signal::INT] {
        let mut world = World::start(FEEDS).await?;
        let broker = world.broker().await?;
        let (status, health) = world.ops("/readyz").await?;
        assert_eq!(status, 200, "{health}");
        world.signal(signal)?;
        let code = world.ended().await?;
        assert_eq!(code, Some(0), "{}", world.said()?);
        assert!(!is_alive(broker), "the broker outlives its parent");
    }
    Ok(())
}

#[tokio::test]
async fn a_second_one_on_the_same_data_is_refused() -> Result<()> {
    let world = World::start(FEEDS).await?;
    let output = timeout(PATIENCE, up(world.dir()).output()).await??;
    let said = String::from_utf8(output.stderr)?;
    assert_ne!(output.status.code(), Some(0));
    assert!(said.contains("is in use by"), "{said}");
    let (status, _) = world.ops("/livez").await?;
    assert_eq!(status, 200, "the first one goes on");
    Ok(())
}

#[tokio::test]
async fn what_cannot_work_is_refused_in_a_sentence() -> Result<()> {
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let cases: [(&str, &[&str], &str); 5] = [
        (
            "[[feed]]\nname = \"a\"\nsource = \"sim\"\nrat = 5\n",
            &[],
            "line 4",
        ),
        ("", &[], "there is no [[feed]]"),
        (
            FEEDS,
            &["--nats-server-bin", "/no/such/nats-server"],
            "/no/such/nats-server",
        ),
        (FEEDS, &["--nats-server-bin", "/bin/true"], "nats-server"),
        (FEEDS, &["--retain-secs", "0"], "--retain-secs"),
    ];
    for (feeds, arguments, expected) in cases {
        let (code, said) = refused(feeds, arguments).await?;
        assert!(
            code.context("an exit code")? != 0 && said.contains(expected),
            "{arguments:?}: {said}"
        );
    }
    let dir = TempDir::new()?;
    std::fs::write(dir.path().join("feeds.toml"), FEEDS)?;
    for flag in ["--http", "--ws", "--ops"] {
        let mut command = tokio::process::Command::new(crate::world::BINARY);
        command
            .args(["up", flag, &address])
            .arg("--feeds")
            .arg(dir.path().join("feeds.toml"));
        command.arg("--data").arg(dir.path().join("data"));
        for other in ["--http", "--ws", "--ops"]
            .iter()
            .filter(|other| **other != flag)
        {
            command.args([other, "127.0.0.1:0"]);
        }
        let output = timeout(PATIENCE, command.output()).await??;
        let said = String::from_utf8(output.stderr)?;
        assert!(said.contains(flag) && said.contains("in use"), "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn metrics_health_and_schema_are_there() -> Result<()> {
    let world = World::start(FEEDS).await?;
    // A family shows up with its first child.
    assert_eq!(world.get("/v1/instruments").await?.0, 200);
    let (status, metrics) = world.ops("/metrics").await?;
    let metrics = metrics.as_str().context("a text")?.to_owned();
    assert_eq!(status, 200);
    for name in [
        "tickwire_ingest_stored_messages",
        "tickwire_fanout_connections",
        "tickwire_recorder_rows",
        "tickwire_api_requests",
    ] {
        assert!(metrics.contains(name), "{name} is missing");
    }
    assert!(!metrics.contains("AAA"), "a symbol became a label");
    let (status, health) = world.ops("/health").await?;
    assert_eq!(
        (status, &health["ready"]),
        (200, &serde_json::Value::Bool(true))
    );
    Ok(())
}
