//! The bytes of one connection, plain or TLS, as ureq's `Transport`; and the `Connector` that makes or reuses one. Runs on
//! delivery threads.
//!
//! A request on a kept connection costs three system calls: a peek (does the peer still hold it?), one send for head and
//! body together, and one read; and its share of a wait for events.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::LocalKey;
use std::time::{Duration, Instant};

use rustls::ClientConnection;
use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, NextTimeout, Transport, time,
};

use crate::failure::Failure;
use crate::fiber::Wait;
use crate::kept::{Kept, Place};
use crate::socket::{Socket, Sockets};
use crate::tls::{self, Tls};

/// What a connection's input buffer starts with; most answers fit.
const INPUT: usize = 4 * 1024;
/// How far it may grow. ureq gives up at [`MAX_RESPONSE_HEAD`], which must come first.
const MAX_INPUT: usize = 2 * MAX_RESPONSE_HEAD;
/// The largest head of an answer.
pub(crate) const MAX_RESPONSE_HEAD: usize = 16 * 1024;
/// A connection's output buffer.
const OUTPUT: usize = 16 * 1024;
/// What must be free in it, beside the length of the URL: ureq wants to write each line of the head in one piece.
const OUTPUT_FREE: usize = 8 * 1024;
/// One address of several gets at most half of the time that is left, but not less than this.
const MIN_CONNECT: Duration = Duration::from_millis(50);

/// When the limit that ureq hands down ends.
pub(crate) fn deadline(timeout: &NextTimeout) -> Instant {
    const FOREVER: Duration = Duration::from_secs(24 * 3600);
    let left = match timeout.after {
        time::Duration::Exact(left) => left.min(FOREVER),
        time::Duration::NotHappening => FOREVER,
    };
    Instant::now() + left
}

/// An I/O error in ureq's terms: its time-outs have a variant of their own.
fn in_time(timeout: &NextTimeout) -> impl Fn(io::Error) -> Error {
    let reason = timeout.reason;
    move |error| match error.kind() {
        ErrorKind::TimedOut => Error::Timeout(reason),
        // Takes a failure of ours out again, if that is what is in it.
        _ => Error::from(error),
    }
}

/// Buffers of this thread that wait for the next request: to make and clear new ones for each costs more than all that is
/// written into them.
const SPARE: usize = 256;

thread_local! {
    static SPARE_OUTPUT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static SPARE_INPUT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

type Spare = LocalKey<RefCell<Vec<Vec<u8>>>>;

fn take_spare(spare: &'static Spare) -> Vec<u8> {
    spare
        .try_with(|it| it.borrow_mut().pop())
        .ok()
        .flatten()
        .unwrap_or_default()
}

/// Keeps a buffer unless it has grown.
fn put_spare(spare: &'static Spare, buffer: Vec<u8>, usual: usize) {
    if buffer.len() == usual {
        // While the thread ends, there is nothing to keep it in.
        let _ = spare.try_with(|it| {
            let mut spare = it.borrow_mut();
            if spare.len() < SPARE {
                spare.push(buffer);
            }
        });
    }
}

/// The buffers of one request. They go when it ends: a connection that waits holds none; and while the answer is awaited,
/// there is no output.
#[derive(Debug, Default)]
struct Buffer {
    /// `input[start..end]` is what ureq has not consumed.
    input: Vec<u8>,
    start: usize,
    end: usize,
    /// Whether ureq could use some of the input the last time it looked.
    progress: bool,
    /// `output[..pending]` is what waits to be sent together.
    output: Vec<u8>,
    pending: usize,
    /// What must be free for ureq.
    free: usize,
}

impl Buffer {
    /// Buffers for a request with a URL of this length.
    fn new(url: usize) -> Buffer {
        Buffer {
            free: OUTPUT_FREE + url,
            ..Buffer::default()
        }
    }

    fn is_well_filled(&self) -> bool {
        self.pending + OUTPUT_FREE > OUTPUT
    }

    fn make_room(&mut self) {
        if self.input.is_empty() {
            self.input = take_spare(&SPARE_INPUT);
        }
        if self.end < self.input.len() {
            return;
        }
        if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        } else if self.input.len() < MAX_INPUT {
            let size = (self.input.len() * 2).clamp(INPUT, MAX_INPUT);
            self.input.resize(size, 0);
        }
    }
}

