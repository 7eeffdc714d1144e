//! The library, through its C functions: what it computes, what it keeps, and what it refuses.

mod support;

use std::time::{Duration, Instant};

use object::{Object as _, ObjectSymbol as _};
use qeff_standin::SimConfig;
use qeff_standin::client::{Heard, ProgramWish, Tensor};
use qeff_standin::config::{Card, CardStatus, Layout, StateInit};
use qeff_standin::header::Properties;

use support::{Active, Sdk, call};

const NODEV: u32 = 5;
const INVAL: u32 = 6;
const NOSPC: u32 = 7;
const ERROR: u32 = 500;

fn sdk() -> Sdk {
    Sdk::new(SimConfig::default()).compiled(1)
}

#[test]
fn states_stay_on_the_card() {
    let sdk = sdk();
    let client = sdk.client();
    let active = Active::new(&sdk, &client).expect("a program");
    // Six ids in two chunks, the second of them padded; then one by one. Sums run over everything before.
    assert_eq!(active.add(4, 0, &[1, 2, 3, 4]), Ok(10.0));
    assert_eq!(active.add(4, 4, &[5, 6]), Ok(21.0));
    assert_eq!(active.add(1, 6, &[7]), Ok(28.0));
    // What follows was never written, or is of an earlier sequence: here a new one begins.
    assert_eq!(active.add(1, 0, &[100]), Ok(100.0));
    // Another object of the same activation sees the same state.
    let other = client.create_exec(active.context, active.program).expect("an object");
    let mut tensors = call(1, 1, &[1]);
    client.run(active.queue, other, &mut tensors).expect("a run");
    assert_eq!(tensors[3].as_f32(), [101.0]);
    client.one("qaicReleaseExecObj", other).expect("released");
    active.close().expect("the right order");
    assert_eq!(sdk.misuses(), Vec::<String>::new());
    let rows: Vec<_> = sdk.calls().iter().filter_map(|line| line["row"].as_u64()).collect();
    assert_eq!(rows, [0, 0, 1, 1, 1]);
}

#[test]
fn a_state_can_be_written_and_read() {
    let sdk = Sdk::new(SimConfig { state_init: StateInit::Nan, ..SimConfig::default() }).compiled(1);
    let client = sdk.client();
    let active = Active::new(&sdk, &client).expect("a program");
    let mut tensors = call(1, 3, &[1]);
    let halves =
        |numbers: [f32; 8]| numbers.iter().flat_map(|&n| half::f16::from_f32(n).to_le_bytes()).collect::<Vec<_>>();
    let dims = vec![1, 1, 8, 1];
    tensors[2] = Tensor { bytes: halves([1., 2., 4., 0., 0., 0., 0., 0.]), dims: dims.clone(), elem_size: 2 };
    tensors[4] = Tensor::room(&dims, 2);
    client.run(active.queue, active.exec, &mut tensors).expect("a run");
    assert_eq!((tensors[3].as_f32()[0], &tensors[4].bytes), (8.0, &halves([1., 2., 4., 1., 0., 0., 0., 0.])));
    // It is the card's state from now on.
    assert_eq!(active.add(1, 4, &[1]), Ok(9.0));
    active.close().expect("the right order");
}

#[test]
fn what_a_state_holds_at_first() {
    // Positions 1 and 2 of a sequence whose row 0 was never written.
    for (state_init, sum) in [(StateInit::Zero, 5.0), (StateInit::Poison, 60005.0)] {
        let sdk = Sdk::new(SimConfig { state_init, ..SimConfig::default() }).compiled(1);
        let client = sdk.client();
        let active = Active::new(&sdk, &client).expect("a program");
        assert_eq!(active.add(4, 1, &[2, 3]), Ok(sum));
        active.close().expect("the right order");
    }
}

