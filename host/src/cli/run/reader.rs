//! What becomes of ids as they arrive: text, watched for stop strings, shown at once or at the end.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::cli::talk;
use crate::generate::{Completion, Flow, Observer};
use crate::runtime::RuntimeError;
use crate::text::{StopStrings, TextStream, Tokenizer};

/// What becomes visible while ids arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    /// The text of the only request as it is decided.
    Stream,
    /// The text of every request once all are done.
    Collected,
    /// Nothing: the caller prints.
    Nothing,
}

/// Turns ids into text and watches for stop strings.
pub(super) struct Reader<'t> {
    requests: Vec<Progress<'t>>,
    eos: BTreeSet<u32>,
    show: Show,
    failures: Vec<Failure>,
}

/// Requests that a card's failure ended.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Their numbers.
    pub(crate) requests: Vec<usize>,
    /// Why.
    pub(crate) error: RuntimeError,
}

struct Progress<'t> {
    stream: Option<TextStream<'t>>,
    stops: StopStrings,
    text: String,
    stopped: bool,
}

impl<'t> Reader<'t> {
    pub(super) fn new(
        tokenizer: Option<&'t Tokenizer>,
        stops: &[String],
        eos: &[u32],
        count: usize,
        show: Show,
    ) -> Result<Self> {
        let requests = (0..count)
            .map(|_| {
                Ok(Progress {
                    stream: tokenizer.map(|tokenizer| TextStream::new(tokenizer, true)),
                    stops: StopStrings::new(stops.to_vec())?,
                    text: String::new(),
                    stopped: false,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Reader { requests, eos: eos.iter().copied().collect(), show, failures: vec![] })
    }

    /// What failed so far.
    pub(super) fn failures(&mut self) -> Vec<Failure> {
        std::mem::take(&mut self.failures)
    }

    /// The text of each request, `None` without a tokenizer. Prints what was not printed yet.
    pub(super) fn finish(self, done: &[Completion]) -> Result<Vec<Option<String>>> {
        let mut texts = vec![];
        let many = self.requests.len() > 1;
        for (i, (progress, completion)) in self.requests.into_iter().zip(done).enumerate() {
            let Some(stream) = progress.stream else {
                if self.show != Show::Nothing {
                    let ids: Vec<_> = completion.ids.iter().map(u32::to_string).collect();
                    talk::data(&format!("{}\n", ids.join(",")))?;
                }
                texts.push(None);
                continue;
            };
            let mut stops = progress.stops;
            let mut rest = String::new();
            if !progress.stopped {
                rest = stops.push(&stream.finish()?).text;
                rest.push_str(&stops.finish());
            }
            let text = format!("{}{rest}", progress.text);
            match self.show {
                Show::Stream => talk::data(&format!("{rest}\n"))?,
                Show::Collected if many => talk::data(&format!("[{i}] {text}\n"))?,
                Show::Collected => talk::data(&format!("{text}\n"))?,
                Show::Nothing => {}
            }
            texts.push(Some(text));
        }
        Ok(texts)
    }
}

impl Observer for Reader<'_> {
    fn token(&mut self, request: usize, id: u32) -> Result<Flow> {
        let progress = &mut self.requests[request];
        let Some(stream) = &mut progress.stream else { return Ok(Flow::Continue) };
        if self.eos.contains(&id) {
            return Ok(Flow::Continue); // It ends the sequence; it is not part of the text.
        }
        let watched = progress.stops.push(&stream.push(id)?);
        progress.text.push_str(&watched.text);
        if self.show == Show::Stream {
            talk::data(&watched.text)?;
        }
        progress.stopped = watched.stopped_by.is_some();
        Ok(if progress.stopped { Flow::Stop } else { Flow::Continue })
    }

    fn failed(&mut self, requests: &[usize], error: RuntimeError) -> Result<(), RuntimeError> {
        self.failures.push(Failure { requests: requests.to_vec(), error });
        Ok(())
    }
}
