//! The container: a header, a table of segments, and their bytes.
//!
//! Places in the file are written as addresses relative to a base. Some writers leave the address of their own memory
//! there, others write 0; only differences mean anything.
//!
//! | header, little endian | |
//! |---|---|
//! | 0 u32 | magic |
//! | 4 u8, 5 u8 | major, minor |
//! | 6 u16 | form: 1 for files, 0 for the image of a memory |
//! | 8 u64 | length of the file |
//! | 16 u64 | base |
//! | 24 u64 | number of segments |
//! | 32 u64 | address of the table: length, offset, address of the name, address of the bytes, each u64 |

/// The first four bytes.
pub const MAGIC: u32 = 0x00A1_CD7C;
/// Bytes of the header.
const HEADER: usize = 40;
/// Bytes of an entry of the table.
const ENTRY: u64 = 32;
/// The form that files have.
const FILE: u16 = 1;
/// Longest name of a segment.
const MOST_NAME: usize = 1024;

/// Why bytes are no container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContainerError {
    /// Shorter than a header.
    #[error("expected a QPC, whose header has {HEADER} bytes; found {found} bytes")]
    Short {
        /// Bytes.
        found: usize,
    },
    /// Another format.
    #[error("expected a QPC, which begins with {MAGIC:#010x}; found {found:#010x}")]
    Magic {
        /// The first four bytes.
        found: u32,
    },
    /// An image of a memory, not of a file.
    #[error("expected a QPC of form {FILE}; found form {found}, which only lives in memory")]
    Form {
        /// The form.
        found: u16,
    },
    /// Cut off, or longer than it says.
    #[error("the QPC says that it has {claimed} bytes, and there are {found}; a copy stopped early, or it is damaged")]
    Length {
        /// What the header says.
        claimed: u64,
        /// What there is.
        found: usize,
    },
    /// Something outside of the file.
    #[error(
        "{what} is said to be at {address:#x}, {length} bytes from base {base:#x}: outside of the QPC's {file} bytes"
    )]
    Outside {
        /// What.
        what: String,
        /// Its address.
        address: u64,
        /// Its length.
        length: u64,
        /// What addresses are relative to.
        base: u64,
        /// Bytes of the file.
        file: usize,
    },
    /// A name that is none.
    #[error("segment {index}: its name has no end within {MOST_NAME} bytes, or is not UTF-8")]
    Name {
        /// Number of the segment.
        index: usize,
    },
}

/// A segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its bytes.
    pub data: &'a [u8],
}

/// A container whose segments have been found.
#[derive(Debug, Clone)]
pub struct Container<'a> {
    segments: Vec<Segment<'a>>,
}

/// Bytes with what addresses in them are relative to.
#[derive(Clone, Copy)]
struct Image<'a> {
    bytes: &'a [u8],
    base: u64,
}

impl<'a> Image<'a> {
    /// The bytes at an address.
    fn at(self, what: &dyn Fn() -> String, address: u64, length: u64) -> Result<&'a [u8], ContainerError> {
        let range = || {
            let from = usize::try_from(address.checked_sub(self.base)?).ok()?;
            let to = from.checked_add(usize::try_from(length).ok()?)?;
            self.bytes.get(from..to)
        };
        range().ok_or_else(|| ContainerError::Outside {
            what: what(),
            address,
            length,
            base: self.base,
            file: self.bytes.len(),
        })
    }

    /// The text at an address, which ends with a zero byte.
    fn text(self, index: usize, address: u64) -> Result<&'a str, ContainerError> {
        let from = address.checked_sub(self.base).and_then(|from| usize::try_from(from).ok());
        let rest = from.and_then(|from| self.bytes.get(from..)).ok_or_else(|| ContainerError::Outside {
            what: format!("the name of segment {index}"),
            address,
            length: 1,
            base: self.base,
            file: self.bytes.len(),
        })?;
        let end = rest.iter().take(MOST_NAME).position(|&byte| byte == 0);
        let name = end.and_then(|end| std::str::from_utf8(&rest[..end]).ok());
        name.ok_or(ContainerError::Name { index })
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

impl<'a> Container<'a> {
    /// Finds the segments of a container.
    ///
    /// # Errors
    /// See [`ContainerError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ContainerError> {
        let Some(header) = bytes.get(..HEADER) else { return Err(ContainerError::Short { found: bytes.len() }) };
        let magic = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        if magic != MAGIC {
            return Err(ContainerError::Magic { found: magic });
        }
        let form = u16::from_le_bytes([header[6], header[7]]);
        if form != FILE {
            return Err(ContainerError::Form { found: form });
        }
        let claimed = u64_at(header, 8);
        if claimed != bytes.len() as u64 {
            return Err(ContainerError::Length { claimed, found: bytes.len() });
        }
        let image = Image { bytes, base: u64_at(header, 16) };
        let (count, table) = (u64_at(header, 24), u64_at(header, 32));
        let what = || format!("the table of {count} segments");
        let table = image.at(&what, table, count.saturating_mul(ENTRY))?;
        let entry = |(index, entry): (usize, &[u8])| {
            let name = image.text(index, u64_at(entry, 16))?;
            let data = image.at(&|| format!("segment {name}"), u64_at(entry, 24), u64_at(entry, 0))?;
            Ok(Segment { name, data })
        };
        let segments = table.chunks_exact(ENTRY as usize).enumerate().map(entry).collect::<Result<_, _>>()?;
        Ok(Container { segments })
    }

    /// All segments in file order.
    pub fn segments(&self) -> &[Segment<'a>] {
        &self.segments
    }

    /// The first segment of a name.
    pub fn segment(&self, name: &str) -> Option<&Segment<'a>> {
        self.segments.iter().find(|segment| segment.name == name)
    }

    /// The first names, for messages.
    pub(super) fn names(&self) -> String {
        const SHOWN: usize = 8;
        let names: Vec<_> = self.segments.iter().take(SHOWN).map(|segment| segment.name).collect();
        match (names.len(), self.segments.len() - names.len()) {
            (0, _) => "none".to_owned(),
            (_, 0) => names.join(", "),
            (_, more) => format!("{} and {more} more", names.join(", ")),
        }
    }
}
