//! Bars of any length: stored ones as they are, others made of shorter ones that are stored.
//!
//! | module | does |
//! |---|---|
//! | [`Resolution`] | how long bars are, as a text |
//! | [`Calendar`], [`Calendars`] | where a bar begins and ends; which calendar an instrument has |
//! | `rollup` | makes one bar of many, exactly |
//! | [`Reader`] | finds what is stored and reads it |
//! | [`Newest`] | what the stream says last, and whether it joins what is stored |
//!
//! # Calendars
//!
//! A calendar divides all of time into trading days, so that everything stored is in exactly one bar
//! of each length, traded in session or not. A day lasts from midnight to midnight in the calendar's
//! time zone. Of a session over midnight, such as `1800-1700`, it lasts from one opening to the next
//! and has the date on which it closes; a holiday of such a calendar belongs to the next day if there
//! is trade then. Days without trade have no bars, as no bar is inferred from nothing.
//!
//! Weeks (from Monday), months and years are made of these days. Several days, weeks or months are
//! counted from 1 January 1970, the week of that day, and the year 0. Shorter bars are counted from
//! the session's opening, of each part of the session anew, and end with it; what lies before the
//! opening is counted from the beginning of the day, and what lies behind the close from the close.
//! They are counted in elapsed time, so when clocks change the day has one more or less.
//!
//! Stored bars are aligned to UTC. A stored interval serves a longer bar if every beginning and end in
//! the calendar is one of its own too; where offsets changed before the year 2000 that is not looked
//! at. A day in New York is made of hours, an hour from half past nine of quarters. The stored
//! interval is itself what was asked for where the calendar is 24x7 in UTC.
//!
//! The longest interval that serves is read from its first bar in the range to its last; what lies
//! before and behind is made of shorter ones. So the newest bar is what was stored of it so far. It is a
//! [`Kind::Form`](schemas::id::Kind::Form), like a forming bar on the stream, until its last part is
//! there or its period was over a minute ago.

mod calendar;
mod calendars;
mod newest;
mod reader;
mod resolution;
mod rollup;

pub use calendar::{Calendar, Period, SessionError};
pub use calendars::{Calendars, CalendarsError};
pub use newest::Newest;
pub use reader::{Ask, Candles, MAX_BARS, MAX_PARTS, ReadError, Reader};
pub use resolution::{Resolution, ResolutionError};
