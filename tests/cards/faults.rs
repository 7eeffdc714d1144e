//! What goes wrong at run time: each fault is an error of its own, in time, and others go on.

use std::time::{Duration, Instant};

use qeff::cards::{check as check_calls, fault, several};
use qeff::{cases, fixture};
use qeff_standin::config::{Compiler, Fault, SimConfig, What};

use crate::{ask, cards, check, ids, run};

const WORDS: &str = "--prompt-ids 1,2,3 --max-new-tokens 4 --ctx-len 48";

fn status(code: u32, said: &str) -> What {
    What::Status(code, said.to_owned())
}

#[test]
fn every_call_that_fails_says_so_in_its_own_way() {
    let sdk = cards(&several(1));
    // Compiled once; from here on only the runtime fails.
    run("llama/base", &sdk).words(WORDS).succeeds();
    sdk.clean_calls();
    let cases = [
        ("qaicCreateContext", 500, "Failed to initialize driver", "qaicCreateContext failed on card 0: 500 ERROR"),
        ("qaicOpenQpcFile", 6, "bad container", "qaicOpenQpcFile failed on HOME"),
        ("qaicProgramPropertiesInitDefault", 11, "", "qaicProgramPropertiesInitDefault failed on SDK"),
        ("qaicCreateQueue", 3, "", "qaicCreateQueue failed on card 0: 3 NOMEM: out of memory"),
        (
            "qaicCreateProgram",
            500,
            "Device 0 does not satisfy the resource requirements",
            "  | Device 0 does not satisfy the resource requirements",
        ),
        ("qaicLoadProgram", 3, "no memory", "qaicLoadProgram failed on card 0: 3 NOMEM: out of memory"),
        (
            "qaicRunActivationCmd",
            500,
            "QAIC_ERROR_NSP_ALLOC_FAILED: Failed to allocate NSP resources",
            "the program takes 16 cores of each card; free: card 0 has 16 of 16",
        ),
        ("qaicProgramGetIoDescriptor", 6, "", "qaicProgramGetIoDescriptor failed on card 0: 6 INVAL"),
        ("qaicCreateExecObj", 3, "", "qaicCreateExecObj failed on card 0: 3 NOMEM"),
        ("qaicExecObjSetDataExt", 6, "wrong", "qaicExecObjSetDataExt failed on card 0: 6 INVAL"),
        ("qaicEnqueueExecObj", 7, "queue is full", "qaicEnqueueExecObj failed on card 0: 7 NOSPC"),
        ("qaicExecObjWaitForCompletion", 10, "", "qaicExecObjWaitForCompletion failed on card 0: 10 PROTOCOL"),
        ("run", 500, "the program crashed", "  | the program crashed"),
        ("run", 12, "", "qaicExecObjWaitForCompletion failed on card 0: 12 DATA_CRC_ERROR: data arrived damaged"),
    ];
    let mut seen = vec![];
    for (call, code, said, expected) in cases {
        sdk.configure(&fault(call, 1, status(code, said)));
        let outcome = run("llama/base", &sdk).words(WORDS).run();
        assert_eq!(outcome.code, Some(3), "{call}: {}", outcome.stderr);
        let errors: Vec<_> = outcome.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{call}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(expected), "{call}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("\nhint: "), "{call}: {}", outcome.stderr);
        let message = outcome.stderr[outcome.stderr.find("error: ").unwrap_or(0)..].to_owned();
        assert!(!seen.contains(&message), "{call}: said before: {message}");
        seen.push(message);
        sdk.clean_calls();
    }
}

