//! Periods against hand-worked expectations: sessions, clock changes, holidays, and that time is
//! divided without holes.

use std::sync::Arc;

use proptest::prelude::*;
use schemas::id::Venue;

use super::*;
use crate::bars::calendars::Calendars;

/// The calendar of a file with one venue.
fn calendar(lines: &str) -> Arc<Calendar> {
    let text = format!("[[calendar]]\nvenue = \"x\"\n{lines}");
    let calendars = Calendars::parse(&text).unwrap();
    calendars.of_venue(&Venue::new("x").unwrap())
}

fn new_york() -> Arc<Calendar> {
    calendar(
        "time_zone = \"America/New_York\"\nsession = \"0930-1600\"\n\
         holidays = [2026-12-25]\nearly_closes = { 2026-11-27 = \"1300\" }",
    )
}

/// The futures' day: from six in the evening before to five.
fn chicago() -> Arc<Calendar> {
    calendar(
        "time_zone = \"America/New_York\"\nsession = \"1800-1700\"\n\
         holidays = [2026-05-25, 2026-12-25]",
    )
}

fn at(text: &str) -> UnixNanos {
    let time: Timestamp = text.parse().unwrap();
    UnixNanos::new(time.as_nanosecond().try_into().unwrap())
}

/// Start, end and date of the period that contains a time.
fn period(calendar: &Calendar, resolution: &str, time: &str) -> String {
    let period = calendar.period(resolution.parse().unwrap(), at(time));
    let text = |at: UnixNanos| {
        Timestamp::from_nanosecond(at.get().into())
            .unwrap()
            .to_string()
    };
    format!(
        "{} {} {}",
        text(period.start),
        text(period.end),
        period.date
    )
}

macro_rules! periods {
    ($calendar:expr, $($resolution:literal $time:literal => $expected:literal,)*) => {
        $(assert_eq!(period(&$calendar, $resolution, $time), $expected, "{} {}", $resolution, $time);)*
    };
}

#[test]
fn around_the_clock_in_utc() {
    periods! { Calendar::default(),
        "5s" "2026-03-04T05:06:07.9Z" => "2026-03-04T05:06:05Z 2026-03-04T05:06:10Z 2026-03-04",
        "3m" "2026-03-04T05:06:07Z" => "2026-03-04T05:06:00Z 2026-03-04T05:09:00Z 2026-03-04",
        "4h" "2026-03-04T05:06:07Z" => "2026-03-04T04:00:00Z 2026-03-04T08:00:00Z 2026-03-04",
        // What does not divide the day ends with it.
        "7h" "2026-03-04T22:00:00Z" => "2026-03-04T21:00:00Z 2026-03-05T00:00:00Z 2026-03-04",
        "1d" "2026-03-04T00:00:00Z" => "2026-03-04T00:00:00Z 2026-03-05T00:00:00Z 2026-03-04",
        // 2026-03-04 is day 20,516: the third of its three.
        "3d" "2026-03-04T05:06:07Z" => "2026-03-02T00:00:00Z 2026-03-05T00:00:00Z 2026-03-02",
        "1w" "2026-03-04T05:06:07Z" => "2026-03-02T00:00:00Z 2026-03-09T00:00:00Z 2026-03-02",
        "1w" "2026-03-01T23:59:59Z" => "2026-02-23T00:00:00Z 2026-03-02T00:00:00Z 2026-02-23",
        "1M" "2024-02-29T12:00:00Z" => "2024-02-01T00:00:00Z 2024-03-01T00:00:00Z 2024-02-01",
        "3M" "2026-06-30T12:00:00Z" => "2026-04-01T00:00:00Z 2026-07-01T00:00:00Z 2026-04-01",
        "1y" "2026-12-31T23:59:59Z" => "2026-01-01T00:00:00Z 2027-01-01T00:00:00Z 2026-01-01",
        "1w" "1969-12-31T12:00:00Z" => "1969-12-29T00:00:00Z 1970-01-05T00:00:00Z 1969-12-29",
    }
}

