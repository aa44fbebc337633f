//! `jsonb` as the text that Postgres writes of it. Main thread only.
//!
//! pgrx's own type parses every argument before a function runs: what its parser does not take (more than
//! 128 levels) is then an internal error. Here a function gets the text, and judges it itself.

use pgrx::callconv::{Arg, ArgAbi};
use pgrx::nullable::Nullable;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::{FromDatum, pg_sys};
use std::ffi::CStr;

/// A `jsonb` value, as text.
#[derive(Debug)]
pub(crate) struct JsonbText(pub(crate) String);

/// The text of a `jsonb`, in the current memory context. Postgres writes it without recursion, however deep
/// it is.
///
/// # Safety
/// The datum must be a `jsonb`.
pub(crate) unsafe fn text<'a>(datum: pg_sys::Datum) -> &'a CStr {
    // SAFETY: as the caller says.
    unsafe { write(pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast()) }
}

/// # Safety
/// It must be detoasted.
unsafe fn write<'a>(jsonb: *mut pg_sys::Jsonb) -> &'a CStr {
    // SAFETY: as the caller says; what comes back is NUL-terminated.
    unsafe {
        let length = pgrx::varsize(jsonb.cast()) as i32;
        let text = pg_sys::JsonbToCString(std::ptr::null_mut(), &raw mut (*jsonb).root, length);
        CStr::from_ptr(text)
    }
}

impl FromDatum for JsonbText {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _: pg_sys::Oid,
    ) -> Option<Self> {
        // SAFETY: whoever asks for this type has a jsonb.
        (!is_null).then(|| Self(unsafe { text(datum) }.to_string_lossy().into_owned()))
    }
}

// SAFETY: the argument is read through FromDatum alone, as pgrx does for its own types.
unsafe impl<'fcx> ArgAbi<'fcx> for JsonbText {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the declarations in sql/ say jsonb where a function takes this type. A NULL, which a
        // function that is not STRICT takes as Option, is nobody's here.
        unsafe { arg.unbox_arg_using_from_datum() }.unwrap_or_else(|| Self("null".to_owned()))
    }

    unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> Nullable<Self> {
        // SAFETY: as above.
        unsafe { arg.unbox_arg_using_from_datum().into() }
    }
}

// SAFETY: names the SQL type that FromDatum reads.
unsafe impl SqlTranslatable for JsonbText {
    const TYPE_IDENT: &'static str = concat!(module_path!(), "::JsonbText");
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("jsonb"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> =
        Ok(ReturnsRef::One(SqlMappingRef::literal("jsonb")));
}
