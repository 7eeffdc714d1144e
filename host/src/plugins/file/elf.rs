//! A shared object as data: what the loader would do with it.
//!
//! Where the file says the same in two places, what the loader reads counts: segments and the dynamic table, not sections.
//! All offsets come from a stranger.

use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _, SectionHeader as _, Sym as _};
use object::read::{ReadRef as _, StringTable};
use object::{Endianness, elf};
use qeff_plugin_api::abi::{MAX_NOTE, Manifest, NOTE_OWNER, NOTE_SECTION, NOTE_TYPE, SYMBOL_PREFIX, SYMBOL_SIZE};

use super::FileFault;

type Header = elf::FileHeader64<Endianness>;
type Segment = elf::ProgramHeader64<Endianness>;
type Sections<'a> = object::read::elf::SectionTable<'a, Header>;

/// Libraries that a plugin may need: the C library and what belongs to it. All of them are in this process already.
const ALLOWED: &[&str] = &[
    "libc.so.6",
    "libm.so.6",
    "libgcc_s.so.1",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "ld-linux-x86-64.so.2",
    "ld-linux-aarch64.so.1",
];

/// Longest text out of a file that is shown.
const MAX_SHOWN: usize = 80;

/// A parsed file of 64-bit ELF.
pub(super) struct Object<'a> {
    bytes: &'a [u8],
    endian: Endianness,
    segments: &'a [Segment],
    sections: Sections<'a>,
}

fn not_a_library(why: impl ToString) -> FileFault {
    FileFault::NotALibrary(why.to_string())
}

fn damaged(why: impl ToString) -> FileFault {
    FileFault::Truncated(why.to_string())
}

fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().take(MAX_SHOWN).collect()
}