#[test]
fn sessions_are_counted_from_their_opening() {
    periods! { new_york(),
        // Winter: half past nine is 14:30 in UTC; summer: 13:30.
        "1h" "2026-11-20T14:30:00Z" => "2026-11-20T14:30:00Z 2026-11-20T15:30:00Z 2026-11-20",
        "1h" "2026-11-20T20:59:59Z" => "2026-11-20T20:30:00Z 2026-11-20T21:00:00Z 2026-11-20",
        "1h" "2026-07-20T13:30:00Z" => "2026-07-20T13:30:00Z 2026-07-20T14:30:00Z 2026-07-20",
        "4h" "2026-11-20T18:30:00Z" => "2026-11-20T18:30:00Z 2026-11-20T21:00:00Z 2026-11-20",
        // Behind the close and before the opening.
        "1h" "2026-11-20T21:00:00Z" => "2026-11-20T21:00:00Z 2026-11-20T22:00:00Z 2026-11-20",
        "1h" "2026-11-20T14:29:59Z" => "2026-11-20T14:00:00Z 2026-11-20T14:30:00Z 2026-11-20",
        "1h" "2026-11-20T13:00:00Z" => "2026-11-20T13:00:00Z 2026-11-20T14:00:00Z 2026-11-20",
        // The day after Thanksgiving ends at one.
        "1h" "2026-11-27T17:45:00Z" => "2026-11-27T17:30:00Z 2026-11-27T18:00:00Z 2026-11-27",
        "1h" "2026-11-27T18:15:00Z" => "2026-11-27T18:00:00Z 2026-11-27T19:00:00Z 2026-11-27",
        // On Christmas and on Saturdays nothing opens.
        "1h" "2026-12-25T15:10:00Z" => "2026-12-25T15:00:00Z 2026-12-25T16:00:00Z 2026-12-25",
        "1h" "2026-11-21T15:10:00Z" => "2026-11-21T15:00:00Z 2026-11-21T16:00:00Z 2026-11-21",
    }
    let tokyo = calendar("time_zone = \"Asia/Tokyo\"\nsession = \"0900-1130,1230-1530\"");
    periods! { tokyo,
        "1h" "2026-11-20T02:15:00Z" => "2026-11-20T02:00:00Z 2026-11-20T02:30:00Z 2026-11-20",
        "1h" "2026-11-20T02:45:00Z" => "2026-11-20T02:30:00Z 2026-11-20T03:30:00Z 2026-11-20",
        "1h" "2026-11-20T03:30:00Z" => "2026-11-20T03:30:00Z 2026-11-20T04:30:00Z 2026-11-20",
    }
}

#[test]
fn days_are_those_of_the_zone_when_clocks_change_too() {
    periods! { new_york(),
        "1d" "2026-11-20T03:00:00Z" => "2026-11-19T05:00:00Z 2026-11-20T05:00:00Z 2026-11-19",
        // 23 hours on 8 March, 25 on 1 November.
        "1d" "2026-03-08T12:00:00Z" => "2026-03-08T05:00:00Z 2026-03-09T04:00:00Z 2026-03-08",
        "1d" "2026-11-01T12:00:00Z" => "2026-11-01T04:00:00Z 2026-11-02T05:00:00Z 2026-11-01",
        "1w" "2026-11-01T12:00:00Z" => "2026-10-26T04:00:00Z 2026-11-02T05:00:00Z 2026-10-26",
        "1M" "2026-11-20T12:00:00Z" => "2026-11-01T04:00:00Z 2026-12-01T05:00:00Z 2026-11-01",
    }
    let berlin = calendar("time_zone = \"Europe/Berlin\"");
    periods! { berlin,
        "4h" "2026-03-29T00:30:00Z" => "2026-03-28T23:00:00Z 2026-03-29T03:00:00Z 2026-03-29",
        "4h" "2026-03-29T21:30:00Z" => "2026-03-29T19:00:00Z 2026-03-29T22:00:00Z 2026-03-29",
        "4h" "2026-10-25T22:30:00Z" => "2026-10-25T22:00:00Z 2026-10-25T23:00:00Z 2026-10-25",
    }
    // Here midnight itself was left out.
    let sao_paulo = calendar("time_zone = \"America/Sao_Paulo\"");
    periods! { sao_paulo,
        "1d" "2018-11-04T12:00:00Z" => "2018-11-04T03:00:00Z 2018-11-05T02:00:00Z 2018-11-04",
        "1d" "2018-11-04T02:59:59Z" => "2018-11-03T03:00:00Z 2018-11-04T03:00:00Z 2018-11-03",
    }
}

