use super::*;

/// A segment.
fn segment(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[0xff, kind], &(body.len() as u16 + 2).to_be_bytes()[..], body].concat()
}

/// A frame of so many bits a sample, of this size, with components of these samplings.
fn frame(kind: u8, bits: u8, size: (u16, u16), samplings: &[u8]) -> Vec<u8> {
    let mut body = [&[bits], &size.0.to_be_bytes()[..], &size.1.to_be_bytes(), &[samplings.len() as u8]].concat();
    for (id, &sampling) in (1..).zip(samplings) {
        body.extend([id, sampling, 0]);
    }
    segment(kind, &body)
}

/// Tables whose only code is a zero, which says that nothing follows.
fn tables() -> Vec<u8> {
    let code = |head: u8| [&[head, 1][..], &[0; 15], &[0]].concat();
    [segment(0xdb, &[&[0][..], &[1; 64]].concat()), segment(0xc4, &code(0)), segment(0xc4, &code(0x10))].concat()
}

/// What is said of a file of these segments, followed by a scan of the first component and an end.
fn said(segments: &[Vec<u8>], blocks: &[u8]) -> String {
    let scan = segment(0xda, &[1, 1, 0, 0, 63, 0]);
    let end: &[u8] = &[0xff, 0xd9];
    match decode(&[&[0xff, 0xd8], &segments.concat()[..], &scan, blocks, end].concat(), 1 << 20) {
        Ok(decoded) => format!("{} {:?}", decoded.size, &decoded.rgb[..3]),
        Err(Fault::Damaged(why) | Fault::Form(why)) => why,
        Err(Fault::TooLarge(size)) => format!("too large: {size}"),
    }
}

#[test]
fn a_block_of_nothing_is_grey() {
    // Two bits of it are the block; the rest of the byte is ones, which fill up.
    assert_eq!(said(&[frame(0xc0, 8, (3, 5), &[0x11]), tables()], &[0x3f]), "3x5 [128, 128, 128]");
    // A sampling says nothing where there is one component only.
    assert_eq!(said(&[frame(0xc1, 8, (3, 5), &[0x42]), tables()], &[0x3f]), "3x5 [128, 128, 128]");
}

#[test]
fn what_is_not_read_is_named() {
    for (kind, bits, samplings, expected) in [
        (0xc3, 8, &[0x11][..], "lossless"),
        (0xc9, 8, &[0x11], "arithmetic coding"),
        (0xc5, 8, &[0x11], "hierarchical"),
        (0xc1, 12, &[0x11], "12 bits a sample"),
        (0xc0, 8, &[0x11, 0x11], "2 components"),
        (0xc0, 8, &[0x31, 0x21, 0x11], "a component whose sampling is a fraction of another's"),
    ] {
        let found = said(&[frame(kind, bits, (3, 5), samplings), tables()], &[0x3f]);
        assert_eq!(found, format!("a JPEG of a rare form, {expected}: convert it"));
    }
}

#[test]
fn what_contradicts_itself_is_damaged() {
    let grey = || frame(0xc0, 8, (3, 5), &[0x11]);
    let colours = frame(0xc0, 8, (3, 5), &[0x11, 0x11, 0x11]);
    let interval = segment(0xdd, &[0, 1]);
    for (segments, blocks, expected) in [
        (vec![grey(), grey(), tables()], &[0x3f][..], "it has two frames"),
        (vec![tables()], &[0x3f], "a scan comes before the frame"),
        (vec![grey()], &[0x3f], "it has no table 0 of quantisers"),
        (vec![grey(), segment(0xdb, &[&[0][..], &[1; 64]].concat())], &[0x3f], "it has no table 0 of Huffman codes"),
        (vec![grey(), tables()], &[], "a scan ends too early: the file is cut off"),
        (vec![grey(), tables()], &[0xff, 0, 0xff, 0], "a scan has bits that are no Huffman code"),
        (vec![colours, tables()], &[0x3f], "some of its scans are missing"),
        (vec![frame(0xc0, 8, (3, 9), &[0x11]), interval, tables()], &[0x3f, 0x3f], "a restart is missing"),
        (vec![frame(0xc0, 8, (0, 5), &[0x11]), tables()], &[0x3f], "it is 0x5 pixels"),
        (vec![frame(0xc0, 8, (3, 5), &[0x51]), tables()], &[0x3f], "a component has a sampling of (5, 1)"),
        (vec![frame(0xc0, 8, (1000, 1000), &[0x11]), tables()], &[0x3f], "141 bytes cannot hold 1000x1000 pixels"),
        (vec![frame(0xc0, 8, (65_535, 65_535), &[0x11]), tables()], &[0x3f], "too large: 65535x65535"),
        (vec![segment(0xc4, &[0; 9])], &[], "a table of Huffman codes makes no sense"),
        // Three codes of one bit.
        (
            vec![segment(0xc4, &[&[0, 3][..], &[0; 15], &[0; 3]].concat())],
            &[],
            "a table of Huffman codes makes no sense",
        ),
        (vec![segment(0xdb, &[4; 65])], &[], "a table of quantisers makes no sense"),
        (vec![segment(0xdd, &[1])], &[], "its restart interval is no number"),
    ] {
        assert_eq!(said(&segments, blocks), expected);
    }
}

#[test]
fn scans_that_bring_nothing_are_counted() {
    let mut file = [&[0xff, 0xd8], &frame(0xc2, 8, (3, 5), &[0x11])[..], &tables()].concat();
    for _ in 0..=MAX_SCANS {
        file.extend(segment(0xda, &[1, 1, 0, 0, 0, 0]));
        file.push(0x7f);
    }
    assert_eq!(decode(&file, 100).err(), Some(damaged("it has more than 100 scans")));
}
