//! Many requests on one thread. Each runs on a fiber: a stack of its own, which it leaves when it must wait (for a socket,
//! for a name) and comes back to when what it waits for is there. ureq, which waits where it stands, so needs no thread for
//! each request, and no switch between threads for each packet.
//!
//! A [`Loop`] is one such thread. It starts when there is work, and ends when there has been none for a while. Within it,
//! [`park`] and [`Watch`] are what a fiber waits with; [`Waker`] wakes one from any thread.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use slab::Slab;

use crate::sync::lock;
use crate::threads;

/// Measured: a TLS handshake and a request need under 64 KiB in release builds, 96 to 128 KiB in debug builds. Much more than
/// that, since too little would be a SIGSEGV, which restarts the whole cluster; what is not touched costs no memory.
const STACK: usize = 512 * 1024;
/// Stacks that are kept for the next fibers. What they have touched stays in memory.
const SPARE_STACKS: usize = 256;
/// The thread itself runs little.
const THREAD_STACK: usize = 256 * 1024;
/// A fiber that has been there for so long does not count as just begun.
const YOUNG: Duration = Duration::from_millis(4);
/// How many events are taken from the system at once.
const EVENTS: usize = 256;
/// The event of the inbox.
const INBOX: u64 = u64::MAX;

/// Work for a fiber.
pub(crate) type Task = Box<dyn FnOnce() + Send>;

enum Message {
    /// To be run on a fiber.
    Run(Task),
    /// To be run between fibers; must not wait.
    Do(Task),
    Wake(FiberId),
    /// The thread ends when no fiber is left.
    Stop,
}

/// Which fiber of a loop; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FiberId {
    key: usize,
    serial: u64,
}

/// The way into a loop, from any thread.
struct Inbox {
    messages: Mutex<VecDeque<Message>>,
    event: EventFd,
    /// The loop waits for events, and must be told of a message by one.
    asleep: AtomicBool,
}

impl Inbox {
    fn put(&self, message: Message) {
        lock(&self.messages).push_back(message);
        if self.asleep.swap(false, Ordering::SeqCst) {
            // Cannot fail: the counter is far from full.
            let _ = self.event.write(1);
        }
    }
}

/// One thread of fibers.
pub(crate) struct Loop {
    name: &'static str,
    idle: Duration,
    most_young: usize,
    inbox: Arc<Inbox>,
    /// Whether the thread lives. Held while a message is put in, so that none is left behind by a thread that ends.
    lives: Arc<Mutex<bool>>,
    /// What is done on the thread now and then when there is nothing else to do, and before it ends.
    tidy: Arc<dyn Fn(Tidy) + Send + Sync>,
}

/// How much to put in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tidy {
    /// What has been lying around for too long.
    Stale,
    /// Everything: the thread ends.
    All,
}

impl Loop {
    /// A loop without a thread. Of tasks that have just begun it has `most_young` at once (from 1); more wait for their turn.
    pub(crate) fn new(
        name: &'static str,
        idle: Duration,
        most_young: usize,
        tidy: impl Fn(Tidy) + Send + Sync + 'static,
    ) -> io::Result<Loop> {
        Ok(Loop {
            name,
            idle,
            most_young,
            inbox: Arc::new(Inbox {
                messages: Mutex::default(),
                event: EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?,
                asleep: AtomicBool::new(false),
            }),
            lives: Arc::default(),
            tidy: Arc::new(tidy),
        })
    }

    /// Runs the task on a fiber, and starts the thread if there is none.
    ///
    /// # Errors
    /// When it cannot be started. The task is dropped then.
    pub(crate) fn run(&self, task: Task) -> io::Result<()> {
        let mut lives = lock(&self.lives);
        if !*lives {
            let (inbox, state, tidy) = (
                Arc::clone(&self.inbox),
                Arc::clone(&self.lives),
                Arc::clone(&self.tidy),
            );
            let (idle, most_young) = (self.idle, self.most_young);
            threads::spawn(self.name, THREAD_STACK, move || {
                match Reactor::new(Arc::clone(&inbox), most_young) {
                    Ok(reactor) => Rc::new(reactor).live(&state, idle, &*tidy),
                    // No descriptor is to be had: tasks that are dropped tell that themselves.
                    Err(_) => {
                        let mut lives = lock(&state);
                        let dropped = std::mem::take(&mut *lock(&inbox.messages));
                        *lives = false;
                        drop(lives);
                        drop(dropped);
                    }
                }
            })?;
            *lives = true;
        }
        self.inbox.put(Message::Run(task));
        Ok(())
    }

