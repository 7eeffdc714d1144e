use qeff_plugin_api::DType;
use qeff_plugin_api::onnx::{ModelProto, TensorProto};

use super::engine::Executable;
use super::invalid::Negative;
use super::model::Model;
use super::tensor::{Data, Form, Tensor, stored};
use super::weights::Files;
use crate::qpc::network::Elem;
use crate::testing::{function, ints_tensor, model, port};

fn floats(dims: &[usize], numbers: &[f32]) -> Tensor {
    Tensor { dims: dims.to_vec(), data: Data::F32(numbers.to_vec()) }
}

fn ints(dims: &[usize], numbers: &[i32]) -> Tensor {
    Tensor { dims: dims.to_vec(), data: Data::I32(numbers.to_vec()) }
}

fn run(proto: ModelProto, negative: Negative, inputs: Vec<Tensor>) -> Tensor {
    let executable = load(proto, negative).unwrap_or_else(|error| panic!("{error:?}"));
    executable.run(inputs).expect("a run").remove(0)
}

fn load(proto: ModelProto, negative: Negative) -> Result<Executable, super::engine::LoadError> {
    Executable::load(Model { proto, files: Default::default() }, Files::new(), negative)
}

/// `ScatterND` or `GatherND` over anything.
fn indexed(line: &str, updates: bool) -> ModelProto {
    let mut inputs = vec![port("data", DType::F32, &["a", "b"]), port("indices", DType::I64, &["n", "k"])];
    if updates {
        inputs.push(port("updates", DType::F32, &["n"]));
    }
    model(inputs, vec![port("y", DType::F32, &["c"])], &[line], vec![])
}

#[test]
fn writes_to_no_row_are_dropped() {
    let data = || floats(&[2, 3], &[0., 1., 2., 3., 4., 5.]);
    let scatter = |negative, indices: &[i32]| {
        let updates: Vec<f32> = (0..indices.len() / 2).map(|i| 10. + i as f32).collect();
        let inputs = vec![data(), ints(&[updates.len(), 2], indices), floats(&[updates.len()], &updates)];
        run(indexed("y = ScatterND(data, indices, updates)", true), negative, inputs)
    };
    let max = i32::MAX;
    // Each tuple has one index that leads nowhere; the order of dropped and real writes does not matter.
    let nowhere = [0, max, max, 0, 2, 0, 0, 3, 1, 1];
    assert_eq!(scatter(Negative::Drop, &nowhere), floats(&[2, 3], &[0., 1., 2., 3., 14., 5.]));
    assert_eq!(scatter(Negative::Drop, &[-1, 0, 0, 0]), floats(&[2, 3], &[11., 1., 2., 3., 4., 5.]));
    assert_eq!(scatter(Negative::Wrap, &[-1, -1, 0, -4, 0, max]), floats(&[2, 3], &[0., 1., 2., 3., 4., 10.]));
}

#[test]
fn whole_rows_and_sums() {
    let proto = model(
        vec![
            port("data", DType::F32, &["a", "b"]),
            port("indices", DType::I64, &["n", "1"]),
            port("updates", DType::F32, &["n", "b"]),
        ],
        vec![port("y", DType::F32, &["a", "b"])],
        &["y = ScatterND(data, indices, updates)"],
        vec![],
    );
    let inputs =
        vec![floats(&[2, 2], &[0., 1., 2., 3.]), ints(&[2, 1], &[i32::MAX, 1]), floats(&[2, 2], &[7., 7., 8., 9.])];
    assert_eq!(run(proto, Negative::Drop, inputs), floats(&[2, 2], &[0., 1., 8., 9.]));
}

#[test]
fn reads_of_no_row_are_zero() {
    let data = || floats(&[2, 2], &[f32::NAN, 1., 2., 3.]);
    let gather = indexed("y = GatherND(data, indices)", false);
    let y = run(gather, Negative::Drop, vec![data(), ints(&[4, 2], &[1, 0, i32::MAX, 0, -1, 1, 0, 1])]);
    assert_eq!(y, floats(&[4], &[2., 0., 0., 1.]));
    // Batched: the first axis is common to both.
    let gather = indexed("y = GatherND(data, indices) batch_dims=1", false);
    let inputs = vec![floats(&[2, 2], &[0., 1., 2., 3.]), ints(&[2, 1], &[1, 2])];
    assert_eq!(run(gather, Negative::Drop, inputs), floats(&[2], &[1., 0.]));
}