#[test]
fn rows_are_chosen_by_what_is_there() {
    let sdk = sdk();
    let client = sdk.client();
    let heard = Heard::default();
    let active = Active::new(&sdk, &client).expect("a program");
    let listening = client.create_context(&[0], Some(&heard)).expect("a context");
    let mut tensors = call(2, 0, &[1, 2]);
    client.set_data(active.exec, &mut tensors).expect("sizes and shapes agree with each other");
    client.enqueue(active.queue, active.exec, 0).expect("enqueued");
    assert_eq!(client.wait(active.exec, 10_000_000), Err(ERROR));
    let run = sdk.calls().into_iter().find(|line| line.get("run").is_some()).expect("a run");
    assert!(run["said"].as_str().is_some_and(|said| said.contains("No matching dimension found")), "{run}");

    let set = |change: &dyn Fn(&mut Vec<Tensor>)| {
        let mut tensors = call(4, 0, &[1]);
        change(&mut tensors);
        client.set_data(active.exec, &mut tensors)
    };
    assert_eq!(set(&|tensors| tensors[0].bytes.truncate(31)), Err(INVAL));
    assert_eq!(set(&|tensors| tensors[0].elem_size = 4), Err(INVAL));
    assert_eq!(set(&|tensors| tensors[0] = Tensor::skipped(8)), Err(INVAL));
    assert_eq!(set(&|tensors| tensors[3] = Tensor::skipped(4)), Err(INVAL));
    assert_eq!(set(&|tensors| tensors[2].dims = vec![1, 1, 8, 1]), Err(INVAL));
    assert_eq!(set(&|tensors| drop(tensors.pop())), Err(INVAL));
    assert_eq!(set(&|_| ()), Ok(()));
    // All contexts of the process are told.
    let told = heard.lock().expect("a list").clone();
    assert!(told.iter().any(|(level, said)| *level == 3 && said.contains("`input_ids` is left out")), "{told:?}");
    client.one("qaicReleaseContext", listening).expect("released");
    active.close().expect("the right order");
}

#[test]
fn rows_that_cannot_be_told_apart_are_seen() {
    let sdk = Sdk::new(SimConfig::default());
    // Two lengths of the context, of which only the states tell; and those are left out.
    sdk.write(
        "specializations.json",
        r#"{"specializations":[{"seq_len":"1","ctx_len":"4"},{"seq_len":"1","ctx_len":"8"}]}"#,
    );
    let sdk = sdk.compiled(1);
    let client = sdk.client();
    let active = Active::new(&sdk, &client).expect("a program");
    assert_eq!(active.add(1, 0, &[3]), Ok(3.0));
    let run = sdk.calls().into_iter().find(|line| line.get("run").is_some()).expect("a run");
    assert_eq!((run["row"].as_u64(), run["ambiguous"].to_string()), (Some(0), "[0,1]".into()));
    active.close().expect("the right order");
}

#[test]
fn both_layouts_are_read_where_they_are() {
    for layout in [Layout::Classic, Layout::New] {
        let config = SimConfig { layout, cards: Card::several(4), ..SimConfig::default() };
        let sdk = Sdk::new(config).compiled(2);
        let client = sdk.client();
        let wish = ProgramWish { device: 2, mapping: Some("2:1"), timeout_ms: Some(61_234) };
        let active = Active::with(&sdk, &client, &wish).expect("a program");
        assert_eq!(active.add(1, 0, &[3]), Ok(3.0));
        active.close().expect("the right order");
        let made = sdk.calls().into_iter().find(|line| line["call"] == "qaicCreateProgram").expect("a call");
        assert_eq!(made["arguments"]["devMapping"], "2:1");
        let timeout = &made["arguments"]["dataPathTimeoutMs"];
        assert_eq!(timeout.as_u64(), (layout == Layout::New).then_some(61_234));
        assert_eq!(made["result"]["cards"].to_string(), "[2,1]");

        // By the other layout nothing arrives: the program is for two cards, and none are named.
        let other = Properties::of(if layout == Layout::New { Layout::Classic } else { Layout::New });
        let context = client.create_context(&[], None).expect("a context");
        let qpc = client.open_qpc(&sdk.qpc()).expect("a QPC");
        assert_eq!(client.create_program(context, qpc, other, &wish), Err(INVAL));
    }
}

