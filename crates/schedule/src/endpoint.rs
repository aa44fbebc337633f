//! One webhook in the worker's memory.

use crate::lifetime::Lifetime;
use crate::record::Attempt;
use crate::slow_start::SlowStart;
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use uuid::Uuid;
use webhooks_core::endpoint::Endpoint;
use webhooks_core::event_type::Subscription;
use webhooks_core::filter::Filter;
use webhooks_core::rate::Window;
use webhooks_core::request::Target;
use webhooks_core::retry::Policy;

/// A webhook as its row defines it.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The webhook.
    pub id: Uuid,
    /// Receives only events of this owner; `None`: of all.
    pub owner: Option<String>,
    /// Switched on, and not switched off by the worker.
    pub active: bool,
    /// Counts how often it was switched on.
    pub activation: i32,
    /// Which events are for it.
    pub lifetime: Lifetime,
    /// What it subscribes to.
    pub subscription: Subscription,
    /// What an event must hold; `None`: the stored filter cannot be read, so that this cannot be told yet.
    pub filter: Option<Filter>,
    /// When to try again.
    pub policy: Policy,
    /// Where to, as its user has given it.
    pub url: String,
    /// The same, or why that cannot be used (settings may have changed since it was created).
    pub endpoint: Result<Arc<Endpoint>, String>,
    /// Secrets and the like.
    pub target: Arc<Target>,
    /// When the first delivery failed that no success has followed, Unix milliseconds.
    pub failing_since_ms: Option<i64>,
    /// Deliveries that failed since the last success.
    pub failed_since_success: u64,
    /// Attempts that failed since the last success; `None`: the last one succeeded, or there was none.
    pub failing: Option<Failing>,
    /// Until when its endpoint has asked to be left alone, by `Retry-After`, Unix milliseconds.
    pub paused_until_ms: Option<i64>,
    /// Why its row cannot be read. While it cannot, nothing is sent, tests included, and deliveries wait.
    pub unreadable: Option<String>,
    /// When that ends by itself, Unix milliseconds: with the overlap of a previous secret.
    pub unreadable_until_ms: Option<i64>,
}

impl Definition {
    /// Stands for the owner where a number will do.
    pub(crate) fn owner_number(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.owner.hash(&mut hasher);
        hasher.finish()
    }

    /// Whether its backlog is sent.
    pub(crate) fn sends(&self) -> bool {
        self.active && self.unreadable.is_none()
    }

    /// Whether its endpoint has asked to be left alone for a while. [`Scheduler::tick`](crate::Scheduler::tick) ends that.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused_until_ms.is_some()
    }

    /// Whether another definition of the webhook has the same endpoint, and it was not switched off and on between.
    fn is_same_place(&self, other: &Self) -> bool {
        self.url == other.url && self.activation == other.activation
    }

    /// Takes over the pause of the definition before this one, of which memory knows more than the tables. It ends with
    /// another URL, and when the webhook is switched on again.
    pub fn keep_pause(&mut self, before: &Self) {
        self.paused_until_ms = before
            .paused_until_ms
            .filter(|_| self.is_same_place(before));
    }

    /// Takes over the pause of the definition before this one if it is longer: a dump may have brought the tables one of which
    /// memory does not know, and memory may have one that is not written yet.
    pub fn merge_pause(&mut self, before: &Self) {
        if self.is_same_place(before) {
            self.paused_until_ms = self.paused_until_ms.max(before.paused_until_ms);
        }
    }

    /// Whether this definition begins anew, after `before`: what that one's endpoint answers says nothing of this one's.
    pub(crate) fn moves_from(&self, before: &Self) -> bool {
        !self.is_same_place(before)
    }

    /// Whether an event of this type stays in its backlog. A test goes to an inactive webhook too.
    pub(crate) fn keeps_back(&self, event_type: &str) -> bool {
        !self.sends() && (self.unreadable.is_some() || event_type != TEST)
    }
}

/// Attempts that have failed one after the other, with no success after them.
#[derive(Clone, Debug, PartialEq)]
pub struct Failing {
    /// When the first of them ended, Unix milliseconds.
    pub since_ms: i64,
    /// How many.
    pub attempts: u64,
    /// HTTP status of the last one, if there was an answer.
    pub status: Option<u16>,
    /// Why the last one failed.
    pub error: Option<String>,
}

impl Failing {
    /// After one more failed attempt.
    pub(crate) fn add(known: &mut Option<Self>, ended_ms: i64, attempt: &Attempt) {
        let before = known.as_ref();
        *known = Some(Self {
            since_ms: before.map_or(ended_ms, |it| it.since_ms),
            attempts: before.map_or(0, |it| it.attempts) + 1,
            status: attempt.status,
            error: attempt.error.clone(),
        });
    }
}

/// The type of a test event.
pub(crate) const TEST: &str = "webhook.test";

/// How an endpoint has been answering, which decides how many threads it may hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Pace {
    /// No attempt has ended yet.
    Unknown,
    /// The last attempt ended within [`SLOW_MS`].
    Fast,
    /// The last attempt took longer.
    Slow,
    /// The last attempt timed out.
    TimedOut,
}

/// From how many milliseconds on an attempt makes its endpoint slow.
pub(crate) const SLOW_MS: u64 = 1_000;