    /// Does something on the thread, between fibers, if there is a thread; else it is dropped here.
    pub(crate) fn with_thread(&self, task: Task) {
        if *lock(&self.lives) {
            self.inbox.put(Message::Do(task));
        }
    }

    /// Has its thread, if there is one, end as soon as no fiber is left.
    pub(crate) fn stop(&self) {
        if *lock(&self.lives) {
            self.inbox.put(Message::Stop);
        }
    }

    /// Whether its thread lives.
    pub(crate) fn lives(&self) -> bool {
        *lock(&self.lives)
    }
}

/// Wakes whoever made it, from any thread: a fiber that [parks](park), or a thread that does.
#[derive(Clone)]
pub(crate) enum Waker {
    Thread(Thread),
    Fiber(FiberWaker),
}

/// Wakes a fiber.
#[derive(Clone)]
pub(crate) struct FiberWaker {
    inbox: Arc<Inbox>,
    fiber: FiberId,
}

impl Waker {
    /// Of the calling fiber, or thread if it runs on none.
    pub(crate) fn here() -> Waker {
        match reactor().and_then(|reactor| Some((reactor.running.get()?, reactor))) {
            Some((fiber, reactor)) => Waker::Fiber(FiberWaker {
                inbox: Arc::clone(&reactor.inbox),
                fiber,
            }),
            None => Waker::Thread(thread::current()),
        }
    }

    /// Ends the present [`park`], or else the next one.
    pub(crate) fn wake(&self) {
        match self {
            Waker::Thread(thread) => thread.unpark(),
            Waker::Fiber(FiberWaker { inbox, fiber }) => inbox.put(Message::Wake(*fiber)),
        }
    }
}

/// Waits to be woken, at most so long. May return without either.
pub(crate) fn park(until: Instant) {
    match reactor() {
        Some(reactor) if reactor.running.get().is_some() => {
            reactor.suspend(until);
        }
        _ => thread::park_timeout(until.saturating_duration_since(Instant::now())),
    }
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Input,
    Output,
    Either,
}

/// What may be possible: true until a try has shown that it is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) input: bool,
    pub(crate) output: bool,
}

/// A socket that the loop of this thread watches. To be used and dropped on that thread.
#[derive(Debug)]
pub(crate) struct Watch {
    key: usize,
    serial: u64,
}

impl Watch {
    /// Watches a socket, which must be closed after the watch is dropped.
    ///
    /// # Errors
    /// When the system refuses, or on a thread that is no loop.
    pub(crate) fn new(socket: BorrowedFd<'_>) -> io::Result<Watch> {
        let reactor = reactor().ok_or_else(|| io::Error::from(ErrorKind::Unsupported))?;
        let serial = reactor.next_serial();
        let key = reactor.watched.borrow_mut().insert(Watched {
            serial,
            ready: Ready::default(),
            waiter: None,
        });
        let watch = Watch { key, serial };
        let flags = EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLRDHUP
            | EpollFlags::EPOLLET;
        let data = token(key, serial);
        reactor.epoll.add(socket, EpollEvent::new(flags, data))?;
        Ok(watch)
    }

    /// Waits until something may be possible; `TimedOut` when the deadline comes first.
    pub(crate) fn wait(&self, wait: Wait, deadline: Instant) -> io::Result<Ready> {
        let reactor = reactor().ok_or_else(|| io::Error::from(ErrorKind::Unsupported))?;
        loop {
            let ready = self.with(&reactor, |watched| {
                watched.waiter = reactor.running.get();
                watched.ready
            })?;
            let possible = match wait {
                Wait::Input => ready.input,
                Wait::Output => ready.output,
                Wait::Either => ready.input || ready.output,
            };
            let waited = possible || reactor.suspend(deadline);
            if possible || !waited {
                self.with(&reactor, |watched| watched.waiter = None)?;
                return if possible {
                    Ok(ready)
                } else {
                    Err(ErrorKind::TimedOut.into())
                };
            }
        }
    }

