//! What Postgres hands to a trigger function. Main thread only.

use crate::error::Error;
use pgrx::pg_sys;

/// The trigger data. A function that was not called as a trigger raises an error.
///
/// # Safety
/// What Postgres called a C function with; the data live as long as the call.
pub(crate) unsafe fn data<'a>(fcinfo: pg_sys::FunctionCallInfo) -> &'a pg_sys::TriggerData {
    // SAFETY: fcinfo is Postgres's; its context, if any, is a node, whose tag says what it is.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            Error::State {
                message: "function was not called by a trigger".to_owned(),
                hint: Some("SELECT webhooks.attach('table') makes the triggers.".to_owned()),
            }
            .raise();
        }
        &*context.cast::<pg_sys::TriggerData>()
    }
}
