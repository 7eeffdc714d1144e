//! The layout of `QAicProgramProperties_t`, read from the installed header.
//!
//! The struct has grown from release to release, and a program for several cards has to write one field of it. Its fields
//! are plain numbers and pointers, so offsets follow from their order; anything else in it is refused rather than guessed.
//! Only the text is read: no compiler has to be there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The struct, by either of its names.
const STRUCTS: [&str; 2] = ["QAicProgramProperties", "QAicProgramProperties_t"];
/// Most bytes of a header, and most headers, that are read.
const MOST_BYTES: u64 = 4 << 20;
const MOST_FILES: usize = 32;
/// Most fields of a struct, and most elements of an array.
const MOST: usize = 1024;

/// What the header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The header.
    pub header: PathBuf,
    /// Version of the interface that the header is of, if it says.
    pub version: Option<(u16, u16)>,
    /// Bytes of the struct.
    pub size: usize,
    /// Where the text with the cards is, such as `0:1:2:3`; `None` if this release has no such field.
    pub device_mapping: Option<usize>,
    /// Where the number of milliseconds is after which a call is given up; `None` if this release has no such field.
    pub timeout_ms: Option<usize>,
}

impl Layout {
    /// Reads the header and those that it includes from its own folder.
    ///
    /// # Errors
    /// What is missing or not understood, for people.
    pub fn read(header: &Path) -> Result<Self, String> {
        let mut text = String::new();
        let mut files = vec![header.to_owned()];
        let mut next = 0;
        while let Some(file) = files.get(next).cloned() {
            next += 1;
            let source = match small(&file) {
                Ok(source) => strip(&source),
                // One that is included may be the system's, or not matter.
                Err(_) if next > 1 => continue,
                Err(why) => return Err(format!("cannot read {}: {why}", file.display())),
            };
            for name in included(&source) {
                let other = file.with_file_name(name);
                if files.len() < MOST_FILES && !files.contains(&other) {
                    files.push(other);
                }
            }
            text.push_str(&source);
            text.push('\n');
        }
        parse(&text, header).map_err(|why| format!("{}: {why}", header.display()))
    }
}

