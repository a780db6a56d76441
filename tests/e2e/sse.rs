//! Whoever can only read: events that resume exactly, in a program and in a browser; channels; and
//! what operators see of all that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use schemas::continuity::{Continuity, Verdict};
use schemas::position::StreamSeq;
use schemas::tick::Tick;
use schemas::ws::{Encoding, From, ServerMessage};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::chromium::{Page, installed};
use crate::client::{Client, Received};
use crate::kills::check;
use crate::process::refused;
use crate::world::{PATIENCE, PATIENT, World, eventually, is_alive, until};

const FEEDS: &str =
    "[[feed]]\nname = \"sim\"\nsource = \"sim\"\ninstruments = 50\nrate = 2000\nbars = [\"1s\"]\n";

/// The address of WebSocket and events.
fn host(world: &World) -> Result<&str> {
    let rest = world.ws().strip_prefix("ws://").context("an address")?;
    rest.split('/').next().context("a host")
}

/// The positions that an id stands for, as a client of its own making reads it.
pub(crate) fn positions(id: &str) -> Result<BTreeMap<String, From>> {
    let position = |part: &str| {
        let mut fields = part.split(':');
        let mut next = || fields.next().context("a field");
        let (stream, e, c) = (next()?, next()?.parse()?, next()?.parse()?);
        let (c, s) = (Some(c), BTreeMap::new());
        Ok((stream.to_owned(), From { e, c, s }))
    };
    id.split(',').map(position).collect()
}

/// A program that reads events and connects again with the last id, as browsers do.
#[derive(Default)]
pub(crate) struct Reader {
    topics: String,
    pub(crate) id: Option<String>,
    pub(crate) continuity: Continuity,
    connections: u32,
    /// Ticks that count.
    pub(crate) received: Vec<Received>,
    /// The furthest of all streams.
    cursor: StreamSeq,
    /// By stream.
    pub(crate) cursors: BTreeMap<String, StreamSeq>,
    pub(crate) said: Vec<ServerMessage<Tick>>,
}

impl Reader {
    pub(crate) fn of(topics: &str, id: String) -> Self {
        let (topics, id) = (topics.to_owned(), Some(id));
        Self {
            topics,
            id,
            ..Self::default()
        }
    }

    /// Reads one connection until the cursor has gone so far and some bytes of what follows have come:
    /// there it is cut, wherever that is.
    async fn read(&mut self, host: &str, until: StreamSeq, bytes_beyond: usize) -> Result<()> {
        let is_there = |reader: &Self| reader.cursor >= until;
        self.read_until(host, is_there, bytes_beyond).await
    }

    /// The same until something holds.
    pub(crate) async fn read_until(
        &mut self,
        host: &str,
        is_there: impl Fn(&Self) -> bool,
        bytes_beyond: usize,
    ) -> Result<()> {
        let reading = self.read_on(host, is_there, bytes_beyond);
        timeout(PATIENCE * 2, reading)
            .await
            .context("what is awaited does not come")?
    }

    async fn read_on(
        &mut self,
        host: &str,
        is_there: impl Fn(&Self) -> bool,
        bytes_beyond: usize,
    ) -> Result<()> {
        let (mut stream, mut pending) = self.connect(host).await?;
        self.connections += 1;
        let mut beyond = 0;
        let mut chunk = vec![0; 16 * 1024];
        while !is_there(self) || beyond < bytes_beyond {
            let count = timeout(PATIENCE, stream.read(&mut chunk)).await??;
            if count == 0 {
                bail!(
                    "the server has ended it: {}",
                    String::from_utf8_lossy(&pending)
                );
            }
            pending.extend_from_slice(&chunk[..count]);
            beyond += if is_there(self) { count } else { 0 };
            while let Some(end) = pending.windows(2).position(|end| end == b"\n\n") {
                let event: Vec<u8> = pending.drain(..end + 2).collect();
                self.event(std::str::from_utf8(&event)?)?;
            }
        }
        Ok(())
    }

