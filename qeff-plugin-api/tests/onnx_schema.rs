//! `src/onnx/generated.rs` is what `src/onnx/onnx.proto` says.
//!
//! To change the schema, edit the `.proto` file and run this test with `QEFF_BLESS=1`.

use std::path::Path;

#[test]
fn generated_types_follow_the_schema() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/onnx");
    let schema = protox::compile([folder.join("onnx.proto")], [&folder]).unwrap();
    let out = tempfile::tempdir().unwrap();
    prost_build::Config::new().out_dir(out.path()).compile_fds(schema).unwrap();
    let fresh = std::fs::read_to_string(out.path().join("onnx.rs")).unwrap();
    let checked_in = folder.join("generated.rs");
    if std::env::var_os("QEFF_BLESS").is_some() {
        std::fs::write(&checked_in, &fresh).unwrap();
    }
    let found = std::fs::read_to_string(&checked_in).unwrap();
    assert!(found == fresh, "src/onnx/generated.rs is not what prost makes of onnx.proto; run with QEFF_BLESS=1");
}
