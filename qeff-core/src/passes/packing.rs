//! The order of packed rows of one image size, in place of the input that says it.
//!
//! ```text
//! packing → Identity → Gather     ⇒     Constant → Gather          vision_size becomes a number
//! ```
//! A program that packs tiles of images by an input serves every size; a card's compiler wants what depends on a size to be
//! fixed. So there is one such program for each size, over the same weights.

use qeff_plugin_api::graph::{AttrValue, Dim, NodeId, OnnxOp, Op, Program, Role, Symbol};

use super::Refusal;

const PASS: &str = "fix-packing";

/// The program that packs in the order of `index`, called `name`.
///
/// # Errors
/// If it takes no order, or uses it for anything else.
pub fn fix_packing(program: &Program, index: &[i64], name: &str) -> Result<Program, Refusal> {
    let refused = |why: &str| Refusal { pass: PASS, place: format!("program {}", program.name), why: why.to_owned() };
    let place = program.inputs.iter().position(|input| input.role == Role::Packing);
    let place = place.ok_or_else(|| refused("it takes no order of rows: it serves every image as it is"))?;
    let input = &program.inputs[place];
    let Some(Dim::Symbol(length)) = program.ty(input.value).dims.first().cloned() else {
        return Err(refused("the length of its order of rows is fixed already"));
    };
    let mut fixed = program.clone();
    fixed.name = name.to_owned();
    let readers: Vec<NodeId> =
        program.nodes().filter(|(_, node)| node.operands.contains(&Some(input.value))).map(|(id, _)| id).collect();
    for id in readers {
        let node = fixed.node_mut(id);
        if !matches!(&node.op, Op::Onnx(op) if op.domain.is_empty() && op.op_type == "Identity") {
            return Err(refused("its order of rows is more than passed on"));
        }
        let attrs = [("value_ints".to_owned(), AttrValue::Ints(index.to_vec()))].into();
        node.op = Op::Onnx(OnnxOp { domain: String::new(), op_type: "Constant".into(), attrs });
        node.operands.clear();
    }
    fixed.remove_input(place);
    bind(&mut fixed, &length, index.len() as u64);
    Ok(fixed)
}

/// Puts a number in the place of a symbol, wherever it stands.
fn bind(program: &mut Program, symbol: &Symbol, n: u64) {
    let ids: Vec<_> = program.values().map(|(id, _)| id).collect();
    for id in ids {
        for dim in &mut program.ty_mut(id).dims {
            if matches!(dim, Dim::Symbol(other) if other == symbol) {
                *dim = Dim::Fixed(n);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use qeff_plugin_api::TensorIndex;

    use super::*;
    use crate::text;

    const PACKED: &str = "\
model \"M\" qeff 3 task image_text_to_text
program vision (n, k)
  %x = input pixel_values : act[n, 4] @pixels
  %i = input packing : i64[k] @packing
  packing
    %1 = Identity %i : i64[k]
    %2 = Gather %x, %1 : act[k, 4]
  output vision_embeds = %2 : act[k, 4] @embeds
";

    fn program(text: &str) -> Program {
        text::parse(text, &TensorIndex::new()).unwrap().programs.remove(0)
    }

    #[test]
    fn the_order_becomes_a_constant() {
        let fixed = fix_packing(&program(PACKED), &[2, 0, 1], "vision_2x3").unwrap();
        assert_eq!((fixed.name.as_str(), fixed.inputs.len()), ("vision_2x3", 1));
        let (_, constant) = fixed.nodes().next().unwrap();
        assert!(matches!(&constant.op, Op::Onnx(op) if op.attrs["value_ints"] == AttrValue::Ints(vec![2, 0, 1])));
        let embeds = fixed.output(Role::Embeds).unwrap();
        assert_eq!(fixed.ty(embeds.value).dims, [Dim::Fixed(3), Dim::Fixed(4)]);
    }

    #[test]
    fn other_uses_of_the_order_are_refused() {
        let twice = fix_packing(&program(&PACKED.replace("Identity", "Neg")), &[0], "v").unwrap_err();
        assert!(twice.to_string().contains("more than passed on"), "{twice}");
        let none = PACKED.replace(" @packing", " @positions");
        assert!(fix_packing(&program(&none), &[0], "v").unwrap_err().to_string().contains("takes no order"));
    }
}
