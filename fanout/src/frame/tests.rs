//! The rules of RFC 6455 that a client can break, each at every way of splitting the bytes.

use proptest::prelude::*;

use super::*;

const LIMIT: usize = 100_000;

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | u8::try_from(len).unwrap()),
        len @ 126..=0xFFFF => {
            bytes.push(0xFE);
            bytes.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        len => {
            bytes.push(0xFF);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    bytes
}

fn read_all(chunks: impl IntoIterator<Item = Vec<u8>>) -> Result<Vec<Incoming>, Violation> {
    let mut decoder = Decoder::new(LIMIT, false);
    let mut inflater = Inflater::new();
    let mut seen = Vec::new();
    for chunk in chunks {
        decoder.feed(&chunk);
        while let Some(message) = decoder.next(&mut inflater)? {
            seen.push(message);
        }
    }
    assert_eq!(
        decoder.buffer.capacity(),
        0,
        "an idle decoder holds a buffer"
    );
    Ok(seen)
}

fn read(bytes: &[u8]) -> Result<Vec<Incoming>, Violation> {
    let whole = read_all([bytes.to_vec()]);
    assert_eq!(whole, read_all(bytes.chunks(1).map(<[u8]>::to_vec)));
    whole
}

fn violation(bytes: &[u8]) -> Violation {
    let mut decoder = Decoder::new(LIMIT, false);
    let mut inflater = Inflater::new();
    for chunk in bytes.chunks(1) {
        decoder.feed(chunk);
        if let Err(violation) = decoder.next(&mut inflater) {
            return violation;
        }
    }
    panic!("no violation in {bytes:02x?}");
}

#[test]
fn the_handshake_answer_is_the_one_of_the_rfc() {
    assert_eq!(
        accept_key("dGhlIHNhbXBsZSBub25jZQ=="),
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    );
}

#[test]
fn messages_of_every_length_class_arrive() {
    for len in [0, 1, 125, 126, 65_535, 65_536, LIMIT] {
        let payload = vec![b'x'; len];
        let text = read_all([frame(0x81, &payload)]);
        assert_eq!(text, Ok(vec![Incoming::Text(payload.clone())]));
        let binary = read_all([frame(0x82, &payload)]);
        assert_eq!(binary, Ok(vec![Incoming::Binary(payload)]));
    }
}

#[test]
fn control_frames_pass_between_fragments() {
    let bytes = [
        frame(0x01, "né".as_bytes().split_at(2).0),
        frame(0x89, b"are you there"),
        frame(0x00, "né".as_bytes().split_at(2).1),
        frame(0x8A, b""),
        frame(0x80, b"!"),
        frame(0x88, &[0x03, 0xE8, b'b', b'y', b'e']),
    ]
    .concat();
    let expected = vec![
        Incoming::Ping(b"are you there".to_vec()),
        Incoming::Pong(Vec::new()),
        Incoming::Text("né!".as_bytes().to_vec()),
        Incoming::Close(Some(1000), "bye".to_owned()),
    ];
    assert_eq!(read(&bytes), Ok(expected));
}

#[test]
fn every_violation_has_its_close_code() {
    let unmasked = [0x81, 0x01, b'x'];
    let overlong_16 = [0x81, 0xFE, 0x00, 0x7D, 0, 0, 0, 0];
    let overlong_64 = [0x81, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0, 0, 0];
    let top_bit = [0x81, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let cases: Vec<(Vec<u8>, Violation, u16)> = vec![
        (frame(0xC1, b"x"), Violation::ReservedBits, 1002),
        (frame(0xA1, b"x"), Violation::ReservedBits, 1002),
        (frame(0x91, b"x"), Violation::ReservedBits, 1002),
        (frame(0x83, b""), Violation::Opcode(3), 1002),
        (frame(0x8B, b""), Violation::Opcode(11), 1002),
        (unmasked.to_vec(), Violation::Unmasked, 1002),
        (overlong_16.to_vec(), Violation::Length, 1002),
        (overlong_64.to_vec(), Violation::Length, 1002),
        (top_bit.to_vec(), Violation::Length, 1002),
        (frame(0x09, b""), Violation::Control, 1002),
        (frame(0x89, &[0; 126]), Violation::Control, 1002),
        (frame(0x80, b"x"), Violation::Continuation, 1002),
        (
            [frame(0x01, b"x"), frame(0x81, b"y")].concat(),
            Violation::Interleaved,
            1002,
        ),
        (frame(0x88, &[3]), Violation::CloseLength, 1002),
        (
            frame(0x88, &1005_u16.to_be_bytes()),
            Violation::CloseCode(1005),
            1002,
        ),
        (
            frame(0x88, &999_u16.to_be_bytes()),
            Violation::CloseCode(999),
            1002,
        ),
        (
            frame(0x88, &5000_u16.to_be_bytes()),
            Violation::CloseCode(5000),
            1002,
        ),
        (frame(0x88, &[0x03, 0xE8, 0xFF]), Violation::Utf8, 1007),
        (frame(0x81, &[0xC0, 0xAF]), Violation::Utf8, 1007),
        (frame(0x81, &[0xE2, 0x82]), Violation::Utf8, 1007),
        (frame(0x01, &[b'x', 0xED, 0xA0]), Violation::Utf8, 1007),
        (
            frame(0x82, &vec![0; LIMIT + 1]),
            Violation::TooLong(LIMIT),
            1009,
        ),
        (
            [frame(0x02, &vec![0; LIMIT]), frame(0x80, b"x")].concat(),
            Violation::TooLong(LIMIT),
            1009,
        ),
    ];
    for (bytes, expected, code) in cases {
        let found = violation(&bytes);
        assert_eq!((found, found.close_code()), (expected, code));
    }
}

#[test]
fn a_huge_announced_length_is_refused_before_it_arrives() {
    let header = [
        0x82, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4,
    ];
    assert_eq!(violation(&header), Violation::TooLong(LIMIT));
}

#[test]
fn close_reasons_are_cut_at_a_character() {
    let mut out = Vec::new();
    push_close(&mut out, 4008, &"é".repeat(100));
    assert_eq!(out.len(), 2 + 2 + 122);
    assert_eq!(&out[..4], &[0x88, 124, 0x0F, 0xA8]);
}

#[test]
fn compressed_fragments_arrive_whole_however_they_are_cut() {
    // The example of RFC 7692 §7.2.3.1.
    let hello = [0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];
    let expected = vec![
        Incoming::Ping(Vec::new()),
        Incoming::Text(b"Hello".to_vec()),
        Incoming::Text(b"plain".to_vec()),
    ];
    for at in 0..=hello.len() {
        let (front, back) = hello.split_at(at);
        let bytes = [
            frame(0x41, front),
            frame(0x89, b""),
            frame(0x80, back),
            frame(0x81, b"plain"),
        ]
        .concat();
        for cut in 1..=bytes.len() {
            let (mut decoder, mut inflater) = (Decoder::new(LIMIT, true), Inflater::new());
            let mut seen = Vec::new();
            for chunk in bytes.chunks(cut) {
                decoder.feed(chunk);
                while let Some(message) = decoder.next(&mut inflater).unwrap() {
                    seen.push(message);
                }
            }
            assert_eq!(seen, expected, "split at {at}, cut {cut}");
        }
    }
}

#[test]
fn text_is_refused_as_soon_as_it_cannot_become_utf_8() {
    let whole = frame(
        0x81,
        b"good \xF0\x9F\xA6\x80 \xED\xA0 and more that never comes",
    );
    let header = 6;
    let (mut decoder, mut inflater) = (Decoder::new(LIMIT, false), Inflater::new());
    for (at, byte) in whole.iter().enumerate() {
        decoder.feed(&[*byte]);
        match decoder.next(&mut inflater) {
            Ok(message) => assert!(message.is_none() && at < header + 11, "byte {at}"),
            Err(violation) => {
                assert_eq!((violation, at), (Violation::Utf8, header + 11));
                return;
            }
        }
    }
    panic!("it was taken");
}

proptest! {
    #[test]
    fn any_bytes_in_any_pieces_end_the_same(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        cut in 1_usize..50,
        deflate: bool,
    ) {
        let run = |chunks: Vec<Vec<u8>>| {
            let mut decoder = Decoder::new(64, deflate);
            let mut inflater = Inflater::new();
            let mut seen = Vec::new();
            for chunk in chunks {
                decoder.feed(&chunk);
                loop {
                    match decoder.next(&mut inflater) {
                        Ok(Some(message)) => seen.push(Ok(message)),
                        Ok(None) => break,
                        Err(violation) => {
                            seen.push(Err(violation));
                            return seen;
                        }
                    }
                }
            }
            seen
        };
        let pieces = bytes.chunks(cut).map(<[u8]>::to_vec).collect();
        prop_assert_eq!(run(vec![bytes]), run(pieces));
    }

    #[test]
    fn what_is_sent_in_fragments_arrives_whole(
        text in "\\PC{0,200}",
        cuts in prop::collection::vec(0_usize..200, 0..5),
    ) {
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
        cuts.sort_unstable();
        let mut bytes = Vec::new();
        let mut from = 0;
        for (index, cut) in cuts.iter().enumerate() {
            bytes.extend(frame(u8::from(index == 0), &text.as_bytes()[from..*cut]));
            from = *cut;
        }
        bytes.extend(frame(0x80 | u8::from(cuts.is_empty()), &text.as_bytes()[from..]));
        prop_assert_eq!(read(&bytes), Ok(vec![Incoming::Text(text.into_bytes())]));
    }
}
