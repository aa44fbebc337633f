//! A delivery thread: a tokio runtime that starts when there is work, and ends when there has been none for a while.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::time::{Instant as TokioInstant, timeout_at};

use crate::desk::Desk;
use crate::failure::Failure;
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
const TICK: Duration = Duration::from_secs(1);

/// A request, as a thread sees it.
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
}

/// Where requests are given to a thread. All that is called here returns at once.
pub(crate) struct Thread<W: Work> {
    shared: Arc<Shared<W>>,
}

impl<W: Work> Thread<W> {
    pub(crate) fn new(desk: Desk, idle: Duration) -> Thread<W> {
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
            }),
        }
    }

    /// Has a request made.
    pub(crate) fn begin(&self, work: W) {
        let mut state = lock(&self.shared.state);
        if state.stopping {
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
        if threads::spawn("webhooks-send", STACK, move || Alive::new(shared).live()).is_ok() {
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
        match runtime() {
            // With the runtime goes what is under way on it.
            Ok(runtime) => self.ended = runtime.block_on(self.shared.serve()),
            Err(error) => self.why = Failure::from(&error),
        }
    }
}

fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread()
        .event_interval(EVENTS)
        .enable_io()
        .enable_time()
        .build()
}

impl<W: Work> Shared<W> {
    /// Until the pool stops, or there is nothing to do any more: then `true`, and the thread counts as ended.
    async fn serve(self: &Arc<Self>) -> bool {
        let mut begun = Vec::with_capacity(BEGUN_A_TURN);
        let mut rested = Instant::now();
        loop {
            {
                let mut state = lock(&self.state);
                if state.stopping {
                    return false;
                }
                let count = state.orders.len().min(BEGUN_A_TURN);
                begun.extend(state.orders.drain(..count));
                if begun.is_empty() && self.may_end(rested) {
                    self.desk.forget_all();
                    state.lives = false;
                    return true;
                }
            }
            if begun.is_empty() {
                self.rest(rested).await;
                continue;
            }
            for order in begun.drain(..) {
                match order {
                    Order::Begin(work) => self.spawn(work),
                    Order::Forget => self.desk.forget_all(),
                }
            }
            rested = Instant::now();
            tokio::task::yield_now().await;
        }
    }

    fn may_end(&self, since: Instant) -> bool {
        self.under_way.load(Ordering::Relaxed) == 0 && since.elapsed() >= self.idle
    }

    /// Waits for orders, or until something is to be done without any.
    async fn rest(&self, since: Instant) {
        let busy = self.under_way.load(Ordering::Relaxed) > 0;
        let until = if self.desk.sweep() || busy {
            Instant::now() + TICK
        } else {
            since + self.idle
        };
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
