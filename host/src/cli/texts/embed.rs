//! `embed`: vectors of texts.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value as Json, json};

use super::{Answer, Given, Opened, Request, SourceArgs, TextArgs};
use crate::cli::executor::ExecutorArgs;
use crate::cli::pooling::pool;
use crate::cli::{ModelArgs, talk};
use crate::encode::Encoded;
use crate::encode::pooling;
use crate::encode::recipe::{DEFAULT_POOLING, Recipe};
use crate::encode::stages::{Stage, cosine};
use crate::encode::vectors::{self, Format};

/// Flags that say how a vector is made.
#[derive(Debug, clap::Args)]
pub(crate) struct VectorArgs {
    /// How the vectors of tokens become one: mean, max, cls, last, avg, weighted-mean, mean-sqrt-len, none, or a plugin's head;
    /// several between commas are joined. Takes the place of all that a sentence-transformers folder says [default: what that
    /// says, else mean].
    #[arg(long, value_name = "HEAD")]
    pub(crate) pooling: Option<String>,
    /// Scale vectors to length 1.
    #[arg(long)]
    pub(crate) normalize: bool,
    /// The prompt of the checkpoint to put before each text.
    #[arg(long, value_name = "NAME")]
    pub(crate) prompt_name: Option<String>,
}

/// Flags of `embed`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    vectors: VectorArgs,
    #[command(flatten)]
    texts: TextArgs,
    /// Print the cosine of every two texts instead of vectors.
    #[arg(long, conflicts_with = "output")]
    similarity: bool,
    /// Write an array (.npy, .safetensors) or lines (.jsonl) to a file instead of stdout.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Most texts in a call [default: 64; on AI 100 1].
    #[arg(long, value_name = "B", value_parser = clap::value_parser!(u32).range(1..=1024))]
    batch_size: Option<u32>,
    #[command(flatten)]
    executor: ExecutorArgs,
    /// Print one JSON document with all vectors and how long it took, instead of a line a text.
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let started = Instant::now();
    let format = args.output.as_deref().map(Format::of).transpose()?;
    let given: Vec<Given> = args.source.texts()?.iter().map(|text| Given::Text(text.as_str().into())).collect();
    let request = Request {
        model: &args.model,
        executor: &args.executor,
        texts: &args.texts,
        rows: args.batch_size,
        quiet: args.json,
    };
    let (answer, given) = embed(&request, &args.vectors, given, started)?;
    let vectors = &answer.encoded;
    if args.similarity {
        similarities(vectors)?.iter().try_for_each(talk::json)?;
    } else if args.json {
        return talk::json(&document(&answer));
    } else {
        match (&args.output, format) {
            (Some(file), Some(Format::Jsonl)) => {
                vectors::whole(file, lines(&given, vectors).as_bytes())?;
                talk::data(&format!("{}\n", file.display()))?;
            }
            (Some(file), Some(format)) => {
                let rows: Vec<&[f32]> = vectors.iter().map(|vector| vector.numbers.as_slice()).collect();
                if vectors.iter().any(|vector| vector.numbers.len() != vector.width) {
                    bail!(
                        "--output: expected a .jsonl file for vectors of tokens, of which texts have different numbers"
                    );
                }
                vectors::write(file, format, &rows)?;
                talk::data(&format!("{}\n", file.display()))?;
            }
            _ => talk::data(&lines(&given, vectors))?,
        }
    }
    answer.metrics.say(vectors.len());
    Ok(())
}

/// Task `embed` of `run`.
pub(crate) fn task(
    request: &Request<'_>,
    vectors: &VectorArgs,
    given: Vec<Given>,
    json: bool,
    started: Instant,
) -> Result<()> {
    let (answer, given) = embed(request, vectors, given, started)?;
    if json {
        return talk::json(&document(&answer));
    }
    talk::data(&lines(&given, &answer.encoded))?;
    answer.metrics.say(answer.encoded.len());
    Ok(())
}

/// Vectors of texts, and the texts as the model saw them.
fn embed(request: &Request<'_>, how: &VectorArgs, given: Vec<Given>, started: Instant) -> Result<(Answer, Vec<Given>)> {
    let dir = &request.model.model;
    let plan = Plan::new(Recipe::open(dir)?, how)?;
    let given: Vec<Given> = given.into_iter().map(|given| plan.prompted(given)).collect();
    let transformer = plan.recipe.as_ref().map_or(dir, |recipe| &recipe.transformer);
    let mut opened = Opened::new(request.model, transformer, true, started)?;
    pool(&mut opened.described, &opened.checkpoint, request.model, &plan.heads)?;
    let longest = plan.recipe.as_ref().and_then(|recipe| recipe.longest);
    let mut answer = opened.encode(request, &given, longest)?;
    for vector in &mut answer.encoded {
        plan.finish(vector)?;
    }
    Ok((answer, given))
}

