//! Server-sent events and channels over real sockets.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Instant;

use schemas::ws::CloseCode;

use super::query::LAST_EVENT_ID;
use super::*;
use crate::departure::Departure;
use crate::intake::News;
use crate::sse;

/// A tick that is passed on: a kind, and a price with a filler of its length.
fn payload(seq: u64, filler: usize) -> Vec<u8> {
    let price = format!("{seq}{}", "0".repeat(filler));
    let tick = BTreeMap::from([("k", "quote"), ("p", price.as_str())]);
    rmp_serde::to_vec_named(&tick).unwrap()
}

impl Replica {
    /// Puts messages on the stream, as the feeder does.
    async fn publish(&self, subject: &str, seqs: RangeInclusive<u64>, filler: usize) {
        for seq in seqs {
            self.publish_one(subject, seq, &payload(seq, filler)).await;
        }
    }

    async fn publish_one(&self, subject: &str, seq: u64, payload: &[u8]) {
        let head = StreamSeq::new(seq);
        let live = {
            let mut known = self.store.write();
            let time = UnixNanos::new(seq.cast_signed() * 1_000);
            let live = known.apply(subject, head, time, payload);
            (known.head, known.head_time) = (head, time);
            live.unwrap()
        };
        for shard in &self.shards {
            let messages = [Arc::clone(&live)].into();
            let read = tokio::time::Instant::now();
            let batch = News::Batch {
                stream: StreamNo::FIRST,
                messages,
                head,
                read,
            };
            assert!(shard.send(Command::News(batch)).await.is_ok());
        }
    }

    async fn send(&self, method: &str, path: &str, fields: &str) -> TcpStream {
        let mut stream = self.connect().await;
        let host = self.address;
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    async fn events(&self, query: &str, fields: &str) -> Events {
        let stream = self.send("GET", &format!("/v1/sse?{query}"), fields).await;
        let mut events = Events::of(stream);
        let head = events.until("\r\n\r\n").await.expect("a head");
        let kind = "\r\ncontent-type: text/event-stream\r\n";
        assert!(status(&head) == 200 && head.contains(kind), "{head}");
        let retry = events.until("\n\n").await.expect("a time");
        let millis: u32 = retry.strip_prefix("retry: ").unwrap().parse().unwrap();
        assert!((1_000..=3_000).contains(&millis), "{retry}");
        events
    }

    /// The status and body of a request that is refused.
    async fn refused(&self, path: &str, fields: &str) -> (u16, Value) {
        let answer = rest(&mut self.send("GET", path, fields).await).await;
        let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
        let problem = serde_json::from_str(body).unwrap_or_default();
        (status(&answer), problem)
    }
}

/// A client that reads events.
struct Events {
    stream: TcpStream,
    text: String,
    id: Option<String>,
}

impl Events {
    fn of(stream: TcpStream) -> Self {
        let (text, id) = (String::new(), None);
        Self { stream, text, id }
    }

    /// What comes before a separator; `None` at the end.
    async fn until(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some((before, after)) = self.text.split_once(end) {
                let (before, after) = (before.to_owned(), after.to_owned());
                self.text = after;
                return Some(before);
            }
            let mut chunk = vec![0; 64 * 1024];
            let reading = timeout(DEADLINE, self.stream.read(&mut chunk));
            let count = reading.await.expect("more").unwrap_or(0);
            if count == 0 {
                return None;
            }
            let more = std::str::from_utf8(&chunk[..count]).unwrap();
            self.text.push_str(more);
        }
    }

    /// The next event with data, by its name; ids are noted on the way.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            let block = self.until("\n\n").await?;
            let (mut name, mut data) = ("message", None);
            for line in block.lines() {
                match line.split_once(": ").unwrap() {
                    ("event", of) => name = of,
                    ("data", text) => data = Some(serde_json::from_str(text).unwrap()),
                    ("id", id) => self.id = Some(id.to_owned()),
                    other => panic!("{other:?}"),
                }
            }
            if let Some(data) = data {
                return Some((name.to_owned(), data));
            }
        }
    }

    /// Messages up to the tick with this sequence.
    async fn to(&mut self, seq: u64) -> Vec<Value> {
        let mut messages: Vec<Value> = Vec::new();
        while !messages.iter().any(|message| message["s"] == seq) {
            let (name, data) = self.next().await.expect("a tick");
            assert_eq!(name, "message");
            messages.extend(data.as_array().unwrap().iter().cloned());
            messages.retain(|message| message["t"] != "hb");
        }
        messages
    }

    /// Waits until the id is that of a sequence.
    async fn covered(&mut self, seq: u64) -> String {
        let mark = format!(":{seq}.");
        loop {
            if let Some(id) = self.id.as_ref().filter(|id| id.contains(&mark)) {
                return id.clone();
            }
            // An id has no data: it is noted while the next event is awaited.
            let block = self.until("\n\n").await.expect("an id");
            if let Some(id) = block.strip_prefix("id: ") {
                self.id = Some(id.to_owned());
            }
        }
    }
}

