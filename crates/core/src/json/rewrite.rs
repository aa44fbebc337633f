//! From any JSON text to the canonical one, in one pass over the text after it has been judged.
//!
//! `serde_json` judges the syntax, without building anything; the text is then rewritten as it
//! stands. Parsing into values would be the shorter way, but with arbitrary precision `serde_json`
//! respells exponents, and takes an object with its private key for a number.

use super::cursor::{Cursor, unexpected};
use super::members::index;
use super::{JsonError, MAX_DEPTH, string, write_number};

/// With so many members, equal keys are found by comparing each with each.
const FEW_MEMBERS: usize = 16;

/// Appends the canonical form of a JSON text to `out`.
///
/// # Errors
/// The text is not JSON, is nested deeper than [`MAX_DEPTH`], or holds U+0000 or half of a
/// surrogate pair. `out` is then as it was.
pub fn canonicalize(text: &str, out: &mut String) -> Result<(), JsonError> {
    rewrite(text, MAX_DEPTH, Deeper::Refused, out)
}

/// The same, but what is nested deeper than `depth` levels becomes `null` instead of an error.
///
/// # Errors
/// As [`canonicalize`], except for the depth.
pub fn prune(text: &str, depth: usize, out: &mut String) -> Result<(), JsonError> {
    rewrite(text, depth.min(MAX_DEPTH), Deeper::Null, out)
}

/// What becomes of what is nested too deeply.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Deeper {
    Refused,
    Null,
}

fn rewrite(text: &str, levels: usize, deeper: Deeper, out: &mut String) -> Result<(), JsonError> {
    let cursor = Cursor::of(text)?;
    let before = out.len();
    out.reserve(text.len());
    let mut rewriter = Rewriter {
        cursor,
        depth: 0,
        levels,
        deeper,
        members: Vec::new(),
        out,
    };
    let result = rewriter.value();
    if result.is_err() {
        out.truncate(before);
    }
    result
}

/// A member of an object that is being written, as offsets into the output.
#[derive(Clone, Copy)]
struct Member {
    /// Where its key begins, with the quote.
    start: usize,
    /// Where its key ends, behind the quote.
    key_end: usize,
    /// Where its value ends.
    end: usize,
    index: Option<u32>,
}

impl Member {
    fn key<'a>(&self, out: &'a str) -> &'a str {
        &out[self.start..self.key_end]
    }
}

struct Rewriter<'a> {
    cursor: Cursor<'a>,
    depth: usize,
    levels: usize,
    deeper: Deeper,
    /// Members of all objects that are open, the innermost one's last.
    members: Vec<Member>,
    out: &'a mut String,
}

