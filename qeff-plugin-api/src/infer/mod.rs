//! Types of an operator's results, and what it demands of its operands.
//!
//! One function serves the builder (an author's mistake is caught at the call), the validator (a pass's mistake) and the
//! wire decoder (a stranger's), so there is one truth about shapes.

use crate::Elem;
use crate::graph::{
    Attention, AttentionMask, Dim, ExpertActivation, Experts, Op, SelectMode, StateRead, StateWrite, Type,
};

mod standard;

/// What an operator demanded and got.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// An operand is absent that may not be.
    #[error("operand `{operand}` is missing")]
    Absent {
        /// Name of the operand.
        operand: &'static str,
    },
    /// An operand has another type than it should.
    #[error("operand `{operand}`: expected {expected}, found {found}")]
    Operand {
        /// Name of the operand.
        operand: &'static str,
        /// What would have fitted.
        expected: String,
        /// What was given.
        found: String,
    },
    /// An attribute has no sense with these operands.
    #[error("attribute `{attribute}`: {why}")]
    Attribute {
        /// Name of the attribute.
        attribute: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A standard operator whose result types are not known here.
    #[error("result types of `{0}` are not inferred; state them")]
    Unknown(String),
}

/// The operands of a node: `None` is absent.
pub type Operands<'a> = [Option<&'a Type>];

/// Types of the results of `op`.
///
/// # Errors
/// The first operand or attribute that does not fit.
pub fn infer(op: &Op, operands: &Operands<'_>) -> Result<Vec<Type>, Mismatch> {
    match op {
        Op::StateWrite(write) => state_write(write, operands),
        Op::StateRead(_) => {
            let part = get(operands, StateRead::PART, "part")?;
            let Some(slots) = optional(operands, StateRead::BATCH_INDEX) else { return Ok(vec![part.clone()]) };
            let batch = slots.dims.first().filter(|_| part.rank() > 0).cloned();
            let Some(batch) = batch else {
                return Err(Mismatch::Operand {
                    operand: "part",
                    expected: "a slot for each row of batch_index".into(),
                    found: part.to_string(),
                });
            };
            batch_index(operands, StateRead::BATCH_INDEX, &batch)?;
            Ok(vec![Type::new(part.elem, [batch].into_iter().chain(part.dims[1..].iter().cloned()))])
        }
        Op::Embedding(_) => {
            let (ids, table) = (get(operands, 0, "ids")?, get(operands, 1, "table")?);
            expect(ids.elem == Elem::I64, "ids", "i64", ids)?;
            expect(table.rank() == 2, "table", "[rows, width]", table)?;
            Ok(vec![Type::new(table.elem, ids.dims.iter().chain(table.last()).cloned())])
        }
        Op::Linear(linear) => {
            let (x, weight) = (get(operands, 0, "x")?, get(operands, 1, "weight")?);
            expect(weight.rank() == 2, "weight", "[out, in]", weight)?;
            let (out, input) = (&weight.dims[0], &weight.dims[1]);
            expect(x.last() == Some(input), "x", &format!("[…, {input}], as wide as the weight {weight}"), x)?;
            if let Some(bias) = optional(operands, 2) {
                expect(bias.dims == [out.clone()], "bias", &format!("[{out}]"), bias)?;
            }
            let mut dims = x.dims[..x.rank() - 1].to_vec();
            match (linear.heads, out.fixed()) {
                (0, _) => dims.push(out.clone()),
                (heads, Some(out)) if out % heads == 0 => dims.extend([Dim::Fixed(heads), Dim::Fixed(out / heads)]),
                (heads, _) => {
                    return Err(Mismatch::Operand {
                        operand: "weight",
                        expected: format!("a number of rows that {heads} heads divide"),
                        found: weight.to_string(),
                    });
                }
            }
            Ok(vec![Type::new(x.elem, dims)])
        }
        Op::RmsNorm(_) => {
            let x = get(operands, 0, "x")?;
            if let Some(weight) = optional(operands, 1) {
                let fits = weight.rank() == 1 && weight.last() == x.last();
                expect(fits, "weight", &format!("one number for each of the last axis of {x}"), weight)?;
            }
            Ok(vec![x.clone()])
        }
        Op::Rotary(_) => {
            let x = get(operands, 0, "x")?;
            expect(x.rank() == 4, "x", "[batch, seq, heads, width]", x)?;
            let (cos, sin) = (get(operands, 1, "cos")?, get(operands, 2, "sin")?);
            let half = cos.last().and_then(Dim::fixed).unwrap_or(0);
            let width = x.last().and_then(Dim::fixed).unwrap_or(0);
            let fits = cos.rank() == 2 && half > 0 && half <= width / 2;
            expect(fits, "cos", &format!("[positions, at most {}]", width / 2), cos)?;
            expect(sin.dims == cos.dims, "sin", &format!("the shape of cos, {cos}"), sin)?;
            positions(operands, 3, &x.dims[..2])?;
            Ok(vec![x.clone()])
        }
        Op::Attention(attention) => attention_type(attention, operands),
        Op::Experts(experts) => experts_type(experts, operands),
        Op::Select(select) => {
            let h = get(operands, 0, "h")?;
            expect(h.rank() == 3, "h", "[batch, seq, width]", h)?;
            positions(operands, 1, &h.dims[..2])?;
            let rows = match select.mode {
                SelectMode::Last => Dim::Fixed(1),
                SelectMode::All => h.dims[1].clone(),
                SelectMode::LastK => {
                    let keep = get(operands, 2, "keep")?;
                    expect(keep.rank() == 2, "keep", "[rows, 1]", keep)?;
                    keep.dims[0].clone()
                }
            };
            let lead = h.dims[0].clone();
            Ok(vec![
                Type::new(h.elem, [lead.clone(), rows.clone(), h.dims[2].clone()]),
                Type::new(Elem::I64, [lead, rows]),
            ])
        }
        Op::Onnx(onnx) => standard::types(onnx, operands),
    }
}

