//! Exact decimals: prices, sizes and plain values, with the digits that the venue sent.

use std::fmt;
use std::str::FromStr;

use rust_decimal::Decimal;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// The largest magnitude that any price, size or value may have.
pub const LIMIT: u64 = 1_000_000_000_000_000_000;

/// Why a text is not a price, size or value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecimalError {
    /// Not a plain decimal number of at most 28 digits.
    #[error("{0:?} is not a decimal number of at most 28 digits")]
    Malformed(String),
    /// Larger than [`LIMIT`].
    #[error("{0} is beyond the limit of {LIMIT}")]
    TooLarge(Decimal),
    /// A size below zero.
    #[error("size {0} is negative")]
    Negative(Decimal),
}

fn parse(text: &str) -> Result<Decimal, DecimalError> {
    let malformed = || DecimalError::Malformed(text.chars().take(64).collect());
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit())
        || !digits.ends_with(|c: char| c.is_ascii_digit())
    {
        return Err(malformed());
    }
    if digits.bytes().any(|b| !b.is_ascii_digit() && b != b'.') {
        return Err(malformed());
    }
    bounded(Decimal::from_str_exact(text).map_err(|_| malformed())?)
}

fn bounded(value: Decimal) -> Result<Decimal, DecimalError> {
    if value.abs() > Decimal::from(LIMIT) {
        return Err(DecimalError::TooLarge(value));
    }
    Ok(value)
}

macro_rules! decimal {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Decimal);

        impl $name {
            /// Checks a computed value against the limits of this type.
            ///
            /// # Errors
            ///
            /// [`DecimalError`] names the value and the limit that it breaks.
            pub fn new(value: Decimal) -> Result<Self, DecimalError> {
                let check: fn(Decimal) -> Result<Decimal, DecimalError> = $check;
                bounded(value).and_then(check).map(Self)
            }

            /// The number.
            pub const fn get(self) -> Decimal {
                self.0
            }

            /// Whether the number is zero.
            pub const fn is_zero(self) -> bool {
                self.0.is_zero()
            }
        }

        impl FromStr for $name {
            type Err = DecimalError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let check: fn(Decimal) -> Result<Decimal, DecimalError> = $check;
                parse(text).and_then(check).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;

                impl Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a decimal number written as a string")
                    }

                    fn visit_str<E: de::Error>(self, v: &str) -> Result<$name, E> {
                        v.parse().map_err(E::custom)
                    }
                }

                deserializer.deserialize_str(Text)
            }
        }
    };
}

decimal! {
    /// A price in quote currency, exact: `"1.50"` stays `"1.50"`. Any sign: spreads and some
    /// futures trade below zero; feeds of venues where that cannot be refuse it.
    Price, Ok
}

decimal! {
    /// A quantity in units of the instrument, exact, never negative.
    Size, |value| if value.is_sign_negative() && !value.is_zero() { Err(DecimalError::Negative(value)) } else { Ok(value) }
}

decimal! {
    /// Any other exact number: index values, changes, turnover.
    Value, Ok
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_stay_as_sent() {
        for text in [
            "1.50",
            "0.00000001",
            "12.34000000",
            "1000000",
            "0.0",
            "-3.10",
            "0",
        ] {
            assert_eq!(
                text.parse::<Price>().map(|p| p.to_string()),
                Ok(text.to_owned())
            );
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "", " ", "1.", ".5", "+1", "1e5", "NaN", "inf", "1_000", "1.2.3", "--1", "-", "0x1",
            "١",
        ] {
            assert!(
                matches!(text.parse::<Price>(), Err(DecimalError::Malformed(_))),
                "{text:?}"
            );
        }
        let digits = "0.".to_owned() + &"1".repeat(40);
        assert!(matches!(
            digits.parse::<Price>(),
            Err(DecimalError::Malformed(_))
        ));
        assert!(matches!(
            "1000000000000000001".parse::<Price>(),
            Err(DecimalError::TooLarge(_))
        ));
        assert!(matches!(
            "-0.1".parse::<Size>(),
            Err(DecimalError::Negative(_))
        ));
    }
}
