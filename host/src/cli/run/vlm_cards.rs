//! Task `vlm` on cards: both programs are compiled for the images of the request, and called one after the other; or they are
//! one program, which is shown an image a prompt.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use qeff_core::lower::Target;
use qeff_core::passes;

use super::Args;
use super::answer::{Ready, Wishes, answer};
use crate::checkpoint::Checkpoint;
use crate::cli::on_cards::{self, Built, open_program, requests};
use crate::compile::Program;
use crate::describe::Described;
use crate::prepare;
use crate::vision::cards::{CardSession, Compiled, Shown};
use crate::vision::encoder::{Embeds, Encoder, PixelPort};
use crate::vision::family::vision_program;
use crate::vision::marks::image_token;
use crate::vision::sizes::Seen;
use crate::vision::{Picture, Size, ready, sizes};

/// Executions of a program that is called once at a time.
const ONE: usize = 1;

/// What is asked on cards.
pub(super) struct Asked<'a> {
    pub(super) args: &'a Args,
    pub(super) started: Instant,
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) described: Described,
    /// Prompts as ids, and the images of each.
    pub(super) prompts: &'a [Vec<u32>],
    pub(super) shown: &'a [Vec<Arc<Picture>>],
}

/// Compiles what the request needs, or finds it, and answers.
pub(super) fn run(asked: Asked<'_>, mut wishes: Wishes<'_>) -> Result<()> {
    let Asked { args, started, checkpoint, mut described, prompts, shown } = asked;
    if args.batch_size.is_some_and(|n| n != 1) || args.full_batch_size.is_some() {
        bail!(
            "--batch-size and --full-batch-size: on cards, prompts about images are answered one at a time; leave them out"
        );
    }
    let images = images(&described, shown);
    let seen = sizes::fix(&mut described.model, checkpoint, &images)?;
    let longest =
        prompts.iter().map(Vec::len).max().unwrap_or(1) + args.wishes.max_new_tokens.map_or(1, |n| n as usize);
    let mut shape = args.shape();
    sizes::shape(&mut shape, &seen);
    if args.ctx_len.is_none() {
        // One more than is needed: a position that padding may be taken for.
        shape.ctx_len = shape.ctx_len.max(Some((longest as u64 + 1).next_multiple_of(1024)));
    }
    let of_prompt = |pictures: &Vec<Arc<Picture>>| pictures.iter().map(|picture| picture.rows).sum::<usize>();
    let rows = shown.iter().map(of_prompt).max().unwrap_or(0);
    let rows = seen.iter().map(|seen| seen.rows as usize).max().unwrap_or(1).max(rows);
    let size = |n: Option<u64>| usize::try_from(n.unwrap_or(1)).context("a size is too large");
    let compiled = Compiled { prompt_len: size(shape.prompt_len)?, context: size(shape.ctx_len)? };
    let ports = ready::ports(&described.model, prepare::main_program(&described.model)?)?;
    let pixels = match args.images.single_qpc {
        true => Some(joined(&mut described, &seen, shown)?),
        false => None,
    };
    let programs = described.model.programs.clone();

    let resize = |named: &mut [(&str, &mut Program)]| {
        sizes::number(named, &seen);
        for (_, program) in named.iter_mut().filter(|(name, _)| !seen.iter().any(|seen| seen.program == **name)) {
            if program.interface.has_symbol("vision_size") {
                program.symbols.insert("vision_size".into(), rows as u64);
            }
        }
    };
    let Built { qpcs, place, quantised, .. } =
        on_cards::build(&args.executor, shape, described, checkpoint, Target::Aic.into(), resize)?;
    let mut language = None;
    let mut encoders = vec![];
    for (program, qpc) in programs.iter().zip(qpcs) {
        match seen.iter().find(|seen| seen.program == program.name) {
            Some(seen) => encoders.push((seen, program, qpc)),
            None => language = Some(qpc),
        }
    }
    let language = language.context("the model has no language program")?;

    // Vision programs leave their cores before the language program takes them.
    let mut embeds: Vec<Vec<Option<Arc<Embeds>>>> = shown.iter().map(|pictures| vec![None; pictures.len()]).collect();
    for (seen, described, qpc) in encoders {
        let mine = |picture: &Picture| seen.image.is_none_or(|size| size == picture.size);
        if !shown.iter().flatten().any(|picture| mine(picture)) {
            continue;
        }
        let program = open_program(&qpc, &place, ONE)?;
        let mut encoder = Encoder::new(Box::new(program), described)?.of_tiles(seen.tiles);
        for (pictures, embeds) in shown.iter().zip(&mut embeds) {
            for (picture, embeds) in pictures.iter().zip(embeds).filter(|(picture, _)| mine(picture)) {
                *embeds = Some(encoder.encode(picture)?);
            }
        }
    }
    let shown = match pixels {
        Some((port, tile)) => {
            Shown::pixels(&port, tile, shown.iter().map(|of_prompt| of_prompt.first().map(|p| &**p)))?
        }
        None => {
            let sequences = embeds.iter().map(|of_prompt| of_prompt.iter().flatten().map(|embeds| &**embeds));
            Shown::rows(&ports, rows, sequences)?
        }
    };
    let program = open_program(&language, &place, ONE)?;
    let mut session = CardSession::new(Box::new(program), ports, compiled, image_token(checkpoint)?, shown);
    wishes.options.chunk = compiled.context;
    let requests = requests(prompts, args.wishes.max_new_tokens, compiled.context)?;
    let (quantised, loaded) = (&quantised, started.elapsed());
    answer(wishes, &requests, Ready { session: &mut session, engine: "qaic", started, loaded, quantised })
}

/// Makes one program of both; how it takes pixels, and the size of a tile.
fn joined(described: &mut Described, seen: &[Seen], shown: &[Vec<Arc<Picture>>]) -> Result<(PixelPort, Size)> {
    let [seen] = seen else {
        bail!("--single-qpc: one program sees images of one size, and these have {}; leave the flag out", seen.len());
    };
    if let Some((i, pictures)) = shown.iter().enumerate().find(|(_, pictures)| pictures.len() > 1) {
        bail!(
            "--single-qpc: one program is shown an image a prompt, and prompt {i} shows {}; leave the flag out",
            pictures.len()
        );
    }
    let port = PixelPort::of(vision_program(&described.model)?)?.of_tiles(seen.tiles);
    passes::join(&mut described.model)?;
    Ok((port, seen.tile))
}

/// The sizes of images that vision programs are needed for: none where one program serves all.
fn images(described: &Described, shown: &[Vec<Arc<Picture>>]) -> Vec<Size> {
    let packs = sizes::packs(&described.model);
    let sizes: BTreeSet<Size> = shown.iter().flatten().filter(|_| packs).map(|picture| picture.size).collect();
    sizes.into_iter().collect()
}
