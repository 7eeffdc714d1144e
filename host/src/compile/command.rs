//! Command lines, each argument with its reason, and the one of `qaic-compile`.

use std::path::Path;

use anyhow::{Result, bail};

use super::sdk::{Compiler, Tool};
use super::{Kind, Options, Partition, Precision, Program};

/// An argument, and why it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arg {
    /// As the child process gets it.
    pub text: String,
    /// For people.
    pub why: String,
}

/// A command: the program first, then its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Command {
    /// All of it.
    pub args: Vec<Arg>,
}

impl Command {
    pub(super) fn add(&mut self, text: impl Into<String>, why: impl Into<String>) {
        self.args.push(Arg { text: text.into(), why: why.into() });
    }

    fn flag(&mut self, given: bool, text: &str, why: &str) {
        if given {
            self.add(text, why);
        }
    }

    /// The arguments as texts.
    pub fn argv(&self) -> Vec<String> {
        self.args.iter().map(|arg| arg.text.clone()).collect()
    }

    /// Name of the program, without its folder.
    pub fn tool(&self) -> &str {
        let program = self.args.first().map_or("", |arg| arg.text.as_str());
        program.rsplit('/').next().unwrap_or(program)
    }
}

/// A command line as a shell takes it.
pub fn shell(argv: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@%+$".contains(c);
    let quote = |arg: &String| {
        if !arg.is_empty() && arg.chars().all(plain) {
            arg.clone()
        } else {
            format!("'{}'", arg.replace('\'', r"'\''"))
        }
    };
    argv.iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// Files that a command line names, by what is in them.
pub(super) struct Names<'a> {
    pub(super) model: &'a Path,
    pub(super) specializations: String,
    /// `None` if no type differs from the file's.
    pub(super) custom_io: Option<String>,
    /// A partition with the flag's place: what is made from devices alone comes late.
    pub(super) partition: Option<String>,
    pub(super) node_precision: Option<String>,
    pub(super) qpc: String,
}

/// The command line of `qaic-compile` or `qaic-exec`; the order is the reference's.
pub(super) fn qaic(program: &Program, options: &Options, compiler: &Compiler, names: &Names<'_>) -> Result<Command> {
    let kind = program.interface.kind()?;
    let mut command = Command::default();
    command.add(compiler.path.display().to_string(), "the compiler of the SDK");
    command.add("-aic-hw", "compile for hardware, not for the interpreter");
    let (hw_version, why) = &compiler.hw_version;
    command.add(format!("-aic-hw-version={hw_version}"), why);
    command.add(format!("-m={}", names.model.display()), "the exported graph");
    command.flag(compiler.tool == Tool::QaicExec, "-compile-only", "qaic-exec would run a benchmark otherwise");
    let partition = names.partition.as_ref().map(|file| format!("-mdp-load-partition-config={file}"));
    let early = !matches!(options.partition, Partition::Slices);
    if let Some(partition) = partition.as_ref().filter(|_| early) {
        command.add(partition, "how the program is spread over devices");
    }
    let keeps_state = matches!(kind, Kind::Decoder | Kind::EncoderDecoder);
    command.flag(keeps_state, "-retained-state", "states stay on the device");
    let rounds = options.precision == Precision::F16 && !is_bf16(program);
    command.flag(rounds, "-convert-to-fp16", "the graph computes in f32 or f16, the card in f16");
    // Vision encoders lose too much by it, says the reference.
    command.flag(options.mxfp6_matmul && kind != Kind::Vision, "-mxfp6-matmul", "--mxfp6-matmul");
    command.add(format!("-aic-num-cores={}", options.num_cores), options.num_cores_by);
    command.flag(options.aic_enable_depth_first, "-aic-enable-depth-first", "--aic-enable-depth-first");
    if let Some(mos) = options.mos {
        command.add(format!("-mos={mos}"), "--mos");
    }
    command.flag(options.allow_mxint8_mdp_io, "-allow-mxint8-mdp-io", "--allow-mxint8-mdp-io");
    if let Some(file) = &names.node_precision {
        command.add(format!("-node-precision-info={file}"), "--node-precision-info");
    }
    for flag in &options.pass_through {
        command.add(flag, "after --");
    }
    command.flag(options.sub_functions, "-sub-functions", "--use-onnx-subfunctions");
    if let Some(partition) = partition.filter(|_| !early) {
        command.add(partition, "more than one device");
    }
    command
        .add(format!("-network-specialization-config={}", names.specializations), "sizes the program is compiled for");
    if let Some(file) = &names.custom_io {
        command.add(format!("-custom-IO-list-file={file}"), "states are stored in another type than the graph's");
    }
    command.add(format!("-aic-binary-dir={}", names.qpc), "where the QPC goes");
    Ok(command)
}

