//! Another release of the interface on either side: what it may change is not noticed, and what it must not change is refused
//! in few words.

use std::fs;
use std::path::Path;

use qeff_host::plugins::Place;

use super::build::{Change, Variant};
use super::{ORDERS, load};
use crate::{check, plugin_in};

const MINOR: Change = (
    "qeff-plugin-api/src/abi/mod.rs",
    "pub const ABI_VERSION: &str = \"1.0.0\";",
    "pub const ABI_VERSION: &str = \"1.1.0\";",
);

/// A function of the plugin is appended. A host that knows it finds none in an older plugin.
const FUNCTION: &[Change] = &[
    MINOR,
    (
        "qeff-plugin-api/src/abi/mod.rs",
        "RSliceMut<'_, u8>) -> RResult<(), RawError>,\n}",
        "RSliceMut<'_, u8>) -> RResult<(), RawError>,\n    pub(crate) mood: extern \"C\" fn() -> RResult<u32, RawError>,\n}",
    ),
    ("qeff-plugin-api/src/abi/shim.rs", "probe, index, decode };", "probe, index, decode, mood };"),
    (
        "qeff-plugin-api/src/abi/shim.rs",
        "extern \"C\" fn probe(",
        "extern \"C\" fn mood() -> RResult<u32, RawError> {\n    guard(|| Ok(8))\n}\n\nextern \"C\" fn probe(",
    ),
    (
        "qeff-plugin-api/src/abi/load.rs",
        "impl Calls for Module {",
        "impl Module {\n    pub fn mood(&self) -> Option<u32> {\n        self.functions.mood()?().into_result().ok()\n    }\n}\n\nimpl Calls for Module {",
    ),
    (
        "tests/plugins/loader/src/main.rs",
        "map_err(|fault| fault.to_string())?;",
        "map_err(|fault| fault.to_string())?;\n    print!(\"{:?} \", module.mood());",
    ),
];

/// A method of an item is appended, with a body for items that have none of their own.
const METHOD: &[Change] = &[
    MINOR,
    (
        "qeff-plugin-api/src/abi/mod.rs",
        "RSliceMut<'_, u8>) -> RResult<(), RawError>,\n}",
        "RSliceMut<'_, u8>) -> RResult<(), RawError>,\n    pub(crate) mood: extern \"C\" fn(u32) -> RResult<u32, RawError>,\n}",
    ),
    ("qeff-plugin-api/src/abi/shim.rs", "probe, index, decode };", "probe, index, decode, mood };"),
    (
        "qeff-plugin-api/src/abi/shim.rs",
        "extern \"C\" fn probe(",
        "extern \"C\" fn mood(number: u32) -> RResult<u32, RawError> {\n    guard(|| Ok(item!(Architecture, number)?.mood()))\n}\n\nextern \"C\" fn probe(",
    ),
    (
        "qeff-plugin-api/src/abi/calls.rs",
        "    /// A description of a model.\n",
        "    /// A mood.\n    Mood,\n    /// A description of a model.\n",
    ),
    (
        "qeff-plugin-api/src/abi/load.rs",
        "            Call::Describe { request } =>",
        "            Call::Mood => match functions.mood() {\n                Some(mood) => mood(number).into_result().map(|mood| mood.to_le_bytes().to_vec()),\n                None => Ok(vec![]),\n            },\n            Call::Describe { request } =>",
    ),
    (
        "qeff-plugin-api/src/plugin.rs",
        "    fn describe(&self, request: &Request) -> Result<Model, PluginError>;",
        "    fn describe(&self, request: &Request) -> Result<Model, PluginError>;\n\n    /// A number.\n    fn mood(&self) -> u32 {\n        7\n    }",
    ),
    (
        "qeff-plugin-api/src/abi/remote.rs",
        "    fn describe(&self, request: &Request) -> Result<Model, PluginError> {",
        "    fn mood(&self) -> u32 {\n        let answer = self.remote.call(self.number, Call::Mood).unwrap_or_default();\n        answer.try_into().map_or(7, u32::from_le_bytes)\n    }\n\n    fn describe(&self, request: &Request) -> Result<Model, PluginError> {",
    ),
    (
        "tests/plugins/everything/src/lib.rs",
        "    fn describe(&self, request: &Request) -> Result<Model, PluginError> {",
        "    fn mood(&self) -> u32 {\n        8\n    }\n\n    fn describe(&self, request: &Request) -> Result<Model, PluginError> {",
    ),
    (
        "tests/plugins/loader/src/main.rs",
        "ok_or(\"it describes nothing\")?;",
        "ok_or(\"it describes nothing\")?;\n    print!(\"{} \", architecture.mood());",
    ),
];

