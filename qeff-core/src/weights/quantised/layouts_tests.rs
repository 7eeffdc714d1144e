//! Layouts that no fixture has, packed bit by bit as their tools' sources say, and read again.

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::weights::TensorSource as _;
use crate::weights::safetensors::tests::file;

/// A stored tensor: name, type in the file, shape, bytes.
type Tensor = (&'static str, &'static str, Vec<usize>, Vec<u8>);

/// The checkpoint that consists of these tensors, with this `quantization_config`.
fn checkpoint(config: &Json, tensors: &[Tensor]) -> Checkpoint {
    let dir = tempfile::tempdir().unwrap();
    let (mut header, mut data) = (serde_json::Map::new(), vec![]);
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert((*name).into(), json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets }));
        data.extend(bytes);
    }
    std::fs::write(dir.path().join("model.safetensors"), file(&Json::Object(header).to_string(), &data)).unwrap();
    let config = Config::parse(&json!({ "quantization_config": config }).to_string()).unwrap();
    let quantization = Quantization::read(&config).unwrap();
    Checkpoint::open(dir.path()).unwrap().dequantised(quantization.as_ref()).unwrap()
}

fn numbers(checkpoint: &Checkpoint, range: std::ops::Range<u64>) -> Vec<f32> {
    let bytes = checkpoint.lend("m.weight", range).unwrap();
    bytes.as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect()
}

