//! Values of users' tables as canonical JSON.
//!
//! Built-in types are rendered here, so that no setting of the session can change what is sent and no
//! other code runs. The rest goes through `row_to_json`, as the caller, in a subtransaction: a type's own
//! output or cast to json may do anything, and fail.

use crate::seam::clock;
use crate::seam::owner::set_local;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::PgSqlErrorCode;
use pgrx::{PgTryBuilder, pg_sys};
use std::ffi::CStr;
use std::panic::AssertUnwindSafe;
use webhooks_core::json;
use webhooks_core::time;

/// A value that has no JSON.
#[derive(Debug)]
pub(crate) struct Unrenderable;

/// How values of a type are rendered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Numeric,
    Text,
    Name,
    Uuid,
    TimestampTz,
    Timestamp,
    Date,
    Json,
    Jsonb,
    Array {
        element: Box<Kind>,
        type_oid: pg_sys::Oid,
        length: i16,
        by_value: bool,
        align: std::ffi::c_char,
    },
    /// By Postgres; the type as declared.
    Other(pg_sys::Oid),
}

impl Kind {
    /// The kind of a type; domains are what they are over.
    pub(crate) fn of(declared: pg_sys::Oid) -> Self {
        // SAFETY: syscache look-ups in a transaction; an oid that names nothing is an ERROR.
        let base = unsafe { pg_sys::getBaseType(declared) };
        match base {
            pg_sys::BOOLOID => Self::Bool,
            pg_sys::INT2OID => Self::Int2,
            pg_sys::INT4OID => Self::Int4,
            pg_sys::INT8OID => Self::Int8,
            pg_sys::FLOAT4OID => Self::Float4,
            pg_sys::FLOAT8OID => Self::Float8,
            pg_sys::NUMERICOID => Self::Numeric,
            pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID => Self::Text,
            pg_sys::NAMEOID => Self::Name,
            pg_sys::UUIDOID => Self::Uuid,
            pg_sys::TIMESTAMPTZOID => Self::TimestampTz,
            pg_sys::TIMESTAMPOID => Self::Timestamp,
            pg_sys::DATEOID => Self::Date,
            pg_sys::JSONOID => Self::Json,
            pg_sys::JSONBOID => Self::Jsonb,
            _ => Self::array_of(base).unwrap_or(Self::Other(declared)),
        }
    }

    fn array_of(base: pg_sys::Oid) -> Option<Self> {
        // SAFETY: as in of().
        unsafe {
            let type_oid = pg_sys::get_element_type(base);
            if type_oid == pg_sys::InvalidOid {
                return None;
            }
            let element = Self::of(type_oid);
            if matches!(element, Self::Other(_)) {
                return None;
            }
            let (mut length, mut by_value, mut align) = (0, false, 0);
            pg_sys::get_typlenbyvalalign(
                type_oid,
                &raw mut length,
                &raw mut by_value,
                &raw mut align,
            );
            Some(Self::Array {
                element: Box::new(element),
                type_oid,
                length,
                by_value,
                align,
            })
        }
    }

    /// Whether settings of the session change what Postgres makes of it.
    pub(crate) fn needs_pinning(&self) -> bool {
        matches!(self, Self::Other(_))
    }
}

/// A column as the catalog describes it.
pub(crate) struct Attribute {
    pub(crate) index: usize,
    pub(crate) name: String,
    pub(crate) type_oid: pg_sys::Oid,
    pub(crate) by_value: bool,
    pub(crate) length: i16,
}

