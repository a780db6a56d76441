//! What `feeds.toml` may hold, and what is said of the rest.

use super::*;

fn problem(text: &str) -> String {
    parse(text, Path::new("")).unwrap_err()
}

#[test]
fn a_file_with_every_live_source_is_read() {
    let text = r#"
        [[feed]]
        name = "a"
        source = "sim"
        rate = 5000
        [[feed]]
        name = "b"
        source = "binance"
        symbols = ["BTCUSDT"]
        kinds = ["trade", "book"]
        bars = ["1s", "1m"]
    "#;
    let config = parse(text, Path::new("")).unwrap();
    assert_eq!(config.feeds.len(), 2);
    assert_eq!(config.feeds[1].bars, [Interval::Second1, Interval::Minute1]);
    assert!(matches!(&config.feeds[0].source, Source::Sim { rate, .. } if rate.get() == 5000));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table is as long as what it lists")]
fn errors_name_line_field_and_limit() {
    let feed = "[[feed]]\nname = \"a\"\nsource = \"sim\"\n";
    let cases = [
        (
            format!("{feed}bars = [\"1m\", \"1h\", \"1m\"]"),
            "line 4: bars: \"1m\" is listed twice",
        ),
        (String::new(), "line 1: there is no [[feed]]"),
        (format!("{feed}rat = 1"), "line 4: unknown field `rat`"),
        (
            format!("{feed}rate = \"fast\""),
            "line 4: invalid type: string \"fast\", expected u32",
        ),
        (
            format!("{feed}rate = 0"),
            "line 4: rate is 0, it must be 1 to 1000000",
        ),
        (
            format!("{feed}symbols = [\"A\"]"),
            "line 4: symbols does not belong to source \"sim\"",
        ),
        (
            format!("{feed}bars = [\"2m\"]"),
            "line 4: bars: \"2m\" is not a bar interval",
        ),
        (
            format!("{feed}{feed}"),
            "line 5: there is another feed named \"a\"",
        ),
        (
            format!("{feed}{}", feed.replace("\"a\"", "\"b\"")),
            "line 6: venue \"sim\" is simulated already: give its feed more instruments, or",
        ),
        (
            format!(
                "{feed}venue = \"x\"\n{}venue = \"x\"",
                feed.replace("\"a\"", "\"b\"")
            ),
            "line 7: venue \"x\" is simulated already",
        ),
        (
            format!("{feed}venue = \"Sim B\""),
            "line 4: venue \"Sim B\" is not 1 to",
        ),
        (
            feed.replace("sim", "coinbase") + "symbols = [\"A\"]\nvenue = \"x\"",
            "line 5: venue does not belong to source \"coinbase\"",
        ),
        (
            feed.replace("sim", "moon"),
            "line 3: source \"moon\" is none of",
        ),
        (
            feed.replace("\"a\"", "\"A b\""),
            "line 2: feed name \"A b\" is not 1 to 32",
        ),
        (
            feed.replace("sim", "replay"),
            "line 3: source \"replay\" needs format",
        ),
        (
            feed.replace("sim", "binance"),
            "line 3: a live feed needs symbols",
        ),
        (
            feed.replace("sim", "replay") + "format = \"csv\"\nvenue = \"x\"\npath = \"no/such\"",
            "line 6: path no/such is not a file",
        ),
        (
            feed.replace("sim", "coinbase") + "symbols = [\"A\"]\nurl = \"http://x\"",
            "line 5: url must begin with ws:// or wss://",
        ),
        (
            feed.replace("sim", "binance") + "symbols = [\"A\"]\nrenew_after_secs = 0",
            "line 5: renew_after_secs is 0, it must be 1 to 86400",
        ),
        (
            feed.replace("sim", "coinbase") + "symbols = [\"A\"]\nrenew_after_secs = 9",
            "line 5: renew_after_secs does not belong to source \"coinbase\"",
        ),
        (
            format!("{feed}seed = -1"),
            "line 4: invalid value: integer `-1`, expected u64",
        ),
        (
            format!("{feed}instruments = 200001"),
            "line 4: instruments is 200001, it must be 1 to 200000",
        ),
        (format!("{feed}rate = 5\nrate = 6"), "line 5: duplicate key"),
        (
            feed.replace("sim", "binance") + "symbols = [\"A\", \"\"]",
            "line 4: symbols: symbol \"\" is not 1 to 64 bytes",
        ),
        (
            feed.replace("sim", "binance") + "symbols = [\"A\\u0007\"]",
            "line 4: symbols: symbol",
        ),
        (
            feed.replace("sim", "binance") + "symbols = []",
            "line 4: symbols has 0 entries",
        ),
        (
            feed.replace("sim", "binance") + "symbols = [\"A\"]\nkinds = []",
            "line 5: kinds has no entries",
        ),
        (
            feed.replace("sim", "binance") + "symbols = [\"A\"]\nkinds = [\"wish\"]",
            "line 5: kinds: \"wish\" is none of",
        ),
        (
            feed.replace("sim", "binance") + "symbols = [\"A\"]\nurl = \"wss://me:pw@x\"",
            "line 5: url must not hold credentials",
        ),
        ("[[feed]\n".to_owned(), "line 1:"),
    ];
    for (text, expected) in cases {
        let said = problem(&text);
        assert!(
            said.starts_with(expected),
            "{said:?} instead of {expected:?}"
        );
    }
}

#[test]
fn every_simulator_has_a_venue_of_its_own() {
    let feed = "[[feed]]\nname = \"a\"\nsource = \"sim\"\n";
    let text = format!("{feed}{}venue = \"simb\"\n", feed.replace("\"a\"", "\"b\""));
    let feeds = parse(&text, Path::new("")).unwrap().feeds;
    let venues: Vec<_> = feeds.iter().filter_map(FeedConfig::venue).collect();
    assert!(venues.iter().map(Venue::as_str).eq(["sim", "simb"]));
}

#[test]
fn any_symbol_of_a_venue_may_be_asked_for() {
    let symbols = ["BRK.B", "BTC/USD", "*", ">", "A B", "\u{E9}\u{1F980}"];
    let list = serde_json::to_string(&symbols).unwrap();
    let text = format!("[[feed]]\nname = \"a\"\nsource = \"binance\"\nsymbols = {list}\n");
    let config = parse(&text, Path::new("")).unwrap();
    let Source::Live {
        symbols: read,
        renew_after,
        ..
    } = &config.feeds[0].source
    else {
        panic!()
    };
    assert!(read.iter().map(Symbol::as_str).eq(symbols));
    assert_eq!(*renew_after, Some(Duration::from_hours(23)));
}
