//! Fixtures of every scheme, bit for bit; then files that differ from them in one thing.

use std::ops::Range;
use std::path::PathBuf;

use super::*;
use crate::weights::blocks::{self, BlockLayout, BlockPart, CodeBits, ZeroPoint};
use crate::weights::{TensorSource as _, evaluate_to_vec};
use qeff_plugin_api::{DType, WeightExpr};

fn dir(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/quantised")).join(name)
}

fn names() -> Vec<String> {
    let entries = std::fs::read_dir(dir("")).unwrap().map(|entry| entry.unwrap());
    let mut names: Vec<_> =
        entries.filter(|e| e.path().is_dir()).map(|e| e.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn open(name: &str) -> Checkpoint {
    let config = Config::parse(&std::fs::read_to_string(dir(name).join("config.json")).unwrap()).unwrap();
    let quantization = Quantization::read(&config).unwrap();
    assert!(config.unread().iter().all(|field| !field.starts_with("quantization_config")), "{:?}", config.unread());
    Checkpoint::open(dir(name)).unwrap().dequantised(quantization.as_ref()).unwrap()
}

/// The dequantised weights that the oracle wrote: name and bytes.
fn expected(name: &str) -> Vec<(String, TensorInfoAndBytes)> {
    let bytes = std::fs::read(dir(name).join("expected.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let weight = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let shape = view.shape().iter().map(|&dim| dim as u64).collect();
        Some((name.strip_prefix("weight.")?.to_owned(), (shape, view.data().to_vec())))
    };
    tensors.tensors().into_iter().filter_map(weight).collect()
}

type TensorInfoAndBytes = (Vec<u64>, Vec<u8>);

/// Numbers equal bit for bit, but that zero has no sign: a code has none, and the oracle's rounding leaves one.
fn same(a: &[u8], b: &[u8]) -> bool {
    let numbers = |bytes: &[u8]| bytes.as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect::<Vec<_>>();
    a.len() == b.len()
        && numbers(a).iter().zip(&numbers(b)).all(|(a, b)| a.to_bits() == b.to_bits() || *a == 0.0 && *b == 0.0)
}

#[test]
fn every_scheme_is_what_the_oracle_says_bit_for_bit() {
    let mut wrong = vec![];
    for name in names() {
        let (checkpoint, expected) = (open(&name), expected(&name));
        assert!(!expected.is_empty(), "{name}");
        for (tensor, (shape, bytes)) in expected {
            let info = checkpoint.index().get(&tensor).unwrap_or_else(|| panic!("{name} has no {tensor}"));
            assert_eq!((info.dtype, &info.shape), (DType::F32, &shape), "{name} {tensor}");
            let count = shape.iter().product();
            if !same(&checkpoint.lend(&tensor, 0..count).unwrap(), &bytes) {
                wrong.push(format!("{name} {tensor}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(names().len(), 17);
}

#[test]
fn ranges_cut_wherever_they_like() {
    for name in names() {
        let checkpoint = open(&name);
        for (tensor, (shape, bytes)) in expected(&name).into_iter().take(2) {
            let count: u64 = shape.iter().product();
            let width = shape[shape.len() - 1];
            for start in [0, 1, 7, width - 1, width, 3 * width + 5] {
                for length in [0, 1, 9, width - 1, width + 1, 2 * width, 5 * width + 3, count - start] {
                    let range = start..(start + length).min(count);
                    let lent = checkpoint.lend(&tensor, range.clone()).unwrap();
                    assert!(
                        same(&lent, &bytes[range.start as usize * 4..range.end as usize * 4]),
                        "{name} {tensor} {range:?}"
                    );
                    checkpoint.release(&tensor, range);
                }
            }
            assert!(
                checkpoint.lend(&tensor, 0..count + 1).is_err()
                    && checkpoint.lend(&tensor, u64::MAX - 1..u64::MAX).is_err()
            );
        }
    }
}

#[test]
fn parts_are_no_tensors_of_the_model() {
    for name in names() {
        let checkpoint = open(&name);
        let ends = ["qweight", "qzeros", "scales", "g_idx", "_scale", "_inv", "packed", "weight_shape", "_blocks"];
        let left: Vec<_> =
            checkpoint.index().iter().filter(|(name, _)| ends.iter().any(|end| name.ends_with(end))).collect();
        assert!(left.is_empty(), "{name}: {left:?}");
        // What is decoded lies nowhere; what is stored whole stays where it is.
        for (tensor, _) in expected(&name) {
            assert!(checkpoint.tensor(&tensor).is_none());
        }
        assert!(checkpoint.tensor("model.norm.weight").is_some());
    }
}

#[test]
fn expressions_evaluate_over_codes() {
    for name in ["gptq-act-order", "awq", "fp8-block"] {
        let checkpoint = open(name);
        let tensor = "model.layers.0.mlp.up_proj.weight";
        let dense = evaluate_to_vec(&WeightExpr::tensor(tensor), DType::F32, &checkpoint).unwrap();
        let turned = WeightExpr::tensor(tensor).transposed();
        assert_eq!(evaluate_to_vec(&turned.clone().transposed(), DType::F32, &checkpoint).unwrap(), dense, "{name}");
        let shape = &checkpoint.index().get(tensor).unwrap().shape;
        let (rows, columns) = (shape[0] as usize, shape[1] as usize);
        let numbers = evaluate_to_vec(&turned, DType::F32, &checkpoint).unwrap();
        for (row, column) in [(0, 0), (5, 17), (rows - 1, columns - 1)] {
            let (a, b) = ((row * columns + column) * 4, (column * rows + row) * 4);
            assert_eq!(dense[a..a + 4], numbers[b..b + 4], "{name}");
        }
    }
}

/// The dense rows that the blocks of a tensor stand for, with their inputs where they belong.
fn from_blocks(checkpoint: &Checkpoint, tensor: &str, layout: &BlockLayout, blocks: Range<u64>) -> Vec<f32> {
    let (count, length) = ((blocks.end - blocks.start) as usize, layout.length as usize);
    let read = |part| checkpoint.read_blocks(tensor, blocks.clone(), part).unwrap();
    let (mut codes, mut scales, mut zeros) = (vec![0; count * length], vec![0.0; count], vec![0; count]);
    read(BlockPart::Codes(&mut codes));
    read(BlockPart::Scales(&mut scales));
    if layout.zero == ZeroPoint::PerBlock {
        read(BlockPart::Zeros(&mut zeros));
    }
    let most = if layout.bits == CodeBits::Four { 15 } else { 255 };
    assert!(codes.iter().chain(&zeros).all(|&code| code <= most));
    let zeros: Vec<f32> = zeros.into_iter().map(f32::from).collect();
    let mut out = vec![0.0; count * length];
    blocks::decode(layout, &codes, &scales, &zeros, &mut out);
    out
}

#[test]
fn blocks_stand_for_the_same_numbers() {
    let mut kept = vec![];
    for name in names() {
        let checkpoint = open(&name);
        for (tensor, (shape, bytes)) in expected(&name) {
            let encoding = checkpoint.encoding(&tensor).unwrap();
            let Some(layout) = encoding.blocks else { continue };
            kept.push(format!("{name} {} {:?} {:?}", layout.length, layout.bits, layout.zero));
            let (rows, columns) = (shape[0], shape[1]);
            let per_row = columns / layout.length;
            let mut order: Vec<u32> = (0..columns as u32).collect();
            if layout.ordered {
                checkpoint.read_blocks(&tensor, 0..per_row, BlockPart::Order(&mut order)).unwrap();
            }
            let all = from_blocks(&checkpoint, &tensor, &layout, 0..rows * per_row);
            let mut dense = vec![0.0; all.len()];
            for (at, number) in all.iter().enumerate() {
                let (row, place) = (at / columns as usize, at % columns as usize);
                dense[row * columns as usize + order[place] as usize] = *number;
            }
            assert!(same(bytemuck::cast_slice(&dense), &bytes), "{name} {tensor}");
            for range in [0..1, 1..2, per_row - 1..per_row + 1, 1..3 * per_row + 1] {
                let part = from_blocks(&checkpoint, &tensor, &layout, range.clone());
                let within = (range.start * layout.length) as usize..(range.end * layout.length) as usize;
                assert_eq!(part, all[within], "{name} {tensor} {range:?}");
            }
            let past = checkpoint.read_blocks(&tensor, 0..rows * per_row + 1, BlockPart::Scales(&mut []));
            assert!(past.is_err() && checkpoint.read_blocks(&tensor, 0..1, BlockPart::Shifts(&mut [0.0])).is_err());
        }
    }
    kept.sort();
    kept.dedup();
    insta::assert_snapshot!(kept.join("\n"), @r"
    awq 16 Four PerBlock
    awq-qwen2 16 Four PerBlock
    ct-int4 16 Four Constant(8)
    ct-int8 16 Eight Constant(128)
    ct-int8 32 Eight Constant(128)
    gptq 16 Four PerBlock
    gptq-8-bits 16 Eight PerBlock
    gptq-act-order 16 Four PerBlock
    gptq-act-order-symmetric 16 Four Constant(8)
    gptq-symmetric 16 Four Constant(8)
    gptq-v2-act-order-8-bits 16 Eight PerBlock
    gptq-v2-sharded 16 Four PerBlock
    ");
}
