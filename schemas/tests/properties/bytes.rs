//! Bytes of any origin: cut, changed, random or malicious, they are refused and nothing panics.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use schemas::codec::{from_json, from_msgpack, to_json, to_msgpack, transcode};
use schemas::position::{Cursor, Epoch};
use schemas::subject;
use schemas::tick::Tick;
use schemas::topic::{Pattern, Selector, Topic};
use schemas::ws::{Encoding, ServerMessage, read_ops};
use serde_json::{Value, json};

use super::any::{tick, topic};

/// A client's message that a server accepts.
fn message() -> impl Strategy<Value = Value> {
    let conflate = select(vec![json!("auto"), json!("none"), json!(250), Value::Null]);
    let op = (
        vec(topic().prop_map(|topic| topic.to_string()), 1..4),
        any::<u64>(),
        conflate,
        any::<bool>(),
    )
        .prop_map(|(topics, id, conflate, subscribe)| {
            if !subscribe {
                return json!({ "op": "unsubscribe", "id": id, "topics": topics });
            }
            let positions: serde_json::Map<String, Value> = topics
                .iter()
                .map(|topic| (topic.clone(), id.into()))
                .collect();
            let from = json!({ "TICKS": { "e": "5-0", "c": "9.000000ff", "s": positions } });
            json!({ "op": "subscribe", "id": id, "topics": topics, "conflate": conflate, "from": from })
        });
    vec(op, 1..4).prop_map(Value::Array)
}

fn decode(bytes: &[u8]) {
    let _ = from_msgpack(bytes);
    let _ = from_json(bytes);
    let _ = transcode(bytes, &mut Vec::new());
    let _ = read_ops(Encoding::Json, bytes);
    let _ = read_ops(Encoding::MessagePack, bytes);
    let _ = serde_json::from_slice::<Vec<ServerMessage<Tick>>>(bytes);
    let _ = rmp_serde::from_slice::<Vec<ServerMessage<Tick>>>(bytes);
}

fn changed(bytes: &[u8], at: Index, byte: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = at.index(bytes.len());
    if let Some(place) = bytes.get_mut(at) {
        *place = byte;
    }
    bytes
}

proptest! {
    #[test]
    fn a_cut_or_changed_tick_never_panics(tick in tick(), at: Index, byte: u8) {
        let (packed, json) = (to_msgpack(&tick).unwrap(), to_json(&tick).unwrap());
        let (start, _) = packed.split_at(at.index(packed.len()));
        prop_assert!(from_msgpack(start).is_err());
        prop_assert!(transcode(start, &mut Vec::new()).is_err());
        let (start, _) = json.split_at(at.index(json.len()));
        prop_assert!(from_json(start).is_err());
        decode(&changed(&packed, at, byte));
        decode(&changed(&json, at, byte));
    }

    #[test]
    fn a_cut_or_changed_client_message_never_panics(message in message(), at: Index, byte: u8) {
        let json = message.to_string().into_bytes();
        let packed = rmp_serde::to_vec_named(&message).unwrap();
        let ops = read_ops(Encoding::Json, &json).unwrap();
        prop_assert!(ops.iter().all(Result::is_ok));
        prop_assert_eq!(&ops, &read_ops(Encoding::MessagePack, &packed).unwrap());
        for (encoding, bytes) in [(Encoding::Json, json), (Encoding::MessagePack, packed)] {
            let (start, _) = bytes.split_at(at.index(bytes.len()));
            prop_assert!(read_ops(encoding, start).is_err());
            decode(&changed(&bytes, at, byte));
        }
    }

    #[test]
    fn no_bytes_panic_any_decoder(bytes in vec(any::<u8>(), 0..200)) {
        decode(&bytes);
        let text = String::from_utf8_lossy(&bytes);
        let _ = text.parse::<Topic>();
        let _ = text.parse::<Pattern>();
        let _ = text.parse::<Selector>();
        let _ = subject::parse(&text);
        let _ = text.parse::<Cursor>();
        let _ = text.parse::<Epoch>();
    }
}

#[test]
fn bombs_are_refused() {
    for bomb in [
        vec![0x91; 200_000],
        vec![0x81; 200_000],
        vec![0xDD, 0xFF, 0xFF, 0xFF, 0xFF],
        vec![0xDF, 0xFF, 0xFF, 0xFF, 0xFF],
    ] {
        assert!(from_msgpack(&bomb).is_err());
        assert!(transcode(&bomb, &mut Vec::new()).is_err());
    }
}
