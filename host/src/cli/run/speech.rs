//! Tasks `ctc` and `transcribe`: recordings as labels of frames, and as text, in their plain form.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::{Args, Opened};
use crate::audio::{self, Limits, Waveform};
use crate::cli::speech::{Executor, language, lengths, of_frames, of_sentences};
use crate::cli::talk;
use crate::compile::Shape;
use crate::speech::ctc::{self, Frames, Spelling};
use crate::speech::listen::{PassOptions, pass};
use crate::speech::prompt::{Prompt, Wish, likeliest_language};

/// Flags of tasks that listen.
#[derive(Debug, clap::Args)]
pub(super) struct SpeechArgs {
    /// A recording for tasks ctc and transcribe: wav, flac or mp3; may be repeated.
    #[arg(long, value_name = "FILE")]
    pub(super) audio: Vec<PathBuf>,
    /// Language spoken, by code or name; auto asks the model [default: what the checkpoint says, else auto].
    #[arg(long, value_name = "LANGUAGE", requires = "audio")]
    language: Option<String>,
    /// Have the model say when what is said.
    #[arg(long, requires = "audio")]
    timestamps: bool,
}

/// Refuses flags that are about text that is continued.
fn check(args: &Args) -> Result<()> {
    let plain = &args.wishes.sampling;
    let samples = [
        ("--temperature", plain.temperature.is_some()),
        ("--top-k", plain.top_k.is_some()),
        ("--top-p", plain.top_p.is_some()),
        ("--min-p", plain.min_p.is_some()),
        ("--repetition-penalty", plain.repetition_penalty.is_some()),
    ];
    let others =
        [("--prompt", args.prompts.any()), ("--stop", !args.wishes.stop.is_empty()), ("--chat", args.wishes.chat)];
    if let Some((flag, _)) = samples.iter().chain(&others).find(|(_, given)| *given) {
        bail!("{flag} is for models that continue text, and this task listens: leave it out");
    }
    if args.speech.audio.is_empty() {
        bail!("there is no recording: give one with --audio");
    }
    Ok(())
}

fn read(path: &Path, rate: u32) -> Result<Waveform> {
    Ok(audio::read(path, rate, Limits::default())?)
}

/// One JSON document, or what was said, one recording a line.
fn print(opened: &Opened<'_>, engine: &str, seconds: f64, outputs: Vec<serde_json::Value>) -> Result<()> {
    let total = opened.started.elapsed();
    if opened.args.wishes.json {
        let metrics = json!({
            "engine": engine,
            "total_seconds": total.as_secs_f64(),
            "audio_seconds": seconds,
            "peak_memory_bytes": talk::peak_memory(),
        });
        return talk::json(&json!({ "outputs": outputs, "metrics": metrics }));
    }
    for output in &outputs {
        let text = output["text"].as_str().map_or_else(|| output["ids"].to_string(), str::to_owned);
        talk::data(&format!("{}\n", text.trim()))?;
    }
    talk::say(&format!("{seconds:.1} s of sound in {}", talk::seconds(total)));
    Ok(())
}

/// Labels each frame of the recordings.
pub(super) fn ctc(opened: Opened<'_>) -> Result<()> {
    check(opened.args)?;
    let Opened { args, checkpoint, described, .. } = &opened;
    let extractor = of_frames(checkpoint)?;
    let frames = Frames::read(&checkpoint.config.to_text())?;
    let spelling = Spelling::open(checkpoint)?;
    let paths = args.speech.audio.iter();
    let heard: Vec<_> = paths.map(|path| Ok((path, read(path, extractor.rate)?))).collect::<Result<_>>()?;
    let seq_lens = lengths(heard.iter().map(|(_, waveform)| waveform.samples.len()));
    let shape = Shape { seq_lens, prompt_len: None, ..args.shape() };
    let executor = Executor::load(&args.executor, checkpoint, described, shape, args.wishes.json)?;
    let engine = executor.name();
    let mut labeller = executor.labeller(described)?;
    let (mut outputs, mut seconds) = (vec![], 0.0);
    for (path, waveform) in heard {
        let logits = frames.label(&mut labeller, &extractor, &waveform).with_context(|| path.display().to_string())?;
        let ids = ctc::likeliest(&logits);
        let rows: Vec<_> = (0..logits.rows()).map(|row| logits.row(row)).collect();
        let text = spelling.as_ref().map(|spelling| spelling.text(&ids));
        outputs.push(json!({ "text": text, "ids": ids, "logits": rows }));
        seconds += waveform.seconds();
    }
    print(&opened, engine, seconds, outputs)
}

