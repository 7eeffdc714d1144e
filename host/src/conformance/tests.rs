//! Each check is shown a plugin that it must find out.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use qeff_plugin_api::blocks::Bias;
use qeff_plugin_api::blocks::decoder::{Decoder, Defaults};
use qeff_plugin_api::build::{GraphBuilder, Value};
use qeff_plugin_api::config::Config;
use qeff_plugin_api::graph::{Model, Role};
use qeff_plugin_api::plugin::{
    Fit, HeaderNeed, PluginError, PoolingHead, Request, StoredBlock, StoredTensor, WeightFormat,
};
use qeff_plugin_api::{DType, TensorInfo};

use super::*;
use crate::plugins::{Origin, Source};

const DEFAULTS: Defaults =
    Defaults { vocab: 32_000, inner: 11_008, kv_heads: None, head_dim: None, positions: 2048, gguf_pairs: false };

/// What is wrong with a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Nothing,
    Moody,
    Ordered,
    Neighbours,
    Unread,
    Panics,
    Mute,
    TakesText,
    Invalid,
    NoLogits,
}

/// Llama with a fault.
struct Faulty(Fault, AtomicU32);

impl Architecture for Faulty {
    fn names(&self) -> Vec<&str> {
        vec!["LlamaForCausalLM"]
    }

    fn recognise(&self, _: &Config) -> Option<Fit> {
        Some(Fit::Exact)
    }

    fn describe(&self, Request { config, tensors }: &Request) -> Result<Model, PluginError> {
        let text = config.to_text();
        if self.0 == Fault::Panics && config.opt_u64("num_attention_heads") == Ok(Some(0)) {
            let location = "lib.rs:1".into();
            return Err(PluginError::Panic { message: "attempt to divide by zero".into(), location });
        }
        if self.0 == Fault::Mute && config.count("hidden_size").is_err() {
            return Err(PluginError::Other("something is wrong".into()));
        }
        let mut c = Decoder::read(config, &DEFAULTS)?;
        if self.0 == Fault::TakesText && config.opt_text("qeff_scale").ok().flatten().is_some() {
            c.embedding.scale = 2.0;
        }
        let flags = if self.0 == Fault::Unread { vec![] } else { vec!["attention_bias", "mlp_bias"] };
        for flag in flags {
            config.refuse_unless(flag, &false.into())?;
        }
        for other in ["layer_types", "qeff_scale"] {
            config.has(other);
        }
        if self.0 == Fault::Moody && self.1.fetch_add(1, Ordering::Relaxed) % 2 == 1 {
            c.embedding.scale = 2.0;
        }
        if self.0 == Fault::Ordered && text.find("hidden_size") > text.find("vocab_size") {
            c.embedding.scale = 2.0;
        }
        if self.0 == Fault::Neighbours && tensors.len() % 2 == 0 {
            c.embedding.scale = 2.0;
        }
        let model = c.model("LlamaForCausalLM", tensors, |l, h| {
            let x = l.norm("input_layernorm", h);
            let h = l.add(h, l.attend(l.heads(x, Bias::No), c.causal(), Bias::No));
            let x = l.norm("post_attention_layernorm", h);
            l.add(h, l.mlp(x, Bias::No))
        });
        let mut model = model?;
        if self.0 == Fault::Invalid && c.rope.positions == 1 {
            let twice = model.programs[0].outputs[0].clone();
            model.programs[0].outputs.push(twice);
        }
        if self.0 == Fault::NoLogits {
            model.programs[0].outputs.retain(|output| output.role != Role::Logits);
        }
        Ok(model)
    }
}

fn entry(fault: Fault) -> Entry<dyn Architecture> {
    let origin = Origin { plugin: "faulty".into(), source: Source::BuiltIn, version: "1.0.0".into() };
    Entry { origin: Arc::new(origin), item: Arc::new(Faulty(fault, AtomicU32::new(0))) }
}

