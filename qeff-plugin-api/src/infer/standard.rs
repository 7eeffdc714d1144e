//! Types of standard ONNX operators, those whose results follow from the types of operands and from attributes.
//!
//! Others (a `Reshape`, say, whose result follows from a number) are stated by their author.

use super::{Mismatch, Operands, expect, get};
use crate::graph::{AttrValue, Dim, OnnxOp, Type};
use crate::{DType, Elem};

pub(super) fn types(op: &OnnxOp, operands: &Operands<'_>) -> Result<Vec<Type>, Mismatch> {
    let unknown = || Mismatch::Unknown(op.op_type.clone());
    if !op.domain.is_empty() {
        return Err(Mismatch::Unknown(format!("{}::{}", op.domain, op.op_type)));
    }
    Ok(vec![match op.op_type.as_str() {
        "Sigmoid" | "Tanh" | "Erf" | "Neg" | "Sqrt" | "Exp" | "Log" | "Sin" | "Cos" | "Relu" | "Identity"
        | "Softmax" | "LayerNormalization" | "Abs" | "Sign" | "Floor" | "Ceil" | "Round" | "Reciprocal" | "Not"
        | "CumSum" | "Clip" => get(operands, 0, "input")?.clone(),
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Min" | "Max" | "Mod" => {
            broadcast(get(operands, 0, "A")?, get(operands, 1, "B")?, None)?
        }
        "Greater" | "Less" | "Equal" | "GreaterOrEqual" | "LessOrEqual" | "And" | "Or" => {
            broadcast(get(operands, 0, "A")?, get(operands, 1, "B")?, Some(Elem::Bool))?
        }
        "Where" => {
            let (holds, x, y) = (get(operands, 0, "condition")?, get(operands, 1, "X")?, get(operands, 2, "Y")?);
            expect(holds.elem == Elem::Bool, "condition", "bool", holds)?;
            let both = broadcast(x, y, None)?;
            broadcast(&both, &holds.with_elem(both.elem), None)?
        }
        "MatMul" => matmul(get(operands, 0, "A")?, get(operands, 1, "B")?)?,
        "Transpose" => {
            let x = get(operands, 0, "data")?;
            let Some(AttrValue::Ints(perm)) = op.attrs.get("perm") else { return Err(unknown()) };
            let mut sorted = perm.clone();
            sorted.sort_unstable();
            if !sorted.into_iter().eq(0..x.rank() as i64) {
                let why = format!("{perm:?} is no permutation of the axes of {x}");
                return Err(Mismatch::Attribute { attribute: "perm", why });
            }
            Type::new(x.elem, perm.iter().map(|&axis| x.dims[axis as usize].clone()))
        }
        "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceSum" => reduced(op, get(operands, 0, "data")?)?,
        "ArgMax" | "ArgMin" => {
            let axis = match op.attrs.get("axis") {
                Some(AttrValue::Int(axis)) => *axis,
                _ => 0,
            };
            let mut op = op.clone();
            op.attrs.insert("axes".into(), AttrValue::Ints(vec![axis]));
            reduced(&op, get(operands, 0, "data")?)?.with_elem(Elem::I64)
        }
        "GatherElements" => get(operands, 1, "indices")?.with_elem(get(operands, 0, "data")?.elem),
        "Constant" => match op.attrs.get("value_ints") {
            Some(AttrValue::Ints(ints)) => Type::new(Elem::I64, [Dim::Fixed(ints.len() as u64)]),
            _ => return Err(unknown()),
        },
        "Cast" => {
            let x = get(operands, 0, "input")?;
            let elem = match op.attrs.get("to") {
                Some(AttrValue::DType(DType::F32)) => Elem::F32,
                Some(AttrValue::DType(DType::I64)) => Elem::I64,
                Some(AttrValue::DType(DType::I32)) => Elem::I32,
                Some(AttrValue::DType(DType::Bool)) => Elem::Bool,
                other => {
                    let why = format!("expected f32, i64, i32 or bool, found {other:?}");
                    return Err(Mismatch::Attribute { attribute: "to", why });
                }
            };
            x.with_elem(elem)
        }
        _ => return Err(unknown()),
    }])
}

/// The type of a reduction over the attribute `axes`, one of which may count from the end.
fn reduced(op: &OnnxOp, x: &Type) -> Result<Type, Mismatch> {
    let Some(AttrValue::Ints(axes)) = op.attrs.get("axes") else { return Err(Mismatch::Unknown(op.op_type.clone())) };
    let keeps = !matches!(op.attrs.get("keepdims"), Some(AttrValue::Int(0)));
    let mut dims: Vec<Option<Dim>> = x.dims.iter().cloned().map(Some).collect();
    for &axis in axes {
        let from_end = if axis < 0 { axis.checked_add(x.rank() as i64) } else { Some(axis) };
        let place = from_end.and_then(|axis| usize::try_from(axis).ok()).and_then(|axis| dims.get_mut(axis));
        let Some(place) = place else {
            return Err(Mismatch::Attribute { attribute: "axes", why: format!("{x} has no axis {axis}") });
        };
        *place = keeps.then_some(Dim::Fixed(1));
    }
    Ok(Type::new(x.elem, dims.into_iter().flatten()))
}

/// `[…, n, k] · […, k, m]`, leading axes broadcast.
fn matmul(a: &Type, b: &Type) -> Result<Type, Mismatch> {
    let (Some((k, [lead_a @ .., n])), Some((m, [lead_b @ .., inner]))) = (a.dims.split_last(), b.dims.split_last())
    else {
        return Err(Mismatch::Unknown("MatMul".into()));
    };
    expect(k == inner, "B", &format!("[…, {k}, …], as wide as A, {a}"), b)?;
    let lead = |dims: &[Dim]| Type::new(a.elem, dims.iter().cloned());
    let lead = broadcast(&lead(lead_a), &lead(lead_b), None)?;
    expect(a.elem == b.elem, "B", &format!("elements {} as A", a.elem), b)?;
    Ok(Type::new(a.elem, lead.dims.into_iter().chain([n.clone(), m.clone()])))
}

/// The type of an element-wise operator on two operands, by ONNX's broadcasting.
fn broadcast(a: &Type, b: &Type, elem: Option<Elem>) -> Result<Type, Mismatch> {
    let rank = a.rank().max(b.rank());
    let one = Dim::Fixed(1);
    let at = |ty: &Type, axis: usize| (axis + ty.rank()).checked_sub(rank).map_or(one.clone(), |i| ty.dims[i].clone());
    let mut dims = Vec::with_capacity(rank);
    for axis in 0..rank {
        dims.push(match (at(a, axis), at(b, axis)) {
            (x, y) if x == y => x,
            (x, y) if y == one => x,
            (x, y) if x == one => y,
            _ => {
                return Err(Mismatch::Operand {
                    operand: "B",
                    expected: format!("a shape that broadcasts with {a}"),
                    found: b.to_string(),
                });
            }
        });
    }
    expect(a.elem == b.elem, "B", &format!("elements {} as A", a.elem), b)?;
    Ok(Type::new(elem.unwrap_or(a.elem), dims))
}
