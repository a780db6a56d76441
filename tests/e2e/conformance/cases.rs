//! The table: what is sent, and what has to come of it. Groups are those of the Autobahn suite.

mod closing;
mod compression;
mod utf8;

use super::wire::{
    BINARY, CLOSE, CONTINUATION, Event, FIN, PING, PONG, RSV1, TEXT, fragments, frame, header,
    masked,
};

/// What the server takes of one message.
pub(super) const LIMIT: usize = 128 * 1024;

/// One row. A row that does not end in a close frame ends with the connection in use.
pub(super) struct Case {
    pub(super) group: &'static str,
    pub(super) name: String,
    /// Whether the client offers permessage-deflate.
    pub(super) deflate: bool,
    pub(super) msgpack: bool,
    pub(super) send: Vec<u8>,
    pub(super) expect: Vec<Event>,
}

impl Case {
    const fn deflating(mut self) -> Self {
        self.deflate = true;
        self
    }
}

fn case(
    group: &'static str,
    name: impl Into<String>,
    send: impl AsRef<[Vec<u8>]>,
    expect: &[Event],
) -> Case {
    Case {
        group,
        name: name.into(),
        deflate: false,
        msgpack: false,
        send: send.as_ref().concat(),
        expect: expect.to_vec(),
    }
}

/// An op `ping` of exactly `length` bytes, or as short as it can be.
fn op(id: u64, length: usize) -> Vec<u8> {
    let op = format!("[{{\"op\":\"ping\",\"id\":{id}}}");
    let space = " ".repeat(length.saturating_sub(op.len() + 1));
    format!("{op}{space}]").into_bytes()
}

/// An op `ping` with a field that nobody reads.
fn op_with(id: u64, note: &[u8]) -> Vec<u8> {
    let front = format!("[{{\"op\":\"ping\",\"id\":{id},\"note\":\"");
    [front.as_bytes(), note, b"\"}]"].concat()
}

fn text(payload: &[u8]) -> Vec<u8> {
    frame(FIN | TEXT, payload)
}

fn ping(payload: &[u8]) -> Vec<u8> {
    frame(FIN | PING, payload)
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(FIN | CLOSE, &[&code.to_be_bytes(), reason].concat())
}

fn pong(payload: &[u8]) -> Event {
    Event::Pong(payload.to_vec())
}

const ONE: Event = Event::Answer(1);
const TWO: Event = Event::Answer(2);
const VIOLATION: Event = Event::Close(1002);
const NOT_UTF8: Event = Event::Close(1007);
const TOO_BIG: Event = Event::Close(1009);

pub(super) fn table() -> Vec<Case> {
    let groups = [
        framing(),
        pings(),
        reserved_bits(),
        opcodes(),
        fragmentation(),
        utf8::utf8(),
        closing::closing(),
        closing::close_codes(),
        limits(),
        compression::compression(),
        compression::bad_compression(),
    ];
    groups.into_iter().flatten().collect()
}

fn framing() -> Vec<Case> {
    let mut cases = Vec::new();
    for length in [0, 125, 126, 127, 128, 1_000, 65_535, 65_536, 65_537] {
        let send = [text(&op(1, length))];
        cases.push(case(
            "1 framing",
            format!("text of {length} bytes"),
            send,
            &[ONE],
        ));
    }
    for mask in [[0; 4], [0xFF; 4], [1, 2, 3, 4]] {
        let send = [masked(FIN | TEXT, mask, &op(1, 300))];
        cases.push(case("1 framing", format!("mask {mask:02x?}"), send, &[ONE]));
    }
    for length in [0, 125, 126, 65_536] {
        let send = [frame(FIN | BINARY, &vec![0xFE; length]), text(&op(1, 0))];
        let name = format!("binary of {length} bytes where text is spoken");
        cases.push(case("1 framing", name, send, &[Event::Close(1003)]));
        let send = [text(&vec![b' '; length]), text(&op(1, 0))];
        let name = format!("{length} bytes of text that is no list");
        let expect = [Event::Said("err".to_owned()), Event::Close(4501)];
        cases.push(case("1 framing", name, send, &expect));
    }
    let unmasked = vec![vec![FIN | TEXT, 1, b'['], text(&op(1, 0))];
    cases.push(case("1 framing", "no mask", unmasked, &[VIOLATION]));
    let many: Vec<Vec<u8>> = (1..=40).map(|id| text(&op(id, 0))).collect();
    let answers: Vec<Event> = (1..=40).map(Event::Answer).collect();
    cases.push(case("1 framing", "forty messages at once", many, &answers));
    let ping_op = b"\x91\x82\xa2op\xa4ping\xa2id\x01";
    for (name, send, expect) in [
        ("MessagePack", frame(FIN | BINARY, ping_op), ONE),
        (
            "MessagePack in fragments",
            fragments(BINARY, &[&ping_op[..3], b"", &ping_op[3..]]),
            ONE,
        ),
        (
            "text where MessagePack is spoken",
            text(&op(1, 0)),
            Event::Close(1003),
        ),
    ] {
        cases.push(Case {
            msgpack: true,
            ..case("1 framing", name, [send], &[expect])
        });
    }
    cases
}

