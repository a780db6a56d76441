//! Frames as the venue sends them, and frames as no venue should.

use super::*;
use crate::feeds::tests::HARD;

/// When the frames arrive, in nanoseconds.
const NOW: i64 = 1_767_400_000_000_000_000;

fn decoder() -> Coinbase {
    let venue = Venue::new("coinbase").unwrap();
    Coinbase::new(venue, FeedName::new("cb").unwrap(), Vec::new(), Vec::new())
}

fn decode(decoder: &mut Coinbase, raw: &str) -> Result<Vec<Tick>, Reject> {
    let mut out = Vec::new();
    decoder.decode(raw, UnixNanos::new(NOW), &mut out)?;
    out.retain(|tick| tick.kind() != Kind::Inst);
    Ok(out)
}

fn matched(kind: &str, id: u64) -> String {
    format!(
        r#"{{"type":"{kind}","trade_id":{id},"sequence":50,"time":"2026-01-02T03:04:05.678901Z","product_id":"ABC-USD","size":"5.20","price":"400.2300","side":"sell"}}"#
    )
}

#[test]
fn the_side_of_a_match_is_the_makers() {
    let ticks = decode(&mut decoder(), &matched("match", 10)).unwrap();
    let [Tick::Trade(trade)] = &ticks[..] else {
        panic!("{ticks:?}")
    };
    assert_eq!(trade.side, Side::Buy);
    assert_eq!(trade.price.to_string(), "400.2300");
    assert_eq!(
        trade.head.event,
        Some(UnixNanos::new(1_767_323_045_678_901_000))
    );
}

#[test]
fn last_match_is_no_trade_but_tells_what_is_missing() {
    let mut decoder = decoder();
    assert_eq!(
        decode(&mut decoder, &matched("last_match", 10)).unwrap(),
        []
    );
    assert_eq!(
        decode(&mut decoder, &matched("match", 11)).unwrap().len(),
        1
    );
    let ticks = decode(&mut decoder, &matched("match", 14)).unwrap();
    let [Tick::Feed(feed), Tick::Trade(_)] = &ticks[..] else {
        panic!("{ticks:?}")
    };
    let gap = feed.gap.as_ref().unwrap();
    assert_eq!(
        (gap.after_id.as_deref(), gap.until_id.as_deref()),
        (Some("11"), Some("14"))
    );
    let beat = r#"{"type":"heartbeat","sequence":90,"last_trade_id":16,"product_id":"ABC-USD","time":"2026-01-02T03:04:05Z"}"#;
    let ticks = decode(&mut decoder, beat).unwrap();
    let [Tick::Feed(feed)] = &ticks[..] else {
        panic!("{ticks:?}")
    };
    assert_eq!(feed.gap.as_ref().unwrap().until_id.as_deref(), Some("17"));
    assert_eq!(decode(&mut decoder, beat).unwrap(), []);
}

