//! What every store must do; written against the seam, so that each database runs the same.

use proptest::prelude::*;
use schemas::id::{Interval, Kind, Symbol, Venue};

use super::sqlite::Sqlite;
use super::*;

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

async fn seqs(store: &impl TickStore, range: &Range) -> Vec<u64> {
    let page = store.page("T", range).await.unwrap();
    page.rows.iter().map(|row| row.seq.get()).collect()
}

/// The suite.
async fn behaves(store: &impl TickStore) {
    let rows = [
        trade("A", 5, 1),
        trade("A", 3, 2),
        trade("B'; DROP TABLE events", 4, 3),
    ];
    store.record(epoch(1), &rows).await.unwrap();
    store.record(epoch(1), &rows).await.unwrap();
    assert_eq!(seqs(store, &trades("A", false, None, 10)).await, [2, 1]);
    assert_eq!(seqs(store, &trades("A", true, None, 10)).await, [1, 2]);
    assert_eq!(
        seqs(store, &trades("B'; DROP TABLE events", false, None, 10)).await,
        [3]
    );
    let odd = [
        trade("odd", i64::MIN + 1, 4),
        trade("odd", 0, 5),
        trade("odd", i64::MAX - 1, 6),
    ];
    store.record(epoch(1), &odd).await.unwrap();
    assert_eq!(
        seqs(store, &trades("odd", false, None, 10)).await,
        [4, 5, 6]
    );

    store
        .record(epoch(1), &[bar(60, 10), bar(60, 12), bar(60, 11)])
        .await
        .unwrap();
    store.record(epoch(2), &[bar(60, 3)]).await.unwrap();
    store.record(epoch(1), &[bar(60, 99)]).await.unwrap();
    let mut range = trades("A", false, None, 10);
    range.series = Series::Bars(
        Venue::new("x").unwrap(),
        Symbol::new("A").unwrap(),
        Interval::Minute1,
    );
    assert_eq!(
        seqs(store, &range).await,
        [3],
        "the later epoch wins whatever the sequence"
    );

    assert_eq!(store.page("T", &range).await.unwrap().progress, None);
    store
        .advance("T", epoch(1), StreamSeq::new(7), UnixNanos::new(70))
        .await
        .unwrap();
    store
        .advance("T", epoch(1), StreamSeq::new(5), UnixNanos::new(50))
        .await
        .unwrap();
    let progress = store.page("T", &range).await.unwrap().progress.unwrap();
    assert_eq!(
        progress.floor,
        Cursor::new(StreamSeq::new(7), UnixNanos::new(70))
    );

    let series = trades("A", false, None, 10).series;
    let span = (StreamSeq::new(1), StreamSeq::new(2));
    let by_position = store
        .by_position(&series, epoch(1), span, 10)
        .await
        .unwrap();
    assert_eq!(
        by_position
            .iter()
            .map(|row| row.seq.get())
            .collect::<Vec<_>>(),
        [2]
    );
}

#[tokio::test]
async fn sweeping_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.db");
    let store = Sqlite::open(&path, None).await.unwrap();
    let symbols: Vec<String> = (0..150).map(|number| format!("S{number}")).collect();
    let mut rows = Vec::new();
    for seq in 1..=7 {
        rows.extend(symbols.iter().map(|symbol| trade(symbol, 5, seq)));
    }
    store.record(epoch(1), &rows).await.unwrap();
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
        let left = seqs(&store, &trades(&symbol, false, None, 100)).await;
        assert_eq!(left, [6, 7], "{symbol}");
    }
}

#[tokio::test]
async fn sqlite_behaves() {
    let dir = tempfile::tempdir().unwrap();
    let store = Sqlite::open(&dir.path().join("history.db"), None)
        .await
        .unwrap();
    behaves(&store).await;
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn pages_have_no_hole_and_no_double(
        times in prop::collection::vec(0_i64..20, 1..60),
        limit in 1_u32..7,
        descending: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let store = Sqlite::open(&dir.path().join("history.db"), None).await.unwrap();
            let rows: Vec<Row> = times.iter().zip(1..).map(|(at, seq)| trade("A", *at, seq)).collect();
            store.record(epoch(1), &rows).await.unwrap();
            let (mut after, mut seen) = (None, Vec::new());
            loop {
                let page = store.page("T", &trades("A", descending, after, limit)).await.unwrap();
                let Some(last) = page.rows.last() else { break };
                after = Some((last.at, last.epoch, last.seq));
                seen.extend(page.rows.iter().map(|row| row.seq.get()));
                // What arrives between two pages at their edge must not shift them.
                let early = trade("A", if descending { 100 } else { -1 }, 1_000 + seen.len() as u64);
                store.record(epoch(1), &[early]).await.unwrap();
            }
            let mut expected: Vec<(i64, u64)> = times.iter().copied().zip(1..).collect();
            expected.sort_unstable();
            if descending { expected.reverse(); }
            let expected: Vec<u64> = expected.into_iter().map(|(_, seq)| seq).collect();
            assert_eq!(seen, expected);
        });
    }
}
