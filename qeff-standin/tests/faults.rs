//! What goes wrong in the library, and what its users do wrong.

mod support;

use std::time::{Duration, Instant};

use qeff_standin::SimConfig;
use qeff_standin::client::ProgramWish;
use qeff_standin::config::{Fault, What};

use support::{Active, Sdk, call};

const BUSY: u32 = 4;
const INVAL: u32 = 6;
const NOSPC: u32 = 7;
const TIMEDOUT: u32 = 9;
const DEV_ERROR: u32 = 300;
const ERROR: u32 = 500;

fn faulty(call: &str, nth: u64, what: What) -> Sdk {
    let fault = Fault { call: call.into(), nth, ever_after: false, what };
    Sdk::new(SimConfig { faults: vec![fault], ..SimConfig::default() }).compiled(1)
}

/// Which call fails, how, and what the log says of it.
#[test]
fn every_fault() {
    let status = |status| What::Status(status, "injected".into());
    for (name, expected) in [
        ("qaicCreateContext", ERROR),
        ("qaicOpenQpcFile", INVAL),
        ("qaicCreateProgram", NOSPC),
        ("qaicLoadProgram", ERROR),
        ("qaicRunActivationCmd", NOSPC),
        ("qaicCreateExecObj", ERROR),
        ("qaicCreateQueue", ERROR),
    ] {
        let sdk = faulty(name, 1, status(expected));
        let client = sdk.client();
        assert_eq!(Active::new(&sdk, &client).err(), Some(expected), "{name}");
        let line = sdk.calls().into_iter().find(|line| line["call"] == name).expect("a line");
        assert_eq!((line["status"].as_u64(), &line["said"]), (Some(expected.into()), &"injected".into()), "{name}");
    }
    for (name, expected) in [("qaicExecObjSetDataExt", INVAL), ("qaicEnqueueExecObj", ERROR), ("run", ERROR)] {
        // The second one of each: what went before is as good as ever, and what comes after, too.
        let sdk = faulty(name, 2, status(expected));
        let client = sdk.client();
        let active = Active::new(&sdk, &client).expect("a program");
        assert_eq!(active.add(1, 0, &[1]), Ok(1.0), "{name}");
        assert_eq!(active.add(1, 1, &[1]), Err(expected), "{name}");
        assert!(active.add(1, 1, &[1]).is_ok(), "{name}");
        active.close().expect("the right order");
    }
}

#[test]
fn a_wait_that_fails_is_no_end_of_the_run() {
    let sdk = faulty("qaicExecObjWaitForCompletion", 1, What::Status(TIMEDOUT, "injected".into()));
    let client = sdk.client();
    let active = Active::new(&sdk, &client).expect("a program");
    let mut tensors = call(1, 0, &[1]);
    client.set_data(active.exec, &mut tensors).expect("set");
    client.enqueue(active.queue, active.exec, 0).expect("enqueued");
    assert_eq!(client.wait(active.exec, 10_000_000), Err(TIMEDOUT));
    // The buffers are still the card's.
    client.wait(active.exec, 10_000_000).expect("the run is done all the same");
    assert_eq!(tensors[3].as_f32(), [1.0]);
    active.close().expect("the right order");
}

#[test]
fn a_lost_card_is_lost_for_good() {
    let sdk = faulty("run", 2, What::DeviceError);
    let client = sdk.client();
    let active = Active::new(&sdk, &client).expect("a program");
    assert_eq!(active.add(1, 0, &[1]), Ok(1.0));
    assert_eq!(active.add(1, 1, &[1]), Err(DEV_ERROR));
    assert_eq!(active.add(1, 1, &[1]), Err(DEV_ERROR));
    assert_eq!(client.device_status(0), Ok(2));
    assert_eq!(client.create_exec(active.context, active.program), Err(DEV_ERROR));
    // It can be taken down, though the card says that it is not there.
    client.one("qaicReleaseExecObj", active.exec).expect("released");
    assert_eq!(client.activation(active.program, false), Err(DEV_ERROR));
    client.one("qaicUnloadProgram", active.program).expect("unloaded");
    client.one("qaicReleaseProgram", active.program).expect("released");
    client.one("qaicCloseQpc", active.qpc).expect("closed");
    client.one("qaicReleaseQueue", active.queue).expect("released");
    client.one("qaicReleaseContext", active.context).expect("released");
    assert_eq!(sdk.misuses(), Vec::<String>::new());
}