    /// Asks for events: the connection, and what came behind the head.
    async fn connect(&self, host: &str) -> Result<(TcpStream, Vec<u8>)> {
        let mut stream = TcpStream::connect(host).await?;
        let id = self.id.as_deref().unwrap_or_default();
        let request = format!(
            "GET /v1/sse?conflate=none&topics={} HTTP/1.1\r\nHost: {host}\r\nLast-Event-ID: {id}\r\n\r\n",
            self.topics
        );
        stream.write_all(request.as_bytes()).await?;
        let mut pending = Vec::new();
        let end = loop {
            let count = timeout(PATIENCE, stream.read_buf(&mut pending)).await??;
            let end = pending.windows(4).position(|end| end == b"\r\n\r\n");
            if count == 0 || end.is_some() {
                break end;
            }
        };
        let head: Vec<u8> = pending.drain(..end.context("a head")? + 4).collect();
        let is_taken = head.starts_with(b"HTTP/1.1 200 ");
        ensure!(
            is_taken,
            "{}{}",
            String::from_utf8_lossy(&head),
            String::from_utf8_lossy(&pending)
        );
        Ok((stream, pending))
    }

    fn event(&mut self, event: &str) -> Result<()> {
        for line in event.lines() {
            match line.split_once(": ") {
                Some(("data", text)) => {
                    let messages: Vec<ServerMessage<Tick>> = serde_json::from_str(text)?;
                    for message in messages {
                        self.take(message)?;
                    }
                }
                Some(("id", id)) => self.id = Some(id.to_owned()),
                Some(("retry", _)) | None => {}
                Some(other) => bail!("unexpected {other:?}"),
            }
        }
        Ok(())
    }

