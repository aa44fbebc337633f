//! Names, addresses, and the guard.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use common::*;
use webhooks_deliver::{Failure, Job, Lookup, Network, Pool, SystemLookup};

/// A look-up that returns only when the test says so.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn wait(&self) {
        let mut open = self.0.0.lock().unwrap();
        while !*open {
            open = self.0.1.wait(open).unwrap();
        }
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // No thread may be left inside when a test fails.
        self.open();
    }
}

/// A gate that the look-up holds without opening it when it is dropped.
fn behind(gate: &Gate) -> impl Fn() + Send + Sync + use<> {
    let inner = std::mem::ManuallyDrop::new(gate.clone());
    move || inner.wait()
}

#[test]
fn this_machine_is_refused_unless_it_is_allowed() {
    let server = Server::answering(OK);
    let pool = Pool::start(
        limits(1),
        Network {
            guard: guard(""),
            ..network()
        },
    )
    .unwrap();
    for host in ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]"] {
        let failure = get(&pool, &server.url_at(host)).unwrap_err();
        assert_eq!(failure.to_string(), "address refused", "{host}");
    }
    assert_eq!(server.connections(), 0);
}

fn refused(address: &str) -> Failure {
    Failure::AddressRefused(Some(ip(address)))
}

#[test]
fn this_hosts_own_addresses_are_refused() {
    struct Here;
    impl Lookup for Here {
        fn lookup(&self, _: &str) -> std::io::Result<Vec<IpAddr>> {
            Ok(vec![ip("8.8.8.8")])
        }
        fn own(&self) -> std::io::Result<Vec<IpAddr>> {
            Ok(vec![ip("127.0.0.1"), ip("8.8.8.8")])
        }
    }
    let pool = pool_with(Here);
    for url in ["http://here.test/", "http://8.8.8.8/"] {
        assert_eq!(get(&pool, url), Err(refused("8.8.8.8")));
    }
    let own = SystemLookup.own().unwrap();
    assert!(own.contains(&ip("127.0.0.1")), "{own:?}");
}

#[test]
fn while_nobody_knows_this_hosts_addresses_nothing_passes() {
    struct Lost(AtomicUsize);
    impl Lookup for Lost {
        fn lookup(&self, _: &str) -> std::io::Result<Vec<IpAddr>> {
            Ok(vec![ip("127.0.0.1")])
        }
        fn own(&self) -> std::io::Result<Vec<IpAddr>> {
            match self.0.fetch_add(1, Ordering::SeqCst) {
                0 => Err(std::io::Error::other("no descriptor is left")),
                _ => Ok(vec![]),
            }
        }
    }
    let server = Server::answering(OK);
    let pool = pool_with(Lost(AtomicUsize::new(0)));
    let url = server.url_at("lost.test");
    assert_eq!(get(&pool, &url), Err(Failure::AddressRefused(None)));
    assert_eq!(server.connections(), 0);
    assert!(get(&pool, &url).is_ok(), "and it is asked again");
}

#[test]
fn the_system_resolves_names() {
    let server = Server::answering(OK);
    let pool = Pool::start(limits(1), network()).unwrap();
    let failure = get(&pool, &server.url_at("no-such-host.invalid")).unwrap_err();
    assert_eq!(failure.to_string(), "name not found");
}

#[test]
fn one_refused_address_refuses_the_name() {
    let server = Server::answering(OK);
    for addresses in [["127.0.0.1", "10.0.0.1"], ["10.0.0.1", "127.0.0.1"]] {
        let (lookup, _) = fake(move |_| Some(addresses.map(ip).to_vec()));
        let failure = get(&pool_with(lookup), &server.url_at("mixed.test")).unwrap_err();
        assert_eq!(failure, refused("10.0.0.1"));
    }
    assert_eq!(server.connections(), 0);
}

#[test]
fn a_refused_address_behind_many_allowed_ones_is_seen() {
    let server = Server::answering(OK);
    let (lookup, _) = fake(|_| {
        let mut addresses = vec![ip("127.0.0.1"); 40];
        addresses.push(ip("10.0.0.1"));
        Some(addresses)
    });
    let failure = get(&pool_with(lookup), &server.url_at("mixed.test")).unwrap_err();
    assert_eq!(failure, refused("10.0.0.1"));
}

#[test]
fn a_name_with_many_addresses_is_no_trouble() {
    let server = Server::answering(OK);
    let (lookup, _) = fake(|_| Some(vec![ip("127.0.0.1"); 100]));
    assert!(get(&pool_with(lookup), &server.url_at("many.test")).is_ok());
}