fn llama() -> Checkpoint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/llama/base");
    Checkpoint::open(&folder).expect("a fixture")
}

/// Rows that failed, of the checks that ask an architecture.
fn failures(fault: Fault) -> Vec<Row> {
    let (entry, checkpoint, mut all) = (entry(fault), llama(), vec![]);
    let mut rows = Rows { subject: "LlamaForCausalLM".into(), all: &mut all };
    if let Some(model) = describing::check(&entry, &checkpoint, &mut rows) {
        hostile::check(&entry, &checkpoint, &model, &mut rows);
        features::check(&model, &checkpoint, &mut rows);
        running::check(&model, &checkpoint, &mut rows);
    }
    all.retain(|row| row.verdict == Verdict::Fail);
    all
}

#[track_caller]
fn found_out(fault: Fault, check: &str, expected: &str) {
    let rows = failures(fault);
    let row = rows.iter().find(|row| row.check == check);
    let row = row.unwrap_or_else(|| panic!("{fault:?}: no failure of `{check}` in {rows:?}"));
    assert!(row.detail.contains(expected), "{fault:?}: {}", row.detail);
}

#[test]
fn a_sound_plugin_passes() {
    assert_eq!(failures(Fault::Nothing), []);
}

#[test]
fn answers_that_depend_on_what_they_must_not_are_found_out() {
    found_out(Fault::Moody, "deterministic", "asked again, it answers otherwise");
    found_out(Fault::Ordered, "deterministic", "with config fields in another order, it answers otherwise");
    found_out(Fault::Neighbours, "deterministic", "with a tensor beside that is nobody's, it answers otherwise");
}

#[test]
fn fields_that_nobody_reads_are_found_out() {
    found_out(Fault::Unread, "config fields", "`attention_bias` is not read; `mlp_bias` is not read");
}

#[test]
fn bad_answers_to_bad_configs_are_found_out() {
    found_out(
        Fault::Panics,
        "hostile configs",
        "`num_attention_heads` = 0: it panicked at lib.rs:1: attempt to divide by zero",
    );
    found_out(Fault::Mute, "hostile configs", "`hidden_size` = \"text\": the error does not name the field: ");
    found_out(Fault::Invalid, "hostile configs", "`max_position_embeddings` = 1: the answer is invalid: ");
}

#[test]
fn a_value_of_the_wrong_type_must_not_be_taken() {
    let (entry, mut all) = (entry(Fault::TakesText), vec![]);
    let folder = tempfile::tempdir().expect("a folder");
    for file in ["config.json", "model.safetensors"] {
        let from = llama().dir.join(file);
        std::fs::copy(from, folder.path().join(file)).expect("a copy");
    }
    let config = std::fs::read_to_string(folder.path().join("config.json")).expect("a config");
    let config = config.replacen('{', r#"{"qeff_scale": 1,"#, 1);
    std::fs::write(folder.path().join("config.json"), config).expect("a config");
    let checkpoint = Checkpoint::open(folder.path()).expect("a checkpoint");
    let mut rows = Rows { subject: "LlamaForCausalLM".into(), all: &mut all };
    let model = describing::check(&entry, &checkpoint, &mut rows).expect("a description");
    hostile::check(&entry, &checkpoint, &model, &mut rows);
    let row = all.iter().find(|row| row.check == "hostile configs").expect("a row");
    let expected = "`qeff_scale` = \"text\": it is taken for something else, and refused by nobody";
    assert!(row.verdict == Verdict::Fail && row.detail.contains(expected), "{}", row.detail);
}

#[test]
fn a_model_without_logits_does_not_run() {
    found_out(Fault::NoLogits, "runs", "it puts out no logits of a known width");
}

fn open(fixture: &str) -> Checkpoint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(fixture);
    Checkpoint::open(&folder).expect("a fixture")
}

