//! What TLS trusts, and its errors in words for tenants. Files are read on the thread that starts or reconfigures the pool
//! (`ca_file`) and on the first delivery thread that needs them (the system's roots).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, OtherError,
    PeerIncompatible, RootCertStore, SignatureScheme,
};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use webpki::EndEntityCert;

use crate::failure::Failure;
use crate::stream::Paced;
use crate::sync::lock;

/// Why a pool cannot start or be reconfigured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The file with further certificates cannot be read, or is not PEM.
    #[error("could not load certificates from \"{}\": {reason}", path.display())]
    CaFile {
        /// The file, as it was configured.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system refused what the pool needs.
    #[error("could not start delivery: {0}")]
    System(#[from] std::io::Error),
}

/// The system's roots, read once by whoever needs them first and shared by all configurations after that.
#[derive(Debug, Default)]
pub(crate) struct SystemRoots(Mutex<Option<RootCertStore>>);

impl SystemRoots {
    fn get(&self) -> RootCertStore {
        let mut kept = lock(&self.0);
        if let Some(roots) = &*kept {
            return roots.clone();
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        // None at all may be a passing state of a machine that is being set up: look again next time.
        if !roots.is_empty() {
            *kept = Some(roots.clone());
        }
        roots
    }
}

/// The TLS side of one configuration.
#[derive(Debug)]
pub(crate) struct Tls {
    system: Arc<SystemRoots>,
    listed: Vec<CertificateDer<'static>>,
    config: Mutex<Option<Arc<ClientConfig>>>,
}

impl Tls {
    /// Reads and checks `ca_file`; the system's roots wait for the first `https` request.
    pub(crate) fn new(
        system: &Arc<SystemRoots>,
        ca_file: Option<&Path>,
    ) -> Result<Tls, StartError> {
        Ok(Tls {
            system: Arc::clone(system),
            listed: ca_file.map_or_else(|| Ok(Vec::new()), read_ca_file)?,
            config: Mutex::new(None),
        })
    }

    /// A session with `host` through a connected socket.
    pub(crate) async fn session(
        &self,
        host: &str,
        socket: Paced,
    ) -> Result<TlsStream<Paced>, Failure> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare)
            .map_err(|_| Failure::Tls("invalid server name"))?
            .to_owned();
        TlsConnector::from(self.config()?)
            .connect(name, socket)
            .await
            .map_err(|error| failure_in(&error).unwrap_or_else(|| Failure::from(&error)))
    }

    fn config(&self) -> Result<Arc<ClientConfig>, Failure> {
        let mut kept = lock(&self.config);
        if let Some(config) = &*kept {
            return Ok(Arc::clone(config));
        }
        let mut roots = self.system.get();
        // Without any authority, the system's are looked for again at the next request.
        let has_some = !(roots.is_empty() && self.listed.is_empty());
        roots.add_parsable_certificates(self.listed.iter().cloned());
        let config = Arc::new(config(roots, &self.listed)?);
        if has_some {
            *kept = Some(Arc::clone(&config));
        }
        Ok(config)
    }
}

fn config(
    roots: RootCertStore,
    listed: &[CertificateDer<'static>],
) -> Result<ClientConfig, Failure> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| failure(&error))?;
    let schemes = provider.signature_verification_algorithms;
    let usual = if roots.is_empty() {
        None
    } else {
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        Some(verifier.build().map_err(|_| Failure::Internal)?)
    };
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier {
            usual,
            schemes,
            listed: listed.to_vec(),
        }))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Trusts what the usual rules trust; and a certificate that an administrator has listed itself, though it says that it is
/// an authority's, as `openssl req -x509` makes them. Name and time must be right for it too.
#[derive(Debug)]
struct Verifier {
    /// `None`: no authority is known.
    usual: Option<Arc<WebPkiServerVerifier>>,
    schemes: WebPkiSupportedAlgorithms,
    listed: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(usual) = &self.usual else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        let others = few(others);
        match usual.verify_server_cert(certificate, &others, name, ocsp, now) {
            Err(error) if is_an_authority(&error) && self.listed.contains(certificate) => {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.schemes)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.schemes)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.supported_schemes()
    }
}

