//! One request, from the signature to the answer. Runs as a task on a delivery thread.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{HOST, HeaderName, HeaderValue, PROXY_AUTHORIZATION};
use http::{Method, Request, Uri};
use tokio::task::coop::unconstrained;
use tokio::time::{Sleep, sleep_until};
use url::Position;
use webhooks_core::endpoint::Endpoint;
use webhooks_core::{excerpt, request};

use crate::client::{Client, Destination, Route};
use crate::desk::Desk;
use crate::failure::Failure;
use crate::head;
use crate::job::{Answer, Job};
use crate::kept::{self, Place};
use crate::progress::Phase;
use crate::proxy;
use crate::wire::{Head, Sent, Wire};

/// Milliseconds since 1970.
pub(crate) fn unix_ms(now: SystemTime) -> i64 {
    let ms = match now.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_millis()),
        Err(before) => i64::try_from(before.duration().as_millis()).map(|ms| -ms),
    };
    ms.unwrap_or(i64::MAX)
}

/// What a request came to, and whether its body was shortened.
pub(crate) struct Attempted {
    pub(crate) result: Result<Answer, Failure>,
    pub(crate) truncated: bool,
}

/// Signs and sends the request, and reads its answer. It is signed with the time that is logged as its start, so that the
/// log can show it again as it was sent.
pub(crate) async fn attempt(
    desk: &Desk,
    client: &Client,
    job: &Job,
    started_ms: i64,
    begun: Instant,
) -> Attempted {
    job.progress.is(Phase::Connecting);
    let mut attempt = Attempt {
        desk,
        client,
        job,
        started_ms,
        truncated: false,
        waits_for_proxy: false,
    };
    let limit = pin!(sleep_until((begun + job.timeout).into()));
    let result = attempt.make(limit).await;
    Attempted {
        truncated: attempt.truncated,
        result,
    }
}

struct Attempt<'a> {
    desk: &'a Desk,
    client: &'a Client,
    job: &'a Job,
    started_ms: i64,
    truncated: bool,
    /// While the proxy is being connected to.
    waits_for_proxy: bool,
}

