//! Bodies of the custom functions, as the compiler and ONNX tools know them.
//!
//! Each custom operator ships as a node in its domain *and* as a local function of standard operators, so that any ONNX
//! runtime can execute the file and the AI 100 compiler can replace the call by its own kernel. The wiring is that of the
//! reference's exports (recorded facts), spelled in a small table language:
//!
//! ```text
//! result = Operator(input, input) key=value
//! ```

use qeff_plugin_api::DType;
use qeff_plugin_api::onnx::{
    AttributeProto, FunctionProto, NodeProto, OperatorSetIdProto, TensorProto, attribute_type, data_type,
};

use super::{AISW, CLOUD};

/// Standard operator set of the model and of every function.
pub(super) const OPSET: i64 = 17;

struct Function {
    domain: &'static str,
    name: &'static str,
    inputs: &'static [&'static str],
    attributes: &'static [&'static str],
    body: &'static str,
}

/// In the order in which files list them.
const FUNCTIONS: &[Function] = &[
    Function {
        domain: AISW,
        name: "CustomRMSNorm",
        inputs: &["hidden_states", "weight"],
        attributes: &["epsilon"],
        body: "
            weight_0 = Cast(weight) to=1
            int64_2 = Constant() value=2
            tmp = Pow(hidden_states, int64_2)
            variance = ReduceMean(tmp) axes=[-1] keepdims=1
            epsilon = Constant() value_float=@epsilon
            tmp_1 = Shape(variance)
            epsilon_2 = Expand(epsilon, tmp_1)
            tmp_3 = Add(variance, epsilon_2)
            tmp_4 = Sqrt(tmp_3)
            tmp_5 = Reciprocal(tmp_4)
            hidden_states_6 = Mul(hidden_states, tmp_5)
            return_val = Mul(weight_0, hidden_states_6)",
    },
    Function {
        domain: CLOUD,
        name: "CtxScatter",
        inputs: &["data", "position_ids", "updates"],
        attributes: &[],
        body: "
            tmp = Shape(data)
            int64_0_1d = Constant() value=[0]
            batch_size = Gather(tmp, int64_0_1d)
            tmp_0 = Shape(data)
            int64_1_1d = Constant() value=[1]
            num_heads = Gather(tmp_0, int64_1_1d)
            tmp_1 = Shape(position_ids)
            int64_1_1d_2 = Constant() value=[1]
            seq_len = Gather(tmp_1, int64_1_1d_2)
            zero = Constant() value_ints=[0]
            one = Constant() value_ints=[1]
            exp_shape = Concat(batch_size, num_heads, seq_len, one) axis=0
            tmp_3 = Range(zero, batch_size, one)
            const = Constant() value=[1, 2, 3]
            tmp_4 = Unsqueeze(tmp_3, const)
            batch_idx = Expand(tmp_4, exp_shape)
            tmp_5 = Range(zero, num_heads, one)
            const_6 = Constant() value=[0, 2, 3]
            tmp_7 = Unsqueeze(tmp_5, const_6)
            head_idx = Expand(tmp_7, exp_shape)
            const_8 = Constant() value=[1, 3]
            tmp_9 = Unsqueeze(position_ids, const_8)
            ctx_idx = Expand(tmp_9, exp_shape)
            indices = Concat(batch_idx, head_idx, ctx_idx) axis=3
            return_val = ScatterND(data, indices, updates)",
    },
    Function {
        domain: CLOUD,
        name: "CtxGather",
        inputs: &["data", "ctx_indices", "comp_ctx_len"],
        attributes: &[],
        body: "
            tmp = Shape(data)
            int64_0_1d = Constant() value=[0]
            int64_1_1d = Constant() value=[1]
            int64_2_1d = Constant() value=[2]
            tmp_subscripted = Slice(tmp, int64_0_1d, int64_2_1d, int64_0_1d, int64_1_1d)
            int64_1_1d_0 = Constant() value=[1]
            tmp_1 = Reshape(comp_ctx_len, int64_1_1d_0)
            shape_tensor = Concat(tmp_subscripted, tmp_1) axis=0
            ctx_indices_2 = Expand(ctx_indices, shape_tensor)
            int64_m1_1d = Constant() value=[-1]
            ctx_indices_3 = Unsqueeze(ctx_indices_2, int64_m1_1d)
            return_val = GatherND(data, ctx_indices_3) batch_dims=2",
    },
    Function {
        domain: CLOUD,
        name: "CtxScatterCB",
        inputs: &["data", "batch_index", "position_ids", "updates"],
        attributes: &[],
        body: "
            tmp = Shape(batch_index)
            int64_0_1d = Constant() value=[0]
            batch_size = Gather(tmp, int64_0_1d)
            tmp_0 = Shape(data)
            int64_1_1d = Constant() value=[1]
            num_heads = Gather(tmp_0, int64_1_1d)
            tmp_1 = Shape(position_ids)
            int64_1_1d_2 = Constant() value=[1]
            seq_len = Gather(tmp_1, int64_1_1d_2)
            zero = Constant() value_ints=[0]
            one = Constant() value_ints=[1]
            exp_shape = Concat(batch_size, num_heads, seq_len, one) axis=0
            const = Constant() value=[2, 3]
            tmp_3 = Unsqueeze(batch_index, const)
            batch_idx = Expand(tmp_3, exp_shape)
            tmp_4 = Range(zero, num_heads, one)
            const_5 = Constant() value=[0, 2, 3]
            tmp_6 = Unsqueeze(tmp_4, const_5)
            head_idx = Expand(tmp_6, exp_shape)
            const_7 = Constant() value=[1, 3]
            tmp_8 = Unsqueeze(position_ids, const_7)
            ctx_idx = Expand(tmp_8, exp_shape)
            indices = Concat(batch_idx, head_idx, ctx_idx) axis=3
            return_val = ScatterND(data, indices, updates)",
    },
    Function {
        domain: CLOUD,
        name: "CtxGatherCB",
        inputs: &["data", "batch_index", "ctx_indices", "comp_ctx_len"],
        attributes: &[],
        body: "
            tmp = Shape(batch_index)
            int64_0_1d = Constant() value=[0]
            batch_size = Gather(tmp, int64_0_1d)
            tmp_0 = Shape(data)
            int64_1_1d = Constant() value=[1]
            num_heads = Gather(tmp_0, int64_1_1d)
            tmp_1 = Shape(ctx_indices)
            int64_2_1d = Constant() value=[2]
            ctx_len = Gather(tmp_1, int64_2_1d)
            zero = Constant() value_ints=[0]
            one = Constant() value_ints=[1]
            int64_1_1d_2 = Constant() value=[1]
            tmp_3 = Reshape(batch_size, int64_1_1d_2)
            int64_1_1d_4 = Constant() value=[1]
            tmp_5 = Reshape(num_heads, int64_1_1d_4)
            int64_1_1d_6 = Constant() value=[1]
            tmp_7 = Reshape(ctx_len, int64_1_1d_6)
            exp_shape = Concat(tmp_3, tmp_5, tmp_7, one) axis=0
            const = Constant() value=[2, 3]
            tmp_8 = Unsqueeze(batch_index, const)
            batch_idx = Expand(tmp_8, exp_shape)
            tmp_9 = Range(zero, num_heads, one)
            const_10 = Constant() value=[0, 2, 3]
            tmp_11 = Unsqueeze(tmp_9, const_10)
            head_idx = Expand(tmp_11, exp_shape)
            int64_3_1d = Constant() value=[3]
            tmp_12 = Unsqueeze(ctx_indices, int64_3_1d)
            ctx_idx = Expand(tmp_12, exp_shape)
            indices = Concat(batch_idx, head_idx, ctx_idx) axis=3
            return_val = GatherND(data, indices)",
    },
];