/// The columns of a row type that hold a value: neither dropped nor virtual.
///
/// # Safety
/// The description must be valid.
pub(crate) unsafe fn attributes(columns: pg_sys::TupleDesc) -> Vec<Attribute> {
    const VIRTUAL: std::ffi::c_char = b'v' as std::ffi::c_char;
    // SAFETY: as the caller says; TupleDescAttr reads the index it is given.
    unsafe {
        (0..(*columns).natts as usize)
            .filter_map(|index| {
                let attribute = attribute(columns, index);
                let shown = !(*attribute).attisdropped && (*attribute).attgenerated != VIRTUAL;
                shown.then(|| Attribute {
                    index,
                    name: CStr::from_ptr((*attribute).attname.data.as_ptr())
                        .to_string_lossy()
                        .into_owned(),
                    type_oid: (*attribute).atttypid,
                    by_value: (*attribute).attbyval,
                    length: (*attribute).attlen,
                })
            })
            .collect()
    }
}

/// # Safety
/// The index must be one of the description's.
unsafe fn attribute(columns: pg_sys::TupleDesc, index: usize) -> pg_sys::Form_pg_attribute {
    // SAFETY: as the caller says.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        return (*columns).attrs.as_mut_ptr().add(index);
        #[cfg(feature = "pg18")]
        return pg_sys::TupleDescAttr(columns, index as i32);
    }
}

/// Settings that change what Postgres makes of values, set so that they do not.
pub(crate) fn pin() {
    set_local(c"TimeZone", c"UTC");
    set_local(c"DateStyle", c"ISO, MDY");
    set_local(c"IntervalStyle", c"postgres");
    set_local(c"bytea_output", c"hex");
    set_local(c"extra_float_digits", c"1");
}

/// Appends a value that is not NULL. On error `out` may hold part of it.
///
/// # Safety
/// The datum must be of the kind's type.
pub(crate) unsafe fn render(
    kind: &Kind,
    datum: pg_sys::Datum,
    out: &mut String,
) -> Result<(), Unrenderable> {
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
                let text = cstring(pg_sys::DirectFunctionCall1Coll(
                    Some(crate::seam::raw::numeric_out),
                    pg_sys::InvalidOid,
                    datum,
                ))?;
                if text.ends_with(|last: char| last.is_ascii_digit()) {
                    json::write_number(text, out);
                } else {
                    json::write_string(text, out);
                }
            }
            Kind::Text => json::write_string(varlena(datum)?, out),
            Kind::Name => json::write_string(
                CStr::from_ptr(datum.cast_mut_ptr())
                    .to_str()
                    .map_err(|_| Unrenderable)?,
                out,
            ),
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
            Kind::Json => json::canonicalize(varlena(datum)?, out).map_err(|_| Unrenderable)?,
            Kind::Jsonb => {
                let text = crate::seam::json::text_that_fits(datum).ok_or(Unrenderable)?;
                let text = text.to_str().map_err(|_| Unrenderable)?;
                json::canonicalize(text, out).map_err(|_| Unrenderable)?;
            }
            Kind::Array {
                element,
                type_oid,
                length,
                by_value,
                align,
            } => {
                array(datum, element, (*type_oid, *length, *by_value, *align), out)?;
            }
            Kind::Other(type_oid) => other(*type_oid, datum, out)?,
        }
    }
    Ok(())
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

/// Bytes of a value of variable length, without its header.
///
/// # Safety
/// The datum must be a varlena.
pub(crate) unsafe fn size(datum: pg_sys::Datum) -> usize {
    // SAFETY: as the caller says.
    unsafe { crate::seam::raw::toast_raw_datum_size(datum) - pg_sys::VARHDRSZ }
}

/// Appends as much of a longer text's beginning as takes more than so many bytes, and nothing of the rest into memory.
///
/// # Safety
/// The datum must be a text-like varlena.
pub(crate) unsafe fn beginning(
    datum: pg_sys::Datum,
    most: usize,
    out: &mut String,
) -> Result<(), Unrenderable> {
    // The last character may be cut, of which up to three bytes are there.
    let enough = i32::try_from(most + 4).map_err(|_| Unrenderable)?;
    // SAFETY: as the caller says; a slice is a plain varlena in the current memory context.
    let slice = unsafe {
        bytes(pg_sys::pg_detoast_datum_slice(
            datum.cast_mut_ptr(),
            0,
            enough,
        ))
    };
    let whole = slice.utf8_chunks().next().map_or("", |it| it.valid());
    json::write_string(whole, out);
    Ok(())
}

