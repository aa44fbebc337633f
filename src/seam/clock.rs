//! Time and randomness, which the pure crates are given. Main thread only.

use pgrx::pg_sys;
use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;
use std::time::Instant;
use uuid::Uuid;
use webhooks_schedule::Now;

/// Unix milliseconds of 2000-01-01, where Postgres counts from.
const POSTGRES_EPOCH_MS: i64 = 946_684_800_000;

/// The time on both clocks.
pub(crate) fn now() -> Now {
    Now {
        mono_ms: mono_ms(),
        unix_ms: unix_ms(),
    }
}

/// Unix milliseconds.
pub(crate) fn unix_ms() -> i64 {
    // SAFETY: GetCurrentTimestamp reads the system clock and has no precondition.
    unix_of(unsafe { pg_sys::GetCurrentTimestamp() })
}

/// Monotonic milliseconds, from an hour before this process first asked: so that times before its start
/// have a name too.
pub(crate) fn mono_ms() -> u64 {
    const BEFORE: u64 = 3_600_000;
    static START: OnceLock<Instant> = OnceLock::new();
    let since =
        u64::try_from(START.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX);
    since.saturating_add(BEFORE)
}

/// Unix milliseconds of a `timestamptz`.
pub(crate) fn unix_of(timestamp: pg_sys::TimestampTz) -> i64 {
    timestamp
        .div_euclid(1_000)
        .saturating_add(POSTGRES_EPOCH_MS)
}

/// Unix microseconds of a `timestamptz`.
pub(crate) fn unix_us_of(timestamp: pg_sys::TimestampTz) -> i64 {
    timestamp.saturating_add(POSTGRES_EPOCH_MS * 1_000)
}

/// Unix microseconds.
pub(crate) fn unix_us() -> u64 {
    // SAFETY: as in unix_ms().
    u64::try_from(unix_us_of(unsafe { pg_sys::GetCurrentTimestamp() })).unwrap_or(0)
}

/// The `timestamptz` of Unix milliseconds.
pub(crate) fn timestamp_of(unix_ms: i64) -> pg_sys::TimestampTz {
    unix_ms
        .saturating_sub(POSTGRES_EPOCH_MS)
        .saturating_mul(1_000)
}

/// The `timestamptz` of Unix microseconds.
pub(crate) fn timestamp_of_us(unix_us: i64) -> pg_sys::TimestampTz {
    unix_us.saturating_sub(POSTGRES_EPOCH_MS * 1_000)
}

/// Random bytes, fit for secrets.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // SAFETY: the buffer is valid for N bytes.
    let fine = unsafe { pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), N) };
    if !fine {
        pgrx::error!("could not generate random bytes");
    }
    bytes
}

/// A number in 0..1 for jitter. The server's strong randomness is not asked: some builds of it need a file descriptor, and
/// jitter is drawn when there is none.
pub(crate) fn fraction() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 32;
    bits as f64 / (f64::from(u32::MAX) + 1.0)
}

/// Unix microseconds, later than the last ones that this process was given.
pub(crate) fn later_us() -> u64 {
    thread_local! {
        static LAST: Cell<u64> = const { Cell::new(0) };
    }
    let micros = unix_us().max(LAST.get() + 1);
    LAST.set(micros);
    micros
}

/// An id, later than the last one this process made.
pub(crate) fn new_id() -> Uuid {
    id_of(later_us())
}

/// An id of this microsecond since 1970: ids sort as their microseconds do.
///
/// The 12 bits behind the milliseconds hold the fraction of the millisecond (RFC 9562, 6.2, method 3).
pub(crate) fn id_of(unix_us: u64) -> Uuid {
    // One draw of the server's randomness serves many ids: a bulk insert makes 100,000.
    const DRAW: usize = 64;
    thread_local! {
        static POOL: Cell<([u8; DRAW * 8], usize)> = const { Cell::new(([0; DRAW * 8], DRAW)) };
    }
    let (mut pool, mut used) = POOL.get();
    if used == DRAW {
        pool = random();
        used = 0;
    }
    let mut bits = [0; 10];
    let fraction = u16::try_from(unix_us % 1_000 * 4_096 / 1_000).unwrap_or(0);
    bits[..2].copy_from_slice(&fraction.to_be_bytes());
    bits[2..].copy_from_slice(&pool[used * 8..used * 8 + 8]);
    POOL.set((pool, used + 1));
    webhooks_core::id::v7(unix_us / 1_000, bits)
}

/// The microsecond of an id that [`id_of`] made, or the next one.
pub(crate) fn unix_us_of_id(id: Uuid) -> u64 {
    let bytes = id.as_u128();
    let ms = u64::try_from(bytes >> 80).unwrap_or(0);
    let fraction = u64::try_from((bytes >> 64) & 0xfff).unwrap_or(0);
    ms * 1_000 + (fraction * 1_000).div_ceil(4_096)
}
