//! The way over QNN: ONNX to a `.dlc`, that to a context binary with the QPC in it, and the files both steps read.
//!
//! Everything that the reference sets is set here to the same value. A config file may add to the two command lines and
//! override what the backend is told, but not the parts that say what is read and written.

use anyhow::{Context as _, Result, bail};
use qeff_plugin_api::DType;
use qeff_plugin_api::graph::Dim;
use serde_json::{Map, Value as Json, json};

use super::command::Command;
use super::plan::{Places, PlannedFile, QPC};
use super::sdk::QnnSdk;
use super::{Options, Partition, Plan, Port, Precision, Program, Specialization, custom_io, mdp, specializations};

/// Arguments of the converter that are not for the config file, as it would spell them.
const CONVERTER: &[&str] = &[
    "--input_network",
    "--output_path",
    "--config",
    "--float_bias_bitwidth",
    "--float_bitwidth",
    "--preserve_io_datatype",
    "--onnx_skip_simplification",
];
/// The same of the generator.
const GENERATOR: &[&str] =
    &["--binary_file", "--backend_binary", "--output_dir", "--backend", "--model", "--dlc_path", "--config_file"];

/// A config file for QNN, by the reference's keys.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    /// More arguments of the converter.
    converter: Vec<String>,
    /// More arguments of the generator.
    generator: Vec<String>,
    /// What the backend is told instead of, or in addition to, our own.
    backend: Map<String, Json>,
}

impl Config {
    /// Reads a config file's text.
    ///
    /// # Errors
    /// If it is not JSON, has a key that nobody knows, or wants to change what may not be changed.
    pub fn parse(text: &str) -> Result<Self> {
        let json: Json = serde_json::from_str(text).context("expected JSON")?;
        let Json::Object(map) = json else { bail!("expected a JSON object") };
        let mut config = Config::default();
        for (key, value) in map {
            let place = || format!("`{key}`");
            match key.as_str() {
                "converter_args_extension" => config.converter = extension(&value, CONVERTER).with_context(place)?,
                "context_binary_generator_args_extension" => {
                    config.generator = extension(&value, GENERATOR).with_context(place)?;
                }
                "qnn_compilation_backend" => {
                    let Json::Object(backend) = value else { bail!("{}: expected an object", place()) };
                    config.backend = backend;
                }
                "SKIP_QNN_CONVERTER_STEP" => match value {
                    Json::Bool(false) => {}
                    Json::Bool(true) => bail!(
                        "{}: an artifact is whole or it is not made, so there is no model.dlc of an earlier run to use; \
                         leave the key out",
                        place()
                    ),
                    _ => bail!("{}: expected true or false", place()),
                },
                _ => bail!(
                    "{}: unknown key; expected converter_args_extension, context_binary_generator_args_extension, \
                     qnn_compilation_backend or SKIP_QNN_CONVERTER_STEP",
                    place()
                ),
            }
        }
        Ok(config)
    }
}

/// Arguments separated by spaces, none of which is one of `fixed`.
fn extension(value: &Json, fixed: &[&str]) -> Result<Vec<String>> {
    let text = value.as_str().context("expected a text")?;
    let args: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    for arg in &args {
        let name = arg.split_once('=').map_or(arg.as_str(), |(name, _)| name);
        if fixed.contains(&name) {
            bail!("`{name}` is set by qeff-host and may not be overridden; remove it");
        }
    }
    Ok(args)
}