/// Whether two texts are the same.
///
/// # Safety
/// Both must be text-like varlenas.
pub(crate) unsafe fn same_text(one: pg_sys::Datum, other: pg_sys::Datum) -> bool {
    // SAFETY: as the caller says.
    unsafe {
        size(one) == size(other)
            && matches!((varlena(one), varlena(other)), (Ok(one), Ok(other)) if one == other)
    }
}

/// # Safety
/// The datum must be a text-like varlena.
unsafe fn varlena<'a>(datum: pg_sys::Datum) -> Result<&'a str, Unrenderable> {
    // SAFETY: as the caller says. What is detoasted lives in the current memory context, which outlives
    // the row that is being rendered.
    unsafe {
        let detoasted = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
        std::str::from_utf8(bytes(detoasted)).map_err(|_| Unrenderable)
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
unsafe fn cstring<'a>(datum: pg_sys::Datum) -> Result<&'a str, Unrenderable> {
    // SAFETY: as the caller says.
    unsafe {
        CStr::from_ptr(datum.cast_mut_ptr())
            .to_str()
            .map_err(|_| Unrenderable)
    }
}

/// # Safety
/// The datum must be an array with elements of this kind and type.
unsafe fn array(
    datum: pg_sys::Datum,
    element: &Kind,
    (type_oid, length, by_value, align): (pg_sys::Oid, i16, bool, std::ffi::c_char),
    out: &mut String,
) -> Result<(), Unrenderable> {
    // SAFETY: as the caller says; deconstruct_array gives as many values and nulls as it counts.
    unsafe {
        let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        let (mut values, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
        pg_sys::deconstruct_array(
            array,
            type_oid,
            i32::from(length),
            by_value,
            align,
            &raw mut values,
            &raw mut nulls,
            &raw mut count,
        );
        let dimensions = (*array).ndim as usize;
        let sizes: Vec<usize> = {
            let first = array
                .cast::<u8>()
                .add(std::mem::size_of::<pg_sys::ArrayType>())
                .cast::<i32>();
            (0..dimensions)
                .map(|index| *first.add(index) as usize)
                .collect()
        };
        let mut next = 0;
        let mut each = |out: &mut String| {
            let index = next;
            next += 1;
            if *nulls.add(index) {
                out.push_str("null");
                Ok(())
            } else {
                render(element, *values.add(index), out)
            }
        };
        nest(&sizes, &mut each, out)
    }
}

fn nest(
    sizes: &[usize],
    each: &mut impl FnMut(&mut String) -> Result<(), Unrenderable>,
    out: &mut String,
) -> Result<(), Unrenderable> {
    out.push('[');
    if let Some((&size, inner)) = sizes.split_first() {
        for index in 0..size {
            if index > 0 {
                out.push(',');
            }
            if inner.is_empty() {
                each(out)?
            } else {
                nest(inner, each, out)?
            }
        }
    }
    out.push(']');
    Ok(())
}

/// By `row_to_json`, of a row of this one column.
///
/// # Safety
/// The datum must be of this type.
unsafe fn other(
    type_oid: pg_sys::Oid,
    datum: pg_sys::Datum,
    out: &mut String,
) -> Result<(), Unrenderable> {
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
    json::canonicalize(&text, &mut canonical).map_err(|_| Unrenderable)?;
    let value = canonical
        .strip_prefix("{\"v\":")
        .and_then(|rest| rest.strip_suffix('}'))
        .ok_or(Unrenderable)?;
    out.push_str(value);
    Ok(())
}

/// Runs code that is not ours; an ERROR is rolled back and means that the value cannot be rendered. What
/// says something of the server or of the user's wish to stop goes on as it is.
fn in_subtransaction<R>(work: impl FnOnce() -> R) -> Result<R, Unrenderable> {
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
        Err(Unrenderable)
    })
    .execute()
}
