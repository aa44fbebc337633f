//! How fast the pool is, and what a request costs: `throughput REQUESTS AT_ONCE URL…`
//!
//! Sends REQUESTS requests to the URLs in turn, AT_ONCE at a time, and prints requests per second and CPU time per request,
//! ours alone. THREADS in the environment sets the most delivery threads.
//!
//! ```text
//! cargo run --release -p webhooks_delivery --example throughput -- 200000 32 http://127.0.0.1:8080/
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use uuid::Uuid;
use webhooks_core::address::Guard;
use webhooks_core::endpoint::{Endpoint, Rules};
use webhooks_core::request::{Event, Target};
use webhooks_core::secret::Secret;
use webhooks_delivery::{Job, Limits, Network, Pool, Progress};

const TIMEOUT: Duration = Duration::from_secs(5);
/// How many jobs are submitted for each thread.
const AHEAD: u64 = 8;
/// How long the main thread is busy with other things.
const BATCH: Duration = Duration::from_millis(2);

struct Work {
    requests: u64,
    at_once: usize,
    endpoints: Vec<Arc<Endpoint>>,
    event: Arc<Event>,
    target: Arc<Target>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [requests, at_once, urls @ ..] = arguments.as_slice() else {
        panic!("usage: throughput REQUESTS AT_ONCE URL...");
    };
    let work = Work {
        requests: requests.parse().unwrap(),
        at_once: at_once.parse().unwrap(),
        endpoints: urls
            .iter()
            .map(|url| Arc::new(Endpoint::parse(url, &Rules::default()).unwrap()))
            .collect(),
        event: Arc::new(Event {
            id: Uuid::from_u128(1),
            event_type: "memory.created".to_owned(),
            created_ms: 1_705_314_600_000,
            data: format!(
                r#"{{"object":"memory","id":"1","content":"{}","tags":["a","b"]}}"#,
                "some words ".repeat(40)
            ),
        }),
        target: Arc::new(Target {
            webhook: Uuid::from_u128(2),
            secrets: vec![
                Secret::parse("whsec_c2VjcmV0IHNlY3JldCBzZWNyZXQ=".to_owned())
                    .unwrap()
                    .into(),
            ],
            header_prefix: "X-Lanonasis".to_owned(),
            user_agent: "Lanonasis-Webhooks/1.0".to_owned(),
            livemode: true,
            max_payload: 1_000_000,
        }),
    };
    let (begun, cpu) = (Instant::now(), cpu_us());
    let delivered = by_pool(&work);
    let (took, cpu) = (begun.elapsed().as_secs_f64(), cpu_us() - cpu);
    println!(
        "{delivered} answers of 2xx, {:.0} requests/s, {:.1} us CPU per request",
        delivered as f64 / took,
        cpu as f64 / delivered.max(1) as f64
    );
}

fn cpu_us() -> i64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    usage.user_time().num_microseconds() + usage.system_time().num_microseconds()
}

/// As the worker does it: keeps enough in flight, sleeps on the descriptor, and takes what came in some ms together.
fn by_pool(work: &Work) -> u64 {
    let network = Network {
        guard: Guard::parse("127.0.0.0/8").unwrap(),
        allowed_ports: Vec::new(),
        ca_file: std::env::var_os("CA_FILE").map(Into::into),
    };
    let mut limits = Limits {
        at_once: work.at_once,
        ..Limits::default()
    };
    if let Ok(threads) = std::env::var("THREADS") {
        limits.threads = threads.parse().unwrap();
    }
    let pool = Pool::start(limits, network).unwrap();
    let mut outcomes = Vec::new();
    let (mut submitted, mut done, mut delivered) = (0, 0, 0);
    while done < work.requests {
        while submitted < work.requests && submitted - done < AHEAD * work.at_once as u64 {
            let endpoint = &work.endpoints[submitted as usize % work.endpoints.len()];
            pool.submit(Job {
                token: submitted,
                event: Arc::clone(&work.event),
                target: Arc::clone(&work.target),
                endpoint: Arc::clone(endpoint),
                owner: 0,
                delivery: Uuid::from_u128(u128::from(submitted)),
                attempt: 1,
                timeout: TIMEOUT,
                progress: Progress::default(),
            });
            submitted += 1;
        }
        // SAFETY: the descriptor belongs to `pool`, which lives to the end of this function.
        let fd = unsafe { BorrowedFd::borrow_raw(pool.fd()) };
        nix::poll::poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
        std::thread::sleep(BATCH);
        pool.drain(&mut outcomes);
        for outcome in outcomes.drain(..) {
            done += 1;
            match outcome.result {
                Ok(answer) if (200..300).contains(&answer.status) => delivered += 1,
                other => eprintln!("{other:?}"),
            }
        }
    }
    delivered
}
