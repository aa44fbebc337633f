//! Requests through a proxy, and what becomes of them when it will not or cannot.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::Write;
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::tls::{https, identity, server};
use common::*;
use nix::sys::socket::{Backlog, listen};
use webhooks_core::proxy::{NoProxy, Proxy};
use webhooks_delivery::{Failure, Job, Lookup, Network, NoAddress, Pool};

/// A proxy that connects to this machine whatever the name; the heads of the requests that it was sent.
struct Running {
    server: Server,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Running {
    /// With `credentials`, only for whoever sends these.
    fn start(credentials: Option<&'static str>) -> Running {
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = Arc::clone(&heads);
        let server = Server::start(move |client| {
            while let Some((head, body)) = client.request() {
                noted.lock().unwrap().push(head.clone());
                let allowed = credentials.is_none_or(|it| {
                    head.contains(&format!("\r\nProxy-Authorization: Basic {it}\r\n"))
                });
                if !allowed {
                    client.answer(
                        b"HTTP/1.1 407 Authenticate\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n",
                    );
                } else if head.starts_with("CONNECT ") {
                    let endpoint = connect(head.split(' ').nth(1).unwrap());
                    client.answer(b"HTTP/1.1 200 Connection established\r\nVia: a test\r\n\r\n");
                    return pump(client.stream.get_ref(), &endpoint);
                } else {
                    let (method, rest) = head.split_once(" http://").unwrap();
                    let (authority, path) = rest.split_once('/').unwrap();
                    let head: String = format!("{method} /{path}")
                        .split_inclusive("\r\n")
                        .filter(|line| !line.starts_with("Proxy-"))
                        .collect();
                    let mut endpoint = connect(authority);
                    write!(endpoint, "{head}\r\n").unwrap();
                    endpoint.write_all(&body).unwrap();
                    return pump(client.stream.get_ref(), &endpoint);
                }
            }
        });
        Running { server, heads }
    }
}

fn connect(authority: &str) -> TcpStream {
    let (_, port) = authority.rsplit_once(':').unwrap();
    TcpStream::connect(("127.0.0.1", port.parse().unwrap())).unwrap()
}

/// Carries bytes both ways until both have ended.
fn pump(client: &TcpStream, endpoint: &TcpStream) {
    let carry = |from: &TcpStream, to: &TcpStream| {
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        })
    };
    let there = carry(client, endpoint);
    carry(endpoint, client).join().unwrap();
    there.join().unwrap();
}

/// No name resolves but those that end in `.inner`, to this machine, and `.outer`, to an address of its network.
fn names() -> impl Lookup {
    fake(|name| match name.rsplit_once('.')?.1 {
        "inner" => Some(vec![ip("127.0.0.1")]),
        "outer" => Some(vec![ip("127.9.9.9")]),
        _ => None,
    })
    .0
}

/// Allows 127.9.9.9, where nothing is: what arrives at an endpoint has gone through the proxy.
fn through(proxy: &str) -> Network {
    Network {
        guard: guard("127.9.9.9"),
        proxy: Some(Proxy::parse(proxy).unwrap()),
        ..Network::default()
    }
}

fn pool_through(proxy: &str) -> Pool {
    started(through(proxy))
}

fn started(network: Network) -> Pool {
    Pool::start_with(limits(4), network, Arc::new(names())).unwrap()
}

