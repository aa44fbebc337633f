//! Whom TLS trusts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::tls::*;
use common::*;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use webhooks_delivery::{Failure, Network, Pool, StartError};

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
fn a_listed_certificate_is_trusted_though_it_says_it_is_an_authority() {
    let identity = identity_with(&["hook.test"], &rcgen::PKCS_ECDSA_P256_SHA256, an_authority);
    let listed = temporary("authority.pem", &identity.pem);
    let server = server(&identity, 1);
    let answer = get(&trusting(Some(listed)), &https(&server, "hook.test"));
    assert_eq!(answer.unwrap().status, 200);
    assert_eq!(
        get(&trusting(None), &https(&server, "hook.test"))
            .unwrap_err()
            .to_string(),
        "tls: invalid certificate",
        "one that is not listed is no different than before"
    );
}

#[test]
fn a_listed_certificate_is_trusted_for_its_own_names_and_time_only() {
    let other = identity_with(
        &["other.test"],
        &rcgen::PKCS_ECDSA_P256_SHA256,
        an_authority,
    );
    let expired = identity_with(&["hook.test"], &rcgen::PKCS_ECDSA_P256_SHA256, |it| {
        an_authority(it);
        it.not_after = rcgen::date_time_ymd(2020, 1, 1);
        it.not_before = rcgen::date_time_ymd(2019, 1, 1);
    });
    let early = identity_with(&["hook.test"], &rcgen::PKCS_ECDSA_P256_SHA256, |it| {
        an_authority(it);
        it.not_after = rcgen::date_time_ymd(2999, 1, 1);
        it.not_before = rcgen::date_time_ymd(2998, 1, 1);
    });
    for (name, identity, expected) in [
        ("names", other, "tls: certificate is for another name"),
        ("expired", expired, "tls: certificate expired"),
        ("early", early, "tls: certificate not valid yet"),
    ] {
        let listed = temporary(&format!("authority-{name}.pem"), &identity.pem);
        let server = server(&identity, 1);
        let failure = get(&trusting(Some(listed)), &https(&server, "hook.test")).unwrap_err();
        assert_eq!(failure.to_string(), expected);
    }
}

#[test]
fn one_listed_authority_does_not_vouch_for_another_with_its_name() {
    let (listed, other) = (
        identity_with(&["hook.test"], &rcgen::PKCS_ECDSA_P256_SHA256, an_authority),
        identity_with(&["hook.test"], &rcgen::PKCS_ECDSA_P256_SHA256, an_authority),
    );
    let pool = trusting(Some(temporary("one-authority.pem", &listed.pem)));
    let server = server(&other, 1);
    let failure = get(&pool, &https(&server, "hook.test")).unwrap_err();
    assert!(matches!(failure, Failure::Tls(_)), "{failure}");
}

#[test]
fn every_usual_key_is_understood() {
    for (name, algorithm) in [
        ("p256", &rcgen::PKCS_ECDSA_P256_SHA256),
        ("p384", &rcgen::PKCS_ECDSA_P384_SHA384),
        ("p521", &rcgen::PKCS_ECDSA_P521_SHA512),
        ("ed25519", &rcgen::PKCS_ED25519),
    ] {
        let identity = identity_with(&["hook.test"], algorithm, |_| {});
        let pool = trusting(Some(temporary(&format!("{name}.pem"), &identity.pem)));
        let server = server(&identity, 1);
        let answer = get(&pool, &https(&server, "hook.test"));
        assert_eq!(answer.map(|it| it.status), Ok(200), "{name}");
    }
}

#[test]
fn what_was_missing_is_told() {
    let identity = identity(&["hook.test"]);
    let file = temporary("missing.pem", &identity.pem);
    let failure = |server: &Server| {
        let pool = trusting(Some(file.clone()));
        let failure = get(&pool, &https(server, "hook.test")).unwrap_err();
        failure.to_string()
    };
    // A client certificate.
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(
        CertificateDer::pem_slice_iter(identity.pem.as_bytes()).flatten(),
    );
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
    );
    let (certificates, key) = identity.parts();
    let config = serving()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(certificates, key)
        .unwrap();
    assert_eq!(
        failure(&server(&identity.with(config), 1)),
        "tls: a client certificate is wanted"
    );
    // A protocol beside HTTP/1.1.
    let mut config = ServerConfig::clone(&identity.config);
    config.alpn_protocols = vec![b"h2".to_vec()];
    assert_eq!(
        failure(&server(&identity.with(config), 1)),
        "tls: peer does not speak http/1.1"
    );
    // A cipher: a server that wants one for TLS 1.2 that nobody here has.
    let server = Server::start(|connection| {
        let mut hello = [0; 5];
        let _ = connection.stream.read_exact(&mut hello);
        // alert, TLS 1.2, two bytes: fatal, handshake failure
        connection.answer(&[21, 3, 3, 0, 2, 2, 40]);
        connection.until_closed();
    });
    assert_eq!(
        failure(&server),
        "tls: no common cipher, or a client certificate is wanted"
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

#[test]
fn a_chain_of_certificates_that_bear_the_same_name_holds_nobody_up() {
    // A search for a path tries every order of them.
    let key = || rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut chain = Vec::new();
    let (issuer_key, issuer) = (key(), authority("alike"));
    let issuer = rcgen::Issuer::new(issuer, &issuer_key);
    let own = key();
    let leaf = rcgen::CertificateParams::new(vec!["hook.test".to_owned()]).unwrap();
    chain.push(CertificateDer::from(
        leaf.signed_by(&own, &issuer).unwrap().der().to_vec(),
    ));
    for _ in 0..9 {
        let made = authority("alike").signed_by(&key(), &issuer).unwrap();
        chain.push(CertificateDer::from(made.der().to_vec()));
    }
    let private = PrivateKeyDer::try_from(own.serialize_der()).unwrap();
    let config = serving()
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .unwrap();
    let trusted = identity(&["other.test"]);
    let hostile = server(&trusted.with(config), 1);
    let pool = trusting(Some(temporary("alike.pem", &trusted.pem)));
    let begun = std::time::Instant::now();
    let failure = get(&pool, &https(&hostile, "hook.test")).unwrap_err();
    assert!(matches!(failure, Failure::Tls(_)), "{failure}");
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
}

fn authority(name: &str) -> rcgen::CertificateParams {
    let mut parameters = rcgen::CertificateParams::default();
    an_authority(&mut parameters);
    parameters
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    parameters
}
