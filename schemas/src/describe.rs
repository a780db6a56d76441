//! JSON Schema of the contract, made from the types themselves: `tickwire schema` prints it.

use std::borrow::Cow;

use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema, json_schema};
use serde_json::{Value, json};

use crate::http::{Item, Page, Problem, Settings};
use crate::tick::Tick;
use crate::ws::{From, Limits, ServerMessage, StreamInfo};

/// Everything that crosses a process boundary: ticks by kind, WebSocket messages either way, and
/// HTTP answers.
pub fn describe() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let server = ServerMessage::<Tick>::json_schema(&mut generator);
    let client = operations(&mut generator);
    let http = json!({
        "page": Page::<Item>::json_schema(&mut generator),
        "problem": Problem::json_schema(&mut generator),
        "settings": Settings::json_schema(&mut generator),
    });
    let limits = Limits::json_schema(&mut generator);
    let stream = StreamInfo::json_schema(&mut generator);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "ticks": ticks(),
        "server": server,
        "client": client,
        "http": http,
        "limits": limits,
        "stream": stream,
        "$defs": generator.take_definitions(true),
    })
}

/// JSON Schema of the ticks, by kind.
pub fn ticks() -> serde_json::Map<String, Value> {
    Tick::describe()
}

fn operations(generator: &mut SchemaGenerator) -> Value {
    let from = generator.subschema_for::<From>();
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
    json!([
        op("subscribe", subscribe),
        op("unsubscribe", json!({ "topics": topics })),
        op("list", json!({})),
        op("ping", json!({})),
        op("auth", json!({})),
    ])
}

impl JsonSchema for Tick {
    fn schema_name() -> Cow<'static, str> {
        "Tick".into()
    }

    /// Refers to the kinds where [`describe`] puts them.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let kinds = ticks();
        let kinds: Vec<Value> = kinds
            .keys()
            .map(|kind| json!({ "$ref": format!("#/ticks/{kind}") }))
            .collect();
        json_schema!({ "anyOf": kinds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_has_no_field_that_its_schema_does_not_know() {
        let trade = r#"{"k":"trade","v":"x","y":"A","te":"1","tr":"2","q":"3","fl":["late"],"i":"1","p":"1.5","z":"2","sd":"buy","cn":"@"}"#;
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

    #[test]
    fn the_number_of_skipped_messages_may_be_missing() {
        let described = describe();
        let schema = &described["$defs"]["Skipped"];
        assert_eq!(
            (&schema["minItems"], &schema["maxItems"]),
            (&json!(2), &json!(3))
        );
    }

    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        if let Some(target) = value.get("$ref").and_then(Value::as_str) {
            found.push(target);
        }
        let items = value.as_array().into_iter().flatten();
        let fields = value.as_object().into_iter().flat_map(|map| map.values());
        items
            .chain(fields)
            .for_each(|inner| references(inner, found));
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let described = describe();
        let mut found = Vec::new();
        references(&described, &mut found);
        assert!(found.contains(&"#/ticks/inst"));
        for reference in found {
            let target = reference.strip_prefix('#').unwrap();
            assert!(described.pointer(target).is_some(), "{reference}");
        }
    }
}