fn seqs(messages: &[Value]) -> Vec<u64> {
    let ticks = messages.iter().filter(|message| message["t"] == "d");
    let mut seqs: Vec<u64> = ticks.map(|tick| tick["s"].as_u64().unwrap()).collect();
    // Order is promised for each topic.
    seqs.sort_unstable();
    seqs
}

fn tags(messages: &[Value]) -> Vec<&str> {
    let tags = messages.iter().map(|message| &message["t"]);
    tags.filter_map(Value::as_str).collect()
}

#[tokio::test]
async fn events_resume_exactly_behind_their_last_id() {
    let replica = Replica::start(&[], DEADLINE).await;
    replica.publish("tick.quote.x.A", 1..=3, 0).await;
    replica.publish("tick.trade.x.A", 4..=5, 0).await;
    let query = "topics=quote.x.A,trade.x.*&conflate=none";
    let mut events = replica.events(query, "").await;
    let first = events.to(3).await;
    assert_eq!(tags(&first), ["welcome", "ack", "snap"]);
    let ack = json!({"t": "ack", "id": 0, "ok": [
        {"c": "quote.x.A", "pos": {"TICKS": 5}},
        {"c": "trade.x.*", "pos": {"TICKS": 5}},
    ]});
    assert_eq!(first[1], ack);
    // Before anything else has come there is a place to go back to.
    let origin = events.covered(5).await;
    replica.publish("tick.trade.x.A", 6..=8, 0).await;
    replica.publish("tick.trade.x.B", 9..=9, 0).await;
    assert_eq!(seqs(&events.to(9).await), [6, 7, 8, 9]);
    let later = events.covered(9).await;
    drop(events);
    replica.publish("tick.trade.x.B", 10..=10, 0).await;
    replica.publish("tick.quote.x.A", 11..=12, 0).await;
    let cases = [
        (origin.as_str(), vec![6, 7, 8, 9, 10, 11, 12]),
        (later.as_str(), vec![10, 11, 12]),
    ];
    for (id, expected) in cases {
        for (parameter, header) in [
            (String::new(), format!("Last-Event-ID: {id}\r\n")),
            (format!("&last-event-id={id}"), String::new()),
            // What the client has seen since counts more than what its page began with.
            (
                format!("&last-event-id={origin}"),
                format!("Last-Event-ID: {id}\r\n"),
            ),
        ] {
            let mut again = replica
                .events(&format!("{query}{parameter}"), &header)
                .await;
            let mut found = again.to(12).await;
            while seqs(&found).len() < expected.len() {
                let (_, data) = again.next().await.unwrap();
                found.extend(data.as_array().unwrap().iter().cloned());
            }
            assert_eq!(seqs(&found), expected, "{parameter} {header}");
            again.covered(12).await;
        }
    }
}

#[tokio::test]
async fn a_line_break_in_a_tick_breaks_no_event() {
    let replica = Replica::start(&[], DEADLINE).await;
    let mut events = replica.events("topics=trade.x.A", "").await;
    let text = "a\nid: 7\r\n\ndata: []\u{2028}";
    let tick = BTreeMap::from([("k", "trade"), ("i", text)]);
    let payload = rmp_serde::to_vec_named(&tick).unwrap();
    replica.publish_one("tick.trade.x.A", 1, &payload).await;
    let said = events.to(1).await;
    assert_eq!(said.last().unwrap()["d"]["i"], text);
    events.covered(1).await;
}

#[tokio::test]
async fn an_id_of_another_history_is_answered_with_a_reset() {
    let replica = Replica::start(&[], DEADLINE).await;
    replica.publish("tick.quote.x.A", 1..=3, 0).await;
    let ids = [
        "TICKS:18ba-0:2.00000002",
        "OTHER:18aa-0:2.00000002",
        "TICKS:18b9-0:2.00000007",
    ];
    for id in ids {
        let header = format!("Last-Event-ID: {id}\r\n");
        let mut events = replica.events("topics=quote.x.A", &header).await;
        let said = events.to(3).await;
        assert_eq!(tags(&said), ["welcome", "ack", "reset", "snap"], "{id}");
        assert_eq!(said[2]["e"], EPOCH.to_string());
        let id = events.covered(3).await;
        assert!(id.starts_with("TICKS:18b9-0:3."), "{id}");
    }
}

