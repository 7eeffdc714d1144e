//! A check of SentencePiece's precompiled character map before a library walks it.
//!
//! The map is a double-array trie: every unit says where the next one lies, as an index into the same array. The
//! library that applies it follows those indices without looking, so a damaged file would end the process in the
//! middle of a prompt. Walking all reachable states once, here, turns that into a refusal at load time.
//!
//! Layout: a little-endian u32 with the byte length of the trie, the trie as little-endian u32 units, then the
//! replacement strings, each ended by a NUL and addressed by byte offset.
//!
//! This module knows the layout. It does not normalise anything.

/// Largest map accepted, in bytes. SentencePiece's own ones have about 300 KiB.
const MAX_MAP: usize = 16 << 20;

/// Says what is wrong with a character map, or nothing if no text can lead the library out of its bounds.
pub(super) fn check(map: &[u8]) -> Result<(), String> {
    if map.len() > MAX_MAP {
        return Err(format!("{} bytes long, more than {MAX_MAP}", map.len()));
    }
    let (size, rest) = map.split_first_chunk::<4>().ok_or("shorter than its own header")?;
    let size = u32::from_le_bytes(*size) as usize;
    if size == 0 || !size.is_multiple_of(4) || size > rest.len() {
        return Err(format!("declaring a trie of {size} bytes with {} bytes left", rest.len()));
    }
    let (trie, strings) = rest.split_at(size);
    let strings = std::str::from_utf8(strings).map_err(|e| format!("not UTF-8 in its replacement strings ({e})"))?;
    let units: Vec<u32> = trie.as_chunks::<4>().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();

    let unit = |at: usize| units.get(at).copied().ok_or_else(|| format!("pointing at unit {at} of {}", units.len()));
    let mut seen = vec![false; units.len()];
    let mut open = vec![jump(unit(0)?)];
    while let Some(state) = open.pop() {
        // A state outside the array is harmless only if none of its children is looked up, and all are.
        match seen.get_mut(state) {
            Some(true) => continue,
            Some(visited) => *visited = true,
            None => return Err(format!("pointing at unit {state} of {}", units.len())),
        }
        for byte in 1..=255usize {
            let at = state ^ byte;
            let child = unit(at)?;
            if child & (1 << 31 | 0xFF) != byte as u32 {
                continue;
            }
            let next = at ^ jump(child);
            if child >> 8 & 1 == 1 {
                let offset = (unit(next)? & !(1 << 31)) as usize;
                if !strings.is_char_boundary(offset) {
                    return Err(format!("replacing by string {offset} of {} bytes", strings.len()));
                }
            }
            open.push(next);
        }
    }
    Ok(())
}

/// The distance a unit tells to jump: 22 bits, or those shifted by 8 where bit 9 says so.
fn jump(unit: u32) -> usize {
    let unit = unit as usize;
    (unit >> 10) << ((unit & (1 << 9)) >> 6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::normalizers::precompiled::Precompiled;

    /// A map with one rule, `a` becomes `b`: the root jumps to block 256, whose child for `a` is a leaf.
    fn one_rule() -> Vec<u8> {
        let mut units = vec![0u32; 1024];
        units[0] = 256 << 10;
        let child = 256 ^ usize::from(b'a');
        units[child] = u32::from(b'a') | 1 << 8 | 1 << 9 | 2 << 10; // jumps by 2 << 8
        units[child ^ 512] = 1 << 31; // value 0
        let mut map = (units.len() as u32 * 4).to_le_bytes().to_vec();
        map.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        map.extend(b"b\0");
        map
    }

    #[test]
    fn a_sound_map_passes_and_works() {
        let map = one_rule();
        check(&map).expect("sound");
        assert_eq!(Precompiled::from(&map).expect("sound").normalize_string("banana"), "bbnbnb");
    }

    #[test]
    fn damage_is_named() {
        let map = one_rule();
        assert!(check(&map[..3]).unwrap_err().contains("header"));
        assert!(check(&[255, 255, 255, 255, 0]).unwrap_err().contains("trie of 4294967295 bytes"));
        let mut outside = map.clone();
        outside[4..8].copy_from_slice(&(9999u32 << 10).to_le_bytes());
        assert!(check(&outside).unwrap_err().contains("unit 9999"));
        let mut value = map.clone();
        let leaf = 4 + 4 * (256 ^ usize::from(b'a') ^ 512);
        value[leaf..leaf + 4].copy_from_slice(&(1 << 31 | 77u32).to_le_bytes());
        assert!(check(&value).unwrap_err().contains("string 77"));
    }

    proptest! {
        /// Whatever passes the check, the library survives.
        #[test]
        fn what_passes_cannot_panic(edits in prop::collection::vec((0usize..4102, any::<u8>()), 0..12), text in ".{0,40}") {
            let mut map = one_rule();
            for (at, byte) in edits {
                if let Some(place) = map.get_mut(at) {
                    *place = byte;
                }
            }
            if check(&map).is_ok() {
                let _ = Precompiled::from(&map).map(|map| map.normalize_string(&text));
            }
        }
    }
}
