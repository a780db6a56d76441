//! What every store must do; written against the seam, so that each database runs the same.

mod ledger;

use std::cell::Cell;
use std::sync::Arc;

use daemon::nats::Secret;
use postgres_server::Server;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use schemas::id::{Interval, Kind, Symbol, Venue};
use schemas::position::Cursor;
use schemas::time::{Clock as _, SystemClock};
use tempfile::TempDir;

use super::postgres::{Args, Postgres};
use super::sqlite::Sqlite;
use super::*;
use ledger::{
    dead_letters_are_listed_in_order_of_position, holes_that_feeds_tell_of_are_kept_for_ever,
    venues_are_counted_and_states_found, what_was_trimmed_unrecorded_is_lost_once,
};

/// A new store, and what it lives in.
async fn sqlite() -> (Sqlite, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.db");
    (Sqlite::open(&path, None).await.unwrap(), dir)
}

/// A new store, and what it lives in.
async fn postgres() -> (Postgres, Arc<Server>) {
    let server = Server::shared().await.unwrap();
    let url = Secret::from(server.database().await.unwrap());
    (Postgres::open(&url, &Args::default()).unwrap(), server)
}

/// Runs each case on every database.
macro_rules! on_each {
    ($($case:ident)*) => {
        mod on_sqlite {
            $(#[tokio::test]
            async fn $case() {
                let (store, _dir) = super::sqlite().await;
                super::$case(&store).await;
            })*
        }

        mod on_postgres {
            $(#[tokio::test]
            async fn $case() {
                let (store, _server) = super::postgres().await;
                super::$case(&store).await;
            })*
        }
    };
}

on_each! {
    events_are_stored_once_and_read_in_order_of_time
    any_time_can_be_stored
    a_bar_is_the_latest_of_its_start
    a_state_is_the_latest_of_its_topic
    of_many_bars_in_any_order_each_is_the_latest
    an_epoch_that_was_never_marked_is_as_old_as_the_next_one
    a_batch_written_twice_changes_nothing
    a_batch_that_overlaps_one_adds_what_is_new
    progress_never_goes_back
    ticks_are_found_by_position
    instruments_are_listed_in_order_of_bytes
    where_recording_stood_is_told_by_time
    everything_up_to_a_mark_is_deleted_a_little_at_a_time
    dead_letters_are_listed_in_order_of_position
    venues_are_counted_and_states_found
    holes_that_feeds_tell_of_are_kept_for_ever
    what_was_trimmed_unrecorded_is_lost_once
}

fn epoch(created: i64) -> Epoch {
    Epoch::new(UnixNanos::new(created), 0)
}

fn trade(symbol: &str, at: i64, seq: u64) -> Row {
    Row {
        seq: StreamSeq::new(seq),
        content: Content::Event {
            kind: Kind::Trade,
            venue: Venue::new("x").unwrap(),
            symbol: Symbol::new(symbol).unwrap(),
            at: UnixNanos::new(at),
        },
        payload: seq.to_string().into(),
    }
}

fn bar(at: i64, seq: u64) -> Row {
    let (venue, symbol) = (Venue::new("x").unwrap(), Symbol::new("A").unwrap());
    let content = Content::Bar {
        venue,
        symbol,
        interval: Interval::Minute1,
        at: UnixNanos::new(at),
    };
    Row {
        seq: StreamSeq::new(seq),
        content,
        payload: seq.to_string().into(),
    }
}

fn inst(symbol: &str, seq: u64) -> Row {
    let content = Content::State {
        kind: Kind::Inst,
        venue: Venue::new("x").unwrap(),
        symbol: Symbol::new(symbol).unwrap(),
    };
    Row {
        seq: StreamSeq::new(seq),
        content,
        payload: symbol.to_owned().into(),
    }
}

fn dead(seq: u64) -> Row {
    Row {
        seq: StreamSeq::new(seq),
        content: Content::DeadLetter {
            subject: "tick.\0".to_owned(),
            problem: "a NUL: \0".to_owned(),
        },
        payload: vec![0xc1, 0].into(),
    }
}

fn trades(symbol: &str, descending: bool, after: Option<Place>, limit: u32) -> Range {
    Range {
        series: Series::Events(
            Kind::Trade,
            Venue::new("x").unwrap(),
            Symbol::new(symbol).unwrap(),
        ),
        from: UnixNanos::new(i64::MIN),
        to: UnixNanos::new(i64::MAX),
        descending,
        after,
        limit,
    }
}