#[tokio::test]
async fn there_is_no_id_before_every_first_look() {
    let replica = Replica::start(&[], DEADLINE).await;
    // One value fills a write: the others wait for the next ones.
    for seq in 1..=40 {
        let subject = format!("tick.quote.x.S{seq}");
        replica.publish(&subject, seq..=seq, 70_000).await;
    }
    let mut events = replica.events("topics=quote.x.*", "").await;
    let mut looks = 0;
    while looks < 40 {
        assert_eq!(events.id, None, "after {looks} of 40");
        let (_, data) = events.next().await.unwrap();
        let tags = tags(data.as_array().unwrap()).into_iter();
        looks += tags.filter(|tag| *tag == "snap").count();
    }
    events.covered(40).await;
}

#[tokio::test]
async fn what_a_query_gets_wrong_is_named() {
    let given = ["--max-topics=3", "--max-patterns=2"];
    let replica = Replica::start(&given, DEADLINE).await;
    let long = format!("topics=quote.x.A&last-event-id={}", "A".repeat(3_000));
    let cases = [
        ("", "topics", "topics or channel"),
        ("topics=", "topics", "topics: "),
        ("topics=quote.x.A,", "topics", "topics: "),
        ("topics=wish.x.A", "topics", "wish"),
        ("topics=quote.X.A", "topics", "quote.X.A"),
        ("topics=quote.x", "topics", "2 tokens"),
        ("topics=quote.x*.A", "topics", "whole token"),
        (
            "topics=trade.x.A,trade.x.B,trade.x.C,trade.x.D",
            "topics",
            "3 topics",
        ),
        (
            "topics=trade.*.A,trade.x.*,trade.%3E",
            "topics",
            "2 patterns",
        ),
        ("topics=quote.x.A&topics=quote.x.B", "topics", "twice"),
        ("topics=quote.x.A&channel=market", "channel", "exclude"),
        ("channel=moon", "channel", "alerts, foreign, index, market"),
        ("topics=quote.x.A&conflate=9", "conflate", "10 to 60000"),
        ("topics=quote.x.A&conflate=fast", "conflate", "auto"),
        ("topics=quote.x.A&snapshot=1", "snapshot", "true or false"),
        ("topics=quote.x.A&colour=red", "colour", "parameters are"),
        (
            "topics=quote.x.A&last-event-id=7",
            LAST_EVENT_ID,
            "not the id",
        ),
        (&long, LAST_EVENT_ID, "2048 bytes"),
    ];
    for (query, parameter, expected) in cases {
        let path = format!("/v1/sse?{query}");
        let (status, problem) = replica.refused(&path, "").await;
        let found = (status, &problem["parameter"]);
        assert_eq!(found, (400, &json!(parameter)), "{query}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(expected), "{query}: {detail}");
    }
    let path = "/v1/sse?topics=quote.x.A";
    for id in ["nonsense", "TICKS:18b9-0:2", "\u{fc}"] {
        let header = format!("Last-Event-ID: {id}\r\n");
        let (status, problem) = replica.refused(path, &header).await;
        let found = (status, &problem["parameter"]);
        assert_eq!(found, (400, &json!(LAST_EVENT_ID)), "{id}");
    }
    let named = u64::try_from(cases.len()).unwrap() + 3;
    let counter = "refused_total{why=\"parameter\"}";
    replica.counted(counter, named).await;
    let secret = format!("{path}&api_key=x");
    assert_eq!(replica.refused(&secret, "").await.0, 400);
    let counter = "refused_total{why=\"secret_in_url\"}";
    replica.counted(counter, 1).await;
    let answer = rest(&mut replica.send("HEAD", path, "").await).await;
    assert_eq!(status(&answer), 405);
    let answer = rest(&mut replica.send("POST", path, "").await).await;
    assert_eq!(status(&answer), 405);
    assert_eq!(replica.count("accepted_total"), 0);
}

#[tokio::test]
async fn pages_read_events_by_the_rule_of_the_handshake() {
    let given = ["--origins=https://ticks.example"];
    let replica = Replica::start(&given, DEADLINE).await;
    let path = "/v1/sse?topics=quote.x.A";
    let evil = "Origin: https://evil.example\r\n";
    let ours = "Origin: https://ticks.example\r\n";
    for method in ["GET", "OPTIONS"] {
        let answer = rest(&mut replica.send(method, path, evil).await).await;
        assert_eq!(status(&answer), 403);
    }
    // A page of a name that was made to point here says nothing of where it comes from.
    for (host, expected) in [("evil.example:8081", 403), ("ticks.example", 200)] {
        let mut stream = replica.connect().await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut events = Events::of(stream);
        let head = events.until("\r\n\r\n").await.unwrap();
        assert_eq!(status(&head), expected, "{host}");
    }
    let cases = [
        ("GET", path, 200),
        ("GET", "/v1/sse", 400),
        ("OPTIONS", path, 204),
    ];
    for (method, path, expected) in cases {
        let mut events = Events::of(replica.send(method, path, ours).await);
        let head = events.until("\r\n\r\n").await.unwrap();
        assert_eq!(status(&head), expected, "{head}");
        let allowed = "\r\naccess-control-allow-origin: https://ticks.example";
        assert!(head.contains(allowed), "{head}");
        assert!(head.contains("\r\nvary: origin"), "{head}");
        let asked = head.contains("\r\naccess-control-allow-headers: last-event-id");
        assert_eq!(asked, method == "OPTIONS", "{head}");
    }
}

#[tokio::test]
async fn whoever_does_not_read_events_is_ended_as_slow() {
    let given = ["--max-unsent-bytes=65536"];
    let replica = Replica::start(&given, DEADLINE).await;
    replica.publish("tick.trade.x.A", 1..=1, 0).await;
    let mut fast = replica.events("topics=trade.x.A", "").await;
    let mut slow = replica.events("topics=trade.x.A", "").await;
    let (mut seq, mut read) = (1, Vec::new());
    let stalled = async {
        while replica.count("closed_total{code=\"4008\"}") == 0 {
            seq += 1;
            replica.publish("tick.trade.x.A", seq..=seq, 4_000).await;
            // Has read each one before the next is sent.
            read.extend(seqs(&fast.to(seq).await));
        }
    };
    timeout(DEADLINE, stalled).await.expect("an end");
    assert_eq!(read, (2..=seq).collect::<Vec<_>>());
    // What reached the slow one is whole, in order, and ends where it was cut.
    let mut got = Vec::new();
    while let Some((_, data)) = slow.next().await {
        got.extend(data.as_array().cloned().unwrap_or_default());
    }
    let got = seqs(&got);
    assert!(got.len() < read.len());
    assert_eq!(got, read[..got.len()]);
}

#[tokio::test]
async fn readers_count_as_connections_and_not_as_handshakes() {
    let given = [
        "--max-handshakes=1",
        "--limit-loopback",
        "--connections-per-ip=3",
        "--connects-per-ip-per-sec=0",
    ];
    let replica = Replica::start(&given, Duration::from_millis(200)).await;
    let mut readers = Vec::new();
    for _ in 0..2 {
        readers.push(replica.events("topics=trade.x.A", "").await);
    }
    // Whoever is in a handshake for so long is sent away; readers are not.
    let mut silent = replica.connect().await;
    assert_eq!(rest(&mut silent).await, "");
    drop(silent);
    readers.push(replica.events("topics=trade.x.A", "").await);
    let path = "/v1/sse?topics=trade.x.A";
    let answer = rest(&mut replica.send("GET", path, "").await).await;
    let refusal = status(&answer) == 429 && answer.contains("application/problem+json");
    assert!(refusal && answer.contains("\r\nretry-after: "), "{answer}");
    // A browser would never come back from that.
    let browser = "Accept: text/event-stream\r\n";
    let answer = rest(&mut replica.send("GET", path, browser).await).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        status(head) == 200 && head.contains(sse::MEDIA_TYPE),
        "{head}"
    );
    let (retry, end) = body.split_once("\n\n").unwrap();
    let retry: u32 = retry.strip_prefix("retry: ").unwrap().parse().unwrap();
    assert!((6_000..=8_000).contains(&retry), "{retry}");
    let why = "{\"code\":1013,\"reason\":\"this address has as many connections as it may\"}";
    assert_eq!(end, format!("event: end\ndata: {why}\n\n"));
    let counter = "refused_total{why=\"connections_per_ip\"}";
    replica.counted(counter, 2).await;
    replica.publish("tick.trade.x.A", 1..=1, 0).await;
    for reader in &mut readers {
        assert_eq!(seqs(&reader.to(1).await), [1]);
    }
    replica.counted("accepted_total", 3).await;
}

