//! Weights as the checkpoint stores them, and the nodes that make of them what is wanted.
//!
//! A linked export writes no weights, so whatever a weight expression does to stored tensors has to be done by the graph: a
//! layout step becomes the standard operator that it is, a type becomes a `Cast`. The result is the number that evaluation
//! (`weights::eval`) would have written; in particular arithmetic is done in f32, whatever the types on both sides are.
//!
//! This module knows what a step means in ONNX. Whether a stored tensor can be referred to is its caller's knowledge.

use qeff_plugin_api::{DType, WeightExpr};

use super::writer::{Attr, Writer};

impl Writer<'_> {
    /// Whether nodes shall make a weight: it is not stored as it is wanted, and all that it reads is usable.
    pub(super) fn is_made_by_nodes(
        &self,
        expr: &WeightExpr,
        dtype: DType,
        usable: &dyn Fn(&str, DType) -> bool,
        runs: bool,
    ) -> bool {
        let as_wanted = match expr {
            WeightExpr::Tensor(name) => self.stored_type(name) == dtype,
            _ if runs => expr.stored_run(self.tensors.index).is_some_and(|(name, _)| self.stored_type(name) == dtype),
            _ => false,
        };
        if as_wanted || expr.is_generated() {
            return false;
        }
        let mut all = true;
        expr.for_each_source(&mut |name| all &= usable(name, dtype));
        all
    }

    /// Makes a weight of stored tensors. One that is a stored tensor in another layout or type gives its own name to the
    /// initializer of that tensor, so that tied weights are two names for one tensor; else the initializer is called as the
    /// checkpoint calls the tensor, and whatever else is made of the tensor shares it.
    pub(super) fn make_by_nodes(&mut self, expr: &WeightExpr, dtype: DType, operand: &str) -> String {
        let own = is_whole(expr).then(|| self.scoped(operand));
        let between = if has_arithmetic(expr) { DType::F32 } else { dtype };
        let value = self.made(expr, between, own.as_deref());
        self.cast(value, between, dtype)
    }

    fn made(&mut self, expr: &WeightExpr, dtype: DType, own: Option<&str>) -> String {
        if expr.is_generated() {
            let name = self.scoped("part");
            return self.initializer(expr.clone(), dtype, name);
        }
        match expr {
            WeightExpr::Tensor(name) => self.stored_as(name, dtype, own),
            WeightExpr::Fill { .. } | WeightExpr::Rope(_) => unreachable!("generated, as was asked above"),
            WeightExpr::Transpose { of, perm } => {
                let x = self.made(of, dtype, own);
                let perm: Vec<i64> = perm.iter().map(|&axis| axis as i64).collect();
                self.transpose(&x, &perm)
            }
            WeightExpr::Reshape { of, shape } => {
                let x = self.made(of, dtype, own);
                self.reshape_to(&x, shape)
            }
            WeightExpr::Take { of, axis, groups, width, columns } => {
                let x = self.made(of, dtype, own);
                let within = |w: &mut Self, x: &str, axis: usize| {
                    let [from, to, axis] =
                        [columns.start as i64, columns.end as i64, axis as i64].map(|number| w.ints(&[number]));
                    w.node("Slice", &[x, &from, &to, &axis], &[])
                };
                if *groups == 1 {
                    return within(self, &x, *axis);
                }
                let mut shape = self.shape_of(of);
                shape.splice(axis..=axis, [*groups, *width]);
                let x = self.reshape_to(&x, &shape);
                let x = within(self, &x, axis + 1);
                self.reshape_to(&x, &self.shape_of(expr))
            }
            WeightExpr::Concat { axis, parts } => {
                let parts: Vec<_> = parts.iter().map(|part| self.made(part, dtype, None)).collect();
                self.concat(&parts, *axis)
            }
            WeightExpr::Stack { axis, parts } => {
                let mut layers = vec![];
                for part in parts {
                    let x = self.made(part, dtype, None);
                    layers.push(self.unsqueeze(&x, &[*axis as i64]));
                }
                self.concat(&layers, *axis)
            }
            WeightExpr::Repeat { of, axis, groups, times } => {
                let x = self.made(of, dtype, own);
                let mut shape = self.shape_of(of);
                let block = shape[*axis] / groups;
                shape.splice(axis..=axis, [*groups, 1, block]);
                let x = self.reshape_to(&x, &shape);
                shape[axis + 1] = *times;
                let to: Vec<i64> = shape.iter().map(|&dim| dim as i64).collect();
                let to = self.ints(&to);
                let x = self.node("Expand", &[&x, &to], &[]);
                self.reshape_to(&x, &self.shape_of(expr))
            }
            WeightExpr::WeightNorm { axis, parts } => {
                let [gain, direction] = [&parts[0], &parts[1]].map(|part| self.made(part, dtype, None));
                let rank = self.shape_of(expr).len();
                let axes: Vec<i64> = (0..rank).filter(|other| other != axis).map(|other| other as i64).collect();
                let axes = self.ints(&axes);
                let squares = self.node("Mul", &[&direction, &direction], &[]);
                let sum = self.node("ReduceSum", &[&squares, &axes], &[("keepdims", Attr::Int(1))]);
                let length = self.node("Sqrt", &[&sum], &[]);
                let unit = self.node("Div", &[&direction, &length], &[]);
                self.node("Mul", &[&gain, &unit], &[])
            }
            WeightExpr::Affine { of, scale, offset } => {
                let mut x = self.made(of, dtype, own);
                for (op, by, nothing) in [("Mul", *scale, 1.0), ("Add", *offset, 0.0)] {
                    if by != nothing {
                        let by = self.scalar(by);
                        x = self.node(op, &[&x, &by], &[]);
                    }
                }
                x
            }
        }
    }

    /// A stored tensor with elements of `dtype`: an initializer of its own called `own`, or one that is shared.
    fn stored_as(&mut self, name: &str, dtype: DType, own: Option<&str>) -> String {
        let stored = self.stored_type(name);
        match own {
            Some(own) => {
                let x = self.initializer(WeightExpr::tensor(name), stored, own.to_owned());
                self.cast(x, stored, dtype)
            }
            None => {
                let x = self.shared(format!("stored {name}"), |w| {
                    w.initializer(WeightExpr::tensor(name), stored, name.to_owned())
                });
                self.shared(format!("stored {name} as {dtype}"), |w| w.cast(x, stored, dtype))
            }
        }
    }

    fn cast(&mut self, x: String, from: DType, to: DType) -> String {
        if from == to { x } else { self.node("Cast", &[&x], &[("to", Attr::To(to))]) }
    }

    fn concat(&mut self, parts: &[String], axis: usize) -> String {
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        self.node("Concat", &parts, &[("axis", Attr::Int(axis as i64))])
    }

    fn reshape_to(&mut self, x: &str, shape: &[u64]) -> String {
        let shape: Vec<i64> = shape.iter().map(|&dim| dim as i64).collect();
        self.reshape(x, &shape)
    }

    fn shape_of(&self, expr: &WeightExpr) -> Vec<u64> {
        expr.shape(self.tensors.index).unwrap_or_else(|error| unreachable!("a valid program: {error}"))
    }

    fn stored_type(&self, name: &str) -> DType {
        let info = self.tensors.index.get(name);
        info.map(|info| info.dtype).unwrap_or_else(|| unreachable!("a valid program has no tensor `{name}`"))
    }
}

/// Whether an expression is all of one stored tensor, whatever its layout.
fn is_whole(expr: &WeightExpr) -> bool {
    match expr {
        WeightExpr::Tensor(_) => true,
        WeightExpr::Transpose { of, .. } | WeightExpr::Reshape { of, .. } | WeightExpr::Affine { of, .. } => {
            is_whole(of)
        }
        _ => false,
    }
}

fn has_arithmetic(expr: &WeightExpr) -> bool {
    matches!(expr, WeightExpr::Affine { .. } | WeightExpr::WeightNorm { .. })
        || expr.operands().iter().any(has_arithmetic)
}
