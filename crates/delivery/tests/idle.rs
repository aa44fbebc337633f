//! Connections that wait for their next request, and servers that close them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::*;
use webhooks_delivery::Failure;

/// Closes so that the peer sees a reset.
fn reset(connection: &Connection) {
    nix::sys::socket::setsockopt(
        connection.stream.get_ref(),
        nix::sys::socket::sockopt::Linger,
        &nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        },
    )
    .unwrap();
}

#[test]
fn servers_that_close_after_an_answer_without_a_word_lose_nothing() {
    // At the worst time: while the next request is on its way.
    let server = Server::start(|connection| {
        let after = Duration::from_millis(connection.number as u64 % 26);
        if connection.request().is_some() {
            connection.answer(OK);
            thread::sleep(after);
        }
    });
    let pool = pool();
    for round in 0..500 {
        let answer = get(&pool, &server.url());
        assert_eq!(answer.map(|it| it.status), Ok(200), "request {round}");
        thread::sleep(Duration::from_millis(round * 7 % 26));
    }
    assert!(server.requests() >= 500);
}

#[test]
fn a_request_that_nobody_answered_on_a_kept_connection_is_made_again_at_once() {
    for by_reset in [false, true] {
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let copy = Arc::clone(&bodies);
        // The first connection answers once, and takes a second request without answering.
        let server = Server::start(move |connection| {
            for turn in 0.. {
                let Some((head, body)) = connection.request() else {
                    return;
                };
                copy.lock().unwrap().push((head, body));
                if connection.number == 0 && turn == 1 {
                    if by_reset {
                        reset(connection);
                    }
                    return;
                }
                connection.answer(OK);
            }
        });
        let pool = pool();
        assert_eq!(get(&pool, &server.url()).unwrap().status, 200);
        let outcome = send(&pool, job(1, &server.url()));
        assert_eq!(outcome.result.unwrap().status, 200);
        assert!(outcome.duration < Duration::from_secs(1), "at once");
        assert_eq!((server.connections(), server.requests()), (2, 3));
        let bodies = bodies.lock().unwrap();
        assert_eq!(bodies[1], bodies[2], "with the same bytes");
    }
}

#[test]
fn a_request_is_made_again_only_once() {
    let server = Server::start(|connection| {
        if connection.request().is_some() && connection.number == 0 {
            connection.answer(OK);
            connection.request();
        }
    });
    let pool = pool();
    assert_eq!(get(&pool, &server.url()).unwrap().status, 200);
    assert_eq!(
        get(&pool, &server.url()),
        Err(Failure::ConnectionClosed),
        "no answer on the new one either"
    );
    assert_eq!((server.connections(), server.requests()), (2, 3));
}

#[test]
fn a_request_on_a_new_connection_is_not_made_again() {
    let server = Server::start(|connection| {
        connection.request();
    });
    assert_eq!(get(&pool(), &server.url()), Err(Failure::ConnectionClosed));
    assert_eq!(server.requests(), 1);
}

#[test]
fn a_request_whose_answer_has_begun_is_not_made_again() {
    let server = Server::start(|connection| {
        if connection.request().is_some() {
            connection.answer(OK);
        }
        if connection.request().is_some() {
            connection.answer(b"H");
        }
    });
    let pool = pool();
    assert_eq!(get(&pool, &server.url()).unwrap().status, 200);
    assert_eq!(get(&pool, &server.url()), Err(Failure::ConnectionClosed));
    assert_eq!((server.connections(), server.requests()), (1, 2));
}

#[test]
fn a_large_request_that_is_cut_off_on_a_kept_connection_is_made_again() {
    let server = Server::start(|connection| {
        while connection.request().is_some() {
            connection.answer(OK);
            if connection.number == 0 {
                // Does not read the next one.
                thread::sleep(Duration::from_millis(50));
                return;
            }
        }
    });
    let pool = pool();
    assert_eq!(get(&pool, &server.url()).unwrap().status, 200);
    let mut large = job(1, &server.url());
    large.event = Arc::new(event(&"x".repeat(5_000_000)));
    assert_eq!(send(&pool, large).result.unwrap().status, 200);
    assert_eq!(server.requests(), 2);
}

