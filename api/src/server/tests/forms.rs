//! The forms that a list comes in.

use serde_json::{Value, json};

use super::world::{World, epoch, seqs};

const TRADES: &str = "/v1/trades?venue=x&symbol=A";

#[tokio::test]
async fn a_page_comes_in_the_form_that_is_asked_for() {
    let world = World::start().await;
    world.trades(&[(10, 1), (20, 2), (30, 3)]).await;
    world.recorded_up_to(3).await;
    let path = format!("{TRADES}&limit=2&order=desc");
    let page = world.get(&path).await;
    assert_eq!(page.header("content-type"), Some("application/json"));
    assert_eq!(page.header("vary"), Some("Accept, Accept-Encoding"));
    let page = page.json();
    assert_eq!(seqs(&page), [3, 2]);

    let lines = world.accept(&path, "application/x-ndjson").await;
    assert_eq!(lines.header("content-type"), Some("application/x-ndjson"));
    let items = lines
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let items: Vec<Value> = items.collect();
    assert_eq!(json!(items), page["items"]);
    let pos: Value = serde_json::from_str(lines.header("tickwire-pos").unwrap()).unwrap();
    assert_eq!(pos, page["pos"]);
    let link = lines.header("link").unwrap();
    let next = link.strip_prefix('<').unwrap().split('>').next().unwrap();
    let next = world.get(&format!("/v1/trades{next}")).await;
    assert_eq!(seqs(&next.json()), [1]);

    let table = world.accept(&path, "text/csv").await;
    assert_eq!(
        table.header("content-type"),
        Some("text/csv; charset=utf-8")
    );
    let mut rows = table.text().split_terminator("\r\n");
    let header = rows.next().unwrap();
    assert!(
        header.starts_with("s,k,v,y,te,tr,q,fl,i,p,z,sd"),
        "{header}"
    );
    assert!(
        rows.next()
            .unwrap()
            .starts_with("3,trade,x,A,30,30,,,3,1.5,2,buy")
    );
    assert_eq!(rows.count(), 1);

    for name in ["application/msgpack", "application/vnd.msgpack"] {
        let packed = world.accept(&path, name).await;
        assert_eq!(packed.header("content-type"), Some(name));
        let packed: Value = rmp_serde::from_slice(&packed.body).unwrap();
        assert_eq!(seqs(&packed), [3, 2]);
        assert_eq!(packed["items"][0]["te"], 30, "times are integers");
        assert_eq!(
            (&packed["next"], &packed["pos"]),
            (&page["next"], &page["pos"])
        );
    }
}

#[tokio::test]
async fn what_is_not_offered_is_refused_by_name() {
    let world = World::start().await;
    for path in [TRADES, "/v1/instruments", "/v1/trades"] {
        let refused = world.accept(path, "text/html, application/json;q=0").await;
        assert_eq!(refused.status, 406);
        let detail = refused.problem()["detail"].as_str().unwrap().to_owned();
        for offered in [
            "application/json",
            "application/x-ndjson",
            "text/csv",
            "application/msgpack",
        ] {
            assert!(detail.contains(offered), "{detail}");
        }
    }
}

#[tokio::test]
async fn a_table_without_rows_has_its_columns() {
    let world = World::start().await;
    let epoch = epoch();
    for (path, column) in [
        (format!("{TRADES}&limit=1"), ",sd"),
        (TRADES.to_owned(), ",sd"),
        ("/v1/quotes?venue=x&symbol=A&limit=9".to_owned(), ",bz"),
        ("/v1/bars?venue=x&symbol=A".to_owned(), ",iv"),
        (format!("/v1/ticks?topic=bar.x.A.1m&epoch={epoch}"), ",iv"),
        ("/v1/instruments".to_owned(), "s,k,v,y"),
    ] {
        let table = world.accept(&path, "text/csv").await;
        assert_eq!(table.status, 200, "{path}");
        assert!(table.text().contains(column), "{path}: {}", table.text());
        assert_eq!(table.text().lines().count(), 1, "{path}");
    }
}

#[tokio::test]
async fn large_answers_are_compressed_and_small_ones_are_not() {
    let world = World::start().await;
    world.many_trades(1_000).await;
    for (encoding, magic) in [
        ("gzip", &[0x1F, 0x8B][..]),
        ("zstd", &[0x28, 0xB5, 0x2F, 0xFD]),
    ] {
        for form in ["application/json", "application/x-ndjson"] {
            let headers = format!("Host: x\r\nAccept: {form}\r\nAccept-Encoding: {encoding}\r\n");
            let answer = world.request("GET", TRADES, &headers).await;
            assert_eq!(answer.header("content-encoding"), Some(encoding));
            assert!(answer.is_whole && answer.body.starts_with(magic), "{form}");
            assert!(answer.body.len() < 40_000, "{} bytes", answer.body.len());
            let small = world
                .request("GET", &format!("{TRADES}&limit=1"), &headers)
                .await;
            assert_eq!(small.header("content-encoding"), None);
        }
    }
}
