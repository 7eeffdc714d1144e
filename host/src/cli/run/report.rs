//! What a run says of itself: figures on stderr, or one JSON document.

use std::time::Duration;

use qeff_core::lower::Quantised;
use serde_json::{Value as Json, json};

use super::reader::Failure;
use crate::cli::{forms, talk};
use crate::generate::{Completion, Request, Timing};

/// How long the parts of a run took.
pub(super) struct Metrics {
    pub(super) engine: &'static str,
    pub(super) loaded: Duration,
    pub(super) total: Duration,
    /// From the start of the process' work to the first id.
    pub(super) first: Duration,
    pub(super) timing: Timing,
}

impl Metrics {
    fn rate(tokens: usize, time: Duration) -> Option<f64> {
        (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64())
    }

    pub(super) fn say(&self, requests: &[Request]) {
        let rate = |tokens, time| Self::rate(tokens, time).map_or("-".into(), |rate| format!("{rate:.1} tok/s"));
        talk::say(&format!(
            "{} prompt{}, first token after {}; prefill {} tokens at {}; decode {} tokens at {}; total {}; peak memory {}",
            requests.len(),
            if requests.len() == 1 { "" } else { "s" },
            talk::seconds(self.first),
            self.timing.prompt_tokens,
            rate(self.timing.prompt_tokens, self.timing.prefill),
            self.timing.decoded_tokens,
            rate(self.timing.decoded_tokens, self.timing.decode),
            talk::seconds(self.total),
            talk::peak_memory().map_or("unknown".into(), talk::megabytes),
        ));
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "engine": self.engine,
            "load_seconds": self.loaded.as_secs_f64(),
            "time_to_first_token_seconds": self.first.as_secs_f64(),
            "total_seconds": self.total.as_secs_f64(),
            "prompt_tokens": self.timing.prompt_tokens,
            "prefill_tokens_per_second": Self::rate(self.timing.prompt_tokens, self.timing.prefill),
            "decoded_tokens": self.timing.decoded_tokens,
            "decode_tokens_per_second": Self::rate(self.timing.decoded_tokens, self.timing.decode),
            "peak_memory_bytes": talk::peak_memory(),
        })
    }
}

/// What the model answered, a request each.
pub(super) struct Answers<'a> {
    pub(super) done: &'a [Completion],
    pub(super) texts: &'a [Option<String>],
    pub(super) failures: &'a [Failure],
}

/// The document that tools read.
pub(super) fn document(
    with_logits: bool,
    requests: &[Request],
    answers: Answers<'_>,
    metrics: &Metrics,
    quantised: &Quantised,
) -> Json {
    let Answers { done, texts, failures } = answers;
    let outputs: Vec<_> = requests
        .iter()
        .zip(done)
        .zip(texts)
        .enumerate()
        .map(|(i, ((request, completion), text))| {
            let mut output = json!({
                "text": text,
                "prompt_ids": request.prompt,
                "generated_ids": completion.ids,
                "finish": completion.finish.name(),
            });
            if with_logits {
                output["step_logits"] = json!(completion.logits);
            }
            if let Some(failure) = failures.iter().find(|failure| failure.requests.contains(&i)) {
                output["error"] = json!(failure.error.to_string());
            }
            output
        })
        .collect();
    let mut document = json!({ "outputs": outputs, "metrics": metrics.json() });
    if !quantised.is_empty() {
        document["weights"] = forms::report(quantised);
    }
    document
}