/// Refuses what QNN cannot do.
pub(super) fn check(options: &Options, specializations: &[Specialization]) -> Result<()> {
    if specializations.len() > 2 {
        let names: Vec<_> = specializations.iter().map(|specialization| specialization.name.as_str()).collect();
        bail!(
            "QNN compiles at most two specializations, and these are {}: {}; ask for fewer lengths, or compile without \
             --enable-qnn",
            specializations.len(),
            names.join(", ")
        );
    }
    let refused = [
        ("context lengths (--ccl-enabled, --comp-ctx-lengths-…)", options.shape.ccl.is_some()),
        ("--node-precision-info", options.node_precision.is_some()),
        ("--precision f32", options.precision != Precision::F16),
        ("--use-onnx-subfunctions", options.sub_functions),
        ("--mdp-load-partition-config and --mdp-num-partitions", options.partition != Partition::Slices),
        ("compiler flags after --", !options.pass_through.is_empty()),
    ];
    if let Some((what, _)) = refused.iter().find(|(_, asked)| *asked) {
        bail!("{what}: QNN has no such thing; leave it out, or compile without --enable-qnn");
    }
    Ok(())
}

pub(super) fn make(
    program: &Program,
    options: &Options,
    config: &Config,
    sdk: &QnnSdk,
    places: &Places,
    plan: &Plan,
) -> Result<(Vec<Command>, Vec<PlannedFile>)> {
    let specs = &plan.specializations;
    let entries = custom_io::list(&program.interface, options)?;
    let mut files = vec![
        PlannedFile { name: "custom_io_config.yaml".into(), content: io_config(program, specs, &entries)? },
        PlannedFile {
            name: "specializations.json".into(),
            content: specializations::text(specs, specializations::Dialect::Named),
        },
    ];
    let graphs: Vec<String> = match specs.len() {
        0 | 1 => vec!["model".into()],
        n => (1..=n).map(|i| format!("model_configuration_{i}")).collect(),
    };
    let mut backend = backend(options, &graphs);
    if plan.num_devices > 1 {
        let name = "tensor_slicing.json";
        backend.insert("compiler_mdp_load_partition_config".into(), json!(places.file(name)));
        let content = super::json::sorted(&mdp::slices(plan.num_devices, None));
        files.push(PlannedFile { name: name.into(), content });
    }
    backend.extend(config.backend.clone());
    let extensions = json!({
        "backend_extensions": {
            "config_file_path": places.file("qnn_compile_backend.json"),
            "shared_library_path": sdk.library("libQnnAicNetRunExtensions.so"),
        }
    });
    files.push(PlannedFile {
        name: "qnn_compile_backend.json".into(),
        content: super::json::sorted(&Json::Object(backend)),
    });
    files.push(PlannedFile { name: "qnn_compiler_config.json".into(), content: super::json::sorted(&extensions) });
    if options.mxint8_kv_cache {
        let content = super::json::plain(&data_format(program, &graphs));
        files.push(PlannedFile { name: "qnn_data_format_config.json".into(), content });
    }
    Ok((vec![converter(config, sdk, places), generator(options, config, sdk, places)], files))
}

fn converter(config: &Config, sdk: &QnnSdk, places: &Places) -> Command {
    let mut command = Command::default();
    command.add(sdk.converter().display().to_string(), "the converter of the QNN SDK");
    pairs(
        &mut command,
        &[
            ("--input_network", places.model.display().to_string(), "the exported graph"),
            ("--output_path", places.file("model.dlc"), "what the generator reads"),
            ("--config", places.file("custom_io_config.yaml"), "shapes and types of inputs and outputs"),
            ("--float_bias_bitwidth", "32".into(), "biases stay in f32"),
            ("--float_bitwidth", "16".into(), "the card computes in f16"),
        ],
    );
    command.add("--preserve_io_datatype", "inputs and outputs keep their types");
    command.add("--onnx_skip_simplification", "the graph is simple already");
    pairs(&mut command, &[("--target_backend", "AIC".into(), "AI 100")]);
    config.converter.iter().for_each(|arg| command.add(arg, "converter_args_extension"));
    command
}

