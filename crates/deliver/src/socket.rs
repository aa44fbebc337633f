//! One TCP socket on which a fiber waits, and the register of all of them. Runs on delivery threads; only
//! [`Sockets::shut_down`] is called from elsewhere.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, socket,
};

use crate::fiber::{Ready, Wait, Watch};
use crate::sync::lock;

/// Every socket that lives, so that a shutdown can end what hangs on them.
///
/// It holds weak references and upgrades them to shut down: while it does, the file descriptor stays open, so that its
/// number cannot meanwhile belong to another file.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    register: Mutex<Register>,
}

#[derive(Debug, Default)]
struct Register {
    closed: bool,
    next: u64,
    live: HashMap<u64, Weak<TcpStream>>,
}

impl Sockets {
    /// Shuts every socket down and refuses new ones.
    pub(crate) fn shut_down(&self) {
        let live = {
            let mut register = lock(&self.register);
            register.closed = true;
            std::mem::take(&mut register.live)
        };
        for stream in live.values().filter_map(Weak::upgrade) {
            // An error means that it is closed or was never connected: just as good.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn enter(&self, stream: &Arc<TcpStream>) -> io::Result<u64> {
        let mut register = lock(&self.register);
        if register.closed {
            return Err(ErrorKind::NotConnected.into());
        }
        let id = register.next;
        register.next += 1;
        register.live.insert(id, Arc::downgrade(stream));
        Ok(id)
    }

    fn is_closed(&self) -> bool {
        lock(&self.register).closed
    }
}

/// A connected, non-blocking TCP socket.
#[derive(Debug)]
pub(crate) struct Socket {
    /// Dropped before the socket is closed.
    watch: Watch,
    stream: Arc<TcpStream>,
    id: u64,
    sockets: Arc<Sockets>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        lock(&self.sockets.register).live.remove(&self.id);
    }
}

impl Socket {
    /// Connects before the deadline.
    ///
    /// The socket is registered before it connects, so that a shutdown also ends a connect that hangs.
    pub(crate) fn connect(
        address: SocketAddr,
        deadline: Instant,
        sockets: &Arc<Sockets>,
    ) -> io::Result<Socket> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(family, SockType::Stream, flags, SockProtocol::Tcp)?;
        let stream = Arc::new(TcpStream::from(fd));
        let id = sockets.enter(&stream)?;
        let sockets = Arc::clone(sockets);
        let socket = Socket {
            watch: Watch::new(stream.as_fd())?,
            stream,
            id,
            sockets,
        };
        socket.stream.set_nodelay(true)?;
        match connect(socket.stream.as_raw_fd(), &SockaddrStorage::from(address)) {
            Ok(()) => return Ok(socket),
            Err(Errno::EINPROGRESS | Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        socket.wait(Wait::Output, deadline)?;
        match socket.stream.take_error()? {
            Some(error) => Err(error),
            None if socket.sockets.is_closed() => Err(ErrorKind::NotConnected.into()),
            None => Ok(socket),
        }
    }

    /// Waits until something may be possible; `TimedOut` when the deadline comes first.
    pub(crate) fn wait(&self, wait: Wait, deadline: Instant) -> io::Result<Ready> {
        self.watch.wait(wait, deadline)
    }

    /// Notes what a try has shown.
    fn tried<T>(&self, what: Wait, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && error.kind() == ErrorKind::WouldBlock
        {
            self.watch.exhausted(what);
        }
        result
    }

    /// Whether nothing has come in and the peer has not closed. Takes no bytes.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut byte = [0];
        let peeked = self.tried(Wait::Input, self.stream.peek(&mut byte));
        matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }
}

impl Read for &Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.tried(Wait::Input, (&*self.stream).read(buffer))
    }
}

impl Write for &Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tried(Wait::Output, (&*self.stream).write(bytes))
    }

    fn write_vectored(&mut self, bytes: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.tried(Wait::Output, (&*self.stream).write_vectored(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
