//! Quantised weights in graphs: what is quantised on the way equals a checkpoint of the rounded numbers, what is kept looks as
//! the targets want it, and what becomes dense is said.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use half::bf16;
use qeff::scratch::{Scratch, Stored as StoredTensor};
use qeff::{Case, cases, continue_all, describe, engines, fixture, options};
use qeff_core::lower::{Lowered, Options, Products, Target, lower};
use qeff_core::onnx;
use qeff_core::weights::{CodeBits, Facets, Scheme, evaluate_to_vec};
use qeff_host::checkpoint::Checkpoint;
use qeff_host::forms::{Stored, WeightForms};
use qeff_host::generate::Completion;
use qeff_host::prepare::{self, CpuOptions};
use qeff_host::runtime::cpu::engine::Engine;
use qeff_host::runtime::cpu::rten::Rten;
use safetensors::Dtype;

/// What rounding leaves of a product of a hundred numbers, relative to the largest logit.
const TOLERANCE: f32 = 2e-5;

/// Weights that are projections, by the end of their names; and those of them that are stored turned.
const PROJECTIONS: &[&str] = &["_proj.weight", "c_attn.weight", "c_fc.weight", "lm_head.weight"];
const TURNED: &[&str] = &["c_attn.weight", "c_proj.weight", "c_fc.weight"];

/// The numbers that a block stands for once it is quantised, written down without a thought for speed.
fn rounded(block: &[f32], bits: u32, symmetric: bool) -> Vec<f32> {
    let (low, high) = block.iter().fold((f32::MAX, f32::MIN), |(low, high), &x| (low.min(x), high.max(x)));
    let (scale, shift, center, codes) = match (symmetric, bits) {
        (true, 4) => (if high > -low { high } else { low } / -8.0, 0.0, 8.0, 15.0),
        (true, _) => (high.max(-low) / 119.0, 0.0, 136.0, 255.0),
        (false, 4) => (high / 15.0 - low / 15.0, low, 0.0, 15.0),
        (false, _) => (high / 255.0 - low / 255.0, low, 0.0, 255.0),
    };
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let code = |x: &f32| ((x - shift) * inverse + center).clamp(0.0, codes).round_ties_even();
    block.iter().map(|x| scale * (code(x) - center) + shift).collect()
}

fn numbers(tensor: &StoredTensor) -> Vec<f32> {
    match tensor.dtype {
        Dtype::BF16 => tensor.data.as_chunks::<2>().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
        _ => tensor.data.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
    }
}

fn transposed(matrix: &[f32], rows: usize) -> Vec<f32> {
    let columns = matrix.len() / rows;
    (0..matrix.len()).map(|at| matrix[at % rows * columns + at / rows]).collect()
}

/// A copy of a fixture in f32 whose projections hold the numbers that `scheme` makes of them.
fn rounded_copy(name: &str, scheme: Scheme) -> Scratch {
    let scratch = Scratch::new(name);
    scratch.edit_tensors(|tensors| {
        for tensor in tensors.iter_mut() {
            let mut values = numbers(tensor);
            let is = |ends: &[&str]| ends.iter().any(|end| tensor.name.ends_with(end));
            if tensor.shape.len() == 2 && (is(PROJECTIONS) || is(TURNED)) {
                let head = tensor.name == "lm_head.weight";
                let bits = if head { 8 } else { scheme.bits.count() as u32 };
                let rows = tensor.shape[0];
                let turned = is(TURNED);
                let matrix = if turned { transposed(&values, rows) } else { values };
                let width = if turned { rows } else { tensor.shape[1] };
                let matrix: Vec<f32> = match width.is_multiple_of(scheme.length as usize) {
                    true => matrix
                        .chunks(scheme.length as usize)
                        .flat_map(|block| rounded(block, bits, scheme.symmetric))
                        .collect(),
                    false => matrix,
                };
                values = if turned { transposed(&matrix, tensor.shape[1]) } else { matrix };
            }
            tensor.dtype = Dtype::F32;
            tensor.data = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        }
    });
    scratch
}

/// Logits of a case, chosen ids fed back.
fn answer(
    engine: &dyn Engine,
    checkpoint: &Checkpoint,
    forms: WeightForms,
    case: &Case,
    slots: usize,
) -> Result<Completion> {
    let context = case.prompt.len() + case.greedy.len();
    let how = CpuOptions { forms, ..options(engine, slots, context) };
    let mut ready = prepare::cpu(&describe(checkpoint)?, &checkpoint.weights, how)?;
    continue_all(&mut ready.session, std::slice::from_ref(case), 5)?.pop().context("an answer")
}