#[test]
fn books_are_kept_and_cut_and_resynchronized() {
    let mut decoder = decoder();
    let snapshot = r#"{"type":"snapshot","product_id":"A-B","bids":[["9","1"],["8","1"]],"asks":[["10","2"]]}"#;
    let Tick::Book(book) = &decode(&mut decoder, snapshot).unwrap()[0] else {
        panic!()
    };
    assert_eq!((book.bids.len(), book.asks.len()), (2, 1));
    let update = |changes: &str| {
        format!(r#"{{"type":"l2update","product_id":"A-B","changes":[{changes}]}}"#)
    };
    let ticks = decode(
        &mut decoder,
        &update(r#"["buy","9","0"],["buy","8.5","3"]"#),
    )
    .unwrap();
    let Tick::Book(book) = &ticks[0] else {
        panic!()
    };
    assert_eq!(book.bids[0].0.to_string(), "8.5");
    let crossed = decode(&mut decoder, &update(r#"["buy","11","1"]"#)).unwrap_err();
    assert_eq!(crossed.message, "bid 11 is not below ask 10");
    assert_eq!(
        decode(&mut decoder, &update(r#"["buy","7","1"]"#)).unwrap(),
        []
    );
}

#[test]
fn refusals_carry_the_venues_words() {
    let raw =
        r#"{"type":"error","message":"Failed to subscribe","reason":"X is not a valid product"}"#;
    let said = decode(&mut decoder(), raw).unwrap_err().message;
    assert_eq!(
        said,
        "the venue refused a request: Failed to subscribe X is not a valid product"
    );
}

/// A frame with one field replaced, or left out where the replacement is empty.
fn but(fields: &[(&str, &str)], field: &str, value: &str) -> String {
    let value_of = |(name, usual): &(&str, &str)| {
        let value = if *name == field { value } else { usual };
        (!value.is_empty()).then(|| format!("\"{name}\":{value}"))
    };
    let fields: Vec<String> = fields.iter().filter_map(value_of).collect();
    format!("{{{}}}", fields.join(","))
}

const MATCH: &[(&str, &str)] = &[
    ("type", "\"match\""),
    ("trade_id", "10"),
    ("time", "\"2026-01-02T03:04:05Z\""),
    ("product_id", "\"A-B\""),
    ("size", "\"1\""),
    ("price", "\"2\""),
    ("side", "\"buy\""),
];

const TICKER: &[(&str, &str)] = &[
    ("type", "\"ticker\""),
    ("product_id", "\"A-B\""),
    ("best_bid", "\"1\""),
    ("best_bid_size", "\"1\""),
    ("best_ask", "\"2\""),
    ("best_ask_size", "\"1\""),
    ("time", "\"2026-01-02T03:04:05Z\""),
];

const CHANGE: &[(&str, &str)] = &[
    ("type", "\"l2update\""),
    ("product_id", "\"A-B\""),
    ("changes", r#"[["buy","8","1"]]"#),
    ("time", "\"2026-01-02T03:04:05Z\""),
];

const SNAPSHOT: &[(&str, &str)] = &[
    ("type", "\"snapshot\""),
    ("product_id", "\"A-B\""),
    ("bids", r#"[["9","1"]]"#),
    ("asks", r#"[["10","1"]]"#),
];

type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str, Reason, &'a str);

fn check(cases: &[Case<'_>]) {
    for (fields, field, value, reason, expected) in cases {
        let said = decode(&mut decoder(), &but(fields, field, value)).unwrap_err();
        assert_eq!(said.reason, *reason, "{field} = {value}: {said}");
        assert!(
            said.message.starts_with(expected),
            "{said} instead of {expected:?}"
        );
    }
}

#[test]
fn bad_matches_and_tickers_are_refused_by_name() {
    use Reason::{Contradiction, Malformed, Range};
    let (early, late) = ("\"1812-01-02T03:04:05Z\"", "\"2150-01-02T03:04:05Z\"");
    check(&[
        (MATCH, "price", "\"-1\"", Range, "price: price -1 is not"),
        (MATCH, "price", "\"0\"", Range, "price: price 0 is not"),
        (MATCH, "price", "1e9", Malformed, "price: \"1e9\" is not"),
        (MATCH, "price", "[]", Malformed, "price: \"[]\" is not"),
        (MATCH, "price", "null", Malformed, "price is missing"),
        (MATCH, "size", "\"-1\"", Range, "size: size -1 is negative"),
        (MATCH, "size", "\"0.0\"", Range, "size: size 0.0 is not"),
        (MATCH, "size", "", Malformed, "size is missing"),
        (MATCH, "side", "\"up\"", Malformed, "side is neither"),
        (MATCH, "side", "7", Malformed, "invalid type"),
        (MATCH, "trade_id", "\"7\"", Malformed, "invalid type"),
        (MATCH, "trade_id", "-7", Malformed, "invalid value"),
        (MATCH, "trade_id", "", Malformed, "trade_id is missing"),
        (MATCH, "time", "", Malformed, "time is missing"),
        (
            MATCH,
            "time",
            "\"noon\"",
            Malformed,
            "time: \"noon\" is not",
        ),
        (MATCH, "time", early, Range, "time: time is not between"),
        (MATCH, "time", late, Range, "time: time is not between"),
        (MATCH, "product_id", "", Malformed, "product_id is missing"),
        (MATCH, "product_id", "\"\"", Range, "product_id: symbol"),
        (MATCH, "type", "", Malformed, "missing field `type`"),
        (MATCH, "type", "7", Malformed, "invalid type"),
        (
            MATCH,
            "size",
            "\"1\",\"size\":\"2\"",
            Malformed,
            "duplicate field `size`",
        ),
        (
            TICKER,
            "best_bid",
            "\"3\"",
            Contradiction,
            "best_bid 3 is above best_ask 2",
        ),
        (TICKER, "best_bid", "\"-3\"", Range, "best_bid: price -3"),
        (TICKER, "best_bid", "\"0\"", Range, "best_bid: price 0"),
        (TICKER, "best_ask_size", "\"-3\"", Range, "best_ask_size: "),
        (TICKER, "best_ask", "true", Malformed, "best_ask: \"true\""),
        (TICKER, "time", late, Range, "time: time is not between"),
    ]);
    let nothing = r#"{"type":"ticker","product_id":"A-B","price":"1"}"#;
    let said = decode(&mut decoder(), nothing).unwrap_err().message;
    assert_eq!(said, "neither best_bid nor best_ask");
}

#[test]
fn bad_books_are_refused_by_name() {
    use Reason::{Contradiction, Malformed, Range};
    check(&[
        (SNAPSHOT, "bids", "", Malformed, "bids is missing"),
        (SNAPSHOT, "bids", "[[\"9\"]]", Malformed, "invalid length"),
        (SNAPSHOT, "bids", "{}", Malformed, "invalid type"),
        (SNAPSHOT, "bids", "[[\"-9\",\"1\"]]", Range, "bids: price"),
        (SNAPSHOT, "asks", "[[\"99\",\"-1\"]]", Range, "asks: size"),
        (
            SNAPSHOT,
            "asks",
            "[[\"9\",\"1\"]]",
            Contradiction,
            "bid 9 is not below ask 9",
        ),
        (CHANGE, "changes", "", Malformed, "changes is missing"),
    ]);
    let many: Vec<String> = (1..=100_001)
        .map(|n| format!("[\"0.{n:06}\",\"1\"]"))
        .collect();
    let many = but(SNAPSHOT, "bids", &format!("[{}]", many.join(",")));
    let said = decode(&mut decoder(), &many).unwrap_err();
    assert_eq!(said.reason, Reason::Size);
    assert_eq!(said.message, "a book has more than 100000 levels");
}

#[test]
fn a_book_that_lacks_a_change_is_asked_for_again() {
    let books = || {
        let venue = Venue::new("coinbase").unwrap();
        let (feed, symbol) = (FeedName::new("cb").unwrap(), Symbol::new("A-B").unwrap());
        let mut decoder = Coinbase::new(venue, feed, vec![symbol], vec![Kind::Book]);
        assert_eq!(
            decode(&mut decoder, &but(SNAPSHOT, "", "")).unwrap().len(),
            1
        );
        assert_eq!(decode(&mut decoder, &but(CHANGE, "", "")).unwrap().len(), 1);
        assert_eq!(decoder.repairs(), Vec::<String>::new());
        decoder
    };
    let lost = [
        but(CHANGE, "changes", r#"[["buy","11","1"]]"#),
        but(CHANGE, "changes", r#"[["hold","8","1"]]"#),
        but(CHANGE, "changes", r#"[["buy","8"]]"#),
        but(CHANGE, "changes", r#"[["buy","-8","1"]]"#),
        but(CHANGE, "changes", ""),
        but(CHANGE, "product_id", ""),
        but(CHANGE, "time", "\"noon\""),
        but(SNAPSHOT, "asks", r#"[["1","1"]]"#),
        r#"{"type":"l2update","product_id":"A-B","chan"#.to_owned(),
        String::new(),
    ];
    for raw in lost {
        let mut decoder = books();
        assert!(decode(&mut decoder, &raw).is_err(), "{raw}");
        assert_eq!(decode(&mut decoder, &but(CHANGE, "", "")), Ok(Vec::new()));
        let asked = decoder.repairs();
        assert!(asked[0].contains("\"unsubscribe\"") && asked[1].contains("\"subscribe\""));
        assert!(asked.iter().all(|request| request.contains("A-B")));
        assert_eq!(decoder.repairs(), Vec::<String>::new());
        let again = decode(&mut decoder, &but(SNAPSHOT, "", "")).unwrap();
        assert_eq!(again.len(), 1, "{raw}");
    }
    // What has nothing to do with books leaves them alone.
    let mut decoder = books();
    let others = [
        but(MATCH, "price", "\"-1\""),
        but(SNAPSHOT, "product_id", "\"C-D\""),
    ];
    for raw in others {
        assert!(decode(&mut decoder, &raw).is_err());
        assert_eq!(decoder.repairs(), Vec::<String>::new());
    }
    assert_eq!(decode(&mut decoder, &but(CHANGE, "", "")).unwrap().len(), 1);
}

#[test]
fn a_side_without_orders_is_absent() {
    let raw = but(TICKER, "best_bid", "\"0.00\"").replace("_size\":\"1\"", "_size\":\"0\"");
    let ticks = decode(&mut decoder(), &raw).unwrap();
    let [Tick::Quote(quote)] = &ticks[..] else {
        panic!("{ticks:?}")
    };
    assert_eq!((quote.bid, quote.bid_size), (None, None));
    assert!(quote.ask.is_some());
    // Without sizes and times, as a first ticker may be.
    let raw = r#"{"type":"ticker","product_id":"A-B","best_bid":"1","best_ask":"1"}"#;
    assert_eq!(decode(&mut decoder(), raw).unwrap().len(), 1);
}

#[test]
fn absurd_ids_report_gaps_and_end_nothing() {
    let mut decoder = decoder();
    let max = u64::MAX.to_string();
    let beat = format!(
        r#"{{"type":"heartbeat","last_trade_id":{max},"product_id":"A-B","time":"2026-01-02T03:04:05Z"}}"#
    );
    for raw in [
        but(MATCH, "", ""),
        but(MATCH, "trade_id", &max),
        but(MATCH, "type", "\"last_match\"").replace("10", &max),
        beat,
    ] {
        assert!(decode(&mut decoder, &raw).is_ok());
    }
    // The venue counts anew: from here on gaps are seen again.
    let kinds = |ticks: Vec<Tick>| ticks.iter().map(Tick::kind).collect::<Vec<_>>();
    let mut take = |id: &str| kinds(decode(&mut decoder, &but(MATCH, "trade_id", id)).unwrap());
    assert_eq!(take("20"), [Kind::Trade]);
    assert_eq!(take("21"), [Kind::Trade]);
    assert_eq!(take("23"), [Kind::Feed, Kind::Trade]);
}

#[test]
fn frames_that_are_none_are_refused_and_unknown_ones_left_alone() {
    let deep = "[".repeat(100_000);
    let huge = format!(
        "{{\"type\":\"error\",\"message\":\"{}\"}}",
        "x\\n".repeat(1_000_000)
    );
    for bad in [
        "",
        "{}",
        "[1]",
        "null",
        "7",
        r#"{"type":"match"}"#,
        r#"{"type":"match","trade_id":1,"#,
        "\u{1F980}",
        &deep,
        &huge,
    ] {
        let said = decode(&mut decoder(), bad).unwrap_err();
        assert_eq!(said.reason, Reason::Malformed);
        assert!(said.message.len() < 400);
    }
    for ignored in [
        r#"{"type":"subscriptions","channels":[]}"#,
        r#"{"type":"new thing"}"#,
        r#"{"type":"new thing","price2":{}}"#,
    ] {
        assert_eq!(decode(&mut decoder(), ignored), Ok(Vec::new()));
    }
}

#[test]
fn hard_symbols_stay_what_they_are() {
    for text in HARD {
        let name = serde_json::to_string(text).unwrap();
        let ticks = decode(&mut decoder(), &but(MATCH, "product_id", &name)).unwrap();
        assert_eq!(ticks[0].head().symbol.as_str(), text);
    }
}