/// What is said of running the model of a fixture, after something was done to it.
fn ran(fixture: &str, edit: impl FnOnce(&mut Model, &TensorIndex)) -> Row {
    let (checkpoint, mut all) = (open(fixture), vec![]);
    let tensors = checkpoint.weights.index();
    let entry = Registry::builtin().architecture_for(&checkpoint.config, None).expect("an architecture");
    let (mut model, _) = describe(&entry, &checkpoint.config.to_text(), tensors).expect("a description");
    edit(&mut model, tensors);
    running::check(&model, &checkpoint, &mut Rows { subject: fixture.into(), all: &mut all });
    all.remove(0)
}

#[test]
fn encoders_run() {
    for (fixture, width) in
        [("bert", 32), ("bert-cls", 3), ("roberta-padding", 36), ("deberta-v2", 32), ("modernbert", 32), ("qwen3", 32)]
    {
        let row = ran(&format!("encoders/{fixture}"), |_, _| {});
        let expected = format!("3 texts alone, again, and together: {width} numbers agree within ");
        assert!(row.verdict == Verdict::Pass && row.detail.starts_with(&expected), "{fixture}: {row:?}");
    }
    let row = ran("wav2vec2/base", |_, _| {});
    let expected = (Verdict::Skipped, "only tokens and texts are tried, and this is ctc");
    assert_eq!((row.verdict, row.detail.as_str()), expected);
}

/// Puts out the value that `make` makes of the hidden states instead of these.
fn instead(
    model: &mut Model,
    tensors: &TensorIndex,
    make: impl for<'g> FnOnce(&'g GraphBuilder, Value<'g>) -> Value<'g>,
) {
    let mut program = model.programs.remove(0);
    let place = program.outputs.iter().position(|output| output.role == Role::Hidden).expect("hidden states");
    let hidden = program.outputs.remove(place).value;
    let g = GraphBuilder::resume(program, tensors);
    g.output("hidden", Role::Hidden, make(&g, g.existing(hidden)));
    model.programs.insert(0, g.finish().expect("a program"));
}

#[test]
fn an_encoder_whose_texts_see_each_other_is_found_out() {
    let row = ran("encoders/bert", |model, tensors| {
        instead(model, tensors, |g, hidden| {
            let at = g.at("mixed");
            at.add(hidden, at.reduce("ReduceMax", hidden, &[0]))
        });
    });
    let expected = "text 0 beside others is not what it is alone: numbers differ by ";
    assert!(row.verdict == Verdict::Fail && row.detail.starts_with(expected), "{row:?}");
}

/// Adds a vector that is made without a look at the mask.
struct Maskless;

impl PoolingHead for Maskless {
    fn name(&self) -> &str {
        "maskless"
    }

    fn append(&self, mut model: Model, tensors: &TensorIndex) -> Result<Model, PluginError> {
        let program = model.programs.remove(0);
        let hidden = program.output(Role::Hidden).map(|output| output.value);
        let hidden = hidden.ok_or_else(|| PluginError::Other("no hidden states".into()))?;
        let g = GraphBuilder::resume(program, tensors);
        let at = g.at("pooling");
        let most = at.squeeze(at.reduce("ReduceMax", g.existing(hidden), &[1]), &[1]);
        g.output("pooled", Role::Pooled, most);
        model.programs.push(g.finish()?);
        Ok(model)
    }
}

/// What is said of a pooling head: verdicts and words.
fn pooled(head: Entry<dyn PoolingHead>) -> Vec<(&'static str, Verdict, String)> {
    let mut all = vec![];
    items::pooling(&head, &mut Rows { subject: "head".into(), all: &mut all });
    all.into_iter().map(|row| (row.check, row.verdict, row.detail)).collect()
}

