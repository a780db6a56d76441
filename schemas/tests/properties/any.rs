//! Any symbol, topic and tick.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use schemas::id::{Interval, Kind, Symbol, Variant, Venue};
use schemas::tick::{
    Bar, Book, Feed, FeedState, Flag, Flow, Form, Head, Index, Inst, Level, Quote, Side, Stat,
    Status, Tick, Trade, TradingState, VenueGap,
};
use schemas::time::UnixNanos;
use schemas::topic::Topic;

/// Numbers that the contract writes as such in JSON end here.
pub(super) const COUNTS: u64 = 1 << 53;

/// A piece of text that means something to NATS, to topics or to their escapes, or any character.
pub(super) fn piece() -> impl Strategy<Value = String> {
    let delicate = [
        ".", "%", "*", ">", " ", "/", "=", "%2E", "%2e", "%41", "%", "$", "\\", "\"", "\u{a0}",
        "\u{2028}", "\u{202e}", "é", "e\u{301}", "\u{feff}", "🦀",
    ];
    prop_oneof![
        2 => select(Vec::from(delicate)).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
        1 => "[A-Za-z0-9_-]",
    ]
}

pub(super) fn symbol() -> impl Strategy<Value = Symbol> {
    vec(piece(), 1..16).prop_filter_map("a symbol", |pieces| Symbol::new(&pieces.concat()).ok())
}

pub(super) fn venue() -> impl Strategy<Value = Venue> {
    "[a-z0-9_-]{1,16}".prop_map(|text| Venue::new(&text).unwrap())
}

pub(super) fn topic() -> impl Strategy<Value = Topic> {
    let variant = "[a-z0-9_-]{1,32}".prop_map(|text| Variant::new(&text).unwrap());
    (
        select(Kind::ALL),
        venue(),
        symbol(),
        select(Interval::ALL),
        variant,
    )
        .prop_map(|(kind, venue, symbol, interval, variant)| {
            if kind == Kind::Ind {
                Topic::indicator(venue, symbol, interval, variant)
            } else if kind.has_variant() {
                Topic::with_interval(kind, venue, symbol, interval)
            } else {
                Topic::new(kind, venue, symbol)
            }
        })
}

/// Digits as a venue may send them: no leading zeros, any trailing ones, 28 at most.
pub(super) fn digits() -> impl Strategy<Value = String> {
    let whole = prop_oneof![Just("0".to_owned()), "[1-9][0-9]{0,17}"];
    let fraction = ("[0-9]{0,27}", 0_usize..8);
    (whole, fraction).prop_map(|(whole, (fraction, zeros))| {
        let room = 28 - whole.len();
        let mut fraction: String = fraction.chars().take(room).collect();
        fraction.extend(std::iter::repeat_n('0', zeros.min(room - fraction.len())));
        if fraction.is_empty() {
            whole
        } else {
            format!("{whole}.{fraction}")
        }
    })
}

/// The same of either sign.
pub(super) fn signed_digits() -> impl Strategy<Value = String> {
    (any::<bool>(), digits()).prop_map(|(negative, digits)| {
        let zero = digits.bytes().all(|byte| matches!(byte, b'0' | b'.'));
        if negative && !zero {
            format!("-{digits}")
        } else {
            digits
        }
    })
}

macro_rules! decimal {
    ($name:ident, $digits:ident, $type:ident) => {
        fn $name() -> impl Strategy<Value = schemas::decimal::$type> {
            $digits().prop_map(|text| text.parse().unwrap())
        }
    };
}

decimal!(price, signed_digits, Price);
decimal!(size, digits, Size);
decimal!(value, signed_digits, Value);

fn time() -> impl Strategy<Value = UnixNanos> {
    any::<i64>().prop_map(UnixNanos::new)
}

fn text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..12).prop_map(String::from_iter)
}

fn head() -> impl Strategy<Value = Head> {
    let flags = [Flag::Late, Flag::Backfill, Flag::Refresh, Flag::Synthetic];
    (
        (venue(), symbol()),
        option::of(time()),
        time(),
        any::<Option<u64>>(),
        subsequence(Vec::from(flags), 0..=4),
    )
        .prop_map(
            |((venue, symbol), event, received, venue_seq, flags)| Head {
                venue,
                symbol,
                event,
                received,
                venue_seq,
                flags,
            },
        )
}

/// A tick of every kind alike.
pub(super) fn tick() -> impl Strategy<Value = Tick> {
    prop_oneof![
        trade(),
        quote(),
        book(),
        stat(),
        bar().prop_map(Tick::from),
        bar().prop_map(form),
        index(),
        flow(),
        status(),
        feed(),
        inst(),
    ]
}

fn trade() -> impl Strategy<Value = Tick> {
    let sides = [Side::Buy, Side::Sell, Side::Unknown];
    (
        head(),
        text(),
        price(),
        size(),
        select(Vec::from(sides)),
        option::of(text()),
    )
        .prop_map(|(head, id, price, size, side, conditions)| {
            Tick::from(Trade {
                head,
                id,
                price,
                size,
                side,
                conditions,
            })
        })
}

