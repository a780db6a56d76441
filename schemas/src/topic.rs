//! Topics and patterns as WebSocket and HTTP clients spell them.
//!
//! A topic is `<kind>.<venue>.<symbol>[.<interval>[.<variant>]]`. In symbols `.` `%` `*` `>` and
//! space are written `%HH` (upper-case hex); any other use of `%` is refused, so that every topic
//! has exactly one spelling.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{IdError, Interval, Kind, Symbol, Variant, Venue};

/// Why a text is not a topic or pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Longer than any topic can be.
    #[error("topic of {0} bytes is longer than the limit of {MAX_BYTES}")]
    TooLong(usize),
    /// The wrong number of tokens for its kind.
    #[error("topic {text:?} has {found} tokens, a {kind} topic has {wanted}")]
    Tokens {
        /// The topic.
        text: String,
        /// Its kind.
        kind: Kind,
        /// How many tokens it has.
        found: usize,
        /// How many it must have.
        wanted: usize,
    },
    /// A token that no identifier can have.
    #[error("topic {text:?}: {source}")]
    Token {
        /// The topic.
        text: String,
        /// What is wrong with the token.
        #[source]
        source: IdError,
    },
    /// A symbol that is not in its one spelling.
    #[error("topic {0:?} holds a symbol that is not escaped as %HH with upper-case hex")]
    Escape(String),
    /// A wildcard that is not a whole token, or `>` that is not last.
    #[error("pattern {0:?}: * must be a whole token and > the last one")]
    Wildcard(String),
}

impl TopicError {
    /// Whether the topic can never exist, whatever is listed later: its kind or venue is impossible.
    pub const fn is_impossible(&self) -> bool {
        matches!(
            self,
            Self::Token {
                source: IdError::Kind(_) | IdError::Name { .. },
                ..
            }
        )
    }
}

/// The longest topic in bytes: a 64-byte symbol with every byte escaped.
pub const MAX_BYTES: usize = 255;

fn is_escaped(c: char) -> bool {
    matches!(c, '.' | '%' | '*' | '>' | ' ') || c.is_control()
}

/// Writes a symbol as one token of a topic.
pub fn escape(symbol: &str) -> String {
    let mut token = String::with_capacity(symbol.len());
    for c in symbol.chars() {
        if is_escaped(c) {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                token.push('%');
                token.push(hex_digit(byte >> 4));
                token.push(hex_digit(byte & 15));
            }
        } else {
            token.push(c);
        }
    }
    token
}

/// Reads a token written by [`escape`]; `None` if it is not in that one spelling.
pub fn unescape(token: &str) -> Option<String> {
    if !token.contains('%') {
        return (!token.chars().any(is_escaped)).then(|| token.to_owned());
    }
    let text = decode_hex(token, b'%')?;
    (escape(&text) == token).then_some(text)
}

pub(crate) const fn hex_digit(nibble: u8) -> char {
    match nibble & 15 {
        digit @ 0..=9 => (b'0' + digit) as char,
        letter => (b'A' + letter - 10) as char,
    }
}

pub(crate) fn decode_hex(token: &str, marker: u8) -> Option<String> {
    let mut bytes = token.bytes();
    let mut text = Vec::with_capacity(token.len());
    while let Some(byte) = bytes.next() {
        if byte == marker {
            let digit = |b: u8| {
                char::from(b)
                    .to_digit(16)
                    .and_then(|d| u8::try_from(d).ok())
            };
            let high = digit(bytes.next()?)?;
            text.push(high << 4 | digit(bytes.next()?)?);
        } else {
            text.push(byte);
        }
    }
    String::from_utf8(text).ok()
}

/// One stream of ticks: what a client subscribes to and history is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Topic {
    kind: Kind,
    venue: Venue,
    symbol: Symbol,
    interval: Option<Interval>,
    variant: Option<Variant>,
}

impl Topic {
    /// The topic of a kind that has no interval.
    pub const fn new(kind: Kind, venue: Venue, symbol: Symbol) -> Self {
        Self {
            kind,
            venue,
            symbol,
            interval: None,
            variant: None,
        }
    }

    /// A `bar` or `form` topic.
    pub const fn with_interval(
        kind: Kind,
        venue: Venue,
        symbol: Symbol,
        interval: Interval,
    ) -> Self {
        Self {
            kind,
            venue,
            symbol,
            interval: Some(interval),
            variant: None,
        }
    }

    /// An `ind` topic, such as `ind.binance.BTCUSDT.1m.rsi-14`.
    pub const fn indicator(
        venue: Venue,
        symbol: Symbol,
        interval: Interval,
        name: Variant,
    ) -> Self {
        Self {
            kind: Kind::Ind,
            venue,
            symbol,
            interval: Some(interval),
            variant: Some(name),
        }
    }

    /// What its ticks tell.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The source of the instrument.
    pub const fn venue(&self) -> &Venue {
        &self.venue
    }

    /// The instrument; of a `feed` topic the feed's name.
    pub const fn symbol(&self) -> &Symbol {
        &self.symbol
    }

    /// The length of its bars, if it is about bars.
    pub const fn interval(&self) -> Option<Interval> {
        self.interval
    }

    /// The indicator, if it is an `ind` topic.
    pub const fn variant(&self) -> Option<&Variant> {
        self.variant.as_ref()
    }