fn bars() -> Range {
    let mut range = trades("A", false, None, 10);
    range.series = Series::Bars(
        Venue::new("x").unwrap(),
        Symbol::new("A").unwrap(),
        Interval::Minute1,
    );
    range
}

async fn seqs(store: &impl TickStore, range: &Range) -> Vec<u64> {
    let page = store.page("T", range).await.unwrap();
    page.rows.iter().map(|row| row.seq.get()).collect()
}

async fn events_are_stored_once_and_read_in_order_of_time(store: &impl TickStore) {
    let odd = "B'; DROP TABLE events";
    let rows = [trade("A", 5, 1), trade("A", 3, 2), trade(odd, 4, 3)];
    store.record(epoch(1), &rows).await.unwrap();
    store.record(epoch(1), &rows).await.unwrap();
    assert_eq!(seqs(store, &trades("A", false, None, 10)).await, [2, 1]);
    assert_eq!(seqs(store, &trades("A", true, None, 10)).await, [1, 2]);
    assert_eq!(seqs(store, &trades(odd, false, None, 10)).await, [3]);
    let page = store
        .page("T", &trades(odd, false, None, 10))
        .await
        .unwrap();
    let expected = Found {
        at: UnixNanos::new(4),
        epoch: epoch(1),
        seq: StreamSeq::new(3),
        payload: "3".into(),
    };
    assert_eq!(page.rows, [expected]);
    let mut part = trades("A", false, None, 10);
    (part.from, part.to) = (UnixNanos::new(3), UnixNanos::new(5));
    assert_eq!(seqs(store, &part).await, [2], "the end is exclusive");
    part.to = part.from;
    assert!(seqs(store, &part).await.is_empty());
}

async fn any_time_can_be_stored(store: &impl TickStore) {
    let day = 86_400_000_000_000;
    let now = SystemClock.now().get();
    let times = [
        i64::MIN + 1,
        -1,
        0,
        1_609_459_200_000_000_000,
        now - day,
        now,
        now + 9 * day,
        i64::MAX - 1,
    ];
    let rows: Vec<Row> = times
        .iter()
        .zip(1..)
        .map(|(at, seq)| trade("odd", *at, seq))
        .collect();
    store.record(epoch(1), &rows).await.unwrap();
    let expected: Vec<u64> = (1..=8).collect();
    assert_eq!(seqs(store, &trades("odd", false, None, 10)).await, expected);
    let newest: Vec<u64> = (1..=8).rev().collect();
    assert_eq!(seqs(store, &trades("odd", true, None, 10)).await, newest);
}

async fn a_bar_is_the_latest_of_its_start(store: &impl TickStore) {
    let batch = [bar(60, 10), bar(60, 12), bar(60, 11), bar(120, 13)];
    store.record(epoch(1), &batch).await.unwrap();
    assert_eq!(seqs(store, &bars()).await, [12, 13]);
    store.record(epoch(2), &[bar(60, 3)]).await.unwrap();
    store.record(epoch(1), &[bar(60, 99)]).await.unwrap();
    assert_eq!(
        seqs(store, &bars()).await,
        [3, 13],
        "the later epoch wins whatever the sequence"
    );
    let later = Epoch::new(UnixNanos::new(2), 1);
    store.record(later, &[bar(60, 1)]).await.unwrap();
    store.record(epoch(2), &[bar(60, 4)]).await.unwrap();
    assert_eq!(
        seqs(store, &bars()).await,
        [1, 13],
        "so does the later generation"
    );
}

async fn of_many_bars_in_any_order_each_is_the_latest(store: &impl TickStore) {
    // More than a statement takes, and each start twice: in one batch, and in two.
    let twice = |number: u64| bar(i64::try_from(number % 600).unwrap(), number);
    let rows: Vec<Row> = (1..=1_200).rev().map(twice).collect();
    store.record(epoch(1), &rows).await.unwrap();
    let of_others = |numbers: std::ops::Range<u64>| -> Vec<Row> {
        numbers
            .map(|number| inst(&format!("S{number:04}"), number))
            .collect()
    };
    store
        .record(epoch(1), &of_others(2_000..2_700))
        .await
        .unwrap();
    store
        .record(epoch(1), &of_others(2_000..2_700))
        .await
        .unwrap();
    let range = Range {
        limit: 2_000,
        ..bars()
    };
    let mut latest = seqs(store, &range).await;
    latest.sort_unstable();
    assert!(latest.iter().copied().eq(601..=1_200), "{}", latest.len());
    store.record(epoch(1), &rows[..700]).await.unwrap();
    assert!(seqs(store, &range).await.iter().all(|seq| *seq > 600));
    let listed = store.instruments(None, "", None, 1_000).await.unwrap();
    assert_eq!(listed.len(), 700);
}

