//! The note: what a plugin declares of itself in its file, to be read without executing any of it.
//!
//! It is an ordinary ELF note (owner `QEFF`), so `readelf -n` shows that it is there and `strip` leaves it. Its text is the
//! JSON of a [`Manifest`](super::Manifest), put together by the compiler: names that only code knows cannot stand in it,
//! which is why [`export_plugin!`](crate::export_plugin) is told them. A host compares the two once the plugin is loaded.

/// Section that holds the note.
pub const NOTE_SECTION: &str = ".note.qeff";
/// Owner of the note.
pub const NOTE_OWNER: &[u8] = b"QEFF";
/// Type of the note: the epoch of the boundary.
pub const NOTE_TYPE: u32 = 1;
/// Longest text of a note that is read.
pub const MAX_NOTE: usize = 64 << 10;

/// What a plugin contributes, by name.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct Contributions {
    pub architectures: &'static [&'static str],
    pub pooling: &'static [&'static str],
    pub rewrites: &'static [&'static str],
    pub formats: &'static [&'static str],
}

impl Contributions {
    pub const NONE: Contributions = Contributions { architectures: &[], pooling: &[], rewrites: &[], formats: &[] };
}

/// What stands in a note.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct Facts {
    pub name: &'static str,
    pub version: &'static str,
    pub contributions: Contributions,
}

/// A note as the linker lays it down; `N` bytes of text.
#[doc(hidden)]
#[repr(C, align(4))]
pub struct Note<const N: usize> {
    owner_length: u32,
    text_length: u32,
    kind: u32,
    owner: [u8; 8],
    text: [u8; N],
}

/// Bytes of the text, padded to what notes are aligned to.
#[doc(hidden)]
pub const fn note_length(facts: &Facts) -> usize {
    write::<0>(facts).length.next_multiple_of(4)
}

/// The note for `facts`; `N` is [`note_length`].
#[doc(hidden)]
pub const fn note<const N: usize>(facts: &Facts) -> Note<N> {
    Note {
        owner_length: NOTE_OWNER.len() as u32 + 1,
        text_length: N as u32,
        kind: NOTE_TYPE,
        owner: *b"QEFF\0\0\0\0",
        text: write::<N>(facts).bytes,
    }
}

/// Text that counts what does not fit, so that the same code measures and writes. What is left over stays blank.
struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Text<N> {
    const fn push(mut self, text: &str) -> Self {
        let text = text.as_bytes();
        let mut i = 0;
        while i < text.len() {
            if self.length < N {
                self.bytes[self.length] = text[i];
            }
            self.length += 1;
            i += 1;
        }
        self
    }

    const fn quoted(self, text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut i = 0;
        while i < bytes.len() {
            assert!(
                bytes[i] >= b' ' && bytes[i] != b'"' && bytes[i] != b'\\',
                "a name in a plugin's manifest has a quote, a backslash or a control character"
            );
            i += 1;
        }
        self.push("\"").push(text).push("\"")
    }

    const fn field(self, key: &str, text: &str) -> Self {
        self.quoted(key).push(":").quoted(text).push(",")
    }

    const fn list(mut self, names: &[&str]) -> Self {
        self = self.push("[");
        let mut i = 0;
        while i < names.len() {
            if i > 0 {
                self = self.push(",");
            }
            self = self.quoted(names[i]);
            i += 1;
        }
        self.push("]")
    }
}

const fn write<const N: usize>(facts: &Facts) -> Text<N> {
    let names = &facts.contributions;
    let text = Text { bytes: [b' '; N], length: 0 }.push("{");
    let text = text.field("name", facts.name).field("version", facts.version);
    let text = text.field("api", env!("CARGO_PKG_VERSION")).field("rustc", RUSTC).field("target", TARGET);
    let text = text.field("panic", PANIC).quoted("architectures").push(":[");
    // Which names belong to one architecture is known to the code alone.
    let text = if names.architectures.is_empty() { text } else { text.list(names.architectures) };
    let text = text.push("],").quoted("pooling").push(":").list(names.pooling);
    let text = text.push(",").quoted("rewrites").push(":").list(names.rewrites);
    text.push(",").quoted("formats").push(":").list(names.formats).push("}")
}

/// Compiler that builds this image.
pub(super) const RUSTC: &str = env!("QEFF_RUSTC");
/// Machine and system it is built for.
pub(super) const TARGET: &str = env!("QEFF_TARGET");
/// What a panic in it does.
pub(super) const PANIC: &str = if cfg!(panic = "unwind") { "unwind" } else { "abort" };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Manifest;

    const FACTS: Facts = Facts {
        name: "acme",
        version: "1.2.3",
        contributions: Contributions { architectures: &["A", "B"], formats: &["toy"], ..Contributions::NONE },
    };

    #[test]
    fn a_note_is_the_manifest_that_the_compiler_can_know() {
        let note: Note<{ note_length(&FACTS) }> = note(&FACTS);
        assert_eq!((note.owner_length, note.text_length as usize % 4, note.kind), (5, 0, 1));
        assert_eq!(note.owner, *b"QEFF\0\0\0\0");
        let manifest = Manifest::parse(std::str::from_utf8(&note.text).unwrap()).unwrap();
        assert_eq!((manifest.name.as_str(), manifest.version.as_str()), ("acme", "1.2.3"));
        assert_eq!(manifest.architectures, [["A", "B"]]);
        assert_eq!((manifest.pooling.len(), manifest.rewrites.len(), manifest.formats.len()), (0, 0, 1));
        assert_eq!((manifest.panic.as_str(), manifest.rustc.as_str()), ("unwind", RUSTC));
    }

    #[test]
    fn a_plugin_that_declares_nothing_has_a_note_too() {
        const NOTHING: Facts = Facts { contributions: Contributions::NONE, ..FACTS };
        let note: Note<{ note_length(&NOTHING) }> = note(&NOTHING);
        let manifest = Manifest::parse(std::str::from_utf8(&note.text).unwrap()).unwrap();
        assert!(manifest.declares_nothing());
    }
}