#[tokio::test]
async fn an_end_is_announced_and_the_gone_are_noticed() {
    let replica = Replica::start(&[], DEADLINE).await;
    let gone = replica.events("topics=trade.x.A", "").await;
    let mut chatty = replica.events("topics=trade.x.A", "").await;
    let mut calm = replica.events("channel=market", "").await;
    drop(gone);
    replica.counted("closed_total{code=\"1006\"}", 1).await;
    // The server closes in between.
    let _may_be_closed = chatty.stream.write_all(&vec![b'x'; 64 * 1024]).await;
    replica.counted("closed_total{code=\"1009\"}", 1).await;
    let ten_a_second = NonZeroU32::new(10).unwrap();
    let departure = Arc::new(Departure::new(1, ten_a_second, Instant::now()));
    for shard in &replica.shards {
        let leave = Command::Drain(Arc::clone(&departure));
        assert!(shard.send(leave).await.is_ok());
    }
    let mut said = Vec::new();
    while let Some(event) = calm.next().await {
        said.push(event);
    }
    let end = json!({"code": 1012, "reason": CloseCode::Restart.reason()});
    assert_eq!(said.pop(), Some(("end".to_owned(), end)));
    let messages = said.iter().filter_map(|(_, data)| data.as_array());
    let mut drains = messages.flatten().filter(|of| of["t"] == "drain");
    assert!(drains.next().unwrap()["close_in_ms"].as_u64().unwrap() <= 100);
    replica.counted("closed_total{code=\"1012\"}", 1).await;
}