fn generator(options: &Options, config: &Config, sdk: &QnnSdk, places: &Places) -> Command {
    let mut command = Command::default();
    command.add(sdk.generator().display().to_string(), "the generator of the QNN SDK");
    pairs(
        &mut command,
        &[
            ("--binary_file", "qnngraph.serialized".into(), "name of the context binary"),
            ("--backend_binary", "programqpc.bin".into(), "name of the QPC"),
            ("--output_dir", places.file(QPC), "where both go"),
            ("--backend", sdk.library("libQnnAic.so").display().to_string(), "AI 100"),
            ("--dlc_path", places.file("model.dlc"), "what the converter made"),
            ("--config_file", places.file("qnn_compiler_config.json"), "what the backend is told"),
        ],
    );
    if options.mxint8_kv_cache {
        let file = places.file("qnn_data_format_config.json");
        pairs(&mut command, &[("--data_format_config", file, "--mxint8-kv-cache")]);
    }
    if !config.generator.iter().any(|arg| arg == "--log_level") {
        pairs(&mut command, &[("--log_level", "error".into(), "unless the config file says otherwise")]);
    }
    config.generator.iter().for_each(|arg| command.add(arg, "context_binary_generator_args_extension"));
    command
}

fn pairs(command: &mut Command, pairs: &[(&str, String, &str)]) {
    for (flag, value, why) in pairs {
        command.add(*flag, *why);
        command.add(value.clone(), *why);
    }
}

fn backend(options: &Options, graphs: &[String]) -> Map<String, Json> {
    let mut backend = Map::new();
    for (key, value) in [
        ("compiler_compilation_target", json!("hardware")),
        ("compiler_hardware_version", json!("2.0")),
        ("compiler_convert_to_FP16", json!(true)),
        ("compiler_retained_state", json!(true)),
        ("graph_names", json!(graphs)),
        ("compiler_enable_depth_first", json!(options.aic_enable_depth_first)),
        ("compiler_mxfp6_matmul_weights", json!(options.mxfp6_matmul)),
        ("compiler_num_of_cores", json!(options.num_cores)),
        ("compiler_do_DDR_to_multicast", json!(true)),
        ("compiler_perfWarnings", json!(false)),
        ("compiler_printDDRStats", json!(false)),
        ("compiler_printPerfMetrics", json!(false)),
        ("compiler_stat_level", json!(10)),
        ("compiler_stats_batch_size", json!(1)),
        ("compiler_time_passes", json!(false)),
        ("compiler_mxint8_mdp_io", json!(options.allow_mxint8_mdp_io)),
    ] {
        backend.insert(key.into(), value);
    }
    if let Some(mos) = options.mos.filter(|&mos| mos > 0) {
        backend.insert("compiler_max_out_channel_split".into(), json!(mos.to_string()));
    }
    backend
}

/// Which tensors are MXINT8, for each graph.
fn data_format(program: &Program, graphs: &[String]) -> Json {
    let interface = &program.interface;
    let kv = |port: &&Port| port.name.contains("past_key") || port.name.contains("past_value");
    let tensors: Vec<Json> = interface
        .inputs
        .iter()
        .chain(&interface.outputs)
        .filter(kv)
        .map(|port| json!({ "tensor_name": port.name, "dataFormat": "QNN_TENSOR_DATA_FORMAT_MX" }))
        .collect();
    let graphs: Vec<Json> = graphs.iter().map(|name| json!({ "graph_name": name, "tensors": tensors })).collect();
    json!({ "graphs": graphs })
}

