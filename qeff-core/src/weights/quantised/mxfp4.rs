//! MXFP4 as gpt-oss has it: experts in blocks of 32 numbers of four bits with a power of two.
//!
//! `X_blocks` is `[experts, out, blocks, 16]` and `X_scales` `[experts, out, blocks]`. The logical `X` is what transformers
//! makes of them: `[experts, in, out]`.

use qeff_plugin_api::DType;
use qeff_plugin_api::config::{Config, ConfigError};

use super::coded::{Coded, Order};
use super::codes::{Codes, Layout};
use super::error::QuantisedError;
use super::fields::inert;
use super::grid::{Groups, Scales, Zeros};
use super::numbers::{Float8, Numbers};
use super::part::Stored;
use super::shelf::Shelf;

/// Endings of the stored parts.
pub(super) const PARTS: &[&str] = &["_blocks", "_scales"];

/// Numbers of a block.
const BLOCK: u64 = 32;

const BYTES: &[Stored] = &[Stored::Plain(DType::U8)];

#[derive(Debug, Clone, Copy)]
pub(super) struct Mxfp4;

impl Mxfp4 {
    pub(super) fn read(config: &Config) -> Result<Self, ConfigError> {
        // Which modules are quantised shows in what is stored for them; `dequantize` chooses a kernel.
        inert(config, &["modules_to_not_convert", "dequantize"]);
        Ok(Mxfp4)
    }

    pub(super) fn describe(&self) -> String {
        "mxfp4".into()
    }

    pub(super) fn assemble(&self, shelf: &mut Shelf<'_>) -> Result<(), QuantisedError> {
        for name in shelf.modules("_blocks") {
            let Some(codes) = shelf.opt(&name, "_blocks") else { continue };
            let codes = codes.typed(BYTES)?.ranked(4)?;
            let [experts, rows, blocks, bytes] = codes.shape[..] else { continue };
            if bytes != BLOCK / 2 {
                return Err(codes.refuse(format!("{} bytes to a block", BLOCK / 2), format!("shape {:?}", codes.shape)));
            }
            let scales = shelf.take(&name, "_scales", &codes)?.typed(BYTES)?;
            let mut scales = scales.shaped(&[experts, rows, blocks], "a scale for each block")?;
            scales.stored = Stored::Float8(Float8::E8M0);
            let columns = blocks * BLOCK;
            let coded = Coded {
                scheme: "mxfp4",
                codes: Codes { part: codes, layout: Layout::Halves, rows: experts * rows, columns },
                numbers: Numbers::E2M1,
                scales: Scales::Rows { part: scales, step: 1, width: blocks },
                zeros: Zeros::Fixed(0.0),
                groups: Groups::Runs(BLOCK),
                group_count: blocks,
                order: Order::Transposed(rows),
            };
            shelf.put(name, vec![experts, columns, rows], coded)?;
        }
        Ok(())
    }
}