async fn an_epoch_that_was_never_marked_is_as_old_as_the_next_one(store: &impl TickStore) {
    let advance = async |created: i64, floor: u64, at: i64| {
        let (floor, at) = (StreamSeq::new(floor), UnixNanos::new(at));
        store.advance("T", epoch(created), floor, at).await.unwrap();
    };
    advance(1, 7, 10).await;
    advance(2, 3, 20).await;
    store
        .trimmed("T", epoch(3), StreamSeq::new(5), UnixNanos::new(30))
        .await
        .unwrap();
    advance(2, 9, 40).await;
    let marks = store
        .stood("T", UnixNanos::new(50), UnixNanos::new(35))
        .await
        .unwrap();
    assert_eq!(
        marks.iter().map(|(epoch, _)| *epoch).collect::<Vec<_>>(),
        [epoch(1), epoch(2)]
    );
    assert_eq!(marks[1].1, StreamSeq::new(3));
}

async fn a_state_is_the_latest_of_its_topic(store: &impl TickStore) {
    let payload = |row: &mut Row, text: &'static str| row.payload = text.into();
    let mut rows = [inst("A", 2), inst("A", 3), inst("A", 1)];
    for (row, text) in rows.iter_mut().zip(["second", "third", "first"]) {
        payload(row, text);
    }
    store.record(epoch(2), &rows).await.unwrap();
    let mut early = inst("A", 50);
    payload(&mut early, "of the epoch before");
    store.record(epoch(1), &[early]).await.unwrap();
    let found = store.instruments(None, "", None, 10).await.unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|row| (row.seq.get(), &row.payload[..]))
        .collect();
    assert_eq!(found, [(3, &b"third"[..])]);
}

async fn everything(store: &impl TickStore) -> (Vec<Found>, Vec<Found>, Vec<Found>, u64) {
    (
        store
            .page("T", &trades("A", false, None, 100))
            .await
            .unwrap()
            .rows,
        store.page("T", &bars()).await.unwrap().rows,
        store.instruments(None, "", None, 100).await.unwrap(),
        store.dead_letters().await.unwrap(),
    )
}

async fn a_batch_written_twice_changes_nothing(store: &impl TickStore) {
    let rows = [
        trade("A", 1, 1),
        bar(60, 2),
        inst("A", 3),
        dead(4),
        trade("A", 1, 5),
    ];
    store.record(epoch(1), &rows).await.unwrap();
    let before = everything(store).await;
    assert_eq!(
        (before.0.len(), before.1.len(), before.2.len(), before.3),
        (2, 1, 1, 1)
    );
    store.record(epoch(1), &rows).await.unwrap();
    let mut turned = rows.clone();
    turned.reverse();
    store.record(epoch(1), &turned).await.unwrap();
    let twice: Vec<Row> = rows.iter().chain(&rows).cloned().collect();
    store.record(epoch(1), &twice).await.unwrap();
    assert_eq!(everything(store).await, before);
    store.record(epoch(1), &[]).await.unwrap();
    assert_eq!(everything(store).await, before);
}

async fn a_batch_that_overlaps_one_adds_what_is_new(store: &impl TickStore) {
    let rows: Vec<Row> = (1..=30).map(|seq| trade("A", 1, seq)).collect();
    store.record(epoch(1), &rows[..20]).await.unwrap();
    store.record(epoch(1), &rows[10..]).await.unwrap();
    let expected: Vec<u64> = (1..=30).collect();
    assert_eq!(seqs(store, &trades("A", false, None, 100)).await, expected);
}

async fn progress_never_goes_back(store: &impl TickStore) {
    let progress = async || store.page("T", &bars()).await.unwrap().progress;
    assert_eq!(progress().await, None);
    let advance = async |stream: &str, epoch: Epoch, floor: u64, at: i64| {
        let (floor, at) = (StreamSeq::new(floor), UnixNanos::new(at));
        store.advance(stream, epoch, floor, at).await.unwrap();
    };
    let at = |epoch: Epoch, floor: u64, at: i64| {
        let floor = Cursor::new(StreamSeq::new(floor), UnixNanos::new(at));
        Some(Progress { epoch, floor })
    };
    advance("T", epoch(1), 7, 70).await;
    advance("T", epoch(1), 5, 50).await;
    assert_eq!(progress().await, at(epoch(1), 7, 70));
    advance("T", epoch(2), 1, 80).await;
    advance("T", epoch(1), 9, 90).await;
    advance("U", epoch(3), 9, 90).await;
    assert_eq!(progress().await, at(epoch(2), 1, 80));
}

