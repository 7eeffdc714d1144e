//! Operators and their attributes, in both directions.
//!
//! One table of names: what [`attributes`] writes, [`operator`] reads. An attribute with its default value is left out, so
//! that an older host reads a newer description that does not use what it does not know.

use std::collections::BTreeMap;

use super::{DOMAIN, MAX_ATTRIBUTES, WireFault};
use crate::graph::{
    Attention, AttentionMask, AttrValue, Embedding, ExpertActivation, Experts, Linear, NegativeIds, NormProduct,
    OnnxOp, Op, RmsNorm, Rotary, RotaryLayout, Select, SelectMode, StateRead, StateWrite, Weigh,
};
use crate::onnx::{self, AttributeProto, NodeProto, attribute_type};

const NEGATIVE: &[(NegativeIds, &str)] = &[(NegativeIds::Any, "any"), (NegativeIds::Zero, "zero")];
const PRODUCT: &[(NormProduct, &str)] = &[(NormProduct::AfterCast, "after_cast"), (NormProduct::InF32, "in_f32")];
const LAYOUT: &[(RotaryLayout, &str)] = &[(RotaryLayout::Half, "half"), (RotaryLayout::Interleaved, "interleaved")];
const MODE: &[(SelectMode, &str)] =
    &[(SelectMode::Last, "last"), (SelectMode::LastK, "last_k"), (SelectMode::All, "all")];
const WEIGH: &[(Weigh, &str)] = &[(Weigh::Output, "output"), (Weigh::Input, "input")];

/// Attributes of a node in the making; the first of a list of words is the default.
#[derive(Default)]
pub(super) struct Writer(Vec<AttributeProto>);