#[test]
fn the_first_that_turns_out_to_be_closed_takes_the_others_along() {
    let restarting = Arc::new(AtomicBool::new(false));
    let (flag, busy) = (Arc::clone(&restarting), Arc::new(AtomicUsize::new(0)));
    let busy_there = Arc::clone(&busy);
    let server = Server::start(move |connection| {
        let old = connection.number < 4;
        while connection.request().is_some() {
            if old && flag.load(Ordering::SeqCst) {
                return;
            }
            busy_there.fetch_add(1, Ordering::SeqCst);
            while old && busy_there.load(Ordering::SeqCst) < 4 {
                thread::sleep(Duration::from_millis(1));
            }
            connection.answer(OK);
        }
    });
    let pool = pool();
    for token in 0..4 {
        pool.submit(job(token, &server.url()));
    }
    collect(&pool, 4);
    assert_eq!(server.connections(), 4);
    restarting.store(true, Ordering::SeqCst);
    assert_eq!(get(&pool, &server.url()).unwrap().status, 200);
    eventually("all four are closed", || server.closed() == 4);
    assert_eq!((server.connections(), server.requests()), (5, 6));
}

#[test]
fn what_a_server_announces_is_believed() {
    let announcing = |field: &'static str| {
        let server = Server::start(move |connection| {
            let answer = format!("HTTP/1.1 200 OK\r\n{field}\r\ncontent-length: 0\r\n\r\n");
            while connection.request().is_some() && connection.answer(answer.as_bytes()) {}
        });
        let pool = pool();
        for _ in 0..3 {
            assert_eq!(get(&pool, &server.url()).unwrap().status, 200);
        }
        server.connections()
    };
    assert_eq!(announcing("keep-alive: timeout=0"), 3);
    assert_eq!(announcing("Keep-Alive: timeout=1, max=100"), 3);
    assert_eq!(announcing("keep-alive: timeout=5"), 1);
    assert_eq!(announcing("x: y"), 1);
}

#[test]
fn a_connection_is_closed_when_it_has_waited_for_four_seconds() {
    let server = Server::answering(OK);
    let pool = pool();
    let begun = std::time::Instant::now();
    assert_eq!(get(&pool, &server.url()).unwrap().status, 200);
    eventually("it is closed", || server.closed() == 1);
    let waited = begun.elapsed();
    assert!(
        waited > Duration::from_millis(3_900) && waited < Duration::from_secs(8),
        "{waited:?}"
    );
}

#[test]
fn what_comes_after_an_answer_is_no_answer_to_the_next_request() {
    let server = Server::start(|connection| {
        while connection.request().is_some() {
            connection.answer(OK);
            thread::sleep(Duration::from_millis(20));
            // Unasked, while the connection waits.
            if !connection.answer(b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n") {
                return;
            }
        }
    });
    let pool = pool();
    for _ in 0..5 {
        assert_eq!(get(&pool, &server.url()).unwrap().status, 200);
        thread::sleep(Duration::from_millis(40));
    }
}

#[test]
fn a_moved_name_is_followed_though_connections_to_the_old_address_are_kept() {
    let old = Server::answering(OK);
    let new = Server::start_at(&format!("127.0.0.2:{}", old.address.port()), |connection| {
        while connection.request().is_some() && connection.answer(OK) {}
    });
    let moved = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&moved);
    let (lookup, _) = fake(move |_| {
        let address = if flag.load(Ordering::SeqCst) {
            "127.0.0.2"
        } else {
            "127.0.0.1"
        };
        Some(vec![ip(address)])
    });
    let pool = pool_with(lookup);
    let url = old.url_at("a.test");
    assert_eq!(get(&pool, &url).unwrap().status, 200);
    moved.store(true, Ordering::SeqCst);
    eventually("the new address is used", || {
        assert_eq!(get(&pool, &url).unwrap().status, 200);
        thread::sleep(Duration::from_millis(100));
        new.requests() > 0
    });
    eventually("the old connection is closed", || old.closed() == 1);
}

#[test]
fn a_server_that_ends_all_its_connections_costs_no_attempt() {
    // Not a byte is lost, however many are under way: each is made again on a connection of its own.
    let server = Server::start(|connection| {
        for _ in 0..3 {
            if connection.request().is_none() {
                return;
            }
            connection.answer(OK);
        }
        let _ = connection.stream.get_ref().shutdown(Shutdown::Both);
    });
    let pool = pool();
    for token in 0..600 {
        pool.submit(job(token, &server.url()));
    }
    let failed = collect(&pool, 600)
        .into_iter()
        .filter(|outcome| outcome.result.is_err())
        .count();
    assert_eq!(failed, 0);
}
