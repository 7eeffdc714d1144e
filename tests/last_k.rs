//! The last-k pass computes what it says, for families that have no line about it.

use anyhow::{Context as _, Result, ensure};
use qeff::{cases, describe, fixture, prompt_logits};
use qeff_core::lower::Target;
use qeff_core::passes::Features;
use qeff_host::checkpoint::Checkpoint;
use qeff_host::prepare::prepare;
use qeff_host::runtime::CpuWeights;
use qeff_plugin_api::graph::Dim;
use rten::{NodeId, Value, ValueOrView};
use rten_tensor::Tensor;
use rten_tensor::prelude::*;

/// Logits of the last `k` positions of `prompt` followed by `padding` rows of position −1: `[k][vocab]`.
fn last_k(name: &str, prompt: &[u32], k: usize, padding: usize) -> Result<Vec<Vec<f32>>> {
    let checkpoint = Checkpoint::open(&fixture(name))?;
    let features = Features { last_k: true, ..Features::default() };
    let prepared = prepare(describe(&checkpoint)?, checkpoint.weights.index(), &features, Target::Cpu)?;
    let (models, _) = CpuWeights::new(&checkpoint.weights, &checkpoint.weights).load(&[&prepared.programs[0]])?;
    let (model, program) = (&models[0], &prepared.model.programs[0]);
    let node = |name: &str| model.node_id(name).map_err(|error| anyhow::anyhow!("{error}"));
    let seq = prompt.len() + padding;
    let tokens: Tensor<i32> = Tensor::from_fn(&[1, seq], |i| prompt.get(i[1]).map_or(0, |&id| id as i32));
    let positions: Tensor<i32> = Tensor::from_fn(&[1, seq], |i| if i[1] < prompt.len() { i[1] as i32 } else { -1 });
    let mut inputs: Vec<(NodeId, ValueOrView<'_>)> = vec![
        (node("input_ids")?, tokens.into()),
        (node("position_ids")?, positions.into()),
        (node("num_logits_to_keep")?, Tensor::<i32>::zeros(&[k, 1]).into()),
    ];
    for (_, state) in program.states() {
        for (name, &part) in state.names.iter().zip(&state.parts) {
            let size = |dim: &Dim| match dim {
                Dim::Fixed(n) => *n as usize,
                // One row for each position, and the slack row.
                Dim::Symbol(symbol) if symbol.name() == "ctx_len" => prompt.len() + 1,
                Dim::Symbol(_) => 1,
            };
            let shape: Vec<usize> = program.ty(part).dims.iter().map(size).collect();
            inputs.push((node(name)?, Tensor::<f32>::zeros(&shape).into()));
        }
    }
    let mut results = model.run(inputs, &[node("logits")?], None).map_err(|error| anyhow::anyhow!("{error}"))?;
    let Some(Value::FloatTensor(logits)) = results.pop() else { anyhow::bail!("logits are not f32") };
    let vocab = *logits.shape().last().context("logits have no axis")?;
    ensure!(logits.shape() == [1, k, vocab], "shape {:?}", logits.shape());
    Ok(logits.to_vec().chunks(vocab).map(<[f32]>::to_vec).collect())
}

#[test]
fn keeps_the_last_valid_rows() -> Result<()> {
    for name in ["llama/base", "mistral/sliding", "gpt2/base"] {
        let dir = fixture(name);
        for (i, case) in cases(&dir)?.iter().enumerate() {
            let expected = prompt_logits(&dir, i)?;
            let largest = expected.iter().flatten().fold(0f32, |max, x| max.max(x.abs()));
            for (k, padding) in [(1, 0), (2, 0), (3, 0), (3, 2)] {
                let rows = last_k(name, &case.prompt, k, padding)?;
                for (row, want) in rows.iter().zip(&expected[case.prompt.len() - k..]) {
                    let worst = row.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                    ensure!(worst <= 1e-4 * largest, "{name} case {i}, k {k}, padding {padding}: differs by {worst}");
                }
            }
        }
    }
    Ok(())
}