    /// Assembles a topic from its tokens, the symbol already unescaped.
    pub(crate) fn assemble<'a>(
        text: &str,
        mut tokens: impl Iterator<Item = &'a str>,
        unescape: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, TopicError> {
        let excerpt = || text.chars().take(MAX_BYTES).collect::<String>();
        let invalid = |source| TopicError::Token {
            text: excerpt(),
            source,
        };
        let kind: Kind = tokens.next().unwrap_or_default().parse().map_err(invalid)?;
        let wanted = 3 + usize::from(kind.has_variant()) + usize::from(kind == Kind::Ind);
        let venue = Venue::new(tokens.next().unwrap_or_default()).map_err(invalid)?;
        let found = text.split('.').count();
        let count = |tokens: usize| TopicError::Tokens {
            text: excerpt(),
            kind,
            found: tokens,
            wanted,
        };
        let token = tokens.next().ok_or_else(|| count(2))?;
        let symbol = unescape(token).ok_or_else(|| TopicError::Escape(excerpt()))?;
        let symbol = Symbol::new(&symbol).map_err(invalid)?;
        let mut topic = Self::new(kind, venue, symbol);
        if kind.has_variant() {
            let interval = tokens.next().ok_or_else(|| count(3))?;
            topic.interval = Some(interval.parse().map_err(invalid)?);
        }
        if kind == Kind::Ind {
            let name = tokens.next().ok_or_else(|| count(4))?;
            topic.variant = Some(Variant::new(name).map_err(invalid)?);
        }
        if tokens.next().is_some() {
            return Err(count(found));
        }
        Ok(topic)
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{}.{}",
            self.kind,
            self.venue,
            escape(self.symbol.as_str())
        )?;
        if let Some(interval) = self.interval {
            write!(f, ".{interval}")?;
        }
        if let Some(variant) = &self.variant {
            write!(f, ".{variant}")?;
        }
        Ok(())
    }
}

impl FromStr for Topic {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_BYTES {
            return Err(TopicError::TooLong(text.len()));
        }
        Self::assemble(text, text.split('.'), unescape)
    }
}

impl TryFrom<String> for Topic {
    type Error = TopicError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl schemars::JsonSchema for Topic {
    fn schema_name() -> Cow<'static, str> {
        "Topic".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let kinds = Kind::ALL.iter().filter(|kind| !kind.has_variant());
        let kinds: Vec<&str> = kinds.map(|kind| kind.as_str()).collect();
        let intervals: Vec<&str> = Interval::ALL.iter().map(|one| one.as_str()).collect();
        let symbol = "[a-z0-9_-]{1,16}\\.([A-Za-z0-9_/-]|%2E|%25|%2A|%3E|%20){1,20}";
        let pattern = format!(
            "^({})\\.{symbol}$|^(bar|form)\\.{symbol}\\.({})$",
            kinds.join("|"),
            intervals.join("|"),
        );
        schemars::json_schema!({
            "type": "string",
            "pattern": pattern,
            "examples": ["trade.sim.AAA", "bar.sim.AAA.1m"],
        })
    }
}

impl From<Topic> for String {
    fn from(topic: Topic) -> Self {
        topic.to_string()
    }
}

/// A set of topics: `*` stands for one token, a last `>` for one or more.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

impl Pattern {
    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a topic, in its text form, belongs to the set.
    pub fn matches(&self, topic: &str) -> bool {
        let mut tokens = topic.split('.');
        for wanted in self.0.split('.') {
            match (wanted, tokens.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (exact, Some(token)) if exact == token => {}
                _ => return false,
            }
        }
        tokens.next().is_none()
    }

    /// Whether topics of the set can begin with these tokens.
    pub fn may_begin(&self, tokens: &str) -> bool {
        let mut wanted = self.0.split('.');
        for token in tokens.split('.') {
            match wanted.next() {
                Some(">") => return true,
                Some(exact) if exact == "*" || exact == token => {}
                _ => return false,
            }
        }
        true
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Pattern {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_BYTES {
            return Err(TopicError::TooLong(text.len()));
        }
        let wildcard = || TopicError::Wildcard(text.to_owned());
        let invalid = |source| TopicError::Token {
            text: text.to_owned(),
            source,
        };
        let last = text.split('.').count().saturating_sub(1);
        for (index, token) in text.split('.').enumerate() {
            match token {
                "*" => {}
                ">" if index == last => {}
                _ if token.contains(['*', '>']) || token.is_empty() => return Err(wildcard()),
                _ if index == 0 => {
                    token.parse::<Kind>().map_err(invalid)?;
                }
                _ if index == 1 => {
                    Venue::new(token).map_err(invalid)?;
                }
                _ if unescape(token).is_none() => return Err(TopicError::Escape(text.to_owned())),
                _ => {}
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Pattern {
    type Error = TopicError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0
    }
}

/// What one string of a subscription names: one topic, or a set of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Selector {
    /// Exactly one topic.
    Topic(Topic),
    /// Every topic that matches.
    Pattern(Pattern),
}

impl FromStr for Selector {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains(['*', '>']) {
            text.parse().map(Self::Pattern)
        } else {
            text.parse().map(Self::Topic)
        }
    }
}