/// One greedy pass over the beginning of each recording.
pub(super) fn transcribe(opened: Opened<'_>) -> Result<()> {
    check(opened.args)?;
    let Opened { args, checkpoint, described, on_cards, .. } = &opened;
    let (extractor, settings) = of_sentences(checkpoint)?;
    let wish =
        Wish { language: language(args.speech.language.as_deref()), task: None, timestamps: args.speech.timestamps };
    let prompt = Prompt::new(&settings, &wish)?;
    let tokenizer = checkpoint.opt_tokenizer()?;
    // On cards a transcript is as long as what was compiled, and a call brings one token.
    let shape = Shape { prompt_len: None, ..args.shape() }.fitted(&described.model);
    let context = if *on_cards { shape.ctx_len } else { args.ctx_len.map(u64::from) };
    let executor = Executor::load(&args.executor, checkpoint, described, shape, args.wishes.json)?;
    let engine = executor.name();
    let mut decoder = executor.decoder(described, &settings)?;
    let (mut outputs, mut seconds) = (vec![], 0.0);
    for path in &args.speech.audio {
        let waveform = read(path, extractor.rate)?;
        if waveform.samples.len() > extractor.samples {
            let window = extractor.samples as f64 / f64::from(extractor.rate);
            talk::warn(&format!(
                "{} lasts {:.1} s; only the first {window} s are listened to: `transcribe` does all of it",
                path.display(),
                waveform.seconds()
            ));
        }
        decoder.listen(&extractor.first_window(&waveform.samples))?;
        let language = match prompt.asks_for_language() {
            true => likeliest_language(&settings, decoder.step(&[settings.start], 0)?.row(0)),
            false => None,
        };
        let tokens = prompt.tokens(language);
        let room = settings.positions.saturating_sub(tokens.len());
        // The last id is chosen, not written: it needs no position.
        let bound = context.map_or(room, |context| room.min((context as usize + 1).saturating_sub(tokens.len())));
        let wanted = args.wishes.max_new_tokens.map(|n| n as usize);
        let default = settings.max_new.unwrap_or(settings.max_length.saturating_sub(tokens.len()));
        let new = wanted.unwrap_or(default).min(bound);
        if let Some(wanted) = wanted.filter(|&wanted| new < wanted) {
            talk::warn(&format!("{}: the context leaves room for {new} of {wanted} new tokens", path.display()));
        }
        let options = PassOptions {
            timestamps: args.speech.timestamps,
            max_new_tokens: new,
            ignore_eos: args.wishes.ignore_eos,
            keep_logits: args.wishes.logits,
            temperature: 0.0,
            seed: 0,
        };
        let done = pass(&mut *decoder, &settings, &tokens, tokens.len(), &options)?;
        let spoken: Vec<u32> = done.ids.iter().copied().filter(|id| settings.is_text(*id)).collect();
        let text = tokenizer.as_ref().map(|tokenizer| tokenizer.decode(&spoken, true)).transpose()?;
        let mut output = json!({
            "text": text,
            "prompt_ids": tokens,
            "generated_ids": done.ids,
            "finish": done.finish.name(),
        });
        if args.wishes.logits {
            output["step_logits"] = json!(done.logits);
        }
        outputs.push(output);
        seconds += waveform.seconds();
    }
    print(&opened, engine, seconds, outputs)
}
