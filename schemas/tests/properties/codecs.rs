//! Codecs: every tick comes back as it was, digit by digit, from a browser too.

use proptest::prelude::*;
use schemas::codec::{from_json, from_msgpack, to_json, to_msgpack, transcode};
use schemas::decimal::{DecimalError, Price, Size, Value as Decimal};
use schemas::position::{Cursor, Epoch, StreamSeq};
use schemas::tick::Tick;
use schemas::time::UnixNanos;
use schemas::ws::{Encoding, From, ServerMessage, push_data};
use serde_json::Value;

use super::any::{COUNTS, digits, signed_digits, tick};

/// What is left of JSON in a browser, where every number is a float of 64 bits.
fn browsed(value: Value) -> Value {
    match value {
        Value::Number(number) => {
            let float = number.as_f64().unwrap();
            serde_json::from_str(&float.to_string()).unwrap()
        }
        Value::Array(items) => items.into_iter().map(browsed).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(key, value)| (key, browsed(value)))
            .collect(),
        text @ (Value::Null | Value::Bool(_) | Value::String(_)) => text,
    }
}

proptest! {
    #[test]
    fn codecs_lose_nothing_and_agree(tick in tick()) {
        let (packed, json) = (to_msgpack(&tick).unwrap(), to_json(&tick).unwrap());
        prop_assert_eq!(&from_msgpack(&packed).unwrap(), &tick);
        prop_assert_eq!(&from_json(&json).unwrap(), &tick);
        prop_assert_eq!(&serde_json::from_slice::<Tick>(&json).unwrap(), &tick);
        prop_assert_eq!(&rmp_serde::from_slice::<Tick>(&packed).unwrap(), &tick);
        let mut transcoded = Vec::new();
        transcode(&packed, &mut transcoded).unwrap();
        prop_assert_eq!(String::from_utf8(transcoded).unwrap(), String::from_utf8(json).unwrap());
    }

    #[test]
    fn a_delivery_reads_back_in_both_encodings(tick in tick(), s in 1..COUNTS, x in 0..3_u32) {
        let (c, s, p) = (tick.topic().to_string(), StreamSeq::new(s), StreamSeq::new(s / 2));
        let (mut json, mut packed) = (Vec::new(), Vec::new());
        push_data(Encoding::Json, &mut json, &c, (s, p), &to_json(&tick).unwrap(), x);
        push_data(Encoding::MessagePack, &mut packed, &c, (s, p), &to_msgpack(&tick).unwrap(), x);
        let sent = ServerMessage::D { c, s, p, d: tick, x };
        prop_assert_eq!(&serde_json::from_slice::<ServerMessage<Tick>>(&json).unwrap(), &sent);
        prop_assert_eq!(&rmp_serde::from_slice::<ServerMessage<Tick>>(&packed).unwrap(), &sent);
    }

    #[test]
    fn digits_stay_as_the_venue_sent_them(size in digits(), signed in signed_digits()) {
        prop_assert_eq!(size.parse::<Size>().unwrap().to_string(), size.clone());
        prop_assert_eq!(signed.parse::<Price>().unwrap().to_string(), signed.clone());
        let value: Decimal = signed.parse().unwrap();
        prop_assert_eq!(serde_json::to_string(&value).unwrap(), format!("\"{signed}\""));
        let packed = rmp_serde::to_vec(&value).unwrap();
        prop_assert_eq!(&packed, &rmp_serde::to_vec(&signed).unwrap());
        prop_assert_eq!(rmp_serde::from_slice::<Decimal>(&packed).unwrap().to_string(), signed);
    }

    #[test]
    fn too_many_digits_are_refused_and_never_rounded(text in "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,40})?") {
        match text.parse::<Price>() {
            // Zero has no sign.
            Ok(price) if price.is_zero() => prop_assert_eq!(price.to_string(), text.trim_start_matches('-')),
            Ok(price) => prop_assert_eq!(price.to_string(), text),
            Err(error) => prop_assert!(!matches!(error, DecimalError::Negative(_))),
        }
    }

    #[test]
    fn a_tick_survives_a_browser(tick in tick()) {
        let json: Value = serde_json::from_slice(&to_json(&tick).unwrap()).unwrap();
        let seen = browsed(json).to_string();
        prop_assert_eq!(from_json(seen.as_bytes()).unwrap(), tick);
    }

    #[test]
    fn positions_survive_a_browser(seq in 0..COUNTS, time: i64, created in 0..i64::MAX, generation: u32) {
        let (seq, now) = (StreamSeq::new(seq), UnixNanos::new(time));
        let from = From {
            e: Epoch::new(UnixNanos::new(created), generation),
            c: Some(Cursor::new(seq, now)),
            s: [("trade.x.A".to_owned(), seq)].into(),
        };
        let seen = browsed(serde_json::to_value(&from).unwrap());
        prop_assert_eq!(serde_json::from_value::<From>(seen).unwrap(), from);
        let cur = [("TICKS".to_owned(), Cursor::new(seq, now))].into();
        let beat: ServerMessage<Value> = ServerMessage::Hb { now, cur, feeds: [].into() };
        let seen = browsed(serde_json::to_value(&beat).unwrap());
        prop_assert_eq!(serde_json::from_value::<ServerMessage<Value>>(seen).unwrap(), beat);
    }
}
