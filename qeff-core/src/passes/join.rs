//! One program of two: what one puts out for the other is computed where the other takes it.
//!
//! ```text
//! vision:   pixels → … → embeds                       main:  State(pixels) → StateRead → … → embeds ─┐
//! language: State(embeds) → StateRead → … → logits    ⇒                                   … → logits
//! ```
//! The inputs of the first become states that no call writes, so that the outside hands them over once. What it computes is
//! computed with every call: two programs are better wherever a runtime can hold two.

use std::collections::HashMap;

use qeff_plugin_api::graph::{
    Declaration, Def, Link, Model, NodeId, Op, Program, Role, StateKind, StateRead, Type, ValueId,
};

use super::{PassReport, Refusal};

const PASS: &str = "join";

/// Joins the programs of a model of two, of which the first feeds the second.
///
/// # Errors
/// If they are more or fewer, keep states where none can be kept, or compute in different types; the model is then unchanged.
pub fn join(model: &mut Model) -> Result<PassReport, Refusal> {
    let refused = |why: String| Refusal { pass: PASS, place: "the model".into(), why };
    let ([_, _], [link]) = (model.programs.as_slice(), model.links.as_slice()) else {
        let (programs, links) = (model.programs.len(), model.links.len());
        return Err(refused(format!("expected two programs and a link between them, found {programs} and {links}")));
    };
    let (Some(maker), Some(taker)) = (model.program(&link.from.0), model.program(&link.to.0)) else {
        return Err(refused("the link joins programs that are not there".into()));
    };
    let joined = Joined::new(maker, taker, link).map_err(refused)?;
    let did = format!("{} is computed within {}, as program {}", link.from.0, link.to.0, joined.name);
    model.programs = vec![joined];
    model.links.clear();
    Ok(PassReport { did: vec![did], ..PassReport::new(PASS) })
}

/// A program in the making, and where values of another are in it.
struct Joined {
    program: Program,
}

type Places = HashMap<ValueId, ValueId>;

impl Joined {
    #[allow(clippy::new_ret_no_self)] // what is made is a program
    fn new(maker: &Program, taker: &Program, link: &Link) -> Result<Program, String> {
        if maker.states().len() > 0 {
            return Err(format!("program {} keeps states of its own", maker.name));
        }
        if maker.act != taker.act {
            return Err(format!("program {} computes in {}, the other in {}", maker.name, maker.act, taker.act));
        }
        let made = maker.outputs.iter().find(|output| output.name == link.from.1).map(|output| output.value);
        let made = made.ok_or_else(|| format!("program {} puts out no `{}`", maker.name, link.from.1))?;
        let taken = taker.port(&link.to.1).ok_or_else(|| format!("program {} takes no `{}`", taker.name, link.to.1))?;

        let mut joined = Joined { program: Program::new("main") };
        joined.program.act = taker.act;
        let (mut of_maker, mut of_taker) = (Places::new(), Places::new());
        let mut pixels = vec![];
        for declaration in taker.declarations() {
            match *declaration {
                Declaration::Input(i) => {
                    let input = &taker.inputs[i];
                    if input.value == taken {
                        continue;
                    }
                    let value = joined.program.add_input(&input.name, input.role, taker.ty(input.value).clone());
                    of_taker.insert(input.value, value);
                    // The order of the reference: behind the positions.
                    if input.role == Role::Positions {
                        pixels = joined.states(maker);
                    }
                }
                Declaration::State(slot) => {
                    let state = taker.state(slot);
                    if state.parts.contains(&taken) {
                        continue;
                    }
                    let parts = state.names.iter().zip(&state.parts);
                    let parts = parts.map(|(name, &part)| (name.clone(), taker.ty(part).clone())).collect();
                    let slot = joined.program.add_state(&state.slot, state.kind, parts);
                    of_taker.extend(state.parts.iter().copied().zip(joined.program.state(slot).parts.clone()));
                }
            }
        }
        if pixels.is_empty() {
            pixels = joined.states(maker);
        }
        let top = joined.program.intern_scope("");
        for (input, (part, ty)) in maker.inputs.iter().zip(pixels) {
            let node = joined.program.add_node(top, Op::StateRead(StateRead), vec![Some(part)], vec![ty]);
            of_maker.insert(input.value, joined.program.node(node).outputs[0]);
        }
        for (id, _) in maker.nodes() {
            joined.copy(maker, id, &mut of_maker)?;
        }
        let made = joined.value(maker, made, &mut of_maker)?;
        of_taker.insert(taken, made);
        for (id, node) in taker.nodes() {
            let reads = matches!(node.op, Op::StateRead(_)) && node.operand(StateRead::PART) == Some(taken);
            match reads {
                true => of_taker.extend(node.outputs.iter().map(|&output| (output, made))),
                false => joined.copy(taker, id, &mut of_taker)?,
            }
        }
        for output in &taker.outputs {
            let value = joined.value(taker, output.value, &mut of_taker)?;
            joined.program.add_output(&output.name, output.role, value);
        }
        Ok(joined.program)
    }

