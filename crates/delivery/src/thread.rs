//! A delivery thread: a tokio runtime that starts when there is work, and ends when there has been none for a while.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::time::{Instant as TokioInstant, timeout_at};

use crate::desk::Desk;
use crate::failure::Failure;
use crate::lag::{Lag, Tick};
use crate::sync::lock;
use crate::threads;

/// TLS with RSA and long chains has buffers of some kilobytes on the stack; nothing here is deep.
const STACK: usize = 512 * 1024;
/// So many requests are begun before those under way have their turn again: each is signed when it begins.
const BEGUN_A_TURN: usize = 8;

/// After so many turns of tasks, a thread looks whose bytes have come and whose time is over. A task that is flooded takes a
/// tenth of a millisecond a turn.
const EVENTS: u32 = 16;
/// How often a thread looks for connections that have waited too long, while it has any or may soon.
const SWEEP: Duration = Duration::from_secs(1);

/// A request, as a thread sees it. A thread can die at any moment: work that is dropped, begun or not, says so itself.
pub(crate) trait Work: Send + 'static {
    /// Makes it.
    fn run(self, desk: Arc<Desk>) -> impl Future<Output = ()> + Send;
    /// Says why it will not be made.
    fn give_up(self, failure: Failure);
}

enum Order<W> {
    Begin(W),
    /// Close all connections that wait.
    Forget,
    /// What no order does: panic in the thread's own loop.
    #[cfg(test)]
    Panic,
}

/// What a thread is made of.
#[derive(Clone, Copy)]
pub(crate) struct Material {
    stack: usize,
    runtime: fn() -> io::Result<Runtime>,
}

impl Default for Material {
    fn default() -> Material {
        Material {
            stack: STACK,
            runtime,
        }
    }
}

#[cfg(test)]
impl Material {
    /// Of which no thread can be made: its stack is larger than the room for addresses.
    pub(crate) fn too_large() -> Material {
        Material {
            stack: 1 << 47,
            ..Material::default()
        }
    }
}

struct State<W> {
    orders: VecDeque<Order<W>>,
    lives: bool,
    stopping: bool,
}

struct Shared<W> {
    state: Mutex<State<W>>,
    wake: Notify,
    under_way: AtomicUsize,
    idle: Duration,
    desk: Arc<Desk>,
    lag: Lag,
    material: Material,
}

/// Where requests are given to a thread. All that is called here returns at once.
pub(crate) struct Thread<W: Work> {
    shared: Arc<Shared<W>>,
}

impl<W: Work> Thread<W> {
    pub(crate) fn new(desk: Desk, idle: Duration, material: Material) -> Thread<W> {
        Thread {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    orders: VecDeque::new(),
                    lives: false,
                    stopping: false,
                }),
                wake: Notify::new(),
                under_way: AtomicUsize::new(0),
                idle,
                desk: Arc::new(desk),
                lag: Lag::new(Instant::now()),
                material,
            }),
        }
    }

    /// Has a request made.
    pub(crate) fn begin(&self, work: W) {
        let mut state = lock(&self.shared.state);
        if state.stopping {
            // Not under the lock: it accounts for itself.
            drop(state);
            drop(work);
            return;
        }
        state.orders.push_back(Order::Begin(work));
        if state.lives {
            let was_empty = state.orders.len() == 1;
            drop(state);
            if was_empty {
                self.shared.wake.notify_one();
            }
            return;
        }
        let shared = Arc::clone(&self.shared);
        // What is thrown out must not be given up under the lock: another thread may be given it.
        let stack = shared.material.stack;
        if threads::spawn("webhooks-send", stack, move || Alive::new(shared).live()).is_ok() {
            state.lives = true;
        } else {
            let orders = std::mem::take(&mut state.orders);
            drop(state);
            give_up(orders, Failure::NoThread);
        }
    }

    /// Has all connections closed that wait.
    pub(crate) fn forget(&self) {
        let mut state = lock(&self.shared.state);
        if state.lives {
            state.orders.push_back(Order::Forget);
            drop(state);
            self.shared.wake.notify_one();
        }
    }

    /// Ends the thread, and what is under way on it, as soon as it notices.
    pub(crate) fn stop(&self) {
        let mut state = lock(&self.shared.state);
        state.stopping = true;
        let orders = std::mem::take(&mut state.orders);
        drop(state);
        drop(orders);
        self.shared.wake.notify_one();
    }

    pub(crate) fn lives(&self) -> bool {
        lock(&self.shared.state).lives
    }

    /// The largest delay of this minute and the last.
    pub(crate) fn lag(&self) -> Duration {
        self.shared.lag.largest(Instant::now())
    }
}

