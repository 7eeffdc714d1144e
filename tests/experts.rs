//! Experts compute what the operator says, on both targets: every activation, weighed before or after, however the matrices
//! are stored, with fewer tokens than experts and with more.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use qeff::engines;
use qeff::scratch::Stored;
use qeff_core::lower::Target;
use qeff_core::passes::Features;
use qeff_core::weights::Checkpoint;
use qeff_host::prepare::prepare;
use qeff_host::runtime::Tensor;
use qeff_host::runtime::cpu::engine::Engine;
use qeff_host::runtime::cpu::{Residence, load};
use qeff_plugin_api::WeightExpr;
use qeff_plugin_api::blocks::linear::Rows;
use qeff_plugin_api::blocks::moe::{Experts, Projection, experts, top_then_softmax};
use qeff_plugin_api::blocks::{Bias, embed};
use qeff_plugin_api::build::{GraphBuilder, Scope};
use qeff_plugin_api::graph::{Embedding, ExpertActivation, Model, Role, Task, Weigh};
use safetensors::Dtype;

const EXPERTS: usize = 4;
const WIDTH: usize = 6;
const INNER: usize = 5;
const WORDS: usize = 11;

/// How gate and up are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Layout {
    /// `[E, N, I]` each.
    Apart,
    /// One tensor, gate before up.
    Halves,
    /// One tensor, columns by turns.
    ByTurns,
    /// `[I, N]` for each expert.
    PerExpert,
    /// There is no gate.
    UpOnly,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    stored: Layout,
    activation: ExpertActivation,
    weigh: Weigh,
    bias: bool,
    chosen: usize,
    tokens: usize,
}

/// Numbers between −1 and 1 that look like noise and are the same each time.
fn noise(seed: usize, count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729 + 17) % 2003) as f32 / 1001.0 - 1.0).collect()
}

/// The stored tensors, by name.
struct Weights(HashMap<String, (Vec<usize>, Vec<f32>)>);

impl Weights {
    fn new(stored: Layout) -> Self {
        let mut weights = Weights(HashMap::new());
        weights.add("words.weight", &[WORDS, WIDTH]);
        weights.add("router.weight", &[EXPERTS, WIDTH]);
        weights.add("router.bias", &[EXPERTS]);
        weights.add("experts.down", &[EXPERTS, INNER, WIDTH]);
        weights.add("experts.down_bias", &[EXPERTS, WIDTH]);
        match stored {
            Layout::Apart | Layout::UpOnly => {
                for name in ["gate", "up"] {
                    weights.add(&format!("experts.{name}"), &[EXPERTS, WIDTH, INNER]);
                    weights.add(&format!("experts.{name}_bias"), &[EXPERTS, INNER]);
                }
            }
            Layout::Halves | Layout::ByTurns => {
                weights.add("experts.both", &[EXPERTS, WIDTH, 2 * INNER]);
                weights.add("experts.both_bias", &[EXPERTS, 2 * INNER]);
            }
            Layout::PerExpert => {
                for (expert, name) in (0..EXPERTS).flat_map(|expert| [(expert, "gate"), (expert, "up")]) {
                    weights.add(&format!("experts.{expert}.{name}"), &[INNER, WIDTH]);
                }
                for name in ["gate_bias", "up_bias"] {
                    weights.add(&format!("experts.{name}"), &[EXPERTS, INNER]);
                }
            }
        }
        weights
    }

    fn add(&mut self, name: &str, shape: &[usize]) {
        let data = noise(name.bytes().map(usize::from).sum(), shape.iter().product());
        self.0.insert(name.to_owned(), (shape.to_vec(), data));
    }

    fn at(&self, name: &str, index: &[usize]) -> f64 {
        let (shape, data) = &self.0[name];
        let place = index.iter().zip(shape).fold(0, |place, (i, length)| place * length + i);
        data[place].into()
    }

    fn write(&self, dir: &Path) -> Result<Checkpoint> {
        let mut stored: Vec<Stored> = vec![];
        for (name, (shape, data)) in &self.0 {
            let data = data.iter().flat_map(|x| x.to_le_bytes()).collect();
            stored.push(Stored { name: name.clone(), dtype: Dtype::F32, shape: shape.clone(), data });
        }
        let views = stored.iter().map(|tensor| (tensor.name.as_str(), tensor));
        std::fs::write(dir.join("model.safetensors"), safetensors::serialize(views, None)?)?;
        Ok(Checkpoint::open(dir)?)
    }
}