impl Attempt<'_> {
    async fn make(&mut self, mut limit: Pin<&mut Sleep>) -> Result<Answer, Failure> {
        let url = &self.job.endpoint.url;
        let to = destination(&self.job.endpoint).ok_or(Failure::BadRequest("invalid url"))?;
        let (client, owner) = (self.client, self.job.owner);
        let judged = client.judge_before_proxy(&to, owner, self.job.timeout);
        within(limit.as_mut(), judged)
            .await
            .unwrap_or_else(|| Err(client.gave_up(&to)))?;
        let route = within(limit.as_mut(), client.route(&to, owner))
            .await
            .unwrap_or_else(|| Err(client.gave_up_route(&to)))?;
        let place = Place {
            generation: self.client.generation,
            tls: to.tls,
            authority: url[Position::BeforeHost..Position::AfterPort].to_owned(),
        };
        let exchanged = within(limit.as_mut(), self.exchange(&to, &place, &route)).await;
        let (mut wire, mut head) = match exchanged {
            Some(exchanged) => exchanged?,
            None if self.waits_for_proxy => return Err(Failure::ProxyUnreachable),
            None => return Err(Failure::TimedOut),
        };
        if route.is_proxy
            && !to.tls
            && let Some(refusal) = proxy::refusal(head.status, &head.fields)
        {
            return Err(refusal);
        }
        self.job.progress.is(Phase::Reading);
        let mut answer = head::answer(head.status, &head.fields, to.host);
        let mut kept = Vec::new();
        let read = self.beginning(&mut wire, &mut head, &mut kept);
        let whole = within(limit, read).await == Some(true);
        answer.excerpt = excerpt::of(&kept, self.desk.limits.excerpt);
        if whole && !self.client.is_retired() {
            let announced = head.fields.get("keep-alive");
            let announced = announced.and_then(|it| kept::announced(it.to_str().ok()?));
            self.desk.keep(place, wire, announced);
        }
        Ok(answer)
    }

    /// Sends the request on a connection that was kept, or on a new one; on a new one also if the peer turns out to have
    /// closed the kept one and has not answered a byte (RFC 9112, section 9.3.1: whether it has seen the request is not
    /// known, and a receiver knows a delivery that comes twice by its id).
    async fn exchange(
        &mut self,
        to: &Destination<'_>,
        place: &Place,
        route: &Route,
    ) -> Result<(Wire, Head), Failure> {
        if let Some(mut wire) = self.desk.take(place, &route.addresses) {
            let request = self.request(to, route).await?;
            match wire.send(request).await {
                Ok(head) => return Ok((wire, head)),
                Err(broken) if !broken.unanswered => return Err(broken.failure),
                // The others will have been closed with it.
                Err(_) => self.desk.forget(place),
            }
        }
        self.job.progress.is(Phase::Connecting);
        let mut wire = Box::pin(self.open(to, route)).await?;
        self.desk.has_opened(to.tls);
        let request = self.request(to, route).await?;
        match wire.send(request).await {
            Ok(head) => Ok((wire, head)),
            Err(broken) => Err(broken.failure),
        }
    }

    async fn open(&mut self, to: &Destination<'_>, route: &Route) -> Result<Wire, Failure> {
        self.waits_for_proxy = route.is_proxy;
        let socket = self.client.connect(route).await?;
        self.waits_for_proxy = false;
        self.client.open(to, socket).await
    }

    /// The request, made anew each time: it is the same byte for byte, and needs no room while the answer is awaited.
    async fn request(
        &mut self,
        to: &Destination<'_>,
        route: &Route,
    ) -> Result<Request<Sent>, Failure> {
        let job = self.job;
        let built = request::build(
            &job.event,
            &job.target,
            job.delivery,
            job.attempt,
            self.started_ms,
        );
        self.truncated = built.truncated;
        let url = &job.endpoint.url;
        // Without a tunnel, the proxy is told the whole URL.
        let for_proxy = route.is_proxy && !to.tls;
        let begin = if for_proxy {
            Position::BeforeScheme
        } else {
            Position::BeforePath
        };
        let uri: Uri = url[begin..Position::AfterQuery]
            .parse()
            .map_err(|_| Failure::BadRequest("invalid url"))?;
        let body = Sent::new(Bytes::from(built.body), job.progress);
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let fields = request.headers_mut();
        fields.reserve(built.headers.len() + 3);
        let authority = &url[Position::BeforeHost..Position::AfterPort];
        let authority =
            HeaderValue::from_str(authority).map_err(|_| Failure::BadRequest("invalid url"))?;
        fields.insert(HOST, authority);
        if for_proxy && let Some(value) = self.client.proxy_authorization() {
            fields.insert(PROXY_AUTHORIZATION, value.clone());
        }
        for (name, value) in &built.headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            let value = HeaderValue::from_str(value);
            let (Ok(name), Ok(value)) = (name, value) else {
                return Err(Failure::BadRequest("invalid header"));
            };
            fields.append(name, value);
        }
        *request.extensions_mut() = self.desk.spelling(&built.headers).await;
        Ok(request)
    }

    /// Reads the body to its end, so that the connection can be kept, but not beyond the bound or an error: then it is
    /// closed. The answer is known already, so nothing of this is a failure. Whether the connection can be used again.
    async fn beginning(&self, wire: &mut Wire, head: &mut Head, kept: &mut Vec<u8>) -> bool {
        let limits = &self.desk.limits;
        // A success is complete without the end of a body whose end is not announced.
        let now = head.is_without_length() && (200..300).contains(&head.status);
        let has_one_end = head.has_one_end();
        let Some(body) = &mut head.body else {
            return false;
        };
        let mut left = limits.body_read;
        while let Some(piece) = wire.piece(body, now).await {
            let Ok(piece) = piece else { return false };
            let keep = piece.len().min(limits.excerpt - kept.len());
            kept.extend_from_slice(&piece[..keep]);
            match left.checked_sub(piece.len() as u64) {
                Some(less) => left = less,
                None => return false,
            }
        }
        !now && has_one_end && wire.is_reusable().await
    }
}

fn destination(endpoint: &Endpoint) -> Option<Destination<'_>> {
    let url = &endpoint.url;
    Some(Destination {
        endpoint,
        host: url.host_str()?,
        port: url.port_or_known_default()?,
        tls: url.scheme() == "https",
    })
}

/// What comes of it before the limit. The limit holds also for what never pauses: tokio makes it pause.
async fn within<T>(mut limit: Pin<&mut Sleep>, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        // The work may have used up what the task may do at a time.
        pin!(unconstrained(limit.as_mut())).poll(cx).map(|()| None)
    })
    .await
}
