//! The forms of an answer, as `/openapi.json` describes them.

use serde_json::{Map, Value, json};

use super::Format;

/// What an answer consists of, by media type; `answer` is its JSON Schema, and `definition` the same
/// without references at its top.
pub(in crate::server) fn content(
    formats: &[Format],
    answer: &Value,
    definition: &Value,
) -> Map<String, Value> {
    let item = definition
        .pointer("/properties/items/items")
        .cloned()
        .unwrap_or_else(|| json!({}));
    let of = |format: &Format| {
        let schema = match format {
            Format::Json => answer.clone(),
            Format::Ndjson => json!({
                "type": "string",
                "description": "a line of JSON per item; `next` and `pos` are headers; without \
                                `limit`, trades, quotes and ticks come whole",
                "contentMediaType": "application/json",
                "contentSchema": item,
            }),
            Format::Csv => json!({
                "type": "string",
                "description": "RFC 4180: a line with the keys, then a line per item; what is \
                                neither text nor number is JSON; `next` and `pos` are headers; \
                                without `limit`, trades, quotes and ticks come whole",
            }),
            Format::MessagePack => json!({
                "description": "the same map as in JSON; times and `q` are integers",
            }),
        };
        (format.media_type().to_owned(), json!({ "schema": schema }))
    };
    formats.iter().map(of).collect()
}

/// What an answer says besides its content.
pub(in crate::server) fn headers(formats: &[Format]) -> Value {
    let text =
        |description: &str| json!({ "description": description, "schema": { "type": "string" } });
    let mut headers = json!({
        "X-Request-Id": text("the request's id: that of the request, if it has a sane one"),
        "ETag": text("for If-None-Match"),
    });
    if let Some(headers) = headers.as_object_mut()
        && formats.iter().any(|format| !format.has_frame())
    {
        let next = "the next page, as `<…>; rel=\"next\"`: with CSV and NDJSON, if there is one";
        let pos = "the list's `pos` as JSON: with CSV and NDJSON, where live goes on from it";
        headers.insert("Link".to_owned(), text(next));
        headers.insert("Tickwire-Pos".to_owned(), text(pos));
    }
    headers
}