fn give_up<W: Work>(orders: VecDeque<Order<W>>, failure: Failure) {
    for order in orders {
        if let Order::Begin(work) = order {
            work.give_up(failure);
        }
    }
}

/// The thread while it lives. However it ends, nobody counts it alive after that, and nothing is left with it.
struct Alive<W: Work> {
    shared: Arc<Shared<W>>,
    why: Failure,
    /// It has said so itself, and another may live already.
    ended: bool,
}

impl<W: Work> Drop for Alive<W> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // They belong to a runtime that is no more.
        self.shared.desk.forget_all();
        let orders = {
            let mut state = lock(&self.shared.state);
            state.lives = false;
            std::mem::take(&mut state.orders)
        };
        give_up(orders, self.why);
    }
}

impl<W: Work> Alive<W> {
    fn new(shared: Arc<Shared<W>>) -> Alive<W> {
        Alive {
            shared,
            why: Failure::NoThread,
            ended: false,
        }
    }

    fn live(mut self) {
        match (self.shared.material.runtime)() {
            // With the runtime goes what is under way on it.
            Ok(runtime) => runtime.block_on(self.shared.serve(&mut self.ended)),
            Err(error) => {
                // Whatever it was, it was not the endpoint.
                let ours = Some(Failure::from(&error)).filter(Failure::is_ours);
                self.why = ours.unwrap_or(Failure::NoThread);
            }
        }
    }
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread()
        .event_interval(EVENTS)
        .enable_io()
        .enable_time()
        .build()
}

impl<W: Work> Shared<W> {
    /// Until the pool stops, or there is nothing to do any more: then the thread counts as `ended`.
    async fn serve(self: &Arc<Self>, ended: &mut bool) {
        let mut begun = Vec::with_capacity(BEGUN_A_TURN);
        let mut rested = Instant::now();
        let mut tick = Tick::default();
        loop {
            tick.look(Instant::now(), self.is_busy(), &self.lag);
            {
                let mut state = lock(&self.state);
                if state.stopping {
                    return;
                }
                let count = state.orders.len().min(BEGUN_A_TURN);
                begun.extend(state.orders.drain(..count));
                if begun.is_empty() && self.may_end(rested) {
                    self.desk.forget_all();
                    state.lives = false;
                    *ended = true;
                    return;
                }
            }
            if begun.is_empty() {
                self.rest(rested, tick.next()).await;
                continue;
            }
            for order in begun.drain(..) {
                match order {
                    Order::Begin(work) => self.spawn(work),
                    Order::Forget => self.desk.forget_all(),
                    #[cfg(test)]
                    Order::Panic => panic!("the loop panics, as a test wants it"),
                }
            }
            rested = Instant::now();
            tick.look(rested, self.is_busy(), &self.lag);
            tokio::task::yield_now().await;
        }
    }

    /// Whether requests are under way.
    fn is_busy(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) > 0
    }

    fn may_end(&self, since: Instant) -> bool {
        !self.is_busy() && since.elapsed() >= self.idle
    }

    /// Waits for orders, or until something is to be done without any.
    async fn rest(&self, since: Instant, tick: Option<Instant>) {
        let end = if self.desk.sweep() || self.is_busy() {
            Instant::now() + SWEEP
        } else {
            since + self.idle
        };
        let until = tick.map_or(end, |tick| tick.min(end));
        let _ = timeout_at(TokioInstant::from_std(until), self.wake.notified()).await;
    }

    fn spawn(self: &Arc<Self>, work: W) {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let over = Over(Arc::clone(self));
        tokio::spawn(async move {
            work.run(Arc::clone(&over.0.desk)).await;
            drop(over);
        });
    }
}

