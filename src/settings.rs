//! The settings, `webhooks.*`: their names, defaults, ranges and who may change them.
//!
//! Main thread only. None can be changed by a tenant: each is SUSET (also per database or role, by a
//! superuser) or SIGHUP (for the whole server).

mod jwt_secret;
mod masked;
mod proxy;
pub(crate) mod session;

pub(crate) use jwt_secret::jwt_secret;

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use std::ffi::{CStr, CString};
use std::fmt;
use std::time::Duration;
use webhooks_core::address::Guard;
use webhooks_core::endpoint::parse_ports;
use webhooks_core::proxy::{NoProxy, Proxy};

type Text = Option<CString>;

static ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);
static REQUEST_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(5_000);
static DELIVERIES_PER_MINUTE: GucSetting<i32> = GucSetting::<i32>::new(1_000);
static CONCURRENT_DELIVERIES: GucSetting<i32> = GucSetting::<i32>::new(5);
static CREATIONS_PER_HOUR: GucSetting<i32> = GucSetting::<i32>::new(10);
static MAX_IN_FLIGHT: GucSetting<i32> = GucSetting::<i32>::new(1_024);
static RETENTION: GucSetting<i32> = GucSetting::<i32>::new(7 * 86_400);
static ALLOWED_NETWORKS: GucSetting<Text> = GucSetting::<Text>::new(Some(c""));
static ALLOWED_PORTS: GucSetting<Text> = GucSetting::<Text>::new(Some(c""));
static REQUIRE_HTTPS: GucSetting<bool> = GucSetting::<bool>::new(false);
static HEALTH_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(60);
static ANALYTICS_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(3_600);
static DISABLE_AFTER: GucSetting<i32> = GucSetting::<i32>::new(5 * 86_400);
static RETRY_JITTER: GucSetting<bool> = GucSetting::<bool>::new(true);
static MAX_PAYLOAD: GucSetting<i32> = GucSetting::<i32>::new(1 << 20);
static MAX_WEBHOOKS_PER_OWNER: GucSetting<i32> = GucSetting::<i32>::new(100);
static MAX_PENDING_PER_OWNER: GucSetting<i32> = GucSetting::<i32>::new(0);
static LIVEMODE: GucSetting<bool> = GucSetting::<bool>::new(true);
static HEADER_PREFIX: GucSetting<Text> = GucSetting::<Text>::new(Some(c"X-Lanonasis"));
static USER_AGENT: GucSetting<Text> = GucSetting::<Text>::new(Some(c"Lanonasis-Webhooks/1.0"));
static CA_FILE: GucSetting<Text> = GucSetting::<Text>::new(Some(c""));
static NO_PROXY: GucSetting<Text> = GucSetting::<Text>::new(Some(c""));
static OWNER_CLAIM: GucSetting<Text> = GucSetting::<Text>::new(Some(c"sub"));
static API_ROLE: GucSetting<Text> = GucSetting::<Text>::new(Some(c""));

const NO_FLAGS: GucFlags = GucFlags::empty();

fn boolean(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    it: &'static GucSetting<bool>,
) {
    GucRegistry::define_bool_guc(name, short, long, it, GucContext::Suset, NO_FLAGS);
}

fn integer(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    it: &'static GucSetting<i32>,
    (min, max): (i32, i32),
    unit: GucFlags,
) {
    GucRegistry::define_int_guc(name, short, long, it, min, max, GucContext::Suset, unit);
}

fn text(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    it: &'static GucSetting<Text>,
    check: pgrx::pg_sys::GucStringCheckHook,
) {
    text_by(GucContext::Suset, name, short, long, it, check);
}

fn text_by(
    who: GucContext,
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    it: &'static GucSetting<Text>,
    check: pgrx::pg_sys::GucStringCheckHook,
) {
    // SAFETY: the strings are static and NUL-terminated, the variable is a static that lives as long as
    // the process, and Postgres accepts a NULL assign and show hook.
    unsafe {
        pgrx::pg_sys::DefineCustomStringVariable(
            name.as_ptr(),
            short.as_ptr(),
            long.as_ptr(),
            it.as_ptr(),
            (*it.as_ptr()).cast_const(),
            who as isize as _,
            NO_FLAGS.bits(),
            check,
            None,
            None,
        );
    }
}

/// Why a value is refused.
struct Refusal {
    detail: String,
    hint: Option<String>,
}

impl Refusal {
    fn new(detail: impl fmt::Display) -> Self {
        Self {
            detail: detail.to_string(),
            hint: None,
        }
    }