fn state_write(write: &StateWrite, operands: &Operands<'_>) -> Result<Vec<Type>, Mismatch> {
    // Parts and new rows come in pairs of 4-D values; what follows has rank 2.
    let parts = operands.iter().take_while(|ty| ty.is_some_and(|ty| ty.rank() == 4)).count() / 2;
    if parts == 0 {
        return Err(Mismatch::Absent { operand: "part" });
    }
    let mut types = Vec::with_capacity(parts);
    for i in 0..parts {
        let part = get(operands, StateWrite::part(i), "part")?;
        let new = get(operands, StateWrite::new_rows(i, parts), "new")?;
        let heads = part.dims[1].fixed().filter(|heads| write.repeat > 0 && heads % write.repeat == 0);
        let Some(heads) = heads else {
            let why = format!("{} does not divide the heads of {part}", write.repeat);
            return Err(Mismatch::Attribute { attribute: "repeat", why });
        };
        let heads = heads / write.repeat;
        let fits = new.elem == part.elem && new.dims[2] == Dim::Fixed(heads) && new.dims[3] == part.dims[3];
        expect(fits, "new", &format!("[batch, seq, {heads}, {}] for a state {part}", part.dims[3]), new)?;
        if optional(operands, StateWrite::positions(parts)).is_some() {
            positions(operands, StateWrite::positions(parts), &new.dims[..2])?;
        }
        types.push(part.clone());
    }
    batch_index(operands, StateWrite::batch_index(parts), &get(operands, parts, "new")?.dims[0])?;
    if let Some(guard) = optional(operands, StateWrite::guard(parts)) {
        expect(guard.elem == Elem::Bool && guard.rank() == 0, "guard", "bool[]", guard)?;
    }
    Ok(types)
}

