//! The compilers: what they make, and everything that they refuse.

mod support;

use std::process::Output;

use qeff_plugin_api::DType;
use qeff_standin::SimConfig;
use qeff_standin::config::{Compiler, SpecFormat};
use qeff_standin::qpc::image::Image;
use qeff_standin::qpc::network::Elem;
use qeff_standin::testing::{adder, model, node, port};

use support::{CUSTOM_IO, Sdk};

fn sdk() -> Sdk {
    Sdk::new(SimConfig::default())
}

fn refused(output: &Output) -> (i32, String) {
    assert!(!output.status.success(), "it was taken");
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn what_is_made() {
    let sdk = sdk().compiled(1);
    let (image, _) = Image::read(&std::fs::read(sdk.qpc()).expect("a file")).expect("a QPC");
    let network = &image.network;
    assert_eq!((network.name.as_str(), network.cores, image.cards), ("QAicGraph", 16, 1));
    let bindings: Vec<_> = network
        .bindings
        .iter()
        .map(|binding| (binding.name.as_str(), binding.output, binding.elem, binding.partial, &binding.dims[..]))
        .collect();
    assert_eq!(
        bindings,
        [
            ("input_ids", false, Elem::I64, false, &[1, 4][..]),
            ("position_ids", false, Elem::I64, false, &[1, 4]),
            ("past_key.0", false, Elem::F16, true, &[1, 1, 8, 1]),
            ("logits", true, Elem::F32, false, &[1, 1, 1]),
            ("past_key.0_RetainedState", true, Elem::F16, true, &[1, 1, 8, 1]),
        ]
    );
    assert_eq!(network.rows.len(), 2);
    assert_eq!((&network.rows[0][0][..], &network.rows[1][0][..]), (&[1, 4][..], &[1, 1][..]));
    let facts = &image.marker.expect("a marker").facts;
    assert_eq!(
        facts.options,
        ["-aic-hw", "-aic-hw-version=ai100", "-aic-num-cores=16", "-convert-to-fp16", "-retained-state"]
    );
    assert_eq!(facts.retained, [(2, 4)]);
}

#[test]
fn without_retained_state_it_is_an_output_like_others() {
    let sdk = sdk();
    let model = sdk.model(&adder());
    let symbols = ["seq_len,1", "ctx_len,8"].map(|symbol| format!("-onnx-define-symbol={symbol}"));
    let mut arguments = vec![
        "-aic-hw".into(),
        format!("-m={}", model.display()),
        format!("-aic-binary-dir={}", sdk.path("qpc").display()),
    ];
    arguments.extend(symbols);
    assert!(sdk.tool("exec/qaic-compile", &arguments).status.success());
    let (image, _) = Image::read(&std::fs::read(sdk.qpc()).expect("a file")).expect("a QPC");
    assert!(image.network.bindings.iter().all(|binding| !binding.partial));
    assert_eq!((image.network.rows.len(), image.network.cores), (1, 1));
}

#[test]
fn what_sub_functions_call_a_state_is_not_what_users_call_it() {
    let sdk = sdk();
    let mut renamed = adder();
    let name = "past_key.0_InternalRetainedState";
    let graph = renamed.graph.as_mut().expect("a graph");
    graph.output[1].name = name.into();
    for name_of in graph.node.iter_mut().flat_map(|node| node.input.iter_mut().chain(&mut node.output)) {
        if name_of == "past_key.0_RetainedState" {
            *name_of = name.into();
        }
    }
    sdk.model(&renamed);
    sdk.write("custom_io.yaml", CUSTOM_IO.replace("_RetainedState", "_InternalRetainedState"));
    let sdk = sdk.compiled(1);
    let (image, _) = Image::read(&std::fs::read(sdk.qpc()).expect("a file")).expect("a QPC");
    let last = &image.network.bindings[4];
    assert_eq!((last.name.as_str(), last.partial), ("past_key.0_RetainedState", true));
}

#[test]
fn several_cards_are_several_qpcs_in_one() {
    let sdk = Sdk::new(SimConfig::default()).compiled(4);
    let file = std::fs::read(sdk.qpc()).expect("a file");
    let names: Vec<_> =
        qeff_standin::qpc::container::read(&file).expect("a container").iter().map(|segment| segment.name).collect();
    let slices = ["QAicGraph_slice00", "QAicGraph_slice01", "QAicGraph_slice02", "QAicGraph_slice03"];
    assert_eq!(names, [&["mdp_meta_info"][..], &slices].concat());
    assert_eq!(Image::read(&file).expect("a QPC").0.cards, 4);
}

#[test]
fn command_lines_that_are_refused() {
    for (flag, code, part) in [
        ("-aic-num-coresx=3", 1, "Invalid option -aic-num-coresx. Use -h, -help, or --help for list of options."),
        ("--retained-state", 1, "Invalid option --retained-state."),
        ("-retained-state=true", 1, "Invalid option -retained-state."),
        ("-mos", 1, "Invalid option -mos."),
        ("-aic-hw-version=3.0", 1, "Invalid value 3.0 for -aic-hw-version."),
        ("-aic-num-cores=17", 1, "from 1 to 16"),
        ("-aic-num-cores=0", 1, "from 1 to 16"),
        ("-onnx-define-symbol=seq_len,1", 1, "exclude each other"),
        ("-m=/nowhere/model.onnx", 255, "Unable to read model"),
        ("-network-specialization-config=/nowhere", 255, "Failed to open /nowhere"),
        ("-custom-IO-list-file=/nowhere", 255, "Failed to open /nowhere"),
        ("-mdp-load-partition-config=/nowhere", 255, "Failed to open /nowhere"),
        ("-node-precision-info=/nowhere", 255, "Failed to open /nowhere"),
    ] {
        let (found, said) = refused(&sdk().compile(&[flag.into()]));
        assert!(found == code && said.contains(part), "{flag}: {found} {said}");
    }
    let sdk = sdk();
    let (_, said) = refused(&sdk.tool("exec/qaic-compile", &["-aic-hw".into(), "-aic-hw".into()]));
    assert!(said.contains("-aic-hw is given more than once"), "{said}");
    std::fs::create_dir(sdk.path("qpc")).expect("a folder");
    let (code, said) = refused(&sdk.compile(&[]));
    assert!(code == 255 && said.contains("already exists"), "{said}");
}

#[test]
fn qaic_exec_runs_a_benchmark_unless_told_not_to() {
    let sdk =
        Sdk::new(SimConfig { compilers: vec!["qaic-compile".into(), "qaic-exec".into()], ..SimConfig::default() });
    sdk.compile(&[]);
    std::fs::remove_dir_all(sdk.path("qpc")).expect("a folder");
    let last = sdk.root.calls().expect("a log");
    let arguments = last.iter().find(|line| line["call"] == "qaic-compile").expect("a call")["arguments"].clone();
    let mut arguments: Vec<String> = serde_json::from_value(arguments).expect("a list");
    assert_eq!(refused(&sdk.tool("exec/qaic-exec", &arguments)).0, 134);
    arguments.push("-compile-only".into());
    assert!(sdk.tool("exec/qaic-exec", &arguments).status.success());
}

#[test]
fn specializations_that_are_refused() {
    let object = "[json.exception.type_error.302] type must be string, but is object";
    let classic = r#"{"specializations":[{"seq_len":"1","ctx_len":"8"}]}"#;
    let named = r#"{"specializations":[{"name":"A","symbols":{"seq_len":"1","ctx_len":"8"}}]}"#;
    for (format, text, part) in [
        (SpecFormat::Classic, named, object),
        (SpecFormat::Named, classic, "key 'symbols' not found"),
        (SpecFormat::Both, &classic.replace("\"1\"", "1"), "type must be string, but is number"),
        (SpecFormat::Both, &classic.replace("\"1\"", "\"one\""), "no positive number"),
        (SpecFormat::Both, &classic.replace("\"seq_len\":\"1\",", ""), "symbol `seq_len` has no value"),
        (SpecFormat::Both, &classic.replace("ctx_len", "ctx_lne"), "symbol `ctx_len` has no value"),
        (SpecFormat::Both, &classic.replace("}]", ",\"heads\":\"2\"}]"), "no input has a dimension `heads`"),
        (SpecFormat::Both, &named.replace("}}]", "}},{\"name\":\"A\",\"symbols\":{}}]"), "`A` is there twice"),
        (SpecFormat::Both, r#"{"specializations":[]}"#, "no specializations"),
        (SpecFormat::Both, "{", "parse error"),
    ] {
        let sdk = Sdk::new(SimConfig { spec_format: format, ..SimConfig::default() });
        sdk.write("specializations.json", text);
        let (code, said) = refused(&sdk.compile(&[]));
        assert!(code == 255 && said.contains(part), "{text}: {code} {said}");
    }
    for (format, text) in [(SpecFormat::Classic, classic), (SpecFormat::Named, named)] {
        let sdk = Sdk::new(SimConfig { spec_format: format, ..SimConfig::default() });
        sdk.write("specializations.json", text);
        assert!(sdk.compile(&[]).status.success(), "{text}");
    }
}

#[test]
fn custom_io_that_is_refused() {
    for (text, part) in [
        (CUSTOM_IO.replacen("float16", "float61", 1), "unknown precision `float61`"),
        (CUSTOM_IO.replacen("float16", "int8", 1), "wants Scale and Offset"),
        (CUSTOM_IO.replacen("float16", "mxint8", 1), "one state in two types"),
        (CUSTOM_IO.replace("past_key.0_RetainedState", "past_key.1"), "`past_key.1` is no input or output"),
        (CUSTOM_IO.replace("past_key.0_RetainedState", "past_key.0"), "`past_key.0` is there twice"),
        (CUSTOM_IO.replace("past_key.0_RetainedState", "input_ids"), "`input_ids` holds no floats"),
        (CUSTOM_IO.replace("past_key.0_RetainedState", "305"), "Integer(305) is no text"),
        (CUSTOM_IO.replace("IOName", "Name"), "unknown key"),
        ("a: b\n".into(), "expected a list"),
        (" - IOName: logits\n   Precision: mxint8\n".into(), "`logits` is mxint8, and no state"),
    ] {
        let sdk = sdk();
        sdk.write("custom_io.yaml", &text);
        let (code, said) = refused(&sdk.compile(&[]));
        assert!(code == 255 && said.contains(part), "{text}: {code} {said}");
    }
}

#[test]
fn partitions_that_are_refused() {
    let good = r#"{"connections":[{"devices":[0,1],"type":"p2p"}],"partitions":[{"name":"P","devices":[{"deviceId":0,"numCores":16},{"deviceId":1,"numCores":16}]}]}"#;
    for (text, part) in [
        (good.replace("\"deviceId\":1", "\"deviceId\":2"), "device ids are [0, 2], expected each of 0..2 once"),
        (good.replace("\"deviceId\":1", "\"deviceId\":0"), "device ids are [0, 0]"),
        (good.replacen("16", "14", 1), "numCores is not -aic-num-cores=16"),
        (good.replace("p2p", "pcie"), "a connection has type \"pcie\""),
        (good.replace("[0,1]", "[0,7]"), "a connection names device 7"),
        (good.replace("\"name\":\"P\"", "\"name\":\"P\",\"nodeList\":[\"/none\"]"), "the graph has no node `/none`"),
        (good.replace("\"name\":\"P\",", ""), "a partition has no name"),
    ] {
        let sdk = sdk();
        let path = sdk.write("mdp.json", &text);
        let (code, said) = refused(&sdk.compile(&[format!("-mdp-load-partition-config={}", path.display())]));
        assert!(code == 255 && said.contains(part), "{text}: {code} {said}");
    }
}

#[test]
fn precision_lists_that_are_refused() {
    for (text, part) in [
        ("FP32NodeInstanceNames: [sum, nobody]\n", Some("no node has `nobody` as its first output")),
        ("FP64NodeInstanceNames: [sum]\n", Some("unknown key")),
        ("FP16NodeInstanceNames: sum\n", Some("is no list")),
        ("FP32NodeInstanceNames: [sum, logits]\n", None),
    ] {
        let sdk = sdk();
        let path = sdk.write("npi.yaml", text);
        let output = sdk.compile(&[format!("-node-precision-info={}", path.display())]);
        match part {
            Some(part) => assert!(refused(&output).1.contains(part), "{text}: {}", refused(&output).1),
            None => assert!(output.status.success(), "{text}"),
        }
    }
}

#[test]
fn graphs_that_are_refused() {
    let one = || vec![port("x", DType::F32, &["seq_len", "ctx_len"])];
    let y = |dims: &[&str]| vec![port("y", DType::F32, dims)];
    let mut unpaired = adder();
    let graph = unpaired.graph.as_mut().expect("a graph");
    graph.output.push(port("conv.0_RetainedState", DType::F32, &["1", "1", "1"]));
    graph.node.push(node("conv.0_RetainedState = Identity(logits)"));
    let mut shorter = adder();
    let graph = shorter.graph.as_mut().expect("a graph");
    graph.output[1] = port("past_key.0_RetainedState", DType::F32, &["1"]);
    graph.node.iter_mut().flat_map(|node| node.input.iter_mut().chain(&mut node.output)).for_each(|name| {
        if name == "past_key.0_RetainedState" {
            *name = "written".into();
        }
    });
    graph.node.push(node("past_key.0_RetainedState = ReduceSum(seen) keepdims=1"));
    for (graph, part) in [
        (
            model(one(), y(&["seq_len"]), &["y = Frobnicate(x)"], vec![]),
            "Error message:  [Operator-'/y', opset_version-17] : not supported",
        ),
        (model(one(), y(&["ctx_len", "seq_len"]), &["y = Identity(x)"], vec![]), "output `y` is declared"),
        (model(one(), y(&["n"]), &["y = MatMul(x, x)"], vec![]), "with {\"ctx_len\": 8"),
        (unpaired, "output `conv.0_RetainedState` has no input `conv.0`"),
        (shorter, "-retained-state: output `past_key.0_RetainedState` is [1], its input [1, 1, 8, 1]"),
    ] {
        let sdk = sdk();
        sdk.model(&graph);
        let states = graph.graph.as_ref().is_some_and(|graph| graph.output.len() > 1);
        sdk.write("custom_io.yaml", if states { CUSTOM_IO } else { "[]" });
        let (code, said) = refused(&sdk.compile(&[]));
        assert!(code == 255 && said.contains(part), "{part}: {code} {said}");
    }
    let sdk = Sdk::new(SimConfig { strict_retained: true, ..SimConfig::default() });
    sdk.model(&model(one(), y(&["seq_len", "ctx_len"]), &["y = Identity(x)"], vec![]));
    sdk.write("custom_io.yaml", "[]");
    let (_, said) = refused(&sdk.compile(&[]));
    assert!(said.contains("-retained-state: no output is the next value of an input"), "{said}");
}

#[test]
fn weights_in_other_files() {
    use qeff_plugin_api::onnx::{EXTERNAL, StringStringEntryProto, TensorProto};
    let weights = |entries: &[(&str, &str)]| {
        let mut graph = model(
            vec![port("x", DType::F32, &["seq_len", "ctx_len"])],
            vec![port("y", DType::F32, &["seq_len", "ctx_len"])],
            &["y = Mul(x, w)"],
            vec![],
        );
        let entry = |&(key, value): &(&str, &str)| StringStringEntryProto { key: key.into(), value: value.into() };
        graph.graph.as_mut().expect("a graph").initializer.push(TensorProto {
            dims: vec![8],
            data_type: 1,
            name: "w".into(),
            external_data: entries.iter().map(entry).collect(),
            data_location: EXTERNAL,
            ..TensorProto::default()
        });
        graph
    };
    let good = [("location", "w.bin"), ("offset", "4"), ("length", "32")];
    for (entries, size, part) in [
        (&good[..2], 36, "Invalid argument"),
        (&good[..], 35, "ends at 36 of 35 bytes"),
        (&[("location", "../w.bin"), good[1], good[2]], 36, "leads out of the model's folder"),
        (&[("location", "none.bin"), good[1], good[2]], 36, "Failed to open"),
        (&[good[0], good[1], ("length", "28")], 36, "28 bytes are not [8]"),
    ] {
        let sdk = sdk();
        sdk.write("w.bin", vec![0; size]);
        sdk.write("custom_io.yaml", "[]");
        sdk.model(&weights(entries));
        let (code, said) = refused(&sdk.compile(&[]));
        assert!(code == 255 && said.contains(part), "{entries:?}: {code} {said}");
    }
    // By path, size and hash; or within, and then the QPC stands alone.
    for embed_weights in [false, true] {
        let sdk = Sdk::new(SimConfig { embed_weights, ..SimConfig::default() });
        sdk.write("w.bin", [7; 36]);
        sdk.write("custom_io.yaml", "[]");
        sdk.model(&weights(&good));
        let output = sdk.compile(&[]);
        assert!(output.status.success(), "{output:?}");
        let (image, embedded) = Image::read(&std::fs::read(sdk.qpc()).expect("a file")).expect("a QPC");
        let external = &image.marker.expect("a marker").facts.external;
        assert_eq!((external.len(), external[0].size, external[0].path.is_empty()), (1, 36, embed_weights));
        assert_eq!(embedded.len(), if embed_weights { 36 } else { 0 });
    }
}

#[test]
fn what_else_a_compiler_may_do() {
    let with = |compiler: Compiler| Sdk::new(SimConfig { compiler, ..SimConfig::default() });
    let sdk =
        with(Compiler { fail: Some("Unable to Compile".into()), code: 255, partial: true, ..Compiler::default() });
    assert_eq!(refused(&sdk.compile(&[])), (255, "Unable to Compile\n".into()));
    assert!(sdk.qpc().is_file(), "half a QPC is left");
    assert!(Image::read(&std::fs::read(sdk.qpc()).expect("a file")).is_err());
    let sdk = with(Compiler { killed: true, ..Compiler::default() });
    assert_eq!(sdk.compile(&[]).status.code(), None, "a signal has no exit code");
    let sdk = with(Compiler { say: "compiling\n".into(), ..Compiler::default() });
    assert_eq!(String::from_utf8_lossy(&sdk.compile(&[]).stdout), "compiling\n");
}

#[test]
fn cards_are_listed() {
    let mut config = SimConfig { cards: qeff_standin::config::Card::several(6), ..SimConfig::default() };
    config.cards[5].busy = 10;
    let sdk = Sdk::new(config);
    let list = |arguments: &[&str]| {
        let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        String::from_utf8_lossy(&sdk.tool("tools/qaic-util", &arguments).stdout).into_owned()
    };
    let all = list(&["-q"]);
    assert_eq!((all.matches("QID ").count(), all.matches("Board serial:STANDIN1").count()), (6, 2));
    let one = list(&["-q", "-d", "5"]);
    assert!(one.starts_with("QID 5\n\tStatus:Ready\n") && one.contains("\tNsp Free:6\n"), "{one}");
    assert_eq!(list(&["-q", "-d", "6"]), "No valid device found\n");
    assert_eq!(sdk.tool("tools/qaic-util", &["--list".into()]).status.code(), Some(1));
}
