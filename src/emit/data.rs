//! Rows as JSON: the whole row, what has changed in it, what filters may judge.

use super::attached::Shown;
use super::plan::{Column, Plan};
use super::render::{self, NotRendered};
use crate::settings;
use pgrx::pg_sys;
use std::hash::{DefaultHasher, Hash, Hasher};
use webhooks_core::payload::Omitted;

/// A string value this long is left out of what filters judge when the data are truncated: no filter can
/// ask for it.
const FILTERABLE: usize = 8 << 10;

/// A value of this many bytes is rendered also where no payload has room for it, since filters look into it.
const JUDGED: usize = 256 << 10;

/// Bytes of the longest value that is rendered: what a payload has room for, and what filters look into.
fn longest() -> usize {
    settings::max_payload().max(JUDGED)
}

/// Appends a column's value.
fn value(column: &Column, row: Row, out: &mut String) -> Result<(), NotRendered> {
    match row.get(column) {
        None => {
            out.push_str("null");
            Ok(())
        }
        Some(datum) => {
            let room = out.len().saturating_add(longest());
            // SAFETY: the plan knows the column's type.
            unsafe { render::render(&column.kind, datum, out, room) }
        }
    }
}

/// Whether two values are the same to the byte: then they need not be rendered to be compared. A value
/// that is stored apart and was not touched is the same pointer.
fn same_image(column: &Column, old: Option<pg_sys::Datum>, new: Option<pg_sys::Datum>) -> bool {
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

/// What has changed in a row.
#[derive(Default)]
pub(super) struct Changes {
    /// Some column that is a reason to send has changed.
    pub(super) any: bool,
    /// `"name":{"from":…,"to":…}`, … of each shown column; nothing if no payload has room for it.
    pub(super) text: Option<String>,
}

impl Plan {
    /// A column's own text, as ids and owners have it. `None`: it is NULL, or no payload has room for it.
    fn text_of(&self, column: Option<&Column>, row: Row) -> Option<String> {
        let column = column?;
        // SAFETY: the plan knows the column's type.
        unsafe { render::own_text(&column.kind, row.get(column)?, longest()) }.ok()
    }

    /// `id` is always a string.
    pub(super) fn id(&self, row: Row) -> String {
        self.text_of(self.id.as_ref(), row).unwrap_or_default()
    }

    /// Whose a row is.
    pub(super) fn owner(&self, row: Row) -> Option<String> {
        let owner = self.text_of(self.owner.as_ref(), row)?;
        let padded = self
            .owner
            .as_ref()
            .is_some_and(|column| column.kind == super::kind::Kind::PaddedText);
        // The spaces behind a char(n) mean nothing.
        Some(if padded {
            owner.trim_end_matches(' ').to_owned()
        } else {
            owner
        })
    }

    /// The row as `data`, and what of it was left out since it is too long by itself. `without`: a key that is ours and
    /// so not a column's.
    pub(super) fn whole(
        &self,
        row: Row,
        out: &mut String,
        without: &str,
    ) -> Result<Omitted, NotRendered> {
        let mut omitted = Omitted::Nothing;
        let mut content = 0;
        let start = out.len();
        let mut column_of = |column: &Column, out: &mut String| {
            let before = out.len();
            out.push_str(&column.key);
            let rendered = value(column, row, out);
            out.push(',');
            if column.key == "\"content\":" {
                if rendered == Err(NotRendered::TooLong) {
                    out.truncate(before);
                    omitted = Omitted::Content;
                    return Ok(());
                }
                content = out.len() - before;
            } else if out.len() - start - content > longest() {
                // It cannot fit without content either.
                return Err(NotRendered::TooLong);
            }
            rendered
        };
        out.push('{');
        let (leading, rest) = self.columns.split_at(self.leading);
        for column in leading {
            column_of(column, out)?;
        }
        self.object_and_id(row, out);
        out.push(',');
        for column in rest.iter().filter(|column| column.key != without) {
            column_of(column, out)?;
        }
        out.pop();
        out.push('}');
        Ok(omitted)
    }

    /// `"object":…,"id":…`
    pub(super) fn object_and_id(&self, row: Row, out: &mut String) {
        out.push_str("\"object\":");
        webhooks_core::json::write_string(&self.object, out);
        out.push_str(",\"id\":");
        webhooks_core::json::write_string(&self.id(row), out);
    }

    /// `,"metadata":…`, if the row has the column.
    pub(super) fn metadata(&self, row: Row, out: &mut String) -> Result<(), NotRendered> {
        let Some(column) = self.metadata.and_then(|index| self.columns.get(index)) else {
            return Ok(());
        };
        out.push(',');
        out.push_str(&column.key);
        value(column, row, out)
    }

    /// A number that tells versions of a row apart which do not look alike.
    pub(super) fn version(&self, row: Row) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.filterable(row).hash(&mut hasher);
        hasher.finish()
    }

    /// The row as filters may judge it, with the `object` of its data: what cannot be rendered or is too long to be asked for is left out.
    pub(super) fn filterable(&self, row: Row) -> String {
        let mut out = String::from("{");
        self.object_and_id(row, &mut out);
        // What is excluded may have any name now.
        let columns = match self.shown {
            Shown::Columns => self.columns.as_slice(),
            Shown::ObjectAndId | Shown::Nothing => &[],
        };
        for column in columns {
            let start = out.len();
            out.push(',');
            out.push_str(&column.key);
            let value_at = out.len();
            let fine = value(column, row, &mut out);
            let long = out.len() - value_at > FILTERABLE && out[value_at..].starts_with('"');
            if fine.is_err() || long {
                out.truncate(start);
            }
        }
        out.push('}');
        out
    }

    /// What an update has changed. Values that are too long to be rendered are compared by their image, as PostgreSQL
    /// compares the columns of its indexes.
    pub(super) fn changes(&self, old: Row, new: Row) -> Result<Changes, NotRendered> {
        let mut changes = Changes::default();
        let mut text = String::new();
        let (mut from, mut to) = (String::new(), String::new());
        let (mut too_long, mut no_json) = (false, false);
        // Integer-like names come first in `columns`; the id stands behind them, as in data.
        let (leading, rest) = self.columns.split_at(self.leading);
        for column in leading.iter().chain(&self.id).chain(rest) {
            if same_image(column, old.get(column), new.get(column)) {
                continue;
            }
            from.clear();
            to.clear();
            let rendered = value(column, old, &mut from).and_then(|()| value(column, new, &mut to));
            if rendered.is_ok() && from == to {
                continue;
            }
            changes.any |= !column.ignored;
            match rendered {
                Ok(()) if text.len() + from.len() + to.len() <= longest() => {
                    if !text.is_empty() {
                        text.push(',');
                    }
                    text.push_str(&column.key);
                    text.push_str("{\"from\":");
                    text.push_str(&from);
                    text.push_str(",\"to\":");
                    text.push_str(&to);
                    text.push('}');
                }
                Ok(()) | Err(NotRendered::TooLong) => too_long = true,
                Err(NotRendered::NoJson) => no_json = true,
            }
        }
        if no_json && changes.any {
            return Err(NotRendered::NoJson);
        }
        changes.text = (!too_long).then_some(text);
        Ok(changes)
    }
}
