//! The container: named segments behind a header of 40 bytes, little endian.
//!
//! ```text
//! header   u32 magic, u8 major, u8 minor, u16 compression, u64 size, u64 base, u64 segments, u64 address of the table
//! table    one entry a segment: u64 size, u64 offset, u64 address of the name, u64 address of the bytes
//! names    ended by NUL, each at a multiple of 8
//! bytes    each at a multiple of 8
//! ```
//!
//! Addresses count from `base`. Ours is 0; another writer leaves the address in memory at which it built the file.

use anyhow::{Context as _, Result, bail};

const MAGIC: u32 = 0x00A1_CD7C;
const HEADER: usize = 40;
const ENTRY: usize = 32;
/// Files rather than an image of memory; the only kind a runtime opens.
const SLOW_PATH: u16 = 1;

/// A named piece of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// A container of the segments, in their order.
pub fn write(segments: &[Segment<'_>]) -> Vec<u8> {
    let table = HEADER + ENTRY * segments.len();
    let mut names = table;
    let mut bytes = segments.iter().fold(table, |at, segment| align(at + segment.name.len() + 1));
    let mut file = vec![];
    let total = segments.iter().fold(bytes, |at, segment| align(at + segment.bytes.len()));
    file.extend(MAGIC.to_le_bytes());
    file.extend([0, 1]);
    file.extend(SLOW_PATH.to_le_bytes());
    for number in [total, 0, segments.len(), HEADER] {
        file.extend((number as u64).to_le_bytes());
    }
    for segment in segments {
        for number in [segment.bytes.len(), 0, names, bytes] {
            file.extend((number as u64).to_le_bytes());
        }
        names = align(names + segment.name.len() + 1);
        bytes = align(bytes + segment.bytes.len());
    }
    let mut pad = |piece: &[u8], end: usize| {
        file.extend(piece);
        file.resize(align(file.len() + end), 0);
    };
    segments.iter().for_each(|segment| pad(segment.name.as_bytes(), 1));
    segments.iter().for_each(|segment| pad(segment.bytes, 0));
    file
}

fn align(at: usize) -> usize {
    at.next_multiple_of(8)
}

/// The segments of a container, as a runtime opens it.
///
/// # Errors
/// If it is none, or is cut short, or says something about itself that cannot be.
pub fn read(file: &[u8]) -> Result<Vec<Segment<'_>>> {
    let number = |at: usize| -> Result<u64> {
        let bytes = file.get(at..at.saturating_add(8)).and_then(|bytes| bytes.try_into().ok());
        Ok(u64::from_le_bytes(bytes.context("the file is cut short")?))
    };
    if file.len() < HEADER || file[..4] != MAGIC.to_le_bytes() {
        bail!("not a QPC: the magic number is missing");
    }
    let compression = u16::from_le_bytes([file[6], file[7]]);
    if compression != SLOW_PATH {
        bail!("compression type {compression}; only {SLOW_PATH} can be opened");
    }
    let (size, base, count, table) = (number(8)?, number(16)?, number(24)?, number(32)?);
    if size != file.len() as u64 {
        bail!("the header says {size} bytes, and there are {}", file.len());
    }
    let place = |address: u64| -> Result<usize> {
        let offset = address.checked_sub(base).and_then(|offset| usize::try_from(offset).ok());
        offset.filter(|&offset| offset <= file.len()).context("an address is outside of the file")
    };
    let table = place(table)?;
    if count > (file.len() / ENTRY) as u64 {
        bail!("{count} segments cannot be in {} bytes", file.len());
    }
    let mut segments = vec![];
    for i in 0..count as usize {
        let entry = table + ENTRY * i;
        let (length, name, start) = (number(entry)?, place(number(entry + 16)?)?, place(number(entry + 24)?)?);
        let name = file[name..].split(|&byte| byte == 0).next().unwrap_or_default();
        let name = std::str::from_utf8(name).context("the name of a segment is no text")?;
        let end = usize::try_from(length).ok().and_then(|length| start.checked_add(length));
        let bytes = end.and_then(|end| file.get(start..end)).with_context(|| format!("{name} is cut short"))?;
        segments.push(Segment { name, bytes });
    }
    Ok(segments)
}

#[cfg(test)]
#[path = "container_tests.rs"]
mod tests;
