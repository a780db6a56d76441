//! The table: what is sent, and what has to come of it. Groups are those of the Autobahn suite.

use rand::RngExt as _;

use super::wire::{
    BINARY, CLOSE, CONTINUATION, Event, FIN, PING, PONG, RSV1, TEXT, deflate, fragments, frame,
    header, masked,
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
        utf8(),
        closing(),
        close_codes(),
        limits(),
        compression(),
        bad_compression(),
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

fn utf8() -> Vec<Case> {
    let group = "6 UTF-8";
    let good = [
        "κόσμε",
        "Hello-µ@ßöäüàá-UTF-8!!",
        "日本語",
        "\u{80}",
        "\u{7ff}",
        "\u{800}",
        "\u{fffd}",
        "\u{ffff}",
        "\u{10000}",
        "\u{10ffff}",
        "\u{d7ff}\u{e000}",
        "\u{fdd0}\u{1fffe}",
        "🦀🇩🇪",
    ];
    let bad: [&[u8]; 27] = [
        b"\x80",
        b"\xBF",
        b"\x80\x80",
        b"\xC0",
        b"\xC0\x80",
        b"\xC0\xAF",
        b"\xC1\xBF",
        b"\xE0\x80\x80",
        b"\xE0\x9F\xBF",
        b"\xF0\x80\x80\x80",
        b"\xF0\x8F\xBF\xBF",
        b"\xF8\x88\x80\x80\x80",
        b"\xFC\x84\x80\x80\x80\x80",
        b"\xED\xA0\x80",
        b"\xED\xAD\xBF",
        b"\xED\xAE\x80",
        b"\xED\xBF\xBF",
        b"\xED\xA0\x80\xED\xB0\x80",
        b"\xF4\x90\x80\x80",
        b"\xF5\x80\x80\x80",
        b"\xFE",
        b"\xFF",
        b"\xFE\xFE\xFF\xFF",
        b"\xC3",
        b"\xE2\x82",
        b"\xF0\x9F\xA6",
        b"\xCE\xBA\xE1\xBD\xB9\xCF\x83\xCE\xBC\xCE\xB5\xED\xA0\x80",
    ];
    let mut cases = Vec::new();
    for note in good {
        let message = op_with(1, note.as_bytes());
        cases.push(case(group, note, [text(&message)], &[ONE]));
        let first = message.len() - 3 - note.len();
        for cut in first..=first + note.len() {
            let (front, back) = message.split_at(cut);
            let name = format!("{note}, cut at {}", cut - first);
            cases.push(case(group, name, [fragments(TEXT, &[front, back])], &[ONE]));
        }
    }
    for note in bad {
        let message = op_with(1, note);
        let send = [text(&message), text(&op(2, 0))];
        cases.push(case(group, format!("{note:02x?}"), send, &[NOT_UTF8]));
        let first = message.len() - 3 - note.len();
        for cut in first..=first + note.len() {
            let (front, back) = message.split_at(cut);
            let name = format!("{note:02x?}, cut at {}", cut - first);
            let send = [fragments(TEXT, &[front, b"", back])];
            cases.push(case(group, name, send, &[NOT_UTF8]));
        }
    }
    // The rest of the frame, or of the message, never comes.
    for note in [&b"\x80x"[..], b"\xED\xA0", b"\xF4\x90", b"\xC3\x28"] {
        let message = op_with(1, note);
        let begun = &text(&message)[..6 + message.len() - 3];
        cases.push(case(
            group,
            format!("{note:02x?} at once"),
            [begun.to_vec()],
            &[NOT_UTF8],
        ));
        let begun = [frame(TEXT, &message[..message.len() - 3])];
        cases.push(case(
            group,
            format!("{note:02x?} in a fragment"),
            begun,
            &[NOT_UTF8],
        ));
    }
    let ends = [frame(TEXT, b"\xE2\x82"), frame(FIN | CONTINUATION, b"")];
    cases.push(case(
        group,
        "a character that is not finished",
        ends,
        &[NOT_UTF8],
    ));
    cases
}

fn closing() -> Vec<Case> {
    let group = "7 closing";
    let bye = || close(1000, b"bye");
    let done = Event::Close(1000);
    vec![
        case(group, "a close frame", [bye()], std::slice::from_ref(&done)),
        case(group, "twice", [bye(), bye()], std::slice::from_ref(&done)),
        case(
            group,
            "a message behind it",
            [bye(), text(&op(1, 0))],
            std::slice::from_ref(&done),
        ),
        case(
            group,
            "a ping behind it",
            [bye(), ping(b"")],
            std::slice::from_ref(&done),
        ),
        case(
            group,
            "half a message before it",
            [frame(TEXT, b"["), bye()],
            std::slice::from_ref(&done),
        ),
        case(
            group,
            "a violation behind it",
            [bye(), vec![0xFF; 20]],
            std::slice::from_ref(&done),
        ),
        case(
            group,
            "a hundred kilobytes before it",
            [text(&op(1, 100_000)), ping(b"p"), bye()],
            &[pong(b"p"), ONE, done.clone()],
        ),
        case(group, "without a code", [frame(FIN | CLOSE, b"")], &[done]),
        case(
            group,
            "half a code",
            [frame(FIN | CLOSE, b"\x03")],
            &[VIOLATION],
        ),
        case(
            group,
            "reason of 123 bytes",
            [close(1001, &[b'x'; 123])],
            &[Event::Close(1001)],
        ),
        case(
            group,
            "reason of 124 bytes",
            [close(1001, &[b'x'; 124])],
            &[VIOLATION],
        ),
        case(
            group,
            "reason that is not UTF-8",
            [close(1000, b"\xCE\xBA\xED\xA0\x80")],
            &[NOT_UTF8],
        ),
        case(
            group,
            "a violation",
            [frame(FIN | 3, b""), bye(), text(&op(1, 0))],
            &[VIOLATION],
        ),
    ]
}

fn close_codes() -> Vec<Case> {
    let good = (1000..=1003)
        .chain(1007..=1014)
        .chain([3000, 3999, 4000, 4008, 4999]);
    let bad = [
        0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535,
    ];
    let good = good.map(|code| (code, Event::Close(code)));
    let bad = bad.into_iter().map(|code| (code, VIOLATION));
    good.chain(bad)
        .flat_map(|(code, expect)| {
            let of = |reason: &[u8]| {
                let name = format!("{code} with {} bytes", reason.len());
                case(
                    "7 close codes",
                    name,
                    [close(code, reason)],
                    std::slice::from_ref(&expect),
                )
            };
            [of(b""), of("grüße".as_bytes())]
        })
        .collect()
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

fn packed(payload: &[u8]) -> Vec<u8> {
    frame(FIN | RSV1 | TEXT, payload)
}

fn compression() -> Vec<Case> {
    let group = "12 compression";
    let mut cases = Vec::new();
    for level in [0, 1, 6, 9] {
        for length in [0, 100, 1_000, 65_536, LIMIT] {
            let deflated = deflate(level, &op(1, length));
            let name = format!("level {level}, {length} bytes");
            cases.push(case(
                group,
                name,
                [packed(&deflated), text(&op(2, 0))],
                &[ONE, TWO],
            ));
            if deflated.len() < 5_000 {
                let third = deflated.len() / 3;
                let parts = [&deflated[..third], b"", &deflated[third..]];
                let send = [
                    fragments(RSV1 | TEXT, &parts),
                    packed(&deflate(level, &op(2, 0))),
                ];
                let name = format!("level {level}, {length} bytes, fragments");
                cases.push(case(group, name, send, &[ONE, TWO]));
            }
        }
    }
    let mut rng = rand::rng();
    let noise: String = (0..60_000)
        .map(|_| rng.random_range('\u{80}'..'\u{7ff}'))
        .collect();
    let noise = deflate(1, &op_with(1, noise.as_bytes()));
    cases.push(case(group, "noise", [packed(&noise)], &[ONE]));
    let bytes = deflate(6, &op_with(1, "κόσμε 🦀".as_bytes()));
    let each: Vec<&[u8]> = bytes.chunks(1).collect();
    cases.push(case(
        group,
        "a byte in each fragment",
        [fragments(RSV1 | TEXT, &each)],
        &[ONE],
    ));
    let (front, back) = bytes.split_at(9);
    let send = [frame(RSV1 | TEXT, front), ping(b"p"), frame(FIN, back)];
    cases.push(case(
        group,
        "a ping between fragments",
        send,
        &[pong(b"p"), ONE],
    ));
    let two = [deflate(1, &op(1, 0)), b"\0\0\xFF\xFF".to_vec(), vec![0x00]].concat();
    cases.push(case(group, "an empty block behind", [packed(&two)], &[ONE]));
    cases.into_iter().map(Case::deflating).collect()
}

fn bad_compression() -> Vec<Case> {
    let group = "13 bad compression";
    let next = || text(&op(2, 0));
    let whole = deflate(6, &op(1, 200));
    let bad = |name: &str, payload: &[u8], expect: Event| {
        case(group, name, [packed(payload), next()], &[expect])
    };
    let bomb = deflate(9, &vec![b' '; 100 * LIMIT]);
    let bomb_in_two = [
        deflate(9, &vec![b' '; LIMIT]),
        b"\0\0\xFF\xFF".to_vec(),
        deflate(9, b" "),
    ];
    let no_list = [Event::Said("err".to_owned()), Event::Close(4501)];
    let mut cases = vec![
        bad("cut", &whole[..whole.len() - 3], NOT_UTF8),
        bad("nothing at all", b"", NOT_UTF8),
        bad("no deflate", b"[{\"op\":\"ping\",\"id\":1}]", NOT_UTF8),
        bad("0xFF only", &[0xFF; 100], NOT_UTF8),
        bad(
            "a reference to the message before",
            b"\xF2\x00\x11\x00\x00",
            NOT_UTF8,
        ),
        bad(
            "a wrong length of a stored block",
            b"\x00\x05\x00\x00\x00Hello\x00",
            NOT_UTF8,
        ),
        bad(
            "text that is not UTF-8",
            &deflate(6, &op_with(1, b"\xED\xA0\x80")),
            NOT_UTF8,
        ),
        bad(
            "a character cut at the end",
            &deflate(6, b"[\"\xE2\x82"),
            NOT_UTF8,
        ),
        bad("a bomb", &bomb, TOO_BIG),
        bad("a bomb in two blocks", &bomb_in_two.concat(), TOO_BIG),
        bad("a byte too long", &deflate(1, &op(1, LIMIT + 1)), TOO_BIG),
        case(
            group,
            "an empty message",
            [packed(&[0x00]), next()],
            &no_list,
        ),
        case(
            group,
            "a binary one",
            [frame(FIN | RSV1 | BINARY, &whole)],
            &[Event::Close(1003)],
        ),
        case(
            group,
            "a compressed fragment in a message that is not",
            [frame(TEXT, b"["), frame(FIN | RSV1, b"]")],
            &[VIOLATION],
        ),
        case(
            group,
            "too long in fragments, before it can be inflated",
            [
                frame(RSV1 | TEXT, &vec![0; LIMIT]),
                frame(0, &vec![0; LIMIT]),
            ],
            &[TOO_BIG],
        ),
        case(
            group,
            "good before bad",
            [packed(&whole), packed(b"\xFF"), next()],
            &[ONE, NOT_UTF8],
        ),
    ];
    for case in &mut cases {
        case.deflate = true;
    }
    let not_negotiated = [packed(&whole), next()];
    cases.push(case(group, "not negotiated", not_negotiated, &[VIOLATION]));
    cases
}
