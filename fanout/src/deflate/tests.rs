//! What RFC 7692 shows is read, what it forbids is not, and pieces in any order are the message.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use prometheus_client::registry::Registry;
use proptest::prelude::*;
use schemas::codec::to_msgpack;
use schemas::id::{Symbol, Venue};
use schemas::position::{Epoch, StreamSeq};
use schemas::subject;
use schemas::tick::{Book, Head, Level, Quote, Side, Tick, Trade};
use schemas::time::UnixNanos;

use super::*;
use crate::metrics::Metrics;
use crate::store::{Store, StreamNo};

const LIMIT: usize = 128 * 1024;

fn inflate(deflated: &[u8]) -> Result<Vec<u8>, Violation> {
    Inflater::new().inflate(deflated.to_vec(), LIMIT)
}

/// What another implementation's settings make of a message.
fn deflate(level: u32, plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(plain.len() * 9 / 8 + 100);
    let mut compress = Compress::new(Compression::new(level), false);
    compress
        .compress_vec(plain, &mut out, FlushCompress::Sync)
        .unwrap();
    assert_eq!(out.split_off(out.len() - 4), TAIL);
    out
}

#[test]
fn the_examples_of_the_rfc_are_read() {
    let hello: [&[u8]; 5] = [
        &[0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00],
        // A block without compression.
        &[
            0x00, 0x05, 0x00, 0xFA, 0xFF, 0x48, 0x65, 0x6C, 0x6C, 0x6F, 0x00,
        ],
        // A block that claims to be the last, and an empty one behind it.
        &[0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x00],
        // Two blocks.
        &[
            0xF2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xCA, 0xC9, 0xC9, 0x07, 0x00,
        ],
        // A flush in between, and one at the end that was not left out.
        &[
            0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0x00,
        ],
    ];
    for deflated in hello {
        assert_eq!(
            inflate(deflated).as_deref(),
            Ok(&b"Hello"[..]),
            "{deflated:02x?}"
        );
    }
    assert_eq!(inflate(&[0x00]), Ok(Vec::new()));
}

#[test]
fn whatever_is_not_whole_blocks_is_refused() {
    let whole = deflate(6, b"a message of some length, a message of some length");
    let mut bad: Vec<Vec<u8>> = (0..whole.len()).map(|cut| whole[..cut].to_vec()).collect();
    bad.extend([
        // It refers to the message before: there is none.
        vec![0xF2, 0x00, 0x11, 0x00, 0x00],
        // A kind of block that does not exist.
        vec![0x06, 0x00],
        // A length that is not its complement.
        vec![
            0x00, 0x05, 0x00, 0x00, 0x00, 0x48, 0x65, 0x6C, 0x6C, 0x6F, 0x00,
        ],
        // Something behind the last block that is no block.
        vec![0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x07],
        // Last blocks without end.
        [0x03, 0x00].repeat(1_000),
        vec![0xFF; 1_000],
    ]);
    for deflated in bad {
        assert_eq!(
            inflate(&deflated),
            Err(Violation::Deflate),
            "{deflated:02x?}"
        );
    }
}

#[test]
fn nothing_beyond_the_limit_is_made() {
    let mut inflater = Inflater::new();
    for level in [0, 1, 9] {
        for (length, fits) in [(LIMIT, true), (LIMIT + 1, false), (100 * LIMIT, false)] {
            let deflated = deflate(level, &vec![b'x'; length]);
            let inflated = inflater.inflate(deflated, LIMIT);
            if fits {
                let inflated = inflated.unwrap();
                assert!(inflated.len() == length && inflated.capacity() <= LIMIT + 1);
            } else {
                assert_eq!(inflated, Err(Violation::TooLong(LIMIT)));
            }
        }
    }
    let random: Vec<u8> = (0..LIMIT).map(|_| rand::random()).collect();
    for level in 0..=9 {
        let deflated = deflate(level, &random);
        assert!(deflated.len() <= most_deflated(LIMIT), "{}", deflated.len());
        assert!(inflater.inflate(deflated, LIMIT).as_ref() == Ok(&random));
    }
}

