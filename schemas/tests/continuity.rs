//! The golden traces of the client's rule; the console's port passes the same ones in a browser.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use schemas::continuity::{Continuity, Verdict};
use schemas::position::StreamSeq;
use schemas::ws::{From, ServerMessage};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Trace {
    name: String,
    steps: Vec<Value>,
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Deliver => "deliver",
        Verdict::Drop => "drop",
        Verdict::Hole => "hole",
        Verdict::Declared => "declared",
        Verdict::Void => "void",
        Verdict::Other => "other",
    }
}

fn run(continuity: &mut Continuity, step: &Value) {
    if let Some(message) = step.get("take") {
        let message: ServerMessage<Value> = serde_json::from_value(message.clone()).unwrap();
        assert_eq!(verdict(continuity.take(&message)), step["is"], "{step}");
    } else if let Some(asked) = step.get("subscribing") {
        let (id, from): (u64, BTreeMap<String, From>) =
            serde_json::from_value(asked.clone()).unwrap();
        continuity.subscribing(id, from);
    } else if let Some(id) = step.get("unsubscribing") {
        continuity.unsubscribing(id.as_u64().unwrap());
    } else if let Some(held) = step.get("retain") {
        continuity.retain(&serde_json::from_value(held.clone()).unwrap());
    } else if let Some(topics) = step.get("resubscribed") {
        let topics: Option<Vec<String>> = serde_json::from_value(topics.clone()).unwrap();
        continuity.resubscribed(topics.as_deref());
    } else if let Some(expected) = step.get("resume") {
        let of = step
            .get("of")
            .map(|of| serde_json::from_value::<BTreeSet<String>>(of.clone()).unwrap());
        let from = serde_json::to_value(continuity.resume(of.as_ref())).unwrap();
        assert_eq!(&from, expected, "{step}");
    } else if let Some(good) = step.get("good") {
        assert_eq!(continuity.is_good(), good.as_bool().unwrap(), "{step}");
    } else {
        let expected: BTreeMap<String, StreamSeq> =
            serde_json::from_value(step["positions"].clone()).unwrap();
        for (topic, position) in expected {
            assert_eq!(continuity.position(&topic), Some(position), "{step}");
        }
    }
}

#[test]
fn the_golden_traces_hold() {
    let traces: Vec<Trace> = serde_json::from_str(include_str!("golden/continuity.json")).unwrap();
    assert!(traces.len() >= 15);
    for trace in traces {
        let mut continuity = Continuity::new();
        for step in &trace.steps {
            let context = format!("{}: {step}", trace.name);
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                run(&mut continuity, step);
            }));
            assert!(outcome.is_ok(), "{context}");
        }
    }
}