/// The norm of a program whose activations are f16. The reference keeps the body above, whose `Mul` has operands of two
/// types then, and whose squares overflow; no ONNX runtime takes it. This one computes in f32.
const HALF_NORM: Function = Function {
    domain: AISW,
    name: "CustomRMSNorm",
    inputs: &["hidden_states", "weight"],
    attributes: &["epsilon"],
    body: "
        weight_0 = Cast(weight) to=1
        hidden_states_1 = Cast(hidden_states) to=1
        int64_2 = Constant() value=2
        tmp = Pow(hidden_states_1, int64_2)
        variance = ReduceMean(tmp) axes=[-1] keepdims=1
        epsilon = Constant() value_float=@epsilon
        tmp_1 = Shape(variance)
        epsilon_2 = Expand(epsilon, tmp_1)
        tmp_3 = Add(variance, epsilon_2)
        tmp_4 = Sqrt(tmp_3)
        tmp_5 = Reciprocal(tmp_4)
        hidden_states_6 = Mul(hidden_states_1, tmp_5)
        tmp_7 = Mul(weight_0, hidden_states_6)
        return_val = Cast(tmp_7) to=10",
};

/// The functions behind the given (domain, operator) pairs, in a program with activations of type `act`.
pub(super) fn of(used: &[(String, String)], act: DType) -> Vec<FunctionProto> {
    let in_type = |function: &'static Function| match (function.name, act) {
        ("CustomRMSNorm", DType::F16) => &HALF_NORM,
        _ => function,
    };
    FUNCTIONS
        .iter()
        .map(in_type)
        .filter(|function| {
            used.iter().any(|(domain, op)| (domain.as_str(), op.as_str()) == (function.domain, function.name))
        })
        .map(Function::proto)
        .collect()
}