#[test]
fn a_name_that_changes_its_addresses_gains_nothing() {
    // Good when it is checked, bad when it is asked again: the address that was checked is the one that is used.
    let server = Server::answering(OK);
    let times = AtomicUsize::new(0);
    let (lookup, asked) = fake(move |_| match times.fetch_add(1, Ordering::SeqCst) {
        0 => Some(vec![ip("127.0.0.1")]),
        _ => Some(vec![ip("10.0.0.1")]),
    });
    let pool = pool_with(lookup);
    assert!(get(&pool, &server.url_at("rebind.test")).is_ok());
    assert_eq!(
        asked.lock().unwrap().len(),
        1,
        "one look-up for check and connect"
    );
    assert_eq!(server.connections(), 1);

    // And what is remembered is checked each time.
    pool.reconfigure(Network {
        guard: guard(""),
        ..network()
    })
    .unwrap();
    assert_eq!(
        get(&pool, &server.url_at("rebind.test")),
        Err(refused("127.0.0.1"))
    );
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[test]
fn a_port_that_is_not_allowed_is_refused() {
    let server = Server::answering(OK);
    let port = server.address.port();
    let allow = |ports: &[u16]| Network {
        allowed_ports: ports.to_vec(),
        ..network()
    };
    let pool = Pool::start(limits(1), allow(&[443])).unwrap();
    assert_eq!(
        get(&pool, &server.url()).unwrap_err().to_string(),
        "port refused"
    );
    pool.reconfigure(allow(&[443, port])).unwrap();
    assert!(get(&pool, &server.url()).is_ok());
    pool.reconfigure(allow(&[80])).unwrap();
    let failure = get(&pool, "http://127.0.0.9/").unwrap_err();
    assert_eq!(
        failure,
        Failure::ConnectionRefused,
        "the port that the scheme implies counts"
    );
}

#[test]
fn names_are_remembered_and_asked_for_once() {
    let server = Server::answering(OK);
    let gate = Gate::default();
    let wait = behind(&gate);
    let (lookup, asked) = fake(move |_| {
        wait();
        Some(vec![ip("127.0.0.1")])
    });
    let pool = pool_with(lookup);
    for token in 0..8 {
        pool.submit(job(token, &server.url_at("one.test")));
    }
    eventually("it is asked for", || asked.lock().unwrap().len() == 1);
    gate.open();
    assert!(
        collect(&pool, 8)
            .iter()
            .all(|outcome| outcome.result.is_ok())
    );
    assert!(get(&pool, &server.url_at("one.test")).is_ok());
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[test]
fn absence_is_remembered_briefly() {
    let server = Server::answering(OK);
    let exists = Arc::new(AtomicUsize::new(0));
    let now = Arc::clone(&exists);
    let (lookup, asked) =
        fake(move |_| (now.load(Ordering::SeqCst) == 1).then(|| vec![ip("127.0.0.1")]));
    let pool = pool_with(lookup);
    for _ in 0..5 {
        assert_eq!(
            get(&pool, &server.url_at("new.test")),
            Err(Failure::NameNotFound)
        );
    }
    assert!(asked.lock().unwrap().len() < 5);
    exists.store(1, Ordering::SeqCst);
    eventually("the name is found", || {
        get(&pool, &server.url_at("new.test")).is_ok()
    });
}

#[test]
fn a_name_without_addresses_is_not_found() {
    let (lookup, _) = fake(|_| Some(vec![]));
    assert_eq!(
        get(&pool_with(lookup), "http://empty.test/"),
        Err(Failure::NameNotFound)
    );
}

#[test]
fn a_lookup_that_panics_is_a_failure() {
    let (lookup, _) = fake(|name| -> Option<Vec<IpAddr>> { panic!("{name}") });
    let pool = pool_with(lookup);
    assert_eq!(get(&pool, "http://a.test/"), Err(Failure::NameNotFound));
    assert_eq!(get(&pool, "http://b.test/"), Err(Failure::NameNotFound));
}

#[test]
fn a_hanging_lookup_ends_at_the_limit_and_holds_nobody_up() {
    let server = Server::answering(OK);
    let gate = Gate::default();
    let wait = behind(&gate);
    let (lookup, asked) = fake(move |name| {
        if name.ends_with("hang.test") {
            wait();
        }
        Some(vec![ip("127.0.0.1")])
    });
    let pool = pool_with(lookup);
    // More names than resolver threads, all of one domain.
    for token in 0..15 {
        let url = server.url_at(&format!("n{token}.hang.test"));
        let timeout = Duration::from_millis(700);
        pool.submit(Job {
            timeout,
            ..job(token, &url)
        });
    }
    eventually("some hang", || asked.lock().unwrap().len() >= 2);
    let begun = Instant::now();
    pool.submit(job(99, &server.url_at("fine.example")));
    let outcomes = collect(&pool, 16);
    let fine = outcomes.iter().find(|outcome| outcome.token == 99).unwrap();
    assert!(fine.result.is_ok());
    assert!(
        fine.duration < Duration::from_millis(500),
        "{:?}",
        fine.duration
    );
    for outcome in outcomes.iter().filter(|outcome| outcome.token != 99) {
        assert_eq!(outcome.result, Err(Failure::TimedOut));
        assert!(outcome.duration < Duration::from_secs(3));
    }
    assert!(begun.elapsed() < Duration::from_secs(5));

    // What came too late for those requests serves the next one.
    gate.open();
    assert!(get(&pool, &server.url_at("n0.hang.test")).is_ok());
}

#[test]
fn many_domains_that_hang_hold_nobody_up_for_long() {
    let server = Server::answering(OK);
    let gate = Gate::default();
    let wait = behind(&gate);
    let (lookup, asked) = fake(move |name| {
        if name.starts_with("hang") {
            wait();
        }
        Some(vec![ip("127.0.0.1")])
    });
    let pool = pool_with(lookup);
    for token in 0..12 {
        pool.submit(job(token, &server.url_at(&format!("hang.d{token}.test"))));
    }
    eventually("all resolver threads hang", || {
        asked.lock().unwrap().len() >= 8
    });
    assert!(get(&pool, &server.url_at("fine.example")).is_ok());
    gate.open();
    let outcomes = collect(&pool, 12);
    assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()));
    let names: HashSet<_> = asked.lock().unwrap().iter().cloned().collect();
    assert_eq!(names.len(), 13);
}
