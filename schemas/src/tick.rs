//! Every kind of tick, with the short field names of the wire.
//!
//! On the wire each tick is one flat map: the fields of [`Head`] first, then those of its kind.
//! Absent is absent: never 0, never the empty string.

use serde::{Deserialize, Serialize};

use crate::codec::Wide;
use crate::decimal::{Price, Size, Value};
use crate::id::{Interval, Kind, Symbol, Venue};
use crate::time::UnixNanos;
use crate::topic::Topic;

/// What every tick carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// `v`: source of the instrument.
    pub venue: Venue,
    /// `y`: the venue's own instrument name; of a `feed` tick the feed's name.
    pub symbol: Symbol,
    /// `te`: when it happened, by the venue's clock.
    pub event: Option<UnixNanos>,
    /// `tr`: when ingest received it.
    pub received: UnixNanos,
    /// `q`: the venue's own sequence, if it has one; a string in JSON, because venues choose its range.
    pub venue_seq: Option<u64>,
    /// `fl`: what is special about this tick.
    pub flags: Vec<Flag>,
}

impl Head {
    /// A head with neither event time, venue sequence nor flags.
    pub const fn new(venue: Venue, symbol: Symbol, received: UnixNanos) -> Self {
        Self {
            venue,
            symbol,
            event: None,
            received,
            venue_seq: None,
            flags: Vec::new(),
        }
    }
}

/// What is special about a tick.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Flag {
    /// Older than a tick of the same topic that was already published.
    Late,
    /// Fetched afterwards to fill a gap.
    Backfill,
    /// The same value again, so that it stays within retention; bars and the recorder ignore it.
    Refresh,
    /// Made by Tickwire, not by the venue.
    Synthetic,
}

/// The taker's side of a trade.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The taker bought.
    Buy,
    /// The taker sold.
    Sell,
    /// The venue does not say.
    #[default]
    Unknown,
}

/// Trading state of an instrument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TradingState {
    /// Orders are taken, nothing trades yet.
    PreOpen,
    /// Call auction.
    Auction,
    /// Continuous trading.
    Open,
    /// Stopped by the venue.
    Halt,
    /// The session is over.
    Close,
}

/// State of a feed, as ingest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FeedState {
    /// Connected, and ticks arrive.
    Live,
    /// Connected, but silent for longer than the limit.
    Stale,
    /// Not connected, trying again.
    Reconnecting,
    /// Ticks of the venue were missed, see `gap`.
    Gap,
    /// Ended for good: a replay that is over, or a feed that was switched off.
    Closed,
}

/// A hole in what the venue sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct VenueGap {
    /// The instrument that missed something, if it was one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schemars(with = "Option<String>")]
    pub symbol: Option<Symbol>,
    /// The last venue id before the hole.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub after_id: Option<String>,
    /// The first venue id behind it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub until_id: Option<String>,
    /// When the hole began, by ingest's clock.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schemars(with = "Option<String>")]
    pub from: Option<UnixNanos>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schemars(with = "Option<String>")]
    pub to: Option<UnixNanos>,
    /// Whether the missing ticks were fetched and published since.
    pub filled: bool,
}

/// One level of a book: price, then size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Level(pub Price, pub Size);

