//! Generation on the CPU against the limit of the machine.
//!
//! `cargo bench --bench generate -- --model PATH --prompt 32 --new 64 --slots 1` (the demo checkpoint without `--model`)
//! prints tokens a second, and how close decoding comes to reading every weight once for each step: with one sequence,
//! nothing can be faster than memory.
//!
//! `--forms dense,int4,int4-int8,int8,…` measures several forms of the weights, in turns, and prints the median of
//! `--rounds`: `kept` and `dense` say what becomes of weights that are stored quantised, `int4` and `int8` quantise the
//! others (`int4a`, `int8a` asymmetrically), and `-int8` behind any of them rounds activations to eight bits.
//!
//! `--engines rten,ort` does so on each engine. Load time and memory are of the process, so they mean something if one form is
//! measured on one engine.
#![allow(clippy::print_stdout)]

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use qeff::{Silent, describe};
use qeff_core::lower::Products;
use qeff_core::weights::{CodeBits, Scheme};
use qeff_host::checkpoint::Checkpoint;
use qeff_host::engines::{self, Choice};
use qeff_host::forms::{Stored, WeightForms};
use qeff_host::generate::{Options, Request, Sampling, Timing, generate};
use qeff_host::prepare::{self, CpuOptions, CpuReady};
use rayon::prelude::*;

/// Most prompt tokens of one call, as `run` has it.
const CHUNK: usize = 512;

struct Arguments {
    model: PathBuf,
    prompt: usize,
    new: usize,
    slots: usize,
    forms: Vec<String>,
    engines: Vec<String>,
    rounds: usize,
}

fn arguments() -> Result<Arguments> {
    let model = qeff::root().join("demo/kjv-1.7m");
    let mut found = Arguments {
        model,
        prompt: 32,
        new: 64,
        slots: 1,
        forms: vec!["kept".into()],
        engines: vec!["rten".into()],
        rounds: 1,
    };
    let mut rest = std::env::args().skip(1);
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--model" => found.model = value()?.into(),
            "--prompt" => found.prompt = value()?.parse()?,
            "--new" => found.new = value()?.parse()?,
            "--slots" => found.slots = value()?.parse()?,
            "--forms" => found.forms = value()?.split(',').map(str::to_owned).collect(),
            "--engines" => found.engines = value()?.split(',').map(str::to_owned).collect(),
            "--rounds" => found.rounds = value()?.parse()?,
            // What cargo adds by itself.
            "--bench" => {}
            other => bail!("unknown argument {other}"),
        }
    }
    Ok(found)
}

fn forms(name: &str) -> Result<WeightForms> {
    let (weights, products) = match name.strip_suffix("-int8") {
        Some(weights) => (weights, Products::Int8),
        None => (name, Products::F32),
    };
    let scheme = |bits, symmetric| Some(Scheme { bits, length: 32, symmetric });
    let (stored, quantise) = match weights {
        "kept" => (Stored::Keep, None),
        "dense" => (Stored::Dequantise, None),
        "int4" => (Stored::Keep, scheme(CodeBits::Four, true)),
        "int4a" => (Stored::Keep, scheme(CodeBits::Four, false)),
        "int8" => (Stored::Keep, scheme(CodeBits::Eight, true)),
        "int8a" => (Stored::Keep, scheme(CodeBits::Eight, false)),
        other => bail!("unknown form {other}"),
    };
    Ok(WeightForms { stored, quantise, products })
}

fn engine(name: &str) -> Result<Choice> {
    match name {
        "rten" => Ok(Choice::Rten),
        "ort" => Ok(Choice::Ort),
        other => bail!("unknown engine {other}"),
    }
}

/// A line of the kernel's about this process, in MB.
fn memory(what: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(what))?;
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<f64>().ok().map(|kilobytes| kilobytes / 1e3)
}

/// A form being measured on an engine.
struct Lane {
    name: String,
    load: f64,
    ready: CpuReady,
    timings: Vec<Timing>,
}

