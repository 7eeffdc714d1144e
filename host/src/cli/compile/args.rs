//! What is typed about compiling, made into what is meant.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use fs_err as fs;

use crate::compile::sdk::cards::{self, Card};
use crate::compile::sdk::{Compiler, QnnSdk, Sdk};
use crate::compile::{Ccl, Dialect, Options, Partition, Phase, Precision, QnnConfig, Shape, Strategy, UserFile};
use crate::home::home;
use crate::qpc::{Stores, Toolchain};

/// Cores where neither the user nor a card says how many.
const DEFAULT_CORES: u64 = 16;
/// Longest file of the user's that is copied beside a QPC.
const MAX_USER_FILE: u64 = 64 << 20;

/// Numbers separated by commas, in brackets or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Numbers(pub(crate) Vec<u64>);

pub(crate) fn numbers(text: &str) -> Result<Numbers, String> {
    let inner = text.trim();
    let inner = inner.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(inner);
    let numbers: Vec<u64> = inner
        .split(',')
        .map(|part| {
            part.trim().parse().map_err(|_| format!("expected numbers separated by commas, found `{}`", part.trim()))
        })
        .collect::<Result<_, _>>()?;
    Ok(Numbers(numbers))
}

fn symbol(text: &str) -> Result<(String, u64), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=N")?;
    let value = value.parse().map_err(|_| format!("expected NAME=N with a number, found `{value}`"))?;
    if name.is_empty() { Err("expected NAME=N".into()) } else { Ok((name.to_owned(), value)) }
}

