//! Values of users' tables as canonical JSON.
//!
//! A value that no payload has room for is not rendered, and not detoasted whole: its size is
//! asked for first. Whatever can grow beyond its stored size stops as soon as the output is too long.

mod containers;
mod jsonb;

use super::kind::{Kind, Output};
use crate::seam::clock;
use crate::seam::owner::set_local;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::PgSqlErrorCode;
use pgrx::{PgTryBuilder, pg_sys};
use std::ffi::CStr;
use std::panic::AssertUnwindSafe;
use webhooks_core::json;
use webhooks_core::time;

/// Why a value was not rendered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum NotRendered {
    /// It has no JSON.
    NoJson,
    /// No payload has room for it.
    TooLong,
}

/// JSON takes at least this part of the bytes in which PostgreSQL keeps a `jsonb`, an array or a row:
/// a zero takes 12 bytes in a `jsonb` and 2 in JSON.
const SHRINKS_AT_MOST: usize = 8;

/// JSON takes at least this part of a `json`, which may be mostly white space, by which it is judged.
const JSON_SHRINKS_AT_MOST: usize = 4;

/// Settings that change what output functions of PostgreSQL's make of values, set so that they do not.
pub(crate) fn pin() {
    set_local(c"TimeZone", c"UTC");
    set_local(c"DateStyle", c"ISO, MDY");
    set_local(c"IntervalStyle", c"postgres");
    set_local(c"bytea_output", c"hex");
    set_local(c"extra_float_digits", c"1");
    set_local(c"xmlbinary", c"base64");
}

/// Appends a value that is not NULL, unless `out` would become longer than `room` bytes. On error
/// `out` may hold part of it.
///
/// # Safety
/// The datum must be of the kind's type.
pub(crate) unsafe fn render(
    kind: &Kind,
    datum: pg_sys::Datum,
    out: &mut String,
    room: usize,
) -> Result<(), NotRendered> {
    use std::fmt::Write as _;
    // Writing into a String does not fail.
    let digits = |out: &mut String, number: i64| {
        let _ = write!(out, "{number}");
    };
    // SAFETY: as the caller says, each arm reads the type that its kind stands for.
    unsafe {
        match kind {
            Kind::Bool => out.push_str(if datum.value() & 0xff != 0 {
                "true"
            } else {
                "false"
            }),
            Kind::Int2 => digits(out, i64::from(datum.value() as i16)),
            Kind::Int4 => digits(out, i64::from(datum.value() as i32)),
            Kind::Int8 => json::write_number(&(datum.value() as i64).to_string(), out),
            Kind::Float4 => {
                let value = f32::from_bits(datum.value() as u32);
                if value.is_finite() {
                    json::write_number(&value.to_string(), out)
                } else {
                    special(f64::from(value), out)
                }
            }
            Kind::Float8 => {
                let value = f64::from_bits(datum.value() as u64);
                if value.is_finite() {
                    json::write_f64(value, out)
                } else {
                    special(value, out)
                }
            }
            Kind::Numeric => {
                let text = numeric_text(datum)?;
                if text.ends_with(|last: char| last.is_ascii_digit()) {
                    json::write_number(text, out);
                } else {
                    json::write_string(text, out);
                }
            }
            Kind::Text | Kind::PaddedText => json::write_string(text(datum, out, room)?, out),
            Kind::Name => json::write_string(cstring(datum)?, out),
            Kind::Uuid => {
                let bytes: [u8; 16] = datum.cast_mut_ptr::<[u8; 16]>().read();
                let mut buffer = [0; 36];
                out.push('"');
                out.push_str(
                    uuid::Uuid::from_bytes(bytes)
                        .hyphenated()
                        .encode_lower(&mut buffer),
                );
                out.push('"');
            }
            Kind::TimestampTz => timestamp(datum.value() as i64, "Z", out),
            Kind::Timestamp => timestamp(datum.value() as i64, "", out),
            Kind::Date => date(datum.value() as i32, out),
            Kind::Json => {
                must_fit(size(datum) / JSON_SHRINKS_AT_MOST, out, room)?;
                json::canonicalize(varlena(datum)?, out).map_err(|_| NotRendered::NoJson)?;
            }
            Kind::Jsonb => {
                must_fit(size(datum) / SHRINKS_AT_MOST, out, room)?;
                jsonb::render(datum, out, room)?;
            }
            Kind::Bytea => bytea(datum, out, room)?,
            Kind::Array(elements) => containers::array(datum, elements, out, room)?,
            Kind::Composite(composite) => containers::composite(datum, composite, out, room)?,
            Kind::Range(ranges) => containers::range(datum, ranges, out)?,
            Kind::Multirange(ranges) => containers::multirange(datum, ranges, out, room)?,
            Kind::Output(output) => json::write_string(output_text(output, datum, out, room)?, out),
            Kind::Other(type_oid) => {
                if is_varlena(*type_oid) {
                    must_fit(size(datum), out, room)?;
                }
                other(*type_oid, datum, out)?;
            }
        }
    }
    if out.len() > room {
        return Err(NotRendered::TooLong);
    }
    Ok(())
}