fn attention_type(attention: &Attention, operands: &Operands<'_>) -> Result<Vec<Type>, Mismatch> {
    use Attention as A;
    let (q, k, v) = (get(operands, A::Q, "q")?, get(operands, A::K, "k")?, get(operands, A::V, "v")?);
    expect(q.rank() == 4, "q", "[batch, seq, heads, width]", q)?;
    expect(k.rank() == 4, "k", "a state or [batch, seq, heads, width]", k)?;
    expect(v.rank() == 4, "v", "a state or [batch, seq, heads, width]", v)?;
    // A state is [lead, heads, ctx, width]; tensors of this call keep heads third.
    let cached = k.dims[1].fixed().is_some() && k.dims[2].fixed().is_none();
    let heads_axis = if cached { 1 } else { 2 };
    let (heads, kv_heads) = (q.dims[2].fixed().unwrap_or(0), k.dims[heads_axis].fixed().unwrap_or(0));
    let grouped = heads > 0 && kv_heads > 0 && heads % kv_heads == 0;
    expect(grouped, "k", &format!("a number of heads that divides the {heads} of q"), k)?;
    expect(k.last() == q.last(), "k", &format!("width {} as q", q.dims[3]), k)?;
    let rows_agree = (0..3).all(|axis| k.dims[axis] == v.dims[axis]);
    expect(rows_agree, "v", &format!("the heads and rows of k, {k}"), v)?;
    let by_position = cached && attention.mask != AttentionMask::Bidirectional;
    if by_position || optional(operands, A::POSITIONS).is_some() {
        positions(operands, A::POSITIONS, &q.dims[..2])?;
    }
    in_call(attention, operands, cached)?;
    batch_index(operands, A::BATCH_INDEX, &q.dims[0])?;
    if let Some(sinks) = optional(operands, A::SINKS) {
        expect(sinks.dims == [Dim::Fixed(heads)], "sinks", &format!("[{heads}], a score for each head of q"), sinks)?;
    }
    if let Some(context) = optional(operands, A::CONTEXT) {
        expect(context.elem == Elem::I64 && context.rank() == 1, "context", "i64[length]", context)?;
        expect(cached, "k", "a state, of which context says how much is read", k)?;
    }
    // Sizes come from strangers too, so their product may not fit.
    let Some(width) = v.dims[3].fixed().and_then(|width| heads.checked_mul(width)) else {
        return Err(Mismatch::Operand { operand: "v", expected: "a fixed width".into(), found: v.to_string() });
    };
    Ok(vec![Type::new(q.elem, [q.dims[0].clone(), q.dims[1].clone(), Dim::Fixed(width)])])
}

/// What attention takes over tensors of its own call only.
fn in_call(attention: &Attention, operands: &Operands<'_>, cached: bool) -> Result<(), Mismatch> {
    use Attention as A;
    let (q, k) = (get(operands, A::Q, "q")?, get(operands, A::K, "k")?);
    if let AttentionMask::Band { .. } = attention.mask {
        expect(!cached, "k", "tensors of this call, which a band of indices is over", k)?;
    }
    let one = Dim::Fixed(1);
    let is = |dim: &Dim, of: &Dim| *dim == one || dim == of;
    if let Some(mask) = optional(operands, A::KEY_MASK) {
        let keys = mask.elem == Elem::I64 && mask.dims == [k.dims[0].clone(), k.dims[1].clone()];
        let pairs = mask.elem == Elem::Bool
            && matches!(&mask.dims[..], [b, h, s, t] if is(b, &q.dims[0]) && *h == one && is(s, &q.dims[1]) && *t == k.dims[1]);
        let expected = format!("i64[{0}, {1}] or bool[{0} or 1, 1, {2} or 1, {1}]", k.dims[0], k.dims[1], q.dims[1]);
        expect(!cached && (keys || pairs), "key_mask", &expected, mask)?;
    }
    if let Some(bias) = optional(operands, A::BIAS) {
        let fits = matches!(&bias.dims[..], [b, h, s, t]
            if is(b, &q.dims[0]) && is(h, &q.dims[2]) && is(s, &q.dims[1]) && is(t, &k.dims[1]));
        let expected = format!("{}[{}, {}, {}, {}]", q.elem, q.dims[0], q.dims[2], q.dims[1], k.dims[1]);
        expect(!cached && fits && bias.elem == q.elem, "bias", &expected, bias)?;
        if attention.softcap != 0.0 {
            let why = "families do not agree on whether a bias is added before or after it".into();
            return Err(Mismatch::Attribute { attribute: "softcap", why });
        }
    }
    Ok(())
}

