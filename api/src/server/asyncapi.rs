//! `/asyncapi.json`: the WebSocket, framed by hand around the contract's own schemas.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use schemas::http::JSON;
use schemas::ws::Encoding;
use serde_json::{Map, Value, json};

use super::Api;
use super::answer::tagged;
use super::console::websocket;
use super::openapi::refer;
use crate::store::TickStore;

/// Answers with the description.
pub(super) async fn describe<S: TickStore>(
    State(api): State<Arc<Api<S>>>,
    headers: HeaderMap,
) -> Response {
    let document = document(&websocket(&api.config.ws, &headers));
    tagged(document.to_string().into_bytes(), JSON, &headers)
}

/// The description of what is at the address `ws`.
pub(super) fn document(ws: &str) -> Value {
    let contract = schemas::describe::describe();
    let mut schemas: Map<String, Value> = Map::new();
    let servers = variants(
        contract.pointer("/server/oneOf"),
        "t",
        "server",
        &mut schemas,
    );
    let clients = variants(contract.get("client"), "op", "client", &mut schemas);
    schemas.insert("server".to_owned(), frame(&servers));
    schemas.insert("client".to_owned(), frame(&clients));
    for (name, schema) in fields(contract.get("ticks")) {
        schemas.insert(format!("tick.{name}"), schema.clone());
    }
    let definitions = fields(contract.get("$defs"));
    schemas.extend(definitions.map(|(name, schema)| (name.clone(), schema.clone())));
    let message = |name: &str, summary: &str| {
        json!({
            "name": name,
            "summary": summary,
            "contentType": JSON,
            "payload": { "$ref": format!("#/components/schemas/{name}") },
        })
    };
    let protocols = Encoding::ALL.map(Encoding::subprotocol);
    let mut document = json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tickwire",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Ticks in order and without gaps. Every message is an array of objects; with \
                the subprotocol for MessagePack they are binary and have the same fields.",
        },
        "servers": { "fanout": server(ws) },
        "channels": {
            "stream": {
                "address": "/v1/stream",
                "messages": {
                    "server": { "$ref": "#/components/messages/server" },
                    "client": { "$ref": "#/components/messages/client" },
                },
                "bindings": { "ws": { "headers": {
                    "type": "object",
                    "properties": { "Sec-WebSocket-Protocol": { "enum": protocols } },
                } } },
            },
        },
        "operations": {
            "tell": {
                "action": "send",
                "channel": { "$ref": "#/channels/stream" },
                "messages": [{ "$ref": "#/channels/stream/messages/server" }],
            },
            "ask": {
                "action": "receive",
                "channel": { "$ref": "#/channels/stream" },
                "messages": [{ "$ref": "#/channels/stream/messages/client" }],
            },
        },
        "components": {
            "messages": {
                "server": message("server", "What the server says, in order"),
                "client": message("client", "What a client asks for"),
            },
            "schemas": schemas,
        },
    });
    refer(&mut document);
    document
}

/// Where it is, in the parts that are asked for here.
fn server(ws: &str) -> Value {
    let address: Option<Uri> = ws.parse().ok();
    let part = |part: fn(&Uri) -> Option<String>| address.as_ref().and_then(part);
    let host = part(|uri| uri.authority().map(ToString::to_string));
    let protocol = part(|uri| uri.scheme_str().map(str::to_owned));
    let path = part(|uri| Some(uri.path().trim_end_matches('/').to_owned()));
    json!({
        "host": host.unwrap_or_else(|| ws.to_owned()),
        "protocol": protocol.unwrap_or_else(|| "ws".to_owned()),
        "pathname": path.unwrap_or_default(),
    })
}

/// Gives every variant a name, by the constant of its tag.
fn variants(
    all: Option<&Value>,
    tag: &str,
    side: &str,
    into: &mut Map<String, Value>,
) -> Vec<String> {
    let mut names = Vec::new();
    for variant in all.and_then(Value::as_array).into_iter().flatten() {
        let constant = variant.pointer(&format!("/properties/{tag}/const"));
        let constant = constant.and_then(Value::as_str).unwrap_or_default();
        let name = format!("{side}.{constant}");
        into.insert(name.clone(), variant.clone());
        names.push(name);
    }
    names
}

/// A frame of these.
fn frame(names: &[String]) -> Value {
    let refer = |name: &String| json!({ "$ref": format!("#/components/schemas/{name}") });
    let any: Vec<Value> = names.iter().map(refer).collect();
    json!({ "type": "array", "items": { "oneOf": any } })
}

fn fields(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    value.and_then(Value::as_object).into_iter().flatten()
}
