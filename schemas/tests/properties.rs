//! What must hold for every symbol, tick and byte: spellings are unique, codecs lose nothing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use schemas::codec::{from_json, from_msgpack, to_json, to_msgpack, transcode};
use schemas::decimal::{Price, Size};
use schemas::id::{Interval, Kind, Symbol, Venue};
use schemas::subject;
use schemas::tick::{Bar, Book, Flag, Head, Level, Quote, Side, Tick, Trade};
use schemas::time::UnixNanos;
use schemas::topic::{Pattern, Topic};
use schemas::ws::{Encoding, read_ops};

fn symbol() -> impl Strategy<Value = Symbol> {
    "\\PC{1,20}".prop_filter_map("a symbol", |text| Symbol::new(&text).ok())
}

fn price() -> impl Strategy<Value = Price> {
    "-?[0-9]{1,10}(\\.[0-9]{1,8})?".prop_map(|text| text.parse().unwrap())
}

fn size() -> impl Strategy<Value = Size> {
    "[0-9]{1,10}(\\.[0-9]{1,8})?".prop_map(|text| text.parse().unwrap())
}

fn head() -> impl Strategy<Value = Head> {
    (
        symbol(),
        any::<i64>(),
        any::<Option<i64>>(),
        any::<Option<u64>>(),
        any::<bool>(),
    )
        .prop_map(|(symbol, received, event, venue_seq, late)| {
            let mut head = Head::new(Venue::new("x-1").unwrap(), symbol, UnixNanos::new(received));
            head.event = event.map(UnixNanos::new);
            head.venue_seq = venue_seq;
            head.flags = if late {
                vec![Flag::Late, Flag::Backfill]
            } else {
                Vec::new()
            };
            head
        })
}

fn tick() -> impl Strategy<Value = Tick> {
    let trade = (head(), "\\PC{1,12}", price(), size(), any::<Option<bool>>()).prop_map(
        |(head, id, price, size, buy)| {
            let side = buy.map_or(
                Side::Unknown,
                |buy| if buy { Side::Buy } else { Side::Sell },
            );
            Tick::from(Trade {
                head,
                id,
                price,
                size,
                side,
                conditions: None,
            })
        },
    );
    let quote = (
        head(),
        prop::option::of(price()),
        prop::option::of(size()),
        prop::option::of(price()),
    )
        .prop_map(|(head, bid, bid_size, ask)| {
            Tick::from(Quote {
                head,
                bid,
                bid_size,
                ask,
                ask_size: None,
            })
        });
    let levels = || {
        prop::collection::vec(
            (price(), size()).prop_map(|(price, size)| Level(price, size)),
            0..11,
        )
    };
    let book = (head(), levels(), levels())
        .prop_map(|(head, bids, asks)| Tick::from(Book { head, bids, asks }));
    let bar = (head(), any::<i64>(), price(), size(), any::<u64>()).prop_map(
        |(head, start, price, volume, trades)| {
            let (interval, start) = (Interval::Minute5, UnixNanos::new(start));
            Tick::from(Bar {
                head,
                interval,
                start,
                open: price,
                high: price,
                low: price,
                close: price,
                volume,
                trades,
            })
        },
    );
    prop_oneof![trade, quote, book, bar]
}

