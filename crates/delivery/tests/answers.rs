//! What peers answer, and what becomes of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::Write;
use std::net::{Shutdown, TcpListener};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::*;
use webhooks_core::request::Target;
use webhooks_core::secret::{LiveSecret, Secret};
use webhooks_delivery::{Failure, Job};

#[test]
fn a_request_arrives_as_core_built_it() {
    let seen = Arc::new(Mutex::new(None));
    let copy = Arc::clone(&seen);
    let server = Server::start(move |connection| {
        *copy.lock().unwrap() = connection.request();
        connection.answer(OK);
    });
    let pool = pool();
    let job = job(7, &server.url());
    let built = |second: i64| {
        let at = second * 1_000;
        webhooks_core::request::build(&job.event, &job.target, job.delivery, job.attempt, at)
    };
    let before = unix_seconds();
    let outcome = send(&pool, job.clone());
    let (head, body) = seen.lock().unwrap().take().unwrap();
    // Which second it was signed in, we cannot know exactly.
    let expected = (before..=unix_seconds())
        .map(built)
        .find(|expected| {
            expected
                .headers
                .iter()
                .all(|(_, value)| head.contains(value.as_str()))
        })
        .expect("headers of a request built in this second");
    assert_eq!(body, expected.body.as_bytes());
    let mut lines = head.lines();
    assert_eq!(lines.next().unwrap(), "POST /hook HTTP/1.1");
    let mut fields: Vec<&str> = lines.collect();
    let own = [
        format!("Host: {}", server.address),
        format!("Content-Length: {}", body.len()),
    ];
    let core = expected
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}"));
    let mut wanted: Vec<String> = core.chain(own).collect();
    fields.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(fields, wanted, "nothing is added but what HTTP needs");

    assert_eq!(outcome.token, 7);
    assert!(outcome.started_unix_ms / 1000 >= before);
    assert!(outcome.ended_unix_ms >= outcome.started_unix_ms);
    let answer = outcome.result.unwrap();
    assert_eq!((answer.status, answer.excerpt.as_str()), (200, "ok"));
}

/// Receivers that look names up as they are spelled are out of spec, and there are many: PHP's `getallheaders()` among them.
#[test]
fn names_are_spelled_as_they_are_set_whatever_the_pool_sent_before() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let copy = Arc::clone(&seen);
    let server = Server::start(move |connection| {
        while let Some((head, _)) = connection.request() {
            copy.lock().unwrap().push(head);
            connection.answer(OK);
        }
    });
    let rotated = || vec![secret("new"), secret("old")];
    let targets = [
        ("X-Lanonasis", vec![secret("new")]),
        ("X-ACME", vec![secret("new")]),
        ("x-aCmE", rotated()),
        ("X-ACME", rotated()),
        ("accept", vec![]),
        ("X-ACME", vec![secret("new")]),
    ];
    // All on one kept connection of each pool, in turns.
    let pools = [pool(), pool()];
    for (round, (prefix, secrets)) in targets.into_iter().enumerate() {
        for pool in &pools {
            let mut job = job(1, &server.url());
            job.target = Arc::new(Target {
                header_prefix: prefix.to_owned(),
                secrets: secrets.clone(),
                ..target()
            });
            assert_eq!(send(pool, job.clone()).result.unwrap().status, 200);
            let built = webhooks_core::request::build(&job.event, &job.target, job.delivery, 1, 0);
            let mut wanted: Vec<&str> = built.headers.iter().map(|(name, _)| &**name).collect();
            wanted.extend(["Host", "Content-Length"]);
            let head = seen.lock().unwrap().pop().unwrap();
            let lines = head.lines().skip(1);
            let mut names: Vec<&str> = lines.filter_map(|it| Some(it.split_once(':')?.0)).collect();
            names.sort_unstable();
            wanted.sort_unstable();
            assert_eq!(names, wanted, "round {round}");
        }
    }
    assert_eq!(server.connections(), 2);
}

fn secret(text: &str) -> LiveSecret {
    Secret::parse(text.to_owned()).unwrap().into()
}

