//! Single rules that random histories meet too seldom.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use schemas::position::{Cursor, Epoch, StreamSeq};
use schemas::time::UnixNanos;
use schemas::ws::{ClientOp, Conflate, Encoding, From, Subscribe};

use super::world::LIMITS;
use crate::index::{ConnId, Index};
use crate::metrics::Metrics;
use crate::session::{Reply, Session};
use crate::store::{Store, StreamNo, Venues};

/// Many conflated values become due together: the client reads at once, so it stays.
#[test]
fn a_heartbeat_does_not_close_a_client_that_keeps_up() {
    let stores = [Arc::new(Store::new("T", StreamNo::FIRST, 1_000_000))];
    let store = &stores[0];
    let epoch = Epoch::new(UnixNanos::new(5), 0);
    store
        .write()
        .begin(epoch, StreamSeq::new(1), StreamSeq::ZERO);
    let publish = |seq: u64| {
        let subject = format!("tick.quote.x.S{}", seq % 200);
        let time = UnixNanos::new(i64::try_from(seq).unwrap());
        let mut known = store.write();
        known.head = StreamSeq::new(seq);
        known.head_time = time;
        // {"k":"quote"}: enough to be passed on.
        let payload = b"\x81\xa1k\xa5quote";
        known
            .apply(&subject, StreamSeq::new(seq), time, payload)
            .unwrap()
    };
    for seq in 1..=200 {
        publish(seq);
    }
    let (mut indexes, now) = ([Index::default()], Instant::now());
    let metrics = Metrics::new(&mut Registry::default());
    let mut session = Session::new(
        (ConnId(1), Encoding::Json),
        LIMITS,
        metrics,
        [StreamSeq::new(200)],
        now,
    );
    let op = Subscribe {
        id: Some(1),
        topics: vec!["quote.x.*".to_owned()],
        snapshot: Some(false),
        conflate: Conflate::Millis(60_000),
        from: BTreeMap::new(),
    };
    let mut cx = Reply {
        stores: &stores,
        indexes: &mut indexes,
        now,
    };
    session.carry_out(ClientOp::Subscribe(op), &mut cx);
    for seq in 201..=400 {
        session.deliver(&publish(seq), now).unwrap();
    }
    session.applied(StreamNo::FIRST, StreamSeq::new(400));
    let mut out = Vec::new();
    let later = now + Duration::from_secs(2);
    let mut count = 0;
    while session.has_work(later) {
        let clock = UnixNanos::new(1);
        count += session
            .fill(&stores, 64_000, later, clock, (&mut out, None))
            .unwrap();
        out.clear();
        if count == 0 {
            session.heartbeat();
        }
    }
    assert!(count > 200, "{count} messages");
}

/// One write for all values of an interval, and at most one value of a topic in each.
#[test]
fn values_that_are_conflated_over_a_time_leave_together() {
    let stores = [Arc::new(Store::new("T", StreamNo::FIRST, 1_000_000))];
    let store = &stores[0];
    let epoch = Epoch::new(UnixNanos::new(5), 0);
    store
        .write()
        .begin(epoch, StreamSeq::new(1), StreamSeq::ZERO);
    let (mut indexes, now) = ([Index::default()], Instant::now());
    let metrics = Metrics::new(&mut Registry::default());
    let head = StreamSeq::ZERO;
    let mut session = Session::new((ConnId(1), Encoding::Json), LIMITS, metrics, [head], now);
    let op = Subscribe {
        topics: vec!["quote.x.*".to_owned()],
        snapshot: Some(false),
        conflate: Conflate::Millis(250),
        ..Subscribe::default()
    };
    let mut cx = Reply {
        stores: &stores,
        indexes: &mut indexes,
        now,
    };
    session.carry_out(ClientOp::Subscribe(op), &mut cx);
    let after = |millis: u64| now + Duration::from_millis(millis);
    let cases = [
        (1, 0, 250),
        (2, 10, 250),
        (3, 249, 250),
        (4, 250, 500),
        (5, 700, 750),
    ];
    for (seq, published, due) in cases {
        let live = {
            let mut known = store.write();
            known.head = StreamSeq::new(seq);
            let subject = format!("tick.quote.x.S{seq}");
            let payload = b"\x81\xa1k\xa5quote";
            let time = UnixNanos::new(1);
            known.apply(&subject, StreamSeq::new(seq), time, payload)
        };
        let live = live.unwrap();
        session.born(&live.topic, live.seq, &mut cx.indexes[0]);
        let delivered = session.deliver(&live, after(published)).unwrap();
        assert_eq!(
            delivered,
            Some(after(due)),
            "published after {published} ms"
        );
    }
}

