//! Which texts share a call.
//!
//! The texts of a call are as long as the longest of them; the rest is padding that costs time and gives nothing. So texts
//! are sorted by length, and a call takes neighbours, as long as little is wasted. Results do not depend on it.

/// The sizes that a call may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shapes {
    /// Any number of texts of any length, within bounds.
    Any {
        /// Most texts in a call.
        rows: usize,
        /// Most tokens in a call, padding included; a single text may be longer.
        tokens: usize,
    },
    /// Only these pairs of a number of texts and a length, as they were compiled.
    Compiled(Vec<[usize; 2]>),
}

/// Texts that share a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Numbers of the texts.
    pub texts: Vec<usize>,
    /// Rows of the call: as many as texts, or more, which are idle.
    pub rows: usize,
    /// Length of the call.
    pub len: usize,
}

/// Padding that is no reason for another call: an eighth of the length, or as many tokens as this.
const LITTLE_PADDING: usize = 2;
/// Calls of fewer texts than this take more of them whatever the padding: a call has its own cost.
const FEW_ROWS: usize = 4;

/// The calls for texts of these lengths, longest first.
///
/// # Errors
/// The first text that is longer than any compiled length, and the longest of those.
pub fn plan(lengths: &[usize], shapes: &Shapes) -> Result<Vec<Batch>, TooLong> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&text| (std::cmp::Reverse(lengths[text]), text));
    match shapes {
        Shapes::Any { rows, tokens } => Ok(any(lengths, &order, *rows, *tokens)),
        Shapes::Compiled(pairs) => compiled(lengths, &order, pairs),
    }
}

/// A text longer than anything that was compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("text {text} has {length} tokens; the longest compiled length is {longest}")]
pub struct TooLong {
    /// Number of the text.
    pub text: usize,
    /// Its tokens.
    pub length: usize,
    /// The longest length there is; 0 if there is none.
    pub longest: usize,
}

fn any(lengths: &[usize], order: &[usize], rows: usize, tokens: usize) -> Vec<Batch> {
    let mut batches: Vec<Batch> = vec![];
    for &text in order {
        let fits = |batch: &Batch| {
            let padding = batch.len - lengths[text];
            batch.rows < rows
                && (batch.rows + 1).saturating_mul(batch.len) <= tokens
                && (batch.rows < FEW_ROWS || padding <= (batch.len / 8).max(LITTLE_PADDING))
        };
        match batches.last_mut() {
            Some(batch) if fits(batch) => {
                batch.texts.push(text);
                batch.rows += 1;
            }
            _ => batches.push(Batch { texts: vec![text], rows: 1, len: lengths[text].max(1) }),
        }
    }
    batches
}

fn compiled(lengths: &[usize], order: &[usize], pairs: &[[usize; 2]]) -> Result<Vec<Batch>, TooLong> {
    let mut batches: Vec<Batch> = vec![];
    for &text in order {
        let length = lengths[text];
        let smallest = pairs.iter().filter(|[_, len]| *len >= length).min_by_key(|[_, len]| *len);
        let Some(&[rows, len]) = smallest else {
            let longest = pairs.iter().map(|[_, len]| *len).max().unwrap_or(0);
            return Err(TooLong { text, length, longest });
        };
        match batches.last_mut() {
            Some(batch) if (batch.rows, batch.len) == (rows, len) && batch.texts.len() < rows => batch.texts.push(text),
            _ => batches.push(Batch { texts: vec![text], rows, len }),
        }
    }
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes(batches: &[Batch]) -> Vec<(usize, usize)> {
        batches.iter().map(|batch| (batch.texts.len(), batch.len)).collect()
    }

    #[test]
    fn neighbours_in_length_share_a_call() {
        let lengths = [5, 40, 6, 38, 39, 5, 40, 5, 5, 37];
        let batches = plan(&lengths, &Shapes::Any { rows: 32, tokens: 4096 }).unwrap();
        assert_eq!(shapes(&batches), [(5, 40), (5, 6)]);
        assert_eq!(batches[0].texts, [1, 6, 4, 3, 9]);
        let all: std::collections::BTreeSet<_> = batches.iter().flat_map(|batch| batch.texts.clone()).collect();
        assert_eq!(all.len(), lengths.len());
    }

    #[test]
    fn calls_are_bounded() {
        let rows = Shapes::Any { rows: 3, tokens: 4096 };
        assert_eq!(shapes(&plan(&[8; 7], &rows).unwrap()), [(3, 8), (3, 8), (1, 8)]);
        let tokens = Shapes::Any { rows: 32, tokens: 20 };
        assert_eq!(shapes(&plan(&[8, 30, 8, 8], &tokens).unwrap()), [(1, 30), (2, 8), (1, 8)]);
        assert_eq!(plan(&[], &tokens).unwrap(), []);
    }

    #[test]
    fn the_smallest_compiled_length_that_fits_is_taken() {
        let pairs = Shapes::Compiled(vec![[2, 32], [2, 8], [2, 16]]);
        let batches = plan(&[8, 3, 17, 9, 16, 10], &pairs).unwrap();
        assert_eq!(shapes(&batches), [(1, 32), (2, 16), (1, 16), (2, 8)]);
        assert!(batches.iter().all(|batch| batch.rows == 2));
        let error = plan(&[8, 33], &pairs).unwrap_err();
        assert_eq!(error, TooLong { text: 1, length: 33, longest: 32 });
    }
}
