//! Texts that are no models, and what is said about them.

use super::tensors;
use crate::text::{parse, print};

const GOOD: &str = r#"model "Tiny" qeff 1 task causal_lm positions 16
stale ".old"
link main hidden -> main input_ids
program main (b, s, t)

  # A comment.
  %ids = input input_ids : i64[b, s] @tokens
  %pos = input position_ids : i64[b, s] @positions
  %k0, %v0 = State kv.0 names(past_key.0, past_value.0) : act[b, 2, t, 4]
  %cos = weight rope(cos, default, base=10000, width=4, positions=16, reach=0) : act[16, 2]
  model
    embed
      %0 = Embedding %ids, w"weight" : act[b, s, 8]
    layers.0
      %1 = Linear %0, w"/model.embed.weight" heads 2 : act[b, s, 2, 4]
      %2 = Rotary %1, %cos, %cos, %pos half : act[b, s, 2, 4]
      %k0', %v0' = StateWrite (%k0, %v0) <- (%2, %2) at %pos
      %3 = Attention %2, %k0', %v0' at %pos sliding(4) scale 0.5 : act[b, s, 8]
      %4 = LayerNormalization %3, fill(1, [8]) {axis: -1, epsilon: 1e-5} : act[b, s, 8]
  %5, %6 = Select %4, %pos last : act[b, 1, 8], i64[b, 1]
  output hidden = %5 : act[b, 1, 8] @hidden
"#;