proptest! {
    #[test]
    fn a_symbol_is_one_token_and_has_one_spelling(symbol in symbol()) {
        let topic = Topic::new(Kind::Trade, Venue::new("x").unwrap(), symbol);
        let (text, stored) = (topic.to_string(), subject::stored(&topic));
        prop_assert_eq!(text.split('.').count(), 3);
        prop_assert_eq!(stored.split('.').count(), 4);
        prop_assert!(stored.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'*' && byte != b'>'));
        prop_assert_eq!(text.parse(), Ok(topic.clone()));
        prop_assert_eq!(subject::parse(&stored), Ok(topic.clone()));
        prop_assert_eq!(subject::parse(&subject::live(&topic)), Ok(topic));
        let exact: Pattern = text.parse().unwrap();
        prop_assert!(exact.matches(&text));
        let other: Pattern = "trade.y.*".parse().unwrap();
        prop_assert!(!other.matches(&text));
    }

    #[test]
    fn codecs_lose_nothing_and_agree(tick in tick()) {
        let (packed, json) = (to_msgpack(&tick).unwrap(), to_json(&tick).unwrap());
        prop_assert_eq!(&from_msgpack(&packed).unwrap(), &tick);
        prop_assert_eq!(&from_json(&json).unwrap(), &tick);
        let mut transcoded = Vec::new();
        transcode(&packed, &mut transcoded).unwrap();
        prop_assert_eq!(String::from_utf8(transcoded).unwrap(), String::from_utf8(json).unwrap());
    }

    #[test]
    fn times_survive_a_browser(tick in tick()) {
        // A browser would round a time that is a number.
        let value: serde_json::Value = serde_json::from_slice(&to_json(&tick).unwrap()).unwrap();
        let head = tick.head();
        for (key, time) in [("tr", Some(head.received)), ("te", head.event)] {
            let written = value.get(key).map(|text| text.as_str().map(str::to_owned));
            prop_assert_eq!(written, time.map(|time| Some(time.get().to_string())));
        }
        if let Tick::Bar(bar) = &tick {
            let start = bar.start.get().to_string();
            prop_assert_eq!(value.get("t0").and_then(|text| text.as_str()), Some(start.as_str()));
        }
    }

    #[test]
    fn decimals_keep_their_digits(whole in "(0|[1-9][0-9]{0,16})", part in "[0-9]{1,11}", negative: bool) {
        let text = format!("{}{whole}.{part}", if negative { "-" } else { "" });
        let price: Price = text.parse().unwrap();
        let zero = price.is_zero() && negative;
        prop_assert!(zero || price.to_string() == text, "{} became {}", text, price);
        prop_assert_eq!(serde_json::to_value(price).unwrap(), price.to_string());
    }

    #[test]
    fn a_pattern_reaches_no_further_than_it_says(one in symbol(), other in symbol()) {
        let topic = |symbol: &Symbol| Topic::new(Kind::Quote, Venue::new("x").unwrap(), symbol.clone()).to_string();
        let exact: Pattern = topic(&one).parse().unwrap();
        prop_assert_eq!(exact.matches(&topic(&other)), one == other);
        for wide in ["quote.x.*", "quote.x.>", "*.x.>", "quote.*.*"] {
            prop_assert!(wide.parse::<Pattern>().unwrap().matches(&topic(&one)));
        }
        for narrow in ["trade.x.*", "quote.y.>", "*.y.>", "quote.x.*.1m"] {
            prop_assert!(!narrow.parse::<Pattern>().unwrap().matches(&topic(&one)));
        }
    }

    #[test]
    fn a_cut_or_changed_tick_never_panics(tick in tick(), cut in any::<prop::sample::Index>(), byte: u8) {
        let mut packed = to_msgpack(&tick).unwrap();
        let at = cut.index(packed.len());
        let _cut = from_msgpack(packed.get(..at).unwrap_or_default());
        if let Some(place) = packed.get_mut(at) {
            *place = byte;
        }
        let _changed = from_msgpack(&packed);
        let _transcoded = transcode(&packed, &mut Vec::new());
    }

    #[test]
    fn no_bytes_panic_any_decoder(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = from_msgpack(&bytes);
        let _ = from_json(&bytes);
        let _ = transcode(&bytes, &mut Vec::new());
        let _ = read_ops(Encoding::Json, &bytes);
        let _ = read_ops(Encoding::MessagePack, &bytes);
        let text = String::from_utf8_lossy(&bytes);
        let _ = text.parse::<Topic>();
        let _ = text.parse::<Pattern>();
        let _ = subject::parse(&text);
        let _ = text.parse::<schemas::position::Cursor>();
        let _ = text.parse::<schemas::position::Epoch>();
    }
}

#[test]
fn bombs_are_refused() {
    for bomb in [
        vec![0x91; 200_000],
        vec![0x81; 200_000],
        vec![0xDD, 0xFF, 0xFF, 0xFF, 0xFF],
        vec![0xDF, 0xFF, 0xFF, 0xFF, 0xFF],
    ] {
        assert!(from_msgpack(&bomb).is_err());
        assert!(transcode(&bomb, &mut Vec::new()).is_err());
    }
}
