//! Pooling heads, rewrites and weight formats.

use anyhow::Result;
use fs_err as fs;
use qeff_core::lower::Target;
use qeff_core::passes::Features;
use qeff_core::weights::{Checkpoint as Weights, TensorSource};
use qeff_plugin_api::blocks::embed;
use qeff_plugin_api::build::GraphBuilder;
use qeff_plugin_api::graph::{Embedding, Model, Role, Task};
use qeff_plugin_api::plugin::{HeaderNeed, PluginError, PoolingHead, WeightFormat};
use qeff_plugin_api::{Elem, TensorIndex, wire};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tempfile::TempDir;

use super::texts::{self, Ids};
use super::{Rows, Verdict, invalid};
use crate::checkpoint::Checkpoint;
use crate::plugins::{Entry, PluginsError, Registry};
use crate::prepare::prepare;

/// A clean refusal, or what else it is.
fn refusal(error: &PluginsError) -> Result<String, String> {
    match error {
        PluginsError::Refused { source, .. } => match **source {
            PluginError::Config(_) | PluginError::Build(_) | PluginError::Other(_) => Ok(source.to_string()),
            _ => Err(source.to_string()),
        },
        other => Err(other.to_string()),
    }
}

/// Whether a model has a form on every target.
fn lowers(model: &Model, tensors: &dyn TensorSource) -> Vec<String> {
    let mut problems = vec![];
    for target in [Target::Aic, Target::Cpu] {
        let facets = qeff_core::weights::Facets::new(tensors);
        if let Err(error) = prepare(model.clone(), &facets, &Features::default(), target) {
            problems.push(format!("for {}: {error:#}", target.name()));
        }
    }
    problems
}

/// Rows and columns of a table.
const TABLE: [usize; 2] = [5, 8];

/// An encoder that is one table, with what a head needs and without.
struct Small {
    model: Model,
    bare: Model,
    weights: Weights,
    _folder: TempDir,
}

impl Small {
    fn new() -> Result<Self> {
        // Most numbers are negative, so that a head that takes padding for tokens shows it.
        let numbers = (0..TABLE.iter().product::<usize>()).map(|i| ((i * 7 % 13) as f32 - 9.0) / 4.0);
        let bytes: Vec<u8> = numbers.flat_map(f32::to_le_bytes).collect();
        let view = TensorView::new(Dtype::F32, TABLE.to_vec(), &bytes)?;
        let folder = tempfile::Builder::new().prefix("qeff-check-").tempdir()?;
        fs::write(folder.path().join("model.safetensors"), safetensors::serialize([("table.weight", view)], None)?)?;
        let weights = Weights::open(folder.path())?;
        let (model, bare) = (encoder(weights.index(), Role::Hidden)?, encoder(weights.index(), Role::Logits)?);
        Ok(Small { model, bare, weights, _folder: folder })
    }
}

fn encoder(tensors: &TensorIndex, puts_out: Role) -> Result<Model> {
    let g = GraphBuilder::new("main", tensors);
    let ids = g.tokens();
    g.input("attention_mask", Role::Mask, Elem::I64, ["batch_size".into(), "seq_len".into()]);
    let words = embed(g.at("table"), ids, TABLE.map(|n| n as u64), Embedding::default());
    g.output("last_hidden_state", puts_out, words);
    Ok(Model {
        architecture: "TableModel".into(),
        task: Task::Encoder,
        positions: None,
        stale_tensors: vec![],
        programs: vec![g.finish()?],
        links: vec![],
    })
}

/// The first check of a pooling head.
pub(super) const POOLS: &str = "pools";

/// A pooling head, over a small encoder and over one that has nothing to pool.
pub(super) fn pooling(head: &Entry<dyn PoolingHead>, rows: &mut Rows<'_>) {
    let Small { model, bare, weights, _folder } = match Small::new() {
        Ok(small) => small,
        Err(error) => return rows.fail(POOLS, format!("the encoder of this check cannot be made: {error:#}")),
    };
    let tensors = weights.index();
    let (mut problems, mut pooled) = (vec![], None);
    match (head.append(model.clone(), tensors), head.append(model, tensors)) {
        (Ok(one), Ok(two)) => {
            if wire::encode(&one) != wire::encode(&two) {
                problems.push("asked again, it answers otherwise".to_owned());
            }
            problems.extend(invalid(&one, tensors).map(|findings| format!("the model is invalid: {findings}")));
            if problems.is_empty() {
                let program = one.programs.iter().find(|program| program.output(Role::Pooled).is_some());
                match program.and_then(|program| Some((program, program.output(Role::Pooled)?))) {
                    Some((program, output)) if program.ty(output.value).rank() == 2 => {}
                    Some((program, output)) => {
                        problems.push(format!(
                            "expected a pooled output [batch, width], found {}",
                            program.ty(output.value)
                        ));
                    }
                    None => problems.push("it adds no output of role pooled".into()),
                }
                problems.extend(lowers(&one, &weights));
            }
            pooled = Some(one);
        }
        (Err(error), _) | (_, Err(error)) => problems.push(error.to_string()),
    }
    match head.append(bare, tensors) {
        Ok(_) => problems.push("it pools a model that has no hidden states".into()),
        Err(error) => problems.extend(refusal(&error).err()),
    }
    rows.judge(POOLS, &problems, "an encoder, for both targets; one without hidden states is refused");
    // What is no model cannot be run.
    if let Some(pooled) = pooled.filter(|_| problems.is_empty()) {
        match texts::agree(&pooled, &weights, Ids { vocab: TABLE[0] as u64, padding: 0 }) {
            Ok(how) => rows.pass("runs", how),
            Err(error) => rows.fail("runs", format!("{error:#}")),
        }
    }
}

