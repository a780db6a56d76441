//! Recordings with good and bad lines, and bars of what they hold.

use std::io::Cursor;

use schemas::id::Kind;

use super::*;

const START: i64 = 1_767_052_800_000_000_000;
const SECOND: i64 = 1_000_000_000;

fn plan(format: Format) -> Plan {
    Plan {
        format,
        venue: Venue::new("x").unwrap(),
        symbols: Vec::new(),
        now: UnixNanos::new(START + 86_400 * SECOND),
    }
}

fn read(plan: &Plan, text: &str) -> Vec<Entry> {
    let mut backfill = Backfill::new(Box::new(Cursor::new(text.to_owned())), plan).unwrap();
    std::iter::from_fn(|| backfill.next_entry().unwrap()).collect()
}

fn kinds(entry: &Entry) -> Vec<Kind> {
    entry.ticks.iter().map(Tick::kind).collect()
}

#[test]
fn every_line_is_accounted_for() {
    let header = "time,symbol,id,price,size,side";
    let good = format!("{START},A,1,2.50,3,buy");
    let late = format!("{},A,2,2.50,3,buy", START + 2 * 86_400 * SECOND);
    let rows = [
        header,
        &good,
        "noon,A,3,1,1,buy",
        "",
        &late,
        "1,A,4,1,1,buy",
        "\u{0}",
    ];
    let entries = read(&plan(Format::Csv), &rows.join("\r\n"));
    let lines: Vec<u64> = entries.iter().map(|entry| entry.line).collect();
    assert_eq!(lines, [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(kinds(&entries[1]), [Kind::Inst, Kind::Trade]);
    assert_eq!(entries[1].ticks[1].head().flags, [Flag::Backfill]);
    let said = |index: usize| {
        entries[index]
            .reject
            .as_ref()
            .map(|reject| &*reject.message)
    };
    assert_eq!((said(0), said(1), said(3)), (None, None, None));
    assert!(said(2).unwrap().starts_with("time: \"noon\""));
    assert_eq!(said(4), Some("time: lies in the future"));
    assert!(said(5).unwrap().starts_with("time: time is not between"));
    assert!(said(6).is_some());
}

#[test]
fn of_a_capture_states_are_taken_when_they_change_and_feeds_not_at_all() {
    let frame = |raw: &str, at: i64| {
        serde_json::json!({ "ts_ns": START + at, "dir": "in", "raw": raw }).to_string()
    };
    let ticker = |bid: u8| {
        format!(
            r#"{{"type":"ticker","product_id":"A","best_bid":"{bid}","best_bid_size":"1","best_ask":"9","best_ask_size":"1"}}"#
        )
    };
    let trade = |id: u8| {
        format!(
            r#"{{"type":"match","trade_id":{id},"time":"2025-12-30T00:00:00Z","product_id":"A","size":"1","price":"2","side":"buy"}}"#
        )
    };
    let rows = [
        frame(&ticker(1), 0),
        frame(&ticker(1), 1),
        frame(&trade(5), 2),
        // Two trades are missing: a live feed would say so.
        frame(&trade(8), 3),
        frame(&ticker(2), 4),
        frame("{", 5),
    ];
    let entries = read(&plan(Format::Coinbase), &rows.join("\n"));
    let found: Vec<Vec<Kind>> = entries.iter().map(kinds).collect();
    let expected: [&[Kind]; 6] = [
        &[Kind::Inst, Kind::Quote],
        &[],
        &[Kind::Trade],
        &[Kind::Trade],
        &[Kind::Quote],
        &[],
    ];
    assert_eq!(found, expected);
    let bad: Vec<bool> = entries.iter().map(|entry| entry.reject.is_some()).collect();
    assert_eq!(bad, [false, false, false, false, false, true]);

    let only = Plan {
        symbols: vec![Symbol::new("B").unwrap()],
        ..plan(Format::Coinbase)
    };
    let entries = read(&only, &rows.join("\n"));
    assert!(entries.iter().all(|entry| entry.ticks.is_empty()));
}

#[test]
fn bars_hold_every_trade_and_the_last_is_held_back_until_it_is_over() {
    let symbol = Symbol::new("A").unwrap();
    let venue = Venue::new("x").unwrap();
    let trade = |seconds: i64, price: &str| {
        let at = UnixNanos::new(START + seconds * SECOND);
        let mut head = Head::new(venue.clone(), symbol.clone(), at.offset(5));
        head.event = Some(at);
        Trade {
            head,
            id: seconds.to_string(),
            price: price.parse().unwrap(),
            size: "2".parse().unwrap(),
            side: schemas::tick::Side::Buy,
            conditions: None,
        }
    };
    let of = |now: i64| {
        let intervals = [Interval::Minute1, Interval::Hour1];
        let mut bars = Bars::new(venue.clone(), symbol.clone(), &intervals);
        let mut out = Vec::new();
        for (seconds, price) in [(0, "5"), (59, "7.50"), (60, "6"), (61, "1")] {
            bars.take(&trade(seconds, price), &mut out);
        }
        assert_eq!(
            bars.finish(UnixNanos::new(START + now * SECOND), &mut out),
            0
        );
        let short = |bar: &Bar| {
            assert_eq!(bar.head.flags, [Flag::Backfill]);
            let figures = [bar.open, bar.high, bar.low, bar.close].map(|price| price.to_string());
            let start = (bar.start.get() - START) / SECOND;
            let received = bar.head.received.get() - START - 5;
            (
                bar.interval,
                start,
                figures.join(" "),
                bar.trades,
                received / SECOND,
            )
        };
        out.iter().map(short).collect::<Vec<_>>()
    };
    let first = (Interval::Minute1, 0, "5 7.50 5 7.50".to_owned(), 2, 59);
    let second = (Interval::Minute1, 60, "6 6 1 1".to_owned(), 2, 61);
    let hour = (Interval::Hour1, 0, "5 7.50 1 1".to_owned(), 4, 61);
    assert_eq!(of(119), std::slice::from_ref(&first));
    assert_eq!(of(120), [first.clone(), second.clone()]);
    assert_eq!(of(3_600), [first, second, hour]);
}
