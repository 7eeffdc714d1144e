//! Images as Hugging Face's processors, and Pillow below them, prepare them: numbers made by `tests/fixtures/images.py`.

use std::path::Path;

use anyhow::{Context as _, Result};
use qeff::fixture;
use qeff_host::vision::resize::{Filter, resize};
use qeff_host::vision::{ImageProcessor, Rgb, Size};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

/// Calls `check` with every tensor of a folder whose name begins with `kind`, and the rest of its name; all failures
/// together.
fn each(folder: &str, kind: &str, check: impl Fn(&Path, &str, &TensorView<'_>) -> Result<()>) {
    let dir = fixture(folder);
    let bytes = std::fs::read(dir.join("images.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut count = 0;
    let mut failures = vec![];
    for (name, tensor) in tensors.tensors() {
        let Some(rest) = name.strip_prefix(kind) else { continue };
        count += 1;
        if let Err(error) = check(&dir, rest, &tensor) {
            failures.push(format!("{name}: {error:#}"));
        }
    }
    assert!(count > 0 && failures.is_empty(), "{} of {count}:\n{}", failures.len(), failures.join("\n"));
}

/// The largest difference of bytes, and how many differ.
fn compare(found: &Rgb, expected: &TensorView<'_>) -> Result<(u8, usize)> {
    let size = Size::new(expected.shape()[0] as u32, expected.shape()[1] as u32);
    anyhow::ensure!(found.size() == size, "{} instead of {size}", found.size());
    let differences = found.data().iter().zip(expected.data()).map(|(a, b)| a.abs_diff(*b));
    Ok((differences.clone().max().unwrap_or(0), differences.filter(|&n| n > 0).count()))
}

#[test]
fn files_are_decoded_as_pillow_does_to_the_bit() {
    for folder in ["vision", "vision/jpeg"] {
        each(folder, "pixels/", |dir, file, expected| {
            let found = compare(&Rgb::open(&dir.join(file))?, expected)?;
            anyhow::ensure!(found == (0, 0), "{} bytes differ, by up to {}", found.1, found.0);
            Ok(())
        });
    }
}

#[test]
fn a_jpeg_that_is_cut_off_anywhere_is_an_error() -> Result<()> {
    for file in ["cmyk.jpg", "progressive.jpg", "restarts.jpg"] {
        let path = fixture("vision/jpeg").join(file);
        let bytes = std::fs::read(&path)?;
        let opened = (0..bytes.len()).find(|&end| Rgb::decode(&bytes[..end], &path).is_ok());
        assert_eq!(opened, None, "{file} of {} bytes", bytes.len());
    }
    Ok(())
}

#[test]
fn a_jpeg_with_a_wrong_byte_is_decoded_or_an_error() -> Result<()> {
    for file in ["cmyk.jpg", "progressive.jpg", "restarts.jpg"] {
        let path = fixture("vision/jpeg").join(file);
        let mut bytes = std::fs::read(&path)?;
        for at in 0..bytes.len() {
            for wrong in [0x01, 0xff] {
                bytes[at] ^= wrong;
                if let Ok(image) = Rgb::decode(&bytes, &path) {
                    assert_eq!(image.data().len() as u64, 3 * image.size().area());
                }
                bytes[at] ^= wrong;
            }
        }
    }
    Ok(())
}

#[test]
fn resized_as_pillow_does_to_the_bit() {
    let filters = ["lanczos", "bilinear", "bicubic", "box", "hamming"];
    each("vision", "resized/", |dir, case, expected| {
        let (filter, _) = case.split_once('/').context("a filter and a size")?;
        let number = filters.iter().position(|known| *known == filter).context("a filter")? as u64 + 1;
        let filter = Filter::from_number(number).context("a number of a filter")?;
        let size = Size::new(expected.shape()[0] as u32, expected.shape()[1] as u32);
        let found = resize(&Rgb::open(&dir.join("rgb.png"))?, size, filter);
        assert_eq!(compare(&found, expected)?, (0, 0), "{case}");
        Ok(())
    });
}

#[test]
fn prepared_as_the_processors_do() {
    let configs: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(fixture("vision/cases.json")).unwrap()).unwrap();
    each("vision", "prepared/", |dir, case, expected| {
        let (name, file) = case.split_once('/').context("a case and a file")?;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("preprocessor_config.json"), configs[name].to_string())?;
        let path = dir.join(file);
        let tiles = ImageProcessor::open(folder.path())?.prepare(&Rgb::open(&path)?, &path)?;
        let shape = [tiles.count, 3, tiles.size.height as usize, tiles.size.width as usize];
        anyhow::ensure!(shape == expected.shape(), "{shape:?} instead of {:?}", expected.shape());
        let numbers = expected.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let most = tiles.data.iter().zip(numbers).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        anyhow::ensure!(most <= 1e-6, "numbers differ by up to {most}");
        Ok(())
    });
}

/// CLIP's class of old files may make squares of a shortest edge; transformers no longer writes the field, but reads it.
#[test]
fn a_shortest_edge_may_be_that_of_a_square() -> Result<()> {
    let prepared = |class: &str, size: serde_json::Value| {
        let folder = tempfile::tempdir()?;
        let config = serde_json::json!({
            "image_processor_type": class, "use_square_size": true, "size": size, "do_center_crop": false
        });
        std::fs::write(folder.path().join("preprocessor_config.json"), config.to_string())?;
        let path = fixture("vision/wide.png");
        anyhow::Ok(ImageProcessor::open(folder.path())?.prepare(&Rgb::open(&path)?, &path)?)
    };
    let (edge, square) = (serde_json::json!({ "shortest_edge": 14 }), serde_json::json!({ "height": 14, "width": 14 }));
    assert_eq!(prepared("CLIPImageProcessor", edge.clone())?, prepared("CLIPImageProcessor", square.clone())?);
    assert_ne!(prepared("LlavaImageProcessor", edge)?, prepared("LlavaImageProcessor", square)?);
    Ok(())
}