#[test]
fn a_run_that_hangs_can_be_given_up() {
    let sdk = faulty("run", 1, What::Hang);
    let client = sdk.client();
    let active = Active::new(&sdk, &client).expect("a program");
    let mut tensors = call(1, 0, &[1]);
    client.set_data(active.exec, &mut tensors).expect("set");
    client.enqueue(active.queue, active.exec, 0).expect("enqueued");
    let began = Instant::now();
    assert_eq!(client.wait(active.exec, 100_000), Err(TIMEDOUT));
    assert!((Duration::from_millis(90)..Duration::from_secs(5)).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(client.enqueue(active.queue, active.exec, 0), Err(BUSY));
    active.close().expect("nothing waits for it");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn the_data_path_has_a_timeout_of_its_own() {
    let sdk = faulty("run", 1, What::Hang);
    let client = sdk.client();
    let wish = ProgramWish { timeout_ms: Some(50), ..ProgramWish::default() };
    let active = Active::with(&sdk, &client, &wish).expect("a program");
    assert_eq!(active.add(1, 0, &[1]), Err(ERROR));
    let run = sdk.calls().into_iter().find(|line| line.get("run").is_some()).expect("a run");
    let said = run["said"].as_str().unwrap_or_default();
    assert!(said.contains("Increase QAicProgramProperties::dataPathTimeoutMs, current: 50."), "{said}");
    assert_eq!(active.add(1, 0, &[1]), Ok(1.0));
    active.close().expect("the right order");
}

#[test]
fn what_users_do_wrong_is_written_down() {
    let sdk = Sdk::new(SimConfig { latency_ms: 200, ..SimConfig::default() }).compiled(1);
    let client = sdk.client();
    let active = Active::new(&sdk, &client).expect("a program");
    let Active { context, queue, qpc, program, exec, .. } = active;
    let mut wrong = vec![];
    let mut check = |answer: Result<(), u32>, status: u32, what: &'static str| {
        assert_eq!(answer, Err(status), "{what}");
        wrong.push(what);
    };
    // Before anything is enqueued.
    check(client.wait(exec, 1000), INVAL, "nothing was enqueued");
    check(client.enqueue(queue, exec, 0), INVAL, "without buffers");
    // While it runs.
    let mut tensors = call(1, 0, &[1]);
    client.set_data(exec, &mut tensors).expect("set");
    client.enqueue(queue, exec, 0).expect("enqueued");
    check(client.enqueue(queue, exec, 0), BUSY, "enqueued during its run");
    check(client.set_data(exec, &mut call(1, 0, &[1])), BUSY, "set during a run");
    check(client.one("qaicReleaseExecObj", exec), BUSY, "released during its run");
    client.wait(exec, 10_000_000).expect("done");
    // Out of order.
    check(client.activation(program, false), INVAL, "the activation is released before an execution object");
    check(client.one("qaicReleaseProgram", program), INVAL, "the program is released before an execution object");
    check(client.one("qaicUnloadProgram", program), INVAL, "unloaded while it is active");
    check(client.one("qaicCloseQpc", qpc), INVAL, "the QPC is released before a program");
    check(client.one("qaicReleaseContext", context), INVAL, "the context is released before a queue");
    check(client.one("qaicLoadProgram", program), INVAL, "loaded already");
    check(client.activation(program, true), INVAL, "active already");
    client.one("qaicReleaseExecObj", exec).expect("released");
    check(client.one("qaicReleaseProgram", program), INVAL, "released before it is deactivated");
    // After the end.
    check(client.one("qaicReleaseExecObj", exec), INVAL, "exec#5 was released");
    check(client.wait(exec, 1), INVAL, "exec#5 was released");
    check(client.one("qaicReleaseQueue", program), INVAL, "program#4 is no queue");
    check(client.one("qaicReleaseQueue", 0x1234_5678), INVAL, "0x12345678 was never a handle");
    client.activation(program, false).expect("inactive");
    check(client.activation(program, false), INVAL, "is not active");
    client.one("qaicUnloadProgram", program).expect("unloaded");
    check(client.one("qaicUnloadProgram", program), INVAL, "was not loaded");
    check(client.activation(program, true), INVAL, "was not loaded");
    let misuses = sdk.misuses();
    assert_eq!(misuses.len(), wrong.len(), "{misuses:#?}");
    for (misuse, part) in misuses.iter().zip(wrong) {
        assert!(misuse.contains(part), "{misuse}: expected {part}");
    }
}

#[test]
fn buffers_that_are_used_too_early_are_found_out() {
    let sdk = Sdk::new(SimConfig { latency_ms: 300, ..SimConfig::default() }).compiled(1);
    let client = sdk.client();
    let active = Active::new(&sdk, &client).expect("a program");
    for (buffer, name) in [(0, "input_ids"), (3, "logits")] {
        let mut tensors = call(1, 0, &[1]);
        client.set_data(active.exec, &mut tensors).expect("set");
        client.enqueue(active.queue, active.exec, 0).expect("enqueued");
        tensors[buffer].bytes[0] ^= 1;
        assert_eq!(client.wait(active.exec, 10_000_000), Err(ERROR));
        let misuse = sdk.misuses().pop().expect("a misuse");
        assert!(misuse.contains(&format!("`{name}` was changed between enqueue and the end")), "{misuse}");
    }
    active.close().expect("the right order");
}
