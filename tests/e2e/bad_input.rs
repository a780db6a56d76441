//! Everything that a client may get wrong: a clear answer, and everything else goes on.

use anyhow::{Context, Result};
use futures_util::{SinkExt, StreamExt};
use schemas::ws::{Encoding, ErrorCode, ServerMessage};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::client::Client;
use crate::world::{PATIENCE, World};

const FEEDS: &str = "[[feed]]\nname = \"sim\"\nsource = \"sim\"\ninstruments = 20\nrate = 500\n";

/// Sends raw frames on a fresh connection: the close code that ends it.
async fn closed_by(world: &World, message: Message) -> Result<u16> {
    let (mut socket, _) = tokio_tungstenite::connect_async(world.ws()).await?;
    socket.send(message).await?;
    timeout(PATIENCE, async {
        while let Some(message) = socket.next().await {
            if let Message::Close(frame) = message? {
                return Ok(frame.context("a close code")?.code.into());
            }
        }
        anyhow::bail!("the connection ended without a close frame")
    })
    .await?
}

/// Sends a handshake as it stands: the status of the answer.
async fn handshake(world: &World, path: &str, fields: &str) -> Result<(u16, String)> {
    let host = world
        .ws()
        .strip_prefix("ws://")
        .and_then(|rest| rest.split('/').next())
        .context("an address")?;
    let mut stream = TcpStream::connect(host).await?;
    stream
        .write_all(
            format!(
                "GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}Connection: close, Upgrade\r\n\r\n"
            )
            .as_bytes(),
        )
        .await?;
    let mut answer = Vec::new();
    timeout(PATIENCE, async {
        let mut chunk = [0; 4096];
        loop {
            let count = stream.read(&mut chunk).await?;
            answer.extend_from_slice(&chunk[..count]);
            if count == 0 || answer.windows(4).any(|end| end == b"\r\n\r\n") {
                return anyhow::Ok(());
            }
        }
    })
    .await??;
    let text = String::from_utf8_lossy(&answer).into_owned();
    Ok((text.split(' ').nth(1).context("a status")?.parse()?, text))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_messages_end_their_own_connection_only() -> Result<()> {
    let world = World::start(FEEDS).await?;
    let mut witness = Client::connect(world.ws(), Encoding::Json).await?;
    witness.subscribe_all(&["trade.sim.*"], "none").await?;
    let deep = "[".repeat(50_000);
    let cases = [
        (Message::text("{"), 4501),
        (Message::text("{\"op\":\"ping\"}"), 4501),
        (Message::text(deep), 4501),
        (Message::binary(vec![0x90]), 1003),
        (Message::text("x".repeat(200_000)), 1009),
    ];
    for (message, code) in cases {
        assert_eq!(closed_by(&world, message).await?, code);
    }
    let target = schemas::position::StreamSeq::new(witness.cursor.get() + 1_000);
    witness.read_to(target).await?;
    assert_eq!(witness.continuity.counts().holes, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_ops_are_answered_and_the_rest_is_carried_out() -> Result<()> {
    let world = World::start(FEEDS).await?;
    for encoding in Encoding::ALL {
        let mut client = Client::connect(world.ws(), encoding).await?;
        client.send(json!({"op": "subscribe", "id": 1, "topics": ["trade.sim.AAA", "wish.sim.AAA", "trade.sim", "trade.SIM.AAA", "trade.sim.A%2eB", "trade.si*.AAA", "bar.sim.AAA.2m"]})).await?;
        client.send(json!({"op": "subscribe", "id": 2})).await?;
        client
            .send(json!({"op": "subscribe", "id": 3, "topics": ["trade.sim.AAA"], "conflate": 3}))
            .await?;
        client
            .send(json!({"op": "unsubscribe", "id": 4, "topics": ["trade.sim.ZZZ"]}))
            .await?;
        client.send(json!({"op": "dance", "id": 5})).await?;
        let many: Vec<String> = (0..1_100).map(|n| format!("trade.sim.N{n}")).collect();
        client
            .send(json!({"op": "subscribe", "id": 6, "topics": many}))
            .await?;
        client.send(json!({"op": "ping", "id": 7})).await?;
        let is_pong =
            |message: &ServerMessage<_>| matches!(message, ServerMessage::Pong { id: Some(7) });
        let answered = async {
            while !client.said.iter().any(is_pong) {
                client.next().await?;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(crate::world::PATIENCE, answered).await??;
        let ack = |wanted: u64| {
            client.said.iter().find_map(|message| match message {
                ServerMessage::Ack { id, ok, err } if *id == Some(wanted) => {
                    Some((ok.len(), err.iter().map(|e| e.code).collect::<Vec<_>>()))
                }
                _ => None,
            })
        };
        let codes = [
            ErrorCode::UnknownTopic,
            ErrorCode::BadRequest,
            ErrorCode::UnknownTopic,
            ErrorCode::BadRequest,
            ErrorCode::BadRequest,
            ErrorCode::BadRequest,
        ];
        assert_eq!(ack(1), Some((1, codes.to_vec())));
        assert_eq!(ack(4), Some((0, vec![ErrorCode::BadRequest])));
        let (accepted, refused) = ack(6).context("an ack")?;
        assert_eq!((accepted, refused.len()), (1_023, 77));
        assert!(refused.iter().all(|code| *code == ErrorCode::TopicLimit));
        let errors: Vec<(Option<u64>, String)> = client
            .said
            .iter()
            .filter_map(|message| match message {
                ServerMessage::Err { id, message, .. } => Some((*id, message.clone())),
                _ => None,
            })
            .collect();
        assert_eq!(
            errors.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
            [Some(2), Some(3), Some(5)]
        );
        assert!(
            errors[0].1.contains("topics")
                && errors[1].1.contains("conflate")
                && errors[2].1.contains("op")
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_handshakes_are_refused_by_name() -> Result<()> {
    let world = World::start(FEEDS).await?;
    let good = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let cases = [
        (
            "/v1/stream",
            good.to_owned(),
            101,
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        ),
        ("/v1/stream", String::new(), 426, "Upgrade"),
        ("/v1/stream", good.replace("13", "8"), 426, "Version"),
        (
            "/v1/stream",
            good.replace("dGhl", "dGh"),
            400,
            "Sec-WebSocket-Key",
        ),
        (
            "/v1/stream",
            format!("{good}Sec-WebSocket-Protocol: mqtt\r\n"),
            400,
            "tickwire.v1.json",
        ),
        (
            "/v1/stream",
            format!("{good}Origin: https://evil.example\r\n"),
            403,
            "origin",
        ),
        ("/v1/stream?api_key=x", good.to_owned(), 400, "URL"),
        ("/nothing", good.to_owned(), 404, "/v1/stream"),
    ];
    for (path, fields, status, expected) in cases {
        let (found, text) = handshake(&world, path, &fields).await?;
        assert!(
            found == status && text.contains(expected),
            "{path} {fields}: {text}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_queries_name_the_parameter() -> Result<()> {
    let world = World::start(FEEDS).await?;
    let of = "venue=sim&symbol=AAA";
    let cases = [
        ("/v1/trades".to_owned(), "venue"),
        ("/v1/trades?venue=sim".to_owned(), "symbol"),
        ("/v1/trades?venue=S!M&symbol=AAA".to_owned(), "venue"),
        (format!("/v1/trades?{of}&limit=10001"), "limit"),
        (format!("/v1/trades?{of}&limit=x"), "limit"),
        (format!("/v1/trades?{of}&from=yesterday"), "from"),
        (format!("/v1/trades?{of}&from=2&to=1"), "from"),
        (format!("/v1/trades?{of}&order=up"), "order"),
        (format!("/v1/trades?{of}&cursor=x"), "cursor"),
        (format!("/v1/trades?{of}&colour=red"), "colour"),
        (format!("/v1/trades?{of}&limit=1&limit=2"), "limit"),
        (format!("/v1/bars?{of}&interval=7x"), "interval"),
        (format!("/v1/bars?{of}&interval=1440m"), "interval"),
        ("/v1/latest".to_owned(), "topics"),
        ("/v1/latest?topics=trade.sim.*".to_owned(), "topics"),
        ("/v1/ticks?topic=trade.sim.AAA".to_owned(), "epoch"),
    ];
    for (path, parameter) in cases {
        let (status, problem) = world.get(&path).await?;
        assert_eq!(
            (status, &problem["parameter"]),
            (400, &json!(parameter)),
            "{path}: {problem}"
        );
    }
    let (status, page) = world
        .get("/v1/trades?venue=sim&symbol=%27%3B%20DROP%20TABLE%20events")
        .await?;
    assert_eq!((status, &page["items"]), (200, &json!([])));
    assert_eq!(world.get("/v2/nothing").await?.0, 404);
    let never_recorded = "/v1/ticks?topic=form.sim.AAA.1m&epoch=1-0";
    assert_eq!(world.get(never_recorded).await?.0, 404);
    Ok(())
}
