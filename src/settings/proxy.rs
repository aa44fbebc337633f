//! `webhooks.proxy`, which may hold a password.

use super::Refusal;
use super::masked::{self, Cell, Masked};
use std::ffi::CStr;
use webhooks_core::proxy::Proxy;

/// `webhooks.proxy`; `None`: it is not set. One that does not parse, which the check hook prevents, is none.
pub(super) fn proxy() -> Option<Proxy> {
    Proxy::parse(&masked::value::<Setting>()?).ok()
}

/// Registers the setting.
pub(super) fn register() {
    masked::register::<Setting>();
}

struct Setting;

impl Masked for Setting {
    const NAME: &'static CStr = c"webhooks.proxy";
    const SHORT: &'static CStr = c"Proxy that requests go through.";
    const LONG: &'static CStr =
        c"http://[user:password@]host:port; empty: none. It must refuse internal addresses itself.";

    fn cell() -> &'static Cell {
        static CELL: Cell = Cell::new();
        &CELL
    }

    fn judge(value: &str) -> Result<(), Refusal> {
        match Proxy::parse(value) {
            Ok(_) => Ok(()),
            Err(error) => Err(Refusal::new(error).hinting(error.hint())),
        }
    }
}