impl<'a> Object<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, FileFault> {
        if !bytes.starts_with(&elf::ELFMAG) {
            return Err(not_a_library("it does not begin like one"));
        }
        let header = Header::parse(bytes).map_err(not_a_library)?;
        let endian = header.endian().map_err(not_a_library)?;
        let machine = match header.e_machine(endian) {
            elf::EM_X86_64 => "x86_64".to_owned(),
            elf::EM_AARCH64 => "aarch64".to_owned(),
            other => format!("machine {}", other.0),
        };
        let little = matches!(endian, Endianness::Little);
        if machine != std::env::consts::ARCH || little != cfg!(target_endian = "little") {
            return Err(FileFault::Machine { found: machine, host: std::env::consts::ARCH });
        }
        if header.e_type(endian) != elf::ET_DYN {
            return Err(not_a_library("it is an object file or a program"));
        }
        let segments = header.program_headers(endian, bytes).map_err(damaged)?;
        let sections = header.sections(endian, bytes).map_err(damaged)?;
        if sections.is_empty() {
            return Err(damaged("it has no table of sections"));
        }
        Ok(Object { bytes, endian, segments, sections })
    }

    /// Whether everything that the headers speak of is in the file.
    pub(super) fn check_extent(&self) -> Result<(), FileFault> {
        let length = self.bytes.len() as u64;
        let within = |offset: u64, size: u64| offset.checked_add(size).is_some_and(|end| end <= length);
        for segment in self.segments {
            let (offset, size) = segment.file_range(self.endian);
            if !within(offset, size) {
                return Err(damaged("a segment ends after the file"));
            }
            if segment.p_type(self.endian) == elf::PT_LOAD && size > segment.p_memsz(self.endian) {
                return Err(damaged("a segment is longer in the file than in memory"));
            }
        }
        for section in self.sections.iter() {
            if section.file_range(self.endian).is_some_and(|(offset, size)| !within(offset, size)) {
                return Err(damaged("a section ends after the file"));
            }
        }
        Ok(())
    }

    /// Bytes of the file from the place that is loaded at `address` to the end of its segment.
    fn loaded_at(&self, address: u64) -> Option<&'a [u8]> {
        let load = self.segments.iter().filter(|segment| segment.p_type(self.endian) == elf::PT_LOAD);
        load.filter_map(|segment| {
            let (offset, size) = segment.file_range(self.endian);
            let skip = address.checked_sub(segment.p_vaddr(self.endian)).filter(|skip| *skip < size)?;
            self.bytes.read_bytes_at(offset.checked_add(skip)?, size - skip).ok()
        })
        .next()
    }

    /// What the loader would bring in or do on the file's behalf.
    pub(super) fn check_needs(&self) -> Result<(), FileFault> {
        let endian = self.endian;
        for segment in self.segments {
            match segment.p_type(endian) {
                elf::PT_INTERP => return Err(FileFault::Asks("an interpreter")),
                elf::PT_GNU_STACK if segment.p_flags(endian).contains(elf::PF_X) => {
                    return Err(FileFault::Asks("an executable stack"));
                }
                _ => {}
            }
        }
        let mut tables = self.segments.iter().filter_map(|segment| segment.dynamic(endian, self.bytes).transpose());
        let table = tables.next().ok_or_else(|| not_a_library("it has no dynamic table"))?.map_err(damaged)?;
        if tables.next().is_some() {
            return Err(damaged("it has two dynamic tables"));
        }
        let entries = || {
            let entries = table.iter().map(|entry| (entry.d_tag(endian), entry.d_val(endian)));
            entries.take_while(|(tag, _)| *tag != elf::DT_NULL)
        };
        let of = |tag: elf::DynamicTag| entries().filter(move |entry| entry.0 == tag).map(|entry| entry.1);
        let strings = of(elf::DT_STRTAB).last().and_then(|address| self.loaded_at(address));
        let strings = strings.ok_or_else(|| damaged("its names are not in the file"))?;
        let strings = StringTable::new(strings, 0, strings.len() as u64);
        let name = |at: u64| {
            let at = u32::try_from(at).map_err(|_| damaged("a name of its dynamic table is not in the file"))?;
            strings.get(at).map_err(|()| damaged("a name of its dynamic table is not in the file"))
        };
        for (tag, path) in [(elf::DT_RPATH, "RPATH"), (elf::DT_RUNPATH, "RUNPATH")] {
            if let Some(at) = of(tag).next() {
                return Err(FileFault::SearchPath { tag: path, path: shown(name(at)?) });
            }
        }
        for tag in [elf::DT_AUDIT, elf::DT_DEPAUDIT, elf::DT_FILTER, elf::DT_AUXILIARY] {
            if of(tag).next().is_some() {
                return Err(FileFault::Asks("other libraries in its place"));
            }
        }
        for at in of(elf::DT_NEEDED) {
            let needed = name(at)?;
            if !ALLOWED.iter().any(|allowed| allowed.as_bytes() == needed) {
                return Err(FileFault::Needs(shown(needed)));
            }
        }
        Ok(())
    }

    /// The name of its one plugin symbol.
    pub(super) fn symbol(&self) -> Result<String, FileFault> {
        let endian = self.endian;
        let table = self.sections.symbols(endian, self.bytes, elf::SHT_DYNSYM).map_err(damaged)?;
        let (mut symbols, mut epochs) = (vec![], vec![]);
        for symbol in table.iter().filter(|symbol| !symbol.is_undefined(endian)) {
            let Ok(name) = symbol.name(endian, table.strings()) else { continue };
            let Ok(name) = std::str::from_utf8(name) else { continue };
            if name.starts_with(SYMBOL_PREFIX) {
                if symbol.st_type() != elf::STT_OBJECT || symbol.st_size(endian) < SYMBOL_SIZE as u64 {
                    return Err(not_a_library(format!("its symbol `{}` is no plugin header", shown(name.as_bytes()))));
                }
                symbols.push(name);
            } else if let Some((epoch, _)) = name.strip_prefix("qeff_plugin_v").and_then(|rest| rest.split_once("__")) {
                epochs.push(epoch.chars().take(8).collect::<String>());
            }
        }
        symbols.sort_unstable();
        match (symbols.as_slice(), epochs.first()) {
            ([only], _) => Ok((*only).to_owned()),
            ([], Some(epoch)) => Err(FileFault::Epoch(epoch.clone())),
            ([], None) => Err(FileFault::NoPlugin),
            (several, _) => Err(FileFault::SeveralPlugins(
                several.iter().take(8).map(|name| shown(name.as_bytes())).collect::<Vec<_>>().join(", "),
            )),
        }
    }

    /// What its note says.
    pub(super) fn manifest(&self) -> Result<Manifest, FileFault> {
        let malformed = |why: &dyn ToString| FileFault::Manifest(why.to_string());
        let Some((_, section)) = self.sections.section_by_name(self.endian, NOTE_SECTION.as_bytes()) else {
            return Err(FileFault::NoManifest);
        };
        let notes = section.notes(self.endian, self.bytes).map_err(|error| malformed(&error))?;
        let mut notes = notes.ok_or_else(|| malformed(&"its section holds no notes"))?;
        while let Some(note) = notes.next().map_err(|error| malformed(&error))? {
            if note.name() != NOTE_OWNER || note.n_type(self.endian).0 != NOTE_TYPE {
                continue;
            }
            if note.desc().len() > MAX_NOTE {
                return Err(malformed(&format!("it is longer than {} KiB", MAX_NOTE >> 10)));
            }
            let text = std::str::from_utf8(note.desc()).map_err(|error| malformed(&error))?;
            return Manifest::parse(text).map_err(|error| malformed(&error));
        }
        Err(FileFault::NoManifest)
    }
}
