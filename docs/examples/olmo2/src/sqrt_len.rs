//! Pooling head `mean-sqrt-len`: the sum of a text's hidden states, divided by the root of their number.
//!
//! It lies between sum and mean: a long text weighs more than a short one, but not in proportion. sentence-transformers
//! calls it `pooling_mode_mean_sqrt_len_tokens`.

use qeff_plugin_api::TensorIndex;
use qeff_plugin_api::graph::{AttrValue, Dim, Model, OnnxOp, Op, Program, Role, Type, ValueId};
use qeff_plugin_api::plugin::{PluginError, PoolingHead};

struct SqrtLen;

qeff_plugin_api::register!(pooling: SqrtLen);

impl PoolingHead for SqrtLen {
    fn name(&self) -> &str {
        "mean-sqrt-len"
    }

    fn append(&self, mut model: Model, _: &TensorIndex) -> Result<Model, PluginError> {
        let refuse = |why: &str| PluginError::Other(format!("{}: {why}", model.architecture));
        let no_hidden = refuse("it puts out no hidden states, so there is nothing to pool");
        let no_mask = refuse("it takes no mask, so padding cannot be told from text");
        let program = model.programs.iter_mut().find(|program| program.output(Role::Hidden).is_some());
        let program = program.ok_or(no_hidden)?;
        let hidden = program.output(Role::Hidden).map(|output| output.value);
        let mask = program.input(Role::Mask).map(|input| input.value);
        let (Some(hidden), Some(mask)) = (hidden, mask) else { return Err(no_mask) };
        pool(program, hidden, mask)?;
        Ok(model)
    }
}

fn pool(program: &mut Program, hidden: ValueId, mask: ValueId) -> Result<(), PluginError> {
    let ty = program.ty(hidden).clone();
    let [batch, seq, width] = ty.dims.as_slice() else {
        return Err(PluginError::Other(format!("expected hidden states [batch, seq, width], found {ty}")));
    };
    let (batch, seq, width) = (batch.clone(), seq.clone(), width.clone());
    let shape = |dims: &[&Dim]| Type::new(ty.elem, dims.iter().map(|dim| (*dim).clone()));
    let one = Dim::Fixed(1);
    let mut node = |op_type: &str, attrs: &[(&str, AttrValue)], operands: &[ValueId], ty: Type| {
        let scope = program.intern_scope("pooling");
        let attrs = attrs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let op = OnnxOp { domain: String::new(), op_type: op_type.to_owned(), attrs };
        let node = program.add_node(scope, Op::Onnx(op), operands.iter().copied().map(Some).collect(), vec![ty]);
        program.node(node).outputs[0]
    };
    let over_tokens = [("axes", AttrValue::Ints(vec![1])), ("keepdims", AttrValue::Int(0))];
    let column = node("Unsqueeze", &[("axes", AttrValue::Ints(vec![2]))], &[mask], shape(&[&batch, &seq, &one]));
    let kept = node("Mul", &[], &[hidden, column], shape(&[&batch, &seq, &width]));
    let sum = node("ReduceSum", &over_tokens, &[kept], shape(&[&batch, &width]));
    let count = node("ReduceSum", &over_tokens, &[column], shape(&[&batch, &one]));
    let root = node("Sqrt", &[], &[count], shape(&[&batch, &one]));
    let pooled = node("Div", &[], &[sum, root], shape(&[&batch, &width]));
    program.add_output("sentence_embedding", Role::Pooled, pooled);
    Ok(())
}
