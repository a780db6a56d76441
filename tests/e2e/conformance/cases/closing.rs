//! Close frames, and what stands before and behind them.

use super::super::wire::{CLOSE, Event, FIN, TEXT, frame};
use super::{Case, NOT_UTF8, ONE, VIOLATION, case, close, op, ping, pong, text};

pub(super) fn closing() -> Vec<Case> {
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

pub(super) fn close_codes() -> Vec<Case> {
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
