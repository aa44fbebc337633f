//! The rights that roles hold: each is USAGE on a type of its own, which exists for nothing else.
//!
//! So Postgres keeps them with everything that it does for privileges: inheritance through membership, dump
//! and restore, DROP OWNED. And `GRANT … ON ALL TABLES` or `ON ALL FUNCTIONS IN SCHEMA` hands none of them
//! out, since there is no such statement for types.

use crate::error::Error;
use crate::seam::owner;
use pgrx::pg_sys;
use std::ffi::CStr;

/// What `grant_access()` gives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Right {
    /// Webhooks and deliveries of the owner that a token names.
    Api,
    /// The emit functions, for any owner.
    Emit,
    /// The log of all owners, without bodies.
    Read,
    /// Everything.
    Admin,
    /// The claims of its sessions are believed.
    Gateway,
}

impl Right {
    /// All of them, in the order in which people are told.
    pub(crate) const ALL: [Self; 5] = [
        Self::Api,
        Self::Emit,
        Self::Read,
        Self::Admin,
        Self::Gateway,
    ];

    /// Its name in `grant_access()`.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Emit => "emit",
            Self::Read => "read",
            Self::Admin => "admin",
            Self::Gateway => "gateway",
        }
    }

    /// The right of this name.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.word() == word)
    }

    /// Its type, in schema `webhooks`.
    pub(crate) const fn domain(self) -> &'static CStr {
        match self {
            Self::Api => c"api_access",
            Self::Emit => c"emit_access",
            Self::Read => c"read_access",
            Self::Admin => c"admin_access",
            Self::Gateway => c"gateway_access",
        }
    }

    /// The right that a type stands for.
    pub(crate) fn of_domain(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|it| it.domain().to_bytes() == name.as_bytes())
    }

    /// Oid of its type.
    pub(crate) fn oid(self) -> Result<pg_sys::Oid, Error> {
        // SAFETY: syscache look-ups in a transaction; both names are NUL-terminated, as name keys may be.
        let oid = unsafe {
            let schema = pg_sys::get_namespace_oid(c"webhooks".as_ptr(), true);
            pg_sys::GetSysCacheOid(
                pg_sys::SysCacheIdentifier::TYPENAMENSP as i32,
                pg_sys::Anum_pg_type_oid as pg_sys::AttrNumber,
                pg_sys::Datum::from(self.domain().as_ptr()),
                pg_sys::Datum::from(schema),
                pg_sys::Datum::from(0),
                pg_sys::Datum::from(0),
            )
        };
        if oid == pg_sys::InvalidOid {
            Err(Error::Mismatch)
        } else {
            Ok(oid)
        }
    }

    /// Whether a role holds it, itself or through a role whose rights it has. Superusers hold all.
    pub(crate) fn is_held_by(self, role: pg_sys::Oid) -> Result<bool, Error> {
        const USAGE: pg_sys::AclMode = pg_sys::ACL_USAGE as pg_sys::AclMode;
        let oid = self.oid()?;
        // SAFETY: syscache look-ups in a transaction; the type exists.
        let result = unsafe {
            #[cfg(feature = "pg15")]
            let result = pg_sys::pg_type_aclcheck(oid, role, USAGE);
            #[cfg(not(feature = "pg15"))]
            let result = pg_sys::object_aclcheck(pg_sys::TypeRelationId, oid, role, USAGE);
            result
        };
        Ok(result == pg_sys::AclResult::ACLCHECK_OK)
    }
}

/// Whether a role has the rights of the extension's owner. Superusers do.
pub(crate) fn owns_extension(role: pg_sys::Oid) -> Result<bool, Error> {
    let owner = owner::oid()?;
    // SAFETY: syscache look-ups in a transaction.
    Ok(unsafe { pg_sys::has_privs_of_role(role, owner) })
}
