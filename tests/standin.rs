//! What the host compiles with the stand-in SDK, driven through the C functions of its library: the same ids as Hugging
//! Face's, with states that stay on the device, start as rubbish and are stored as f16.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use qeff::cards::{Cards, LIBRARY, check as check_calls, several};
use qeff::command::Command;
use qeff::{Case, cases, fixture};
use qeff_standin::SimConfig;
use qeff_standin::client::{Client, ProgramWish, Tensor};
use qeff_standin::config::StateInit;
use qeff_standin::graph::invalid::Negative;
use qeff_standin::header::Properties;
use qeff_standin::qpc::image::Image;
use qeff_standin::qpc::network::Network;

/// Largest difference of logits, relative to the largest: keys and values are rounded to eleven bits.
const F16: f32 = 5e-3;
/// The same where weights are rounded, too.
const HALF: f32 = 1e-2;
/// The same where keys and values are rounded to seven.
const MXINT8: f32 = 0.1;

fn standin(config: &SimConfig) -> Cards {
    Cards::new(env!("CARGO_BIN_EXE_qeff-standin-under-test"), config).with_own_library()
}

/// Compiles a checkpoint and returns its `programqpc.bin`.
fn compile(standin: &Cards, model: &Path, words: &str) -> PathBuf {
    let command = Command::new(env!("CARGO_BIN_EXE_qeff-host-under-test"), "compile");
    let outcome =
        command.model(model).path("--sdk", standin.root(), "SDK").home(&standin.home()).words(words).succeeds();
    Path::new(outcome.stdout.trim_end()).join("programqpc.bin")
}

/// A program that is active.
struct Device {
    client: Client,
    network: Network,
    context: u64,
    qpc: u64,
    program: u64,
    queue: u64,
    exec: u64,
}

/// Tokens of one sequence in a call.
struct Tokens<'a> {
    slot: usize,
    start: usize,
    ids: &'a [u32],
}

impl Device {
    fn open(standin: &Cards, qpc: &Path, cards: &[i32]) -> Result<Self> {
        let (image, _) = Image::read(&std::fs::read(qpc)?)?;
        let client = Client::open(&standin.root().join(LIBRARY))?;
        let answer = |name: &'static str| move |status: u32| anyhow::anyhow!("{name}: {status}");
        let context = client.create_context(cards, None).map_err(answer("context"))?;
        let queue = client.create_queue(context, cards[0]).map_err(answer("queue"))?;
        let qpc = client.open_qpc(qpc).map_err(answer("QPC"))?;
        let mapping = cards.iter().map(i32::to_string).collect::<Vec<_>>().join(":");
        let wish =
            ProgramWish { device: cards[0], mapping: (cards.len() > 1).then_some(&*mapping), timeout_ms: Some(60_000) };
        let layout = Properties::of(SimConfig::default().layout);
        let program = client.create_program(context, qpc, layout, &wish).map_err(answer("program"))?;
        client.one("qaicLoadProgram", program).map_err(answer("load"))?;
        client.activation(program, true).map_err(answer("activation"))?;
        let exec = client.create_exec(context, program).map_err(answer("execution object"))?;
        Ok(Device { client, network: image.network, context, qpc, program, queue, exec })
    }

    /// Ends it in the order in which the library wants it.
    fn close(self) -> Result<()> {
        let Device { client, context, qpc, program, queue, exec, .. } = self;
        let ends = [
            client.one("qaicReleaseExecObj", exec),
            client.activation(program, false),
            client.one("qaicUnloadProgram", program),
            client.one("qaicReleaseProgram", program),
            client.one("qaicCloseQpc", qpc),
            client.one("qaicReleaseQueue", queue),
            client.one("qaicReleaseContext", context),
        ];
        ensure!(ends.iter().all(Result::is_ok), "{ends:?}");
        Ok(())
    }

    fn at(&self, name: &str) -> Option<usize> {
        self.network.bindings.iter().position(|binding| binding.name == name)
    }

