//! The worker's memory: which deliveries wait, which may start, and what is to be written of those that
//! ended. Pure: no Postgres, no sockets; time and randomness are passed in.
//!
//! Rows are the truth and this is a cache of them. A delivery is *fresh* while its event is still in the
//! outbox and it has no row of its own, and *recorded* once it has one in the queue. All fresh deliveries
//! of one event form a [group](Unit): what became of them is written in one transaction with the removal of
//! the outbox row, so that a crash repeats the event as a whole and never half of it. A delivery that
//! succeeds at once thus never has a queue row.
#![forbid(unsafe_code)]

mod batch;
mod endpoint;
mod lifetime;
mod pauses;
mod record;
mod scheduler;
mod shortage;
mod slow_start;
mod snapshot;
mod trouble;

pub use batch::{Batch, QueueRow};
pub use endpoint::{Definition, Failing, Pause, StatsDelta};
pub use lifetime::{Lifetime, Moment};
pub use pauses::Pauses;
pub use record::{
    Addressed, Attempt, Disable, Ending, How, Hurried, OutboxKey, Quarantine, Queued, Recorded,
    Unit, Units, Wanted,
};
pub use scheduler::{Claim, Ended, Hindrance, Limits, NotTried, Now, Scheduler};
pub use snapshot::{Position, Snapshot, Stretch};
pub use trouble::{News, Troubles};
