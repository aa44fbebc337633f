//! Arrays, rows and ranges.

use super::{NotRendered, SHRINKS_AT_MOST, must_fit, render, size};
use crate::emit::kind::{Composite, Elements, Ranges};
use crate::seam::raw::ranges_of;
use pgrx::pg_sys;
use webhooks_core::json;

/// A comma and one digit.
const LEAST_ELEMENT: usize = 2;

/// An array, nested as its dimensions say.
///
/// # Safety
/// The datum must be an array of these elements.
pub(super) unsafe fn array(
    datum: pg_sys::Datum,
    elements: &Elements,
    out: &mut String,
    room: usize,
) -> Result<(), NotRendered> {
    // SAFETY: as the caller says; deconstruct_array gives as many values and nulls as it counts.
    unsafe {
        must_fit(size(datum) / SHRINKS_AT_MOST, out, room)?;
        let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        let dimensions = usize::try_from((*array).ndim).unwrap_or(0);
        let sizes: Vec<usize> = {
            let first = array
                .cast::<u8>()
                .add(std::mem::size_of::<pg_sys::ArrayType>())
                .cast::<i32>();
            (0..dimensions)
                .map(|index| usize::try_from(*first.add(index)).unwrap_or(0))
                .collect()
        };
        let count = sizes.iter().copied().fold(1, usize::saturating_mul);
        must_fit(count.saturating_mul(LEAST_ELEMENT), out, room)?;
        let (mut values, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
        pg_sys::deconstruct_array(
            array,
            elements.type_oid,
            i32::from(elements.length),
            elements.by_value,
            elements.align,
            &raw mut values,
            &raw mut nulls,
            &raw mut count,
        );
        let mut next = 0;
        let mut each = |out: &mut String| {
            let index = next;
            next += 1;
            if *nulls.add(index) {
                out.push_str("null");
                Ok(())
            } else {
                render(&elements.kind, *values.add(index), out, room)
            }
        };
        nest(&sizes, &mut each, out)
    }
}

fn nest(
    sizes: &[usize],
    each: &mut impl FnMut(&mut String) -> Result<(), NotRendered>,
    out: &mut String,
) -> Result<(), NotRendered> {
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

/// A row as an object.
///
/// # Safety
/// The datum must be of this row type.
pub(super) unsafe fn composite(
    datum: pg_sys::Datum,
    composite: &Composite,
    out: &mut String,
    room: usize,
) -> Result<(), NotRendered> {
    // SAFETY: as the caller says; a row's values are as many as its description has columns, and point into the
    // detoasted row, which lives in the current memory context.
    let (values, nulls) = unsafe {
        must_fit(size(datum) / SHRINKS_AT_MOST, out, room)?;
        let row = pg_sys::pg_detoast_datum(datum.cast_mut_ptr());
        let mut tuple = pg_sys::HeapTupleData {
            t_len: u32::try_from(pgrx::varsize_any(row)).unwrap_or(0),
            t_data: row.cast(),
            ..Default::default()
        };
        let columns = pg_sys::lookup_rowtype_tupdesc(composite.type_oid, -1);
        let count = usize::try_from((*columns).natts).unwrap_or(0);
        let mut values = vec![pg_sys::Datum::from(0); count];
        let mut nulls = vec![true; count];
        pg_sys::heap_deform_tuple(
            &raw mut tuple,
            columns,
            values.as_mut_ptr(),
            nulls.as_mut_ptr(),
        );
        if (*columns).tdrefcount >= 0 {
            pg_sys::DecrTupleDescRefCount(columns);
        }
        (values, nulls)
    };
    out.push('{');
    for (number, field) in composite.fields.iter().enumerate() {
        if number > 0 {
            out.push(',');
        }
        out.push_str(&field.key);
        match (values.get(field.index), nulls.get(field.index)) {
            // SAFETY: the field's kind is that of its column.
            (Some(&value), Some(false)) => unsafe { render(&field.kind, value, out, room)? },
            _ => out.push_str("null"),
        }
    }
    out.push('}');
    Ok(())
}

/// A range as PostgreSQL writes it, but for its bounds: `["2024-01-15T10:30:00.000Z",)`.
///
/// # Safety
/// The datum must be of this range type.
pub(super) unsafe fn range(
    datum: pg_sys::Datum,
    ranges: &Ranges,
    out: &mut String,
) -> Result<(), NotRendered> {
    let mut text = String::new();
    // SAFETY: as the caller says.
    unsafe {
        write_range(
            pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast(),
            ranges,
            &mut text,
        )?
    };
    json::write_string(&text, out);
    Ok(())
}

/// Ranges in braces.
///
/// # Safety
/// The datum must be of the multirange type of this range type.
pub(super) unsafe fn multirange(
    datum: pg_sys::Datum,
    ranges: &Ranges,
    out: &mut String,
    room: usize,
) -> Result<(), NotRendered> {
    let mut text = String::from("{");
    // SAFETY: as the caller says.
    unsafe {
        must_fit(size(datum), out, room)?;
        let cache = pg_sys::lookup_type_cache(ranges.type_oid, pg_sys::TYPECACHE_RANGE_INFO as i32);
        let multirange = pg_sys::pg_detoast_datum(datum.cast_mut_ptr());
        for (index, range) in ranges_of(cache, multirange).iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            write_range(*range, ranges, &mut text)?;
        }
    }
    text.push('}');
    json::write_string(&text, out);
    Ok(())
}

/// # Safety
/// The pointer must be to a detoasted range of this type.
unsafe fn write_range(
    range: *const pg_sys::RangeType,
    ranges: &Ranges,
    text: &mut String,
) -> Result<(), NotRendered> {
    let (mut lower, mut upper) = (pg_sys::RangeBound::default(), pg_sys::RangeBound::default());
    let mut empty = false;
    // SAFETY: as the caller says.
    unsafe {
        let cache = pg_sys::lookup_type_cache(ranges.type_oid, pg_sys::TYPECACHE_RANGE_INFO as i32);
        pg_sys::range_deserialize(cache, range, &raw mut lower, &raw mut upper, &raw mut empty);
    }
    if empty {
        text.push_str("empty");
        return Ok(());
    }
    let bound = |bound: &pg_sys::RangeBound, text: &mut String| {
        if bound.infinite {
            return Ok(());
        }
        // SAFETY: the bound is of the kind's type, and has a fixed length.
        unsafe { render(&ranges.kind, bound.val, text, usize::MAX) }
    };
    text.push(if lower.inclusive { '[' } else { '(' });
    bound(&lower, text)?;
    text.push(',');
    bound(&upper, text)?;
    text.push(if upper.inclusive { ']' } else { ')' });
    Ok(())
}
