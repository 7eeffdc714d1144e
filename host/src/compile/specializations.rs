//! Specializations: the sizes a program is compiled for, one entry for each kind of call.
//!
//! Names, order and extra symbols are the reference's, which a runtime of its kind reads back from the file.
//! `full_batch_exec_size` is no dimension of any graph: it tells such a runtime how many sequences a prefill takes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use serde_json::{Map, Value as Json, json};

use super::ccl::Lengths;
use super::{Interface, Kind, Phase, Program, Shape};

/// Longest context and largest batch that anybody means; numbers past them are slips of the hand.
const MOST: u64 = 1 << 31;

/// How the compiler wants the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `{"name": …, "symbols": {…}}`, from SDK 1.22 on.
    Named,
    /// `{symbol: value}`.
    Classic,
}

impl Dialect {
    /// The word of the command line.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::Named => "named",
            Dialect::Classic => "classic",
        }
    }
}

/// Sizes of one kind of call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Specialization {
    /// Name, unique in its file.
    pub name: String,
    /// Numbers of the symbols, by name.
    pub symbols: BTreeMap<String, u64>,
}

impl Specialization {
    fn new<'a>(name: &str, symbols: impl IntoIterator<Item = (&'a str, u64)>) -> Self {
        let symbols = symbols.into_iter().map(|(symbol, n)| (symbol.to_owned(), n)).collect();
        Specialization { name: name.to_owned(), symbols }
    }

    fn with(mut self, symbol: &str, n: u64) -> Self {
        self.symbols.insert(symbol.to_owned(), n);
        self
    }
}

/// The text of `specializations.json`.
pub(super) fn text(specializations: &[Specialization], dialect: Dialect) -> String {
    // The compiler takes texts, not numbers.
    let symbols = |of: &Specialization| -> Map<String, Json> {
        of.symbols.iter().map(|(symbol, n)| (symbol.clone(), Json::String(n.to_string()))).collect()
    };
    let entries: Vec<Json> = specializations
        .iter()
        .map(|of| match dialect {
            Dialect::Named => json!({ "name": of.name, "symbols": symbols(of) }),
            Dialect::Classic => Json::Object(symbols(of)),
        })
        .collect();
    super::json::sorted(&json!({ "specializations": entries }))
}

/// The specializations of a program.
///
/// # Errors
/// If the sizes do not fit together or do not fit the program, or a symbol of the program has no number.
pub(super) fn of(program: &Program, shape: &Shape) -> Result<Vec<Specialization>> {
    let interface = &program.interface;
    let kind = interface.kind()?;
    check_use(interface, kind, shape)?;
    let mut all = match kind {
        Kind::Decoder => decoder(interface, shape)?,
        Kind::EncoderDecoder => encoder_decoder(program, shape)?,
        Kind::Vision => vision(interface, shape),
        Kind::Embedding => encoder("Embedding", shape, Shape::TEXT_LEN),
        Kind::Classifier => encoder("SeqClassification", shape, Shape::TEXT_LEN),
        Kind::Ctc => encoder("CTC", shape, 480_000),
    };
    let widest = all
        .iter()
        .filter_map(|specialization| specialization.symbols.get("seq_len"))
        .max()
        .copied()
        .unwrap_or(1)
        .max(1);
    for specialization in &mut all {
        for (symbol, &n) in &shape.symbols {
            if let Some(set) = specialization.symbols.insert(symbol.clone(), n) {
                bail!("--symbol {symbol}={n}: this number has a flag of its own, which says {set}; use that");
            }
        }
        for (symbol, &n) in &program.symbols {
            specialization.symbols.entry(symbol.clone()).or_insert(n);
        }
        for (symbol, window) in &program.windows {
            let ctx_len = specialization.symbols.get("ctx_len").copied().unwrap_or(MOST);
            specialization.symbols.entry(symbol.clone()).or_insert_with(|| rolling_length(*window, widest, ctx_len));
        }
        for symbol in interface.symbols() {
            if !specialization.symbols.contains_key(symbol) {
                bail!(
                    "specialization {}: nothing says what number `{symbol}` is, a dimension of the graph's inputs; \
                     give it with --symbol {symbol}=N",
                    specialization.name
                );
            }
        }
        if let Some((symbol, n)) = specialization.symbols.iter().find(|&(_, &n)| n == 0 || n > MOST) {
            bail!("`{symbol}`: expected a number from 1 to {MOST}, found {n}");
        }
    }
    number(&mut all);
    Ok(all)
}