/// What has been counted since the statistics were last written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StatsDelta {
    /// Requests made.
    pub attempts: u64,
    /// Deliveries that ended delivered.
    pub delivered: u64,
    /// Deliveries that ended failed.
    pub failed: u64,
    /// The last success, Unix milliseconds.
    pub last_delivery_ms: Option<i64>,
    /// The activation that what follows belongs to.
    pub activation: i32,
    /// The state now: when the first delivery failed that no success has followed, Unix milliseconds.
    pub failing_since_ms: Option<i64>,
    /// The state now: deliveries that failed since the last success.
    pub failed_since_success: u64,
    /// The state now: attempts that failed since the last success.
    pub failing: Option<Failing>,
    /// A pause that has begun or become longer, or was ended; `None`: nothing of that kind.
    pub pause: Option<Pause>,
}

/// A pause for which an endpoint has asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Pause {
    /// Until when, Unix milliseconds; `None`: it was ended.
    pub until_ms: Option<i64>,
    /// The URL that asked.
    pub url: String,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) definition: Definition,
    pub(crate) pace: Pace,
    pub(crate) in_flight: u32,
    /// Counts the ends of pauses, and other URLs and activations.
    pub(crate) era: u64,
    /// The era in which the present URL and activation began: answers to what started before say nothing of it.
    pub(crate) place_era: u64,
    /// Of the requests under way, those of this era.
    pub(crate) era_in_flight: u32,
    /// After a pause, until the endpoint has shown that it takes more.
    pub(crate) slow_start: Option<SlowStart>,
    /// When it is looked at whether its pause is over, Unix milliseconds; `None`: not yet.
    pub(crate) pause_seen_ms: Option<i64>,
    /// Its last pause was too short: the first request after it was refused again.
    pub(crate) was_too_short: bool,
    /// One of its pauses was. Many receivers cut off the rest of a second that they count in.
    pub(crate) cuts_off: bool,
    /// How long it rested last because a request could not be made; 0: the last one was made.
    pub(crate) rest_ms: u64,
    /// Since when its requests could not be made for reasons that are not its own, monotonic milliseconds; `None`: the last
    /// one was made.
    pub(crate) hindered_since_ms: Option<u64>,
    pub(crate) window: Window,
    /// Until when places of the window are kept for attempts that nothing tells of, monotonic milliseconds.
    pub(crate) reserved_until_ms: u64,
    /// Attempts that have ended and whose outcome a crash may take.
    pub(crate) unsaved: u32,
    /// Keys of deliveries that may start, in order.
    pub(crate) ready: VecDeque<usize>,
    /// Groups of fresh deliveries that were not taken into `ready`, in order: they go there when it is nearly empty,
    /// or into the queue when they have waited for too long.
    pub(crate) parked: VecDeque<usize>,
    /// Refused deliveries whose time has come while the endpoint is paused. They wait in memory, without their data if these
    /// are many, and are ready when the pause ends. Some may be gone, or ready, by then.
    pub(crate) refused: Vec<(usize, Uuid)>,
    /// The queue holds rows behind `cursor` that are not in memory.
    pub(crate) backlog: bool,
    /// All queue rows up to this one are in memory or gone.
    pub(crate) cursor: i64,
    /// Stands in the list of endpoints that may start something.
    pub(crate) listed: bool,
    /// Stands in the list of endpoints that want rows.
    pub(crate) hungry: bool,
    /// Stands in the heap of endpoints that the rate limit holds.
    pub(crate) held: bool,
    /// Has figures in `delta` and stands in the list of those.
    pub(crate) counted: bool,
    pub(crate) delta: StatsDelta,
    /// Deliveries in memory that point here.
    pub(crate) members: u32,
    /// The webhook was deleted; the state goes when nothing is in flight.
    pub(crate) gone: bool,
}

impl State {
    pub(crate) fn new(definition: Definition) -> Self {
        Self {
            definition,
            pace: Pace::Unknown,
            in_flight: 0,
            era: 0,
            place_era: 0,
            era_in_flight: 0,
            slow_start: None,
            pause_seen_ms: None,
            was_too_short: false,
            cuts_off: false,
            rest_ms: 0,
            hindered_since_ms: None,
            window: Window::new(),
            reserved_until_ms: 0,
            unsaved: 0,
            ready: VecDeque::new(),
            parked: VecDeque::new(),
            refused: Vec::new(),
            backlog: false,
            cursor: i64::MIN,
            listed: false,
            hungry: false,
            held: false,
            counted: false,
            delta: StatsDelta::default(),
            members: 0,
            gone: false,
        }
    }

    /// A pause has ended, or another endpoint has come.
    pub(crate) fn begin_era(&mut self) {
        self.era += 1;
        self.era_in_flight = 0;
        self.hindered_since_ms = None;
    }

    /// With fewer ready deliveries than this it asks for more, when it has more. While it is paused it asks for none.
    pub(crate) fn low(&self) -> usize {
        match self.pace {
            _ if self.definition.is_paused() => 0,
            Pace::TimedOut => 1,
            _ => 16,
        }
    }

    /// How many deliveries to keep ready: an endpoint that takes one at a time needs few. One that is paused needs none: a
    /// pause may last a day, and many endpoints may be paused at once.
    pub(crate) fn prefetch(&self) -> usize {
        match self.pace {
            _ if self.definition.is_paused() => 0,
            Pace::TimedOut => 4,
            _ => 64,
        }
    }
}
