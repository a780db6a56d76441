//! Trades as comma-separated values.
//!
//! Prices may be of any sign: spreads and some futures trade below zero.

use schemas::id::Venue;
use schemas::tick::{Head, Side, Tick, Trade};
use schemas::time::UnixNanos;

use crate::feed::{Reason, Reject};
use crate::feeds::{Instruments, rfc3339, time};

const COLUMNS: [&str; 6] = ["time", "symbol", "id", "price", "size", "side"];

/// Reads rows.
pub(crate) struct Trades {
    venue: Venue,
    /// Places of the columns, once the header was read.
    columns: Option<[usize; 6]>,
    instruments: Instruments,
}

fn malformed(message: &str) -> Reject {
    Reject::new(Reason::Malformed, message)
}

fn fields(line: &str) -> Result<csv::StringRecord, Reject> {
    // To make a reader costs more than to split a line, and hardly any has quotes.
    if !line.contains(['"', '\r']) {
        return Ok(line.split(',').collect());
    }
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .from_reader(line.as_bytes());
    let record = reader.records().next().and_then(Result::ok);
    record.ok_or_else(|| malformed("not comma-separated values"))
}

fn header(fields: &csv::StringRecord) -> Result<[usize; 6], Reject> {
    let mut columns = [0; 6];
    for (column, name) in columns.iter_mut().zip(COLUMNS) {
        let named = |(_, field): &(usize, &str)| {
            let field = field.trim_start_matches('\u{FEFF}').trim();
            field.eq_ignore_ascii_case(name)
        };
        let mut places = fields.iter().enumerate().filter(named);
        *column = match (places.next(), places.next()) {
            (Some((place, _)), None) => place,
            (None, _) => return Err(malformed(&format!("the header has no column {name}"))),
            (Some(_), Some(_)) => {
                return Err(malformed(&format!("the header has two columns {name}")));
            }
        };
    }
    Ok(columns)
}

impl Trades {
    /// Trades of a venue.
    pub(super) fn new(venue: Venue) -> Self {
        Self {
            venue,
            columns: None,
            instruments: Instruments::default(),
        }
    }

    /// A file begins again with its header.
    pub(super) const fn reset(&mut self) {
        self.columns = None;
    }

    /// Reads a row: its trade, behind the instrument if that is new. Nothing comes of a header.
    pub(super) fn read(&mut self, line: &str) -> Result<Vec<Tick>, Reject> {
        let fields = fields(line)?;
        let Some(columns) = self.columns else {
            self.columns = Some(header(&fields)?);
            return Ok(Vec::new());
        };
        let [at, name, id, price, size, side] =
            columns.map(|column| fields.get(column).unwrap_or("").trim());
        let event = event(at)?;
        let refuse = |field: &str, error: &dyn std::fmt::Display| {
            Reject::new(Reason::Range, format!("{field}: {error}"))
        };
        let side = match side {
            "buy" => Side::Buy,
            "sell" => Side::Sell,
            "" | "unknown" => Side::Unknown,
            _ => return Err(refuse("side", &"not buy, sell or unknown")),
        };
        if id.is_empty() || id.len() > 64 || id.chars().any(char::is_control) {
            let message = "not 1 to 64 bytes without control characters";
            return Err(refuse("id", &message));
        }
        let symbol = self.instruments.admit("symbol", name)?;
        let price = price.parse().map_err(|error| refuse("price", &error))?;
        let size: schemas::decimal::Size = size.parse().map_err(|error| refuse("size", &error))?;
        if size.is_zero() {
            return Err(refuse("size", &"not above 0"));
        }
        let mut ticks = Vec::new();
        let head = Head::new(self.venue.clone(), symbol, event);
        let mut head = self.instruments.head(head, &mut ticks);
        head.event = Some(event);
        let trade = Trade {
            head,
            id: id.to_owned(),
            price,
            size,
            side,
            conditions: None,
        };
        ticks.push(trade.into());
        Ok(ticks)
    }
}