#[test]
fn https_goes_through_a_tunnel_that_is_kept() {
    let identity = identity(&["hook.test"]);
    let endpoint = server(&identity, usize::MAX);
    let proxy = Running::start(None);
    let pool = started(Network {
        ca_file: Some(temporary("proxied.pem", &identity.pem)),
        ..through(&format!("http://{}", proxy.server.address))
    });
    for _ in 0..3 {
        let answer = get(&pool, &https(&endpoint, "hook.test")).unwrap();
        assert_eq!((answer.status, answer.excerpt.as_str()), (200, "ok"));
    }
    let mut large = job(1, &https(&endpoint, "hook.test"));
    large.event = Arc::new(event(&"x".repeat(300_000)));
    assert_eq!(send(&pool, large).result.unwrap().status, 200);
    let to = format!("hook.test:{}", endpoint.address.port());
    let heads = proxy.heads.lock().unwrap();
    assert_eq!(
        *heads,
        [format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n")],
        "one tunnel, and nothing in it that the proxy could read"
    );
    assert_eq!(endpoint.connections(), 1);
}

#[test]
fn the_certificate_is_the_endpoints() {
    let endpoint = server(&identity(&["hook.test"]), 1);
    let proxy = Running::start(None);
    let pool = pool_through(&format!("http://{}", proxy.server.address));
    let failure = get(&pool, &https(&endpoint, "hook.test")).unwrap_err();
    assert_eq!(failure, Failure::Tls("unknown issuer"));
}

#[test]
fn http_is_sent_with_the_whole_url_on_a_connection_that_is_kept() {
    let endpoint = Server::answering(OK);
    let proxy = Running::start(None);
    let pool = pool_through(&format!("http://{}", proxy.server.address));
    let url = format!("{}?a=b", endpoint.url_at("hook.test"));
    for _ in 0..3 {
        assert_eq!(get(&pool, &url).unwrap().status, 200);
    }
    assert_eq!(endpoint.requests(), 3);
    assert_eq!(proxy.server.connections(), 1);
    let heads = proxy.heads.lock().unwrap();
    assert!(
        heads[0].starts_with(&format!("POST {url} HTTP/1.1\r\n")),
        "{heads:?}"
    );
    let host = format!("\r\nHost: hook.test:{}\r\n", endpoint.address.port());
    assert!(heads[0].contains(&host), "{heads:?}");
    assert!(!heads[0].contains("Proxy-"), "{heads:?}");
}

#[test]
fn the_password_is_sent_to_the_proxy_alone() {
    let identity = identity(&["hook.test"]);
    let secure = server(&identity, 1);
    let plain = Server::start(|connection| {
        let (head, _) = connection.request().unwrap();
        assert!(!head.to_ascii_lowercase().contains("proxy"), "{head}");
        connection.answer(OK);
    });
    // "me:p@ss"
    let proxy = Running::start(Some("bWU6cEBzcw=="));
    let at = proxy.server.address;
    let pool = started(Network {
        ca_file: Some(temporary("password.pem", &identity.pem)),
        ..through(&format!("http://me:p%40ss@{at}"))
    });
    assert!(get(&pool, &plain.url_at("hook.test")).is_ok());
    assert!(get(&pool, &https(&secure, "hook.test")).is_ok());
    assert_eq!(proxy.heads.lock().unwrap().len(), 2);
    let shown = format!("{:?}", through(&format!("http://me:p%40ss@{at}")));
    for hidden in ["p@ss", "p%40ss", "bWU6cEBzcw=="] {
        assert!(!shown.contains(hidden), "{shown}");
    }
}

#[test]
fn a_wrong_password_is_no_fault_of_the_endpoint() {
    let secure = server(&identity(&["hook.test"]), 1);
    let plain = Server::answering(OK);
    let proxy = Running::start(Some("bWU6cEBzcw=="));
    for credentials in ["", "me:wrong@"] {
        let pool = pool_through(&format!("http://{credentials}{}", proxy.server.address));
        for url in [plain.url_at("hook.test"), https(&secure, "hook.test")] {
            let failure = get(&pool, &url).unwrap_err();
            assert_eq!(failure, Failure::ProxyRefused(407));
            assert!(failure.is_ours());
            assert_eq!(failure.to_string(), "proxy refused: 407");
        }
    }
    assert_eq!((plain.connections(), secure.connections()), (0, 0));
}

#[test]
fn an_endpoint_may_refuse_and_even_want_a_password() {
    const REFUSED: &[u8] = b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n";
    const WANTED: &[u8] = b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n";
    let identity = identity(&["hook.test"]);
    let proxy = Running::start(None);
    let proxied = Network {
        ca_file: Some(temporary("refusing.pem", &identity.pem)),
        ..through(&format!("http://{}", proxy.server.address))
    };
    let pool = started(proxied.clone());
    let plain = Server::answering(REFUSED);
    assert_eq!(get(&pool, &plain.url_at("hook.test")).unwrap().status, 403);
    // In a tunnel, and without a proxy, that status is the endpoint's.
    let secure = tls::answering(&identity, 1, WANTED);
    assert_eq!(
        get(&pool, &https(&secure, "hook.test")).unwrap().status,
        407
    );
    let direct = started(Network {
        no_proxy: NoProxy::parse("*").unwrap(),
        guard: guard("127.0.0.0/8"),
        ..proxied
    });
    let plain = Server::answering(WANTED);
    assert_eq!(get(&direct, &plain.url()).unwrap().status, 407);
}

#[test]
fn what_is_known_to_lead_inside_never_reaches_the_proxy() {
    let endpoint = Server::answering(OK);
    let proxy = Running::start(None);
    let pool = started(Network {
        allowed_ports: vec![endpoint.address.port()],
        ..through(&format!("http://{}", proxy.server.address))
    });
    for host in ["hook.inner", "127.0.0.1", "[::1]", "10.0.0.1"] {
        for url in [endpoint.url_at(host), https(&endpoint, host)] {
            let failure = get(&pool, &url).unwrap_err();
            assert!(
                matches!(failure, Failure::AddressRefused(Some(_))),
                "{url}: {failure}"
            );
        }
    }
    // Known to nobody here, and yet known for what it is.
    let failure = get(&pool, &endpoint.url_at("a.localhost")).unwrap_err();
    assert_eq!(failure, Failure::AddressRefused(None));
    let other_port = get(&pool, "https://hook.test/").unwrap_err();
    assert_eq!(other_port, Failure::PortRefused);
    assert_eq!(proxy.server.connections(), 0);
    // A name that resolves to an address that is allowed, and one that does not resolve.
    for host in ["hook.outer", "hook.test", "127.9.9.9"] {
        assert!(get(&pool, &endpoint.url_at(host)).is_ok(), "{host}");
    }
    assert_eq!(proxy.server.connections(), 3);
}

#[test]
fn the_proxy_may_have_a_name_and_an_inner_address() {
    let endpoint = Server::answering(OK);
    let proxy = Running::start(None);
    let pool = pool_through(&proxy.server.url_at("proxy.inner").replace("/hook", ""));
    assert!(get(&pool, &endpoint.url_at("hook.test")).is_ok());
    assert_eq!(proxy.server.connections(), 1);
}

#[test]
fn no_proxy_names_hosts_that_are_reached_without_it() {
    let endpoint = Server::answering(OK);
    let proxy = Running::start(None);
    let direct = format!("hook.inner:{}, 127.0.0.0/8", endpoint.address.port());
    let pool = started(Network {
        guard: guard("127.0.0.0/8"),
        no_proxy: NoProxy::parse(&direct).unwrap(),
        ..through(&format!("http://{}", proxy.server.address))
    });
    for host in ["hook.inner", "a.hook.inner", "127.0.0.1"] {
        assert!(get(&pool, &endpoint.url_at(host)).is_ok(), "{host}");
    }
    assert_eq!(proxy.server.connections(), 0);
    assert!(get(&pool, &endpoint.url_at("other.inner")).is_ok());
    assert_eq!(proxy.server.connections(), 1);
    // Directly, a name must resolve.
    let pool = started(Network {
        no_proxy: NoProxy::parse("hook.test").unwrap(),
        ..through(&format!("http://{}", proxy.server.address))
    });
    let failure = get(&pool, &endpoint.url_at("hook.test")).unwrap_err();
    assert_eq!(failure, Failure::NameNotFound);
}

/// A resolver that answers nothing, for longer than any request lives.
struct Silent;

impl Lookup for Silent {
    fn lookup(&self, _: &str) -> Result<Vec<IpAddr>, NoAddress> {
        thread::sleep(PATIENCE);
        Err(NoAddress::Unanswered)
    }

    fn own(&self) -> std::io::Result<Vec<IpAddr>> {
        Ok(Vec::new())
    }
}

#[test]
fn no_request_waits_long_for_addresses_that_the_proxy_does_without() {
    let endpoint = Server::answering(OK);
    let proxy = Running::start(None);
    let network = through(&format!("http://{}", proxy.server.address));
    let pool = Pool::start_with(limits(4), network, Arc::new(Silent)).unwrap();
    let (result, duration) = get_soon(&pool, &endpoint.url_at("hook.test"));
    assert_eq!(result.unwrap().status, 200);
    assert!(duration < Duration::from_millis(400), "{duration:?}");
    // Nor for the proxy's own.
    let pool = Pool::start_with(
        limits(4),
        through("http://proxy.test:3128"),
        Arc::new(Silent),
    );
    let (result, _) = get_soon(&pool.unwrap(), &endpoint.url_at("hook.test"));
    assert_eq!(result, Err(Failure::ProxyUnreachable));
}

#[test]
fn a_name_whose_servers_are_slow_is_judged_all_the_same() {
    let endpoint = Server::answering(OK);
    let proxy = Running::start(None);
    let network = Network {
        guard: guard(""),
        ..through(&format!("http://{}", proxy.server.address))
    };
    let (lookup, _) = fake(|name| {
        if name.starts_with("slow") {
            thread::sleep(Duration::from_millis(300));
        }
        Some(vec![ip("10.0.0.1")])
    });
    let pool = Pool::start_with(limits(4), network, Arc::new(lookup)).unwrap();
    // The resolver is known to answer.
    let refused = Err(Failure::AddressRefused(Some(ip("10.0.0.1"))));
    assert_eq!(get(&pool, &endpoint.url_at("hook.test")), refused);
    assert_eq!(get_soon(&pool, &endpoint.url_at("slow.test")).0, refused);
    assert_eq!(proxy.server.connections(), 0);
}

#[test]
fn a_resolver_that_is_out_of_reach_is_hardly_waited_for() {
    let endpoint = Server::answering(OK);
    let proxy = Running::start(None);
    let network = through(&format!("http://{}", proxy.server.address));
    let pool = Pool::start_with(limits(4), network, Arc::new(Silent)).unwrap();
    // Of two domains, and silent for long enough.
    for host in ["hook.test", "hook.example"] {
        assert!(get(&pool, &endpoint.url_at(host)).is_ok());
    }
    let outcome = send(&pool, job(1, &endpoint.url_at("other.example")));
    assert_eq!(outcome.result.unwrap().status, 200);
    let wait = outcome.duration;
    assert!(wait < Duration::from_millis(600), "{wait:?}");
}

#[test]
fn a_reload_takes_effect_at_once_and_keeps_no_connection() {
    let endpoint = Server::answering(OK);
    let proxy = Running::start(None);
    let proxied = Network {
        guard: guard("127.0.0.0/8"),
        ..through(&format!("http://{}", proxy.server.address))
    };
    let pool = started(proxied.clone());
    let url = endpoint.url_at("hook.inner");
    for (rounds, network, expected) in [
        (2, proxied.clone(), 1),
        (2, network(), 1),
        (2, proxied.clone(), 2),
    ] {
        pool.reconfigure(network).unwrap();
        for _ in 0..rounds {
            assert!(get(&pool, &url).is_ok());
        }
        assert_eq!(proxy.server.connections(), expected);
    }
    assert_eq!(endpoint.connections(), 3);
}

#[test]
fn a_proxy_out_of_reach_is_no_fault_of_the_endpoint() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    for proxy in [
        format!("http://{address}"),
        "http://proxy.test:3128".to_owned(),
    ] {
        let pool = pool_through(&proxy);
        for url in ["http://hook.test/", "https://hook.test/"] {
            let failure = get(&pool, url).unwrap_err();
            assert_eq!(failure, Failure::ProxyUnreachable, "{proxy} {url}");
            assert!(failure.is_ours() && !failure.is_exhaustion());
            assert_eq!(failure.to_string(), "proxy out of reach");
        }
    }
}

