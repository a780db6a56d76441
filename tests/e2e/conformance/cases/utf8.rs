//! Text that is UTF-8 and text that is not, cut at every place.

use super::super::wire::{CONTINUATION, FIN, TEXT, fragments, frame};
use super::{Case, NOT_UTF8, ONE, case, op, op_with, text};

pub(super) fn utf8() -> Vec<Case> {
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
