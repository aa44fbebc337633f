//! What kind of value a column holds, and so how it is rendered. Worked out once for a plan.
//!
//! PostgreSQL's own types are rendered here or by their own output functions, so that no setting
//! of the session changes what is sent and no other code runs. A type of an extension's or a
//! user's goes through `row_to_json` in a subtransaction: its output or its cast to json may do
//! anything, and fail.

use pgrx::pg_sys;
use std::ffi::CStr;

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
    /// `char(n)`: the value is padded with spaces that mean nothing.
    PaddedText,
    Name,
    Uuid,
    TimestampTz,
    Timestamp,
    Date,
    Json,
    Jsonb,
    Bytea,
    Array(Box<Elements>),
    Composite(Box<Composite>),
    /// A range of timestamps, whose own text is not ISO 8601.
    Range(Box<Ranges>),
    Multirange(Box<Ranges>),
    /// A string: what this output function makes of it.
    Output(Output),
    /// By `row_to_json`; the type as declared.
    Other(pg_sys::Oid),
}

/// The elements of an array.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Elements {
    pub(crate) kind: Kind,
    pub(crate) type_oid: pg_sys::Oid,
    pub(crate) length: i16,
    pub(crate) by_value: bool,
    pub(crate) align: std::ffi::c_char,
}

/// A row type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Composite {
    pub(crate) type_oid: pg_sys::Oid,
    /// In the order that JavaScript gives them.
    pub(crate) fields: Vec<Field>,
}

/// A field of a row type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Field {
    /// Place in the row, from 0.
    pub(crate) index: usize,
    /// `"name":`
    pub(crate) key: String,
    pub(crate) kind: Kind,
}

/// A range type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ranges {
    /// Oid of the range type, also for a multirange.
    pub(crate) type_oid: pg_sys::Oid,
    /// Of the bounds.
    pub(crate) kind: Kind,
}

/// An output function of PostgreSQL's own, with the settings that its text depends on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Output {
    pub(crate) function: pg_sys::Oid,
    /// Whether the value is a varlena, whose size is known beforehand.
    pub(crate) is_varlena: bool,
    pub(crate) pins: &'static [(&'static CStr, &'static CStr)],
}

/// Names of objects are qualified unless they are in `pg_catalog`, and quoted only where they must be.
const NAMES_OF_OBJECTS: &[(&CStr, &CStr)] = &[
    (c"search_path", c"pg_catalog"),
    (c"quote_all_identifiers", c"off"),
];
/// An amount of money has the decimals, and the signs, of the C locale.
const MONEY: &[(&CStr, &CStr)] = &[(c"lc_monetary", c"C")];

/// Oids from here on belong to extensions and users.
pub(super) const FIRST_NORMAL_OBJECT_ID: u32 = 16_384;

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
            pg_sys::TEXTOID | pg_sys::VARCHAROID => Self::Text,
            pg_sys::BPCHAROID => Self::PaddedText,
            pg_sys::NAMEOID => Self::Name,
            pg_sys::UUIDOID => Self::Uuid,
            pg_sys::TIMESTAMPTZOID => Self::TimestampTz,
            pg_sys::TIMESTAMPOID => Self::Timestamp,
            pg_sys::DATEOID => Self::Date,
            pg_sys::JSONOID => Self::Json,
            pg_sys::JSONBOID => Self::Jsonb,
            pg_sys::BYTEAOID => Self::Bytea,
            _ => Self::array_of(base)
                .or_else(|| Self::by_class(base))
                .unwrap_or(Self::Other(declared)),
        }
    }

    fn array_of(base: pg_sys::Oid) -> Option<Self> {
        // SAFETY: as in of().
        unsafe {
            let type_oid = pg_sys::get_element_type(base);
            if type_oid == pg_sys::InvalidOid {
                return None;
            }
            let kind = Self::of(type_oid);
            // A subtransaction for the whole array, and not for each element.
            if kind.runs_other_code() {
                return None;
            }
            let (mut length, mut by_value, mut align) = (0, false, 0);
            pg_sys::get_typlenbyvalalign(
                type_oid,
                &raw mut length,
                &raw mut by_value,
                &raw mut align,
            );
            Some(Self::Array(Box::new(Elements {
                kind,
                type_oid,
                length,
                by_value,
                align,
            })))
        }
    }

    fn by_class(base: pg_sys::Oid) -> Option<Self> {
        let ranges = |range: pg_sys::Oid| {
            // SAFETY: as in of(); a type that is no range has no subtype.
            let kind = Self::of(unsafe { pg_sys::get_range_subtype(range) });
            matches!(kind, Self::Timestamp | Self::TimestampTz).then(|| {
                Box::new(Ranges {
                    type_oid: range,
                    kind,
                })
            })
        };
        // SAFETY: as in of().
        let class = unsafe { pg_sys::get_typtype(base) } as u8;
        let found = match class {
            pg_sys::TYPTYPE_COMPOSITE => Some(Self::Composite(Box::new(Composite::of(base)))),
            pg_sys::TYPTYPE_RANGE => ranges(base).map(Self::Range),
            pg_sys::TYPTYPE_MULTIRANGE => {
                // SAFETY: as in of().
                let range = unsafe { pg_sys::get_multirange_range(base) };
                ranges(range).map(Self::Multirange)
            }
            _ => None,
        };
        let builtin = base.to_u32() < FIRST_NORMAL_OBJECT_ID;
        found.or_else(|| (builtin && class != pg_sys::TYPTYPE_PSEUDO).then(|| Self::output(base)))
    }

    fn output(base: pg_sys::Oid) -> Self {
        let (mut function, mut is_varlena) = (pg_sys::InvalidOid, false);
        // SAFETY: as in of().
        unsafe { pg_sys::getTypeOutputInfo(base, &raw mut function, &raw mut is_varlena) };
        let pins = match base {
            pg_sys::REGCLASSOID
            | pg_sys::REGPROCOID
            | pg_sys::REGPROCEDUREOID
            | pg_sys::REGOPEROID
            | pg_sys::REGOPERATOROID
            | pg_sys::REGTYPEOID
            | pg_sys::REGROLEOID
            | pg_sys::REGNAMESPACEOID
            | pg_sys::REGCONFIGOID
            | pg_sys::REGDICTIONARYOID
            | pg_sys::REGCOLLATIONOID => NAMES_OF_OBJECTS,
            pg_sys::MONEYOID => MONEY,
            _ => &[],
        };
        Self::Output(Output {
            function,
            is_varlena,
            pins,
        })
    }

    /// Whether rendering may run code of an extension's or a user's.
    fn runs_other_code(&self) -> bool {
        match self {
            Self::Other(_) => true,
            Self::Array(elements) => elements.kind.runs_other_code(),
            Self::Composite(composite) => composite
                .fields
                .iter()
                .any(|field| field.kind.runs_other_code()),
            _ => false,
        }
    }

    /// Whether an output function runs, which settings of the session may change.
    pub(crate) fn needs_pinning(&self) -> bool {
        match self {
            Self::Other(_) | Self::Output(_) => true,
            Self::Array(elements) => elements.kind.needs_pinning(),
            Self::Composite(composite) => composite
                .fields
                .iter()
                .any(|field| field.kind.needs_pinning()),
            _ => false,
        }
    }

    /// Whether the value's own text, as an id or an owner has it, depends on settings.
    pub(crate) fn text_needs_pinning(&self) -> bool {
        self.needs_pinning() || matches!(self, Self::Float4 | Self::Float8)
    }
}