    /// A try has shown that there is no input, or no room for output: the next event will tell.
    pub(crate) fn exhausted(&self, what: Wait) {
        if let Some(reactor) = reactor() {
            // Without the entry there is nothing to note.
            let _ = self.with(&reactor, |watched| match what {
                Wait::Input => watched.ready.input = false,
                Wait::Output => watched.ready.output = false,
                Wait::Either => watched.ready = Ready::default(),
            });
        }
    }

    fn with<T>(&self, reactor: &Reactor, work: impl FnOnce(&mut Watched) -> T) -> io::Result<T> {
        let mut all = reactor.watched.borrow_mut();
        let mine = all.get_mut(self.key).filter(|it| it.serial == self.serial);
        mine.map(work)
            .ok_or_else(|| io::Error::from(ErrorKind::Unsupported))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(reactor) = reactor() {
            let mut all = reactor.watched.borrow_mut();
            if all.get(self.key).is_some_and(|it| it.serial == self.serial) {
                all.remove(self.key);
            }
        }
    }
}

#[derive(Debug)]
struct Watched {
    serial: u64,
    ready: Ready,
    waiter: Option<FiberId>,
}

/// The data of an event: which watch. Half of the serial is enough to tell one from its predecessor.
fn token(key: usize, serial: u64) -> u64 {
    (serial << 32) | (key as u64 & u64::from(u32::MAX))
}

type Routine = Coroutine<(), (), (), DefaultStack>;

struct Fiber {
    serial: u64,
    /// Absent while it runs.
    routine: Option<Routine>,
    suspended: bool,
    woken: bool,
    young: bool,
    /// Until when it waits.
    deadline: Instant,
    /// The earliest of its timers that has not fired.
    armed: Option<Instant>,
}

/// What a loop's thread knows.
struct Reactor {
    inbox: Arc<Inbox>,
    epoll: Epoll,
    watched: RefCell<Slab<Watched>>,
    fibers: RefCell<Slab<Fiber>>,
    /// What waits for its turn to begin.
    tasks: RefCell<VecDeque<Task>>,
    most_young: usize,
    /// Fibers in the order in which they began, and how many of them are young.
    begun: RefCell<VecDeque<(Instant, FiberId)>>,
    young: Cell<usize>,
    runnable: RefCell<VecDeque<FiberId>>,
    timers: RefCell<BinaryHeap<Reverse<(Instant, FiberId)>>>,
    spare: RefCell<Vec<DefaultStack>>,
    serial: Cell<u64>,
    running: Cell<Option<FiberId>>,
    /// The way out of the fiber that runs.
    yielder: Cell<*const Yielder<(), ()>>,
}

thread_local! {
    static REACTOR: RefCell<Option<Rc<Reactor>>> = const { RefCell::new(None) };
}

/// The loop of this thread.
fn reactor() -> Option<Rc<Reactor>> {
    // Not there any more while the thread's own variables are dropped.
    REACTOR.try_with(|it| it.borrow().clone()).ok().flatten()
}