/// A rewrite, over the checkpoint's model and over one of another kind.
pub(super) fn rewrite(registry: &Registry, name: &str, described: Option<(&Model, &Checkpoint)>, rows: &mut Rows<'_>) {
    const CHECK: &str = "rewrites";
    let rewrite = match registry.rewrite(name) {
        Ok(rewrite) => rewrite,
        Err(error) => return rows.fail(CHECK, error.to_string()),
    };
    let mut problems = vec![];
    if let Ok(Small { model: other, weights, .. }) = Small::new() {
        match rewrite.rewrite(other, weights.index()) {
            Ok(model) => problems.extend(
                invalid(&model, weights.index()).map(|findings| format!("an encoder becomes invalid: {findings}")),
            ),
            Err(error) => problems.extend(refusal(&error).err()),
        }
    }
    let Some((model, checkpoint)) = described else {
        rows.judge(CHECK, &problems, "a small encoder, or refuses it");
        return rows.add(
            CHECK,
            Verdict::Skipped,
            "the checkpoint's model: needs --checkpoint with a model of this plugin",
        );
    };
    let tensors = checkpoint.weights.index();
    let mut fine = "the checkpoint's model, for both targets".to_owned();
    match (rewrite.rewrite(model.clone(), tensors), rewrite.rewrite(model.clone(), tensors)) {
        (Ok(one), Ok(two)) => {
            if wire::encode(&one) != wire::encode(&two) {
                problems.push("asked again, it answers otherwise".into());
            }
            let findings = invalid(&one, tensors);
            if findings.is_none() {
                problems.extend(lowers(&one, &checkpoint.weights));
            }
            problems.extend(findings.map(|findings| format!("the model is invalid: {findings}")));
        }
        (Err(error), _) | (_, Err(error)) => match refusal(&error) {
            Ok(why) => fine = format!("nothing of the checkpoint's model, which it refuses: {why}"),
            Err(problem) => problems.push(problem),
        },
    }
    rows.judge(CHECK, &problems, fine);
}

/// A weight format, over beginnings of files that are not its own, and over the checkpoint's.
pub(super) fn format(format: &dyn WeightFormat, checkpoint: Option<&Checkpoint>, rows: &mut Rows<'_>) {
    let header = br#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let safetensors = [&(header.len() as u64).to_le_bytes(), header.as_slice(), &[0; 4]].concat();
    let mut problems = vec![];
    for (what, head, name) in [
        ("a safetensors file", safetensors.as_slice(), "model.safetensors"),
        ("a GGUF file", b"GGUF\x03\0\0\0", "model.gguf"),
        ("a pickle", b"PK\x03\x04", "pytorch_model.bin"),
        ("an empty file", b"", "weights"),
    ] {
        if format.probe(head, name) {
            problems.push(format!("it claims {what}"));
        }
    }
    rows.judge("claims", &problems, "no safetensors, GGUF, pickle or empty file");

    let mut heads = vec![vec![], vec![0; 64], vec![0xff; 4096], safetensors];
    let own = checkpoint.filter(|checkpoint| checkpoint.weights.foreign_format() == Some(format.name()));
    for file in own.iter().flat_map(|checkpoint| checkpoint.weights.files()).take(1) {
        let bytes = &file.mapping().all()[..file.mapping().len().min(4096) as usize];
        // Cut anywhere, and with a byte changed anywhere in the header.
        heads.extend((0..bytes.len().min(256)).map(|cut| bytes[..cut].to_vec()));
        heads.extend((0..bytes.len().min(256)).map(|at| {
            let mut bytes = bytes.to_vec();
            bytes[at] ^= 0x55;
            bytes
        }));
    }
    let mut problems = vec![];
    for head in &heads {
        let length = head.len() as u64;
        match format.index(head, length) {
            Ok(HeaderNeed::More(more)) if more <= length => {
                problems.push(format!("shown {length} bytes, it asks for {more}"));
            }
            Ok(_) | Err(PluginError::Config(_) | PluginError::Build(_) | PluginError::Other(_)) => {}
            Err(error) => problems.push(error.to_string()),
        }
    }
    let mut out = [0; 4];
    if format.decode("qeff-conformance", &[0; 4], &mut out).is_ok() {
        problems.push("it decodes an encoding that there is not".into());
    }
    rows.judge(
        "hostile files",
        &problems,
        format!("{} headers: each indexed, asked for more of, or refused", heads.len()),
    );

    let Some(checkpoint) = own else {
        return rows.add("decodes", Verdict::Skipped, "needs --checkpoint with weights in this format");
    };
    let (mut problems, mut numbers) = (vec![], 0);
    for (name, info) in checkpoint.weights.index().iter() {
        let count: u64 = info.shape.iter().product();
        let middle = count / 2..(count / 2 + 1).min(count);
        let size = info.dtype.size();
        // The whole and a piece of it, unless the whole is large.
        let few = 0..count.min(1 << 16);
        match (checkpoint.weights.lend(name, few.clone()), checkpoint.weights.lend(name, middle.clone())) {
            (Ok(all), Ok(one)) => {
                let at = middle.start as usize * size;
                if all.get(at..at + one.len()).is_some_and(|same| same != &*one) {
                    problems.push(format!("{name}: a piece is not what it is in the whole"));
                }
                numbers += few.count();
            }
            (Err(error), _) | (_, Err(error)) => problems.push(error.to_string()),
        }
    }
    let tensors = checkpoint.weights.index().len();
    rows.judge("decodes", &problems, format!("{tensors} tensors, {numbers} numbers, in whole and in pieces"));
}