#[test]
fn mappings_that_are_refused() {
    let mut cards = Card::several(4);
    cards[3].status = CardStatus::Error;
    let sdk = Sdk::new(SimConfig { cards, ..SimConfig::default() }).compiled(2);
    let client = sdk.client();
    assert_eq!(client.create_context(&[0, 3], None), Err(NODEV));
    assert_eq!(client.create_context(&[7], None), Err(NODEV));
    let context = client.create_context(&[0, 1], None).expect("a context");
    let qpc = client.open_qpc(&sdk.qpc()).expect("a QPC");
    for (mapping, status) in [
        (None, INVAL),
        (Some("0"), INVAL),
        (Some("0:1:2"), INVAL),
        (Some("0:0"), INVAL),
        (Some("0,1"), INVAL),
        (Some("0:2"), NODEV),
        (Some("1:0"), 0),
    ] {
        let wish = ProgramWish { mapping, ..ProgramWish::default() };
        let made = client.create_program(context, qpc, sdk.layout(), &wish);
        assert_eq!(made.err().unwrap_or(0), status, "{mapping:?}");
    }
    assert_eq!(client.create_queue(context, 2), Err(NODEV));
}

#[test]
fn cards_are_seen_and_their_cores_counted() {
    let mut cards = Card::several(3);
    cards[1].busy = 3;
    cards[2].status = CardStatus::Initializing;
    let sdk = Sdk::new(SimConfig { cards, ..SimConfig::default() }).compiled(1);
    let client = sdk.client();
    assert_eq!([0, 1, 2, 3].map(|qid| client.device_status(qid)), [Ok(1), Ok(1), Ok(0), Err(NODEV)]);
    assert_eq!((client.cores(0), client.cores(1)), (Ok((16, 16)), Ok((16, 13))));
    let context = client.create_context(&[0, 1], None).expect("a context");
    let qpc = client.open_qpc(&sdk.qpc()).expect("a QPC");
    let program =
        |device| client.create_program(context, qpc, sdk.layout(), &ProgramWish { device, ..ProgramWish::default() });
    // Somebody else has three cores of card 1.
    assert_eq!(program(1), Err(ERROR));
    let (first, second) = (program(0).expect("a program"), program(0).expect("a program"));
    for program in [first, second] {
        client.one("qaicLoadProgram", program).expect("loaded");
    }
    client.activation(first, true).expect("active");
    assert_eq!((client.cores(0), client.activation(second, true), program(0)), (Ok((16, 0)), Err(NOSPC), Err(ERROR)));
    client.activation(first, false).expect("inactive");
    client.activation(second, true).expect("active");
    client.activation(second, false).expect("inactive");
    assert_eq!(client.cores(0), Ok((16, 16)));
    // A negative number leaves the choice to the library, which takes a card that has the cores.
    let any = program(-1).expect("a program");
    for program in [first, second, any] {
        client.one("qaicReleaseProgram", program).expect("released");
    }
}

#[test]
fn no_card() {
    let sdk = Sdk::new(SimConfig { cards: vec![], ..SimConfig::default() });
    let client = sdk.client();
    assert_eq!((client.create_context(&[], None), client.device_status(0)), (Err(ERROR), Err(ERROR)));
}

#[test]
fn qpcs_that_cannot_be_opened() {
    let sdk = sdk();
    let client = sdk.client();
    let mut bytes = std::fs::read(sdk.qpc()).expect("a file");
    assert_eq!(client.open_qpc(&sdk.path("none")), Err(INVAL));
    let half = bytes.len() / 2;
    assert_eq!(client.open_qpc_bytes(&mut bytes[..half], true), Err(INVAL));
    // Without a copy the bytes are the caller's, who has to leave them alone.
    let qpc = client.open_qpc_bytes(&mut bytes, false).expect("a QPC");
    let context = client.create_context(&[], None).expect("a context");
    bytes[50] ^= 1;
    assert_eq!(client.create_program(context, qpc, sdk.layout(), &ProgramWish::default()), Err(INVAL));
    assert!(sdk.misuses()[0].contains("opened without a copy"), "{:?}", sdk.misuses());
    bytes[50] ^= 1;
    client.create_program(context, qpc, sdk.layout(), &ProgramWish::default()).expect("a program");
}

