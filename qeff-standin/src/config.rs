//! What a stand-in SDK is like: its cards, its versions, and what goes wrong.
//!
//! A file `qaic-sim.json` in the root of the SDK, or the one that `QAIC_SIM_CONFIG` names. Everything has a default.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::graph::invalid::Negative;

/// Names the file, if it is not the one in the root.
pub const VARIABLE: &str = "QAIC_SIM_CONFIG";
/// Names the call log, if it is not the one that the config says.
pub const LOG_VARIABLE: &str = "QAIC_SIM_LOG";
/// The file in the root.
pub const FILE: &str = "qaic-sim.json";

/// A stand-in SDK.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimConfig {
    /// The cards.
    pub cards: Vec<Card>,
    /// Which of the two forms of `QAicProgramProperties_t` the library has.
    pub layout: Layout,
    /// Whether the header is installed.
    pub header: bool,
    /// Version of the interface that the header says.
    pub header_version: [u16; 2],
    /// Version of the interface that the library says.
    pub library_version: [u16; 2],
    /// Whether the library is installed.
    pub library: bool,
    /// Functions that the library lacks.
    pub missing_symbols: Vec<String>,
    /// Version of apps and platform; `None` leaves the files out.
    pub version: Option<String>,
    /// Which compilers are there.
    pub compilers: Vec<String>,
    /// Whether the tools of QNN are there, too.
    pub qnn: bool,
    /// What the compiler does besides compiling.
    pub compiler: Compiler,
    /// Which form of specializations the compiler takes.
    pub spec_format: SpecFormat,
    /// Whether `-retained-state` without a state is an error.
    pub strict_retained: bool,
    /// Whether files of weights are copied into the QPC.
    pub embed_weights: bool,
    /// What states hold before they are first written.
    pub state_init: StateInit,
    /// What a negative row number means.
    pub negative_rows: Negative,
    /// Whether programs are executed; otherwise the card answers at once and writes nothing.
    pub execute: bool,
    /// How long each run takes at least, in milliseconds.
    pub latency_ms: u64,
    /// What goes wrong at run time.
    pub faults: Vec<Fault>,
    /// The call log, relative to the root; `None` keeps none.
    pub log: Option<PathBuf>,
}

/// A card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Card {
    /// Its number.
    pub qid: i32,
    /// Serial number of its board; four chips of one board share it.
    pub board: String,
    /// Cores.
    pub cores: u8,
    /// Cores that somebody else uses.
    pub busy: u8,
    /// Memory in MB.
    pub dram_mb: u64,
    /// What the card says of itself.
    pub status: CardStatus,
    /// Image variant of the firmware.
    pub variant: String,
    /// Names in the list of capabilities.
    pub capabilities: Vec<String>,
}

/// State of a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CardStatus {
    /// It starts up.
    Initializing,
    /// It can be used.
    Ready,
    /// It cannot.
    Error,
}

/// A form of `QAicProgramProperties_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// With `devMapping` only.
    Classic,
    /// With `dataPathTimeoutMs`, and `devMapping` elsewhere.
    New,
}

/// Forms of specializations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpecFormat {
    /// Symbols and sizes only.
    Classic,
    /// A name, and symbols and sizes.
    Named,
    /// Either.
    Both,
}

/// What states hold before they are first written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateInit {
    /// A large number: a host that relies on zeros is wrong, and one that does not is right.
    Poison,
    /// Not a number: also whatever multiplies by 0 what it should not look at is wrong.
    Nan,
    /// Zeros.
    Zero,
}

/// What the compiler does besides compiling.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Compiler {
    /// Printed first.
    pub say: String,
    /// How long it takes, in milliseconds, between beginning a QPC and ending it.
    pub delay_ms: u64,
    /// Printed to stderr, and the compiler ends with `code`.
    pub fail: Option<String>,
    /// Exit code of `fail`.
    pub code: u8,
    /// Leaves a half-written QPC behind when it fails.
    pub partial: bool,
    /// Ends by a signal instead.
    pub killed: bool,
    /// Never ends.
    pub hang: bool,
}

/// Something that goes wrong at run time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Name of a function of the library, or `run` for what the card does.
    pub call: String,
    /// Which call of it goes wrong, counted from 1.
    #[serde(default = "first")]
    pub nth: u64,
    /// Whether all later ones do, too.
    #[serde(default)]
    pub ever_after: bool,
    /// What happens.
    pub what: What,
}

fn first() -> u64 {
    1
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The call answers with a status, and the log callback gets a text.
    Status(u32, String),
    /// The run never ends.
    Hang,
    /// It takes some milliseconds longer.
    Delay(u64),
    /// The cards of the program are lost: 300, now and for all that comes.
    DeviceError,
}

impl Default for SimConfig {
    fn default() -> Self {
        SimConfig {
            cards: Card::several(1),
            layout: Layout::New,
            header: true,
            header_version: [10, 0],
            library_version: [10, 0],
            library: true,
            missing_symbols: vec![],
            version: Some("1.22.0.58".into()),
            compilers: vec!["qaic-compile".into()],
            qnn: true,
            compiler: Compiler::default(),
            spec_format: SpecFormat::Both,
            strict_retained: false,
            embed_weights: false,
            state_init: StateInit::Poison,
            negative_rows: Negative::Drop,
            execute: true,
            latency_ms: 0,
            faults: vec![],
            log: Some("calls.jsonl".into()),
        }
    }
}

impl Default for Card {
    fn default() -> Self {
        Card {
            qid: 0,
            board: "STANDIN0".into(),
            cores: 16,
            busy: 0,
            dram_mb: 32768,
            status: CardStatus::Ready,
            variant: "AIC.1.0".into(),
            capabilities: vec!["HybridBoot+".into(), "MDP+".into()],
        }
    }
}

impl Card {
    /// `count` cards, four to a board.
    pub fn several(count: u16) -> Vec<Card> {
        let card = |qid: u16| Card { qid: qid.into(), board: format!("STANDIN{}", qid / 4), ..Card::default() };
        (0..count).map(card).collect()
    }

    /// What the status is called.
    pub fn status_text(&self) -> &'static str {
        match self.status {
            CardStatus::Initializing => "Initializing",
            CardStatus::Ready => "Ready",
            CardStatus::Error => "Error",
        }
    }
}

impl SimConfig {
    /// The config of the SDK at `root`, or the one that the environment names; the default one if there is neither.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn find(root: Option<&Path>) -> Result<Self> {
        let named = std::env::var_os(VARIABLE).map(PathBuf::from);
        let Some(path) = named.or(root.map(|root| root.join(FILE))) else { return Ok(SimConfig::default()) };
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    /// Where the call log is.
    pub fn log_path(&self, root: Option<&Path>) -> Option<PathBuf> {
        let named = std::env::var_os(LOG_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        named.or_else(|| Some(root?.join(self.log.as_ref()?)))
    }
}