#[test]
fn functions_within_functions() {
    let inner =
        function("a.b::Scale", &["x"], &["y"], &["by"], &["factor = Constant() value_float=@by", "y = Mul(x, factor)"]);
    let outer = function(
        "a.b::Twice",
        &["x", "unused"],
        &["y"],
        &["by"],
        &[
            // The same name as within the other function, and as outside.
            "factor = a.b::Scale(x) by=@by",
            "y = a.b::Scale(factor) by=0.5",
        ],
    );
    let proto = model(
        vec![port("x", DType::F32, &["n"])],
        vec![port("z", DType::F32, &["n"])],
        &["factor = a.b::Twice(x) by=8.0", "z = a.b::Twice(factor) by=3.0"],
        vec![inner, outer],
    );
    assert_eq!(run(proto, Negative::Drop, vec![floats(&[2], &[1., 2.])]), floats(&[2], &[6., 12.]));
}

#[test]
fn a_function_that_calls_itself() {
    let looping = function("a.b::F", &["x"], &["y"], &[], &["y = a.b::F(x)"]);
    let (x, y) = (port("x", DType::F32, &["n"]), port("y", DType::F32, &["n"]));
    let refused = load(model(vec![x], vec![y], &["y = a.b::F(x)"], vec![looping]), Negative::Drop);
    let said = format!("{:?}", refused.err().expect("a refusal"));
    assert!(said.contains("nested too deeply"), "{said}");
}

#[test]
fn four_bit_products_are_multiplied_out() {
    // Two rows of four columns in blocks of two: code − zero, times the block's scale; columns 0 and 3 are of block 1.
    let raw = |name: &str, dims: &[i64], data_type, bytes: Vec<u8>| TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type,
        raw_data: Some(bytes),
        ..TensorProto::default()
    };
    let f32s = |numbers: &[f32]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>();
    let i32s = |numbers: &[i32]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>();
    let mut proto = model(
        vec![port("x", DType::F32, &["1", "4"])],
        vec![port("y", DType::F32, &["1", "2"])],
        &["y = com.microsoft::MatMulNBits(x, codes, scales, zeros, groups) K=4 N=2 bits=4 block_size=2"],
        vec![],
    );
    proto.graph.as_mut().expect("a graph").initializer = vec![
        raw("codes", &[2, 2, 1], 2, vec![0x21, 0x43, 0x65, 0x87]),
        raw("scales", &[4], 1, f32s(&[1., 10., 100., 1000.])),
        raw("zeros", &[2], 2, vec![0x10, 0x32]),
        raw("groups", &[4], 6, i32s(&[1, 0, 0, 1])),
    ];
    let y = run(proto, Negative::Drop, vec![floats(&[1, 4], &[1., 1., 1., 1.])]);
    // Row 0: codes 1 2 3 4, zeros 0 and 1: (1−1)·10 + 2 + 3 + (4−1)·10; row 1: codes 5 6 7 8, zeros 2 and 3.
    assert_eq!(y, floats(&[1, 2], &[35., 2000. + 400. + 500. + 5000.]));
}

#[test]
fn numbers_come_back_as_they_are_stored() {
    let form = |elem: i32| Form { stored: stored(elem).expect("a type"), elem, mxint8: false };
    let long: Vec<u8> = [7i64, i64::MAX, -1].iter().flat_map(|number| number.to_le_bytes()).collect();
    let tensor = form(7).decode(&long, &[3]).expect("a tensor");
    assert_eq!(tensor, ints(&[3], &[7, i32::MAX, -1]));
    assert_eq!(form(9).decode(&[0, 2], &[2]).expect("a tensor"), ints(&[2], &[0, 1]));
    assert_eq!(form(9).encode(&ints(&[2], &[0, 1])).expect("bytes"), [0, 1]);
    let half = Form { stored: Elem::F16, elem: 1, mxint8: false };
    assert_eq!(half.round(floats(&[1], &[1.0001])), floats(&[1], &[1.0]));
    assert_eq!(half.encode(&floats(&[1], &[1.0])).expect("bytes"), [0x00, 0x3c]);
    assert!(form(1).decode(&[0; 3], &[1]).is_err());
    let mx = Form { stored: Elem::I8, elem: 1, mxint8: true };
    // 1 is 64 steps of 2⁻⁶; what is less than half a step is nothing.
    assert_eq!(mx.round(floats(&[3], &[1.0, 0.5, 0.007])), floats(&[3], &[1.0, 0.5, 0.0]));
    assert!(mx.decode(&[0], &[1]).is_err());
    assert_eq!(ints_tensor("x", &[1]).dims, [1]);
}