#[test]
fn a_proxy_that_does_not_take_the_connection_is_out_of_reach() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listen(&listener.as_fd(), Backlog::new(1).unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    // Takes what room there is; the system drops what comes after it.
    let soon = Duration::from_millis(200);
    let taken: Vec<_> = (0..8)
        .map_while(|_| TcpStream::connect_timeout(&address, soon).ok())
        .collect();
    assert!(taken.len() < 8, "there is room without end");
    let pool = pool_through(&format!("http://{address}"));
    for url in ["http://hook.test/", "https://hook.test/"] {
        let (result, duration) = get_soon(&pool, url);
        assert_eq!(result, Err(Failure::ProxyUnreachable), "{url}");
        assert!(duration >= Duration::from_millis(500));
    }
}

/// What comes of a request whose proxy answers CONNECT with these bytes.
fn connect_answered(bytes: impl Into<Vec<u8>>) -> Failure {
    let bytes = bytes.into();
    let proxy = Server::start(move |client| {
        let (head, _) = client.request().unwrap();
        assert!(head.starts_with("CONNECT hook.test:443 HTTP/1.1\r\n"));
        // In the smallest pieces.
        for byte in &bytes[..bytes.len().min(64)] {
            client.answer(&[*byte]);
        }
        client.answer(&bytes[bytes.len().min(64)..]);
        client.stream.get_ref().shutdown(Shutdown::Write).unwrap();
        client.until_closed();
    });
    let pool = pool_through(&format!("http://{}", proxy.address));
    get(&pool, "https://hook.test/").unwrap_err()
}

