//! Streams split by venue: every replica carries all of them, and what holds for one stream holds for
//! each.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng};
use schemas::position::{Cursor, Epoch, StreamSeq};
use schemas::tick::Tick;
use schemas::ws::{Encoding, ErrorCode, From, ServerMessage};
use tokio::time::{Instant, sleep, timeout};

use crate::checker::History;
use crate::client::{Client, Received};
use crate::fleet::{Fleet, Plan, Replica, Stream};
use crate::movement::{PATIENT, is_soak, listed, seed, wander};
use crate::nomad::Nomad;
use crate::record::Wish;
use crate::sse::{Reader, positions};
use crate::world::{PATIENCE, until};

const INSTRUMENTS: usize = 40;
/// Each with its venue.
const NEAR: (&str, &str) = ("TICKS", "sim");
const FAR: (&str, &str) = ("MORE", "simb");
const NAMES: [&str; 2] = [NEAR.0, FAR.0];

fn feed(venue: &str, rate: u32) -> String {
    format!(
        "[[feed]]\nname = \"{venue}\"\nsource = \"sim\"\nvenue = \"{venue}\"\n\
         instruments = {INSTRUMENTS}\nrate = {rate}\nbars = [\"1s\"]\n"
    )
}

/// Two streams of unequal load: their positions must not be taken for each other's.
fn plan(fanouts: usize) -> Plan {
    let stream = |(name, venues), rate| Stream {
        name,
        venues,
        feeds: feed(venues, rate),
    };
    Plan {
        brokers: 1,
        fanouts,
        streams: vec![stream(NEAR, 200), stream(FAR, 600)],
        provision: Vec::new(),
        fanout: PATIENT.to_vec(),
    }
}

/// Topics of both venues, one by one and by patterns over both.
fn wishes(number: usize, symbols: &[String], rng: &mut StdRng) -> Vec<Wish> {
    let begin = rng.random();
    let wish = |topics: Vec<String>, conflate, begin| Wish {
        topics,
        conflate,
        begin,
    };
    let few: Vec<&String> = symbols.sample(rng, 4).collect();
    let each = |kinds: &[&str]| {
        let both = few
            .iter()
            .flat_map(|symbol| [NEAR.1, FAR.1].map(|venue| format!("{venue}.{symbol}")));
        let all = both.flat_map(|of| kinds.iter().map(move |kind| format!("{kind}.{of}")));
        all.collect::<Vec<String>>()
    };
    match number % 4 {
        0 => {
            let patterns = ["trade.>".to_owned(), format!("*.{}.>", FAR.1)];
            vec![wish(patterns.to_vec(), "none", number == 0 || begin)]
        }
        1 => vec![
            wish(each(&["trade", "quote"]), "none", begin),
            wish(vec!["stat.>".to_owned(), "bar.>".to_owned()], "auto", false),
        ],
        2 => {
            let all = few.iter().map(|symbol| format!("*.*.{symbol}"));
            vec![wish(all.collect(), "none", begin)]
        }
        _ => vec![
            wish(each(&["quote", "stat"]), "auto", false),
            wish(each(&["trade"]), "none", begin),
        ],
    }
}

/// Kills one of the writers or a replica, again and again.
async fn kill_some(fleet: &mut Fleet, rng: &mut StdRng, end: Instant) -> Result<String> {
    let (mut writers, mut fanouts, mut said) = (0, 0, 0);
    while Instant::now() < end || writers == 0 || fanouts == 0 {
        sleep(Duration::from_millis(rng.random_range(500..2_500))).await;
        let is_writer = if writers == fanouts {
            rng.random()
        } else {
            writers < fanouts
        };
        let process = if is_writer {
            writers += 1;
            &mut fleet.ingests[1]
        } else {
            fanouts += 1;
            let number = rng.random_range(0..fleet.fanouts.len());
            &mut fleet.fanouts[number].process
        };
        process.kill().await?;
        sleep(Duration::from_millis(rng.random_range(0..1_500))).await;
        if is_writer {
            said = process.said()?.len();
        }
        process.start()?;
    }
    // Whoever is asked to leave before it listens to that is killed by it.
    until("the ingest that was killed does not publish", async || {
        let now = fleet.ingests[1].said()?;
        Ok(now
            .get(said..)
            .unwrap_or_default()
            .contains("\"publishing\""))
    })
    .await?;
    for fanout in &mut fleet.fanouts {
        fanout.ready().await?;
    }
    Ok(format!(
        "{fanouts} replicas killed, {writers} times the ingest of {}",
        FAR.0
    ))
}

