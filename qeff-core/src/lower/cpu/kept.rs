//! Products with weights in blocks, of nodes that rten and ONNX Runtime both have.
//!
//! rten multiplies with codes of four bits measured from 8, and with nothing else. So codes of eight bits are two products,
//! `16 · (high − 8) + (low − 8)`; a zero point elsewhere, or a shift, is the same for a whole block and is multiplied with the
//! sum of the block's columns; and an order of columns is applied to the value, once for all its projections. All of it is
//! exact up to rounding.

use qeff_plugin_api::graph::{Linear, Node, ValueId};

use super::Cpu;
use crate::lower::Products;
use crate::lower::common::operand;
use crate::lower::quantised::{Link, MICROSOFT};
use crate::lower::writer::{Attr, Writer};
use crate::weights::{CodeBits, Facet, Kept, ZeroPoint};

/// An operand that projections of one value share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Operand {
    /// The value with its columns in this order.
    Columns(ValueId, Option<String>),
    /// Such a value times sixteen.
    Sixteenfold(String),
    /// The sums of such a value over blocks of this length, as a matrix.
    Sums(String, u64),
}

impl Cpu<'_> {
    /// A projection by a weight in blocks.
    pub(super) fn kept_linear(&mut self, node: &Node, op: &Linear, kept: &Kept) {
        let (x, out) = (operand(node, Linear::X), node.outputs[0]);
        let (columns, rows) = (self.w.width(x), self.w.rows_of(operand(node, Linear::WEIGHT)));
        let (per_row, length) = (kept.per_row(), kept.layout.length);
        let value = self.columns(x, kept);
        let scales = self.w.facet(kept, Facet::Scales, "scales", &[rows, per_row]);
        let mut attrs = Writer::nbits_attrs(columns, rows, length).to_vec();
        if self.products == Products::Int8 {
            attrs.push(("accuracy_level", Attr::Int(4)));
        }
        let packed = [rows, per_row, length / 2];
        let low = self.w.facet(kept, Facet::LowBits, "low_bits", &packed);
        let inputs = [&value, &low, &scales].map(|name| Some(name.clone())).to_vec();
        let mut links = vec![];
        if kept.layout.bits == CodeBits::Eight {
            let high = self.w.facet(kept, Facet::HighBits, "high_bits", &packed);
            let value = self.sixteenfold(&value);
            let high = self.w.node_in(MICROSOFT, "MatMulNBits", &[&value, &high, &scales], &attrs, None);
            links.push(Link { domain: MICROSOFT, op: "MatMulNBits", inputs, attrs });
            links.push(Link::onto("Add", high));
        } else {
            links.push(Link { domain: MICROSOFT, op: "MatMulNBits", inputs, attrs });
        }
        if kept.layout.is_centered() {
            links.extend(self.w.after_product(node, op));
            return self.w.chain(node, &links);
        }
        // A zero point that is the same everywhere needs no numbers of its own: the scales, times its distance.
        let (offsets, factor) = match kept.layout.zero {
            ZeroPoint::Constant(zero) => (scales, f32::from(kept.layout.bits.center()) - f32::from(zero)),
            ZeroPoint::PerBlock | ZeroPoint::Shift => {
                (self.w.facet(kept, Facet::Offsets, "offsets", &[rows, per_row]), 1.0)
            }
        };
        let sums = self.sums(&value, columns, length);
        let as_matrix = self.w.ints(&[-1, rows as i64]);
        links.push(Link::onto("Reshape", as_matrix));
        let inputs = vec![Some(sums), Some(offsets), None];
        let attrs = vec![("alpha", Attr::Float(factor)), ("transB", Attr::Int(1))];
        links.push(Link { domain: "", op: "Gemm", inputs, attrs });
        if let Some(bias) = node.operand(Linear::BIAS) {
            links.push(Link::onto("Add", self.w.operand(bias, "bias")));
        }
        let shape = self.shape_of_projection(x, out);
        links.push(Link::onto("Reshape", shape));
        self.w.chain(node, &links);
    }

    /// A value with its columns in the order of a weight's blocks.
    fn columns(&mut self, x: ValueId, kept: &Kept) -> String {
        let order = kept.layout.ordered.then(|| {
            let columns = self.w.width(x);
            self.w.facet(kept, Facet::Order, "order", &[columns])
        });
        let key = Operand::Columns(x, order.clone());
        if let Some(name) = self.operands.get(&key) {
            return name.clone();
        }
        let value = self.w.name(x);
        let name = match order {
            Some(order) => self.w.node("Gather", &[&value, &order], &[("axis", Attr::Int(-1))]),
            None => value,
        };
        self.operands.insert(key, name.clone());
        name
    }

    fn sixteenfold(&mut self, value: &str) -> String {
        let key = Operand::Sixteenfold(value.to_owned());
        if let Some(name) = self.operands.get(&key) {
            return name.clone();
        }
        let sixteen = self.w.scalar(16.0);
        let name = self.w.node("Mul", &[value, &sixteen], &[]);
        self.operands.insert(key, name.clone());
        name
    }

    /// `[rows, blocks]`: the sums of a value over blocks of its last axis.
    fn sums(&mut self, value: &str, columns: u64, length: u64) -> String {
        let key = Operand::Sums(value.to_owned(), length);
        if let Some(name) = self.operands.get(&key) {
            return name.clone();
        }
        let blocks = self.w.reshape(value, &[-1, (columns / length) as i64, length as i64]);
        let axes = self.w.ints(&[-1]);
        let name = self.w.node("ReduceSum", &[&blocks, &axes], &[("keepdims", Attr::Int(0))]);
        self.operands.insert(key, name.clone());
        name
    }
}
