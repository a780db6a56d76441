//! `/udf/*`: TradingView's Universal Data Feed, as its adapter asks for it.

mod history;
mod instruments;
mod marks;
mod parameters;
mod quotes;

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use schemas::http::JSON;
use schemas::time::{Clock as _, SystemClock};
use serde::{Deserialize, Serialize};
use tracing::error;

use super::Api;
use super::answer::{Format, tagged};
use super::query::Wrong;
use super::resource::{About, Resources};
use crate::store::TickStore;
use crate::udf::refusal::Refusal;

/// What a resource answers, or why not.
type Answered = Result<Vec<u8>, Refusal>;

/// Adds the resources.
pub(super) fn resources<S: TickStore + Clone + 'static>(to: Resources<S>) -> Resources<S> {
    let about = |id, summary| About {
        id,
        chapter: "udf",
        summary,
        formats: &[Format::Json],
    };
    let to = to.with(instruments::resources).with(history::resources);
    let to = to.with(quotes::resources).with(marks::resources);
    to.plain::<Nothing, Or<Time>, _, _>(
        "/udf/time",
        about("udf_time", "The server's time, in whole seconds since 1970"),
        async |_: Arc<Api<S>>, asked: Result<Nothing, Wrong>, headers: HeaderMap| {
            let seconds = || SystemClock.now().seconds();
            let answered = asked.map(|Nothing {}| seconds().to_string().into_bytes());
            respond(answered.map_err(Refusal::from), &headers)
        },
    )
}

/// Nothing is asked.
#[derive(Debug, Deserialize, JsonSchema)]
struct Nothing {}

/// Seconds since 1970.
#[derive(JsonSchema)]
struct Time(#[expect(dead_code, reason = "it describes the answer")] i64);

/// An answer of the protocol, or its form of an error.
struct Or<A>(std::marker::PhantomData<A>);

impl<A: JsonSchema> JsonSchema for Or<A> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("{}Or", A::schema_name()).into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let answer = generator.subschema_for::<A>();
        json_schema!({ "anyOf": [answer, {
            "type": "object",
            "properties": { "s": { "const": "error" }, "errmsg": { "type": "string" } },
            "required": ["s", "errmsg"],
        }] })
    }
}

impl From<Wrong> for Refusal {
    fn from(wrong: Wrong) -> Self {
        Self::Parameter(wrong.detail)
    }
}

fn respond(answered: Answered, headers: &HeaderMap) -> Response {
    answered.map_or_else(Refusal::into_response, |body| tagged(body, JSON, headers))
}

fn written(answer: &impl Serialize) -> Answered {
    serde_json::to_vec(answer).map_err(|problem| {
        error!(%problem, "an answer cannot be written");
        Refusal::Internal
    })
}
