//! An append-only record of what the stream acknowledged, for audits and kill tests.
//!
//! One line per message: stream sequence, subject, `Tw-Id`, separated by tabs. A line is written
//! only after the acknowledgement.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use bus::publisher::Outgoing;
use schemas::position::StreamSeq;

/// The record.
pub struct AckLog {
    file: BufWriter<File>,
}

impl AckLog {
    /// Opens the record, to go on at its end.
    ///
    /// # Errors
    ///
    /// The file cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file =
            file.with_context(|| format!("--ack-log {} cannot be written", path.display()))?;
        Ok(Self {
            file: BufWriter::new(file),
        })
    }

    /// Records messages of which the last is stored at `last`, the others directly before it.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write(&mut self, messages: &[Outgoing], last: StreamSeq) -> std::io::Result<()> {
        let before = last
            .get()
            .saturating_sub(u64::try_from(messages.len()).unwrap_or(u64::MAX));
        for (seq, message) in (before + 1..).zip(messages) {
            writeln!(self.file, "{seq}\t{}\t{}", message.subject, message.id)?;
        }
        self.file.flush()
    }
}