/// Another replica was further when the broker went away: that is no reason to void what the client
/// has. A position that no broker ever confirms is one.
#[test]
fn a_position_ahead_of_this_replica_waits_for_the_broker() {
    let stores = [Arc::new(Store::new("T", StreamNo::FIRST, 1_000_000))];
    let store = &stores[0];
    let epoch = Epoch::new(UnixNanos::new(5), 0);
    let begin = (StreamSeq::new(1), StreamSeq::ZERO);
    store.write().begin(epoch, begin.0, begin.1);
    let publish = |seq: u64| {
        let mut known = store.write();
        let time = UnixNanos::new(i64::try_from(seq).unwrap());
        (known.head, known.head_time) = (StreamSeq::new(seq), time);
        let payload = b"\x81\xa1k\xa5trade";
        known
            .apply("tick.trade.x.A", StreamSeq::new(seq), time, payload)
            .unwrap()
    };
    publish(1);
    let (mut indexes, now) = ([Index::default()], Instant::now());
    let mut resumed = |pos: u64, secs: u64| {
        let metrics = Metrics::new(&mut Registry::default());
        let (head, now) = (store.read().head, now + Duration::from_secs(secs));
        let mut session = Session::new((ConnId(1), Encoding::Json), LIMITS, metrics, [head], now);
        let from = From {
            e: epoch,
            c: None,
            s: [("trade.x.A".to_owned(), StreamSeq::new(pos))].into(),
        };
        let op = Subscribe {
            topics: vec!["trade.x.A".to_owned()],
            from: [("T".to_owned(), from)].into(),
            ..Subscribe::default()
        };
        let mut cx = Reply {
            stores: &stores,
            indexes: &mut indexes,
            now,
        };
        session.carry_out(ClientOp::Subscribe(op), &mut cx);
        session
    };
    let heard = |session: &mut Session, secs: u64| {
        let (mut out, at) = (Vec::new(), now + Duration::from_secs(secs));
        let clock = UnixNanos::new(1);
        let all = (&mut out, None);
        session.fill(&stores, 64_000, at, clock, all).unwrap();
        String::from_utf8(out).unwrap()
    };
    let mut session = resumed(3, 2);
    let survey = |last: u64, secs: u64| {
        let asked = now + Duration::from_secs(secs);
        store.write().surveyed(StreamSeq::new(last), asked);
    };
    // Asked before anybody came with it, the leader had less.
    survey(1, 1);
    for secs in [3, 13, 14, 60, 61] {
        let said = heard(&mut session, secs);
        assert!(!said.contains("reset"), "after {secs} s: {said}");
    }
    // Now it has more than this replica was told.
    survey(4, 70);
    let said = heard(&mut session, 75);
    assert!(!said.contains("reset"), "{said}");
    for seq in 2..=4 {
        session.deliver(&publish(seq), now).unwrap();
        session.applied(StreamNo::FIRST, StreamSeq::new(seq));
    }
    let said = heard(&mut session, 76);
    assert!(said.contains("\"s\":4,"), "{said}");
    assert!(!said.contains("reset"), "{said}");
    let mut session = resumed(99, 80);
    survey(4, 85);
    assert!(!heard(&mut session, 86).contains("reset"));
    assert!(heard(&mut session, 91).contains("reset"));
}

