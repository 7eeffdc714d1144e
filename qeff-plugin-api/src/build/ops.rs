//! Standard ONNX operators, one line each.
//!
//! Types are inferred where they follow from operands and attributes. Where a number decides, the functions here know the
//! result; what they do not offer is written with [`Scope::onnx_typed`].

use super::{Scope, Value};
use crate::graph::{AttrValue, Dim, OnnxOp, Op, Type};
use crate::{DType, Elem, WeightExpr};

impl<'g> Scope<'g> {
    /// A standard operator of inferred type.
    pub fn onnx(self, op_type: &str, operands: &[Value<'g>], attrs: &[(&str, AttrValue)]) -> Value<'g> {
        let attrs = attrs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        let op = Op::Onnx(OnnxOp { domain: String::new(), op_type: op_type.to_owned(), attrs });
        self.node(op, &operands.iter().copied().map(Some).collect::<Vec<_>>())
    }

    /// A number everywhere.
    pub fn scalar(self, value: f32) -> Value<'g> {
        self.weight(WeightExpr::Fill { value, shape: vec![] })
    }

    /// A whole number as a list of one, which is how operators take sizes; at most 2²⁴.
    pub fn integer(self, value: u32) -> Value<'g> {
        let expr = WeightExpr::Fill { value: value as f32, shape: vec![1] };
        let id = self.builder.state.borrow_mut().program.add_weight(expr, Type::new(Elem::I64, [Dim::Fixed(1)]));
        Value { builder: self.builder, id: Some(id) }
    }

    /// The `count` largest numbers along the last axis of `x[…, n]`, largest first, and where they stand: `[…, count]` each.
    pub fn top(self, x: Value<'g>, count: u32) -> [Value<'g>; 2] {
        let failed = Value { builder: self.builder, id: None };
        let Some(mut values) = x.ty().filter(|ty| ty.rank() > 0) else { return [failed; 2] };
        let last = values.rank() - 1;
        values.dims[last] = Dim::Fixed(count.into());
        let places = values.with_elem(Elem::I64);
        let attrs = [("axis".to_owned(), AttrValue::Int(-1))].into();
        let op = OnnxOp { domain: String::new(), op_type: "TopK".to_owned(), attrs };
        let found = self.onnx_typed(op, &[Some(x), Some(self.integer(count))], vec![values, places]);
        found.try_into().unwrap_or([failed; 2])
    }

    /// `e^x / Σ e^x` over the last axis.
    pub fn softmax(self, x: Value<'g>) -> Value<'g> {
        self.onnx("Softmax", &[x], &[("axis", AttrValue::Int(-1))])
    }

    /// `a + b`.
    pub fn add(self, a: Value<'g>, b: Value<'g>) -> Value<'g> {
        self.onnx("Add", &[a, b], &[])
    }

