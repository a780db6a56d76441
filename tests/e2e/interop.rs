//! WebSocket clients that others wrote, compressed and not: each follows everything, and proves it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use futures_util::{SinkExt, StreamExt};
use schemas::continuity::Continuity;
use schemas::tick::Tick;
use schemas::ws::{Encoding, ServerMessage};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;
use yawc::close::CloseCode;
use yawc::{Frame, HttpRequest, OpCode, Options, WebSocket};

use crate::chromium::{Page, installed};
use crate::client::Client;
use crate::world::{PATIENCE, PATIENT, World, say};

const FEEDS: &str =
    "[[feed]]\nname = \"sim\"\nsource = \"sim\"\ninstruments = 50\nrate = 2000\nseed = 11\n";
/// How many ticks each client receives.
const TICKS: u64 = 5_000;
const TOPICS: [&str; 2] = ["trade.sim.*", "quote.sim.*"];
/// What `tests/interop/setup.py` installs.
const WEBSOCKETS: &str = "websockets-17.4";
const WS: &str = "ws-8.23.0/package/wrapper.mjs";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A client that is installed, or a visible remark that it is not.
pub(crate) fn client(path: &str) -> Option<PathBuf> {
    let place = root().join(".tools/clients").join(path);
    if place.exists() {
        return Some(place);
    }
    say(&format!(
        "SKIPPED: {path} is not installed, `make clients` does it"
    ));
    None
}

/// A system in which every topic has a last value.
async fn start() -> Result<World> {
    let world = World::start_with(FEEDS, PATIENT).await?;
    let mut client = Client::connect(world.ws(), Encoding::Json).await?;
    client.subscribe_all(&TOPICS, "none").await?;
    let mut topics = BTreeSet::new();
    let all = async {
        while topics.len() < 100 {
            topics.extend(client.next().await?.into_iter().map(|tick| tick.topic));
        }
        anyhow::Ok(())
    };
    let all = timeout(PATIENCE, all).await;
    all.with_context(|| format!("only {} topics have a value", topics.len()))??;
    Ok(world)
}

/// Checks what a client says that it saw.
fn check(who: &str, deflate: bool, seen: &Value) -> Result<()> {
    eprintln!("{who}: {seen}");
    let count = |name: &str| {
        seen[name]
            .as_u64()
            .with_context(|| format!("{name} of {who}"))
    };
    ensure!(
        count("ticks")? >= TICKS && count("snapshots")? == 50,
        "{who}: {seen}"
    );
    ensure!(
        count("holes")? == 0 && count("declared")? == 0,
        "{who}: {seen}"
    );
    ensure!(count("closed")? == 1000, "{who}: {seen}");
    let extensions = seen["extensions"].as_str().context("extensions")?;
    ensure!(
        extensions.starts_with("permessage-deflate") == deflate,
        "{who}: {seen}"
    );
    Ok(())
}

