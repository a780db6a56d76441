//! What is missing, what was no tick, and what there is by name.

use schemas::codec;
use schemas::tick::{Feed, FeedState, Head, Tick, VenueGap};

use super::*;

const ALL: (UnixNanos, UnixNanos) = (UnixNanos::new(i64::MIN), UnixNanos::new(i64::MAX));

pub(super) async fn dead_letters_are_listed_in_order_of_position(store: &impl TickStore) {
    assert_eq!(store.dead_letters_page(None, 10).await.unwrap(), []);
    store
        .record(epoch(2), &[dead(1), trade("A", 1, 2)])
        .await
        .unwrap();
    store.record(epoch(1), &[dead(9), dead(3)]).await.unwrap();
    let all = store.dead_letters_page(None, 10).await.unwrap();
    let places: Vec<_> = all
        .iter()
        .map(|dead| (dead.epoch, dead.seq.get()))
        .collect();
    assert_eq!(places, [(epoch(1), 3), (epoch(1), 9), (epoch(2), 1)]);
    assert_eq!(&all[0].payload[..], [0xc1, 0]);
    assert!(all[0].subject.starts_with("tick."), "{}", all[0].subject);
    assert!(all[0].problem.starts_with("a NUL"), "{}", all[0].problem);
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = store.dead_letters_page(after, 1).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some((last.epoch, last.seq));
        paged.extend(page);
    }
    assert_eq!(paged, all);
}

pub(super) async fn venues_are_counted_and_states_found(store: &impl TickStore) {
    assert_eq!(store.venues().await.unwrap(), []);
    let mut elsewhere = inst("B", 3);
    elsewhere.content = Content::State {
        kind: Kind::Inst,
        venue: Venue::new("a").unwrap(),
        symbol: Symbol::new("B").unwrap(),
    };
    let mut stat = inst("A", 4);
    stat.content = Content::State {
        kind: Kind::Stat,
        venue: Venue::new("only-stats").unwrap(),
        symbol: Symbol::new("A").unwrap(),
    };
    let rows = [inst("A", 1), inst("B", 2), elsewhere, stat, inst("B", 5)];
    store.record(epoch(1), &rows).await.unwrap();
    let listed = |venue: &str, instruments| Listed {
        venue: Venue::new(venue).unwrap(),
        instruments,
    };
    assert_eq!(
        store.venues().await.unwrap(),
        [listed("a", 1), listed("x", 2)]
    );
    let (x, b) = (Venue::new("x").unwrap(), Symbol::new("B").unwrap());
    let found = store.instrument(&x, &b).await.unwrap().unwrap();
    assert_eq!((found.seq.get(), found.epoch), (5, epoch(1)));
    assert_eq!(store.state(Kind::Stat, &x, &b).await.unwrap(), None);
    let odd = Symbol::new("b'; --").unwrap();
    assert_eq!(store.instrument(&x, &odd).await.unwrap(), None);
    let only = Venue::new("only-stats").unwrap();
    let a = Symbol::new("A").unwrap();
    let stat = store.state(Kind::Stat, &only, &a).await.unwrap().unwrap();
    assert_eq!(stat.seq.get(), 4);
}

/// What a feed tells at a time.
fn told(state: FeedState, (from, at): (Option<i64>, i64), seq: u64) -> Row {
    let (venue, feed) = (Venue::new("x").unwrap(), Symbol::new("tape").unwrap());
    let gap = VenueGap {
        symbol: None,
        after_id: None,
        until_id: None,
        from: from.map(UnixNanos::new),
        to: None,
        filled: false,
    };
    let tick = Tick::from(Feed {
        head: Head::new(venue, feed, UnixNanos::new(at)),
        state,
        detail: None,
        gap: Some(gap).filter(|_| state == FeedState::Gap),
        collapsed: None,
    });
    Row {
        seq: StreamSeq::new(seq),
        content: content(&tick),
        payload: codec::to_msgpack(&tick).unwrap().into(),
    }
}

