//! RFC 6455 and RFC 7692 over raw TCP: a table of what clients send, in several ways of cutting it,
//! and of what has to come of it.

mod cases;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use schemas::ws::Encoding;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;

use crate::world::{PATIENCE, World, until};
use cases::{Case, table};
use wire::{CLOSE, Event, FIN, Reader, TEXT, connect, deflate, frame};

const FEEDS: &str = "[[feed]]\nname = \"sim\"\nsource = \"sim\"\ninstruments = 20\nrate = 500\n";
const UNHURRIED: &[&str] = &["--ops-per-sec", "0"];
/// How many rows are played at once.
const AT_ONCE: usize = 32;
/// The bytes of a row are written so many at a time; 0 is all.
const CUTS: [usize; 3] = [0, 1, 1_447];
/// Rows that are longer are not written in single bytes.
const LONG: usize = 3_000;
/// The op that shows that a connection is in use.
const PROBE: u64 = 4_242;

const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
const AGREED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_of_the_table_holds() -> Result<()> {
    let world = World::start_with(FEEDS, UNHURRIED).await?;
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut playing = JoinSet::new();
    let mut rows: BTreeMap<&str, usize> = BTreeMap::new();
    for case in table() {
        *rows.entry(case.group).or_default() += 1;
        let case = Arc::new(case);
        for cut in CUTS {
            if cut == 1 && case.send.len() > LONG {
                continue;
            }
            let (case, url, room) = (Arc::clone(&case), world.ws().to_owned(), Arc::clone(&room));
            playing.spawn(async move {
                let _turn = room.acquire().await?;
                let played = timeout(PATIENCE, play(&url, &case, cut)).await;
                played
                    .unwrap_or_else(|_| Err(anyhow::anyhow!("nothing comes")))
                    .with_context(|| format!("{}: {}, cut {cut}", case.group, case.name))
            });
        }
    }
    let (mut held, mut failed) = (0, Vec::new());
    while let Some(played) = playing.join_next().await {
        match played? {
            Ok(()) => held += 1,
            Err(problem) => failed.push(format!("{problem:#}")),
        }
    }
    eprintln!("{held} runs hold, rows: {rows:?}");
    assert!(
        failed.is_empty(),
        "{} fail:\n{}",
        failed.len(),
        failed.join("\n")
    );
    Ok(())
}

async fn play(url: &str, case: &Case, cut: usize) -> Result<()> {
    let encoding = if case.msgpack {
        Encoding::MessagePack
    } else {
        Encoding::Json
    };
    let fields = if case.deflate { OFFER } else { "" };
    let (mut reader, mut write, head) = connect(url, encoding, fields, &[]).await?;
    ensure!(head.contains(AGREED) == case.deflate, "{head}");
    let mut send = case.send.clone();
    let mut expect = case.expect.clone();
    let is_closed = matches!(expect.last(), Some(Event::Close(_)));
    if !is_closed {
        send.extend(probe(encoding));
        expect.push(Event::Answer(PROBE));
    }
    let sending = async {
        let size = if cut == 0 { send.len() } else { cut };
        for chunk in send.chunks(size) {
            if write.write_all(chunk).await.is_err() {
                // The server has seen enough.
                break;
            }
            yield_now().await;
        }
    };
    let reading = async {
        for (index, expected) in expect.iter().enumerate() {
            let event = reader.next().await?;
            ensure!(
                event == *expected,
                "event {index} is {event:?}, not {expected:?}"
            );
        }
        anyhow::Ok(())
    };
    let ((), read) = tokio::join!(sending, reading);
    read?;
    if is_closed {
        say_goodbye(&mut reader, &mut write).await?;
    }
    Ok(())
}

fn probe(encoding: Encoding) -> Vec<u8> {
    match encoding {
        Encoding::Json => {
            let op = format!("[{{\"op\":\"ping\",\"id\":{PROBE}}}]");
            frame(FIN | TEXT, op.as_bytes())
        }
        Encoding::MessagePack => {
            let [high, low] = u16::try_from(PROBE).unwrap_or_default().to_be_bytes();
            let op = [b"\x91\x82\xa2op\xa4ping\xa2id\xcd".as_slice(), &[high, low]];
            frame(FIN | wire::BINARY, &op.concat())
        }
    }
}

