//! What every architecture describes and what each target makes of it, as text for review.
//!
//! The models have one layer: the others repeat it, and a diff that is short gets read.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use qeff::{describe_with, fixture};
use qeff_core::lower::{Lowered, Target, lower};
use qeff_core::onnx;
use qeff_core::passes::{Features, apply};
use qeff_core::text;
use qeff_host::checkpoint::Checkpoint;
use qeff_host::encode::pooling::pooled;
use qeff_host::plugins::Registry;
use qeff_plugin_api::config::Config;
use qeff_plugin_api::graph::Model;

/// An architecture as it is reviewed: the fixture that stands for it, and how many layers show what it is.
struct Reviewed {
    name: &'static str,
    fixture: &'static str,
    /// Fields for numbers of layers, as pointers into config.json, and the numbers.
    layers: &'static [(&'static str, u64)],
    /// Targets whose graphs are reviewed; what a family shares with another is reviewed there.
    targets: &'static [Target],
}

const BOTH: &[Target] = &[Target::Cpu, Target::Aic];
const ONE: &[(&str, u64)] = &[("/num_hidden_layers", 1)];
/// The language model and the vision tower, whose last layer is left out by most.
const TWO_MODELS: &[(&str, u64)] = &[("/text_config/num_hidden_layers", 1), ("/vision_config/num_hidden_layers", 2)];

const ARCHITECTURES: &[Reviewed] = &[
    Reviewed { name: "llama", fixture: "llama/base", layers: ONE, targets: BOTH },
    Reviewed { name: "mistral", fixture: "mistral/sliding", layers: ONE, targets: BOTH },
    Reviewed { name: "gpt2", fixture: "gpt2/base", layers: &[("/n_layer", 1)], targets: BOTH },
    Reviewed { name: "qwen2", fixture: "qwen2/base", layers: ONE, targets: BOTH },
    Reviewed { name: "qwen3", fixture: "qwen3/base", layers: ONE, targets: BOTH },
    Reviewed { name: "granite", fixture: "granite/multipliers", layers: ONE, targets: BOTH },
    Reviewed { name: "gpt_oss", fixture: "gpt_oss/base", layers: ONE, targets: BOTH },
    Reviewed { name: "swiftkv", fixture: "swiftkv/sharded-f32", layers: &[("/num_hidden_layers", 2)], targets: BOTH },
    Reviewed { name: "wav2vec2", fixture: "wav2vec2/base", layers: ONE, targets: BOTH },
    // On the CPU it is two programs, see `guards`.
    Reviewed {
        name: "whisper",
        fixture: "whisper/odd-heads",
        layers: &[("/decoder_layers", 1)],
        targets: &[Target::Aic],
    },
    Reviewed { name: "bert", fixture: "encoders/bert", layers: ONE, targets: BOTH },
    Reviewed { name: "bert-classes", fixture: "encoders/bert-cls", layers: ONE, targets: &[] },
    Reviewed { name: "llama-classes", fixture: "encoders/llama-cls", layers: ONE, targets: &[] },
    Reviewed { name: "distilbert", fixture: "encoders/distilbert", layers: &[("/n_layers", 1)], targets: BOTH },
    Reviewed { name: "roberta", fixture: "encoders/roberta", layers: ONE, targets: BOTH },
    Reviewed { name: "mpnet", fixture: "encoders/mpnet", layers: ONE, targets: BOTH },
    // One layer that looks at all, one that looks about.
    Reviewed {
        name: "modernbert",
        fixture: "encoders/modernbert",
        layers: &[("/num_hidden_layers", 2)],
        targets: BOTH,
    },
    Reviewed { name: "deberta_v2", fixture: "encoders/deberta-v2", layers: ONE, targets: BOTH },
    Reviewed { name: "llava", fixture: "llava/base", layers: TWO_MODELS, targets: BOTH },
    Reviewed { name: "llava_next", fixture: "llava_next/base", layers: TWO_MODELS, targets: &[] },
    Reviewed { name: "internvl", fixture: "internvl/base", layers: TWO_MODELS, targets: &[Target::Aic] },
];

impl Reviewed {
    /// The model with fewer layers.
    fn model(&self) -> Result<(Model, Checkpoint)> {
        shortened(self.fixture, self.layers)
    }

    /// What `print` says of each program for a target.
    fn lowered(&self, target: Target, print: impl Fn(&Lowered) -> Result<String>) -> Result<String> {
        let (model, checkpoint) = self.model()?;
        let mut all = String::new();
        for program in &model.programs {
            if model.programs.len() > 1 {
                writeln!(all, "# {}", program.name)?;
            }
            all.push_str(&print(&lower(program, checkpoint.weights.index(), target)?)?);
        }
        Ok(all)
    }
}

