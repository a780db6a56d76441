//! Up to where everything is stored, by what the broker says.

use serde_json::json;

use super::*;

/// A consumer that has so much to do, and was acknowledged so far, on brokers with so many copies.
fn info((pending, unacknowledged): (u64, u64), acknowledged: u64, copies: usize) -> Info {
    let copy = json!({ "name": "other", "current": true, "active": 0 });
    let position = |seq: u64| json!({ "consumer_seq": seq, "stream_seq": seq });
    let info = json!({
        "stream_name": "T", "name": "recorder", "created": "2026-11-21T00:00:00Z",
        "config": { "ack_policy": "explicit", "deliver_policy": "all", "replay_policy": "instant" },
        "delivered": position(acknowledged), "ack_floor": position(acknowledged),
        "num_ack_pending": unacknowledged, "num_redelivered": 0, "num_waiting": 0,
        "num_pending": pending,
        "cluster": { "name": "c", "leader": "one", "replicas": vec![copy; copies] },
    });
    serde_json::from_value(info).unwrap()
}

/// What is said when the stream ends at `last`.
fn said(info: &Info, quiet: &mut Option<Quiet>, now: Instant, last: u64) -> u64 {
    floor(info, quiet, (now, StreamSeq::new(last))).get()
}

#[test]
fn nothing_behind_what_is_acknowledged_counts_while_anything_is_pending() {
    for busy in [(1, 0), (0, 1)] {
        let (mut quiet, now) = (None, Instant::now());
        for last in [10, 20, 30] {
            assert_eq!(said(&info(busy, 5, 0), &mut quiet, now, last), 5);
        }
    }
}

#[test]
fn a_stream_that_ends_with_what_nobody_records_is_recorded_to_the_end_as_it_was_before() {
    let (mut quiet, now) = (None, Instant::now());
    let idle = info((0, 0), 5, 0);
    assert_eq!(said(&idle, &mut quiet, now, 10), 5, "it may be new");
    assert_eq!(said(&idle, &mut quiet, now, 12), 10);
    assert_eq!(said(&info((0, 1), 6, 0), &mut quiet, now, 15), 6);
    assert_eq!(said(&info((0, 0), 20, 0), &mut quiet, now, 20), 20);
}

#[test]
fn a_broker_that_lags_behind_another_is_believed_later() {
    let (mut quiet, now) = (None, Instant::now());
    let idle = info((0, 0), 5, 2);
    assert_eq!(said(&idle, &mut quiet, now, 10), 5);
    let soon = now + SETTLED / 2;
    assert_eq!(said(&idle, &mut quiet, soon, 20), 5);
    let later = now + SETTLED;
    assert_eq!(said(&idle, &mut quiet, later, 30), 10);
    assert_eq!(said(&idle, &mut quiet, later + SETTLED, 40), 30);
}