    fn not_utf8() -> Self {
        Self::new("The value is not UTF-8.")
    }

    fn hinting(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }
}

/// Refuses a value by its text. `$judge` is a function from `&str` to `Result<(), Refusal>`.
macro_rules! check_hook {
    ($name:ident, $judge:expr) => {
        #[pgrx::pg_guard]
        unsafe extern "C-unwind" fn $name(
            new: *mut *mut std::ffi::c_char,
            _extra: *mut *mut std::ffi::c_void,
            _source: pgrx::pg_sys::GucSource::Type,
        ) -> bool {
            let judge: fn(&str) -> Result<(), Refusal> = $judge;
            // SAFETY: Postgres passes a pointer to the proposed value, which may be NULL and is
            // otherwise NUL-terminated.
            let value = unsafe {
                if (*new).is_null() {
                    c""
                } else {
                    CStr::from_ptr(*new)
                }
            };
            let judged = match value.to_str() {
                Ok(value) => judge(value),
                Err(_) => Err(Refusal::not_utf8()),
            };
            match judged {
                Ok(()) => true,
                Err(refusal) => refuse(&refusal),
            }
        }
    };
}

/// Tells Postgres why, as `GUC_check_errdetail` and `GUC_check_errhint` do, which are macros in C. Always `false`, the
/// answer of a check hook that refuses.
fn refuse(refusal: &Refusal) -> bool {
    let copied = |text: &str| {
        let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
        // SAFETY: called from a check hook on the main thread; pstrdup copies into the current memory
        // context, where Postgres expects the text and frees it with the context.
        unsafe { pgrx::pg_sys::pstrdup(text.as_ptr()) }
    };
    // SAFETY: as above; Postgres has reset both before it called the hook.
    unsafe {
        pgrx::pg_sys::GUC_check_errdetail_string = copied(&refusal.detail);
        if let Some(hint) = &refusal.hint {
            pgrx::pg_sys::GUC_check_errhint_string = copied(hint);
        }
    }
    false
}

check_hook!(check_networks, |value: &str| {
    judged(Guard::parse(value), |error| error.hint())
});
check_hook!(check_ports, |value: &str| {
    judged(parse_ports(value), |error| error.hint())
});
check_hook!(check_prefix, |value: &str| {
    if webhooks_core::request::header_name_ok(value) {
        Ok(())
    } else {
        Err(Refusal::new(
            "it begins header names: letters, digits and hyphens, 1 to 64 characters",
        ))
    }
});
check_hook!(check_agent, |value: &str| {
    if webhooks_core::request::header_value_ok(value) {
        Ok(())
    } else {
        Err(Refusal::new(
            "it is a header's value: visible ASCII characters and spaces",
        ))
    }
});
check_hook!(check_no_proxy, |value: &str| {
    judged(NoProxy::parse(value), |error| Some(error.hint().to_owned()))
});

fn judged<T, E: fmt::Display>(
    read: Result<T, E>,
    hint: impl Fn(&E) -> Option<String>,
) -> Result<(), Refusal> {
    read.map(|_| ()).map_err(|error| Refusal {
        hint: hint(&error),
        ..Refusal::new(error)
    })
}