/// A value's own text, as an id or an owner has it: that of its output function, and times as ISO 8601
/// with all their digits. At most `room` bytes.
///
/// # Safety
/// The datum must be of the kind's type.
pub(crate) unsafe fn own_text(
    kind: &Kind,
    datum: pg_sys::Datum,
    room: usize,
) -> Result<String, NotRendered> {
    // SAFETY: as the caller says, each arm reads the type that its kind stands for.
    unsafe {
        match kind {
            Kind::Numeric => return Ok(numeric_text(datum)?.to_owned()),
            Kind::Float4 => {
                return cstring(pg_sys::OidFunctionCall1Coll(
                    pg_sys::Oid::from(pg_sys::F_FLOAT4OUT),
                    pg_sys::InvalidOid,
                    datum,
                ))
                .map(str::to_owned);
            }
            Kind::Float8 => {
                return cstring(pg_sys::OidFunctionCall1Coll(
                    pg_sys::Oid::from(pg_sys::F_FLOAT8OUT),
                    pg_sys::InvalidOid,
                    datum,
                ))
                .map(str::to_owned);
            }
            Kind::Text | Kind::PaddedText => return Ok(text(datum, "", room)?.to_owned()),
            Kind::TimestampTz | Kind::Timestamp => {
                let value = datum.value() as i64;
                if value != i64::MIN && value != i64::MAX {
                    let mut text = time::iso_micros(clock::unix_us_of(value));
                    if *kind == Kind::Timestamp {
                        text.pop();
                    }
                    return Ok(text);
                }
            }
            _ => {}
        }
        let mut text = String::new();
        render(kind, datum, &mut text, room)?;
        match text
            .strip_prefix('"')
            .and_then(|text| text.strip_suffix('"'))
        {
            Some(inside) if !inside.contains('\\') => Ok(inside.to_owned()),
            Some(_) => serde_json::from_str(&text).map_err(|_| NotRendered::NoJson),
            None => Ok(text),
        }
    }
}

/// Whether so many more bytes have room.
fn must_fit(more: usize, out: &str, room: usize) -> Result<(), NotRendered> {
    if out.len().saturating_add(more) > room {
        Err(NotRendered::TooLong)
    } else {
        Ok(())
    }
}

fn special(value: f64, out: &mut String) {
    out.push_str(if value.is_nan() {
        "\"NaN\""
    } else if value > 0.0 {
        "\"Infinity\""
    } else {
        "\"-Infinity\""
    });
}

/// # Safety
/// The datum must be a numeric.
unsafe fn numeric_text<'a>(datum: pg_sys::Datum) -> Result<&'a str, NotRendered> {
    // SAFETY: as the caller says.
    unsafe {
        cstring(pg_sys::DirectFunctionCall1Coll(
            Some(crate::seam::raw::numeric_out),
            pg_sys::InvalidOid,
            datum,
        ))
    }
}

