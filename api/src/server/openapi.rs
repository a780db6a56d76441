//! `/openapi.json`: made from the very types that requests are read with and answers are written from.

use axum::http::HeaderMap;
use axum::response::Response;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use schemas::http::{JSON, PROBLEM_JSON, Problem};
use serde_json::{Map, Value, json};

use super::answer::{content, headers, tagged};
use super::query::More;
use super::resource::About;

/// A description that grows by a resource at a time.
pub(super) struct Description {
    generator: SchemaGenerator,
    paths: Map<String, Value>,
}

/// A finished description.
#[derive(Clone, Debug)]
pub(super) struct Document(Vec<u8>);

impl Description {
    /// Nothing is described yet.
    pub(super) fn new() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = "/components/schemas".into();
        });
        Self {
            generator: settings.into_generator(),
            paths: Map::new(),
        }
    }

    /// Describes a resource that takes a `Q` and answers with an `A`.
    pub(super) fn add<Q: JsonSchema, A: JsonSchema>(&mut self, path: &str, about: &About) {
        self.add_with::<Q, A>(path, about, &[]);
    }

    /// Describes a resource that takes a `Q` and more, and answers with an `A`.
    pub(super) fn add_with<Q: JsonSchema, A: JsonSchema>(
        &mut self,
        path: &str,
        about: &About,
        more: &[More],
    ) {
        let mut query = Q::json_schema(&mut self.generator);
        for More { name, schema } in more {
            let fields = query.ensure_object().entry("properties");
            let fields = fields.or_insert_with(|| json!({}));
            if let Some(fields) = fields.as_object_mut() {
                fields.insert((*name).to_owned(), schema.clone());
            }
        }
        let parameters = parameters(&query);
        let answer = self.generator.subschema_for::<A>();
        let problem = self.generator.subschema_for::<Problem>();
        let definition = A::json_schema(&mut self.generator);
        let content = content(about.formats, answer.as_value(), definition.as_value());
        let refused = |description: &str| {
            json!({
                "description": description,
                "content": { PROBLEM_JSON: { "schema": problem } },
            })
        };
        let operation = json!({
            "operationId": about.id,
            "tags": [about.chapter],
            "summary": about.summary,
            "parameters": parameters,
            "responses": {
                "200": {
                    "description": "what was asked for",
                    "headers": headers(about.formats),
                    "content": content,
                },
                "304": { "description": "what the client has already" },
                "400": refused("a parameter is wrong"),
                "414": refused("the query is too long"),
                "404": refused("there is no such thing"),
                "406": refused("no form that is accepted is offered"),
                "431": { "description": "the head of the request, its address included, is too large; without a body" },
                "500": refused("a fault of the server"),
                "503": refused("something that is needed does not answer now"),
            },
        });
        self.paths
            .insert(path.to_owned(), json!({ "get": operation }));
    }

    /// The whole document.
    pub(super) fn finish(mut self) -> Document {
        let mut schemas = self.generator.take_definitions(true);
        for (kind, schema) in schemas::describe::ticks() {
            schemas.insert(format!("tick.{kind}"), schema);
        }
        let mut document = json!({
            "openapi": "3.1.0",
            "info": {
                "title": "Tickwire",
                "version": env!("CARGO_PKG_VERSION"),
                "description": "History, latest values, instruments.",
            },
            "paths": self.paths,
            "components": { "schemas": schemas },
        });
        refer(&mut document);
        Document(document.to_string().into_bytes())
    }
}

impl Document {
    /// The document as an answer.
    pub(super) fn answer(&self, headers: &HeaderMap) -> Response {
        tagged(self.0.clone(), JSON, headers)
    }
}

/// The parameters that a struct's fields describe.
fn parameters(query: &Schema) -> Value {
    let query = query.as_value();
    let required = query.get("required").and_then(Value::as_array);
    let fields = query.get("properties").and_then(Value::as_object);
    let parameter = |(name, schema): (&String, &Value)| {
        let mut schema = schema.clone();
        let description = schema
            .as_object_mut()
            .and_then(|fields| fields.remove("description"));
        // Databases have no more.
        if let Some(fields) = schema.as_object_mut()
            && fields
                .get("format")
                .is_some_and(|format| format == "uint64")
        {
            fields.insert("maximum".to_owned(), Value::from(i64::MAX));
        }
        let required = required.is_some_and(|names| names.iter().any(|one| one == name));
        json!({
            "name": name,
            "in": "query",
            "required": required,
            "description": description.unwrap_or_default(),
            "style": "form",
            "explode": false,
            "schema": not_null(schema),
        })
    };
    fields.into_iter().flatten().map(parameter).collect()
}

/// A parameter that may be absent is never null.
fn not_null(mut schema: Value) -> Value {
    let Some(fields) = schema.as_object_mut() else {
        return schema;
    };
    if let Some(Value::Array(types)) = fields.get_mut("type") {
        types.retain(|one| one != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            fields.insert("type".to_owned(), only);
        }
    }
    for alternatives in ["anyOf", "oneOf", "enum"] {
        if let Some(Value::Array(all)) = fields.get_mut(alternatives) {
            all.retain(|one| *one != json!({ "type": "null" }) && !one.is_null());
            if let ([only @ Value::Object(_)], "anyOf") = (all.as_slice(), alternatives) {
                return only.clone();
            }
        }
    }
    schema
}

/// The contract refers to kinds and definitions where its own description has them; here they are
/// among the components.
pub(super) fn refer(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(target)) = fields.get_mut("$ref") {
                if let Some(kind) = target.strip_prefix("#/ticks/") {
                    *target = format!("#/components/schemas/tick.{kind}");
                } else if let Some(name) = target.strip_prefix("#/$defs/") {
                    *target = format!("#/components/schemas/{name}");
                }
            }
            fields.values_mut().for_each(refer);
        }
        Value::Array(items) => items.iter_mut().for_each(refer),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
