//! One node: its operator, operands, attributes and result types.
//!
//! The order of attributes is that of the printer, so that there is one text for one node.

use std::collections::BTreeMap;

use qeff_plugin_api::DType;
use qeff_plugin_api::graph::{
    Attention, AttentionMask, AttrValue, Embedding, ExpertActivation, Experts, Linear, NegativeIds, NormProduct,
    OnnxOp, Op, RmsNorm, Rotary, RotaryLayout, Select, SelectMode, StateRead, StateWrite, ValueId, Weigh,
};
use qeff_plugin_api::infer::{Mismatch, infer};

use super::{ProgramReader, starts_weight};
use crate::text::error::ParseErrorKind;
use crate::text::scan::{Result, Scan};
use crate::text::spell;

type Operands = Vec<Option<ValueId>>;

/// Reads what stands right of `=` and appends the node, whose results are `labels`.
pub(super) fn read<'t>(reader: &mut ProgramReader<'t>, scan: &mut Scan<'t>, labels: &[&'t str]) -> Result<()> {
    let start = scan.mark();
    let (op, operands) = operation(reader, scan)?;
    let types_at = scan.mark();
    let stated = match scan.eat(":") {
        true => scan.types()?,
        false if scan.rest().is_empty() => vec![],
        false => return scan.expected("` : ` and the types of the results"),
    };
    scan.end()?;

    let operand_types: Vec<_> = operands.iter().map(|id| id.map(|id| reader.program.ty(id))).collect();
    let types = match infer(&op, &operand_types) {
        Ok(inferred) => {
            // Only the results of a write, whose types are those of the versions before, may go without.
            let implied = matches!(op, Op::StateWrite(_)) && stated.is_empty();
            for (i, ty) in inferred.iter().enumerate().filter(|_| !implied) {
                match stated.get(i) {
                    Some((_, stated)) if stated == ty => {}
                    Some((at, _)) => {
                        return Err(scan.unexpected(*at, format!("{}, the type of result {i}", spell::ty(ty))));
                    }
                    None if i == 0 => return Err(scan.unexpected(types_at, format!("` : {}`", spell::ty(ty)))),
                    None => return scan.expected(format!("`, {}`", spell::ty(ty))),
                }
            }
            if let Some((at, _)) = stated.get(inferred.len()) {
                return Err(scan.unexpected(*at, format!("no more than {} types", inferred.len())));
            }
            inferred
        }
        Err(Mismatch::Unknown(_)) => stated.into_iter().map(|(_, ty)| ty).collect(),
        Err(mismatch) => {
            let op = op.name().to_owned();
            return Err(scan.error(start, ParseErrorKind::Mismatch { op, mismatch }));
        }
    };
    if types.len() != labels.len() {
        return Err(scan.unexpected(start, format!("an operator with {} results, as on the left", labels.len())));
    }
    let scope = reader.program.intern_scope(&spell::path(&reader.scopes));
    let node = reader.program.add_node(scope, op, operands, types);
    let outputs = reader.program.node(node).outputs.clone();
    reader.labels.extend(labels.iter().copied().zip(outputs));
    Ok(())
}

