//! API keys as they are stored, and whether one is good now.

use super::request::Refusal;
use crate::error::Error;
use crate::seam::{clock, scan};
use crate::shmem;
use pgrx::pg_sys;
use uuid::Uuid;

/// What is stored of a key.
pub(crate) struct Key {
    pub(crate) owner: String,
    /// SHA-256 of the token.
    pub(crate) hash: [u8; 32],
    expires_at: Option<pg_sys::TimestampTz>,
    revoked: bool,
}

/// The key of this id, if it is good now. Its use is noted.
pub(crate) fn admitted(id: Uuid) -> Result<Key, Error> {
    // As it is now and not as the transaction's snapshot has it: a revocation ends what is under way too.
    let key = scan::by_id(c"api_key", c"api_key_pkey", id, |row| {
        Some(Key {
            owner: row.get(c"owner")?,
            hash: row.get::<&[u8]>(c"hash")?.try_into().ok()?,
            expires_at: row.timestamp(c"expires_at"),
            revoked: row.timestamp(c"revoked_at").is_some(),
        })
    })?;
    let key = key.flatten().ok_or(Refusal::Unknown)?;
    if key.revoked {
        return Err(Refusal::Revoked.into());
    }
    // SAFETY: reads the system clock.
    let now = unsafe { pg_sys::GetCurrentTimestamp() };
    if key.expires_at.is_some_and(|at| at <= now) {
        return Err(Refusal::Expired.into());
    }
    if let Some(shared) = shmem::shared() {
        // SAFETY: a variable of this process.
        let database = unsafe { pg_sys::MyDatabaseId };
        shared.uses.note(database, id, clock::unix_of(now));
    }
    Ok(key)
}