/// One connection: a socket, and a TLS session if any.
pub(crate) struct Wire {
    socket: Socket,
    tls: Option<Box<ClientConnection>>,
    /// The peer has sent its last byte.
    ended: bool,
    /// The request was not sent whole: the peer stopped reading. Its answer may be there all the same (a 413, say).
    cut: Option<ErrorKind>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

impl Wire {
    /// Makes a TLS session. The last message of the handshake leaves together with the request.
    fn handshake(&mut self, mut tls: Box<ClientConnection>, deadline: Instant) -> io::Result<()> {
        while tls.is_handshaking() {
            send_tls(&mut tls, &self.socket, deadline)?;
            if tls.is_handshaking() && !receive_tls(&mut tls, &self.socket, deadline)? {
                return Err(Failure::Tls("connection closed in handshake").into_io());
            }
        }
        self.tls = Some(tls);
        Ok(())
    }

    /// Sends all of `bytes`. Without error also when the peer stops reading: [`Wire::receive`] tells, if there is no answer.
    fn send(&mut self, bytes: &[u8], deadline: Instant) -> io::Result<()> {
        if self.cut.is_some() {
            return Ok(());
        }
        let sent = match &mut self.tls {
            Some(tls) => send_through(tls, &self.socket, bytes, deadline),
            None => send_plain(&self.socket, bytes, deadline),
        };
        match sent {
            Err(error) if is_cut(&error) => {
                self.cut = Some(error.kind());
                Ok(())
            }
            sent => sent,
        }
    }

    /// Waits for input and reads what fits into `room`; 0 at its end.
    fn receive(&mut self, room: &mut [u8], deadline: Instant) -> io::Result<usize> {
        if self.ended || room.is_empty() {
            return Ok(0);
        }
        let received = match &mut self.tls {
            Some(tls) => receive_through(tls, &self.socket, room, deadline),
            None => receive_plain(&self.socket, room, deadline),
        };
        match (received, self.cut) {
            (Ok(count @ 1..), _) => Ok(count),
            // Nothing to read either: what broke was the sending.
            (Ok(_), Some(kind)) => Err(kind.into()),
            (Ok(_), None) => {
                self.ended = true;
                Ok(0)
            }
            (Err(error), _) => {
                self.ended = true;
                Err(error)
            }
        }
    }

    /// Whether the connection can carry another request, as far as is known without asking the socket.
    fn is_whole(&mut self) -> bool {
        let quiet = match &mut self.tls {
            Some(tls) => tls
                .process_new_packets()
                .is_ok_and(|state| state.plaintext_bytes_to_read() == 0),
            None => true,
        };
        quiet && !self.ended && self.cut.is_none()
    }

    /// Whether the peer still holds its end and has said nothing that was not asked for.
    pub(crate) fn is_usable(&mut self) -> bool {
        let Some(tls) = &mut self.tls else {
            return self.is_whole() && self.socket.is_quiet();
        };
        // A server may send session tickets at any time; they are no reason to give the connection up. After a good-bye,
        // rustls reads nothing more: `Ok(0)`.
        loop {
            match tls.read_tls(&mut &self.socket) {
                Ok(1..) if tls.process_new_packets().is_ok() => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                _ => return false,
            }
        }
        self.is_whole()
    }
}

fn is_cut(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted
    )
}

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn send_plain(mut socket: &Socket, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if would_block(&error) => {
                let ready = socket.wait(Wait::Either, deadline)?;
                if ready.input && !ready.output {
                    // An answer before the whole request was read: nobody may ever read the rest.
                    return Err(ErrorKind::BrokenPipe.into());
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn receive_plain(mut socket: &Socket, room: &mut [u8], deadline: Instant) -> io::Result<usize> {
    loop {
        socket.wait(Wait::Input, deadline)?;
        match socket.read(room) {
            Err(error) if would_block(&error) => {}
            received => return received,
        }
    }
}

fn send_through(
    tls: &mut ClientConnection,
    socket: &Socket,
    mut bytes: &[u8],
    deadline: Instant,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = tls.writer().write(bytes)?;
        bytes = &bytes[count..];
        if count == 0 {
            send_tls(tls, socket, deadline)?;
        }
    }
    send_tls(tls, socket, deadline)
}

fn send_tls(tls: &mut ClientConnection, mut socket: &Socket, deadline: Instant) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(&mut socket) {
            Err(error) if would_block(&error) => {
                socket.wait(Wait::Output, deadline)?;
            }
            written => {
                written?;
            }
        }
    }
    Ok(())
}

