//! Makes nodes.

use qeff_plugin_api::DType;
use qeff_plugin_api::onnx::{AttributeProto, NodeProto, TensorProto, attribute_type, data_type};

/// Makes nodes before one that is replaced.
pub(super) struct Build<'a> {
    prefix: String,
    made: &'a mut usize,
    pub(super) out: &'a mut Vec<NodeProto>,
}

impl<'a> Build<'a> {
    pub(super) fn new(what: &str, node: &NodeProto, made: &'a mut usize, out: &'a mut Vec<NodeProto>) -> Self {
        Build { prefix: format!("{}/{what}", node.name), made, out }
    }

    pub(super) fn name(&mut self) -> String {
        *self.made += 1;
        format!("{}{}", self.prefix, self.made)
    }

    pub(super) fn node(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Vec<i64>)]) -> String {
        let output = self.name();
        self.node_for(&output, op, inputs, attributes);
        output
    }

    pub(super) fn node_for(&mut self, output: &str, op: &str, inputs: &[&str], attributes: &[(&str, Vec<i64>)]) {
        // One number is an INT: the operators used here have no list of one but `axes`.
        let attribute = attributes.iter().map(|(name, numbers)| match numbers.as_slice() {
            [one] if *name != "axes" => AttributeProto {
                name: (*name).into(),
                r#type: attribute_type::INT,
                i: Some(*one),
                ..AttributeProto::default()
            },
            _ => AttributeProto {
                name: (*name).into(),
                r#type: attribute_type::INTS,
                ints: numbers.clone(),
                ..AttributeProto::default()
            },
        });
        let attribute = attribute.collect();
        self.out.push(NodeProto {
            name: output.to_owned(),
            op_type: op.to_owned(),
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![output.to_owned()],
            attribute,
            domain: String::new(),
        });
    }

    pub(super) fn constant(&mut self, tensor: TensorProto) -> String {
        let output = self.name();
        let value = AttributeProto {
            name: "value".into(),
            r#type: attribute_type::TENSOR,
            t: Some(tensor),
            ..AttributeProto::default()
        };
        self.out.push(NodeProto {
            name: output.clone(),
            op_type: "Constant".into(),
            output: vec![output.clone()],
            attribute: vec![value],
            ..NodeProto::default()
        });
        output
    }

    pub(super) fn ints(&mut self, numbers: &[i64]) -> String {
        let raw = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let dims = vec![numbers.len() as i64];
        self.constant(TensorProto { dims, data_type: data_type(DType::I64), raw_data: Some(raw), ..Default::default() })
    }
}