/// Registers every setting. To be called once, from `_PG_init`.
pub(crate) fn register() {
    const DAY: i32 = 86_400;
    let (ms, s, byte) = (GucFlags::UNIT_MS, GucFlags::UNIT_S, GucFlags::UNIT_BYTE);
    boolean(c"webhooks.enabled", c"Captures and delivers events.",
        c"Off: changes are not captured and nothing is sent. To hold delivery without losing events, use webhooks.stop_worker().", &ENABLED);
    integer(
        c"webhooks.request_timeout",
        c"Longest time one request may take.",
        c"DNS, connect, TLS, sending and reading the answer together.",
        &REQUEST_TIMEOUT,
        (1, 300_000),
        ms,
    );
    integer(
        c"webhooks.deliveries_per_minute",
        c"Attempts that one webhook may get in any 60 seconds.",
        c"Retries count. 0: no limit.",
        &DELIVERIES_PER_MINUTE,
        (0, 1_000_000),
        NO_FLAGS,
    );
    integer(
        c"webhooks.concurrent_deliveries",
        c"Requests to one webhook at once.",
        c"",
        &CONCURRENT_DELIVERIES,
        (1, 1_000),
        NO_FLAGS,
    );
    integer(
        c"webhooks.creations_per_hour",
        c"Webhooks that one owner may create in any hour.",
        c"Deleted ones count. 0: no limit.",
        &CREATIONS_PER_HOUR,
        (0, 1_000_000),
        NO_FLAGS,
    );
    integer(
        c"webhooks.max_in_flight",
        c"Requests of one database at once.",
        c"Each takes a socket and some 30 kB of the worker while it lasts.",
        &MAX_IN_FLIGHT,
        (1, 10_000),
        NO_FLAGS,
    );
    integer(
        c"webhooks.retention",
        c"How long ended deliveries and their events are kept.",
        c"Counted from completion.",
        &RETENTION,
        (1, i32::MAX),
        s,
    );
    text(
        c"webhooks.allowed_networks",
        c"Networks that webhooks may reach although the address guard refuses them.",
        c"Comma-separated CIDR list, as 10.1.0.0/16, ::1/128.",
        &ALLOWED_NETWORKS,
        Some(check_networks),
    );
    text(
        c"webhooks.allowed_ports",
        c"Ports that webhooks may reach.",
        c"Comma-separated; empty: any.",
        &ALLOWED_PORTS,
        Some(check_ports),
    );
    boolean(
        c"webhooks.require_https",
        c"Refuses webhooks whose URL is not https.",
        c"",
        &REQUIRE_HTTPS,
    );
    integer(
        c"webhooks.health_interval",
        c"Time between system.health events.",
        c"Sent while somebody subscribes.",
        &HEALTH_INTERVAL,
        (1, DAY),
        s,
    );
    integer(
        c"webhooks.analytics_interval",
        c"Time between analytics.update events.",
        c"Sent while somebody subscribes.",
        &ANALYTICS_INTERVAL,
        (1, 30 * DAY),
        s,
    );
    integer(
        c"webhooks.disable_after",
        c"How long a webhook must fail before it is switched off.",
        c"And at least 20 deliveries without a success between. 0: never.",
        &DISABLE_AFTER,
        (0, 365 * DAY),
        s,
    );
    boolean(
        c"webhooks.retry_jitter",
        c"Adds up to 10 % to retry delays of 10 seconds and more.",
        c"",
        &RETRY_JITTER,
    );
    integer(
        c"webhooks.max_payload",
        c"Largest body.",
        c"A larger one goes without content, then without changes, then as object and id alone.",
        &MAX_PAYLOAD,
        (320, 1 << 28),
        byte,
    );
    integer(
        c"webhooks.max_webhooks_per_owner",
        c"Webhooks that one owner may have.",
        c"0: no limit.",
        &MAX_WEBHOOKS_PER_OWNER,
        (0, 1_000_000),
        NO_FLAGS,
    );
    integer(
        c"webhooks.max_pending_per_owner",
        c"Pending deliveries beyond which emit, replay, retry_delivery and send_test of an owner are errors.",
        c"Triggers never fail. 0: no limit.",
        &MAX_PENDING_PER_OWNER,
        (0, i32::MAX),
        NO_FLAGS,
    );
    boolean(
        c"webhooks.livemode",
        c"What bodies say as livemode.",
        c"",
        &LIVEMODE,
    );
    text(
        c"webhooks.header_prefix",
        c"How the names of our headers begin.",
        c"",
        &HEADER_PREFIX,
        Some(check_prefix),
    );
    text(
        c"webhooks.user_agent",
        c"The User-Agent header.",
        c"",
        &USER_AGENT,
        Some(check_agent),
    );
    text(
        c"webhooks.ca_file",
        c"PEM file of certificate authorities to trust beside the system's.",
        c"",
        &CA_FILE,
        None,
    );
    proxy::register();
    text_by(
        GucContext::Sighup,
        c"webhooks.no_proxy",
        c"Hosts that are reached without the proxy.",
        c"Comma-separated domains, addresses and networks, as corp.example, 10.0.0.0/8; * for all.",
        &NO_PROXY,
        Some(check_no_proxy),
    );
    text(
        c"webhooks.owner_claim",
        c"The claim of a token that names the owner.",
        c"",
        &OWNER_CLAIM,
        None,
    );
    text(
        c"webhooks.api_role",
        c"The role in new API keys.",
        c"",
        &API_ROLE,
        None,
    );
    jwt_secret::register();
    // SAFETY: the prefix is NUL-terminated.
    unsafe { pgrx::pg_sys::MarkGUCPrefixReserved(c"webhooks".as_ptr()) }
}

