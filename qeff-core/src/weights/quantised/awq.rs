//! AWQ as AutoAWQ stores it: four bits, a zero point and a scale for each group of inputs.
//!
//! Two layouts are about. `gemm` keeps the matrix `[in, out]`, eight outputs to a word in an order that suits its kernel;
//! the kernels `exllama` and `ipex` read the same files. `gemv` keeps it `[out, in]`, with zero points and scales padded
//! to whole words.

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
pub(super) const PARTS: &[&str] = &[".qweight", ".qzeros", ".scales"];

/// Fields about kernels and about how the file was made.
const INERT: &[&str] = &["do_fuse", "exllama_config", "fuse_max_seq_len", "modules_to_fuse"];

const WORDS: &[Stored] = &[Stored::Plain(DType::I32)];

#[derive(Debug, Clone, Copy)]
pub(super) struct Awq {
    /// Inputs of a group; `None` for all of them.
    group: Option<u64>,
    version: Version,
}

#[derive(Debug, Clone, Copy)]
enum Version {
    Gemm,
    Gemv,
}

impl Awq {
    pub(super) fn read(config: &Config) -> Result<Self, ConfigError> {
        // Older files call the fields by other names.
        let name = |new, old| if config.has(new) { new } else { old };
        let bits = name("bits", "w_bit");
        if config.opt_u64(bits)?.is_some_and(|bits| bits != 4) {
            return Err(config.unsupported(bits, 4));
        }
        if !config.flag_or("zero_point", true)? {
            return Err(config.unsupported("zero_point", true));
        }
        let version = match config.opt_text("version")?.map(|text| text.to_lowercase()).as_deref() {
            None | Some("gemm" | "exllama" | "ipex") => Version::Gemm,
            Some("gemv") => Version::Gemv,
            _ => return Err(config.unsupported("version", "gemm, gemv, exllama or ipex")),
        };
        if config.opt_text("backend")?.is_some_and(|backend| backend != "autoawq") {
            return Err(config.unsupported("backend", "autoawq"));
        }
        // Which modules are quantised shows in what is stored for them.
        inert(config, &["modules_to_not_convert"]);
        inert(config, INERT);
        Ok(Awq { group: group_size(config, name("group_size", "q_group_size"))?, version })
    }

    pub(super) fn describe(&self) -> String {
        "awq, 4 bits".into()
    }

    pub(super) fn assemble(&self, shelf: &mut Shelf<'_>) -> Result<(), QuantisedError> {
        for module in shelf.modules(".qweight") {
            let Some(codes) = shelf.opt(&module, ".qweight") else { continue };
            let codes = codes.typed(WORDS)?.ranked(2)?;
            let zeros = shelf.take(&module, ".qzeros", &codes)?.typed(WORDS)?;
            let scales = shelf.take(&module, ".scales", &codes)?.float()?;
            let coded = match self.version {
                Version::Gemm => {
                    let (columns, words) = (codes.shape[0], codes.shape[1]);
                    let rows = words * 8;
                    let group = self.group.unwrap_or(columns);
                    let count = columns.div_ceil(group);
                    let why = format!("groups of {group} of {columns} inputs, and {rows} outputs");
                    Coded {
                        scheme: "awq",
                        codes: Codes { part: codes, layout: Layout::Across(Packing::Awq), rows, columns },
                        numbers: Numbers::Unsigned,
                        scales: Scales::Groups { part: scales.shaped(&[count, rows], &why)?, rows },
                        zeros: Zeros::Packed {
                            part: zeros.shaped(&[count, words], &why)?,
                            packing: Packing::Awq,
                            axis: ZeroAxis::Groups(words),
                            plus: 0,
                        },
                        groups: Groups::Runs(group),
                        group_count: count,
                        order: Order::Rows,
                    }
                }
                Version::Gemv => {
                    let packing = Packing::Whole { bits: 4 };
                    let (rows, columns) = (codes.shape[0], codes.shape[1] * 8);
                    let group = self.group.unwrap_or(columns);
                    let count = columns.div_ceil(group);
                    // Padded so that a kernel reads 128 bits at a time.
                    let multiple = if group >= 128 { 1 } else { 128 / group.max(32) };
                    let width = packing.words(count).next_multiple_of(multiple);
                    let why = format!("{rows} outputs, and groups of {group} of {columns} inputs, padded");
                    Coded {
                        scheme: "awq",
                        codes: Codes { part: codes, layout: Layout::Rows(packing), rows, columns },
                        numbers: Numbers::Unsigned,
                        scales: Scales::Rows {
                            part: scales.shaped(&[rows, width * 8], &why)?,
                            step: 1,
                            width: width * 8,
                        },
                        zeros: Zeros::Packed {
                            part: zeros.shaped(&[rows, width], &why)?,
                            packing,
                            axis: ZeroAxis::Rows(width),
                            plus: 0,
                        },
                        groups: Groups::Runs(group),
                        group_count: count,
                        order: Order::Rows,
                    }
                }
            };
            let shape = vec![coded.codes.rows, coded.codes.columns];
            shelf.put(format!("{module}.weight"), shape, coded)?;
        }
        Ok(())
    }
}