#[test]
fn a_failed_call_ends_its_requests_and_others_go_on() {
    let sdk = cards(&several(1));
    let all = cases(&fixture("llama/base")).expect("a fixture");
    let way = "--ctx-len 48 --batch-size 1";
    let outcome = ask(run("llama/base", &sdk), &all).words(way).succeeds();
    check("all is well", &all, &outcome);
    sdk.clean_calls();
    // The second call that advances the first prompt fails.
    sdk.configure(&fault("qaicEnqueueExecObj", 3, status(7, "queue is full")));
    let outcome = ask(run("llama/base", &sdk), &all).words(way).run();
    assert_eq!(outcome.code, Some(3), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("error: prompt 0: not answered to the end"), "{}", outcome.stderr);
    let outputs = outcome.json();
    let outputs = outputs["outputs"].as_array().expect("outputs");
    let (failed, answered) = (&outputs[0], &outputs[1..]);
    assert_eq!(failed["finish"], "error");
    assert!(failed["error"].as_str().is_some_and(|error| error.contains("7 NOSPC")), "{failed}");
    assert!(all[0].greedy.starts_with(&ids(&failed["generated_ids"])), "what there was is right");
    assert_eq!(answered.len(), all.len() - 1);
    for (case, output) in all[1..].iter().zip(answered) {
        assert_eq!(
            (output["finish"].as_str(), ids(&output["generated_ids"]).len()),
            (Some("length"), case.greedy.len())
        );
        let got = crate::completion(output);
        qeff::compare_within(case, &got, crate::TOLERANCE).unwrap_or_else(|error| panic!("{error:#}"));
    }
    sdk.clean_calls();
}

#[test]
fn a_lost_card_ends_everything_on_it_at_once() {
    let sdk = cards(&several(1));
    let all = cases(&fixture("llama/base")).expect("a fixture");
    let way = "--ctx-len 48 --full-batch-size 2";
    ask(run("llama/base", &sdk), &all).words(way).succeeds();
    sdk.clean_calls();
    sdk.configure(&fault("run", 4, What::DeviceError));
    let outcome = ask(run("llama/base", &sdk), &all).words(way).run();
    assert_eq!(outcome.code, Some(3), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("300 DEV_ERROR: the device failed"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("the card may have to be reset"), "{}", outcome.stderr);
    let json = outcome.json();
    assert!(json["outputs"].as_array().is_some_and(|all| all.iter().all(|output| output["finish"] == "error")));
    check_calls(&sdk.calls(), false);
}

#[test]
fn a_card_that_does_not_answer_is_given_up_in_time() {
    for layout in [qeff_standin::config::Layout::New, qeff_standin::config::Layout::Classic] {
        let sdk = cards(&SimConfig { layout, ..several(1) });
        run("llama/base", &sdk).words(WORDS).succeeds();
        sdk.clean_calls();
        let faults = vec![Fault { call: "run".into(), nth: 2, ever_after: false, what: What::Hang }];
        sdk.configure(&SimConfig { layout, faults, ..SimConfig::default() });
        let begun = Instant::now();
        let outcome = run("llama/base", &sdk).words(WORDS).words("--device-timeout 1").run();
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        assert_eq!(outcome.code, Some(3), "{}", outcome.stderr);
        // A library that is told of the limit says what it would take; one that is not is not waited for.
        let expected = match layout {
            qeff_standin::config::Layout::New => "Increase QAicProgramProperties::dataPathTimeoutMs, current: 1000.",
            qeff_standin::config::Layout::Classic => "card 0 did not answer within 1 s; what is on it is given up",
        };
        assert!(outcome.stderr.contains(expected), "{layout:?}: {}", outcome.stderr);
        check_calls(&sdk.calls(), false);
    }
}

#[test]
fn a_compiler_that_fails_leaves_nothing_that_is_taken_for_a_program() {
    let failing = |compiler| SimConfig { compiler, ..several(1) };
    let broken = Compiler { fail: Some("QAIC_ERROR: too bad".into()), code: 255, partial: true, ..Compiler::default() };
    let cases = [
        (broken, WORDS.to_owned(), "QAIC_ERROR: too bad"),
        (Compiler { killed: true, partial: true, ..Compiler::default() }, WORDS.to_owned(), "signal"),
        (Compiler { hang: true, ..Compiler::default() }, format!("{WORDS} --compile-timeout 1"), "was ended after 1 s"),
    ];
    let sdk = cards(&several(1));
    for (compiler, words, expected) in cases {
        sdk.configure(&failing(compiler));
        let said = run("llama/base", &sdk).words(&words).fails(3);
        assert!(said.contains(expected), "{said}");
        assert!(qeff::cards::of(&sdk.calls(), "qaicLoadProgram").is_empty(), "nothing was loaded");
    }
    sdk.configure(&several(1));
    run("llama/base", &sdk).words(WORDS).succeeds();
    run("llama/base", &sdk).words(WORDS).succeeds();
    let calls = sdk.clean_calls();
    assert_eq!(qeff::cards::of(&calls, "qaic-compile").len(), 1, "and no more once it is made");
}
