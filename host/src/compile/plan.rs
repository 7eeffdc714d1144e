//! A plan: every command and file of a compilation, from what is known before it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use qeff_plugin_api::DType;
use serde_json::{Value as Json, json};

use super::command::{self, Command, Names, check_pass_through, flag_name};
use super::sdk::{Compiler, QnnSdk};
use super::specializations::{self, Specialization};
use super::{Options, Partition, Precision, Program, QnnConfig, custom_io, mdp, qnn};

/// Stands for the exported model where a plan is made to be hashed.
pub const PLACE_OF_MODEL: &str = "MODEL.onnx";
/// Stands for the artifact's folder where a plan is made to be hashed.
pub const PLACE_OF_ARTIFACT: &str = "ARTIFACT";

/// Where things are.
#[derive(Debug, Clone)]
pub struct Places {
    /// The exported model.
    pub model: PathBuf,
    /// The artifact's folder.
    pub artifact: PathBuf,
}

impl Places {
    /// The path of a file in the artifact's folder.
    pub(super) fn file(&self, name: &str) -> String {
        self.artifact.join(name).display().to_string()
    }
}

/// A file beside the artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedFile {
    /// Its name.
    pub name: String,
    /// Its text.
    pub content: String,
}

/// What will be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Commands, one after the other.
    pub commands: Vec<Command>,
    /// Files that the commands read.
    pub files: Vec<PlannedFile>,
    /// Sizes that the program is compiled for.
    pub specializations: Vec<Specialization>,
    /// Devices.
    pub num_devices: u64,
}

/// Folder of the QPC within the artifact's.
pub(super) const QPC: &str = "qpc";

impl Plan {
    /// With `qaic-compile` or `qaic-exec`.
    ///
    /// # Errors
    /// If something that was asked for cannot be, with the flag and what to do.
    pub fn qaic(program: &Program, options: &Options, compiler: &Compiler, places: &Places) -> Result<Self> {
        let mut plan = Plan::begun(program, options)?;
        check_pass_through(&options.pass_through)?;
        let (hw_version, _) = &compiler.hw_version;
        if command::is_bf16(program) && hw_version != "ai200" {
            bail!(
                "the graph computes in bf16, which {hw_version} does not: export it in f32, or give --aic-hw-version ai200"
            );
        }
        check_precision(program, options)?;
        let vision = program.interface.kind()? == super::Kind::Vision;
        let partition = plan.partition(program, options)?;
        let node_precision = options.node_precision.as_ref().filter(|_| !vision);
        let node_precision = node_precision.map(|file| (file.name.clone(), file.content.clone()));
        let entries = custom_io::list(&program.interface, options)?;
        // The file of a bf16 program is written for the runtime, but the compiler does not take it.
        let bf16_kv = entries.iter().any(|entry| entry.precision == "bfloat16" && entry.name.starts_with("past_"));
        let io = (!entries.is_empty()).then(|| ("custom_io.yaml".to_owned(), custom_io::text(&entries)));
        let sizes = specializations::text(&plan.specializations, compiler.dialect.0);

        let name = |file: &Option<(String, String)>| file.as_ref().map(|(name, _)| places.file(name));
        let names = Names {
            model: &places.model,
            specializations: places.file("specializations.json"),
            custom_io: name(&io).filter(|_| !bf16_kv),
            partition: name(&partition),
            node_precision: name(&node_precision),
            qpc: places.file(QPC),
        };
        plan.commands.push(command::qaic(program, options, compiler, &names)?);
        let sizes = Some(("specializations.json".to_owned(), sizes));
        for (name, content) in [sizes, io, partition, node_precision].into_iter().flatten() {
            if plan.files.iter().any(|file| file.name == name) {
                bail!("`{name}` is the name of a file that is written beside the QPC; call yours otherwise");
            }
            plan.files.push(PlannedFile { name, content });
        }
        Ok(plan)
    }

    /// With the tools of QNN.
    ///
    /// # Errors
    /// If something that was asked for cannot be, with the flag and what to do.
    pub fn qnn(
        program: &Program,
        options: &Options,
        config: &QnnConfig,
        sdk: &QnnSdk,
        places: &Places,
    ) -> Result<Self> {
        let mut plan = Plan::begun(program, options)?;
        qnn::check(options, &plan.specializations)?;
        let made = qnn::make(program, options, config, sdk, places, &plan)?;
        (plan.commands, plan.files) = made;
        Ok(plan)
    }

