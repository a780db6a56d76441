//! The judge: compares all that a client was told with the stream itself, message by message.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, bail, ensure};
use async_nats::Client;
use schemas::id::Kind;
use schemas::position::StreamSeq;
use schemas::subject;
use schemas::topic::Selector;
use schemas::ws::GapReason;
use tokio::time::Instant;

use crate::digest::Digest;
use crate::record::{Fact, Record};
use crate::world::{PATIENCE, eventually};

/// How many messages are read at once.
const PAGE: usize = 500;
/// How many violations are told in words.
const EXAMPLES: usize = 10;

/// What the stream holds.
pub(crate) struct History {
    topics: BTreeMap<String, Messages>,
    first: StreamSeq,
    last: StreamSeq,
    /// Per sequence what identifies the message, for comparison with the record of the writer.
    ids: BTreeMap<u64, (String, String)>,
}

/// The messages of a topic in order: sequence and digest.
#[derive(Debug)]
struct Messages {
    kind: Kind,
    all: Vec<(StreamSeq, u64)>,
}

/// What was found in records.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    /// Ticks that were told, in order and once.
    pub(crate) ticks: u64,
    /// Last values.
    pub(crate) values: u64,
    /// Messages that lie under a skip.
    pub(crate) skipped: u64,
    /// Messages that lie under a justified gap.
    pub(crate) trimmed: u64,
    /// Justified gaps.
    pub(crate) gaps: u64,
    /// Connections.
    pub(crate) visits: u64,
    /// How connections were ended by the server, by close code; 1006 is without one.
    pub(crate) closed: BTreeMap<u16, u32>,
    /// Messages that were neither told nor declared.
    pub(crate) missing: u64,
    /// Ticks told twice.
    pub(crate) double: u64,
    /// Ticks told after a later one of their topic.
    pub(crate) disordered: u64,
    /// Everything else that is wrong: content, predecessors, unjustified skips, gaps and resets.
    pub(crate) false_words: u64,
    /// Some of it in words.
    pub(crate) examples: Vec<String>,
}

impl History {
    /// Reads a stream whole; nobody may be writing to it.
    pub(crate) async fn read(client: &Client, stream: &str) -> Result<Self> {
        let state = retried(async || bus::stream::state(client, stream).await).await?;
        let mut history = Self {
            topics: BTreeMap::new(),
            first: state.first_seq,
            last: state.last_seq,
            ids: BTreeMap::new(),
        };
        let mut next = state.first_seq;
        let until = Instant::now() + PATIENCE * 2;
        while next <= state.last_seq {
            ensure!(Instant::now() < until, "the stream cannot be read");
            let page = retried(async || {
                bus::get::next_by_subject(client, stream, "tick.>", next, PAGE).await
            });
            for found in page.await? {
                ensure!(found.seq == next, "{next} is missing in the stream");
                next = next.next();
                history.add(&found)?;
            }
        }
        Ok(history)
    }

    fn add(&mut self, found: &bus::get::Found) -> Result<()> {
        if subject::is_fence(&found.subject) {
            return Ok(());
        }
        let topic = subject::parse(&found.subject)?;
        let digest: Digest = rmp_serde::from_slice(&found.payload)?;
        let messages = self.topics.entry(topic.to_string());
        let messages = messages.or_insert_with(|| Messages {
            kind: topic.kind(),
            all: Vec::new(),
        });
        messages.all.push((found.seq, digest.0));
        let id = found.header("Tw-Id").unwrap_or_default().to_owned();
        self.ids
            .insert(found.seq.get(), (found.subject.clone(), id));
        Ok(())
    }

    /// The last sequence.
    pub(crate) const fn last(&self) -> StreamSeq {
        self.last
    }