fn worst(a: &Completion, b: &Completion) -> f32 {
    let pairs = || a.logits.iter().flatten().zip(b.logits.iter().flatten());
    let largest = pairs().map(|(x, _)| x.abs()).fold(0f32, f32::max);
    // Answers of different ids are compared up to there; the ids are too.
    let same = a.ids.iter().zip(&b.ids).take_while(|(x, y)| x == y).count();
    let compared = (same + 1).min(a.logits.len()) * a.logits[0].len();
    pairs().take(compared).map(|(x, y)| (x - y).abs()).fold(0f32, f32::max) / largest
}

#[test]
fn quantised_on_the_way_is_a_checkpoint_of_the_rounded_numbers() -> Result<()> {
    for engine in engines()? {
        for name in
            ["llama/base", "llama/bias", "llama/one-kv-head", "gpt2/untied", "qwen2/base", "granite/multipliers"]
        {
            let (checkpoint, case) = (Checkpoint::open(&fixture(name))?, cases(&fixture(name))?.remove(1));
            for bits in [CodeBits::Four, CodeBits::Eight] {
                for (length, symmetric) in [(16, true), (32, false), (16, false)] {
                    let scheme = Scheme { bits, length, symmetric };
                    let forms = WeightForms { quantise: Some(scheme), ..WeightForms::default() };
                    let copy = rounded_copy(name, scheme);
                    let expected = answer(&*engine, &Checkpoint::open(copy.dir())?, WeightForms::default(), &case, 1)?;
                    let found = answer(&*engine, &checkpoint, forms, &case, 1)?;
                    let worst = worst(&expected, &found);
                    ensure!(worst < TOLERANCE, "{name} {scheme:?}: logits differ by {worst:.2e} of the largest");
                    ensure!(
                        found.ids == expected.ids,
                        "{name} {scheme:?}: {:?}, expected {:?}",
                        found.ids,
                        expected.ids
                    );
                }
            }
        }
    }
    Ok(())
}

/// A weight that is a table and the head stays dense as the one and is quantised as the other.
#[test]
fn a_tied_head_is_quantised_and_its_table_is_not() -> Result<()> {
    for engine in engines()? {
        let name = "llama/tied";
        let (checkpoint, case) = (Checkpoint::open(&fixture(name))?, cases(&fixture(name))?.remove(0));
        let scheme = Scheme { bits: CodeBits::Four, length: 16, symmetric: true };
        let copy = rounded_copy(name, scheme);
        copy.edit_tensors(|tensors| {
            let table = tensors.iter().find(|tensor| tensor.name == "model.embed_tokens.weight").cloned();
            let mut head = StoredTensor { name: "lm_head.weight".into(), ..table.expect("a table") };
            let values = numbers(&head);
            head.data =
                values.chunks(16).flat_map(|block| rounded(block, 8, true)).flat_map(f32::to_le_bytes).collect();
            tensors.push(head);
        });
        copy.set(&serde_json::json!({ "tie_word_embeddings": false }));
        let expected = answer(&*engine, &Checkpoint::open(copy.dir())?, WeightForms::default(), &case, 1)?;
        let forms = WeightForms { quantise: Some(scheme), ..WeightForms::default() };
        let worst = worst(&expected, &answer(&*engine, &checkpoint, forms, &case, 1)?);
        ensure!(worst < TOLERANCE, "logits differ by {worst:.2e} of the largest");
    }
    Ok(())
}

/// Slots, chunks and one call give the same; and activations of eight bits give nearly the same.
#[test]
fn how_a_prompt_is_run_does_not_matter() -> Result<()> {
    for engine in engines()? {
        let name = "llama/base";
        let (checkpoint, case) = (Checkpoint::open(&fixture(name))?, cases(&fixture(name))?.remove(2));
        let scheme = Scheme { bits: CodeBits::Four, length: 16, symmetric: false };
        let forms = WeightForms { quantise: Some(scheme), ..WeightForms::default() };
        let alone = answer(&*engine, &checkpoint, forms, &case, 1)?;
        let in_slots = answer(&*engine, &checkpoint, forms, &case, 3)?;
        ensure!(worst(&alone, &in_slots) < TOLERANCE, "{}", worst(&alone, &in_slots));
        let rounded = answer(&*engine, &checkpoint, WeightForms { products: Products::Int8, ..forms }, &case, 1)?;
        ensure!(worst(&alone, &rounded) < 0.1, "{}", worst(&alone, &rounded));
    }
    Ok(())
}

