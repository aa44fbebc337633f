//! Rows as JSON: the whole row, what has changed in it, what filters may judge.

use super::plan::{Column, Plan};
use super::render::{self, Kind, Unrenderable};
use crate::settings;
use pgrx::pg_sys;

/// A string value this long is left out of what filters judge when the data are truncated: no filter can
/// ask for it.
const FILTERABLE: usize = 8 << 10;

/// Of a text that no payload has room for only the beginning, which no payload has room for either.
pub(super) fn value(column: &Column, row: Row, out: &mut String) -> Result<(), Unrenderable> {
    match row.get(column) {
        None => {
            out.push_str("null");
            Ok(())
        }
        // SAFETY: the plan knows the column's type.
        Some(datum) => unsafe {
            if is_too_long(column, datum) {
                render::beginning(datum, longest(), out)
            } else {
                render::render(&column.kind, datum, out)
            }
        },
    }
}

/// Bytes of the longest text that is rendered whole: what a payload has room for, and what a filter can ask for.
fn longest() -> usize {
    settings::max_payload().max(FILTERABLE)
}

fn is_too_long(column: &Column, datum: pg_sys::Datum) -> bool {
    // SAFETY: the plan knows the column's type.
    column.kind == Kind::Text && unsafe { render::size(datum) } > longest()
}

/// A value as plain text: what its JSON says, without quotes.
pub(super) fn text_of(column: &Column, datum: pg_sys::Datum) -> Option<String> {
    let mut text = String::new();
    // SAFETY: the plan knows the column's type.
    unsafe { render::render(&column.kind, datum, &mut text) }.ok()?;
    if text.starts_with('"') {
        serde_json::from_str(&text).ok()
    } else {
        Some(text)
    }
}

/// Whether two texts that are both too long, and begin alike, are different.
fn differ_in_the_rest(column: &Column, old: Row, new: Row) -> bool {
    match (old.get(column), new.get(column)) {
        // SAFETY: both are texts.
        (Some(old), Some(new)) if is_too_long(column, old) && is_too_long(column, new) => unsafe {
            !render::same_text(old, new)
        },
        _ => false,
    }
}

/// Whether two values are the same to the byte: then they need not be rendered to be compared.
pub(super) fn same_image(
    column: &Column,
    old: Option<pg_sys::Datum>,
    new: Option<pg_sys::Datum>,
) -> bool {
    match (old, new) {
        (None, None) => true,
        // SAFETY: both are of the column's type.
        (Some(old), Some(new)) => unsafe {
            crate::seam::raw::datumIsEqual(old, new, column.by_value, i32::from(column.length))
        },
        _ => false,
    }
}

/// A row's values.
#[derive(Clone, Copy)]
pub(super) struct Row {
    values: *const pg_sys::Datum,
    nulls: *const bool,
}

impl Row {
    /// # Safety
    /// The slot must hold a row, and keep it as long as this is used.
    pub(super) unsafe fn of(slot: *mut pg_sys::TupleTableSlot) -> Self {
        // SAFETY: as the caller says.
        unsafe {
            pg_sys::slot_getallattrs(slot);
            Self {
                values: (*slot).tts_values,
                nulls: (*slot).tts_isnull,
            }
        }
    }

    pub(super) fn get(self, column: &Column) -> Option<pg_sys::Datum> {
        // SAFETY: the plan's columns are those of the table, and so of its rows.
        unsafe { (!*self.nulls.add(column.index)).then(|| *self.values.add(column.index)) }
    }
}

impl Plan {
    /// The row as `data`. `without`: a key that is ours and so not a column's.
    pub(super) fn whole(
        &self,
        row: Row,
        out: &mut String,
        without: &str,
    ) -> Result<(), Unrenderable> {
        let plan = self;
        out.push('{');
        for column in &plan.columns[..plan.leading] {
            out.push_str(&column.key);
            value(column, row, out)?;
            out.push(',');
        }
        out.push_str("\"object\":");
        webhooks_core::json::write_string(&plan.object, out);
        out.push_str(",\"id\":");
        self.id(row, out)?;
        for column in plan.columns[plan.leading..]
            .iter()
            .filter(|column| column.key != without)
        {
            out.push(',');
            out.push_str(&column.key);
            value(column, row, out)?;
        }
        out.push('}');
        Ok(())
    }

    /// The row as filters may judge it, with the `object` of its data: what cannot be rendered or is too long to be asked for is left out.
    pub(super) fn filterable(&self, row: Row, out: &mut String) {
        let plan = self;
        out.push_str("{\"object\":");
        webhooks_core::json::write_string(&plan.object, out);
        for column in plan.id.iter().chain(&plan.columns) {
            let start = out.len();
            out.push(',');
            out.push_str(&column.key);
            let value_at = out.len();
            let fine = if column.key == "\"id\":" {
                self.id(row, out)
            } else {
                value(column, row, out)
            };
            let long = out.len() - value_at > FILTERABLE && out[value_at..].starts_with('"');
            if fine.is_err() || long {
                out.truncate(start);
            }
        }
        out.push('}');
    }

    /// `id` is always a string.
    pub(super) fn id(&self, row: Row, out: &mut String) -> Result<(), Unrenderable> {
        let Some(column) = &self.id else {
            out.push_str("\"\"");
            return Ok(());
        };
        let Some(datum) = row.get(column) else {
            out.push_str("\"\"");
            return Ok(());
        };
        let start = out.len();
        // SAFETY: the plan knows the column's type.
        unsafe { render::render(&column.kind, datum, out) }?;
        if !out[start..].starts_with('"') {
            let text = out.split_off(start);
            webhooks_core::json::write_string(&text, out);
        }
        Ok(())
    }

    /// Each shown column whose text has changed: `"name":{"from":…,"to":…}`, …
    pub(super) fn changes(&self, old: Row, new: Row, out: &mut String) -> Result<(), Unrenderable> {
        let (mut from, mut to) = (String::new(), String::new());
        // Integer-like names come first in `columns`; the id stands behind them, as in data.
        let (leading, rest) = self.columns.split_at(self.leading);
        for column in leading.iter().chain(&self.id).chain(rest) {
            if same_image(column, old.get(column), new.get(column)) {
                continue;
            }
            from.clear();
            to.clear();
            value(column, old, &mut from)?;
            value(column, new, &mut to)?;
            if from != to || differ_in_the_rest(column, old, new) {
                if !out.is_empty() {
                    out.push(',');
                }
                out.push_str(&column.key);
                out.push_str("{\"from\":");
                out.push_str(&from);
                out.push_str(",\"to\":");
                out.push_str(&to);
                out.push('}');
            }
        }
        Ok(())
    }
}
