//! The types of the boundary as text: a change of the snapshot is a change for everybody who has built a plugin.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use abi_stable::StableAbi as _;
use abi_stable::type_layout::{TLFunction, TypeLayout};

use super::{ABI_VERSION, PluginModRef, SYMBOL_PREFIX};

/// Describes a type and those in it, ours with their fields and functions.
fn describe(layout: &'static TypeLayout, seen: &mut BTreeSet<String>, text: &mut String) {
    let name = layout.full_type().to_string();
    if !seen.insert(name.clone()) {
        return;
    }
    let fields = layout.get_fields().map(|fields| fields.to_vec()).unwrap_or_default();
    let kind = if layout.is_prefix_kind() { "prefix type" } else { "type" };
    // Theirs are pinned with the version of abi_stable.
    let ours = layout.package() == env!("CARGO_PKG_NAME");
    if ours {
        let _ = writeln!(text, "{kind} {name}: {} bytes, alignment {}", layout.size(), layout.alignment());
        for field in &fields {
            let functions: Vec<_> = field.function_range().iter().map(|function| signature(&function)).collect();
            let what = if functions.is_empty() { spelled(field.layout()) } else { functions.join(", ") };
            let _ = writeln!(text, "  {}: {what}", field.name());
        }
    }
    // A reference to a module has the module as a field that takes no room.
    for field in fields.into_iter().chain(layout.phantom_fields().to_vec()) {
        describe(field.layout(), seen, text);
        for function in field.function_range().iter() {
            function.param_type_layouts.iter().for_each(|param| describe(param(), seen, text));
            function.return_type_layout().into_iter().for_each(|answer| describe(answer(), seen, text));
        }
    }
}

/// What a function takes and answers.
fn signature(function: &TLFunction) -> String {
    let params: Vec<_> = function.param_type_layouts.iter().map(|param| spelled(param())).collect();
    let answer = function.return_type_layout().map_or_else(|| "()".to_owned(), |answer| spelled(answer()));
    format!("fn({}) -> {answer}", params.join(", "))
}

/// The name of a type; of a result, with what it is on either side.
fn spelled(layout: &'static TypeLayout) -> String {
    let sides = layout.get_fields().filter(|_| layout.name() == "RResult").map(|fields| fields.to_vec());
    let sides: Vec<_> = sides.into_iter().flatten().map(|field| spelled(field.layout())).collect();
    match sides.is_empty() {
        true => layout.full_type().to_string(),
        false => format!("{}<{}>", layout.name(), sides.join(", ")),
    }
}

#[test]
fn the_types_of_the_boundary_are_known() {
    let mut text = format!("ABI {ABI_VERSION}, symbol {SYMBOL_PREFIX}CRATE\n");
    describe(PluginModRef::LAYOUT, &mut BTreeSet::new(), &mut text);
    insta::with_settings!({ snapshot_path => "../../../snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("abi", text);
    });
}
