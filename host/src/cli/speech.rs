//! What verbs that listen have in common.

use crate::speech::Language;

/// The language that was typed.
pub(crate) fn language(typed: Option<&str>) -> Language {
    match typed {
        None => Language::Unsaid,
        Some(auto) if auto.eq_ignore_ascii_case("auto") => Language::Auto,
        Some(language) => Language::Given(language.to_owned()),
    }
}
