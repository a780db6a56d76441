//! Channels: named sets of topics that are subscribed on connect. Every error names line and field.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use schemas::topic::Selector;
use schemas::ws::{Conflate, Subscribe};
use serde::Deserialize;
use toml::Spanned;

use crate::session::Limits;

/// The `id` of the answer to what is subscribed on connect.
pub(crate) const ON_CONNECT: u64 = 0;
/// The longest name of a channel.
const MAX_NAME: usize = 32;

/// Why a file of channels cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ChannelsError {
    /// The file cannot be read.
    #[error("--channels {path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("--channels {path}: {problem}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, field and what is wrong.
        problem: String,
    },
}

/// What is subscribed together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Channel {
    pub(crate) topics: Vec<String>,
    pub(crate) conflate: Conflate,
    pub(crate) snapshot: Option<bool>,
}

impl Channel {
    fn of(topics: &[&str]) -> Self {
        Self {
            topics: topics.iter().map(|text| (*text).to_owned()).collect(),
            ..Self::default()
        }
    }

    /// The subscription that a connection begins with.
    pub(crate) fn subscribe(self) -> Subscribe {
        Subscribe {
            id: Some(ON_CONNECT),
            topics: self.topics,
            snapshot: self.snapshot,
            conflate: self.conflate,
            from: BTreeMap::new(),
        }
    }
}

/// All channels, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Channels(BTreeMap<String, Channel>);

impl Default for Channels {
    fn default() -> Self {
        let sets: [(&str, &[&str]); 4] = [
            ("alerts", &["alert.>"]),
            ("foreign", &["flow.>"]),
            ("index", &["index.>"]),
            ("market", &["quote.>", "stat.>"]),
        ];
        let named = sets.map(|(name, topics)| (name.to_owned(), Channel::of(topics)));
        Self(named.into())
    }
}

impl Channels {
    /// Those of a file, or the usual ones.
    ///
    /// # Errors
    ///
    /// [`ChannelsError`] names the file, the line and the field.
    pub(crate) fn load(path: Option<&Path>, limits: &Limits) -> Result<Self, ChannelsError> {
        let Some(path) = path else {
            return Ok(Self::default());
        };
        let text = std::fs::read_to_string(path).map_err(|source| ChannelsError::Read {
            path: path.to_owned(),
            source,
        })?;
        parse(&text, limits).map_err(|problem| ChannelsError::Syntax {
            path: path.to_owned(),
            problem,
        })
    }

    /// The channel of that name.
    pub(crate) fn get(&self, name: &str) -> Option<&Channel> {
        self.0.get(name)
    }

    /// Everything that there is.
    pub(crate) fn everything() -> Channel {
        Channel::of(&[">"])
    }

    /// All names, for people.
    pub(crate) fn names(&self) -> String {
        let names: Vec<&str> = self.0.keys().map(String::as_str).collect();
        names.join(", ")
    }
}

/// Checks what one connection shall subscribe to on connect; doubled strings count once.
///
/// # Errors
///
/// The string that is wrong, or the limit.
pub(crate) fn check_topics<'a>(
    texts: impl Iterator<Item = &'a str>,
    limits: &Limits,
) -> Result<Vec<String>, String> {
    let (mut checked, mut seen) = (Vec::new(), HashSet::new());
    let (mut topics, mut patterns) = (0, 0);
    for text in texts {
        let selector: Selector = text.parse().map_err(|error| format!("topics: {error}"))?;
        if !seen.insert(text) {
            continue;
        }
        let (count, limit, what) = match selector {
            Selector::Topic(_) => (&mut topics, limits.topics, "topics"),
            Selector::Pattern(_) => (&mut patterns, limits.patterns, "patterns"),
        };
        *count += 1;
        if *count > limit {
            return Err(format!("topics: a connection may hold {limit} {what}"));
        }
        checked.push(text.to_owned());
    }
    if checked.is_empty() {
        return Err("topics must name at least one topic or pattern".to_owned());
    }
    Ok(checked)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    channel: BTreeMap<Spanned<String>, RawChannel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawChannel {
    topics: Spanned<Vec<String>>,
    conflate: Option<Spanned<RawConflate>>,
    snapshot: Option<bool>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "conflate must be \"auto\", \"none\" or a number of milliseconds"
)]
enum RawConflate {
    Millis(i64),
    Word(String),
}

type Problem = (usize, String);

/// Reads and checks the text of a file.
fn parse(text: &str, limits: &Limits) -> Result<Channels, String> {
    let located = |(at, problem): Problem| {
        let line = text.get(..at).unwrap_or_default().matches('\n').count() + 1;
        format!("line {line}: {problem}")
    };
    let file: File = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        located((at, error.message().to_owned()))
    })?;
    if file.channel.is_empty() {
        return Err("line 1: there is no [channel.<name>]".to_owned());
    }
    let mut channels = BTreeMap::new();
    for (name, raw) in file.channel {
        let channel = check(&name, raw, limits).map_err(located)?;
        channels.insert(name.into_inner(), channel);
    }
    Ok(Channels(channels))
}