/// A request that is under way, however it ends.
struct Over<W: Work>(Arc<Shared<W>>);

impl<W: Work> Drop for Over<W> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desk::Counts;
    use crate::pool::Limits;
    use std::future::pending;
    use std::thread::sleep;

    /// What became of a piece of work.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum End {
        Ran,
        GivenUp(Failure),
        /// Neither: its thread was gone.
        Dropped,
    }

    enum Does {
        Nothing,
        Panics,
        Hangs,
        Blocks(Duration),
    }

    struct Task {
        does: Does,
        begun: Arc<AtomicUsize>,
        ends: Arc<Mutex<Vec<End>>>,
        end: End,
    }

    impl Work for Task {
        async fn run(mut self, _: Arc<Desk>) {
            self.begun.fetch_add(1, Ordering::SeqCst);
            match self.does {
                Does::Nothing => {}
                Does::Panics => panic!("a request panics, as a test wants it"),
                Does::Hangs => pending().await,
                Does::Blocks(long) => sleep(long),
            }
            self.end = End::Ran;
        }

        fn give_up(mut self, failure: Failure) {
            self.end = End::GivenUp(failure);
        }
    }

    impl Drop for Task {
        fn drop(&mut self) {
            lock(&self.ends).push(self.end);
        }
    }

    /// A thread, and what became of its work.
    struct Bench {
        thread: Thread<Task>,
        begun: Arc<AtomicUsize>,
        ends: Arc<Mutex<Vec<End>>>,
    }

    impl Bench {
        fn new(idle: Duration, material: Material) -> Bench {
            let desk = Desk::new(Limits::default(), 1, Arc::<Counts>::default());
            Bench {
                thread: Thread::new(desk, idle, material),
                begun: Arc::default(),
                ends: Arc::default(),
            }
        }

        fn task(&self, does: Does) -> Task {
            Task {
                does,
                begun: Arc::clone(&self.begun),
                ends: Arc::clone(&self.ends),
                end: End::Dropped,
            }
        }

        fn begin(&self, does: Does) {
            self.thread.begin(self.task(does));
        }

        fn ends(&self) -> Vec<End> {
            lock(&self.ends).clone()
        }

        /// Waits for so many ends.
        fn wait(&self, count: usize) -> Vec<End> {
            eventually("all has ended", || self.ends().len() >= count);
            self.ends()
        }

        /// Gives several orders in one moment.
        fn order(&self, orders: Vec<Order<Task>>) {
            lock(&self.thread.shared.state).orders.extend(orders);
            self.thread.shared.wake.notify_one();
        }
    }

    fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !is_so() {
            assert!(Instant::now() < end, "never came true: {what}");
            sleep(Duration::from_millis(1));
        }
    }

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_request_that_panics_takes_no_other_with_it() {
        let bench = Bench::new(Duration::from_millis(20), Material::default());
        bench.begin(Does::Hangs);
        eventually("it hangs", || bench.begun.load(Ordering::SeqCst) == 1);
        for does in [Does::Panics, Does::Nothing, Does::Panics, Does::Nothing] {
            bench.begin(does);
        }
        let mut ends = bench.wait(4);
        ends.sort_by_key(|end| *end == End::Ran);
        assert_eq!(ends, [End::Dropped, End::Dropped, End::Ran, End::Ran]);
        let under_way = &bench.thread.shared.under_way;
        eventually("one is under way", || under_way.load(Ordering::SeqCst) == 1);
        assert!(bench.thread.lives());
    }

    #[test]
    fn a_thread_whose_loop_panics_is_not_counted_alive_and_another_takes_its_place() {
        let bench = Bench::new(LONG, Material::default());
        for round in 1..=20 {
            bench.begin(Does::Hangs);
            eventually("it hangs", || {
                bench.begun.load(Ordering::SeqCst) == round && bench.thread.lives()
            });
            let more = |n| (0..n).map(|_| Order::Begin(bench.task(Does::Hangs)));
            // Some before it, some that were taken with it, some that were not.
            let mut orders: Vec<_> = more(2).collect();
            orders.push(Order::Panic);
            orders.extend(more(2 * BEGUN_A_TURN));
            bench.order(orders);
            let ends = bench.wait(round * (1 + 2 + 2 * BEGUN_A_TURN));
            assert!(!ends.contains(&End::Ran));
            assert!(ends.contains(&End::GivenUp(Failure::NoThread)));
            // Before what was left is given up, so that whoever hears of it finds it so.
            assert!(!bench.thread.lives());
            assert_eq!(bench.thread.shared.under_way.load(Ordering::SeqCst), 0);
            bench.begun.store(round, Ordering::SeqCst);
        }
        bench.begin(Does::Nothing);
        eventually("the next has a thread", || bench.ends().contains(&End::Ran));
    }

    #[test]
    fn without_a_runtime_there_is_no_thread_and_no_endpoint_is_blamed() {
        for (error, failure) in [
            (nix::libc::EMFILE, Failure::NoDescriptor),
            (nix::libc::ENOMEM, Failure::NoMemory),
            (nix::libc::EPERM, Failure::NoThread),
        ] {
            let runtime = match error {
                nix::libc::EMFILE => || Err(io::Error::from_raw_os_error(nix::libc::EMFILE)),
                nix::libc::ENOMEM => || Err(io::Error::from_raw_os_error(nix::libc::ENOMEM)),
                _ => || Err(io::Error::from_raw_os_error(nix::libc::EPERM)),
            };
            let material = Material {
                runtime,
                ..Material::default()
            };
            let bench = Bench::new(LONG, material);
            for round in 1..=3 {
                bench.begin(Does::Nothing);
                assert_eq!(bench.wait(round), vec![End::GivenUp(failure); round]);
                assert!(!bench.thread.lives());
            }
        }
    }

    #[test]
    fn a_thread_that_cannot_be_started_gives_its_work_back_at_once() {
        let bench = Bench::new(LONG, Material::too_large());
        for round in 1..=3 {
            bench.begin(Does::Nothing);
            let ends = bench.ends();
            assert_eq!(ends, vec![End::GivenUp(Failure::NoThread); round]);
            assert!(!bench.thread.lives());
        }
    }

    #[test]
    fn a_stop_at_any_moment_ends_the_thread_and_its_work() {
        for round in 0..200 {
            let bench = Bench::new(LONG, Material::default());
            for _ in 0..20 {
                bench.begin(Does::Hangs);
            }
            if round % 2 == 0 {
                std::thread::yield_now();
            }
            bench.thread.stop();
            bench.begin(Does::Nothing);
            assert_eq!(bench.wait(21), vec![End::Dropped; 21]);
            eventually("it ends", || !bench.thread.lives());
        }
    }

    #[test]
    fn work_that_comes_while_the_thread_ends_is_done() {
        let bench = Bench::new(Duration::ZERO, Material::default());
        for count in 1..=2_000 {
            bench.begin(Does::Nothing);
            if count % 3 != 0 {
                bench.wait(count);
            }
        }
        assert_eq!(bench.wait(2_000), vec![End::Ran; 2_000]);
        eventually("it ends", || !bench.thread.lives());
    }

    #[test]
    fn a_request_that_blocks_its_thread_is_seen_in_the_lag() {
        let bench = Bench::new(LONG, Material::default());
        assert_eq!(bench.thread.lag(), Duration::ZERO);
        bench.begin(Does::Blocks(Duration::from_millis(300)));
        bench.wait(1);
        // It may have begun just after a look.
        let seen = Duration::from_millis(300) - crate::lag::TICK;
        eventually("it is seen", || bench.thread.lag() >= seen);
    }
}