#[test]
fn pooling_heads_run() {
    let registry = Registry::builtin();
    for name in ["mean", "max", "cls", "last", "weighted-mean", "mean-sqrt-len"] {
        let rows = pooled(registry.pooling(name).expect("a head"));
        let [(_, Verdict::Pass, _), ("runs", Verdict::Pass, said)] = rows.as_slice() else {
            panic!("{name}: {rows:?}")
        };
        assert!(said.starts_with("3 texts alone, again, and together: 8 numbers agree within "), "{name}: {said}");
    }
    let origin = Origin { plugin: "maskless".into(), source: Source::BuiltIn, version: "1.0.0".into() };
    let rows = pooled(Entry { origin: Arc::new(origin), item: Arc::new(Maskless) });
    let [(_, Verdict::Pass, _), ("runs", Verdict::Fail, said)] = rows.as_slice() else { panic!("{rows:?}") };
    assert!(said.contains("beside others is not what it is alone"), "{said}");
}

/// Takes anything for its own, and asks for what it was shown.
struct Greedy;

impl WeightFormat for Greedy {
    fn name(&self) -> &str {
        "greedy"
    }

    fn probe(&self, _: &[u8], _: &str) -> bool {
        true
    }

    fn index(&self, head: &[u8], _: u64) -> Result<HeaderNeed, PluginError> {
        Ok(HeaderNeed::More(head.len() as u64))
    }

    fn decode(&self, _: &str, _: &[u8], _: &mut [u8]) -> Result<(), PluginError> {
        Ok(())
    }
}

/// Decodes a piece otherwise than the whole.
struct Pieces;

impl WeightFormat for Pieces {
    fn name(&self) -> &str {
        "pieces"
    }

    fn probe(&self, head: &[u8], _: &str) -> bool {
        head.starts_with(b"PIECES")
    }

    fn index(&self, head: &[u8], _: u64) -> Result<HeaderNeed, PluginError> {
        if !head.starts_with(b"PIECES") {
            return Err(PluginError::Other("no mark".into()));
        }
        Ok(HeaderNeed::Tensors(vec![StoredTensor {
            name: "w".into(),
            info: TensorInfo { dtype: DType::U8, shape: vec![8] },
            offset: 6,
            length: 8,
            encoding: "e".into(),
            block: StoredBlock { elements: 1, bytes: 1 },
        }]))
    }

    fn decode(&self, encoding: &str, bytes: &[u8], out: &mut [u8]) -> Result<(), PluginError> {
        if encoding != "e" {
            return Err(PluginError::Other("no such encoding".into()));
        }
        out.fill(bytes.len() as u8);
        Ok(())
    }
}

#[test]
fn formats_that_take_what_is_not_theirs_are_found_out() {
    let mut all = vec![];
    items::format(&Greedy, None, &mut Rows { subject: "greedy".into(), all: &mut all });
    let details: Vec<_> = all.iter().map(|row| (row.check, row.verdict, row.detail.as_str())).collect();
    assert!(
        matches!(details[0], ("claims", Verdict::Fail, said) if said.starts_with("it claims a safetensors file; it claims a GGUF"))
    );
    let ("hostile files", Verdict::Fail, said) = details[1] else { panic!("{details:?}") };
    assert!(said.contains("shown 0 bytes, it asks for 0"), "{said}");
}

#[test]
fn formats_whose_pieces_are_not_of_the_whole_are_found_out() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("config.json"), r#"{"architectures": ["X"]}"#).expect("a config");
    std::fs::write(dir.path().join("w.pieces"), b"PIECES01234567").expect("weights");
    let origin = Origin { plugin: "pieces".into(), source: Source::BuiltIn, version: "1.0.0".into() };
    let format: Entry<dyn WeightFormat> = Entry { origin: Arc::new(origin), item: Arc::new(Pieces) };
    let checkpoint = Checkpoint::open_with(dir.path(), &[format]).expect("a checkpoint");
    let mut all = vec![];
    items::format(&Pieces, Some(&checkpoint), &mut Rows { subject: "pieces".into(), all: &mut all });
    let row = all.iter().find(|row| row.check == "decodes").expect("a row");
    assert_eq!((row.verdict, row.detail.as_str()), (Verdict::Fail, "w: a piece is not what it is in the whole"));
}
