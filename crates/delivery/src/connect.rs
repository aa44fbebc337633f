//! From addresses to a connected socket, as RFC 8305 says: the families in turn, the next address after a quarter of a
//! second though the one before has not answered yet, and the first that connects wins.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

/// How long an address is waited for before the next is tried as well (RFC 8305, section 5).
const DELAY: Duration = Duration::from_millis(250);
/// How many addresses of a host are tried.
const MOST: usize = 16;
/// How many of them at the same time. Each takes a descriptor, of which other endpoints need theirs.
const AT_ONCE: usize = 3;

/// IPv6 and IPv4 in turn, beginning with the family of the first, each in the order that the resolver gave.
fn in_turn(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let first_is_v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let (mut these, mut those): (Vec<IpAddr>, Vec<IpAddr>) = addresses
        .iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    these.reverse();
    those.reverse();
    let mut ordered = Vec::with_capacity(addresses.len());
    while !(these.is_empty() && those.is_empty()) {
        ordered.extend(these.pop());
        ordered.extend(those.pop());
    }
    ordered.truncate(MOST);
    ordered
}

type Attempt = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// The first of the addresses that connects. Fails as the last one failed; waits for as long as the caller lets it.
pub(crate) async fn connect(addresses: &[IpAddr], port: u16) -> io::Result<TcpStream> {
    if let [only] = addresses {
        return TcpStream::connect(SocketAddr::new(*only, port)).await;
    }
    let mut next = in_turn(addresses).into_iter();
    let mut attempts: Vec<Attempt> = Vec::new();
    let mut failed = io::Error::from(io::ErrorKind::HostUnreachable);
    loop {
        if let Some(address) = next.next() {
            let address = SocketAddr::new(address, port);
            if attempts.len() == AT_ONCE {
                // It has had three quarters of a second.
                drop(attempts.remove(0));
            }
            attempts.push(Box::pin(TcpStream::connect(address)));
        } else if attempts.is_empty() {
            return Err(failed);
        }
        let more = next.len() > 0;
        match first(&mut attempts, more.then(|| Instant::now() + DELAY)).await {
            Some(Ok(stream)) => return Ok(stream),
            // The next has its turn at once.
            Some(Err(error)) => failed = error,
            None => {}
        }
    }
}

/// What comes of the attempts first; `None` when it is time for another.
async fn first(
    attempts: &mut Vec<Attempt>,
    until: Option<Instant>,
) -> Option<io::Result<TcpStream>> {
    let ended = std::future::poll_fn(|cx| {
        for place in 0..attempts.len() {
            if let Poll::Ready(ended) = attempts[place].as_mut().poll(cx) {
                drop(attempts.remove(place));
                return Poll::Ready(ended);
            }
        }
        Poll::Pending
    });
    match until {
        None => Some(ended.await),
        Some(until) => tokio::select! {
            biased;
            ended = ended => Some(ended),
            () = sleep_until(until) => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_families_take_turns() {
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let given = ["2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2"].map(ip);
        let expected = ["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2"].map(ip);
        assert_eq!(in_turn(&given), expected);
        let given = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"].map(ip);
        let expected = ["192.0.2.1", "2001:db8::1", "192.0.2.2", "192.0.2.3"].map(ip);
        assert_eq!(in_turn(&given), expected);
        assert!(in_turn(&[]).is_empty());
        assert_eq!(in_turn(&vec![ip("192.0.2.1"); 40]).len(), MOST);
    }
}
