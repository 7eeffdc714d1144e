//! compressed-tensors: groups of modules, each with a width, a kind of number and a grid of scales.
//!
//! `int-quantized`, `float-quantized` and `naive-quantized` keep a byte a weight beside `weight_scale`; `pack-quantized`
//! keeps words in `weight_packed`, with the shape of the weight in a tensor. Packed codes and zero points are stored above
//! their lowest value, so the difference of the two is what it was.

use qeff_plugin_api::DType;
use qeff_plugin_api::config::{Config, ConfigError};
use regex::Regex;

use super::coded::Coded;
use super::codes::{Codes, Layout, Packing};
use super::error::QuantisedError;
use super::fields::inert;
use super::fp8::sides;
use super::grid::{Groups, ZeroAxis, Zeros};
use super::numbers::{Float8, Numbers};
use super::part::{Part, Stored};
use super::shelf::Shelf;

/// What the scheme is called.
const SCHEME: &str = "compressed-tensors";

/// Endings of the stored parts, beside the weight itself.
pub(super) const PARTS: &[&str] = &[
    ".weight_packed",
    ".weight_scale",
    ".weight_shape",
    ".weight_zero_point",
    ".weight_g_idx",
    ".weight_global_scale",
];

/// Fields of a group about activations, which are computed as they are.
pub(super) const ACTIVATIONS: &[&str] = &["input_activations", "output_activations"];

/// Formats that can be read.
const FORMATS: &str = "pack-quantized, int-quantized, float-quantized or naive-quantized";

/// Longest program that a pattern may become, in bytes.
const MAX_PATTERN: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Compressed {
    groups: Vec<Group>,
    ignored: Vec<Pattern>,
}

/// How the modules of a group are quantised.
#[derive(Debug)]
struct Group {
    targets: Vec<Pattern>,
    form: Form,
}

#[derive(Debug, Clone, Copy)]
struct Form {
    packed: bool,
    bits: u32,
    float: bool,
    symmetric: bool,
    strategy: Strategy,
}

/// How many weights share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strategy {
    Tensor,
    /// An output.
    Channel,
    /// So many inputs of an output.
    Group(u64),
    /// A block of rows and columns.
    Block([u64; 2]),
}

/// Modules by name, by the beginning of a name, or all of them: `Linear` is the class of whatever is quantised here.
#[derive(Debug)]
enum Pattern {
    Name(String),
    Begins(Regex, String),
    Linear,
}

impl Pattern {
    fn read(config: &Config, key: &str) -> Result<Vec<Self>, ConfigError> {
        let pattern = |text: String| match text.strip_prefix("re:") {
            None if text == "Linear" => Ok(Pattern::Linear),
            None => Ok(Pattern::Name(text)),
            Some(pattern) => regex::RegexBuilder::new(&format!("^(?:{pattern})"))
                .size_limit(MAX_PATTERN)
                .build()
                .map_err(|_| config.unsupported(key, format!("patterns without look-around; `{text}` cannot be read")))
                .map(|regex| Pattern::Begins(regex, pattern.to_owned())),
        };
        config.texts(key)?.into_iter().map(pattern).collect()
    }

    fn matches(&self, module: &str) -> bool {
        match self {
            Pattern::Name(name) => name == module,
            Pattern::Begins(pattern, _) => pattern.is_match(module),
            Pattern::Linear => true,
        }
    }

    /// Which of two patterns that match decides, the lesser one: names before beginnings before classes, and of two of a
    /// kind the first in the order of the alphabet.
    fn rank(&self) -> (u8, &str) {
        match self {
            Pattern::Name(name) => (0, name),
            Pattern::Begins(_, pattern) => (1, pattern),
            Pattern::Linear => (2, ""),
        }
    }
}

