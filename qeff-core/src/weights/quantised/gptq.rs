//! GPTQ as AutoGPTQ and GPTQModel store it: the matrix `[in, out]`, packed along the inputs.
//!
//! With act-order (`desc_act`) a group is not a run of inputs, and `g_idx` says to which group an input belongs. The first
//! version of the format stores zero points less one, wrapping at zero; the second stores them as they are.

use qeff_plugin_api::DType;
use qeff_plugin_api::config::{Config, ConfigError};

use super::coded::{Coded, Order};
use super::codes::{Codes, Layout, Packing};
use super::error::QuantisedError;
use super::fields::{group_size, inert};
use super::grid::{Groups, Scales, ZeroAxis, Zeros};
use super::numbers::Numbers;
use super::part::Stored;
use super::shelf::Shelf;

/// Endings of the stored parts.
pub(super) const PARTS: &[&str] = &[".qweight", ".qzeros", ".scales", ".g_idx"];

/// Fields about kernels and about how the file was made. Whether a matrix is symmetric shows in its zero points, which are
/// always stored; which modules are quantised shows in what is stored for them.
const INERT: &[&str] = &[
    "backend",
    "batch_size",
    "block_name_to_quantize",
    "cache_block_outputs",
    "damp_percent",
    "dataset",
    "disable_exllama",
    "exllama_config",
    "lm_head",
    "max_input_length",
    "meta",
    "model_file_base_name",
    "model_name_or_path",
    "model_seqlen",
    "module_name_preceding_first_block",
    "modules_in_block_to_quantize",
    "pad_token_id",
    "static_groups",
    "sym",
    "tokenizer",
    "true_sequential",
    "use_cuda_fp16",
    "use_exllama",
];

const WORDS: &[Stored] = &[Stored::Plain(DType::I32)];

#[derive(Debug, Clone, Copy)]
pub(super) struct Gptq {
    bits: u32,
    /// Inputs of a group; `None` for all of them.
    group: Option<u64>,
    /// Whether a group may be any set of inputs.
    act_order: bool,
    /// What zero points are stored less.
    less: u8,
}

impl Gptq {
    pub(super) fn read(config: &Config) -> Result<Self, ConfigError> {
        let bits = match config.opt_u64("bits")? {
            Some(bits @ (2 | 3 | 4 | 8)) => bits as u32,
            _ => return Err(config.unsupported("bits", "2, 3, 4 or 8")),
        };
        let field = if config.has("checkpoint_format") { "checkpoint_format" } else { "format" };
        let mut less = None;
        // Newer files have both fields, which have to say the same.
        for field in [field, "format"] {
            let version = match config.opt_text(field)?.map(|text| text.to_lowercase()).as_deref() {
                None if field == "format" => continue,
                None | Some("gptq") => 1,
                Some("gptq_v2") => 0,
                _ => return Err(config.unsupported(field, "gptq or gptq_v2")),
            };
            if less.is_some_and(|less| less != version) {
                return Err(config.unsupported(field, "what `checkpoint_format` says"));
            }
            less = Some(version);
        }
        for (field, only) in [("method", "gptq"), ("pack_dtype", "int32")] {
            if config.opt_text(field)?.is_some_and(|found| found != only) {
                return Err(config.unsupported(field, only));
            }
        }
        if config.flag_or("is_marlin_format", false)? {
            return Err(config.unsupported("is_marlin_format", false));
        }
        config.refuse("adapter", "none")?;
        config.refuse("rotation", "none")?;
        if let Some(dynamic) = config.opt_object("dynamic")? {
            // A key of this beginning names modules that are not quantised; others change bits or groups of some.
            if let Some(rule) = dynamic.keys().find(|rule| !rule.starts_with("-:")) {
                return Err(dynamic.unsupported(rule, "only rules that begin with `-:`: one width and group for all"));
            }
            inert(config, &["dynamic"]);
        }
        inert(config, INERT);
        Ok(Gptq {
            bits,
            group: group_size(config, "group_size")?,
            act_order: config.flag_or("desc_act", false)?,
            less: less.unwrap_or(1),
        })
    }

    pub(super) fn describe(&self) -> String {
        format!("gptq, {} bits{}", self.bits, if self.act_order { ", act-order" } else { "" })
    }

    pub(super) fn assemble(&self, shelf: &mut Shelf<'_>) -> Result<(), QuantisedError> {
        let packing = Packing::Dense { bits: self.bits };
        for module in shelf.modules(".qweight") {
            let Some(codes) = shelf.opt(&module, ".qweight") else { continue };
            let codes = codes.typed(WORDS)?.ranked(2)?;
            let zeros = shelf.take(&module, ".qzeros", &codes)?.typed(WORDS)?;
            let scales = shelf.take(&module, ".scales", &codes)?.float()?;
            let listed = match self.act_order {
                true => Some(shelf.take(&module, ".g_idx", &codes)?),
                false => shelf.opt(&module, ".g_idx"),
            };
            let (lines, rows) = (codes.shape[0], codes.shape[1]);
            let columns = match &listed {
                Some(listed) => listed.count(),
                None => lines * 32 / u64::from(self.bits),
            };
            if packing.words(columns) != lines {
                let expected = format!("{} lines of words, for {columns} inputs", packing.words(columns));
                return Err(codes.refuse(expected, format!("{lines}")));
            }
            let group = self.group.unwrap_or(columns);
            let count = columns.div_ceil(group);
            let groups = match listed {
                Some(listed) => Groups::listed(listed.ranked(1)?, group, count)?,
                None => Groups::Runs(group),
            };
            let words = packing.words(rows);
            let why = format!("groups of {group} of {columns} inputs, and {rows} outputs");
            let coded = Coded {
                scheme: "gptq",
                codes: Codes { part: codes, layout: Layout::Columns(packing), rows, columns },
                numbers: Numbers::Unsigned,
                scales: Scales::Groups { part: scales.shaped(&[count, rows], &why)?, rows },
                zeros: Zeros::Packed {
                    part: zeros.shaped(&[count, words], &why)?,
                    packing,
                    axis: ZeroAxis::Groups(words),
                    plus: self.less,
                },
                groups,
                group_count: count,
                order: Order::Rows,
            };
            shelf.put(format!("{module}.weight"), vec![rows, columns], coded)?;
        }
        Ok(())
    }
}
