//! A look at the bytes before they are parsed.
//!
//! A protobuf field of two bytes becomes a struct of two hundred, so a file within the size limit could still ask for
//! gigabytes. This walk allocates nothing; it counts fields and depth, and knows of the schema only which fields nest.

use super::{MAX_BYTES, MAX_RECORDS, WireError, WireFault};

/// Deepest nesting of the schema: model, graph, node, attribute, graph, value, type, tensor type, shape, dimension.
const MAX_DEPTH: usize = 10;

#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Value,
    Type,
    TensorType,
    Shape,
    Function,
    Leaf,
}

/// What a length-delimited field holds.
enum Field {
    Nested(Message),
    /// Possibly packed numbers: each byte may be one.
    Numbers,
    Bytes,
}

fn field(message: Message, number: u64) -> Field {
    use Message as M;
    match (message, number) {
        (M::Model, 7) | (M::Attribute, 6) => Field::Nested(M::Graph),
        (M::Model, 8 | 14) | (M::Graph, 16) | (M::Tensor, 13) | (M::Function, 9) | (M::Shape, 1) => {
            Field::Nested(M::Leaf)
        }
        (M::Model, 25) => Field::Nested(M::Function),
        (M::Graph, 1) | (M::Function, 7) => Field::Nested(M::Node),
        (M::Graph, 5) | (M::Attribute, 5) => Field::Nested(M::Tensor),
        (M::Graph, 11..=13) => Field::Nested(M::Value),
        (M::Node, 5) => Field::Nested(M::Attribute),
        (M::Value, 2) => Field::Nested(M::Type),
        (M::Type, 1) => Field::Nested(M::TensorType),
        (M::TensorType, 2) => Field::Nested(M::Shape),
        (M::Attribute, 7 | 8) | (M::Tensor, 1) => Field::Numbers,
        _ => Field::Bytes,
    }
}

/// Refuses bytes that would take too much memory to parse.
pub(super) fn scan(bytes: &[u8]) -> Result<(), WireError> {
    if bytes.len() > MAX_BYTES {
        let (found, limit) = (bytes.len() as u64, MAX_BYTES as u64);
        return Err(WireFault::TooMany { what: "bytes", found, limit }.at(""));
    }
    let mut records = 0;
    message(bytes, Message::Model, 1, &mut records).map_err(|fault| fault.at(""))
}

fn message(mut bytes: &[u8], kind: Message, depth: usize, records: &mut u64) -> Result<(), WireFault> {
    if depth > MAX_DEPTH {
        return Err(WireFault::TooMany { what: "levels", found: depth as u64, limit: MAX_DEPTH as u64 });
    }
    while !bytes.is_empty() {
        count(records, 1)?;
        let tag = varint(&mut bytes)?;
        match tag & 7 {
            0 => {
                varint(&mut bytes)?;
            }
            1 => {
                take(&mut bytes, 8)?;
            }
            5 => {
                take(&mut bytes, 4)?;
            }
            2 => {
                let length = varint(&mut bytes)?;
                let content = take(&mut bytes, length)?;
                match field(kind, tag >> 3) {
                    Field::Nested(kind) => message(content, kind, depth + 1, records)?,
                    Field::Numbers => count(records, length)?,
                    Field::Bytes => {}
                }
            }
            _ => return Err(malformed("a group, or no wire type")),
        }
    }
    Ok(())
}

fn count(records: &mut u64, more: u64) -> Result<(), WireFault> {
    *records += more;
    if *records > MAX_RECORDS {
        return Err(WireFault::TooMany { what: "fields", found: *records, limit: MAX_RECORDS });
    }
    Ok(())
}

fn malformed(why: &str) -> WireFault {
    WireFault::NotOnnx(why.to_owned())
}

fn varint(bytes: &mut &[u8]) -> Result<u64, WireFault> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let [byte, rest @ ..] = bytes else { return Err(malformed("the bytes end inside a number")) };
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(malformed("a number longer than ten bytes"))
}

fn take<'b>(bytes: &mut &'b [u8], length: u64) -> Result<&'b [u8], WireFault> {
    let length = usize::try_from(length).ok().filter(|&n| n <= bytes.len());
    let Some(length) = length else { return Err(malformed("the bytes end inside a field")) };
    let (content, rest) = bytes.split_at(length);
    *bytes = rest;
    Ok(content)
}