/// What expired unread is told behind all that is still waited for, and also if that is let go of.
#[test]
fn what_expired_unread_is_told_though_nobody_waits_any_more() {
    for trimmed_again in [false, true] {
        let stores = [Arc::new(Store::new("T", StreamNo::FIRST, 1_000_000))];
        let store = &stores[0];
        let epoch = Epoch::new(UnixNanos::new(5), 0);
        let (head, now) = (StreamSeq::new(1), Instant::now());
        store.write().begin(epoch, head, StreamSeq::ZERO);
        let payload = b"\x81\xa1k\xa5trade";
        let time = UnixNanos::new(1);
        store.write().apply("tick.trade.x.B", head, time, payload);
        let (mut indexes, metrics) = ([Index::default()], Metrics::new(&mut Registry::default()));
        let mut session = Session::new((ConnId(1), Encoding::Json), LIMITS, metrics, [head], now);
        let mut cx = Reply {
            stores: &stores,
            indexes: &mut indexes,
            now,
        };
        let waiting = "trade.x.B".to_owned();
        let op = Subscribe {
            topics: vec!["*.x.A".to_owned(), waiting.clone()],
            snapshot: Some(true),
            ..Subscribe::default()
        };
        session.carry_out(ClientOp::Subscribe(op), &mut cx);
        let trim = |session: &mut Session, from: u64, to: u64| {
            let span = (StreamSeq::new(from), StreamSeq::new(to));
            store.write().trimmed(span.1);
            session.trimmed(&store.read(), span, now).unwrap();
        };
        trim(&mut session, 2, 5);
        let topics = vec![waiting];
        session.carry_out(ClientOp::Unsubscribe { id: None, topics }, &mut cx);
        let to = if trimmed_again { 9 } else { 5 };
        let mut out = Vec::new();
        if trimmed_again {
            trim(&mut session, 6, to);
        } else {
            // The answers go first.
            let answers = (&mut out, None);
            session.fill(&stores, 1, now, time, answers).unwrap();
            assert!(session.has_work(now), "the gap is still owed");
        }
        let rest = (&mut out, None);
        session.fill(&stores, 64_000, now, time, rest).unwrap();
        let said = String::from_utf8(out).unwrap();
        let gap = format!(r#""c":"*.x.A","from":2,"to":{to},"#);
        assert!(said.contains(&gap), "{said}");
        assert!(!session.has_work(now), "{said}");
    }
}

/// A client that knows a topic by its position in another stream, where that stream had the topic
/// before.
#[test]
fn what_another_stream_carried_begins_anew() {
    let stores = [Arc::new(Store::new("T", StreamNo::FIRST, 1_000_000))];
    let store = &stores[0];
    let (epoch, origin) = (Epoch::new(UnixNanos::new(5), 0), StreamSeq::new(4));
    let (head, now, time) = (origin.next(), Instant::now(), UnixNanos::new(1));
    store.write().venues = Venues::of(["tick.*.x.>"]);
    store.write().begin(epoch, head, StreamSeq::ZERO);
    let payload = b"\x81\xa1k\xa5trade";
    store.write().apply("tick.trade.x.A", head, time, payload);
    let (mut indexes, metrics) = ([Index::default()], Metrics::new(&mut Registry::default()));
    let mut session = Session::new((ConnId(1), Encoding::Json), LIMITS, metrics, [head], now);
    let mut said = |topic: &str, from: &[(&str, &str)]| {
        let from = from.iter().map(|(stream, topic)| {
            let s = BTreeMap::from([((*topic).to_owned(), StreamSeq::new(2))]);
            let (e, c) = (epoch, None);
            ((*stream).to_owned(), From { e, c, s })
        });
        let op = Subscribe {
            topics: vec![topic.to_owned()],
            from: from.collect(),
            ..Subscribe::default()
        };
        let mut cx = Reply {
            stores: &stores,
            indexes: &mut indexes,
            now,
        };
        session.carry_out(ClientOp::Subscribe(op), &mut cx);
        let mut out = Vec::new();
        let all = (&mut out, None);
        session.fill(&stores, 64_000, now, time, all).unwrap();
        String::from_utf8(out).unwrap()
    };
    said("trade.x.A", &[]);
    let again = said("trade.x.A", &[("T", "trade.x.B"), ("U", "trade.x.A")]);
    let (reset, value) = (again.find(r#""t":"reset""#), again.find(r#""t":"snap""#));
    assert!(reset.is_some() && reset < value, "{again}");
    let unknown = said("trade.x.B", &[("T", "trade.x.A"), ("U", "trade.x.B")]);
    assert!(
        unknown.contains(r#""t":"reset","c":"trade.x.B""#),
        "{unknown}"
    );
    let all = said("trade.>", &[("T", "trade.y.A")]);
    assert!(!all.contains("gap"), "its stream has no such topic: {all}");
}

/// Nobody goes on from a history that he was not told of.
#[test]
fn a_history_is_promised_once_its_reset_was_told() {
    let mut numbers = StreamNo::all(2);
    let stores = ["T", "U"].map(|name| {
        let store = Store::new(name, numbers.next().unwrap(), 1_000_000);
        Arc::new(store)
    });
    let (head, now, time) = (StreamSeq::new(1), Instant::now(), UnixNanos::new(1));
    let begin = |store: &Store, generation: u32, head: StreamSeq| {
        let epoch = Epoch::new(UnixNanos::new(5), generation);
        let mut known = store.write();
        known.begin(epoch, StreamSeq::new(1), StreamSeq::ZERO);
        (known.head, known.head_time) = (head, time);
        epoch
    };
    let metrics = Metrics::new(&mut Registry::default());
    let heads = [head, head];
    let mut session = Session::new((ConnId(1), Encoding::Json), LIMITS, metrics, heads, now);
    for (number, store) in StreamNo::all(2).zip(&stores) {
        session.begin(number, Some(begin(store, 0, head)));
    }
    let beat = |session: &mut Session| {
        session.heartbeat();
        let (mut out, marks) = (Vec::new(), None);
        let filled = session.fill(&stores, 64_000, now, time, (&mut out, marks));
        assert!(filled.is_ok());
    };
    assert_eq!(session.promise(), None);
    beat(&mut session);
    assert!(session.promise().is_some());
    stores[1].write().forget();
    let epoch = begin(&stores[1], 1, StreamSeq::ZERO);
    session.reset(&stores[1].read(), epoch, StreamSeq::ZERO);
    assert_eq!(session.promise(), None);
    beat(&mut session);
    let promised = session.promise().unwrap();
    assert_eq!(promised[1], (epoch, Cursor::BEGINNING));
}

/// One of two streams has nothing left: what may be gone back to is told all the same.
#[test]
fn an_expired_stream_takes_nobodys_place() {
    let numbers: Vec<StreamNo> = StreamNo::all(2).collect();
    let stores = [
        Arc::new(Store::new("A", numbers[0], 1_000_000)),
        Arc::new(Store::new("B", numbers[1], 1_000_000)),
    ];
    let epoch = Epoch::new(UnixNanos::new(5), 0);
    let subject = "tick.trade.x.A";
    {
        let mut known = stores[0].write();
        known.begin(epoch, StreamSeq::new(1), StreamSeq::ZERO);
        let payload = b"\x81\xa1k\xa5trade";
        known.apply(subject, StreamSeq::new(1), UnixNanos::new(1), payload);
        (known.head, known.head_time) = (StreamSeq::new(1), UnixNanos::new(1));
    }
    // Everything up to 100 has expired.
    stores[1]
        .write()
        .begin(epoch, StreamSeq::new(101), StreamSeq::new(100));
    let (mut indexes, now) = ([Index::default(), Index::default()], Instant::now());
    let metrics = Metrics::new(&mut Registry::default());
    let heads = [StreamSeq::new(1), StreamSeq::new(100)];
    let mut session = Session::new((ConnId(1), Encoding::Json), LIMITS, metrics, heads, now);
    for number in numbers {
        session.begin(number, Some(epoch));
    }
    let op = Subscribe {
        topics: vec!["trade.x.A".to_owned()],
        ..Subscribe::default()
    };
    let mut cx = Reply {
        stores: &stores,
        indexes: &mut indexes,
        now,
    };
    session.carry_out(ClientOp::Subscribe(op), &mut cx);
    session.heartbeat();
    let mut out = Vec::new();
    session
        .fill(&stores, 64_000, now, UnixNanos::new(1), (&mut out, None))
        .unwrap();
    assert!(session.promise().is_some());
}

/// A pattern is declared to have expired from where the lowest of its topics is, which may be owed more
/// than the pattern itself: what is told of the pattern moves all of them.
#[test]
fn what_expired_of_a_pattern_begins_where_its_lowest_topic_is() {
    let stores = [Arc::new(Store::new("T", StreamNo::FIRST, 1_000_000))];
    let store = &stores[0];
    let epoch = Epoch::new(UnixNanos::new(5), 0);
    let (now, time, head) = (Instant::now(), UnixNanos::new(1), StreamSeq::new(3));
    let begin = (StreamSeq::new(1), StreamSeq::ZERO);
    store.write().begin(epoch, begin.0, begin.1);
    for seq in 1..=3 {
        let payload = b"\x81\xa1k\xa5trade";
        let seq = StreamSeq::new(seq);
        store.write().apply("tick.trade.x.A", seq, time, payload);
    }
    let (mut indexes, metrics) = ([Index::default()], Metrics::new(&mut Registry::default()));
    let mut session = Session::new((ConnId(1), Encoding::Json), LIMITS, metrics, [head], now);
    let mut subscribe = |text: &str, pos: u64| {
        let from = From {
            e: epoch,
            c: None,
            s: [(text.to_owned(), StreamSeq::new(pos))].into(),
        };
        let op = Subscribe {
            topics: vec![text.to_owned()],
            from: [("T".to_owned(), from)].into(),
            ..Subscribe::default()
        };
        let mut cx = Reply {
            stores: &stores,
            indexes: &mut indexes,
            now,
        };
        session.carry_out(ClientOp::Subscribe(op), &mut cx);
    };
    subscribe("trade.x.A", 1);
    // The shard has not heard of it.
    store.write().trimmed(StreamSeq::new(9));
    subscribe("trade.>", 3);
    let mut out = Vec::new();
    let all = (&mut out, None);
    session.fill(&stores, 64_000, now, time, all).unwrap();
    let said = String::from_utf8(out).unwrap();
    let gap = r#""c":"trade.>","from":2,"to":9,"#;
    assert!(said.contains(gap), "{said}");
}
