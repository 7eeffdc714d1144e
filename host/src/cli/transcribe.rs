//! `transcribe`: what is said in recordings, as text, subtitles or JSON.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use fs_err as fs;
use qeff_plugin_api::graph::Task;
use serde_json::{Value as Json, json};

use super::ModelArgs;
use super::executor::ExecutorArgs;
use super::speech::{Executor, language, lengths, of_frames, of_sentences};
use super::talk;
use crate::audio::extractor::Samples;
use crate::audio::{self, Limits, LogMel, Waveform};
use crate::checkpoint::Checkpoint;
use crate::compile::Shape;
use crate::speech::ctc::{self, Frames, Labeller, Spelling};
use crate::speech::listen::Fallback;
use crate::speech::prompt::Wish;
use crate::speech::subtitles::{self, Form, Line};
use crate::speech::transcribe::{Options, features};
use crate::speech::{Decoder, Settings, SpeechTask, transcribe};
use crate::text::Tokenizer;

/// Forms of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// Plain text.
    Text,
    /// SubRip subtitles.
    Srt,
    /// WebVTT subtitles.
    Vtt,
    /// One JSON document.
    Json,
}

impl Output {
    fn ending(self) -> &'static str {
        match self {
            Output::Text => "txt",
            Output::Srt => "srt",
            Output::Vtt => "vtt",
            Output::Json => "json",
        }
    }
}

/// Flags of `transcribe`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// A recording: wav, flac or mp3; may be repeated.
    #[arg(long, value_name = "FILE", required = true)]
    audio: Vec<PathBuf>,
    /// Language spoken, by code or name; auto asks the model [default: what the checkpoint says, else auto].
    #[arg(long, value_name = "LANGUAGE")]
    language: Option<String>,
    /// Write down what is said, or translate it to English [default: what the checkpoint says, else transcribe].
    #[arg(long, value_enum, value_name = "TASK")]
    task: Option<SpeechTask>,
    /// Say when what is said. Subtitles always do, and so do recordings longer than what the model hears at once.
    #[arg(long)]
    timestamps: bool,
    /// Form of what is printed.
    #[arg(long, value_enum, value_name = "FORM", default_value = "text")]
    format: Output,
    /// Print one JSON document; the same as --format json.
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Write a file for each recording into this folder instead of printing.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Text that goes before each recording, for names and style.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    initial_prompt: Option<String>,
    /// Let what was said in one window go before the next.
    #[arg(long)]
    condition_on_prev_tokens: bool,
    /// Temperatures, each tried where what came before went wrong.
    #[arg(long, value_name = "T,…", value_delimiter = ',', default_value = "0,0.2,0.4,0.6,0.8,1")]
    temperature: Vec<f32>,
    /// Ids that compress better than this repeat themselves, which is wrong [default: 1.35].
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    compression_ratio_threshold: Option<f64>,
    /// Ids less likely than this on average are guesses, which is wrong [default: -1].
    #[arg(long, value_name = "L", allow_negative_numbers = true)]
    logprob_threshold: Option<f64>,
    /// Guesses about a window that is likelier silent than this are dropped [default: 0.6].
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    no_speech_threshold: Option<f64>,
    /// One greedy pass a window, whatever comes of it.
    #[arg(long, conflicts_with_all = ["temperature", "compression_ratio_threshold", "logprob_threshold", "no_speech_threshold"])]
    no_fallback: bool,
    /// Most tokens to generate for each window [default: what the model has room for].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: Option<u32>,
    /// Same seed, same text.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    executor: ExecutorArgs,
}

impl Args {
    fn format(&self) -> Output {
        if self.json { Output::Json } else { self.format }
    }

