//! Metadata: numbers, flags, texts and lists, read where they lie.

use super::error::{GgufError, GgufFault};

/// Lists within lists that are followed. Files have flat ones; the format allows more.
const MAX_NESTING: usize = 4;

/// The largest number of a type.
pub(super) const LAST_KIND: u32 = 12;

const TEXT: u32 = 8;
const LIST: u32 = 9;
const FLAG: u32 = 7;

/// A value of the metadata.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)] // the names are the types
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Text(&'a str),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    /// A whole number of 0 or more, of whatever width.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::U8(n) => Some(n.into()),
            Value::U16(n) => Some(n.into()),
            Value::U32(n) => Some(n.into()),
            Value::U64(n) => Some(n),
            Value::I8(n) => n.try_into().ok(),
            Value::I16(n) => n.try_into().ok(),
            Value::I32(n) => n.try_into().ok(),
            Value::I64(n) => n.try_into().ok(),
            _ => None,
        }
    }

    /// A number with a fraction; whole numbers are not taken for one.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Value::F32(x) => Some(x.into()),
            Value::F64(x) => Some(x),
            _ => None,
        }
    }

    /// A flag.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Value::Bool(flag) => Some(flag),
            _ => None,
        }
    }

    /// A text.
    pub fn as_text(&self) -> Option<&'a str> {
        match *self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A list.
    pub fn as_array(&self) -> Option<Array<'a>> {
        match *self {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }

    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Bool(_) => "a flag",
            Value::Text(_) => "a text",
            Value::Array(_) => "a list",
            Value::F32(_) | Value::F64(_) => "a number with a fraction",
            _ => "a whole number",
        }
    }
}

/// A list of values of one type, validated and still encoded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Array<'a> {
    kind: u32,
    len: u64,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// Number of values.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The values in order.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let (kind, mut left, mut reader) = (self.kind, self.len, Reader::new(self.bytes));
        // Reading what was read before cannot fail; were the file changed meanwhile, the list would end.
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            reader.value(kind, 0).ok()
        })
    }

    /// The values, if they are texts.
    pub fn texts(&self) -> Option<impl Iterator<Item = &'a str> + use<'a>> {
        (self.kind == TEXT).then(|| self.iter().filter_map(|value| value.as_text()))
    }
}

/// A place in a file.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, at: 0 }
    }

    pub(super) fn at(&self) -> u64 {
        self.at as u64
    }

    pub(super) fn remaining(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    pub(super) fn fault<T>(&self, fault: GgufFault) -> Result<T, GgufError> {
        Err(GgufError { offset: self.at(), fault })
    }

    pub(super) fn take(&mut self, needed: u64, what: &'static str) -> Result<&'a [u8], GgufError> {
        let remaining = self.remaining();
        if needed > remaining {
            return self.fault(GgufFault::Truncated { what, needed, remaining });
        }
        let taken = &self.bytes[self.at..][..needed as usize];
        self.at += needed as usize;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        let taken = self.take(N as u64, what)?;
        let mut array = [0; N];
        array.copy_from_slice(taken);
        Ok(array)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A number of things that take at least `least` bytes each.
    pub(super) fn count(&mut self, what: &'static str, least: u64) -> Result<u64, GgufError> {
        let before = self.clone();
        let claimed = self.u64(what)?;
        let remaining = self.remaining();
        match claimed.checked_mul(least) {
            Some(needed) if needed <= remaining => Ok(claimed),
            _ => before.fault(GgufFault::Count { what, claimed, remaining }),
        }
    }

    pub(super) fn text(&mut self, what: &'static str) -> Result<&'a str, GgufError> {
        let before = self.clone();
        let length = self.u64(what)?;
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).or_else(|_| before.fault(GgufFault::NotText { what }))
    }

    /// A value with its type in front.
    pub(super) fn typed(&mut self) -> Result<Value<'a>, GgufError> {
        let before = self.clone();
        let kind = self.u32("the type of a value")?;
        match width(kind) {
            None => before.fault(GgufFault::ValueType { found: kind }),
            Some(_) => self.value(kind, 0),
        }
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value<'a>, GgufError> {
        const WHAT: &str = "a value";
        Ok(match kind {
            0 => Value::U8(u8::from_le_bytes(self.array(WHAT)?)),
            1 => Value::I8(i8::from_le_bytes(self.array(WHAT)?)),
            2 => Value::U16(u16::from_le_bytes(self.array(WHAT)?)),
            3 => Value::I16(i16::from_le_bytes(self.array(WHAT)?)),
            4 => Value::U32(u32::from_le_bytes(self.array(WHAT)?)),
            5 => Value::I32(i32::from_le_bytes(self.array(WHAT)?)),
            6 => Value::F32(f32::from_le_bytes(self.array(WHAT)?)),
            FLAG => {
                let before = self.clone();
                match self.array(WHAT)? {
                    [0] => Value::Bool(false),
                    [1] => Value::Bool(true),
                    [found] => return before.fault(GgufFault::Flag { found }),
                }
            }
            TEXT => Value::Text(self.text("a text")?),
            LIST => Value::Array(self.list(depth)?),
            10 => Value::U64(u64::from_le_bytes(self.array(WHAT)?)),
            11 => Value::I64(i64::from_le_bytes(self.array(WHAT)?)),
            12 => Value::F64(f64::from_le_bytes(self.array(WHAT)?)),
            found => return self.fault(GgufFault::ValueType { found }),
        })
    }

    fn list(&mut self, depth: usize) -> Result<Array<'a>, GgufError> {
        if depth >= MAX_NESTING {
            return self.fault(GgufFault::Nesting { limit: MAX_NESTING });
        }
        let before = self.clone();
        let kind = self.u32("the type of a list's values")?;
        let Some(least) = width(kind) else {
            return before.fault(GgufFault::ValueType { found: kind });
        };
        let len = self.count("values of a list", least)?;
        let start = self.at;
        if matches!(kind, FLAG | TEXT | LIST) {
            for _ in 0..len {
                self.value(kind, depth + 1)?;
            }
        } else {
            // `count` has seen that this many bytes are there.
            self.take(len * least, "a list")?;
        }
        Ok(Array { kind, len, bytes: &self.bytes[start..self.at] })
    }
}

/// The fewest bytes a value of type `kind` takes, `None` if there is no such type.
fn width(kind: u32) -> Option<u64> {
    Some(match kind {
        0 | 1 | FLAG => 1,
        2 | 3 => 2,
        4..=6 => 4,
        TEXT | 10..=LAST_KIND => 8,
        LIST => 12,
        _ => return None,
    })
}
