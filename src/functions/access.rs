//! Rights of roles: grant_access, revoke_access, and what the views ask.

use super::required;
use crate::access::{self, Right};
use crate::error::{Error, reply};
use crate::seam::owner::as_owner;
use crate::seam::sql::{self, Connection, Statement, arg};
use pgrx::prelude::*;
use pgrx::{Spi, pg_sys};
use std::ffi::CStr;
use webhooks_core::quote::quote;

/// The statements that give a role ($1) a right: its type ($2), schemas ($3), functions ($4), views ($5). An extension
/// that was not updated yet may not have all of them.
static GRANTS: Statement = Statement::new(
    c"SELECT pg_catalog.format('GRANT USAGE ON TYPE webhooks.%I TO %I', $2, $1)
      UNION ALL
      SELECT pg_catalog.format('GRANT USAGE ON SCHEMA %I TO %I', s.name, $1) FROM pg_catalog.unnest($3) AS s(name)
      UNION ALL
      SELECT pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO %I', p.oid::pg_catalog.regprocedure, $1)
        FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
       WHERE n.nspname || '.' || p.proname = ANY ($4)
      UNION ALL
      SELECT pg_catalog.format('GRANT SELECT ON %s TO %I', pg_catalog.to_regclass(v.name), $1)
        FROM pg_catalog.unnest($5) AS v(name) WHERE pg_catalog.to_regclass(v.name) IS NOT NULL",
    NAMES,
);
/// The statements that take it away.
static REVOKES: Statement = Statement::new(
    c"SELECT pg_catalog.format('REVOKE USAGE ON SCHEMA %I FROM %I', s.name, $1) FROM pg_catalog.unnest($3) AS s(name)
      UNION ALL
      SELECT pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM %I', p.oid::pg_catalog.regprocedure, $1)
        FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
       WHERE n.nspname || '.' || p.proname = ANY ($4)
      UNION ALL
      SELECT pg_catalog.format('REVOKE SELECT ON %s FROM %I', pg_catalog.to_regclass(v.name), $1)
        FROM pg_catalog.unnest($5) AS v(name) WHERE pg_catalog.to_regclass(v.name) IS NOT NULL
      UNION ALL
      SELECT pg_catalog.format('REVOKE USAGE ON TYPE webhooks.%I FROM %I', $2, $1)",
    NAMES,
);
const NAMES: &[pg_sys::Oid] = &[
    pg_sys::TEXTOID,
    pg_sys::TEXTOID,
    pg_sys::TEXTARRAYOID,
    pg_sys::TEXTARRAYOID,
    pg_sys::TEXTARRAYOID,
];
/// The types of rights that were granted to a role itself.
static HELD: Statement = Statement::new(
    c"SELECT t.typname::text
        FROM pg_catalog.pg_type t, pg_catalog.aclexplode(t.typacl) a
       WHERE t.typnamespace = 'webhooks'::pg_catalog.regnamespace AND t.typtype = 'd'
         AND a.grantee = $1 AND a.privilege_type = 'USAGE'",
    &[pg_sys::OIDOID],
);

/// The types of rights, and the roles to which each was granted.
static HOLDERS: Statement = Statement::new(
    c"SELECT t.typname::text, r.rolname::text, r.oid
        FROM pg_catalog.pg_type t, pg_catalog.aclexplode(t.typacl) a
        JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
       WHERE t.typnamespace = 'webhooks'::pg_catalog.regnamespace AND t.typtype = 'd'
         AND a.grantee <> t.typowner AND a.privilege_type = 'USAGE'",
    &[],
);

/// What a role with some right must be able to reach. Every function still judges its caller.
#[derive(Clone, Default)]
struct Reach {
    schemas: Vec<&'static str>,
    functions: Vec<&'static str>,
    views: Vec<&'static str>,
}

impl Reach {
    /// What this right is for.
    fn of(right: Right) -> Self {
        // Whatever the role is for: PostgREST runs it for every request of every role.
        let mut reach = Self {
            schemas: vec!["webhooks_api"],
            functions: vec!["webhooks_api.check_request"],
            views: Vec::new(),
        };
        match right {
            Right::Gateway => return reach,
            Right::Api => reach.functions.extend([API, REST, PURE].concat()),
            Right::Emit => reach.functions.extend([EMIT, REST_EMIT, PURE].concat()),
            Right::Read => reach.functions.extend(READ),
            Right::Admin => reach
                .functions
                .extend([API, REST, EMIT, REST_EMIT, READ, ADMIN, PURE].concat()),
        }
        reach.schemas.push("webhooks");
        if matches!(right, Right::Api | Right::Admin) {
            reach.views.extend(REST_VIEWS);
        }
        if matches!(right, Right::Read | Right::Admin) {
            reach.views.extend(LOG_VIEWS);
        }
        if right == Right::Admin {
            reach.views.push("webhooks.api_keys");
        }
        reach
    }