fn experts_type(experts: &Experts, operands: &Operands<'_>) -> Result<Vec<Type>, Mismatch> {
    use Experts as E;
    let x = get(operands, E::X, "x")?;
    let (up, down) = (get(operands, E::UP, "up")?, get(operands, E::DOWN, "down")?);
    let Some((width, lead)) = x.dims.split_last() else {
        return expect(false, "x", "[…, width]", x).map(|()| vec![]);
    };
    let (ids, weights) = (get(operands, E::IDS, "ids")?, get(operands, E::WEIGHTS, "weights")?);
    let sent = |ty: &Type| ty.rank() == x.rank() && ty.dims.starts_with(lead) && ty.last().is_some_and(is_some_number);
    expect(ids.elem == Elem::I64 && sent(ids), "ids", &format!("i64[…, experts of a token] for {x}"), ids)?;
    expect(weights.dims == ids.dims && weights.elem == x.elem, "weights", &format!("as many as ids, {ids}"), weights)?;
    let fits = up.rank() == 3 && up.dims[1] == *width && up.dims.iter().all(is_some_number);
    expect(fits, "up", &format!("[experts, {width}, inner]"), up)?;
    let [count, inner] = [&up.dims[0], &up.dims[2]];
    let matrix = |operand, index, dims: &[&Dim]| match optional(operands, index) {
        Some(ty) => {
            let expected = Type::new(x.elem, dims.iter().map(|&dim| dim.clone()));
            expect(*ty == expected, operand, &expected.to_string(), ty)
        }
        None => Ok(()),
    };
    matrix("up", E::UP, &[count, width, inner])?;
    matrix("gate", E::GATE, &[count, width, inner])?;
    matrix("down", E::DOWN, &[count, inner, width])?;
    matrix("gate_bias", E::GATE_BIAS, &[count, inner])?;
    matrix("up_bias", E::UP_BIAS, &[count, inner])?;
    matrix("down_bias", E::DOWN_BIAS, &[count, width])?;
    let gated = optional(operands, E::GATE).is_some();
    if !gated && optional(operands, E::GATE_BIAS).is_some() {
        return Err(Mismatch::Absent { operand: "gate" });
    }
    if let ExpertActivation::ClampedSwiglu { limit, .. } = experts.activation {
        if !gated {
            return Err(Mismatch::Absent { operand: "gate" });
        }
        if limit.is_nan() || limit <= 0.0 {
            let why = format!("{limit} is no limit; it must be above 0");
            return Err(Mismatch::Attribute { attribute: "limit", why });
        }
    }
    let (most, chosen) = (count.fixed().unwrap_or(0), ids.last().and_then(Dim::fixed).unwrap_or(0));
    expect(chosen <= most, "ids", &format!("at most the {most} experts there are, for each token"), ids)?;
    expect(down.rank() == 3, "down", &format!("[{count}, {inner}, {width}]"), down)?;
    Ok(vec![x.clone()])
}

fn is_some_number(dim: &Dim) -> bool {
    dim.fixed().is_some_and(|n| n > 0)
}

fn get<'a>(operands: &Operands<'a>, index: usize, name: &'static str) -> Result<&'a Type, Mismatch> {
    optional(operands, index).ok_or(Mismatch::Absent { operand: name })
}

fn optional<'a>(operands: &Operands<'a>, index: usize) -> Option<&'a Type> {
    operands.get(index).copied().flatten()
}

fn expect(holds: bool, operand: &'static str, expected: &str, found: &Type) -> Result<(), Mismatch> {
    if holds {
        Ok(())
    } else {
        Err(Mismatch::Operand { operand, expected: expected.to_owned(), found: found.to_string() })
    }
}

/// Positions belong to the tokens of the call: same batch, same length.
fn positions(operands: &Operands<'_>, index: usize, lead: &[Dim]) -> Result<(), Mismatch> {
    let found = get(operands, index, "positions")?;
    let expected = Type::new(Elem::I64, lead.iter().cloned());
    expect(*found == expected, "positions", &expected.to_string(), found)
}

