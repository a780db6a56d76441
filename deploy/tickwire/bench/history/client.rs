//! A client of HTTP/1.1 that keeps its connection, and of an answer only what is measured.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use memchr::memmem;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_mins(10);
/// The most bytes of an answer that are kept.
const KEPT: usize = 64 << 20;
/// Bytes of an export between two looks at the server.
const LOOK: usize = 256 << 10;

/// A connection.
pub(super) struct Client {
    socket: BufReader<TcpStream>,
    host: SocketAddr,
}

/// What came, and when.
pub(super) struct Body {
    /// Until the first byte of the body.
    pub(super) first: Duration,
    /// Until the last.
    pub(super) took: Duration,
    /// How many bytes.
    pub(super) bytes: u64,
    /// How many lines.
    pub(super) lines: u64,
    /// The bytes, unless they were only counted.
    kept: Vec<u8>,
}

impl Body {
    /// How often `what` stands in what was kept.
    pub(super) fn count(&self, what: &[u8]) -> u64 {
        u64::try_from(memmem::find_iter(&self.kept, what).count()).unwrap_or(u64::MAX)
    }

    fn take(&mut self, chunk: &[u8], started: Instant, keep: bool) {
        if self.bytes == 0 && !chunk.is_empty() {
            self.first = started.elapsed();
        }
        self.bytes += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        let ended = memchr::memchr_iter(b'\n', chunk).count();
        self.lines += u64::try_from(ended).unwrap_or(u64::MAX);
        if keep && self.kept.len() < KEPT {
            self.kept.extend_from_slice(chunk);
        }
    }
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    ///
    /// Nobody listens.
    pub(super) async fn connect(host: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect(host).await?;
        socket.set_nodelay(true)?;
        let socket = BufReader::with_capacity(LOOK, socket);
        Ok(Self { socket, host })
    }

    /// Asks, and keeps the whole answer.
    ///
    /// # Errors
    ///
    /// It is not answered with 200, or not in time.
    pub(super) async fn get(&mut self, path: &str, accept: &str) -> Result<Body> {
        timeout(PATIENCE, self.ask(path, accept, true, || Ok(())))
            .await
            .context("the answer does not end")?
    }

    /// Asks, keeps nothing of the answer, and looks at something while it comes.
    ///
    /// # Errors
    ///
    /// It is not answered with 200, or not in time; whatever `look` says.
    pub(super) async fn read(
        &mut self,
        path: &str,
        accept: &str,
        look: impl FnMut() -> Result<()>,
    ) -> Result<Body> {
        timeout(PATIENCE, self.ask(path, accept, false, look))
            .await
            .context("the answer does not end")?
    }

    async fn ask(
        &mut self,
        path: &str,
        accept: &str,
        keep: bool,
        mut look: impl FnMut() -> Result<()>,
    ) -> Result<Body> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: {accept}\r\n\r\n",
            self.host
        );
        let started = Instant::now();
        self.socket.write_all(request.as_bytes()).await?;
        let length = self.head().await?;
        let mut body = Body {
            first: Duration::ZERO,
            took: Duration::ZERO,
            bytes: 0,
            kept: Vec::new(),
            lines: 0,
        };
        loop {
            let chunk = match length {
                Some(length) => length,
                None => self.chunk_length().await?,
            };
            self.part(chunk, |bytes| {
                body.take(bytes, started, keep);
                look()
            })
            .await?;
            if length.is_some() || chunk == 0 {
                break;
            }
            self.line().await?;
        }
        body.took = started.elapsed();
        Ok(body)
    }

    /// Reads the head; the length of the body, if it is told.
    async fn head(&mut self) -> Result<Option<usize>> {
        let status = self.line().await?;
        ensure!(status.starts_with("HTTP/1.1 200 "), "answered: {status}");
        let mut length = None;
        loop {
            let line = self.line().await?.to_ascii_lowercase();
            match line.split_once(':') {
                None => return Ok(length),
                Some(("content-length", text)) => length = Some(text.trim().parse()?),
                Some(_) => {}
            }
        }
    }

    async fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = (&mut self.socket).take(65_536).read_line(&mut line).await?;
        if read == 0 {
            bail!("the connection ended in the middle of an answer");
        }
        Ok(line.trim_end().to_owned())
    }

    async fn chunk_length(&mut self) -> Result<usize> {
        let line = self.line().await?;
        let length = usize::from_str_radix(&line, 16).context("the length of a chunk")?;
        if length == 0 {
            self.line().await?;
        }
        Ok(length)
    }

    /// Reads a chunk, or a body of known length.
    async fn part(
        &mut self,
        mut length: usize,
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        while length > 0 {
            let bytes = self.socket.fill_buf().await?;
            ensure!(!bytes.is_empty(), "the answer broke off");
            let part = bytes.len().min(length);
            take(bytes.get(..part).unwrap_or_default())?;
            self.socket.consume(part);
            length -= part;
        }
        Ok(())
    }
}
