//! Which calendar an instrument has, and which files are refused.

use jiff::civil::date;
use schemas::codec::from_json;
use schemas::tick::Tick;

use super::*;

const FILE: &str = r#"
[[calendar]]
venue = "nyse"
time_zone = "America/New_York"
session = "0930-1600"
holidays = [2026-01-01, "2026-12-25"]
early_closes = { 2026-11-27 = "1300" }

[[calendar]]
venue = "tase"
time_zone = "Asia/Jerusalem"
session = "1000-1715"
weekdays = ["sun", "mon", "tue", "wed", "thu"]
"#;

fn venue(name: &str) -> Venue {
    Venue::new(name).unwrap()
}

fn inst(fields: &str) -> Inst {
    let text = format!(r#"{{"k":"inst","v":"nyse","y":"A","tr":"1","ty":"equity"{fields}}}"#);
    let Tick::Inst(inst) = from_json(text.as_bytes()).unwrap() else {
        panic!("{text}");
    };
    inst
}

#[test]
fn an_instrument_has_its_own_hours_or_its_venues() {
    let calendars = Calendars::parse(FILE).unwrap();
    let of = |name: &str, fields: &str| {
        let calendar = calendars.of(&venue(name), Some(&inst(fields))).unwrap();
        (calendar.zone().to_owned(), calendar.session())
    };
    let pair = |zone: &str, session: &str| (zone.to_owned(), session.to_owned());
    assert_eq!(of("nyse", ""), pair("America/New_York", "0930-1600"));
    assert_eq!(of("binance", ""), pair("UTC", "24x7"));
    assert_eq!(
        of("nyse", r#","se":"0800-2000""#),
        pair("America/New_York", "0800-2000")
    );
    assert_eq!(
        of("nyse", r#","tz":"Asia/Tokyo""#),
        pair("Asia/Tokyo", "0930-1600")
    );
    assert_eq!(
        of("binance", r#","tz":"Asia/Tokyo""#),
        pair("Asia/Tokyo", "24x7")
    );
    // The venue's days hold for hours that name none.
    assert_eq!(of("tase", r#","se":"0930-1700""#).1, "0930-1700:12345");
    assert_eq!(of("tase", r#","se":"0930-1700:23456""#).1, "0930-1700");
    let calendar = calendars
        .of(&venue("nyse"), Some(&inst(r#","se":"0800-2000""#)))
        .unwrap();
    assert!(
        !calendar.is_open(date(2026, 12, 25)),
        "a holiday of the venue"
    );
    assert!(calendar.is_open(date(2026, 12, 24)) && !calendar.is_open(date(2026, 12, 26)));
    assert_eq!(calendar.holidays().count(), 2);
    let early = (date(2026, 11, 27), "0800-1300".to_owned());
    assert!(calendar.early_closes().eq([early]));
    for (fields, problem) in [
        (r#","se":"always""#, "session \"always\" is neither 24x7"),
        (
            r#","tz":"Mars/Olympus""#,
            "time zone \"Mars/Olympus\" is not",
        ),
        (
            r#","tz":"../../etc/passwd""#,
            "time zone \"../../etc/passwd\" is not",
        ),
    ] {
        let refused = calendars
            .of(&venue("nyse"), Some(&inst(fields)))
            .unwrap_err();
        assert!(refused.to_string().starts_with(problem), "{refused}");
    }
}

#[test]
fn a_wrong_file_is_refused_by_line_and_field() {
    let session = "[[calendar]]\nvenue = \"x\"\nsession = \"0930-1600\"\n";
    let around = "[[calendar]]\nvenue = \"x\"\n";
    for (text, problem) in [
        (String::new(), "line 1: there is no [[calendar]]"),
        (
            "[[calender]]\n".to_owned(),
            "line 1: unknown field `calender`",
        ),
        (
            "[[calendar]]\nvenue = 7\n".to_owned(),
            "line 2: invalid type",
        ),
        (
            "\n[[calendar]]\nsession = \"24x7\"\n".to_owned(),
            "line 2: missing field `venue`",
        ),
        (
            "[[calendar]]\nvenue = \"X Y\"\n".to_owned(),
            "line 2: venue \"X Y\" is not",
        ),
        (
            format!("{around}zone = \"UTC\"\n"),
            "line 3: unknown field `zone`",
        ),
        (
            format!("{around}time_zone = \"Mars\"\n"),
            "line 3: time_zone: time zone \"Mars\"",
        ),
        (
            format!("{around}session = \"9-5\"\n"),
            "line 3: session: session \"9-5\" is neither",
        ),
        (
            format!("{around}session = \"0900-1200,1100-1500\"\n"),
            "line 3: session: session",
        ),
        (
            format!("{around}weekdays = []\n"),
            "line 3: weekdays must name a day",
        ),
        (
            format!("{around}weekdays = [\"monday\"]\n"),
            "line 3: weekdays: \"monday\" is none",
        ),
        (
            format!("{around}holidays = [\n  2026-01-01,\n  \"2026-02-30\",\n]\n"),
            "line 5: holidays: \"2026-02-30\"",
        ),
        (
            format!("{around}holidays = [2026-01-01T00:00:00Z]\n"),
            "line 3: holidays: \"2026-01-01T",
        ),
        (format!("{around}holidays = [20260101]\n"), "line 3: "),
        (
            format!("{around}early_closes = {{ 2026-01-02 = \"1300\" }}\n"),
            "line 3: early_closes: a session of 24x7",
        ),
        (
            format!("{session}early_closes = {{ 2026-01-32 = \"1300\" }}\n"),
            "line 4: early_closes: \"2026-01-32\"",
        ),
        (
            format!("{session}early_closes = {{ 2026-01-02 = \"13:00\" }}\n"),
            "line 4: early_closes: \"13:00\" is not",
        ),
        (
            format!("{session}early_closes = {{ 2026-01-02 = \"0930\" }}\n"),
            "line 4: early_closes: \"0930\" is not",
        ),
        (
            format!("{session}early_closes = {{ 2026-01-02 = \"1700\" }}\n"),
            "line 4: early_closes: \"1700\" is not",
        ),
        (
            format!("{around}\n{around}"),
            "line 5: venue \"x\" has another calendar",
        ),
        (
            format!("{around}session = \"24x7\"\nsession = \"24x7\"\n"),
            "line 4: duplicate key",
        ),
    ] {
        let refused = Calendars::parse(&text).unwrap_err();
        assert!(refused.starts_with(problem), "{text}: {refused}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("calendars.toml");
    let refused = Calendars::load(&path).unwrap_err();
    assert!(matches!(&refused, CalendarsError::Read { .. }), "{refused}");
    assert!(refused.to_string().contains("calendars.toml"));
    std::fs::write(&path, "[[calendar]]\n\nhours = 3\n").unwrap();
    let refused = Calendars::load(&path).unwrap_err().to_string();
    assert!(
        refused.contains("calendars.toml: line 3: unknown field `hours`"),
        "{refused}"
    );
    std::fs::write(&path, FILE).unwrap();
    assert_eq!(
        Calendars::load(&path)
            .unwrap()
            .of_venue(&venue("nyse"))
            .session(),
        "0930-1600"
    );
}
