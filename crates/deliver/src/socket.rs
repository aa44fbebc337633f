//! One TCP socket that never blocks but in `poll`, and the register of all of them. Runs on delivery threads; only
//! [`Sockets::shut_down`] is called from elsewhere.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, socket,
};

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

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Input,
    Output,
    Either,
}

/// What is possible now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) input: bool,
    pub(crate) output: bool,
}

/// A connected, non-blocking TCP socket.
#[derive(Debug)]
pub(crate) struct Socket {
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

    /// Waits until something is possible; `TimedOut` when the deadline comes first.
    pub(crate) fn wait(&self, wait: Wait, deadline: Instant) -> io::Result<Ready> {
        let events = match wait {
            Wait::Input => PollFlags::POLLIN,
            Wait::Output => PollFlags::POLLOUT,
            Wait::Either => PollFlags::POLLIN | PollFlags::POLLOUT,
        };
        let mut fds = [PollFd::new(self.stream.as_fd(), events)];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            // Rounded up: a wait must not end just before the deadline and spin.
            let ms = i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX);
            let timeout = PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX);
            match nix::poll::poll(&mut fds, timeout) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => {
                    let events = fds[0].revents().unwrap_or(PollFlags::all());
                    // An error or a hang-up shows itself in the next read or write.
                    let over = events
                        .intersects(PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL);
                    return Ok(Ready {
                        input: over || events.contains(PollFlags::POLLIN),
                        output: over || events.contains(PollFlags::POLLOUT),
                    });
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Whether nothing has come in and the peer has not closed. Takes no bytes.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut byte = [0];
        matches!(self.stream.peek(&mut byte), Err(error) if error.kind() == ErrorKind::WouldBlock)
    }
}

impl Read for &Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.stream).read(buffer)
    }
}

impl Write for &Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.stream).write(bytes)
    }

    fn write_vectored(&mut self, bytes: &[io::IoSlice<'_>]) -> io::Result<usize> {
        (&*self.stream).write_vectored(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
