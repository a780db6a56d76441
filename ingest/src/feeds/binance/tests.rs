//! Frames as the venue sends them, and frames as no venue should.

use super::*;
use crate::feeds::tests::HARD;

/// When the frames arrive, in nanoseconds.
const NOW: i64 = 1_767_400_000_000_000_000;

fn decode(raw: &str) -> Result<Vec<Tick>, Reject> {
    let mut decoder = Binance::new(Venue::new("binance").unwrap(), Vec::new(), Vec::new());
    let mut out = Vec::new();
    decoder.decode(raw, UnixNanos::new(NOW), &mut out)?;
    out.retain(|tick| tick.kind() != Kind::Inst);
    Ok(out)
}

#[test]
fn the_maker_bought_so_the_taker_sold() {
    let raw = r#"{"e":"trade","E":1767000000123,"s":"ABCUSDT","t":900001,"p":"12.34000000","q":"0.50000000","T":1767000000120,"m":true,"M":true}"#;
    let [Tick::Trade(trade)] = &decode(raw).unwrap()[..] else {
        panic!()
    };
    assert_eq!((trade.side, trade.id.as_str()), (Side::Sell, "900001"));
    assert_eq!(
        (
            trade.price.to_string().as_str(),
            trade.size.to_string().as_str()
        ),
        ("12.34000000", "0.50000000")
    );
    assert_eq!(
        trade.head.event,
        Some(UnixNanos::new(1_767_000_000_120_000_000))
    );
}

#[test]
fn quotes_and_books_are_read() {
    let quote = r#"{"stream":"abc@bookTicker","data":{"u":400,"s":"ABC","b":"25.35","B":31.21,"a":"25.36","A":"40.66"}}"#;
    let [Tick::Quote(quote)] = &decode(quote).unwrap()[..] else {
        panic!()
    };
    assert_eq!(
        quote.bid_size.map(|size| size.to_string()).as_deref(),
        Some("31.21")
    );
    let book = r#"{"stream":"abc@depth10","data":{"lastUpdateId":7,"bids":[["1.2","3"],["1.1","0.5"]],"asks":[["1.3","2"]]}}"#;
    let [Tick::Book(book)] = &decode(book).unwrap()[..] else {
        panic!()
    };
    assert_eq!(
        (book.head.symbol.as_str(), book.bids.len(), book.asks.len()),
        ("ABC", 2, 1)
    );
}

/// A trade with one field replaced, or left out where the replacement is empty.
fn trade_but(field: &str, value: &str) -> String {
    let fields = [
        ("e", "\"trade\""),
        ("s", "\"A\""),
        ("t", "1"),
        ("p", "\"1\""),
        ("q", "\"1\""),
        ("T", "1767000000120"),
        ("m", "true"),
    ];
    let value_of = |(name, usual): &(&str, &str)| {
        let value = if *name == field { value } else { usual };
        (!value.is_empty()).then(|| format!("\"{name}\":{value}"))
    };
    let fields: Vec<String> = fields.iter().filter_map(value_of).collect();
    format!("{{{}}}", fields.join(","))
}