#[test]
fn a_qpc_of_weights_that_were_changed_is_not_loaded() {
    use prost::Message as _;
    use qeff_plugin_api::onnx::{EXTERNAL, StringStringEntryProto, TensorProto};
    let sdk = Sdk::new(SimConfig::default());
    let mut model = qeff_standin::testing::adder();
    let graph = model.graph.as_mut().expect("a graph");
    let entry = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into() };
    graph.initializer.push(TensorProto {
        dims: vec![1],
        data_type: 1,
        name: "bias".into(),
        external_data: vec![entry("location", "w.bin"), entry("offset", "0"), entry("length", "4")],
        data_location: EXTERNAL,
        ..TensorProto::default()
    });
    graph.node.last_mut().expect("a node").output[0] = "cubed".into();
    graph.node.push(qeff_standin::testing::node("logits = Add(cubed, bias)"));
    sdk.write("w.bin", 0.5f32.to_le_bytes());
    sdk.write("model.onnx", model.encode_to_vec());
    let sdk = sdk.compiled(1);
    let client = sdk.client();
    let active = Active::new(&sdk, &client).expect("a program");
    assert_eq!(active.add(1, 0, &[3]), Ok(3.5));
    active.close().expect("the right order");
    sdk.write("w.bin", 0.25f32.to_le_bytes());
    assert_eq!(Active::new(&sdk, &client).err(), Some(ERROR));
}

#[test]
fn enqueueing_does_not_wait() {
    let sdk = Sdk::new(SimConfig { latency_ms: 300, ..SimConfig::default() }).compiled(1);
    let client = sdk.client();
    let active = Active::new(&sdk, &client).expect("a program");
    let event = client.create_event(active.context).expect("an event");
    let began = Instant::now();
    let mut tensors = call(1, 0, &[1]);
    client.set_data(active.exec, &mut tensors).expect("set");
    client.enqueue(active.queue, active.exec, event).expect("enqueued");
    assert!(began.elapsed() < Duration::from_millis(250), "{:?}", began.elapsed());
    client.one("qaicWaitforEvent", event).expect("it happened");
    assert!(began.elapsed() >= Duration::from_millis(300));
    client.wait(active.exec, 10_000_000).expect("done");
    client.one("qaicReleaseEvent", event).expect("released");
    active.close().expect("the right order");
}

#[test]
fn many_threads_many_objects() {
    let sdk = sdk();
    let client = sdk.client();
    let active = Active::new(&sdk, &client).expect("a program");
    // Each writes the state whole, so that none sees what another did.
    std::thread::scope(|scope| {
        for thread in 0..8u16 {
            let (client, active) = (&client, &active);
            scope.spawn(move || {
                let exec = client.create_exec(active.context, active.program).expect("an object");
                for round in 0..20u16 {
                    let number = i64::from(thread * 32 + round);
                    let mut tensors = call(1, 0, &[number]);
                    tensors[2] = Tensor { bytes: vec![0; 16], dims: vec![1, 1, 8, 1], elem_size: 2 };
                    client.run(active.queue, exec, &mut tensors).expect("a run");
                    assert_eq!(tensors[3].as_f32(), [number as f32]);
                }
                client.one("qaicReleaseExecObj", exec).expect("released");
            });
        }
    });
    active.close().expect("the right order");
    assert_eq!(sdk.misuses(), Vec::<String>::new());
    assert_eq!(sdk.calls().iter().filter(|line| line.get("run").is_some()).count(), 160);
}

#[test]
fn a_program_that_nobody_activates() {
    let sdk = sdk();
    let client = sdk.client();
    let context = client.create_context(&[], None).expect("a context");
    let qpc = client.open_qpc(&sdk.qpc()).expect("a QPC");
    let program = client.create_program(context, qpc, sdk.layout(), &ProgramWish::default()).expect("a program");
    let exec = client.create_exec(context, program).expect("loads and activates");
    assert_eq!(client.cores(0), Ok((16, 0)));
    client.one("qaicReleaseExecObj", exec).expect("released");
    // What the library began, it ends.
    client.one("qaicReleaseProgram", program).expect("released");
    assert_eq!((client.cores(0), sdk.misuses()), (Ok((16, 16)), vec![]));
}

