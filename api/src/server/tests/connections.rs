//! Clients that are slow, silent, too many or no HTTP clients at all.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::super::metrics::Reason;
use super::world::{Answer, PATIENCE, World, until};

const TRADES: &str = "/v1/trades?venue=x&symbol=A";

/// What comes until the server ends the connection.
async fn rest(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let reading = socket.read_to_end(&mut bytes);
    let _ended = timeout(PATIENCE, reading).await.expect("it is not ended");
    bytes
}

fn cuts(world: &World, reason: &'static str) -> u64 {
    world.metrics.cut.get_or_create(&Reason { reason }).get()
}

#[tokio::test]
async fn whoever_does_not_finish_a_head_is_cut() {
    let world = World::with(&["--http-head-secs=1"]).await;
    let mut slow = TcpStream::connect(world.address).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ")
        .await
        .unwrap();
    assert!(rest(&mut slow).await.is_empty());
    let mut silent = TcpStream::connect(world.address).await.unwrap();
    assert!(rest(&mut silent).await.is_empty());
    until("both are counted", || cuts(&world, "silent") == 2).await;
    let mut idle = TcpStream::connect(world.address).await.unwrap();
    idle.write_all(b"GET /console.json HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let answer = rest(&mut idle).await;
    assert_eq!(
        Answer::read(&answer).status,
        200,
        "it is served before it is silent"
    );
    until("nobody is left", || world.metrics.connections.get() == 0).await;
}

#[tokio::test]
async fn whoever_takes_next_to_nothing_is_cut() {
    let world = World::with(&["--http-stall-secs=1"]).await;
    world.many_trades(60_000).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut socket = socket.connect(world.address).await.unwrap();
    let request = format!("GET {TRADES} HTTP/1.1\r\nHost: x\r\nAccept: text/csv\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let one_by_one = async {
        let mut one = [0];
        while cuts(&world, "stalled") == 0 {
            socket.read_exact(&mut one).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(PATIENCE, one_by_one).await.is_ok(), "it is not cut");
    assert_eq!(world.get(TRADES).await.status, 200, "others are served");
}

#[tokio::test]
async fn more_than_there_is_room_for_are_refused() {
    let world = World::with(&["--http-connections=2"]).await;
    let (mut one, mut other) = (
        TcpStream::connect(world.address).await.unwrap(),
        TcpStream::connect(world.address).await.unwrap(),
    );
    let request = b"GET /console.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    until("both are in", || world.metrics.connections.get() == 2).await;
    let refused = Answer::read(&world.send(request).await);
    assert_eq!((refused.status, refused.is_whole), (503, true));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.json()["status"], 503);
    one.write_all(request).await.unwrap();
    assert_eq!(Answer::read(&rest(&mut one).await).status, 200);
    until("there is room", || world.metrics.connections.get() == 1).await;
    assert_eq!(Answer::read(&world.send(request).await).status, 200);
    other.write_all(request).await.unwrap();
    assert_eq!(Answer::read(&rest(&mut other).await).status, 200);
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let world = World::start().await;
    let large = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nX-A: {}\r\n\r\n",
        "a".repeat(100_000)
    );
    let many = format!(
        "GET / HTTP/1.1\r\nHost: x\r\n{}\r\n",
        "A: b\r\n".repeat(1_000)
    );
    for (sent, status) in [
        (large.as_bytes(), 431),
        (many.as_bytes(), 431),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", 400),
        (b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"NONSENSE\r\n\r\n", 400),
    ] {
        let answer = Answer::read(&world.send(sent).await);
        let sent = String::from_utf8_lossy(&sent[..sent.len().min(40)]).into_owned();
        assert_eq!(answer.status, status, "{sent}");
    }
    let body = "POST /v1/trades HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\nabc";
    let answer = Answer::read(&world.send(body.as_bytes()).await);
    assert_eq!(answer.status, 413);
    answer.problem();
}

#[tokio::test]
async fn requests_one_behind_the_other_are_answered_in_order() {
    let world = World::start().await;
    world.many_trades(10).await;
    let asked = [("GET", 1), ("HEAD", 2), ("GET", 3)].map(|(method, limit)| {
        format!("{method} {TRADES}&limit={limit} HTTP/1.1\r\nHost: x\r\n\r\n")
    });
    let last = "GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let requests = asked.concat() + last;
    let bytes = world.send(requests.as_bytes()).await;
    let text = String::from_utf8(bytes).unwrap();
    let statuses: Vec<&str> = text.matches("HTTP/1.1 200 OK").collect();
    assert_eq!(
        (statuses.len(), text.matches("HTTP/1.1 404").count()),
        (3, 1)
    );
    let bodies = text.matches("\"items\"").count();
    assert_eq!(bodies, 2, "a HEAD has none");
    assert_eq!(text.matches("x-request-id").count(), 4);
    let whole = world
        .request("HEAD", TRADES, "Host: x\r\nAccept: text/csv\r\n")
        .await;
    assert_eq!((whole.status, whole.body.len()), (200, 0));
}

#[tokio::test]
async fn a_server_that_ends_finishes_what_it_began() {
    let mut world = World::start().await;
    world.many_trades(10).await;
    let gate = world.store.guard.gate.clone();
    gate.forget_permits(gate.available_permits());
    let mut idle = TcpStream::connect(world.address).await.unwrap();
    let mut busy = TcpStream::connect(world.address).await.unwrap();
    let request = format!("GET {TRADES} HTTP/1.1\r\nHost: x\r\n\r\n");
    busy.write_all(request.as_bytes()).await.unwrap();
    world.pages();
    until("it is being answered", || world.pages() == 1).await;
    world.stop.cancel();
    assert!(
        rest(&mut idle).await.is_empty(),
        "whoever asks nothing is closed"
    );
    gate.add_permits(10);
    let answer = Answer::read(&rest(&mut busy).await);
    assert_eq!((answer.status, answer.is_whole), (200, true));
    assert!(timeout(PATIENCE, world.tasks.join_next()).await.is_ok());
}

#[tokio::test]
async fn an_id_is_taken_over_and_every_answer_has_one() {
    let world = World::start().await;
    for path in ["/v1/trades", "/nowhere", "/", "/openapi.json"] {
        let own = world
            .request("GET", path, "Host: x\r\nX-Request-Id: mine-1\r\n")
            .await;
        assert_eq!(own.header("x-request-id"), Some("mine-1"), "{path}");
        let given = world
            .request("GET", path, "Host: x\r\nX-Request-Id: a b\r\n")
            .await;
        let given = given.header("x-request-id").unwrap();
        assert!(given.starts_with("1-"), "{path}: {given}");
    }
}