async fn started(plan: &Plan) -> Result<(Fleet, async_nats::Client)> {
    let mut fleet = Fleet::start(plan).await?;
    for ingest in &mut fleet.ingests {
        ingest.start()?;
    }
    let broker = fleet.client().await?;
    for of in [NEAR, FAR] {
        listed(&broker, of, INSTRUMENTS).await?;
    }
    Ok((fleet, broker))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wandering_clients_miss_nothing_on_either_stream() -> Result<()> {
    let seed = seed("split")?;
    let mut rng = StdRng::seed_from_u64(seed);
    let (count, length) = if is_soak() { (100, 60) } else { (24, 10) };
    let (mut fleet, broker) = started(&plan(3)).await?;
    let symbols = listed(&broker, NEAR, INSTRUMENTS).await?;
    let clients =
        (0..count).map(|number| Nomad::new(number, seed, wishes(number, &symbols, &mut rng)));
    let clients: Vec<Nomad> = clients.collect();
    let end = Instant::now() + Duration::from_secs(length);
    let chaos = async |fleet: &mut Fleet| kill_some(fleet, &mut rng, end).await;
    let outcome = wander(&mut fleet, (&broker, &NAMES), clients, chaos).await;
    let findings = outcome.with_context(|| format!("seed {seed}, {}", fleet.last_words()))?;
    ensure!(findings.is_clean(), "seed {seed}: {findings}");
    Ok(())
}

/// Whether a check of a replica is well.
async fn is_well(replica: &Replica, check: &str) -> Result<bool> {
    let (_, health) = replica.ops("/health").await?;
    Ok(health["checks"][check]["ok"] == true)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_serves_once_it_has_joined_all_streams() -> Result<()> {
    let plan = plan(1);
    let mut fleet = Fleet::of(&plan)?;
    fleet.brokers[0].process.start()?;
    fleet.provision(&plan, &plan.streams[0]).await?;
    fleet.fanouts[0].process.start()?;
    until("the first stream is not joined", async || {
        // It may not listen yet.
        Ok(is_well(&fleet.fanouts[0], "fanout.reader.TICKS")
            .await
            .unwrap_or(false))
    })
    .await?;
    let replica = &fleet.fanouts[0];
    ensure!(!replica.is_ready().await && !is_well(replica, "fanout.reader.MORE").await?);
    let refused = Client::connect(&replica.ws, Encoding::Json).await;
    let refusal = format!("{:#}", refused.err().context("nobody is served yet")?);
    ensure!(refusal.contains("503"), "{refusal}");
    fleet.provision(&plan, &plan.streams[1]).await?;
    fleet.fanouts[0].ready().await?;
    // Of either stream may be had what was never there, of no other venue anything.
    let mut client = Client::connect(&fleet.fanouts[0].ws, Encoding::Json).await?;
    let topics = [
        "trade.sim.NEW",
        "trade.simb.NEW",
        "trade.elsewhere.NEW",
        "*.elsewhere.>",
    ];
    client.subscribe(&topics, "none", BTreeMap::new()).await?;
    let (ok, err) = answered(&mut client).await?;
    let streams = ok.iter().map(|(_, streams)| streams.join(","));
    ensure!(streams.eq(["TICKS", "MORE"]), "{ok:?}");
    let refused = [topics[2], topics[3]].map(|text| (text.to_owned(), ErrorCode::UnknownTopic));
    ensure!(err == refused, "{err:?}");
    Ok(())
}

type Answer = (Vec<(String, Vec<String>)>, Vec<(String, ErrorCode)>);

/// Waits for an acknowledgement: what is of which streams, and what was refused.
async fn answered(client: &mut Client) -> Result<Answer> {
    let answer = async {
        loop {
            let ack = client.said.iter().find_map(|message| match message {
                ServerMessage::Ack { ok, err, .. } => Some((ok.clone(), err.clone())),
                _ => None,
            });
            if let Some((ok, err)) = ack {
                let ok = ok
                    .into_iter()
                    .map(|ok| (ok.c, ok.pos.into_keys().collect()));
                let err = err.into_iter().map(|err| (err.c, err.code));
                return anyhow::Ok((ok.collect(), err.collect()));
            }
            client.next().await?;
        }
    };
    timeout(PATIENCE, answer).await.context("no answer")?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_two_streams_go_on_exactly() -> Result<()> {
    let (mut fleet, broker) = started(&plan(2)).await?;
    let hosts = fleet.fanouts.iter().map(|replica| {
        let host = replica.ws.trim_start_matches("ws://");
        host.trim_end_matches("/v1/stream").to_owned()
    });
    let hosts: Vec<String> = hosts.collect();
    let (_, stats) = fleet.fanouts[0].ops("/stats").await?;
    let beginning = |(at, name): (usize, &&str)| {
        let epoch = stats["fanout"]["streams"][at]["epoch"].as_str();
        Ok(format!("{name}:{}:0", epoch.context("an epoch")?))
    };
    let id: Vec<String> = NAMES
        .iter()
        .enumerate()
        .map(beginning)
        .collect::<Result<_>>()?;
    let mut reader = Reader::of("trade.%3E,*.simb.%3E", id.join(","));
    for cut in 0..6 {
        let goal: Vec<u64> = NAMES
            .iter()
            .map(|name| at(&reader, name).get() + 400)
            .collect();
        let is_there = |reader: &Reader| {
            let mut parts = NAMES.iter().zip(&goal);
            parts.all(|(name, goal)| at(reader, name).get() >= *goal)
        };
        reader
            .read_until(&hosts[cut % 2], is_there, cut * 1_709)
            .await?;
        let id = positions(reader.id.as_deref().context("an id")?)?;
        ensure!(
            NAMES.iter().all(|name| id.contains_key(*name)),
            "{:?}",
            reader.id
        );
    }
    for ingest in &mut fleet.ingests {
        ingest.leave().await?;
    }
    let mut histories = Vec::new();
    for name in NAMES {
        histories.push(History::read(&broker, name).await?);
    }
    let is_there = |reader: &Reader| {
        let mut parts = NAMES.iter().zip(&histories);
        parts.all(|(name, history)| at(reader, name) >= history.last())
    };
    reader.read_until(&hosts[0], is_there, 0).await?;
    let counts = reader.continuity.counts();
    ensure!(
        (counts.holes, counts.gaps, counts.resets, counts.skips) == (0, 0, 0, 0),
        "{counts:?}"
    );
    let mut expected = histories[0].select("trade.sim.*", histories[0].last())?;
    expected.extend(histories[1].select("*.simb.>", histories[1].last())?);
    let told = reader.received.iter();
    let mut told: Vec<_> = told.map(|tick| (tick.topic.as_str(), tick.seq)).collect();
    // Each topic in order, and the topics one after the other.
    told.sort_by_key(|(topic, _)| *topic);
    expected.sort_by_key(|(topic, _)| *topic);
    ensure!(
        told == expected,
        "{} ticks of {}",
        told.len(),
        expected.len()
    );
    Ok(())
}

fn at(reader: &Reader, stream: &str) -> StreamSeq {
    reader.cursors.get(stream).copied().unwrap_or_default()
}

/// Reads on until so many ticks of a topic have come.
async fn read_some(client: &mut Client, topic: &str, count: usize) -> Result<Vec<Received>> {
    let mut ticks = Vec::new();
    timeout(PATIENCE, async {
        while ticks.len() < count {
            let received = client.next().await?;
            ticks.extend(received.into_iter().filter(|tick| tick.topic == topic));
        }
        anyhow::Ok(())
    })
    .await
    .with_context(|| format!("{} ticks of {topic}: {:?}", ticks.len(), client.said))??;
    Ok(ticks)
}

/// What was declared void: streams and topics.
fn voided(client: &Client) -> Vec<(Option<&str>, Option<&str>)> {
    let resets = client.said.iter().filter_map(|message| match message {
        ServerMessage::Reset { st, c, .. } => Some((st.as_deref(), c.as_deref())),
        _ => None,
    });
    resets.collect()
}

fn epoch_of(client: &Client, name: &str) -> Option<Epoch> {
    client
        .said
        .iter()
        .find_map(|message: &ServerMessage<Tick>| match message {
            ServerMessage::Welcome { streams, .. } => streams
                .iter()
                .find(|stream| stream.name == name)
                .map(|stream| stream.e),
            _ => None,
        })
}

const MOVED: &str = "trade.simb.AAA";
const STAYED: &str = "trade.sim.AAA";

/// One stream for both venues, and clients that know their positions in it.
async fn before(fleet: &mut Fleet, plan: &Plan) -> Result<(Stream, [Client; 2])> {
    let whole = Stream {
        feeds: feed(NEAR.1, 300) + &feed(FAR.1, 300),
        ..Stream::only(String::new())
    };
    fleet.brokers[0].process.start()?;
    fleet.provision(plan, &whole).await?;
    let mut writer = fleet.writer(&whole)?;
    writer.start()?;
    let mut replica = fleet.replica(0, NEAR.0, plan)?;
    replica.process.start()?;
    replica.ready().await?;
    let mut clients = Vec::new();
    for (topics, encoding) in [
        ([MOVED, STAYED], Encoding::Json),
        (["trade.>", "*.simb.>"], Encoding::MessagePack),
    ] {
        let mut client = Client::connect(&replica.ws, encoding).await?;
        client.subscribe(&topics, "none", BTreeMap::new()).await?;
        read_some(&mut client, MOVED, 30).await?;
        // A cursor of this stream must count for nothing in the other one.
        let target = StreamSeq::new(client.cursor.get() + 1_000);
        client.read_to(target).await?;
        clients.push(client);
    }
    writer.leave().await?;
    replica.process.kill().await?;
    let clients = clients.try_into();
    Ok((whole, clients.map_err(|_| anyhow::anyhow!("two clients"))?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_venue_that_moves_to_another_stream_leaves_no_silent_hole() -> Result<()> {
    let plan = plan(1);
    let mut fleet = Fleet::of(&plan)?;
    let (whole, [mut single, mut pattern]) = before(&mut fleet, &plan).await?;
    for stream in &plan.streams {
        fleet.provision(&plan, stream).await?;
    }
    // Whoever still writes both venues to the one stream is refused.
    let mut greedy = fleet.writer(&whole)?;
    greedy.start()?;
    ensure!(greedy.ended().await?.is_some_and(|code| code != 0));
    let said = greedy.said()?;
    for part in [
        "feed \\\"simb\\\"",
        "stream TICKS takes sim only",
        "--venues",
        "another --stream",
    ] {
        ensure!(
            said.contains(part) || said.contains(&part.replace('\\', "")),
            "{said}"
        );
    }
    // Its feeds were under the same name.
    fleet.ingests[0] = fleet.writer(&plan.streams[0])?;
    fleet.ingests[0].start()?;
    fleet.fanouts[0].process.start()?;
    fleet.fanouts[0].ready().await?;
    let url = fleet.fanouts[0].ws.clone();
    // Nothing of the venue is in its new stream yet.
    let known = single.continuity.resume(None);
    single.move_to(&url, &[MOVED, STAYED]).await?;
    single
        .subscribe(&[MOVED, STAYED], "none", known.clone())
        .await?;
    read_some(&mut single, STAYED, 5).await?;
    ensure!(
        voided(&single) == [(None, Some(MOVED))],
        "{:?}",
        single.said
    );
    let known_by_pattern = pattern.continuity.resume(None);
    pattern.move_to(&url, &["trade.>", "*.simb.>"]).await?;
    pattern
        .subscribe(&["trade.>", "*.simb.>"], "none", known_by_pattern)
        .await?;
    read_some(&mut pattern, STAYED, 5).await?;
    ensure!(
        voided(&pattern) == [(Some(FAR.0), None)],
        "{:?}",
        pattern.said
    );
    fleet.ingests[1].start()?;
    let told = [
        read_some(&mut single, MOVED, 20).await?,
        read_some(&mut pattern, MOVED, 20).await?,
    ];
    // A position in the old stream beside one in the new: a value, and what follows it.
    let mut late = Client::connect(&url, Encoding::Json).await?;
    let far = From {
        e: epoch_of(&late, FAR.0).context("an epoch")?,
        c: Some(Cursor::BEGINNING),
        s: BTreeMap::new(),
    };
    let from = known.into_iter().chain([(FAR.0.to_owned(), far)]);
    late.subscribe(&[MOVED, STAYED], "none", from.collect())
        .await?;
    let value = read_some(&mut late, MOVED, 5).await?;
    ensure!(voided(&late) == [(None, Some(MOVED))], "{:?}", late.said);
    for ingest in &mut fleet.ingests {
        ingest.leave().await?;
    }
    let history = History::read(&fleet.client().await?, FAR.0).await?;
    let all = history.select(MOVED, history.last())?;
    let seqs = |ticks: &[Received]| ticks.iter().map(|tick| tick.seq).collect::<Vec<_>>();
    let stored: Vec<StreamSeq> = all.into_iter().map(|(_, seq)| seq).collect();
    for ticks in &told {
        ensure!(
            stored.starts_with(&seqs(ticks)),
            "{:?} of {stored:?}",
            seqs(ticks)
        );
    }
    let value = seqs(&value);
    let first = stored
        .iter()
        .position(|seq| *seq == value[0])
        .context("a value of the stream")?;
    ensure!(
        stored[first..].starts_with(&value),
        "{value:?} of {stored:?}"
    );
    Ok(())
}
