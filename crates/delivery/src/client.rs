//! All that one configuration of the network needs. Made on the thread that starts or reconfigures the pool, used on
//! delivery threads.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::HeaderValue;
use tokio::net::TcpStream;
use tokio::time::timeout;
use webhooks_core::address::Guard;
use webhooks_core::endpoint::Endpoint;
use webhooks_core::proxy::{NoProxy, Proxy};

use crate::connect::connect;
use crate::failure::Failure;
use crate::names::Names;
use crate::proxy::ViaProxy;
use crate::stream::{Paced, Transport};
use crate::tls::{StartError, SystemRoots, Tls};
use crate::wire::Wire;

/// The longest that a request through the proxy waits for the addresses of its host, which it can do without.
const LOOKUP: Duration = Duration::from_secs(1);
/// After this part of that time, it is asked whether the resolver is out of reach.
const DOUBT: u32 = 10;

/// Which part of the network may be reached, by which way, and whom TLS trusts. What a reload may change.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Network {
    /// Judges every address before it is connected to.
    pub guard: Guard,
    /// The ports that may be connected to; empty means any.
    pub allowed_ports: Vec<u16>,
    /// PEM certificates that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// What requests go through. Its address is not judged.
    pub proxy: Option<Proxy>,
    /// The hosts that are reached without it.
    pub no_proxy: NoProxy,
}

/// One configuration at work.
pub(crate) struct Client {
    names: Arc<Names>,
    guard: Guard,
    allowed_ports: Vec<u16>,
    proxy: Option<ViaProxy>,
    tls: Tls,
    /// Which configuration this is: connections of one are not used under another.
    pub(crate) generation: u64,
    retired: AtomicBool,
}

/// Where a URL leads.
#[derive(Debug)]
pub(crate) struct Destination<'a> {
    pub(crate) endpoint: &'a Endpoint,
    /// As the URL spells it, an IPv6 address in brackets.
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) tls: bool,
}

/// What is connected to for a destination: itself, or the proxy.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) addresses: Arc<[IpAddr]>,
    port: u16,
    pub(crate) is_proxy: bool,
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
            proxy: network
                .proxy
                .as_ref()
                .map(|proxy| ViaProxy::new(proxy, &network.no_proxy)),
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

    /// The way to a destination, which the proxy will connect to only if it has been [judged](Client::judge_before_proxy).
    pub(crate) async fn route(&self, to: &Destination<'_>, owner: u64) -> Result<Route, Failure> {
        let Some(proxy) = self.proxy_for(to) else {
            return Ok(Route {
                addresses: self.addresses(to, owner).await?,
                port: to.port,
                is_proxy: false,
            });
        };
        let addresses = match proxy.host().parse::<IpAddr>() {
            Ok(literal) => Ok(Arc::from([literal])),
            Err(_) => self.names.resolve(proxy.host(), owner).await,
        };
        Ok(Route {
            addresses: addresses.map_err(|failure| match failure {
                Failure::NameNotFound | Failure::ResolverLost => Failure::ProxyUnreachable,
                ours => ours,
            })?,
            port: proxy.port(),
            is_proxy: true,
        })
    }

    /// The proxy that requests to this destination go through.
    fn proxy_for(&self, to: &Destination<'_>) -> Option<&ViaProxy> {
        self.proxy.as_ref().filter(|proxy| proxy.serves(to))
    }

    /// Judges a destination that the proxy will connect to, as far as its addresses are known here: the proxy may know
    /// more names, and other addresses, and has to judge them itself. `limit` is that of the whole request.
    pub(crate) async fn judge_before_proxy(
        &self,
        to: &Destination<'_>,
        owner: u64,
        limit: Duration,
    ) -> Result<(), Failure> {
        if self.proxy_for(to).is_none() {
            return Ok(());
        }
        let patience = LOOKUP.min(limit / 4);
        let mut judged = Box::pin(self.addresses(to, owner));
        let mut known = timeout(patience / DOUBT, &mut judged).await.ok();
        if known.is_none() && self.names.gave_up(to.host) != Failure::ResolverLost {
            known = timeout(patience, &mut judged).await.ok();
        }
        if known.is_none() && self.names.answers() {
            // Else slow name servers of its own would keep a name from being judged.
            known = Some(judged.await);
        }
        match known {
            Some(Ok(_)) => Ok(()),
            None | Some(Err(Failure::NameNotFound | Failure::ResolverLost)) => {
                if to.endpoint.refused_on_its_face(&self.guard) {
                    return Err(Failure::AddressRefused(None));
                }
                Ok(())
            }
            Some(Err(failure)) => Err(failure),
        }
    }

    /// The value of `Proxy-Authorization`.
    pub(crate) fn proxy_authorization(&self) -> Option<&HeaderValue> {
        self.proxy.as_ref()?.authorization()
    }

    /// The addresses of a destination, if the guard lets every one of them pass: the only way to an address there is, but
    /// for the proxy's. What is connected to is what was checked here, so a name that changes its addresses in between
    /// gains nothing.
    async fn addresses(&self, to: &Destination<'_>, owner: u64) -> Result<Arc<[IpAddr]>, Failure> {
        if !self.allowed_ports.is_empty() && !self.allowed_ports.contains(&to.port) {
            return Err(Failure::PortRefused);
        }
        let bare = to.host.trim_start_matches('[').trim_end_matches(']');
        let addresses = match bare.parse::<IpAddr>() {
            Ok(literal) => Arc::from([literal]),
            Err(_) if bare.is_empty() => return Err(Failure::NameNotFound),
            Err(_) => self.names.resolve(bare, owner).await?,
        };
        let own = self.names.own()?;
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

    /// The same, while it waited for its route.
    pub(crate) fn gave_up_route(&self, to: &Destination<'_>) -> Failure {
        match self.proxy_for(to) {
            // Its own host was judged by then.
            Some(_) => Failure::ProxyUnreachable,
            None => self.gave_up(to),
        }
    }

    /// A socket that is connected to the destination, or to the proxy.
    pub(crate) async fn connect(&self, route: &Route) -> Result<TcpStream, Failure> {
        let connected = connect(&route.addresses, route.port).await;
        connected.map_err(|error| match Failure::from(&error) {
            failure if route.is_proxy && !failure.is_ours() => Failure::ProxyUnreachable,
            failure => failure,
        })
    }

    /// Makes a connection to the destination of a connected socket.
    pub(crate) async fn open(
        &self,
        to: &Destination<'_>,
        socket: TcpStream,
    ) -> Result<Wire, Failure> {
        let born = Instant::now();
        let peer = socket
            .peer_addr()
            .map_err(|error| Failure::from(&error))?
            .ip();
        // Head and body are written together; to wait for more would only cost time.
        let _ = socket.set_nodelay(true);
        let mut socket = Paced::new(socket);
        let transport = if to.tls {
            if let Some(proxy) = self.proxy_for(to) {
                proxy.tunnel(to, &mut socket).await?;
            }
            Transport::Tls(Box::new(self.tls.session(to.host, socket).await?))
        } else {
            Transport::Plain(socket)
        };
        Wire::new(transport, peer, born).await
    }
}
