//! Decoding quantised checkpoints: how long, and how much memory.
//!
//! `cargo bench -p qeff-core --bench quantised -- --matrices 8` makes, scheme by scheme, a checkpoint of that many random
//! matrices of 4096 by 4096 in a temporary directory, and packs it to f32 as it is read ([out, in]) and transposed. Peak
//! memory is the kernel's own figure for this process (VmHWM) so far, mapped pages counted. `--dir` chooses the disk.
#![allow(clippy::print_stdout)]

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use qeff_core::weights::quantised::Quantization;
use qeff_core::weights::{Checkpoint, PackOptions, PackRequest, pack};
use qeff_plugin_api::config::Config;
use qeff_plugin_api::{DType, WeightExpr};
use serde_json::{Value as Json, json};

type Failure = Box<dyn std::error::Error>;

/// Rows, and columns, of a matrix.
const SIDE: u64 = 4096;

/// Inputs of a group.
const GROUP: u64 = 128;

/// A part of a weight: ending of the name, type in the file, bytes of an element, shape.
type Part = (&'static str, &'static str, u64, Vec<u64>);

fn main() -> Result<(), Failure> {
    let (mut matrices, mut dir) = (8u64, std::env::temp_dir());
    let mut rest = std::env::args().skip(1);
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--matrices" => matrices = value()?.parse()?,
            "--dir" => dir = PathBuf::from(value()?),
            // What cargo adds by itself.
            "--bench" => {}
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    println!("{matrices} matrices of {SIDE} by {SIDE}, to f32: seconds, MB/s written, peak memory so far");
    for (title, config, parts) in schemes() {
        let work = tempfile::tempdir_in(&dir)?;
        generate(&work.path().join("model.safetensors"), &parts, matrices)?;
        let config = Config::parse(&json!({ "quantization_config": config }).to_string())?;
        let checkpoint = Checkpoint::open(work.path())?.dequantised(Quantization::read(&config)?.as_ref())?;
        for transposed in [false, true] {
            let request = |i| {
                let name = format!("m{i}.weight");
                let tensor = WeightExpr::tensor(&name);
                let expr = if transposed { tensor.transposed() } else { tensor };
                PackRequest { name, expr, dtype: DType::F32 }
            };
            let requests: Vec<_> = (0..matrices).map(request).collect();
            let options = PackOptions { sync: false, ..PackOptions::default() };
            let done = pack(work.path(), "packed", &requests, &checkpoint, options)?;
            let rate = done.bytes_written as f64 / 1e6 / done.seconds;
            let how = if transposed { "transposed" } else { "as read" };
            println!("{title:<16} {how:<10} {:7.3} s {rate:6.0} MB/s {:5.0} MB", done.seconds, peak()? as f64 / 1e6);
            for file in done.files {
                std::fs::remove_file(work.path().join(file))?;
            }
        }
    }
    Ok(())
}

/// Schemes by title, with their config and the parts of a weight.
fn schemes() -> Vec<(&'static str, Json, Vec<Part>)> {
    let groups = SIDE / GROUP;
    let compressed =
        json!({ "targets": ["Linear"], "weights": { "num_bits": 4, "strategy": "group", "group_size": GROUP } });
    let gptq = vec![
        (".qweight", "I32", 4, vec![SIDE / 8, SIDE]),
        (".qzeros", "I32", 4, vec![groups, SIDE / 8]),
        (".scales", "F16", 2, vec![groups, SIDE]),
    ];
    let mut act_order = gptq.clone();
    act_order.push((".g_idx", "I32", 4, vec![SIDE]));
    vec![
        ("gptq", json!({ "quant_method": "gptq", "bits": 4, "group_size": GROUP }), gptq),
        (
            "gptq, act-order",
            json!({ "quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": true }),
            act_order,
        ),
        (
            "awq",
            json!({ "quant_method": "awq", "bits": 4, "group_size": GROUP }),
            vec![
                (".qweight", "I32", 4, vec![SIDE, SIDE / 8]),
                (".qzeros", "I32", 4, vec![groups, SIDE / 8]),
                (".scales", "F16", 2, vec![groups, SIDE]),
            ],
        ),
        (
            "int4, packed",
            json!({ "quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": { "g": compressed } }),
            vec![
                (".weight_packed", "I32", 4, vec![SIDE, SIDE / 8]),
                (".weight_scale", "BF16", 2, vec![SIDE, groups]),
                (".weight_shape", "I32", 4, vec![2]),
            ],
        ),
        (
            "fp8, blocks",
            json!({ "quant_method": "fp8", "weight_block_size": [128, 128] }),
            vec![(".weight", "F8_E4M3", 1, vec![SIDE, SIDE]), (".weight_scale_inv", "F32", 4, vec![groups, groups])],
        ),
    ]
}

fn generate(path: &Path, parts: &[Part], matrices: u64) -> Result<(), Failure> {
    let mut header = serde_json::Map::new();
    let mut at = 0;
    for i in 0..matrices {
        for (ending, dtype, size, shape) in parts {
            let end = at + shape.iter().product::<u64>() * size;
            header
                .insert(format!("m{i}{ending}"), json!({ "dtype": dtype, "shape": shape, "data_offsets": [at, end] }));
            at = end;
        }
    }
    let header = Json::Object(header).to_string();
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut state = 1u64;
    for _ in 0..matrices {
        for (ending, _, size, shape) in parts {
            let count = shape.iter().product::<u64>();
            match *ending {
                // Every group has as many inputs as the others, here and there.
                ".g_idx" => {
                    (0..count).try_for_each(|i| file.write_all(&((i * 37 % count / GROUP) as u32).to_le_bytes()))?
                }
                ".weight_shape" => file.write_all(&[SIDE as u32, SIDE as u32].map(u32::to_le_bytes).concat())?,
                _ => (0..(count * size).div_ceil(8)).try_for_each(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    // Scales of about one: no bits of the largest exponents.
                    file.write_all(&(state & 0x3bff_3bff_3bff_3bff).to_le_bytes())
                })?,
            }
        }
    }
    Ok(file.flush()?)
}

/// Largest resident set of this process.
fn peak() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
}
