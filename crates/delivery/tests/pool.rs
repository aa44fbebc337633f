//! The pool: threads, outcomes, reconfiguration, shutdown.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::*;
use webhooks_delivery::{Failure, Job, Limits, Network, Pool};

/// Tests that look at all threads of the process do not run beside others that do.
static ALONE: Mutex<()> = Mutex::new(());

/// A server that answers nobody until it is told to.
fn held() -> (Server, impl Fn()) {
    static GATE: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());
    *GATE.0.lock().unwrap() = false;
    let server = Server::start(|connection| {
        while connection.request().is_some() {
            let mut open = GATE.0.lock().unwrap();
            while !*open {
                open = GATE.1.wait(open).unwrap();
            }
            drop(open);
            connection.answer(OK);
        }
    });
    (server, || {
        *GATE.0.lock().unwrap() = true;
        GATE.1.notify_all();
    })
}

#[test]
fn ten_thousand_requests_come_back_exactly_once() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let server = Server::answering(OK);
    let pool = Pool::start(limits(32), network()).unwrap();
    for token in 0..10_000 {
        pool.submit(job(token, &server.url()));
    }
    let outcomes = collect(&pool, 10_000);
    let tokens: HashSet<u64> = outcomes.iter().map(|outcome| outcome.token).collect();
    assert_eq!(tokens.len(), 10_000);
    assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()));
    assert_eq!(server.requests(), 10_000);
    assert!(
        server.connections() <= 32,
        "{} connections",
        server.connections()
    );
    assert_eq!(pool.in_flight(), 0);
    assert!(pool.threads() <= 4);
    let mut more = Vec::new();
    pool.drain(&mut more);
    assert!(more.is_empty());
}

#[test]
fn no_more_are_under_way_at_once_than_the_limit_and_one_thread_carries_them() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (server, open) = held();
    let pool = Pool::start(limits(300), network()).unwrap();
    assert_eq!(pool.threads(), 0);
    for token in 0..305 {
        pool.submit(job(token, &server.url()));
    }
    eventually("300 are under way", || server.requests() == 300);
    assert_eq!((pool.in_flight(), pool.ahead()), (305, 0));
    assert_eq!(pool.threads(), 1, "all are of one webhook");
    open();
    collect(&pool, 305);
    assert_eq!(pool.in_flight(), 0);
}

#[test]
fn how_late_threads_are_is_measured_while_requests_are_under_way() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (server, open) = held();
    let pool = pool();
    assert_eq!(pool.lag(), Duration::ZERO);
    pool.submit(job(1, &server.url()));
    // A timer is never on time to the nanosecond.
    eventually("it is measured", || pool.lag() > Duration::ZERO);
    assert!(pool.lag() < PATIENCE);
    open();
    collect(&pool, 1);
}

#[test]
fn threads_end_when_there_is_nothing_to_do() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let server = Server::answering(OK);
    let idle = Duration::from_millis(50);
    let pool = Pool::start(Limits { idle, ..limits(8) }, network()).unwrap();
    for round in 0..3 {
        for token in 0..100 {
            pool.submit(job(token, &server.url()));
        }
        assert_eq!(collect(&pool, 100).len(), 100, "round {round}");
        eventually("all end", || pool.threads() == 0);
    }
}

#[test]
fn the_descriptor_is_readable_until_all_is_drained() {
    let server = Server::answering(OK);
    let pool = pool();
    assert!(!readable(&pool, Duration::ZERO));
    for token in 0..3 {
        pool.submit(job(token, &server.url()));
    }
    eventually("all came", || pool.in_flight() == 0);
    let mut outcomes = Vec::new();
    eventually("all are there", || {
        assert!(readable(&pool, PATIENCE), "as often as one looks");
        assert!(readable(&pool, PATIENCE));
        pool.drain(&mut outcomes);
        outcomes.len() == 3
    });
    assert!(!readable(&pool, Duration::ZERO));
    pool.drain(&mut outcomes);
    assert_eq!(outcomes.len(), 3);
}

#[test]
fn a_tighter_guard_drops_kept_connections() {
    let server = Server::answering(OK);
    let pool = pool();
    assert!(get(&pool, &server.url()).is_ok());
    assert_eq!(server.closed(), 0);
    pool.reconfigure(Network {
        guard: guard(""),
        ..network()
    })
    .unwrap();
    eventually("the connection is dropped", || server.closed() == 1);
    let refused = get(&pool, &server.url()).unwrap_err();
    assert!(matches!(refused, Failure::AddressRefused(Some(_))));
    pool.reconfigure(network()).unwrap();
    assert!(get(&pool, &server.url()).is_ok());
}

