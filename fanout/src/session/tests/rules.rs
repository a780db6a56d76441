//! Single rules that random histories meet too seldom.

mod older;

use std::array;
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
use crate::store::{Live, Store, StreamNo, Venues};

const EPOCH: Epoch = Epoch::new(UnixNanos::new(5), 0);
const TIME: UnixNanos = UnixNanos::new(1);
/// More than all that these tests are told.
const ROOM: usize = 64_000;

/// A shard with one client.
struct Desk<const N: usize> {
    stores: [Arc<Store>; N],
    indexes: [Index; N],
    session: Session,
    now: Instant,
}

/// Streams by their names, and how far each has expired.
fn streams<const N: usize>(expired: [(&'static str, u64); N]) -> [Arc<Store>; N] {
    let mut numbers = StreamNo::all(N);
    expired.map(|(name, expired)| {
        let store = Store::new(name, numbers.next().unwrap(), 1_000_000);
        let expired = StreamSeq::new(expired);
        store.write().begin(EPOCH, expired.next(), expired);
        Arc::new(store)
    })
}

/// Publishes a tick that says its kind only.
fn publish(store: &Store, kind: &str, symbol: &str, seq: u64) -> Arc<Live> {
    let subject = format!("tick.{kind}.x.{symbol}");
    let payload = format!("\u{81}\u{a1}k\u{a5}{kind}");
    let payload: Vec<u8> = payload
        .chars()
        .map(|one| u8::try_from(one).unwrap())
        .collect();
    let (seq, time) = (
        StreamSeq::new(seq),
        UnixNanos::new(i64::try_from(seq).unwrap()),
    );
    let mut known = store.write();
    (known.head, known.head_time) = (seq, time);
    known.apply(&subject, seq, time, &payload).unwrap()
}

fn subscribe(topics: &[&str]) -> Subscribe {
    let topics = topics.iter().map(|&topic| topic.to_owned()).collect();
    Subscribe {
        topics,
        ..Subscribe::default()
    }
}

/// A client has `topic` up to `pos` of `stream`.
fn has(stream: &str, topic: &str, pos: u64) -> (String, From) {
    let s = BTreeMap::from([(topic.to_owned(), StreamSeq::new(pos))]);
    let (e, c) = (EPOCH, None);
    (stream.to_owned(), From { e, c, s })
}

impl<const N: usize> Desk<N> {
    /// The client comes when the streams are where they are.
    fn new(stores: [Arc<Store>; N]) -> Self {
        let now = Instant::now();
        let session = connected(&stores, now);
        let indexes = array::from_fn(|_| Index::default());
        Self {
            stores,
            indexes,
            session,
            now,
        }
    }

    fn carry_out(&mut self, op: ClientOp) {
        let mut cx = Reply {
            stores: &self.stores,
            indexes: &mut self.indexes,
            now: self.now,
        };
        self.session.carry_out(op, &mut cx);
    }

    fn subscribe(&mut self, op: Subscribe) {
        self.carry_out(ClientOp::Subscribe(op));
    }

    /// What the client is told after so many seconds.
    fn told_after(&mut self, secs: u64) -> String {
        self.told((ROOM, self.now + Duration::from_secs(secs)))
    }

    fn told(&mut self, (room, at): (usize, Instant)) -> String {
        let mut out = Vec::new();
        let all = (&mut out, None);
        self.session
            .fill(&self.stores, room, at, TIME, all)
            .unwrap();
        String::from_utf8(out).unwrap()
    }
}

fn connected<const N: usize>(stores: &[Arc<Store>; N], now: Instant) -> Session {
    let heads = stores.each_ref().map(|store| store.read().head);
    let metrics = Metrics::new(&mut Registry::default());
    Session::new(
        (ConnId::new(1, 0), Encoding::Json),
        LIMITS.into(),
        metrics,
        heads,
        now,
    )
}

/// Many conflated values become due together: the client reads at once, so it stays.
#[test]
fn a_heartbeat_does_not_close_a_client_that_keeps_up() {
    let [store] = streams([("T", 0)]);
    let quote = |seq: u64| publish(&store, "quote", &format!("S{}", seq % 200), seq);
    for seq in 1..=200 {
        quote(seq);
    }
    let mut desk = Desk::new([Arc::clone(&store)]);
    desk.subscribe(Subscribe {
        id: Some(1),
        snapshot: Some(false),
        conflate: Conflate::Millis(60_000),
        ..subscribe(&["quote.x.*"])
    });
    for seq in 201..=400 {
        desk.session.deliver(&quote(seq), desk.now).unwrap();
    }
    desk.session.applied(StreamNo::FIRST, StreamSeq::new(400));
    let mut out = Vec::new();
    let later = desk.now + Duration::from_secs(2);
    let mut count = 0;
    while desk.session.has_work(later) {
        let all = (&mut out, None);
        let filled = desk.session.fill(&desk.stores, ROOM, later, TIME, all);
        count += filled.unwrap();
        out.clear();
        if count == 0 {
            desk.session.heartbeat();
        }
    }
    assert!(count > 200, "{count} messages");
}

/// One write for all values of an interval, and at most one value of a topic in each.
#[test]
fn values_that_are_conflated_over_a_time_leave_together() {
    let [store] = streams([("T", 0)]);
    let mut desk = Desk::new([Arc::clone(&store)]);
    desk.subscribe(Subscribe {
        snapshot: Some(false),
        conflate: Conflate::Millis(250),
        ..subscribe(&["quote.x.*"])
    });
    let now = desk.now;
    let after = |millis: u64| now + Duration::from_millis(millis);
    let cases = [
        (1, 0, 250),
        (2, 10, 250),
        (3, 249, 250),
        (4, 250, 500),
        (5, 700, 750),
    ];
    for (seq, published, due) in cases {
        let live = publish(&store, "quote", &format!("S{seq}"), seq);
        desk.session
            .born(&live.topic, live.seq, &mut desk.indexes[0]);
        let delivered = desk.session.deliver(&live, after(published)).unwrap();
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
    let [store] = streams([("T", 0)]);
    publish(&store, "trade", "A", 1);
    let mut desk = Desk::new([Arc::clone(&store)]);
    let resume = |desk: &mut Desk<1>, pos: u64, secs: u64| {
        let begun = desk.now;
        desk.now = begun + Duration::from_secs(secs);
        desk.session = connected(&desk.stores, desk.now);
        desk.subscribe(Subscribe {
            from: [has("T", "trade.x.A", pos)].into(),
            ..subscribe(&["trade.x.A"])
        });
        desk.now = begun;
    };
    let begun = desk.now;
    let survey = |last: u64, secs: u64| {
        let asked = begun + Duration::from_secs(secs);
        store.write().surveyed(StreamSeq::new(last), asked);
    };
    resume(&mut desk, 3, 2);
    // Asked before anybody came with it, the leader had less.
    survey(1, 1);
    for secs in [3, 13, 14, 60, 61] {
        let said = desk.told_after(secs);
        assert!(!said.contains("reset"), "after {secs} s: {said}");
    }
    // Now it has more than this replica was told.
    survey(4, 70);
    let said = desk.told_after(75);
    assert!(!said.contains("reset"), "{said}");
    for seq in 2..=4 {
        let live = publish(&store, "trade", "A", seq);
        desk.session.deliver(&live, begun).unwrap();
        desk.session.applied(StreamNo::FIRST, live.seq);
    }
    let said = desk.told_after(76);
    assert!(said.contains("\"s\":4,"), "{said}");
    assert!(!said.contains("reset"), "{said}");
    resume(&mut desk, 99, 80);
    survey(4, 85);
    assert!(!desk.told_after(86).contains("reset"));
    assert!(desk.told_after(91).contains("reset"));
}

/// What expired unread is told behind all that is still waited for, and also if that is let go of.
#[test]
fn what_expired_unread_is_told_though_nobody_waits_any_more() {
    for trimmed_again in [false, true] {
        let [store] = streams([("T", 0)]);
        publish(&store, "trade", "B", 1);
        let mut desk = Desk::new([Arc::clone(&store)]);
        let waiting = "trade.x.B";
        desk.subscribe(Subscribe {
            snapshot: Some(true),
            ..subscribe(&["*.x.A", waiting])
        });
        let trim = |desk: &mut Desk<1>, from: u64, to: u64| {
            let span = (StreamSeq::new(from), StreamSeq::new(to));
            store.write().trimmed(span.1);
            let told = desk.session.trimmed(&store.read(), span, desk.now);
            told.unwrap();
        };
        trim(&mut desk, 2, 5);
        let topics = vec![waiting.to_owned()];
        desk.carry_out(ClientOp::Unsubscribe { id: None, topics });
        let to = if trimmed_again { 9 } else { 5 };
        let mut said = String::new();
        if trimmed_again {
            trim(&mut desk, 6, to);
        } else {
            // The answers go first.
            said = desk.told((1, desk.now));
            assert!(desk.session.has_work(desk.now), "the gap is still owed");
        }
        said += &desk.told_after(0);
        let gap = format!(r#""c":"*.x.A","from":2,"to":{to},"#);
        assert!(said.contains(&gap), "{said}");
        assert!(!desk.session.has_work(desk.now), "{said}");
    }
}

/// A stream that carries one venue, expired up to 4, with a trade behind that.
fn with_one_venue() -> Desk<1> {
    let [store] = streams([("T", 4)]);
    store.write().venues = Venues::of(["tick.*.x.>"]);
    publish(&store, "trade", "A", 5);
    Desk::new([store])
}

/// A client that knows a topic by its position in another stream, where that stream had the topic
/// before.
#[test]
fn what_another_stream_carried_begins_anew() {
    let mut desk = with_one_venue();
    let mut said = |topic: &str, from: &[(&str, &str)]| {
        let from = from.iter().map(|(stream, topic)| has(stream, topic, 2));
        desk.subscribe(Subscribe {
            from: from.collect(),
            ..subscribe(&[topic])
        });
        desk.told_after(0)
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

/// Where its stream has expired beyond what the client has of it, a topic still begins anew.
#[test]
fn what_begins_anew_lacks_nothing() {
    let mut desk = with_one_venue();
    let c = Some(Cursor::new(StreamSeq::new(2), TIME));
    let (e, s) = (EPOCH, BTreeMap::new());
    let own = ("T".to_owned(), From { e, c, s });
    desk.subscribe(Subscribe {
        from: [own, has("U", "trade.x.A", 2)].into(),
        ..subscribe(&["trade.x.A"])
    });
    let said = desk.told_after(0);
    assert!(said.contains(r#""t":"reset","c":"trade.x.A""#), "{said}");
    assert!(!said.contains("gap"), "{said}");
}

/// Nobody goes on from a history that he was not told of.
#[test]
fn a_history_is_promised_once_its_reset_was_told() {
    let stores = streams([("T", 0), ("U", 0)]);
    let begin = |store: &Store, generation: u32, head: StreamSeq| {
        let epoch = Epoch::new(EPOCH.created(), generation);
        let mut known = store.write();
        known.begin(epoch, StreamSeq::new(1), StreamSeq::ZERO);
        (known.head, known.head_time) = (head, TIME);
        epoch
    };
    for store in &stores {
        begin(store, 0, StreamSeq::new(1));
    }
    let mut desk = Desk::new(stores);
    for number in StreamNo::all(2) {
        desk.session.begin(number, Some(EPOCH));
    }
    let beat = |desk: &mut Desk<2>| {
        desk.session.heartbeat();
        desk.told_after(0);
    };
    assert_eq!(desk.session.promise(), None);
    beat(&mut desk);
    assert!(desk.session.promise().is_some());
    let store = Arc::clone(&desk.stores[1]);
    store.write().forget();
    let epoch = begin(&store, 1, StreamSeq::ZERO);
    desk.session.reset(&store.read(), epoch, StreamSeq::ZERO);
    assert_eq!(desk.session.promise(), None);
    beat(&mut desk);
    let promised = desk.session.promise().unwrap();
    assert_eq!(promised[1], (epoch, Cursor::BEGINNING));
}

/// One of two streams has nothing left: what may be gone back to is told all the same.
#[test]
fn an_expired_stream_takes_nobodys_place() {
    let stores = streams([("A", 0), ("B", 100)]);
    publish(&stores[0], "trade", "A", 1);
    let mut desk = Desk::new(stores);
    for number in StreamNo::all(2) {
        desk.session.begin(number, Some(EPOCH));
    }
    desk.subscribe(subscribe(&["trade.x.A"]));
    desk.session.heartbeat();
    desk.told_after(0);
    assert!(desk.session.promise().is_some());
}

/// A pattern is declared to have expired from where the lowest of its topics is, which may be owed more
/// than the pattern itself: what is told of the pattern moves all of them.
#[test]
fn what_expired_of_a_pattern_begins_where_its_lowest_topic_is() {
    let [store] = streams([("T", 0)]);
    for seq in 1..=3 {
        publish(&store, "trade", "A", seq);
    }
    let mut desk = Desk::new([Arc::clone(&store)]);
    let resume = |desk: &mut Desk<1>, topic: &str, pos: u64| {
        desk.subscribe(Subscribe {
            from: [has("T", topic, pos)].into(),
            ..subscribe(&[topic])
        });
    };
    resume(&mut desk, "trade.x.A", 1);
    // The shard has not heard of it.
    store.write().trimmed(StreamSeq::new(9));
    resume(&mut desk, "trade.>", 3);
    let said = desk.told_after(0);
    let gap = r#""c":"trade.>","from":2,"to":9,"#;
    assert!(said.contains(gap), "{said}");
}