#[test]
fn a_day_over_midnight_has_the_date_on_which_it_closes() {
    periods! { chicago(),
        "1d" "2026-11-19T22:59:59Z" => "2026-11-18T23:00:00Z 2026-11-19T23:00:00Z 2026-11-19",
        "1d" "2026-11-19T23:00:00Z" => "2026-11-19T23:00:00Z 2026-11-20T23:00:00Z 2026-11-20",
        // Sunday evening is Monday.
        "1d" "2026-11-22T23:00:00Z" => "2026-11-22T23:00:00Z 2026-11-23T23:00:00Z 2026-11-23",
        "1w" "2026-11-22T23:00:00Z" => "2026-11-22T23:00:00Z 2026-11-29T23:00:00Z 2026-11-23",
        "1M" "2026-11-30T23:00:00Z" => "2026-11-30T23:00:00Z 2026-12-31T23:00:00Z 2026-12-01",
        "4h" "2026-11-20T02:59:00Z" => "2026-11-19T23:00:00Z 2026-11-20T03:00:00Z 2026-11-20",
        "4h" "2026-11-20T21:59:00Z" => "2026-11-20T19:00:00Z 2026-11-20T22:00:00Z 2026-11-20",
        // Memorial Day, a Monday, belongs to Tuesday; Christmas, a Friday, stands for itself.
        "1d" "2026-05-25T15:00:00Z" => "2026-05-24T22:00:00Z 2026-05-26T22:00:00Z 2026-05-26",
        "1d" "2026-05-26T15:00:00Z" => "2026-05-24T22:00:00Z 2026-05-26T22:00:00Z 2026-05-26",
        "1d" "2026-12-25T15:00:00Z" => "2026-12-24T23:00:00Z 2026-12-25T23:00:00Z 2026-12-25",
        "1w" "2026-05-25T15:00:00Z" => "2026-05-24T22:00:00Z 2026-05-31T22:00:00Z 2026-05-25",
        // Clocks change on a Sunday at two: that is before it opens.
        "1d" "2026-11-01T22:59:59Z" => "2026-10-31T22:00:00Z 2026-11-01T23:00:00Z 2026-11-01",
        "1d" "2026-11-02T12:00:00Z" => "2026-11-01T23:00:00Z 2026-11-02T23:00:00Z 2026-11-02",
    }
}

