//! Decimals as JSON numbers with every digit: UDF has no strings for prices.

use rust_decimal::Decimal;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// A number that is written digit by digit, never through a float.
#[derive(Clone, Copy, Debug, PartialEq, Eq, schemars::JsonSchema)]
pub(crate) struct Exact(#[schemars(with = "f64")] pub(crate) Decimal);

impl Serialize for Exact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits = RawValue::from_string(self.0.to_string());
        digits
            .map_err(serde::ser::Error::custom)?
            .serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_digit_is_lost() {
        for digits in [
            "0.00000001",
            "12.340",
            "-3.10",
            "123456789.123456789123",
            "0",
        ] {
            let written = serde_json::to_string(&Exact(digits.parse().unwrap()));
            assert_eq!(written.unwrap(), digits);
        }
    }
}
