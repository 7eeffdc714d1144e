//! Every feature over a description, for both targets, in both storage forms.

use anyhow::Result;
use qeff_core::lower::{self, Target};
use qeff_core::onnx;
use qeff_core::passes::{Features, Refusal};
use qeff_core::weights::{CodeBits, PackOptions, Scheme};
use qeff_plugin_api::DType;
use qeff_plugin_api::graph::Model;

use super::{Rows, Verdict};
use crate::checkpoint::Checkpoint;
use crate::forms::WeightForms;
use crate::linking::Linking;
use crate::prepare::prepare;

/// Most bytes of weights that are written for a check.
pub(super) const MOST_WRITTEN: u64 = 1 << 30;

const TARGETS: [Target; 2] = [Target::Aic, Target::Cpu];

/// One way to ask for a model.
struct Feature {
    name: &'static str,
    features: Features,
    quantise: Option<Scheme>,
    targets: &'static [Target],
}

/// Blocks that fit small models, too.
fn scheme(bits: CodeBits) -> Scheme {
    Scheme { bits, length: 16, symmetric: true }
}

fn all() -> Vec<Feature> {
    let plain = || Feature { name: "", features: Features::default(), quantise: None, targets: &TARGETS };
    let with = |name, features| Feature { name, features, ..plain() };
    let (batching, last_k, context) = (
        Features { batching: true, ..Features::default() },
        Features { last_k: true, ..Features::default() },
        Features { context: true, ..Features::default() },
    );
    let together = Features { batching: true, last_k: true, context: true, reach: 48, ..Features::default() };
    let f16 = Features { act: Some(DType::F16), ..Features::default() };
    vec![
        plain(),
        with("continuous batching", batching),
        with("last-k logits", last_k),
        with("batching and last-k logits, for 48 positions", Features { context: false, ..together.clone() }),
        Feature { targets: &[Target::Aic], ..with("context lengths", context) },
        Feature { targets: &[Target::Aic], ..with("all three, for 48 positions", together) },
        Feature { targets: &[Target::Aic], ..with("f16", f16) },
        Feature {
            quantise: Some(scheme(CodeBits::Four)),
            targets: &[Target::Cpu],
            ..with("int4 weights", Features::default())
        },
        Feature {
            quantise: Some(scheme(CodeBits::Eight)),
            targets: &[Target::Cpu],
            ..with("int8 weights", Features::default())
        },
    ]
}

/// Lowers the model with every feature, and exports it in every form.
pub(super) fn check(model: &Model, checkpoint: &Checkpoint, rows: &mut Rows<'_>) {
    for target in TARGETS {
        let check = match target {
            Target::Aic => "lowers for aic",
            Target::Cpu => "lowers for cpu",
        };
        for feature in all().into_iter().filter(|feature| feature.targets.contains(&target)) {
            let with = if feature.name.is_empty() { "as described" } else { feature.name };
            match lowered(model, checkpoint, &feature, target) {
                Ok(nodes) => rows.pass(check, format!("{with}: {nodes} nodes")),
                Err(error) if error.is::<Refusal>() => {
                    rows.add(check, Verdict::Note, format!("{with} is not to be had: {error}"))
                }
                Err(error) => rows.fail(check, format!("{with}: {error:#}")),
            }
        }
    }
    for target in TARGETS {
        for linked in [false, true] {
            exports(model, checkpoint, target, linked, rows);
        }
    }
}

fn lowered(model: &Model, checkpoint: &Checkpoint, feature: &Feature, target: Target) -> Result<usize> {
    let forms = WeightForms { quantise: feature.quantise, ..WeightForms::default() };
    let mut model = model.clone();
    let (quantised, _) = forms.quantised(&mut model, &checkpoint.weights)?;
    let prepared = prepare(model, &forms.facets(&quantised), &feature.features, target)?;
    Ok(prepared.programs.iter().map(|program| program.graph.node.len()).sum())
}

fn exports(model: &Model, checkpoint: &Checkpoint, target: Target, linked: bool, rows: &mut Rows<'_>) {
    let (check, form) = match (target, linked) {
        (Target::Aic, false) => ("exports for aic", "packed"),
        (Target::Aic, true) => ("exports for aic", "linked"),
        (Target::Cpu, false) => ("exports for cpu", "packed"),
        (Target::Cpu, true) => ("exports for cpu", "linked"),
    };
    let total = checkpoint.weights.total_bytes();
    if total > MOST_WRITTEN && !linked {
        return rows.add(check, Verdict::Skipped, format!("{form}: {total} bytes of weights would be written"));
    }
    if linked && target == Target::Aic && checkpoint.weights.foreign_format().is_some() {
        return rows.add(
            check,
            Verdict::Note,
            format!("{form} is not to be had: the weights are in a plugin's format"),
        );
    }
    match export(model, checkpoint, target, linked) {
        Ok(bytes) => rows.pass(check, format!("{form}: {bytes} bytes written")),
        Err(error) => rows.fail(check, format!("{form}: {error:#}")),
    }
}

fn export(model: &Model, checkpoint: &Checkpoint, target: Target, linked: bool) -> Result<u64> {
    let forms = WeightForms::default();
    let mut model = model.clone();
    let (quantised, _) = forms.quantised(&mut model, &checkpoint.weights)?;
    let source = forms.facets(&quantised);
    let linking = linked.then(|| Linking::new(checkpoint, &source, target, None)).transpose()?;
    let prepared = match &linking {
        Some(linking) => linking.prepare(model, &source, &Features::default(), target.into())?,
        None => prepare(model, &source, &Features::default(), target)?,
    };
    let mut bytes = 0;
    for (program, lowered) in prepared.model.programs.iter().zip(&prepared.programs) {
        // Each in a folder of its own, which goes away with it.
        let folder = tempfile::Builder::new().prefix("qeff-check-").tempdir()?;
        let stem = lower::file_stem(&prepared.model, program);
        let storage = match &linking {
            Some(linking) => linking.storage(&prepared.model),
            None => onnx::Storage::Packed,
        };
        let what = onnx::Export {
            lowered,
            stem: &stem,
            source: &source,
            storage,
            metadata: &[],
            options: PackOptions::default(),
        };
        bytes += onnx::export(what, folder.path())?.bytes;
    }
    Ok(bytes)
}
