//! Endpoints that send without end, and their neighbours on the same thread.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use webhooks_delivery::{Failure, Job, Limits, Network, Pool};

/// These measure time, so they run one after the other.
static ALONE: Mutex<()> = Mutex::new(());
/// How late a neighbour may be.
const BOUND: Duration = Duration::from_millis(50);
const FLOODS: u64 = 16;
const FIRST_FLOOD: u64 = 1_000_000;
const LIMIT: Duration = Duration::from_secs(3);
const HANDSHAKES: Duration = Duration::from_secs(1);

/// How long the delivery threads and this one have been ready to run, and the machine ran others: no fault of what is
/// measured. The floods of 16 servers keep it busy.
fn stalled() -> Duration {
    let mut nanoseconds = 0;
    let this = nix::unistd::gettid().as_raw();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.trim() != "webhooks-send" && !path.ends_with(this.to_string()) {
            continue;
        }
        let schedstat = std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        let waited = schedstat.split_whitespace().nth(1);
        nanoseconds += waited.map_or(0, |it| it.parse::<u64>().unwrap());
    }
    Duration::from_nanos(nanoseconds)
}

/// Neighbours of 16 such endpoints, all on one thread: none is late, and each flood ends at its limit.
fn neighbours_are_on_time(
    pool: &Pool,
    flood: &str,
    expected: impl Fn(&Result<u16, Failure>) -> bool,
) {
    let server = Server::answering(OK);
    let url = server.url();
    assert!(get(pool, &url).is_ok());
    let begun = Instant::now();
    for token in 0..FLOODS {
        pool.submit(Job {
            timeout: LIMIT,
            ..job(FIRST_FLOOD + token, flood)
        });
    }
    let mut outcomes = Vec::new();
    let mut latest = Duration::ZERO;
    for token in 0.. {
        if begun.elapsed() > LIMIT * 3 / 4 {
            break;
        }
        let (sent, before) = (Instant::now(), stalled());
        pool.submit(job(token, &url));
        while !outcomes
            .iter()
            .any(|it: &webhooks_delivery::Outcome| it.token == token)
        {
            assert!(sent.elapsed() < PATIENCE, "a neighbour is starved");
            readable(pool, Duration::from_millis(100));
            pool.drain(&mut outcomes);
        }
        // Handshakes are no flood, and take long where nothing is optimized.
        if sent.duration_since(begun) < HANDSHAKES {
            continue;
        }
        latest = latest.max(
            sent.elapsed()
                .saturating_sub(stalled().saturating_sub(before)),
        );
        thread::sleep(Duration::from_millis(5));
    }
    println!("the latest neighbour took {latest:?}");
    let mut floods: Vec<_> = outcomes
        .into_iter()
        .filter(|it| it.token >= FIRST_FLOOD)
        .collect();
    let left = FLOODS as usize - floods.len();
    floods.extend(collect(pool, left));
    for flood in &floods {
        let result = flood.result.clone().map(|answer| answer.status);
        assert!(expected(&result), "{result:?}");
        assert!(
            flood.duration < LIMIT + Duration::from_secs(1),
            "{:?}",
            flood.duration
        );
    }
    assert!(latest < BOUND, "{latest:?}");
}

fn one_thread(network: Network) -> Pool {
    let limits = Limits {
        threads: 1,
        ..limits(64)
    };
    let (lookup, _) = fake(|_| Some(vec![ip("127.0.0.1")]));
    Pool::start_with(limits, network, Arc::new(lookup)).unwrap()
}

/// Sends the same bytes without end.
fn pouring(bytes: &'static [u8]) -> Server {
    let much = bytes.repeat(64 * 1024 / bytes.len() + 1);
    Server::start(move |connection| {
        connection.request();
        while connection.answer(&much) {}
    })
}

#[test]
fn interim_answers_without_end() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let server = pouring(b"HTTP/1.1 102 Processing\r\n\r\n");
    neighbours_are_on_time(&one_thread(network()), &server.url(), |it| {
        *it == Err(Failure::TimedOut)
    });
}

#[test]
fn interim_answers_with_fields_without_end() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let server = pouring(b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\nx: y\r\n\r\n");
    neighbours_are_on_time(&one_thread(network()), &server.url(), |it| {
        *it == Err(Failure::TimedOut)
    });
}

#[test]
fn bodies_in_the_smallest_chunks() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let server = Server::start(move |connection| {
        connection.request();
        connection.answer(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        let much = b"1\r\nx\r\n".repeat(4_096);
        while connection.answer(&much) {}
    });
    neighbours_are_on_time(&one_thread(network()), &server.url(), |it| *it == Ok(200));
}

#[test]
fn chunk_extensions_without_end() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let server = Server::start(move |connection| {
        connection.request();
        connection.answer(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;");
        let much = b"extension=".repeat(4_096);
        while connection.answer(&much) {}
    });
    neighbours_are_on_time(&one_thread(network()), &server.url(), |it| *it == Ok(200));
}

/// A server with TLS 1.3 that floods below HTTP, as it is told to, once it has the request.
fn through_tls(
    tickets: usize,
    flood: impl Fn(&mut StreamOwned<ServerConnection, std::net::TcpStream>) + Send + Sync + 'static,
) -> (Server, Pool) {
    let made = rcgen::generate_simple_self_signed(vec!["hook.test".to_owned()]).unwrap();
    let certificate = CertificateDer::from(made.cert.der().to_vec());
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.send_tls13_tickets = tickets;
    let config = Arc::new(config);
    let server = Server::start(move |connection| {
        let mut session = ServerConnection::new(Arc::clone(&config)).unwrap();
        session.set_buffer_limit(None);
        let stream = connection.stream.get_ref().try_clone().unwrap();
        let mut tls = StreamOwned::new(session, stream);
        let mut seen = [0; 4_096];
        if matches!(tls.read(&mut seen), Ok(1..)) {
            flood(&mut tls);
        }
    });
    let file = temporary(&format!("flood-{tickets}.pem"), &made.cert.pem());
    let pool = one_thread(Network {
        ca_file: Some(file),
        ..network()
    });
    (server, pool)
}

#[test]
fn tls_session_tickets_without_end() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // As many as keep a client busy for longer than the test lasts.
    let (server, pool) = through_tls(20_000, |tls| {
        let mut rest = [0; 4_096];
        while matches!(tls.read(&mut rest), Ok(1..)) {}
    });
    let url = format!("https://hook.test:{}/", server.address.port());
    // The TLS library may lose its patience first.
    neighbours_are_on_time(&pool, &url, |it| {
        matches!(
            it,
            Err(Failure::TimedOut | Failure::Tls("peer broke the protocol"))
        )
    });
}

#[test]
fn interim_answers_without_end_through_tls() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (server, pool) = through_tls(1, |tls| {
        let much = b"HTTP/1.1 102 Processing\r\n\r\n".repeat(512);
        while tls.write_all(&much).is_ok() {}
    });
    let url = format!("https://hook.test:{}/", server.address.port());
    neighbours_are_on_time(&pool, &url, |it| *it == Err(Failure::TimedOut));
}
