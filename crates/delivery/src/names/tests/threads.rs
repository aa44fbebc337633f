use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::task::{Context, Poll, Waker};
use std::{io, thread};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinSet;

use super::super::{Clock, Lookup, Names, Spawn, canonical};
use super::*;
use crate::failure::Failure;
use crate::sync::lock;

/// No test takes longer, unless it fails.
const LIMIT: Duration = Duration::from_secs(30);

/// A look-up that ends as the test says, and hangs where the test says.
#[derive(Default)]
struct Script {
    lines: Mutex<Lines>,
    changed: Condvar,
    /// Milliseconds that the test has added to the clock.
    ahead: AtomicU64,
}

#[derive(Default)]
struct Lines {
    ends: HashMap<String, Found>,
    hanging: Option<fn(&str) -> bool>,
    asked: Vec<String>,
    ended: usize,
    own: Vec<io::Result<Vec<IpAddr>>>,
}

impl Lookup for Script {
    fn lookup(&self, name: &str) -> Found {
        let mut lines = lock(&self.lines);
        lines.asked.push(name.to_owned());
        self.changed.notify_all();
        while lines.hanging.is_some_and(|hangs| hangs(name)) {
            lines = self.changed.wait(lines).unwrap();
        }
        lines.ended += 1;
        self.changed.notify_all();
        let end = lines.ends.get(name).cloned();
        drop(lines);
        match end {
            Some(Ok(none)) if name.starts_with("panic") => panic!("{none:?}"),
            end => end.unwrap_or_else(|| found(1)),
        }
    }

    fn own(&self) -> io::Result<Vec<IpAddr>> {
        lock(&self.lines)
            .own
            .pop()
            .unwrap_or_else(|| Err(io::Error::other("no descriptor is left")))
    }
}

/// Names, and the script that they follow. No thread is left behind when a test fails.
struct Stage {
    script: Arc<Script>,
    names: Arc<Names>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.names.stop();
        self.hang(None);
    }
}

impl Stage {
    fn new() -> Stage {
        Stage::with(|run| thread::Builder::new().spawn(run).map(drop))
    }

    fn with(spawn: Spawn) -> Stage {
        let script = Arc::new(Script::default());
        let (watch, begun) = (Arc::clone(&script), start());
        let clock: Clock = Box::new(move || begun + millis(watch.ahead.load(Ordering::SeqCst)));
        let lookup: Arc<dyn Lookup> = Arc::clone(&script) as _;
        Stage {
            script,
            names: Names::with(lookup, spawn, clock),
        }
    }

    fn later(&self, by: Duration) {
        self.script
            .ahead
            .fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }

    fn set(&self, name: &str, end: Found) {
        lock(&self.script.lines).ends.insert(name.to_owned(), end);
    }

    fn hang(&self, hanging: Option<fn(&str) -> bool>) {
        lock(&self.script.lines).hanging = hanging;
        self.script.changed.notify_all();
    }

    fn asked(&self) -> Vec<String> {
        lock(&self.script.lines).asked.clone()
    }

    /// Waits until the look-ups that were asked for are as the test wants them.
    fn until(&self, what: &str, is: impl Fn(&[String]) -> bool) {
        let lines = lock(&self.script.lines);
        let waited =
            self.script
                .changed
                .wait_timeout_while(lines, LIMIT, |lines| !is(&lines.asked));
        let (lines, waited) = waited.unwrap();
        assert!(!waited.timed_out(), "{what}: {:?}", lines.asked);
    }

    /// Waits until no look-up runs.
    fn quiet(&self) {
        let begun = Instant::now();
        loop {
            let state = lock(&self.names.state);
            if state.busy == 0 && state.ready.is_empty() {
                return;
            }
            drop(state);
            assert!(
                begun.elapsed() < LIMIT,
                "look-ups go on: {:?}",
                self.asked()
            );
            thread::yield_now();
        }
    }

