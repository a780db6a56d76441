//! The file of calendars. Every error names the line and the field.

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use schemas::id::Venue;
use serde::Deserialize;
use toml::Spanned;

use super::{Calendar, Calendars, Closed, Rules, Session, Weekdays, zone};
use crate::bars::calendar::clock;

/// The longest file in bytes, and the most holidays and early closes of a venue.
const MAX_BYTES: u64 = 4 << 20;
const MAX_DAYS: usize = 10_000;

/// Why a file of calendars cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CalendarsError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path}: {problem}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, field and what is wrong.
        problem: String,
    },
}

/// Where in the text something is wrong, and what.
type Problem = (usize, String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    calendar: Vec<Raw>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    venue: Spanned<String>,
    time_zone: Option<Spanned<String>>,
    session: Option<Spanned<String>>,
    weekdays: Option<Spanned<Vec<String>>>,
    #[serde(default)]
    holidays: Vec<Spanned<Day>>,
    #[serde(default)]
    early_closes: BTreeMap<String, Spanned<String>>,
}

/// A day as TOML has it, or as a text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Day {
    Native(toml::value::Datetime),
    Text(String),
}

pub(super) fn load(path: &Path) -> Result<Calendars, CalendarsError> {
    let read = || {
        let mut text = String::new();
        let file = std::fs::File::open(path)?;
        file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|source| CalendarsError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text).map_err(|problem| CalendarsError::Syntax {
        path: path.to_owned(),
        problem,
    })
}

/// Reads the text of a file; what is wrong with it begins with the line.
pub(super) fn parse(text: &str) -> Result<Calendars, String> {
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_BYTES {
        return Err(format!("line 1: the file is longer than {MAX_BYTES} bytes"));
    }
    let located = |(at, problem): Problem| {
        let line = text.get(..at).unwrap_or_default().matches('\n').count() + 1;
        format!("line {line}: {problem}")
    };
    let file: File = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        located((at, error.message().to_owned()))
    })?;
    if file.calendar.is_empty() {
        return Err("line 1: there is no [[calendar]]".to_owned());
    }
    let mut venues = HashMap::new();
    for raw in file.calendar {
        let at = raw.venue.span().start;
        let (venue, rules) = raw.check().map_err(located)?;
        if venues.contains_key(&venue) {
            let problem = format!("venue {:?} has another calendar", venue.as_str());
            return Err(located((at, problem)));
        }
        venues.insert(venue, rules);
    }
    let usual = Arc::default();
    Ok(Calendars { venues, usual })
}

impl Raw {
    fn check(self) -> Result<(Venue, Rules), Problem> {
        let venue =
            Venue::new(self.venue.get_ref()).map_err(|error| at(&self.venue, error.to_string()))?;
        let zone = match &self.time_zone {
            None => TimeZone::UTC,
            Some(name) => {
                zone(name.get_ref()).map_err(|error| at(name, format!("time_zone: {error}")))?
            }
        };
        let session: Session = match &self.session {
            None => Session::default(),
            Some(text) => {
                let session = text.get_ref().parse();
                session.map_err(|error| at(text, format!("session: {error}")))?
            }
        };
        let weekdays = self.weekdays.as_ref().map(weekdays).transpose()?;
        let session = session.on(weekdays);
        let closed = Closed {
            holidays: holidays(&self.holidays, &self.venue)?,
            early: early_closes(&self.early_closes, &session, &self.venue)?,
        };
        let calendar = Calendar::new(zone.clone(), session.clone(), closed.clone());
        let rules = Rules {
            zone,
            session,
            weekdays,
            closed,
            calendar: Arc::new(calendar),
        };
        Ok((venue, rules))
    }
}

fn at<T>(field: &Spanned<T>, problem: String) -> Problem {
    (field.span().start, problem)
}

fn weekdays(field: &Spanned<Vec<String>>) -> Result<Weekdays, Problem> {
    let names = field.get_ref();
    if names.is_empty() {
        return Err(at(field, "weekdays must name a day".to_owned()));
    }
    let day = |name: &String| match name.as_str() {
        "mon" => Ok(Weekday::Monday),
        "tue" => Ok(Weekday::Tuesday),
        "wed" => Ok(Weekday::Wednesday),
        "thu" => Ok(Weekday::Thursday),
        "fri" => Ok(Weekday::Friday),
        "sat" => Ok(Weekday::Saturday),
        "sun" => Ok(Weekday::Sunday),
        _ => {
            let problem =
                format!("weekdays: {name:?} is none of mon, tue, wed, thu, fri, sat, sun");
            Err(at(field, problem))
        }
    };
    names.iter().map(day).collect()
}

fn few(count: usize, name: &str, venue: &Spanned<String>) -> Result<(), Problem> {
    if count > MAX_DAYS {
        let problem = format!("{name} has {count} entries, it must have at most {MAX_DAYS}");
        return Err(at(venue, problem));
    }
    Ok(())
}

fn holidays(
    fields: &[Spanned<Day>],
    venue: &Spanned<String>,
) -> Result<std::collections::BTreeSet<Date>, Problem> {
    few(fields.len(), "holidays", venue)?;
    let day = |field: &Spanned<Day>| {
        let text = match field.get_ref() {
            Day::Native(day) => day.to_string(),
            Day::Text(text) => text.clone(),
        };
        day(&text).ok_or_else(|| {
            let problem = format!("holidays: {text:?} is not a day such as 2026-12-25");
            at(field, problem)
        })
    };
    fields.iter().map(day).collect()
}

fn early_closes(
    fields: &BTreeMap<String, Spanned<String>>,
    session: &Session,
    venue: &Spanned<String>,
) -> Result<BTreeMap<Date, i32>, Problem> {
    few(fields.len(), "early_closes", venue)?;
    let ends = session.spans().first().zip(session.spans().last());
    let mut early = BTreeMap::new();
    for (date, close) in fields {
        let wrong = |what: String| at(close, format!("early_closes: {what}"));
        let Some((first, last)) = ends else {
            return Err(wrong("a session of 24x7 has no close".to_owned()));
        };
        let day =
            day(date).ok_or_else(|| wrong(format!("{date:?} is not a day such as 2026-12-24")))?;
        let text = close.get_ref();
        let minute = clock(text)
            .filter(|minute| (first.open.max(0) + 1..=last.close).contains(minute))
            .ok_or_else(|| {
                let hours = session.to_string();
                wrong(format!(
                    "{text:?} is not a time within {hours}, such as 1300"
                ))
            })?;
        early.insert(day, minute);
    }
    Ok(early)
}

/// A day and nothing more: `2026-12-25`.
fn day(text: &str) -> Option<Date> {
    let date: Date = (text.len() == 10).then(|| text.parse().ok()).flatten()?;
    (date.to_string() == text).then_some(date)
}
