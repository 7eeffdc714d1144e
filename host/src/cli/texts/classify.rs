//! `classify`: classes of texts, and scores of pairs.

use std::time::Instant;

use anyhow::{Result, bail};
use qeff_plugin_api::config::Config;
use qeff_plugin_api::graph::Task;
use serde_json::{Value as Json, json};

use super::{Answer, Given, Opened, Request, SourceArgs, TextArgs};
use crate::cli::executor::ExecutorArgs;
use crate::cli::{ModelArgs, talk};
use crate::encode::Encoded;

/// Flags about pairs.
#[derive(Debug, clap::Args)]
pub(crate) struct PairArgs {
    /// The second text of a pair; once for all texts, or once for each.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) text_pair: Vec<String>,
}

/// Flags of `classify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    pairs: PairArgs,
    /// The first text of each pair, as a reranker takes it: the texts are what is ranked.
    #[arg(long, value_name = "TEXT", conflicts_with = "text_pair", allow_hyphen_values = true)]
    query: Option<String>,
    #[command(flatten)]
    texts: TextArgs,
    /// Most texts in a call [default: 64; on AI 100 1].
    #[arg(long, value_name = "B", value_parser = clap::value_parser!(u32).range(1..=1024))]
    batch_size: Option<u32>,
    #[command(flatten)]
    executor: ExecutorArgs,
    /// Print one JSON document with everything and how long it took, instead of a line a text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let started = Instant::now();
    let texts = args.source.texts()?.into_iter().map(|text| match &args.query {
        Some(query) => Given::Text(crate::text::Pair { first: query.clone(), second: Some(text) }),
        None => Given::Text(text.as_str().into()),
    });
    let given = paired(texts.collect(), &args.pairs)?;
    let request = Request {
        model: &args.model,
        executor: &args.executor,
        texts: &args.texts,
        rows: args.batch_size,
        quiet: args.json,
    };
    task(&request, &given, args.json, started)
}

/// Texts with their second halves.
pub(crate) fn paired(given: Vec<Given>, pairs: &PairArgs) -> Result<Vec<Given>> {
    let seconds = &pairs.text_pair;
    if seconds.is_empty() {
        return Ok(given);
    }
    if seconds.len() != 1 && seconds.len() != given.len() {
        bail!("--text-pair: expected one text, or one for each of {} texts; found {}", given.len(), seconds.len());
    }
    let pair = |(i, given): (usize, Given)| match given {
        Given::Text(mut text) => {
            text.second = seconds.get(i).or(seconds.first()).cloned();
            Ok(Given::Text(text))
        }
        Given::Ids(_) => bail!("--text-pair goes with texts: ids are both halves of a pair already"),
    };
    given.into_iter().enumerate().map(pair).collect()
}

/// Task `classify` of `run`.
pub(crate) fn task(request: &Request<'_>, given: &[Given], json: bool, started: Instant) -> Result<()> {
    let opened = Opened::new(request.model, &request.model.model, false, started)?;
    if opened.described.model.task != Task::SequenceClassification {
        bail!(
            "{} puts out no classes of texts; expected an architecture like BertForSequenceClassification",
            opened.described.model.architecture
        );
    }
    let labels = Labels::read(&opened.checkpoint.config)?;
    let answer = opened.encode(request, given, None)?;
    let outputs: Vec<_> = answer.encoded.iter().map(|encoded| labels.output(encoded)).collect();
    if json {
        return talk::json(&document(&answer, outputs));
    }
    for (given, mut output) in given.iter().zip(outputs) {
        if let Some(text) = given.shown() {
            output["text"] = json!(text);
        }
        if let Given::Text(crate::text::Pair { second: Some(second), .. }) = given {
            output["text_pair"] = json!(second);
        }
        talk::json(&output)?;
    }
    answer.metrics.say(answer.encoded.len());
    Ok(())
}

fn document(answer: &Answer, mut outputs: Vec<Json>) -> Json {
    for (output, text) in outputs.iter_mut().zip(&answer.framed) {
        output["prompt_ids"] = json!(text.ids);
    }
    json!({ "outputs": outputs, "metrics": answer.metrics.json(answer.encoded.len()) })
}

/// What scores mean: the config's `problem_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Problem {
    /// A number.
    Regression,
    /// One class of several.
    OneOf,
    /// Each class for itself.
    AnyOf,
}

/// Names of classes, and what their scores mean.
struct Labels {
    names: Vec<Option<String>>,
    problem: Option<Problem>,
}

