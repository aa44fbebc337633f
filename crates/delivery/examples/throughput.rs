//! How fast the pool is, and what a request costs: `throughput [--stock] REQUESTS AT_ONCE URL…`
//!
//! Sends REQUESTS requests to the URLs in turn, AT_ONCE at a time, and prints requests per second and CPU time per request,
//! ours alone. THREADS in the environment sets the most delivery threads. With `--stock`, by ureq on as many threads (to
//! addresses only, not to names): what ours is measured against.
//!
//! ```text
//! cargo run --release -p webhooks_delivery --example throughput -- 200000 32 http://127.0.0.1:8080/
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use ureq::Agent;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{NextTimeout, TcpConnector};
use uuid::Uuid;
use webhooks_core::address::Guard;
use webhooks_core::endpoint::{Endpoint, Rules};
use webhooks_core::request::{Event, Target, build};
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
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let stock = arguments.first().is_some_and(|first| first == "--stock");
    if stock {
        arguments.remove(0);
    }
    let [requests, at_once, urls @ ..] = arguments.as_slice() else {
        panic!("usage: throughput [--stock] REQUESTS AT_ONCE URL...");
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
    let delivered = if stock {
        by_stock(Arc::new(work))
    } else {
        by_pool(&work)
    };
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

#[derive(Debug)]
struct Literal;

impl Resolver for Literal {
    fn resolve(
        &self,
        uri: &Uri,
        _: &Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        addresses.push(uri.authority().unwrap().as_str().parse().unwrap());
        Ok(addresses)
    }
}

fn by_stock(work: Arc<Work>) -> u64 {
    let config = Agent::config_builder()
        .proxy(None)
        .max_redirects(0)
        .http_status_as_error(false)
        .timeout_global(Some(TIMEOUT))
        .max_idle_connections(work.at_once)
        .max_idle_connections_per_host(work.at_once)
        .build();
    let agent = Agent::with_parts(config, TcpConnector::default(), Literal);
    let (next, delivered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let threads: Vec<_> = (0..work.at_once)
        .map(|_| {
            let (agent, work, next, delivered) = (
                agent.clone(),
                Arc::clone(&work),
                Arc::clone(&next),
                Arc::clone(&delivered),
            );
            std::thread::spawn(move || {
                loop {
                    let token = next.fetch_add(1, Ordering::Relaxed);
                    if token >= work.requests {
                        return;
                    }
                    let endpoint = &work.endpoints[token as usize % work.endpoints.len()];
                    let now = SystemTime::now()
                        .duration_since(UNIX_EPOCH)
                        .unwrap()
                        .as_secs();
                    let id = Uuid::from_u128(u128::from(token));
                    let request = build(&work.event, &work.target, id, 1, now as i64);
                    let mut post = agent.post(endpoint.url.as_str());
                    for (name, value) in &request.headers {
                        post = post.header(name, value);
                    }
                    let mut answer = post.send(&request.body).unwrap();
                    answer.body_mut().read_to_vec().unwrap();
                    delivered.fetch_add(u64::from(answer.status().is_success()), Ordering::Relaxed);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    delivered.load(Ordering::Relaxed)
}