/// The host tells a plugin more. It calls nothing back to, so what it has to say stands in its messages.
const TOLD: &[Change] = &[
    MINOR,
    (
        "qeff-plugin-api/src/abi/message.rs",
        "    #[prost(message, repeated, tag = \"2\")]\n    pub(super) tensors: Vec<Tensor>,\n}\n\n#[derive(Clone, PartialEq, Message)]\npub(super) struct ModelRequest",
        "    #[prost(message, repeated, tag = \"2\")]\n    pub(super) tensors: Vec<Tensor>,\n    #[prost(uint32, tag = \"3\")]\n    pub(super) mood: u32,\n}\n\n#[derive(Clone, PartialEq, Message)]\npub(super) struct ModelRequest",
    ),
    (
        "qeff-plugin-api/src/abi/remote.rs",
        "tensors: message::tensors(&request.tensors) }\n            .encode_to_vec();",
        "tensors: message::tensors(&request.tensors), mood: 8 }\n            .encode_to_vec();",
    ),
    (
        "qeff-plugin-api/src/abi/shim.rs",
        "let DescribeRequest { config, tensors } =",
        "let DescribeRequest { config, tensors, mood } =",
    ),
    (
        "qeff-plugin-api/src/abi/shim.rs",
        "let model = item!(Architecture, number)?.describe(&request)?;",
        "assert!(mood != 8, \"told {mood}\");\n        let model = item!(Architecture, number)?.describe(&request)?;",
    ),
];

/// There is one more kind of error.
const KIND: &[Change] = &[
    MINOR,
    (
        "qeff-plugin-api/src/abi/mod.rs",
        "    pub(crate) const PANIC: u32 = 2;",
        "    pub(crate) const PANIC: u32 = 2;\n    /// It is in no mood.\n    pub(crate) const MOOD: u32 = 3;",
    ),
    (
        "qeff-plugin-api/src/abi/shim.rs",
        "PluginError::Config(config) => (code::CONFIG,",
        "PluginError::Config(config) => (code::MOOD,",
    ),
    (
        "qeff-plugin-api/src/abi/load.rs",
        "        (code::PANIC, _) =>",
        "        (code::MOOD, _) => PluginError::Other(format!(\"no mood for that: {message}\")),\n        (code::PANIC, _) =>",
    ),
];

/// A struct that crosses by value has one more field.
const FIELD: &[Change] = &[
    (
        "qeff-plugin-api/src/abi/mod.rs",
        "pub(crate) location: RString,\n}",
        "pub(crate) location: RString,\n    pub(crate) hint: u32,\n}",
    ),
    ("qeff-plugin-api/src/abi/shim.rs", "location: location.into(),", "location: location.into(), hint: 0,"),
    ("qeff-plugin-api/src/abi/shim.rs", "location: RString::new() }", "location: RString::new(), hint: 0 }"),
];

/// A function takes a narrower number.
const ARGUMENT: &[Change] = &[
    (
        "qeff-plugin-api/src/abi/mod.rs",
        "fn(u32, RSlice<'_, u8>, u64) -> RResult",
        "fn(u32, RSlice<'_, u8>, u32) -> RResult",
    ),
    ("qeff-plugin-api/src/abi/shim.rs", "head: RSlice<'_, u8>, length: u64)", "head: RSlice<'_, u8>, length: u32)"),
    ("qeff-plugin-api/src/abi/shim.rs", ".index(head.as_slice(), length)", ".index(head.as_slice(), length.into())"),
    (
        "qeff-plugin-api/src/abi/load.rs",
        "functions.index()(number, RSlice::from_slice(head), length)",
        "functions.index()(number, RSlice::from_slice(head), length as u32)",
    ),
];

const MAJOR: &[Change] = &[(MINOR.0, MINOR.1, "pub const ABI_VERSION: &str = \"2.0.0\";")];

