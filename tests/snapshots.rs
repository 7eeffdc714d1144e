//! What every architecture describes and what each target makes of it, as text for review.
//!
//! The models have one layer: the others repeat it, and a diff that is short gets read.

use std::fmt::Write as _;

use anyhow::Result;
use qeff::{describe_with, fixture};
use qeff_core::lower::{Target, lower};
use qeff_core::onnx;
use qeff_core::passes::{Features, apply};
use qeff_core::text;
use qeff_host::checkpoint::Checkpoint;
use qeff_plugin_api::config::Config;
use qeff_plugin_api::graph::Model;

/// An architecture with the fixture that stands for it and its field for the number of layers.
const ARCHITECTURES: &[(&str, &str, &str)] = &[
    ("llama", "llama/base", "num_hidden_layers"),
    ("mistral", "mistral/sliding", "num_hidden_layers"),
    ("gpt2", "gpt2/base", "n_layer"),
    ("qwen2", "qwen2/base", "num_hidden_layers"),
    ("qwen3", "qwen3/base", "num_hidden_layers"),
    ("granite", "granite/multipliers", "num_hidden_layers"),
    ("gpt_oss", "gpt_oss/base", "num_hidden_layers"),
];

/// The model of a fixture with one layer.
fn one_layer(name: &str, layers: &str) -> Result<(Model, Checkpoint)> {
    let checkpoint = Checkpoint::open(&fixture(name))?;
    let mut config: serde_json::Value = serde_json::from_str(&checkpoint.config.to_text())?;
    config[layers] = 1.into();
    if let Some(types) = config.get_mut("layer_types").and_then(|types| types.as_array_mut()) {
        types.truncate(1);
    }
    let model = describe_with(&Config::parse(&config.to_string())?, checkpoint.weights.index())?;
    Ok((model, checkpoint))
}

fn snapshot(architecture: &str, what: &str, content: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(format!("../snapshots/{architecture}"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(what, content));
}

#[test]
fn graphs() -> Result<()> {
    for (architecture, name, layers) in ARCHITECTURES {
        let (model, _) = one_layer(name, layers)?;
        snapshot(architecture, "graph", &text::print(&model));
    }
    Ok(())
}

#[test]
fn onnx_of_each_target() -> Result<()> {
    for (architecture, name, layers) in ARCHITECTURES {
        let (model, checkpoint) = one_layer(name, layers)?;
        for target in [Target::Cpu, Target::Aic] {
            let lowered = lower(&model.programs[0], checkpoint.weights.index(), target)?;
            // Function bodies do not depend on the model; one snapshot of their own holds them.
            let lowered = qeff_core::lower::Lowered { functions: vec![], ..lowered };
            snapshot(architecture, target.name(), &onnx::text::print(&lowered));
        }
    }
    Ok(())
}

/// The features that are passes, on one family: what they change is the difference to `llama/aic`.
#[test]
fn features() -> Result<()> {
    let (model, checkpoint) = one_layer("llama/base", "num_hidden_layers")?;
    let mut changed = model.clone();
    let features = Features { last_k: true, batching: true, ..Features::default() };
    let mut report = String::new();
    for line in apply(&mut changed, &features)? {
        writeln!(report, "{line}")?;
    }
    writeln!(report, "\n{}", text::print(&changed))?;
    snapshot("llama", "graph-batching-last-k", &report);
    let lowered = lower(&changed.programs[0], checkpoint.weights.index(), Target::Aic)?;
    snapshot("llama", "aic-batching-last-k", &onnx::text::print(&lowered));
    Ok(())
}

/// Which stored tensor each initializer holds: names are part of what users see.
#[test]
fn weight_names() -> Result<()> {
    for (architecture, name, layers) in ARCHITECTURES {
        let (model, checkpoint) = one_layer(name, layers)?;
        let lowered = lower(&model.programs[0], checkpoint.weights.index(), Target::Aic)?;
        let mut names = String::new();
        for weight in &lowered.weights {
            writeln!(names, "{} {:?} = {}", weight.name, weight.shape, weight.expr)?;
        }
        snapshot(architecture, "weights", &names);
    }
    Ok(())
}