impl Compressed {
    pub(super) fn read(config: &Config) -> Result<Self, ConfigError> {
        inert(config, &["global_compression_ratio", "run_compressed", "version"]);
        if let Some(sparsity) = config.opt_object("sparsity_config")?
            && sparsity.opt_text("format")?.is_some_and(|format| format != "dense")
        {
            return Err(sparsity.unsupported("format", "dense"));
        }
        inert(config, &["sparsity_config"]);
        config.refuse("transform_config", "none: weights that were rotated need rotated activations")?;
        if config
            .opt_text("quantization_status")?
            .is_some_and(|status| !["compressed", "frozen"].contains(&status.as_str()))
        {
            return Err(config.unsupported("quantization_status", "compressed"));
        }
        let Some(stored) = config.opt_object("config_groups")? else {
            return Err(config.unsupported("config_groups", "groups of modules"));
        };
        let mut groups = vec![];
        for name in stored.keys().map(str::to_owned).collect::<Vec<_>>() {
            let Some(group) = stored.opt_object(&name)? else { continue };
            inert(&group, ACTIVATIONS);
            let format = if group.has("format") { (&group, "format") } else { (config, "format") };
            if let Some(weights) = group.opt_object("weights")? {
                groups.push(Group { targets: Pattern::read(&group, "targets")?, form: Form::read(&weights, format)? });
            }
        }
        // Of no use where every group has a format of its own.
        inert(config, &["format"]);
        Ok(Compressed { groups, ignored: Pattern::read(config, "ignore")? })
    }

    pub(super) fn describe(&self) -> String {
        let mut forms: Vec<_> = self.groups.iter().map(|group| group.form.describe()).collect();
        forms.dedup();
        format!("compressed-tensors, {}", forms.join(" and "))
    }

    pub(super) fn assemble(&self, shelf: &mut Shelf<'_>) -> Result<(), QuantisedError> {
        for module in shelf.modules(".weight_scale") {
            let Some(scale) = shelf.opt(&module, ".weight_scale") else { continue };
            let Some(form) = self.form_of(&module) else {
                let why = "no scale: `ignore` or `config_groups` says that this module is not quantised";
                return Err(scale.refuse(why.into(), "one".into()));
            };
            let coded = match form.packed {
                true => form.packed(shelf, &module, scale.float()?)?,
                false => form.bytes(shelf, &module, scale.float()?)?,
            };
            let shape = vec![coded.codes.rows, coded.codes.columns];
            shelf.put(format!("{module}.weight"), shape, coded)?;
        }
        Ok(())
    }

    /// How a module is quantised; `None` if it is not.
    fn form_of(&self, module: &str) -> Option<Form> {
        if self.ignored.iter().any(|pattern| pattern.matches(module)) {
            return None;
        }
        // Of two equal targets the later one counts.
        let groups = self.groups.iter().rev();
        let targets = groups.flat_map(|group| group.targets.iter().map(move |target| (target, group.form)));
        let matching = targets.filter(|(target, _)| target.matches(module));
        matching.min_by_key(|(target, _)| target.rank()).map(|(_, form)| form)
    }
}

#[cfg(test)]
impl Compressed {
    /// Bits of a module's weight, if it is quantised.
    pub(super) fn bits_of(&self, module: &str) -> Option<u32> {
        self.form_of(module).map(|form| form.bits)
    }
}

