//! Identifiers: venues, symbols, kinds, topic variants and bar intervals.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why a text is not an identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Venues, feed names and variants: 1 to `limit` characters of `a-z 0-9 _ -`.
    #[error("{what} {text:?} is not 1 to {limit} characters of a-z, 0-9, _ and -")]
    Name {
        /// What the text should have been.
        what: &'static str,
        /// The start of the text.
        text: String,
        /// The most characters that it may have.
        limit: usize,
    },
    /// Symbols: 1 to 64 bytes of UTF-8 without control characters.
    #[error("symbol {0:?} is not 1 to 64 bytes of UTF-8 without control characters")]
    Symbol(String),
    /// Not one of the kinds.
    #[error("{0:?} is not a kind of tick")]
    Kind(String),
    /// Not one of the bar intervals.
    #[error("{0:?} is not a bar interval: use 1s, 1m, 5m, 15m, 1h or 1d")]
    Interval(String),
}

fn start_of(text: &str) -> String {
    text.chars().take(64).collect()
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $pattern:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and wraps a text.
            ///
            /// # Errors
            ///
            /// [`IdError`] names the rule that the text breaks.
            pub fn new(text: &str) -> Result<Self, IdError> {
                let check: fn(&str) -> Result<(), IdError> = $check;
                check(text)?;
                Ok(Self(text.into()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                Self::new(&text)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": $pattern })
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }
    };
}

fn name(what: &'static str, limit: usize, text: &str) -> Result<(), IdError> {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    if text.is_empty() || text.len() > limit || !text.bytes().all(legal) {
        return Err(IdError::Name {
            what,
            text: start_of(text),
            limit,
        });
    }
    Ok(())
}

text_id! {
    /// The source of an instrument: 1 to 16 characters of `a-z 0-9 _ -`.
    Venue, "^[a-z0-9_-]{1,16}$", |text| name("venue", 16, text)
}

text_id! {
    /// The last tokens of a topic, such as a bar interval: 1 to 32 characters of `a-z 0-9 _ -`.
    Variant, "^[a-z0-9_-]{1,32}$", |text| name("variant", 32, text)
}

text_id! {
    /// The name of a feed in `feeds.toml`: 1 to 32 characters of `a-z 0-9 _ -`.
    FeedName, "^[a-z0-9_-]{1,32}$", |text| name("feed name", 32, text)
}

text_id! {
    /// The venue's own instrument name: 1 to 64 bytes of UTF-8 without control characters.
    ///
    /// It may hold dots, slashes, wildcards and spaces: [`crate::topic`] and [`crate::subject`]
    /// escape them, so a symbol can never widen a subscription.
    Symbol, "^[^\\u0000-\\u001f\\u007f-\\u009f]{1,64}$", |text| {
        if text.is_empty() || text.len() > 64 || text.chars().any(char::is_control) {
            return Err(IdError::Symbol(start_of(text)));
        }
        Ok(())
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// What a tick tells: the first token of its topic.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "lowercase")]
        pub enum Kind {
            $($(#[$doc])* $variant,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The kind as the first token of a topic.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The value of the `Tw-Schema` header: kind and major version.
            pub const fn schema(self) -> &'static str {
                match self { $(Self::$variant => concat!($text, "/1"),)* }
            }
        }

        impl FromStr for Kind {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(IdError::Kind(start_of(text))),
                }
            }
        }
    };
}

kinds! {
    /// One execution.
    Trade = "trade",
    /// Best bid and ask.
    Quote = "quote",
    /// The top levels of the book, each message whole.
    Book = "book",
    /// Session summary.
    Stat = "stat",
    /// A closed bar.
    Bar = "bar",
    /// The forming bar.
    Form = "form",
    /// An index value.
    Index = "index",
    /// Foreign investors' buying and selling.
    Flow = "flow",
    /// Trading state of an instrument.
    Status = "status",
    /// Ingest's own state of a feed.
    Feed = "feed",
    /// Instrument reference data.
    Inst = "inst",
    /// A computed indicator.
    Ind = "ind",
    /// A fired alert.
    Alert = "alert",
}

impl Kind {
    /// Whether the latest value is enough. All other kinds are lossless.
    pub const fn is_state(self) -> bool {
        match self {
            Self::Quote
            | Self::Book
            | Self::Stat
            | Self::Form
            | Self::Index
            | Self::Flow
            | Self::Ind => true,
            Self::Trade | Self::Bar | Self::Status | Self::Feed | Self::Inst | Self::Alert => false,
        }
    }

    /// Whether every message is recorded, so that history can be asked for by position; of the others
    /// the latest is recorded, or none.
    pub const fn has_history(self) -> bool {
        match self {
            Self::Trade
            | Self::Quote
            | Self::Status
            | Self::Flow
            | Self::Feed
            | Self::Index
            | Self::Bar => true,
            Self::Book | Self::Stat | Self::Form | Self::Inst | Self::Ind | Self::Alert => false,
        }
    }

    /// Whether topics of this kind end in a variant, such as a bar's interval.
    pub const fn has_variant(self) -> bool {
        matches!(self, Self::Bar | Self::Form | Self::Ind)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The length of a bar.
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
pub enum Interval {
    /// One second.
    #[serde(rename = "1s")]
    Second1,
    /// One minute.
    #[serde(rename = "1m")]
    Minute1,
    /// Five minutes.
    #[serde(rename = "5m")]
    Minute5,
    /// Fifteen minutes.
    #[serde(rename = "15m")]
    Minute15,
    /// One hour.
    #[serde(rename = "1h")]
    Hour1,
    /// One day.
    #[serde(rename = "1d")]
    Day1,
}

impl Interval {
    /// Every interval, shortest first.
    pub const ALL: &[Self] = &[
        Self::Second1,
        Self::Minute1,
        Self::Minute5,
        Self::Minute15,
        Self::Hour1,
        Self::Day1,
    ];

    /// The interval as it stands in topics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Second1 => "1s",
            Self::Minute1 => "1m",
            Self::Minute5 => "5m",
            Self::Minute15 => "15m",
            Self::Hour1 => "1h",
            Self::Day1 => "1d",
        }
    }

    /// The length in nanoseconds.
    pub const fn nanos(self) -> i64 {
        let seconds = match self {
            Self::Second1 => 1,
            Self::Minute1 => 60,
            Self::Minute5 => 300,
            Self::Minute15 => 900,
            Self::Hour1 => 3_600,
            Self::Day1 => 86_400,
        };
        seconds * 1_000_000_000
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Interval {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .copied()
            .find(|interval| interval.as_str() == text)
            .ok_or_else(|| IdError::Interval(start_of(text)))
    }
}