/// Answers a close frame; behind it there must be nothing but the end.
async fn say_goodbye(reader: &mut Reader, write: &mut OwnedWriteHalf) -> Result<()> {
    // The server may have gone: it waits only where it spoke first.
    let _may_be_gone = write.write_all(&frame(FIN | CLOSE, b"\x03\xE8")).await;
    let event = reader.next().await?;
    ensure!(event == Event::End, "{event:?} behind the close frame");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_follows_a_close_frame_on_a_busy_connection() -> Result<()> {
    let world = World::start_with(FEEDS, UNHURRIED).await?;
    let subscribe = br#"[{"op":"subscribe","id":1,"topics":["*.sim.>"],"conflate":"none"}]"#;
    for fields in ["", OFFER] {
        let (mut reader, mut write, _) = connect(world.ws(), Encoding::Json, fields, &[]).await?;
        write.write_all(&frame(FIN | TEXT, subscribe)).await?;
        let busy = async {
            let mut ticks = 0;
            while ticks < 1_000 {
                ticks += usize::from(reader.next().await? == Event::Said("d".to_owned()));
            }
            anyhow::Ok(())
        };
        timeout(PATIENCE, busy).await.context("few ticks come")??;
        ensure!(
            (reader.deflated == 0) == fields.is_empty(),
            "{} compressed",
            reader.deflated
        );
        // A message that is none.
        let bad = if fields.is_empty() {
            frame(FIN | TEXT, b"{")
        } else {
            frame(FIN | wire::RSV1 | TEXT, &deflate(6, b"{"))
        };
        write.write_all(&bad).await?;
        let closed = async {
            while reader.next().await? != Event::Close(4501) {}
            anyhow::Ok(())
        };
        timeout(PATIENCE, closed).await.context("it stays open")??;
        say_goodbye(&mut reader, &mut write).await?;
    }
    let before = counter(&world, "tickwire_fanout_deflate_in_bytes_total ").await?;
    let after = counter(&world, "tickwire_fanout_deflate_out_bytes_total ").await?;
    let compressed = counter(&world, "tickwire_fanout_compressed_total ").await?;
    let encoded = counter(&world, "tickwire_fanout_encoded_total{encoding=\"json\"} ").await?;
    eprintln!("{before} bytes were sent as {after}; {encoded} ticks encoded, {compressed} pieces");
    ensure!(after < before && compressed > 0 && encoded > 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_frame_waits_for_its_answer_but_not_for_ever() -> Result<()> {
    let world = World::start(FEEDS).await?;
    let (mut silent, _unused) = closed_by_server(world.ws()).await?;
    let (mut polite, mut write) = closed_by_server(world.ws()).await?;
    // Whoever answers is done at once; whoever does not is done in the end, and later.
    let ends = async {
        tokio::select! {
            biased;
            event = silent.next() => anyhow::bail!("{event:?} without an answer"),
            said = say_goodbye(&mut polite, &mut write) => said?,
        }
        let event = silent.next().await?;
        ensure!(event == Event::End, "{event:?} behind the close frame");
        anyhow::Ok(())
    };
    timeout(PATIENCE, ends).await??;
    // A client that says goodbye and ends its side at once still hears the answer.
    let (mut reader, mut write, _) = connect(world.ws(), Encoding::Json, "", &[]).await?;
    write.write_all(&frame(FIN | CLOSE, b"\x0F\xA1bye")).await?;
    write.shutdown().await?;
    ensure!(timeout(PATIENCE, reader.next()).await?? == Event::Close(4001));
    ensure!(timeout(PATIENCE, reader.next()).await?? == Event::End);
    Ok(())
}

/// A connection on which the server has said goodbye first.
async fn closed_by_server(url: &str) -> Result<(Reader, OwnedWriteHalf)> {
    let (mut reader, mut write, _) = connect(url, Encoding::Json, "", &[]).await?;
    write.write_all(&frame(FIN | wire::BINARY, b"x")).await?;
    ensure!(timeout(PATIENCE, reader.next()).await?? == Event::Close(1003));
    Ok((reader, write))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_control_frames_hurts_nobody_else() -> Result<()> {
    let world = World::start_with(FEEDS, &["--shards", "1"]).await?;
    let (_never_read, mut flooding, _) = connect(world.ws(), Encoding::Json, "", &[]).await?;
    let pongs = frame(FIN | wire::PONG, &[b'x'; 125]).repeat(500);
    let others = async {
        for _ in 0..20 {
            let (mut reader, mut write, _) = connect(world.ws(), Encoding::Json, "", &[]).await?;
            write.write_all(&probe(Encoding::Json)).await?;
            ensure!(reader.next().await? == Event::Answer(PROBE));
        }
        anyhow::Ok(())
    };
    tokio::select! {
        () = async { while flooding.write_all(&pongs).await.is_ok() {} } => anyhow::bail!("cut off"),
        answered = timeout(PATIENCE, others) => answered.context("others get no answer")??,
    }
    // Pings are answered, and whoever does not read the answers is cut off.
    let (_never_read, mut write, _) = connect(world.ws(), Encoding::Json, "", &[]).await?;
    let pings = frame(FIN | wire::PING, &[b'x'; 125]).repeat(500);
    let flood = async { while write.write_all(&pings).await.is_ok() {} };
    timeout(PATIENCE, flood).await.context("it goes on")?;
    until("it is not counted", async || {
        Ok(counter(&world, "tickwire_fanout_closed_total{code=\"4008\"} ").await? > 0)
    })
    .await
}

/// A counter, by its name and labels; 0 if it has not shown up.
async fn counter(world: &World, name: &str) -> Result<u64> {
    let (status, metrics) = world.ops("/metrics").await?;
    ensure!(status == 200);
    let metrics = metrics.as_str().context("a text")?;
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    Ok(line.map_or(Ok(0), |count| count.trim().parse())?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compression_is_negotiated_as_it_is_offered() -> Result<()> {
    let world = World::start(FEEDS).await?;
    let line = |value: &str| format!("Sec-WebSocket-Extensions: {value}\r\n");
    let cases = [
        (line("permessage-deflate"), Some("")),
        (
            line("permessage-deflate; server_max_window_bits=13"),
            Some("; server_max_window_bits=13"),
        ),
        (
            line("permessage-deflate; server_max_window_bits=8, permessage-deflate"),
            Some(""),
        ),
        (
            line("permessage-bzip2") + &line("permessage-deflate; client_max_window_bits=9"),
            Some(""),
        ),
        (line("permessage-deflate; server_max_window_bits=8"), None),
        (line("permessage-deflate; unheard_of"), None),
        (String::new(), None),
    ];
    for (fields, expected) in &cases {
        let (_, _, head) = connect(world.ws(), Encoding::Json, fields, &[]).await?;
        let answer = head
            .lines()
            .find_map(|line| line.strip_prefix("sec-websocket-extensions: "));
        let expected = expected.map(|rest| format!("{AGREED}{rest}"));
        ensure!(answer == expected.as_deref(), "{fields}{head}");
    }
    let early = frame(
        FIN | wire::RSV1 | TEXT,
        &deflate(6, br#"[{"op":"ping","id":7}]"#),
    );
    let (mut reader, _write, _) = connect(world.ws(), Encoding::Json, OFFER, &early).await?;
    let event = timeout(PATIENCE, reader.next()).await??;
    ensure!(
        event == Event::Answer(7),
        "{event:?} to a frame right behind the handshake"
    );
    let malformed = line("permessage-deflate; =");
    let (_, _, head) = connect(world.ws(), Encoding::Json, &malformed, &[]).await?;
    ensure!(head.starts_with("HTTP/1.1 400"), "{head}");
    let off = World::start_with(FEEDS, &["--no-deflate"]).await?;
    let (mut reader, mut write, head) = connect(off.ws(), Encoding::Json, &cases[0].0, &[]).await?;
    ensure!(!head.contains("permessage-deflate"), "{head}");
    write
        .write_all(&frame(FIN | wire::RSV1 | TEXT, &deflate(6, b"[]")))
        .await?;
    ensure!(timeout(PATIENCE, reader.next()).await?? == Event::Close(1002));
    say_goodbye(&mut reader, &mut write).await
}