    /// One call with the first row whose token inputs are that wide and take that many sequences; logits of each line.
    fn call(&self, width: usize, lines: &[Tokens<'_>]) -> Result<Vec<Vec<f32>>> {
        let ids = self.at("input_ids").context("no input_ids")?;
        let reach = lines.iter().map(|line| line.start + line.ids.len()).max().unwrap_or(0);
        let context = self.at("comp_ctx_lengths");
        let kept = self.at("num_logits_to_keep");
        let fits = |row: &&Vec<Vec<usize>>| {
            row[ids] == [lines.len(), width]
                && context.is_none_or(|context| row[context][0] >= reach)
                && kept.is_none_or(|kept| row[kept][0] == 1)
        };
        let row = self.network.rows.iter().find(fits);
        let row = row.with_context(|| format!("no row for {} lines of {width}", lines.len()))?;
        let mut tensors: Vec<Tensor> = self
            .network
            .bindings
            .iter()
            .zip(row)
            .map(|(binding, dims)| {
                let dims: Vec<u32> = dims.iter().map(|&dim| dim as u32).collect();
                let elem_size = binding.elem.size() as u32;
                let padded = |line: &Tokens<'_>, fill: i64, number: &dyn Fn(usize) -> i64| -> Vec<i64> {
                    (0..width).map(|i| if i < line.ids.len() { number(i) } else { fill }).collect()
                };
                match binding.name.as_str() {
                    _ if binding.partial => Tensor::skipped(elem_size),
                    "input_ids" => {
                        Tensor::i64(&dims, lines.iter().flat_map(|line| padded(line, 0, &|i| i64::from(line.ids[i]))))
                    }
                    "position_ids" => {
                        Tensor::i64(&dims, lines.iter().flat_map(|line| padded(line, -1, &|i| (line.start + i) as i64)))
                    }
                    "batch_index" => Tensor::i64(&dims, lines.iter().map(|line| line.slot as i64)),
                    _ => Tensor::room(&dims, elem_size),
                }
            })
            .collect();
        let run = self.client.run(self.queue, self.exec, &mut tensors);
        run.map_err(|status| anyhow::anyhow!("run: {status}"))?;
        let logits = tensors[self.at("logits").context("no logits")?].as_f32();
        Ok(logits.chunks_exact(logits.len() / lines.len()).map(<[f32]>::to_vec).collect())
    }

    /// Widths of the token inputs: of a prefill, then of a decode.
    fn widths(&self) -> Result<(usize, usize)> {
        let ids = self.at("input_ids").context("no input_ids")?;
        let widths = self.network.rows.iter().map(|row| row[ids][1]);
        widths.clone().max().zip(widths.min()).context("no rows")
    }

    /// Reads a prompt in chunks; the logits of its last token.
    fn prefill(&self, slot: usize, prompt: &[u32]) -> Result<Vec<f32>> {
        let (width, _) = self.widths()?;
        let mut logits = vec![];
        for (i, ids) in prompt.chunks(width).enumerate() {
            logits = self.call(width, &[Tokens { slot, start: i * width, ids }])?.remove(0);
        }
        Ok(logits)
    }
}

/// Compares a row of logits with the reference's, and the id with the greedy one where that is certain.
fn compare(case: &Case, step: usize, got: &[f32], tolerance: f32) -> Result<()> {
    let expected = &case.step_logits[step];
    ensure!(got.len() == expected.len(), "{} logits, expected {}", got.len(), expected.len());
    let largest = case.step_logits.iter().flatten().fold(0f32, |largest, logit| largest.max(logit.abs()));
    let worst = got.iter().zip(expected).fold(0f32, |worst, (got, expected)| worst.max((got - expected).abs()));
    ensure!(worst <= tolerance * largest, "prompt {}, step {step}: {worst} of {largest}", case.name);
    let id = (0..got.len()).reduce(|best, i| if got[i] > got[best] { i } else { best });
    if case.margins[step] > 2.0 * tolerance * largest {
        ensure!(id == Some(case.greedy[step] as usize), "prompt {}, step {step}: id {id:?}", case.name);
    }
    Ok(())
}

/// Each prompt by itself on the same activation: states hold what the one before left.
fn alone(device: &Device, cases: &[Case], tolerance: f32) -> Result<()> {
    for case in cases {
        compare(case, 0, &device.prefill(0, &case.prompt)?, tolerance)?;
        for step in 1..case.greedy.len() {
            compare(case, step, &device.call(1, &[decoded(0, case, step)])?[0], tolerance)?;
        }
    }
    Ok(())
}

fn check(config: &SimConfig, name: &str, words: &str, cards: &[i32]) -> Result<()> {
    let standin = standin(config);
    let dir = fixture(name);
    let device = Device::open(&standin, &compile(&standin, &dir, words), cards)?;
    let tolerance = if words.contains("mxint8") { MXINT8 } else { F16 };
    alone(&device, &cases(&dir)?, tolerance).with_context(|| name.to_owned())?;
    device.close()?;
    check_calls(&standin.calls(), true);
    Ok(())
}

