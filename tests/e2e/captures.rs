//! Recordings, replayed as fast as possible, arrive exactly: every trade and quote of the file, in
//! order, digit for digit, on the WebSocket and in history.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use schemas::tick::{FeedState, Side, Tick};
use schemas::ws::Encoding;
use serde_json::Value;
use tokio::time::timeout;

use crate::client::{Client, Received};
use crate::world::{PATIENCE, World, eventually, say};

/// Per topic, each message in short.
type Expected = BTreeMap<String, Vec<String>>;

/// Reads a recording on its own: what it must come to. Knows nothing of the product's decoders.
fn expected(venue: &str, path: &Path) -> Result<Expected> {
    let mut expected = Expected::new();
    for line in std::fs::read_to_string(path)?.lines() {
        let line: Value = serde_json::from_str(line)?;
        if line["dir"] != "in" {
            continue;
        }
        // A frame that is not JSON is no tick.
        let Ok(frame) = serde_json::from_str::<Value>(line["raw"].as_str().context("raw")?) else {
            continue;
        };
        let text = |value: &Value, field: &str| value[field].as_str().unwrap_or("-").to_owned();
        let (kind, symbol, entry) = if venue == "binance" {
            let data = &frame["data"];
            if data["e"] == "aggTrade" {
                let side = if data["m"] == true { "sell" } else { "buy" };
                let entry = format!(
                    "{} {} {} {side}",
                    data["a"],
                    text(data, "p"),
                    text(data, "q")
                );
                ("trade", text(data, "s"), entry)
            } else if data.get("u").is_some() && data.get("e").is_none() {
                let sides = ["b", "B", "a", "A"].map(|field| text(data, field));
                ("quote", text(data, "s"), sides.join(" "))
            } else {
                continue;
            }
        } else if frame["type"] == "match" {
            let side = if frame["side"] == "sell" {
                "buy"
            } else {
                "sell"
            };
            let entry = format!(
                "{} {} {} {side}",
                frame["trade_id"],
                text(&frame, "price"),
                text(&frame, "size")
            );
            ("trade", text(&frame, "product_id"), entry)
        } else if frame["type"] == "ticker" {
            let sides = ["best_bid", "best_bid_size", "best_ask", "best_ask_size"]
                .map(|field| text(&frame, field));
            ("quote", text(&frame, "product_id"), sides.join(" "))
        } else {
            continue;
        };
        let entries = expected
            .entry(format!("{kind}.{venue}.{symbol}"))
            .or_default();
        // State kinds are published on change only.
        if kind == "trade" || entries.last() != Some(&entry) {
            entries.push(entry);
        }
    }
    Ok(expected)
}

fn short(tick: &Tick) -> Option<String> {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    match tick {
        Tick::Trade(trade) => {
            let side = if trade.side == Side::Buy {
                "buy"
            } else {
                "sell"
            };
            Some(format!(
                "{} {} {} {side}",
                trade.id, trade.price, trade.size
            ))
        }
        Tick::Quote(quote) => {
            let price = |price: Option<schemas::decimal::Price>| {
                or_dash(price.map(|price| price.to_string()))
            };
            let size =
                |size: Option<schemas::decimal::Size>| or_dash(size.map(|size| size.to_string()));
            let sides = [
                price(quote.bid),
                size(quote.bid_size),
                price(quote.ask),
                size(quote.ask_size),
            ];
            Some(sides.join(" "))
        }
        _ => None,
    }
}

fn by_topic(received: &[Received]) -> Expected {
    let mut topics = Expected::new();
    for received in received {
        if let Some(entry) = short(&received.tick) {
            topics
                .entry(received.topic.clone())
                .or_default()
                .push(entry);
        }
    }
    topics
}