impl Composite {
    fn of(type_oid: pg_sys::Oid) -> Self {
        // SAFETY: in a transaction; the oid is that of a row type, whose description is given back.
        let mut fields: Vec<Field> = unsafe {
            let columns = pg_sys::lookup_rowtype_tupdesc(type_oid, -1);
            let found = attributes(columns);
            if (*columns).tdrefcount >= 0 {
                pg_sys::DecrTupleDescRefCount(columns);
            }
            found
        }
        .into_iter()
        .map(|attribute| Field {
            index: attribute.index,
            key: attribute.name,
            kind: Kind::of(attribute.type_oid),
        })
        .collect();
        // What JavaScript takes for an index comes first; the sort keeps the order of the others.
        fields.sort_by_key(|field| integer_like(&field.key).map_or(u64::MAX, u64::from));
        for field in &mut fields {
            field.key = key_of(&field.key);
        }
        Self { type_oid, fields }
    }
}

/// `"name":`, as it stands in JSON.
pub(crate) fn key_of(name: &str) -> String {
    let mut key = String::with_capacity(name.len() + 3);
    webhooks_core::json::write_string(name, &mut key);
    key.push(':');
    key
}

/// The number, if JavaScript takes the name for an array index and moves it to the front.
pub(crate) fn integer_like(name: &str) -> Option<u32> {
    let number: u32 = name.parse().ok().filter(|&number| number != u32::MAX)?;
    (number.to_string() == name).then_some(number)
}

/// Whether a type is one of pgvector's, a domain over one, or an array of them.
pub(crate) fn is_vector(declared: pg_sys::Oid) -> bool {
    const MISSING_IS_FINE: bool = true;
    // SAFETY: look-ups in a transaction.
    unsafe {
        let base = pg_sys::getBaseType(declared);
        let element = pg_sys::get_element_type(base);
        if element != pg_sys::InvalidOid {
            return is_vector(element);
        }
        if base.to_u32() < FIRST_NORMAL_OBJECT_ID {
            return false;
        }
        let pgvector = pg_sys::get_extension_oid(c"vector".as_ptr(), MISSING_IS_FINE);
        pgvector != pg_sys::InvalidOid
            && pg_sys::getExtensionOfObject(pg_sys::TypeRelationId, base) == pgvector
    }
}

/// A column as the catalog describes it.
pub(crate) struct Attribute {
    pub(crate) index: usize,
    pub(crate) name: String,
    pub(crate) type_oid: pg_sys::Oid,
    pub(crate) by_value: bool,
    pub(crate) length: i16,
    pub(crate) not_null: bool,
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
                    not_null: (*attribute).attnotnull,
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
