//! Packed writing against `cp`: how long, and how much memory.
//!
//! `cargo bench -p qeff-core --bench weights -- --mib 1400` makes a random f32 checkpoint of about that size (layers of
//! width 1024, embedding and untied head of 32000×1024) in a temporary directory, packs it with every matrix transposed,
//! and copies it with `cp` before and after, so that one busy minute does not decide the ratio. Peak memory is the
//! kernel's own figure for this process (VmHWM), mapped pages counted. `--dir` chooses the disk, `--f16` packs to f16,
//! `--budget-mb` sets the memory budget.
#![allow(clippy::print_stdout)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use qeff_core::weights::{Checkpoint, PackOptions, PackRequest, pack};
use qeff_plugin_api::{DType, WeightExpr};

type Failure = Box<dyn std::error::Error>;

struct Arguments {
    mib: u64,
    dir: PathBuf,
    dtype: DType,
    budget: usize,
}

fn arguments() -> Result<Arguments, Failure> {
    let defaults = PackOptions::default();
    let mut found = Arguments { mib: 1400, dir: std::env::temp_dir(), dtype: DType::F32, budget: defaults.budget };
    let mut rest = std::env::args().skip(1);
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--mib" => found.mib = value()?.parse()?,
            "--dir" => found.dir = value()?.into(),
            "--budget-mb" => found.budget = value()?.parse::<usize>()? * 1_000_000,
            "--f16" => found.dtype = DType::F16,
            // What cargo adds by itself.
            "--bench" => {}
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    Ok(found)
}

fn main() -> Result<(), Failure> {
    let Arguments { mib, dir, dtype, budget } = arguments()?;
    let work = tempfile::tempdir_in(dir)?;
    let source = work.path().join("model.safetensors");
    let shapes = shapes(mib << 20);
    generate(&source, &shapes)?;
    let bytes = std::fs::metadata(&source)?.len();
    let wide = |name: &str, seconds: f64, bytes: u64| {
        println!("{name:<24} {seconds:7.3} s  {:7.0} MB/s", bytes as f64 / 1e6 / seconds);
    };
    println!("checkpoint: {} tensors, {} MB f32, packed as {dtype}", shapes.len(), bytes / 1_000_000);

    let before = copy(&source, work.path())?;
    let requests: Vec<PackRequest> = shapes
        .iter()
        .map(|(name, shape)| {
            let tensor = WeightExpr::tensor(name);
            let expr = if shape.len() == 2 { tensor.transposed() } else { tensor };
            PackRequest { name: name.clone(), expr, dtype }
        })
        .collect();
    let checkpoint = Checkpoint::open(work.path())?;
    let mut packed = Vec::new();
    for sync in [false, true] {
        let options = PackOptions { budget, sync, ..PackOptions::default() };
        let done = pack(work.path(), "packed", &requests, &checkpoint, options)?;
        wide(if sync { "pack, synced" } else { "pack" }, done.seconds, done.bytes_written);
        for file in done.files {
            std::fs::remove_file(work.path().join(file))?;
        }
        packed.push(done.seconds);
    }
    let after = copy(&source, work.path())?;
    let plain = (before.0 + after.0) / 2.0;
    let synced = (before.1 + after.1) / 2.0;
    wide("cp", plain, bytes);
    wide("cp, then sync", synced, bytes);
    println!("pack / cp                {:7.2}", packed[0] / plain);
    println!("pack synced / cp synced  {:7.2}", packed[1] / synced);
    println!("peak memory (VmHWM)      {:7.0} MB", peak()? as f64 / 1e6);
    Ok(())
}

/// Seconds of `cp`, without and with the time until the copy is on the disk.
fn copy(source: &Path, dir: &Path) -> Result<(f64, f64), Failure> {
    let to = dir.join("copy");
    let begun = Instant::now();
    let status = Command::new("cp").arg("--reflink=never").arg(source).arg(&to).status()?;
    if !status.success() {
        return Err(format!("cp: {status}").into());
    }
    let plain = begun.elapsed().as_secs_f64();
    File::open(&to)?.sync_all()?;
    let synced = begun.elapsed().as_secs_f64();
    std::fs::remove_file(&to)?;
    Ok((plain, synced))
}

fn shapes(bytes: u64) -> Vec<(String, Vec<u64>)> {
    let (hidden, inner, vocabulary) = (1024, 2816, 32000);
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocabulary, hidden]),
        ("lm_head.weight".to_owned(), vec![vocabulary, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ];
    let size = |shapes: &[(String, Vec<u64>)]| shapes.iter().map(|(_, s)| s.iter().product::<u64>() * 4).sum::<u64>();
    for layer in 0.. {
        if size(&shapes) >= bytes {
            break;
        }
        let layer = format!("model.layers.{layer}");
        for part in ["q", "k", "v", "o"] {
            shapes.push((format!("{layer}.self_attn.{part}_proj.weight"), vec![hidden, hidden]));
        }
        shapes.push((format!("{layer}.mlp.gate_proj.weight"), vec![inner, hidden]));
        shapes.push((format!("{layer}.mlp.up_proj.weight"), vec![inner, hidden]));
        shapes.push((format!("{layer}.mlp.down_proj.weight"), vec![hidden, inner]));
        shapes.push((format!("{layer}.input_layernorm.weight"), vec![hidden]));
    }
    shapes
}

/// Writes the file front to back, so that making it takes no memory worth the name.
fn generate(path: &Path, shapes: &[(String, Vec<u64>)]) -> Result<(), Failure> {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in shapes {
        let begin = end;
        end += shape.iter().product::<u64>() * 4;
        header
            .insert(name.clone(), serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [begin, end] }));
    }
    let mut header = serde_json::Value::Object(header).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    // xorshift: numbers of either sign below 2, which no file system compresses.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..end / 4 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let bits = (state >> 32) as u32;
        file.write_all(&f32::from_bits((bits & 0x807f_ffff) | 0x3f80_0000).to_le_bytes())?;
    }
    file.into_inner()?.sync_all()?;
    Ok(())
}

fn peak() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM in /proc/self/status")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
}
