//! All that one configuration of the network needs. Made on the thread that starts or reconfigures the pool, used on
//! delivery threads.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use webhooks_core::address::Guard;

use crate::connect::connect;
use crate::failure::Failure;
use crate::names::Names;
use crate::stream::{Paced, Transport};
use crate::tls::{StartError, SystemRoots, Tls};
use crate::wire::Wire;

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

/// One configuration at work.
pub(crate) struct Client {
    names: Arc<Names>,
    guard: Guard,
    allowed_ports: Vec<u16>,
    tls: Tls,
    /// Which configuration this is: connections of one are not used under another.
    pub(crate) generation: u64,
    retired: AtomicBool,
}

/// Where a URL leads.
#[derive(Debug)]
pub(crate) struct Destination<'a> {
    /// As the URL spells it, an IPv6 address in brackets.
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) tls: bool,
}

impl Client {
    pub(crate) fn new(
        names: &Arc<Names>,
        roots: &Arc<SystemRoots>,
        network: &Network,
        generation: u64,
    ) -> Result<Client, StartError> {
        Ok(Client {
            names: Arc::clone(names),
            guard: network.guard.clone(),
            allowed_ports: network.allowed_ports.clone(),
            tls: Tls::new(roots, network.ca_file.as_deref())?,
            generation,
            retired: AtomicBool::new(false),
        })
    }

    /// Another configuration is in force.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// The addresses of a destination, if the guard lets every one of them pass: the only way to an address there is. What is
    /// connected to is what was checked here, so a name that changes its addresses in between gains nothing.
    pub(crate) async fn addresses(
        &self,
        to: &Destination<'_>,
        owner: u64,
    ) -> Result<Arc<[IpAddr]>, Failure> {
        if !self.allowed_ports.is_empty() && !self.allowed_ports.contains(&to.port) {
            return Err(Failure::PortRefused);
        }
        let bare = to.host.trim_start_matches('[').trim_end_matches(']');
        let addresses = match bare.parse::<IpAddr>() {
            Ok(literal) => Arc::from([literal]),
            Err(_) if bare.is_empty() => return Err(Failure::NameNotFound),
            Err(_) => self.names.resolve(bare, owner).await?,
        };
        // What cannot be judged does not pass.
        let own = self.names.own().ok_or(Failure::AddressRefused(None))?;
        let refused = |address: &IpAddr| self.guard.check_own(*address, &own).is_err();
        match addresses.iter().copied().find(refused) {
            Some(address) => Err(Failure::AddressRefused(Some(address))),
            None => Ok(addresses),
        }
    }

    /// What to say of a request whose limit passed while it waited for this host's addresses.
    pub(crate) fn gave_up(&self, to: &Destination<'_>) -> Failure {
        self.names.gave_up(to.host)
    }

    /// A new connection to one of the addresses.
    pub(crate) async fn open(
        &self,
        to: &Destination<'_>,
        addresses: &[IpAddr],
    ) -> Result<Wire, Failure> {
        let born = Instant::now();
        let socket = connect(addresses, to.port)
            .await
            .map_err(|error| Failure::from(&error))?;
        let peer = socket
            .peer_addr()
            .map_err(|error| Failure::from(&error))?
            .ip();
        // Head and body are written together; to wait for more would only cost time.
        let _ = socket.set_nodelay(true);
        let socket = Paced::new(socket);
        let transport = if to.tls {
            Transport::Tls(Box::new(self.tls.session(to.host, socket).await?))
        } else {
            Transport::Plain(socket)
        };
        Wire::new(transport, peer, born).await
    }
}
