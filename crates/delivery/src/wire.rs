//! One HTTP/1.1 connection. It has no task of its own: whoever sends a request does the connection's work while it waits, so
//! that a connection at rest costs nothing, and one that floods takes its own request's time.

use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, Bytes};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::task::coop;

use crate::failure::Failure;
use crate::progress::{Phase, Progress};
use crate::stream::{Beginning, MAX_HEAD, Seen, Transport};
use crate::sync::lock;
use crate::tls;
use crate::untidy::{Reading, Untidy};

/// What is read at a time of a head that hyper refuses.
const ROOM: usize = 1024;
/// A body goes out in pieces of this size, so that it is seen how far it has come.
const PIECE: usize = 64 * 1024;

/// The body of a request. It takes no memory any more when it has been sent: to wait for the answer is most of a request's
/// time.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    rest: Bytes,
    progress: Progress,
}

impl Sent {
    pub(crate) fn new(body: Bytes, progress: Progress) -> Sent {
        Sent {
            rest: body,
            progress,
        }
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(length);
        self.progress.is(if self.rest.is_empty() {
            Phase::Waiting
        } else {
            Phase::Sending
        });
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.remaining() as u64)
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) failure: Failure,
    /// The peer has closed or reset the connection, and not a byte of an answer has come.
    pub(crate) unanswered: bool,
}

/// The head of an answer, and what will bring its body.
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) fields: HeaderMap,
    /// `None`: it cannot be read.
    pub(crate) body: Option<Incoming>,
}

impl Head {
    /// Whether the body ends where the connection does.
    pub(crate) fn is_without_length(&self) -> bool {
        self.body
            .as_ref()
            .is_some_and(|body| !body.is_end_stream() && body.size_hint().exact().is_none())
            && !self.is_chunked()
    }

    /// Whether the last transfer coding is `chunked`.
    fn is_chunked(&self) -> bool {
        let last = self.fields.get_all(TRANSFER_ENCODING).iter().next_back();
        last.and_then(|codings| codings.to_str().ok()?.rsplit(',').next())
            .is_some_and(|coding| coding.trim().eq_ignore_ascii_case("chunked"))
    }

    /// Whether the head tells in one way only where the answer ends. If not, a proxy on the way may have seen another end,
    /// and what follows may be no answer to the next request (RFC 9112, section 11.2).
    pub(crate) fn has_one_end(&self) -> bool {
        let mut codings = self.fields.get_all(TRANSFER_ENCODING).iter();
        let lengths = self.fields.get_all(CONTENT_LENGTH);
        if matches!(self.status, 204 | 304) {
            return codings.next().is_none() && lengths.iter().all(|length| length == "0");
        }
        codings.next().is_none_or(|coding| {
            coding.as_bytes().eq_ignore_ascii_case(b"chunked")
                && codings.next().is_none()
                && lengths.iter().next().is_none()
        })
    }
}

type Work = Connection<TokioIo<Seen>, Sent>;

/// A connection.
pub(crate) struct Wire {
    sender: SendRequest<Sent>,
    /// `None` when it has ended.
    work: Option<Box<Work>>,
    beginning: Arc<Mutex<Beginning>>,
    pub(crate) born: Instant,
    pub(crate) peer: IpAddr,
}

impl Wire {
    /// Speaks HTTP on a stream to `peer`.
    pub(crate) async fn new(
        transport: Transport,
        peer: IpAddr,
        born: Instant,
    ) -> Result<Wire, Failure> {
        let (seen, beginning) = Seen::new(transport);
        let (sender, work) = Builder::new()
            .preserve_header_case(true)
            .allow_spaces_after_header_name_in_responses(true)
            .allow_obsolete_multiline_headers_in_responses(true)
            .ignore_invalid_headers_in_responses(true)
            .max_buf_size(2 * MAX_HEAD)
            .max_header_size(MAX_HEAD)
            .handshake(TokioIo::new(seen))
            .await
            .map_err(|_| Failure::Internal)?;
        Ok(Wire {
            sender,
            work: Some(Box::new(work)),
            beginning,
            born,
            peer,
        })
    }

    /// Sends a request and waits for the head of its answer, for as long as the caller lets it.
    pub(crate) async fn send(&mut self, request: Request<Sent>) -> Result<Head, Broken> {
        lock(&self.beginning).clear();
        let Wire { sender, work, .. } = self;
        // What the connection has read may have used up the task's budget: the answer that it holds is to be seen all the same.
        let mut answered = pin!(coop::unconstrained(sender.try_send_request(request)));
        let mut works = true;
        let result = poll_fn(|cx| {
            // A connection that ends here stays open: the rest of a head that hyper refuses may be still to come.
            works = works
                && work
                    .as_mut()
                    .is_some_and(|work| work.poll_without_shutdown(cx).is_pending());
            let answered = answered.as_mut().poll(cx);
            if answered.is_pending() && !works {
                return Poll::Ready(None);
            }
            answered.map(Some)
        })
        .await;
        match result {
            Some(Ok(answer)) => Ok(whole(answer)),
            // It never left.
            Some(Err(error)) if error.message().is_some() => Err(Broken {
                failure: Failure::ConnectionClosed,
                unanswered: true,
            }),
            Some(Err(error)) if error.error().is_parse() => {
                Box::pin(self.read_again(error.error())).await
            }
            Some(Err(error)) => Err(self.broken(failure(error.error()))),
            None => Err(self.broken(Failure::ConnectionClosed)),
        }
    }

