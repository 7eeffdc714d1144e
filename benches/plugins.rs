//! What it costs to have a plugin from a file rather than linked in.
//!
//! `cargo bench --bench plugins` describes a Llama of 32 layers linked in, in process and in a worker, from the file on the
//! disk to the model, with a plugin that is stripped first; and decodes weights of a plugin's format, in process and through
//! a worker. It prints the median of `--rounds` (20), and the slowest.
#![allow(clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use qeff_host::plugins::worker::WorkerOptions;
use qeff_host::plugins::{Loading, Place, Registry};
use qeff_plugin_api::config::Config;
use qeff_plugin_api::plugin::Request;
use qeff_plugin_api::{DType, TensorIndex, TensorInfo};
use serde_json::json;

const LAYERS: u64 = 32;
/// Bytes of a piece of weights; the host decodes no larger ones.
const PIECE: usize = 16 << 20;

fn main() -> Result<()> {
    let mut rest = std::env::args().skip_while(|argument| argument != "--rounds").skip(1);
    let rounds = rest.next().map_or(Ok(20), |n| n.parse())?;
    let folder = tempfile::tempdir()?;
    let llama = stripped(folder.path(), "llama")?;
    let everything = stripped(folder.path(), "everything")?;
    println!("llama.so: {} KB, stripped", std::fs::metadata(&llama)?.len() / 1000);

    let request = request()?;
    let builtin = Registry::builtin();
    let linked = median("linked in", rounds, || describe(&builtin, &request))?;
    for place in [Place::InProcess, Place::Worker] {
        let took = median(name(place), rounds, || describe(&registry(&llama, place)?, &request))?;
        println!("{:>12}: {:.1} ms over linked in", "", (took.as_secs_f64() - linked.as_secs_f64()) * 1e3);
    }

    let stored = vec![7; PIECE];
    for place in [Place::InProcess, Place::Worker] {
        let registry = registry(&everything, place)?;
        let format = &registry.formats().first().context("a format")?.item;
        let mut out = vec![0; PIECE];
        // The first pays for memory that later ones find.
        format.decode("plus-one", &stored, &mut out)?;
        let took =
            median(&format!("decode, {}", name(place)), rounds, || Ok(format.decode("plus-one", &stored, &mut out)?))?;
        ensure!(out.iter().all(|byte| *byte == 6), "decoded wrongly");
        println!("{:>12}: {:.2} GB/s", "", PIECE as f64 / took.as_secs_f64() / 1e9);
    }
    Ok(())
}

fn name(place: Place) -> &'static str {
    match place {
        Place::InProcess => "in process",
        Place::Worker => "in a worker",
    }
}

/// The plugin that cargo built for this benchmark, as it would be handed out.
fn stripped(folder: &Path, plugin: &str) -> Result<PathBuf> {
    let built = std::env::current_exe()?.with_file_name(format!("libqeff_plugin_{plugin}.so"));
    let file = folder.join(format!("{plugin}.so"));
    std::fs::copy(&built, &file).with_context(|| format!("{} is not built", built.display()))?;
    ensure!(Command::new("strip").arg(&file).status()?.success(), "strip failed");
    Ok(file)
}

fn registry(file: &Path, place: Place) -> Result<Registry> {
    let program = env!("CARGO_BIN_EXE_qeff-host-under-test").into();
    let worker = WorkerOptions { program, ..WorkerOptions::default() };
    let mut registry = Registry::empty().with_loading(Loading { place, worker });
    registry.add_file(file)?;
    Ok(registry)
}

fn describe(registry: &Registry, request: &Request) -> Result<()> {
    let model = registry.architecture_for(&request.config, None)?.describe(request)?;
    ensure!(model.programs.len() == 1, "no model");
    Ok(())
}

/// Llama 2 7B, without its bytes.
fn request() -> Result<Request> {
    let (hidden, inner, vocab) = (4096, 11008, 32000);
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": hidden, "intermediate_size": inner, "vocab_size": vocab,
        "num_hidden_layers": LAYERS, "num_attention_heads": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": false,
    });
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![vocab, hidden])];
    for layer in 0..LAYERS {
        let of = |name: &str| format!("model.layers.{layer}.{name}.weight");
        for projection in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            tensors.push((of(&format!("self_attn.{projection}")), vec![hidden, hidden]));
        }
        tensors.push((of("mlp.gate_proj"), vec![inner, hidden]));
        tensors.push((of("mlp.up_proj"), vec![inner, hidden]));
        tensors.push((of("mlp.down_proj"), vec![hidden, inner]));
        tensors.push((of("input_layernorm"), vec![hidden]));
        tensors.push((of("post_attention_layernorm"), vec![hidden]));
    }
    tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
    tensors.push(("lm_head.weight".to_owned(), vec![vocab, hidden]));
    let info = |(name, shape)| (name, TensorInfo { dtype: DType::BF16, shape });
    let tensors: TensorIndex = tensors.into_iter().map(info).collect();
    Ok(Request { config: Config::parse(&config.to_string())?, tensors })
}

/// Does something so many times, and prints how long it took.
fn median(what: &str, rounds: usize, mut work: impl FnMut() -> Result<()>) -> Result<Duration> {
    let mut times = vec![];
    for _ in 0..rounds.max(1) {
        let started = Instant::now();
        work()?;
        times.push(started.elapsed());
    }
    times.sort();
    let (median, slowest) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{what:>24}: median {:.2} ms, slowest {:.2} ms", median.as_secs_f64() * 1e3, slowest.as_secs_f64() * 1e3);
    Ok(median)
}