fn operation<'t>(reader: &mut ProgramReader<'t>, scan: &mut Scan<'t>) -> Result<(Op, Operands)> {
    let start = scan.mark();
    if scan.eat("::") {
        return raw(reader, scan, String::new());
    }
    let name = scan.name("an operator")?;
    if scan.eat("::") {
        return raw(reader, scan, name);
    }
    if name == "StateWrite" {
        return state_write(reader, scan);
    }
    let mut operands = positional(reader, scan)?;
    let op = match name.as_str() {
        "Embedding" => {
            let mut embedding = Embedding::default();
            if scan.eat_word("scale") {
                embedding.scale = scan.number("a factor")?;
            }
            if scan.eat_word("offset") {
                embedding.offset = scan.number("an offset")?;
            }
            if scan.eat_word("negative") {
                scan.keyword("zero")?;
                embedding.negative = NegativeIds::Zero;
            }
            Op::Embedding(embedding)
        }
        "Linear" => {
            let heads = if scan.eat_word("heads") { scan.number("a number of heads")? } else { 0 };
            Op::Linear(Linear { heads })
        }
        "RmsNorm" => {
            scan.keyword("eps")?;
            let eps = scan.number("a number")?;
            let product = match scan.eat_word("product") {
                true => {
                    scan.keyword("f32")?;
                    NormProduct::InF32
                }
                false => NormProduct::AfterCast,
            };
            Op::RmsNorm(RmsNorm { eps, product })
        }
        "Rotary" => {
            let layouts = [("half", RotaryLayout::Half), ("interleaved", RotaryLayout::Interleaved)];
            Op::Rotary(Rotary { layout: scan.one_of("a layout", &layouts)? })
        }
        "Attention" => {
            optional(reader, scan, &mut operands, 3, crate::text::ATTENTION_OPTIONAL)?;
            Op::Attention(attention(scan)?)
        }
        "StateRead" => {
            optional(reader, scan, &mut operands, 1, crate::text::STATE_READ_OPTIONAL)?;
            Op::StateRead(StateRead)
        }
        "Experts" => Op::Experts(experts(scan)?),
        "Select" => {
            optional(reader, scan, &mut operands, 2, crate::text::SELECT_OPTIONAL)?;
            let modes = [("last", SelectMode::Last), ("last_k", SelectMode::LastK), ("all", SelectMode::All)];
            Op::Select(Select { mode: scan.one_of("a rule", &modes)? })
        }
        name if spell::is_word(name) && !spell::RESERVED.contains(&name) => {
            let attrs = attrs(scan)?;
            Op::Onnx(OnnxOp { domain: String::new(), op_type: name.to_owned(), attrs })
        }
        _ => return Err(scan.unexpected(start, "an operator")),
    };
    Ok((op, operands))
}

/// An operator of another domain, after its `::`.
fn raw<'t>(reader: &mut ProgramReader<'t>, scan: &mut Scan<'t>, domain: String) -> Result<(Op, Operands)> {
    let op_type = scan.name("an operator")?;
    let operands = positional(reader, scan)?;
    Ok((Op::Onnx(OnnxOp { domain, op_type, attrs: attrs(scan)? }), operands))
}

/// `(PART, …) <- (NEW, …) [at POSITIONS] [batch INDEX] [if GUARD] [repeat N]`
fn state_write<'t>(reader: &mut ProgramReader<'t>, scan: &mut Scan<'t>) -> Result<(Op, Operands)> {
    let mut operands = scan.list("(", ")", |scan| operand(reader, scan))?;
    let parts = operands.len();
    scan.expect("<-")?;
    let at = scan.mark();
    operands.extend(scan.list("(", ")", |scan| operand(reader, scan))?);
    if operands.len() != 2 * parts {
        return Err(scan.unexpected(at, format!("new rows for each of {parts} parts")));
    }
    let labels = [
        ("at", StateWrite::positions(parts)),
        ("batch", StateWrite::batch_index(parts)),
        ("if", StateWrite::guard(parts)),
    ];
    optional(reader, scan, &mut operands, 2 * parts, &labels)?;
    let repeat = if scan.eat_word("repeat") { scan.number("a number of repetitions")? } else { 1 };
    Ok((Op::StateWrite(StateWrite { repeat }), operands))
}

fn attention(scan: &mut Scan<'_>) -> Result<Attention> {
    let masks = [
        ("causal", AttentionMask::Causal),
        ("sliding", AttentionMask::Sliding(0)),
        ("bidirectional", AttentionMask::Bidirectional),
        ("band", AttentionMask::Band { left: 0, right: 0 }),
    ];
    let mut mask = scan.one_of("a mask", &masks)?;
    match &mut mask {
        AttentionMask::Sliding(window) => {
            scan.expect("(")?;
            *window = scan.number("the length of the window")?;
            scan.expect(")")?;
        }
        AttentionMask::Band { left, right } => {
            scan.expect("(")?;
            *left = scan.number("a number of keys")?;
            scan.expect(",")?;
            *right = scan.number("a number of keys")?;
            scan.expect(")")?;
        }
        AttentionMask::Causal | AttentionMask::Bidirectional => {}
    }
    scan.keyword("scale")?;
    let scale = scan.number("a factor")?;
    let softcap = if scan.eat_word("softcap") { scan.number("a number")? } else { 0.0 };
    Ok(Attention { scale, mask, softcap })
}