fn head(symbol: &str, seq: i64) -> Head {
    let received = UnixNanos::new(1_767_225_600_123_456_789 + seq * 7_654_321);
    let mut head = Head::new(
        Venue::new("sim").unwrap(),
        Symbol::new(symbol).unwrap(),
        received,
    );
    head.event = Some(UnixNanos::new(1_767_225_600_120_000_000 + seq * 7_654_000));
    head
}

fn trade(seq: i64) -> Tick {
    Tick::from(Trade {
        head: head("BTC-USD", seq),
        id: (4_567_890_123 + seq).to_string(),
        price: format!("67{}.45", 100 + seq % 900).parse().unwrap(),
        size: format!("0.0{}", 1_000 + seq * 37).parse().unwrap(),
        side: if seq % 2 == 0 { Side::Buy } else { Side::Sell },
        conditions: None,
    })
}

fn quote(seq: i64) -> Tick {
    let price = |cents: i64| Some(format!("67{}.{cents}", 100 + seq % 900).parse().unwrap());
    let size = |size: i64| Some(format!("0.0{}", 1_000 + seq * size).parse().unwrap());
    Tick::from(Quote {
        head: head("ETH-USD", seq),
        bid: price(44),
        bid_size: size(41),
        ask: price(47),
        ask_size: size(43),
    })
}

fn book(seq: i64) -> Tick {
    let level = |index: i64, sign: i64| {
        let price = format!("67{}.{}", 100 + seq % 900 + sign * index, 10 + index * 7);
        let size = format!("0.{}", 10_000 + (seq + 7) * (index + 3) * 997 % 89_999);
        Level(price.parse().unwrap(), size.parse().unwrap())
    };
    Tick::from(Book {
        head: head("BAND-GBP", seq),
        bids: (0..10).map(|index| level(index, -1)).collect(),
        asks: (0..10).map(|index| level(index, 1)).collect(),
    })
}

/// Live messages of three kinds in turn, encoded.
fn lives(encoding: Encoding, count: i64) -> Vec<Arc<Live>> {
    let store = Store::new("T", StreamNo::FIRST, 1 << 20);
    let mut known = store.write();
    let metrics = Metrics::new(&mut Registry::default());
    let none = StreamSeq::ZERO;
    known.begin(Epoch::new(UnixNanos::new(1), 0), none.next(), none);
    let lives = (1..=count).map(|seq| {
        let tick = [trade, quote, book][usize::try_from(seq % 3).unwrap()](seq);
        let payload = to_msgpack(&tick).unwrap();
        let position = StreamSeq::new(1_000_000 + u64::try_from(seq).unwrap());
        let subject = subject::stored(&tick.topic());
        let live = known.apply(&subject, position, UnixNanos::new(seq), &payload);
        let live = live.unwrap();
        live.data(encoding, &metrics).unwrap();
        live
    });
    lives.collect()
}

/// A connection's message, as its session makes it: `None` is an answer of its own.
fn message(encoding: Encoding, items: &[Option<&Arc<Live>>]) -> (Vec<u8>, Vec<Mark>) {
    let (mut bytes, mut marks) = (b"in front".to_vec(), Vec::new());
    match encoding {
        Encoding::Json => bytes.push(b'['),
        Encoding::MessagePack => {
            bytes.push(0xDD);
            bytes.extend(u32::try_from(items.len()).unwrap().to_be_bytes());
        }
    }
    for (index, item) in items.iter().enumerate() {
        if index > 0 && encoding == Encoding::Json {
            bytes.push(b',');
        }
        let from = bytes.len();
        match item {
            Some(live) => {
                bytes.extend_from_slice(live.encoded(encoding));
                let (to, live) = (bytes.len(), Arc::clone(live));
                marks.push(Mark { from, to, live });
            }
            None => bytes.extend_from_slice(b"{\"t\":\"pong\",\"id\":123456}"),
        }
    }
    if encoding == Encoding::Json {
        bytes.push(b']');
    }
    (bytes, marks)
}