// --- what is expected, straight from the definition

fn activation(how: ExpertActivation, gate: f64, up: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    // To 1e-7, which is well below what is allowed.
    let erf = |x: f64| {
        let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
        let poly =
            t * (0.254_829_592 + t * (-0.284_496_736 + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
        (1.0 - poly * (-x * x).exp()) * x.signum()
    };
    match how {
        ExpertActivation::Silu => gate * sigmoid(gate) * up,
        ExpertActivation::Gelu => gate / 2.0 * (1.0 + erf(gate / 2f64.sqrt())) * up,
        ExpertActivation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (gate + 0.044_715 * gate.powi(3));
            gate / 2.0 * (1.0 + inner.tanh()) * up
        }
        ExpertActivation::Relu => gate.max(0.0) * up,
        ExpertActivation::ClampedSwiglu { limit, alpha } => {
            let (limit, alpha) = (f64::from(limit), f64::from(alpha));
            let (gate, up) = (gate.min(limit), up.clamp(-limit, limit));
            (up + 1.0) * gate * sigmoid(alpha * gate)
        }
    }
}

fn expected(case: &Case, w: &Weights, token: usize) -> Vec<f64> {
    let x: Vec<f64> = (0..WIDTH).map(|n| w.at("words.weight", &[token, n])).collect();
    let score =
        |e: usize| (0..WIDTH).map(|n| x[n] * w.at("router.weight", &[e, n])).sum::<f64>() + w.at("router.bias", &[e]);
    let mut best: Vec<(f64, usize)> = (0..EXPERTS).map(|e| (score(e), e)).collect();
    best.sort_by(|a, b| b.0.total_cmp(&a.0));
    best.truncate(case.chosen);
    let total: f64 = best.iter().map(|(score, _)| score.exp()).sum();
    let mut y = vec![0.0; WIDTH];
    for (score, e) in best {
        let weight = score.exp() / total;
        let scale = if case.weigh == Weigh::Input { weight } else { 1.0 };
        let inner = |name: &str, i: usize| {
            let second = usize::from(name == "up");
            let (matrix, bias): (&dyn Fn(usize) -> f64, f64) = match case.stored {
                Layout::Halves => (
                    &|n| w.at("experts.both", &[e, n, second * INNER + i]),
                    w.at("experts.both_bias", &[e, second * INNER + i]),
                ),
                Layout::ByTurns => (
                    &|n| w.at("experts.both", &[e, n, 2 * i + second]),
                    w.at("experts.both_bias", &[e, 2 * i + second]),
                ),
                Layout::PerExpert => {
                    (&|n| w.at(&format!("experts.{e}.{name}"), &[i, n]), w.at(&format!("experts.{name}_bias"), &[e, i]))
                }
                Layout::Apart | Layout::UpOnly => {
                    (&|n| w.at(&format!("experts.{name}"), &[e, n, i]), w.at(&format!("experts.{name}_bias"), &[e, i]))
                }
            };
            let bias = if case.bias { bias } else { 0.0 };
            (0..WIDTH).map(|n| scale * x[n] * matrix(n)).sum::<f64>() + bias
        };
        for i in 0..INNER {
            let up = inner("up", i);
            let h = match case.stored {
                Layout::UpOnly => activation(case.activation, up, 1.0),
                _ => activation(case.activation, inner("gate", i), up),
            };
            let out = if case.weigh == Weigh::Output { weight } else { 1.0 };
            (0..WIDTH).for_each(|n| y[n] += out * h * w.at("experts.down", &[e, i, n]));
        }
        if case.bias {
            let out = if case.weigh == Weigh::Output { weight } else { 1.0 };
            (0..WIDTH).for_each(|n| y[n] += out * w.at("experts.down_bias", &[e, n]));
        }
    }
    y
}

// --- what is described

fn described(case: &Case, at: Scope<'_>) -> Experts {
    let bias = |name: &str| case.bias.then(|| at.tensor(&format!("{name}_bias")));
    let whole = |name: &str| Projection { weight: at.tensor(name), bias: bias(name) };
    let per_expert = |name: &str| {
        let parts = (0..EXPERTS).map(|expert| at.tensor(&format!("{expert}.{name}")).transposed()).collect();
        Projection { weight: WeightExpr::Stack { axis: 0, parts }, bias: bias(name) }
    };
    let inner = INNER as u64;
    let (gate, up) = match case.stored {
        Layout::Apart => (Some(whole("gate")), whole("up")),
        Layout::UpOnly => (None, whole("up")),
        Layout::PerExpert => (Some(per_expert("gate")), per_expert("up")),
        Layout::Halves => {
            let half =
                |n| whole("both").part(&Rows { groups: 1, width: 2 * inner, columns: n * inner..(n + 1) * inner });
            (Some(half(0)), half(1))
        }
        Layout::ByTurns => {
            let every_other = |n| whole("both").part(&Rows { groups: inner, width: 2, columns: n..n + 1 });
            (Some(every_other(0)), every_other(1))
        }
    };
    let (activation, weigh) = (case.activation, case.weigh);
    Experts { count: EXPERTS as u64, inner, gate, up, down: whole("down"), activation, weigh }
}

fn run(case: &Case, checkpoint: &Checkpoint, target: Target, engine: &dyn Engine) -> Result<(Vec<f32>, Residence)> {
    let index = checkpoint.index();
    let g = GraphBuilder::new("main", index);
    let ids = g.tokens();
    let x = embed(g.at("words"), ids, [WORDS as u64, WIDTH as u64], Embedding::default());
    let sent = top_then_softmax(g.at("router"), x, [EXPERTS as u64, case.chosen as u64], Bias::Yes);
    let at = g.at("experts");
    g.output("logits", Role::Logits, experts(at, x, sent, &described(case, at)));
    let model = Model {
        architecture: "Mixture".into(),
        task: Task::CausalLm,
        positions: None,
        stale_tensors: vec![],
        programs: vec![g.finish()?],
        links: vec![],
    };
    let prepared = prepare(model, index, &Features::default(), target)?;
    let source = (&prepared.model.programs[0], &prepared.programs[0]);
    let (mut programs, residence) = load(engine, checkpoint, &[source])?;
    let ids = Tensor::integers([1, case.tokens], (0..case.tokens as i64).collect());
    let y = programs[0].run(&[(Role::Tokens, ids)], &mut [])?;
    Ok(((0..y.rows()).flat_map(|row| y.row(row).to_vec()).collect(), residence))
}

fn check(case: &Case) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let weights = Weights::new(case.stored);
    let checkpoint = weights.write(dir.path())?;
    let expected: Vec<f64> = (0..case.tokens).flat_map(|token| expected(case, &weights, token)).collect();
    let largest = expected.iter().fold(0f64, |most, x| most.max(x.abs()));
    for engine in engines()? {
        for target in [Target::Cpu, Target::Aic] {
            let place = format!("{target:?} on {}", engine.name());
            let (found, residence) = run(case, &checkpoint, target, &*engine).with_context(|| place.clone())?;
            ensure!(found.len() == expected.len(), "{place}: {} numbers, expected {}", found.len(), expected.len());
            let worst = found.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
            ensure!(worst <= 1e-5 * largest, "{place}: differs by {worst} of {largest}");
            if target == Target::Cpu {
                ensure!(residence.packed == 0, "matrices were copied: {residence:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn every_form_on_both_targets() {
    let swiglu = ExpertActivation::ClampedSwiglu { limit: 0.75, alpha: 1.702 };
    let gated =
        [ExpertActivation::Silu, ExpertActivation::Gelu, ExpertActivation::GeluTanh, ExpertActivation::Relu, swiglu];
    let mut failures = vec![];
    let mut number = 0;
    for stored in [Layout::Apart, Layout::Halves, Layout::ByTurns, Layout::PerExpert, Layout::UpOnly] {
        for activation in gated {
            if stored == Layout::UpOnly && activation == swiglu {
                continue;
            }
            // The other choices take turns, so that each meets each form.
            number += 1;
            let weigh = if number % 2 == 0 { Weigh::Input } else { Weigh::Output };
            let [chosen, tokens] = [[1, 1], [2, 3], [EXPERTS, WORDS]][number % 3];
            for bias in [false, true] {
                let case = Case { stored, activation, weigh, bias, chosen, tokens };
                failures.extend(check(&case).err().map(|error| format!("{case:?}: {error:#}")));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