/// Functions whose prototypes are published, as far as a host of this repository may want them.
const PUBLISHED: &[&str] = &[
    "qaicCloseQpc",
    "qaicCreateContext",
    "qaicCreateEvent",
    "qaicCreateExecObj",
    "qaicCreateProgram",
    "qaicCreateQueue",
    "qaicEnqueueExecObj",
    "qaicEventClear",
    "qaicExecObjSetData",
    "qaicExecObjSetDataExt",
    "qaicExecObjWaitForCompletion",
    "qaicGetAicVersion",
    "qaicGetDeviceInfo",
    "qaicGetResourceInfo",
    "qaicLoadProgram",
    "qaicOpenQpc",
    "qaicOpenQpcFile",
    "qaicProgramGetIoBufferInfo",
    "qaicProgramGetIoDescriptor",
    "qaicProgramPropertiesInitDefault",
    "qaicQpcGetInfo",
    "qaicReleaseContext",
    "qaicReleaseEvent",
    "qaicReleaseExecObj",
    "qaicReleaseProgram",
    "qaicReleaseQueue",
    "qaicRunActivationCmd",
    "qaicSetLogLevel",
    "qaicUnloadProgram",
    "qaicWaitforEvent",
];

#[test]
fn exactly_what_is_published() {
    let sdk = Sdk::new(SimConfig { library_version: [9, 3], ..SimConfig::default() });
    let client = sdk.client();
    assert_eq!(client.version(), Ok([9, 3]));
    let bytes = std::fs::read(sdk.root.dir.join("dev/lib/x86_64/libQAic.so")).expect("a library");
    let library = object::File::parse(&*bytes).expect("an ELF file");
    let mut exported: Vec<_> = library
        .dynamic_symbols()
        .filter(|symbol| symbol.is_definition())
        .filter_map(|symbol| symbol.name().ok())
        .collect();
    exported.sort_unstable();
    assert_eq!(exported, PUBLISHED);
    let sdk = Sdk::new(SimConfig { missing_symbols: vec!["qaicExecObjSetDataExt".into()], ..SimConfig::default() });
    let client = sdk.client();
    assert!(!client.has("qaicExecObjSetDataExt") && client.has("qaicExecObjSetData"));
}

#[test]
fn who_listens_says_how_closely() {
    let sdk = sdk();
    let client = sdk.client();
    let heard = Heard::default();
    let context = client.create_context(&[], Some(&heard)).expect("a context");
    let qpc = client.open_qpc(&sdk.qpc()).expect("a QPC");
    for (level, told) in [(1, true), (3, false)] {
        client.log_level(context, level).expect("a level");
        heard.lock().expect("a list").clear();
        let program = client.create_program(context, qpc, sdk.layout(), &ProgramWish::default()).expect("a program");
        client.one("qaicLoadProgram", program).expect("loaded");
        assert_eq!(client.one("qaicLoadProgram", program), Err(INVAL));
        let heard = heard.lock().expect("a list").clone();
        assert_eq!(
            heard.iter().any(|(level, said)| *level == 1 && said == "program program loaded"),
            told,
            "{heard:?}"
        );
        assert!(heard.iter().any(|(level, said)| *level == 3 && said.contains("loaded already")), "{heard:?}");
    }
    assert_eq!(client.log_level(context, 4), Err(INVAL));
}

#[test]
fn a_card_that_does_nothing() {
    let sdk = Sdk::new(SimConfig { execute: false, log: None, ..SimConfig::default() }).compiled(1);
    let client = sdk.client();
    let active = Active::new(&sdk, &client).expect("a program");
    assert_eq!(active.add(1, 0, &[1]), Ok(0.0));
    assert_eq!(active.add(2, 0, &[1]), Err(ERROR));
    active.close().expect("the right order");
}