pub(super) async fn holes_that_feeds_tell_of_are_kept_for_ever(store: &impl TickStore) {
    let rows = [
        told(FeedState::Live, (None, 10), 1),
        told(FeedState::Gap, (Some(20), 30), 2),
        told(FeedState::Gap, (None, 30), 3),
        told(FeedState::Gap, (Some(5), 50), 4),
        told(FeedState::Closed, (None, 60), 5),
    ];
    store.record(epoch(1), &rows).await.unwrap();
    store.record(epoch(1), &rows).await.unwrap();
    let gaps = async |from: i64, to: i64, after: Option<Place>, limit: u32| {
        let span = (UnixNanos::new(from), UnixNanos::new(to));
        store.feed_gaps(span, after, limit).await.unwrap()
    };
    let seqs = |found: &[Found]| found.iter().map(|row| row.seq.get()).collect::<Vec<_>>();
    let all = gaps(i64::MIN, i64::MAX, None, 10).await;
    assert_eq!(seqs(&all), [2, 3, 4]);
    assert_eq!(all[0].payload, rows[1].payload);
    assert_eq!(all[0].at, UnixNanos::new(30));
    assert_eq!(
        seqs(&gaps(0, 20, None, 10).await),
        [4],
        "it began before the end"
    );
    assert_eq!(
        seqs(&gaps(31, 40, None, 10).await),
        [4],
        "and lasted longer"
    );
    assert_eq!(seqs(&gaps(51, 90, None, 10).await), [0; 0]);
    let place = |row: &Found| (row.at, row.epoch, row.seq);
    assert_eq!(
        seqs(&gaps(0, 90, Some(place(&all[0])), 1).await),
        [3],
        "at the same time"
    );
    assert_eq!(seqs(&gaps(0, 90, Some(place(&all[1])), 9).await), [4]);
    let until = [(epoch(1), StreamSeq::new(9))];
    let swept = store.sweep(&until, None, 100).await.unwrap();
    assert_eq!(swept.rows, 5, "the ticks themselves are deleted");
    assert_eq!(seqs(&gaps(0, 90, None, 10).await), [2, 3, 4]);
}

pub(super) async fn what_was_trimmed_unrecorded_is_lost_once(store: &impl TickStore) {
    let trimmed = async |epoch: Epoch, first: u64, now: i64| {
        let (first, now) = (StreamSeq::new(first), UnixNanos::new(now));
        let loss = store.trimmed("T", epoch, first, now).await.unwrap();
        loss.map(|loss| (loss.from.get(), loss.to.get()))
    };
    let advance = async |epoch: Epoch, floor: u64, at: i64| {
        let (floor, at) = (StreamSeq::new(floor), UnixNanos::new(at));
        store.advance("T", epoch, floor, at).await.unwrap();
    };
    let recorded = async || {
        let recorded = store.recorded("T").await.unwrap()?;
        Some((recorded.epoch, recorded.floor.get(), recorded.at.get()))
    };
    assert_eq!(trimmed(epoch(1), 1, 1).await, None);
    assert_eq!(recorded().await, None, "nothing is recorded by looking");
    assert_eq!(trimmed(epoch(1), 4, 2).await, Some((1, 3)));
    assert_eq!(recorded().await, Some((epoch(1), 3, 0)));
    advance(epoch(1), 10, 70).await;
    assert_eq!(trimmed(epoch(1), 11, 3).await, None, "all of it is stored");
    assert_eq!(trimmed(epoch(1), 15, 4).await, Some((11, 14)));
    assert_eq!(trimmed(epoch(1), 15, 5).await, None, "once");
    assert_eq!(trimmed(epoch(1), 12, 5).await, None, "told late");
    let rewound = Epoch::new(UnixNanos::new(1), 1);
    assert_eq!(
        trimmed(rewound, 15, 6).await,
        None,
        "recorded before the rewind"
    );
    assert_eq!(trimmed(epoch(2), 3, 7).await, Some((1, 2)));
    assert_eq!(
        trimmed(epoch(1), 99, 8).await,
        None,
        "of an epoch that is over"
    );
    advance(epoch(2), 5, 80).await;
    assert_eq!(recorded().await, Some((epoch(2), 5, 80)));
    let page = async |span, after: Option<Place>, limit| {
        store.losses_page("T", span, after, limit).await.unwrap()
    };
    let all = page(ALL, None, 10).await;
    let told: Vec<_> = all
        .iter()
        .map(|loss| {
            let times = (loss.began.get(), loss.noticed.get());
            (loss.epoch, loss.from.get(), loss.to.get(), times)
        })
        .collect();
    assert_eq!(
        told,
        [
            (epoch(1), 1, 3, (0, 2)),
            (epoch(1), 11, 14, (70, 4)),
            (epoch(2), 1, 2, (0, 7))
        ]
    );
    assert!(all[0].why.contains("retention"), "{}", all[0].why);
    assert_eq!(page(ALL, Some(all[0].place()), 1).await, all[1..2]);
    let part = (UnixNanos::new(3), UnixNanos::new(70));
    assert_eq!(page(part, None, 10).await, all[2..], "not what began later");
    let other = store.losses_page("U", ALL, None, 10).await.unwrap();
    assert_eq!(other, []);
}
