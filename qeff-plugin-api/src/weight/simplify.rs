//! The algebra of weight expressions: equal tensors get equal expressions.
//!
//! Equal canonical forms are stored once (tying), and a fused checkpoint tensor that a description took apart and a
//! lowering put together again is recognised as the stored tensor, so nothing is copied.

use super::WeightExpr;
use crate::TensorIndex;

impl WeightExpr {
    /// The canonical form: same value, steps that undo each other removed. Needs shapes, hence the index; an expression
    /// that has no shape is returned as it is.
    pub fn simplified(mut self, index: &TensorIndex) -> WeightExpr {
        for operand in self.operands_mut() {
            let inner = std::mem::replace(operand, WeightExpr::Fill { value: 0.0, shape: vec![] });
            *operand = inner.simplified(index);
        }
        match self {
            // transpose(p) · transpose(q) = transpose(q∘p);  transpose(identity) = nothing
            WeightExpr::Transpose { of, perm } => {
                let (of, perm) = match *of {
                    WeightExpr::Transpose { of, perm: inner } if perm.iter().all(|&p| p < inner.len()) => {
                        let perm = perm.iter().map(|&p| inner[p]).collect::<Vec<_>>();
                        (of, perm)
                    }
                    other => (Box::new(other), perm),
                };
                match *of {
                    of if perm.iter().enumerate().all(|(i, &p)| i == p) => of,
                    // transpose · take = take · transpose: layout steps sink towards the stored tensor, where they meet
                    WeightExpr::Take { of, axis, groups, width, columns } => match perm.iter().position(|&p| p == axis)
                    {
                        Some(place) => {
                            let of = Box::new(WeightExpr::Transpose { of, perm }.simplified(index));
                            WeightExpr::Take { of, axis: place, groups, width, columns }
                        }
                        None => WeightExpr::Transpose {
                            of: Box::new(WeightExpr::Take { of, axis, groups, width, columns }),
                            perm,
                        },
                    },
                    of => WeightExpr::Transpose { of: Box::new(of), perm },
                }
            }
            // take(everything) = nothing
            WeightExpr::Take { of, width, columns, .. } if columns == (0..width) => *of,
            // reshape · reshape = the last one;  reshape to the same shape = nothing
            WeightExpr::Reshape { of, shape } => {
                let of = match *of {
                    WeightExpr::Reshape { of, .. } => of,
                    other => Box::new(other),
                };
                if of.shape(index).as_ref() == Ok(&shape) { *of } else { WeightExpr::Reshape { of, shape } }
            }
            WeightExpr::Repeat { of, times: 1, .. } => *of,
            WeightExpr::Affine { of, scale: 1.0, offset: 0.0 } => *of,
            WeightExpr::Concat { axis, parts } => concat(axis, parts, index),
            other => other,
        }
    }
}

/// `concat` of adjoining slices of one operand along the same axis is one slice of it.
fn concat(axis: usize, parts: Vec<WeightExpr>, index: &TensorIndex) -> WeightExpr {
    let mut joined: Vec<WeightExpr> = Vec::with_capacity(parts.len());
    for part in parts {
        if let (
            Some(WeightExpr::Take { of: a, axis: x, groups: 1, columns: left, .. }),
            WeightExpr::Take { of: b, axis: y, groups: 1, columns: right, .. },
        ) = (joined.last_mut(), &part)
            && (*x, *y) == (axis, axis)
            && left.end == right.start
            && a == b
        {
            left.end = right.end;
        } else {
            joined.push(part);
        }
    }
    match joined.pop() {
        Some(only) if joined.is_empty() => only.simplified(index),
        last => {
            joined.extend(last);
            WeightExpr::Concat { axis, parts: joined }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, TensorInfo};

    fn index() -> TensorIndex {
        [("a".to_owned(), TensorInfo { dtype: DType::F32, shape: vec![6, 4] })].into_iter().collect()
    }

    #[track_caller]
    fn check(from: &str, to: &str) {
        let simplified = WeightExpr::parse(from).unwrap().simplified(&index());
        assert_eq!(simplified.to_string(), to);
    }

    #[test]
    fn transposes_cancel() {
        check(r#"w"a".transpose(1, 0).transpose(1, 0)"#, r#"w"a""#);
        check(r#"w"a".transpose(1, 0)"#, r#"w"a".transpose(1, 0)"#);
    }

    #[test]
    fn a_transpose_sinks_below_a_slice() {
        check(r#"w"a".transpose(1, 0).take(0, 1, 4, 1..2).transpose(1, 0)"#, r#"w"a".take(1, 1, 4, 1..2)"#);
    }

    #[test]
    fn adjoining_slices_become_the_tensor() {
        check(r#"concat(0, w"a".take(0, 1, 6, 0..2), w"a".take(0, 1, 6, 2..6))"#, r#"w"a""#);
        check(r#"concat(0, w"a".take(0, 1, 6, 0..2), w"a".take(0, 1, 6, 2..5))"#, r#"w"a".take(0, 1, 6, 0..5)"#);
    }

    #[test]
    fn slices_that_do_not_adjoin_stay() {
        let text = r#"concat(0, w"a".take(0, 1, 6, 2..4), w"a".take(0, 1, 6, 0..2))"#;
        check(text, text);
    }

    #[test]
    fn reshapes_merge() {
        check(r#"w"a".reshape(24).reshape(6, 4)"#, r#"w"a""#);
        check(r#"w"a".reshape(24).reshape(4, 6)"#, r#"w"a".reshape(4, 6)"#);
    }
}
