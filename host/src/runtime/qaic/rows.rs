//! Which specialization a call takes: the first whose shapes are those of all bindings that are not left out.

use qeff_core::qpc::Interface;

/// Number of the row whose shapes a call has; `dims` gives those of a binding, `[0]` if it is left out.
pub(super) fn find<'a>(interface: &Interface, dims: impl Fn(usize) -> &'a [u32]) -> Option<usize> {
    interface.rows.iter().position(|row| {
        row.iter().enumerate().all(|(binding, allowed)| {
            let given = dims(binding);
            given == [0] || given == allowed.as_slice() || (allowed.is_empty() && given == [1])
        })
    })
}

/// What a call had, and what it might have had, for an error.
pub(super) fn describe<'a>(interface: &Interface, dims: impl Fn(usize) -> &'a [u32]) -> String {
    /// Rows and bindings that are shown.
    const SHOWN: usize = 8;
    let given: Vec<usize> = (0..interface.bindings.len()).filter(|&binding| dims(binding) != [0]).take(SHOWN).collect();
    let list = |shape: &dyn Fn(usize) -> String| {
        given.iter().map(|&b| format!("{} {}", interface.bindings[b].name, shape(b))).collect::<Vec<_>>().join(", ")
    };
    let mut text = format!("no shapes of the program are those of the call: {}", list(&|b| format!("{:?}", dims(b))));
    for row in interface.rows.iter().take(SHOWN) {
        let shape = |b: usize| row.get(b).map_or_else(String::new, |dims| format!("{dims:?}"));
        text.push_str(&format!("\n  allowed: {}", list(&shape)));
    }
    if interface.rows.len() > SHOWN {
        text.push_str(&format!("\n  and {} more", interface.rows.len() - SHOWN));
    }
    text
}
