//! Weights that stay quantised in a lowered graph, and what is told about those that do not.
//!
//! A product with a kept weight is `com.microsoft::MatMulNBits`, whose inputs are facets of the weight. Everything else
//! wants numbers: rows of a table, norms, products that the target has no form for. Both is counted, because a file of a
//! third of the size, or of eight times the size, should not be a surprise.

use std::collections::BTreeMap;
use std::fmt;

use qeff_plugin_api::graph::{Node, ValueId};
use qeff_plugin_api::{DType, TensorIndex, WeightExpr};

use super::writer::{Attr, Writer};
use crate::weights::{BlockIndex, BlockLayout, Dense, Facet, Facets, Kept, ZeroPoint};

/// Domain of the product with a weight in blocks.
pub(super) const MICROSOFT: &str = "com.microsoft";

/// The stored tensors as lowering sees them.
#[derive(Debug, Clone, Copy)]
pub struct Tensors<'a> {
    /// Types and shapes; facets, too, if weights may be kept.
    pub index: &'a TensorIndex,
    /// Which tensors are in blocks; `None` if every weight shall be dense.
    pub blocks: Option<&'a BlockIndex>,
}

impl<'a> From<&'a TensorIndex> for Tensors<'a> {
    fn from(index: &'a TensorIndex) -> Self {
        Tensors { index, blocks: None }
    }
}

impl<'a> From<&'a Facets<'_>> for Tensors<'a> {
    fn from(facets: &'a Facets<'_>) -> Self {
        use crate::weights::TensorSource as _;
        Tensors { index: facets.index(), blocks: Some(facets.blocks()) }
    }
}

/// What became of the weights that are stored quantised.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quantised {
    /// Weights that stayed so, by their form.
    pub kept: BTreeMap<String, usize>,
    /// Weights that became dense, by the reason.
    pub dense: BTreeMap<String, usize>,
}

impl Quantised {
    /// Adds the counts of another program.
    pub fn add(&mut self, other: &Quantised) {
        for (own, others) in [(&mut self.kept, &other.kept), (&mut self.dense, &other.dense)] {
            others.iter().for_each(|(how, count)| *own.entry(how.clone()).or_insert(0) += count);
        }
    }

    /// Whether no weight is stored quantised.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.dense.is_empty()
    }
}

impl fmt::Display for Quantised {
    /// One line a form and a reason; nothing if no weight is stored quantised.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = [("kept", &self.kept), ("dequantised", &self.dense)];
        let lines = lines.iter().flat_map(|(what, counts)| counts.iter().map(move |(how, count)| (what, how, count)));
        for (at, (what, how, count)) in lines.enumerate() {
            let end = if at == 0 { "" } else { "\n" };
            let weights = if *count == 1 { "weight" } else { "weights" };
            write!(f, "{end}{what} {count} {weights}: {how}")?;
        }
        Ok(())
    }
}

