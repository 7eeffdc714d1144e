//! The runtime as a library: programs called by name, several calls at once, several programs in a process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use qeff::cards::{Cards, several};
use qeff::{Silent, cases, compare_within, fixture};
use qeff_host::generate::{Options, Request, Sampling, generate};
use qeff_host::runtime::qaic::locate::locate;
use qeff_host::runtime::qaic::program::Installed;
use qeff_host::runtime::qaic::session::EXECUTIONS;
use qeff_host::runtime::qaic::{OpenOptions, QaicError, QaicProgram, QaicSession};
use qeff_host::runtime::{Callable as _, RuntimeError, Session as _, Tensor};
use qeff_standin::config::{Fault, SimConfig, What};

use crate::{TOLERANCE, cards, qeff};

fn compiled(cards: &Cards, words: &str) -> PathBuf {
    let command = qeff("compile", cards).model(&fixture("llama/base")).path("--sdk", cards.root(), "SDK").words(words);
    PathBuf::from(command.succeeds().stdout.trim_end())
}

pub(crate) fn open(sdk: &Path, qpc: &Path, card: i32) -> Result<QaicProgram, QaicError> {
    let timeout = Duration::from_secs(2);
    let options = OpenOptions { cards: vec![card], timeout, executions: EXECUTIONS };
    QaicProgram::open(&Installed::open(&locate(Some(sdk)))?, qpc, &options)
}

fn misuse(error: &RuntimeError) -> &str {
    match error {
        RuntimeError::Cards(QaicError::Misuse(why)) => why,
        other => panic!("{other}"),
    }
}

#[test]
fn by_name() {
    let sdk = cards(&several(1));
    let qpc = compiled(&sdk, "--prompt-len 4 --ctx-len 48");
    sdk.calls();
    let mut program = open(sdk.root(), &qpc, 0).expect("a program");
    let case = &cases(&fixture("llama/base")).expect("a fixture")[0];
    let (mut logits, mut written) = (vec![], 0);
    for chunk in case.prompt.chunks(4) {
        let mut ids: Vec<i64> = chunk.iter().map(|&id| id.into()).collect();
        let mut positions: Vec<i64> = (written..written + ids.len()).map(|p| p as i64).collect();
        written += ids.len();
        ids.resize(4, 0);
        positions.resize(4, -1);
        let (ids, positions) = (Tensor::integers([1, 4], ids), Tensor::integers([1, 4], positions));
        let outputs = program.call(&[("input_ids", &ids), ("position_ids", &positions)]).expect("an answer");
        let [(name, tensor)] = outputs.as_slice() else { panic!("states stay inside: {outputs:?}") };
        assert_eq!((name.as_str(), &tensor.shape[..2]), ("logits", &[1, 1][..]));
        logits = tensor.as_f32().expect("numbers").to_vec();
    }
    let largest = case.step_logits[0].iter().fold(0f32, |max, x| max.max(x.abs()));
    let worst = case.step_logits[0].iter().zip(&logits).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(worst <= TOLERANCE * largest, "{worst}");

    let (ids, wide) = (Tensor::filled([1, 4], 1), Tensor::filled([1, 3], 1));
    let error = program.call(&[("input_ids", &ids)]).expect_err("no positions");
    assert_eq!(misuse(&error), "nobody gives `position_ids`");
    let error = program.call(&[("input_ids", &ids), ("ids", &ids)]).expect_err("no such input");
    assert_eq!(misuse(&error), "the program has no input `ids`");
    let error = program.call(&[("input_ids", &wide), ("position_ids", &wide)]).expect_err("no such shape");
    assert_eq!(
        misuse(&error),
        "no shapes of the program are those of the call: input_ids [1, 3], position_ids [1, 3]\n  \
         allowed: input_ids [1, 4], position_ids [1, 4]\n  allowed: input_ids [1, 1], position_ids [1, 1]"
    );
    let floats = Tensor::floats([1, 4], vec![0.0; 4]);
    let error = program.call(&[("input_ids", &floats), ("position_ids", &ids)]).expect_err("no integers");
    assert_eq!(misuse(&error), "f32 cannot be given to an input of i64");
    drop(program);
    sdk.clean_calls();
}