    fn resolve(&self, name: &str, owner: u64) -> Result<Arc<[IpAddr]>, Failure> {
        let resolved = async { tokio::time::timeout(LIMIT, self.names.resolve(name, owner)).await };
        runtime().block_on(resolved).expect("an answer")
    }

    /// Resolves a name that must be known: without waiting.
    fn known(&self, name: &str, owner: u64) -> Result<Arc<[IpAddr]>, Failure> {
        match poll(self.names.resolve(name, owner)) {
            Poll::Ready(reply) => reply,
            Poll::Pending => panic!("{name} is waited for"),
        }
    }

    /// Starts requests that wait for names, each for this long at most.
    fn requests(
        &self,
        limit: Duration,
        names: impl Iterator<Item = (String, u64)>,
    ) -> JoinSet<Result<Arc<[IpAddr]>, Failure>> {
        let mut requests = JoinSet::new();
        for (name, owner) in names {
            let (all, begun) = (Arc::clone(&self.names), tokio::time::Instant::now());
            requests.spawn_local(async move {
                let reply = tokio::time::timeout_at(begun + limit, all.resolve(&name, owner)).await;
                reply.unwrap_or_else(|_| Err(all.gave_up(&name)))
            });
        }
        requests
    }
}

fn poll<T>(future: impl Future<Output = T>) -> Poll<T> {
    let runtime = Handle::try_current().is_err().then(runtime);
    let _entered = runtime.as_ref().map(Runtime::enter);
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

fn on_a_delivery_thread<T>(run: impl Future<Output = T>) -> T {
    tokio::task::LocalSet::new().block_on(&runtime(), run)
}

#[test]
fn a_name_is_looked_up_once_and_remembered() {
    let stage = Stage::new();
    stage.hang(Some(|_| true));
    let threads: Vec<_> = (0..4)
        .map(|owner| {
            let names = Arc::clone(&stage.names);
            thread::spawn(move || {
                runtime().block_on(async {
                    let ask = |name| tokio::time::timeout(LIMIT, names.resolve(name, owner));
                    let (a, b) = tokio::join!(ask("One.Example."), ask("one.example"));
                    (a.unwrap(), b.unwrap())
                })
            })
        })
        .collect();
    stage.until("it is looked up", |asked| asked == ["one.example"]);
    stage.hang(None);
    for thread in threads {
        assert_eq!(thread.join().unwrap(), (Ok(addresses(1)), Ok(addresses(1))));
    }
    assert_eq!(stage.known("ONE.example", 9), Ok(addresses(1)));
    assert_eq!(stage.asked(), ["one.example"]);
}

#[test]
fn names_differ_neither_by_case_nor_by_a_dot_at_their_end() {
    for name in ["a.example", "a.example.", "A.eXample"] {
        assert_eq!(canonical(name), "a.example");
    }
    assert!(matches!(
        canonical("a.example."),
        std::borrow::Cow::Borrowed(_)
    ));
    let stage = Stage::new();
    for empty in ["", "."] {
        assert_eq!(stage.known(empty, 1), Err(Failure::NameNotFound));
    }
}

#[test]
fn under_steady_traffic_nobody_waits_and_a_name_that_moves_is_followed() {
    let stage = Stage::new();
    stage.resolve("moving.example", 1).unwrap();
    let mut moved = None;
    for second in 1..=300_u64 {
        stage.later(seconds(1));
        if second == 100 {
            stage.set("moving.example", found(2));
        }
        let now = stage.known("moving.example", 1).unwrap();
        if now == addresses(2) {
            moved.get_or_insert(second);
        }
        stage.quiet();
    }
    let moved = moved.expect("it is followed");
    assert!((100..=130).contains(&moved), "{moved}");
    assert!(
        (14..=16).contains(&stage.asked().len()),
        "{}",
        stage.asked().len()
    );
}

#[test]
fn a_refresh_that_hangs_holds_nobody_up() {
    let stage = Stage::new();
    stage.resolve("a.example", 1).unwrap();
    stage.hang(Some(|_| true));
    stage.later(seconds(31));
    // The first request waits, for a moment.
    assert_eq!(stage.resolve("a.example", 1), Ok(addresses(1)));
    stage.until("it is refreshed", |asked| asked.len() == 2);
    for _ in 0..3590 / 10 {
        stage.later(seconds(9));
        assert_eq!(stage.known("a.example", 1), Ok(addresses(1)));
    }
    stage.set("a.example", ABSENT);
    stage.hang(None);
    stage.quiet();
    assert_eq!(stage.known("a.example", 1), Err(Failure::NameNotFound));
}

#[test]
fn a_tenant_with_dead_names_delays_no_other_webhook() {
    let one_domain: fn(usize) -> String = |n| format!("n{n}.dead.co.uk");
    let many_domains: fn(usize) -> String = |n| format!("www.dead{n}.example");
    // An owner's own names under another domain are held up only by its dead names under many.
    for (dead_name, neighbour) in [(one_domain, 1), (many_domains, 5)] {
        let stage = Stage::new();
        stage.resolve("known.example", 2).unwrap();
        stage.hang(Some(|name| name.contains("dead")));
        on_a_delivery_thread(async {
            let mut dead = stage.requests(LIMIT, (0..300).map(|n| (dead_name(n), 1)));
            tokio::task::yield_now().await;
            stage.until("some hang", |asked| asked.len() > 4);
            stage.later(seconds(25));
            assert_eq!(stage.known("known.example", 2), Ok(addresses(1)));
            stage.until("it is refreshed", |asked| {
                asked.iter().filter(|name| *name == "known.example").count() == 2
            });
            for (owner, name) in [
                (3, "new.example"),
                (neighbour, "neighbour.co.uk"),
                (4, "neighbour2.co.uk"),
            ] {
                let reply = tokio::time::timeout(LIMIT, stage.names.resolve(name, owner)).await;
                assert_eq!(reply.unwrap(), Ok(addresses(1)), "{name}");
            }
            assert_eq!(stage.names.gave_up(&dead_name(0)), Failure::TimedOut);
            stage.hang(None);
            while let Some(reply) = dead.join_next().await {
                assert_eq!(reply.unwrap(), Ok(addresses(1)));
            }
        });
    }
}

#[test]
fn lookups_of_requests_that_gave_up_are_forgotten() {
    let stage = Stage::new();
    stage.hang(Some(|name| name.contains("dead")));
    on_a_delivery_thread(async {
        let mut dead = stage.requests(
            millis(200),
            (0..300).map(|n| (format!("www.dead{n}.example"), 1)),
        );
        while let Some(reply) = dead.join_next().await {
            assert!(reply.unwrap().is_err());
        }
    });
    let begun = stage.asked().len();
    stage.hang(None);
    stage.resolve("fine.example", 1).unwrap();
    stage.quiet();
    assert_eq!(
        stage.asked().len(),
        begun + 1,
        "{begun} had begun, and no more"
    );
}

/// A resolver that stops: what hangs ends without an answer.
fn stop_the_resolver(fails: fn(&Stage)) {
    let stage = Stage::new();
    for owner in 0..20 {
        stage
            .resolve(&format!("known.owner{owner}.example"), owner)
            .unwrap();
    }
    stage.later(seconds(22));
    fails(&stage);
    on_a_delivery_thread(async {
        for second in 0..10 {
            for owner in 0..20 {
                let known = stage.known(&format!("known.owner{owner}.example"), owner);
                assert_eq!(known, Ok(addresses(1)), "{second}");
            }
            stage.later(seconds(1));
            let new = (0..20).map(|owner| (format!("new{second}.owner{owner}.example"), owner));
            let mut new = stage.requests(millis(50), new);
            while let Some(reply) = new.join_next().await {
                let failure = reply.unwrap().unwrap_err();
                assert_eq!(failure, Failure::ResolverLost, "{second}");
            }
        }
    });
    lock(&stage.script.lines).ends.clear();
    stage.hang(None);
    stage.quiet();
    stage.later(seconds(2));
    for owner in 0..20 {
        let name = format!("new0.owner{owner}.example");
        assert_eq!(stage.resolve(&name, owner), Ok(addresses(1)));
    }
}

#[test]
fn a_resolver_that_hangs_for_ten_seconds_fails_nothing() {
    stop_the_resolver(|stage| {
        stage.hang(Some(|_| true));
        // Requests wait for longer than a second before they give up; here, the first refreshes have.
        for owner in 0..20 {
            stage
                .known(&format!("known.owner{owner}.example"), owner)
                .unwrap();
        }
        stage.later(seconds(1));
    });
}

#[test]
fn a_resolver_that_refuses_for_ten_seconds_fails_nothing() {
    stop_the_resolver(|stage| {
        let mut lines = lock(&stage.script.lines);
        for owner in 0..20 {
            lines
                .ends
                .insert(format!("known.owner{owner}.example"), UNANSWERED);
            for second in 0..10 {
                lines
                    .ends
                    .insert(format!("new{second}.owner{owner}.example"), UNANSWERED);
            }
        }
    });
}

#[test]
fn a_single_domain_that_does_not_answer_is_a_failed_attempt() {
    let stage = Stage::new();
    stage.resolve("fine.example", 2).unwrap();
    for (name, owner) in [
        ("a.dead.example", 1),
        ("b.dead.example", 2),
        ("a.dead.example", 3),
    ] {
        stage.set(name, UNANSWERED);
        stage.later(seconds(1));
        assert_eq!(stage.resolve(name, owner), Err(Failure::NameNotFound));
    }
    let controls = stage
        .asked()
        .iter()
        .filter(|name| *name == "fine.example")
        .count();
    assert_eq!(controls, 4, "{:?}", stage.asked());
    // And so it is when it hangs, however long.
    stage.hang(Some(|name| name.contains("dead")));
    on_a_delivery_thread(async {
        let mut dead = stage.requests(
            millis(700),
            (0..5).map(|n| (format!("n{n}.dead.example"), n)),
        );
        tokio::task::yield_now().await;
        stage.later(seconds(9));
        while let Some(reply) = dead.join_next().await {
            assert_eq!(reply.unwrap(), Err(Failure::TimedOut));
        }
    });
}

#[test]
fn one_owners_dead_domains_fail_for_that_owner_and_for_nobody_else() {
    let stage = Stage::new();
    stage.resolve("fine.example", 2).unwrap();
    for n in 0..30 {
        let name = format!("www.dead{n}.example");
        stage.set(&name, UNANSWERED);
        stage.later(millis(10));
        assert_eq!(stage.resolve(&name, 1 + n % 2), Err(Failure::NameNotFound));
    }
}

#[test]
fn a_tenant_whose_reliable_names_die_does_not_lose_the_resolver_for_others() {
    let stage = Stage::new();
    for (name, owner) in [
        ("www.a1.example", 1),
        ("www.a2.example", 1),
        ("www.good.example", 3),
    ] {
        stage.resolve(name, owner).unwrap();
        stage.later(seconds(1));
    }
    for dead in ["www.a1.example", "www.a2.example", "www.dead.example"] {
        stage.set(dead, UNANSWERED);
    }
    assert_eq!(
        stage.resolve("www.dead.example", 2),
        Err(Failure::NameNotFound)
    );
    assert_eq!(
        stage.asked()[3..],
        ["www.dead.example", "www.a1.example", "www.good.example"]
    );
}

#[test]
fn while_a_request_waits_a_control_tells_whether_the_resolver_answers() {
    let stage = Stage::new();
    stage.resolve("control.example", 2).unwrap();
    stage.hang(Some(|name| name.starts_with("dead")));
    on_a_delivery_thread(async {
        let mut dead = stage.requests(LIMIT, std::iter::once(("dead.example2".to_owned(), 1)));
        tokio::task::yield_now().await;
        stage.later(seconds(1));
        let begun = Instant::now();
        while stage.asked().len() < 3 {
            assert!(begun.elapsed() < LIMIT);
            tokio::time::sleep(millis(10)).await;
        }
        assert_eq!(stage.asked()[1..], ["dead.example2", "control.example"]);
        stage.hang(None);
        assert_eq!(dead.join_next().await.unwrap().unwrap(), Ok(addresses(1)));
    });
}

#[test]
fn a_lookup_that_panics_has_no_answer() {
    let stage = Stage::new();
    stage.set("panic.example", Ok(vec![]));
    assert_eq!(
        stage.resolve("panic.example", 1),
        Err(Failure::NameNotFound)
    );
    stage.quiet();
    assert_eq!(
        stage.resolve("fine.example", 1),
        Ok(addresses(1)),
        "and its thread lives on"
    );
    assert_eq!(lock(&stage.names.state).threads, 1);
}

#[test]
fn stopping_ends_the_waiting_and_the_threads() {
    let stage = Stage::new();
    stage.resolve("known.example", 1).unwrap();
    stage.hang(Some(|name| name.starts_with("hang")));
    on_a_delivery_thread(async {
        let hanging = (0..40).map(|n| (format!("hang{n}.example"), n));
        let mut hanging = stage.requests(LIMIT, hanging);
        tokio::task::yield_now().await;
        stage.until("some hang", |asked| asked.len() > 10);
        stage.names.stop();
        while let Some(reply) = hanging.join_next().await {
            assert_eq!(reply.unwrap(), Err(Failure::ShutDown));
        }
    });
    assert_eq!(stage.known("new.example", 1), Err(Failure::ShutDown));
    assert_eq!(stage.known("known.example", 1), Ok(addresses(1)));
    let begun = stage.asked().len();
    stage.hang(None);
    let waiting = Instant::now();
    while lock(&stage.names.state).threads > 0 {
        assert!(waiting.elapsed() < LIMIT, "threads live on");
        thread::yield_now();
    }
    assert_eq!(stage.asked().len(), begun);
}

#[test]
fn without_a_thread_it_is_nobodys_fault() {
    let stage = Stage::with(|_| Err(io::Error::from_raw_os_error(nix::libc::EAGAIN)));
    assert_eq!(stage.known("a.example", 1), Err(Failure::NoThread));
    assert_eq!(
        stage.known("a.example", 1),
        Err(Failure::NoThread),
        "and it is tried again"
    );
}

#[test]
fn a_single_thread_comes_to_all_names_in_turn() {
    static STARTED: AtomicU64 = AtomicU64::new(0);
    let stage = Stage::with(|run| match STARTED.fetch_add(1, Ordering::SeqCst) {
        0 => thread::Builder::new().spawn(run).map(drop),
        _ => Err(io::Error::from_raw_os_error(nix::libc::EAGAIN)),
    });
    on_a_delivery_thread(async {
        let mut all = stage.requests(LIMIT, (0..50).map(|n| (format!("n{n}.example"), n)));
        while let Some(reply) = all.join_next().await {
            assert_eq!(reply.unwrap(), Ok(addresses(1)));
        }
    });
    let names: HashSet<_> = stage.asked().into_iter().collect();
    assert_eq!(names.len(), 50);
}

#[test]
fn own_addresses_are_believed_for_a_while_and_kept_when_they_cannot_be_found_out() {
    let stage = Stage::new();
    assert_eq!(stage.names.own(), Err(Failure::AddressRefused(None)));
    lock(&stage.script.lines).own = vec![Ok(vec![ip(8)]), Ok(vec![ip(7)])];
    for (later, expected) in [(0, 7), (29, 7), (1, 8), (31, 8)] {
        stage.later(seconds(later));
        assert_eq!(stage.names.own(), Ok(addresses(expected)));
    }
}