    fn take(&mut self, message: ServerMessage<Tick>) -> Result<()> {
        let verdict = self.continuity.take(&message);
        match message {
            ServerMessage::Welcome { .. } => {
                if self.connections > 1 {
                    let wanted: BTreeSet<String> = self
                        .topics
                        .replace("%3E", ">")
                        .split(',')
                        .map(str::to_owned)
                        .collect();
                    self.continuity.reconnecting(&wanted);
                }
                let id = self.id.as_deref().filter(|id| !id.is_empty());
                let from = id.map(positions).transpose()?;
                self.continuity.subscribing(0, from.unwrap_or_default());
            }
            ServerMessage::D { c, s, d, .. } | ServerMessage::Snap { c, s, d, .. } => match verdict
            {
                Verdict::Deliver => self.received.push(Received {
                    topic: c,
                    seq: s,
                    tick: d,
                }),
                Verdict::Hole => bail!("a hole before {s} on {c}"),
                _ => {}
            },
            ServerMessage::Hb { cur, .. } => {
                for (stream, cursor) in cur {
                    self.cursor = self.cursor.max(cursor.seq());
                    self.cursors.insert(stream, cursor.seq());
                }
            }
            other => self.said.push(other),
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_cut_anywhere_goes_on_exactly() -> Result<()> {
    let mut world = World::start_with(FEEDS, PATIENT).await?;
    let (_, stats) = world.ops("/stats").await?;
    let epoch = stats["fanout"]["streams"][0]["epoch"]
        .as_str()
        .context("an epoch")?;
    let mut reader = Reader::of("*.sim.%3E", format!("TICKS:{epoch}:0"));
    for cut in 0..8 {
        let until = StreamSeq::new(reader.cursor.get() + 2_500);
        reader.read(host(&world)?, until, cut * 7_919).await?;
    }
    // On another process, which has the same history.
    let broker = world.broker().await?;
    world.signal(Signal::KILL)?;
    until("the broker outlives its parent", async || {
        Ok(!is_alive(broker))
    })
    .await?;
    world.restart_with(PATIENT).await?;
    let goal = StreamSeq::new(reader.cursor.get() + 5_000);
    reader.read(host(&world)?, goal, 0).await?;
    let counts = reader.continuity.counts();
    assert_eq!((counts.holes, counts.gaps, counts.resets), (0, 0, 0));
    assert!(reader.continuity.is_good());
    let is_ack = |message: &ServerMessage<Tick>| matches!(message, ServerMessage::Ack { id: Some(0), err, .. } if err.is_empty());
    assert!(reader.said.iter().all(is_ack), "{:?}", reader.said.last());
    check(&world.acknowledged()?, &reader.received, goal)
}

/// A cable between a client and the server, which can be cut.
struct Cable {
    address: SocketAddr,
    cuts: watch::Sender<u32>,
    _serving: JoinSet<()>,
}

impl Cable {
    async fn to(host: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, host) = (listener.local_addr()?, host.to_owned());
        let (cuts, cut) = watch::channel(0);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let (host, mut cut) = (host.clone(), cut.clone());
                cut.mark_unchanged();
                open.spawn(async move {
                    let Ok(mut server) = TcpStream::connect(host).await else {
                        return;
                    };
                    tokio::select! {
                        _ended = copy_bidirectional(&mut client, &mut server) => {}
                        _cut = cut.changed() => {}
                    }
                });
            }
        });
        Ok(Self {
            address,
            cuts,
            _serving: serving,
        })
    }

    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_goes_on_by_itself() -> Result<()> {
    let Some(browser) = installed() else {
        return Ok(());
    };
    let world = World::start_with(FEEDS, PATIENT).await?;
    let cable = Cable::to(host(&world)?).await?;
    // A page of the console's origin, and without its policy.
    let page = format!("{}/v1/instruments?limit=1", world.http());
    let mut page = Page::open(&browser, &page).await?;
    let source = format!(
        "http://{}/v1/sse?topics=trade.sim.*,bar.sim.>",
        cable.address
    );
    let script = "(async () => {
        const { Continuity } = await import('/continuity.js');
        const rule = new Continuity();
        window.shown = { rule, opens: 0, ids: [] };
        const source = new EventSource('SOURCE');
        source.onopen = () => { shown.opens += 1; };
        source.onmessage = (event) => {
          for (const message of JSON.parse(event.data)) {
            rule.take(message);
            if (message.t !== 'welcome') continue;
            if (shown.ids.length > 0) rule.reconnecting(['trade.sim.*', 'bar.sim.>']);
            shown.ids.push(event.lastEventId);
            const [stream, e, c] = event.lastEventId.split(':');
            rule.subscribing(0, c ? { [stream]: { e, c } } : {});
          }
        };
      })()";
    page.evaluate(&script.replace("SOURCE", &source)).await?;
    page.until("shown.rule.counts().delivered > 1000").await?;
    for opens in 2..=3 {
        cable.cut();
        page.until(&format!("shown.opens === {opens}")).await?;
        let delivered = "shown.rule.counts().delivered";
        let before = page
            .evaluate(delivered)
            .await?
            .as_u64()
            .context("a count")?;
        page.until(&format!("{delivered} > {}", before + 2_000))
            .await?;
    }
    let counts = page.evaluate("shown.rule.counts()").await?;
    let found = ["holes", "gaps", "resets", "skips"].map(|name| counts[name].as_u64());
    assert_eq!(found, [Some(0); 4], "{counts}");
    assert_eq!(page.evaluate("shown.rule.isGood()").await?, true);
    let ids = page.evaluate("shown.ids").await?;
    let ids: Vec<&str> = ids
        .as_array()
        .context("ids")?
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert!(
        ids[0].is_empty() && ids[1..].iter().all(|id| id.starts_with("TICKS:")),
        "{ids:?}"
    );
    eprintln!("{counts} over {} connections", ids.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_come_from_a_file() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("channels.toml");
    let path = file.to_str().context("a path")?;
    let channel = "[channel.majors]\ntopics = [\"quote.sim.AAA\", \"trade.sim.*\"]\n";
    std::fs::write(&file, format!("{channel}colour = \"red\"\n"))?;
    let (code, said) = refused(FEEDS, &["--channels", path]).await?;
    assert_ne!(code, Some(0));
    let expected = "channels.toml: line 3: unknown field `colour`";
    assert!(said.contains(expected), "{said}");
    std::fs::write(&file, format!("{channel}conflate = 100\n"))?;
    let world = World::start_with(FEEDS, &["--channels", path]).await?;
    let base = world.ws().replace("/v1/stream", "/ws");
    let mut client = Client::connect(&format!("{base}/majors"), Encoding::Json).await?;
    let target = StreamSeq::new(client.cursor.get() + 2_000);
    let received = client.read_to(target).await?;
    let is_ours = |topic: &str| topic == "quote.sim.AAA" || topic.starts_with("trade.sim.");
    assert!(!received.is_empty() && received.iter().all(|tick| is_ours(&tick.topic)));
    assert!(received.iter().any(|tick| tick.topic == "quote.sim.AAA"));
    let counts = client.continuity.counts();
    assert!(counts.skips > 0 && counts.holes == 0, "{counts:?}");
    // The client may do everything else, too.
    client
        .subscribe(&["quote.sim.AAB"], "none", BTreeMap::new())
        .await?;
    let unsubscribe = json!({"op": "unsubscribe", "id": 9, "topics": ["trade.sim.*"]});
    client.continuity.unsubscribing(9);
    client.send(unsubscribe).await?;
    let left =
        |message: &ServerMessage<Tick>| matches!(message, ServerMessage::Ack { id: Some(9), .. });
    let answered = async {
        while !client.said.iter().any(left) {
            client.next().await?;
        }
        anyhow::Ok(())
    };
    timeout(PATIENCE, answered).await??;
    let refused = Client::connect(&format!("{base}/market"), Encoding::Json).await;
    let refusal = format!("{:#}", refused.err().context("a refusal")?);
    assert!(refusal.contains("404"), "{refusal}");
    let mut everything = Client::connect(&base, Encoding::MessagePack).await?;
    let target = StreamSeq::new(client.cursor.get() + 2_000);
    let kinds: BTreeSet<String> = everything
        .read_to(target)
        .await?
        .iter()
        .map(|tick| tick.tick.kind().to_string())
        .collect();
    for kind in ["trade", "quote", "bar", "stat"] {
        assert!(kinds.contains(kind), "{kinds:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_see_who_reads_what() -> Result<()> {
    let world = World::start(FEEDS).await?;
    let mut clients = Vec::new();
    for topics in [
        &["quote.sim.*"][..],
        &["quote.sim.AAA"],
        &["quote.sim.AAA", "trade.sim.AAA"],
    ] {
        let mut client = Client::connect(world.ws(), Encoding::Json).await?;
        client.subscribe(topics, "auto", BTreeMap::new()).await?;
        clients.push(client);
    }
    let mut reading = JoinSet::new();
    for mut client in clients {
        reading.spawn(async move { while client.next().await.is_ok() {} });
    }
    let mut reader = Reader::of("quote.sim.AAA", String::new());
    let host = host(&world)?.to_owned();
    reading.spawn(async move {
        // Until the test is over.
        let _ended = reader.read(&host, StreamSeq::new(u64::MAX), 0).await;
    });
    let path = "/stats?topic=trade.sim.AAA";
    let fanout = eventually("four subscribers", async || {
        let (_, stats) = world.ops(path).await?;
        let fanout = &stats["fanout"];
        let flows = ["messages", "bytes", "writes"];
        let flowing = flows
            .iter()
            .all(|flow| fanout["per_second"][flow].as_u64() > Some(0));
        let first = json!({ "topic": "quote.sim.AAA", "subscribers": 4 });
        let is_seen = fanout["sse"] == 1 && flowing && fanout["top"][0] == first;
        Ok(is_seen.then(|| fanout.clone()))
    })
    .await?;
    assert_eq!(
        (&fanout["connections"], &fanout["slow"]),
        (&json!(4), &json!(0))
    );
    assert_eq!(fanout["top"].as_array().context("a list")?.len(), 20);
    assert_eq!(fanout["topic"]["subscribers"], 1);
    let shards = fanout["shards"].as_array().context("shards")?;
    let held: Option<u64> = shards
        .iter()
        .map(|shard| shard["connections"].as_u64())
        .sum();
    assert_eq!(held, Some(4));
    assert!(fanout["queued_bytes"].is_u64() && shards[0]["behind"].is_u64());
    let (_, metrics) = world.ops("/metrics").await?;
    let metrics = metrics.as_str().context("a text")?;
    for hop in ["stored", "read", "dispatched", "written"] {
        let count = format!("tickwire_fanout_hop_seconds_count{{hop=\"{hop}\"}} ");
        let found = metrics.lines().find_map(|line| line.strip_prefix(&count));
        assert!(found.is_some_and(|count| count != "0"), "{hop}: {found:?}");
    }
    for name in [
        "encoded_total{encoding=\"json\"}",
        "queued_bytes",
        "slow_clients",
        "sse_connections",
        "reader_lag_seconds",
    ] {
        let name = format!("tickwire_fanout_{name} ");
        assert!(metrics.contains(&name), "{name} is missing");
    }
    assert!(!metrics.contains("AAA"), "a symbol became a label");
    Ok(())
}