/// What a GGUF file has as blocks is not quantised again.
#[test]
fn blocks_that_are_kept_are_not_quantised_again() -> Result<()> {
    let path = fixture("gguf/llama-q5_1").join("model.gguf");
    let checkpoint = Checkpoint::open(&path)?;
    let scheme = Scheme { bits: CodeBits::Four, length: 32, symmetric: true };
    let counts = |stored| -> Result<BTreeMap<String, usize>> {
        let forms = WeightForms { stored, quantise: Some(scheme), ..WeightForms::default() };
        let how = CpuOptions { forms, ..options(&Rten, 1, 8) };
        Ok(prepare::cpu(&describe(&checkpoint)?, &checkpoint.weights, how)?.quantised.kept)
    };
    let kept = counts(Stored::Keep)?;
    ensure!(kept.keys().all(|form| form.starts_with("Q5_1 ")), "{kept:?}");
    let again = counts(Stored::Dequantise)?;
    ensure!(again.keys().all(|form| form.starts_with("int")) && again.len() == 2, "{again:?}");
    ensure!(kept.values().sum::<usize>() == again.values().sum::<usize>(), "{kept:?} {again:?}");
    Ok(())
}

/// One layer with five kinds of blocks: the projections as each target gets them, and what is said of the others.
#[test]
fn a_layer_of_blocks() -> Result<()> {
    for (target, name) in [(Target::Cpu, "gguf/llama-mixed"), (Target::Aic, "gguf/llama-q4_0")] {
        let checkpoint = Checkpoint::open(&fixture(name).join("model.gguf"))?;
        let model = describe(&checkpoint)?;
        let facets = Facets::new(&checkpoint.weights);
        let lowered = lower(&model.programs[0], &facets, Options::from(target))?;
        let text = onnx::text::print(&lowered);
        let about = |line: &&str| line.contains("_proj") && line.contains("layers.0") || line.starts_with("ir ");
        let lines: Vec<&str> = text.lines().filter(about).collect();
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path("../snapshots/quantised");
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        let content = format!("{}\n\n{}", lines.join("\n"), lowered.quantised);
        settings.bind(|| insta::assert_snapshot!(target.name(), content));
    }
    Ok(())
}

/// The operands of a product for AI 100, multiplied out as its definition says, are the dense weight bit for bit; with an
/// order of columns, too, which ONNX Runtime computes for symmetric weights only.
#[test]
fn the_operands_of_a_product_are_the_dense_weight() -> Result<()> {
    for name in ["quantised/awq", "quantised/gptq-act-order"] {
        let checkpoint = Checkpoint::open(&fixture(name))?;
        let model = describe(&checkpoint)?;
        let facets = Facets::new(&checkpoint.weights);
        let kept = lower(&model.programs[0], &facets, Target::Aic)?;
        let dense = lower(&model.programs[0], checkpoint.weights.index(), Target::Aic)?;
        let read = |lowered: &Lowered, name: &str| {
            let weight = lowered.weights.iter().find(|weight| weight.name == name)?;
            Some((weight.shape.clone(), evaluate_to_vec(&weight.expr, weight.dtype, &facets).ok()?))
        };
        let pairs = |bytes: &[u8]| -> Vec<u8> { bytes.iter().flat_map(|byte| [byte & 15, byte >> 4]).collect() };
        let mut compared = 0;
        for scope in kept.weights.iter().filter_map(|weight| weight.name.strip_suffix(".qweight")) {
            let part = |part: &str| read(&kept, &format!("{scope}.{part}"));
            let (shape, codes) = part("qweight").context("codes")?;
            let (scales, zeros) = (part("scales").context("scales")?.1, part("qzeros").context("zero points")?.1);
            let [rows, groups, half] = shape[..] else { anyhow::bail!("{shape:?}") };
            let (rows, groups, columns) = (rows as usize, groups as usize, (groups * half * 2) as usize);
            let (codes, zeros) = (pairs(&codes), pairs(&zeros));
            let scales: Vec<f32> = scales.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            let order = part("g_idx").map(|(_, bytes)| -> Vec<usize> {
                bytes.as_chunks::<4>().0.iter().map(|&b| i32::from_le_bytes(b) as usize).collect()
            });
            ensure!(order.is_some() == name.ends_with("act-order"), "{name} {scope}: an order of columns");
            let expected = read(&dense, &format!("{scope}.weight")).context("the dense weight")?.1;
            let expected: Vec<f32> = expected.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            ensure!(codes.len() == rows * columns);
            for (at, &code) in codes.iter().enumerate() {
                let (row, column) = (at / columns, at % columns);
                let group = order.as_ref().map_or(column / (columns / groups), |order| order[column]);
                let zero = zeros[row * groups.next_multiple_of(2) + group];
                let found = scales[row * groups + group] * (f32::from(code) - f32::from(zero));
                // The dense weight is stored turned.
                ensure!(found.to_bits() == expected[column * rows + row].to_bits(), "{name} {scope} {row} {column}");
            }
            compared += 1;
        }
        ensure!(compared > 0, "{name}: nothing is kept");
    }
    Ok(())
}