#[test]
fn every_architecture() {
    let names = [
        "llama/base",
        "llama/odd-vocab",
        "llama/one-kv-head",
        "llama/f16",
        "gpt2/base",
        "qwen2/base",
        "qwen3/base",
        "granite/multipliers",
        "mistral/head-dim",
        "mistral/sliding",
        "gpt_oss/base",
        "quantised/awq",
        "quantised/gptq",
        "quantised/gptq-act-order",
        "quantised/mxfp4",
    ];
    let failure = |name: &&str| {
        let done = check(&SimConfig::default(), name, "--prompt-len 4 --ctx-len 48", &[0]);
        Some(format!("{name}: {:#}", done.err()?))
    };
    let failures: Vec<_> = names.iter().filter_map(failure).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn what_states_hold_at_first_does_not_matter() {
    for state_init in [StateInit::Nan, StateInit::Zero] {
        for negative_rows in [Negative::Drop, Negative::Wrap] {
            let config = SimConfig { state_init, negative_rows, ..SimConfig::default() };
            check(&config, "llama/base", "--prompt-len 4 --ctx-len 48", &[0]).expect("right logits");
        }
    }
}

#[test]
fn several_forms_of_one_program() {
    let four = several(4);
    for (words, cards) in [
        ("--num-devices 2", &[1, 3][..]),
        ("--num-devices 4", &[3, 2, 1, 0]),
        ("--mxint8-kv-cache", &[2]),
        ("--ccl-enabled --comp-ctx-lengths-prefill 24 --comp-ctx-lengths-decode 32,48", &[0]),
        ("--num-speculative-tokens 0,2", &[0]),
    ] {
        check(&four, "llama/base", &format!("--prompt-len 4 --ctx-len 48 {words}"), cards).expect(words);
    }
}

/// Weights in the checkpoint's own files, and a program that is f16 throughout.
#[test]
fn exported_before() -> Result<()> {
    let standin = standin(&SimConfig::default());
    let dir = fixture("llama/base");
    for (name, words, tolerance) in [("linked", "--storage linked", F16), ("half", "--dtype f16", HALF)] {
        let exported = standin.home().join(name);
        let command = Command::new(env!("CARGO_BIN_EXE_qeff-host-under-test"), "export").model(&dir);
        command.path("--output", &exported, "OUTPUT").words("--target aic").words(words).succeeds();
        let onnx = exported.join("LlamaForCausalLM.onnx");
        let command = Command::new(env!("CARGO_BIN_EXE_qeff-host-under-test"), "compile");
        let command = command.path("--sdk", standin.root(), "SDK").home(&standin.home());
        let outcome = command.path("--onnx-path", &onnx, "ONNX").words("--prompt-len 4 --ctx-len 48").succeeds();
        let device = Device::open(&standin, &Path::new(outcome.stdout.trim_end()).join("programqpc.bin"), &[0])?;
        alone(&device, &cases(&dir)?, tolerance).context(name)?;
        device.close()?;
    }
    Ok(())
}

/// Two prompts in slots 2 and 0 of three, decoded together; the third takes slot 2 over while slot 0 goes on.
#[test]
fn continuous_batching() -> Result<()> {
    let standin = standin(&SimConfig::default());
    let dir = fixture("llama/base");
    let qpc = compile(&standin, &dir, "--prompt-len 4 --ctx-len 48 --full-batch-size 3");
    let device = Device::open(&standin, &qpc, &[0])?;
    let cases = cases(&dir)?;
    let (first, second, third) = (&cases[1], &cases[cases.len() - 1], &cases[0]);
    compare(first, 0, &device.prefill(2, &first.prompt)?, F16)?;
    compare(second, 0, &device.prefill(0, &second.prompt)?, F16)?;
    let half = second.greedy.len() / 2;
    let run = |other: &Case, begin: usize, steps: std::ops::Range<usize>| -> Result<()> {
        for step in steps {
            let idle = Tokens { slot: 1, start: 0, ids: &[] };
            let lines = [decoded(2, other, step - begin), idle, decoded(0, second, step)];
            let logits = device.call(1, &lines)?;
            compare(other, step - begin, &logits[0], F16)?;
            compare(second, step, &logits[2], F16)?;
        }
        Ok(())
    };
    run(first, 0, 1..half)?;
    compare(third, 0, &device.prefill(2, &third.prompt)?, F16)?;
    run(third, half - 1, half..second.greedy.len())?;
    device.close()
}

/// What is read at a step of a decode.
fn decoded(slot: usize, case: &Case, step: usize) -> Tokens<'_> {
    Tokens { slot, start: case.prompt.len() + step - 1, ids: &case.greedy[step - 1..step] }
}

#[test]
fn the_same_qpc_over_qnn() -> Result<()> {
    let standin = standin(&SimConfig::default());
    let dir = fixture("llama/base");
    let command = Command::new(env!("CARGO_BIN_EXE_qeff-host-under-test"), "compile");
    let command = command.model(&dir).home(&standin.home()).env("QNN_SDK_ROOT", standin.root());
    let outcome = command.words("--enable-qnn --prompt-len 4 --ctx-len 48").succeeds();
    let qpc = Path::new(outcome.stdout.trim_end()).join("programqpc.bin");
    let device = Device::open(&standin, &qpc, &[0])?;
    alone(&device, &cases(&dir)?, F16)?;
    device.close()?;

    // But for the options, which QNN has no words for, it is what the other way makes.
    let other = compile(&standin, &dir, "--prompt-len 4 --ctx-len 48");
    let read = |path: &Path| -> Result<_> { Ok(Image::read(&std::fs::read(path)?)?.0) };
    let (mut over_qnn, mut direct) = (read(&qpc)?, read(&other)?);
    for image in [&mut over_qnn, &mut direct] {
        let marker = image.marker.as_mut().context("no marker")?;
        marker.facts.options.clear();
        marker.facts.specializations.sort();
    }
    assert_eq!(over_qnn, direct);
    Ok(())
}

#[test]
fn compiling_twice_makes_the_same_bytes() {
    let standin = standin(&SimConfig::default());
    let dir = fixture("llama/base");
    let first = std::fs::read(compile(&standin, &dir, "")).expect("a QPC");
    let second = std::fs::read(compile(&standin, &dir, "--force")).expect("a QPC");
    assert_eq!(first, second);
}