/// Microseconds since 2000-01-01 as ISO 8601 with milliseconds.
fn timestamp(value: i64, zone: &str, out: &mut String) {
    match value {
        i64::MIN => out.push_str("\"-infinity\""),
        i64::MAX => out.push_str("\"infinity\""),
        value => {
            let text = time::iso_millis(clock::unix_of(value));
            out.push('"');
            out.push_str(text.strip_suffix('Z').unwrap_or(&text));
            out.push_str(zone);
            out.push('"');
        }
    }
}

/// Days since 2000-01-01 as ISO 8601.
fn date(value: i32, out: &mut String) {
    const DAY_MS: i64 = 86_400_000;
    match value {
        i32::MIN => out.push_str("\"-infinity\""),
        i32::MAX => out.push_str("\"infinity\""),
        value => {
            let text = time::iso_millis(clock::unix_of(0) + i64::from(value) * DAY_MS);
            out.push('"');
            out.push_str(text.split('T').next().unwrap_or(&text));
            out.push('"');
        }
    }
}

/// As `bytea_output = hex` writes it.
///
/// # Safety
/// The datum must be a bytea.
unsafe fn bytea(datum: pg_sys::Datum, out: &mut String, room: usize) -> Result<(), NotRendered> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    // SAFETY: as the caller says.
    let bytes = unsafe {
        must_fit(size(datum).saturating_mul(2), out, room)?;
        bytes(pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr()))
    };
    out.reserve(bytes.len() * 2 + 5);
    out.push_str("\"\\\\x");
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out.push('"');
    Ok(())
}

/// Bytes of a value of variable length, without its header, wherever and however it is stored.
///
/// # Safety
/// The datum must be a varlena.
unsafe fn size(datum: pg_sys::Datum) -> usize {
    // SAFETY: as the caller says.
    unsafe { crate::seam::raw::toast_raw_datum_size(datum).saturating_sub(pg_sys::VARHDRSZ) }
}

fn is_varlena(type_oid: pg_sys::Oid) -> bool {
    // SAFETY: a syscache look-up in a transaction.
    unsafe { pg_sys::get_typlen(type_oid) == -1 }
}

/// A text, if it has room.
///
/// # Safety
/// The datum must be a text-like varlena.
unsafe fn text<'a>(datum: pg_sys::Datum, out: &str, room: usize) -> Result<&'a str, NotRendered> {
    // SAFETY: as the caller says.
    unsafe {
        must_fit(size(datum), out, room)?;
        varlena(datum)
    }
}

/// # Safety
/// The datum must be a text-like varlena.
unsafe fn varlena<'a>(datum: pg_sys::Datum) -> Result<&'a str, NotRendered> {
    // SAFETY: as the caller says. What is detoasted lives in the current memory context, which outlives
    // the row that is being rendered.
    unsafe {
        let detoasted = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
        std::str::from_utf8(bytes(detoasted)).map_err(|_| NotRendered::NoJson)
    }
}

/// # Safety
/// It must be detoasted, and live as long as the bytes are used.
unsafe fn bytes<'a>(detoasted: *mut pg_sys::varlena) -> &'a [u8] {
    // SAFETY: as the caller says.
    unsafe {
        std::slice::from_raw_parts(
            pgrx::vardata_any(detoasted).cast::<u8>(),
            pgrx::varsize_any_exhdr(detoasted),
        )
    }
}

/// # Safety
/// The datum must be a cstring.
unsafe fn cstring<'a>(datum: pg_sys::Datum) -> Result<&'a str, NotRendered> {
    // SAFETY: as the caller says.
    unsafe {
        CStr::from_ptr(datum.cast_mut_ptr())
            .to_str()
            .map_err(|_| NotRendered::NoJson)
    }
}

