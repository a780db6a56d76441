//! What clients may send, what they may not, and that both encodings say the same.

use serde_json::{Value, json};

use super::*;
use crate::tick::Tick;

fn read(value: &Value) -> Vec<Result<ClientOp, OpError>> {
    let from_json = read_ops(Encoding::Json, value.to_string().as_bytes()).unwrap();
    let packed = rmp_serde::to_vec_named(value).unwrap();
    assert_eq!(from_json, read_ops(Encoding::MessagePack, &packed).unwrap());
    from_json
}

#[test]
fn a_full_subscription_is_read() {
    let ops = read(&json!([{
        "op": "subscribe", "id": 7, "topics": ["trade.x.A", "quote.x.*"], "snapshot": false,
        "conflate": 250, "unknown": [1],
        "from": {"TICKS": {"e": "5-0", "c": "9.000000ff", "s": {"trade.x.A": 12}}},
    }]));
    let from = From {
        e: "5-0".parse().unwrap(),
        c: Some("9.000000ff".parse().unwrap()),
        s: [("trade.x.A".to_owned(), StreamSeq::new(12))].into(),
    };
    let expected = Subscribe {
        id: Some(7),
        topics: vec!["trade.x.A".to_owned(), "quote.x.*".to_owned()],
        snapshot: Some(false),
        conflate: Conflate::Millis(250),
        from: [("TICKS".to_owned(), from)].into(),
    };
    assert_eq!(ops, [Ok(ClientOp::Subscribe(expected))]);
}

#[test]
fn a_wrong_op_names_its_field_and_spares_the_others() {
    let ops = read(&json!([
        {"op": "ping", "id": 1},
        {"op": "subscribe", "id": 2, "topics": ["a", 3]},
        {"op": "subscribe", "id": 3},
        {"op": "subscribe", "topics": []},
        {"op": "subscribe", "topics": ["a"], "conflate": 5},
        {"op": "subscribe", "topics": ["a"], "conflate": "some"},
        {"op": "subscribe", "topics": ["a"], "snapshot": 1},
        {"op": "subscribe", "topics": ["a"], "from": {"T": {}}},
        {"op": "subscribe", "topics": ["a"], "from": {"T": {"e": "1-0", "c": "x"}}},
        {"op": "subscribe", "topics": ["a"], "from": {"T": {"e": "1-0", "s": {"a": -1}}}},
        {"op": "dance"},
        {"op": "ping", "id": -1},
        17,
        {"op": "list"},
    ]));
    let said: Vec<String> = ops
        .iter()
        .filter_map(|op| op.as_ref().err())
        .map(OpError::to_string)
        .collect();
    let expected = [
        "topics[1] must be a string",
        "topics must be an array of strings",
        "topics must name at least one topic or pattern",
        "conflate must be \"auto\", \"none\" or 10 to 60000 milliseconds",
        "conflate must be \"auto\", \"none\" or 10 to 60000 milliseconds",
        "snapshot must be true or false",
        "from.T.e must be an epoch as in welcome",
        "from.T.c must be a cursor as in hb, or \"0\"",
        "from.T.s[\"a\"] must be a sequence",
        "op must be subscribe, unsubscribe, list, ping or auth",
        "id must be a whole number from 0 to 2^64 - 1",
        "every item of a message must be an object",
    ];
    assert_eq!(said, expected);
    assert_eq!(ops.first(), Some(&Ok(ClientOp::Ping { id: Some(1) })));
    assert_eq!(ops.last(), Some(&Ok(ClientOp::List { id: None })));
}

#[test]
fn bombs_are_refused() {
    let deep = "[".repeat(100_000);
    assert!(read_ops(Encoding::Json, deep.as_bytes()).is_err());
    assert!(read_ops(Encoding::MessagePack, &[0x91].repeat(100_000)).is_err());
    assert!(read_ops(Encoding::MessagePack, &[0xDD, 0xFF, 0xFF, 0xFF, 0xFF]).is_err());
    assert!(read_ops(Encoding::MessagePack, &[0xDB, 0xFF, 0xFF, 0xFF, 0xFF]).is_err());
    let many = Value::Array(vec![json!({"op": "ping"}); MAX_OPS + 1]);
    let error = read_ops(Encoding::Json, many.to_string().as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), "message has 65 ops, the limit is 64");
}

#[test]
fn a_tick_is_embedded_as_it_is() {
    let tick = crate::codec::from_json(br#"{"k":"trade","v":"x","y":"A","tr":"1767000000000000001","i":"1","p":"1.50","z":"2","sd":"buy"}"#).unwrap();
    let expected = ServerMessage::D {
        c: "trade.x.A".to_owned(),
        s: StreamSeq::new(9),
        p: StreamSeq::new(4),
        d: tick.clone(),
        x: 1,
    };
    let s_and_p = (StreamSeq::new(9), StreamSeq::new(4));
    let mut json = Vec::new();
    push_data(
        Encoding::Json,
        &mut json,
        "trade.x.A",
        s_and_p,
        &crate::codec::to_json(&tick).unwrap(),
        1,
    );
    assert_eq!(
        serde_json::from_slice::<ServerMessage<Tick>>(&json).unwrap(),
        expected
    );
    let mut packed = Vec::new();
    push_data(
        Encoding::MessagePack,
        &mut packed,
        "trade.x.A",
        s_and_p,
        &crate::codec::to_msgpack(&tick).unwrap(),
        1,
    );
    assert_eq!(
        rmp_serde::from_slice::<ServerMessage<Tick>>(&packed).unwrap(),
        expected
    );
}
