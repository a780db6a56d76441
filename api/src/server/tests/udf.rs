//! UDF over instruments that trade by other clocks than UTC's: times of long bars, hours, names.

use schemas::codec;
use schemas::position::StreamSeq;
use schemas::tick::Tick;
use schemas::time::{Clock as _, SystemClock};
use serde_json::{Value, json};

use super::world::{World, epoch};
use crate::store::{Row, TickStore as _, content};

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;
/// 2026-03-02, a Monday, 00:00 UTC, in seconds.
const MONDAY: i64 = 1_772_409_600;

fn rows(ticks: impl Iterator<Item = Value>) -> Vec<Row> {
    let row = |(seq, tick): (u64, Value)| {
        let tick: Tick = serde_json::from_value(tick).unwrap();
        Row {
            seq: StreamSeq::new(seq),
            content: content(&tick),
            payload: codec::to_msgpack(&tick).unwrap().into(),
        }
    };
    (1..).zip(ticks).map(row).collect()
}

fn inst(symbol: &str, zone: &str, session: &str) -> Value {
    json!({ "k": "inst", "v": "x", "y": symbol, "tr": "1", "ty": "future", "tz": zone, "se": session })
}

/// An hour that starts here, in seconds.
fn hour(symbol: &str, start: i64) -> Value {
    let nanos = format!("{start}000000000");
    json!({
        "k": "bar", "v": "x", "y": symbol, "tr": nanos, "iv": "1h", "t0": nanos,
        "o": "1", "h": "9", "l": "1", "c": "2", "vo": "10", "n": 2,
    })
}