fn pings() -> Vec<Case> {
    let payloads: [&[u8]; 4] = [b"", b"hello", &[0x00, 0xFF, 0xFE, 0x80], &[0xFE; 125]];
    let mut cases: Vec<Case> = payloads
        .iter()
        .map(|payload| {
            let name = format!("ping of {} bytes", payload.len());
            case("2 pings", name, [ping(payload)], &[pong(payload)])
        })
        .collect();
    let ten: Vec<Vec<u8>> = (0..10).map(|number| ping(&[number])).collect();
    let pongs: Vec<Event> = (0..10).map(|number| pong(&[number])).collect();
    cases.push(case("2 pings", "ten pings", ten, &pongs));
    let unasked = [
        frame(FIN | PONG, b""),
        frame(FIN | PONG, b"unasked"),
        ping(b"x"),
    ];
    cases.push(case("2 pings", "unasked pongs", unasked, &[pong(b"x")]));
    let long = [ping(&[b'x'; 126]), text(&op(1, 0))];
    cases.push(case("2 pings", "ping of 126 bytes", long, &[VIOLATION]));
    let long = [frame(FIN | PONG, &[b'x'; 126])];
    cases.push(case("2 pings", "pong of 126 bytes", long, &[VIOLATION]));
    cases
}

fn reserved_bits() -> Vec<Case> {
    let mut cases = Vec::new();
    for bits in 1..=7 {
        for opcode in [TEXT, BINARY, CLOSE, PING, PONG] {
            let send = [
                text(&op(1, 0)),
                frame(FIN | bits << 4 | opcode, b""),
                text(&op(2, 0)),
            ];
            let name = format!("bits {bits:03b}, opcode {opcode:x}");
            cases.push(case(
                "3 reserved bits",
                name.clone(),
                send.clone(),
                &[ONE, VIOLATION],
            ));
            // With compression the first bit has a meaning, on messages and alone.
            if bits != 4 || opcode > BINARY {
                let name = format!("{name}, deflate");
                let case = case("3 reserved bits", name, send, &[ONE, VIOLATION]);
                cases.push(case.deflating());
            }
        }
    }
    let send = [frame(TEXT, b"["), frame(FIN | RSV1 | CONTINUATION, b"]")];
    cases.push(case(
        "3 reserved bits",
        "on a continuation",
        send.clone(),
        &[VIOLATION],
    ));
    cases.push(
        case(
            "3 reserved bits",
            "on a continuation, deflate",
            send,
            &[VIOLATION],
        )
        .deflating(),
    );
    cases
}

fn opcodes() -> Vec<Case> {
    let mut cases = Vec::new();
    for opcode in (3..=7).chain(11..=15) {
        for payload in [&b""[..], b"x"] {
            let send = [
                text(&op(1, 0)),
                frame(FIN | opcode, payload),
                text(&op(2, 0)),
                ping(b""),
            ];
            let name = format!("opcode {opcode}, {} bytes", payload.len());
            cases.push(case("4 opcodes", name, send, &[ONE, VIOLATION]));
        }
    }
    cases
}

