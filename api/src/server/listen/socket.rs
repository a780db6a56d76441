//! A socket that gives a client up that takes next to nothing of what waits for it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// What a client must take in the time that it is given, in bytes.
const LEAST: usize = 64 * 1024;

/// A socket whose writes fail where they wait for too long.
pub(super) struct Socket {
    stream: TcpStream,
    patience: Duration,
    /// How long the client may still leave bytes waiting.
    left: Duration,
    /// How much it took since it was given that time.
    moved: usize,
    /// Since when bytes wait, and until when they may.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Socket {
    /// Gives the client `patience` for every [`LEAST`] bytes that it leaves waiting.
    pub(super) fn new(stream: TcpStream, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            left: patience,
            moved: 0,
            waiting: None,
        }
    }

    /// Lets a write through, or gives up.
    fn watch(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Pending => {
                let left = self.left;
                let begin = || (Instant::now(), Box::pin(sleep(left)));
                let (_, timer) = self.waiting.get_or_insert_with(begin);
                ready!(timer.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Ready(Ok(bytes)) => {
                self.moved += bytes;
                if self.moved >= LEAST {
                    self.moved = 0;
                    self.left = self.patience;
                    self.waiting = None;
                }
                written
            }
            Poll::Ready(Err(_)) => written,
        }
    }

    /// Nothing waits any more: only the time in which something did counts.
    fn rest(&mut self) {
        if let Some((since, _)) = self.waiting.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.rest();
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
