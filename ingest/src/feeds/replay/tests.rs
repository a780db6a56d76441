//! Recordings that are broken, and recordings whose times jump.

use std::fmt::Write as _;

use schemas::id::Kind;

use super::recording::MAX_LINE;
use super::*;
use crate::metrics::Metrics;

const START: i64 = 1_767_000_000_000_000_000;
const DAY: i64 = 86_400_000_000_000;

/// A recording that is played; and what it counts.
struct Played {
    ticks: Vec<Tick>,
    metrics: String,
}

async fn play(format: Format, bytes: &[u8], speed: Option<f64>) -> Played {
    play_until(format, bytes, (speed, false), usize::MAX).await
}

async fn play_until(
    format: Format,
    bytes: &[u8],
    (speed, repeat): (Option<f64>, bool),
    enough: usize,
) -> Played {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recording");
    std::fs::write(&path, bytes).unwrap();
    let mut registry = prometheus_client::registry::Registry::default();
    let rejects = Rejects::new("r", Metrics::new(&mut registry).feeds);
    let of = (
        format,
        Venue::new("x").unwrap(),
        FeedName::new("r").unwrap(),
    );
    let mut replay = Replay::open(of, &path, speed, repeat, rejects).unwrap();
    let mut ticks = Vec::new();
    while let Some(more) = replay.next().await.unwrap() {
        ticks.extend(more);
        if ticks.len() >= enough {
            break;
        }
    }
    let mut metrics = String::new();
    prometheus_client::encoding::text::encode(&mut metrics, &registry).unwrap();
    Played { ticks, metrics }
}

impl Played {
    fn ids(&self) -> Vec<&str> {
        let ids = self.ticks.iter().filter_map(|tick| match tick {
            Tick::Trade(trade) => Some(trade.id.as_str()),
            Tick::Quote(_)
            | Tick::Book(_)
            | Tick::Stat(_)
            | Tick::Bar(_)
            | Tick::Form(_)
            | Tick::Index(_)
            | Tick::Flow(_)
            | Tick::Status(_)
            | Tick::Feed(_)
            | Tick::Inst(_) => None,
        });
        ids.collect()
    }

    fn rejected(&self, reason: &str) -> u64 {
        let start = format!("rejected_total{{feed=\"r\",reason=\"{reason}\"}} ");
        let count = self.metrics.split(&start).nth(1);
        count.map_or(0, |rest| {
            rest.lines().next().and_then(|n| n.parse().ok()).unwrap()
        })
    }
}

fn frame(id: u64) -> String {
    format!(r#"{{"e":"trade","s":"A","t":{id},"p":"1","q":"1","T":1767000000120,"m":true}}"#)
}

fn captured(at: i64, id: u64) -> String {
    let raw = serde_json::to_string(&frame(id)).unwrap();
    format!("{{\"ts_ns\":{at},\"dir\":\"in\",\"raw\":{raw}}}\n")
}

#[tokio::test]
async fn bad_lines_are_counted_and_the_rest_is_played() {
    let mut file = captured(START, 1).into_bytes();
    for bad in [
        &b"{\n"[..],
        b"[]\n",
        b"null\n",
        b"\xFF\xFE{}\n",
        b"\n\r\n",
        b"{\"ts_ns\":1767000000000000000,\"dir\":\"in\"}\n",
        b"{\"ts_ns\":1767000000000000000,\"dir\":\"sideways\",\"raw\":\"{}\"}\n",
        b"{\"ts_ns\":\"now\",\"dir\":\"in\",\"raw\":\"{}\"}\n",
        b"{\"ts_ns\":1767000000000000000,\"dir\":\"in\",\"raw\":\"{\"}\n",
        b"{\"ts_ns\":1767000000000000000,\"dir\":\"out\",\"raw\":\"{\"}\n",
        b"{\"ts_ns\":1767000000000000000,\"dir\":\"open\",\"url\":\"wss://x\"}\n",
        b"{\"ts_ns\":5,\"dir\":\"in\",\"raw\":\"{}\"}\n",
        b"{\"ts_ns\":9223372036854775807,\"dir\":\"in\",\"raw\":\"{}\"}\n",
    ] {
        file.extend_from_slice(bad);
    }
    // A line that is too long, then one that just is not, then a last one that is cut off.
    file.extend_from_slice(&vec![b'x'; 3 * MAX_LINE + 7]);
    file.extend_from_slice(b"\n");
    file.extend_from_slice(captured(START, 2).as_bytes());
    let last = captured(START, 3);
    file.extend_from_slice(&last.as_bytes()[..last.len() - 9]);
    let played = play(Format::Binance, &file, None).await;
    assert_eq!(played.ids(), ["1", "2"]);
    let reasons = ["malformed", "range", "size"].map(|reason| played.rejected(reason));
    assert_eq!(reasons, [9, 2, 1]);
}

#[tokio::test]
async fn a_table_of_trades_is_played_around_its_bad_rows() {
    let mut file = "time,symbol,id,price,size,side\n".to_owned();
    for n in 0..1_000 {
        let price = if n % 10 == 3 { "much" } else { "1.5" };
        writeln!(file, "{},A,{n},{price},1,sell", START + n).unwrap();
    }
    let played = play(Format::Csv, file.as_bytes(), None).await;
    assert_eq!(played.ids().len(), 900);
    assert_eq!(played.rejected("range"), 100);
    let instruments = |tick: &&Tick| tick.kind() == Kind::Inst;
    assert_eq!(played.ticks.iter().filter(instruments).count(), 1);
    // Without a header nothing can be told: every row is counted.
    let headless = file.split_once('\n').unwrap().1;
    let played = play(Format::Csv, headless.as_bytes(), None).await;
    assert_eq!(
        (played.ids().len(), played.rejected("malformed")),
        (0, 1_000)
    );
}

#[tokio::test(start_paused = true)]
async fn times_that_jump_hold_nothing_up() {
    let second = 1_000_000_000;
    let times = [
        0,
        second,
        // A year without a line, then one of long ago, then as before.
        365 * DAY,
        365 * DAY + second,
        -3_650 * DAY,
        2 * second,
        3 * second,
    ];
    let lines: String = (1..)
        .zip(times)
        .map(|(id, at)| captured(START + 3_650 * DAY + at, id))
        .collect();
    let began = Instant::now();
    let played = play(Format::Binance, lines.as_bytes(), Some(1.0)).await;
    assert_eq!(played.ids(), ["1", "2", "3", "4", "5", "6", "7"]);
    // The clock of this test moves only as far as somebody waits.
    assert_eq!(began.elapsed().as_secs(), 3);
}

#[tokio::test]
async fn a_loop_goes_on_in_time_and_ends_with_it() {
    let lines = captured(START, 1) + &captured(START + DAY, 2);
    let played = play_until(Format::Binance, lines.as_bytes(), (None, true), 7).await;
    assert_eq!(played.ids()[..5], ["1", "2", "1~1", "2~1", "1~2"]);
    let received = played.ticks.iter().map(|tick| tick.head().received);
    assert!(received.is_sorted());
    let lines = captured(START, 1) + &captured(START + 40 * 365 * DAY, 2);
    let played = play_until(Format::Binance, lines.as_bytes(), (None, true), 7).await;
    assert_eq!(played.ids(), ["1", "2"]);
    // Nothing to play is an end, too.
    let played = play_until(Format::Binance, b"{}\n", (None, true), 1).await;
    assert_eq!(played.ids().len(), 0);
}