/// Flags about the cards, the compiler and how programs are stored there.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "AI 100")]
pub(crate) struct CardArgs {
    /// Cards by number, e.g. 0,1: the program is cut across them. Their number is what is compiled for.
    #[arg(long, value_name = "IDS", value_parser = numbers)]
    pub(crate) device_group: Option<Numbers>,
    /// Cards to compile for, if not said by --device-group [default: 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    num_devices: Option<u32>,
    /// Cores of each card [default: those of the cards here, else 16].
    #[arg(long, value_name = "N", visible_alias = "aic-num-cores", value_parser = clap::value_parser!(u32).range(1..=16))]
    num_cores: Option<u32>,
    /// In what cards compute and keep states [default: f16].
    #[arg(long, value_enum, value_name = "TYPE")]
    precision: Option<Precision>,
    /// Store the weights of matrix products as MXFP6.
    #[arg(long, visible_alias = "mxfp6")]
    mxfp6_matmul: bool,
    /// Store the KV cache as MXINT8.
    #[arg(long, visible_alias = "mxint8")]
    mxint8_kv_cache: bool,
    /// Let cards exchange data as MXINT8.
    #[arg(long)]
    allow_mxint8_mdp_io: bool,
    /// Schedule depth first.
    #[arg(long)]
    aic_enable_depth_first: bool,
    /// Effort to keep data in on-chip memory.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    mos: Option<i64>,
    /// Hardware to compile for [default: that of the cards here, else ai100].
    #[arg(long, value_name = "NAME", value_parser = ["ai100", "ai200", "2.0"])]
    aic_hw_version: Option<String>,
    /// YAML file with nodes to be computed in another precision.
    #[arg(long, value_name = "FILE")]
    node_precision_info: Option<PathBuf>,
    /// JSON file that says how the program is spread over cards.
    #[arg(long, value_name = "FILE", conflicts_with = "mdp_num_partitions")]
    mdp_load_partition_config: Option<PathBuf>,
    /// Spread layers over this many stages of cards.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    mdp_num_partitions: Option<u32>,
    /// Which nodes a file of stages lists.
    #[arg(long, value_enum, default_value_t, requires = "mdp_num_partitions")]
    mdp_strategy: StrategyArg,
    /// What the compiler dumped with -mdp-dump-partition-config, for --mdp-strategy intersection.
    #[arg(long, value_name = "FILE", requires = "mdp_num_partitions")]
    mdp_compiler_dump_path: Option<PathBuf>,
    /// Compile local functions of the graph once and call them.
    #[arg(long)]
    use_onnx_subfunctions: bool,
    /// Compile with QNN, with a JSON file of more settings if there is one.
    #[arg(long, value_name = "CONFIG", num_args = 0..=1, conflicts_with_all = ["aic_hw_version", "specializations"])]
    enable_qnn: Option<Option<PathBuf>>,
    /// Root of the AI 100 SDK [default: QAIC_SDK_ROOT, else /opt/qti-aic].
    #[arg(long, value_name = "DIR")]
    pub(crate) sdk: Option<PathBuf>,
    /// Root of the QNN SDK [default: QNN_SDK_ROOT].
    #[arg(long, value_name = "DIR", requires = "enable_qnn")]
    qnn_sdk: Option<PathBuf>,
    /// Form of specializations.json [default: what the SDK understands].
    #[arg(long, value_enum)]
    specializations: Option<DialectArg>,
    /// End a compiler that takes longer.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    compile_timeout: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum StrategyArg {
    /// Every node of the graph.
    #[default]
    Onnx,
    /// Nodes that the compiler's dump names, too.
    Intersection,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum DialectArg {
    /// SDK 1.22 and later.
    Named,
    /// Older SDKs.
    Classic,
}

/// Flags about the sizes that a program is compiled for.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sizes")]
pub(crate) struct ShapeArgs {
    /// Prompt tokens in one call [default: 32].
    #[arg(long, value_name = "P", visible_alias = "prefill-seq-len", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) prompt_len: Option<u32>,
    /// Positions of a sequence [default: 128].
    #[arg(long, value_name = "C", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) ctx_len: Option<u32>,
    /// Sequences in one call [default: 1].
    #[arg(long, value_name = "B", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) batch_size: Option<u32>,
    /// Sequences in one call with continuous batching.
    #[arg(long, value_name = "F", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) full_batch_size: Option<u32>,
    /// Slots of the KV cache, if they are more than --full-batch-size: a prefix cache.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    kv_cache_batch_size: Option<u32>,
    /// Drafted tokens that one call scores (a speculation target); several numbers make several decode programs.
    #[arg(long, value_name = "K,…", value_parser = numbers)]
    num_speculative_tokens: Option<Numbers>,
    /// Compile for reading prompts alone; =false for writing alone.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    prefill_only: Option<bool>,
    /// Context lengths chosen by --ctx-len, so that short sequences do not pay for a long context.
    #[arg(long)]
    ccl_enabled: bool,
    /// Context lengths for reading prompts.
    #[arg(long, value_name = "N,…", value_parser = numbers)]
    comp_ctx_lengths_prefill: Option<Numbers>,
    /// Context lengths for writing.
    #[arg(long, value_name = "N,…", value_parser = numbers)]
    comp_ctx_lengths_decode: Option<Numbers>,
    /// Lengths of texts or sound that an encoder is compiled for [default: 32; for sound 480000].
    #[arg(long, value_name = "N,…", value_parser = numbers, conflicts_with = "prompt_len")]
    seq_len: Option<Numbers>,
    /// Frames that a speech encoder hands to its decoder [default: 1500].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    encoder_ctx_len: Option<u32>,
    /// Any other dimension of the graph's inputs, e.g. img_size=336; may be repeated.
    #[arg(long, value_name = "NAME=N", value_parser = symbol)]
    symbol: Vec<(String, u64)>,
}

impl ShapeArgs {
    pub(crate) fn shape(&self) -> Result<Shape> {
        let list = |numbers: &Option<Numbers>| numbers.as_ref().map(|numbers| numbers.0.clone());
        let (prefill, decode) = (list(&self.comp_ctx_lengths_prefill), list(&self.comp_ctx_lengths_decode));
        let ccl = (self.ccl_enabled || prefill.is_some() || decode.is_some()).then_some(Ccl { prefill, decode });
        let mut symbols = BTreeMap::new();
        for (name, n) in &self.symbol {
            if let Some(before) = symbols.insert(name.clone(), *n) {
                bail!("--symbol {name}={n}: it was {before} before; give it once");
            }
        }
        Ok(Shape {
            prompt_len: self.prompt_len.map(u64::from),
            ctx_len: self.ctx_len.map(u64::from),
            batch_size: self.batch_size.map(u64::from),
            full_batch_size: self.full_batch_size.map(u64::from),
            kv_cache_batch_size: self.kv_cache_batch_size.map(u64::from),
            phase: match self.prefill_only {
                None => Phase::Both,
                Some(true) => Phase::Prefill,
                Some(false) => Phase::Decode,
            },
            speculative_tokens: list(&self.num_speculative_tokens).unwrap_or_default(),
            ccl,
            seq_lens: list(&self.seq_len).unwrap_or_default(),
            encoder_ctx_len: self.encoder_ctx_len.map(u64::from),
            symbols,
        })
    }
}

/// The SDK with its cards.
pub(crate) struct Found {
    pub(crate) toolchain: Toolchain,
    pub(crate) cards: Vec<Card>,
}

impl CardArgs {
    /// The first flag that only means something on AI 100, if one was given; --device-group and --sdk left out.
    pub(crate) fn first_given(&self) -> Option<&'static str> {
        let given = [
            ("--num-devices", self.num_devices.is_some()),
            ("--num-cores", self.num_cores.is_some()),
            ("--precision", self.precision.is_some()),
            ("--mxfp6-matmul", self.mxfp6_matmul),
            ("--mxint8-kv-cache", self.mxint8_kv_cache),
            ("--allow-mxint8-mdp-io", self.allow_mxint8_mdp_io),
            ("--aic-enable-depth-first", self.aic_enable_depth_first),
            ("--mos", self.mos.is_some()),
            ("--aic-hw-version", self.aic_hw_version.is_some()),
            ("--node-precision-info", self.node_precision_info.is_some()),
            ("--mdp-load-partition-config", self.mdp_load_partition_config.is_some()),
            ("--mdp-num-partitions", self.mdp_num_partitions.is_some()),
            ("--use-onnx-subfunctions", self.use_onnx_subfunctions),
            ("--enable-qnn", self.enable_qnn.is_some()),
            ("--specializations", self.specializations.is_some()),
            ("--compile-timeout", self.compile_timeout.is_some()),
        ];
        given.iter().find(|(_, given)| *given).map(|(flag, _)| *flag)
    }

