//! Which calendar an instrument has: its own hours and zone, else its venue's, else 24x7 in UTC.

mod file;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use jiff::tz::TimeZone;
use schemas::id::Venue;
use schemas::tick::Inst;

use super::calendar::{Calendar, Closed, Session, SessionError, Weekdays};

pub use file::CalendarsError;

/// The calendars of venues.
#[derive(Clone, Debug, Default)]
pub struct Calendars {
    venues: HashMap<Venue, Rules>,
    usual: Arc<Calendar>,
}

/// What is known of a venue.
#[derive(Clone, Debug)]
struct Rules {
    zone: TimeZone,
    session: Session,
    /// Where the file names them.
    weekdays: Option<Weekdays>,
    closed: Closed,
    calendar: Arc<Calendar>,
}

impl Calendars {
    /// Reads a file of calendars, which is TOML:
    ///
    /// ```toml
    /// [[calendar]]
    /// venue = "nyse"
    /// time_zone = "America/New_York"           # UTC if absent
    /// session = "0930-1600"                    # 24x7 if absent
    /// weekdays = ["mon", "tue", "wed", "thu", "fri"]
    /// holidays = [2026-01-01, 2026-12-25]
    /// early_closes = { 2026-11-27 = "1300" }
    /// ```
    ///
    /// # Errors
    ///
    /// [`CalendarsError`] names the line and the field.
    pub fn load(path: &Path) -> Result<Self, CalendarsError> {
        file::load(path)
    }

    /// Reads the text of such a file.
    ///
    /// # Errors
    ///
    /// What is wrong, beginning with the line.
    pub fn parse(text: &str) -> Result<Self, String> {
        file::parse(text)
    }

    /// The calendar of an instrument; `inst` is what is known of it.
    ///
    /// Session and time zone are its own if it has them, holidays are its venue's.
    ///
    /// # Errors
    ///
    /// [`SessionError`] if its session or zone is none; its venue's calendar is then the best guess.
    pub fn of(&self, venue: &Venue, inst: Option<&Inst>) -> Result<Arc<Calendar>, SessionError> {
        let own = |inst: &&Inst| inst.session.is_some() || inst.time_zone.is_some();
        let Some(inst) = inst.filter(own) else {
            return Ok(self.of_venue(venue));
        };
        let rules = self.venues.get(venue);
        let zone = match &inst.time_zone {
            Some(name) => zone(name)?,
            None => rules.map_or(TimeZone::UTC, |rules| rules.zone.clone()),
        };
        let session = match &inst.session {
            Some(text) => {
                let session: Session = text.parse()?;
                session.on(rules.and_then(|rules| rules.weekdays))
            }
            None => rules.map_or_else(Session::default, |rules| rules.session.clone()),
        };
        let closed = rules.map_or_else(Closed::default, |rules| rules.closed.clone());
        Ok(Arc::new(Calendar::new(zone, session, closed)))
    }

    /// The calendar of a venue's instruments that have none of their own.
    pub fn of_venue(&self, venue: &Venue) -> Arc<Calendar> {
        let rules = self.venues.get(venue);
        Arc::clone(rules.map_or(&self.usual, |rules| &rules.calendar))
    }
}

fn zone(name: &str) -> Result<TimeZone, SessionError> {
    TimeZone::get(name).map_err(|_| SessionError::Zone(name.chars().take(64).collect()))
}

#[cfg(test)]
mod tests;