/// Rows of a rolling buffer: a call writes all its tokens before the first of them looks back over its window.
fn rolling_length(window: u64, widest: u64, ctx_len: u64) -> u64 {
    window.saturating_add(widest - 1).min(ctx_len)
}

/// Refuses sizes that the program cannot use, rather than leave them out in silence.
fn check_use(interface: &Interface, kind: Kind, shape: &Shape) -> Result<()> {
    // A vision encoder is compiled beside its decoder, whose sizes these are.
    if kind == Kind::Vision {
        return Ok(());
    }
    let decoder = kind == Kind::Decoder;
    let unused = [
        ("--full-batch-size", shape.full_batch_size.is_some(), interface.is_batched(), "an input `batch_index`"),
        ("--kv-cache-batch-size", shape.kv_cache_batch_size.is_some(), decoder, "a KV cache that grows token by token"),
        (
            "--num-speculative-tokens",
            !shape.speculative_tokens.is_empty(),
            interface.is_speculation_target(),
            "an input `num_logits_to_keep`",
        ),
        (
            "--ccl-enabled, --comp-ctx-lengths-prefill and --comp-ctx-lengths-decode",
            shape.ccl.is_some(),
            interface.has_context_lengths(),
            "an input `comp_ctx_lengths`",
        ),
        ("--prefill-only", shape.phase != Phase::Both, decoder, "a KV cache that grows token by token"),
        ("--prompt-len", shape.prompt_len.is_some(), decoder || interface.has_symbol("seq_len"), "tokens to read"),
        ("--ctx-len", shape.ctx_len.is_some(), has_context(interface, kind), "a context"),
        (
            "--encoder-ctx-len",
            shape.encoder_ctx_len.is_some(),
            kind == Kind::EncoderDecoder,
            "an encoder beside a decoder",
        ),
        (
            "--seq-len",
            !shape.seq_lens.is_empty(),
            matches!(kind, Kind::Embedding | Kind::Classifier | Kind::Ctc),
            "one pass over a whole text",
        ),
    ];
    for (flag, given, used, what) in unused {
        if given && !used {
            bail!(
                "{flag}: the graph has no use for it: expected {what}; leave the flag out, or export a graph that has it"
            );
        }
    }
    Ok(())
}

fn has_context(interface: &Interface, kind: Kind) -> bool {
    matches!(kind, Kind::Decoder | Kind::EncoderDecoder) || interface.has_symbol("ctx_len")
}

/// Gives names that occur several times a number each.
fn number(all: &mut [Specialization]) {
    let names: Vec<String> = all.iter().map(|specialization| specialization.name.clone()).collect();
    let many: BTreeSet<&String> = names.iter().filter(|name| names.iter().filter(|n| n == name).count() > 1).collect();
    for (i, specialization) in all.iter_mut().enumerate() {
        if many.contains(&names[i]) {
            let before = names[..i].iter().filter(|name| **name == names[i]).count();
            specialization.name = format!("{}_{before}", names[i]);
        }
    }
}

// --- decoders

/// Sizes that all specializations of a decoder share.
struct Decoder<'a> {
    shape: &'a Shape,
    /// Rows of a call choose their slots.
    batched: bool,
    /// Sequences in one decode call.
    exec: u64,
    /// Slots of the cache.
    slots: u64,
    ctx_len: u64,
    /// Symbols that are the batch by another name.
    per_batch: Vec<&'static str>,
}