fn main() -> Result<()> {
    let Arguments { model, prompt, new, slots, forms: names, engines: engine_names, rounds } = arguments()?;
    let checkpoint = Checkpoint::open(&model)?;
    let described = describe(&checkpoint)?;
    let mut lanes = vec![];
    for (engine_name, name) in engine_names.iter().flat_map(|engine| names.iter().map(move |name| (engine, name))) {
        let selected = engines::select(engine(engine_name)?, None)?;
        let begun = Instant::now();
        let engine = &*selected.engine;
        let how = CpuOptions { engine, slots, context: prompt + new, chunk: CHUNK, forms: forms(name)? };
        let ready = prepare::cpu(&described, &checkpoint.weights, how)?;
        let load = begun.elapsed().as_secs_f64();
        lanes.push(Lane { name: format!("{engine_name} {name}"), load, ready, timings: vec![] });
    }
    let requests: Vec<Request> =
        (0..slots).map(|_| Request { prompt: (1..=prompt as u32).collect(), max_new_tokens: new }).collect();
    let options = Options { sampling: Sampling::default(), eos: vec![], chunk: CHUNK, keep_logits: false };
    // Once to warm the pages, then to measure, each form in every round.
    for round in 0..=rounds {
        for lane in &mut lanes {
            let (_, timing) = generate(&mut lane.ready.session, &requests, &options, &mut Silent)?;
            if round > 0 {
                lane.timings.push(timing);
            }
        }
    }
    // Before the buffer of the other measurement counts.
    let memory = [memory("VmHWM"), memory("RssAnon")].map(|megabytes| megabytes.unwrap_or(f64::NAN));
    let rate = read_rate();

    // An embedding gives one row a token; every other weight is read whole.
    let sources = described.sources();
    let tied = !sources.iter().any(|name| name.ends_with("lm_head.weight"));
    let tables: u64 = sources
        .iter()
        .filter(|name| name.ends_with("embed_tokens.weight") || name.ends_with("wte.weight"))
        .filter_map(|name| checkpoint.weights.tensor(name))
        .map(|view| view.shape.iter().product::<u64>() * 4)
        .sum();
    println!("memory read {:.1} GB/s; {slots} slot(s), medians of {rounds}", rate / 1e9);
    println!(
        "memory at most {:.0} MB, mapped weights included; {:.0} MB of it not mapped, at the end",
        memory[0], memory[1]
    );
    println!("engine, form      load s  prefill tok/s  decode tok/s   MB a step  decode / limit");
    for Lane { name, load, ready, timings } in &lanes {
        let median = |number: &dyn Fn(&Timing) -> f64| {
            let mut numbers: Vec<f64> = timings.iter().map(number).collect();
            numbers.sort_by(f64::total_cmp);
            numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
        };
        let prefill = median(&|timing| timing.prompt_tokens as f64 / timing.prefill.as_secs_f64());
        let decode = median(&|timing| timing.decoded_tokens as f64 / timing.decode.as_secs_f64());
        let residence = ready.residence;
        let weights = (residence.linked + residence.packed - if tied { 0 } else { tables }) as f64;
        let limit = decode / slots as f64 * weights / rate;
        println!("{name:16} {load:7.2} {prefill:14.1} {decode:13.1} {:11.1} {limit:15.2}", weights / 1e6);
    }
    Ok(())
}

/// Bytes a second at which all threads together sum a buffer that no cache holds.
fn read_rate() -> f64 {
    let buffer = vec![1u64; 64 << 20];
    let begun = Instant::now();
    let rounds = 4;
    let sum: u64 =
        (0..rounds).map(|_| buffer.par_chunks(1 << 16).map(|part| part.iter().sum::<u64>()).sum::<u64>()).sum();
    assert_eq!(sum, rounds * buffer.len() as u64);
    (rounds as usize * buffer.len() * 8) as f64 / begun.elapsed().as_secs_f64()
}
