//! A Parquet table, written a group of rows at a time.

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::parser::parse_message_type;

use super::columns::{Cell, Cells, Column, Type};

/// Rows of a group: what is held in memory.
const GROUP: usize = 50_000;

/// Takes rows.
pub(super) struct Table<W: Write + Send> {
    columns: &'static [Column],
    writer: SerializedFileWriter<W>,
    group: Vec<Cells>,
}

impl<W: Write + Send> Table<W> {
    /// Begins a table of these columns.
    ///
    /// # Errors
    ///
    /// Nothing can be written.
    pub(super) fn new(columns: &'static [Column], out: W) -> Result<Self> {
        let fields = columns.iter().map(|(name, of)| match of {
            Type::Text => format!("optional binary {name} (STRING);"),
            Type::Time => format!("optional int64 {name} (TIMESTAMP(NANOS, true));"),
            Type::Count => format!("optional int64 {name};"),
        });
        let fields: Vec<String> = fields.collect();
        let schema = parse_message_type(&format!("message ticks {{ {} }}", fields.join(" ")))?;
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY);
        let properties = Arc::new(properties.build());
        Ok(Self {
            columns,
            writer: SerializedFileWriter::new(out, Arc::new(schema), properties)?,
            group: Vec::new(),
        })
    }

    /// Takes a row.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub(super) fn write(&mut self, cells: Cells) -> Result<()> {
        self.group.push(cells);
        if self.group.len() >= GROUP {
            self.write_group()?;
        }
        Ok(())
    }

    fn write_group(&mut self) -> Result<()> {
        let mut writer = self.writer.next_row_group()?;
        for (place, (name, of)) in self.columns.iter().enumerate() {
            let column = writer.next_column()?;
            let mut column = column.with_context(|| format!("no column {name}"))?;
            let cells = self
                .group
                .iter()
                .map(|row| row.get(place).and_then(Option::as_ref));
            match of {
                Type::Text => write_texts(&mut column, cells)?,
                Type::Time | Type::Count => write_numbers(&mut column, cells)?,
            }
            column.close()?;
        }
        writer.close()?;
        self.group.clear();
        Ok(())
    }

    /// Writes what is left, and what says where everything is.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub(super) fn finish(mut self) -> Result<()> {
        if !self.group.is_empty() {
            self.write_group()?;
        }
        self.writer.close()?;
        Ok(())
    }
}

/// Which rows have a value.
fn levels<'c>(cells: impl Iterator<Item = Option<&'c Cell>>) -> Vec<i16> {
    cells.map(|cell| i16::from(cell.is_some())).collect()
}

fn write_texts<'c>(
    column: &mut SerializedColumnWriter<'_>,
    cells: impl Iterator<Item = Option<&'c Cell>> + Clone,
) -> Result<()> {
    let texts = cells.clone().flatten().map(|cell| match cell {
        Cell::Text(text) => ByteArray::from(text.as_str()),
        Cell::Time(at) => ByteArray::from(at.to_string().as_str()),
        Cell::Count(count) => ByteArray::from(count.to_string().as_str()),
    });
    let texts: Vec<ByteArray> = texts.collect();
    let writer = column.typed::<ByteArrayType>();
    writer.write_batch(&texts, Some(&levels(cells)), None)?;
    Ok(())
}

fn write_numbers<'c>(
    column: &mut SerializedColumnWriter<'_>,
    cells: impl Iterator<Item = Option<&'c Cell>> + Clone,
) -> Result<()> {
    let numbers = cells.clone().flatten().map(|cell| match cell {
        Cell::Time(at) => Ok(at.get()),
        Cell::Count(count) => i64::try_from(*count).context("a count beyond 2^63"),
        Cell::Text(text) => anyhow::bail!("{text:?} where a number should be"),
    });
    let numbers: Vec<i64> = numbers.collect::<Result<_>>()?;
    let writer = column.typed::<Int64Type>();
    writer.write_batch(&numbers, Some(&levels(cells)), None)?;
    Ok(())
}