/// What replaces what in [`GOOD`], and the message.
const CASES: &[(&str, &str, &str)] = &[
    // the head
    (GOOD, "", "line 1, column 1: expected `model`, found the end of the line"),
    ("model \"Tiny\"", "graph \"Tiny\"", "line 1, column 1: expected `model`, found `graph`"),
    ("\"Tiny\"", "Tiny", "line 1, column 7: expected an architecture in quotes, found `Tiny`"),
    ("\"Tiny\"", "\"Tiny", "line 1, column 7: expected an architecture with a closing quote, found `\"Tiny`"),
    ("\"Tiny\"", r#""T\q""#, r#"line 1, column 9: expected an escape: \" \\ \' \n \t \r \0 \u{…}, found `\q"`"#),
    ("\"Tiny\"", r#""\u{d800}""#, r#"line 1, column 8: expected a character code `\u{…}`, found `\u{d800}"`"#),
    ("qeff 1", "qeff 4", "line 1, column 19: expected a version of qeff up to 3, found `4`"),
    (
        "task causal_lm",
        "task poet",
        "line 1, column 26: expected a task (causal_lm, encoder, sequence_classification, ctc, speech_to_text, image_text_to_text), found `poet`",
    ),
    ("positions 16", "positions -1", "line 1, column 46: expected a number of positions, found `-1`"),
    ("positions 16", "positions 16 soft", "line 1, column 49: expected the end of the line, found `soft`"),
    (
        "stale \".old\"",
        "stale",
        "line 2, column 6: expected the ending of a tensor's name in quotes, found the end of the line",
    ),
    ("link main hidden ->", "link main ->", "line 3, column 11: expected an output of the program, found `->`"),
    ("link main", "lynk main", "line 3, column 1: expected `stale`, `link` or `program`, found `lynk`"),
    ("program main", "programme main", "line 4, column 1: expected `stale`, `link` or `program`, found `programme`"),
    ("program main (b, s, t)", "program main", "line 4, column 13: expected `(`, found the end of the line"),
    ("(b, s, t)", "(b, s t)", "line 4, column 20: expected `,` or `)`, found `t)`"),
    ("(b, s, t)", "(b, s)", "line 4, column 14: expected the symbols of the declarations, (b, s, t), found `(b,`"),
    (
        "(b, s, t)",
        "(b, s, t) act f99",
        "line 4, column 28: expected an element type (f64, f32, f16, bf16, i64, i32, i16, i8, u8, bool), found `f99`",
    ),
    // lines and scopes
    ("\n  # A comment.", "\n    x", "line 6, column 5: expected an indentation of 2, 4, … up to 2 spaces, found `x`"),
    (
        "\n    embed",
        "\n   embed",
        "line 12, column 4: expected an indentation of 2, 4, … up to 4 spaces, found `embed`",
    ),
    ("\n    embed", "\n    embed it", "line 12, column 11: expected the end of the line after a heading, found `it`"),
    ("\n    embed", "\n    =", "line 12, column 5: expected a heading, `output` or `%… =`, found `=`"),
    ("\n  model", "\nmodel", "line 11, column 1: expected `program`, found `model`"),
    ("\n  output", "\n  outputs", "line 21, column 11: expected the end of the line after a heading, found `hidden`"),
    // declarations
    ("%ids = input input_ids", "%ids = input", "line 7, column 16: expected the input's name, found `:`"),
    (
        "@tokens",
        "@token",
        "line 7, column 39: expected a role (tokens, positions, mask, segments, features, pixels, packing, carry, batch_index, keep, context, logits, hidden, pooled, classes, embeds), found `token`",
    ),
    ("%pos = input", "%ids = input", "line 8, column 3: `%ids` is defined already"),
    ("%k0, %v0 =", "%k0, %k0 =", "line 9, column 8: `%k0` is defined already"),
    ("%k0, %v0 =", "%k0 =", "line 9, column 3: expected 2 values on the left, found `%k0`"),
    (
        "i64[b, s] @tokens",
        "i63[b, s] @tokens",
        "line 7, column 28: expected an element type (act, f32, i64, i32, bool), found `i63[b,`",
    ),
    (
        "i64[b, s] @tokens",
        "i64[99999999999999999999] @tokens",
        "line 7, column 32: expected a size that fits 64 bits, found `99999999999999999999]`",
    ),
    (
        "names(past_key.0, past_value.0)",
        "names(past_key.0)",
        "line 9, column 3: expected 1 values on the left, found `%k0,`",
    ),
    (
        "past_value.0) : act",
        "past_value.0) act",
        "line 9, column 57: expected `:` and one type, or one for each of 2 parts, found `act[b,`",
    ),
    (
        ": act[16, 2]",
        ": act[16, 3]",
        "line 10, column 82: expected act[16, 2], the type of the weight, found `act[16,`",
    ),
    (
        "\n      %0 = Embedding",
        "\n      %x = input x : i64[] @keep\n      %0 = Embedding",
        "line 13, column 12: expected an operator; declarations stand directly below the program, found `input`",
    ),
    // operands
    ("Embedding %ids", "Embedding %idx", "line 13, column 22: `%idx` is not defined before it is used"),
    ("Embedding %ids", "Embedding 7", "line 13, column 22: expected ` : ` and the types of the results, found `7,`"),
    ("%0 = Embedding", "%0 Embedding", "line 13, column 10: expected `=`, found `Embedding`"),
    (
        "%0 = Embedding",
        "%0 = State",
        "line 13, column 12: expected an operator; declarations stand directly below the program, found `State`",
    ),
    ("w\"weight\"", "w\"wait\"", "line 13, column 28: the checkpoint has no tensor `model.embed.wait`"),
    ("w\"weight\"", "w\"weight\".take(0, 3)", "line 13, column 47: expected `,` in a weight expression, found `)`"),
    (
        "w\"weight\"",
        "w\"weight\".transpose(0, 0)",
        "line 13, column 28: transpose(0, 0) does not fit an operand of shape [8, 8]: [0, 0] is no permutation of its axes",
    ),
    (
        "w\"weight\"",
        "w\"weight\" as f16",
        "line 13, column 41: expected an element type (act, f32, i64, i32, bool), found `f16`",
    ),
    ("<- (%2, %2)", "<- (%2)", "line 17, column 45: expected new rows for each of 2 parts, found `(%2)`"),
    ("(%k0, %v0) <-", "(%k0, %v0)", "line 17, column 42: expected `<-`, found `(%2,`"),
    (
        "%k0', %v0' at",
        "%k0', %v0', %pos at",
        "line 18, column 43: expected 3 operands and then labelled ones, found `at`",
    ),
    ("%4 = LayerNormalization", "%4 = Layer-Norm", "line 19, column 12: expected an operator, found `Layer-Norm`"),
    // attributes
    (" heads 2", " heads two", "line 15, column 52: expected a number of heads, found `two`"),
    (" heads 2", " colour 2", "line 15, column 46: expected ` : ` and the types of the results, found `colour`"),
    (" half", "", "line 16, column 40: expected a layout (half, interleaved), found `:`"),
    (" sliding(4)", " sliding", "line 18, column 53: expected `(`, found `scale`"),
    (" scale 0.5", "", "line 18, column 56: expected `scale`, found `:`"),
    (" last", " first", "line 20, column 28: expected a rule (last, last_k, all), found `first`"),
    ("{axis: -1,", "{axis -1,", "line 19, column 54: expected `:`, found `-1,`"),
    (
        "{axis: -1,",
        "{axis: 1x,",
        "line 19, column 55: expected an integer, a number, a text, integers in brackets or an element type, found `1x,`",
    ),
    ("epsilon: 1e-5", "axis: 1", "line 19, column 59: expected an attribute that was not given yet, found `axis:`"),
    // types
    (
        ": act[b, s, 2, 4]\n      %2",
        ": act[b, s, 8]\n      %2",
        "line 15, column 56: expected act[b, s, 2, 4], the type of result 0, found `act[b,`",
    ),
    (
        " : act[b, s, 2, 4]\n      %2",
        "\n      %2",
        "line 15, column 53: expected ` : act[b, s, 2, 4]`, found the end of the line",
    ),
    (", i64[b, 1]", "", "line 20, column 47: expected `, i64[b, 1]`, found the end of the line"),
    (", i64[b, 1]", ", i64[b, 1], i64[]", "line 20, column 60: expected no more than 2 types, found `i64[]`"),
    ("%5, %6 =", "%5 =", "line 20, column 8: expected an operator with 1 results, as on the left, found `Select`"),
    (
        "Rotary %1, %cos",
        "Rotary %0, %cos",
        "line 16, column 12: Rotary: operand `x`: expected [batch, seq, heads, width], found act[b, s, 8]",
    ),
    (
        "= %5 : act[b, 1, 8]",
        "= %5 : act[b, s, 8]",
        "line 21, column 24: expected act[b, 1, 8], the type of the value, found `act[b,`",
    ),
];

#[test]
fn each_mistake_is_named_with_its_place() {
    let index = tensors(&[("model.embed.weight", &[8, 8])]);
    let good = parse(GOOD, &index).unwrap_or_else(|error| panic!("{error}"));
    assert!(parse(&print(&good), &index).is_ok());
    let mut failures = String::new();
    for (from, to, expected) in CASES {
        assert_eq!(GOOD.matches(from).count(), 1, "{from:?} does not stand exactly once in the good text");
        let found = parse(&GOOD.replace(from, to), &index).map_or_else(|error| error.to_string(), |_| String::new());
        if found != *expected {
            failures += &format!("{from:?} → {to:?}\n  expected {expected}\n  found    {found}\n");
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}
