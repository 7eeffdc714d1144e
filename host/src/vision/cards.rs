//! Sequences that are shown images, on cards.
//!
//! A card's programs have fixed sizes: prompts are written in calls of so many tokens, padded at position −1. What a sequence
//! is shown, rows of images or the pixels of one, fills a buffer that is handed over with its first call and stays on the card.

use std::collections::VecDeque;

use super::encoder::{Embeds, PixelPort};
use super::session::ImagePorts;
use super::{Picture, Size};
use crate::runtime::{Callable, Logits, Row, RuntimeError, Session, Tensor};

/// What a language program was compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compiled {
    /// Tokens of a call that writes a prompt.
    pub prompt_len: usize,
    /// Positions of a sequence.
    pub context: usize,
}

/// What sequences are shown, in the order in which they begin, as a program takes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// The input that takes it.
    name: String,
    waiting: VecDeque<Tensor>,
    /// For a sequence that is shown nothing.
    nothing: Tensor,
}

impl Shown {
    /// Rows of images, for a program that has room for so many `rows`.
    ///
    /// # Errors
    /// If a sequence has more.
    pub fn rows<'a, I: IntoIterator<Item = &'a Embeds>>(
        ports: &ImagePorts,
        rows: usize,
        sequences: impl IntoIterator<Item = I>,
    ) -> Result<Self, RuntimeError> {
        let room = rows * ports.width;
        let filled = |data: Vec<f32>| Tensor::floats([1, rows, ports.width], data);
        let mut waiting = VecDeque::new();
        for images in sequences {
            let mut data: Vec<f32> = images.into_iter().flat_map(|image| image.data.iter().copied()).collect();
            if data.len() > room {
                let found = data.len() / ports.width.max(1);
                let why = format!("a prompt shows {found} rows of images, and the program has room for {rows}");
                return Err(RuntimeError::Program { why });
            }
            data.resize(room, 0.0);
            waiting.push_back(filled(data));
        }
        Ok(Shown { name: ports.embeds.clone(), waiting, nothing: filled(vec![0.0; room]) })
    }

    /// The pixels of at most one image each, of tiles of this size, for a program that looks itself.
    ///
    /// # Errors
    /// If an image has too many tiles.
    pub fn pixels<'a>(
        port: &PixelPort,
        tile: Size,
        sequences: impl IntoIterator<Item = Option<&'a Picture>>,
    ) -> Result<Self, RuntimeError> {
        let nothing = port.black(tile);
        let pixels = |image: Option<&Picture>| image.map_or_else(|| Ok(nothing.clone()), |image| port.tensor(image));
        let waiting = sequences.into_iter().map(pixels).collect::<Result<_, _>>()?;
        Ok(Shown { name: port.name.clone(), waiting, nothing })
    }

    fn next(&mut self) -> Tensor {
        self.waiting.pop_front().unwrap_or_else(|| self.nothing.clone())
    }
}

/// A session of one sequence at a time.
pub struct CardSession {
    program: Box<dyn Callable>,
    ports: ImagePorts,
    compiled: Compiled,
    /// A token that stands for no image, for padding.
    padding: i64,
    shown: Shown,
    /// What is to be handed over with the next call.
    fresh: Option<Tensor>,
    /// Image tokens that calls have had.
    used: Tensor,
}

impl CardSession {
    /// A session whose sequences are shown these images. `token` is the image token.
    pub fn new(program: Box<dyn Callable>, ports: ImagePorts, compiled: Compiled, token: u32, shown: Shown) -> Self {
        let (padding, used) = (i64::from(token == 0), Tensor::filled([1, 1], 0));
        CardSession { program, ports, compiled, padding, shown, fresh: None, used }
    }

    /// One call of `width` tokens, of which these are the first.
    fn call(&mut self, width: usize, tokens: &[u32], position: usize) -> Result<Logits, RuntimeError> {
        let mut ids = vec![self.padding; width];
        let mut positions = vec![-1; width];
        for (i, &token) in tokens.iter().enumerate() {
            ids[i] = token.into();
            positions[i] = (position + i) as i64;
        }
        let [ids, positions] = [ids, positions].map(|row| Tensor::integers([1, width], row));
        let ports = &self.ports;
        let mut inputs = vec![
            (ports.tokens.as_str(), &ids),
            (ports.positions.as_str(), &positions),
            (ports.index.as_str(), &self.used),
        ];
        let fresh = self.fresh.take();
        inputs.extend(fresh.iter().map(|tensor| (self.shown.name.as_str(), tensor)));
        let mut logits = None;
        let mut used = None;
        for (name, tensor) in self.program.call(&inputs)? {
            if name == ports.logits {
                logits = Some(tensor);
            } else if name == ports.next_index {
                used = Some(tensor);
            }
        }
        let missing = |name: &str| RuntimeError::Program { why: format!("it puts out no `{name}`") };
        self.used = used.ok_or_else(|| missing(&ports.next_index))?;
        logits.ok_or_else(|| missing(&ports.logits))?.try_into()
    }
}

impl Session for CardSession {
    fn slots(&self) -> usize {
        1
    }

    fn context(&self) -> usize {
        self.compiled.context
    }

    fn prefill(&mut self, row: Row<'_>) -> Result<Logits, RuntimeError> {
        let Row { mut tokens, mut position, .. } = row;
        let Compiled { prompt_len, context } = self.compiled;
        if position == 0 {
            self.fresh = Some(self.shown.next());
            self.used = Tensor::filled([1, 1], 0);
        }
        let end = position + tokens.len();
        if end > context {
            return Err(RuntimeError::Full { position: end - 1, context });
        }
        loop {
            let left = tokens.len();
            // Padding beside the last position might be taken for it, should the device take −1 for an index.
            let width = if left >= prompt_len || left > 1 && end < context { prompt_len } else { 1 };
            let (now, rest) = tokens.split_at(width.min(left));
            let logits = self.call(width, now, position)?;
            if rest.is_empty() {
                return Ok(logits);
            }
            (tokens, position) = (rest, position + now.len());
        }
    }

    fn decode(&mut self, rows: &[Row<'_>]) -> Result<Logits, RuntimeError> {
        let [row] = rows else {
            return Err(RuntimeError::Program { why: format!("it takes one sequence at a time, not {}", rows.len()) });
        };
        self.call(1, row.tokens, row.position)
    }
}