fn decoder(interface: &Interface, shape: &Shape) -> Result<Vec<Specialization>> {
    let batch_size = shape.batch_size.unwrap_or(1);
    let batched = interface.is_batched();
    if batched && shape.full_batch_size.is_none() {
        bail!(
            "--full-batch-size is missing: the graph has continuous batching (input `batch_index`), and the number of \
             sequences is fixed when it is compiled"
        );
    }
    if shape.full_batch_size.is_some() && batch_size != 1 {
        bail!(
            "--batch-size {batch_size} and --full-batch-size exclude each other: with continuous batching a prefill takes \
             one sequence; leave --batch-size out"
        );
    }
    let exec = shape.full_batch_size.unwrap_or(batch_size);
    let slots = shape.kv_cache_batch_size.unwrap_or(exec);
    if slots < exec {
        bail!("--kv-cache-batch-size {slots}: expected at least {exec}, a slot for each sequence of a call");
    }
    if !batched && slots != exec {
        bail!("--kv-cache-batch-size {slots}: without --full-batch-size there are as many slots as sequences ({exec})");
    }
    let prompt_len = shape.prompt_len.unwrap_or(32);
    let asked = shape.ctx_len.unwrap_or(Shape::CTX_LEN);
    let (ccl, ctx_len) = match &shape.ccl {
        Some(ccl) => {
            let lengths = ccl.lengths(asked, prompt_len)?;
            let ctx_len = lengths.ctx_len;
            (Some(lengths), ctx_len)
        }
        None if interface.has_context_lengths() => bail!(
            "the graph takes context lengths (input `comp_ctx_lengths`): give --ccl-enabled, or lists with \
             --comp-ctx-lengths-prefill and --comp-ctx-lengths-decode"
        ),
        None => (None, asked),
    };
    if prompt_len > ctx_len {
        bail!(
            "--prompt-len {prompt_len} does not fit --ctx-len {ctx_len}: a call writes all its tokens into the context"
        );
    }
    let drafts = drafts(interface, shape, prompt_len)?;
    // Images are counted by the batch where a graph takes them; the reference says so even if no dimension asks.
    let images = interface.has_symbol("vision_batch_size") || interface.input("pixel_values").is_some();
    let per_batch = if images { vec!["vision_batch_size"] } else { vec![] };
    let decoder = Decoder { shape, batched, exec, slots, ctx_len, per_batch };
    Ok(decoder.all(prompt_len, ccl.as_ref(), &drafts))
}

/// How many logits each decode call keeps; `[None]` if the graph always keeps one.
fn drafts(interface: &Interface, shape: &Shape, prompt_len: u64) -> Result<Vec<Option<u64>>> {
    if !interface.is_speculation_target() {
        return Ok(vec![None]);
    }
    let counts: BTreeSet<u64> = shape.speculative_tokens.iter().copied().collect();
    let Some(&most) = counts.last() else {
        bail!(
            "--num-speculative-tokens is missing: the graph is a speculation target (input `num_logits_to_keep`), and the \
             number of drafted tokens is fixed when it is compiled"
        );
    };
    if prompt_len <= most {
        bail!(
            "--num-speculative-tokens {most} does not fit --prompt-len {prompt_len}: expected a --prompt-len of at least {}, \
             the drafted tokens and the one before them",
            most.saturating_add(1)
        );
    }
    if shape.ccl.is_some() {
        bail!("--num-speculative-tokens and context lengths exclude each other: the compiler has no such combination");
    }
    Ok(counts.into_iter().map(|count| Some(count + 1)).collect())
}