#[test]
fn kept_connections_are_dropped_at_once_though_a_request_hangs() {
    let silent = Server::start(Connection::until_closed);
    let server = Server::answering(OK);
    let pool = pool();
    assert!(get(&pool, &server.url()).is_ok());
    let timeout = Duration::from_secs(3600);
    pool.submit(Job {
        timeout,
        ..job(2, &silent.url())
    });
    eventually("it hangs", || silent.connections() == 1);
    pool.reconfigure(network()).unwrap();
    eventually("the connection is dropped", || server.closed() == 1);
    assert_eq!(silent.closed(), 0);
}

#[test]
fn what_is_under_way_survives_a_reconfiguration_and_its_connection_does_not() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (server, open) = held();
    let pool = pool();
    pool.submit(job(1, &server.url()));
    eventually("it is under way", || server.requests() == 1);
    pool.reconfigure(Network {
        guard: guard(""),
        ..network()
    })
    .unwrap();
    open();
    assert!(collect(&pool, 1)[0].result.is_ok());
    eventually("the connection is dropped", || server.closed() == 1);
}

#[test]
fn shutdown_returns_at_once_and_ends_what_hangs() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let server = Server::start(Connection::until_closed);
    let pool = Pool::start(limits(50), network()).unwrap();
    for token in 0..60 {
        // Far longer than the test waits.
        let timeout = Duration::from_secs(3600);
        pool.submit(Job {
            timeout,
            ..job(token, &server.url())
        });
    }
    eventually("50 hang", || server.connections() == 50);
    let begun = Instant::now();
    pool.shutdown();
    assert!(
        begun.elapsed() < Duration::from_millis(500),
        "{:?}",
        begun.elapsed()
    );
    eventually("the sockets are shut down", || server.closed() == 50);
    eventually("the threads end", || pool.threads() == 0);
    let mut outcomes = Vec::new();
    pool.drain(&mut outcomes);
    assert_eq!(
        outcomes.len(),
        0,
        "what waited is forgotten, and what was broken off is no failure of its endpoint"
    );
    // And nothing starts any more.
    pool.submit(job(99, &server.url()));
    assert_eq!((pool.threads(), pool.in_flight()), (0, 0));
    assert_eq!(server.connections(), 50);
}

#[test]
fn shutdown_closes_kept_connections() {
    let server = Server::answering(OK);
    let pool = pool();
    assert!(get(&pool, &server.url()).is_ok());
    drop(pool);
    eventually("the connection is dropped", || server.closed() == 1);
}

#[test]
fn no_signal_reaches_a_thread_of_the_pool() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (server, open) = held();
    let (lookup, _) = fake(|_| Some(vec![ip("127.0.0.1")]));
    let pool = pool_with(lookup);
    pool.submit(job(1, &server.url_at("a.test")));
    eventually("it is under way", || server.requests() == 1);
    let mut seen = HashSet::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        let Ok(status) = std::fs::read_to_string(path.join("status")) else {
            continue;
        };
        let field = |name: &str| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap();
            line.trim().to_owned()
        };
        let name = field("Name:");
        if name.starts_with("webhooks-") {
            let blocked = u64::from_str_radix(&field("SigBlk:"), 16).unwrap();
            // SIGKILL and SIGSTOP cannot be blocked; 32 and 33 are the C library's own.
            for signal in (1..=64_u32).filter(|signal| ![9, 19, 32, 33].contains(signal)) {
                assert_ne!(
                    blocked & 1 << (signal - 1),
                    0,
                    "signal {signal} reaches {name}"
                );
            }
            seen.insert(name);
        }
    }
    assert!(
        seen.contains("webhooks-send") && seen.contains("webhooks-names"),
        "{seen:?}"
    );
    open();
    collect(&pool, 1);
}

#[test]
fn hanging_requests_leave_the_others_alone() {
    let silent = Server::start(Connection::until_closed);
    let server = Server::answering(OK);
    let pool = Pool::start(limits(4), network()).unwrap();
    for token in 0..3 {
        let timeout = Duration::from_secs(2);
        pool.submit(Job {
            timeout,
            ..job(token, &silent.url())
        });
    }
    for token in 10..30 {
        pool.submit(job(token, &server.url()));
    }
    let outcomes = collect(&pool, 23);
    assert!(outcomes[..20].iter().all(|outcome| outcome.result.is_ok()));
    assert!(
        outcomes[20..]
            .iter()
            .all(|outcome| outcome.result == Err(Failure::TimedOut))
    );
}