impl Form {
    /// Reads the `weights` of a group; `format` is where the group's format stands.
    fn read(weights: &Config, (holder, key): (&Config, &str)) -> Result<Self, ConfigError> {
        let packed = match holder.opt_text(key)?.as_deref() {
            Some("pack-quantized") => true,
            Some("int-quantized" | "float-quantized" | "naive-quantized") => false,
            _ => return Err(holder.unsupported(key, FORMATS)),
        };
        let bits = weights.opt_u64("num_bits")?.unwrap_or(8);
        let float = match weights.opt_text("type")?.as_deref() {
            None | Some("int") => false,
            Some("float") => true,
            _ => return Err(weights.unsupported("type", "int or float")),
        };
        if float && packed {
            return Err(weights.unsupported("type", "int: floats are not packed"));
        }
        if !(1..=8).contains(&bits) || float && bits != 8 {
            return Err(weights.unsupported("num_bits", if float { "8" } else { "1 to 8" }));
        }
        if weights.mentions("dynamic") && weights.flag_or("dynamic", false).unwrap_or(true) {
            return Err(weights.unsupported("dynamic", false));
        }
        let symmetric = weights.flag_or("symmetric", true)?;
        if float && !symmetric {
            return Err(weights.unsupported("symmetric", true));
        }
        // Act-order shows in the tensor of group numbers.
        inert(weights, &["actorder", "observer", "observer_kwargs", "scale_dtype", "zp_dtype"]);
        let group = weights.opt_i64("group_size")?.filter(|&size| size != -1);
        let named = weights.opt_text("strategy")?;
        let strategy = match (named.as_deref(), group) {
            (None | Some("group"), Some(size @ 1..)) => Strategy::Group(size.unsigned_abs()),
            (Some("tensor"), None) => Strategy::Tensor,
            (None, None) if weights.opt_i64("group_size")?.is_none() => Strategy::Tensor,
            (None | Some("channel"), None) => Strategy::Channel,
            (Some("block"), None) => Strategy::Block(sides(weights, "block_structure")?),
            (Some("group" | "tensor" | "channel" | "block"), Some(_)) => {
                return Err(weights.unsupported("group_size", "a size above 0 with strategy `group`, else none"));
            }
            _ => return Err(weights.unsupported("strategy", "tensor, channel, block, or group with a size")),
        };
        Ok(Form { packed, bits: bits as u32, float, symmetric, strategy })
    }

    fn describe(self) -> String {
        format!("{} of {} bits", if self.float { "floats" } else { "integers" }, self.bits)
    }

    /// A weight of a byte an element.
    fn bytes(self, shelf: &mut Shelf<'_>, module: &str, scale: Part) -> Result<Coded, QuantisedError> {
        let codes = shelf.take(module, ".weight", &scale)?;
        let (numbers, stored) = match self.float {
            true => (Numbers::Float(Float8::E4M3), Stored::Float8(Float8::E4M3)),
            false => (Numbers::Signed, Stored::Plain(DType::I8)),
        };
        let codes = codes.typed(&[stored])?.ranked(2)?;
        let scale = self.check_scale(scale, codes.shape[0], codes.shape[1])?;
        let mut coded = Coded::scaled(SCHEME, Codes::bytes(codes)?, numbers, scale, self.block())?;
        if self.float {
            return Ok(coded);
        }
        coded.zeros = self.signed_zeros(shelf, module, &coded, 0.0)?;
        self.list_groups(shelf, module, coded)
    }

    /// A weight in words.
    fn packed(self, shelf: &mut Shelf<'_>, module: &str, scale: Part) -> Result<Coded, QuantisedError> {
        let codes = shelf.take(module, ".weight_packed", &scale)?;
        let codes = codes.typed(&[Stored::Plain(DType::I32)])?.ranked(2)?;
        let shape = shelf.take(module, ".weight_shape", &codes)?;
        let shape =
            shape.typed(&[Stored::Plain(DType::I64), Stored::Plain(DType::I32)])?.shaped(&[2], "rows and columns")?;
        let sizes = shape.integers()?;
        let packing = Packing::Whole { bits: self.bits };
        let (rows, columns) = match sizes[..] {
            [rows, columns] if rows > 0 && columns > 0 => (rows.unsigned_abs(), columns.unsigned_abs()),
            _ => return Err(shape.refuse("numbers above 0".into(), format!("{sizes:?}"))),
        };
        if codes.shape != [rows, packing.words(columns)] {
            return Err(shape.refuse(format!("what takes words of shape {:?}", codes.shape), format!("{sizes:?}")));
        }
        let scale = self.check_scale(scale, rows, columns)?;
        let codes = Codes { part: codes, layout: Layout::Rows(packing), rows, columns };
        let mut coded = Coded::scaled(SCHEME, codes, Numbers::Unsigned, scale, self.block())?;
        let middle = (1u32 << (self.bits - 1)) as f32;
        coded.zeros = match self.strategy {
            Strategy::Channel | Strategy::Group(_) if !self.symmetric => {
                let zeros = shelf.take(module, ".weight_zero_point", &coded.codes.part)?;
                let width = coded.group_count;
                let why = format!("for {rows} rows and {width} groups");
                let zeros = zeros.typed(&[Stored::Plain(DType::I32)])?.shaped(&[packing.words(rows), width], why)?;
                Zeros::Packed { part: zeros, packing, axis: ZeroAxis::Words(width), plus: 0 }
            }
            _ => self.signed_zeros(shelf, module, &coded, middle)?,
        };
        self.list_groups(shelf, module, coded)
    }