fn quote() -> impl Strategy<Value = Tick> {
    let side = || (option::of(price()), option::of(size()));
    (head(), side(), side()).prop_map(|(head, (bid, bid_size), (ask, ask_size))| {
        Tick::from(Quote {
            head,
            bid,
            bid_size,
            ask,
            ask_size,
        })
    })
}

fn book() -> impl Strategy<Value = Tick> {
    let level = || (price(), size()).prop_map(|(price, size)| Level(price, size));
    (head(), vec(level(), 0..11), vec(level(), 0..11))
        .prop_map(|(head, bids, asks)| Tick::from(Book { head, bids, asks }))
}

fn stat() -> impl Strategy<Value = Tick> {
    let price = || option::of(price());
    let prices = (price(), price(), price(), price(), price(), price());
    let sizes = (option::of(size()), option::of(size()));
    let values = (
        option::of(value()),
        option::of(value()),
        option::of(value()),
    );
    (head(), prices, sizes, values).prop_map(|(head, prices, sizes, values)| {
        let (open, high, low, last, previous_close, vwap) = prices;
        let (volume, open_interest) = sizes;
        let (turnover, change, change_percent) = values;
        Tick::from(Stat {
            head,
            open,
            high,
            low,
            last,
            previous_close,
            volume,
            turnover,
            vwap,
            open_interest,
            change,
            change_percent,
        })
    })
}

fn bar() -> impl Strategy<Value = Bar> {
    (
        (head(), select(Interval::ALL), time()),
        (price(), price(), price(), price()),
        size(),
        0..COUNTS,
    )
        .prop_map(
            |((head, interval, start), (open, high, low, close), volume, trades)| Bar {
                head,
                interval,
                start,
                open,
                high,
                low,
                close,
                volume,
                trades,
            },
        )
}

fn form(bar: Bar) -> Tick {
    Form::from(bar).into()
}

fn index() -> impl Strategy<Value = Tick> {
    let count = || option::of(0..COUNTS);
    (
        (head(), value()),
        (option::of(value()), option::of(value())),
        (count(), count(), count()),
        (option::of(size()), option::of(value())),
    )
        .prop_map(|((head, value), changes, counts, (volume, turnover))| {
            let (change, change_percent) = changes;
            let (advances, unchanged, declines) = counts;
            Tick::from(Index {
                head,
                value,
                change,
                change_percent,
                advances,
                unchanged,
                declines,
                volume,
                turnover,
            })
        })
}

fn flow() -> impl Strategy<Value = Tick> {
    let size = || option::of(size());
    let values = (option::of(value()), option::of(value()));
    (head(), (size(), size(), size()), values).prop_map(|(head, sizes, values)| {
        let (bought, sold, room) = sizes;
        let (bought_value, sold_value) = values;
        Tick::from(Flow {
            head,
            bought,
            sold,
            bought_value,
            sold_value,
            room,
        })
    })
}

fn status() -> impl Strategy<Value = Tick> {
    let states = [
        TradingState::PreOpen,
        TradingState::Auction,
        TradingState::Open,
        TradingState::Halt,
        TradingState::Close,
    ];
    (head(), select(Vec::from(states)), option::of(text())).prop_map(|(head, state, reason)| {
        Tick::from(Status {
            head,
            state,
            reason,
        })
    })
}

fn feed() -> impl Strategy<Value = Tick> {
    let states = [
        FeedState::Live,
        FeedState::Stale,
        FeedState::Reconnecting,
        FeedState::Gap,
        FeedState::Closed,
    ];
    let ids = (option::of(text()), option::of(text()));
    let times = (option::of(time()), option::of(time()));
    let gap = (option::of(symbol()), ids, times, any::<bool>()).prop_map(
        |(symbol, (after_id, until_id), (from, to), filled)| VenueGap {
            symbol,
            after_id,
            until_id,
            from,
            to,
            filled,
        },
    );
    let about = (option::of(text()), option::of(gap), option::of(0..COUNTS));
    (head(), select(Vec::from(states)), about).prop_map(
        |(head, state, (detail, gap, collapsed))| {
            Tick::from(Feed {
                head,
                state,
                detail,
                gap,
                collapsed,
            })
        },
    )
}

fn inst() -> impl Strategy<Value = Tick> {
    let name = || option::of(text());
    let names = (
        (text(), name()),
        (name(), name()),
        (name(), name(), name()),
        option::of(vec(text(), 0..4)),
    );
    let numbers = (
        option::of(price()),
        option::of(size()),
        option::of(time()),
        option::of(price()),
    );
    (head(), names, numbers).prop_map(|(head, names, (tick_size, lot, expiry, strike))| {
        let ((class, name), (base, quote), (session, time_zone, underlying), aliases) = names;
        Tick::from(Inst {
            head,
            class,
            name,
            base,
            quote,
            tick_size,
            lot,
            session,
            time_zone,
            underlying,
            expiry,
            strike,
            aliases,
        })
    })
}