#[tokio::test]
async fn a_channel_is_subscribed_on_connect() {
    let replica = Replica::start(&[], DEADLINE).await;
    replica.publish("tick.quote.x.A", 1..=3, 0).await;
    let channels = [
        ("/ws", json!([">"])),
        ("/ws/market", json!(["quote.>", "stat.>"])),
        ("/ws/index", json!(["index.>"])),
        ("/ws/foreign", json!(["flow.>"])),
        ("/ws/alerts", json!(["alert.>"])),
    ];
    for (path, topics) in channels {
        let url = format!("ws://{}{path}", replica.address);
        let mut socket = connect_async(url).await.unwrap().0;
        let first = said(&mut socket).await;
        assert_eq!(tags(&first)[..2], ["welcome", "ack"]);
        let ok = first[1]["ok"].as_array().unwrap();
        let held: Vec<&Value> = ok.iter().map(|ok| &ok["c"]).collect();
        assert_eq!((json!(held), &first[1]["id"]), (topics, &json!(0)));
        socket.send(pings(7..8)).await.unwrap();
        let pong = json!({"t": "pong", "id": 7});
        let answered = async { while !said(&mut socket).await.contains(&pong) {} };
        timeout(DEADLINE, answered).await.expect("a pong");
    }
    let foreign = format!("{UPGRADE_FIELDS}Origin: https://evil.example\r\n");
    assert_eq!(replica.refused("/ws/market", &foreign).await.0, 403);
    assert_eq!(replica.refused("/ws/market", "").await.0, 426);
    let (status, problem) = replica.refused("/ws/moon", UPGRADE_FIELDS).await;
    let detail = problem["detail"].as_str().unwrap();
    assert!(status == 404 && detail.contains("alerts, foreign, index, market"));
    let wrong = "/ws/market?last-event-id=x";
    let (status, problem) = replica.refused(wrong, UPGRADE_FIELDS).await;
    let found = (status, &problem["parameter"]);
    assert_eq!(found, (400, &json!(LAST_EVENT_ID)));
}

#[tokio::test]
async fn a_channel_goes_on_behind_an_id() {
    let replica = Replica::start(&[], DEADLINE).await;
    replica.publish("tick.trade.x.A", 1..=9, 0).await;
    let id = "TICKS:18b9-0:5.00000005";
    let url = format!("ws://{}/ws?last-event-id={id}", replica.address);
    let mut socket = connect_async(url).await.unwrap().0;
    let mut messages: Vec<Value> = Vec::new();
    while !messages.iter().any(|message| message["s"] == 9) {
        messages.extend(said(&mut socket).await);
    }
    assert_eq!(seqs(&messages), [6, 7, 8, 9]);
}
