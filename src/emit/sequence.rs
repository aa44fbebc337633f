//! The order of events, which their ids carry.
//!
//! The row lock puts the writers of a row in order: whoever changes a row sees all its earlier versions, and so the
//! events of these have their numbers already. A number is the present microsecond, or the one behind the last
//! number if that is later. After a start of the server the sequence begins behind the largest id that is stored, so
//! that neither a clock that was set back nor a promotion turns two events of a row around.

use crate::error::Error;
use crate::seam::{clock, scan};
use crate::shmem::{self, Slot};
use pgrx::pg_sys;
use std::sync::atomic::Ordering;

/// Numbers beyond this (the year 6429) come from no clock: an id that somebody wrote by hand. They are passed over,
/// since the sequence must not run out of the 48 bits of milliseconds that an id has.
const LAST_PLAUSIBLE_US: u64 = 1_000 << 47;

/// The sequence of this database.
pub(super) struct Sequence(Option<&'static Slot>);

impl Sequence {
    /// Begins it, if nobody has since the server started.
    pub(super) fn of_this_database() -> Result<Self, Error> {
        // SAFETY: a variable of this process.
        let database = unsafe { pg_sys::MyDatabaseId };
        let slot = shmem::shared().and_then(|shared| shared.find_or_take(database));
        if let Some(slot) = slot
            && slot.sequence.load(Ordering::Acquire) == 0
        {
            let stored = scan::last(c"event", c"event_pkey", |row| row.uuid(c"id"))?.flatten();
            let stored = stored
                .map(clock::unix_us_of_id)
                .filter(|&number| number < LAST_PLAUSIBLE_US);
            slot.sequence
                .fetch_max(stored.unwrap_or(1), Ordering::AcqRel);
        }
        Ok(Self(slot))
    }

    /// The next number: microseconds since 1970.
    pub(super) fn next(&self) -> u64 {
        // Without a slot (more databases than are served at once) the clock alone tells.
        let Some(slot) = self.0 else {
            return clock::later_us();
        };
        let now = clock::unix_us();
        let after = |last: u64| now.max(last + 1);
        let last = slot
            .sequence
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| {
                Some(after(last))
            });
        // The closure always gives a number.
        after(last.unwrap_or(0))
    }
}
