//! Spelling of names, and which of them need quotes.
//!
//! Names come from strangers: a slot may be called `a b` and a dimension `3`. Whatever is not plainly a name is quoted,
//! so that printing and reading are inverse for every name. Printer and reader share these rules; neither the graph nor
//! the grammar of lines is known here.

use std::borrow::Cow;
use std::fmt::Write as _;

use qeff_plugin_api::graph::{Dim, Type};

/// Operators of domain `qeff` and words that open a declaration. A standard ONNX operator of such a name prints as
/// `::Name`.
pub(super) const RESERVED: &[&str] = &[
    "input",
    "weight",
    "State",
    "StateWrite",
    "StateRead",
    "Embedding",
    "Linear",
    "RmsNorm",
    "Rotary",
    "Attention",
    "Experts",
    "Select",
];

/// Whether `c` may stand in an unquoted name; as its first character, `-` may not, for it may begin an arrow.
pub(super) fn in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/')
}

/// Whether `c` may stand in a word.
pub(super) fn in_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Whether `text` is a word: a letter or `_`, then letters, digits and `_`.
pub(super) fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(in_word)
}

/// A name of a slot, port, program, scope segment or domain.
pub(super) fn name(text: &str) -> Cow<'_, str> {
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(in_name) {
        text.into()
    } else {
        format!("{text:?}").into()
    }
}

/// A dimension's symbol or an attribute's key.
pub(super) fn word(text: &str) -> Cow<'_, str> {
    if is_word(text) { text.into() } else { format!("{text:?}").into() }
}

/// An operator that is not in domain `qeff`.
pub(super) fn onnx_op(domain: &str, op_type: &str) -> String {
    match (domain, RESERVED.contains(&op_type)) {
        ("", false) if is_word(op_type) => op_type.to_owned(),
        ("", _) => format!("::{}", name(op_type)),
        _ => format!("{}::{}", name(domain), name(op_type)),
    }
}

/// A type, e.g. `act[batch_size, 4]`.
pub(super) fn ty(ty: &Type) -> String {
    let mut out = format!("{}[", ty.elem);
    for (i, dim) in ty.dims.iter().enumerate() {
        let comma = if i > 0 { ", " } else { "" };
        let _ = match dim {
            Dim::Fixed(n) => write!(out, "{comma}{n}"),
            Dim::Symbol(symbol) => write!(out, "{comma}{}", word(symbol.name())),
        };
    }
    out.push(']');
    out
}

/// The headings a scope path prints as: one a segment, an index joined with the segment before it.
pub(super) fn headings(path: &str) -> Vec<&str> {
    let mut headings = vec![];
    if path.is_empty() {
        return headings;
    }
    let (mut start, mut at) = (0, 0);
    for segment in path.split('.') {
        let index = !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_digit());
        if at > 0 && !index {
            headings.push(&path[start..at - 1]);
            start = at;
        }
        at += segment.len() + 1;
    }
    headings.push(&path[start..]);
    headings
}

/// The path that headings stand for.
pub(super) fn path(headings: &[String]) -> String {
    headings.join(".")
}

/// A tensor's name as seen from a scope: what follows the scope's path if the tensor lives below it, else `/` and the
/// full name.
pub(super) fn from_scope(scope: &str, tensor: &str) -> String {
    let below = match scope {
        "" => Some(tensor),
        scope => tensor.strip_prefix(scope).and_then(|rest| rest.strip_prefix('.')),
    };
    match below {
        Some(rest) if !rest.starts_with('/') => rest.to_owned(),
        _ => format!("/{tensor}"),
    }
}

/// The inverse of [`from_scope`].
pub(super) fn to_full(scope: &str, spelled: &str) -> String {
    match (spelled.strip_prefix('/'), scope) {
        (Some(full), _) => full.to_owned(),
        (None, "") => spelled.to_owned(),
        (None, scope) => format!("{scope}.{spelled}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_join_indices_and_give_the_path_back() {
        assert_eq!(headings("model.layers.0.mlp"), ["model", "layers.0", "mlp"]);
        for text in ["", "0", "a.0.1.b", ".a", "a..b", "a.", "..", "é.ü.0"] {
            let owned: Vec<_> = headings(text).into_iter().map(str::to_owned).collect();
            assert_eq!(path(&owned), text);
        }
    }

    #[test]
    fn tensor_names_survive_every_scope() {
        for scope in ["", "a", "a.b", "/"] {
            for tensor in ["", "a", "a.", "a.b", "a.b.c", "ab.c", "/a", "a./b", "a.b./"] {
                assert_eq!(to_full(scope, &from_scope(scope, tensor)), tensor, "{scope:?} {tensor:?}");
            }
        }
    }
}
