//! What holds for names: the pure parts with made-up times, then the whole with a look-up that the test steers.

mod book;
mod reach;
mod threads;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::NoAddress;

type Found = Result<Vec<IpAddr>, NoAddress>;

const ABSENT: Found = Err(NoAddress::Absent);
const UNANSWERED: Found = Err(NoAddress::Unanswered);

fn ip(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn found(last: u8) -> Found {
    Ok(vec![ip(last)])
}

fn addresses(last: u8) -> Arc<[IpAddr]> {
    Arc::from([ip(last)])
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn start() -> Instant {
    // Later than the machine's start, so that there is a time before it.
    Instant::now() + seconds(3600)
}