impl Rewriter<'_> {
    fn value(&mut self) -> Result<(), JsonError> {
        match self.cursor.peek()? {
            b'{' => self.nested(Self::object),
            b'[' => self.nested(Self::array),
            b'"' => self.string(),
            b'-' | b'0'..=b'9' => {
                write_number(self.cursor.number(), self.out);
                Ok(())
            }
            b'a'..=b'z' => {
                self.out.push_str(self.cursor.word());
                Ok(())
            }
            _ => Err(unexpected()),
        }
    }

    fn nested(&mut self, write: fn(&mut Self) -> Result<(), JsonError>) -> Result<(), JsonError> {
        if self.depth == self.levels {
            if self.deeper == Deeper::Refused {
                return Err(JsonError::TooDeep);
            }
            self.out.push_str("null");
            return self.cursor.skip_nested();
        }
        self.depth += 1;
        write(self)?;
        self.depth -= 1;
        Ok(())
    }

    fn array(&mut self) -> Result<(), JsonError> {
        self.cursor.take(b'[')?;
        self.out.push('[');
        if self.cursor.peek()? != b']' {
            loop {
                self.value()?;
                if self.cursor.peek()? == b']' {
                    break;
                }
                self.cursor.take(b',')?;
                self.out.push(',');
            }
        }
        self.cursor.take(b']')?;
        self.out.push(']');
        Ok(())
    }

    fn object(&mut self) -> Result<(), JsonError> {
        self.cursor.take(b'{')?;
        self.out.push('{');
        let outer = self.members.len();
        if self.cursor.peek()? != b'}' {
            loop {
                let start = self.out.len();
                self.string()?;
                let key_end = self.out.len();
                let index = index(&self.out[start + 1..key_end - 1]);
                self.cursor.take(b':')?;
                self.out.push(':');
                self.value()?;
                self.members.push(Member {
                    start,
                    key_end,
                    end: self.out.len(),
                    index,
                });
                if self.cursor.peek()? == b'}' {
                    break;
                }
                self.cursor.take(b',')?;
                self.out.push(',');
            }
        }
        self.cursor.take(b'}')?;
        let members = &self.members[outer..];
        if !in_order(members) || has_duplicates(members, self.out) {
            arrange(members, self.out);
        }
        self.members.truncate(outer);
        self.out.push('}');
        Ok(())
    }

    fn string(&mut self) -> Result<(), JsonError> {
        self.cursor.take(b'"')?;
        self.out.push('"');
        loop {
            let clean = self.cursor.run(|byte| !matches!(byte, b'"' | b'\\' | 0));
            self.out.push_str(clean);
            match self.cursor.bump()? {
                b'"' => break,
                b'\\' => self.escape()?,
                _ => return Err(JsonError::Nul),
            }
        }
        self.out.push('"');
        Ok(())
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        let character = match self.cursor.bump()? {
            b'b' => '\u{8}',
            b't' => '\t',
            b'n' => '\n',
            b'f' => '\u{c}',
            b'r' => '\r',
            b'u' => self.code_point()?,
            other => char::from(other),
        };
        string::write_char(character, self.out);
        Ok(())
    }

    /// What follows `\u`, with a second escape if it takes two.
    fn code_point(&mut self) -> Result<char, JsonError> {
        let unit = self.code_unit()?;
        let code = match unit {
            0 => return Err(JsonError::Nul),
            0xd800..=0xdbff => {
                if !self.cursor.follows("\\u") {
                    return Err(JsonError::LoneSurrogate);
                }
                match self.code_unit()? {
                    low @ 0xdc00..=0xdfff => 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00),
                    _ => return Err(JsonError::LoneSurrogate),
                }
            }
            _ => unit,
        };
        char::from_u32(code).ok_or(JsonError::LoneSurrogate)
    }

    fn code_unit(&mut self) -> Result<u32, JsonError> {
        u32::from_str_radix(self.cursor.some(4)?, 16).map_err(|_| unexpected())
    }
}

/// Whether array indices come first and ascend.
fn in_order(members: &[Member]) -> bool {
    members.is_sorted_by(|a, b| match (a.index, b.index) {
        (Some(a), Some(b)) => a < b,
        (None, Some(_)) => false,
        (_, None) => true,
    })
}

fn has_duplicates(members: &[Member], out: &str) -> bool {
    if members.len() <= FEW_MEMBERS {
        return members.iter().enumerate().any(|(position, member)| {
            members[..position]
                .iter()
                .any(|other| other.key(out) == member.key(out))
        });
    }
    let mut keys: Vec<&str> = members.iter().map(|member| member.key(out)).collect();
    keys.sort_unstable();
    keys.windows(2).any(|pair| pair[0] == pair[1])
}

/// Writes the members of the innermost object again, as JavaScript orders them: array indices
/// ascending, then the others where their key came first, each with its last value.
fn arrange(members: &[Member], out: &mut String) {
    let Some(first) = members.first() else { return };
    let mut sorted: Vec<(usize, Member)> = members.iter().copied().enumerate().collect();
    // The sort is stable: members of one key stay in the order of the text.
    sorted.sort_by(|(_, a), (_, b)| a.key(out).cmp(b.key(out)));
    let mut kept: Vec<(usize, Member)> = sorted
        .chunk_by(|(_, a), (_, b)| a.key(out) == b.key(out))
        .filter_map(|same| Some((same.first()?.0, same.last()?.1)))
        .collect();
    kept.sort_unstable_by_key(|&(position, member)| {
        (member.index.is_none(), member.index, position)
    });
    let mut arranged = String::with_capacity(out.len() - first.start);
    for (position, (_, member)) in kept.iter().enumerate() {
        if position > 0 {
            arranged.push(',');
        }
        arranged.push_str(&out[member.start..member.end]);
    }
    out.truncate(first.start);
    out.push_str(&arranged);
}
