//! The compilers: command lines and files in, a QPC out, and everything refused that the real ones refuse.
//!
//! | module | knows |
//! |---|---|
//! | `args` | the command line of `qaic-compile` |
//! | `files` | the files it names |
//! | `interface` | what a graph's ports become: bindings, states, shape rows |
//! | [`qnn`] | the two tools of QNN |

mod args;
mod files;
mod interface;
pub mod qnn;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use self::args::Args;
use self::files::Sizes;
use crate::config::SimConfig;
use crate::graph::model::Model;
use crate::graph::weights::Files;
use crate::qpc::image::{External, Facts, Image, Marker};

/// What a tool says when it ends with an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Exit code.
    pub code: u8,
    /// For stderr.
    pub said: String,
}

impl Refused {
    fn new(code: u8, said: impl Into<String>) -> Self {
        Refused { code, said: said.into() }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said)
    }
}

impl From<anyhow::Error> for Refused {
    fn from(error: anyhow::Error) -> Self {
        Refused::new(255, format!("QAIC_ERROR:\nError message:  {error:#}"))
    }
}

/// What is compiled, however the wish came.
struct Job<'a> {
    model: &'a Path,
    cores: u32,
    retained: bool,
    specializations: Vec<Sizes>,
    custom_io: Vec<(String, files::Precision)>,
    partition: Option<String>,
    node_precision: Option<String>,
    /// Options as they go into the QPC.
    options: Vec<String>,
    out: PathBuf,
}

/// `qaic-compile` and `qaic-exec`, with the arguments behind the program's name.
///
/// # Errors
/// What the real tool would refuse, in its words where they are known.
pub fn qaic(tool: &str, arguments: &[String], config: &SimConfig) -> Result<(), Refused> {
    let args = Args::parse(arguments)?;
    let required = |name: &str| {
        let value = args.value(name).filter(|value| !value.is_empty());
        value.ok_or_else(|| Refused::new(1, format!("Option -{name}= is required.")))
    };
    let model = args.value("m").or(args.value("model"));
    let model = Path::new(model.ok_or_else(|| Refused::new(1, "Option -m= is required."))?);
    if !args.has("aic-hw") {
        return Err(Refused::new(1, "Without -aic-hw the interpreter is used, which the stand-in has not."));
    }
    let version = args.value("aic-hw-version").unwrap_or("2.0");
    if !["2.0", "ai100", "ai200"].contains(&version) {
        return Err(Refused::new(1, format!("Invalid value {version} for -aic-hw-version.")));
    }
    if tool == "qaic-exec" && !args.has("compile-only") {
        return Err(Refused::new(134, "qaic-exec without -compile-only runs a benchmark, which the stand-in has not."));
    }
    let cores = args.value("aic-num-cores").unwrap_or("1");
    let cores = cores.parse().ok().filter(|cores| (1..=16).contains(cores));
    let cores: u32 = cores.ok_or_else(|| Refused::new(1, "-aic-num-cores: expected a number from 1 to 16."))?;
    let mut specializations = match args.value("network-specialization-config") {
        Some(path) => files::specializations(&files::text(Path::new(path))?, config.spec_format)?,
        None => vec![],
    };
    let symbols: Vec<&str> = args.values("onnx-define-symbol").collect();
    if !symbols.is_empty() {
        if !specializations.is_empty() {
            return Err(Refused::new(1, "-onnx-define-symbol and -network-specialization-config exclude each other."));
        }
        specializations.push(defined(&symbols)?);
    }
    let optional = |name: &str| args.value(name).map(|path| files::text(Path::new(path))).transpose();
    let custom_io = optional("custom-IO-list-file")?.map(|text| files::custom_io(&text)).transpose()?;
    let job = Job {
        model,
        cores,
        retained: args.has("retained-state"),
        specializations,
        custom_io: custom_io.unwrap_or_default(),
        partition: optional("mdp-load-partition-config")?,
        node_precision: optional("node-precision-info")?,
        options: args.kept.clone(),
        out: PathBuf::from(required("aic-binary-dir")?),
    };
    compile(&job, config, "programqpc.bin")
}

