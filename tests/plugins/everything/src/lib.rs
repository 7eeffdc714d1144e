//! A plugin for tests: one small item of each kind, and a description that panics on request.

use std::collections::BTreeMap;

use qeff_plugin_api::blocks::{embed, pool};
use qeff_plugin_api::build::GraphBuilder;
use qeff_plugin_api::config::Config;
use qeff_plugin_api::graph::{AttrValue, Embedding, Model, OnnxOp, Op, Program, Role, Task, Type, ValueId};
use qeff_plugin_api::plugin::{
    Architecture, Fit, GraphRewrite, HeaderNeed, PluginError, PoolingHead, Request, StoredBlock, StoredTensor,
    WeightFormat,
};
use qeff_plugin_api::{DType, Elem, TensorIndex, TensorInfo, WeightExpr};

/// An encoder that is one table.
pub struct Bag;
/// The mean of the hidden states over the tokens that a mask keeps.
pub struct Mean;
/// Doubles every output of role `hidden`.
pub struct Double;
/// A file of one tensor: `TOY1`, rows, columns, then bytes that are one more than the numbers.
pub struct Toy;

qeff_plugin_api::register!(architecture: Bag);
qeff_plugin_api::register!(pooling: Mean);
qeff_plugin_api::register!(rewrite: Double);
qeff_plugin_api::register!(format: Toy);

impl Architecture for Bag {
    fn names(&self) -> Vec<&str> {
        vec!["BagModel"]
    }

    fn recognise(&self, config: &Config) -> Option<Fit> {
        if config.flag_or("any_bag", false).ok()? {
            return Some(Fit::Generic);
        }
        let named = config.texts("architectures").ok()?;
        self.names().contains(&named.first()?.as_str()).then_some(Fit::Exact)
    }

    fn describe(&self, request: &Request) -> Result<Model, PluginError> {
        let width = request.config.count("width")?;
        assert!(width != 13, "a width of {width} is bad luck");
        let g = GraphBuilder::new("main", &request.tensors);
        let ids = g.tokens();
        g.input("attention_mask", Role::Mask, Elem::I64, ["batch_size".into(), "seq_len".into()]);
        // As many words as the checkpoint has.
        let rows = request.tensors.get("table.weight").and_then(|table| table.shape.first().copied()).unwrap_or(0);
        let words = embed(g.at("table"), ids, [rows, width], Embedding::default());
        g.output("hidden", Role::Hidden, words);
        Ok(Model {
            architecture: "BagModel".into(),
            task: Task::Encoder,
            positions: None,
            stale_tensors: vec![],
            programs: vec![g.finish()?],
            links: vec![],
        })
    }
}

fn onnx(op_type: &str, attrs: &[(&str, AttrValue)]) -> Op {
    let attrs: BTreeMap<_, _> = attrs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    Op::Onnx(OnnxOp { domain: String::new(), op_type: op_type.to_owned(), attrs })
}

fn append(program: &mut Program, scope: &str, op: Op, operands: &[ValueId], ty: Type) -> ValueId {
    let scope = program.intern_scope(scope);
    let node = program.add_node(scope, op, operands.iter().copied().map(Some).collect(), vec![ty]);
    program.node(node).outputs[0]
}

fn main_program(model: &mut Model) -> Result<(&mut Program, ValueId), PluginError> {
    let program = model.programs.first_mut().ok_or_else(|| PluginError::Other("the model is empty".into()))?;
    let hidden = program.output(Role::Hidden).map(|output| output.value);
    let hidden = hidden.ok_or_else(|| PluginError::Other("the model has no hidden states to work on".into()))?;
    Ok((program, hidden))
}

impl PoolingHead for Mean {
    fn name(&self) -> &str {
        "masked-mean"
    }

    fn append(&self, mut model: Model, tensors: &TensorIndex) -> Result<Model, PluginError> {
        let (program, hidden) = main_program(&mut model)?;
        let mask = program.input(Role::Mask).map(|input| input.value);
        let mask = mask.ok_or_else(|| PluginError::Other("masked-mean needs an input of role mask".into()))?;
        let g = GraphBuilder::resume(model.programs.remove(0), tensors);
        let mean = pool::mean(g.at("pooling"), g.existing(hidden), g.existing(mask));
        g.output("sentence_embedding", Role::Pooled, mean);
        model.programs.insert(0, g.finish()?);
        Ok(model)
    }
}

impl GraphRewrite for Double {
    fn name(&self) -> &str {
        "double"
    }

    fn rewrite(&self, mut model: Model, _: &TensorIndex) -> Result<Model, PluginError> {
        let (program, hidden) = main_program(&mut model)?;
        let two = program.add_weight(WeightExpr::Fill { value: 2.0, shape: vec![] }, Type::weight(&[]));
        let ty = program.ty(hidden).clone();
        let doubled = append(program, "double", onnx("Mul", &[]), &[hidden, two], ty);
        for output in program.outputs.iter_mut().filter(|output| output.value == hidden) {
            output.value = doubled;
        }
        Ok(model)
    }
}

const HEADER: u64 = 12;

impl WeightFormat for Toy {
    fn name(&self) -> &str {
        "toy"
    }

    fn probe(&self, head: &[u8], file_name: &str) -> bool {
        head.starts_with(b"TOY1") || file_name.ends_with(".toy")
    }

    fn index(&self, head: &[u8], length: u64) -> Result<HeaderNeed, PluginError> {
        let Some((header, _)) = head.split_first_chunk::<{ HEADER as usize }>() else {
            return Ok(HeaderNeed::More(HEADER));
        };
        let number = |at: usize| u64::from(u32::from_le_bytes(std::array::from_fn(|i| header[at + i])));
        let (rows, columns) = (number(4), number(8));
        if rows.checked_mul(columns) != length.checked_sub(HEADER) {
            return Err(PluginError::Other(format!("{rows} rows of {columns} do not fit a file of {length} bytes")));
        }
        let info = TensorInfo { dtype: DType::U8, shape: vec![rows, columns] };
        let tensor = StoredTensor {
            name: "table.weight".into(),
            info,
            offset: HEADER,
            length: rows * columns,
            encoding: "plus-one".into(),
            block: StoredBlock { elements: 1, bytes: 1 },
        };
        Ok(HeaderNeed::Tensors(vec![tensor]))
    }

    fn decode(&self, encoding: &str, bytes: &[u8], out: &mut [u8]) -> Result<(), PluginError> {
        if encoding != "plus-one" || bytes.len() != out.len() {
            return Err(PluginError::Other(format!("cannot decode {} bytes of `{encoding}`", bytes.len())));
        }
        for (to, from) in out.iter_mut().zip(bytes) {
            *to = from.wrapping_sub(1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use qeff_plugin_api::graph::Dim;

    use super::*;

    #[test]
    fn a_bag_is_as_wide_as_its_table() {
        let info = TensorInfo { dtype: DType::F32, shape: vec![5, 3] };
        let tensors = [("table.weight".to_owned(), info)].into_iter().collect();
        let config = Config::parse(r#"{"architectures": ["BagModel"], "width": 3}"#).unwrap();
        let model = Bag.describe(&Request { config, tensors }).unwrap();
        let hidden = model.programs[0].output(Role::Hidden).unwrap().value;
        assert_eq!(model.programs[0].ty(hidden).last(), Some(&Dim::Fixed(3)));
    }
}

qeff_plugin_api::export_plugin! { architectures: ["BagModel"], pooling: ["masked-mean"], rewrites: ["double"], formats: ["toy"] }