#[test]
fn what_is_stored_serves_where_it_begins_and_ends_with_the_bar() {
    let longest = |calendar: &Calendar, resolution: &str| {
        let resolution = resolution.parse().unwrap();
        let serves = |interval: &&Interval| calendar.serves(**interval, resolution);
        Interval::ALL.iter().rev().find(serves).unwrap().as_str()
    };
    let utc = Calendar::default();
    for (resolution, stored) in [
        ("1s", "1s"),
        ("5s", "1s"),
        ("1m", "1m"),
        ("3m", "1m"),
        ("30m", "15m"),
        ("1h", "1h"),
        ("4h", "1h"),
        ("1d", "1d"),
        ("1w", "1d"),
        ("1M", "1d"),
        ("1y", "1d"),
    ] {
        assert_eq!(longest(&utc, resolution), stored, "{resolution}");
    }
    for (resolution, stored) in [
        ("5m", "5m"),
        ("30m", "15m"),
        ("1h", "15m"),
        ("4h", "15m"),
        ("1d", "1h"),
        ("1w", "1h"),
    ] {
        assert_eq!(longest(&new_york(), resolution), stored, "{resolution}");
    }
    assert_eq!(longest(&chicago(), "4h"), "1h");
    assert_eq!(
        longest(&calendar("time_zone = \"Asia/Kolkata\""), "1d"),
        "15m"
    );
    assert_eq!(longest(&calendar("session = \"0907-1600\""), "1h"), "1m");
    assert_eq!(longest(&calendar("session = \"0907-1600\""), "1d"), "1d");
    assert_eq!(longest(&calendar("session = \"2010-1600\""), "1d"), "5m");
    let lord_howe = calendar("time_zone = \"Australia/Lord_Howe\"");
    assert_eq!(
        longest(&lord_howe, "1d"),
        "15m",
        "its summer is half an hour"
    );
}

#[test]
fn sessions_are_written_as_they_are_read() {
    for (text, written) in [
        ("24x7", "24x7"),
        ("24x7:1234567", "24x7"),
        ("0930-1600", "0930-1600"),
        ("0930-1600:23456", "0930-1600"),
        ("0930-1600:1234567", "0930-1600:1234567"),
        ("1300-1500,0930-1200", "0930-1200,1300-1500"),
        ("1800-1700", "1800-1700"),
        ("0000-0000", "0000-0000"),
        ("0000-2400", "0000-0000"),
        ("0900-1500,1700-0200", "1700-0200,0900-1500"),
    ] {
        let session: Session = text.parse().unwrap();
        assert_eq!(session.to_string(), written, "{text}");
        let again: Session = written.parse().unwrap();
        let parts = (again.spans(), again.weekdays());
        assert_eq!(parts, (session.spans(), session.weekdays()), "{text}");
    }
    // 24x7 stands alone in TradingView: days go with hours.
    let working: Session = "24x7:23456".parse().unwrap();
    assert_eq!(working.to_string(), "0000-0000:23456");
    let again: Session = working.to_string().parse().unwrap();
    assert_eq!(again.weekdays(), working.weekdays());
    let weekend: Session = "24x7:17".parse().unwrap();
    assert_eq!(weekend.to_string(), "0000-0000:17");
    for text in [
        "",
        "24X7",
        "930-1600",
        "0930",
        "0930-1660",
        "2500-2600",
        "0930-1600,",
        "0930-1600:",
        "0930-1600:8",
        "0930-1600:0",
        "09:30-16:00",
        "０９３０-1600",
        "0100-0101,0200-0201,0300-0301,0400-0401,0500-0501,0600-0601,0700-0701,0800-0801,0900-0901",
    ] {
        let refused = text.parse::<Session>().unwrap_err();
        assert!(
            matches!(refused, SessionError::Malformed(_)),
            "{text}: {refused}"
        );
    }
    for text in [
        "0930-1200,1100-1500",
        "0000-2400,0930-1600",
        "1800-1700,1630-1645",
        "1800-1700,1730-1830",
    ] {
        let refused = text.parse::<Session>().unwrap_err();
        assert!(
            matches!(refused, SessionError::Overlap(_)),
            "{text}: {refused}"
        );
    }
}