fn receive_through(
    tls: &mut ClientConnection,
    socket: &Socket,
    room: &mut [u8],
    deadline: Instant,
) -> io::Result<usize> {
    loop {
        match tls.reader().read(room) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            received => return received,
        }
        // The end of the input, too, is told by the next `read` above.
        receive_tls(tls, socket, deadline)?;
    }
}

/// Reads and digests some TLS records; `false` at the end of the input.
fn receive_tls(
    tls: &mut ClientConnection,
    mut socket: &Socket,
    deadline: Instant,
) -> io::Result<bool> {
    let count = loop {
        socket.wait(Wait::Input, deadline)?;
        match tls.read_tls(&mut socket) {
            Err(error) if would_block(&error) => {}
            received => break received?,
        }
    };
    if let Err(error) = tls.process_new_packets() {
        // Tell the peer why, if that goes at once; the error that counts is known already.
        let _ = tls.write_tls(&mut socket);
        return Err(tls::failure(&error).into_io());
    }
    // An answer to what came in, such as to a request for new keys.
    send_tls(tls, socket, deadline)?;
    Ok(count > 0)
}

impl Buffers for Buffer {
    fn output(&mut self) -> &mut [u8] {
        if self.output.is_empty() {
            self.output = take_spare(&SPARE_OUTPUT);
        }
        let size = OUTPUT.max(self.pending + self.free);
        if self.output.len() < size {
            self.output.resize(size, 0);
        }
        &mut self.output[self.pending..]
    }

    fn input(&self) -> &[u8] {
        &self.input[self.start..self.end]
    }

    fn input_append_buf(&mut self) -> &mut [u8] {
        self.make_room();
        &mut self.input[self.end..]
    }

    fn input_appended(&mut self, amount: usize) {
        self.end += amount;
    }

    fn input_consume(&mut self, amount: usize) {
        self.progress = amount > 0;
        self.start += amount;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        self.output();
        // The scratch buffer is for chunked bodies. Ours have a length, and go straight to the output.
        (&mut [], &mut self.output[self.pending..])
    }

    fn can_use_input(&self) -> bool {
        self.start < self.end && self.progress
    }
}

/// A connection at work. When ureq is done with it, it goes back to those that are kept, or is closed.
///
/// ureq's own pool is set to hold nothing. Of a connection that may carry another request, ureq asks `is_open` and then
/// drops it for want of room: asked last and answered yes is what makes it one to keep. Of one that must close (by its
/// headers, by an error, by a body that was not read to its end) it does not ask.
#[derive(Debug)]
pub(crate) struct Lease {
    /// There until the drop.
    wire: Option<Box<Wire>>,
    buffer: Buffer,
    place: Place,
    kept: Arc<Kept>,
    keep: bool,
}

impl Lease {
    /// Sends what is pending.
    fn send(&mut self, deadline: Instant) -> io::Result<()> {
        let pending = std::mem::take(&mut self.buffer.pending);
        let sent = match &mut self.wire {
            Some(wire) if pending > 0 => wire.send(&self.buffer.output[..pending], deadline),
            _ => Ok(()),
        };
        put_spare(
            &SPARE_OUTPUT,
            std::mem::take(&mut self.buffer.output),
            OUTPUT,
        );
        sent
    }
}