/// How vectors are made, after flags and folder.
struct Plan {
    recipe: Option<Recipe>,
    heads: Vec<String>,
    stages: Vec<Stage>,
    prompt: String,
}

impl Plan {
    fn new(recipe: Option<Recipe>, how: &VectorArgs) -> Result<Self> {
        let prompt = match (&recipe, &how.prompt_name) {
            (Some(recipe), name) => recipe.prompt(name.as_deref())?.to_owned(),
            (None, Some(name)) => {
                bail!("--prompt-name {name}: the checkpoint has no prompts; it is no sentence-transformers folder")
            }
            (None, None) => String::new(),
        };
        // A head that was asked for has none of the steps that the folder's own needs.
        let (heads, mut stages) = match (&how.pooling, &recipe) {
            (Some(words), _) => (pooling::heads(words), vec![]),
            (None, Some(recipe)) => (recipe.pooling.clone(), recipe.stages.clone()),
            (None, None) => (vec![DEFAULT_POOLING.to_owned()], vec![]),
        };
        if let Some(recipe) = recipe.as_ref().filter(|recipe| !recipe.pools_prompt && !prompt.is_empty())
            && how.pooling.is_none()
        {
            bail!(
                "{}: the folder wants prompts left out of pooling (`include_prompt` false), which is not built; give --pooling \
                 to pool all tokens",
                recipe.transformer.display()
            );
        }
        if how.normalize && stages.last() != Some(&Stage::Normalise) {
            stages.push(Stage::Normalise);
        }
        if heads.is_empty() && stages.iter().any(|stage| matches!(stage, Stage::Dense(_))) {
            bail!("a dense layer needs one vector a text: expected another --pooling than none");
        }
        Ok(Plan { recipe, heads, stages, prompt })
    }

    /// A text with what stands before it.
    fn prompted(&self, given: Given) -> Given {
        match given {
            Given::Text(mut text) => {
                text.first.insert_str(0, &self.prompt);
                if self.recipe.as_ref().is_some_and(|recipe| recipe.lower_case) {
                    text.first = text.first.to_lowercase();
                }
                Given::Text(text)
            }
            ids => ids,
        }
    }

    /// What becomes of the vector of a text, or of each of its tokens.
    fn finish(&self, encoded: &mut Encoded) -> Result<()> {
        let pooled = self.recipe.as_ref().filter(|_| !self.heads.is_empty()).and_then(|recipe| recipe.width);
        let width = pooled.map(|width| width as usize * self.heads.len());
        if let Some(width) = width.filter(|width| *width != encoded.width) {
            bail!(
                "1_Pooling: `word_embedding_dimension`: the model's vectors have {} numbers, expected {width}",
                encoded.width
            );
        }
        let mut finished = Vec::with_capacity(encoded.numbers.len());
        for vector in encoded.numbers.chunks_exact(encoded.width) {
            let mut vector = vector.to_vec();
            self.stages.iter().try_for_each(|stage| stage.apply(&mut vector))?;
            encoded.width = vector.len();
            finished.append(&mut vector);
        }
        encoded.numbers = finished;
        Ok(())
    }
}

/// The vector of a text, or the list of those of its tokens.
fn numbers(encoded: &Encoded) -> Json {
    if encoded.numbers.len() == encoded.width {
        return json!(encoded.numbers);
    }
    json!(encoded.numbers.chunks(encoded.width.max(1)).collect::<Vec<_>>())
}

fn document(answer: &Answer) -> Json {
    let outputs: Vec<_> = answer
        .framed
        .iter()
        .zip(&answer.encoded)
        .map(|(text, vector)| json!({ "embedding": numbers(vector), "prompt_ids": text.ids }))
        .collect();
    json!({ "outputs": outputs, "metrics": answer.metrics.json(answer.encoded.len()) })
}

/// A line a text.
fn lines(given: &[Given], vectors: &[Encoded]) -> String {
    let line = |(given, vector): (&Given, &Encoded)| match given.shown() {
        Some(text) => format!("{}\n", json!({ "text": text, "embedding": numbers(vector) })),
        None => format!("{}\n", json!({ "embedding": numbers(vector) })),
    };
    given.iter().zip(vectors).map(line).collect()
}

/// The cosine of every two texts.
fn similarities(vectors: &[Encoded]) -> Result<Vec<Json>> {
    if vectors.len() < 2 {
        bail!("--similarity compares texts: expected two or more, found {}", vectors.len());
    }
    let mut found = vec![];
    for (i, a) in vectors.iter().enumerate() {
        for (j, b) in vectors.iter().enumerate().skip(i + 1) {
            let of = |vector: &Encoded| vector.numbers.get(..vector.width).map(<[f32]>::to_vec);
            let (a, b) = of(a).zip(of(b)).context("a text has no vector")?;
            found.push(json!({ "a": i, "b": j, "cosine": cosine(&a, &b) }));
        }
    }
    Ok(found)
}