impl Function {
    fn proto(&self) -> FunctionProto {
        let texts = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        FunctionProto {
            name: self.name.into(),
            domain: self.domain.into(),
            input: texts(self.inputs),
            output: vec!["return_val".into()],
            attribute: texts(self.attributes),
            node: self.body.lines().map(str::trim).filter(|line| !line.is_empty()).map(node).collect(),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        }
    }
}

/// One line of a body. The bodies above are constants, so a line that does not fit the form is our bug.
fn node(line: &str) -> NodeProto {
    let parts = line.split_once(" = ").and_then(|(output, call)| {
        let (op, rest) = call.split_once('(')?;
        let (inputs, attributes) = rest.split_once(')')?;
        Some((output, op, inputs, attributes))
    });
    let (output, op, inputs, attributes) = parts.unwrap_or_else(|| unreachable!("function body line: {line}"));
    NodeProto {
        name: format!("n_{output}"),
        op_type: op.to_owned(),
        input: inputs.split(", ").filter(|input| !input.is_empty()).map(str::to_owned).collect(),
        output: vec![output.to_owned()],
        attribute: list(attributes),
        domain: String::new(),
    }
}

fn list(attributes: &str) -> Vec<AttributeProto> {
    // `value=[1, 2, 3]` holds spaces: an attribute begins where a word is followed by `=`.
    let mut found: Vec<String> = vec![];
    for word in attributes.split_whitespace() {
        match found.last_mut() {
            Some(last) if !word.contains('=') => last.push_str(word),
            _ => found.push(word.to_owned()),
        }
    }
    found.iter().map(|text| attribute(text)).collect()
}

fn attribute(text: &str) -> AttributeProto {
    let (name, value) = text.split_once('=').unwrap_or_else(|| unreachable!("function attribute: {text}"));
    let ints = || -> Vec<i64> {
        let inner = value.trim_start_matches('[').trim_end_matches(']');
        inner.split(',').map(|n| n.parse().unwrap_or_else(|_| unreachable!("function attribute: {text}"))).collect()
    };
    let base = AttributeProto { name: name.to_owned(), ..AttributeProto::default() };
    if let Some(outer) = value.strip_prefix('@') {
        return AttributeProto { r#type: attribute_type::FLOAT, ref_attr_name: outer.to_owned(), ..base };
    }
    match (name, value.starts_with('[')) {
        ("value", is_list) => {
            let values = ints();
            let tensor = TensorProto {
                dims: if is_list { vec![values.len() as i64] } else { vec![] },
                data_type: data_type(DType::I64),
                raw_data: Some(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
                ..TensorProto::default()
            };
            AttributeProto { r#type: attribute_type::TENSOR, t: Some(tensor), ..base }
        }
        (_, true) => AttributeProto { r#type: attribute_type::INTS, ints: ints(), ..base },
        (_, false) => AttributeProto { r#type: attribute_type::INT, i: ints().first().copied(), ..base },
    }
}