    /// Declares the inputs of a program as states; the value and type of each.
    fn states(&mut self, of: &Program) -> Vec<(ValueId, Type)> {
        let declared = of.inputs.iter().map(|input| {
            let ty = of.ty(input.value).clone();
            let parts = vec![(input.name.clone(), ty.clone())];
            let slot = self.program.add_state(&input.name, StateKind::Row, parts);
            (self.program.state(slot).parts[0], ty)
        });
        declared.collect()
    }

    /// Where a value of `of` is.
    fn value(&mut self, of: &Program, value: ValueId, places: &mut Places) -> Result<ValueId, String> {
        if let Some(&place) = places.get(&value) {
            return Ok(place);
        }
        let Def::Weight(expr) = &of.value(value).def else {
            return Err(format!("program {} uses a value before it is made", of.name));
        };
        let place = self.program.add_weight(expr.clone(), of.ty(value).clone());
        places.insert(value, place);
        Ok(place)
    }

    /// Appends a node of `of`.
    fn copy(&mut self, of: &Program, id: NodeId, places: &mut Places) -> Result<(), String> {
        let node = of.node(id);
        let mut operands = vec![];
        for operand in &node.operands {
            operands.push(operand.map(|value| self.value(of, value, places)).transpose()?);
        }
        let scope = self.program.intern_scope(of.scope_path(node.scope));
        let types = node.outputs.iter().map(|&output| of.ty(output).clone()).collect();
        let copied = self.program.add_node(scope, node.op.clone(), operands, types);
        places.extend(node.outputs.iter().copied().zip(self.program.node(copied).outputs.clone()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use qeff_plugin_api::TensorIndex;

    use super::*;
    use crate::text;

    const TWO: &str = "\
model \"M\" qeff 3 task image_text_to_text
link vision embeds -> language embeds

program vision (n)
  %x = input pixel_values : act[n, 4] @pixels
  tower
    %1 = Tanh %x : act[n, 4]
  output embeds = %1 : act[n, 4] @embeds

program language (b, v)
  %ids = input input_ids : i64[b, 4] @tokens
  %e = State embeds row names(embeds) : act[v, 4]
  %pos = input position_ids : i64[b, 4] @positions
  merge
    %1 = StateRead %e : act[v, 4]
    %2 = Neg %1 : act[v, 4]
  output logits = %2 : act[v, 4] @logits
";

    #[test]
    fn pixels_become_a_state() {
        let mut model = text::parse(TWO, &TensorIndex::new()).unwrap();
        let report = join(&mut model).unwrap();
        assert_eq!(report.to_string(), "join: vision is computed within language, as program main");
        let program = &model.programs[0];
        assert_eq!(program.declarations().len(), 3);
        let names: Vec<_> = program.states().flat_map(|(_, state)| state.names.clone()).collect();
        assert_eq!(names, ["pixel_values"]);
        let ops: Vec<_> = program.nodes().map(|(_, node)| node.op.name().to_owned()).collect();
        assert_eq!(ops, ["StateRead", "Tanh", "Neg"]);
        assert!(model.links.is_empty());
    }

    #[test]
    fn what_cannot_be_joined_is_refused_and_left_alone() {
        let mut model = text::parse(TWO, &TensorIndex::new()).unwrap();
        model.links.clear();
        let before = model.clone();
        assert!(join(&mut model).unwrap_err().to_string().contains("expected two programs and a link"));
        assert_eq!(model, before);
    }
}