    /// `a · b`.
    pub fn mul(self, a: Value<'g>, b: Value<'g>) -> Value<'g> {
        self.onnx("Mul", &[a, b], &[])
    }

    /// `a · factor`.
    pub fn scale(self, a: Value<'g>, factor: f32) -> Value<'g> {
        self.mul(a, self.scalar(factor))
    }

    /// `a / b`.
    pub fn div(self, a: Value<'g>, b: Value<'g>) -> Value<'g> {
        self.onnx("Div", &[a, b], &[])
    }

    /// `a ^ exponent`.
    pub fn pow(self, a: Value<'g>, exponent: f32) -> Value<'g> {
        self.onnx("Pow", &[a, self.scalar(exponent)], &[])
    }

    /// A unary operator without attributes: `Sigmoid`, `Tanh`, `Erf`, `Relu` …
    pub fn unary(self, op_type: &str, x: Value<'g>) -> Value<'g> {
        self.onnx(op_type, &[x], &[])
    }

    /// Layer normalisation over the last axis, statistics in f32.
    pub fn layer_norm(self, x: Value<'g>, weight: Value<'g>, bias: Option<Value<'g>>, eps: f32) -> Value<'g> {
        let mut operands = vec![x, weight];
        operands.extend(bias);
        self.onnx("LayerNormalization", &operands, &[("axis", AttrValue::Int(-1)), ("epsilon", AttrValue::Float(eps))])
    }

    /// The same numbers in another element type.
    pub fn cast(self, x: Value<'g>, to: DType) -> Value<'g> {
        self.onnx("Cast", &[x], &[("to", AttrValue::DType(to))])
    }

    /// An operator whose one result has a type that the caller knows.
    pub fn typed(self, op_type: &str, operands: &[Value<'g>], attrs: &[(&str, AttrValue)], ty: Type) -> Value<'g> {
        let attrs = attrs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        let op = OnnxOp { domain: String::new(), op_type: op_type.to_owned(), attrs };
        let operands: Vec<_> = operands.iter().copied().map(Some).collect();
        self.onnx_typed(op, &operands, vec![ty]).pop().unwrap_or(Value { builder: self.builder, id: None })
    }

    /// Whole numbers, `i64[n]`: shapes, axes, bounds.
    pub fn integers(self, numbers: &[i64]) -> Value<'g> {
        self.onnx("Constant", &[], &[("value_ints", AttrValue::Ints(numbers.to_vec()))])
    }

    /// Axes reordered: axis `i` of the result is axis `perm[i]`.
    pub fn transpose(self, x: Value<'g>, perm: &[i64]) -> Value<'g> {
        self.onnx("Transpose", &[x], &[("perm", AttrValue::Ints(perm.to_vec()))])
    }

    /// The same elements in row-major order under other dimensions, as `shape` says: 0 keeps the dimension that stands there, −1
    /// follows from the others.
    pub fn reshape(self, x: Value<'g>, shape: &[i64], dims: impl IntoIterator<Item = Dim>) -> Value<'g> {
        let Some(ty) = x.ty() else { return x };
        self.typed("Reshape", &[x, self.integers(shape)], &[], Type::new(ty.elem, dims))
    }

    /// New axes of length 1 at these places of the result.
    pub fn unsqueeze(self, x: Value<'g>, axes: &[usize]) -> Value<'g> {
        let Some(ty) = x.ty() else { return x };
        let mut rest = ty.dims.into_iter();
        let rank = rest.len() + axes.len();
        let dims = (0..rank).filter_map(|axis| if axes.contains(&axis) { Some(Dim::Fixed(1)) } else { rest.next() });
        let ty = Type::new(ty.elem, dims);
        let axes: Vec<i64> = axes.iter().map(|&axis| axis as i64).collect();
        self.typed("Unsqueeze", &[x, self.integers(&axes)], &[], ty)
    }

    /// Without these axes, which have length 1.
    pub fn squeeze(self, x: Value<'g>, axes: &[usize]) -> Value<'g> {
        let Some(ty) = x.ty() else { return x };
        let dims = ty.dims.into_iter().enumerate().filter(|(axis, _)| !axes.contains(axis)).map(|(_, dim)| dim);
        let ty = Type::new(ty.elem, dims);
        let axes: Vec<i64> = axes.iter().map(|&axis| axis as i64).collect();
        self.typed("Squeeze", &[x, self.integers(&axes)], &[], ty)
    }

    /// Values one after the other along an axis, whose length in the result is `length`.
    pub fn concat(self, axis: usize, values: &[Value<'g>], length: impl Into<Dim>) -> Value<'g> {
        let failed = Value { builder: self.builder, id: None };
        let Some(mut ty) = values.first().and_then(|first| first.ty()) else { return failed };
        let Some(dim) = ty.dims.get_mut(axis) else { return failed };
        *dim = length.into();
        self.typed("Concat", values, &[("axis", AttrValue::Int(axis as i64))], ty)
    }

    /// Elements `from..to` of an axis, negative ones counted from its end; there are `length` of them.
    pub fn slice(self, x: Value<'g>, axis: usize, from: i64, to: i64, length: impl Into<Dim>) -> Value<'g> {
        let Some(mut ty) = x.ty() else { return x };
        let Some(dim) = ty.dims.get_mut(axis) else { return x };
        *dim = length.into();
        let [from, to, axis] = [from, to, axis as i64].map(|number| self.integers(&[number]));
        self.typed("Slice", &[x, from, to, axis], &[], ty)
    }

    /// The rows of `table` along `axis` that `indices` name: their dimensions take the place of the axis.
    pub fn gather(self, table: Value<'g>, indices: Value<'g>, axis: usize) -> Value<'g> {
        let (Some(ty), Some(at)) = (table.ty(), indices.ty()) else { return table };
        let (before, after) = ty.dims.split_at(axis.min(ty.rank()));
        let dims = before.iter().chain(&at.dims).chain(after.iter().skip(1)).cloned();
        let ty = Type::new(ty.elem, dims);
        self.typed("Gather", &[table, indices], &[("axis", AttrValue::Int(axis as i64))], ty)
    }

    /// The length of an axis, `i64[1]`.
    pub fn length(self, x: Value<'g>, axis: usize) -> Value<'g> {
        let Some(ty) = x.ty() else { return x };
        let shape = self.typed("Shape", &[x], &[], Type::new(Elem::I64, [Dim::Fixed(ty.rank() as u64)]));
        self.slice(shape, 0, axis as i64, axis as i64 + 1, 1)
    }

    /// `0, 1, …` as long as an axis of `x`: `i64[length]`.
    pub fn indices(self, x: Value<'g>, axis: usize) -> Value<'g> {
        let Some(dim) = x.ty().and_then(|ty| ty.dims.get(axis).cloned()) else { return x };
        let scalar =
            |number: Value<'g>| self.typed("Reshape", &[number, self.integers(&[])], &[], Type::new(Elem::I64, []));
        let [zero, length, one] = [self.integers(&[0]), self.length(x, axis), self.integers(&[1])].map(scalar);
        self.typed("Range", &[zero, length, one], &[], Type::new(Elem::I64, [dim]))
    }

    /// `x` where `holds`, else `y`.
    pub fn choose(self, holds: Value<'g>, x: Value<'g>, y: Value<'g>) -> Value<'g> {
        self.onnx("Where", &[holds, x, y], &[])
    }

    /// `a · b` over the last two axes.
    pub fn matmul(self, a: Value<'g>, b: Value<'g>) -> Value<'g> {
        self.onnx("MatMul", &[a, b], &[])
    }

    /// `a - b`.
    pub fn sub(self, a: Value<'g>, b: Value<'g>) -> Value<'g> {
        self.onnx("Sub", &[a, b], &[])
    }

    /// A reduction (`ReduceSum`, `ReduceMean`, `ReduceMax`, `ReduceMin`) over axes, which stay with length 1.
    pub fn reduce(self, op_type: &str, x: Value<'g>, axes: &[i64]) -> Value<'g> {
        let attrs = [("axes", AttrValue::Ints(axes.to_vec())), ("keepdims", AttrValue::Int(1))];
        self.onnx(op_type, &[x], &attrs)
    }

    /// Running sums along an axis.
    pub fn cumulative_sum(self, x: Value<'g>, axis: usize) -> Value<'g> {
        let Some(ty) = x.ty() else { return x };
        self.typed("CumSum", &[x, self.integers(&[axis as i64])], &[], ty)
    }
}
