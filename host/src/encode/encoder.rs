//! Texts through one program, whatever executes it.

use anyhow::{Context as _, Result, bail};
use qeff_plugin_api::graph::{Model, Role};

use super::batches::{Batch, Shapes, plan};
use crate::runtime::{Callable, Data, Tensor};
use crate::text::Framed;

/// What a program makes of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// Numbers in one vector.
    pub width: usize,
    /// One vector; or, where nothing is pooled, one for each token, one after the other.
    pub numbers: Vec<f32>,
}

/// A program that takes texts.
pub struct Encoder {
    program: Box<dyn Callable>,
    /// The inputs it has, and what they mean.
    inputs: Vec<(String, Role)>,
    /// The output, and what it means.
    output: (String, Role),
    shapes: Shapes,
    /// The id that fills a text up.
    padding: u32,
}

/// What a call did, for those who measure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Calls.
    pub calls: usize,
    /// Tokens of texts.
    pub tokens: usize,
    /// Places that calls had for tokens.
    pub places: usize,
}

impl Encoder {
    /// An encoder over a loaded program of `model`.
    ///
    /// # Errors
    /// If the model has inputs that no text fills, or puts out nothing that is of a text.
    pub fn new(model: &Model, program: Box<dyn Callable>, shapes: Shapes, padding: u32) -> Result<Self> {
        let described = model.programs.first().context("the model has no program")?;
        let mut inputs = vec![];
        for input in &described.inputs {
            if !matches!(input.role, Role::Tokens | Role::Mask | Role::Segments) {
                bail!("{} takes `{}`, which no text has: it is no encoder of texts", model.architecture, input.name);
            }
            inputs.push((input.name.clone(), input.role));
        }
        let output = [Role::Pooled, Role::Classes, Role::Hidden].into_iter().find_map(|role| described.output(role));
        let output = output.with_context(|| format!("{} puts out nothing that is of a text", model.architecture))?;
        Ok(Encoder { program, inputs, output: (output.name.clone(), output.role), shapes, padding })
    }

    /// The same over a program that was made without the inputs of these roles: what texts have of them is 0.
    pub fn without(mut self, roles: &[Role]) -> Self {
        self.inputs.retain(|(_, role)| !roles.contains(role));
        self
    }

    /// The same with calls of other shapes.
    pub fn with_shapes(self, shapes: Shapes) -> Self {
        Encoder { shapes, ..self }
    }

    /// Each text's result, in the order of the texts; `done` hears how many texts each call has finished.
    ///
    /// # Errors
    /// If a text is too long for the program, or a call fails.
    pub fn encode(&mut self, texts: &[Framed], done: &dyn Fn(usize)) -> Result<(Vec<Encoded>, Work)> {
        let lengths: Vec<usize> = texts.iter().map(|text| text.ids.len()).collect();
        let mut results: Vec<Option<Encoded>> = vec![None; texts.len()];
        let mut work = Work::default();
        for batch in plan(&lengths, &self.shapes)? {
            let made = self.call(&batch, texts)?;
            for (&text, result) in batch.texts.iter().zip(made) {
                results[text] = Some(result);
            }
            work.calls += 1;
            work.tokens += batch.texts.iter().map(|&text| lengths[text]).sum::<usize>();
            work.places += batch.rows * batch.len;
            done(batch.texts.len());
        }
        let results: Option<Vec<_>> = results.into_iter().collect();
        Ok((results.context("a text was in no call")?, work))
    }

    fn call(&mut self, batch: &Batch, texts: &[Framed]) -> Result<Vec<Encoded>> {
        let inputs: Vec<Tensor> = self.inputs.iter().map(|(_, role)| self.input(*role, batch, texts)).collect();
        let named: Vec<_> =
            self.inputs.iter().zip(&inputs).map(|((name, _), tensor)| (name.as_str(), tensor)).collect();
        let mut outputs = self.program.call(&named)?;
        let place = outputs.iter().position(|(name, _)| *name == self.output.0);
        let place = place.with_context(|| format!("the program gave no `{}`", self.output.0))?;
        self.results(batch, texts, outputs.swap_remove(place).1)
    }

    fn input(&self, role: Role, batch: &Batch, texts: &[Framed]) -> Tensor {
        let fill = if role == Role::Tokens { i64::from(self.padding) } else { 0 };
        let mut data = vec![fill; batch.rows * batch.len];
        for (row, &text) in data.chunks_exact_mut(batch.len).zip(&batch.texts) {
            let text = &texts[text];
            match role {
                Role::Tokens => row.iter_mut().zip(&text.ids).for_each(|(to, &id)| *to = i64::from(id)),
                Role::Segments => row.iter_mut().zip(&text.segments).for_each(|(to, &kind)| *to = i64::from(kind)),
                _ => row[..text.ids.len()].fill(1),
            }
        }
        Tensor::integers([batch.rows, batch.len], data)
    }

    /// The rows of an output `[rows, width]`, or `[rows, len, width]` of tokens.
    fn results(&self, batch: &Batch, texts: &[Framed], output: Tensor) -> Result<Vec<Encoded>> {
        let Tensor { shape, data } = output;
        let width = shape.last().copied().unwrap_or(0);
        let per_token = self.output.1 == Role::Hidden;
        let expected = batch.rows * width * if per_token { batch.len } else { 1 };
        let Data::F32(numbers) = data else { bail!("output `{}` is {}, not f32", self.output.0, data.name()) };
        if numbers.len() != expected || expected == 0 {
            bail!(
                "output `{}` has the shape {shape:?} for {} texts of {} tokens",
                self.output.0,
                batch.rows,
                batch.len
            );
        }
        let rows = numbers.chunks_exact(numbers.len() / batch.rows).zip(&batch.texts);
        let numbers = rows.map(|(row, &text)| if per_token { &row[..texts[text].ids.len() * width] } else { row });
        Ok(numbers.map(|numbers| Encoded { width, numbers: numbers.to_vec() }).collect())
    }
}
