//! Generation on the CPU against the limit of the machine.
//!
//! `cargo bench --bench generate -- --model DIR --prompt 32 --new 64 --slots 1 --engine rten` (the demo checkpoint without
//! `--model`)
//! prints tokens a second, and how close decoding comes to reading every weight once for each step: with one sequence,
//! nothing can be faster than memory.
#![allow(clippy::print_stdout)]

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use qeff::{Silent, describe};
use qeff_host::checkpoint::Checkpoint;
use qeff_host::engines::{self, Choice};
use qeff_host::generate::{Options, Request, Sampling, generate};
use qeff_host::prepare::{self, CpuOptions};
use rayon::prelude::*;

struct Arguments {
    model: PathBuf,
    prompt: usize,
    new: usize,
    slots: usize,
    engine: Choice,
}

fn arguments() -> Result<Arguments> {
    let mut found =
        Arguments { model: qeff::root().join("demo/kjv-1.7m"), prompt: 32, new: 64, slots: 1, engine: Choice::Rten };
    let mut rest = std::env::args().skip(1);
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--model" => found.model = value()?.into(),
            "--prompt" => found.prompt = value()?.parse()?,
            "--new" => found.new = value()?.parse()?,
            "--slots" => found.slots = value()?.parse()?,
            "--engine" => found.engine = engine(&value()?)?,
            // What cargo adds by itself.
            "--bench" => {}
            other => bail!("unknown argument {other}"),
        }
    }
    Ok(found)
}

fn engine(word: &str) -> Result<Choice> {
    match word {
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

fn main() -> Result<()> {
    let Arguments { model, prompt, new, slots, engine } = arguments()?;
    let selected = engines::select(engine, None)?;
    let checkpoint = Checkpoint::open(&model)?;
    let described = describe(&checkpoint)?;
    let begun = Instant::now();
    let options = CpuOptions { engine: &*selected.engine, slots, context: prompt + new };
    let mut ready = prepare::cpu(&described, &checkpoint.weights, options)?;
    let load = begun.elapsed();
    let requests: Vec<Request> =
        (0..slots).map(|_| Request { prompt: (1..=prompt as u32).collect(), max_new_tokens: new }).collect();
    let options = Options { sampling: Sampling::default(), eos: vec![], chunk: 512, keep_logits: false };
    // Once to warm the pages, once to measure.
    generate(&mut ready.session, &requests, &options, &mut Silent)?;
    let (_, timing) = generate(&mut ready.session, &requests, &options, &mut Silent)?;
    // Before the buffer of the other measurement counts.
    let (peak, own) = (memory("VmHWM"), memory("RssAnon"));
    let rate = read_rate();

    let steps = timing.decoded_tokens as f64 / slots as f64 / timing.decode.as_secs_f64();
    // An embedding gives one row a token; every other weight is read whole.
    let residence = ready.residence;
    let sources = described.sources();
    let tied = !sources.iter().any(|name| name.ends_with("lm_head.weight"));
    let tables: u64 = sources
        .iter()
        .filter(|name| name.ends_with("embed_tokens.weight") || name.ends_with("wte.weight"))
        .filter_map(|name| checkpoint.weights.tensor(name))
        .map(|view| view.shape.iter().product::<u64>() * 4)
        .sum();
    let weights = (residence.linked + residence.packed - if tied { 0 } else { tables }) as f64;
    println!("engine           {}", selected.about);
    println!("load             {:9.3} s", load.as_secs_f64());
    if let (Some(peak), Some(own)) = (peak, own) {
        println!(
            "memory           {peak:9.1} MB at most, mapped weights included; {own:.1} MB of it its own at the end"
        );
    }
    println!("prefill          {:9.1} tok/s", timing.prompt_tokens as f64 / timing.prefill.as_secs_f64());
    println!("decode           {:9.1} tok/s in {slots} slot(s)", steps * slots as f64);
    println!("weights          {:9.1} MB a step, {:.1} MB linked", weights / 1e6, residence.linked as f64 / 1e6);
    println!("memory read      {:9.1} GB/s", rate / 1e9);
    println!("decode / limit   {:9.2}", steps * weights / rate);
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