impl Reactor {
    fn new(inbox: Arc<Inbox>, most_young: usize) -> io::Result<Reactor> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(
            inbox.event.as_fd(),
            EpollEvent::new(EpollFlags::EPOLLIN, INBOX),
        )?;
        Ok(Reactor {
            inbox,
            epoll,
            watched: RefCell::default(),
            fibers: RefCell::default(),
            tasks: RefCell::default(),
            most_young,
            begun: RefCell::default(),
            young: Cell::new(0),
            runnable: RefCell::default(),
            timers: RefCell::default(),
            spare: RefCell::default(),
            serial: Cell::new(0),
            running: Cell::new(None),
            yielder: Cell::new(std::ptr::null()),
        })
    }

    fn next_serial(&self) -> u64 {
        self.serial.set(self.serial.get() + 1);
        self.serial.get()
    }

    /// The life of the thread.
    fn live(self: Rc<Self>, lives: &Mutex<bool>, idle: Duration, tidy: &dyn Fn(Tidy)) {
        REACTOR.with(|it| *it.borrow_mut() = Some(Rc::clone(&self)));
        let mut worked = Instant::now();
        let mut stopping = false;
        loop {
            let messages = std::mem::take(&mut *lock(&self.inbox.messages));
            for message in messages {
                match message {
                    Message::Run(task) => self.tasks.borrow_mut().push_back(task),
                    Message::Do(task) => task(),
                    Message::Wake(fiber) => self.wake(fiber),
                    Message::Stop => stopping = true,
                }
            }
            let now = Instant::now();
            self.fire(now);
            self.grow_up(now);
            loop {
                self.begin();
                let next = self.runnable.borrow_mut().pop_front();
                let Some(fiber) = next else { break };
                self.resume(fiber);
            }
            let at_work = !self.fibers.borrow().is_empty() || !self.tasks.borrow().is_empty();
            if at_work {
                worked = Instant::now();
            }
            let left = idle.saturating_sub(worked.elapsed());
            if !at_work && (left.is_zero() || stopping) {
                tidy(Tidy::All);
                let mut lives = lock(lives);
                if lock(&self.inbox.messages).is_empty() {
                    *lives = false;
                    break;
                }
                drop(lives);
                worked = Instant::now();
            }
            if self.wait(if at_work { None } else { Some(left) }) == 0 {
                tidy(Tidy::Stale);
            }
        }
        REACTOR.with(|it| *it.borrow_mut() = None);
    }

    /// Waits for events, at most so long; how many came.
    fn wait(&self, most: Option<Duration>) -> usize {
        let timer = self.timers.borrow().peek().map(|Reverse((at, _))| *at);
        let turn = (self.begun.borrow().front())
            .filter(|_| !self.tasks.borrow().is_empty())
            .map(|(at, _)| *at + YOUNG);
        let timer = timer
            .into_iter()
            .chain(turn)
            .min()
            .map(|at| at.saturating_duration_since(Instant::now()));
        let mut most = timer.into_iter().chain(most).min();
        self.inbox.asleep.store(true, Ordering::SeqCst);
        if !lock(&self.inbox.messages).is_empty() {
            most = Some(Duration::ZERO);
        }
        let timeout = most.map_or(EpollTimeout::NONE, |most| {
            // Rounded up: a wait must not end just before its time and spin.
            let ms = if most.is_zero() {
                0
            } else {
                most.as_millis() + 1
            };
            EpollTimeout::try_from(i32::try_from(ms).unwrap_or(i32::MAX))
                .unwrap_or(EpollTimeout::ZERO)
        });
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = match self.epoll.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 1,
            // A descriptor that is broken would make this spin.
            Err(_) => {
                thread::sleep(Duration::from_millis(10));
                1
            }
        };
        self.inbox.asleep.store(false, Ordering::SeqCst);
        for event in events.iter().take(count) {
            if event.data() == INBOX {
                // Resets the counter.
                let _ = self.inbox.event.read();
                continue;
            }
            let flags = event.events();
            // An error or a hang-up shows itself in the next read or write.
            let over = flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
            let key = (event.data() & u64::from(u32::MAX)) as usize;
            let mut all = self.watched.borrow_mut();
            let Some(watched) = all
                .get_mut(key)
                .filter(|it| token(key, it.serial) == event.data())
            else {
                continue;
            };
            if over || flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP) {
                watched.ready.input = true;
            }
            if over || flags.contains(EpollFlags::EPOLLOUT) {
                watched.ready.output = true;
            }
            let waiter = watched.waiter;
            drop(all);
            if let Some(fiber) = waiter {
                self.wake(fiber);
            }
        }
        count
    }

    /// Wakes those whose time is over.
    fn fire(&self, now: Instant) {
        loop {
            let mut timers = self.timers.borrow_mut();
            let Some(&Reverse((at, id))) = timers.peek().filter(|Reverse((at, _))| *at <= now)
            else {
                return;
            };
            timers.pop();
            let mut fibers = self.fibers.borrow_mut();
            let Some(fiber) = fibers.get_mut(id.key).filter(|it| it.serial == id.serial) else {
                continue;
            };
            if fiber.armed == Some(at) {
                fiber.armed = None;
            }
            // It may have gone on, and wait for something else by now.
            if fiber.suspended && fiber.deadline > now {
                if fiber.armed.is_none_or(|armed| armed > fiber.deadline) {
                    fiber.armed = Some(fiber.deadline);
                    timers.push(Reverse((fiber.deadline, id)));
                }
                continue;
            }
            drop((timers, fibers));
            self.wake(id);
        }
    }

    fn wake(&self, id: FiberId) {
        let mut fibers = self.fibers.borrow_mut();
        if let Some(fiber) = fibers.get_mut(id.key).filter(|it| it.serial == id.serial)
            && !std::mem::replace(&mut fiber.woken, true)
            && fiber.suspended
        {
            self.runnable.borrow_mut().push_back(id);
        }
    }

    /// Starts what waits, as far as not too much has just begun.
    fn begin(&self) {
        while self.young.get() < self.most_young {
            let task = self.tasks.borrow_mut().pop_front();
            let Some(task) = task else { return };
            self.start(task);
        }
    }

    /// Fibers that have been there for a while are no longer young.
    fn grow_up(&self, now: Instant) {
        let (mut begun, mut fibers) = (self.begun.borrow_mut(), self.fibers.borrow_mut());
        while let Some(&(at, id)) = begun.front() {
            if let Some(fiber) = fibers.get_mut(id.key).filter(|it| it.serial == id.serial) {
                if now < at + YOUNG {
                    return;
                }
                fiber.young = false;
                self.young.set(self.young.get() - 1);
            }
            begun.pop_front();
        }
    }

    fn start(&self, task: Task) {
        let spare = self.spare.borrow_mut().pop();
        let stack = match spare.map_or_else(|| DefaultStack::new(STACK), Ok) {
            Ok(stack) => stack,
            // No memory for a stack: a dropped task tells that itself.
            Err(_) => return,
        };
        let routine = Routine::with_stack(stack, |yielder, ()| {
            if let Some(reactor) = reactor() {
                reactor.yielder.set(yielder);
            }
            task();
        });
        let (serial, now) = (self.next_serial(), Instant::now());
        let key = self.fibers.borrow_mut().insert(Fiber {
            serial,
            routine: Some(routine),
            suspended: true,
            woken: true,
            young: true,
            deadline: now,
            armed: None,
        });
        let id = FiberId { key, serial };
        self.begun.borrow_mut().push_back((now, id));
        self.young.set(self.young.get() + 1);
        self.resume(id);
    }

    /// Lets a fiber run until it waits or ends.
    fn resume(&self, id: FiberId) {
        let routine = {
            let mut fibers = self.fibers.borrow_mut();
            let fiber = fibers.get_mut(id.key).filter(|it| it.serial == id.serial);
            fiber.and_then(|fiber| {
                fiber.suspended = false;
                fiber.woken = false;
                fiber.routine.take()
            })
        };
        let Some(mut routine) = routine else { return };
        let before = self.running.replace(Some(id));
        let result = routine.resume(());
        self.running.set(before);
        let mut fibers = self.fibers.borrow_mut();
        match result {
            CoroutineResult::Yield(()) => {
                if let Some(fiber) = fibers.get_mut(id.key) {
                    fiber.routine = Some(routine);
                }
            }
            CoroutineResult::Return(()) => {
                let young = fibers.remove(id.key).young;
                self.young.set(self.young.get() - usize::from(young));
                drop(fibers);
                let mut spare = self.spare.borrow_mut();
                if spare.len() < SPARE_STACKS {
                    spare.push(routine.into_stack());
                }
                self.forget_old_timers();
            }
        }
    }

    /// Timers of fibers that have ended stay until their time; not too many of them.
    fn forget_old_timers(&self) {
        let (mut timers, alive) = (self.timers.borrow_mut(), self.fibers.borrow());
        if timers.len() > 4 * alive.len() + 4_096 {
            timers.retain(|Reverse((_, id))| {
                alive.get(id.key).is_some_and(|it| it.serial == id.serial)
            });
        }
    }

    /// Leaves the running fiber until it is woken; false when the deadline came first.
    fn suspend(&self, deadline: Instant) -> bool {
        let Some(id) = self.running.get() else {
            return false;
        };
        if let Some(fiber) = self.fibers.borrow_mut().get_mut(id.key) {
            if std::mem::take(&mut fiber.woken) {
                return true;
            }
            if deadline <= Instant::now() {
                return false;
            }
            fiber.deadline = deadline;
            fiber.suspended = true;
            if fiber.armed.is_none_or(|armed| armed > deadline) {
                fiber.armed = Some(deadline);
                self.timers.borrow_mut().push(Reverse((deadline, id)));
            }
        }
        let yielder = self.yielder.get();
        // SAFETY: a fiber runs (`running` says so), and `yielder` is its own: it was set when the fiber began, and is
        // set anew below whenever one goes on. A yielder lives as long as its fiber.
        unsafe { (*yielder).suspend(()) };
        self.yielder.set(yielder);
        Instant::now() < deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const IDLE: Duration = Duration::from_millis(20);

    fn looped() -> Loop {
        Loop::new("test", IDLE, usize::MAX, |_| {}).unwrap()
    }

    #[test]
    fn a_thousand_fibers_wait_on_one_thread() {
        let it = looped();
        let (tell, told) = mpsc::channel();
        let begun = Instant::now();
        for _ in 0..1_000 {
            let tell = tell.clone();
            it.run(Box::new(move || {
                park(Instant::now() + Duration::from_millis(100));
                tell.send(thread::current().id()).unwrap();
            }))
            .unwrap();
        }
        let threads: std::collections::HashSet<_> = told.iter().take(1_000).collect();
        assert_eq!(threads.len(), 1);
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "one after the other would be 100 s"
        );
    }

    #[test]
    fn what_has_just_begun_keeps_others_waiting_and_not_for_long() {
        let it = Loop::new("test", IDLE, 2, |_| {}).unwrap();
        let (tell, told) = mpsc::channel();
        let begun = Instant::now();
        for number in 0..6 {
            let tell = tell.clone();
            it.run(Box::new(move || {
                tell.send((number, begun.elapsed())).unwrap();
                // The first two make room at once.
                if number > 1 {
                    park(Instant::now() + Duration::from_millis(200));
                }
            }))
            .unwrap();
        }
        let times: Vec<_> = told.iter().take(6).collect();
        assert!(times.iter().map(|it| it.0).eq(0..6));
        assert!(times[4].1 >= YOUNG, "{times:?}");
        let waits_for_an_end = times[5].1 >= Duration::from_millis(200);
        assert!(!waits_for_an_end, "{times:?}");
    }

    #[test]
    fn a_fiber_is_woken_from_another_thread_and_long_before_its_time() {
        let it = looped();
        let (tell, told) = mpsc::channel();
        it.run(Box::new(move || {
            tell.send(Some(Waker::here())).unwrap();
            park(Instant::now() + Duration::from_secs(3_600));
            tell.send(None).unwrap();
        }))
        .unwrap();
        told.recv().unwrap().unwrap().wake();
        assert!(told.recv().unwrap().is_none());
    }

    #[test]
    fn to_be_woken_before_parking_counts() {
        let it = looped();
        let (tell, told) = mpsc::channel();
        it.run(Box::new(move || {
            Waker::here().wake();
            park(Instant::now() + Duration::from_secs(3_600));
            tell.send(()).unwrap();
        }))
        .unwrap();
        told.recv_timeout(Duration::from_secs(60)).unwrap();
    }

    #[test]
    fn the_thread_ends_when_there_is_nothing_to_do_and_comes_again() {
        let it = looped();
        for _ in 0..3 {
            let (tell, told) = mpsc::channel();
            it.run(Box::new(move || tell.send(()).unwrap())).unwrap();
            told.recv().unwrap();
            while it.lives() {
                thread::sleep(IDLE / 10);
            }
        }
    }
}
