//! Pieces joined are what decoding all ids at once gives, whatever the ids.

use std::path::Path;

use super::*;
use proptest::prelude::*;

const STYLES: [&str; 6] = ["gpt2", "llama2", "llama3", "chatml", "spm-bpe", "spm-unigram"];

fn open(style: &str) -> Tokenizer {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tokenizers").join(style);
    Tokenizer::open(&dir).expect("valid files").expect("a tokenizer")
}

/// A token that begins with a space, and loses it at the beginning of a text.
fn word(tokenizer: &Tokenizer) -> u32 {
    let spaced = |id: &u32| tokenizer.id_to_token(*id).is_some_and(|token| token.starts_with('▁') && token.len() > 4);
    (0..tokenizer.vocab_size() as u32).find(spaced).expect("a word")
}

fn pieces(tokenizer: &Tokenizer, ids: &[u32], skip: bool) -> Vec<String> {
    let mut stream = TextStream::new(tokenizer, skip);
    let mut pieces: Vec<_> = ids.iter().map(|id| stream.push(*id).expect("decodes")).collect();
    pieces.push(stream.finish().expect("decodes"));
    pieces
}

fn check(tokenizer: &Tokenizer, ids: &[u32]) {
    for skip in [false, true] {
        let whole = tokenizer.decode(ids, skip).expect("decodes");
        assert_eq!(pieces(tokenizer, ids, skip).concat(), whole, "{tokenizer:?} {ids:?} skip {skip}");
    }
}

#[test]
fn texts_come_back_in_pieces() {
    for style in STYLES {
        let tokenizer = open(style);
        for text in
            ["", " ", "The quick  brown fox.", "naïve 日本語 👩‍👩‍👧 ok", "a\n\n  b\tc", " leading", "don 't . stop ' n't"]
        {
            check(&tokenizer, &tokenizer.encode(text, true).expect("encodes"));
            check(&tokenizer, &tokenizer.encode(text, false).expect("encodes"));
        }
    }
}

#[test]
fn a_character_is_never_shown_in_halves() {
    for style in STYLES {
        let tokenizer = open(style);
        let text = "é 日本 👍 ж";
        let ids = tokenizer.encode(text, false).expect("encodes");
        if tokenizer.decode(&ids, false).expect("decodes") != text {
            continue; // The Unigram fixture has no bytes to spell these with.
        }
        for piece in pieces(&tokenizer, &ids, false) {
            assert!(!piece.contains('\u{FFFD}'), "{style}: {piece:?}");
        }
    }
}

#[test]
fn words_are_shown_as_soon_as_they_are_there() {
    let tokenizer = open("llama2");
    let ids = tokenizer.encode("the fox and the dog", false).expect("encodes");
    let pieces = pieces(&tokenizer, &ids, false);
    assert!(pieces[..ids.len()].iter().all(|piece| !piece.is_empty()), "{pieces:?}");
}

#[test]
fn a_skipped_token_does_not_cost_the_next_its_space() {
    let tokenizer = open("llama2");
    let the = word(&tokenizer);
    let eos = tokenizer.eos_id().expect("EOS");
    check(&tokenizer, &[eos, the, eos, the]);
    check(&tokenizer, &[the, eos, eos, the, 9999, the]);
}

#[test]
fn runs_of_bytes() {
    let tokenizer = open("llama2");
    let byte = |b: u8| tokenizer.token_to_id(&format!("<0x{b:02X}>")).expect("a byte token");
    let the = word(&tokenizer);
    let ids = |bytes: &[u8], last: Option<u32>| bytes.iter().map(|b| byte(*b)).chain(last).collect::<Vec<_>>();
    // Whole, cut short, broken late, broken at once, a space in front.
    for bytes in ["€".as_bytes(), &[0xE2, 0x82], &[0xE2, 0x82, 0xAC, 0xFF, 0x41], &[0xFF, 0x41, 0xC3, 0xA9], b" a"] {
        check(&tokenizer, &ids(bytes, None));
        check(&tokenizer, &ids(bytes, Some(the)));
        check(&tokenizer, &[ids(b"ab", Some(the)), ids(bytes, Some(the))].concat());
    }
    // A long run is shown before it ends, and stays right.
    let long = "日本語のテキスト、とても長い文。".repeat(20);
    let long = ids(long.as_bytes(), Some(the));
    check(&tokenizer, &long);
    assert!(pieces(&tokenizer, &long[..100], false).iter().take(100).any(|piece| !piece.is_empty()));
}