macro_rules! ticks {
    ($($(#[$doc:meta])* $name:ident, $tag:ident { $($(#[$field_doc:meta])* $field:ident $key:literal $mode:ident: $ty:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq, Eq)]
            pub struct $name {
                /// Venue, instrument, times, flags.
                pub head: Head,
                $($(#[$field_doc])* pub $field: ticks!(@ty $mode $ty),)*
            }

            impl Serialize for $name {
                fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    #[derive(Serialize)]
                    struct Wire<'a> {
                        k: Kind,
                        v: &'a Venue,
                        y: &'a Symbol,
                        #[serde(skip_serializing_if = "Option::is_none")]
                        te: Option<UnixNanos>,
                        tr: UnixNanos,
                        #[serde(skip_serializing_if = "Option::is_none")]
                        q: Option<Wide>,
                        #[serde(skip_serializing_if = "<[Flag]>::is_empty")]
                        fl: &'a [Flag],
                        $(
                            #[serde(rename = $key, skip_serializing_if = "is_absent")]
                            $field: &'a ticks!(@ty $mode $ty),
                        )*
                    }
                    Wire {
                        k: Kind::$tag,
                        v: &self.head.venue,
                        y: &self.head.symbol,
                        te: self.head.event,
                        tr: self.head.received,
                        q: self.head.venue_seq.map(Wide),
                        fl: &self.head.flags,
                        $($field: &self.$field,)*
                    }
                    .serialize(serializer)
                }
            }

            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    #[derive(Deserialize)]
                    struct Wire {
                        v: Venue,
                        y: Symbol,
                        te: Option<UnixNanos>,
                        tr: UnixNanos,
                        q: Option<Wide>,
                        #[serde(default)]
                        fl: Vec<Flag>,
                        $(
                            #[serde(rename = $key)]
                            $field: ticks!(@ty $mode $ty),
                        )*
                    }
                    let wire = Wire::deserialize(deserializer)?;
                    Ok(Self {
                        head: Head {
                            venue: wire.v,
                            symbol: wire.y,
                            event: wire.te,
                            received: wire.tr,
                            venue_seq: wire.q.map(|Wide(seq)| seq),
                            flags: wire.fl,
                        },
                        $($field: wire.$field,)*
                    })
                }
            }

            impl $name {
                /// JSON Schema of the tick, from the same list of fields as its codec.
                pub(crate) fn describe() -> serde_json::Value {
                    let mut fields = head_fields(Kind::$tag);
                    let mut required = vec!["k", "v", "y", "tr"];
                    $(
                        fields.insert($key.to_owned(), <ticks!(@ty $mode $ty)>::described());
                        if !<ticks!(@ty $mode $ty)>::OPTIONAL {
                            required.push($key);
                        }
                    )*
                    serde_json::json!({ "type": "object", "properties": fields, "required": required })
                }
            }

            impl From<$name> for Tick {
                fn from(tick: $name) -> Self {
                    Self::$name(tick)
                }
            }
        )*

        /// One normalized tick of any kind.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize)]
        #[serde(untagged)]
        pub enum Tick {
            $($(#[$doc])* $name($name),)*
        }

        impl Tick {
            /// JSON Schema of every kind.
            pub(crate) fn describe() -> serde_json::Map<String, serde_json::Value> {
                let mut kinds = serde_json::Map::new();
                $(kinds.insert(Kind::$tag.as_str().to_owned(), $name::describe());)*
                kinds
            }

            /// What the tick tells.
            pub const fn kind(&self) -> Kind {
                match self { $(Self::$name(_) => Kind::$tag,)* }
            }

            /// Venue, instrument, times, flags.
            pub const fn head(&self) -> &Head {
                match self { $(Self::$name(tick) => &tick.head,)* }
            }

            /// Venue, instrument, times, flags.
            pub const fn head_mut(&mut self) -> &mut Head {
                match self { $(Self::$name(tick) => &mut tick.head,)* }
            }

            /// Reads a tick of a known kind; unknown fields are ignored.
            ///
            /// # Errors
            ///
            /// The deserializer's, naming the field that is missing or wrong. The kinds that are
            /// not carried on the stream of ticks (`ind`, `alert`) are refused.
            pub fn deserialize_as<'de, D: serde::Deserializer<'de>>(kind: Kind, deserializer: D) -> Result<Self, D::Error> {
                match kind {
                    $(Kind::$tag => $name::deserialize(deserializer).map(Self::$name),)*
                    Kind::Ind | Kind::Alert => Err(serde::de::Error::custom(format_args!("kind {kind} is not a tick of this stream"))),
                }
            }
        }
    };
    (@ty req $ty:ty) => { $ty };
    (@ty opt $ty:ty) => { Option<$ty> };
}

/// What the codec and the schema must know of a field's type. Required fields always have a value.
trait Absent {
    /// Whether the field may be missing.
    const OPTIONAL: bool = false;

    fn absent(&self) -> bool {
        false
    }

    /// JSON Schema of the value.
    fn described() -> serde_json::Value;
}

impl<T: Absent> Absent for Option<T> {
    const OPTIONAL: bool = true;

    fn absent(&self) -> bool {
        self.is_none()
    }

    fn described() -> serde_json::Value {
        T::described()
    }
}

impl<T: Absent> Absent for Vec<T> {
    fn described() -> serde_json::Value {
        serde_json::json!({ "type": "array", "items": T::described() })
    }
}

impl Absent for Level {
    fn described() -> serde_json::Value {
        let sides = [Price::described(), Size::described()];
        serde_json::json!({ "type": "array", "prefixItems": sides, "minItems": 2, "maxItems": 2 })
    }
}

impl Absent for u64 {
    fn described() -> serde_json::Value {
        serde_json::json!({ "type": "integer", "minimum": 0 })
    }
}

macro_rules! described {
    ($($ty:ty => $schema:expr,)*) => {
        $(impl Absent for $ty {
            fn described() -> serde_json::Value {
                $schema
            }
        })*
    };
}

fn text(pattern: &str) -> serde_json::Value {
    serde_json::json!({ "type": "string", "pattern": pattern })
}

described! {
    String => serde_json::json!({ "type": "string" }),
    Price => text(r"^-?[0-9]+(\.[0-9]+)?$"),
    Size => text(r"^[0-9]+(\.[0-9]+)?$"),
    Value => text(r"^-?[0-9]+(\.[0-9]+)?$"),
    UnixNanos => text("^-?[0-9]+$"),
    Side => schemars::schema_for!(Side).into(),
    Interval => schemars::schema_for!(Interval).into(),
    TradingState => schemars::schema_for!(TradingState).into(),
    FeedState => schemars::schema_for!(FeedState).into(),
    VenueGap => schemars::schema_for!(VenueGap).into(),
}

/// The fields that every kind has.
fn head_fields(kind: Kind) -> serde_json::Map<String, serde_json::Value> {
    let flags: serde_json::Value = schemars::schema_for!(Flag).into();
    let fields = [
        ("k", serde_json::json!({ "const": kind })),
        ("v", text("^[a-z0-9_-]{1,16}$")),
        (
            "y",
            serde_json::json!({ "type": "string", "minLength": 1, "maxLength": 64 }),
        ),
        ("te", UnixNanos::described()),
        ("tr", UnixNanos::described()),
        ("q", text("^[0-9]+$")),
        ("fl", serde_json::json!({ "type": "array", "items": flags })),
    ];
    fields
        .map(|(key, schema)| (key.to_owned(), schema))
        .into_iter()
        .collect()
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands over a reference to the field"
)]
fn is_absent<T: Absent>(field: &&T) -> bool {
    field.absent()
}