#[test]
fn what_the_proxy_says_of_the_endpoint_is_the_endpoints_and_all_else_its_own() {
    let answered =
        |status: u16| connect_answered(format!("HTTP/1.1 {status} Because\r\nA: b\r\n\r\n<html>"));
    for status in [500, 502, 503] {
        assert_eq!(answered(status), Failure::Unreachable);
    }
    assert_eq!(answered(504), Failure::TimedOut);
    for status in [301, 400, 403, 404, 405, 407, 429, 501] {
        assert_eq!(answered(status), Failure::ProxyRefused(status));
    }
    assert_eq!(
        connect_answered("HTTP/1.1 102 Wait\r\n\r\nHTTP/1.1 403 No\r\n\r\n"),
        Failure::ProxyRefused(403)
    );
}

#[test]
fn what_answers_and_is_no_proxy_is_out_of_reach() {
    for answer in ["", "HTTP/1.1 200 OK\r\n", "220 mail.test ESMTP\r\n\r\n"] {
        assert_eq!(connect_answered(answer), Failure::ProxyUnreachable);
    }
    let mut long = b"HTTP/1.1 200 OK\r\n".to_vec();
    long.extend(b"a: b\r\n".repeat(10_000));
    assert_eq!(connect_answered(long), Failure::ProxyUnreachable);
}

#[test]
fn a_tunnel_to_something_that_speaks_first_or_not_at_all_is_no_tls() {
    let answer = "HTTP/1.1 200 OK\r\n\r\nSSH-2.0-x\r\n";
    let expected = Failure::Tls("peer does not speak tls");
    assert_eq!(connect_answered(answer), expected);
    let closed = connect_answered("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(closed, Failure::ConnectionClosed);
}

#[test]
fn an_endpoint_that_the_proxy_waits_for_has_timed_out() {
    let proxy = Server::start(Connection::until_closed);
    let pool = pool_through(&format!("http://{}", proxy.address));
    for url in ["http://hook.test/", "https://hook.test/"] {
        let (result, _) = get_soon(&pool, url);
        assert_eq!(result, Err(Failure::TimedOut), "{url}");
    }
}

#[test]
fn a_connection_that_the_proxy_has_closed_is_replaced() {
    let proxy = Server::answering_once(OK);
    let pool = pool_through(&format!("http://{}", proxy.address));
    for token in 0..10 {
        let outcome = send(
            &pool,
            Job {
                token,
                ..job(1, "http://hook.test/")
            },
        );
        assert_eq!(outcome.result.unwrap().status, 200);
    }
}
