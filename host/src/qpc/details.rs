//! What a QPC's manifest says for whoever runs it.

use anyhow::Result;
use serde_json::{Value as Json, json};

use super::{Job, Toolchain};
use crate::compile::{Kind, Port};

pub(super) fn of(job: &Job<'_>) -> Result<Json> {
    let interface = &job.program.interface;
    let options = &job.options;
    let specializations: Vec<Json> = job
        .plan
        .specializations
        .iter()
        .map(|specialization| json!({ "name": specialization.name, "symbols": specialization.symbols }))
        .collect();
    // The largest number of a symbol over all specializations; null if the program has no such size.
    let largest = |symbol: &str| job.plan.specializations.iter().filter_map(|s| s.symbols.get(symbol)).max();
    let all = |symbol: &str| -> Vec<u64> {
        job.plan.specializations.iter().filter_map(|s| s.symbols.get(symbol)).copied().collect()
    };
    let ports = |ports: &[Port]| -> Vec<Json> {
        ports
            .iter()
            .map(|port| {
                let dims: Vec<String> = port.dims.iter().map(ToString::to_string).collect();
                json!({ "name": port.name, "type": port.elem.name(), "dims": dims })
            })
            .collect()
    };
    let states: Vec<&str> = interface.states().map(|state| state.input.name.as_str()).collect();
    Ok(json!({
        "qpc": "qpc",
        "model": format!("{}.onnx", job.program.stem),
        "kind": match interface.kind()? {
            Kind::Decoder => "decoder",
            Kind::EncoderDecoder => "encoder-decoder",
            Kind::Vision => "vision",
            Kind::Embedding => "embedding",
            Kind::Classifier => "classifier",
            Kind::Ctc => "ctc",
        },
        "specializations": specializations,
        "batch_size": largest("batch_size"),
        "prompt_len": largest("seq_len"),
        "ctx_len": largest("ctx_len"),
        "full_batch_size": interface.is_batched().then_some(options.shape.full_batch_size),
        "kv_cache_batch_size": largest("full_batch_size"),
        "comp_ctx_lengths": all("comp_ctx_lengths"),
        "num_speculative_tokens": options.shape.speculative_tokens,
        "lora": interface.input("lora_ids").is_some() || states.iter().any(|name| name.contains(".lora_")),
        "sampler": interface.output("next_tokens").is_some(),
        "num_cores": options.num_cores,
        "num_devices": job.plan.num_devices,
        "mxfp6_matmul": options.mxfp6_matmul,
        "mxint8_kv_cache": options.mxint8_kv_cache,
        "precision": options.precision.name(),
        "backend": match &job.toolchain {
            Toolchain::Aic { .. } => "qaic",
            Toolchain::Qnn { .. } => "qnn",
        },
        "toolchain": job.toolchain.name(),
        "inputs": ports(&interface.inputs),
        "outputs": ports(&interface.outputs),
        "states": states,
    }))
}