    /// Every message of the topics that a string names, up to a position.
    pub(crate) fn select(&self, text: &str, to: StreamSeq) -> Result<Vec<(&str, StreamSeq)>> {
        let selector: Selector = text.parse()?;
        let topics = self.topics.iter();
        let wanted = topics.filter(|(topic, _)| matches(&selector, topic));
        let all = wanted.flat_map(|(topic, messages)| {
            let seqs = messages.all.iter().map(|(seq, _)| *seq);
            seqs.map(move |seq| (topic.as_str(), seq))
        });
        Ok(all.filter(|(_, seq)| *seq <= to).collect())
    }

    /// How many ticks it holds, and of how many topics.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.ids.len(), self.topics.len())
    }

    /// Compares it with what the writer knows to be stored: how many messages that are.
    pub(crate) fn check_acknowledged(&self, text: &str) -> Result<usize> {
        let mut count = 0;
        for line in text.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let [seq, subject, id] = fields[..] else {
                bail!("{line:?} is no acknowledgement");
            };
            let seq: u64 = seq.parse()?;
            if seq < self.first.get() {
                continue;
            }
            let stored = self.ids.get(&seq);
            let stored = stored.with_context(|| format!("acknowledged {seq} is not stored"))?;
            ensure!(
                (stored.0.as_str(), stored.1.as_str()) == (subject, id),
                "{seq} was acknowledged as {id} and is {stored:?}"
            );
            count += 1;
        }
        Ok(count)
    }

    /// Judges what a record says of this stream.
    fn judge(&self, stream: usize, record: &Record, findings: &mut Findings) -> Result<()> {
        let mut case = Case {
            history: self,
            record,
            findings,
            topics: HashMap::new(),
            selectors: Vec::new(),
            cursor: StreamSeq::ZERO,
        };
        for wish in &record.wishes {
            for text in &wish.topics {
                let selector: Selector = text.parse()?;
                case.selectors.push((selector, wish.conflate != "none"));
            }
        }
        for (_, fact) in record.facts.iter().filter(|(of, _)| *of == stream) {
            case.hear(fact)?;
        }
        ensure!(
            case.cursor >= self.last,
            "client {} was told of everything up to {} only",
            record.number,
            case.cursor
        );
        Ok(())
    }
}

/// Judges a record; histories are by the stream's place in the welcome.
pub(crate) fn judge(histories: &[History], record: &Record, findings: &mut Findings) -> Result<()> {
    findings.visits += u64::from(record.visits);
    for (code, times) in &record.closed {
        *findings.closed.entry(*code).or_default() += times;
    }
    let known = |(of, _): &(usize, Fact)| *of < histories.len();
    ensure!(record.facts.iter().all(known), "facts of another stream");
    for (stream, history) in histories.iter().enumerate() {
        history.judge(stream, record, findings)?;
    }
    Ok(())
}

/// A record before the judge.
struct Case<'a> {
    history: &'a History,
    record: &'a Record,
    findings: &'a mut Findings,
    topics: HashMap<&'a str, Standing<'a>>,
    /// What is subscribed, and whether its state kinds may be conflated.
    selectors: Vec<(Selector, bool)>,
    cursor: StreamSeq,
}

/// How much of a topic is accounted for.
struct Standing<'a> {
    messages: &'a Messages,
    /// The first message that is not accounted for.
    next: usize,
    /// Everything up to here is accounted for.
    covered: StreamSeq,
    /// A last value may stand for all before it.
    fresh: bool,
    conflating: bool,
    told: Vec<StreamSeq>,
}

impl Standing<'_> {
    /// Accounts for everything up to a position: how many messages that were still open.
    fn cover(&mut self, to: StreamSeq) -> u64 {
        let rest = self.messages.all.get(self.next..).unwrap_or_default();
        let count = rest.partition_point(|(seq, _)| *seq <= to);
        self.next += count;
        self.covered = self.covered.max(to);
        u64::try_from(count).unwrap_or(u64::MAX)
    }
}

