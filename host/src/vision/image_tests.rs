use super::*;

fn decoded(bytes: &[u8]) -> String {
    match Rgb::decode(bytes, Path::new("x")) {
        Ok(image) => image.size().to_string(),
        Err(error) => error.to_string(),
    }
}

/// A PNG that says it is so large, and has no pixels.
fn huge(width: u32, height: u32) -> Vec<u8> {
    png(width, height, 2, &[])
}

/// A PNG of this size and kind of colours that has no pixels; before these comes a palette, if it is not empty.
fn png(width: u32, height: u32, colours: u8, palette: &[u8]) -> Vec<u8> {
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8], data: &[u8]| {
        let body = [kind, data].concat();
        file.extend((data.len() as u32).to_be_bytes());
        file.extend(&body);
        file.extend(crc(&body).to_be_bytes());
    };
    chunk(b"IHDR", &[&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, colours, 0, 0, 0]].concat());
    if !palette.is_empty() {
        chunk(b"PLTE", palette);
    }
    chunk(b"IDAT", b"\x78\x9c\x03\0\0\0\0\x01");
    file
}

fn crc(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { 0xedb8_8320 ^ crc >> 1 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc)))
}

#[test]
fn what_is_no_image_is_named() {
    assert_eq!(decoded(b""), "x: expected a PNG or JPEG image, found an empty file");
    assert_eq!(decoded(b"GIF89a"), "x: expected a PNG or JPEG image, found a GIF: convert it");
    assert_eq!(decoded(b"hello"), "x: expected a PNG or JPEG image, found something else");
    assert!(decoded(b"<html>").contains("error page"));
}

#[test]
fn sizes_are_looked_at_before_memory_is_asked_for() {
    assert_eq!(
        decoded(&huge(60_000, 60_000)),
        "x: the image has 60000x60000 pixels; expected at most 89478485 pixels: make the image smaller"
    );
    assert!(decoded(&huge(u32::MAX, 3)).starts_with("x: the "), "{}", decoded(&huge(u32::MAX, 3)));
    assert!(decoded(&huge(0, 3)).contains("damaged"));
}

#[test]
fn damaged_files_are_errors() {
    assert!(decoded(&huge(3, 3)).contains("the PNG image is damaged"), "{}", decoded(&huge(3, 3)));
    assert!(decoded(b"\x89PNG\r\n\x1a\n").contains("the PNG image is damaged"));
    assert_eq!(
        decoded(&png(1, 1, 3, &[0; 4])),
        "x: the PNG image is damaged: its palette has 4 bytes, which are no colours of three"
    );
    assert!(
        decoded(&huge(9000, 9000)).ends_with("53 bytes cannot hold 9000x9000 pixels"),
        "{}",
        decoded(&huge(9000, 9000))
    );
    assert_eq!(
        decoded(b"\xff\xd8\xff\xda then nothing"),
        "x: the JPEG image is damaged: it has no end: the file is cut off"
    );
    assert!(decoded(b"\xff\xd8\xff\xda\0\0\xff\xd9").contains("the JPEG image is damaged"));
}

#[test]
fn windows_reach_outside() {
    let image = Rgb::new(Size::new(1, 2), vec![1, 2, 3, 4, 5, 6]).unwrap();
    let window = image.window(-1, 1, Size::new(2, 2));
    assert_eq!(window.data(), [[0; 6].as_slice(), &[4, 5, 6], &[0; 3]].concat());
    assert_eq!(image.window(5, 5, Size::square(1)).data(), [0; 3]);
    assert_eq!(image.window(0, 0, image.size()), image);
    assert!(Rgb::new(Size::new(1, 2), vec![0; 5]).is_none());
}

#[test]
fn eight_ways_to_hold_a_camera() {
    // 1 2 3
    // 4 5 6
    let image = Rgb { size: Size::new(2, 3), data: [1, 2, 3, 4, 5, 6].into_iter().flat_map(|n| [n; 3]).collect() };
    for (exif, size, expected) in [
        (1, "2x3", [1, 2, 3, 4, 5, 6]),
        (2, "2x3", [3, 2, 1, 6, 5, 4]),
        (3, "2x3", [6, 5, 4, 3, 2, 1]),
        (4, "2x3", [4, 5, 6, 1, 2, 3]),
        (5, "3x2", [1, 4, 2, 5, 3, 6]),
        (6, "3x2", [4, 1, 5, 2, 6, 3]),
        (7, "3x2", [6, 3, 5, 2, 4, 1]),
        (8, "3x2", [3, 6, 2, 5, 1, 4]),
    ] {
        let turned = upright(image.clone(), Orientation::from_exif(exif).unwrap());
        let found: Vec<u8> = turned.data.iter().copied().step_by(3).collect();
        assert_eq!((turned.size.to_string().as_str(), found.as_slice()), (size, expected.as_slice()), "{exif}");
    }
}
