//! Operations: start and stop the worker, its state, metrics; what CREATE EXTENSION does last.

use crate::access;
use crate::ddl::rights;
use crate::emit::wake;
use crate::error::{Error, reply};
use crate::seam::owner::as_owner;
use crate::seam::sql::{self, Statement};
use crate::seam::{clock, wait};
use crate::shmem::{self, Shared, Slot, State};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;
use webhooks_delivery::Class;

/// How long start_worker() and stop_worker() wait for what they asked for.
const PATIENCE: Duration = Duration::from_secs(10);

static VERSION: Statement = Statement::new(
    c"SELECT e.extversion FROM pg_catalog.pg_extension e WHERE e.extname = 'webhooks'",
    &[],
);
static REMEMBER_HOME: Statement = Statement::new(
    c"INSERT INTO webhooks.home (database) SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()
      ON CONFLICT DO NOTHING",
    &[],
);
/// A schema whose owner is neither a superuser nor the extension's owner.
static STRANGER: Statement = Statement::new(
    c"SELECT n.nspname::text, n.nspowner::pg_catalog.regrole::text
        FROM pg_catalog.pg_namespace n
        JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner
        JOIN pg_catalog.pg_class c ON c.oid = 'webhooks.webhook'::pg_catalog.regclass
       WHERE n.nspname IN ('webhooks', 'webhooks_api') AND NOT r.rolsuper AND n.nspowner <> c.relowner",
    &[],
);
static FIGURES: Statement = Statement::new(
    c"SELECT s.backlog, s.oldest_pending_seconds, coalesce(s.in_flight, 0), s.delivered_total, s.failed_total,
             w.attempts_total, s.truncated_total, s.set_aside, (s.pid IS NOT NULL)::int4,
             (SELECT pg_catalog.count(*) FROM webhooks.webhook_object o WHERE o.active),
             (SELECT pg_catalog.count(*) FROM webhooks.webhook)
        FROM webhooks.status s, webhooks.worker_state w",
    &[],
);

fn shared() -> Result<&'static Shared, Error> {
    shmem::shared().ok_or(Error::NotPreloaded)
}

fn own_slot() -> Result<&'static Slot, Error> {
    // SAFETY: a variable of this process.
    let database = unsafe { pg_sys::MyDatabaseId };
    shared()?
        .find_or_take(database)
        .ok_or_else(|| Error::Limit {
            message: format!("webhooks serves at most {} databases", shmem::SLOTS),
            hint: Some("Drop the extension in databases that do not need it.".to_owned()),
            retry_after_s: None,
        })
}

#[pg_extern(sql = false)]
fn worker() -> TableIterator<
    'static,
    (
        name!(pid, Option<i32>),
        name!(state, String),
        name!(in_flight, i32),
        name!(threads, i32),
        name!(truncated_total, i64),
    ),
> {
    reply(access::must_be_reader("worker()"));
    // SAFETY: a variable of this process.
    let database = unsafe { pg_sys::MyDatabaseId };
    let slot = shmem::shared().and_then(|shared| shared.find(database));
    let state = state(slot).to_owned();
    let row = match slot {
        None => (None, state, 0, 0, 0),
        Some(slot) => {
            let pid = Some(slot.pid.load(Ordering::Acquire)).filter(|&pid| pid != 0);
            (
                pid,
                state,
                slot.in_flight.load(Ordering::Relaxed) as i32,
                slot.threads.load(Ordering::Relaxed) as i32,
                slot.truncated.load(Ordering::Relaxed) as i64,
            )
        }
    };
    TableIterator::once(row)
}

/// Requests of this database's worker that are under way.
#[pg_extern(sql = false)]
fn requests_in_flight() -> TableIterator<
    'static,
    (
        name!(webhook_id, pgrx::Uuid),
        name!(delivery_id, pgrx::Uuid),
        name!(since, TimestampWithTimeZone),
        name!(phase, String),
    ),
