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

/// An architecture with the fixture that stands for it, its field for the number of layers, and how many show what it is.
const ARCHITECTURES: &[(&str, &str, &str, u64)] = &[
    ("llama", "llama/base", "num_hidden_layers", 1),
    ("mistral", "mistral/sliding", "num_hidden_layers", 1),
    ("gpt2", "gpt2/base", "n_layer", 1),
    ("qwen2", "qwen2/base", "num_hidden_layers", 1),
    ("qwen3", "qwen3/base", "num_hidden_layers", 1),
    ("granite", "granite/multipliers", "num_hidden_layers", 1),
    ("gpt_oss", "gpt_oss/base", "num_hidden_layers", 1),
    ("swiftkv", "swiftkv/sharded-f32", "num_hidden_layers", 2),
    ("wav2vec2", "wav2vec2/base", "num_hidden_layers", 1),
];

/// The model of a fixture with fewer layers.
fn shortened(name: &str, layers: &str, count: u64) -> Result<(Model, Checkpoint)> {
    let checkpoint = Checkpoint::open(&fixture(name))?;
    let mut config: serde_json::Value = serde_json::from_str(&checkpoint.config.to_text())?;
    config[layers] = count.into();
    if let Some(types) = config.get_mut("layer_types").and_then(|types| types.as_array_mut()) {
        types.truncate(count as usize);
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
    for &(architecture, name, layers, count) in ARCHITECTURES {
        let (model, _) = shortened(name, layers, count)?;
        snapshot(architecture, "graph", &text::print(&model));
    }
    Ok(())
}

#[test]
fn onnx_of_each_target() -> Result<()> {
    for &(architecture, name, layers, count) in ARCHITECTURES {
        let (model, checkpoint) = shortened(name, layers, count)?;
        for target in [Target::Cpu, Target::Aic] {
            let lowered = lower(&model.programs[0], checkpoint.weights.index(), target)?;
            // Function bodies do not depend on the model; one snapshot of their own holds them.
            let lowered = qeff_core::lower::Lowered { functions: vec![], ..lowered };
            snapshot(architecture, target.name(), &onnx::text::print(&lowered));
        }
    }
    Ok(())
}

/// Whisper, and the two programs that its guards make of it on the CPU.
#[test]
fn guards() -> Result<()> {
    let (model, checkpoint) = shortened("whisper/odd-heads", "decoder_layers", 1)?;
    snapshot("whisper", "graph", &text::print(&model));
    let lowered = lower(&model.programs[0], checkpoint.weights.index(), Target::Aic)?;
    snapshot("whisper", "aic", &onnx::text::print(&qeff_core::lower::Lowered { functions: vec![], ..lowered }));
    let mut split = model.clone();
    let report = qeff_core::passes::guards(&mut split).expect("a guard");
    let [filled, kept] = &split.programs[..] else { panic!("{} programs", split.programs.len()) };
    qeff_core::validate::validate(&split, checkpoint.weights.index())?;
    let alone = Model { programs: vec![kept.clone()], ..split.clone() };
    snapshot("whisper", "graph-kept", &format!("{report}\n\n{}", text::print(&alone)));
    // What fills is all of it, but for the guard.
    let nodes = |program: &qeff_plugin_api::graph::Program| program.nodes().len();
    assert_eq!(nodes(filled) + 10, nodes(&model.programs[0]), "the guard is gone, and nothing else");
    let ports = |program| -> Result<(Vec<String>, Vec<String>)> {
        let graph = lower(program, checkpoint.weights.index(), Target::Cpu)?.graph;
        Ok((
            graph.input.into_iter().map(|port| port.name).collect(),
            graph.output.into_iter().map(|port| port.name).collect(),
        ))
    };
    let (taken, given) = (ports(filled)?, ports(kept)?);
    let cross = "past_key_cross.0".to_owned();
    assert!(!taken.0.contains(&cross) && taken.1.contains(&format!("{cross}_RetainedState")));
    assert!(given.0.contains(&cross) && !given.1.contains(&format!("{cross}_RetainedState")));
    assert!(taken.0.contains(&"input_features".to_owned()) && !given.0.contains(&"input_features".to_owned()));
    // Without a guard the pass leaves a model alone.
    let (plain, _) = shortened("llama/base", "num_hidden_layers", 1)?;
    let mut same = plain.clone();
    assert!(qeff_core::passes::guards(&mut same).is_none());
    assert_eq!(same, plain);
    Ok(())
}

/// The features that are passes, on one family: what they change is the difference to `llama/aic`.
#[test]
fn features() -> Result<()> {
    let (model, checkpoint) = shortened("llama/base", "num_hidden_layers", 1)?;
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
    for &(architecture, name, layers, count) in ARCHITECTURES {
        let (model, checkpoint) = shortened(name, layers, count)?;
        let lowered = lower(&model.programs[0], checkpoint.weights.index(), Target::Aic)?;
        let mut names = String::new();
        for weight in &lowered.weights {
            writeln!(names, "{} {:?} = {}", weight.name, weight.shape, weight.expr)?;
        }
        snapshot(architecture, "weights", &names);
    }
    Ok(())
}