fn matches(selector: &Selector, topic: &str) -> bool {
    match selector {
        Selector::Topic(exact) => exact.to_string() == topic,
        Selector::Pattern(pattern) => pattern.matches(topic),
    }
}

impl<'a> Case<'a> {
    fn hear(&mut self, fact: &'a Fact) -> Result<()> {
        match fact {
            Fact::Start { text, pos } => self.start(text, *pos)?,
            Fact::Tick {
                topic,
                s,
                p,
                digest,
            } => self.tick(self.name(*topic), (*s, *p), *digest),
            Fact::Value { topic, s, digest } => self.value(self.name(*topic), *s, *digest),
            Fact::Skip { topic, to, count } => self.skip(self.name(*topic), *to, *count),
            Fact::Gap {
                text,
                from,
                to,
                why,
            } => {
                if *why != GapReason::Retention || from > to || *to >= self.history.first {
                    self.wrong(&format!("{fact:?}, but {} is retained", self.history.first));
                }
                self.gap(text, *to)?;
            }
            // The stream that is read back is of one epoch, and so is the record.
            Fact::Reset { of, epoch } => {
                self.wrong(&format!("a reset of {of:?} to {epoch} in one history"));
            }
            Fact::Hole { topic, s, p } => {
                self.wrong(&format!(
                    "a hole before {s} behind {p} on {}",
                    self.name(*topic)
                ));
            }
            Fact::Cursor(cursor) => self.promise(*cursor),
        }
        Ok(())
    }

