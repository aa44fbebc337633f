//! Servers made by hand, and a pool to try on them.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use std::os::fd::BorrowedFd;
use webhooks_core::address::Guard;
use webhooks_core::endpoint::{Endpoint, Rules};
use webhooks_core::request::{Event, Target};
use webhooks_core::secret::Secret;
use webhooks_delivery::{
    Answer, Failure, Job, Limits, Lookup, Network, NoAddress, Outcome, Pool, Progress, SystemLookup,
};

/// Long enough for any machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn guard(allowed: &str) -> Guard {
    Guard::parse(allowed).unwrap()
}

pub fn network() -> Network {
    Network {
        guard: guard("127.0.0.0/8"),
        allowed_ports: vec![],
        ca_file: None,
    }
}

pub fn limits(at_once: usize) -> Limits {
    Limits {
        at_once,
        ..Limits::default()
    }
}

pub fn pool() -> Pool {
    Pool::start(limits(4), network()).unwrap()
}

pub fn pool_with(lookup: impl Lookup) -> Pool {
    Pool::start_with(limits(16), network(), Arc::new(lookup)).unwrap()
}

pub fn job(token: u64, url: &str) -> Job {
    Job {
        token,
        event: Arc::new(event("x")),
        target: Arc::new(target()),
        endpoint: Arc::new(endpoint(url)),
        owner: 0,
        delivery: uuid::Uuid::from_u128(u128::from(token)),
        attempt: 1,
        timeout: Duration::from_secs(20),
        progress: Progress::default(),
    }
}

/// An event whose body holds this text.
pub fn event(text: &str) -> Event {
    Event {
        id: uuid::Uuid::from_u128(1),
        event_type: "memory.created".to_owned(),
        created_ms: 1_705_314_600_000,
        data: format!("{{\"object\":\"memory\",\"id\":\"1\",\"content\":\"{text}\"}}"),
    }
}

pub fn target() -> Target {
    Target {
        webhook: uuid::Uuid::from_u128(2),
        secrets: vec![Secret::parse("whsec_c2VjcmV0".to_owned()).unwrap().into()],
        header_prefix: "X-Lanonasis".to_owned(),
        user_agent: "Lanonasis-Webhooks/1.0".to_owned(),
        livemode: true,
        max_payload: 100_000_000,
    }
}

pub fn endpoint(url: &str) -> Endpoint {
    Endpoint::parse(url, &Rules::default()).unwrap()
}

/// Waits for `count` outcomes the way the worker does: asleep on the descriptor.
pub fn collect(pool: &Pool, count: usize) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let end = Instant::now() + PATIENCE;
    while outcomes.len() < count {
        assert!(
            Instant::now() < end,
            "only {} of {count} outcomes came",
            outcomes.len()
        );
        readable(pool, Duration::from_secs(1));
        pool.drain(&mut outcomes);
    }
    outcomes
}

/// Whether the pool's descriptor becomes readable in time.
pub fn readable(pool: &Pool, within: Duration) -> bool {
    // SAFETY: the descriptor belongs to `pool`, which is borrowed for longer than this.
    #[allow(unsafe_code)]
    let fd = unsafe { BorrowedFd::borrow_raw(pool.fd()) };
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    let ms = PollTimeout::try_from(within).unwrap();
    nix::poll::poll(&mut fds, ms).unwrap() == 1
}

pub fn send(pool: &Pool, job: Job) -> Outcome {
    pool.submit(job);
    collect(pool, 1).remove(0)
}

pub fn get(pool: &Pool, url: &str) -> Result<Answer, Failure> {
    send(pool, job(1, url)).result
}

/// The same with a limit of 500 ms.
pub fn get_soon(pool: &Pool, url: &str) -> (Result<Answer, Failure>, Duration) {
    let outcome = send(
        pool,
        Job {
            timeout: Duration::from_millis(500),
            ..job(1, url)
        },
    );
    (outcome.result, outcome.duration)
}