proptest! {
    #[test]
    fn pieces_join_to_the_whole(style in 0..STYLES.len(), picks in prop::collection::vec(any::<prop::sample::Index>(), 0..90)) {
        let tokenizer = open(STYLES[style]);
        let ids: Vec<u32> = picks.iter().map(|pick| pick.index(tokenizer.vocab_size() + 3) as u32).collect();
        check(&tokenizer, &ids);
    }

    /// Bytes only, which random ids of a real vocabulary rarely are. Runs stay below the length that is shown early.
    #[test]
    fn random_bytes_join_to_the_whole(style in 0..STYLES.len(), picks in prop::collection::vec((0u8..4, any::<u8>()), 0..120)) {
        let tokenizer = open(STYLES[style]);
        let spelled = |token: String| tokenizer.token_to_id(&token);
        let ids: Vec<u32> = picks.chunks(40).flat_map(|chunk| {
            chunk.iter().map(|(kind, byte)| match kind {
                0 => byte & 0x3F | 0x80,
                1 => byte | 0xC0,
                2 => byte & 0x7F,
                _ => *byte,
            }).map(|byte| spelled(format!("<0x{byte:02X}>")).unwrap_or(u32::from(byte))).chain(spelled("a".into()))
        }).collect();
        check(&tokenizer, &ids);
    }

    #[test]
    fn cleaning_up_in_pieces_is_cleaning_up(text in "[ .?!,'ntmsvera]{0,40}", cuts in prop::collection::vec(0usize..40, 0..6)) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tokenizers/gpt2/tokenizer.json");
        std::fs::copy(source, dir.path().join("tokenizer.json")).expect("copy");
        std::fs::write(dir.path().join("tokenizer_config.json"), r#"{"clean_up_tokenization_spaces": true}"#).expect("write");
        let tokenizer = Tokenizer::open(dir.path()).expect("valid").expect("a tokenizer");
        let mut stream = TextStream::new(&tokenizer, false);
        let mut cuts: Vec<_> = cuts.into_iter().filter(|cut| *cut < text.len()).chain([0, text.len()]).collect();
        cuts.sort_unstable();
        let mut joined = String::new();
        for cut in cuts.windows(2) {
            joined.push_str(&stream.clean(text[cut[0]..cut[1]].to_owned(), false));
        }
        joined.push_str(&stream.clean(String::new(), true));
        prop_assert_eq!(joined, clean_up(&text));
    }
}

fn watch(stops: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
    let mut watcher = StopStrings::new(stops.iter().map(|s| s.to_string()).collect()).expect("valid");
    let mut text = String::new();
    for piece in pieces {
        let watched = watcher.push(piece);
        text.push_str(&watched.text);
        if watched.stopped_by.is_some() {
            return (text, watched.stopped_by);
        }
    }
    (text + &watcher.finish(), None)
}

#[test]
fn stop_strings_cut_across_pieces() {
    type Row = (&'static [&'static str], &'static [&'static str], &'static str, Option<usize>);
    let rows: [Row; 9] = [
        (&["\nUser:"], &["Hi\n", "Us", "er", ": x"], "Hi", Some(0)),
        (&["\nUser:"], &["Hi\n", "Uncle"], "Hi\nUncle", None),
        (&["END"], &["a", "EN"], "aEN", None),
        (&["abc", "b"], &["xabc"], "xa", Some(1)),
        (&["b", "ab"], &["x", "ab"], "x", Some(1)),
        (&["aab"], &["aa", "ab"], "a", Some(0)),
        (&["日本"], &["今日", "日本"], "今日", Some(0)),
        (&["日本"], &["日", "没"], "日没", None),
        (&[], &["a", "b"], "ab", None),
    ];
    for (stops, pieces, text, by) in rows {
        assert_eq!(watch(stops, pieces), (text.to_owned(), by), "{stops:?} {pieces:?}");
    }
    assert!(
        StopStrings::new(vec!["a".into(), String::new()]).unwrap_err().to_string().contains("stop string 1 is empty")
    );
}

#[test]
fn text_that_cannot_stop_is_not_held() {
    let mut watcher = StopStrings::new(vec!["</s>".into()]).expect("valid");
    assert_eq!(watcher.push("a < b").text, "a < b");
    assert_eq!(watcher.push("</").text, "");
    assert_eq!(watcher.push("p>").text, "</p>");
}

proptest! {
    #[test]
    fn how_text_is_divided_makes_no_difference(
        text in "[abc]{0,24}", stops in prop::collection::vec("[abc]{1,4}", 0..4), cuts in prop::collection::vec(0usize..24, 0..8),
    ) {
        let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
        let mut cuts: Vec<_> = cuts.into_iter().filter(|cut| *cut < text.len()).chain([0, text.len()]).collect();
        cuts.sort_unstable();
        let divided: Vec<&str> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
        let whole = watch(&stops, &[&text]);
        prop_assert_eq!(&watch(&stops, &divided), &whole);
        prop_assert_eq!(whole.1.is_some(), stops.iter().any(|stop| text.contains(stop)));
    }
}