impl Transport for Lease {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffer
    }

    /// Collects; sends when the buffer is well filled. What is left goes when ureq waits for the answer, so that head and
    /// body are one packet.
    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.keep = false;
        self.buffer.pending += amount;
        if self.buffer.is_well_filled() {
            self.send(deadline(&timeout)).map_err(in_time(&timeout))?;
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.keep = false;
        let deadline = deadline(&timeout);
        self.send(deadline).map_err(in_time(&timeout))?;
        let room = self.buffer.input_append_buf();
        let count = match &mut self.wire {
            Some(wire) => wire.receive(room, deadline).map_err(in_time(&timeout))?,
            None => 0,
        };
        self.buffer.input_appended(count);
        Ok(count > 0)
    }

    /// What is known already: the socket itself is asked before the next request, by [`Kept::take`].
    fn is_open(&mut self) -> bool {
        let empty = self.buffer.input().is_empty() && self.buffer.pending == 0;
        self.keep = empty && self.wire.as_deref_mut().is_some_and(Wire::is_whole);
        self.keep
    }

    fn is_tls(&self) -> bool {
        self.place.tls
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        put_spare(&SPARE_INPUT, std::mem::take(&mut self.buffer.input), INPUT);
        put_spare(
            &SPARE_OUTPUT,
            std::mem::take(&mut self.buffer.output),
            OUTPUT,
        );
        if let (true, Some(wire)) = (self.keep, self.wire.take()) {
            self.kept.put(&self.place, wire);
        }
    }
}

/// Makes connections, or takes kept ones.
#[derive(Debug)]
pub(crate) struct Connect {
    pub(crate) kept: Arc<Kept>,
    pub(crate) sockets: Arc<Sockets>,
    pub(crate) tls: Tls,
}

impl Connector for Connect {
    type Out = Lease;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<Lease>, Error> {
        let authority = details
            .uri
            .authority()
            .ok_or_else(|| Failure::BadRequest("invalid url").into_ureq())?;
        let place = Place {
            tls: details.needs_tls(),
            authority: authority.clone(),
        };
        let wire = match self.kept.take(&place) {
            Some(wire) => wire,
            None => self.open(details, authority.host(), place.tls)?,
        };
        Ok(Some(Lease {
            wire: Some(wire),
            buffer: Buffer::new(
                details
                    .uri
                    .path_and_query()
                    .map_or(0, |path| path.as_str().len()),
            ),
            place,
            kept: Arc::clone(&self.kept),
            keep: false,
        }))
    }
}

impl Connect {
    fn open(
        &self,
        details: &ConnectionDetails<'_>,
        host: &str,
        tls: bool,
    ) -> Result<Box<Wire>, Error> {
        let deadline = deadline(&details.timeout);
        let socket = first_that_connects(&details.addrs, deadline, &self.sockets)
            .map_err(in_time(&details.timeout))?;
        let mut wire = Box::new(Wire {
            socket,
            tls: None,
            ended: false,
            cut: None,
        });
        if tls {
            let session = self.tls.connection(host).map_err(Failure::into_ureq)?;
            wire.handshake(Box::new(session), deadline)
                .map_err(in_time(&details.timeout))?;
        }
        Ok(wire)
    }
}

/// Tries the addresses in order. A dead one gets at most half of what is left, so that the next has its chance.
fn first_that_connects(
    addresses: &[SocketAddr],
    deadline: Instant,
    sockets: &Arc<Sockets>,
) -> io::Result<Socket> {
    let mut failed = io::Error::from(ErrorKind::AddrNotAvailable);
    for (position, address) in addresses.iter().enumerate() {
        let now = Instant::now();
        let is_last = position + 1 == addresses.len();
        let until = if is_last {
            deadline
        } else {
            let half = deadline.saturating_duration_since(now) / 2;
            deadline.min(now + half.max(MIN_CONNECT))
        };
        match Socket::connect(*address, until, sockets) {
            Ok(socket) => return Ok(socket),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}
