//! Names, parameters, limits, descriptions.

use super::*;

fn refusal(name: &str, parameters: &[(&str, &str)]) -> IndicatorError {
    let parameters = parameters
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    parse(name, &parameters)
        .map(|made| made.to_string())
        .unwrap_err()
}

#[test]
fn an_unknown_name_is_refused_with_those_that_are_known() {
    let error = refusal("SMA", &[]);
    assert_eq!(error.parameter(), None);
    let text = error.to_string();
    assert!(
        text.starts_with("indicator \"SMA\" is not known; known are sma, wma"),
        "{text}"
    );
    let long = "x".repeat(100_000);
    assert!(refusal(&long, &[]).to_string().len() < 1000);
}

#[test]
fn an_error_names_the_parameter_and_its_limits() {
    let cases = [
        (
            "sma",
            "period",
            "0",
            "period must be a whole number from 1 to 1000, not \"0\"",
        ),
        (
            "sma",
            "period",
            "1001",
            "period must be a whole number from 1 to 1000, not \"1001\"",
        ),
        (
            "sma",
            "period",
            "14.5",
            "period must be a whole number from 1 to 1000, not \"14.5\"",
        ),
        (
            "sma",
            "period",
            "",
            "period must be a whole number from 1 to 1000, not \"\"",
        ),
        (
            "bbands",
            "deviations",
            "NaN",
            "deviations must be a number from 0.001 to 50, not \"NaN\"",
        ),
        (
            "bbands",
            "deviations",
            "inf",
            "deviations must be a number from 0.001 to 50, not \"inf\"",
        ),
        (
            "vwap",
            "anchor",
            "year",
            "anchor must be one of day, week, month, none, not \"year\"",
        ),
        (
            "vwap",
            "zone",
            "Mars",
            "zone must be a time zone such as UTC or Asia/Karachi, not \"Mars\"",
        ),
        (
            "sma",
            "length",
            "5",
            "sma has no parameter \"length\"; it has period, source",
        ),
        (
            "obv",
            "period",
            "5",
            "obv has no parameter \"period\"; it has none",
        ),
        ("macd", "fast", "26", "fast must be less than slow"),
        ("psar", "start", "0.5", "start must be less than max"),
    ];
    for (name, parameter, value, expected) in cases {
        let error = refusal(name, &[(parameter, value)]);
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.parameter(), Some(parameter));
    }
}

#[test]
fn the_limits_themselves_are_allowed() {
    for description in describe() {
        for parameter in description.parameters {
            let values = match parameter.limits {
                Limits::Integer { min, max, .. } => vec![min.to_string(), max.to_string()],
                Limits::Number { min, max, .. } => vec![min.to_string(), max.to_string()],
                Limits::Choice { of, .. } => of.iter().map(|word| (*word).to_owned()).collect(),
                Limits::Zone { .. } => vec!["Asia/Ho_Chi_Minh".to_owned()],
            };
            for value in values {
                let given = BTreeMap::from([(parameter.name.to_owned(), value.clone())]);
                match parse(description.name, &given) {
                    Ok(made) => assert!(made.to_string().contains(&value), "{made}"),
                    Err(IndicatorError::Order { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        }
    }
}

#[test]
fn a_label_is_the_same_for_the_same_indicator() {
    assert_eq!(indicator("macd", &[]).to_string(), "macd(12,26,9,close)");
    assert_eq!(
        indicator("macd", &[("fast", "012")]).to_string(),
        "macd(12,26,9,close)"
    );
    assert_eq!(
        indicator("bbands", &[("deviations", "2.50")]).to_string(),
        "bbands(20,2.5,close)"
    );
    assert_eq!(
        indicator("vwap", &[("zone", "asia/karachi")]).to_string(),
        "vwap(day,Asia/Karachi)"
    );
    assert_eq!(indicator("obv", &[]).to_string(), "obv()");
}

#[test]
fn a_description_says_what_can_be_asked_for() {
    let macd = describe().find(|known| known.name == "macd").unwrap();
    let json = serde_json::to_value(macd).unwrap();
    let fast = serde_json::json!(
        {"name": "fast", "type": "integer", "default": 12, "min": 1, "max": 1000}
    );
    assert_eq!(json["parameters"][0], fast);
    assert_eq!(
        json["outputs"][2],
        serde_json::json!({"name": "histogram", "shift": 0})
    );
    assert_eq!(json["title"], "Moving average convergence/divergence");
}

#[test]
fn the_source_is_the_price_that_was_asked_for() {
    let candle = bar(0, [1.0, 10.0, 2.0, 6.0], 1.0);
    let sources = [
        ("open", 1.0),
        ("high", 10.0),
        ("low", 2.0),
        ("close", 6.0),
        ("hl2", 6.0),
        ("hlc3", 6.0),
        ("ohlc4", 4.75),
    ];
    for (source, expected) in sources {
        let mut sma = indicator("sma", &[("period", "1"), ("source", source)]);
        let found = output(&mut sma, "sma", &[candle]);
        assert_eq!(found, [Some(expected)], "{source}");
    }
}

#[test]
fn a_vwap_starts_afresh_at_its_anchor_in_its_zone() {
    let at = |text: &str| {
        let time: jiff::Timestamp = text.parse().unwrap();
        UnixNanos::new(time.as_nanosecond().try_into().unwrap())
    };
    let cases = [
        ("day", "UTC", "2024-02-29T00:00:00Z"),
        ("day", "Asia/Karachi", "2024-02-29T19:00:00Z"),
        ("week", "UTC", "2024-02-26T00:00:00Z"),
        ("month", "Asia/Karachi", "2024-02-29T19:00:00Z"),
    ];
    for (anchor, zone, from) in cases {
        let mut vwap = indicator("vwap", &[("anchor", anchor), ("zone", zone)]);
        let now = at("2024-02-29T20:00:00Z");
        assert_eq!(vwap.anchor(now), Some(at(from)), "{anchor} {zone}");
        let before = Candle {
            start: at(from).offset(-1),
            ..bar(0, [1.0; 4], 1.0)
        };
        let after = Candle {
            start: now,
            ..bar(0, [5.0; 4], 1.0)
        };
        let found = output(&mut vwap, "vwap", &[before, after, after]);
        assert_eq!(found, [Some(1.0), Some(5.0), Some(5.0)]);
    }
    let vwap = indicator("vwap", &[("anchor", "none")]);
    assert_eq!(vwap.anchor(UnixNanos::EPOCH), None);
}