fn experts(scan: &mut Scan<'_>) -> Result<Experts> {
    let (limit, alpha) = (0.0, 0.0);
    let activations = [
        ("silu", ExpertActivation::Silu),
        ("gelu", ExpertActivation::Gelu),
        ("gelu_tanh", ExpertActivation::GeluTanh),
        ("relu", ExpertActivation::Relu),
        ("clamped_swiglu", ExpertActivation::ClampedSwiglu { limit, alpha }),
    ];
    let mut activation = scan.one_of("an activation", &activations)?;
    if let ExpertActivation::ClampedSwiglu { limit, alpha } = &mut activation {
        scan.keyword("limit")?;
        *limit = scan.number("a limit")?;
        scan.keyword("alpha")?;
        *alpha = scan.number("a factor")?;
    }
    let weigh = match scan.eat_word("weigh") {
        true => {
            scan.keyword("input")?;
            Weigh::Input
        }
        false => Weigh::Output,
    };
    Ok(Experts { activation, weigh })
}

/// Operands separated by commas, as many as there are.
fn positional<'t>(reader: &mut ProgramReader<'t>, scan: &mut Scan<'t>) -> Result<Operands> {
    let mut operands = vec![];
    let rest = scan.rest();
    if rest.starts_with('%') || is_absent(rest) || starts_weight(rest) {
        operands.push(operand(reader, scan)?);
        while scan.eat(",") {
            operands.push(operand(reader, scan)?);
        }
    }
    Ok(operands)
}

/// Operands behind the first `count`, each after its label.
fn optional<'t>(
    reader: &mut ProgramReader<'t>,
    scan: &mut Scan<'t>,
    operands: &mut Operands,
    count: usize,
    labels: &[(&str, usize)],
) -> Result<()> {
    if operands.len() > count {
        return scan.expected(format!("{count} operands and then labelled ones"));
    }
    for &(label, index) in labels {
        if scan.eat_word(label) {
            operands.resize(index, None);
            operands.push(Some(reader.value(scan)?));
        }
    }
    Ok(())
}

/// A value, or `_` for an absent operand.
fn operand<'t>(reader: &mut ProgramReader<'t>, scan: &mut Scan<'t>) -> Result<Option<ValueId>> {
    if is_absent(scan.rest()) {
        scan.eat("_");
        return Ok(None);
    }
    reader.value(scan).map(Some)
}

fn is_absent(rest: &str) -> bool {
    rest.strip_prefix('_').is_some_and(|rest| !rest.starts_with(spell::in_word))
}

/// `{key: value, …}`, or nothing.
fn attrs(scan: &mut Scan<'_>) -> Result<BTreeMap<String, AttrValue>> {
    let mut attrs = BTreeMap::new();
    if !scan.rest().starts_with('{') {
        return Ok(attrs);
    }
    scan.list("{", "}", |scan| {
        let at = scan.mark();
        let key = scan.word("an attribute")?;
        scan.expect(":")?;
        let value = attr_value(scan)?;
        match attrs.insert(key, value) {
            None => Ok(()),
            Some(_) => Err(scan.unexpected(at, "an attribute that was not given yet")),
        }
    })?;
    Ok(attrs)
}

fn attr_value(scan: &mut Scan<'_>) -> Result<AttrValue> {
    const EXPECTED: &str = "an integer, a number, a text, integers in brackets or an element type";
    let rest = scan.rest();
    if rest.starts_with('"') {
        return scan.quoted("a text").map(AttrValue::Text);
    }
    if rest.starts_with('[') {
        return scan.list("[", "]", |scan| scan.number("an integer")).map(AttrValue::Ints);
    }
    if let Some(&dtype) = DType::ALL.iter().find(|dtype| dtype.name() == scan.peek()) {
        scan.eat(dtype.name());
        return Ok(AttrValue::DType(dtype));
    }
    let at = scan.mark();
    let text: String = scan.number(EXPECTED)?;
    let value = text.parse().map(AttrValue::Int).or_else(|_| text.parse().map(AttrValue::Float));
    value.map_err(|_: std::num::ParseFloatError| scan.unexpected(at, EXPECTED))
}