    /// Whether local functions are to be kept, which only an ONNX file can have.
    pub(crate) fn sub_functions(&self) -> bool {
        self.use_onnx_subfunctions
    }

    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.compile_timeout.map(Duration::from_secs)
    }

    /// What compiles; assumed where there is none.
    pub(crate) fn find(&self) -> Result<Found> {
        if let Some(config) = &self.enable_qnn {
            let found = QnnSdk::find(self.qnn_sdk.as_deref())?;
            let config = match config {
                Some(path) => {
                    let file = user_file("--enable-qnn", path)?;
                    QnnConfig::parse(&file.content).with_context(|| format!("--enable-qnn {}", path.display()))?
                }
                None => QnnConfig::default(),
            };
            let is_found = found.is_some();
            let sdk = found.unwrap_or_else(QnnSdk::assumed);
            return Ok(Found { toolchain: Toolchain::Qnn { sdk, config, found: is_found }, cards: vec![] });
        }
        let sdk = Sdk::find(self.sdk.as_deref())?;
        let memo = home()?.path.join("cards.json");
        let util = sdk.as_ref().and_then(|sdk| sdk.qaic_util.as_deref());
        let cards = util.map(|util| cards::cards(util, &memo)).unwrap_or_default();
        let mut compiler = sdk.as_ref().and_then(Sdk::compiler).unwrap_or_else(Compiler::assumed).for_cards(&cards);
        if let Some(hw_version) = &self.aic_hw_version {
            compiler.hw_version = (hw_version.clone(), "--aic-hw-version".into());
        }
        if let Some(dialect) = self.specializations {
            let dialect = match dialect {
                DialectArg::Named => Dialect::Named,
                DialectArg::Classic => Dialect::Classic,
            };
            compiler.dialect = (dialect, "--specializations".into());
        }
        Ok(Found { toolchain: Toolchain::Aic { compiler, sdk }, cards })
    }

    /// What is asked of the compiler.
    pub(crate) fn options(&self, shape: Shape, cards: &[Card], pass_through: &[String]) -> Result<Options> {
        let of_cards = cards.iter().filter_map(|card| card.cores).max().map(|cores| cores.min(DEFAULT_CORES));
        let node_precision =
            self.node_precision_info.as_ref().map(|path| user_file("--node-precision-info", path)).transpose()?;
        let (num_cores, num_cores_by) = match (self.num_cores, of_cards) {
            (Some(asked), _) => (asked.into(), "--num-cores"),
            (None, Some(cores)) => (cores, "cores of the cards here"),
            (None, None) => (DEFAULT_CORES, "the usual number of cores; --num-cores says another"),
        };
        Ok(Options {
            shape,
            num_cores,
            num_cores_by,
            num_devices: self.devices()?,
            partition: self.partition()?,
            precision: self.precision.unwrap_or_default(),
            mxfp6_matmul: self.mxfp6_matmul,
            mxint8_kv_cache: self.mxint8_kv_cache,
            allow_mxint8_mdp_io: self.allow_mxint8_mdp_io,
            aic_enable_depth_first: self.aic_enable_depth_first,
            mos: self.mos,
            node_precision,
            sub_functions: self.use_onnx_subfunctions,
            pass_through: pass_through.to_vec(),
        })
    }

    fn devices(&self) -> Result<Option<u64>> {
        let asked = self.num_devices.map(u64::from);
        let Some(Numbers(group)) = &self.device_group else { return Ok(asked) };
        if let Some(twice) = group.iter().enumerate().find(|(i, id)| group[..*i].contains(id)).map(|(_, id)| id) {
            bail!("--device-group: card {twice} is named twice");
        }
        let count = group.len() as u64;
        if let Some(asked) = asked.filter(|&asked| asked != count) {
            bail!("--device-group names {count} cards, and --num-devices is {asked}; give one of the two");
        }
        Ok(Some(count))
    }

    fn partition(&self) -> Result<Partition> {
        if let Some(path) = &self.mdp_load_partition_config {
            return Ok(Partition::File(user_file("--mdp-load-partition-config", path)?));
        }
        let Some(stages) = self.mdp_num_partitions else { return Ok(Partition::Slices) };
        let strategy = match (self.mdp_strategy, &self.mdp_compiler_dump_path) {
            (StrategyArg::Onnx, None) => Strategy::Onnx,
            (StrategyArg::Onnx, Some(_)) => {
                bail!("--mdp-compiler-dump-path is read by --mdp-strategy intersection only")
            }
            (StrategyArg::Intersection, None) => {
                bail!("--mdp-strategy intersection needs --mdp-compiler-dump-path, a file that the compiler dumped")
            }
            (StrategyArg::Intersection, Some(path)) => {
                let file = user_file("--mdp-compiler-dump-path", path)?;
                Strategy::from_dump(&file.content)
                    .with_context(|| format!("--mdp-compiler-dump-path {}", path.display()))?
            }
        };
        // One stage is no partition.
        Ok(if stages == 1 { Partition::Slices } else { Partition::Stages { stages: stages.into(), strategy } })
    }
}

/// A file that a flag names.
fn user_file(flag: &str, path: &Path) -> Result<UserFile> {
    let meta = fs::metadata(path).with_context(|| format!("{flag} {}", path.display()))?;
    if !meta.is_file() || meta.len() > MAX_USER_FILE {
        bail!("{flag} {}: expected a file of at most {MAX_USER_FILE} bytes", path.display());
    }
    let content = fs::read_to_string(path).with_context(|| format!("{flag} {}", path.display()))?;
    let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    Ok(UserFile { name, content })
}

/// Where artifacts go.
pub(crate) fn stores(compile_dir: Option<&Path>) -> Result<Stores> {
    Ok(Stores { root: home()?.path, compile_dir: compile_dir.map(Path::to_owned) })
}
