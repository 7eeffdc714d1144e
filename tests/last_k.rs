//! The last-k pass computes what it says, for families that have no line about it.

use anyhow::{Result, ensure};
use qeff::{cases, describe, engines, fixture, prompt_logits};
use qeff_core::lower::Target;
use qeff_core::passes::Features;
use qeff_host::checkpoint::Checkpoint;
use qeff_host::prepare::prepare;
use qeff_host::runtime::cpu::engine::{Engine, StateBuffer};
use qeff_host::runtime::{Tensor, cpu};
use qeff_plugin_api::graph::Role;

/// Logits of the last `k` positions of `prompt` followed by `padding` rows of position −1: `[k][vocab]`.
fn last_k(engine: &dyn Engine, name: &str, prompt: &[u32], k: usize, padding: usize) -> Result<Vec<Vec<f32>>> {
    let checkpoint = Checkpoint::open(&fixture(name))?;
    let features = Features { last_k: true, ..Features::default() };
    let prepared = prepare(describe(&checkpoint)?, checkpoint.weights.index(), &features, Target::Cpu)?;
    let source = (&prepared.model.programs[0], &prepared.programs[0]);
    let (mut programs, _) = cpu::load(engine, &checkpoint.weights, &[source])?;
    let program = &mut programs[0];
    let padded = |given: Vec<i64>, fill: i64| {
        let data: Vec<i64> = given.into_iter().chain(std::iter::repeat_n(fill, padding)).collect();
        Tensor::integers([1, data.len()], data)
    };
    let inputs = [
        (Role::Tokens, padded(prompt.iter().map(|&id| i64::from(id)).collect(), 0)),
        (Role::Positions, padded((0..prompt.len() as i64).collect(), -1)),
        (Role::Keep, Tensor::filled([k, 1], 0)),
    ];
    // One row for each position, and the slack row.
    let zeros = |port: &cpu::engine::StatePort| StateBuffer::zeros([1, port.heads, prompt.len() + 1, port.width]);
    let mut states: Vec<StateBuffer> = program.states().iter().map(zeros).collect();
    let logits = program.run(&inputs, &mut states)?;
    ensure!(logits.rows() == k, "{} rows, expected {k}", logits.rows());
    Ok((0..k).map(|row| logits.row(row).to_vec()).collect())
}

#[test]
fn keeps_the_last_valid_rows() -> Result<()> {
    for engine in engines()? {
        for name in ["llama/base", "mistral/sliding", "gpt2/base", "gpt_oss/base"] {
            check(&*engine, name)?;
        }
    }
    Ok(())
}

fn check(engine: &dyn Engine, name: &str) -> Result<()> {
    let dir = fixture(name);
    for (i, case) in cases(&dir)?.iter().enumerate() {
        let expected = prompt_logits(&dir, i)?;
        let largest = expected.iter().flatten().fold(0f32, |max, x| max.max(x.abs()));
        for (k, padding) in [(1, 0), (2, 0), (3, 0), (3, 2)] {
            let rows = last_k(engine, name, &case.prompt, k, padding)?;
            for (row, want) in rows.iter().zip(&expected[case.prompt.len() - k..]) {
                let worst = row.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                let engine = engine.name();
                ensure!(
                    worst <= 1e-4 * largest,
                    "{engine}, {name} case {i}, k {k}, padding {padding}: differs by {worst}"
                );
            }
        }
    }
    Ok(())
}
