//! The one spelling of weight expressions, used by the text form of graphs and by the wire form.
//!
//! ```text
//! w"q_proj.weight".take(0, 2, 24, 0..12).transpose(1, 0)
//! concat(0, w"gate.weight", w"up.weight")
//! rope(cos, llama3, base=500000, width=64, positions=131072, reach=0, factor=8, …)
//! ```
//! Numbers print in the shortest form that reads back to the same f32, so printing and parsing are inverse.

use std::fmt::Write as _;

use super::{RopeKind, RopePart, RopeTable, WeightExpr};

/// Deeper expressions are refused: no description needs them, and a hostile one must not exhaust the stack.
const MAX_DEPTH: usize = 64;

/// Where and why a weight expression cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("weight expression: expected {expected} at `{rest}`")]
pub struct ParseWeightError {
    /// What would have fitted.
    pub expected: String,
    /// The beginning of the text that did not.
    pub rest: String,
}

impl WeightExpr {
    /// The expression as text; `name` spells tensor names (the text form of a graph shortens them to the scope).
    pub fn to_text(&self, name: &dyn Fn(&str) -> String) -> String {
        let mut out = String::new();
        self.write_text(&mut out, name);
        out
    }

    /// The outermost step alone, for messages.
    pub(super) fn step_text(&self) -> String {
        match self {
            WeightExpr::Transpose { perm, .. } => format!("transpose({})", list(perm)),
            WeightExpr::Take { axis, groups, width, columns, .. } => {
                format!("take({axis}, {groups}, {width}, {}..{})", columns.start, columns.end)
            }
            WeightExpr::Reshape { shape, .. } => format!("reshape({})", list(shape)),
            WeightExpr::Repeat { axis, groups, times, .. } => format!("repeat({axis}, {groups}, {times})"),
            WeightExpr::Affine { scale, offset, .. } => format!("affine({scale}, {offset})"),
            WeightExpr::Concat { axis, .. } => format!("concat({axis}, …)"),
            WeightExpr::Stack { axis, .. } => format!("stack({axis}, …)"),
            WeightExpr::WeightNorm { axis, .. } => format!("weight_norm({axis}, …)"),
            WeightExpr::Tensor(name) => format!("w{name:?}"),
            WeightExpr::Fill { value, shape } => format!("fill({value}, [{}])", list(shape)),
            WeightExpr::Rope(_) => "rope(…)".into(),
        }
    }

    fn write_text(&self, out: &mut String, name: &dyn Fn(&str) -> String) {
        match self {
            WeightExpr::Tensor(tensor) => {
                let _ = write!(out, "w{:?}", name(tensor));
            }
            WeightExpr::Fill { .. } => out.push_str(&self.step_text()),
            WeightExpr::Rope(table) => table.write_text(out),
            WeightExpr::Concat { axis, .. } | WeightExpr::Stack { axis, .. } | WeightExpr::WeightNorm { axis, .. } => {
                let word = match self {
                    WeightExpr::Concat { .. } => "concat",
                    WeightExpr::Stack { .. } => "stack",
                    _ => "weight_norm",
                };
                let _ = write!(out, "{word}({axis}");
                for part in self.operands() {
                    out.push_str(", ");
                    part.write_text(out, name);
                }
                out.push(')');
            }
            _ => {
                self.operands()[0].write_text(out, name);
                out.push('.');
                out.push_str(&self.step_text());
            }
        }
    }

    /// Reads one expression from the beginning of `text`; returns it with what follows.
    ///
    /// # Errors
    /// The first place that does not fit the grammar.
    pub fn parse_prefix<'t>(text: &'t str, name: &dyn Fn(&str) -> String) -> Result<(Self, &'t str), ParseWeightError> {
        let mut reader = Reader { rest: text, name };
        let (expr, _) = reader.expr(0)?;
        Ok((expr, reader.rest))
    }

    /// Reads an expression that is the whole of `text`, with full tensor names.
    ///
    /// # Errors
    /// As [`Self::parse_prefix`], and if anything follows the expression.
    pub fn parse(text: &str) -> Result<Self, ParseWeightError> {
        match Self::parse_prefix(text, &str::to_owned)? {
            (expr, rest) if rest.trim().is_empty() => Ok(expr),
            (_, rest) => Err(error("the end", rest)),
        }
    }
}

impl std::fmt::Display for WeightExpr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.to_text(&str::to_owned))
    }
}

impl RopeTable {
    fn write_text(&self, out: &mut String) {
        let part = if self.part == RopePart::Cos { "cos" } else { "sin" };
        let (kind, fields) = self.kind_fields();
        let _ = write!(
            out,
            "rope({part}, {kind}, base={}, width={}, positions={}, reach={}",
            self.base, self.width, self.positions, self.reach
        );
        for (key, value) in fields {
            let _ = write!(out, ", {key}={value}");
        }
        out.push(')');
    }