/// Sets the bits of `value` from bit `at` on.
fn put(words: &mut [u32], at: usize, bits: usize, value: u32) {
    for bit in 0..bits {
        words[(at + bit) / 32] |= (value >> bit & 1) << ((at + bit) % 32);
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn floats(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Numbers without end that depend on a seed.
fn draw(seed: u64) -> impl FnMut(u32) -> u32 {
    let mut state = seed | 1;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % u64::from(below)) as u32
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn gptq(
        bits in prop::sample::select(vec![2usize, 3, 4, 8]),
        rows in 1usize..4,
        columns in 1usize..4,
        size in prop::sample::select(vec![8usize, 12, 32, 64, -1i64 as usize]),
        second in any::<bool>(),
        act_order in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let (rows, columns) = (rows * 32, columns * 32);
        let (group, groups) = if size > columns { (columns, 1) } else { (size, columns.div_ceil(size)) };
        let mut draw = draw(seed);
        let top = 1u32 << bits;
        let codes: Vec<u32> = (0..rows * columns).map(|_| draw(top)).collect();
        let zeros: Vec<u32> = (0..rows * groups).map(|_| draw(top)).collect();
        let scales: Vec<f32> = (0..rows * groups).map(|_| draw(1000) as f32 / 512.0).collect();
        let group_of: Vec<usize> = (0..columns)
            .map(|column| if act_order { draw(groups as u32) as usize } else { column / group })
            .collect();

        let (mut packed, mut packed_zeros) = (vec![0; columns * bits / 32 * rows], vec![0; groups * rows * bits / 32]);
        for row in 0..rows {
            // A line of words for each output, which the file has transposed.
            let mut line = vec![0; columns * bits / 32];
            (0..columns).for_each(|column| put(&mut line, column * bits, bits, codes[row * columns + column]));
            line.iter().enumerate().for_each(|(at, word)| packed[at * rows + row] = *word);
            for group in 0..groups {
                let stored = if second { zeros[row * groups + group] } else { zeros[row * groups + group].wrapping_sub(1) % top };
                put(&mut packed_zeros, group * rows * bits + row * bits, bits, stored);
            }
        }
        let turned: Vec<f32> =
            (0..groups).flat_map(|group| (0..rows).map(move |row| (row, group))).map(|(row, group)| scales[row * groups + group]).collect();
        let config = json!({
            "quant_method": "gptq", "bits": bits, "group_size": if size > 64 { -1 } else { size as i64 },
            "desc_act": act_order, "checkpoint_format": if second { "gptq_v2" } else { "gptq" },
        });
        let stored = checkpoint(&config, &[
            ("m.qweight", "I32", vec![columns * bits / 32, rows], words(&packed)),
            ("m.qzeros", "I32", vec![groups, rows * bits / 32], words(&packed_zeros)),
            ("m.scales", "F32", vec![groups, rows], floats(&turned)),
            ("m.g_idx", "I32", vec![columns], words(&group_of.iter().map(|&group| group as u32).collect::<Vec<_>>())),
        ]);
        let expected: Vec<f32> = (0..rows * columns)
            .map(|at| {
                let cell = at / columns * groups + group_of[at % columns];
                (codes[at] as f32 - zeros[cell] as f32) * scales[cell]
            })
            .collect();
        prop_assert_eq!(numbers(&stored, 0..(rows * columns) as u64), expected);
    }

    #[test]
    fn compressed_words(
        bits in 1usize..9,
        rows in 1usize..40,
        columns in 1usize..70,
        strategy in prop::sample::select(vec!["tensor", "channel", "group"]),
        size in 1usize..20,
        symmetric in any::<bool>(),
        act_order in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let (group, groups, lines) = match strategy {
            "tensor" => (columns, 1, 1),
            "channel" => (columns, 1, rows),
            _ => (size, columns.div_ceil(size), rows),
        };
        let act_order = act_order && strategy == "group";
        let mut draw = draw(seed);
        let (top, per) = (1u32 << bits, 32 / bits);
        let codes: Vec<u32> = (0..rows * columns).map(|_| draw(top)).collect();
        let zeros: Vec<u32> = (0..lines * groups).map(|_| draw(top)).collect();
        let scales: Vec<f32> = (0..lines * groups).map(|_| draw(1000) as f32 / 512.0).collect();
        let group_of: Vec<usize> = (0..columns)
            .map(|column| if act_order { draw(groups as u32) as usize } else { column / group })
            .collect();
        let width = columns.div_ceil(per);
        let mut packed = vec![0; rows * width];
        for (at, code) in codes.iter().enumerate() {
            let (row, column) = (at / columns, at % columns);
            put(&mut packed, (row * width + column / per) * 32 + column % per * bits, bits, *code);
        }
        let mut packed_zeros = vec![0; lines.div_ceil(per) * groups];
        for (at, zero) in zeros.iter().enumerate() {
            let (line, group) = (at / groups, at % groups);
            put(&mut packed_zeros, (line / per * groups + group) * 32 + line % per * bits, bits, *zero);
        }
        let shape = [rows as u32, 0, columns as u32, 0];
        let mut tensors = vec![
            ("m.weight_packed", "I32", vec![rows, width], words(&packed)),
            ("m.weight_scale", "F32", if strategy == "tensor" { vec![1] } else { vec![lines, groups] }, floats(&scales)),
            ("m.weight_shape", "I64", vec![2], words(&shape)),
        ];
        let middle = (top / 2) as i32;
        if !symmetric {
            tensors.push(match strategy {
                // A single zero point is not packed, and is measured from the middle.
                "tensor" => ("m.weight_zero_point", "I8", vec![1], vec![(zeros[0] as i32 - middle) as u8]),
                _ => ("m.weight_zero_point", "I32", vec![lines.div_ceil(per), groups], words(&packed_zeros)),
            });
        }
        if act_order {
            tensors.push(("m.weight_g_idx", "I32", vec![columns], words(&group_of.iter().map(|&g| g as u32).collect::<Vec<_>>())));
        }
        let mut weights = json!({ "num_bits": bits, "type": "int", "strategy": strategy, "symmetric": symmetric });
        if strategy == "group" {
            weights["group_size"] = size.into();
        }
        let config = json!({
            "quant_method": "compressed-tensors", "format": "pack-quantized",
            "config_groups": { "group_0": { "targets": ["re:.*m$"], "weights": weights } },
        });
        let stored = checkpoint(&config, &tensors);
        let expected: Vec<f32> = (0..rows * columns)
            .map(|at| {
                let cell = (at / columns).min(lines - 1) * groups + group_of[at % columns];
                let zero = if symmetric { middle } else { zeros[cell] as i32 };
                (codes[at] as i32 - zero) as f32 * scales[cell]
            })
            .collect();
        prop_assert_eq!(numbers(&stored, 0..(rows * columns) as u64), expected.clone());
        let (from, to) = (rows * columns / 3, rows * columns * 2 / 3 + 1);
        prop_assert_eq!(numbers(&stored, from as u64..to as u64), expected[from..to].to_vec());
    }

    /// Bytes with zero points, and blocks that fit neither rows nor columns.
    #[test]
    fn compressed_bytes(
        rows in 1usize..40,
        columns in 1usize..70,
        tall in 1usize..9,
        wide in 1usize..20,
        blocks in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let (tall, zero_points) = if blocks { (tall, false) } else { (1, true) };
        let (lines, groups) = (rows.div_ceil(tall), columns.div_ceil(wide));
        let mut draw = draw(seed);
        let codes: Vec<u8> = (0..rows * columns).map(|_| draw(256) as u8).collect();
        let zeros: Vec<u8> = (0..lines * groups).map(|_| if zero_points { draw(256) as u8 } else { 0 }).collect();
        let scales: Vec<f32> = (0..lines * groups).map(|_| draw(1000) as f32 / 512.0).collect();
        let mut tensors = vec![
            ("m.weight", "I8", vec![rows, columns], codes.clone()),
            ("m.weight_scale", "F32", vec![lines, groups], floats(&scales)),
        ];
        let mut weights = json!({ "num_bits": 8, "type": "int", "strategy": "block", "block_structure": [tall, wide] });
        if zero_points {
            tensors.push(("m.weight_zero_point", "I8", vec![lines, groups], zeros.clone()));
            weights = json!({ "num_bits": 8, "type": "int", "strategy": "group", "group_size": wide, "symmetric": false });
        }
        let config = json!({
            "quant_method": "compressed-tensors", "format": "int-quantized",
            "config_groups": { "group_0": { "targets": ["m"], "weights": weights } },
        });
        let expected: Vec<f32> = (0..rows * columns)
            .map(|at| {
                let cell = at / columns / tall * groups + at % columns / wide;
                f32::from(codes[at] as i8 as i16 - i16::from(zeros[cell] as i8)) * scales[cell]
            })
            .collect();
        prop_assert_eq!(numbers(&checkpoint(&config, &tensors), 0..(rows * columns) as u64), expected);
    }
}

/// Of several groups of modules, a name decides before a pattern, and a pattern before a class.
#[test]
fn the_closest_target_decides() {
    let group = |targets: &str, bits: usize| json!({ "targets": [targets], "weights": { "num_bits": bits, "strategy": "channel" }, "format": "int-quantized" });
    let read = |first: Json, second: Json| {
        let config = json!({
            "quant_method": "compressed-tensors", "format": "mixed-precision",
            "config_groups": { "a": first, "b": second, "c": group("re:.*other", 6) },
        });
        Config::parse(&config.to_string()).map(|config| compressed::Compressed::read(&config).unwrap()).unwrap()
    };
    for (close, far) in [("layers.0.up", "re:.*up"), ("re:layers\\.0", "Linear"), ("layers.0.up", "Linear")] {
        for compressed in [read(group(close, 4), group(far, 8)), read(group(far, 8), group(close, 4))] {
            assert_eq!(compressed.bits_of("layers.0.up"), Some(4), "{close} {far}");
        }
    }
    // Of two patterns the first in the alphabet decides, of two classes the later one.
    for swap in [false, true] {
        let (a, b) = (group("re:.*layers.*", 4), group("re:.*up$", 8));
        let compressed = if swap { read(b, a) } else { read(a, b) };
        assert_eq!(compressed.bits_of("layers.0.up"), Some(4));
    }
    assert_eq!(read(group("Linear", 4), group("Linear", 8)).bits_of("layers.0.up"), Some(8));
    // A pattern has to match from the beginning of the name, and not to its end.
    assert_eq!(read(group("re:up", 4), group("re:layers", 8)).bits_of("layers.0.up"), Some(8));
    assert_eq!(read(group("layers.0", 4), group("up", 8)).bits_of("layers.0.up"), None);
}