    fn name(&self, topic: usize) -> &'a str {
        self.record.topics[topic].as_str()
    }

    fn start(&mut self, text: &str, pos: StreamSeq) -> Result<()> {
        let selector: Selector = text.parse()?;
        for (topic, messages) in &self.history.topics {
            if !matches(&selector, topic) {
                continue;
            }
            let mut covering = self
                .selectors
                .iter()
                .filter(|(held, _)| matches(held, topic));
            let mut standing = Standing {
                messages,
                next: 0,
                covered: StreamSeq::ZERO,
                fresh: true,
                conflating: covering.all(|(_, conflating)| *conflating),
                told: Vec::new(),
            };
            standing.cover(pos);
            self.topics.entry(topic).or_insert(standing);
        }
        Ok(())
    }

    fn tick(&mut self, topic: &'a str, (s, p): (StreamSeq, StreamSeq), digest: u64) {
        let Some(standing) = self.topics.get_mut(topic) else {
            return self.unknown(topic, s);
        };
        if s <= standing.covered {
            let double = standing.told.binary_search(&s).is_ok();
            let covered = standing.covered;
            let word = if double { "twice" } else { "too late" };
            self.findings.double += u64::from(double);
            self.findings.disordered += u64::from(!double);
            return self.example(&format!("{topic} {s} came {word}, after {covered}"));
        }
        let missing = standing.cover(s.prev());
        let found = standing.messages.all.get(standing.next).copied();
        let before = standing
            .next
            .checked_sub(1)
            .map(|at| standing.messages.all[at].0);
        standing.cover(s);
        standing.told.push(s);
        standing.fresh = false;
        self.findings.ticks += 1;
        self.miss(missing, topic, s);
        // What was trimmed since cannot be compared any more.
        if found != Some((s, digest)) && s >= self.history.first {
            self.wrong(&format!(
                "{topic} {s} is not what the stream holds: {found:?}"
            ));
        }
        if p >= s || before.is_some_and(|before| before > p) {
            self.wrong(&format!("{topic} has {before:?} between {p} and {s}"));
        }
    }

    fn value(&mut self, topic: &'a str, s: StreamSeq, digest: u64) {
        let Some(standing) = self.topics.get_mut(topic) else {
            return self.unknown(topic, s);
        };
        let all = &standing.messages.all;
        let at = all.binary_search_by_key(&s, |(seq, _)| *seq);
        let is_true = at.is_ok_and(|at| all[at].1 == digest);
        let may_jump = standing.fresh && standing.messages.kind.is_state();
        let jumped = standing.cover(s);
        standing.fresh = false;
        self.findings.values += 1;
        if !is_true && s >= self.history.first {
            self.wrong(&format!(
                "the value {s} of {topic} is not what the stream holds"
            ));
        }
        // The value itself was told.
        if !may_jump {
            self.miss(jumped.saturating_sub(1), topic, s);
        }
    }

    fn unknown(&mut self, topic: &str, s: StreamSeq) {
        if s >= self.history.first {
            self.wrong(&format!(
                "{topic} {s} is not of the stream, or was not asked for"
            ));
        }
    }

    fn skip(&mut self, topic: &'a str, to: StreamSeq, count: Option<u64>) {
        let Some(standing) = self.topics.get_mut(topic) else {
            return self.wrong(&format!("a skip of {topic}, which was not asked for"));
        };
        let allowed = standing.conflating && standing.messages.kind.is_state();
        let is_whole = standing.covered >= self.history.first.prev();
        let skipped = standing.cover(to);
        if !allowed {
            return self.wrong(&format!("{topic} must not be conflated: skip to {to}"));
        }
        self.findings.skipped += skipped;
        if is_whole && count.is_some_and(|count| count != skipped) {
            self.wrong(&format!("a skip of {count:?} on {topic} hides {skipped}"));
        }
    }

    fn gap(&mut self, text: &str, to: StreamSeq) -> Result<()> {
        let selector: Selector = text.parse()?;
        self.findings.gaps += 1;
        let mut trimmed = 0;
        for (topic, standing) in &mut self.topics {
            if matches(&selector, topic) {
                trimmed += standing.cover(to);
                standing.fresh = true;
            }
        }
        self.findings.trimmed += trimmed;
        Ok(())
    }

    fn promise(&mut self, cursor: StreamSeq) {
        self.cursor = self.cursor.max(cursor);
        let mut missing = Vec::new();
        for (topic, standing) in &mut self.topics {
            let open = standing.cover(cursor);
            if open > 0 {
                missing.push((*topic, open));
            }
        }
        for (topic, open) in missing {
            self.miss(open, topic, cursor);
        }
    }

    fn miss(&mut self, count: u64, topic: &str, before: StreamSeq) {
        if count > 0 {
            self.findings.missing += count;
            self.example(&format!("{count} of {topic} are missing before {before}"));
        }
    }

    fn wrong(&mut self, what: &str) {
        self.findings.false_words += 1;
        self.example(what);
    }

    fn example(&mut self, what: &str) {
        if self.findings.examples.len() < EXAMPLES {
            let number = self.record.number;
            self.findings
                .examples
                .push(format!("client {number}: {what}"));
        }
    }
}

impl Findings {
    /// Whether every client was told everything, once, in order and truly.
    pub(crate) fn is_clean(&self) -> bool {
        (self.missing, self.double, self.disordered, self.false_words) == (0, 0, 0, 0)
    }
}

impl std::fmt::Display for Findings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} missing, {} double, {} out of order, {} false words; {} ticks, {} last values, {} \
             left out and declared, {} gaps for {} trimmed, {} connections, closed {:?}",
            self.missing,
            self.double,
            self.disordered,
            self.false_words,
            self.ticks,
            self.values,
            self.skipped,
            self.gaps,
            self.trimmed,
            self.visits,
            self.closed
        )?;
        for example in &self.examples {
            write!(f, "\n  {example}")?;
        }
        Ok(())
    }
}

/// Asks again while a broker is coming up.
async fn retried<T>(ask: impl AsyncFn() -> Result<T, bus::api::ApiError>) -> Result<T> {
    eventually("the broker does not come up", async || match ask().await {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.is_retryable() => Ok(None),
        Err(error) => Err(error.into()),
    })
    .await
}

#[cfg(test)]
mod tests;
