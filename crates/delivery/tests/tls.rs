//! Whom TLS trusts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use webhooks_delivery::{Failure, Network, Pool, StartError};

struct Identity {
    config: Arc<ServerConfig>,
    pem: String,
}

fn identity(names: &[&str]) -> Identity {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let certificate = CertificateDer::from(made.cert.der().to_vec());
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    Identity {
        config: Arc::new(config),
        pem: made.cert.pem(),
    }
}

/// Answers `requests` requests on each connection; the last answer brings TLS's good-bye along.
fn server(identity: &Identity, requests: usize) -> Server {
    let config = Arc::clone(&identity.config);
    Server::start(move |connection| {
        let session = ServerConnection::new(Arc::clone(&config)).unwrap();
        let stream = connection.stream.get_ref().try_clone().unwrap();
        let mut tls = StreamOwned::new(session, stream);
        for left in (0..requests).rev() {
            let mut seen = Vec::new();
            let mut buffer = [0; 4096];
            let complete = |seen: &[u8]| {
                let text = String::from_utf8_lossy(seen).to_ascii_lowercase();
                let Some((head, body)) = text.split_once("\r\n\r\n") else {
                    return false;
                };
                let length = head.split("content-length: ").nth(1).unwrap();
                body.len() >= length.split("\r\n").next().unwrap().parse().unwrap()
            };
            while !complete(&seen) {
                match tls.read(&mut buffer) {
                    Ok(count @ 1..) => seen.extend_from_slice(&buffer[..count]),
                    _ => return,
                }
            }
            tls.conn.writer().write_all(OK).unwrap();
            if left == 0 {
                tls.conn.send_close_notify();
            }
            if tls.flush().is_err() {
                return;
            }
        }
        connection.until_closed();
    })
}

fn https(server: &Server, host: &str) -> String {
    format!("https://{host}:{}/hook", server.address.port())
}

fn trusting(file: Option<PathBuf>) -> Pool {
    let (lookup, _) = fake(|_| Some(vec![ip("127.0.0.1")]));
    let network = Network {
        ca_file: file,
        ..network()
    };
    Pool::start_with(limits(4), network, Arc::new(lookup)).unwrap()
}

#[test]
fn a_stranger_is_refused() {
    let identity = identity(&["hook.test"]);
    let server = server(&identity, 1);
    let failure = get(&trusting(None), &https(&server, "hook.test")).unwrap_err();
    assert_eq!(failure.to_string(), "tls: unknown issuer");
}

#[test]
fn who_is_named_in_ca_file_is_trusted_and_connections_are_kept() {
    let identity = identity(&["hook.test", "127.0.0.1"]);
    let server = server(&identity, usize::MAX);
    let pool = trusting(Some(temporary("trusted.pem", &identity.pem)));
    for _ in 0..20 {
        let answer = get(&pool, &https(&server, "hook.test")).unwrap();
        assert_eq!((answer.status, answer.excerpt.as_str()), (200, "ok"));
    }
    assert_eq!(server.connections(), 1);
    assert!(
        get(&pool, &https(&server, "127.0.0.1")).is_ok(),
        "an address can have a certificate"
    );
}

#[test]
fn a_large_body_goes_through_tls() {
    let identity = identity(&["hook.test"]);
    let server = server(&identity, 1);
    let pool = trusting(Some(temporary("large.pem", &identity.pem)));
    let mut job = job(1, &https(&server, "hook.test"));
    job.event = Arc::new(event(&"x".repeat(300_000)));
    assert_eq!(send(&pool, job).result.unwrap().status, 200);
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let identity = identity(&["other.test"]);
    let server = server(&identity, 1);
    let pool = trusting(Some(temporary("other.pem", &identity.pem)));
    let failure = get(&pool, &https(&server, "hook.test")).unwrap_err();
    assert_eq!(failure.to_string(), "tls: certificate is for another name");
}

#[test]
fn a_session_that_the_peer_ended_is_not_used_again() {
    // The good-bye comes with the answer, and the socket stays open.
    let identity = identity(&["hook.test"]);
    let server = server(&identity, 1);
    let pool = trusting(Some(temporary("ended.pem", &identity.pem)));
    for _ in 0..20 {
        assert_eq!(
            get(&pool, &https(&server, "hook.test")).unwrap().status,
            200
        );
    }
    assert_eq!(server.connections(), 20);
}

#[test]
fn trust_follows_a_reload() {
    let identity = identity(&["hook.test"]);
    let server = server(&identity, usize::MAX);
    let pool = trusting(None);
    let url = https(&server, "hook.test");
    assert!(matches!(get(&pool, &url), Err(Failure::Tls(_))));
    let file = Some(temporary("reload.pem", &identity.pem));
    pool.reconfigure(Network {
        ca_file: file,
        ..network()
    })
    .unwrap();
    assert!(get(&pool, &url).is_ok());
    pool.reconfigure(network()).unwrap();
    assert!(matches!(get(&pool, &url), Err(Failure::Tls(_))));
}

#[test]
fn a_ca_file_that_cannot_be_loaded_is_named() {
    let missing = PathBuf::from("/no/such/ca.pem");
    let garbage = temporary("garbage.pem", "not a certificate");
    let broken = temporary(
        "broken.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    for file in [missing, garbage, broken] {
        let network = Network {
            ca_file: Some(file.clone()),
            ..network()
        };
        let error = Pool::start(limits(1), network.clone()).unwrap_err();
        assert!(matches!(&error, StartError::CaFile { path, .. } if *path == file));
        assert!(
            error.to_string().contains(file.to_str().unwrap()),
            "{error}"
        );
        let pool = pool();
        assert!(pool.reconfigure(network).is_err());
        let server = Server::answering(OK);
        assert!(
            get(&pool, &server.url()).is_ok(),
            "the old rules stay in force"
        );
    }
}

#[test]
fn plain_http_on_a_tls_port_is_told_as_that() {
    let server = Server::answering_once(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
    let failure = get(&trusting(None), &https(&server, "hook.test"));
    // It answers only what it takes for a request, so it may also wait.
    assert!(failure.is_err());
    let server = Server::start(|connection| {
        connection.answer(b"220 mail.test ESMTP\r\n");
        connection.until_closed();
    });
    let failure = get(&trusting(None), &https(&server, "hook.test")).unwrap_err();
    assert_eq!(failure.to_string(), "tls: peer does not speak tls");
}

#[test]
fn a_handshake_that_hangs_ends_at_the_limit() {
    let server = Server::start(Connection::until_closed);
    let (result, duration) = get_soon(&trusting(None), &https(&server, "hook.test"));
    assert_eq!(result, Err(Failure::TimedOut));
    assert!(duration < Duration::from_secs(3));
}