/// Replays a recording, and compares what arrives with what it holds: number of trades and quotes.
async fn replay(venue: &str, path: &Path) -> Result<(usize, usize)> {
    let expected = expected(venue, path)?;
    let feeds = format!(
        "[[feed]]\nname = \"tape\"\nsource = \"replay\"\nformat = \"{venue}\"\nvenue = \"{venue}\"\npath = \"{}\"\nspeed = \"max\"\n",
        path.display()
    );
    let world = World::start(&feeds).await?;
    for encoding in Encoding::ALL {
        let mut client = Client::connect(world.ws(), encoding).await?;
        let topics = ["trade", "quote", "feed"].map(|kind| format!("{kind}.{venue}.*"));
        client
            .subscribe_all(&topics.each_ref().map(String::as_str), "none")
            .await?;
        let mut received = Vec::new();
        let is_closed = |received: &&Received| matches!(&received.tick, Tick::Feed(feed) if feed.state == FeedState::Closed);
        let until_closed = async {
            loop {
                received.extend(client.next().await?);
                if let Some(closed) = received.iter().find(is_closed) {
                    return anyhow::Ok(closed.seq);
                }
            }
        };
        let closed = timeout(PATIENCE, until_closed)
            .await
            .context("the recording does not end")??;
        received.extend(client.read_to(closed).await?);
        assert_eq!(by_topic(&received), expected);
        history(&world, &expected, closed.get()).await?;
    }
    let count = |kind: &str| {
        expected
            .iter()
            .filter(|(topic, _)| topic.starts_with(kind))
            .map(|(_, entries)| entries.len())
            .sum()
    };
    Ok((count("trade"), count("quote")))
}

/// History holds the same rows, once it has reached `seq`.
async fn history(world: &World, expected: &Expected, seq: u64) -> Result<()> {
    for (topic, entries) in expected {
        let (kind, rest) = topic.split_once('.').context("a kind")?;
        let (venue, symbol) = rest.split_once('.').context("a venue")?;
        let path = format!("/v1/{kind}s?venue={venue}&symbol={symbol}&limit=10000");
        let items = eventually("history does not get there", async || {
            let (status, page) = world.get(&path).await?;
            anyhow::ensure!(status == 200, "{path} answered {status}: {page}");
            let floor = page["pos"]["TICKS"]["c"]
                .as_str()
                .and_then(|c| c.split('.').next()?.parse::<u64>().ok());
            let is_there = floor.is_some_and(|floor| floor >= seq);
            Ok(is_there.then(|| page["items"].as_array().cloned().unwrap_or_default()))
        })
        .await?;
        let mut ticks = items
            .into_iter()
            .map(|item| {
                Ok((
                    item["s"].as_u64().context("s")?,
                    serde_json::from_value::<Tick>(item)?,
                ))
            })
            .collect::<Result<Vec<_>>>()?;
        // History is in order of event time; the stream's order is what the file has.
        ticks.sort_by_key(|(seq, _)| *seq);
        let found: Vec<String> = ticks.iter().filter_map(|(_, tick)| short(tick)).collect();
        assert_eq!(&found, entries, "{topic}");
    }
    Ok(())
}

/// The shared captures, where they are; a visible remark where they are not.
fn captures() -> Option<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "where a test finds its data")]
    let set = std::env::var("TICKWIRE_CAPTURES").ok().map(PathBuf::from);
    let place =
        set.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/captures"));
    if place.join("binance-spot.jsonl").is_file() {
        return Some(place);
    }
    say(&format!(
        "SKIPPED: no captures in {}; TICKWIRE_CAPTURES may name their folder",
        place.display()
    ));
    None
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/e2e/fixtures")
        .join(name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_binance_capture_arrives_exactly() -> Result<()> {
    if let Some(captures) = captures() {
        assert_eq!(
            replay("binance", &captures.join("binance-spot.jsonl")).await?,
            (2, 84)
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_coinbase_capture_arrives_exactly() -> Result<()> {
    if let Some(captures) = captures() {
        assert_eq!(
            replay("coinbase", &captures.join("coinbase-exchange.jsonl")).await?,
            (97, 71)
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_recordings_arrive_exactly() -> Result<()> {
    assert_eq!(replay("binance", &fixture("binance.jsonl")).await?, (3, 3));
    assert_eq!(
        replay("coinbase", &fixture("coinbase.jsonl")).await?,
        (3, 2)
    );
    Ok(())
}