async fn ticks_are_found_by_position(store: &impl TickStore) {
    let rows = [
        trade("A", 5, 1),
        trade("A", 3, 2),
        trade("A", 4, 3),
        bar(60, 4),
        bar(120, 5),
    ];
    store.record(epoch(1), &rows).await.unwrap();
    store.record(epoch(2), &[trade("A", 9, 2)]).await.unwrap();
    let find = async |series: &Series, span: (u64, u64), limit: u32| {
        let span = (StreamSeq::new(span.0), StreamSeq::new(span.1));
        let found = store
            .by_position(series, epoch(1), span, limit)
            .await
            .unwrap();
        found.iter().map(|row| row.seq.get()).collect::<Vec<_>>()
    };
    let events = trades("A", false, None, 10).series;
    assert_eq!(find(&events, (1, 2), 10).await, [2]);
    assert_eq!(find(&events, (0, u64::MAX), 10).await, [1, 2, 3]);
    assert_eq!(find(&events, (0, u64::MAX), 2).await, [1, 2]);
    assert_eq!(find(&bars().series, (0, 4), 10).await, [4]);
}

async fn instruments_are_listed_in_order_of_bytes(store: &impl TickStore) {
    let symbols = [
        "b", "B", "a", "A", "_", "Ä", "BTC-USD", "BTC/USD", "BTC%USD",
    ];
    let rows: Vec<Row> = symbols
        .iter()
        .zip(1..)
        .map(|(symbol, seq)| inst(symbol, seq))
        .collect();
    store.record(epoch(1), &rows).await.unwrap();
    let list = async |search: &str, after: Option<(&str, &str)>, limit: u32| {
        let found = store.instruments(None, search, after, limit).await.unwrap();
        let text = |row: &Found| String::from_utf8(row.payload.to_vec()).unwrap();
        found.iter().map(text).collect::<Vec<_>>()
    };
    let mut sorted = symbols;
    sorted.sort_unstable();
    assert_eq!(list("", None, 100).await, sorted);
    let (mut paged, mut after): (Vec<String>, Option<String>) = (Vec::new(), None);
    loop {
        let page = list("", after.as_deref().map(|symbol| ("x", symbol)), 2).await;
        let Some(last) = page.last() else { break };
        after = Some(last.clone());
        paged.extend(page);
    }
    assert_eq!(paged, sorted);
    assert_eq!(
        list("btc", None, 100).await,
        ["BTC%USD", "BTC-USD", "BTC/USD"]
    );
    assert_eq!(list("%", None, 100).await, ["BTC%USD"], "no pattern");
    assert_eq!(list("'; --", None, 100).await, [""; 0]);
    assert_eq!(list("\0", None, 100).await, [""; 0]);
    let elsewhere = Venue::new("y").unwrap();
    let found = store
        .instruments(Some(&elsewhere), "", None, 100)
        .await
        .unwrap();
    assert!(found.is_empty());
}

async fn where_recording_stood_is_told_by_time(store: &impl TickStore) {
    let stood = async |now: i64, before: i64| {
        store
            .stood("T", UnixNanos::new(now), UnixNanos::new(before))
            .await
            .unwrap()
    };
    assert_eq!(stood(0, -10).await, []);
    for (created, floor, now) in [(1, 5, 10), (1, 8, 20), (2, 3, 30), (2, 6, 40)] {
        let floor = StreamSeq::new(floor);
        store
            .advance("T", epoch(created), floor, UnixNanos::new(now))
            .await
            .unwrap();
        stood(now, 0).await;
    }
    let all = StreamSeq::new(u64::MAX);
    assert_eq!(stood(50, 15).await, [(epoch(1), StreamSeq::new(5))]);
    assert_eq!(stood(50, 25).await, [(epoch(1), StreamSeq::new(8))]);
    let (epoch_1, epoch_2) = (epoch(1), epoch(2));
    let whole = |mark: &(Epoch, StreamSeq)| mark.0 == epoch_1 && mark.1 >= StreamSeq::new(1 << 62);
    let marks = stood(50, 35).await;
    assert!(whole(&marks[0]) && marks[0].1 <= all, "{marks:?}");
    assert_eq!(marks[1..], [(epoch_2, StreamSeq::new(3))]);
}