/// The certificates of a chain that are looked at. A search for a path tries every order of those that bear the same name:
/// eight of them take a third of a second, in which a thread does nothing else.
fn few<'a>(others: &[CertificateDer<'a>]) -> Vec<CertificateDer<'a>> {
    const MOST: usize = 10;
    const MOST_OF_A_NAME: usize = 2;
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut few = Vec::new();
    for other in others {
        let Ok(parsed) = EndEntityCert::try_from(other) else {
            continue;
        };
        let name = parsed.subject();
        let alike = names.iter().filter(|it| **it == name).count();
        if few.len() < MOST && alike < MOST_OF_A_NAME {
            names.push(name.to_vec());
            few.push(other.clone());
        }
    }
    few
}

/// All that is wrong with the certificate is that it is an authority's. Its times have been found right before that.
fn is_an_authority(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(other))) = error
    else {
        return false;
    };
    matches!(
        other.downcast_ref::<webpki::Error>(),
        Some(webpki::Error::CaUsedAsEndEntity)
    )
}

fn read_ca_file(path: &Path) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let error = |reason: String| StartError::CaFile {
        path: path.to_owned(),
        reason,
    };
    let mut listed = Vec::new();
    let certificates =
        CertificateDer::pem_file_iter(path).map_err(|reason| error(reason.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|reason| error(reason.to_string()))?;
        RootCertStore::empty()
            .add(certificate.clone())
            .map_err(|reason| error(reason.to_string()))?;
        listed.push(certificate);
    }
    if listed.is_empty() {
        return Err(error("no certificate in it".to_owned()));
    }
    Ok(listed)
}

/// The failure of TLS that an I/O error carries.
pub(crate) fn failure_in(error: &io::Error) -> Option<Failure> {
    let told = error.get_ref()?.downcast_ref::<rustls::Error>();
    match told {
        Some(error) => Some(failure(error)),
        // More than it has room for.
        None if error.kind() == io::ErrorKind::InvalidData => Some(BROKEN),
        None => None,
    }
}

const BROKEN: Failure = Failure::Tls("peer broke the protocol");

/// The words for an error of TLS. None of them comes from the peer.
fn failure(error: &rustls::Error) -> Failure {
    use rustls::Error;
    Failure::Tls(match error {
        Error::InvalidCertificate(error) => certificate(error),
        Error::NoCertificatesPresented => "no certificate",
        Error::InvalidMessage(_) => "peer does not speak tls",
        Error::PeerIncompatible(error) => incompatible(error),
        Error::AlertReceived(alert) => refused(*alert),
        Error::NoApplicationProtocol => "peer does not speak http/1.1",
        Error::PeerMisbehaved(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. } => "peer broke the protocol",
        _ => "no session",
    })
}

fn certificate(error: &CertificateError) -> &'static str {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "certificate expired"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "certificate not valid yet"
        }
        CertificateError::UnknownIssuer => "unknown issuer",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "certificate is for another name"
        }
        CertificateError::Revoked => "certificate revoked",
        _ => "invalid certificate",
    }
}

fn incompatible(error: &PeerIncompatible) -> &'static str {
    match error {
        PeerIncompatible::NoCipherSuitesInCommon => "no common cipher",
        PeerIncompatible::NoKxGroupsInCommon => "no common key exchange",
        PeerIncompatible::NoSignatureSchemesInCommon => "no common signature scheme",
        _ => "no common protocol",
    }
}

/// What the peer said of us.
fn refused(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::ProtocolVersion => "no common protocol",
        // Which of them it was the peer does not say.
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
            "no common cipher, or a client certificate is wanted"
        }
        AlertDescription::CertificateRequired => "a client certificate is wanted",
        AlertDescription::UnrecognisedName => "peer does not know the name",
        AlertDescription::NoApplicationProtocol => "peer does not speak http/1.1",
        _ => "refused by peer",
    }
}
