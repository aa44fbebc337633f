//! `jsonb` as canonical JSON.
//!
//! Written with PostgreSQL's iterator rather than by `JsonbToCString`, which has no limit: a `jsonb`
//! of 100 kB may hold numbers of 131,072 digits each, and then its text exceeds a gigabyte.

use super::{NotRendered, numeric_text};
use pgrx::pg_sys;
use webhooks_core::json;

/// Appends a `jsonb`, unless `out` would become longer than `room` bytes.
///
/// # Safety
/// The datum must be a `jsonb`.
pub(super) unsafe fn render(
    datum: pg_sys::Datum,
    out: &mut String,
    room: usize,
) -> Result<(), NotRendered> {
    let mut text = String::new();
    // SAFETY: as the caller says.
    unsafe { write(datum, &mut text, room.saturating_sub(out.len()))? };
    // It puts the keys into JavaScript's order, and spells numbers.
    json::canonicalize(&text, out).map_err(|_| NotRendered::NoJson)
}

/// # Safety
/// The datum must be a `jsonb`.
unsafe fn write(datum: pg_sys::Datum, text: &mut String, most: usize) -> Result<(), NotRendered> {
    use pg_sys::JsonbIteratorToken as Token;
    const GO_INTO_CONTAINERS: bool = false;
    // SAFETY: as the caller says. The iterator allocates in the current memory context and frees itself at the end;
    // a value is valid until the next call.
    unsafe {
        let jsonb = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::Jsonb>();
        let mut iterator = pg_sys::JsonbIteratorInit(&raw mut (*jsonb).root);
        let mut value = pg_sys::JsonbValue::default();
        // Whether a comma is due before the next key, element or container.
        let mut follows = false;
        // A scalar is kept as an array of one element.
        let mut scalar = false;
        loop {
            let token =
                pg_sys::JsonbIteratorNext(&raw mut iterator, &raw mut value, GO_INTO_CONTAINERS);
            let opens = matches!(token, Token::WJB_BEGIN_ARRAY | Token::WJB_BEGIN_OBJECT);
            if follows && (opens || matches!(token, Token::WJB_KEY | Token::WJB_ELEM)) {
                text.push(',');
            }
            match token {
                Token::WJB_DONE => return Ok(()),
                Token::WJB_BEGIN_ARRAY if value.val.array.rawScalar => scalar = true,
                Token::WJB_BEGIN_ARRAY => text.push('['),
                Token::WJB_END_ARRAY if scalar => {}
                Token::WJB_END_ARRAY => text.push(']'),
                Token::WJB_BEGIN_OBJECT => text.push('{'),
                Token::WJB_END_OBJECT => text.push('}'),
                _ => one(&value, text)?,
            }
            if token == Token::WJB_KEY {
                text.push(':');
            }
            follows = !opens && token != Token::WJB_KEY;
            if text.len() > most {
                return Err(NotRendered::TooLong);
            }
            pgrx::check_for_interrupts!();
        }
    }
}

/// A key, or a value that is no container.
///
/// # Safety
/// The iterator's current value.
unsafe fn one(value: &pg_sys::JsonbValue, text: &mut String) -> Result<(), NotRendered> {
    use pg_sys::jbvType as Type;
    // SAFETY: the type says which member of the union holds the value; a string has the length given.
    unsafe {
        match value.type_ {
            Type::jbvNull => text.push_str("null"),
            Type::jbvBool => text.push_str(if value.val.boolean { "true" } else { "false" }),
            Type::jbvNumeric => {
                let number = numeric_text(pg_sys::Datum::from(value.val.numeric))?;
                text.push_str(number);
                pg_sys::pfree(number.as_ptr().cast_mut().cast());
            }
            Type::jbvString => {
                let string = value.val.string;
                let raw = std::slice::from_raw_parts(
                    string.val.cast::<u8>(),
                    usize::try_from(string.len).unwrap_or(0),
                );
                let string = std::str::from_utf8(raw).map_err(|_| NotRendered::NoJson)?;
                json::write_string(string, text);
            }
            _ => return Err(NotRendered::NoJson),
        }
    }
    Ok(())
}