    fn broken(&self, failure: Failure) -> Broken {
        let ended = matches!(
            failure,
            Failure::ConnectionClosed | Failure::ConnectionReset
        );
        Broken {
            failure,
            unanswered: ended && !lock(&self.beginning).is_there(),
        }
    }

    /// Reads a head that hyper has refused by the rule of [`crate::untidy`], with what is still to come of it.
    async fn read_again(&mut self, error: &hyper::Error) -> Result<Head, Broken> {
        let refused = failure(error);
        let Some(work) = self.work.take() else {
            return Err(self.broken(refused));
        };
        let mut stream = work.into_parts().io.into_inner();
        let mut untidy = Untidy::default();
        loop {
            let (reading, is_full) = {
                let beginning = lock(&self.beginning);
                let is_full = beginning.bytes().len() >= MAX_HEAD;
                (untidy.read(beginning.bytes()), is_full)
            };
            let failure = match reading {
                Reading::Head(status, fields) => {
                    return Ok(Head {
                        status,
                        fields,
                        body: None,
                    });
                }
                Reading::Broken => refused,
                Reading::Unfinished if is_full => TOO_LARGE,
                Reading::Unfinished => match more(&mut stream).await {
                    Ok(0) => Failure::ConnectionClosed,
                    Ok(_) => continue,
                    Err(error) => broken_off(&error),
                },
            };
            return Err(self.broken(failure));
        }
    }

    /// The next piece of the body; `None` at its end, and when it breaks off. With `now`, `None` also when none is there.
    pub(crate) async fn piece(
        &mut self,
        body: &mut Incoming,
        now: bool,
    ) -> Option<Result<Bytes, ()>> {
        poll_fn(|cx| {
            loop {
                // One byte may be a piece: each takes its part of what a task may do before others have their turn.
                ready!(coop::poll_proceed(cx)).made_progress();
                go_on(&mut self.work, cx);
                let frame = match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Pending if now => return Poll::Ready(None),
                    other => ready!(other),
                };
                return Poll::Ready(match frame {
                    None => None,
                    Some(Err(_)) => Some(Err(())),
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => Some(Ok(data)),
                        Err(_) => continue, // trailers
                    },
                });
            }
        })
        .await
    }

    /// Whether the connection can carry another request; after the answer to the last has been read to its end.
    pub(crate) async fn is_reusable(&mut self) -> bool {
        poll_fn(|cx| {
            let ready = go_on(&mut self.work, cx)
                && matches!(self.sender.poll_ready(cx), Poll::Ready(Ok(())));
            Poll::Ready(ready)
        })
        .await
    }
}

/// Does what there is to do; `false` when the connection has ended.
fn go_on(work: &mut Option<Box<Work>>, cx: &mut Context<'_>) -> bool {
    if let Some(going) = work
        && Pin::new(&mut **going).poll(cx).is_ready()
    {
        *work = None;
    }
    work.is_some()
}

/// Reads what has come, which the stream itself remembers. How much there was.
async fn more(stream: &mut Seen) -> io::Result<usize> {
    poll_fn(|cx| {
        let mut room = [0; ROOM];
        let mut room = ReadBuf::new(&mut room);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut room))?;
        Poll::Ready(Ok(room.filled().len()))
    })
    .await
}

fn whole(answer: Response<Incoming>) -> Head {
    let (parts, body) = answer.into_parts();
    Head {
        status: parts.status.as_u16(),
        fields: parts.headers,
        body: Some(body),
    }
}

const TOO_LARGE: Failure = Failure::BrokenResponse("headers too large");

fn broken_off(error: &io::Error) -> Failure {
    tls::failure_in(error).unwrap_or_else(|| Failure::from(error))
}

/// hyper's error in words for tenants. hyper's own say no more than these, but may quote the peer one day.
fn failure(error: &hyper::Error) -> Failure {
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return Failure::ConnectionClosed;
    }
    if is_too_large(error) {
        return TOO_LARGE;
    }
    if error.is_parse() {
        return Failure::BrokenResponse(unparsed(&error.to_string()));
    }
    let io = error.source().and_then(|it| it.downcast_ref::<io::Error>());
    match io {
        Some(error) => broken_off(error),
        // An answer that was not asked for, among others.
        None => Failure::BrokenResponse("not http"),
    }
}

/// More bytes, or more fields, than hyper has room for. It tells this to servers by a method and to clients by words alone.
fn is_too_large(error: &hyper::Error) -> bool {
    error.is_parse() && error.to_string().contains("head is too large")
}

/// Which kinds of errors of its parser hyper tells apart.
fn unparsed(words: &str) -> &'static str {
    const KNOWN: [(&str, &str); 2] = [
        ("content-length", "invalid length"),
        ("transfer-encoding", "conflicting lengths"),
    ];
    KNOWN
        .iter()
        .find(|(word, _)| words.contains(word))
        .map_or("not http", |(_, words)| words)
}
