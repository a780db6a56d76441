//! Compressed messages, and what only claims to be one.

use rand::RngExt as _;

use super::super::wire::{BINARY, Event, FIN, RSV1, TEXT, deflate, fragments, frame};
use super::{
    Case, LIMIT, NOT_UTF8, ONE, TOO_BIG, TWO, VIOLATION, case, op, op_with, ping, pong, text,
};

fn packed(payload: &[u8]) -> Vec<u8> {
    frame(FIN | RSV1 | TEXT, payload)
}

pub(super) fn compression() -> Vec<Case> {
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

pub(super) fn bad_compression() -> Vec<Case> {
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
