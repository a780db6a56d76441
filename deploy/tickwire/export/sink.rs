//! Writing ticks as comma-separated values, JSON lines, or a table.

use std::io::{BufWriter, Write};

use anyhow::{Context as _, Result};
use schemas::codec;
use schemas::id::Kind;
use schemas::tick::Tick;

use super::Format;
use super::columns::{self, Cell, Column};
#[cfg(feature = "parquet")]
use super::parquet::Table;

type Out = Box<dyn Write + Send>;

/// What is gathered before it is written, in bytes.
const CHUNK: usize = 1 << 16;

/// Takes ticks of one kind.
pub(super) enum Sink {
    Csv(Box<csv::Writer<Out>>),
    Ndjson(BufWriter<Out>),
    #[cfg(feature = "parquet")]
    Parquet(Box<Table<Out>>),
}

fn table(kind: Kind) -> Result<&'static [Column]> {
    let columns = columns::of(kind);
    columns.with_context(|| format!("{kind} has no table of columns: use --format ndjson"))
}

impl Sink {
    /// Begins.
    ///
    /// # Errors
    ///
    /// The kind cannot be written in this format, or nothing can be written.
    pub(super) fn new(format: Format, kind: Kind, out: Out) -> Result<Self> {
        Ok(match format {
            Format::Csv => {
                let mut writer = csv::WriterBuilder::new()
                    .buffer_capacity(CHUNK)
                    .terminator(csv::Terminator::CRLF)
                    .from_writer(out);
                writer.write_record(table(kind)?.iter().map(|(name, _)| *name))?;
                Self::Csv(Box::new(writer))
            }
            Format::Ndjson => Self::Ndjson(BufWriter::with_capacity(CHUNK, out)),
            #[cfg(feature = "parquet")]
            Format::Parquet => Self::Parquet(Box::new(Table::new(table(kind)?, out)?)),
        })
    }

    /// Takes the next tick.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub(super) fn write(&mut self, tick: &Tick) -> Result<()> {
        let cells = || {
            let cells = columns::cells(tick);
            cells.with_context(|| format!("{} among what has columns", tick.kind()))
        };
        match self {
            Self::Csv(writer) => {
                for cell in cells()? {
                    match cell {
                        None => writer.write_field("")?,
                        Some(Cell::Text(text)) => writer.write_field(text)?,
                        Some(Cell::Count(count)) => writer.write_field(count.to_string())?,
                        Some(Cell::Time(at)) => {
                            let time = jiff::Timestamp::from_nanosecond(at.get().into())?;
                            writer.write_field(time.to_string())?;
                        }
                    }
                }
                // Ends the row.
                writer.write_record(None::<&[u8]>)?;
            }
            Self::Ndjson(writer) => {
                writer.write_all(&codec::to_json(tick)?)?;
                writer.write_all(b"\n")?;
            }
            #[cfg(feature = "parquet")]
            Self::Parquet(table) => table.write(cells()?)?,
        }
        Ok(())
    }

    /// Writes what is left.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub(super) fn finish(self) -> Result<()> {
        match self {
            Self::Csv(mut writer) => writer.flush()?,
            Self::Ndjson(mut writer) => writer.flush()?,
            #[cfg(feature = "parquet")]
            Self::Parquet(table) => table.finish()?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use schemas::id::{Symbol, Venue};
    use schemas::tick::{Head, Quote, Side, Trade};
    use schemas::time::UnixNanos;

    use super::*;

    fn head(event: i64) -> Head {
        let venue = Venue::new("x").unwrap();
        let symbol = Symbol::new("A,\"B\"").unwrap();
        let mut head = Head::new(venue, symbol, UnixNanos::new(1_767_225_600_000_000_001));
        head.event = Some(UnixNanos::new(event));
        head
    }

    fn trade(event: i64) -> Tick {
        let trade = Trade {
            head: head(event),
            id: "7".to_owned(),
            price: "1.50".parse().unwrap(),
            size: "0.00000001".parse().unwrap(),
            side: Side::Sell,
            conditions: None,
        };
        trade.into()
    }

    fn write(format: Format, kind: Kind, ticks: &[Tick]) -> Vec<u8> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let out = Box::new(file.reopen().unwrap());
        let mut sink = Sink::new(format, kind, out).unwrap();
        for tick in ticks {
            sink.write(tick).unwrap();
        }
        sink.finish().unwrap();
        std::fs::read(file.path()).unwrap()
    }

    #[test]
    fn comma_separated_values_keep_every_digit_and_quote_what_must_be() {
        let written = write(
            Format::Csv,
            Kind::Trade,
            &[trade(1_767_225_600_120_000_000)],
        );
        let expected = "time,symbol,id,price,size,side,conditions,venue,received,flags\r\n\
            2026-01-01T00:00:00.12Z,\"A,\"\"B\"\"\",7,1.50,0.00000001,sell,,x,2026-01-01T00:00:00.000000001Z,\r\n";
        assert_eq!(String::from_utf8(written).unwrap(), expected);
        let quote = Quote {
            head: head(0),
            bid: None,
            bid_size: None,
            ask: Some("2.0".parse().unwrap()),
            ask_size: None,
        };
        let written = write(Format::Csv, Kind::Quote, &[quote.into()]);
        let text = String::from_utf8(written).unwrap();
        let row = text.lines().nth(1).unwrap();
        assert!(
            row.starts_with("1970-01-01T00:00:00Z,") && row.contains(",,,2.0,,x,"),
            "{row}"
        );
    }

    #[test]
    fn a_line_of_json_is_the_tick() {
        let ticks = [trade(1), trade(2)];
        let written = String::from_utf8(write(Format::Ndjson, Kind::Trade, &ticks)).unwrap();
        let read = written
            .lines()
            .map(|line| codec::from_json(line.as_bytes()).unwrap());
        assert_eq!(read.collect::<Vec<Tick>>(), ticks);
    }

    #[test]
    fn what_has_no_columns_is_told_where_it_can_go() {
        let refused = Sink::new(Format::Csv, Kind::Status, Box::new(Vec::new()));
        let said = refused.err().unwrap().to_string();
        assert!(said.contains("status") && said.contains("ndjson"), "{said}");
        assert!(Sink::new(Format::Ndjson, Kind::Status, Box::new(Vec::new())).is_ok());
    }

    #[cfg(feature = "parquet")]
    #[test]
    fn a_parquet_table_has_every_row_of_every_group() {
        use ::parquet::file::reader::{FileReader as _, SerializedFileReader};
        let count: i64 = 70_001;
        let ticks: Vec<Tick> = (0..count).map(trade).collect();
        let written = write(Format::Parquet, Kind::Trade, &ticks);
        let reader = SerializedFileReader::new(bytes::Bytes::from(written)).unwrap();
        assert!(reader.num_row_groups() > 1);
        let rows = reader.get_row_iter(None).unwrap().map(Result::unwrap);
        let mut expected = 0;
        for row in rows {
            let columns: Vec<String> = row
                .get_column_iter()
                .map(|(name, field)| format!("{name}={field}"))
                .collect();
            let row = columns.join(" ");
            assert!(row.contains("price=\"1.50\" size=\"0.00000001\""), "{row}");
            assert!(row.contains("conditions=null"), "{row}");
            expected += 1;
        }
        assert_eq!(expected, count);
    }
}
