//! What verbs that listen have in common: where their model is executed, and for which sizes.

use anyhow::{Result, bail};
use qeff_core::lower::Target;

use super::executor::ExecutorArgs;
use super::{forms, on_cards, talk};
use crate::audio::extractor::Samples;
use crate::audio::{Extractor, LogMel};
use crate::checkpoint::Checkpoint;
use crate::compile::Shape;
use crate::describe::Described;
use crate::prepare::{self, CpuPrograms};
use crate::runtime::qaic::QaicProgram;
use crate::speech::called::CalledDecoder;
use crate::speech::cpu::CpuDecoder;
use crate::speech::ctc::Labeller;
use crate::speech::transcribe::check_windows;
use crate::speech::{Decoder, Language, Settings};

/// The language that was typed.
pub(crate) fn language(typed: Option<&str>) -> Language {
    match typed {
        None => Language::Unsaid,
        Some(auto) if auto.eq_ignore_ascii_case("auto") => Language::Auto,
        Some(language) => Language::Given(language.to_owned()),
    }
}

/// The extractor and the settings of a model that writes sentences.
pub(crate) fn of_sentences(checkpoint: &Checkpoint) -> Result<(LogMel, Settings)> {
    let Extractor::LogMel(extractor) = Extractor::open(&checkpoint.dir)? else {
        bail!("preprocessor_config.json: `feature_extractor_type`: expected WhisperFeatureExtractor for this model");
    };
    let settings = Settings::open(checkpoint)?;
    check_windows(&extractor, &settings)?;
    Ok((extractor, settings))
}

/// The extractor of a model that labels frames.
pub(crate) fn of_frames(checkpoint: &Checkpoint) -> Result<Samples> {
    match Extractor::open(&checkpoint.dir)? {
        Extractor::Samples(extractor) => Ok(extractor),
        _ => {
            bail!(
                "preprocessor_config.json: `feature_extractor_type`: expected Wav2Vec2FeatureExtractor for this model"
            )
        }
    }
}

/// Lengths that a program which labels frames is compiled for: padding would change what is heard, so each recording's.
pub(crate) fn lengths(samples: impl IntoIterator<Item = usize>) -> Vec<u64> {
    let mut lengths: Vec<u64> = samples.into_iter().map(|count| count as u64).collect();
    lengths.sort_unstable();
    lengths.dedup();
    lengths
}

/// What executes a model that listens.
pub(crate) enum Executor {
    /// The CPU, by the name of its engine.
    Cpu(&'static str, CpuPrograms),
    /// Cards.
    Cards(QaicProgram),
}

impl Executor {
    /// Loads the programs of a model, and tells of it unless all is to be `quiet`; for cards they are compiled for `shape`.
    pub(crate) fn load(
        args: &ExecutorArgs,
        checkpoint: &Checkpoint,
        described: &Described,
        shape: Shape,
        quiet: bool,
    ) -> Result<Self> {
        talk::warnings(&described.warnings);
        if !quiet {
            talk::notes(&described.notes);
        }
        let (executor, quantised) = if args.on_cards()? {
            let made = on_cards::one(args, shape, described.clone(), checkpoint, &[])?;
            (Executor::Cards(on_cards::open_program(&made.qpc, &made.place, 1)?), made.quantised)
        } else {
            let forms = args.forms(Target::Cpu)?;
            let selected = args.engine(quiet)?;
            let ready = prepare::cpu_programs(&described.model, &checkpoint.weights, &*selected.engine, forms)?;
            let quantised = ready.quantised.clone();
            (Executor::Cpu(selected.engine.name(), ready), quantised)
        };
        if !quiet {
            forms::say(&quantised);
        }
        Ok(executor)
    }

    /// What it is called in metrics.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Executor::Cpu(name, _) => name,
            Executor::Cards(_) => "qaic",
        }
    }

    /// A decoder over the programs.
    pub(crate) fn decoder(self, described: &Described, settings: &Settings) -> Result<Box<dyn Decoder>> {
        Ok(match self {
            Executor::Cpu(_, mut ready) => Box::new(CpuDecoder::new(&mut ready, settings.positions)?),
            Executor::Cards(program) => {
                let main = prepare::main_program(&described.model)?;
                Box::new(CalledDecoder::new(Box::new(program), main, settings.mels)?)
            }
        })
    }

    /// A labeller of frames over the program.
    pub(crate) fn labeller(self, described: &Described) -> Result<Labeller> {
        let main = prepare::main_program(&described.model)?;
        match self {
            Executor::Cpu(_, mut ready) => Labeller::new(ready.take(&main.name)?, main),
            Executor::Cards(program) => Labeller::new(program, main),
        }
    }
}
