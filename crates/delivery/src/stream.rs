//! The bytes of one connection, plain or TLS, as hyper reads and writes them.
//!
//! Two layers: [`Paced`] lies at the socket, below TLS, so that no peer can keep a thread busy, whatever it sends; [`Seen`]
//! lies above TLS and remembers how an answer begins.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take};
use tokio::net::TcpStream;
use tokio::task::coop;
use tokio_rustls::client::TlsStream;

use crate::sync::lock;

/// The largest head of an answer, in bytes.
pub(crate) const MAX_HEAD: usize = 16 * 1024;
/// The most bytes of one read. All heads of the class 1xx in them are read before anything else has its turn.
const READ: u64 = 4 * 1024;
/// How many reads a task may make before others have their turn.
const READS_A_TURN: usize = 2;
/// What a read takes of the 128 units that tokio gives a task.
const UNITS_A_READ: usize = 128 / READS_A_TURN;

/// A socket of which no task reads much at a time. tokio's own budget lets a task read 128 times, and hyper reads up to
/// 32 KiB: that many interim answers, or records of TLS, would keep a thread for many milliseconds.
#[derive(Debug)]
pub(crate) struct Paced(Take<TcpStream>);

impl Paced {
    pub(crate) fn new(socket: TcpStream) -> Paced {
        Paced(socket.take(READ))
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        self.0.set_limit(READ);
        // Takes one unit itself, where it has something to give.
        ready!(Pin::new(&mut self.0).poll_read(cx, into))?;
        if into.filled().len() > before {
            for _ in 1..UNITS_A_READ {
                let Poll::Ready(unit) = coop::poll_proceed(cx) else {
                    break; // The next read will wait.
                };
                unit.made_progress();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.0.get_mut()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.0.get_mut()).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.get_ref().is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.0.get_mut()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.0.get_mut()).poll_shutdown(cx)
    }
}

/// Plain, or through TLS.
#[derive(Debug)]
pub(crate) enum Transport {
    Plain(Paced),
    Tls(Box<TlsStream<Paced>>),
}

/// How an answer begins. Shared with the one who asks, since hyper owns the stream.
#[derive(Debug, Default)]
pub(crate) struct Beginning {
    bytes: Vec<u8>,
    /// Bytes of the answer so far, kept or not.
    count: usize,
}

impl Beginning {
    /// For the next answer.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }

    /// Whether the answer has begun.
    pub(crate) fn is_there(&self) -> bool {
        self.count > 0
    }

    /// Up to [`MAX_HEAD`] bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn push(&mut self, bytes: &[u8]) {
        self.count = self.count.saturating_add(bytes.len());
        let room = MAX_HEAD - self.bytes.len();
        self.bytes
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// Remembers how answers begin.
#[derive(Debug)]
pub(crate) struct Seen {
    transport: Transport,
    beginning: Arc<Mutex<Beginning>>,
}

impl Seen {
    pub(crate) fn new(transport: Transport) -> (Seen, Arc<Mutex<Beginning>>) {
        let beginning = Arc::default();
        let seen = Seen {
            transport,
            beginning: Arc::clone(&beginning),
        };
        (seen, beginning)
    }
}

impl AsyncRead for Seen {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(match &mut self.transport {
            Transport::Plain(it) => Pin::new(it).poll_read(cx, into),
            Transport::Tls(it) => Pin::new(it).poll_read(cx, into),
        })?;
        lock(&self.beginning).push(&into.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Seen {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(it) => Pin::new(it).poll_write(cx, bytes),
            Transport::Tls(it) => Pin::new(it).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(it) => Pin::new(it).poll_write_vectored(cx, pieces),
            Transport::Tls(it) => Pin::new(it).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(it) => it.is_write_vectored(),
            Transport::Tls(it) => it.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(it) => Pin::new(it).poll_flush(cx),
            Transport::Tls(it) => Pin::new(it).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(it) => Pin::new(it).poll_shutdown(cx),
            Transport::Tls(it) => Pin::new(it).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_remembered_of_an_answer_than_a_head_may_have() {
        let mut beginning = Beginning::default();
        assert!(!beginning.is_there());
        for _ in 0..5 {
            beginning.push(&[b'x'; 5_000]);
        }
        assert!(beginning.is_there());
        assert_eq!(beginning.bytes().len(), MAX_HEAD);
        beginning.clear();
        assert!(!beginning.is_there() && beginning.bytes().is_empty());
    }
}