fn unix_seconds() -> i64 {
    let now = std::time::SystemTime::now();
    i64::try_from(now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

#[test]
fn a_large_body_arrives_whole() {
    let seen = Arc::new(Mutex::new(None));
    let copy = Arc::clone(&seen);
    let server = Server::start(move |connection| {
        *copy.lock().unwrap() = connection.request();
        connection.answer(OK);
    });
    let mut job = job(1, &server.url());
    job.event = Arc::new(event(&"x".repeat(900_000)));
    assert_eq!(send(&pool(), job).result.unwrap().status, 200);
    assert!(seen.lock().unwrap().take().unwrap().1.len() > 900_000);
}

#[test]
fn every_url_that_core_accepts_can_be_sent() {
    let server = Server::answering(OK);
    let pool = pool();
    let base = format!("http://{}", server.address);
    let long = format!("{base}/{}", "\u{20ac}".repeat(2000));
    let printable: String = ('!'..='~').filter(|char| !"#?".contains(*char)).collect();
    for url in [
        base.clone(),
        format!("{base}?a=b"),
        format!("{base}/{printable}?{printable}"),
        format!("{base}/\u{e9}\u{1f600}?q=\u{e9}&r=a+b%20c"),
        format!("{base}//a/../b/./c%2f%00"),
        format!("{base}/a|b^c`d{{e}}[f]\\g\"h<i>"),
        long,
    ] {
        assert_eq!(
            get(&pool, &url).map(|answer| answer.status),
            Ok(200),
            "{url}"
        );
    }
}

#[test]
fn one_connection_carries_many_requests() {
    let server = Server::answering(OK);
    let pool = pool();
    for _ in 0..50 {
        assert_eq!(get(&pool, &server.url()).unwrap().status, 200);
    }
    assert_eq!((server.connections(), server.requests()), (1, 50));
}

#[test]
fn a_chunked_answer_keeps_its_connection() {
    let server = Server::answering(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    );
    let pool = pool();
    for _ in 0..10 {
        assert_eq!(get(&pool, &server.url()).unwrap().excerpt, "abcde");
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn an_answer_without_body_keeps_its_connection() {
    let server = Server::answering(b"HTTP/1.1 204 No Content\r\n\r\n");
    let pool = pool();
    for _ in 0..10 {
        assert_eq!(get(&pool, &server.url()).unwrap().status, 204);
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_connection_that_the_peer_ends_is_not_used_again() {
    let server =
        Server::answering(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let pool = pool();
    for _ in 0..3 {
        assert_eq!(get(&pool, &server.url()).unwrap().status, 200);
    }
    assert_eq!(server.connections(), 3);
}

#[test]
fn a_kept_connection_that_the_peer_closed_costs_no_attempt() {
    // Says nothing of closing, and closes.
    let server = Server::answering_once(OK);
    let pool = pool();
    for round in 1..=20 {
        assert_eq!(get(&pool, &server.url()).unwrap().status, 200);
        eventually("the server closed", || server.closed() == round);
    }
    assert_eq!(server.requests(), 20, "nothing was sent twice");
}

#[test]
fn what_was_not_asked_for_ends_a_connection() {
    // A second answer to one request must never become the answer to the next request.
    let server = Server::answering(
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n",
    );
    let pool = pool();
    for _ in 0..5 {
        assert_eq!(get(&pool, &server.url()).unwrap().status, 200);
    }
    assert_eq!(server.connections(), 5);
}

#[test]
fn redirects_are_answers() {
    let elsewhere = Server::answering(OK);
    let location = elsewhere.url();
    for status in [301, 302, 303, 307, 308] {
        let location = location.clone();
        let server = Server::start(move |connection| {
            connection.request();
            connection.answer(
                format!(
                    "HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"
                )
                .as_bytes(),
            );
        });
        assert_eq!(get(&pool(), &server.url()).unwrap().status, status);
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn every_status_is_an_answer() {
    for status in [200, 299, 400, 404, 410, 429, 500, 503, 599, 999] {
        let server = Server::start(move |connection| {
            connection.request();
            connection
                .answer(format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n").as_bytes());
        });
        assert_eq!(get(&pool(), &server.url()).unwrap().status, status);
    }
}

#[test]
fn early_hints_are_not_the_answer() {
    let server = Server::answering_once(
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    );
    assert_eq!(get(&pool(), &server.url()).unwrap().excerpt, "ok");
}

#[test]
fn retry_after_is_handed_on_if_it_is_plain() {
    let cases: [(&[u8], Option<&str>); 4] = [
        (b"120", Some("120")),
        (
            b"Fri, 31 Dec 1999 23:59:59 GMT",
            Some("Fri, 31 Dec 1999 23:59:59 GMT"),
        ),
        (b"\xff\xfe", None),
        (&[b'9'; 500], None),
    ];
    for (value, expected) in cases {
        let server = Server::start(move |connection| {
            connection.request();
            let mut answer = b"HTTP/1.1 503 X\r\ncontent-length: 0\r\nretry-after: ".to_vec();
            answer.extend_from_slice(value);
            answer.extend_from_slice(b"\r\n\r\n");
            connection.answer(&answer);
        });
        let answer = get(&pool(), &server.url()).unwrap();
        assert_eq!(answer.retry_after.as_deref(), expected);
    }
}

#[test]
fn an_endless_body_is_an_answer_soon() {
    for head in [
        "content-length: 10000000000\r\n",
        "connection: close\r\n",
        "transfer-encoding: chunked\r\n",
    ] {
        let server = Server::start(move |connection| {
            connection.request();
            connection.answer(format!("HTTP/1.1 200 OK\r\n{head}\r\n").as_bytes());
            let mut chunk = b"4000\r\n".to_vec();
            chunk.resize(0x4000 + 6, b'x');
            chunk.extend_from_slice(b"\r\n");
            while connection.answer(&chunk) {}
        });
        let pool = pool();
        let begun = Instant::now();
        let answer = get(&pool, &server.url()).unwrap();
        assert_eq!(answer.status, 200);
        if head.starts_with("connection") {
            // No end was announced, so no more is waited for than has come.
            assert!(answer.excerpt.len() <= 1024);
        } else {
            assert_eq!(answer.excerpt.len(), 1024);
        }
        assert!(begun.elapsed() < Duration::from_secs(10));
        eventually("the connection is dropped", || server.closed() == 1);
    }
}

#[test]
fn a_body_within_the_bound_is_read_to_its_end() {
    static ANSWER: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
        let mut answer = b"HTTP/1.1 200 OK\r\ncontent-length: 65536\r\n\r\n".to_vec();
        answer.resize(answer.len() + 65536, b'x');
        answer
    });
    let server = Server::answering(&ANSWER);
    let pool = pool();
    for _ in 0..3 {
        assert_eq!(get(&pool, &server.url()).unwrap().excerpt.len(), 1024);
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_body_that_comes_too_slowly_is_still_an_answer() {
    let server = Server::start(|connection| {
        connection.request();
        connection.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegin");
        connection.until_closed();
    });
    let (result, duration) = get_soon(&pool(), &server.url());
    let answer = result.unwrap();
    assert_eq!((answer.status, answer.excerpt.as_str()), (200, "begin"));
    assert!(duration >= Duration::from_millis(490) && duration < Duration::from_secs(3));
}

#[test]
fn a_broken_body_is_still_an_answer() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort"[..],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort\r\nzz",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5\r\n\r\nshort",
    ] {
        let server = Server::answering_once(answer);
        let answer = get(&pool(), &server.url()).unwrap();
        assert_eq!((answer.status, answer.excerpt.as_str()), (200, "short"));
    }
}

#[test]
fn foreign_bytes_become_text() {
    let server =
        Server::answering_once(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\na\xff\0\xe2\x82b");
    assert_eq!(
        get(&pool(), &server.url()).unwrap().excerpt,
        "a\u{fffd}\u{fffd}b"
    );
}

#[test]
fn a_dripping_head_ends_at_the_limit() {
    let server = Server::start(|connection| {
        connection.request();
        connection.answer(b"HTTP/1.1 200 OK\r\nx: ");
        while connection.answer(b"y") {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let (result, duration) = get_soon(&pool(), &server.url());
    let failure = result.unwrap_err();
    assert!(failure.is_timeout());
    assert_eq!(failure.to_string(), "timed out");
    assert!(duration >= Duration::from_millis(490) && duration < Duration::from_secs(3));
}

#[test]
fn silence_ends_at_the_limit() {
    let server = Server::start(Connection::until_closed);
    let (result, duration) = get_soon(&pool(), &server.url());
    assert_eq!(result, Err(Failure::TimedOut));
    assert!(duration >= Duration::from_millis(490) && duration < Duration::from_secs(3));
    eventually("the connection is dropped", || server.closed() == 1);
}

#[test]
fn a_peer_that_never_reads_ends_at_the_limit() {
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let ended = Mutex::new(ended);
    let server = Server::start(move |_| {
        let _ = ended.lock().unwrap().recv();
    });
    let mut job = job(1, &server.url());
    job.event = Arc::new(event(&"x".repeat(20_000_000)));
    job.timeout = Duration::from_secs(1);
    let outcome = send(&pool(), job);
    assert_eq!(outcome.result, Err(Failure::TimedOut));
    drop(end);
}

#[test]
fn an_answer_before_the_whole_body_counts() {
    // Answers from the head alone, and closes without reading: what a proxy does with a body that is too large.
    let server = Server::start(|connection| {
        use std::io::BufRead;
        let mut line = String::new();
        connection.stream.read_line(&mut line).unwrap();
        connection
            .answer(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let _ = connection.stream.get_mut().shutdown(Shutdown::Write);
        std::thread::park_timeout(PATIENCE);
    });
    let mut job = job(1, &server.url());
    job.event = Arc::new(event(&"x".repeat(20_000_000)));
    assert_eq!(send(&pool(), job).result.unwrap().status, 413);
}

#[test]
fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let failure = get(&pool(), &format!("http://{address}/")).unwrap_err();
    assert_eq!(failure.to_string(), "connection refused");
}

#[test]
fn a_reset_is_a_reset() {
    let server = Server::start(|connection| {
        connection.request();
        // Unread input, or this option, turns a close into a reset.
        let stream = connection.stream.get_ref();
        nix::sys::socket::setsockopt(
            stream,
            nix::sys::socket::sockopt::Linger,
            &nix::libc::linger {
                l_onoff: 1,
                l_linger: 0,
            },
        )
        .unwrap();
    });
    let failure = get(&pool(), &server.url()).unwrap_err();
    assert_eq!(failure.to_string(), "connection reset");
}

#[test]
fn a_close_without_answer_is_told_as_that() {
    let server = Server::start(|connection| {
        connection.request();
    });
    let failure = get(&pool(), &server.url()).unwrap_err();
    assert_eq!(failure.to_string(), "connection closed");
    assert_eq!(server.requests(), 1, "nothing was sent twice");
}

#[test]
fn what_is_not_http_is_a_broken_response() {
    for answer in [
        &b"SSH-2.0-OpenSSH_9.2\r\n\r\n"[..],
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
    ] {
        let server = Server::answering_once(answer);
        let failure = get(&pool(), &server.url()).unwrap_err().to_string();
        assert!(failure.starts_with("broken response: "), "{failure}");
    }
}

#[test]
fn endless_heads_are_cut_off() {
    for line in [
        "x: y\r\n",
        "x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy",
        "\r\n",
    ] {
        let server = Server::start(move |connection| {
            connection.request();
            connection.answer(b"HTTP/1.1 200 OK\r\nz: ");
            let lines = line.repeat(500);
            while connection.answer(lines.as_bytes()) {}
        });
        let pool = pool();
        let result = get(&pool, &server.url());
        if line == "\r\n" {
            // That was the end of the head after all.
            assert_eq!(result.unwrap().status, 200);
            continue;
        }
        let failure = result.unwrap_err().to_string();
        assert!(failure.starts_with("broken response: "), "{failure}");
    }
}

#[test]
fn interim_answers_without_end_stop_at_the_limit() {
    let server = Server::start(move |connection| {
        connection.request();
        while connection.answer(b"HTTP/1.1 102 Processing\r\n\r\n") {}
    });
    assert_eq!(get_soon(&pool(), &server.url()).0, Err(Failure::TimedOut));
}

#[test]
fn a_dead_address_leaves_time_for_the_next() {
    // A listener whose backlog is full does not answer: the nearest thing to a dead address on this machine.
    let full = TcpListener::bind("127.0.0.2:0").unwrap();
    let port = full.local_addr().unwrap().port();
    nix::sys::socket::listen(&full, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let mut clients = Vec::new();
    for _ in 0..4 {
        let address = full.local_addr().unwrap();
        clients.extend(std::net::TcpStream::connect_timeout(
            &address,
            Duration::from_millis(200),
        ));
    }
    let server = Server::start_at(&format!("127.0.0.1:{port}"), |connection| {
        connection.request();
        connection.answer(OK);
    });
    let (lookup, _) = fake(|_| Some(vec![ip("127.0.0.2"), ip("127.0.0.1")]));
    let pool = pool_with(lookup);
    let job = Job {
        timeout: Duration::from_secs(4),
        ..job(1, &server.url_at("a.test"))
    };
    assert_eq!(send(&pool, job).result.unwrap().status, 200);
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    let _ = clients.iter().map(|mut client| client.write(b"")).count();
}