#[test]
fn a_day_that_ends_early_has_fewer_hours() {
    let hours = |session: &str, minute: i32| session.parse::<Session>().unwrap().until(minute);
    let hours = |session, minute| hours(session, minute).unwrap_or_default();
    assert_eq!(hours("0930-1600", 780), "0930-1300");
    assert_eq!(
        hours("0900-1130,1230-1530:23456", 780),
        "0900-1130,1230-1300"
    );
    assert_eq!(hours("0900-1130,1230-1530", 720), "0900-1130");
    assert_eq!(hours("1800-1700", 780), "1800-1300");
    // What closes before is as ever, and what opens later or never closes has no such hours.
    for (session, minute) in [("0930-1300", 780), ("1400-1600", 780), ("24x7", 780)] {
        assert_eq!(hours(session, minute), "", "{session}");
    }
    let closes = calendar(
        "time_zone = \"America/New_York\"\nsession = \"0930-1600\"\nholidays = [2026-12-24]\n\
         early_closes = { 2026-11-27 = \"1300\", 2026-12-24 = \"1300\", 2026-11-28 = \"1300\" }",
    );
    let days = closes
        .early_closes()
        .map(|(date, hours)| format!("{hours}:{date}"));
    assert_eq!(days.collect::<Vec<_>>(), ["0930-1300:2026-11-27"]);
}

fn some_calendar() -> impl Strategy<Value = Arc<Calendar>> {
    let zones = prop::sample::select(vec![
        "UTC",
        "America/New_York",
        "Asia/Kolkata",
        "Australia/Lord_Howe",
        "America/Sao_Paulo",
        "Pacific/Apia",
        "Europe/London",
        "America/Godthab",
    ]);
    let sessions = prop::sample::select(vec![
        "24x7",
        "0930-1600",
        "0900-1130,1230-1530",
        "1800-1700",
        "2100-0230,0900-1500",
        "0000-2400:1234567",
        "1700-1700:23456",
    ]);
    (zones, sessions).prop_map(|(zone, session)| {
        calendar(&format!(
            "time_zone = \"{zone}\"\nsession = \"{session}\"\n\
             holidays = [2026-01-01, 2026-03-29, 2026-05-25, 2026-05-26, 2026-12-25]"
        ))
    })
}

fn some_resolution() -> impl Strategy<Value = Resolution> {
    let known = vec![
        "1s", "7s", "1m", "45m", "1h", "5h", "1d", "3d", "1w", "2w", "1M", "3M", "1y",
    ];
    prop::sample::select(known).prop_map(|text| text.parse().unwrap())
}

proptest! {
    #[test]
    fn time_is_divided_without_holes(
        calendar in some_calendar(),
        resolution in some_resolution(),
        // From 1995 to 2032: clocks change in both directions.
        second in 788_918_400_i64..1_956_528_000,
    ) {
        let at = UnixNanos::new(second * SECOND);
        let period = calendar.period(resolution, at);
        prop_assert!(period.start <= at && at < period.end, "{period:?}");
        prop_assert_eq!(calendar.period(resolution, period.start), period);
        prop_assert_eq!(calendar.period(resolution, period.end.offset(-1)), period);
        let next = calendar.period(resolution, period.end);
        prop_assert_eq!(next.start, period.end);
        prop_assert!(next.date >= period.date);
        let before = calendar.period(resolution, period.start.offset(-1));
        prop_assert_eq!(before.end, period.start);
        // A grid that has seen other times says the same.
        let mut grid = Grid::new(&calendar, resolution);
        for known in [period.end, before.start, at] {
            prop_assert_eq!(grid.period(known), calendar.period(resolution, known));
        }
        // What serves begins and ends where the bar does.
        for &interval in Interval::ALL {
            if calendar.serves(interval, resolution) && second >= 946_684_800 {
                prop_assert_eq!(period.start.get() % interval.nanos(), 0);
                prop_assert_eq!(period.end.get() % interval.nanos(), 0);
            }
        }
    }

    #[test]
    fn any_time_has_a_period(calendar in some_calendar(), resolution in some_resolution(), at: i64) {
        for at in [at, i64::MIN, i64::MIN + 1, i64::MAX - 1, i64::MAX] {
            let period = calendar.period(resolution, UnixNanos::new(at));
            prop_assert!(period.start.get() <= at && at <= period.end.get());
        }
    }
}