    fn begun(program: &Program, options: &Options) -> Result<Self> {
        if !(1..=16).contains(&options.num_cores) {
            bail!("--num-cores {}: expected 1 to 16, the cores of a card", options.num_cores);
        }
        let num_devices = num_devices(options)?;
        Ok(Plan {
            commands: vec![],
            files: vec![],
            specializations: specializations::of(program, &options.shape)?,
            num_devices,
        })
    }

    /// The partition file, if there is one.
    fn partition(&self, program: &Program, options: &Options) -> Result<Option<(String, String)>> {
        let (devices, cores) = (self.num_devices, options.num_cores);
        Ok(match &options.partition {
            Partition::File(file) => Some((file.name.clone(), file.content.clone())),
            Partition::Stages { stages, strategy } => {
                let json = mdp::stages(&program.graph, &program.functions, *stages, devices, cores, strategy)?;
                Some((format!("mdp_disagg_{devices}d_{stages}p.json"), super::json::sorted(&json)))
            }
            // Whoever wants to see the compiler's own partition must not give it one.
            Partition::Slices if dumps_partition(options) => None,
            Partition::Slices if devices > 1 => {
                let json = mdp::slices(devices, Some(cores));
                Some((format!("mdp_ts_{devices}.json"), super::json::sorted(&json)))
            }
            Partition::Slices => None,
        })
    }

    /// What decides the QPC, apart from the program: arguments in any order, and files. To be made with
    /// [`PLACE_OF_MODEL`] and [`PLACE_OF_ARTIFACT`], so that no path of this machine is in it.
    pub fn key(&self) -> Json {
        let commands: Vec<Json> = self
            .commands
            .iter()
            .map(|command| {
                let mut args = command.argv();
                let tool = command.tool().to_owned();
                args.remove(0);
                args.sort();
                json!({ "tool": tool, "args": args })
            })
            .collect();
        let files: serde_json::Map<String, Json> =
            self.files.iter().map(|file| (file.name.clone(), json!(file.content))).collect();
        json!({ "commands": commands, "files": files })
    }
}

impl Places {
    /// Places that stand for any.
    pub fn symbolic() -> Self {
        Places { model: Path::new(PLACE_OF_MODEL).into(), artifact: Path::new(PLACE_OF_ARTIFACT).into() }
    }
}

fn dumps_partition(options: &Options) -> bool {
    options.pass_through.iter().any(|flag| flag_name(flag) == "mdp-dump-partition-config")
}

/// How many devices, agreed upon by flags and files.
fn num_devices(options: &Options) -> Result<u64> {
    let Partition::File(file) = &options.partition else { return Ok(options.num_devices.unwrap_or(1)) };
    let devices = mdp::devices_of(&file.content).with_context(|| format!("{}: not a partition config", file.name))?;
    let count = devices.len() as u64;
    if let Some(asked) = options.num_devices.filter(|&asked| asked != count) {
        bail!("{} is for {count} devices, and {asked} were asked for; they have to agree", file.name);
    }
    if let Some((id, cores)) =
        devices.iter().find_map(|(id, cores)| Some((id, (*cores)?)).filter(|d| d.1 != options.num_cores))
    {
        bail!(
            "{} gives device {id} {cores} cores, and --num-cores is {}; they have to agree",
            file.name,
            options.num_cores
        );
    }
    Ok(count)
}

/// Refuses f32 of a graph that computes in less.
fn check_precision(program: &Program, options: &Options) -> Result<()> {
    let ports = program.interface.inputs.iter().chain(&program.interface.outputs);
    let mut less = ports.filter(|port| port.is_float() && port.elem != DType::F32);
    match less.next().filter(|_| options.precision == Precision::F32) {
        Some(port) => bail!(
            "--precision f32: `{}` of the graph is {}, so what it computes is rounded already; export it in f32, or leave the \
             flag out",
            port.name,
            port.elem.name()
        ),
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