    /// What of this is in none of the others.
    fn without(mut self, others: &[Self]) -> Self {
        let needed = |list: fn(&Self) -> &Vec<&'static str>, name: &str| {
            others.iter().any(|other| list(other).contains(&name))
        };
        self.schemas.retain(|it| !needed(|o| &o.schemas, it));
        self.functions.retain(|it| !needed(|o| &o.functions, it));
        self.views.retain(|it| !needed(|o| &o.views, it));
        self
    }
}

const API: &[&str] = &[
    "webhooks.create_webhook",
    "webhooks.list_webhooks",
    "webhooks.get_webhook",
    "webhooks.update_webhook",
    "webhooks.delete_webhook",
    "webhooks.rotate_secret",
    "webhooks.list_deliveries",
    "webhooks.get_delivery",
    "webhooks.retry_delivery",
    "webhooks.replay",
    "webhooks.send_test",
];
const EMIT: &[&str] = &[
    "webhooks.emit",
    "webhooks.search_performed",
    "webhooks.user_activity",
];
/// With what the views of own rows call.
const REST: &[&str] = &[
    "webhooks_api.list_webhooks",
    "webhooks_api.get_webhook",
    "webhooks_api.list_deliveries",
    "webhooks_api.get_delivery",
    "webhooks_api.status",
    "webhooks_api.activity",
    "webhooks_api.event_types",
    "webhooks_api.create_webhook",
    "webhooks_api.update_webhook",
    "webhooks_api.delete_webhook",
    "webhooks_api.rotate_secret",
    "webhooks_api.send_test",
    "webhooks_api.replay",
    "webhooks_api.retry_delivery",
    "webhooks_api.portal",
    "webhooks.answer_query",
    "webhooks.answer_body",
    "webhooks.answer_call",
    "webhooks.visible_owner",
    "webhooks.may_read",
    "webhooks.undispatched",
    "webhooks.format_id",
    "webhooks.unreadable",
    "webhooks.shown_error",
];
const REST_EMIT: &[&str] = &[
    "webhooks_api.emit",
    "webhooks_api.search_performed",
    "webhooks_api.user_activity",
    "webhooks.answer_body",
    "webhooks.answer_call",
];
const REST_VIEWS: [&str; 3] = [
    "webhooks_api.webhooks",
    "webhooks_api.deliveries",
    "webhooks_api.attempts",
];
const LOG_VIEWS: [&str; 6] = [
    "webhooks.webhooks",
    "webhooks.deliveries",
    "webhooks.attempts",
    "webhooks.status",
    "webhooks.in_flight",
    "webhooks.attached",
];
/// With what the views call, which Postgres lets the views' readers execute.
const READ: &[&str] = &[
    "webhooks.visible_owner",
    "webhooks.metrics",
    "webhooks.may_read",
    "webhooks.may_administer",
    "webhooks.unreadable",
    "webhooks.worker",
    "webhooks.requests_in_flight",
    "webhooks.undispatched",
    "webhooks.shown_error",
    "webhooks.format_id",
    "webhooks.format_time",
];
const ADMIN: &[&str] = &[
    "webhooks.register_event_type",
    "webhooks.attach",
    "webhooks.detach",
    "webhooks.start_worker",
    "webhooks.stop_worker",
    "webhooks.create_api_key",
    "webhooks.revoke_api_key",
    "webhooks.may_administer",
    "webhooks.grant_access",
    "webhooks.revoke_access",
];
const PURE: &[&str] = &["webhooks.sign", "webhooks.verify"];

#[pg_extern(sql = false)]
fn grant_access(role: Option<&CStr>, what: Option<&str>) {
    reply((|| {
        let (role, right) = judged("grant_access()", role, what)?;
        as_owner(|| {
            sql::connect(|spi| {
                lock()?;
                run(spi, &GRANTS, &role, right, &Reach::of(right))
            })
        })
    })());
}

/// Gives every role with a right those functions and views of it that `wanted` names. To be called as the owner of the
/// extension.
pub(crate) fn complete_rights(
    spi: &Connection,
    wanted: impl Fn(&str) -> bool,
) -> Result<(), Error> {
    lock()?;
    let rows = spi.write(&HOLDERS, &[]);
    for row in 0..rows.len() {
        if let (Some(domain), Some(name), Some(oid)) = (
            rows.get::<String>(row, 1),
            rows.get(row, 2),
            rows.get(row, 3),
        ) && let Some(right) = Right::of_domain(&domain)
        {
            let mut reach = Reach::of(right);
            reach.schemas.clear();
            reach.functions.retain(|it| wanted(it));
            reach.views.retain(|it| wanted(it));
            run(spi, &GRANTS, &Role { name, oid }, right, &reach)?;
        }
    }
    Ok(())
}

