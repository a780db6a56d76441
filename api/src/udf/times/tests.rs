//! Times against hand-worked expectations, and that no page repeats or skips a bar.

use std::sync::Arc;

use jiff::Timestamp;
use proptest::prelude::*;
use schemas::id::Venue;

use super::*;
use crate::bars::Calendars;

fn calendar(lines: &str) -> Arc<Calendar> {
    let text = format!("[[calendar]]\nvenue = \"x\"\n{lines}");
    let calendars = Calendars::parse(&text).unwrap();
    calendars.of_venue(&Venue::new("x").unwrap())
}

fn at(text: &str) -> UnixNanos {
    let time: Timestamp = text.parse().unwrap();
    UnixNanos::new(time.as_nanosecond().try_into().unwrap())
}

fn text(at: UnixNanos) -> String {
    let at = Timestamp::from_nanosecond(at.get().into()).unwrap();
    at.to_string()
}

/// The time of the bar that contains a moment; where the bar starts, that time leads back to.
fn time(calendar: &Calendar, resolution: &str, moment: &str) -> String {
    let resolution = resolution.parse().unwrap();
    let times = Times::new(calendar, resolution);
    let start = calendar.period(resolution, at(moment)).start;
    let time = times.of(start);
    assert_eq!(text(times.start_from(time)), text(start), "from {moment}");
    assert_eq!(text(times.start_to(time)), text(start), "to {moment}");
    text(time)
}

#[test]
fn a_day_has_the_date_on_which_it_trades() {
    let karachi = calendar("time_zone = \"Asia/Karachi\"\nholidays = [2026-06-01, 2026-06-02]");
    let chicago = calendar(
        "time_zone = \"America/Chicago\"\nsession = \"1700-1600\"\nholidays = [2026-05-25]",
    );
    let utc = Calendar::default();
    for (calendar, resolution, moment, expected) in [
        // Monday begins at 19:00 on Sunday.
        (&*karachi, "1d", "2026-03-01T19:00:00Z", "2026-03-02"),
        (&*karachi, "1d", "2026-03-02T18:59:59Z", "2026-03-02"),
        (&*karachi, "1w", "2026-03-01T19:00:00Z", "2026-03-02"),
        (&*karachi, "1M", "2026-03-31T18:59:59Z", "2026-03-01"),
        (&*karachi, "1M", "2026-06-15T00:00:00Z", "2026-06-03"),
        // Traded although it is a holiday: it is a day of its own.
        (&*karachi, "1d", "2026-06-01T12:00:00Z", "2026-06-01"),
        (&*chicago, "1d", "2026-03-01T23:00:00Z", "2026-03-02"),
        (&*chicago, "1d", "2026-03-02T22:59:59Z", "2026-03-02"),
        // Memorial Day is a part of Tuesday, with which the week begins.
        (&*chicago, "1d", "2026-05-25T15:00:00Z", "2026-05-26"),
        (&*chicago, "1w", "2026-05-25T15:00:00Z", "2026-05-26"),
        // The first of November is a Sunday.
        (&*chicago, "1M", "2026-11-20T15:00:00Z", "2026-11-02"),
        (&utc, "1d", "2026-03-02T00:00:00Z", "2026-03-02"),
        (&utc, "1d", "2026-03-02T23:59:59Z", "2026-03-02"),
        (&utc, "1w", "2026-03-04T00:00:00Z", "2026-03-02"),
        (&utc, "1M", "2026-03-04T00:00:00Z", "2026-03-01"),
    ] {
        let expected = format!("{expected}T00:00:00Z");
        assert_eq!(time(calendar, resolution, moment), expected, "{moment}");
    }
    let hour = time(&karachi, "1h", "2026-03-01T19:10:00Z");
    assert_eq!(
        hour, "2026-03-01T19:00:00Z",
        "shorter ones start when they do"
    );
}

#[test]
fn a_clock_within_a_day_reaches_what_has_begun() {
    let karachi = calendar("time_zone = \"Asia/Karachi\"");
    let times = Times::new(&karachi, Resolution::DAY);
    // On Sunday at 20:00 Monday has begun; at 18:00 it has not; in New York Monday begins later.
    let end = |moment: &str| text(times.start_to(at(moment)));
    assert_eq!(end("2026-03-01T20:00:00Z"), "2026-03-01T20:00:00Z");
    assert_eq!(end("2026-03-01T18:00:00Z"), "2026-03-01T19:00:00Z");
    assert_eq!(end("2026-03-02T00:00:00Z"), "2026-03-01T19:00:00Z");
    let new_york = calendar("time_zone = \"America/New_York\"");
    let times = Times::new(&new_york, Resolution::DAY);
    let end = text(times.start_to(at("2026-03-02T02:00:00Z")));
    assert_eq!(end, "2026-03-03T05:00:00Z", "its date has come");
}

fn some_calendar() -> impl Strategy<Value = Arc<Calendar>> {
    let zones = prop::sample::select(vec![
        "UTC",
        "Asia/Karachi",
        "America/Chicago",
        "America/Sao_Paulo",
        "Australia/Lord_Howe",
        "Pacific/Kiritimati",
    ]);
    let sessions = prop::sample::select(vec![
        "24x7",
        "0930-1600",
        "1800-1700",
        "1700-1700:234567",
        "2100-0230,0900-1500",
    ]);
    (zones, sessions).prop_map(|(zone, session)| {
        calendar(&format!(
            "time_zone = \"{zone}\"\nsession = \"{session}\"\n\
             holidays = [2026-01-01, 2026-03-29, 2026-05-25, 2026-05-26, 2026-06-01, 2026-12-25]"
        ))
    })
}

proptest! {
    #[test]
    fn pages_join_wherever_one_ends(
        calendar in some_calendar(),
        resolution in prop::sample::select(vec!["1h", "1d", "3d", "1w", "1M", "3M"]),
        second in 1_735_689_600_i64..1_830_297_600,
    ) {
        let resolution = resolution.parse().unwrap();
        let times = Times::new(&calendar, resolution);
        let period = calendar.period(resolution, UnixNanos::new(second * 1_000_000_000));
        let (time, next) = (times.of(period.start), times.of(period.end));
        prop_assert!(time < next, "{period:?}");
        prop_assert_eq!(times.start_from(time), period.start);
        prop_assert_eq!(times.start_to(time), period.start);
        prop_assert_eq!(times.start_to(next), period.end);
        prop_assert_eq!(resolution.is_intraday() || time.get() % DAY == 0, true);
        if !resolution.is_intraday() {
            prop_assert_eq!(times.start_from(time.offset(1)), period.end);
        }
    }

    #[test]
    fn any_time_is_answered(calendar in some_calendar(), at: i64) {
        let times = Times::new(&calendar, Resolution::DAY);
        for at in [at, i64::MIN, i64::MIN + 1, i64::MAX - 1, i64::MAX] {
            let at = UnixNanos::new(at);
            prop_assert!(times.start_from(at) <= times.start_to(at));
            prop_assert!(times.of(at).get().abs_diff(at.get()) < 3 * DAY.unsigned_abs());
        }
    }
}
