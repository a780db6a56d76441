//! What an answer is in each form, and what is told around it.

use schemas::codec::{from_json, to_msgpack};
use serde_json::{Value, json};

use super::*;

const TRADE: &str =
    r#"{"k":"trade","v":"x","y":"A","tr":"7","i":"1","p":"1.50","z":"2","sd":"buy"}"#;

fn pos() -> BTreeMap<String, Position> {
    let position = Position {
        e: "5-0".parse().unwrap(),
        c: "9.000000ff".parse().unwrap(),
    };
    [("T".to_owned(), position)].into()
}

fn ticks() -> Answer {
    let good = to_msgpack(&from_json(TRADE.as_bytes()).unwrap()).unwrap();
    let payloads = [good.clone(), vec![0xC1], good];
    let seqs = [3, 4, 9].map(StreamSeq::new);
    let items = seqs.into_iter().zip(payloads.iter().map(Vec::as_slice));
    Answer::ticks(items, Some("a b".to_owned()), pos())
        .unwrap()
        .of([Kind::Trade])
}

async fn answered(answer: Answer, format: Format, uri: &str) -> (HeaderMap, Vec<u8>) {
    let media_type = format.media_type();
    let written = answer.write(format).unwrap();
    let form = Form { format, media_type };
    let response = written.respond(form, &uri.parse().unwrap(), &HeaderMap::new());
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 65_536).await.unwrap();
    (parts.headers, body.into())
}

#[tokio::test]
async fn what_stands_around_the_items_is_in_the_body_or_in_headers() {
    for format in [Format::Json, Format::MessagePack] {
        let (headers, body) = answered(ticks(), format, "/x?limit=2").await;
        let page: Value = if format == Format::Json {
            serde_json::from_slice(&body).unwrap()
        } else {
            rmp_serde::from_slice(&body).unwrap()
        };
        assert_eq!(page["items"].as_array().unwrap().len(), 2, "one is damaged");
        assert_eq!(
            (&page["items"][1]["s"], &page["next"]),
            (&json!(9), &json!("a b"))
        );
        assert_eq!(page["pos"], json!(pos()));
        assert!(!headers.contains_key(LINK) && !headers.contains_key(POS));
        assert_eq!(headers[VARY], "Accept, Accept-Encoding");
    }
    for format in [Format::Ndjson, Format::Csv] {
        let (headers, body) = answered(ticks(), format, "/x?cursor=0&limit=2").await;
        let text = String::from_utf8(body).unwrap();
        assert_eq!(
            text.lines().count(),
            if format == Format::Csv { 3 } else { 2 }
        );
        assert_eq!(headers[LINK], "<?limit=2&cursor=a%20b>; rel=\"next\"");
        let said: Value = serde_json::from_slice(headers[POS].as_bytes()).unwrap();
        assert_eq!(said, json!(pos()));
        assert_eq!(headers[CONTENT_TYPE], format.media_type());
    }
}

#[tokio::test]
async fn a_list_of_anything_comes_in_every_form() {
    let list = || {
        let items = vec![pos()["T"], pos()["T"]];
        Answer::list(items, Some("n".to_owned())).unwrap()
    };
    let (_, body) = answered(list(), Format::Json, "/x").await;
    let page: Value = serde_json::from_slice(&body).unwrap();
    let item = json!({ "e": "5-0", "c": "9.000000ff" });
    assert_eq!(page, json!({ "items": [item, item], "next": "n" }));
    let (_, body) = answered(list(), Format::MessagePack, "/x").await;
    let packed: Value = rmp_serde::from_slice(&body).unwrap();
    assert_eq!(packed, page);
    let (headers, body) = answered(list(), Format::Ndjson, "/x").await;
    assert_eq!(headers[LINK], "<?cursor=n>; rel=\"next\"");
    let lines: Vec<Value> = body
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert_eq!(lines, [item.clone(), item]);
    let (_, body) = answered(list(), Format::Csv, "/x").await;
    let table = "e,c\r\n5-0,9.000000ff\r\n5-0,9.000000ff\r\n";
    assert_eq!(String::from_utf8(body).unwrap(), table);
}

#[tokio::test]
async fn whoever_has_it_is_told_so() {
    let form = Form {
        format: Format::Json,
        media_type: Format::Json.media_type(),
    };
    let written = ticks().closed(true).write(Format::Json).unwrap();
    let uri: Uri = "/x".parse().unwrap();
    let first = written.respond(form, &uri, &HeaderMap::new());
    assert_eq!(first.headers()[CACHE_CONTROL], "private, max-age=5");
    let mut headers = HeaderMap::new();
    headers.insert("if-none-match", first.headers()[ETAG].clone());
    let second = written.respond(form, &uri, &headers);
    assert_eq!(second.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(second.headers()[ETAG], first.headers()[ETAG]);
    assert_eq!(second.headers()[VARY], "Accept, Accept-Encoding");
    assert!(!second.headers().contains_key(CONTENT_TYPE));
    let open = ticks().write(Format::Json).unwrap();
    let open = open.respond(form, &uri, &HeaderMap::new());
    assert_eq!(open.headers()[CACHE_CONTROL], "no-cache");
}