    fn kind_fields(&self) -> (&'static str, Vec<(&'static str, String)>) {
        let f = |key, value: &f32| (key, value.to_string());
        let n = |key, value: &u64| (key, value.to_string());
        match &self.kind {
            RopeKind::Default => ("default", vec![]),
            RopeKind::Linear { factor } => ("linear", vec![f("factor", factor)]),
            RopeKind::Dynamic { factor, original } => ("dynamic", vec![f("factor", factor), n("original", original)]),
            RopeKind::Llama3 { factor, low_freq_factor, high_freq_factor, original } => (
                "llama3",
                vec![
                    f("factor", factor),
                    f("low", low_freq_factor),
                    f("high", high_freq_factor),
                    n("original", original),
                ],
            ),
            RopeKind::Yarn { factor, beta_fast, beta_slow, original, truncate, attention_factor } => (
                "yarn",
                vec![
                    f("factor", factor),
                    f("beta_fast", beta_fast),
                    f("beta_slow", beta_slow),
                    n("original", original),
                    ("truncate", u8::from(*truncate).to_string()),
                    f("attention_factor", attention_factor),
                ],
            ),
            RopeKind::LongRope { short, long, original, attention_factor } => (
                "longrope",
                vec![
                    ("short", format!("[{}]", list(short))),
                    ("long", format!("[{}]", list(long))),
                    n("original", original),
                    f("attention_factor", attention_factor),
                ],
            ),
        }
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

fn error(expected: &str, rest: &str) -> ParseWeightError {
    ParseWeightError { expected: expected.to_owned(), rest: rest.chars().take(40).collect() }
}

struct Reader<'t, 'n> {
    rest: &'t str,
    name: &'n dyn Fn(&str) -> String,
}

impl<'t> Reader<'t, '_> {
    /// An expression with the height of its tree. Steps and nesting both make it taller, so they share one limit; limits
    /// of their own would multiply.
    fn expr(&mut self, depth: usize) -> Result<(WeightExpr, usize), ParseWeightError> {
        if depth > MAX_DEPTH {
            return Err(error("an expression nested less deeply", self.rest));
        }
        let (mut expr, mut height) = self.primary(depth)?;
        loop {
            if height > MAX_DEPTH {
                return Err(error("fewer steps", self.rest));
            }
            if !self.eat(".") {
                return Ok((expr, height));
            }
            height += 1;
            let at = self.rest;
            let step = self.word();
            self.expect("(")?;
            expr = match step {
                "transpose" => WeightExpr::Transpose { of: Box::new(expr), perm: self.numbers()? },
                "reshape" => expr.reshape(self.numbers::<u64>()?),
                "take" => {
                    let (axis, groups, width) = (self.number()?, self.next_number()?, self.next_number()?);
                    self.expect(",")?;
                    let start = self.number()?;
                    self.expect("..")?;
                    expr.take(axis, groups, width, start..self.number()?)
                }
                "repeat" => expr.repeat(self.number()?, self.next_number()?, self.next_number()?),
                "affine" => expr.affine(self.number()?, self.next_number()?),
                _ => return Err(error("a step", at)),
            };
            self.expect(")")?;
        }
    }

    fn primary(&mut self, depth: usize) -> Result<(WeightExpr, usize), ParseWeightError> {
        let at = self.rest.trim_start();
        match self.word() {
            "w" => {
                let name = self.quoted()?;
                Ok((WeightExpr::Tensor((self.name)(&name)), 1))
            }
            "fill" => {
                self.expect("(")?;
                let value = self.number()?;
                self.expect(",")?;
                self.expect("[")?;
                let shape = self.numbers()?;
                self.expect("]")?;
                self.expect(")")?;
                Ok((WeightExpr::Fill { value, shape }, 1))
            }
            word @ ("concat" | "stack" | "weight_norm") => {
                self.expect("(")?;
                let axis = self.number()?;
                let (mut parts, mut height) = (Vec::new(), 0);
                while self.eat(",") {
                    let (part, part_height) = self.expr(depth + 1)?;
                    parts.push(part);
                    height = part_height.max(height);
                }
                self.expect(")")?;
                let expr = match word {
                    "concat" => WeightExpr::Concat { axis, parts },
                    "stack" => WeightExpr::Stack { axis, parts },
                    _ => match <[WeightExpr; 2]>::try_from(parts) {
                        Ok(parts) => WeightExpr::WeightNorm { axis, parts: Box::new(parts) },
                        Err(_) => return Err(error("a gain and a direction", at)),
                    },
                };
                Ok((expr, height + 1))
            }
            "rope" => Ok((WeightExpr::Rope(self.rope()?), 1)),
            _ => Err(error("w\"…\", fill, rope, concat, stack or weight_norm", at)),
        }
    }

    fn rope(&mut self) -> Result<RopeTable, ParseWeightError> {
        self.expect("(")?;
        let at = self.rest;
        let part = match self.word() {
            "cos" => RopePart::Cos,
            "sin" => RopePart::Sin,
            _ => return Err(error("cos or sin", at)),
        };
        self.expect(",")?;
        let at = self.rest;
        let kind = self.word();
        let base = self.field("base")?;
        let width = self.field("width")?;
        let positions = self.field("positions")?;
        let reach = self.field("reach")?;
        let kind = match kind {
            "default" => RopeKind::Default,
            "linear" => RopeKind::Linear { factor: self.field("factor")? },
            "dynamic" => RopeKind::Dynamic { factor: self.field("factor")?, original: self.field("original")? },
            "llama3" => RopeKind::Llama3 {
                factor: self.field("factor")?,
                low_freq_factor: self.field("low")?,
                high_freq_factor: self.field("high")?,
                original: self.field("original")?,
            },
            "yarn" => RopeKind::Yarn {
                factor: self.field("factor")?,
                beta_fast: self.field("beta_fast")?,
                beta_slow: self.field("beta_slow")?,
                original: self.field("original")?,
                truncate: self.field::<u8>("truncate")? != 0,
                attention_factor: self.field("attention_factor")?,
            },
            "longrope" => RopeKind::LongRope {
                short: self.list_field("short")?,
                long: self.list_field("long")?,
                original: self.field("original")?,
                attention_factor: self.field("attention_factor")?,
            },
            _ => return Err(error("a rope kind", at)),
        };
        self.expect(")")?;
        Ok(RopeTable { part, kind, base, width, positions, reach })
    }

    fn field<T: std::str::FromStr>(&mut self, key: &str) -> Result<T, ParseWeightError> {
        self.expect(",")?;
        self.expect(key)?;
        self.expect("=")?;
        self.number()
    }

    fn list_field(&mut self, key: &str) -> Result<Vec<f32>, ParseWeightError> {
        self.expect(",")?;
        self.expect(key)?;
        self.expect("=")?;
        self.expect("[")?;
        let numbers = self.numbers()?;
        self.expect("]")?;
        Ok(numbers)
    }

    fn numbers<T: std::str::FromStr>(&mut self) -> Result<Vec<T>, ParseWeightError> {
        let mut numbers = Vec::new();
        if matches!(self.rest.trim_start().chars().next(), Some(']' | ')')) {
            return Ok(numbers);
        }
        numbers.push(self.number()?);
        while self.eat(",") {
            numbers.push(self.number()?);
        }
        Ok(numbers)
    }

    fn next_number<T: std::str::FromStr>(&mut self) -> Result<T, ParseWeightError> {
        self.expect(",")?;
        self.number()
    }

    fn number<T: std::str::FromStr>(&mut self) -> Result<T, ParseWeightError> {
        let rest = self.rest.trim_start();
        let mut end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c))).unwrap_or(rest.len());
        // `0..12` is a range, not a number with dots.
        if let Some(dots) = rest[..end].find("..") {
            end = dots;
        }
        let value = rest[..end].parse().map_err(|_| error("a number", rest))?;
        self.rest = &rest[end..];
        Ok(value)
    }

    fn quoted(&mut self) -> Result<String, ParseWeightError> {
        let at = self.rest;
        let mut chars = at.char_indices();
        if !matches!(chars.next(), Some((_, '"'))) {
            return Err(error("a quoted name", at));
        }
        let mut name = String::new();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &at[i + 1..];
                    return Ok(name);
                }
                '\\' => match chars.next() {
                    Some((_, c @ ('"' | '\\' | '\''))) => name.push(c),
                    Some((_, 'n')) => name.push('\n'),
                    Some((_, 't')) => name.push('\t'),
                    Some((_, 'r')) => name.push('\r'),
                    Some((_, '0')) => name.push('\0'),
                    Some((_, 'u')) => {
                        // `{:?}` writes other unprintable characters as \u{hex}.
                        let digits: String = chars.by_ref().skip(1).map(|(_, c)| c).take_while(|&c| c != '}').collect();
                        let c = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
                        name.push(c.ok_or_else(|| error("a character code", at))?);
                    }
                    _ => return Err(error("an escape", at)),
                },
                c => name.push(c),
            }
        }
        Err(error("a closing quote", at))
    }

    fn word(&mut self) -> &'t str {
        let rest = self.rest.trim_start();
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        self.rest = &rest[end..];
        &rest[..end]
    }

    fn eat(&mut self, token: &str) -> bool {
        match self.rest.trim_start().strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str) -> Result<(), ParseWeightError> {
        if self.eat(token) { Ok(()) } else { Err(error(&format!("`{token}`"), self.rest.trim_start())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_and_steps_share_one_limit() {
        let steps = ".reshape(1)".repeat(MAX_DEPTH - 1);
        assert!(WeightExpr::parse(&format!("w\"a\"{steps}")).is_ok());
        assert!(WeightExpr::parse(&format!("concat(0, w\"a\"{steps})")).is_err());
        assert!(WeightExpr::parse(&format!("{}w\"a\"{}", "stack(0, ".repeat(999), ")".repeat(999))).is_err());
    }
}
