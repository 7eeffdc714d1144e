//! The element type of activations, and with it that of states and weights.
//!
//! What has to be f32 whatever activations are (logits, softmax, norm statistics) is the lowering's and the description's
//! business; this pass only says what the others are.

use qeff_plugin_api::DType;
use qeff_plugin_api::graph::{Model, Op};

use super::{PassReport, Refusal};

const PASS: &str = "dtype";

pub(super) fn apply(model: &mut Model, act: DType) -> Result<PassReport, Refusal> {
    let refused = |place: String, why: String| Refusal { pass: PASS, place, why };
    if !matches!(act, DType::F32 | DType::F16) {
        return Err(refused("the model".into(), format!("expected f32 or f16 activations, found {act}")));
    }
    if act == DType::F16 {
        for program in &model.programs {
            let mut nodes = program.nodes().map(|(_, node)| node);
            if let Some(node) = nodes.find(|node| matches!(node.op, Op::Experts(_))) {
                let place = format!("program {}, Experts in {}", program.name, program.scope_path(node.scope));
                return Err(refused(place, "experts and their router are lowered in f32 only".into()));
            }
        }
    }
    let mut report = PassReport::new(PASS);
    for program in model.programs.iter_mut().filter(|program| program.act != act) {
        program.act = act;
        report.did.push(format!("activations, states and weights of {} are {act}", program.name));
    }
    Ok(report)
}