    fn fallback(&self) -> Result<Fallback> {
        if self.no_fallback {
            return Ok(Fallback::none());
        }
        if let Some(wrong) = self.temperature.iter().find(|t| !t.is_finite() || **t < 0.0) {
            bail!("--temperature: expected numbers of 0 or more, found {wrong}");
        }
        let default = Fallback::default();
        Ok(Fallback {
            temperatures: self.temperature.clone(),
            compression: self.compression_ratio_threshold.or(default.compression),
            log_probability: self.logprob_threshold.or(default.log_probability),
            no_speech: self.no_speech_threshold.or(default.no_speech),
        })
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let started = Instant::now();
    let fallback = args.fallback()?;
    let subtitles = matches!(args.format(), Output::Srt | Output::Vtt);
    if subtitles && args.audio.len() > 1 && args.output.is_none() {
        bail!("subtitles of several recordings are several files: give a folder with --output");
    }
    let on_cards = args.executor.on_cards()?;
    let (checkpoint, described) = args.model.describe()?;
    let task = described.model.task;
    if !matches!(task, Task::SpeechToText | Task::Ctc) {
        bail!("this model is for {}, not for speech: `run` does what models are for", task.name());
    }
    let (engine, listener): (_, Box<dyn Listener>) = if task == Task::SpeechToText {
        let (extractor, settings) = of_sentences(&checkpoint)?;
        let tokenizer = checkpoint.tokenizer()?;
        let options = options(args, &tokenizer, fallback, subtitles)?;
        // Cards have room for the longest transcript of a window: a fallback or a text that goes before may need it.
        let shape = Shape { ctx_len: Some(settings.max_length as u64), ..Shape::default() };
        let executor = Executor::load(&args.executor, &checkpoint, &described, shape, false)?;
        let engine = executor.name();
        let decoder = executor.decoder(&described, &settings)?;
        (engine, Box::new(Whisper { extractor, settings, decoder, tokenizer, options }))
    } else {
        refuse_words(args)?;
        let extractor = of_frames(&checkpoint)?;
        let samples = |path: &PathBuf| Ok(audio::read(path, extractor.rate, Limits::default())?.samples.len());
        let recordings = args.audio.iter().filter(|_| on_cards);
        let seq_lens = lengths(recordings.map(samples).collect::<Result<Vec<_>>>()?);
        let shape = Shape { seq_lens, ..Shape::default() };
        let executor = Executor::load(&args.executor, &checkpoint, &described, shape, false)?;
        let engine = executor.name();
        (engine, Box::new(Labels::new(&checkpoint, extractor, executor.labeller(&described)?)?))
    };
    transcribe_all(args, listener, engine, started)
}

fn options(args: &Args, tokenizer: &Tokenizer, fallback: Fallback, subtitles: bool) -> Result<Options> {
    let before = match &args.initial_prompt {
        Some(text) => tokenizer.encode(&format!(" {}", text.trim()), false)?,
        None => vec![],
    };
    let wish = Wish {
        language: language(args.language.as_deref()),
        task: args.task,
        timestamps: args.timestamps || subtitles,
    };
    Ok(Options {
        wish,
        before,
        condition: args.condition_on_prev_tokens,
        fallback,
        max_new_tokens: args.max_new_tokens.map(|n| n as usize),
        seed: args.seed,
    })
}

fn transcribe_all(args: &Args, mut listener: Box<dyn Listener>, engine: &'static str, started: Instant) -> Result<()> {
    if let Some(folder) = &args.output {
        fs::create_dir_all(folder)?;
    }
    let loaded = started.elapsed();
    let (mut outputs, mut seconds) = (vec![], 0.0);
    for path in &args.audio {
        let waveform = audio::read(path, listener.rate(), Limits::default())?;
        let bar = talk::seconds_bar("listening", waveform.seconds());
        let heard = listener.listen(&waveform, &mut |done| bar.set_position((done * 1000.0) as u64));
        bar.finish_and_clear();
        let heard = heard.with_context(|| format!("cannot transcribe {}", path.display()))?;
        seconds += waveform.seconds();
        let json = heard.json(path, &waveform);
        match &args.output {
            Some(folder) => {
                let text = match args.format() {
                    Output::Json => format!("{json}\n"),
                    format => heard.printed(format, args.timestamps),
                };
                let file = folder.join(name(path, args.format(), &args.audio)?);
                fs::write(&file, text)?;
                talk::say(&format!("wrote {}", file.display()));
            }
            None if args.format() == Output::Json => {}
            None => talk::data(&heard.printed(args.format(), args.timestamps))?,
        }
        outputs.push(json);
    }
    let total = started.elapsed();
    if args.output.is_none() && args.format() == Output::Json {
        let metrics = json!({
            "engine": engine,
            "load_seconds": loaded.as_secs_f64(),
            "total_seconds": total.as_secs_f64(),
            "audio_seconds": seconds,
            "peak_memory_bytes": talk::peak_memory(),
        });
        return talk::json(&json!({ "outputs": outputs, "metrics": metrics }));
    }
    talk::say(&format!("{seconds:.1} s of sound in {}", talk::seconds(total)));
    Ok(())
}

/// The file for a recording: its name with the ending of the form, whole if two recordings would share it otherwise.
fn name(path: &Path, format: Output, all: &[PathBuf]) -> Result<String> {
    let stem = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let own = stem(path).with_context(|| format!("{} has no name", path.display()))?;
    let shared = all.iter().filter(|other| stem(other).as_ref() == Some(&own)).count() > 1;
    let base = path.file_name().filter(|_| shared).map_or(own, |name| name.to_string_lossy().into_owned());
    Ok(format!("{base}.{}", format.ending()))
}

/// What was heard in a recording.
struct Heard {
    language: Option<String>,
    lines: Vec<Line>,
    /// What else is known of each line.
    details: Vec<Json>,
}

impl Heard {
    fn text(&self) -> String {
        self.lines.iter().map(|line| line.text.as_str()).collect::<String>().trim().to_owned()
    }

    fn printed(&self, format: Output, timestamps: bool) -> String {
        let time = |seconds| subtitles::time(seconds, '.');
        match format {
            Output::Srt => subtitles::write(&self.lines, Form::Srt),
            Output::Vtt => subtitles::write(&self.lines, Form::Vtt),
            _ if timestamps => {
                let line =
                    |line: &Line| format!("[{} --> {}] {}\n", time(line.start), time(line.end), line.text.trim());
                self.lines.iter().map(line).collect()
            }
            _ => format!("{}\n", self.text()),
        }
    }

