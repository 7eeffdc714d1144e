//! Images as Hugging Face's processors, and Pillow below them, prepare them: numbers made by `tests/fixtures/images.py`.

use std::path::Path;

use anyhow::{Context as _, Result};
use qeff::fixture;
use qeff_host::vision::resize::{Filter, resize};
use qeff_host::vision::{ImageProcessor, Rgb, Size};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

/// Calls `check` with every tensor whose name begins with `kind`, and the rest of its name; all failures together.
fn each(kind: &str, check: impl Fn(&Path, &str, &TensorView<'_>) -> Result<()>) {
    let dir = fixture("vision");
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
fn files_are_decoded_as_pillow_does() {
    each("pixels/", |dir, file, expected| {
        let (most, count) = compare(&Rgb::open(&dir.join(file))?, expected)?;
        // Two decoders of JPEG need not round alike, and colours of half the resolution multiply it.
        let jpeg = file.ends_with(".jpg");
        let (allowed, few) = if jpeg { (4, expected.data().len() / 3) } else { (0, 0) };
        anyhow::ensure!(most <= allowed && count <= few, "{count} bytes differ, by up to {most}");
        Ok(())
    });
}

#[test]
fn resized_as_pillow_does_to_the_bit() {
    let filters = ["lanczos", "bilinear", "bicubic", "box", "hamming"];
    each("resized/", |dir, case, expected| {
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
    each("prepared/", |dir, case, expected| {
        let (name, file) = case.split_once('/').context("a case and a file")?;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("preprocessor_config.json"), configs[name].to_string())?;
        let path = dir.join(file);
        let tiles = ImageProcessor::open(folder.path())?.prepare(&Rgb::open(&path)?, &path)?;
        let shape = [tiles.count, 3, tiles.size.height as usize, tiles.size.width as usize];
        anyhow::ensure!(shape == expected.shape(), "{shape:?} instead of {:?}", expected.shape());
        let numbers = expected.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let most = tiles.data.iter().zip(numbers).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // Three levels of 255, in units of the smallest deviation.
        let allowed = if file.ends_with(".jpg") { 3.0 / 255.0 / 0.2613 } else { 1e-6 };
        anyhow::ensure!(most <= allowed, "numbers differ by up to {most}");
        Ok(())
    });
}
