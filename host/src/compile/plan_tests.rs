use super::*;
use crate::compile::testing::decoder;
use crate::compile::{Precision, Shape, UserFile};

fn options() -> Options {
    Options { num_cores: 16, shape: Shape::default(), ..Options::default() }
}

fn plan(program: &Program, options: &Options, hw: &str) -> Result<Plan> {
    let compiler = Compiler { hw_version: (hw.into(), String::new()), ..Compiler::assumed() };
    Plan::qaic(program, options, &compiler, &Places::symbolic())
}

/// bf16 is for AI 200. The list of types is written for the runtime, but the compiler does not take it.
#[test]
fn bf16() {
    let program = decoder("bf16", "");
    let said = plan(&program, &options(), "ai100").unwrap_err().to_string();
    assert!(said.contains("--aic-hw-version ai200"), "{said}");
    let plan = plan(&program, &options(), "ai200").expect("a plan");
    let argv = plan.commands[0].argv();
    assert!(argv.iter().all(|arg| arg != "-convert-to-fp16" && !arg.starts_with("-custom-IO-list-file")), "{argv:?}");
    let io = plan.files.iter().find(|file| file.name == "custom_io.yaml").expect("a list");
    assert!(io.content.starts_with(" - IOName: past_key.0\n   Precision: bfloat16\n\n"), "{}", io.content);
}

/// What computes in f32 has no number of another type: neither flag nor list is there.
#[test]
fn full_precision() {
    let full = Options { precision: Precision::F32, ..options() };
    let made = plan(&decoder("f32", ""), &full, "ai100").expect("a plan");
    let argv = made.commands[0].argv();
    assert!(argv.iter().all(|arg| arg != "-convert-to-fp16" && !arg.starts_with("-custom-IO-list-file")), "{argv:?}");
    assert!(made.files.iter().all(|file| file.name != "custom_io.yaml"), "{:?}", made.files);
    let half = plan(&decoder("f32", ""), &options(), "ai100").expect("a plan");
    assert!(half.commands[0].argv().iter().any(|arg| arg == "-convert-to-fp16"));
    // A cache that is to be MXINT8 is listed, and nothing else is.
    let small = plan(&decoder("f32", ""), &Options { mxint8_kv_cache: true, ..full.clone() }, "ai100").expect("a plan");
    let io = small.files.iter().find(|file| file.name == "custom_io.yaml").expect("a list");
    assert!(io.content.contains("mxint8") && !io.content.contains("float16"), "{}", io.content);
    for elem in ["f16", "bf16"] {
        let said = plan(&decoder(elem, ""), &full, "ai200").unwrap_err().to_string();
        assert!(said.contains(&format!("--precision f32: `past_key.0` of the graph is {elem}")), "{said}");
    }
}

#[test]
fn partition_files_have_to_agree() {
    let program = decoder("f32", "");
    let file = |content: &str| {
        let file = UserFile { name: "p.json".into(), content: content.into() };
        Options { partition: Partition::File(file), ..options() }
    };
    let two = r#"{"partitions":[{"devices":[{"deviceId":0,"numCores":16},{"deviceId":1}]}]}"#;
    assert_eq!(plan(&program, &file(two), "ai100").expect("a plan").num_devices, 2);
    let cases = [
        (Options { num_devices: Some(4), ..file(two) }, "p.json is for 2 devices, and 4 were asked for"),
        (Options { num_cores: 14, ..file(two) }, "gives device 0 16 cores, and --num-cores is 14"),
        (file("{}"), "p.json: not a partition config"),
        (Options { num_cores: 17, ..options() }, "--num-cores 17: expected 1 to 16"),
    ];
    for (options, part) in cases {
        let said = plan(&program, &options, "ai100").unwrap_err().to_string();
        assert!(said.contains(part), "{said}");
    }
    let mut taken = file(two);
    let Partition::File(file) = &mut taken.partition else { unreachable!() };
    file.name = "custom_io.yaml".into();
    assert!(plan(&program, &taken, "ai100").unwrap_err().to_string().contains("call yours otherwise"));
}
