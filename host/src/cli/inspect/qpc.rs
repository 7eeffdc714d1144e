//! What a compiled program takes and gives.

use std::path::Path;

use anyhow::Result;
use qeff_core::qpc::{Binding, Direction, Interface, Slice};
use serde_json::{Value as Json, json};

use crate::cli::talk;
use crate::qpc::FoundQpc;

pub(super) fn run(path: &Path, as_json: bool) -> Result<()> {
    let found = FoundQpc::open(path)?;
    if as_json {
        return talk::json(&document(&found));
    }
    talk::data(&text(&found))
}

fn direction(binding: &Binding) -> &'static str {
    match binding.direction {
        Direction::Input => "in",
        Direction::Output => "out",
    }
}

fn dims(dims: &[u32]) -> String {
    let dims: Vec<_> = dims.iter().map(u32::to_string).collect();
    format!("[{}]", dims.join(", "))
}

/// Bindings whose dimensions differ between specializations.
fn varying(interface: &Interface) -> Vec<usize> {
    let differs = |i: &usize| interface.rows.windows(2).any(|pair| pair[0][*i] != pair[1][*i]);
    (0..interface.bindings.len()).filter(differs).collect()
}

fn text(found: &FoundQpc) -> String {
    let devices = found.qpc.devices();
    let mut text = format!(
        "file          {}\nsize          {}\ndevices       {devices}, {} cores each\nknown by      {}\n",
        found.file.display(),
        talk::megabytes(found.qpc.bytes),
        found.qpc.cores(),
        found.known_by.name(),
    );
    if let Some(kind) = &found.kind {
        text.push_str(&format!("kind          {kind}\n"));
    }
    for (i, slice) in found.qpc.slices.iter().enumerate() {
        let segments: Vec<_> = slice.segments.iter().map(|s| format!("{} {} B", s.name, s.bytes)).collect();
        let which = if devices == 1 { String::new() } else { format!(" of device {i}") };
        text.push_str(&format!("program{which}: {}, {} cores: {}\n", slice.name, slice.cores, segments.join(", ")));
    }
    let Some(interface) = found.qpc.interface() else { return text };
    let states = interface.states();
    let is_state = |i: usize| states.iter().any(|state| state.input == i || state.output == i);
    text.push_str(&format!("bindings ({} states):\n", states.len()));
    for (i, binding) in interface.bindings.iter().enumerate() {
        let notes = match (is_state(i), binding.partial) {
            (true, true) => "  retained",
            (true, false) => "  state, not retained",
            (false, true) => "  may be left out",
            (false, false) => "",
        };
        text.push_str(&format!(
            "  {i:>3} {:<3} {} : {}{}{notes}\n",
            direction(binding),
            binding.name,
            binding.elem.name(),
            dims(&binding.dims)
        ));
    }
    let varying = varying(interface);
    text.push_str(&format!("specializations: {}\n", interface.rows.len()));
    for (number, row) in interface.rows.iter().enumerate() {
        let shapes: Vec<_> =
            varying.iter().map(|&i| format!("{} {}", interface.bindings[i].name, dims(&row[i]))).collect();
        text.push_str(&format!(
            "  {number}: {}\n",
            if shapes.is_empty() { "as above".into() } else { shapes.join(", ") }
        ));
    }
    text
}

fn document(found: &FoundQpc) -> Json {
    let slice = |slice: &Slice| {
        let segments = slice.segments.iter().map(|s| json!({ "name": s.name, "bytes": s.bytes }));
        json!({
            "program": slice.name,
            "cores": slice.cores,
            "batch": slice.batch,
            "descriptor_version": [slice.version.0, slice.version.1],
            "segments": segments.collect::<Vec<_>>(),
        })
    };
    let binding = |binding: &Binding| {
        json!({
            "name": binding.name,
            "direction": direction(binding),
            "type": binding.elem.name(),
            "dims": binding.dims,
            "partial": binding.partial,
        })
    };
    let interface = found.qpc.interface();
    let states = interface.map(Interface::states).unwrap_or_default();
    json!({
        "file": found.file,
        "bytes": found.qpc.bytes,
        "devices": found.qpc.devices(),
        "cores": found.qpc.cores(),
        "known_by": found.known_by.name(),
        "kind": found.kind,
        "ctx_len": found.ctx_len,
        "full_batch_size": found.full_batch_size,
        "slices": found.qpc.slices.iter().map(slice).collect::<Vec<_>>(),
        "bindings": interface.map(|i| i.bindings.iter().map(binding).collect::<Vec<_>>()),
        "states": states.iter().map(|state| [state.input, state.output]).collect::<Vec<_>>(),
        "specializations": interface.map(|i| &i.rows),
    })
}
