//! The golden traces of the client's rule; the console's port passes the same ones in a browser.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use schemas::continuity::{Continuity, Verdict};
use schemas::position::StreamSeq;
use schemas::ws::{From, ServerMessage};
use serde::Deserialize;
use serde_json::{Value, json};

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
    } else if let Some(wanted) = step.get("reconnecting") {
        continuity.reconnecting(&serde_json::from_value(wanted.clone()).unwrap());
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
    assert!(traces.len() >= 17);
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

/// Whoever holds a whole market comes back with a message that a server accepts, and misses nothing.
#[test]
fn a_resumption_stays_small_however_many_topics_there_are() {
    let mut continuity = Continuity::new();
    let take = |continuity: &mut Continuity, message: Value| {
        let message: ServerMessage<Value> = serde_json::from_value(message).unwrap();
        continuity.take(&message)
    };
    let welcome = json!({"t": "welcome", "conn": "1", "node": "n", "hb": 15,
        "streams": [{"name": "T", "e": "5-0"}],
        "limits": {"topics": 1024, "patterns": 16, "message_bytes": 131_072}});
    take(&mut continuity, welcome.clone());
    continuity.subscribing(1, BTreeMap::new());
    let held = |c: &str| json!({"c": c, "pos": {"T": 100}});
    let ack = |id: u64| {
        let ok = [held("trade.x.*"), held("quote.x.Q")];
        json!({"t": "ack", "id": id, "ok": ok})
    };
    take(&mut continuity, ack(1));
    let tick =
        |s: u64, p: u64| json!({"t": "d", "c": format!("trade.x.S{s}"), "s": s, "p": p, "d": {}});
    for s in 101..10_101 {
        assert_eq!(take(&mut continuity, tick(s, 100)), Verdict::Deliver);
    }
    // Before the first cursor the pattern goes on where it began, after it from there.
    let text = |continuity: &Continuity| serde_json::to_string(&continuity.resume(None)).unwrap();
    let expected = r#"{"T":{"e":"5-0","s":{"quote.x.Q":100,"trade.x.*":100}}}"#;
    assert_eq!(text(&continuity), expected);
    let heartbeat = json!({"t": "hb", "now": "1", "cur": {"T": "10000.00000001"}, "feeds": {}});
    take(&mut continuity, heartbeat);
    let expected = r#"{"T":{"e":"5-0","c":"10000.00000001","s":{"quote.x.Q":10000}}}"#;
    assert_eq!(text(&continuity), expected);
    // What comes once more is dropped, and the next one follows it.
    let wanted = ["trade.x.*", "quote.x.Q"].map(str::to_owned).into();
    continuity.reconnecting(&wanted);
    take(&mut continuity, welcome);
    continuity.subscribing(2, continuity.resume(None));
    take(&mut continuity, ack(2));
    let again = json!({"t": "d", "c": "trade.x.S10100", "s": 10_100, "p": 10_000, "d": {}});
    assert_eq!(take(&mut continuity, again), Verdict::Drop);
    let next = json!({"t": "d", "c": "trade.x.S10100", "s": 10_101, "p": 10_100, "d": {}});
    assert_eq!(take(&mut continuity, next), Verdict::Deliver);
}