> {
    reply(access::must_be_reader("in_flight"));
    // SAFETY: a variable of this process.
    let database = unsafe { pg_sys::MyDatabaseId };
    let requests = shmem::shared().map_or_else(Vec::new, |shared| shared.in_flight.of(database));
    TableIterator::new(requests.into_iter().filter_map(|it| {
        let id = |id: uuid::Uuid| pgrx::Uuid::from_bytes(id.into_bytes());
        let since = TimestampWithTimeZone::try_from(clock::timestamp_of(it.since_ms)).ok()?;
        let phase = it.phase.words().to_owned();
        Some((id(it.webhook), id(it.delivery), since, phase))
    }))
}

/// Whether this server is a standby, or has not been promoted yet: there are no workers then.
fn is_standby() -> bool {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// What the worker of this database does, or why there is none.
fn state(slot: Option<&Slot>) -> &'static str {
    if shmem::shared().is_none() {
        return "not preloaded";
    }
    if is_standby() {
        return "standby";
    }
    match slot {
        Some(slot) if slot.is_stopped() => "stopped",
        Some(slot) => slot.state().word(),
        None => State::None.word(),
    }
}

#[pg_extern(sql = false)]
fn start_worker() -> bool {
    reply((|| {
        access::must_be_admin("start_worker()")?;
        let slot = own_slot()?;
        slot.stopped.store(false, Ordering::Release);
        slot.accept_clone.store(true, Ordering::Release);
        slot.wanted.store(true, Ordering::Release);
        slot.woken.store(true, Ordering::Release);
        let state = slot.state();
        if slot.pid.load(Ordering::Acquire) == 0 {
            // What kept the last one from running is to be found again, or not.
            slot.change_state(state, State::Starting);
        }
        if is_standby() {
            return Ok(false);
        }
        shared()?.wake_launcher();
        let mut running = false;
        let in_time = wait::until(PATIENCE, || {
            let runs = slot.pid.load(Ordering::Acquire) != 0;
            running = runs && matches!(slot.state(), State::Running | State::Disabled);
            running || (!runs && slot.state() == State::Mismatch)
        });
        if in_time && !running {
            let version = sql::connect(|spi| spi.write(&VERSION, &[]).get::<String>(0, 1));
            if let Some(error) = version.and_then(Error::version) {
                return Err(error);
            }
        }
        Ok(running)
    })())
}

#[pg_extern(sql = false)]
fn stop_worker() -> bool {
    reply((|| {
        access::must_be_admin("stop_worker()")?;
        let slot = own_slot()?;
        slot.stopped.store(true, Ordering::Release);
        slot.nudge();
        Ok(wait::until(PATIENCE, || {
            slot.pid.load(Ordering::Acquire) == 0
        }))
    })())
}

/// One figure of the OpenMetrics text.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: f64,
}

#[pg_extern(sql = false)]
fn metrics() -> String {
    reply((|| {
        access::must_be_reader("metrics()")?;
        let metrics = as_owner(|| {
            Ok(sql::connect(|spi| {
                let rows = spi.write(&FIGURES, &[]);
                let whole = |column| rows.get::<i64>(0, column).unwrap_or(0) as f64;
                let small = |column| f64::from(rows.get::<i32>(0, column).unwrap_or(0));
                vec![
                    Metric {
                        name: "webhooks_up",
                        kind: "gauge",
                        help: "Whether the worker of this database runs.",
                        value: small(9),
                    },
                    Metric {
                        name: "webhooks_backlog",
                        kind: "gauge",
                        help: "Deliveries that wait, and events that were not dispatched yet.",
                        value: whole(1),
                    },
                    Metric {
                        name: "webhooks_oldest_pending_seconds",
                        kind: "gauge",
                        help: "How long the oldest has been due.",
                        value: rows.get::<f64>(0, 2).unwrap_or(0.0),
                    },
                    Metric {
                        name: "webhooks_in_flight",
                        kind: "gauge",
                        help: "Requests under way.",
                        value: small(3),
                    },
                    Metric {
                        name: "webhooks_webhooks",
                        kind: "gauge",
                        help: "Webhooks.",
                        value: whole(11),
                    },
                    Metric {
                        name: "webhooks_active_webhooks",
                        kind: "gauge",
                        help: "Webhooks that are switched on.",
                        value: whole(10),
                    },
                    Metric {
                        name: "webhooks_set_aside",
                        kind: "gauge",
                        help: "Rows that the worker passes over.",
                        value: whole(8),
                    },
                    Metric {
                        name: "webhooks_delivered",
                        kind: "counter",
                        help: "Deliveries that ended delivered.",
                        value: whole(4),
                    },
                    Metric {
                        name: "webhooks_failed",
                        kind: "counter",
                        help: "Deliveries that ended failed.",
                        value: whole(5),
                    },
                    Metric {
                        name: "webhooks_attempts",
                        kind: "counter",
                        help: "Requests made.",
                        value: whole(6),
                    },
                    Metric {
                        name: "webhooks_truncated",
                        kind: "counter",
                        help: "Rows that could not be rendered whole.",
                        value: whole(7),
                    },
                ]
            }))
        })?;
        let mut text = String::new();
        for Metric {
            name,
            kind,
            help,
            value,
        } in metrics
        {
            write_family(&mut text, name, kind, help, &[(String::new(), value)]);
        }
        write_requests(&mut text);
        text.push_str("# EOF\n");
        Ok(text)
    })())
}

