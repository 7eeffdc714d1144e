//! Rewrite `softcap-30`: logits `x` become `30 · tanh(x / 30)`, as Gemma 2 was trained with.

use std::collections::BTreeMap;

use qeff_plugin_api::graph::{Model, OnnxOp, Op, Program, Role, Type, ValueId};
use qeff_plugin_api::plugin::{GraphRewrite, PluginError};
use qeff_plugin_api::{TensorIndex, WeightExpr};

const CAP: f32 = 30.0;

struct Softcap;

qeff_plugin_api::register!(rewrite: Softcap);

impl GraphRewrite for Softcap {
    fn name(&self) -> &str {
        "softcap-30"
    }

    fn rewrite(&self, mut model: Model, _: &TensorIndex) -> Result<Model, PluginError> {
        let mut capped = false;
        for program in &mut model.programs {
            let Some(logits) = program.output(Role::Logits).map(|output| output.value) else { continue };
            let result = softcap(program, logits);
            for output in program.outputs.iter_mut().filter(|output| output.value == logits) {
                output.value = result;
            }
            capped = true;
        }
        if !capped {
            return Err(PluginError::Other(format!("{} has no logits to cap", model.architecture)));
        }
        Ok(model)
    }
}

/// Standard operators on a value of any shape; the type of a result is that of the operand.
fn softcap(program: &mut Program, x: ValueId) -> ValueId {
    let scope = program.intern_scope("softcap");
    let ty = program.ty(x).clone();
    let number = Type::new(ty.elem, []);
    let cap = program.add_weight(WeightExpr::Fill { value: CAP, shape: vec![] }, number);
    let mut node = |op_type: &str, operands: &[ValueId]| {
        let op = OnnxOp { domain: String::new(), op_type: op_type.to_owned(), attrs: BTreeMap::new() };
        let operands = operands.iter().copied().map(Some).collect();
        let node = program.add_node(scope, Op::Onnx(op), operands, vec![ty.clone()]);
        program.node(node).outputs[0]
    };
    let scaled = node("Div", &[x, cap]);
    let bent = node("Tanh", &[scaled]);
    node("Mul", &[bent, cap])
}