ticks! {
    /// One execution.
    Trade, Trade {
        /// Trade id, unique per instrument.
        id "i" req: String,
        /// Price.
        price "p" req: Price,
        /// Quantity.
        size "z" req: Size,
        /// The taker's side.
        side "sd" req: Side,
        /// Trade conditions, as the venue writes them.
        conditions "cn" opt: String,
    }
    /// Best bid and ask. A side without orders is absent.
    Quote, Quote {
        /// Best bid.
        bid "b" opt: Price,
        /// Quantity at the best bid.
        bid_size "bz" opt: Size,
        /// Best ask.
        ask "a" opt: Price,
        /// Quantity at the best ask.
        ask_size "az" opt: Size,
    }
    /// The top levels of the book, best first; each message is whole.
    Book, Book {
        /// Bids, highest first.
        bids "bs" req: Vec<Level>,
        /// Asks, lowest first.
        asks "as" req: Vec<Level>,
    }
    /// Session summary.
    Stat, Stat {
        /// First price.
        open "o" opt: Price,
        /// Highest price.
        high "h" opt: Price,
        /// Lowest price.
        low "l" opt: Price,
        /// Last price.
        last "c" opt: Price,
        /// Last price of the previous session.
        previous_close "pc" opt: Price,
        /// Traded quantity.
        volume "vo" opt: Size,
        /// Traded value in quote currency.
        turnover "tv" opt: Value,
        /// Volume-weighted average price.
        vwap "vw" opt: Price,
        /// Open interest in contracts.
        open_interest "oi" opt: Size,
        /// Change against the previous close, or the open where there is none.
        change "ch" opt: Value,
        /// The same in percent.
        change_percent "cp" opt: Value,
    }
    /// A closed bar; a correction is sent again, and the higher stream sequence wins.
    Bar, Bar {
        /// Length.
        interval "iv" req: Interval,
        /// Start of the interval.
        start "t0" req: UnixNanos,
        /// First price.
        open "o" req: Price,
        /// Highest price.
        high "h" req: Price,
        /// Lowest price.
        low "l" req: Price,
        /// Last price.
        close "c" req: Price,
        /// Traded quantity.
        volume "vo" req: Size,
        /// Number of trades.
        trades "n" req: u64,
    }
    /// The forming bar.
    Form, Form {
        /// Length.
        interval "iv" req: Interval,
        /// Start of the interval.
        start "t0" req: UnixNanos,
        /// First price.
        open "o" req: Price,
        /// Highest price.
        high "h" req: Price,
        /// Lowest price.
        low "l" req: Price,
        /// Last price.
        close "c" req: Price,
        /// Traded quantity.
        volume "vo" req: Size,
        /// Number of trades.
        trades "n" req: u64,
    }
    /// An index value.
    Index, Index {
        /// Value.
        value "x" req: Value,
        /// Change against the previous close.
        change "ch" opt: Value,
        /// The same in percent.
        change_percent "cp" opt: Value,
        /// Members that rose.
        advances "ad" opt: u64,
        /// Members that did not move.
        unchanged "un" opt: u64,
        /// Members that fell.
        declines "de" opt: u64,
        /// Traded quantity of the members.
        volume "vo" opt: Size,
        /// Traded value of the members.
        turnover "tv" opt: Value,
    }
    /// Foreign investors' buying and selling in the session so far.
    Flow, Flow {
        /// Bought quantity.
        bought "bv" opt: Size,
        /// Sold quantity.
        sold "sv" opt: Size,
        /// Bought value.
        bought_value "bt" opt: Value,
        /// Sold value.
        sold_value "st" opt: Value,
        /// Quantity that foreigners may still buy.
        room "rm" opt: Size,
    }
    /// Trading state of an instrument.
    Status, Status {
        /// The state.
        state "st" req: TradingState,
        /// Why, as the venue writes it.
        reason "rs" opt: String,
    }
    /// Ingest's own state of a feed; its symbol is the feed's name.
    Feed, Feed {
        /// The state.
        state "st" req: FeedState,
        /// What happened, for people.
        detail "dt" opt: String,
        /// The hole, where the state is `gap`.
        gap "gp" opt: VenueGap,
        /// How many state values were collapsed to the latest because the broker was away.
        collapsed "co" opt: u64,
    }
    /// Instrument reference data.
    Inst, Inst {
        /// Class, such as `spot`, `equity`, `index`, `future`, `option`.
        class "ty" req: String,
        /// Name for people.
        name "nm" opt: String,
        /// Base currency.
        base "bc" opt: String,
        /// Quote currency.
        quote "qc" opt: String,
        /// Smallest price step.
        tick_size "ts" opt: Price,
        /// Smallest quantity step.
        lot "lt" opt: Size,
        /// Trading hours as TradingView writes them: `24x7`, `0930-1600`.
        session "se" opt: String,
        /// IANA time zone of the session.
        time_zone "tz" opt: String,
        /// Instrument that this one derives from.
        underlying "ul" opt: String,
        /// Expiry.
        expiry "ex" opt: UnixNanos,
        /// Strike price.
        strike "sk" opt: Price,
        /// Other names of the same instrument.
        aliases "al" opt: Vec<String>,
    }
}

