//! All that one configuration of the network needs: ureq's agent, with our resolver and connector. Made on the thread that
//! starts or reconfigures the pool, used on delivery threads.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ureq::Agent;
use webhooks_core::address::Guard;

use crate::kept::Kept;
use crate::resolver::{Guarded, Names};
use crate::socket::Sockets;
use crate::tls::{StartError, SystemRoots, Tls};
use crate::transport::{Connect, MAX_RESPONSE_HEAD};

/// Which part of the network may be reached, and whom TLS trusts. What a reload may change.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// Judges every address before it is connected to.
    pub guard: Guard,
    /// The ports that may be connected to; empty means any.
    pub allowed_ports: Vec<u16>,
    /// PEM certificates that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
}

/// What outlives a reconfiguration.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) names: Arc<Names>,
    pub(crate) sockets: Arc<Sockets>,
    pub(crate) roots: Arc<SystemRoots>,
    /// The most connections that are kept.
    pub(crate) most_kept: usize,
}

/// One configuration at work.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) agent: Agent,
    pub(crate) kept: Arc<Kept>,
}

impl Client {
    pub(crate) fn new(common: &Common, network: &Network) -> Result<Client, StartError> {
        let kept = Arc::new(Kept::new(common.most_kept));
        let tls = Tls::new(&common.roots, network.ca_file.as_deref())?;
        const NONE: &str = "";
        let config = Agent::config_builder()
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .user_agent(NONE)
            .accept(NONE)
            .accept_encoding(NONE)
            .max_response_header_size(MAX_RESPONSE_HEAD)
            .max_idle_connections(0)
            .max_idle_connections_per_host(0)
            .max_idle_age(Duration::ZERO)
            .build();
        let connector = Connect {
            kept: Arc::clone(&kept),
            sockets: Arc::clone(&common.sockets),
            tls,
        };
        let resolver = Guarded {
            names: Arc::clone(&common.names),
            guard: network.guard.clone(),
            allowed_ports: network.allowed_ports.clone(),
        };
        Ok(Client {
            agent: Agent::with_parts(config, connector, resolver),
            kept,
        })
    }
}