fn string(it: &GucSetting<Text>) -> String {
    it.get()
        .map(|value| value.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn unsigned(it: &GucSetting<i32>) -> u32 {
    u32::try_from(it.get()).unwrap_or(0)
}

fn seconds(it: &GucSetting<i32>) -> Duration {
    Duration::from_secs(u64::from(unsigned(it)))
}

/// Whether events are captured and delivered.
pub(crate) fn enabled() -> bool {
    ENABLED.get()
}

/// `webhooks.max_payload`, in bytes.
pub(crate) fn max_payload() -> usize {
    unsigned(&MAX_PAYLOAD) as usize
}

/// `webhooks.creations_per_hour`; 0: no limit.
pub(crate) fn creations_per_hour() -> u32 {
    unsigned(&CREATIONS_PER_HOUR)
}

/// `webhooks.max_webhooks_per_owner`; 0: no limit.
pub(crate) fn max_webhooks_per_owner() -> u32 {
    unsigned(&MAX_WEBHOOKS_PER_OWNER)
}

/// `webhooks.max_pending_per_owner`; 0: no limit.
pub(crate) fn max_pending_per_owner() -> u32 {
    unsigned(&MAX_PENDING_PER_OWNER)
}

/// What a URL must obey.
pub(crate) fn endpoint_rules() -> webhooks_core::endpoint::Rules {
    webhooks_core::endpoint::Rules {
        require_https: REQUIRE_HTTPS.get(),
        allowed_ports: allowed_ports(),
    }
}

/// The address guard. A list that does not parse, which the check hook prevents, allows nothing.
pub(crate) fn guard() -> Guard {
    Guard::parse(&string(&ALLOWED_NETWORKS)).unwrap_or_default()
}

fn allowed_ports() -> Vec<u16> {
    parse_ports(&string(&ALLOWED_PORTS)).unwrap_or_default()
}

/// What the worker goes by: read once, and again after a reload.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) enabled: bool,
    pub(crate) request_timeout: Duration,
    /// 0: no limit.
    pub(crate) deliveries_per_minute: u32,
    pub(crate) concurrent_deliveries: u32,
    pub(crate) max_in_flight: usize,
    pub(crate) retention: Duration,
    pub(crate) health_interval: Duration,
    pub(crate) analytics_interval: Duration,
    pub(crate) disable_after: Duration,
    pub(crate) retry_jitter: bool,
    pub(crate) max_payload: usize,
    pub(crate) livemode: bool,
    pub(crate) header_prefix: String,
    pub(crate) user_agent: String,
    pub(crate) guard: Guard,
    pub(crate) endpoint_rules: webhooks_core::endpoint::Rules,
    /// Empty: only the system's.
    pub(crate) ca_file: String,
    pub(crate) proxy: Option<Proxy>,
    pub(crate) no_proxy: NoProxy,
}

impl Settings {
    /// The settings as they are now.
    pub(crate) fn read() -> Self {
        Self {
            enabled: enabled(),
            request_timeout: Duration::from_millis(u64::from(unsigned(&REQUEST_TIMEOUT))),
            deliveries_per_minute: unsigned(&DELIVERIES_PER_MINUTE),
            concurrent_deliveries: unsigned(&CONCURRENT_DELIVERIES),
            max_in_flight: unsigned(&MAX_IN_FLIGHT) as usize,
            retention: seconds(&RETENTION),
            health_interval: seconds(&HEALTH_INTERVAL),
            analytics_interval: seconds(&ANALYTICS_INTERVAL),
            disable_after: seconds(&DISABLE_AFTER),
            retry_jitter: RETRY_JITTER.get(),
            max_payload: max_payload(),
            livemode: LIVEMODE.get(),
            header_prefix: string(&HEADER_PREFIX),
            user_agent: string(&USER_AGENT),
            guard: guard(),
            endpoint_rules: endpoint_rules(),
            ca_file: string(&CA_FILE),
            proxy: proxy::proxy(),
            // A list that does not parse, which the check hook prevents, exempts nothing.
            no_proxy: NoProxy::parse(&string(&NO_PROXY)).unwrap_or_default(),
        }
    }
}

/// `webhooks.owner_claim`: the claim that names the owner.
pub(crate) fn owner_claim() -> String {
    string(&OWNER_CLAIM)
}

/// `webhooks.api_role`: the role in new API keys; `None`: it is not set.
pub(crate) fn api_role() -> Option<String> {
    Some(string(&API_ROLE)).filter(|role| !role.is_empty())
}