    /// Zero points of a byte each, on the grid of the scales; a symmetric weight may lack them.
    fn signed_zeros(
        self,
        shelf: &mut Shelf<'_>,
        module: &str,
        coded: &Coded,
        base: f32,
    ) -> Result<Zeros, QuantisedError> {
        let zeros = match self.symmetric {
            true => shelf.opt(module, ".weight_zero_point"),
            false => Some(shelf.take(module, ".weight_zero_point", &coded.codes.part)?),
        };
        let Some(zeros) = zeros else { return Ok(Zeros::Fixed(base)) };
        let zeros = zeros.typed(&[Stored::Plain(DType::I8)])?;
        if zeros.count() == 1 {
            return Ok(Zeros::Signed { part: zeros, width: 0, base });
        }
        if let Strategy::Block(_) = self.strategy {
            return Err(zeros.refuse("none with strategy `block`".into(), format!("shape {:?}", zeros.shape)));
        }
        let width = coded.group_count;
        let part = zeros.shaped(&[coded.codes.rows, width], "a zero point for each scale")?;
        Ok(Zeros::Signed { part, width, base })
    }

    /// The tensor that assigns inputs to groups, if there is one: −1 in it means that it was never filled.
    fn list_groups(self, shelf: &mut Shelf<'_>, module: &str, mut coded: Coded) -> Result<Coded, QuantisedError> {
        if let Some(listed) = shelf.opt(module, ".weight_g_idx") {
            let listed = listed.typed(&[Stored::Plain(DType::I32)])?;
            let listed = listed.shaped(&[coded.codes.columns], "a group for each input")?;
            if let (Groups::Runs(size), false) = (&coded.groups, listed.integers()?.contains(&-1)) {
                coded.groups = Groups::listed(listed, *size, coded.group_count)?;
            }
        }
        Ok(coded)
    }

    fn block(self) -> Option<[u64; 2]> {
        match self.strategy {
            Strategy::Tensor | Strategy::Channel => None,
            Strategy::Group(size) => Some([1, size]),
            Strategy::Block(sides) => Some(sides),
        }
    }

    /// Refuses scales on another grid than the config says.
    fn check_scale(self, scale: Part, rows: u64, columns: u64) -> Result<Part, QuantisedError> {
        let expected = match self.strategy {
            Strategy::Tensor if scale.count() == 1 => return Ok(scale),
            Strategy::Channel if scale.shape == [rows] => return Ok(scale),
            Strategy::Tensor => vec![1],
            Strategy::Channel => vec![rows, 1],
            Strategy::Group(size) => vec![rows, columns.div_ceil(size)],
            Strategy::Block([tall, wide]) => vec![rows.div_ceil(tall), columns.div_ceil(wide)],
        };
        scale.shaped(&expected, format!("for a weight of {rows} by {columns}"))
    }
}