fn batch_index(operands: &Operands<'_>, index: usize, lead: &Dim) -> Result<(), Mismatch> {
    match optional(operands, index) {
        Some(found) => {
            let expected = Type::new(Elem::I64, [lead.clone(), Dim::Fixed(1)]);
            expect(*found == expected, "batch_index", &expected.to_string(), found)
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Rotary, RotaryLayout};

    fn ty(dims: [Dim; 4]) -> Type {
        Type::new(Elem::Act, dims)
    }

    #[test]
    fn sizes_whose_product_overflows_are_refused() {
        let q = ty(["b".into(), "s".into(), Dim::Fixed(2), Dim::Fixed(4)]);
        let k = ty(["b".into(), "s".into(), Dim::Fixed(2), Dim::Fixed(4)]);
        let v = ty(["b".into(), "s".into(), Dim::Fixed(2), Dim::Fixed(u64::MAX)]);
        let op = Op::Attention(Attention { scale: 1.0, mask: AttentionMask::Bidirectional, softcap: 0.0 });
        assert!(infer(&op, &[Some(&q), Some(&k), Some(&v)]).is_err());

        let table = Type::weight(&[4, u64::MAX]);
        let op = Op::Rotary(Rotary { layout: RotaryLayout::Half });
        assert!(infer(&op, &[Some(&q), Some(&table), Some(&table)]).is_err());
    }

    /// What is found wrong with experts of which one operand has other dimensions, or none.
    fn of_experts(operand: usize, dims: Option<&[u64]>, activation: ExpertActivation) -> String {
        let lead = || [Dim::symbol("b"), Dim::symbol("s")];
        let token = |n: u64, elem| Type::new(elem, lead().into_iter().chain([Dim::Fixed(n)]));
        let fixed = |dims: &[u64]| Some(Type::weight(dims));
        let mut operands = vec![Some(token(8, Elem::Act)), Some(token(2, Elem::I64)), Some(token(2, Elem::Act))];
        operands.extend([fixed(&[3, 8, 5]), fixed(&[3, 8, 5]), fixed(&[3, 5, 8])]);
        operands.extend([fixed(&[3, 5]), fixed(&[3, 5]), fixed(&[3, 8])]);
        operands[operand] = match (dims, operand) {
            (Some(&[n]), 0..3) => Some(token(n, operands[operand].as_ref().unwrap().elem)),
            (Some(dims), _) => fixed(dims),
            (None, _) => None,
        };
        let operands: Vec<_> = operands.iter().map(Option::as_ref).collect();
        let op = Op::Experts(Experts { activation, weigh: crate::graph::Weigh::Output });
        match infer(&op, &operands) {
            Ok(types) => types.iter().map(Type::to_string).collect::<Vec<_>>().join(", "),
            Err(mismatch) => mismatch.to_string(),
        }
    }

    #[test]
    fn experts_fit_their_tokens_and_each_other() {
        use Experts as E;
        let swiglu = |limit| ExpertActivation::ClampedSwiglu { limit, alpha: 1.0 };
        let huge = u64::MAX;
        for (operand, dims, activation, expected) in [
            (E::X, Some(&[8u64][..]), ExpertActivation::Silu, "act[b, s, 8]"),
            (
                E::X,
                Some(&[9]),
                ExpertActivation::Silu,
                "operand `up`: expected [experts, 9, inner], found act[3, 8, 5]",
            ),
            (E::X, None, ExpertActivation::Silu, "operand `x` is missing"),
            (
                E::IDS,
                Some(&[4]),
                ExpertActivation::Silu,
                "operand `weights`: expected as many as ids, i64[b, s, 4], found act[b, s, 2]",
            ),
            (
                E::IDS,
                Some(&[0]),
                ExpertActivation::Silu,
                "operand `ids`: expected i64[…, experts of a token] for act[b, s, 8], found i64[b, s, 0]",
            ),
            (
                E::GATE,
                Some(&[3, 8, 6]),
                ExpertActivation::Silu,
                "operand `gate`: expected act[3, 8, 5], found act[3, 8, 6]",
            ),
            (E::GATE, None, ExpertActivation::Silu, "operand `gate` is missing"),
            (E::GATE_BIAS, None, ExpertActivation::Silu, "act[b, s, 8]"),
            (
                E::UP,
                Some(&[1, 8, 5]),
                ExpertActivation::Silu,
                "operand `gate`: expected act[1, 8, 5], found act[3, 8, 5]",
            ),
            (
                E::UP,
                Some(&[3, 8, huge]),
                ExpertActivation::Silu,
                "operand `gate`: expected act[3, 8, 18446744073709551615], found act[3, 8, 5]",
            ),
            (E::DOWN, Some(&[3, 5]), ExpertActivation::Silu, "operand `down`: expected act[3, 5, 8], found act[3, 5]"),
            (E::DOWN_BIAS, Some(&[8]), ExpertActivation::Silu, "operand `down_bias`: expected act[3, 8], found act[8]"),
            (E::GATE_BIAS, None, swiglu(7.0), "act[b, s, 8]"),
            (E::GATE_BIAS, None, swiglu(0.0), "attribute `limit`: 0 is no limit; it must be above 0"),
        ] {
            assert_eq!(of_experts(operand, dims, activation), expected, "{operand} {dims:?}");
        }
    }

    #[test]
    fn attention_needs_a_number_of_heads() {
        let q = ty(["b".into(), "s".into(), "heads".into(), Dim::Fixed(4)]);
        let k = ty(["b".into(), "s".into(), Dim::Fixed(2), Dim::Fixed(4)]);
        let op = Op::Attention(Attention { scale: 1.0, mask: AttentionMask::Bidirectional, softcap: 0.0 });
        assert!(infer(&op, &[Some(&q), Some(&k), Some(&k)]).is_err());
    }
}