fn fragmentation() -> Vec<Case> {
    let message = op(1, 60);
    let (front, back) = message.split_at(20);
    let bytes: Vec<&[u8]> = message.chunks(1).collect();
    let group = "5 fragmentation";
    let open = || frame(TEXT, front);
    let end = || frame(FIN | CONTINUATION, back);
    let next = || text(&op(2, 0));
    let mut cases = vec![
        case(
            group,
            "two fragments",
            [fragments(TEXT, &[front, back])],
            &[ONE],
        ),
        case(group, "a byte in each", [fragments(TEXT, &bytes)], &[ONE]),
        case(
            group,
            "empty ones",
            [fragments(TEXT, &[b"", front, b"", b"", back, b""])],
            &[ONE],
        ),
        case(
            group,
            "a ping between",
            [open(), ping(b"p"), end()],
            &[pong(b"p"), ONE],
        ),
        case(
            group,
            "a pong between",
            [open(), frame(FIN | PONG, b"p"), end(), next()],
            &[ONE, TWO],
        ),
        case(
            group,
            "pings before and between",
            [ping(b"1"), open(), ping(b"2"), ping(b"3"), end()],
            &[pong(b"1"), pong(b"2"), pong(b"3"), ONE],
        ),
        case(
            group,
            "a close between",
            [open(), close(1000, b""), end()],
            &[Event::Close(1000)],
        ),
        case(
            group,
            "a message between",
            [open(), next(), end()],
            &[VIOLATION],
        ),
        case(
            group,
            "a binary one between",
            [open(), frame(BINARY, b"")],
            &[VIOLATION],
        ),
        case(
            group,
            "a second beginning",
            [open(), open(), end()],
            &[VIOLATION],
        ),
        case(group, "nothing to continue", [end(), next()], &[VIOLATION]),
        case(
            group,
            "nothing to continue, not the last",
            [frame(CONTINUATION, b"")],
            &[VIOLATION],
        ),
        case(
            group,
            "continued once more",
            [open(), end(), end(), next()],
            &[ONE, VIOLATION],
        ),
    ];
    for opcode in [CLOSE, PING, PONG] {
        let send = [frame(opcode, b""), frame(FIN | CONTINUATION, b""), next()];
        let name = format!("opcode {opcode} in fragments");
        cases.push(case(group, name, send, &[VIOLATION]));
    }
    cases
}

fn limits() -> Vec<Case> {
    let group = "9 limits";
    let whole = op(1, LIMIT);
    let parts: Vec<&[u8]> = whole.chunks(1_000).collect();
    let more: Vec<&[u8]> = whole.chunks(1_000).chain([&b" "[..]]).collect();
    let announced = |first, length| [header(first, length), vec![0; 4]].concat();
    let mut cases = vec![
        case(group, "as long as may be", [text(&whole)], &[ONE]),
        case(
            group,
            "as long as may be, in fragments",
            [fragments(TEXT, &parts)],
            &[ONE],
        ),
        case(
            group,
            "a byte longer",
            [text(&op(1, LIMIT + 1))],
            &[TOO_BIG],
        ),
        case(
            group,
            "a byte longer, in fragments",
            [fragments(TEXT, &more)],
            &[TOO_BIG],
        ),
        case(
            group,
            "announced, not sent",
            [announced(FIN | TEXT, LIMIT + 1)],
            &[TOO_BIG],
        ),
        case(
            group,
            "2⁶³ − 1 announced",
            [announced(FIN | BINARY, (1 << 63) - 1)],
            &[TOO_BIG],
        ),
        case(
            group,
            "2⁶³ announced",
            [announced(FIN | BINARY, 1 << 63)],
            &[VIOLATION],
        ),
    ];
    for (name, length) in [
        ("125 in two bytes", &[0xFE, 0, 125][..]),
        ("0 in two bytes", &[0xFE, 0, 0]),
        (
            "65,535 in eight bytes",
            &[0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF],
        ),
        ("1 in eight bytes", &[0xFF, 0, 0, 0, 0, 0, 0, 0, 1]),
    ] {
        let send = [[&[FIN | TEXT], length, &[0; 4], b"[]"].concat()];
        cases.push(case(group, name, send, &[VIOLATION]));
    }
    cases
}