    fn json(&self, path: &Path, waveform: &Waveform) -> Json {
        let segments: Vec<Json> = self
            .lines
            .iter()
            .zip(&self.details)
            .map(|(line, details)| {
                let mut segment = json!({ "start": line.start, "end": line.end, "text": line.text });
                if let (Some(segment), Some(details)) = (segment.as_object_mut(), details.as_object()) {
                    segment.extend(details.clone());
                }
                segment
            })
            .collect();
        json!({
            "file": path.display().to_string(),
            "text": self.text(),
            "language": self.language,
            "duration": waveform.seconds(),
            "segments": segments,
        })
    }
}

/// A model that listens.
trait Listener {
    /// Samples a second that it takes.
    fn rate(&self) -> u32;

    /// Listens to a recording; `progress` is told of seconds done.
    fn listen(&mut self, waveform: &Waveform, progress: &mut dyn FnMut(f64)) -> Result<Heard>;
}

struct Whisper {
    extractor: LogMel,
    settings: Settings,
    decoder: Box<dyn Decoder>,
    tokenizer: Tokenizer,
    options: Options,
}

impl Listener for Whisper {
    fn rate(&self) -> u32 {
        self.extractor.rate
    }

    fn listen(&mut self, waveform: &Waveform, progress: &mut dyn FnMut(f64)) -> Result<Heard> {
        let features = features(&self.extractor, waveform);
        let seconds = self.extractor.hop as f64 / f64::from(self.extractor.rate);
        let told = &mut |frames: usize| progress((frames as f64 * seconds).min(waveform.seconds()));
        let transcript = transcribe(&mut *self.decoder, &self.settings, &features, &self.options, told)?;
        let (mut lines, mut details) = (vec![], vec![]);
        for (segment, window) in transcript.segments {
            let spoken: Vec<u32> = segment.tokens.iter().copied().filter(|&id| self.settings.is_text(id)).collect();
            let text = self.tokenizer.decode(&spoken, true)?;
            // What is not sound any more is the silence that filled up the window.
            let end = segment.end.min(waveform.seconds());
            lines.push(Line { start: segment.start.min(end), end, text });
            details.push(json!({
                "tokens": segment.tokens,
                "temperature": window.temperature,
                "avg_logprob": window.mean_log_probability,
                "compression_ratio": window.compression,
                "no_speech_prob": window.no_speech,
            }));
        }
        Ok(Heard { language: transcript.language, lines, details })
    }
}

/// A model that labels frames.
struct Labels {
    extractor: Samples,
    frames: Frames,
    spelling: Spelling,
    labeller: Labeller,
}

/// A pause in seconds after which a new line begins.
const PAUSE: f64 = 0.6;
/// Seconds that a line of labels lasts at most.
const LINE: f64 = 7.0;

/// Refuses flags that are about sentences.
fn refuse_words(args: &Args) -> Result<()> {
    let unfit = [
        ("--language", args.language.is_some()),
        ("--task", args.task.is_some()),
        ("--initial-prompt", args.initial_prompt.is_some()),
        ("--condition-on-prev-tokens", args.condition_on_prev_tokens),
        ("--max-new-tokens", args.max_new_tokens.is_some()),
    ];
    match unfit.iter().find(|(_, given)| *given) {
        Some((flag, _)) => {
            bail!("{flag} is for models that write sentences, and this one labels frames: leave it out")
        }
        None => Ok(()),
    }
}

impl Labels {
    fn new(checkpoint: &Checkpoint, extractor: Samples, labeller: Labeller) -> Result<Self> {
        let spelling = Spelling::open(checkpoint)?
            .with_context(|| format!("{} has no vocab.json, so labels cannot be spelled", checkpoint.dir.display()))?;
        Ok(Labels { extractor, frames: Frames::read(&checkpoint.config.to_text())?, spelling, labeller })
    }
}

impl Listener for Labels {
    fn rate(&self) -> u32 {
        self.extractor.rate
    }

    fn listen(&mut self, waveform: &Waveform, progress: &mut dyn FnMut(f64)) -> Result<Heard> {
        let logits = self.frames.label(&mut self.labeller, &self.extractor, waveform)?;
        progress(waveform.seconds());
        let seconds = self.frames.stride as f64 / f64::from(self.extractor.rate);
        let mut lines: Vec<Line> = vec![];
        for word in self.spelling.words(&ctc::likeliest(&logits)) {
            let (start, end) = (word.start as f64 * seconds, word.end as f64 * seconds);
            match lines.last_mut().filter(|line| start - line.end < PAUSE && end - line.start < LINE) {
                Some(line) => {
                    line.text = format!("{} {}", line.text, word.text);
                    line.end = end;
                }
                None => lines.push(Line { start, end, text: format!(" {}", word.text) }),
            }
        }
        let details = vec![json!({}); lines.len()];
        Ok(Heard { language: None, lines, details })
    }
}
