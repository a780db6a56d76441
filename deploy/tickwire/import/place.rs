//! Where an imported tick stands: its position in history, and what makes it the same tick as another.
//!
//! Imported positions are of epochs that were created in 1970, so that whatever was recorded from a
//! stream counts more where only one row can stay. A tick whose venue numbers it has that number as
//! its sequence, in one epoch for all imports: from whichever file it comes, it is the same row. Any
//! other has the number of its line, in an epoch of its file's content. Sequences are below 2^53, as
//! clients that read JSON need them.
//!
//! What is stored already is the same tick if its event time is the same and, of trades, the venue's
//! id; of all others, everything but when it was received.

use schemas::codec::{self, CodecError};
use schemas::position::{Epoch, StreamSeq};
use schemas::tick::{Tick, Trade};
use schemas::time::UnixNanos;

use super::source::Digest;

/// The epoch of what needs no file to be told apart: numbered ticks, bars, instruments.
pub(super) const COMMON: Epoch = Epoch::new(UnixNanos::EPOCH, 0);
/// Numbers of venues that are higher are no positions.
const HIGHEST: u64 = 1 << 53;

/// Whether a row was imported, and not recorded from a stream.
pub(super) fn is_imported(epoch: Epoch) -> bool {
    epoch.created() == COMMON.created()
}

/// The epoch of the lines of a file.
pub(super) fn of_file(digest: &Digest) -> Epoch {
    let [a, b, c, d, ..] = digest.0;
    Epoch::new(COMMON.created(), u32::from_be_bytes([a, b, c, d]).max(1))
}

/// The place of a tick on a line of a file.
pub(super) fn of_tick(tick: &Tick, file: Epoch, line: u64) -> (Epoch, StreamSeq) {
    let numbered = match tick {
        Tick::Trade(trade) => number(trade),
        Tick::Inst(_) => Some(1),
        Tick::Quote(_)
        | Tick::Book(_)
        | Tick::Stat(_)
        | Tick::Bar(_)
        | Tick::Form(_)
        | Tick::Index(_)
        | Tick::Flow(_)
        | Tick::Status(_)
        | Tick::Feed(_) => tick.head().venue_seq,
    };
    match numbered.filter(|number| (1..HIGHEST).contains(number)) {
        Some(number) => (COMMON, StreamSeq::new(number)),
        None => (file, StreamSeq::new(line)),
    }
}

/// The id of a trade as a number, if that number has no other spelling.
fn number(trade: &Trade) -> Option<u64> {
    let number: u64 = trade.id.parse().ok()?;
    (number.to_string() == trade.id).then_some(number)
}

/// What makes a tick the same as another one of its topic at the same time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Identity {
    /// The venue's id.
    Trade(String),
    /// All of it, encoded.
    Whole(Vec<u8>),
}

impl Identity {
    /// Of a tick.
    ///
    /// # Errors
    ///
    /// None for any tick that the types allow.
    pub(super) fn of(tick: &Tick) -> Result<Self, CodecError> {
        if let Tick::Trade(trade) = tick {
            return Ok(Self::Trade(trade.id.clone()));
        }
        let mut tick = tick.clone();
        let head = tick.head_mut();
        head.received = UnixNanos::EPOCH;
        head.flags.clear();
        codec::to_msgpack(&tick).map(Self::Whole)
    }
}

#[cfg(test)]
mod tests {
    use schemas::id::{Symbol, Venue};
    use schemas::tick::{Flag, Head, Quote, Side};

    use super::*;

    const AT: UnixNanos = UnixNanos::new(1_767_000_000_000_000_000);

    fn head() -> Head {
        Head::new(Venue::new("x").unwrap(), Symbol::new("A").unwrap(), AT)
    }

    fn trade(id: &str) -> Tick {
        let trade = Trade {
            head: head(),
            id: id.to_owned(),
            price: "1".parse().unwrap(),
            size: "1".parse().unwrap(),
            side: Side::Unknown,
            conditions: None,
        };
        trade.into()
    }

    fn quote(seq: Option<u64>) -> Quote {
        let mut head = head();
        head.venue_seq = seq;
        Quote {
            head,
            bid: Some("1".parse().unwrap()),
            bid_size: None,
            ask: None,
            ask_size: None,
        }
    }

    #[test]
    fn whatever_the_venue_numbers_stands_there_from_any_file() {
        let (one, other) = (of_file(&Digest([1; 32])), of_file(&Digest([2; 32])));
        assert!(one != other && is_imported(one) && is_imported(other));
        assert!(one > COMMON && one < Epoch::new(UnixNanos::new(1), 0));
        assert_ne!(of_file(&Digest([0; 32])), COMMON);
        let place = |tick: &Tick| (of_tick(tick, one, 7), of_tick(tick, other, 9));
        for (id, number) in [
            ("1", 1),
            ("81234", 81_234),
            ("9007199254740991", HIGHEST - 1),
        ] {
            let there = (COMMON, StreamSeq::new(number));
            assert_eq!(place(&trade(id)), (there, there), "{id}");
        }
        let numbered = (COMMON, StreamSeq::new(5));
        assert_eq!(place(&quote(Some(5)).into()), (numbered, numbered));
        // Each of these would share its number with another one, or none.
        for id in [
            "0",
            "007",
            "+7",
            "7 ",
            "a7",
            "9007199254740992",
            "-1",
            "1e3",
        ] {
            let (first, second) = place(&trade(id));
            assert_eq!(first, (one, StreamSeq::new(7)), "{id}");
            assert_eq!(second, (other, StreamSeq::new(9)), "{id}");
        }
        assert_eq!(of_tick(&quote(None).into(), one, 7).0, one);
    }

    #[test]
    fn a_trade_is_its_id_and_anything_else_what_it_says() {
        let of = |tick: Tick| Identity::of(&tick).unwrap();
        assert_eq!(of(trade("7")), of(trade("7")));
        assert_ne!(of(trade("7")), of(trade("07")));
        let mut same = quote(Some(5));
        same.head.received = AT.offset(3);
        same.head.flags.push(Flag::Backfill);
        assert_eq!(of(same.into()), of(quote(Some(5)).into()));
        assert_ne!(of(quote(Some(6)).into()), of(quote(Some(5)).into()));
        let mut other = quote(Some(5));
        other.bid = Some("1.0".parse().unwrap());
        assert_ne!(of(other.into()), of(quote(Some(5)).into()));
    }
}
