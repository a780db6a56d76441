//! Single rules that random histories meet too seldom.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use schemas::position::{Epoch, StreamSeq};
use schemas::time::UnixNanos;
use schemas::ws::{ClientOp, Conflate, Encoding, Subscribe};

use super::world::LIMITS;
use crate::index::{ConnId, Index};
use crate::metrics::Metrics;
use crate::session::{Reply, Session};
use crate::store::Store;

/// Many conflated values become due together: the client reads at once, so it stays.
#[test]
fn a_heartbeat_does_not_close_a_client_that_keeps_up() {
    let store = Store::new("T", 1_000_000);
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
    let (mut index, now) = (Index::default(), Instant::now());
    let metrics = Metrics::new(&mut Registry::default());
    let mut session = Session::new(
        ConnId(1),
        Encoding::Json,
        LIMITS,
        metrics,
        StreamSeq::new(200),
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
        store: &store,
        index: &mut index,
        now,
    };
    session.carry_out(ClientOp::Subscribe(op), &mut cx);
    for seq in 201..=400 {
        session.deliver(&publish(seq), now).unwrap();
    }
    session.applied(StreamSeq::new(400));
    let mut out = Vec::new();
    let later = now + Duration::from_secs(2);
    let mut count = 0;
    while session.has_work(later) {
        let clock = UnixNanos::new(1);
        count += session
            .fill(&store, 64_000, later, clock, (&mut out, None))
            .unwrap();
        out.clear();
        if count == 0 {
            session.heartbeat();
        }
    }
    assert!(count > 200, "{count} messages");
}