/// The text of `custom_io_config.yaml`: types, and shapes at each specialization.
fn io_config(program: &Program, specs: &[Specialization], entries: &[custom_io::Entry]) -> Result<String> {
    let elem = |port: &Port| -> Result<&'static str> {
        match entries.iter().find(|entry| entry.name == port.name) {
            Some(entry) if entry.precision == "mxint8" => Ok("uint8"),
            Some(entry) => Ok(entry.precision),
            None => qnn_type(port.elem).with_context(|| format!("`{}`: QNN has no type {}", port.name, port.elem)),
        }
    };
    let head = |port: &Port| -> Result<String> {
        Ok(format!("- Name: {}\n  Desired Model Parameters:\n    DataType: {}\n", yaml(&port.name), elem(port)?))
    };
    let mut text = "Input Tensor Configuration:\n".to_owned();
    for input in &program.interface.inputs {
        let shapes: Vec<String> = specs.iter().map(|spec| shape(input, spec)).collect::<Result<_>>()?;
        // One shape stands for both where nothing differs; token inputs are always listed with both.
        let same = shapes.windows(2).all(|pair| pair[0] == pair[1]);
        let always = matches!(input.name.as_str(), "input_ids" | "position_ids");
        let shapes = if same && !always { &shapes[..1] } else { &shapes[..] };
        text += &format!("{}    Shape: {}\n", head(input)?, shapes.join(", "));
    }
    text += "Output Tensor Configuration:\n";
    for output in &program.interface.outputs {
        text += &head(output)?;
    }
    Ok(text)
}

fn shape(port: &Port, specialization: &Specialization) -> Result<String> {
    let dims = port.dims.iter().map(|dim| match dim {
        Dim::Fixed(n) => Ok(n.to_string()),
        Dim::Symbol(symbol) => specialization
            .symbols
            .get(symbol.name())
            .map(u64::to_string)
            .with_context(|| format!("`{}`: nothing says what number `{dim}` is", port.name)),
    });
    Ok(match dims.collect::<Result<Vec<_>>>()?.as_slice() {
        [one] => format!("({one},)"),
        many => format!("({})", many.join(", ")),
    })
}

fn qnn_type(elem: DType) -> Option<&'static str> {
    Some(match elem {
        DType::F32 => "float32",
        DType::F16 => "float16",
        DType::I64 => "int64",
        DType::I32 => "int32",
        DType::I16 => "int16",
        DType::I8 => "int8",
        DType::U8 => "uint8",
        DType::Bool => "bool",
        DType::F64 | DType::BF16 => return None,
    })
}

/// A name as YAML reads it back: what looks like a number is quoted.
fn yaml(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._/-".contains(c);
    let number = name.parse::<f64>().is_ok();
    let word = ["true", "false", "null", "yes", "no", "on", "off", ""].contains(&name.to_ascii_lowercase().as_str());
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '/');
    if begins && name.chars().all(plain) && !number && !word {
        name.to_owned()
    } else {
        format!("'{}'", name.replace('\'', "''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_files_that_are_refused() {
        let said = |text: &str| format!("{:#}", Config::parse(text).unwrap_err());
        let cases = [
            (r#"{"converter_args_extension":"--input_network x"}"#, "`--input_network` is set by qeff-host"),
            (r#"{"converter_args_extension":"--float_bitwidth=32"}"#, "`--float_bitwidth` is set by qeff-host"),
            (r#"{"context_binary_generator_args_extension":"--model m.so"}"#, "`--model` is set by qeff-host"),
            (r#"{"converter_args_extension":3}"#, "expected a text"),
            (r#"{"SKIP_QNN_CONVERTER_STEP":true}"#, "leave the key out"),
            (r#"{"convertor_args_extension":""}"#, "unknown key"),
            ("[]", "expected a JSON object"),
            ("", "expected JSON"),
        ];
        for (text, part) in cases {
            assert!(said(text).contains(part), "{}", said(text));
        }
        let long =
            Config::parse(r#"{"context_binary_generator_args_extension":"--log_level debug"}"#).expect("a config");
        assert_eq!(long.generator, ["--log_level", "debug"]);
    }

    #[test]
    fn names_in_yaml() {
        for (name, text) in
            [("305", "'305'"), ("past_key.0", "past_key.0"), ("yes", "'yes'"), ("a:b", "'a:b'"), ("1e3", "'1e3'")]
        {
            assert_eq!(yaml(name), text);
        }
    }
}
