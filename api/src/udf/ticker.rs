//! How an instrument is named to a TradingView client: `venue:SYMBOL`.

use std::fmt;
use std::str::FromStr;

use schemas::id::{IdError, Symbol, Venue};

/// An instrument in one spelling. No venue holds a colon, so whatever follows the first one is the
/// symbol, colons and all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ticker {
    /// The venue.
    pub(crate) venue: Venue,
    /// The venue's own name.
    pub(crate) symbol: Symbol,
}

/// Why a text is no ticker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TickerError {
    /// No colon.
    #[error("{0:?} is not of the form venue:SYMBOL")]
    Form(String),
    /// One of its parts is impossible.
    #[error(transparent)]
    Part(#[from] IdError),
}

impl fmt::Display for Ticker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.venue, self.symbol)
    }
}

impl FromStr for Ticker {
    type Err = TickerError;

    /// Venues are lower-case, and people type them as they like; symbols are taken to the letter.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || TickerError::Form(text.chars().take(64).collect());
        let (venue, symbol) = text.split_once(':').ok_or_else(form)?;
        Ok(Self {
            venue: Venue::new(&venue.to_ascii_lowercase())?,
            symbol: Symbol::new(symbol)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_instrument_has_one_ticker(venue in "[a-z0-9_-]{1,16}", symbol in "\\PC{1,16}") {
            let Ok(symbol) = Symbol::new(&symbol) else { return Ok(()) };
            let ticker = Ticker { venue: Venue::new(&venue).unwrap(), symbol };
            let read: Ticker = ticker.to_string().parse().unwrap();
            prop_assert_eq!(read, ticker);
        }
    }

    #[test]
    fn a_venue_may_be_shouted_and_a_symbol_may_hold_colons() {
        let ticker: Ticker = "BINANCE:A:B".parse().unwrap();
        assert_eq!(
            (ticker.venue.as_str(), ticker.symbol.as_str()),
            ("binance", "A:B")
        );
        for bad in ["", "AAA", ":AAA", "sim:", "no venue:AAA", "sim:\n"] {
            assert!(bad.parse::<Ticker>().is_err(), "{bad:?}");
        }
    }
}
