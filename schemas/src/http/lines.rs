//! Lists of ticks as lines: NDJSON, and CSV with a column per key.

use std::io::Write as _;

use super::page::{ItemError, write_item};
use crate::codec::{entries, split, transcode};
use crate::id::Kind;
use crate::position::StreamSeq;
use crate::tick::{Head, Tick};

/// Appends a tick that is a MessagePack map as a line of JSON.
///
/// # Errors
///
/// [`ItemError`] if JSON cannot carry the payload; nothing is then appended.
pub fn write_line(lines: &mut Vec<u8>, s: StreamSeq, tick: &[u8]) -> Result<(), ItemError> {
    write_item(lines, s, tick)?;
    lines.push(b'\n');
    Ok(())
}

/// The columns of ticks of some kinds: `s`, the keys of every tick, the keys of each kind.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<&'static str>,
}

impl Table {
    /// A table for ticks of these kinds.
    pub fn new(kinds: &[Kind]) -> Self {
        let mut columns = vec!["s"];
        columns.extend(Head::KEYS);
        for key in kinds.iter().flat_map(|kind| Tick::keys(*kind)) {
            if !columns.contains(key) {
                columns.push(key);
            }
        }
        Self { columns }
    }

    /// Appends the line with the columns' names.
    pub fn write_header(&self, lines: &mut Vec<u8>) {
        write_header(self.columns.iter(), lines);
    }

    /// Appends a tick that is a MessagePack map as a line. What is no text or number is written as
    /// JSON; a field that has no column is left out.
    ///
    /// # Errors
    ///
    /// [`ItemError`] if the payload is damaged; nothing is then appended.
    pub fn write_row(
        &self,
        lines: &mut Vec<u8>,
        s: StreamSeq,
        tick: &[u8],
    ) -> Result<(), ItemError> {
        let length = lines.len();
        let written = self.try_write_row(lines, s, tick);
        if written.is_err() {
            lines.truncate(length);
        }
        written
    }

    fn try_write_row(
        &self,
        lines: &mut Vec<u8>,
        s: StreamSeq,
        tick: &[u8],
    ) -> Result<(), ItemError> {
        let (_, fields) = entries(tick)?;
        if fields.is_empty() {
            return Err(ItemError::NotTick);
        }
        // Writing into a Vec cannot fail.
        let _infallible = write!(lines, "{s}");
        for column in self.columns.iter().skip(1) {
            lines.push(b',');
            if let Some((_, value)) = fields.iter().find(|(key, _)| key == column) {
                write_value(lines, value)?;
            }
        }
        lines.extend_from_slice(b"\r\n");
        Ok(())
    }
}

fn write_value(lines: &mut Vec<u8>, value: &[u8]) -> Result<(), ItemError> {
    if let Ok((text, _)) = rmp::decode::read_str_from_slice(value) {
        write_cell(text, lines);
        return Ok(());
    }
    let (value, _) = split(value)?;
    if value != [0xC0] {
        let mut json = Vec::new();
        transcode(value, &mut json)?;
        write_cell(&String::from_utf8_lossy(&json), lines);
    }
    Ok(())
}

/// Appends the first line of a table (RFC 4180).
pub fn write_header(columns: impl Iterator<Item = impl AsRef<str>>, lines: &mut Vec<u8>) {
    for (index, column) in columns.enumerate() {
        if index > 0 {
            lines.push(b',');
        }
        write_cell(column.as_ref(), lines);
    }
    lines.extend_from_slice(b"\r\n");
}

/// Appends a cell of a table (RFC 4180).
pub fn write_cell(text: &str, lines: &mut Vec<u8>) {
    if !text.contains(['"', ',', '\r', '\n']) {
        lines.extend_from_slice(text.as_bytes());
        return;
    }
    lines.push(b'"');
    lines.extend_from_slice(text.replace('"', "\"\"").as_bytes());
    lines.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{from_json, to_msgpack};

    fn packed(json: &str) -> Vec<u8> {
        to_msgpack(&from_json(json.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn a_tick_is_a_row_of_its_kinds_columns() {
        let table = Table::new(&[Kind::Trade]);
        let mut lines = Vec::new();
        table.write_header(&mut lines);
        let trade = packed(
            r#"{"k":"trade","v":"x","y":"A,\"B\"","te":"5","tr":"7","fl":["late","backfill"],"i":"1","p":"1.50","z":"2","sd":"buy"}"#,
        );
        table
            .write_row(&mut lines, StreamSeq::new(9), &trade)
            .unwrap();
        let length = lines.len();
        for bad in [&[0x80][..], &[0xC1], &[], &trade[..trade.len() - 1]] {
            assert!(table.write_row(&mut lines, StreamSeq::new(1), bad).is_err());
            assert_eq!(lines.len(), length, "{bad:?}");
        }
        let text = String::from_utf8(lines).unwrap();
        let (header, row) = text.split_once("\r\n").unwrap();
        assert!(
            header.starts_with("s,k,v,y,te,tr,q,fl,i,p,z,sd"),
            "{header}"
        );
        assert!(
            row.starts_with(r#"9,trade,x,"A,""B""",5,7,,"[""late"",""backfill""]",1,1.50,2,buy"#),
            "{row}"
        );
        let cells = |line: &str| line.matches(',').count();
        assert_eq!(cells(header) + 2, cells(row), "two commas are quoted");
    }

    #[test]
    fn every_key_of_every_kind_has_a_column() {
        for (kind, schema) in crate::describe::ticks() {
            let kind: Kind = serde_json::from_value(kind.into()).unwrap();
            let table = Table::new(&[kind]);
            let known = schema["properties"].as_object().unwrap();
            let mut columns = table.columns;
            assert_eq!(columns.remove(0), "s");
            assert_eq!(columns.len(), known.len(), "{kind}");
            assert!(columns.iter().all(|key| known.contains_key(*key)), "{kind}");
        }
    }
}