#[test]
fn several_calls_at_once() {
    let sdk = cards(&SimConfig { latency_ms: 50, ..several(1) });
    let qpc = compiled(&sdk, "--full-batch-size 2 --prompt-len 4 --ctx-len 48");
    sdk.calls();
    let mut program = open(sdk.root(), &qpc, 0).expect("a program");
    let interface = program.interface().clone();
    let find = |name: &str| interface.find(name).expect("a binding");
    let (ids, positions, slot, logits) = (find("input_ids"), find("position_ids"), find("batch_index"), find("logits"));
    let set = |program: &mut QaicProgram, number: usize| {
        let execution = program.execution(number).expect("an execution");
        let bytes = |numbers: [i64; 4]| numbers.map(i64::to_le_bytes).concat();
        execution.set(ids, &[1, 4]).expect("ids").copy_from_slice(&bytes([1, 2, 3, 4]));
        execution.set(positions, &[1, 4]).expect("positions").copy_from_slice(&bytes([0, 1, 2, 3]));
        execution.set(slot, &[1, 1]).expect("a slot").copy_from_slice(&(number as i64).to_le_bytes());
        execution.set(logits, &interface.rows[0][logits]).expect("logits");
    };
    (0..2).for_each(|number| set(&mut program, number));
    let tickets = [program.submit(0).expect("a call"), program.submit(1).expect("another")];
    // What is with the card cannot be touched.
    for number in 0..2 {
        let execution = program.execution(number).expect("an execution");
        assert!(
            execution.set(ids, &[1, 4]).is_err() && execution.skip(ids).is_err() && execution.bytes(logits).is_err()
        );
    }
    assert!(program.submit(0).is_err(), "it is in progress");
    let results = tickets.map(|ticket| {
        let execution = program.complete(ticket).expect("an answer");
        execution.bytes(logits).expect("logits").to_vec()
    });
    assert_eq!(results[0], results[1], "the same prompt in two slots");
    // Only the ids change: everything else stays set.
    let execution = program.execution(0).expect("an execution");
    let other = [5i64, 6, 7, 8].map(i64::to_le_bytes).concat();
    execution.set(ids, &[1, 4]).expect("ids").copy_from_slice(&other);
    // Somebody still reads the last result, so the next call does not write over it.
    let (kept, bytes) = execution.share(logits).expect("logits");
    let ticket = {
        let dims = interface.rows[0][logits].clone();
        program.execution(0).expect("an execution").set(logits, &dims).expect("logits");
        program.submit(0).expect("a call")
    };
    let new = program.complete(ticket).expect("an answer").bytes(logits).expect("logits").to_vec();
    assert_ne!(new, results[0]);
    assert_eq!(kept.bytes(bytes), results[0]);
    // Nor does one before which nobody set it anew.
    let (kept, bytes) = program.execution(0).expect("an execution").share(logits).expect("logits");
    let execution = program.execution(0).expect("an execution");
    execution.set(ids, &[1, 4]).expect("ids").copy_from_slice(&[1i64, 2, 3, 4].map(i64::to_le_bytes).concat());
    let ticket = program.submit(0).expect("a call");
    assert_eq!(program.complete(ticket).expect("an answer").bytes(logits).expect("logits"), results[0]);
    assert_eq!(kept.bytes(bytes), new);
    // One that is dropped while a call is in progress waits for it.
    let _ticket = program.submit(1).expect("a call");
    drop(program);
    sdk.clean_calls();
}

#[test]
fn a_program_that_is_lost_leaves_others_alone() {
    let sdk = cards(&several(2));
    let qpc = compiled(&sdk, "--prompt-len 4 --ctx-len 48");
    // The second run of all is the first of the second program.
    let hang = Fault { call: "run".into(), nth: 2, ever_after: false, what: What::DeviceError };
    sdk.configure(&SimConfig { faults: vec![hang], ..several(2) });
    sdk.calls();
    let session = |card| QaicSession::new(open(sdk.root(), &qpc, card).expect("a program"), None).expect("a session");
    let (mut first, mut second) = (session(0), session(1));
    let all = cases(&fixture("llama/base")).expect("a fixture");
    let request = |case: &qeff::Case, new| Request { prompt: case.prompt.clone(), max_new_tokens: new };
    let options = Options { sampling: Sampling::default(), eos: vec![], chunk: 64, keep_logits: true };
    let short = &all.iter().find(|case| case.prompt.len() <= 4).map(|case| request(case, 1));
    let short = short.clone().unwrap_or(Request { prompt: vec![1, 2], max_new_tokens: 1 });
    generate(&mut first, &[short], &options, &mut Silent).expect("a first answer");
    let error = generate(&mut second, &[request(&all[0], 4)], &options, &mut Silent).expect_err("it is lost");
    assert!(error.to_string().contains("qaicExecObjWaitForCompletion failed on card 1: 300 DEV_ERROR"), "{error}");
    let error = generate(&mut second, &[request(&all[0], 4)], &options, &mut Silent).expect_err("it stays so");
    assert!(error.to_string().contains("the program on card 1 was given up"), "{error}");
    let case = &all[0];
    let (done, _) = generate(&mut first, &[request(case, case.greedy.len())], &options, &mut Silent).expect("answers");
    compare_within(case, &done[0], TOLERANCE).expect("the right ones");
    assert_eq!(first.context(), 48);
}
