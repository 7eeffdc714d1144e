//! A text, or a pair of texts, as an encoder takes it: with the special tokens around it, the segment of each token, and cut
//! to a length if that is wished.
//!
//! transformers calls segments `token_type_ids`. What is cut off is the end of the longer text; special tokens stay.

use tokenizers::utils::truncation::{TruncationDirection, TruncationParams, TruncationStrategy, truncate_encodings};

use super::tokenizer::{Tokenizer, guarded};
use super::{Pair, TextError};

/// A text or pair as ids.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Framed {
    /// Token ids, special ones included.
    pub ids: Vec<u32>,
    /// The segment of each token: 0, or 1 for the second text of a pair where the tokenizer tells them apart.
    pub segments: Vec<u32>,
    /// How many tokens there were before anything was cut off.
    pub whole: usize,
}

impl Tokenizer {
    /// The ids of a text or pair; at most `longest` of them, if that is given.
    ///
    /// # Errors
    ///
    /// The library refuses, or `longest` leaves no room for the special tokens.
    pub fn frame(&self, text: &Pair, longest: Option<usize>) -> Result<Framed, TextError> {
        let refused = |reason| self.library(format!("encode {} bytes of text", text.first.len()), reason);
        let encoding = |text: &str| guarded(|| self.inner.encode_fast(text, false)).map_err(refused);
        let first = encoding(&text.first)?;
        let second = text.second.as_deref().map(encoding).transpose()?;
        let added = self.inner.get_post_processor().map_or(0, |frame| {
            use tokenizers::PostProcessor as _;
            frame.added_tokens(second.is_some())
        });
        let whole = first.len() + second.as_ref().map_or(0, |second| second.len()) + added;
        let (first, second) = match longest {
            Some(longest) if longest < whole => {
                let room = longest.checked_sub(added).filter(|room| *room > 0);
                let max_length = room.ok_or_else(|| {
                    refused(format!("{longest} tokens leave no room beside {added} special tokens; allow more"))
                })?;
                let direction =
                    if self.config.cut_left { TruncationDirection::Left } else { TruncationDirection::Right };
                let how =
                    TruncationParams { max_length, direction, strategy: TruncationStrategy::LongestFirst, stride: 0 };
                guarded(|| truncate_encodings(first, second, &how)).map_err(refused)?
            }
            _ => (first, second),
        };
        let framed = guarded(|| self.inner.post_process(first, second, true)).map_err(refused)?;
        let ids = framed.get_ids().to_vec();
        let segments = if self.config.without_segments { vec![0; ids.len()] } else { framed.get_type_ids().to_vec() };
        Ok(Framed { ids, segments, whole })
    }

    /// The most tokens that the tokenizer's config says the model takes, if it says so.
    pub fn longest(&self) -> Option<usize> {
        self.config.model_max_length
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A tokenizer of single words: `[CLS]` a `[SEP]` b `[SEP]`.
    fn tokenizer(dir: &Path, config: &str) -> Tokenizer {
        let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d", "e"];
        let vocab: serde_json::Map<_, _> =
            words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), id.into())).collect();
        let token = |text: &str, kind: u8| serde_json::json!({"SpecialToken": {"id": text, "type_id": kind}});
        let text = |side: &str, kind: u8| serde_json::json!({"Sequence": {"id": side, "type_id": kind}});
        let single = [token("[CLS]", 0), text("A", 0), token("[SEP]", 0)];
        let pair = [token("[CLS]", 0), text("A", 0), token("[SEP]", 0), text("B", 1), token("[SEP]", 1)];
        let special =
            |text: &str, id: u32| (text.to_owned(), serde_json::json!({"id": text, "ids": [id], "tokens": [text]}));
        let specials: serde_json::Map<_, _> = [special("[CLS]", 2), special("[SEP]", 3)].into_iter().collect();
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "Whitespace"}, "decoder": null,
            "post_processor": {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": specials},
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"},
        });
        std::fs::write(dir.join("tokenizer.json"), json.to_string()).unwrap();
        std::fs::write(dir.join("tokenizer_config.json"), config).unwrap();
        Tokenizer::open(dir).unwrap().unwrap()
    }

    #[test]
    fn pairs_have_segments_and_are_cut_where_they_are_longest() {
        let dir = tempfile::tempdir().unwrap();
        let tokenizer = tokenizer(dir.path(), r#"{"model_max_length": 512}"#);
        let pair = Pair { first: "a b".into(), second: Some("a b c d e".into()) };
        let whole = tokenizer.frame(&pair, None).unwrap();
        assert_eq!(whole.ids, [2, 4, 5, 3, 4, 5, 6, 7, 8, 3]);
        assert_eq!(whole.segments, [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]);
        let cut = tokenizer.frame(&pair, Some(8)).unwrap();
        assert_eq!(cut.ids, [2, 4, 5, 3, 4, 5, 6, 3]);
        assert_eq!(cut.whole, 10);
        assert_eq!(tokenizer.frame(&Pair::from("a b c"), Some(3)).unwrap().ids, [2, 4, 3]);
        assert_eq!(tokenizer.longest(), Some(512));
        let error = tokenizer.frame(&pair, Some(3)).unwrap_err().to_string();
        assert!(error.contains("3 tokens leave no room beside 3 special tokens"), "{error}");
    }

    #[test]
    fn the_config_says_which_side_is_cut_and_whether_there_are_segments() {
        let dir = tempfile::tempdir().unwrap();
        let config = r#"{"truncation_side": "left", "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": 1000000000000000019884624838656}"#;
        let tokenizer = tokenizer(dir.path(), config);
        let pair = Pair { first: "a".into(), second: Some("b c d".into()) };
        let cut = tokenizer.frame(&pair, Some(5)).unwrap();
        assert_eq!(cut.ids, [2, 4, 3, 7, 3]);
        assert_eq!(cut.segments, [0; 5]);
        assert_eq!(tokenizer.longest(), None);
    }
}