/// The model of a fixture with fewer layers.
fn shortened(name: &str, layers: &[(&str, u64)]) -> Result<(Model, Checkpoint)> {
    let checkpoint = Checkpoint::open(&fixture(name))?;
    let mut config: serde_json::Value = serde_json::from_str(&checkpoint.config.to_text())?;
    for (field, count) in layers {
        *config.pointer_mut(field).with_context(|| format!("{name}: no {field}"))? = (*count).into();
        let of = field.rsplit_once('/').map_or("", |(of, _)| of);
        let types = config.pointer_mut(&format!("{of}/layer_types")).and_then(|types| types.as_array_mut());
        types.into_iter().for_each(|types| types.truncate(*count as usize));
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

/// Whoever adds a plugin adds what it describes to the review.
#[test]
fn every_plugin_is_reviewed() -> Result<()> {
    let mut reviewed = vec![];
    for architecture in ARCHITECTURES {
        let config = Checkpoint::open(&fixture(architecture.fixture))?.config;
        reviewed.extend(config.texts("architectures")?);
    }
    for plugin in Registry::builtin().list() {
        let described = plugin.architectures.iter().any(|name| reviewed.contains(name));
        let pools = plugin.architectures.is_empty() && !plugin.pooling.is_empty();
        ensure!(described || pools, "nothing that plugin {} does is reviewed; add it to ARCHITECTURES", plugin.name);
        ensure!(plugin.rewrites.is_empty() && plugin.formats.is_empty(), "{}: rewrites and formats, too", plugin.name);
    }
    Ok(())
}

#[test]
fn graphs() -> Result<()> {
    for architecture in ARCHITECTURES {
        snapshot(architecture.name, "graph", &text::print(&architecture.model()?.0));
    }
    Ok(())
}

#[test]
fn onnx_of_each_target() -> Result<()> {
    for architecture in ARCHITECTURES {
        for &target in architecture.targets {
            // Function bodies do not depend on the model; one snapshot of their own holds them.
            let bare = |lowered: &Lowered| Lowered { functions: vec![], ..lowered.clone() };
            let printed = architecture.lowered(target, |lowered| Ok(onnx::text::print(&bare(lowered))))?;
            snapshot(architecture.name, target.name(), &printed);
        }
    }
    Ok(())
}

/// Every pooling head there is, all on one layer, which is the same for all.
#[test]
fn pooling_heads() -> Result<()> {
    let (model, checkpoint) = shortened("encoders/bert", ONE)?;
    let registry = Registry::builtin();
    let heads: Vec<String> = registry.list().into_iter().flat_map(|plugin| plugin.pooling).collect();
    assert!(heads.len() > 6, "{heads:?}");
    let (before, tensors) = (text::print(&model), checkpoint.weights.index());
    let pooled = pooled(model, &heads, &registry, tensors)?;
    snapshot("pooling", "graph", &added(&before, &text::print(&pooled)));
    for &target in BOTH {
        let lowered = lower(&pooled.programs[0], tensors, target)?;
        let printed = onnx::text::print(&Lowered { functions: vec![], ..lowered });
        let bert = ARCHITECTURES.iter().find(|of| of.name == "bert").context("bert")?;
        let before =
            bert.lowered(target, |lowered| Ok(onnx::text::print(&Lowered { functions: vec![], ..lowered.clone() })))?;
        snapshot("pooling", target.name(), &added(&before, &printed));
    }
    Ok(())
}

/// Lines that a longer text has and a shorter one has not.
fn added(before: &str, after: &str) -> String {
    let old: std::collections::HashSet<&str> = before.lines().collect();
    after.lines().filter(|line| !old.contains(line)).map(|line| format!("{line}\n")).collect()
}

/// The two programs that Whisper's guards make of it on the CPU.
#[test]
fn guards() -> Result<()> {
    let (model, checkpoint) = shortened("whisper/odd-heads", &[("/decoder_layers", 1)])?;
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
    let (plain, _) = shortened("llama/base", ONE)?;
    let mut same = plain.clone();
    assert!(qeff_core::passes::guards(&mut same).is_none());
    assert_eq!(same, plain);
    Ok(())
}

/// The features that are passes, on one family: what they change is the difference to `llama/aic`.
#[test]
fn features() -> Result<()> {
    let (model, checkpoint) = shortened("llama/base", ONE)?;
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
    for architecture in ARCHITECTURES.iter().filter(|architecture| !architecture.targets.is_empty()) {
        let names = architecture.lowered(Target::Aic, |lowered| {
            let mut names = String::new();
            for weight in &lowered.weights {
                writeln!(names, "{} {:?} = {}", weight.name, weight.shape, weight.expr)?;
            }
            Ok(names)
        })?;
        snapshot(architecture.name, "weights", &names);
    }
    Ok(())
}