impl Decoder<'_> {
    fn all(&self, prompt_len: u64, ccl: Option<&Lengths>, drafts: &[Option<u64>]) -> Vec<Specialization> {
        let lengths = |of: fn(&Lengths) -> &Vec<u64>| -> Vec<Option<u64>> {
            ccl.map_or_else(|| vec![None], |lengths| of(lengths).iter().copied().map(Some).collect())
        };
        let mut all = vec![];
        // A prefill of one token is a decode, and the reference compiles just that.
        if prompt_len == 1 || self.shape.phase != Phase::Decode {
            let keep = drafts[0].map(|_| 1);
            all.extend(lengths(|lengths| &lengths.prefill).into_iter().map(|ccl| self.prefill(prompt_len, ccl, keep)));
        }
        if prompt_len > 1 && self.shape.phase != Phase::Prefill {
            for ccl in lengths(|lengths| &lengths.decode) {
                all.extend(drafts.iter().map(|&keep| self.decode(ccl, keep)));
            }
        }
        all
    }

    fn prefill(&self, prompt_len: u64, ccl: Option<u64>, keep: Option<u64>) -> Specialization {
        let batch_size = match (self.batched, prompt_len) {
            (true, 1) | (false, _) => self.exec,
            (true, _) => 1,
        };
        let name = if prompt_len == 1 && self.shape.phase == Phase::Decode { "Decode" } else { "Prefill" };
        let specialization = self.call(name, batch_size, prompt_len, ccl, keep);
        if self.batched { specialization.with("full_batch_exec_size", batch_size) } else { specialization }
    }

    fn decode(&self, ccl: Option<u64>, keep: Option<u64>) -> Specialization {
        self.call("Decode", self.exec, keep.unwrap_or(1), ccl, keep)
    }

    fn call(&self, name: &str, batch: u64, seq: u64, ccl: Option<u64>, keep: Option<u64>) -> Specialization {
        let symbols = [
            Some(("batch_size", batch)),
            Some(("seq_len", seq)),
            Some(("ctx_len", self.ctx_len)),
            self.batched.then_some(("full_batch_size", self.slots)),
            ccl.map(|n| ("comp_ctx_lengths", n)),
            keep.map(|n| ("num_logits_to_keep", n)),
        ];
        let per_batch = self.per_batch.iter().map(|&symbol| (symbol, batch));
        Specialization::new(name, symbols.into_iter().flatten().chain(per_batch))
    }
}

// --- everything else

fn encoder_decoder(program: &Program, shape: &Shape) -> Result<Vec<Specialization>> {
    let made = program.symbols.get("encoder_ctx_len").copied();
    let frames = shape.encoder_ctx_len.or(made).unwrap_or(1500);
    if let Some(made) = made.filter(|&made| made != frames) {
        bail!(
            "--encoder-ctx-len {frames}: expected {made}, the positions that the model's encoder has; leave the flag out"
        );
    }
    let call = |name, feature_len| {
        Specialization::new(
            name,
            [
                ("batch_size", shape.batch_size.unwrap_or(1)),
                ("seq_len", shape.prompt_len.unwrap_or(1)),
                ("encoder_ctx_len", frames),
                ("decoder_ctx_len", shape.ctx_len.unwrap_or(Shape::TRANSCRIPT_LEN)),
                ("feature_len", feature_len),
            ],
        )
    };
    // Two spectrogram columns make one frame. A decode call brings a single column, which nothing looks at.
    Ok(vec![call("Encoder", frames.saturating_mul(2)), call("Decode", 1)])
}

fn vision(interface: &Interface, shape: &Shape) -> Vec<Specialization> {
    let mut one = Specialization::new("Vision", [("batch_size", shape.batch_size.unwrap_or(1))]);
    for (symbol, n) in [("seq_len", shape.prompt_len), ("ctx_len", shape.ctx_len)] {
        if let Some(n) = n.filter(|_| interface.has_symbol(symbol)) {
            one = one.with(symbol, n);
        }
    }
    vec![one]
}

fn encoder(name: &str, shape: &Shape, default: u64) -> Vec<Specialization> {
    let batch = shape.batch_size.unwrap_or(1);
    // The reference's flag for a text's length is that of a prompt.
    let default = shape.prompt_len.unwrap_or(default);
    let lens = if shape.seq_lens.is_empty() { &[default][..] } else { &shape.seq_lens };
    lens.iter().map(|&len| Specialization::new(name, [("batch_size", batch), ("seq_len", len)])).collect()
}

#[cfg(test)]
#[path = "specializations_tests.rs"]
mod tests;
