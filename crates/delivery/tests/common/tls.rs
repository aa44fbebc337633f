//! Servers that speak TLS.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ConfigBuilder, ServerConfig, ServerConnection, StreamOwned, WantsVerifier};

use super::{OK, Server};

pub struct Identity {
    pub config: Arc<ServerConfig>,
    pub pem: String,
    pub key: Vec<u8>,
}

impl Identity {
    pub fn with(&self, config: ServerConfig) -> Identity {
        Identity {
            config: Arc::new(config),
            pem: self.pem.clone(),
            key: self.key.clone(),
        }
    }

    pub fn parts(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let certificates = CertificateDer::pem_slice_iter(self.pem.as_bytes());
        (
            certificates.flatten().collect(),
            PrivateKeyDer::try_from(self.key.clone()).unwrap(),
        )
    }
}

pub fn identity(names: &[&str]) -> Identity {
    identity_with(names, &rcgen::PKCS_ECDSA_P256_SHA256, |_| {})
}

/// A self-signed certificate, and a server that has it.
pub fn identity_with(
    names: &[&str],
    algorithm: &'static rcgen::SignatureAlgorithm,
    change: impl FnOnce(&mut rcgen::CertificateParams),
) -> Identity {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
    let mut parameters = rcgen::CertificateParams::new(names).unwrap();
    change(&mut parameters);
    let made = parameters.self_signed(&key).unwrap();
    let certificate = CertificateDer::from(made.der().to_vec());
    let der = key.serialize_der();
    let config = serving()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate],
            PrivateKeyDer::try_from(der.clone()).unwrap(),
        )
        .unwrap();
    Identity {
        config: Arc::new(config),
        pem: made.pem(),
        key: der,
    }
}

pub fn serving() -> ConfigBuilder<ServerConfig, WantsVerifier> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
}

/// As `openssl req -x509` makes them.
pub fn an_authority(parameters: &mut rcgen::CertificateParams) {
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
}

/// Answers `requests` requests on each connection; the last answer brings TLS's good-bye along.
pub fn server(identity: &Identity, requests: usize) -> Server {
    answering(identity, requests, OK)
}

/// The same with another answer.
pub fn answering(identity: &Identity, requests: usize, answer: &'static [u8]) -> Server {
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
            let text = String::from_utf8_lossy(&seen).to_ascii_lowercase();
            assert!(
                !text.contains("\r\nproxy-"),
                "that is for proxies alone: {text}"
            );
            tls.conn.writer().write_all(answer).unwrap();
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

pub fn https(server: &Server, host: &str) -> String {
    format!("https://{host}:{}/hook", server.address.port())
}