fn small(path: &Path) -> Result<String, String> {
    let meta = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !meta.is_file() || meta.len() > MOST_BYTES {
        return Err(format!("expected a file of at most {MOST_BYTES} bytes"));
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

/// The text without comments and with one space where lines were continued.
fn strip(source: &str) -> String {
    let source = source.replace("\\\r\n", " ").replace("\\\n", " ");
    let mut text = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(at) = rest.find('/') {
        let (before, from) = rest.split_at(at);
        text.push_str(before);
        if let Some(comment) = from.strip_prefix("//") {
            rest = comment.find('\n').map_or("", |end| &comment[end..]);
        } else if let Some(comment) = from.strip_prefix("/*") {
            text.push(' ');
            rest = comment.find("*/").map_or("", |end| &comment[end + 2..]);
        } else {
            text.push('/');
            rest = &from[1..];
        }
    }
    text.push_str(rest);
    text
}

/// Headers that are included in quotes, by plain names.
fn included(source: &str) -> impl Iterator<Item = &str> {
    source.lines().filter_map(|line| {
        let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include")?.trim_start();
        let name = rest.strip_prefix('"')?.split('"').next()?;
        (!name.is_empty() && !name.contains('/') && name != "..").then_some(name)
    })
}

fn parse(text: &str, header: &Path) -> Result<Layout, String> {
    let names = Names::of(text);
    let body = STRUCTS.iter().find_map(|name| names.structs.get(*name)).or_else(|| {
        STRUCTS
            .iter()
            .find_map(|name| names.structs.get(names.aliases.get(*name)?.trim_start_matches("struct ").trim()))
    });
    let body = *body.ok_or_else(|| format!("expected a struct {}, found none", STRUCTS[1]))?;
    let (size, fields) = names.layout(body)?;
    let offset = |wanted: &str, size: usize| -> Result<Option<usize>, String> {
        match fields.get(wanted) {
            None => Ok(None),
            Some(&(offset, found)) if found == size => Ok(Some(offset)),
            Some((_, found)) => Err(format!("{}: field {wanted} has {found} bytes; expected {size}", STRUCTS[1])),
        }
    };
    let number = |name: &str| names.numbers.get(name).and_then(|&n| u16::try_from(n).ok());
    let version = number("LRT_LIB_MAJOR_VERSION").zip(number("LRT_LIB_MINOR_VERSION"));
    let (device_mapping, timeout_ms) = (offset("devMapping", 8)?, offset("dataPathTimeoutMs", 4)?);
    Ok(Layout { header: header.to_owned(), version, size, device_mapping, timeout_ms })
}

/// Offset and bytes of each field of a struct.
type Fields<'a> = BTreeMap<&'a str, (usize, usize)>;

/// What a header declares, as far as it is needed.
struct Names<'a> {
    /// Bodies of structs, by their names and those that a typedef gives them.
    structs: BTreeMap<&'a str, &'a str>,
    /// What a typedef of anything else stands for.
    aliases: BTreeMap<&'a str, &'a str>,
    /// Macros that are numbers.
    numbers: BTreeMap<&'a str, u64>,
}

impl<'a> Names<'a> {
    fn of(text: &'a str) -> Self {
        let mut names = Names { structs: BTreeMap::new(), aliases: BTreeMap::new(), numbers: BTreeMap::new() };
        for line in text.lines() {
            let Some(rest) = line.trim_start().strip_prefix('#') else { continue };
            let mut words = rest.trim_start().strip_prefix("define").into_iter().flat_map(str::split_whitespace);
            if let (Some(name), Some(value)) = (words.next(), words.next()) {
                let digits = value.trim_start_matches('(').trim_end_matches([')', 'u', 'U', 'l', 'L']);
                if let Ok(number) = digits.parse() {
                    names.numbers.insert(name, number);
                }
            }
        }
        let mut rest = text;
        while let Some((word, after)) = next_declaration(rest) {
            rest = after;
            match word {
                "struct" => {
                    if let Some((name, body, tail)) = body(after) {
                        if !name.is_empty() {
                            names.structs.insert(name, body);
                        }
                        let alias = tail.split(';').next().unwrap_or("").trim();
                        if is_word(alias) {
                            names.structs.insert(alias, body);
                        }
                        rest = tail;
                    }
                }
                _ => {
                    let declaration = after.split(';').next().unwrap_or("");
                    // Structs and enums with a body come back as words of their own.
                    if declaration.contains('{') {
                        if let Some((_, _, tail)) =
                            declaration.trim_start().strip_prefix("enum").and_then(|_| body(after))
                        {
                            let alias = tail.split(';').next().unwrap_or("").trim();
                            if is_word(alias) {
                                names.aliases.insert(alias, "int");
                            }
                        }
                        continue;
                    }
                    if let Some(at) = declaration.trim_end().rfind(|c: char| !is_letter(c)) {
                        let declaration = declaration.trim_end();
                        let (stands_for, name) = declaration.split_at(at + 1);
                        if is_word(name) {
                            names.aliases.insert(name, stands_for.trim());
                        }
                    }
                }
            }
        }
        names
    }

    /// Bytes and alignment of a type.
    fn size(&self, of: &str, depth: usize) -> Option<usize> {
        let of = of.trim();
        if of.contains('*') || of.contains('(') {
            return Some(8);
        }
        let words: Vec<_> = of.split_whitespace().filter(|word| !matches!(*word, "const" | "volatile")).collect();
        match words.as_slice() {
            ["bool" | "_Bool" | "char" | "int8_t" | "uint8_t"] | ["unsigned" | "signed", "char"] => Some(1),
            ["short" | "int16_t" | "uint16_t"] | ["unsigned", "short"] => Some(2),
            ["int" | "unsigned" | "int32_t" | "uint32_t" | "float"] | ["unsigned", "int"] | ["enum", _] => Some(4),
            ["long" | "int64_t" | "uint64_t" | "size_t" | "double" | "uintptr_t" | "intptr_t"]
            | ["unsigned", "long"]
            | ["long", "long"]
            | ["unsigned", "long", "long"] => Some(8),
            [alias] if depth < 8 => self.aliases.get(*alias).and_then(|stands_for| self.size(stands_for, depth + 1)),
            _ => None,
        }
    }

    /// Bytes of a struct, with offset and bytes of each field.
    fn layout(&self, body: &'a str) -> Result<(usize, Fields<'a>), String> {
        let unclear = |what: &str| format!("{}: cannot tell the layout because of `{}`", STRUCTS[1], what.trim());
        let (mut offset, mut widest, mut fields) = (0usize, 1usize, BTreeMap::new());
        if let Some(line) = body.lines().find(|line| line.trim_start().starts_with('#')) {
            return Err(unclear(line));
        }
        for declaration in body.split(';').map(str::trim).filter(|declaration| !declaration.is_empty()) {
            if fields.len() > MOST {
                return Err(format!("{}: more than {MOST} fields", STRUCTS[1]));
            }
            let (plain, count) = match declaration.split_once('[') {
                None => (declaration, 1),
                Some((plain, length)) => {
                    let length = length.trim_end().strip_suffix(']').map(str::trim);
                    let number = length.and_then(|n| n.parse().ok().or_else(|| self.numbers.get(n).copied()));
                    let number = number.and_then(|n| usize::try_from(n).ok()).filter(|&n| n <= MOST);
                    (plain.trim_end(), number.ok_or_else(|| unclear(declaration))?)
                }
            };
            let split = plain.rfind(|c: char| !is_letter(c)).map(|at| plain.split_at(at + 1));
            let (of, name) = split.filter(|(_, name)| is_word(name)).ok_or_else(|| unclear(declaration))?;
            // Bit fields, several names in one declaration, function pointers, structs within structs.
            if of.contains([':', ',', '(', '{']) {
                return Err(unclear(declaration));
            }
            let size = self.size(of, 0).ok_or_else(|| unclear(declaration))?;
            offset = offset.next_multiple_of(size);
            fields.insert(name, (offset, size * count));
            offset += size * count;
            widest = widest.max(size);
        }
        Ok((offset.next_multiple_of(widest), fields))
    }
}

/// The next `struct` or `typedef`, and what is after it.
fn next_declaration(text: &str) -> Option<(&str, &str)> {
    let found = ["struct", "typedef"].into_iter().filter_map(|word| {
        let whole = |at: &usize| {
            let (before, after) = (text[..*at].chars().next_back(), text[at + word.len()..].chars().next());
            !before.is_some_and(is_letter) && !after.is_some_and(is_letter)
        };
        text.match_indices(word).map(|(at, _)| at).find(whole).map(|at| (at, word))
    });
    let (at, word) = found.min()?;
    Some((word, &text[at + word.len()..]))
}

/// Name, body in braces, and what follows, of a struct or enum.
fn body(text: &str) -> Option<(&str, &str, &str)> {
    let open = text.find('{')?;
    let name = text[..open].split_whitespace().next_back().unwrap_or("");
    if text[..open].contains([';', '(', '*']) {
        return None;
    }
    let mut depth = 0usize;
    for (at, c) in text[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some((name, &text[open + 1..open + at], &text[open + at + 1..]));
        }
    }
    None
}

fn is_letter(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_letter) && !text.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