const FRONT: usize = 8;

/// Inflates with the window that clients are promised, and no larger one.
fn inflate_in_window(deflated: &[u8], length: usize) -> Vec<u8> {
    let mut decompress = Decompress::new_with_window_bits(false, WINDOW);
    let mut out = Vec::with_capacity(length + 1);
    let whole = [deflated, &TAIL].concat();
    decompress
        .decompress_vec(&whole, &mut out, FlushDecompress::Sync)
        .unwrap();
    out
}

#[test]
fn a_tick_is_compressed_once_for_all_of_a_place() {
    for encoding in Encoding::ALL {
        let lives = lives(encoding, 3);
        let mut deflater = Deflater::new();
        let alone = [Some(&lives[0])];
        let all = [Some(&lives[0]), Some(&lives[1]), Some(&lives[2])];
        for _ in 0..100 {
            for items in [&alone[..], &all[..], &[None, Some(&lives[1])]] {
                let (bytes, marks) = message(encoding, items);
                deflater.message(encoding, (&bytes, FRONT), &marks);
            }
        }
        assert_eq!(deflater.count, 4);
    }
}

#[test]
fn ticks_get_shorter() {
    for encoding in Encoding::ALL {
        let lives = lives(encoding, 300);
        let mut deflater = Deflater::new();
        // In hundredths.
        let most = match encoding {
            Encoding::Json => [70, 70, 42],
            Encoding::MessagePack => [98, 92, 56],
        };
        let kinds = ["trade", "quote", "book"].into_iter().zip(most);
        for (kind, (name, most)) in kinds.enumerate() {
            let of_kind = || {
                lives
                    .iter()
                    .filter(|live| live.seq.get() % 3 == (1 + kind as u64) % 3)
            };
            for count in [1, 5] {
                let (mut plain, mut deflated) = (0, 0);
                for items in of_kind().collect::<Vec<_>>().chunks(count) {
                    let items: Vec<_> = items.iter().copied().map(Some).collect();
                    let (bytes, marks) = message(encoding, &items);
                    plain += bytes.len() - FRONT;
                    deflated += deflater.message(encoding, (&bytes, FRONT), &marks).len();
                }
                eprintln!(
                    "{encoding:?} {name}, {count} a message: {} bytes a tick, compressed {}",
                    plain / of_kind().count(),
                    deflated / of_kind().count(),
                );
                assert!(deflated * 100 < plain * most, "{name}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pieces_in_any_order_are_the_message(
        items in prop::collection::vec(prop::option::of(0_usize..12), 1..40),
    ) {
        let mut deflater = Deflater::new();
        for encoding in Encoding::ALL {
            let lives = lives(encoding, 12);
            let items: Vec<_> = items.iter().map(|item| item.map(|at| &lives[at])).collect();
            let (bytes, marks) = message(encoding, &items);
            let deflated = deflater.message(encoding, (&bytes, FRONT), &marks);
            let plain = &bytes[FRONT..];
            prop_assert!(inflate(deflated).as_deref() == Ok(plain));
            prop_assert!(inflate_in_window(deflated, plain.len()) == plain);
        }
    }

    #[test]
    fn what_is_a_connections_own_is_the_same_inflated(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'x')], 1..20_000),
    ) {
        let mut deflater = Deflater::new();
        let deflated = deflater.message(Encoding::MessagePack, (&bytes, 0), &[]);
        prop_assert!(inflate(deflated).as_ref() == Ok(&bytes));
        prop_assert!(inflate_in_window(deflated, bytes.len()) == bytes);
    }

    #[test]
    fn any_bytes_end_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(plain) = Inflater::new().inflate(bytes, 1_000) {
            prop_assert!(plain.len() <= 1_000);
        }
    }
}