fn check(name: &Spanned<String>, raw: RawChannel, limits: &Limits) -> Result<Channel, Problem> {
    let is_plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    let text = name.get_ref();
    if text.is_empty() || text.len() > MAX_NAME || !text.bytes().all(is_plain) {
        let problem = format!("channel name {text:?} is not 1 to {MAX_NAME} of a-z 0-9 - _");
        return Err((name.span().start, problem));
    }
    let at = raw.topics.span().start;
    let topics = raw.topics.get_ref().iter().map(String::as_str);
    let topics = check_topics(topics, limits).map_err(|problem| (at, problem))?;
    let conflate = raw.conflate.map(check_conflate).transpose()?;
    Ok(Channel {
        topics,
        conflate: conflate.unwrap_or_default(),
        snapshot: raw.snapshot,
    })
}

fn check_conflate(raw: Spanned<RawConflate>) -> Result<Conflate, Problem> {
    let at = raw.span().start;
    let conflate = match raw.into_inner() {
        RawConflate::Word(word) => conflate(&word),
        RawConflate::Millis(millis) => conflate(&millis.to_string()),
    };
    conflate.map_err(|problem| (at, problem))
}

/// Reads a conflation as it is written in a query and in a file.
///
/// # Errors
///
/// What it must be.
pub(crate) fn conflate(text: &str) -> Result<Conflate, String> {
    match text {
        "auto" => return Ok(Conflate::Auto),
        "none" => return Ok(Conflate::None),
        _ => {}
    }
    let millis = text.parse().ok();
    let millis = millis.filter(|millis| Conflate::MILLIS.contains(millis));
    millis.map(Conflate::Millis).ok_or_else(|| {
        let (low, high) = (Conflate::MILLIS.start(), Conflate::MILLIS.end());
        format!("conflate must be auto, none or {low} to {high} milliseconds")
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMITS: Limits = Limits {
        topics: 3,
        patterns: 2,
        message_bytes: 1,
        unsent_bytes: 1,
        unsent_age: Duration::ZERO,
        resume_messages: 1,
        crowd: crate::CROWD,
    };

    #[test]
    fn a_file_takes_the_place_of_the_usual_channels() {
        let text = r#"
            [channel.majors]
            topics = ["quote.sim.AAA", "trade.sim.*", "quote.sim.AAA"]
            conflate = 250
            snapshot = false
            [channel.news]
            topics = ["alert.>"]
            conflate = "none"
        "#;
        let channels = parse(text, &LIMITS).unwrap();
        assert_eq!(channels.names(), "majors, news");
        let majors = Channel {
            topics: vec!["quote.sim.AAA".to_owned(), "trade.sim.*".to_owned()],
            conflate: Conflate::Millis(250),
            snapshot: Some(false),
        };
        assert_eq!(channels.get("majors"), Some(&majors));
        assert_eq!(channels.get("news").unwrap().conflate, Conflate::None);
        assert_eq!(channels.get("market"), None);
        assert_eq!(majors.subscribe().id, Some(ON_CONNECT));
    }

    #[test]
    fn the_usual_channels_are_subscriptions_that_can_be_made() {
        let usual = Channels::default();
        assert_eq!(usual.names(), "alerts, foreign, index, market");
        let sets = usual.0.into_values().chain([Channels::everything()]);
        for channel in sets {
            let texts = channel.topics.iter().map(String::as_str);
            assert_eq!(check_topics(texts, &LIMITS), Ok(channel.topics.clone()));
        }
    }

    #[test]
    fn errors_name_line_field_and_limit() {
        let good = "[channel.a]\ntopics = [\"quote.>\"]\n";
        let cases = [
            (String::new(), "line 1: there is no [channel.<name>]"),
            (
                "channel = 3".to_owned(),
                "line 1: invalid type: integer `3`",
            ),
            ("[chanel.a]".to_owned(), "line 1: unknown field `chanel`"),
            ("[channel.a]".to_owned(), "line 1: missing field `topics`"),
            (format!("{good}topic = 1"), "line 3: unknown field `topic`"),
            (format!("{good}[channel.a]"), "line 3: duplicate key"),
            (
                format!("{good}[channel.\"A b\"]\ntopics = [\"quote.>\"]"),
                "line 3: channel name \"A b\" is not 1 to 32",
            ),
            (
                good.replace("quote.>", "quote.a"),
                "line 2: topics: topic \"quote.a\" has 2 tokens",
            ),
            (
                good.replace("quote", "wish"),
                "line 2: topics: topic \"wish.>\"",
            ),
            (
                good.replace("\"quote.>\"", ""),
                "line 2: topics must name at least one",
            ),
            (
                good.replace("\"quote.>\"", "1"),
                "line 2: invalid type: integer `1`",
            ),
            (
                good.replace("\"quote.>\"", "\"quote.>\", \"stat.>\", \"flow.>\""),
                "line 2: topics: a connection may hold 2 patterns",
            ),
            (
                format!("{good}conflate = 3"),
                "line 3: conflate must be auto, none or 10 to 60000",
            ),
            (
                format!("{good}conflate = \"fast\""),
                "line 3: conflate must be auto",
            ),
            (
                format!("{good}conflate = true"),
                "line 3: conflate must be \"auto\"",
            ),
            (
                format!("{good}snapshot = 1"),
                "line 3: invalid type: integer `1`",
            ),
        ];
        for (text, expected) in cases {
            let found = parse(&text, &LIMITS).unwrap_err();
            assert!(found.starts_with(expected), "{text}\n{found}\n{expected}");
        }
    }
}