impl Writer<'_> {
    /// The kept form of a product's weight; what is wrong with it is noted. `refuses` says why a target does not take a
    /// form.
    pub(super) fn kept(
        &mut self,
        weight: ValueId,
        refuses: impl FnOnce(&BlockLayout) -> Option<&'static str>,
    ) -> Option<Kept> {
        let (blocks, expr) = (self.tensors.blocks?, self.program.weight(weight)?);
        let kept = blocks.kept(expr, self.tensors.index);
        let reason = match &kept {
            Ok(kept) => refuses(&kept.layout).map(str::to_owned),
            Err(Dense::Plain) => return None,
            Err(why) => Some(why.to_string()),
        };
        if let Some(reason) = reason {
            let encoding = blocks.encoding(expr).unwrap_or_default();
            self.note_dense(&encoding, &reason);
            return None;
        }
        let kept = kept.ok()?;
        let BlockLayout { bits, length, zero, ordered } = kept.layout;
        let zero = match zero {
            ZeroPoint::Constant(_) => "",
            ZeroPoint::PerBlock => " with zero points",
            ZeroPoint::Shift => " with shifts",
        };
        let ordered = if ordered { ", columns in an order" } else { "" };
        let form = format!("{} as {}-bit blocks of {length}{zero}{ordered}", kept.encoding, bits.count());
        *self.quantised.kept.entry(form).or_insert(0) += 1;
        Some(kept)
    }

    /// Counts a weight that is stored quantised and used in another way than as the matrix of a product.
    pub(super) fn note_plain_use(&mut self, expr: &WeightExpr) {
        if let Some(encoding) = self.tensors.blocks.and_then(|blocks| blocks.encoding(expr)) {
            self.note_dense(&encoding, "is looked up by rows or used number by number, not multiplied");
        }
    }

    /// Counts the matrices of experts that are stored quantised: they become dense.
    pub(super) fn note_experts(&mut self, node: &Node) {
        let Some(blocks) = self.tensors.blocks else { return };
        for weight in node.operands.iter().flatten().filter_map(|&value| self.program.weight(value)) {
            if let Some(encoding) = blocks.encoding(weight) {
                self.note_dense(&encoding, "is a matrix of experts, which are multiplied dense");
            }
        }
    }

    fn note_dense(&mut self, encoding: &str, reason: &str) {
        *self.quantised.dense.entry(format!("{encoding} {reason}")).or_insert(0) += 1;
    }

    /// The initializer of a facet, in the shape that `MatMulNBits` wants.
    pub(super) fn facet(&mut self, kept: &Kept, facet: Facet, operand: &str, shape: &[u64]) -> String {
        self.tensor(kept.facet(facet).reshape(shape), facet.dtype(), operand)
    }

    /// The value as f32, which is what products with kept weights are computed in.
    pub(super) fn as_f32(&mut self, value: ValueId) -> String {
        let name = self.name(value);
        if self.program.ty(value).dtype(self.program.act) == DType::F32 {
            return name;
        }
        self.node("Cast", &[&name], &[("to", Attr::To(DType::F32))])
    }

    /// What leads back from f32 to the activations of the program.
    pub(super) fn back_from_f32(&self) -> Option<Link<'static>> {
        let act = self.program.act;
        let attrs = vec![("to", Attr::To(act))];
        (act != DType::F32).then(|| Link { domain: "", op: "Cast", inputs: vec![None], attrs })
    }

    /// Rows of a projection's weight: how many results it has.
    pub(super) fn rows_of(&self, weight: ValueId) -> u64 {
        self.fixed(weight, 0)
    }

    /// Attributes of a product `[…, columns] × [rows, columns]ᵀ`.
    pub(super) fn nbits_attrs(columns: u64, rows: u64, length: u64) -> [(&'static str, Attr<'static>); 4] {
        [
            ("K", Attr::Int(columns as i64)),
            ("N", Attr::Int(rows as i64)),
            ("bits", Attr::Int(4)),
            ("block_size", Attr::Int(length as i64)),
        ]
    }
}

/// One node of a chain.
pub(super) struct Link<'a> {
    pub(super) domain: &'a str,
    pub(super) op: &'a str,
    /// `None` is the result of the link before.
    pub(super) inputs: Vec<Option<String>>,
    pub(super) attrs: Vec<(&'a str, Attr<'a>)>,
}

impl Link<'_> {
    /// A standard node over the result of the link before and `with`.
    pub(super) fn onto(op: &'static str, with: String) -> Self {
        Link { domain: "", op, inputs: vec![None, Some(with)], attrs: vec![] }
    }
}

impl Writer<'_> {
    /// Writes links one after the other; the result of the last one is the output of `node`.
    pub(super) fn chain(&mut self, node: &Node, links: &[Link<'_>]) {
        let mut before = String::new();
        for (at, link) in links.iter().enumerate() {
            let inputs: Vec<&str> = link.inputs.iter().map(|input| input.as_deref().unwrap_or(&before)).collect();
            let last = (at + 1 == links.len()).then_some(node.outputs[0]);
            let name = self.node_in(link.domain, link.op, &inputs, &link.attrs, last);
            if let Some(value) = last {
                self.bind(value, name.clone());
            }
            before = name;
        }
    }
}