/// Runs a client as a process: what it printed.
async fn run(command: &mut Command) -> Result<Value> {
    let child = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = timeout(PATIENCE, child.output())
        .await
        .context("it does not end")??;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

const fn mode(deflate: bool) -> &'static str {
    if deflate { "deflate" } else { "plain" }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_websockets_follows() -> Result<()> {
    let Some(place) = client(WEBSOCKETS) else {
        return Ok(());
    };
    let world = start().await?;
    for deflate in [true, false] {
        let mut command = Command::new("python3");
        command
            .arg(root().join("tests/interop/client.py"))
            .args([world.ws(), &TICKS.to_string(), mode(deflate)])
            .env("PYTHONPATH", &place);
        check("websockets", deflate, &run(&mut command).await?)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn npm_ws_follows() -> Result<()> {
    let Some(place) = client(WS) else {
        return Ok(());
    };
    let world = start().await?;
    for deflate in [true, false] {
        let mut command = Command::new("node");
        command
            .arg(root().join("tests/interop/client.mjs"))
            .arg(&place)
            .args([world.ws(), &TICKS.to_string(), mode(deflate)]);
        check("ws", deflate, &run(&mut command).await?)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chromium_follows_compressed() -> Result<()> {
    let Some(browser) = installed() else {
        return Ok(());
    };
    let world = start().await?;
    let mut page = Page::open(&browser, world.http()).await?;
    page.until("document.readyState === 'complete'").await?;
    let script = format!(
        "import('./continuity.js').then(({{ Continuity }}) => new Promise((resolve) => {{
           const continuity = new Continuity();
           const socket = new WebSocket({}, ['tickwire.v1.json']);
           let snapshots = 0;
           socket.onopen = () => {{
             continuity.subscribing(1, {{}});
             socket.send(JSON.stringify([{{ op: 'subscribe', id: 1, topics: {}, conflate: 'none' }}]));
           }};
           socket.onmessage = (event) => {{
             for (const message of JSON.parse(event.data)) {{
               continuity.take(message);
               snapshots += message.t === 'snap';
             }}
             if (continuity.counts().delivered >= {TICKS}) socket.close(1000);
           }};
           socket.onclose = (event) => {{
             const {{ delivered, holes, gaps, skips, resets }} = continuity.counts();
             const extensions = socket.extensions;
             const declared = gaps + skips + resets;
             resolve({{ ticks: delivered, snapshots, holes, declared, extensions, closed: event.code }});
           }};
         }}))",
        json!(world.ws()),
        json!(TOPICS)
    );
    let seen = timeout(PATIENCE, page.evaluate(&script)).await??;
    check("Chromium", true, &seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokio_tungstenite_follows() -> Result<()> {
    let world = start().await?;
    for encoding in Encoding::ALL {
        let mut client = Client::connect(world.ws(), encoding).await?;
        client.subscribe(&TOPICS, "none", [].into()).await?;
        let following = async {
            let mut ticks = 0;
            while ticks < TICKS {
                ticks += u64::try_from(client.next().await?.len())?;
            }
            anyhow::Ok(())
        };
        timeout(PATIENCE, following).await??;
        let counts = client.continuity.counts();
        ensure!(
            counts.holes + counts.gaps + counts.skips + counts.resets == 0,
            "{counts:?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn yawc_follows_compressed() -> Result<()> {
    let world = start().await?;
    for encoding in Encoding::ALL {
        let seen = timeout(PATIENCE, follow_with_yawc(world.ws(), encoding)).await??;
        check("yawc", true, &seen)?;
    }
    let (_, metrics) = world.ops("/metrics").await?;
    let metrics = metrics.as_str().context("a text")?;
    let sent = "tickwire_fanout_deflate_out_bytes_total ";
    let sent = metrics.lines().find_map(|line| line.strip_prefix(sent));
    ensure!(
        sent.context("a counter")?.parse::<u64>()? > 0,
        "nothing was compressed"
    );
    Ok(())
}

async fn follow_with_yawc(url: &str, encoding: Encoding) -> Result<Value> {
    let options = Options::default()
        .with_balanced_compression()
        .with_compression_threshold(0)
        .with_utf8();
    let request = HttpRequest::builder().header("Sec-WebSocket-Protocol", encoding.subprotocol());
    let mut socket = WebSocket::connect(url.parse()?)
        .with_options(options)
        .with_request(request)
        .await?;
    let mut continuity = Continuity::new();
    continuity.subscribing(1, [].into());
    let op = json!([{ "op": "subscribe", "id": 1, "topics": TOPICS, "conflate": "none" }]);
    let op = match encoding {
        Encoding::Json => Frame::text(op.to_string()),
        Encoding::MessagePack => Frame::binary(rmp_serde::to_vec_named(&op)?),
    };
    socket.send(op).await?;
    let mut snapshots = 0;
    let mut closed = 0;
    while let Some(frame) = socket.next().await {
        let messages: Vec<ServerMessage<Tick>> = match frame.opcode() {
            OpCode::Text => serde_json::from_slice(frame.payload())?,
            OpCode::Binary => rmp_serde::from_slice(frame.payload())?,
            OpCode::Close => {
                closed = frame.close_code().map_or(0, u16::from);
                break;
            }
            _ => continue,
        };
        for message in &messages {
            continuity.take(message);
            snapshots += u64::from(matches!(message, ServerMessage::Snap { .. }));
        }
        if continuity.counts().delivered >= TICKS && closed == 0 {
            socket
                .send(Frame::close(CloseCode::Normal, "seen enough"))
                .await?;
            closed = 1;
        }
    }
    let counts = continuity.counts();
    Ok(json!({
        "ticks": counts.delivered,
        "snapshots": snapshots,
        "holes": counts.holes,
        "declared": counts.gaps + counts.skips + counts.resets,
        "extensions": "permessage-deflate",
        "closed": closed,
    }))
}