fn defined(symbols: &[&str]) -> Result<Sizes, Refused> {
    let one = |symbol: &&str| {
        let (name, number) = symbol.split_once(',')?;
        Some((name.to_owned(), number.parse().ok()?))
    };
    let sizes = symbols.iter().map(one).collect::<Option<Sizes>>();
    sizes.ok_or_else(|| Refused::new(1, "-onnx-define-symbol: expected NAME,NUMBER."))
}

fn compile(job: &Job<'_>, config: &SimConfig, name: &str) -> Result<(), Refused> {
    if job.out.exists() {
        return Err(Refused::new(255, format!("Output directory {} already exists.", job.out.display())));
    }
    let fault = &config.compiler;
    print(&fault.say);
    if let Some(said) = fault.fail.as_ref().filter(|_| !fault.partial) {
        return Err(Refused::new(fault.code, said.clone()));
    }
    let image = make(job, config)?;
    let place = |error: std::io::Error| Refused::new(1, format!("{}: {error}", job.out.display()));
    std::fs::create_dir_all(&job.out).map_err(place)?;
    let path = job.out.join(name);
    let half = image.len() / 2;
    std::fs::write(&path, &image[..half]).map_err(place)?;
    std::thread::sleep(Duration::from_millis(fault.delay_ms));
    if fault.hang {
        std::thread::sleep(Duration::from_secs(86400));
    }
    if fault.killed {
        // As a kernel that is out of memory ends it: nothing is said and nothing tidied.
        std::process::abort();
    }
    if let Some(said) = &fault.fail {
        return Err(Refused::new(fault.code, said.clone()));
    }
    std::fs::write(&path, &image).map_err(place)
}

/// The QPC.
fn make(job: &Job<'_>, config: &SimConfig) -> Result<Vec<u8>, Refused> {
    let model = Model::open(job.model)?;
    let graph = model.graph()?;
    let cards = match &job.partition {
        Some(text) => files::partition(text, job.cores, graph)?,
        None => 1,
    };
    if let Some(text) = &job.node_precision {
        files::node_precision(text, graph)?;
    }
    let (external, files) = external(&model, config.embed_weights)?;
    let embedded: Vec<u8> = match config.embed_weights {
        true => external.iter().filter_map(|file| files.get(&file.location)).flatten().copied().collect(),
        false => vec![],
    };
    let bytes = prost::Message::encode_to_vec(&model.proto);
    let interface = interface::of(job, &model, config)?;
    let network = interface.network(job, model, files, config)?;
    let facts = Facts {
        options: job.options.clone(),
        specializations: job
            .specializations
            .iter()
            .map(|sizes| sizes.iter().map(|(symbol, &size)| (symbol.clone(), size)).collect())
            .collect(),
        ports: interface.ports,
        retained: interface.retained,
        external,
    };
    let image = Image { network, cards, marker: Some(Marker { facts, model: bytes }) };
    Ok(image.write(&embedded))
}

/// The files of weights, and their bytes.
fn external(model: &Model, embed: bool) -> Result<(Vec<External>, Files), Refused> {
    let mut list = vec![];
    let mut files = Files::new();
    for (location, path) in &model.files {
        let bytes = std::fs::read(path)
            .map_err(|error| Refused::new(255, format!("Failed to open {}: {error}", path.display())))?;
        list.push(External {
            location: location.clone(),
            path: if embed { String::new() } else { path.display().to_string() },
            size: bytes.len() as u64,
            sha256: digest(&bytes),
        });
        files.insert(location.clone(), bytes);
    }
    Ok((list, files))
}

/// SHA-256 in hexadecimal digits.
pub(crate) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[allow(clippy::print_stdout)]
fn print(text: &str) {
    print!("{text}");
}
