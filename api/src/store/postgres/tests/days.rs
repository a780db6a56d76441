//! A partition for each day: made, filled, dropped.

use super::*;

#[tokio::test]
async fn events_lie_in_the_partition_of_their_day() {
    let mut world = World::new().await;
    let rows = [
        event(TODAY - 1, 1),
        event(TODAY, 2),
        event(TODAY + DAY - 1, 3),
        event(TODAY + DAY, 4),
        event(0, 5),
        event(i64::MAX - 1, 6),
    ];
    world.store.record(epoch(), &rows).await.unwrap();
    let place = |name: &str, seq| (name.to_owned(), seq);
    assert_eq!(
        world.places().await,
        [
            place("events_20261120", 1),
            place("events_20261121", 2),
            place("events_20261121", 3),
            place("events_20261122", 4),
            place("events_default", 5),
            place("events_default", 6),
        ]
    );
    assert_eq!(
        world.partitions().await,
        [
            "events_20261120",
            "events_20261121",
            "events_20261122",
            "events_20261123",
            "events_default"
        ],
        "the next days are made ahead"
    );
}

#[tokio::test]
async fn what_came_before_its_day_is_moved_when_the_day_is_made() {
    let mut world = World::new().await;
    let early = [event(TODAY + 5 * DAY, 1), event(TODAY + 6 * DAY, 2)];
    world.store.record(epoch(), &early).await.unwrap();
    let default = "events_default".to_owned();
    assert_eq!(
        world.places().await,
        [(default.clone(), 1), (default.clone(), 2)]
    );
    world.clock.0.store(TODAY + 3 * DAY, Ordering::SeqCst);
    world
        .store
        .record(epoch(), &[event(TODAY + 3 * DAY, 3)])
        .await
        .unwrap();
    assert_eq!(
        world.places().await,
        [
            ("events_20261126".to_owned(), 1),
            (default, 2),
            ("events_20261124".to_owned(), 3)
        ]
    );
    assert_eq!(seqs(&world.store).await, [3, 1, 2]);
    world.store.record(epoch(), &early).await.unwrap();
    assert_eq!(seqs(&world.store).await, [3, 1, 2], "they are still known");
}

#[tokio::test]
async fn a_day_that_cannot_be_made_stops_nothing() {
    let mut world = World::new().await;
    world.store.ready().await.unwrap();
    // In the way of the partition's name.
    world
        .outside
        .execute("CREATE TABLE events_20261121 (at text)")
        .await
        .unwrap();
    world
        .store
        .record(epoch(), &[event(TODAY, 1)])
        .await
        .unwrap();
    assert_eq!(world.places().await, [("events_default".to_owned(), 1)]);
}

#[tokio::test]
async fn old_days_are_dropped_whole_unless_something_came_late() {
    let mut world = World::new().await;
    let days = [
        event(TODAY - 9 * DAY, 1),
        event(TODAY - 8 * DAY, 2),
        event(TODAY, 3),
    ];
    world.store.record(epoch(), &days).await.unwrap();
    let stream = "T";
    world
        .store
        .advance(stream, epoch(), StreamSeq::new(3), UnixNanos::new(TODAY))
        .await
        .unwrap();
    let now = UnixNanos::new(TODAY + DAY / 2);
    world.store.stood(stream, now, now).await.unwrap();
    // Fetched later for a day that is over.
    world
        .store
        .record(epoch(), &[event(TODAY - 8 * DAY, 4)])
        .await
        .unwrap();
    let later = UnixNanos::new(TODAY + 31 * DAY);
    let until = world
        .store
        .stood(stream, later, now.offset(1))
        .await
        .unwrap();
    assert_eq!(until, [(epoch(), StreamSeq::new(3))]);
    let swept = world.store.sweep(&until, None, 100).await.unwrap();
    assert!(swept.done);
    let left = [("events_20261113".to_owned(), 4)];
    assert_eq!(world.places().await, left);
    assert_eq!(
        world.partitions().await,
        [
            "events_20261113",
            "events_20261121",
            "events_20261122",
            "events_20261123",
            "events_default"
        ],
        "neither a day with something later nor one that was not over then is dropped"
    );
    assert_eq!(seqs(&world.store).await, [4]);
    world
        .store
        .record(epoch(), &[event(TODAY - 9 * DAY, 5)])
        .await
        .unwrap();
    assert_eq!(
        seqs(&world.store).await,
        [5, 4],
        "a day that was dropped can still be written to"
    );
}
