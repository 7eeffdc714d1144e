use super::*;
use crate::compile::testing::decoder;
use crate::compile::{Shape, UserFile};

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
