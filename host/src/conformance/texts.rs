//! What a model makes of whole texts on the CPU, asked for in ways that must not matter.

use anyhow::{Context as _, Result, ensure};
use qeff_core::weights::Checkpoint as Weights;
use qeff_plugin_api::graph::{Dim, Model, Program, Role};

use super::running::{self, LENGTHS};
use crate::encode::ready::{self, CpuOptions};
use crate::encode::{Encoded, Encoder};
use crate::engines::{self, Choice};
use crate::forms::WeightForms;
use crate::text::Framed;

/// The ids that texts are made of.
#[derive(Clone, Copy)]
pub(super) struct Ids {
    /// They are below this.
    pub(super) vocab: u64,
    /// The one that fills a text up, of which no text is made.
    pub(super) padding: u32,
}

/// The first input that no text fills.
pub(super) fn not_of_a_text(model: &Model) -> Option<&str> {
    let inputs = model.programs.first()?.inputs.iter();
    let mut others = inputs.filter(|input| !matches!(input.role, Role::Tokens | Role::Mask | Role::Segments));
    others.next().map(|input| input.name.as_str())
}

/// Encodes texts alone, once more, and together: an answer has its declared width and finite numbers, is the same bit for bit
/// when it is asked for again, and does not depend on what is beside a text. In words, how well they agree.
pub(super) fn agree(model: &Model, weights: &Weights, ids: Ids) -> Result<String> {
    let longest = model.positions.map_or(usize::MAX, |limit| usize::try_from(limit.trained).unwrap_or(usize::MAX));
    let mut next = running::ids(ids.vocab.saturating_sub(2).max(1));
    let mut id = || Some(next() + 2).filter(|&id| id != ids.padding).unwrap_or(0);
    let texts = LENGTHS.map(|length| {
        let ids: Vec<u32> = (0..length.min(longest)).map(|_| id()).collect();
        Framed { segments: vec![0; ids.len()], whole: ids.len(), ids }
    });
    let engine = engines::select(Choice::Rten, None)?.engine;
    let longest = texts.iter().map(|text| text.ids.len()).max().unwrap_or(0);
    let how = CpuOptions { engine: &*engine, longest, rows: None, padding: ids.padding, forms: WeightForms::default() };
    let mut encoder = ready::cpu(model.clone(), weights, how)?.encoder;
    let alone = one_by_one(&mut encoder, &texts)?;
    let declared = model.programs.first().and_then(width);
    for (i, encoded) in alone.iter().enumerate() {
        ensure!(encoded.numbers.iter().all(|x| x.is_finite()), "text {i}: numbers are not finite");
        if let Some(declared) = declared {
            ensure!(encoded.width as u64 == declared, "text {i}: {} numbers, {declared} declared", encoded.width);
        }
    }
    ensure!(alone == one_by_one(&mut encoder, &texts)?, "asked again, it computes something else");
    let together = encoder.encode(&texts, &|_| {})?.0;
    let mut worst = 0f32;
    for (i, (one, other)) in alone.iter().zip(&together).enumerate() {
        let difference = running::apart(&one.numbers, &other.numbers);
        ensure!(
            one.numbers.len() == other.numbers.len() && difference <= running::TOLERANCE,
            "text {i} beside others is not what it is alone: numbers differ by {difference:.1e} of the largest"
        );
        worst = worst.max(difference);
    }
    let width = alone.first().context("nothing was encoded")?.width;
    Ok(format!(
        "{} texts alone, again, and together: {width} numbers agree within {worst:.0e} of the largest",
        texts.len()
    ))
}

fn one_by_one(encoder: &mut Encoder, texts: &[Framed]) -> Result<Vec<Encoded>> {
    texts.iter().map(|text| Ok(encoder.encode(std::slice::from_ref(text), &|_| {})?.0.remove(0))).collect()
}

/// Numbers in a vector, as the model says.
fn width(program: &Program) -> Option<u64> {
    let output = [Role::Pooled, Role::Classes, Role::Hidden].into_iter().find_map(|role| program.output(role))?;
    program.ty(output.value).last().and_then(Dim::fixed)
}
