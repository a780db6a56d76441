//! An append-only record of what the stream acknowledged, for audits and kill tests.
//!
//! One line per message: stream sequence, subject, `Tw-Id`, separated by tabs. A line is written
//! only after the acknowledgement. Readers see whole lines, also after the process was killed.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use bus::publisher::Outgoing;
use schemas::position::StreamSeq;

/// The record.
pub struct AckLog {
    file: File,
    /// Lines that are not written yet; kept for its memory.
    lines: Vec<u8>,
}

impl AckLog {
    /// Opens the record, to go on at its end; a last line that was cut is taken away.
    ///
    /// # Errors
    ///
    /// The file cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = open_whole(path)
            .with_context(|| format!("--ack-log {} cannot be written", path.display()))?;
        Ok(Self {
            file,
            lines: Vec::new(),
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
        self.lines.clear();
        for (seq, message) in (before + 1..).zip(messages) {
            writeln!(self.lines, "{seq}\t{}\t{}", message.subject, message.id)?;
        }
        self.file.write_all(&self.lines)
    }
}

fn open_whole(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.create(true).append(true).read(true).open(path)?;
    let size = file.metadata()?.len();
    let whole = whole_lines(&file, size)?;
    if whole < size {
        file.set_len(whole)?;
    }
    Ok(file)
}

/// How many of the file's bytes are whole lines.
fn whole_lines(file: &File, size: u64) -> std::io::Result<u64> {
    let mut part = [0; 4_096];
    let mut end = size;
    while end > 0 {
        let start = end.saturating_sub(4_096);
        let length = usize::try_from(end - start).unwrap_or(part.len());
        let (part, _) = part.split_at_mut(length);
        file.read_exact_at(part, start)?;
        if let Some(after) = (start + 1..)
            .zip(&*part)
            .filter(|(_, byte)| **byte == b'\n')
            .last()
        {
            return Ok(after.0);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::fs::{read_to_string, write};

    use bus::publisher::Outgoing;
    use schemas::position::StreamSeq;

    use super::AckLog;

    fn messages(count: usize) -> Vec<Outgoing> {
        let message = |number: usize| Outgoing {
            queued: None,
            subject: "tick.trade.sim.A".into(),
            id: number.to_string(),
            schema: "trade/1",
            payload: "x".into(),
            collapsible: false,
        };
        (0..count).map(message).collect()
    }

    #[test]
    fn a_line_that_was_cut_is_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acked.tsv");
        let whole = "1\ttick.trade.sim.A\t0\n";
        let long = "x".repeat(10_000);
        for (found, kept) in [
            (String::new(), ""),
            (whole.to_owned(), whole),
            (format!("{whole}2\ttick.tr"), whole),
            (format!("{whole}{long}"), whole),
            ("2\ttick.tr".to_owned(), ""),
            (long.clone(), ""),
        ] {
            write(&path, &found).unwrap();
            let mut log = AckLog::open(&path).unwrap();
            log.write(&messages(1), StreamSeq::new(7)).unwrap();
            let expected = format!("{kept}7\ttick.trade.sim.A\t0\n");
            assert!(read_to_string(&path).unwrap() == expected, "{found:.30}");
        }
    }

    #[test]
    fn the_record_grows_by_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acked.tsv");
        let mut log = AckLog::open(&path).unwrap();
        log.write(&messages(1_000), StreamSeq::new(1_000)).unwrap();
        log.write(&messages(2), StreamSeq::new(1_002)).unwrap();
        let text = read_to_string(&path).unwrap();
        let seqs = text.lines().map(|line| line.split('\t').next().unwrap());
        assert!(seqs.eq((1..=1_002).map(|seq: u64| seq.to_string())));
        assert!(text.ends_with("1002\ttick.trade.sim.A\t1\n"));
    }
}
