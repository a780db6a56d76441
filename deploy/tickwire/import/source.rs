//! The file that is imported: plain or gzip, or what comes through stdin, which is kept for as long as
//! it is read several times.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Seek as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

/// What is read at a time.
const CHUNK: usize = 1 << 18;
/// How gzip begins.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// What a file is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digest(pub(super) [u8; 32]);

/// A file that can be read from its beginning again and again.
#[derive(Debug)]
pub(super) struct Source {
    /// As the user calls it.
    pub(super) name: String,
    file: Place,
}

#[derive(Debug)]
enum Place {
    Named(File),
    /// What came through stdin.
    Kept(NamedTempFile),
}

impl Source {
    /// Opens a file; `-` is stdin, which is read to its end.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub(super) fn open(path: &Path) -> Result<Self> {
        if path.as_os_str() == "-" {
            let mut kept = NamedTempFile::new().context("stdin cannot be kept in a file")?;
            io::copy(&mut io::stdin().lock(), kept.as_file_mut())
                .context("stdin cannot be kept in a file")?;
            let name = "stdin".to_owned();
            let file = Place::Kept(kept);
            return Ok(Self { name, file });
        }
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("{name} cannot be opened"))?;
        let file = Place::Named(file);
        Ok(Self { name, file })
    }

    fn file(&self) -> &File {
        match &self.file {
            Place::Named(file) => file,
            Place::Kept(kept) => kept.as_file(),
        }
    }

    /// A reader of it all; only one at a time.
    fn rewound(&self) -> io::Result<File> {
        let mut file = self.file().try_clone()?;
        file.rewind()?;
        Ok(file)
    }

    /// The digest of its bytes, with how many there are.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub(super) fn digest(&self) -> Result<Digest> {
        let mut file = self.rewound().with_context(|| self.unreadable())?;
        let mut hash = Sha256::new();
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = file.read(&mut chunk).with_context(|| self.unreadable())?;
            if count == 0 {
                return Ok(Digest(hash.finalize().into()));
            }
            hash.update(chunk.get(..count).unwrap_or_default());
        }
    }

    /// Its lines from the beginning.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub(super) fn lines(&self) -> Result<Box<dyn BufRead + Send>> {
        let file = self.rewound().with_context(|| self.unreadable())?;
        let mut plain = BufReader::with_capacity(CHUNK, file);
        let start = plain.fill_buf().with_context(|| self.unreadable())?;
        if start.starts_with(&GZIP) {
            let decoder = MultiGzDecoder::new(plain);
            return Ok(Box::new(BufReader::with_capacity(CHUNK, decoder)));
        }
        Ok(Box::new(plain))
    }

    /// What to say when it cannot be read.
    pub(super) fn unreadable(&self) -> String {
        format!("{} cannot be read", self.name)
    }
}

impl Digest {
    /// The digest of this one together with other texts.
    pub(super) fn with(self, texts: &[&str]) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0);
        for text in texts {
            hash.update(text.len().to_be_bytes());
            hash.update(text);
        }
        Self(hash.finalize().into())
    }

    /// Half of it in lower-case hex.
    pub(super) fn short(&self) -> String {
        let half = self.0.first_chunk().copied().unwrap_or_default();
        format!("{:032x}", u128::from_be_bytes(half))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn gzip_is_told_by_its_beginning_and_read_to_the_end_of_all_its_parts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trades");
        let mut packed = Vec::new();
        for part in ["one\n", "two\n"] {
            let mut encoder =
                flate2::write::GzEncoder::new(&mut packed, flate2::Compression::fast());
            encoder.write_all(part.as_bytes()).unwrap();
            encoder.finish().unwrap();
        }
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let source = Source::open(&path).unwrap();
            let again = source.digest().unwrap();
            assert_eq!(again, source.digest().unwrap());
            let mut text = String::new();
            let outcome = source.lines().unwrap().read_to_string(&mut text);
            outcome.map(|_| text)
        };
        assert_eq!(read(&packed).unwrap(), "one\ntwo\n");
        assert_eq!(read(b"one\ntwo\n").unwrap(), "one\ntwo\n");
        assert_eq!(read(b"").unwrap(), "");
        assert!(read(&packed[..packed.len() - 9]).is_err(), "cut off");
    }

    #[test]
    fn digests_tell_texts_apart() {
        let digest = Digest([7; 32]);
        assert_ne!(digest.with(&["ab", "c"]), digest.with(&["a", "bc"]));
        assert_eq!(digest.with(&["ab"]), digest.with(&["ab"]));
        assert_eq!(digest.short(), "07".repeat(16));
    }
}