impl Writer {
    pub(super) fn int(&mut self, name: &str, value: i64) {
        let name = name.to_owned();
        self.0.push(AttributeProto { name, r#type: attribute_type::INT, i: Some(value), ..Default::default() });
    }

    fn int_unless(&mut self, name: &str, value: u64, default: u64) {
        if value != default {
            self.int(name, value as i64);
        }
    }

    fn float(&mut self, name: &str, value: f32) {
        let name = name.to_owned();
        self.0.push(AttributeProto { name, r#type: attribute_type::FLOAT, f: Some(value), ..Default::default() });
    }

    fn float_unless(&mut self, name: &str, value: f32, default: f32) {
        if value.to_bits() != default.to_bits() {
            self.float(name, value);
        }
    }

    pub(super) fn text(&mut self, name: &str, value: &str) {
        let s = Some(value.as_bytes().to_vec());
        self.0.push(AttributeProto { name: name.to_owned(), r#type: attribute_type::STRING, s, ..Default::default() });
    }

    fn word<T: PartialEq + Copy>(&mut self, name: &str, words: &[(T, &str)], value: T) {
        if let Some((_, word)) = words.iter().skip(1).find(|(known, _)| *known == value) {
            self.text(name, word);
        }
    }

    pub(super) fn finish(self) -> Vec<AttributeProto> {
        self.0
    }
}

/// The attributes of an operator.
pub(super) fn attributes(op: &Op) -> Vec<AttributeProto> {
    let mut w = Writer::default();
    match op {
        Op::StateWrite(op) => w.int_unless("repeat", op.repeat, 1),
        Op::StateRead(StateRead) => {}
        Op::Embedding(op) => {
            w.float_unless("scale", op.scale, 1.0);
            if op.offset != 0 {
                w.int("offset", op.offset);
            }
            w.word("negative", NEGATIVE, op.negative);
        }
        Op::Linear(op) => w.int_unless("heads", op.heads, 0),
        Op::RmsNorm(op) => {
            w.float("eps", op.eps);
            w.word("product", PRODUCT, op.product);
        }
        Op::Rotary(op) => w.word("layout", LAYOUT, op.layout),
        Op::Attention(op) => {
            w.float("scale", op.scale);
            match op.mask {
                AttentionMask::Causal => {}
                AttentionMask::Sliding(window) => {
                    w.text("mask", "sliding");
                    w.int("window", window as i64);
                }
                AttentionMask::Bidirectional => w.text("mask", "bidirectional"),
                AttentionMask::Band { left, right } => {
                    w.text("mask", "band");
                    w.int("left", left as i64);
                    w.int("right", right as i64);
                }
            }
            w.float_unless("softcap", op.softcap, 0.0);
        }
        Op::Experts(op) => {
            match op.activation {
                ExpertActivation::Silu => {}
                ExpertActivation::Gelu => w.text("activation", "gelu"),
                ExpertActivation::GeluTanh => w.text("activation", "gelu_tanh"),
                ExpertActivation::Relu => w.text("activation", "relu"),
                ExpertActivation::ClampedSwiglu { limit, alpha } => {
                    w.text("activation", "clamped_swiglu");
                    w.float("limit", limit);
                    w.float("alpha", alpha);
                }
            }
            w.word("weigh", WEIGH, op.weigh);
        }
        Op::Select(op) => w.word("mode", MODE, op.mode),
        Op::Onnx(op) => {
            for (name, value) in &op.attrs {
                match value {
                    AttrValue::Int(value) => w.int(name, *value),
                    AttrValue::Float(value) => w.float(name, *value),
                    AttrValue::Text(value) => w.text(name, value),
                    AttrValue::Ints(values) => w.0.push(AttributeProto {
                        name: name.clone(),
                        r#type: attribute_type::INTS,
                        ints: values.clone(),
                        ..Default::default()
                    }),
                    AttrValue::DType(dtype) => w.int(name, i64::from(onnx::data_type(*dtype))),
                }
            }
        }
    }
    w.finish()
}

/// Attributes of a node that is read; each may be taken once.
pub(super) struct Reader<'n>(BTreeMap<&'n str, &'n AttributeProto>);

impl<'n> Reader<'n> {
    pub(super) fn new(node: &'n NodeProto) -> Result<Self, WireFault> {
        let found = node.attribute.len();
        if found > MAX_ATTRIBUTES {
            let (found, limit) = (found as u64, MAX_ATTRIBUTES as u64);
            return Err(WireFault::TooMany { what: "attributes", found, limit });
        }
        let mut attributes = BTreeMap::new();
        for attribute in &node.attribute {
            if attributes.insert(attribute.name.as_str(), attribute).is_some() {
                return Err(WireFault::Twice(super::shorten(&attribute.name)));
            }
        }
        Ok(Reader(attributes))
    }

    fn take<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl Fn(&'n AttributeProto) -> Option<T>,
    ) -> Result<Option<T>, WireFault> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(attribute) => match read(attribute) {
                Some(value) => Ok(Some(value)),
                None => Err(WireFault::expected(name, expected, describe(attribute))),
            },
        }
    }

    pub(super) fn int(&mut self, name: &str) -> Result<Option<i64>, WireFault> {
        self.take(name, "an integer", |a| a.i.filter(|_| a.r#type == attribute_type::INT))
    }

    pub(super) fn count(&mut self, name: &str) -> Result<Option<u64>, WireFault> {
        let read = |a: &AttributeProto| a.i.filter(|_| a.r#type == attribute_type::INT)?.try_into().ok();
        self.take(name, "an integer of 0 or more", read)
    }

    fn float(&mut self, name: &str) -> Result<Option<f32>, WireFault> {
        let read = |a: &AttributeProto| a.f.filter(|f| a.r#type == attribute_type::FLOAT && f.is_finite());
        self.take(name, "a finite number", read)
    }

    fn needed_float(&mut self, name: &str) -> Result<f32, WireFault> {
        self.float(name)?.ok_or_else(|| WireFault::expected(name, "a finite number", "nothing"))
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<&'n str>, WireFault> {
        let read = |a: &'n AttributeProto| {
            (a.r#type == attribute_type::STRING).then(|| std::str::from_utf8(a.s.as_deref()?).ok()).flatten()
        };
        self.take(name, "a text", read)
    }

    fn word<T: Copy>(&mut self, name: &str, words: &[(T, &str)]) -> Result<T, WireFault> {
        let found = self.text(name)?.unwrap_or(words[0].1);
        words.iter().find(|(_, word)| *word == found).map(|(value, _)| *value).ok_or_else(|| {
            let known: Vec<_> = words.iter().map(|(_, word)| *word).collect();
            WireFault::expected(name, format!("one of {}", known.join(", ")), found)
        })
    }

    /// The graph of an attribute.
    pub(super) fn graph(&mut self, name: &str) -> Result<Option<&'n onnx::GraphProto>, WireFault> {
        self.take(name, "a graph", |a| a.g.as_ref().filter(|_| a.r#type == attribute_type::GRAPH))
    }

    /// Refuses what nobody took.
    pub(super) fn finish(self) -> Result<(), WireFault> {
        match self.0.first_key_value() {
            None => Ok(()),
            Some((name, _)) => Err(WireFault::UnknownAttribute(super::shorten(name))),
        }
    }
}

fn describe(attribute: &AttributeProto) -> String {
    match attribute.r#type {
        attribute_type::FLOAT => format!("the number {:?}", attribute.f),
        attribute_type::INT => format!("the integer {:?}", attribute.i),
        attribute_type::STRING => "another text".to_owned(),
        other => format!("an attribute of type {other}"),
    }
}

/// The operator of a node.
pub(super) fn operator(node: &NodeProto) -> Result<Op, WireFault> {
    if node.domain != DOMAIN {
        return Ok(Op::Onnx(onnx_operator(node)?));
    }
    let mut r = Reader::new(node)?;
    let op = match node.op_type.as_str() {
        "StateWrite" => Op::StateWrite(StateWrite { repeat: r.count("repeat")?.unwrap_or(1) }),
        "StateRead" => Op::StateRead(StateRead),
        "Embedding" => Op::Embedding(Embedding {
            scale: r.float("scale")?.unwrap_or(1.0),
            offset: r.int("offset")?.unwrap_or(0),
            negative: r.word("negative", NEGATIVE)?,
        }),
        "Linear" => Op::Linear(Linear { heads: r.count("heads")?.unwrap_or(0) }),
        "RmsNorm" => Op::RmsNorm(RmsNorm { eps: r.needed_float("eps")?, product: r.word("product", PRODUCT)? }),
        "Rotary" => Op::Rotary(Rotary { layout: r.word("layout", LAYOUT)? }),
        "Attention" => {
            let scale = r.needed_float("scale")?;
            let mask = match r.text("mask")?.unwrap_or("causal") {
                "causal" => AttentionMask::Causal,
                "sliding" => match r.count("window")?.unwrap_or(0) {
                    0 => return Err(WireFault::expected("window", "an integer of 1 or more", "none")),
                    window => AttentionMask::Sliding(window),
                },
                "bidirectional" => AttentionMask::Bidirectional,
                "band" => {
                    let mut side = |name: &str| {
                        r.count(name)?.ok_or_else(|| WireFault::expected(name, "an integer of 0 or more", "none"))
                    };
                    AttentionMask::Band { left: side("left")?, right: side("right")? }
                }
                other => return Err(WireFault::expected("mask", "causal, sliding, bidirectional or band", other)),
            };
            Op::Attention(Attention { scale, mask, softcap: r.float("softcap")?.unwrap_or(0.0) })
        }
        "Experts" => {
            let activation = match r.text("activation")?.unwrap_or("silu") {
                "silu" => ExpertActivation::Silu,
                "gelu" => ExpertActivation::Gelu,
                "gelu_tanh" => ExpertActivation::GeluTanh,
                "relu" => ExpertActivation::Relu,
                "clamped_swiglu" => {
                    ExpertActivation::ClampedSwiglu { limit: r.needed_float("limit")?, alpha: r.needed_float("alpha")? }
                }
                other => {
                    let known = "one of silu, gelu, gelu_tanh, relu, clamped_swiglu";
                    return Err(WireFault::expected("activation", known, other));
                }
            };
            Op::Experts(Experts { activation, weigh: r.word("weigh", WEIGH)? })
        }
        "Select" => Op::Select(Select { mode: r.word("mode", MODE)? }),
        other => return Err(WireFault::UnknownOp(super::shorten(other))),
    };
    r.finish()?;
    Ok(op)
}

fn onnx_operator(node: &NodeProto) -> Result<OnnxOp, WireFault> {
    let mut attrs = BTreeMap::new();
    for (name, attribute) in Reader::new(node)?.0 {
        let value = match attribute.r#type {
            attribute_type::INT => attribute.i.map(|i| number(node, name, i)),
            attribute_type::FLOAT => attribute.f.map(AttrValue::Float),
            attribute_type::STRING => attribute.s.clone().and_then(|s| String::from_utf8(s).ok()).map(AttrValue::Text),
            attribute_type::INTS => Some(AttrValue::Ints(attribute.ints.clone())),
            _ => None,
        };
        let Some(value) = value else {
            let expected = "an integer, a number, a text or integers";
            return Err(WireFault::expected(name, expected, describe(attribute)));
        };
        attrs.insert(name.to_owned(), value);
    }
    Ok(OnnxOp { domain: node.domain.clone(), op_type: node.op_type.clone(), attrs })
}

/// ONNX writes element types as integers; which attributes mean one is known by name.
fn number(node: &NodeProto, name: &str, value: i64) -> AttrValue {
    let is_type = node.domain.is_empty() && matches!(name, "to" | "dtype" | "output_dtype");
    let dtype = i32::try_from(value).ok().filter(|_| is_type).and_then(onnx::dtype);
    dtype.map_or(AttrValue::Int(value), AttrValue::DType)
}
