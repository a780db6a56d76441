//! Ticks as rows of a table: the same columns in every format that has some.

use std::fmt::Display;

use schemas::id::Kind;
use schemas::tick::{Bar, Flag, Quote, Side, Tick, Trade};
use schemas::time::UnixNanos;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// Text, decimals among it: every digit stays.
    Text,
    /// Nanoseconds since 1970.
    Time,
    /// A number of things.
    Count,
}

/// What a row has in a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    Text(String),
    Time(UnixNanos),
    Count(u64),
}

/// A column: its name and what it holds.
pub(super) type Column = (&'static str, Type);
/// The cells of a row; what is absent is absent.
pub(super) type Cells = Vec<Option<Cell>>;

/// The first six are what `tickwire import` reads.
const TRADE: &[Column] = &[
    ("time", Type::Time),
    ("symbol", Type::Text),
    ("id", Type::Text),
    ("price", Type::Text),
    ("size", Type::Text),
    ("side", Type::Text),
    ("conditions", Type::Text),
    ("venue", Type::Text),
    ("received", Type::Time),
    ("flags", Type::Text),
];
const QUOTE: &[Column] = &[
    ("time", Type::Time),
    ("symbol", Type::Text),
    ("bid", Type::Text),
    ("bid_size", Type::Text),
    ("ask", Type::Text),
    ("ask_size", Type::Text),
    ("venue", Type::Text),
    ("received", Type::Time),
    ("flags", Type::Text),
];
const BAR: &[Column] = &[
    ("time", Type::Time),
    ("symbol", Type::Text),
    ("interval", Type::Text),
    ("open", Type::Text),
    ("high", Type::Text),
    ("low", Type::Text),
    ("close", Type::Text),
    ("volume", Type::Text),
    ("trades", Type::Count),
    ("venue", Type::Text),
    ("flags", Type::Text),
];

/// The columns of a kind; `None` if it has no table.
pub(super) fn of(kind: Kind) -> Option<&'static [Column]> {
    match kind {
        Kind::Trade => Some(TRADE),
        Kind::Quote => Some(QUOTE),
        Kind::Bar => Some(BAR),
        Kind::Book
        | Kind::Stat
        | Kind::Form
        | Kind::Index
        | Kind::Flow
        | Kind::Status
        | Kind::Feed
        | Kind::Inst
        | Kind::Ind
        | Kind::Alert => None,
    }
}

/// The row of a tick; `None` if its kind has no table.
pub(super) fn cells(tick: &Tick) -> Option<Cells> {
    match tick {
        Tick::Trade(trade) => Some(of_trade(trade)),
        Tick::Quote(quote) => Some(of_quote(quote)),
        Tick::Bar(bar) => Some(of_bar(bar)),
        Tick::Book(_)
        | Tick::Stat(_)
        | Tick::Form(_)
        | Tick::Index(_)
        | Tick::Flow(_)
        | Tick::Status(_)
        | Tick::Feed(_)
        | Tick::Inst(_) => None,
    }
}

fn text(value: impl Display) -> Cell {
    Cell::Text(value.to_string())
}

fn flags(flags: &[Flag]) -> Option<Cell> {
    let names = flags.iter().map(|flag| match flag {
        Flag::Late => "late",
        Flag::Backfill => "backfill",
        Flag::Refresh => "refresh",
        Flag::Synthetic => "synthetic",
    });
    let names: Vec<&str> = names.collect();
    (!names.is_empty()).then(|| Cell::Text(names.join(" ")))
}

fn of_trade(trade: &Trade) -> Cells {
    let head = &trade.head;
    let side = match trade.side {
        Side::Buy => "buy",
        Side::Sell => "sell",
        Side::Unknown => "unknown",
    };
    vec![
        Some(Cell::Time(head.event.unwrap_or(head.received))),
        Some(text(&head.symbol)),
        Some(text(&trade.id)),
        Some(text(trade.price)),
        Some(text(trade.size)),
        Some(text(side)),
        trade.conditions.as_ref().map(text),
        Some(text(&head.venue)),
        Some(Cell::Time(head.received)),
        flags(&head.flags),
    ]
}

fn of_quote(quote: &Quote) -> Cells {
    let head = &quote.head;
    vec![
        Some(Cell::Time(head.event.unwrap_or(head.received))),
        Some(text(&head.symbol)),
        quote.bid.map(text),
        quote.bid_size.map(text),
        quote.ask.map(text),
        quote.ask_size.map(text),
        Some(text(&head.venue)),
        Some(Cell::Time(head.received)),
        flags(&head.flags),
    ]
}

fn of_bar(bar: &Bar) -> Cells {
    let head = &bar.head;
    vec![
        Some(Cell::Time(bar.start)),
        Some(text(&head.symbol)),
        Some(text(bar.interval)),
        Some(text(bar.open)),
        Some(text(bar.high)),
        Some(text(bar.low)),
        Some(text(bar.close)),
        Some(text(bar.volume)),
        Some(Cell::Count(bar.trades)),
        Some(text(&head.venue)),
        flags(&head.flags),
    ]
}
