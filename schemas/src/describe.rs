//! JSON Schema of the contract, made from the types themselves: `tickwire schema` prints it.

use serde_json::{Value, json};

use crate::http::{Page, Problem};
use crate::tick::Tick;
use crate::ws::{From, Limits, ServerMessage, StreamInfo};

/// Everything that crosses a process boundary: ticks by kind, WebSocket messages either way, and what
/// HTTP answers.
pub fn describe() -> Value {
    let server: Value = schemars::schema_for!(ServerMessage<Value>).into();
    let from: Value = schemars::schema_for!(From).into();
    let id = json!({ "type": "integer", "minimum": 0 });
    let topics = json!({ "type": "array", "items": { "type": "string" }, "minItems": 1 });
    let op = |name: &str, fields: Value| {
        let mut properties = json!({ "op": { "const": name }, "id": id });
        let required = if fields.get("topics").is_some() {
            json!(["op", "topics"])
        } else {
            json!(["op"])
        };
        if let (Some(all), Value::Object(fields)) = (properties.as_object_mut(), fields) {
            all.extend(fields);
        }
        json!({ "type": "object", "properties": properties, "required": required })
    };
    let conflate = json!({ "anyOf": [
        { "enum": ["auto", "none"] },
        { "type": "integer", "minimum": 10, "maximum": 60_000 },
    ] });
    let subscribe = json!({
        "topics": topics,
        "snapshot": { "type": "boolean" },
        "conflate": conflate,
        "from": { "type": "object", "additionalProperties": from },
    });
    let page: Value = schemars::schema_for!(Page<Value>).into();
    let problem: Value = schemars::schema_for!(Problem).into();
    let limits: Value = schemars::schema_for!(Limits).into();
    let stream: Value = schemars::schema_for!(StreamInfo).into();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "ticks": Tick::describe(),
        "server": server,
        "client": [
            op("subscribe", subscribe),
            op("unsubscribe", json!({ "topics": topics })),
            op("list", json!({})),
            op("ping", json!({})),
            op("auth", json!({})),
        ],
        "limits": limits,
        "stream": stream,
        "page": page,
        "problem": problem,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_has_no_field_that_its_schema_does_not_know() {
        let trade = r#"{"k":"trade","v":"x","y":"A","te":"1","tr":"2","q":3,"fl":["late"],"i":"1","p":"1.5","z":"2","sd":"buy","cn":"@"}"#;
        let tick = crate::codec::from_json(trade.as_bytes()).unwrap();
        let written: Value = serde_json::to_value(&tick).unwrap();
        let described = describe();
        let schema = &described["ticks"]["trade"];
        let known = schema["properties"].as_object().unwrap();
        let fields = written.as_object().unwrap();
        assert!(fields.keys().all(|field| known.contains_key(field)));
        assert_eq!(fields.len(), known.len());
        for required in schema["required"].as_array().unwrap() {
            assert!(fields.contains_key(required.as_str().unwrap()));
        }
        assert_eq!(described["ticks"].as_object().unwrap().len(), 11);
    }
}