fn event(at: &str) -> Result<UnixNanos, Reject> {
    at.parse()
        .ok()
        .map_or_else(|| rfc3339("time", at), |nanos| time("time", Some(nanos)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feeds::tests::HARD;

    const GOOD: &str = "2026-01-02T03:04:05Z,A,1,2.50,3,buy";

    fn reader() -> Trades {
        let mut trades = Trades::new(Venue::new("x").unwrap());
        let header = "\u{FEFF}Time, symbol,id,price,size,side,more";
        assert_eq!(trades.read(header), Ok(Vec::new()));
        trades
    }

    #[test]
    fn columns_may_stand_in_any_order() {
        let mut trades = Trades::new(Venue::new("x").unwrap());
        trades.read("id,side,size,price,symbol,time").unwrap();
        let row = "7,sell,3,-2.50,\"A,B\",1767000000000000000";
        let ticks = trades.read(row).unwrap();
        let [Tick::Inst(_), Tick::Trade(trade)] = &ticks[..] else {
            panic!("{ticks:?}")
        };
        let at = UnixNanos::new(1_767_000_000_000_000_000);
        assert_eq!((trade.head.event, trade.head.received), (Some(at), at));
        assert_eq!(trade.head.symbol.as_str(), "A,B");
        assert_eq!(trade.price.to_string(), "-2.50");
    }

    #[test]
    fn bad_rows_are_refused_by_name() {
        use Reason::{Malformed, Range};
        let huge = "9".repeat(100_000);
        let cases = [
            ("2026-01-02T03:04:05Z", "noon", Malformed, "time: \"noon\""),
            ("2026-01-02T03:04:05Z", "", Malformed, "time: \"\" is not"),
            ("2026-01-02T03:04:05Z", "7", Range, "time: time is not"),
            ("2026-01-02T03:04:05Z", "-9", Range, "time: time is not"),
            (",A,", ",,", Range, "symbol: symbol \"\" is not"),
            (",A,", ",A\u{7},", Range, "symbol: symbol"),
            (",1,", ",,", Range, "id: not 1 to 64 bytes"),
            (",1,", ",1\u{9}2,", Range, "id: not 1 to 64 bytes"),
            ("2.50", "1e3", Range, "price: \"1e3\" is not a decimal"),
            ("2.50", "NaN", Range, "price: \"NaN\" is not a decimal"),
            ("2.50", &huge, Range, "price: \"999"),
            (",3,", ",-3,", Range, "size: size -3 is negative"),
            (",3,", ",0,", Range, "size: not above 0"),
            ("buy", "BUY", Range, "side: not buy, sell"),
            (",2.50,3,buy", "", Range, "price: \"\" is not a decimal"),
        ];
        for (usual, instead, reason, expected) in cases {
            let said = reader().read(&GOOD.replace(usual, instead)).unwrap_err();
            assert_eq!(said.reason, reason, "{said}");
            assert!(
                said.message.starts_with(expected),
                "{said} instead of {expected:?}"
            );
        }
        for bad in ["time,symbol", GOOD, "time,symbol,id,price,size,side,time"] {
            let said = Trades::new(Venue::new("x").unwrap()).read(bad).unwrap_err();
            assert!(said.message.starts_with("the header has"), "{said}");
        }
    }

    #[test]
    fn lines_are_split_alike_with_and_without_quotes() {
        let lines = [
            "a,b",
            "a,,b,",
            ",",
            " a , b ",
            "a;b",
            "\u{20AC},x",
            "a'b,\u{0}",
            "\t",
        ];
        for line in lines {
            let mut reader = csv::ReaderBuilder::new()
                .has_headers(false)
                .from_reader(line.as_bytes());
            let expected = reader.records().next().unwrap().unwrap();
            assert_eq!(fields(line).unwrap(), expected, "{line:?}");
        }
        let quoted: Vec<String> = fields("\"a,\"\"b\",c")
            .unwrap()
            .iter()
            .map(Into::into)
            .collect();
        assert_eq!(quoted, ["a,\"b", "c"]);
    }

    #[test]
    fn hard_symbols_stay_what_they_are() {
        let mut trades = reader();
        for text in HARD {
            let row = GOOD.replace(",A,", &format!(",\"{text}\","));
            let ticks = trades.read(&row).unwrap();
            assert_eq!(ticks[1].head().symbol.as_str(), text);
        }
    }
}
