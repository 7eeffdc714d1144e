use qeff_plugin_api::onnx::TensorProto;

use super::*;

/// First layer of each later stage, as the reference computes it.
#[test]
fn layers_are_shared_out_as_the_reference_does() {
    let cases: [(u64, u64, &[u64]); 8] = [
        (40, 2, &[20]),
        (41, 2, &[21]),
        (33, 4, &[8, 17, 25]),
        (34, 4, &[8, 17, 26]),
        (35, 4, &[9, 18, 27]),
        (94, 4, &[23, 47, 71]),
        (10, 3, &[3, 7]),
        (7, 5, &[1, 2, 4, 6]),
    ];
    for (layers, stages, want) in cases {
        assert_eq!(bounds(layers, stages), want, "{layers} layers, {stages} stages");
    }
    assert!(bounds(5, 1).is_empty());
}

fn node(name: &str, op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        name: name.into(),
        op_type: op.into(),
        input: inputs.iter().map(|&input| input.into()).collect(),
        output: vec![output.into()],
        ..NodeProto::default()
    }
}

/// Two layers: a folded node, a function with a kernel, a small function, nodes of no layer.
fn graph() -> (GraphProto, Vec<FunctionProto>) {
    let nodes = vec![
        node("/embed", "Gather", &["table", "ids"], "x0"),
        node("/fold", "Transpose", &["table"], "tableT"),
        node("/constant", "Constant", &[], "c"),
        node("/model/layers.0/Norm", "CustomRMSNorm", &["x0"], "x1"),
        node("/model/layers.1/Scatter", "CtxScatter", &["x1", "c"], "x2"),
        node("", "Neg", &["x2"], "x3"),
        node("/lm_head/MatMul", "MatMul", &["x3", "tableT"], "logits"),
    ];
    let body = |name: &str, n: usize| FunctionProto {
        name: name.into(),
        node: (0..n).map(|i| node(if i == 1 { "inner" } else { "" }, "Neg", &[], "y")).collect(),
        ..FunctionProto::default()
    };
    let table = TensorProto { name: "table".into(), ..TensorProto::default() };
    (
        GraphProto { node: nodes, initializer: vec![table], ..GraphProto::default() },
        vec![body("CustomRMSNorm", 3), body("CtxScatter", 2)],
    )
}

#[test]
fn stages_list_what_the_compiler_sees() {
    let (graph, functions) = graph();
    let json = stages(&graph, &functions, 2, 5, 14, &Strategy::Onnx).expect("stages");
    assert_eq!(
        json,
        json!({
            "connections": [{ "devices": [0, 1, 2, 3, 4], "type": "p2p" }],
            "partitions": [
                {
                    "name": "Partition0",
                    "nodeList": ["/embed", "/constant", "/model/layers.0/Norm"],
                    "devices": [{ "deviceId": 0, "numCores": 14 }, { "deviceId": 1, "numCores": 14 }],
                },
                {
                    "name": "Partition1",
                    "nodeList": ["/model/layers.1/Scatter/n0", "/model/layers.1/Scatter/inner", "/lm_head/MatMul"],
                    "devices": [{ "deviceId": 2, "numCores": 14 }, { "deviceId": 3, "numCores": 14 }],
                },
            ],
        })
    );
}

#[test]
fn stages_that_cannot_be() {
    let (graph, functions) = graph();
    let said = |n, devices, strategy: &Strategy| {
        stages(&graph, &functions, n, devices, 16, strategy).map(|_| ()).unwrap_err().to_string()
    };
    assert!(said(0, 2, &Strategy::Onnx).contains("expected 1 to 2"));
    assert!(said(3, 2, &Strategy::Onnx).contains("expected 1 to 2"));
    assert!(said(3, 4, &Strategy::Onnx).contains("the graph has 2 layers"));
    let dump = r#"{"partitions":[{"nodeList":["/embed"]}]}"#;
    let strategy = Strategy::from_dump(dump).expect("a dump");
    assert!(said(2, 2, &strategy).contains("stage 1 has no node left"));
    assert!(Strategy::from_dump("{}").is_err() && Strategy::from_dump("[").is_err());
}

#[test]
fn a_graph_out_of_order_is_refused() {
    let (mut graph, functions) = graph();
    graph.node.swap(3, 4);
    let error = stages(&graph, &functions, 2, 2, 16, &Strategy::Onnx).unwrap_err();
    assert!(
        error.to_string().contains("`/model/layers.1/Scatter` reads `x1` before `/model/layers.0/Norm`"),
        "{error}"
    );
}

#[test]
fn layers_are_told_by_paths() {
    assert_eq!(layer("/model/layers.12/self_attn/MatMul"), Some(12));
    assert_eq!(layer("/transformer/h.3/attn"), Some(3));
    assert_eq!(layer("/layer_4/x"), Some(4));
    assert_eq!(layer("/model/layers.x/MatMul"), None);
    assert_eq!(layer("/lm_head/MatMul"), None);
}
