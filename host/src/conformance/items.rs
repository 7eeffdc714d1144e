//! Pooling heads, rewrites and weight formats.

use qeff_core::lower::Target;
use qeff_core::passes::Features;
use qeff_core::weights::TensorSource;
use qeff_plugin_api::blocks::embed;
use qeff_plugin_api::build::{BuildError, GraphBuilder};
use qeff_plugin_api::graph::{Embedding, Model, Role, Task};
use qeff_plugin_api::plugin::{HeaderNeed, PluginError, WeightFormat};
use qeff_plugin_api::{DType, Elem, TensorIndex, TensorInfo, wire};

use super::{Rows, Verdict, invalid};
use crate::checkpoint::Checkpoint;
use crate::plugins::{PluginsError, Registry};
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

/// An encoder that is one table, with or without what a head needs.
fn encoder(tensors: &TensorIndex, hidden: bool) -> Result<Model, BuildError> {
    let g = GraphBuilder::new("main", tensors);
    let ids = g.tokens();
    g.input("attention_mask", Role::Mask, Elem::I64, ["batch_size".into(), "seq_len".into()]);
    let words = embed(g.at("table"), ids, [5, 8], Embedding::default());
    g.output("last_hidden_state", if hidden { Role::Hidden } else { Role::Logits }, words);
    Ok(Model {
        architecture: "TableModel".into(),
        task: Task::Encoder,
        positions: None,
        stale_tensors: vec![],
        programs: vec![g.finish()?],
        links: vec![],
    })
}

/// The table of [`encoder`].
struct Table(TensorIndex);

impl Table {
    fn new() -> Self {
        let info = TensorInfo { dtype: DType::F32, shape: vec![5, 8] };
        Table([("table.weight".to_owned(), info)].into_iter().collect())
    }
}

impl TensorSource for Table {
    fn index(&self) -> &TensorIndex {
        &self.0
    }

    fn lend(
        &self,
        _: &str,
        elements: std::ops::Range<u64>,
    ) -> Result<std::borrow::Cow<'_, [u8]>, qeff_core::weights::SourceError> {
        Ok(vec![0; elements.count() * 4].into())
    }
}

/// A pooling head, over a small encoder and over one that has nothing to pool.
pub(super) fn pooling(registry: &Registry, name: &str, rows: &mut Rows<'_>) {
    const CHECK: &str = "pools";
    let head = match registry.pooling(name) {
        Ok(head) => head,
        Err(error) => return rows.fail(CHECK, error.to_string()),
    };
    let table = Table::new();
    let (Ok(model), Ok(bare)) = (encoder(&table.0, true), encoder(&table.0, false)) else {
        return rows.fail(CHECK, "the encoder of this check cannot be described");
    };
    let mut problems = vec![];
    match (head.append(model.clone(), &table.0), head.append(model.clone(), &table.0)) {
        (Ok(one), Ok(two)) => {
            if wire::encode(&one) != wire::encode(&two) {
                problems.push("asked again, it answers otherwise".to_owned());
            }
            problems.extend(invalid(&one, &table.0).map(|findings| format!("the model is invalid: {findings}")));
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
                problems.extend(lowers(&one, &table));
            }
        }
        (Err(error), _) | (_, Err(error)) => problems.push(error.to_string()),
    }
    match head.append(bare, &table.0) {
        Ok(_) => problems.push("it pools a model that has no hidden states".into()),
        Err(error) => problems.extend(refusal(&error).err()),
    }
    rows.judge(CHECK, &problems, "an encoder, for both targets; one without hidden states is refused");
}

/// A rewrite, over the checkpoint's model and over one of another kind.
pub(super) fn rewrite(registry: &Registry, name: &str, described: Option<(&Model, &Checkpoint)>, rows: &mut Rows<'_>) {
    const CHECK: &str = "rewrites";
    let rewrite = match registry.rewrite(name) {
        Ok(rewrite) => rewrite,
        Err(error) => return rows.fail(CHECK, error.to_string()),
    };
    let table = Table::new();
    let mut problems = vec![];
    if let Ok(other) = encoder(&table.0, true) {
        match rewrite.rewrite(other, &table.0) {
            Ok(model) => problems
                .extend(invalid(&model, &table.0).map(|findings| format!("an encoder becomes invalid: {findings}"))),
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