/// Waits for something to become true.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "never came true: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A server that runs `serve` for each connection, in a thread.
pub struct Server {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    pub requests: Arc<AtomicUsize>,
    pub closed: Arc<AtomicUsize>,
}

/// What a server sees of a connection.
pub struct Connection {
    pub stream: BufReader<TcpStream>,
    pub number: usize,
    requests: Arc<AtomicUsize>,
}

impl Connection {
    /// The next request, head and body; `None` when the client has closed.
    pub fn request(&mut self) -> Option<(String, Vec<u8>)> {
        let mut head = String::new();
        let mut length = 0;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
            head += &line;
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).ok()?;
        self.requests.fetch_add(1, Ordering::SeqCst);
        Some((head, body))
    }

    /// Whether it could be sent.
    pub fn answer(&mut self, bytes: &[u8]) -> bool {
        self.stream.get_mut().write_all(bytes).is_ok()
    }

    /// Waits until the client closes.
    pub fn until_closed(&mut self) {
        let _ = std::io::copy(&mut self.stream, &mut std::io::sink());
    }
}

impl Server {
    pub fn start(serve: impl Fn(&mut Connection) + Send + Sync + 'static) -> Server {
        Server::start_at("127.0.0.1:0", serve)
    }

    pub fn start_at(
        address: &str,
        serve: impl Fn(&mut Connection) + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind(address).unwrap();
        let server = Server {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            requests: Arc::default(),
            closed: Arc::default(),
        };
        let serve = Arc::new(serve);
        let (connections, requests, closed) = (
            server.connections.clone(),
            server.requests.clone(),
            server.closed.clone(),
        );
        thread::spawn(move || {
            for stream in listener.incoming() {
                let number = connections.fetch_add(1, Ordering::SeqCst);
                let (serve, requests, closed) = (serve.clone(), requests.clone(), closed.clone());
                thread::spawn(move || {
                    let stream = BufReader::new(stream.unwrap());
                    serve(&mut Connection {
                        stream,
                        number,
                        requests,
                    });
                    closed.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        server
    }

    /// Answers every request with the same bytes, for as long as the client likes.
    pub fn answering(bytes: &'static [u8]) -> Server {
        Server::start(
            move |connection| {
                while connection.request().is_some() && connection.answer(bytes) {}
            },
        )
    }

    /// Answers the first request with these bytes, and closes.
    pub fn answering_once(bytes: &'static [u8]) -> Server {
        Server::start(move |connection| {
            connection.request();
            connection.answer(bytes);
        })
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    pub fn url_at(&self, host: &str) -> String {
        format!("http://{host}:{}/hook", self.address.port())
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub fn closed(&self) -> usize {
        self.closed.load(Ordering::SeqCst)
    }
}

pub const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Look-ups as a test wants them, by a function; counts how often it was asked.
pub struct Fake<F> {
    pub asked: Arc<Mutex<Vec<String>>>,
    pub answer: F,
}

impl<F> Lookup for Fake<F>
where
    F: Fn(&str) -> Option<Vec<IpAddr>> + Send + Sync + 'static,
{
    fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, NoAddress> {
        self.asked.lock().unwrap().push(name.to_owned());
        (self.answer)(name).ok_or(NoAddress::Absent)
    }

    fn own(&self) -> std::io::Result<Vec<IpAddr>> {
        SystemLookup.own()
    }
}

pub fn fake<F>(answer: F) -> (Fake<F>, Arc<Mutex<Vec<String>>>)
where
    F: Fn(&str) -> Option<Vec<IpAddr>> + Send + Sync + 'static,
{
    let asked = Arc::default();
    (
        Fake {
            asked: Arc::clone(&asked),
            answer,
        },
        asked,
    )
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A file that goes with the test's process.
pub fn temporary(name: &str, content: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("webhooks-{}-{name}", std::process::id()));
    std::fs::write(&path, content).unwrap();
    path
}