async fn history(world: &World, symbol: &str, resolution: &str, rest: &str) -> Value {
    let path = format!("/udf/history?symbol=x:{symbol}&resolution={resolution}&{rest}");
    let answer = world.get(&path).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

fn times(page: &Value) -> Vec<i64> {
    let times = page["t"].as_array().unwrap_or_else(|| panic!("{page}"));
    times.iter().map(|time| time.as_i64().unwrap()).collect()
}

/// Every time on the way back from here to the beginning, a few a page.
async fn back(world: &World, symbol: &str, resolution: &str) -> Vec<i64> {
    let (mut to, mut all) = (MONDAY + 60 * DAY, Vec::new());
    loop {
        let rest = format!("from={}&to={to}&countback=4", to - 1);
        let page = history(world, symbol, resolution, &rest).await;
        if page["s"] == "no_data" {
            all.reverse();
            return all;
        }
        let times = times(&page);
        assert!(times.len() <= 4 && times.is_sorted() && times.iter().all(|time| *time < to));
        to = times[0];
        all.extend(times.into_iter().rev());
    }
}

/// Three weeks of hours in a session from Monday to Friday, from `open` before each UTC midnight on.
async fn weeks(symbol: &str, zone: &str, session: &str, open: i64, hours: i64) -> World {
    let world = World::start().await;
    let working = (0..21).filter(|day| day % 7 < 5);
    let starts = working.flat_map(|day| (0..hours).map(move |hour| (day, hour)));
    let starts = starts.map(|(day, hour)| MONDAY + day * DAY - open + hour * HOUR);
    let bars = starts.map(|start| hour(symbol, start));
    let ticks = std::iter::once(inst(symbol, zone, session)).chain(bars);
    world.store.record(epoch(), &rows(ticks)).await.unwrap();
    world.recorded_up_to(1_000).await;
    world
}

/// What three weeks of days, their weeks and their month are in UDF.
async fn are_dates(world: &World, symbol: &str) {
    let days: Vec<i64> = (0..21)
        .filter(|day| day % 7 < 5)
        .map(|day| MONDAY + day * DAY)
        .collect();
    assert_eq!(back(world, symbol, "1D").await, days, "{symbol}");
    let weeks = [0, 7, 14].map(|day| MONDAY + day * DAY);
    assert_eq!(back(world, symbol, "1W").await, weeks, "{symbol}");
    // By a range too, whose ends are such times.
    let within = format!("from={}&to={}", days[3], days[6]);
    let page = history(world, symbol, "1D", &within).await;
    assert_eq!(times(&page), &days[3..6], "{symbol}");
    // A weekend leads to Friday, from wherever it is asked for.
    for (from, to) in [(5 * DAY, 7 * DAY), (5 * DAY + 1, 6 * DAY + 1)] {
        let within = format!("from={}&to={}", MONDAY + from, MONDAY + to);
        let page = history(world, symbol, "1D", &within).await;
        assert_eq!(page, json!({ "s": "no_data", "nextTime": days[4] }));
    }
    let before = format!("from=0&to={MONDAY}");
    let page = history(world, symbol, "1D", &before).await;
    assert_eq!(page, json!({ "s": "no_data" }), "{symbol}");
}

#[tokio::test]
async fn long_bars_have_the_dates_of_their_trading_days() {
    // In Karachi midnight is at 19:00 in UTC on the day before; in Chicago it is winter until the 8th.
    let world = weeks("KHI", "Asia/Karachi", "0000-2400", 5 * HOUR, 24).await;
    are_dates(&world, "KHI").await;
    // March begins with a Sunday, and the first day of trade is its second.
    assert_eq!(back(&world, "KHI", "1M").await, [MONDAY]);
    let world = weeks("CME", "America/Chicago", "1700-1600", HOUR, 23).await;
    are_dates(&world, "CME").await;
    let world = weeks("UTC", "Etc/UTC", "0000-2400", 0, 24).await;
    are_dates(&world, "UTC").await;
    // Shorter bars start when they do.
    let page = history(&world, "UTC", "60", &format!("from=0&to={MONDAY}")).await;
    assert_eq!(page["s"], "no_data");
    let within = format!("from={MONDAY}&to={}", MONDAY + 2 * HOUR);
    let page = history(&world, "UTC", "60", &within).await;
    assert_eq!(times(&page), [MONDAY, MONDAY + HOUR]);
}

#[tokio::test]
async fn a_day_that_has_begun_is_there_before_its_date_is() {
    // Fourteen hours before UTC: more often than not it is tomorrow there.
    let zone = "Pacific/Kiritimati";
    let world = World::start().await;
    let now = SystemClock.now().seconds();
    let this = now - now % HOUR;
    let ticks = [
        inst("A", zone, "24x7"),
        hour("A", this - DAY),
        hour("A", this),
    ];
    let ticks = rows(ticks.into_iter());
    world.store.record(epoch(), &ticks).await.unwrap();
    world.recorded_up_to(3).await;
    let today = (this + 14 * HOUR) - (this + 14 * HOUR) % DAY;
    // As the adapter polls, and as the page reads all that there is.
    let clock = now + i64::from(now % DAY == 0);
    for to in [clock, 9_223_372_036] {
        let rest = format!("from={}&to={to}&countback=2", now - 10 * DAY);
        let page = history(&world, "A", "1D", &rest).await;
        assert_eq!(times(&page), [today - DAY, today], "to {to} of {now}");
        assert_eq!(page["forming"], true, "{page}");
    }
}

#[tokio::test]
async fn hours_are_told_in_tradingviews_words() {
    let world = World::start().await;
    let ticks = [
        json!({ "k": "inst", "v": "nyse", "y": "A", "tr": "1", "ty": "equity" }),
        inst("B", "Etc/UTC", "24x7:23456"),
    ];
    let ticks = rows(ticks.into_iter());
    world.store.record(epoch(), &ticks).await.unwrap();
    let told = world.get("/udf/symbols?symbol=nyse:A").await.json();
    for (name, value) in [
        ("session", "0930-1600"),
        ("timezone", "America/New_York"),
        ("session_holidays", "20261126,20261225"),
        ("corrections", "0930-1300:20261127;0930-1300:20261224"),
    ] {
        assert_eq!(told[name], value, "{name}");
    }
    let told = world.get("/udf/symbols?symbol=x:B").await.json();
    assert_eq!(told["session"], "0000-0000:23456");
    assert_eq!(told.get("corrections"), None);
}
