use qeff_plugin_api::onnx::{
    StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto, type_proto,
};

use super::*;

fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: key.into(), value: value.into() }
}

fn port(name: &str, dims: &[i64]) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension::Value};
    let dim = dims.iter().map(|&n| Dimension { value: Some(Value::DimValue(n)) }).collect();
    let tensor = type_proto::Tensor { elem_type: 1, shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)) }) }
}

/// Opens a model in a folder that also has `data.bin` and `model.safetensors`.
fn open(model: &ModelProto) -> Result<(Program, Vec<PathBuf>)> {
    let dir = tempfile::tempdir().expect("a folder");
    for name in ["data.bin", "model.safetensors"] {
        std::fs::write(dir.path().join(name), "data").expect("a file");
    }
    let path = dir.path().join("m.onnx");
    std::fs::write(&path, model.encode_to_vec()).expect("a file");
    let (program, files) = Program::open(&path)?;
    Ok((program, files.into_iter().map(|file| file.file_name().expect("a name").into()).collect()))
}

fn with_data(location: &str) -> ModelProto {
    let weight = TensorProto {
        dims: vec![3, 5],
        data_type: 1,
        name: "w".into(),
        external_data: vec![entry("location", location)],
        data_location: EXTERNAL,
        ..TensorProto::default()
    };
    let graph = GraphProto { initializer: vec![weight], input: vec![port("w", &[3, 5])], ..GraphProto::default() };
    ModelProto { graph: Some(graph), ..ModelProto::default() }
}

#[test]
fn weights_are_counted_and_are_no_inputs() {
    let (program, files) = open(&with_data("data.bin")).expect("a program");
    assert_eq!(files, [PathBuf::from("m.onnx"), "data.bin".into()]);
    assert_eq!((program.weights.matrix_elements, program.weights.file_bytes), (15, 60));
    assert!(program.interface.inputs.is_empty());
}

#[test]
fn a_linked_checkpoint() {
    let spec = r#"{"files":[{"path":"model.safetensors"}],"inputs":[{"name":"w","location":{"file":0,"key":"w"}}]}"#;
    let graph = GraphProto { input: vec![port("w", &[3, 5]), port("x", &[1])], ..GraphProto::default() };
    let metadata_props = vec![entry(LINKED, spec)];
    let model = ModelProto { graph: Some(graph), metadata_props, ..ModelProto::default() };
    let (program, files) = open(&model).expect("a program");
    assert_eq!(files, [PathBuf::from("m.onnx"), "model.safetensors".into()]);
    let names: Vec<_> = program.interface.inputs.iter().map(|port| port.name.as_str()).collect();
    assert_eq!((names.as_slice(), program.weights.matrix_elements), (&["x"][..], 15));
}

#[test]
fn files_that_are_refused() {
    let said = |model: &ModelProto| format!("{:#}", open(model).expect_err("a refusal"));
    for outside in ["../data.bin", "/etc/passwd", "", "a/../../b"] {
        assert!(said(&with_data(outside)).contains("expected a plain path beside the file"), "{outside}");
    }
    assert!(said(&with_data("gone.bin")).contains("which is missing"));
    assert!(said(&ModelProto::default()).contains("it has no graph"));
    let negative = GraphProto { input: vec![port("x", &[-1])], ..GraphProto::default() };
    let negative = ModelProto { graph: Some(negative), ..ModelProto::default() };
    assert!(said(&negative).contains("dimension -1 is negative"), "{}", said(&negative));
    let linked = ModelProto { metadata_props: vec![entry(LINKED, "{}")], ..with_data("data.bin") };
    assert!(said(&linked).contains("expected a list `files`"), "{}", said(&linked));
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("m.onnx");
    std::fs::write(&path, [0xff; 64]).expect("a file");
    let error = Program::open(&path).expect_err("a refusal");
    assert!(format!("{error:#}").contains("is not an ONNX file"), "{error:#}");
}