/// What the worker counts in shared memory, since the server started.
fn write_requests(text: &mut String) {
    // SAFETY: a variable of this process.
    let database = unsafe { pg_sys::MyDatabaseId };
    let slot = shmem::shared().and_then(|shared| shared.find(database));
    let lag_us = slot.map_or(0, |slot| slot.lag_us.load(Ordering::Relaxed));
    write_family(
        text,
        "webhooks_delivery_lag_seconds",
        "gauge",
        "How late delivery threads came to their work, at most, in this minute and the last.",
        &[(String::new(), lag_us as f64 / 1e6)],
    );
    let counts: Vec<(String, f64)> = Class::ALL
        .into_iter()
        .map(|class| {
            let count = slot.map_or(0, |slot| {
                slot.classes[class as usize].load(Ordering::Relaxed)
            });
            (format!("{{class=\"{}\"}}", class.label()), count as f64)
        })
        .collect();
    write_family(
        text,
        "webhooks_requests",
        "counter",
        "What came of requests since the server started.",
        &counts,
    );
}

/// One family with its samples: each with its labels, in braces, and its value.
fn write_family(text: &mut String, name: &str, kind: &str, help: &str, samples: &[(String, f64)]) {
    let _ = write!(text, "# TYPE {name} {kind}\n# HELP {name} {help}\n");
    // OpenMetrics: a counter's sample carries the suffix that its family does not.
    let suffix = if kind == "counter" { "_total" } else { "" };
    for (labels, value) in samples {
        let _ = writeln!(text, "{name}{suffix}{labels} {value}");
    }
}

#[pg_extern(sql = false)]
fn install() {
    reply((|| {
        access::must_be_admin("install()")?;
        shared()?;
        // SAFETY: a variable of the server.
        let encoding = unsafe { pg_sys::GetDatabaseEncoding() };
        if encoding != pg_sys::pg_enc::PG_UTF8 as i32 {
            return Err(Error::State {
                message: "webhooks needs a database with the encoding UTF8".to_owned(),
                hint: Some("CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0".to_owned()),
            });
        }
        as_owner(|| {
            sql::connect(|spi| {
                // It was there before. Its owner could put into it what our statements would run, or drop it.
                let rows = spi.write(&STRANGER, &[]);
                if let Some(schema) = rows.get::<String>(0, 1) {
                    let owner: String = rows.get(0, 2).unwrap_or_default();
                    return Err(Error::State {
                        message: format!("schema {schema} belongs to {owner}"),
                        hint: Some(format!(
                            "Drop the schema, or have it belong to the owner of the extension: ALTER SCHEMA {schema} OWNER TO CURRENT_USER."
                        )),
                    });
                }
                spi.write(&REMEMBER_HOME, &[]);
                rights::take_back_what_nobody_asked_for(spi, &[])
            })
        })?;
        wake::definitions_at_commit();
        wake::altered_at_commit();
        Ok(())
    })());
}