/// A bar as it stood before it was closed.
impl From<Bar> for Form {
    fn from(bar: Bar) -> Self {
        Self {
            head: bar.head,
            interval: bar.interval,
            start: bar.start,
            open: bar.open,
            high: bar.high,
            low: bar.low,
            close: bar.close,
            volume: bar.volume,
            trades: bar.trades,
        }
    }
}

/// What a forming bar is once nothing more is added to it.
impl From<Form> for Bar {
    fn from(form: Form) -> Self {
        Self {
            head: form.head,
            interval: form.interval,
            start: form.start,
            open: form.open,
            high: form.high,
            low: form.low,
            close: form.close,
            volume: form.volume,
            trades: form.trades,
        }
    }
}

impl Tick {
    /// The topic under which the tick is published.
    pub fn topic(&self) -> Topic {
        let head = self.head();
        let (venue, symbol) = (head.venue.clone(), head.symbol.clone());
        match self {
            Self::Bar(bar) => Topic::with_interval(Kind::Bar, venue, symbol, bar.interval),
            Self::Form(form) => Topic::with_interval(Kind::Form, venue, symbol, form.interval),
            Self::Trade(_)
            | Self::Quote(_)
            | Self::Book(_)
            | Self::Stat(_)
            | Self::Index(_)
            | Self::Flow(_)
            | Self::Status(_)
            | Self::Feed(_)
            | Self::Inst(_) => Topic::new(self.kind(), venue, symbol),
        }
    }
}

impl<'de> Deserialize<'de> for Tick {
    /// Reads a tick whose kind is told by its own `k`, wherever that stands. Where the kind is
    /// known beforehand, [`Tick::deserialize_as`] is the faster way.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let value = serde_json::Value::deserialize(deserializer)?;
        let kind = value.get("k").ok_or_else(|| D::Error::missing_field("k"))?;
        let kind = Kind::deserialize(kind).map_err(D::Error::custom)?;
        Self::deserialize_as(kind, value).map_err(D::Error::custom)
    }
}