fn quote_but(bid: (&str, &str), ask: (&str, &str)) -> String {
    let ((b, bs), (a, az)) = (bid, ask);
    format!(r#"{{"u":1,"s":"A","b":"{b}","B":"{bs}","a":"{a}","A":"{az}"}}"#)
}

fn book(bids: &str, asks: &str) -> String {
    format!(
        r#"{{"stream":"a@depth10","data":{{"lastUpdateId":7,"bids":[{bids}],"asks":[{asks}]}}}}"#
    )
}

#[test]
fn bad_trades_are_refused_by_name() {
    use Reason::{Malformed, Range};
    let cases = [
        ("p", "\"-1\"", Range, "p: price -1 is not above 0"),
        ("p", "\"0.00\"", Range, "p: price 0.00 is not above 0"),
        ("p", "\"1e400\"", Malformed, "p: \"1e400\" is not a decimal"),
        ("p", "1e5", Malformed, "p: \"1e5\" is not a decimal"),
        ("p", "\"NaN\"", Malformed, "p: \"NaN\" is not a decimal"),
        ("p", "{\"x\":1}", Malformed, "p: "),
        ("p", "null", Malformed, "p: \"null\" is not a decimal"),
        ("p", "", Malformed, "missing field `p`"),
        (
            "p",
            "\"9999999999999999999\"",
            Range,
            "p: 9999999999999999999 is beyond",
        ),
        ("p", "\"1\",\"p\":\"2\"", Malformed, "duplicate field `p`"),
        ("q", "\"-1\"", Range, "q: size -1 is negative"),
        ("q", "\"0.000\"", Range, "q: size 0.000 is not above 0"),
        ("q", "\"\\u0031\"", Malformed, "q: "),
        ("t", "-1", Malformed, "invalid value"),
        ("t", "1.5", Malformed, "invalid type"),
        ("t", "18446744073709551616", Malformed, "invalid type"),
        ("t", "\"7\"", Malformed, "invalid type"),
        ("t", "", Malformed, "trade without its id"),
        ("T", "99", Range, "T: time is not between"),
        ("T", "-1767000000120", Range, "T: time is not between"),
        ("T", "9223372036854775807", Range, "T: time is not between"),
        ("T", "\"now\"", Malformed, "invalid type"),
        ("m", "\"yes\"", Malformed, "invalid type"),
        ("s", "\"\"", Range, "s: symbol \"\" is not 1 to 64 bytes"),
        ("s", "\"A\\u0000\"", Range, "s: symbol"),
        ("s", "7", Malformed, "invalid type"),
        ("e", "7", Malformed, "invalid type"),
    ];
    for (field, value, reason, expected) in cases {
        let said = decode(&trade_but(field, value)).unwrap_err();
        assert_eq!(said.reason, reason, "{field} = {value}: {said}");
        assert!(
            said.message.starts_with(expected),
            "{said} instead of {expected:?}"
        );
    }
    let order_id = trade_but("t", "").replace("\"s\"", "\"a\":5,\"s\"");
    assert!(decode(&order_id).is_err(), "an order id is no trade id");
    let aggregate = order_id.replace("\"trade\"", "\"aggTrade\"");
    assert_eq!(decode(&aggregate).unwrap().len(), 1);
}

#[test]
fn bad_quotes_and_books_are_refused_by_name() {
    use Reason::{Contradiction, Malformed, Range};
    let cases = [
        (
            quote_but(("2", "1"), ("1", "1")),
            Contradiction,
            "bid 2 is not below ask 1",
        ),
        (
            quote_but(("2", "1"), ("2", "1")),
            Contradiction,
            "bid 2 is not below ask 2",
        ),
        (
            quote_but(("0", "1"), ("2", "1")),
            Range,
            "b: price 0 is not above 0",
        ),
        (
            quote_but(("1", "1"), ("-2", "1")),
            Range,
            "a: price -2 is not above 0",
        ),
        (
            quote_but(("1", "-1"), ("2", "1")),
            Range,
            "B: size -1 is negative",
        ),
        (
            quote_but(("1", "x"), ("2", "1")),
            Malformed,
            "B: \"x\" is not",
        ),
        (
            book("[\"1\",\"0\"]", ""),
            Range,
            "bids: size 0 is not above",
        ),
        (book("[\"1\"]", ""), Malformed, "invalid length"),
        (book("[\"1\",\"1\",\"1\"]", ""), Malformed, "trailing"),
        (
            book("[\"2\",\"1\"]", "[\"1\",\"1\"]"),
            Contradiction,
            "bid 2 is not below ask 1",
        ),
        (
            book("[\"1\",\"1\"],[\"2\",\"1\"]", ""),
            Contradiction,
            "the levels of a book are out of order",
        ),
        (
            book("[\"1\",\"1\"],[\"1\",\"2\"]", ""),
            Contradiction,
            "the levels of a book are out of order",
        ),
        (
            r#"{"lastUpdateId":7,"bids":[],"asks":[]}"#.to_owned(),
            Malformed,
            "a book without its stream",
        ),
    ];
    for (raw, reason, expected) in cases {
        let said = decode(&raw).unwrap_err();
        assert_eq!(said.reason, reason, "{raw}: {said}");
        assert!(
            said.message.starts_with(expected),
            "{said} instead of {expected:?}"
        );
    }
}

#[test]
fn a_side_without_orders_is_absent() {
    let ticks = decode(&quote_but(("0.00000000", "0.00000000"), ("2", "0"))).unwrap();
    let [Tick::Quote(quote)] = &ticks[..] else {
        panic!("{ticks:?}")
    };
    assert_eq!((quote.bid, quote.bid_size), (None, None));
    assert!(quote.ask.is_some() && quote.ask_size.is_some_and(schemas::decimal::Size::is_zero));
}

#[test]
fn frames_that_are_none_are_refused_and_unknown_ones_left_alone() {
    let deep = "[".repeat(100_000);
    let huge = format!("{{\"e\":\"{}\"", "x".repeat(1_000_000));
    let bad = [
        "",
        " ",
        "{",
        "[]",
        "null",
        "7",
        "\"trade\"",
        "\u{1F980}",
        "{\"e\":\"trade\"",
        r#"{"e":"trade"}"#,
        r#"{"stream":"a@trade","data":null}"#,
        r#"{"stream":"a@trade"}"#,
        r#"{"stream":7,"data":{}}"#,
        r#"{"e":"trade","e":"trade"}"#,
        r#"{"code":2,"msg":"Invalid request"}"#,
        r#"{"error":{"code":2,"msg":"Invalid request"},"id":1}"#,
        &deep,
        &huge,
    ];
    for raw in bad {
        let said = decode(raw).unwrap_err();
        assert_eq!(said.reason, Reason::Malformed);
        assert!(said.message.len() < 400);
    }
    let refused = decode(bad[15]).unwrap_err().message;
    assert_eq!(refused, "the venue refused a request: Invalid request");
    for ignored in [
        r#"{"result":null,"id":1}"#,
        r#"{"e":"depthUpdate"}"#,
        r#"{"e":"never heard of","p":{}}"#,
        "{}",
    ] {
        assert_eq!(decode(ignored), Ok(Vec::new()));
    }
}

#[test]
fn hard_symbols_stay_what_they_are_and_others_than_asked_for_stay_out() {
    for text in HARD {
        let name = serde_json::to_string(text).unwrap();
        let ticks = decode(&trade_but("s", &name)).unwrap();
        assert_eq!(ticks[0].head().symbol.as_str(), text);
        let escaped = trade_but("s", &name.replace('B', "\\u0042"));
        assert_eq!(decode(&escaped).unwrap(), ticks);
    }
    let asked = vec![Symbol::new("b").unwrap()];
    let mut decoder = Binance::new(Venue::new("x").unwrap(), asked, Vec::new());
    let mut out = Vec::new();
    let mut take =
        |name: &str| decoder.decode(&trade_but("s", name), UnixNanos::new(NOW), &mut out);
    let said = take("\"A\"").unwrap_err();
    assert_eq!(said.message, "s: \"A\" was not asked for");
    assert_eq!(take("\"B\""), Ok(Decoded::Ticks));
    assert_eq!(out.len(), 2);
}