/// # Safety
/// The datum must be of the type that the function is for.
unsafe fn output_text<'a>(
    output: &Output,
    datum: pg_sys::Datum,
    out: &str,
    room: usize,
) -> Result<&'a str, NotRendered> {
    // SAFETY: as the caller says. The nest level is ended below; an ERROR ends it with the transaction.
    unsafe {
        if output.is_varlena {
            must_fit(size(datum), out, room)?;
        }
        if output.pins.is_empty() {
            return cstring_of(pg_sys::OidOutputFunctionCall(output.function, datum));
        }
        let level = pg_sys::NewGUCNestLevel();
        for (name, value) in output.pins {
            set_local(name, value);
        }
        let text = pg_sys::OidOutputFunctionCall(output.function, datum);
        pg_sys::AtEOXact_GUC(true, level);
        cstring_of(text)
    }
}

/// # Safety
/// The pointer must be to a NUL-terminated text.
unsafe fn cstring_of<'a>(text: *const std::ffi::c_char) -> Result<&'a str, NotRendered> {
    // SAFETY: as the caller says.
    unsafe { cstring(pg_sys::Datum::from(text)) }
}

/// By `row_to_json`, of a row of this one column.
///
/// # Safety
/// The datum must be of this type.
unsafe fn other(
    type_oid: pg_sys::Oid,
    datum: pg_sys::Datum,
    out: &mut String,
) -> Result<(), NotRendered> {
    let text = in_subtransaction(|| {
        // SAFETY: as the caller says; the description has one column of the datum's type.
        unsafe {
            let columns = pg_sys::CreateTemplateTupleDesc(1);
            pg_sys::TupleDescInitEntry(columns, 1, c"v".as_ptr(), type_oid, -1, 0);
            let columns = pg_sys::BlessTupleDesc(columns);
            let (mut value, mut is_null) = (datum, false);
            let tuple = pg_sys::heap_form_tuple(columns, &raw mut value, &raw mut is_null);
            let row = pg_sys::heap_copy_tuple_as_datum(tuple, columns);
            let json = pg_sys::OidFunctionCall1Coll(
                pg_sys::Oid::from(pg_sys::F_ROW_TO_JSON_RECORD),
                pg_sys::InvalidOid,
                row,
            );
            varlena(json).map(str::to_owned)
        }
    })??;
    let mut canonical = String::with_capacity(text.len());
    json::canonicalize(&text, &mut canonical).map_err(|_| NotRendered::NoJson)?;
    let value = canonical
        .strip_prefix("{\"v\":")
        .and_then(|rest| rest.strip_suffix('}'))
        .ok_or(NotRendered::NoJson)?;
    out.push_str(value);
    Ok(())
}

/// Runs code that is not ours; an ERROR is rolled back and means that the value cannot be rendered. What
/// says something of the server or of the user's wish to stop goes on as it is.
fn in_subtransaction<R>(work: impl FnOnce() -> R) -> Result<R, NotRendered> {
    // SAFETY: in a transaction. What is begun here is released or rolled back below, and context and owner
    // are restored as PL/pgSQL does around its exception blocks.
    let (context, owner) = unsafe {
        let kept = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(kept.0);
        kept
    };
    let restore = move || {
        // SAFETY: both are those from before.
        unsafe {
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::CurrentResourceOwner = owner;
        }
    };
    PgTryBuilder::new(AssertUnwindSafe(|| {
        let value = work();
        // SAFETY: matches the beginning.
        unsafe { pg_sys::ReleaseCurrentSubTransaction() }
        restore();
        Ok(value)
    }))
    .catch_others(move |error| {
        // SAFETY: the ERROR left the subtransaction open, and nothing may unwind past it: what is dropped
        // on the way would work in an aborted transaction.
        unsafe {
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
        }
        restore();
        if let CaughtError::PostgresError(report) = &error {
            let fatal = matches!(
                report.sql_error_code(),
                PgSqlErrorCode::ERRCODE_QUERY_CANCELED
                    | PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN
                    | PgSqlErrorCode::ERRCODE_CRASH_SHUTDOWN
                    | PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY
                    | PgSqlErrorCode::ERRCODE_DISK_FULL
            );
            if fatal {
                error.rethrow();
            }
        }
        Err(NotRendered::NoJson)
    })
    .execute()
}