/// Functions that views call, which PostgreSQL lets the views' readers execute. Each judges its caller.
pub(crate) const CALLED_BY_VIEWS: [&str; 10] = [
    "webhooks.visible_owner",
    "webhooks.may_read",
    "webhooks.may_administer",
    "webhooks.worker",
    "webhooks.requests_in_flight",
    "webhooks.undispatched",
    "webhooks.shown_error",
    "webhooks.unreadable",
    "webhooks.format_id",
    "webhooks.format_time",
];

#[pg_extern(sql = false)]
fn revoke_access(role: Option<&CStr>, what: Option<&str>) {
    reply((|| {
        let (role, right) = judged("revoke_access()", role, what)?;
        as_owner(|| {
            sql::connect(|spi| {
                lock()?;
                let rows = spi.write(&HELD, &[arg(role.oid)]);
                let others: Vec<Reach> = (0..rows.len())
                    .filter_map(|row| rows.get::<String>(row, 1))
                    .filter_map(|domain| Right::of_domain(&domain))
                    .filter(|&other| other != right)
                    .map(Reach::of)
                    .collect();
                run(
                    spi,
                    &REVOKES,
                    &role,
                    right,
                    &Reach::of(right).without(&others),
                )
            })
        })
    })());
}

/// Whether the views show anything to whoever reads them.
#[pg_extern(sql = false)]
fn may_read() -> bool {
    reply(access::is_reader())
}

/// Whether the view of API keys shows anything to whoever reads it.
#[pg_extern(sql = false)]
fn may_administer() -> bool {
    reply(access::is_admin())
}

struct Role {
    name: String,
    oid: pg_sys::Oid,
}

/// Role and right, if the caller may give and take them.
fn judged(
    what: &'static str,
    role: Option<&CStr>,
    right: Option<&str>,
) -> Result<(Role, Right), Error> {
    access::must_be_admin(what)?;
    access::must_write(what)?;
    let name = required(role, "role")?;
    let word = required(right, "what")?;
    let right = Right::parse(word).ok_or_else(|| {
        let known = Right::ALL.map(Right::word).join(", ");
        Error::invalid(
            format!("unknown right \"{}\"", quote(word)),
            format!("Known are {known}."),
        )
    })?;
    // Whoever holds one of these can make himself anybody.
    if matches!(right, Right::Admin | Right::Gateway) && !access::may_appoint()? {
        return Err(Error::denied(
            &format!("the right {word}"),
            "Superusers and the owner of the extension give and take admin and gateway.",
        ));
    }
    if name == c"public" {
        return Err(Error::invalid(
            "rights are not given to PUBLIC",
            "Name a role; everybody who is a member of it has its rights.",
        ));
    }
    let oid = {
        const MISSING_IS_FINE: bool = true;
        // SAFETY: the name is NUL-terminated; a missing role gives InvalidOid.
        unsafe { pg_sys::get_role_oid(name.as_ptr(), MISSING_IS_FINE) }
    };
    let name = name.to_string_lossy().into_owned();
    if oid == pg_sys::InvalidOid {
        return Err(Error::NoRole(name));
    }
    Ok((Role { name, oid }, right))
}

/// One at a time, until the transaction ends: two that change the rights on the same function would fail.
fn lock() -> Result<(), Error> {
    const WHOLE: u16 = 0;
    let one_for_all = Right::Admin.oid()?;
    // SAFETY: in a transaction; the object exists.
    unsafe {
        pg_sys::LockDatabaseObject(
            pg_sys::TypeRelationId,
            one_for_all,
            WHOLE,
            pg_sys::ShareRowExclusiveLock as i32,
        );
    }
    Ok(())
}

/// Runs the statements, which Postgres has put together and quoted.
fn run(
    spi: &Connection,
    statements: &Statement,
    role: &Role,
    right: Right,
    reach: &Reach,
) -> Result<(), Error> {
    let owned = |list: &[&str]| list.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
    let domain = right.domain().to_string_lossy();
    let rows = spi.write(
        statements,
        &[
            arg(role.name.as_str()),
            arg(domain.as_ref()),
            arg(owned(&reach.schemas)),
            arg(owned(&reach.functions)),
            arg(owned(&reach.views)),
        ],
    );
    let statements: Vec<String> = (0..rows.len()).filter_map(|row| rows.get(row, 1)).collect();
    for statement in statements {
        Spi::run(&statement)?;
    }
    Ok(())
}
