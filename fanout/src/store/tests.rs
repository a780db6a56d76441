//! Predecessors, the ring's reach, and what is said about messages that it no longer holds.

use super::*;

fn seq(number: u64) -> StreamSeq {
    StreamSeq::new(number)
}

fn known(first: u64, joined: u64, limit: usize) -> Known {
    let mut known = Known::new("T", StreamNo::FIRST, limit);
    known.begin(Epoch::new(UnixNanos::new(1), 0), seq(first), seq(joined));
    known
}

fn apply(known: &mut Known, subject: &str, number: u64) -> Arc<Live> {
    let live = known
        .apply(subject, seq(number), UnixNanos::new(1), b"\x80")
        .unwrap();
    known.head = seq(number);
    live
}

#[test]
fn predecessors_are_true() {
    let mut known = known(5, 20, 1 << 20);
    assert_eq!(
        apply(&mut known, "tick.trade.x.A", 12).prev,
        seq(11),
        "a last value promises nothing"
    );
    assert_eq!(apply(&mut known, "tick.trade.x.A", 25).prev, seq(12));
    assert_eq!(
        apply(&mut known, "tick.trade.x.B", 26).prev,
        seq(4),
        "B had no message since the first"
    );
    assert_eq!(apply(&mut known, "tick.trade.x.B", 30).prev, seq(26));
    assert!(
        known
            .apply("tick.nonsense.x.A", seq(31), UnixNanos::EPOCH, b"")
            .is_none()
    );
}

#[test]
fn a_catch_up_gets_all_or_is_told_what_is_missing() {
    let mut known = known(5, 20, 1 << 20);
    let a = apply(&mut known, "tick.trade.x.A", 12).topic.id;
    for number in [21, 23, 27] {
        apply(&mut known, "tick.trade.x.A", number);
    }
    let message = |after| {
        let Next::Message(live) = known.next(a, seq(after)) else {
            panic!("nothing after {after}")
        };
        live.seq.get()
    };
    assert_eq!(
        (message(12), message(20), message(21), message(26)),
        (21, 21, 23, 27)
    );
    assert!(matches!(known.next(a, seq(27)), Next::End));
    assert!(matches!(known.next(a, seq(8)), Next::Missing(to) if to == seq(12)));
    assert_eq!(known.count_after(a, seq(21)), 2);
}

#[test]
fn the_ring_is_bounded_and_knows_its_floor() {
    let mut known = known(1, 0, 10 * (OVERHEAD + 1));
    for number in 1..=30 {
        apply(
            &mut known,
            if number % 2 == 0 {
                "tick.trade.x.A"
            } else {
                "tick.trade.x.B"
            },
            number,
        );
    }
    let a = known.topic("trade.x.A").unwrap().id;
    assert_eq!(known.ring_load().0, 10);
    assert!(matches!(known.next(a, seq(20)), Next::Message(live) if live.seq == seq(22)));
    assert!(matches!(known.next(a, seq(10)), Next::Missing(to) if to == seq(20)));
    assert_eq!(known.cursor(seq(25)).map(Cursor::seq), Some(seq(25)));
    assert_eq!(known.cursor(seq(5)), None);
}

#[test]
fn cursors_of_another_history_are_seen() {
    let mut known = known(1, 0, 1 << 20);
    for number in 1..=5 {
        apply(&mut known, "tick.trade.x.A", number);
    }
    known.head_time = UnixNanos::new(1);
    assert!(known.recognizes(Cursor::new(seq(3), UnixNanos::new(1))));
    assert!(!known.recognizes(Cursor::new(seq(3), UnixNanos::new(5_000_000))));
    assert!(!known.recognizes(Cursor::new(seq(5), UnixNanos::new(5_000_000))));
}

#[test]
fn a_stream_is_known_by_the_venues_of_its_subjects() {
    let split = Venues::of(["tick.*.binance.>", "tick.*.okx.>", "tick.fence.TICKS"]);
    for text in [
        "trade.binance.A",
        "bar.okx.A.1m",
        "trade.*.A",
        "*.okx.>",
        ">",
        "trade.>",
    ] {
        assert!(split.may_have(text), "{text}");
    }
    for text in ["trade.kraken.A", "*.kraken.>"] {
        assert!(!split.may_have(text), "{text}");
    }
    for subjects in [
        vec!["tick.>"],
        vec!["tick.*.*.>"],
        vec!["tick.*.okx.>", "x"],
    ] {
        assert_eq!(Venues::of(subjects), Venues::All);
    }
}

#[test]
fn what_is_left_of_another_streams_venue_is_not_told() {
    let mut known = known(1, 0, 1 << 20);
    known.venues = Venues::of(["tick.*.x.>", "tick.fence.T"]);
    for (subject, is_told) in [("tick.trade.x.A", true), ("tick.trade.y.A", false)] {
        let (seq, time) = (seq(1), UnixNanos::new(1));
        assert_eq!(known.apply(subject, seq, time, b"").is_some(), is_told);
    }
    let all = ">".parse().unwrap();
    assert_eq!(known.select(&all).count(), 1);
}