/// Whether a program computes in bf16, which only AI 200 does.
pub(super) fn is_bf16(program: &Program) -> bool {
    use qeff_plugin_api::DType;
    program.interface.inputs.iter().chain(&program.interface.outputs).any(|port| port.elem == DType::BF16)
}

/// Flags that are ours to set, and what says the same on our command line.
const OURS: &[(&str, &str)] = &[
    ("aic-binary-dir", "--compile-dir"),
    ("aic-enable-depth-first", "--aic-enable-depth-first"),
    ("aic-hw", "nothing: it is always set"),
    ("aic-hw-version", "--aic-hw-version"),
    ("aic-num-cores", "--num-cores"),
    ("allow-mxint8-mdp-io", "--allow-mxint8-mdp-io"),
    ("batchsize", "--batch-size"),
    ("compile-only", "nothing: it is set where it is needed"),
    ("convert-to-fp16", "--precision"),
    ("custom-IO-list-file", "--precision or --mxint8-kv-cache"),
    ("m", "--model or --onnx-path"),
    ("mdp-load-partition-config", "--mdp-load-partition-config"),
    ("model", "--model or --onnx-path"),
    ("mos", "--mos"),
    ("mxfp6-matmul", "--mxfp6-matmul"),
    ("network-specialization-config", "--prompt-len, --ctx-len, --batch-size, --symbol"),
    ("node-precision-info", "--node-precision-info"),
    ("onnx-define-symbol", "--symbol"),
    ("retained-state", "nothing: it follows from the graph"),
    ("sub-functions", "--use-onnx-subfunctions"),
];

/// Name of a flag as the compiler spells it, `-name` or `-name=value`.
pub(super) fn flag_name(flag: &str) -> &str {
    let name = flag.trim_start_matches('-');
    name.split_once('=').map_or(name, |(name, _)| name)
}

/// Refuses what is passed through if it is not spelled as the compiler wants it, is given twice, or is ours to set.
pub(super) fn check_pass_through(flags: &[String]) -> Result<()> {
    for (i, flag) in flags.iter().enumerate() {
        let name = flag_name(flag);
        if !flag.starts_with('-') || name.is_empty() {
            bail!("`{flag}` after --: expected flags of the compiler, spelled -name or -name=value");
        }
        if flag.starts_with("--") {
            bail!("`{flag}` after --: the compiler's flags have one dash: -{}", flag.trim_start_matches('-'));
        }
        if let Some((_, ours)) = OURS.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)) {
            bail!("`{flag}` after --: this flag is set by qeff-host; use {ours}");
        }
        if flags[..i].iter().any(|other| flag_name(other) == name) {
            bail!("`{flag}` after --: this flag is given twice");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shells_get_back_what_was_meant() {
        let argv = ["/opt/x", "-a=b", "a b", "it's", ""].map(str::to_owned);
        assert_eq!(shell(&argv), r"/opt/x -a=b 'a b' 'it'\''s' ''");
    }

    #[test]
    fn what_may_be_passed_through() {
        let check = |flags: &[&str]| {
            let flags: Vec<_> = flags.iter().map(|&flag| flag.to_owned()).collect();
            check_pass_through(&flags).map_err(|error| error.to_string())
        };
        assert_eq!(check(&["-stats-level=70", "-ddr-stats", "-aic-depth-first-mem=-1"]), Ok(()));
        for (flags, part) in [
            (&["-mos=1"][..], "use --mos"),
            (&["-Custom-IO-List-File=x"], "--mxint8-kv-cache"),
            (&["-convert-to-fp16"], "--precision"),
            (&["-x=1", "-x=2"], "twice"),
            (&["--x"], "one dash: -x"),
            (&["x"], "expected flags"),
            (&["-"], "expected flags"),
        ] {
            let said = check(flags).unwrap_err();
            assert!(said.contains(part), "{said}");
        }
    }
}