async fn everything_up_to_a_mark_is_deleted_a_little_at_a_time(store: &impl TickStore) {
    let symbols: Vec<String> = (0..150).map(|number| format!("S{number}")).collect();
    let mut rows = Vec::new();
    for seq in 1..=7 {
        rows.extend(symbols.iter().map(|symbol| trade(symbol, 5, seq)));
    }
    store.record(epoch(1), &rows).await.unwrap();
    store.record(epoch(1), &[bar(60, 1)]).await.unwrap();
    let until = [(epoch(1), StreamSeq::new(5))];
    let (mut behind, mut deleted) = (None, 0);
    loop {
        let swept = store.sweep(&until, behind, 3).await.unwrap();
        assert!(swept.rows <= 3);
        deleted += swept.rows;
        behind = swept.behind;
        if swept.done {
            break;
        }
    }
    assert_eq!(deleted, 150 * 5);
    for symbol in symbols {
        let left = seqs(store, &trades(&symbol, false, None, 100)).await;
        assert_eq!(left, [6, 7], "{symbol}");
    }
    assert_eq!(seqs(store, &bars()).await, [1], "longer bars are kept");
}

#[tokio::test]
async fn a_full_disk_stores_nothing_of_a_batch_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Sqlite::open(&dir.path().join("history.db"), Some(400_000))
        .await
        .unwrap();
    store.record(epoch(1), &[trade("A", 1, 1)]).await.unwrap();
    let mut large: Vec<Row> = (2..50).map(|seq| trade("A", 1, seq)).collect();
    for row in &mut large {
        row.payload = vec![0; 20_000].into();
    }
    let refused = store.record(epoch(1), &large).await;
    assert!(matches!(refused, Err(StoreError::Database(_))));
    let told = format!("{:#}", anyhow::Error::from(refused.unwrap_err()));
    assert_eq!(told.matches("is full").count(), 1, "{told}");
    assert_eq!(seqs(&store, &trades("A", false, None, 100)).await, [1]);
    store.record(epoch(1), &[trade("A", 2, 2)]).await.unwrap();
    assert_eq!(seqs(&store, &trades("A", false, None, 100)).await, [1, 2]);
}

/// Pages of anything, while more arrives.
async fn pages_have_no_hole_and_no_double(
    store: &impl TickStore,
    (symbol, times): (&str, &[i64]),
    (limit, descending): (u32, bool),
) {
    let rows: Vec<Row> = times
        .iter()
        .zip(1..)
        .map(|(at, seq)| trade(symbol, *at, seq))
        .collect();
    store.record(epoch(1), &rows).await.unwrap();
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let page = store
            .page("T", &trades(symbol, descending, after, limit))
            .await
            .unwrap();
        let Some(last) = page.rows.last() else { break };
        after = Some((last.at, last.epoch, last.seq));
        seen.extend(page.rows.iter().map(|row| row.seq.get()));
        // What arrives between two pages at their edge must not shift them.
        let edge = if descending { 100 } else { -1 };
        let early = trade(symbol, edge, 1_000 + u64::try_from(seen.len()).unwrap());
        store.record(epoch(1), &[early]).await.unwrap();
    }
    let mut expected: Vec<(i64, u64)> = times.iter().copied().zip(1..).collect();
    expected.sort_unstable();
    if descending {
        expected.reverse();
    }
    let expected: Vec<u64> = expected.into_iter().map(|(_, seq)| seq).collect();
    assert_eq!(seen, expected);
}

fn any_pages<S: TickStore, H>(open: impl Future<Output = (S, H)>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (store, _held) = runtime.block_on(open);
    let case = Cell::new(0);
    let cases = (
        prop::collection::vec(0_i64..20, 1..60),
        1_u32..7,
        any::<bool>(),
    );
    let mut runner = TestRunner::new(Config::with_cases(16));
    let outcome = runner.run(&cases, |(times, limit, descending)| {
        case.set(case.get() + 1);
        let series = (&*format!("P{}", case.get()), &*times);
        let pages = pages_have_no_hole_and_no_double(&store, series, (limit, descending));
        runtime.block_on(pages);
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn any_pages_on_sqlite() {
    any_pages(sqlite());
}

#[test]
fn any_pages_on_postgres() {
    any_pages(postgres());
}
