//! Custom I/O: which inputs and outputs are stored in another type than the graph's.
//!
//! Only what stays on the device or is large matters: states, and the images or sounds of an encoder. Everything else
//! keeps the type of the file, and all of it does in a program that computes in f32.

use anyhow::{Result, bail};
use qeff_plugin_api::DType;

use super::{Interface, Kind, Options, Port, Precision};

/// An entry of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Input or output.
    pub(super) name: String,
    /// The compiler's word for the type.
    pub(super) precision: &'static str,
}

/// The list of a program; empty if the program keeps all its types.
pub(super) fn list(interface: &Interface, options: &Options) -> Result<Vec<Entry>> {
    let kind = interface.kind()?;
    // A vision encoder is compiled beside its decoder, whose cache the flag is about.
    if options.mxint8_kv_cache && !matches!(kind, Kind::Decoder | Kind::Vision) {
        bail!(
            "--mxint8-kv-cache: expected a decoder, whose KV cache may be MXINT8; this program is none; leave the flag out"
        );
    }
    let mut entries = vec![];
    let mut add = |port: &Port, precision| entries.push(Entry { name: port.name.clone(), precision });
    let rounds = options.precision == Precision::F16;
    // What an encoder reads comes from the host in full.
    for input in interface.inputs.iter().filter(|input| rounds && is_encoder_input(kind, input)) {
        add(input, float(input));
    }
    for state in interface.states().filter(|state| state.input.is_float()) {
        let precision = match state {
            state if options.mxint8_kv_cache && state.is_kv() => "mxint8",
            _ if rounds => float(state.input),
            _ => continue,
        };
        add(state.input, precision);
        add(state.output, precision);
    }
    if rounds && kind == Kind::Vision {
        interface.outputs.iter().filter(|output| output.is_float()).for_each(|output| add(output, float(output)));
    }
    Ok(entries)
}

fn is_encoder_input(kind: Kind, input: &Port) -> bool {
    match kind {
        Kind::Vision => input.is_float(),
        Kind::EncoderDecoder => input.name == "input_features",
        _ => false,
    }
}

/// The type that a floating-point tensor has on the device.
fn float(port: &Port) -> &'static str {
    if port.elem == DType::BF16 { "bfloat16" } else { "float16" }
}

/// The text of `custom_io.yaml`.
pub(super) fn text(entries: &[Entry]) -> String {
    entries.iter().map(|entry| format!(" - IOName: {}\n   Precision: {}\n\n", entry.name, entry.precision)).collect()
}