/// What becomes of one change, from either side.
struct Case<'a> {
    name: &'a str,
    changes: &'a [Change],
    /// What this host gets out of the newer plugin.
    newer_plugin: Told<'a>,
    /// What the newer host gets out of the plugin of today.
    older_plugin: Told<'a>,
    /// And out of its own.
    own: Told<'a>,
}

/// What is said of a plugin, measured by what this host gets out of the plugin of today.
#[derive(Clone, Copy)]
enum Told<'a> {
    /// The same, after these words.
    Same(&'a str),
    /// The same with one part replaced.
    But(&'a str, &'a str),
    /// These words, among few others.
    Words(&'a str),
}

impl Told<'_> {
    #[track_caller]
    fn check(self, today: &str, line: &str) {
        match self {
            Told::Same(before) => assert_eq!(line, format!("{before}{today}")),
            Told::But(part, other) => assert!(today.contains(part) && line == today.replace(part, other), "{line}"),
            Told::Words(words) => {
                check(line, words);
                assert!(line.len() < 1000, "{line}");
            }
        }
    }
}

#[test]
fn either_side_may_be_newer() {
    let same = Told::Same("");
    let config = "refuses the config's field width: config.json";
    let differ = "its types differ from this host's; rebuild it against the same qeff-plugin-api: ";
    let field = format!("{differ}manifest > __returns: one side takes ");
    let argument = format!("{differ}index > param_2: one side has ");
    let (field, argument) = (Told::Words(&field), Told::Words(&argument));
    for case in [
        Case {
            name: "function",
            changes: FUNCTION,
            newer_plugin: same,
            older_plugin: Told::Same("None "),
            own: Told::Same("Some(8) "),
        },
        Case {
            name: "method",
            changes: METHOD,
            newer_plugin: same,
            older_plugin: Told::Same("7 "),
            own: Told::Same("8 "),
        },
        Case { name: "told", changes: TOLD, newer_plugin: same, older_plugin: same, own: Told::Words(": told 8; ") },
        Case {
            name: "kind",
            changes: KIND,
            newer_plugin: Told::But(config, "refuses config.json"),
            older_plugin: same,
            own: Told::But(config, "refuses no mood for that: config.json"),
        },
        Case { name: "field", changes: FIELD, newer_plugin: field, older_plugin: field, own: same },
        Case { name: "argument", changes: ARGUMENT, newer_plugin: argument, older_plugin: argument, own: same },
        Case {
            name: "major",
            changes: MAJOR,
            newer_plugin: Told::Words("it was built for plugin ABI 2.0.0, this host speaks 1.0.0; rebuild it"),
            older_plugin: Told::Words("refused: it was built for plugin ABI 1.0.0, this host speaks 2.0.0; rebuild it"),
            own: same,
        },
    ] {
        from_both_sides(&case);
    }
}

/// Two plugins of today and the newer one, in every order, in this host and in the newer one: what was loaded before must not
/// matter.
fn from_both_sides(case: &Case<'_>) {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path().join("libqeff_plugin_everything.so");
    fs::rename(plugin_in(folder.path(), "everything"), &here).expect("a file");
    fs::create_dir(folder.path().join("twin")).expect("a folder");
    let twin = folder.path().join("twin/libqeff_plugin_everything.so");
    fs::copy(&here, &twin).expect("a copy");
    let today = load(&[&here], Place::InProcess).remove(0);
    check(&today, "describes 0");
    let newer = Variant { name: case.name, changes: case.changes, profile: "", toolchain: None }.build();
    let files: [(&Path, _, _); 3] = [
        (&here, Told::Same(""), case.older_plugin),
        (&twin, Told::Same(""), case.older_plugin),
        (&newer.plugin, case.newer_plugin, case.own),
    ];
    for order in ORDERS {
        let ordered = order.map(|at| files[at]);
        let paths = ordered.map(|(path, ..)| path);
        for ((_, told, _), line) in ordered.iter().zip(load(&paths, Place::InProcess)) {
            told.check(&today, &line);
        }
        for ((_, _, told), line) in ordered.iter().zip(newer.load(&paths)) {
            told.check(&today, &line);
        }
    }
    case.newer_plugin.check(&today, &load(&[&newer.plugin], Place::Worker)[0]);
}
