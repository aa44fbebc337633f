//! What TLS trusts, and its errors in words for tenants. Files are read on the thread that starts or reconfigures the pool
//! (`ca_file`) and on the first delivery thread that needs them (the system's roots).

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore};

use crate::failure::Failure;
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
    extra: RootCertStore,
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
            extra: ca_file.map_or_else(|| Ok(RootCertStore::empty()), read_ca_file)?,
            config: Mutex::new(None),
        })
    }

    /// A session with `host`, not yet begun.
    pub(crate) fn connection(&self, host: &str) -> Result<ClientConnection, Failure> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare)
            .map_err(|_| Failure::Tls("invalid server name"))?
            .to_owned();
        ClientConnection::new(self.config()?, name).map_err(|error| failure(&error))
    }

    fn config(&self) -> Result<Arc<ClientConfig>, Failure> {
        let mut kept = lock(&self.config);
        if let Some(config) = &*kept {
            return Ok(Arc::clone(config));
        }
        let mut roots = self.system.get();
        let complete = !roots.is_empty();
        roots.extend(self.extra.roots.iter().cloned());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failure(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let config = Arc::new(config);
        if complete {
            *kept = Some(Arc::clone(&config));
        }
        Ok(config)
    }
}

fn read_ca_file(path: &Path) -> Result<RootCertStore, StartError> {
    let error = |reason: String| StartError::CaFile {
        path: path.to_owned(),
        reason,
    };
    let mut roots = RootCertStore::empty();
    let certificates =
        CertificateDer::pem_file_iter(path).map_err(|reason| error(reason.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|reason| error(reason.to_string()))?;
        roots
            .add(certificate)
            .map_err(|reason| error(reason.to_string()))?;
    }
    if roots.is_empty() {
        return Err(error("no certificate in it".to_owned()));
    }
    Ok(roots)
}

/// The words for an error of TLS. None of them comes from the peer.
pub(crate) fn failure(error: &rustls::Error) -> Failure {
    use rustls::Error;
    Failure::Tls(match error {
        Error::InvalidCertificate(error) => match error {
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
        },
        Error::NoCertificatesPresented => "no certificate",
        Error::InvalidMessage(_) => "peer does not speak tls",
        Error::PeerIncompatible(_)
        | Error::AlertReceived(rustls::AlertDescription::ProtocolVersion) => "no common protocol",
        Error::AlertReceived(_) => "refused by peer",
        Error::PeerMisbehaved(_) | Error::InappropriateMessage { .. } => "peer broke the protocol",
        Error::InappropriateHandshakeMessage { .. } => "peer broke the protocol",
        _ => "no session",
    })
}