impl Labels {
    fn read(config: &Config) -> Result<Self> {
        let mut names = vec![];
        if let Some(map) = config.opt_object("id2label")? {
            for key in map.keys() {
                let Some(id) = key.parse::<usize>().ok().filter(|id| *id < MOST_CLASSES) else {
                    bail!("config.json: `id2label`: expected class numbers as keys, found {key:?}");
                };
                if names.len() <= id {
                    names.resize(id + 1, None);
                }
                names[id] = map.opt_text(key)?;
            }
        }
        let problem = match config.opt_text("problem_type")?.as_deref() {
            None => None,
            Some("regression") => Some(Problem::Regression),
            Some("single_label_classification") => Some(Problem::OneOf),
            Some("multi_label_classification") => Some(Problem::AnyOf),
            Some(_) => {
                let expected = "regression, single_label_classification or multi_label_classification";
                return Err(config.unsupported("problem_type", expected).into());
            }
        };
        Ok(Labels { names, problem })
    }

    fn name(&self, class: usize) -> String {
        self.names.get(class).cloned().flatten().unwrap_or_else(|| format!("LABEL_{class}"))
    }

    /// Logits, and what follows from them as transformers' text classification has it: one score is a probability unless it
    /// is a number to begin with.
    fn output(&self, encoded: &Encoded) -> Json {
        let logits = &encoded.numbers;
        let problem = self.problem.unwrap_or(if logits.len() == 1 { Problem::AnyOf } else { Problem::OneOf });
        let scores: Vec<f32> = match problem {
            Problem::Regression => logits.clone(),
            _ if logits.len() == 1 => logits.iter().copied().map(sigmoid).collect(),
            Problem::AnyOf => logits.iter().copied().map(sigmoid).collect(),
            Problem::OneOf => softmax(logits),
        };
        let best = (0..logits.len()).reduce(|best, i| if logits[i] > logits[best] { i } else { best }).unwrap_or(0);
        let mut output = json!({ "logits": logits, "scores": scores });
        if problem == Problem::AnyOf && logits.len() > 1 {
            let chosen = (0..logits.len()).filter(|&i| scores[i] > 0.5);
            output["labels"] = chosen.map(|i| self.name(i)).collect();
        } else if problem != Problem::Regression {
            output["label"] = json!(self.name(best));
        }
        output
    }
}

/// Most classes that are named.
const MOST_CLASSES: usize = 1 << 20;

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = logits.iter().map(|x| (x - largest).exp()).collect();
    let total: f32 = powers.iter().sum();
    powers.iter().map(|x| x / total).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(config: &str, logits: &[f32]) -> Json {
        let labels = Labels::read(&Config::parse(config).unwrap()).unwrap();
        labels.output(&Encoded { width: logits.len(), numbers: logits.to_vec() })
    }

    #[test]
    fn scores_mean_what_the_config_says() {
        let named = r#"{"id2label": {"0": "no", "1": "yes"}}"#;
        let out = output(named, &[0.0, 0.0]);
        assert_eq!((&out["label"], &out["scores"]), (&json!("no"), &json!([0.5, 0.5])));
        assert_eq!(output(named, &[-1.0, 3.0])["label"], "yes");
        let any = r#"{"problem_type": "multi_label_classification", "id2label": {"0": "a", "2": "c"}}"#;
        assert_eq!(output(any, &[1.0, -1.0, 2.0])["labels"], json!(["a", "c"]));
        assert_eq!(output(any, &[-1.0, 1.0, -2.0])["labels"], json!(["LABEL_1"]));
        let number = output(r#"{"problem_type": "regression"}"#, &[-3.5]);
        assert_eq!((&number["scores"], &number["label"]), (&json!([-3.5]), &Json::Null));
        assert_eq!(output("{}", &[0.0])["scores"], json!([0.5]));
        let error = Labels::read(&Config::parse(r#"{"problem_type": "ranking"}"#).unwrap()).err().unwrap();
        assert!(error.to_string().contains("expected regression, single_label_classification or"), "{error}");
    }

    #[test]
    fn halves_of_pairs_are_one_for_all_or_one_each() {
        let texts = || vec![Given::Text("a".into()), Given::Text("b".into())];
        let seconds = |given: &[Given]| -> Vec<Option<String>> {
            let second = |given: &Given| match given {
                Given::Text(text) => text.second.clone(),
                Given::Ids(_) => None,
            };
            given.iter().map(second).collect()
        };
        let args = |texts: &[&str]| PairArgs { text_pair: texts.iter().map(|text| (*text).to_owned()).collect() };
        assert_eq!(seconds(&paired(texts(), &args(&["x"])).unwrap()), [Some("x".into()), Some("x".into())]);
        assert_eq!(seconds(&paired(texts(), &args(&["x", "y"])).unwrap()), [Some("x".into()), Some("y".into())]);
        assert!(paired(texts(), &args(&["x", "y", "z"])).is_err());
        assert!(paired(vec![Given::Ids(vec![1])], &args(&["x"])).is_err());
    }
}
